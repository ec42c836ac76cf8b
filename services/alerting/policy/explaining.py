"""Who would be told of an alert, when, and why: every decision of the policy, with its reason. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.alerting.policy.labels import Labels
from services.alerting.policy.model import (
    Escalation,
    Match,
    OpsgenieReceiver,
    PagerDutyReceiver,
    Policy,
    Receiver,
    Route,
)
from services.alerting.policy.receivers import type_of
from services.alerting.policy.roles import resolve, takes
from services.alerting.policy.routing import Assignment, assignments, route_at, taken
from services.alerting.policy.times import is_active, is_on, maintenance_end_ms, next_active_ms, next_digest_ms

_SYSTEM = "system:"


@dataclass(frozen=True, slots=True)
class KnownSilence:
    """A silence, as far as this is concerned."""

    id: str
    match: Match
    author: str
    reason: str
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Visited:
    """A route that was looked at.

    Attributes:
        path: Its path.
        depth: 0 for the root.
        matched: Whether it takes the alert.
        tells: Whether its ``notify`` is used: it takes the alert and none of its own routes does.
        why: Which condition does not hold, or why routes after it are not looked at.
    """

    path: str
    depth: int
    matched: bool
    tells: bool
    why: str


@dataclass(frozen=True, slots=True)
class Told:
    """A receiver that is told.

    Attributes:
        receiver: Its name.
        type: Its type, as in the file.
        route: By which route.
        because: Route and role.
        group: The labels with values that its messages are grouped by; empty for each incident by itself.
        first_ms: When the first message goes, if the alert fires now and nothing else does.
        waits: What it waits for until then, in words.
        group_interval_ms: At least so long between messages of changes.
        repeat_interval_ms: A reminder after so long; 0 for none.
        gathered: Whether it comes in a digest.
        send_resolved: Whether it hears of the end.
    """

    receiver: str
    type: str
    route: str
    because: str
    group: tuple[str, ...]
    first_ms: int
    waits: tuple[str, ...]
    group_interval_ms: int
    repeat_interval_ms: int
    gathered: bool
    send_resolved: bool


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A receiver that a route names and that is not told by it."""

    receiver: str
    route: str
    why: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of an escalation: who is told if nobody took the incident by then."""

    escalation: str
    route: str
    number: int
    after_ms: int
    at_ms: int
    receivers: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Muted:
    """What mutes the alert, or may.

    Attributes:
        kind: ``silence``, ``maintenance`` or ``inhibition``.
        name: Of it.
        reason: In words.
        until_ms: When it ends; None where that depends on another alert.
        certain: False of an inhibition: it mutes only while what it names fires.
    """

    kind: str
    name: str
    reason: str
    until_ms: int | None
    certain: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that the policy decides of an alert with some labels, at a moment.

    Attributes:
        labels: Asked for; those that are empty left out.
        now_ms: The moment.
        muted: Silences, maintenance and inhibitions.
        visited: Routes looked at, in order.
        told: Who is told.
        left_out: Who is not, though a route names it.
        stages: What happens while nobody takes the incident.
    """

    labels: Mapping[str, str]
    now_ms: int
    muted: tuple[Muted, ...]
    visited: tuple[Visited, ...]
    told: tuple[Told, ...]
    left_out: tuple[LeftOut, ...]
    stages: tuple[Stage, ...]

    @property
    def is_muted(self) -> bool:
        """Whether nobody is told now, for sure."""
        return any(mute.certain for mute in self.muted)


def explain(policy: Policy, labels: Labels, now_ms: int, silences: Sequence[KnownSilence] = ()) -> Explanation:
    """What the policy decides of an alert that fires now."""
    muted = tuple(_muted(policy, labels, now_ms, silences))
    until_ms = max((m.until_ms for m in muted if m.certain and m.until_ms is not None), default=now_ms)
    given = _watched(policy, labels)
    assigned = assignments(policy, labels) if given is None else given
    tellers = [] if given is not None else list(taken(policy.route, labels))
    return Explanation(
        labels={name: value for name, value in labels.items() if value},
        now_ms=now_ms,
        muted=muted,
        visited=tuple(_visited(policy.route, labels, 0)) if given is None else (),
        told=tuple(_told(policy, assignment, now_ms, until_ms) for assignment in assigned),
        left_out=tuple(_left_out(policy, labels, tellers, assigned)),
        # A chain stands still while everything is muted, and begins when that is over.
        stages=tuple(_stages(policy, labels, tellers, until_ms)),
    )


def _watched(policy: Policy, labels: Labels) -> tuple[Assignment, ...] | None:
    """Of what Driftline says of itself: whom ``watch`` names; None where the tree decides."""
    if not labels.get("monitor", "").startswith(_SYSTEM):
        return None
    named = resolve(policy, policy.watch.notify, labels.get("owner", ""))
    if named:
        root = policy.route.path
        found = (Assignment(name, root, (), ", ".join(filter(None, ("watch", because)))) for name, because in named)
        return tuple(a for a in found if takes(policy.receivers[a.receiver], labels.get("severity", "")))
    if assignments(policy, labels):
        return None
    because = "watch: nobody is named for it"
    return tuple(Assignment(name, policy.route.path, (), because) for name in policy.receivers)


def _visited(route: Route, labels: Labels, depth: int) -> Iterator[Visited]:
    inner: list[Visited] = []
    tells = True
    for position, child in enumerate(route.routes):
        failing = next((test for test in child.match.tests if not test(labels)), None)
        if failing is not None:
            value = labels.get(failing.label, "")
            said = f"is {value!r}" if value else "is not there"
            inner.append(Visited(child.path, depth + 1, False, False, f"{failing.label} {said}: {failing.source}"))
            continue
        tells = False
        inner += _visited(child, labels, depth + 1)
        if not child.go_on:
            rest = len(route.routes) - position - 1
            if rest:
                inner.append(
                    Visited(f"{route.path}/…", depth + 1, False, False, f"{rest} not looked at: {child.path} took it")
                )
            break
    conditions = ", ".join(f"{test.label}: {test.source}" for test in route.match.tests)
    yield Visited(route.path, depth, True, tells, conditions or "takes everything")
    yield from inner


def _told(policy: Policy, assignment: Assignment, now_ms: int, until_ms: int) -> Told:
    route = route_at(policy, assignment.route)
    receiver = policy.receivers[assignment.receiver]
    gathered = _gathered(route, receiver)
    waits: list[str] = []
    at_ms = now_ms
    if route.group_wait_ms and not gathered:
        at_ms += route.group_wait_ms
        waits.append("group_wait")
    if until_ms > at_ms:
        at_ms = until_ms
        waits.append("until it is not muted any more")
    if gathered and route.digest is not None:
        at_ms = next_digest_ms(route.digest, at_ms)
        waits.append("for the digest")
    if not is_active(policy, route, at_ms):
        at_ms = next_active_ms(policy, route, at_ms)
        waits.append(f"until {' or '.join(route.active)}")
    return Told(
        receiver=receiver.name,
        type=type_of(receiver),
        route=route.path,
        because=assignment.because,
        group=tuple(f"{name}={value}" for name, value in assignment.group_labels),
        first_ms=at_ms,
        waits=tuple(waits),
        group_interval_ms=route.group_interval_ms,
        repeat_interval_ms=route.repeat_interval_ms,
        gathered=gathered,
        send_resolved=receiver.send_resolved,
    )


def _gathered(route: Route, receiver: Receiver) -> bool:
    """A pager keeps a state of its own for every incident, so every incident must reach it."""
    return route.digest is not None and not isinstance(receiver, PagerDutyReceiver | OpsgenieReceiver)


def _left_out(
    policy: Policy, labels: Labels, tellers: Sequence[Route], assigned: Sequence[Assignment]
) -> Iterator[LeftOut]:
    by = {assignment.receiver: assignment.route for assignment in assigned}
    for route in tellers:
        for name, _ in resolve(policy, route.notify, labels.get("owner", "")):
            receiver = policy.receivers[name]
            if not takes(receiver, labels.get("severity", "")):
                worse = " and worse" if receiver.minimum_severity != "critical" else ""
                yield LeftOut(name, route.path, f"it takes {receiver.minimum_severity}{worse}")
            elif by[name] != route.path:
                yield LeftOut(name, route.path, f"{by[name]} tells it already")


def _stages(policy: Policy, labels: Labels, tellers: Sequence[Route], now_ms: int) -> Iterator[Stage]:
    seen: set[str] = set()
    for route in tellers:
        chain = policy.escalations.get(route.escalate)
        if chain is not None and chain.name not in seen:
            seen.add(chain.name)
            yield from _chain(policy, labels, route, chain, now_ms)


def _chain(policy: Policy, labels: Labels, route: Route, chain: Escalation, now_ms: int) -> Iterator[Stage]:
    for number, step in enumerate(chain.steps, 1):
        told = [
            (name, because)
            for name, because in resolve(policy, step.notify, labels.get("owner", ""))
            if takes(policy.receivers[name], labels.get("severity", ""))
        ]
        why = ", ".join(dict.fromkeys(because for _, because in told if because))
        if number == len(chain.steps) and chain.repeat:
            times = "once" if chain.repeat == 1 else f"{chain.repeat} times"
            why = "; ".join(filter(None, (why, f"then the chain begins anew, {times}")))
        yield Stage(
            chain.name, route.path, number, step.after_ms, now_ms + step.after_ms, tuple(name for name, _ in told), why
        )


def _muted(policy: Policy, labels: Labels, now_ms: int, silences: Sequence[KnownSilence]) -> Iterator[Muted]:
    for silence in silences:
        if silence.starts_ms <= now_ms < silence.ends_ms and silence.match(labels):
            yield Muted("silence", silence.id, f"by {silence.author}: {silence.reason}", silence.ends_ms, True)
    for maintenance in policy.maintenance:
        if is_on(maintenance, now_ms) and maintenance.match(labels):
            said = f"by {maintenance.author}: {maintenance.reason}"
            yield Muted("maintenance", maintenance.name, said, maintenance_end_ms(maintenance, now_ms), True)
    for inhibition in policy.inhibitions:
        if inhibition.target(labels):
            what = ", ".join(f"{test.label}: {test.source}" for test in inhibition.source.tests)
            same = "".join(f", {name} {labels.get(name, '')!r}" for name in inhibition.equal)
            yield Muted("inhibition", inhibition.name, f"while another incident fires with {what}{same}", None, False)
