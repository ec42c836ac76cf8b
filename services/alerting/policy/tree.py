"""The tree of routes as the file writes it, with what routes inherit filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from services.alerting.policy.document import Node
from services.alerting.policy.fields import NAME, Fields, as_text
from services.alerting.policy.labels import NAMES, TAG_PREFIX
from services.alerting.policy.matching import read_match
from services.alerting.policy.model import INCIDENT, Digest, Match, Route
from services.alerting.policy.problems import Problems, offer
from services.alerting.policy.references import Known, read_targets, refer
from services.alerting.policy.schedules import read_digest

ROOT = "route"
_MOST_DEPTH = 20
_RETIRED = {
    "receiver": "there is no such field: write notify: [NAME]",
    "matchers": "there is no such field: write match: {label: value}",
}


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a route takes from the one above it and may say otherwise."""

    notify: tuple[str, ...] = ()
    group_by: tuple[str, ...] = (INCIDENT,)
    group_wait_ms: int = 30_000
    group_interval_ms: int = 300_000
    repeat_interval_ms: int = 4 * 3_600_000
    active: tuple[str, ...] = ()
    escalate: str = ""
    digest: Digest | None = None


def read_defaults(node: Node | None, problems: Problems, start: Inherited = Inherited()) -> Inherited:
    """The section ``defaults``."""
    if node is None:
        return start
    fields = Fields(node, problems)
    found = _grouping(fields, start)
    fields.end()
    return found


def read_route(node: Node, problems: Problems, known: Known, zone: ZoneInfo, start: Inherited) -> Route:
    """The section ``route``."""
    return _Reader(problems, known, zone).route(node, ROOT, start, 0)


class _Reader:
    def __init__(self, problems: Problems, known: Known, zone: ZoneInfo) -> None:
        self._problems = problems
        self._known = known
        self._zone = zone

    def route(self, node: Node, path: str, above: Inherited, depth: int) -> Route:
        fields = Fields(node, self._problems)
        if node.value is None:
            fields.wrong(node, "expected a route (a mapping such as {match: …, notify: …}), came nothing")
        conditions = fields.take("match")
        if conditions is None and "match" in fields:
            fields.wrong(node, "match: expected conditions such as {severity: critical}, came nothing")
        match = read_match(conditions, self._problems)
        own = self._inherit(fields, above)
        fields.take("name")  # already in the path
        go_on = fields.flag("continue", False)
        if depth == 0:
            self._root_takes_everything(fields, match, go_on)
        inner = fields.items("routes", "routes")
        if inner and depth >= _MOST_DEPTH:
            fields.wrong(node, f"expected at most {_MOST_DEPTH} routes inside one another")
            inner = ()
        routes = [self.route(n, p, own, depth + 1) for n, p in self._paths(inner, path)]
        fields.end(_RETIRED)
        return Route(
            path=path,
            match=match,
            notify=own.notify,
            group_by=own.group_by,
            group_wait_ms=own.group_wait_ms,
            group_interval_ms=own.group_interval_ms,
            repeat_interval_ms=own.repeat_interval_ms,
            active=own.active,
            escalate=own.escalate,
            digest=own.digest,
            go_on=go_on,
            routes=tuple(routes),
            line=node.line,
        )

    def _root_takes_everything(self, fields: Fields, match: Match, go_on: bool) -> None:
        for name, wrong in (("match", bool(match.tests)), ("continue", go_on), ("name", "name" in fields)):
            if wrong:
                fields.wrong(fields.node, f"the first route takes everything: {name!r} is for routes inside it")

    def _paths(self, nodes: tuple[Node, ...], above: str) -> list[tuple[Node, str]]:
        found: list[tuple[Node, str]] = []
        lines: dict[str, int] = {}
        for number, node in enumerate(nodes, 1):
            last = str(number)
            named = node.value.get("name") if isinstance(node.value, Mapping) else None
            if named is not None and named.value is not None:
                text = as_text(named)
                if not NAME.fullmatch(text) or text.isdigit():
                    expected = "expected a name of up to 64 letters, digits, '.', '_' and '-' that is no number"
                    self._problems.add(named.line, named.where, expected)
                elif text in lines:
                    told = f"two routes side by side are called {text!r}; the first is on line {lines[text]}"
                    self._problems.add(named.line, named.where, told)
                else:
                    last = text
                    lines[text] = named.line
            found.append((node, f"{above}/{last}"))
        return found

    def _inherit(self, fields: Fields, above: Inherited) -> Inherited:
        found = _grouping(fields, above)
        if "notify" in fields:
            found = replace(found, notify=read_targets(fields, "notify", self._known))
        if "active" in fields:
            nodes = fields.texts("active", "the name of an interval")
            names = (as_text(n) for n in nodes if refer(n, as_text(n), "interval", self._known, self._problems))
            found = replace(found, active=tuple(dict.fromkeys(names)))
        if "escalate" in fields:
            found = replace(found, escalate=self._escalate(fields))
        if "digest" in fields:
            digest = fields.take("digest")
            none = digest is None or digest.value == "none"
            found = replace(
                found, digest=None if digest is None or none else read_digest(digest, self._problems, self._zone)
            )
        for name in ("notify", "active", "escalate", "digest"):
            fields.take(name)
        return found

    def _escalate(self, fields: Fields) -> str:
        node = fields.take("escalate")
        if node is None or node.value == "none":
            return ""
        if not isinstance(node.value, str):
            fields.wrong(node, f"expected the name of an escalation, or none, came {node.kind}")
            return ""
        return node.value if refer(node, node.value, "escalation", self._known, self._problems) else ""


def _grouping(fields: Fields, above: Inherited) -> Inherited:
    return replace(
        above,
        group_by=_group_by(fields, above.group_by),
        group_wait_ms=fields.duration_ms("group_wait", above.group_wait_ms),
        group_interval_ms=fields.duration_ms("group_interval", above.group_interval_ms),
        repeat_interval_ms=fields.duration_ms("repeat_interval", above.repeat_interval_ms),
    )


def _group_by(fields: Fields, above: tuple[str, ...]) -> tuple[str, ...]:
    node = fields.take("group_by")
    if "group_by" not in fields:
        return above
    names = []
    for part in fields.texts("group_by", "a label"):
        name = as_text(part)
        if name == INCIDENT or name in NAMES or (name.startswith(TAG_PREFIX) and name != TAG_PREFIX):
            names.append(name)
        else:
            fields.wrong(part, f"there is no such label: {offer(name, (*NAMES, INCIDENT))}")
    if INCIDENT in names and len(names) > 1:
        fields.wrong(fields.node, f"{INCIDENT!r} stands alone: an incident is never in two groups")
    if node is not None and node.value == ():
        fields.wrong(node, f"expected labels, or [{INCIDENT}] for each incident by itself")
    return tuple(dict.fromkeys(names)) or above
