"""What is legal in a routing file and probably not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from services.alerting.policy.coverage import Given, covered, exactly, implied, possible, witness
from services.alerting.policy.durations import format_duration
from services.alerting.policy.model import ROLE_PREFIX, SEVERITIES, Policy, Route, Test, WebhookReceiver
from services.alerting.policy.roles import takes
from services.alerting.policy.routing import walk

MONITORS = (
    "data_drift", "prediction_drift", "data_quality", "service", "concept_drift", "labels", "fairness", "humility",
)  # fmt: skip

_MOST_SIBLINGS = 1000
"""A route is compared with so many before it: all pairs of a list without end would take as long."""

_Warning = tuple[int, str]
_Reached = tuple[Route, tuple[Test, ...]]
"""A route whose ``notify`` can be used, with every condition on the way there."""


def lint(policy: Policy) -> tuple[str, ...]:
    """Warnings, in the order of the file."""
    if not policy.receivers:
        return ("there are no receivers: incidents are kept, and nobody is told",)
    walked = list(_walk(policy.route, ()))
    reached = [
        (route, tests)
        for route, tests in walked
        if not isinstance(tests, str) and not covered([inner.match.tests for inner in route.routes], Given(tests))
    ]
    found = [
        *((route.line, f"{route.path} {why}") for route, why in walked if isinstance(why, str)),
        *_left_to_one(walked),
        *_nobody(policy, reached),
        *_waits(policy, reached),
        *_unused(policy, reached),
        *_inhibitions(policy),
        *_receivers(policy),
    ]
    return _texts(found)


def lint_at(policy: Policy, now_ms: int) -> tuple[str, ...]:
    """Warnings that depend on the time: what is over."""
    return _texts(
        (m.line, f"maintenance {m.name!r} is over: it can be removed")
        for m in policy.maintenance
        if m.ends_ms <= now_ms
    )


def _texts(found: Iterable[_Warning]) -> tuple[str, ...]:
    return tuple(f"line {line}: {text}" if line else text for line, text in sorted(found, key=lambda each: each[0]))


def _walk(route: Route, above: tuple[Test, ...]) -> Iterator[tuple[Route, tuple[Test, ...] | str]]:
    """Every route with the conditions on the way there, or why nothing comes there; not those below such a one."""
    tests = (*above, *route.match.tests)
    yield route, tests
    before: list[Route] = []
    for child in route.routes:
        conditions = (*tests, *child.match.tests)
        given = Given(conditions)
        if not given.possible():
            where = "itself" if not possible(child.match.tests) else "the routes above it"
            yield child, f"takes nothing: its match contradicts {where}"
        elif covered([other.match.tests for other in before[-_MOST_SIBLINGS:]], given):
            yield child, f"is never reached: {_who(before, conditions)} before it takes the same, without continue"
        else:
            yield from _walk(child, tests)
        if not child.go_on:
            before.append(child)


def _who(before: Sequence[Route], conditions: Sequence[Test]) -> str:
    """The route that takes all of it, or those that do so severity by severity."""
    given = Given(conditions)
    if one := next((other.path for other in before if implied(other.match.tests, given)), ""):
        return one
    each = [Given([*conditions, exactly(severity)]) for severity in given.severities()]
    return " and ".join(other.path for other in before if any(implied(other.match.tests, one) for one in each))


def _left_to_one(walked: Sequence[tuple[Route, tuple[Test, ...] | str]]) -> Iterator[_Warning]:
    """A route that takes everything and goes on, after which nothing takes the rest: the route around it, which has
    somebody to tell, never does. Who adds a receiver of everything in front of a tree that works falls into this.
    """
    for route, tests in walked:
        if isinstance(tests, str) or not route.notify:
            continue
        given = Given(tests)
        one = next((r for r in route.routes if r.go_on and covered([r.match.tests], given)), None)
        if one is None or set(route.notify) <= set(one.notify):
            continue
        if not covered([r.match.tests for r in route.routes if r is not one], given):
            said = "takes everything and goes on: what no other route takes is told by it alone"
            but = f"and not by the notify of {route.path}: add a last route without match"
            yield one.line, f"{one.path} {said}, {but}"


def _nobody(policy: Policy, reached: Sequence[_Reached]) -> Iterator[_Warning]:
    for route, tests in reached:
        named = _everybody(policy, route.notify)
        severities = [s for s in SEVERITIES if possible([*tests, exactly(s)])]
        if not route.notify:
            if not _says_nobody(policy, route):
                yield route.line, f"{route.path}: nobody is notified by it: notify is missing here and above"
        elif not named:
            yield route.line, f"{route.path}: nobody is notified by it: its roles have nobody in them"
        elif not any(takes(policy.receivers[name], s) for name in named for s in severities):
            least = ", ".join(
                f"{name} takes {policy.receivers[name].minimum_severity} and worse" for name in sorted(named)
            )
            yield route.line, f"{route.path}: nobody is notified by it: {least}"


def _says_nobody(policy: Policy, route: Route) -> bool:
    """Whether ``notify: []`` is written there, below a route that notifies: then it is meant."""
    return route is not policy.route and bool(policy.route.notify)


def _everybody(policy: Policy, targets: Sequence[str]) -> set[str]:
    """All who can be behind targets, whoever the owner is."""
    found: set[str] = set()
    seen: set[str] = set()
    pending = list(targets)
    while pending:
        target = pending.pop()
        role = policy.roles.get(target.removeprefix(ROLE_PREFIX)) if target.startswith(ROLE_PREFIX) else None
        if role is None:
            found |= {target} & set(policy.receivers)
        elif role.name not in seen:
            seen.add(role.name)
            pending += [*role.always, *(member for members in role.by_owner.values() for member in members)]
    return found


def _waits(policy: Policy, reached: Sequence[_Reached]) -> Iterator[_Warning]:
    for route, tests in reached:
        if 0 < route.repeat_interval_ms < route.group_interval_ms:
            repeat, interval = map(format_duration, (route.repeat_interval_ms, route.group_interval_ms))
            yield route.line, f"{route.path}: repeat_interval ({repeat}) is shorter than group_interval ({interval})"
        chain = policy.escalations.get(route.escalate)
        if chain is not None and chain.steps and route.digest is not None:
            yield (
                route.line,
                f"{route.path}: {chain.name} may escalate what waits for the digest: nobody was told of it yet",
            )
        elif chain is not None and chain.steps and chain.steps[0].after_ms < route.group_wait_ms:
            first, wait = map(format_duration, (chain.steps[0].after_ms, route.group_wait_ms))
            yield (
                route.line,
                f"{route.path}: escalation {chain.name} begins after {first}, before the first message (group_wait "
                f"{wait}): nobody can have taken it",
            )
        if possible([*tests, exactly("critical")]) and (route.digest is not None or route.active):
            for_what = "the digest" if route.digest is not None else " or ".join(route.active)
            yield route.line, f"{route.path}: a critical alert would wait for {for_what}"


def _unused(policy: Policy, reached: Sequence[_Reached]) -> Iterator[_Warning]:
    """Receivers, roles, intervals and escalations that nothing leads to."""
    routes = list(walk(policy.route))
    used_chains = {route.escalate for route in routes} - {""}
    while more := {policy.escalations[name].onward for name in used_chains} - used_chains - {""}:
        used_chains |= more
    targets = [target for route, _ in reached for target in route.notify]
    targets += [t for name in used_chains for step in policy.escalations[name].steps for t in step.notify]
    targets += [*policy.watch.notify, *policy.watch.heartbeat_receivers]
    used = _everybody(policy, targets)
    while more := {policy.receivers[name].fallback for name in used} - used - {""}:
        used |= more
    for name, receiver in policy.receivers.items():
        if name not in used:
            yield receiver.line, f"receiver {name!r} is never used: no route that can be reached leads to it"
    named = {target.removeprefix(ROLE_PREFIX) for target in targets if target.startswith(ROLE_PREFIX)}
    pending = list(named)
    while pending:
        role = policy.roles[pending.pop()]
        inner = {m.removeprefix(ROLE_PREFIX) for m in _members(role.always, role.by_owner.values())} - named
        named |= inner
        pending += inner
    for what, names, wanted in (
        ("role", policy.roles, named),
        ("interval", policy.intervals, {name for route in routes for name in route.active}),
        ("escalation", policy.escalations, used_chains),
    ):
        for name in names:
            if name not in wanted:
                line = policy.escalations[name].line if what == "escalation" else 0
                yield line, f"{what} {name!r} is never used"


def _members(always: Sequence[str], others: Iterable[Sequence[str]]) -> list[str]:
    return [m for members in (always, *others) for m in members if m.startswith(ROLE_PREFIX)]


def _inhibitions(policy: Policy) -> Iterator[_Warning]:
    for inhibition in policy.inhibitions:
        both = [*inhibition.source.tests, *inhibition.target.tests]
        if not possible(both):
            continue
        found = witness(both)
        if found is not None:
            example = ", ".join(f"{name}: {value}" for name, value in found.items() if value) or "any alert"
            yield (
                inhibition.line,
                f"inhibition {inhibition.name!r} can mute its own source: source and target both take {example}",
            )


def _receivers(policy: Policy) -> Iterator[_Warning]:
    for receiver in policy.receivers.values():
        if isinstance(receiver, WebhookReceiver):
            if receiver.url.get_secret_value().startswith("http://"):
                yield receiver.line, f"receiver {receiver.name!r}: alerts travel in clear text (http)"
            if not receiver.signing_secrets:
                yield (
                    receiver.line,
                    f"receiver {receiver.name!r}: its messages are not signed: give signing_secret_file",
                )
        if receiver.fallback and not takes(policy.receivers[receiver.fallback], receiver.minimum_severity):
            yield (
                receiver.line,
                f"receiver {receiver.name!r}: its fallback {receiver.fallback!r} takes less than it does",
            )
    for route in walk(policy.route):
        for test in route.match.tests:
            for value in test.values or () if test.label == "monitor" else ():
                if value not in MONITORS and ":" not in value:
                    yield route.line, f"{route.path}: there is no monitor {value!r}: there are {', '.join(MONITORS)}"
