"""The sections of the routing file besides receivers and routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, cast
from zoneinfo import ZoneInfo

from services.alerting.policy.document import Node
from services.alerting.policy.fields import Fields, as_text
from services.alerting.policy.labels import NAMES, TAG_PREFIX
from services.alerting.policy.matching import glob, parse_match, read_match
from services.alerting.policy.model import (
    Correlation,
    Escalation,
    Inhibition,
    Maintenance,
    Period,
    Role,
    Source,
    Step,
    Watch,
)
from services.alerting.policy.problems import Problems, offer
from services.alerting.policy.references import Known, check_targets, read_targets, refer, refuse_loops
from services.alerting.policy.schedules import moment, read_periods, zone_of
from services.alerting.policy.secrets import Secrets

SILENT_TOPICS = ("predictions", "outcomes")
_MOST = 500
_MOST_STEPS = 100


def built_in_inhibitions() -> tuple[Inhibition, ...]:
    """Without a section ``inhibit``: a pipeline that delivers broken data is told of, not the drift it causes."""
    source = {"monitor": ["data_quality", "service"], "severity": {"not": "info"}}
    target = {"monitor": ["data_drift", "prediction_drift"]}
    return (Inhibition("pipeline", parse_match(source, "inhibit"), parse_match(target, "inhibit"), ("deployment",), 0),)


def read_roles(nodes: Mapping[str, Node], problems: Problems, known: Known) -> dict[str, Role]:
    """The section ``roles``: a list of receivers and roles, or ``{always: …, by_owner: {OWNER: …}}``."""
    found: dict[str, Role] = {}
    edges: dict[str, list[str]] = {}
    for name, node in _few(nodes, "roles", problems).items():
        by_owner: dict[str, tuple[str, ...]] = {}
        if isinstance(node.value, Mapping):
            fields = Fields(node, problems)
            always = read_targets(fields, "always", known)
            owners = fields.take("by_owner")
            if owners is not None:
                inner = Fields(owners, problems)
                for owner in owners.value if isinstance(owners.value, Mapping) else ():
                    by_owner[owner] = read_targets(inner, owner, known)
            fields.end()
        else:
            parts = node.value if isinstance(node.value, tuple) else (node,)
            for part in parts:
                if not isinstance(part.value, str):
                    told = f"expected a receiver, role:NAME, a list of them, or {{by_owner: …}}, came {part.kind}"
                    problems.add(part.line, part.where, told)
            always = check_targets([part for part in parts if isinstance(part.value, str)], known, problems)
        found[name] = Role(name, always, by_owner)
        members = [*always, *(member for named in by_owner.values() for member in named)]
        edges[name] = [member.removeprefix("role:") for member in members if member.startswith("role:")]
    refuse_loops(
        "the role refers to itself", edges, {n: (node.line, node.where) for n, node in nodes.items()}, problems
    )
    return found


def read_intervals(nodes: Mapping[str, Node], problems: Problems, zone: ZoneInfo) -> dict[str, tuple[Period, ...]]:
    """The section ``intervals``."""
    found = {}
    for name, node in nodes.items():
        parts = node.value if isinstance(node.value, tuple) else (node,)
        if not parts or node.value is None:
            problems.add(node.line, node.where, "expected a list such as [{days: mon-fri, times: '08:00-18:00'}]")
        else:
            found[name] = read_periods(parts, problems, zone)
    return found


def read_escalations(nodes: Mapping[str, Node], problems: Problems, known: Known) -> dict[str, Escalation]:
    """The section ``escalations``. A last step ``{after: …, escalate: NAME}`` goes on with another chain's steps."""
    steps: dict[str, list[Step]] = {}
    onward: dict[str, tuple[int, str]] = {}
    repeats: dict[str, int] = {}
    for name, node in _few(nodes, "escalations", problems).items():
        fields = Fields(node, problems)
        steps[name] = []
        repeats[name] = fields.whole("repeat", 0, least=0, most=100)
        items = fields.items("steps", "steps such as {after: 15m, notify: [role:on-call]}")
        if not items:
            fields.missing("steps", "a list such as [{after: 15m, notify: [role:on-call]}]")
        latest_ms = -1
        for number, item in enumerate(items, 1):
            inner = Fields(item, problems)
            after_ms = inner.duration_ms("after", None)
            if inner.take("after") is None:
                inner.missing("after", "a duration since the incident opened")
            next_node = inner.take("escalate")
            told = read_targets(inner, "notify", known)
            inner.end()
            if after_ms is not None and after_ms <= latest_ms:
                inner.wrong(item, "expected a step later than the one before it")
            latest_ms = after_ms if after_ms is not None else latest_ms
            if next_node is None and "notify" not in inner:
                inner.missing("notify", "receivers and roles")
            if next_node is None:
                steps[name].append(Step(after_ms or 0, told))
            elif number < len(items) or "notify" in inner:
                inner.wrong(item, "'escalate' is for the last step, and stands there in place of 'notify'")
            elif inner.parsed("escalate", "", str) and refer(
                next_node, as_text(next_node), "escalation", known, problems
            ):
                onward[name] = (after_ms or 0, as_text(next_node))
        fields.end()
    edges = {name: [onward[name][1]] if name in onward else [] for name in steps}
    places = {name: (node.line, node.where) for name, node in nodes.items()}
    count = len(problems.texts())
    refuse_loops("the escalation goes on with itself", edges, places, problems)
    if len(problems.texts()) > count:
        onward = {}
    return {
        name: Escalation(
            name, _flat(name, steps, onward), repeats[name], nodes[name].line, onward.get(name, (0, ""))[1]
        )
        for name in steps
    }


def _flat(name: str, steps: Mapping[str, list[Step]], onward: Mapping[str, tuple[int, str]]) -> tuple[Step, ...]:
    found: list[Step] = []
    since_ms = 0
    while True:
        found += [Step(since_ms + step.after_ms, step.notify) for step in steps.get(name, ())]
        if name not in onward or len(found) > _MOST_STEPS:
            return tuple(found[:_MOST_STEPS])
        after_ms, name = onward[name]
        since_ms += after_ms


def read_inhibitions(nodes: tuple[Node, ...], problems: Problems) -> tuple[Inhibition, ...]:
    """The section ``inhibit``."""
    found = []
    lines: dict[str, int] = {}
    for number, node in enumerate(nodes, 1):
        fields = Fields(node, problems)
        name = fields.name() if "name" in fields else f"inhibit-{number}"
        fields.take("name")
        source, target = fields.take("source"), fields.take("target")
        for what, given in (("source", source), ("target", target)):
            if given is None or given.value == {}:
                fields.missing(what, "conditions such as {monitor: service}: without any it would be every alert")
        equal = []
        for part in fields.texts("equal", "a label"):
            label = as_text(part)
            if label in NAMES or (label.startswith(TAG_PREFIX) and label != TAG_PREFIX):
                equal.append(label)
            else:
                fields.wrong(part, f"there is no such label: {offer(label, NAMES)}")
        fields.end()
        _twice(name, node, lines, "inhibitions", problems)
        matches = read_match(source, problems), read_match(target, problems)
        found.append(Inhibition(name, *matches, tuple(equal), node.line))
    return tuple(found)


def read_maintenance(nodes: tuple[Node, ...], problems: Problems, zone: ZoneInfo) -> tuple[Maintenance, ...]:
    """The section ``maintenance``: from and to, or ``weekly`` until."""
    found = []
    lines: dict[str, int] = {}
    for node in nodes:
        fields = Fields(node, problems)
        name = fields.name()
        own_zone = zone_of(fields, zone)
        match = fields.take("match")
        if match is None or match.value == {}:
            fields.missing("match", "conditions such as {deployment: credit}: without any, everything would be silent")
        starts_ms, to_ms = moment(fields, "from", own_zone), moment(fields, "to", own_zone)
        until_ms = moment(fields, "until", own_zone)
        periods = read_periods(
            fields.items("weekly", "times such as {days: daily, times: '02:00-03:00'}"), problems, own_zone
        )
        author, reason = fields.text("author", longest=200), fields.text("reason", longest=500)
        for what, text in (("author", author), ("reason", reason)):
            if not text.strip() and (what not in fields or fields.take(what) is not None):
                fields.missing(what, "who silences this" if what == "author" else "why")
        weekly = "weekly" in fields
        if weekly and "to" in fields:
            fields.wrong(node, "a weekly maintenance has 'until', not 'to'")
        elif weekly and "until" not in fields:
            fields.missing("until", "the day when it is over for good, such as 2027-06-01")
        elif not weekly and "until" in fields:
            fields.wrong(node, "a maintenance from one moment to another has 'to', not 'until'")
        elif not weekly:
            for what in ("from", "to"):
                if what not in fields:
                    fields.missing(what, "a moment such as 2026-12-01T22:00, or give weekly and until")
        if weekly and not periods:
            fields.wrong(node, "weekly: expected a list such as [{days: daily, times: '02:00-03:00'}]")
        fields.end()
        _twice(name, node, lines, "maintenances", problems)
        ends_ms = until_ms if weekly else to_ms
        starts_ms = 0 if starts_ms is None else starts_ms
        if ends_ms is not None and ends_ms <= starts_ms:
            fields.wrong(node, "expected an end after its beginning")
        found.append(
            Maintenance(name, read_match(match, problems), starts_ms, ends_ms or 0, periods, author, reason, node.line)
        )
    return tuple(found)


def read_sources(nodes: Mapping[str, Node], problems: Problems) -> tuple[Source, ...]:
    """The section ``sources``."""
    found = []
    for name, node in nodes.items():
        fields = Fields(node, problems)
        features = fields.texts("features", "the name of a feature, or a pattern")
        deployments = fields.texts("deployments", "a deployment, or a pattern")
        if not features:
            fields.missing("features", "names or patterns of features that come from it")
        fields.end()
        found.append(Source(name, _globs(features), _globs(deployments) or (glob("*"),)))
    return tuple(found)


def _globs(nodes: tuple[Node, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(glob(as_text(node)) for node in nodes)


def read_correlation(node: Node | None, problems: Problems) -> Correlation:
    """The section ``correlation``."""
    start = Correlation()
    if node is None:
        return start
    fields = Fields(node, problems)
    found = Correlation(
        fields.duration_ms("join_within", start.join_within_ms),
        cast(
            Literal["feature", "source", "none"], fields.choice("across", ("feature", "source", "none"), start.across)
        ),
        fields.duration_ms("across_within", start.across_within_ms),
        fields.duration_ms("reopen_within", start.reopen_within_ms),
        fields.whole("flapping_reopenings", start.flapping_reopenings, least=1, most=1000),
    )
    fields.end()
    return found


def read_watch(
    node: Node | None, problems: Problems, known: Known, secrets: Secrets, roles: Mapping[str, Role]
) -> Watch:
    """The section ``watch``."""
    start = Watch()
    if node is None:
        return start
    fields = Fields(node, problems)
    every_ms, names = 0, tuple[str, ...]()
    if (beat := fields.take("heartbeat")) is not None:
        inner = Fields(beat, problems)
        every_ms = inner.duration_ms("every", 86_400_000, least_ms=60_000)
        names = members(read_targets(inner, "notify", known), roles)
        if "notify" not in inner:
            inner.missing("notify", "receivers that get a sign of life")
        inner.end()
    dead_man_url, dead_man_every_ms = None, start.dead_man_every_ms
    if (dead_man := fields.take("dead_man")) is not None:
        inner = Fields(dead_man, problems, shy=True)
        dead_man_url = secrets.one(inner, "url", url=True)
        dead_man_every_ms = inner.duration_ms("every", dead_man_every_ms, least_ms=1000)
        inner.end()
        if dead_man_url is None:
            inner.missing("url_file", "a file with the address to call (or url_env)")
    silent: dict[str, int] = {}
    if (topics := fields.take("silent_topics")) is not None:
        inner = Fields(topics, problems)
        for topic in SILENT_TOPICS:
            after_ms = inner.duration_ms(topic, None, least_ms=1000)
            if after_ms is not None:
                silent[topic] = after_ms
        inner.end()
    found = Watch(
        every_ms,
        names,
        dead_man_url,
        dead_man_every_ms,
        fields.duration_ms("streams_lag", start.lag_ms),
        silent,
        fields.whole("dead_letters_per_hour", start.dead_letters_per_hour, least=0, most=1_000_000_000),
        fields.duration_ms("channel_failing", start.channel_failing_ms),
        read_targets(fields, "notify", known),
    )
    fields.end()
    return found


def members(targets: tuple[str, ...], roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Receivers behind receivers and roles where no deployment's owner is concerned."""
    found: dict[str, None] = {}
    pending = list(targets)
    seen: set[str] = set()
    while pending:
        target = pending.pop(0)
        name = target.removeprefix("role:")
        if not target.startswith("role:"):
            found[target] = None
        elif name not in seen and name in roles:
            seen.add(name)
            pending = [*roles[name].always, *roles[name].by_owner.get("*", ()), *pending]
    return tuple(found)


def _twice(name: str, node: Node, lines: dict[str, int], what: str, problems: Problems) -> None:
    if name and name in lines:
        problems.add(node.line, node.where, f"two {what} are called {name!r}; the first is on line {lines[name]}")
    lines.setdefault(name, node.line)


def _few(nodes: Mapping[str, Node], what: str, problems: Problems) -> Mapping[str, Node]:
    if len(nodes) > _MOST:
        problems.add(0, what, f"expected at most {_MOST}, came {len(nodes)}")
        return {}
    return nodes
