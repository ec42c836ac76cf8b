"""Cases for a routing file: labels, and who must be told. ``driftline route test`` runs them.

::

    cases:
      - name: a critical of Europe pages
        labels: {severity: critical, tag.region: eu, deployment: fraud-1}
        expect: [pager, chat]        # in any order; [] for nobody
        routes: [route/criticals]    # by which; left out: not looked at
        at: 2026-12-24T23:00         # left out: now
        muted: release               # true, false, or by whom; left out: not looked at
        within: 1h                   # the first message of each goes no later; left out: not looked at
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from services.alerting.policy.document import MOST_BYTES, read_yaml
from services.alerting.policy.durations import format_duration
from services.alerting.policy.explaining import Explanation, explain
from services.alerting.policy.fields import Fields, as_text
from services.alerting.policy.labels import NAMES, TAG_PREFIX
from services.alerting.policy.model import SEVERITIES, Policy
from services.alerting.policy.problems import Problems, offer
from services.alerting.policy.references import Known, check_targets
from services.alerting.policy.routing import walk
from services.alerting.policy.schedules import moment, zone_of


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        name: For people.
        line: Of the file.
        labels: Of the alert.
        expect: Receivers that must be told, and no others.
        routes: Paths by which; None where that is not looked at.
        at_ms: When; None for now.
        muted: Whether it must be, or by whom (a name); None where that is not looked at.
        within_ms: The first message of each receiver goes at most so long after; None where that is not looked at.
    """

    name: str
    line: int
    labels: Mapping[str, str]
    expect: tuple[str, ...]
    routes: tuple[str, ...] | None = None
    at_ms: int | None = None
    muted: bool | str | None = None
    within_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case; ``wrong`` is empty if it passed."""

    case: Case
    told: tuple[str, ...]
    wrong: tuple[str, ...] = field(default=())


def load_cases(path: Path, policy: Policy) -> tuple[Case, ...]:
    """The cases in a file, for a policy.

    Raises:
        PolicyError: Anything in it is wrong, or names what the policy does not have.
    """
    problems = Problems()
    text = ""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        problems.add(0, "", f"expected a readable file: {error.strerror or type(error).__name__}")
    except UnicodeError:
        problems.add(0, "", "expected text in UTF-8")
    problems.refuse(str(path))
    fields = Fields(read_yaml(text, problems), problems)
    zone = zone_of(fields, ZoneInfo("UTC"))
    nodes = fields.items("cases", "cases such as {labels: {severity: critical}, expect: [pager]}")
    if not nodes and not problems:
        fields.missing("cases", "a list such as [{labels: {severity: critical}, expect: [pager]}]")
    found = [_case(Fields(node, problems), number, policy, zone) for number, node in enumerate(nodes, 1)]
    fields.end()
    problems.refuse(str(path))
    return tuple(found)


def _case(fields: Fields, number: int, policy: Policy, zone: ZoneInfo) -> Case:
    known = Known(frozenset(policy.receivers))
    expect = check_targets(fields.texts("expect", "a receiver's name"), known, fields.problems)
    if "expect" not in fields:
        fields.missing("expect", "a list of receivers; [] for nobody")
    paths = {route.path for route in walk(policy.route)}
    routes: list[str] = []
    for node in fields.texts("routes", "a route's path"):
        if as_text(node) not in paths:
            fields.wrong(node, f"there is no such route: {offer(as_text(node), paths)}")
        routes.append(as_text(node))
    case = Case(
        name=fields.text("name", f"case {number}", longest=200),
        line=fields.node.line,
        labels=_labels(fields),
        expect=expect,
        routes=tuple(routes) if "routes" in fields else None,
        at_ms=moment(fields, "at", zone),
        muted=_muted(fields, policy),
        within_ms=fields.duration_ms("within", None),
    )
    fields.end()
    return case


def _labels(fields: Fields) -> dict[str, str]:
    node = fields.take("labels")
    if node is None or not isinstance(node.value, Mapping):
        fields.missing("labels", "labels of an alert, such as {severity: critical, deployment: credit}")
        return {}
    found: dict[str, str] = {}
    for name, value in node.value.items():
        if problem := wrong_label(name, as_text(value)):
            fields.wrong(value, problem)
        elif not isinstance(value.value, str):
            fields.wrong(value, f"expected a text, came {value.kind}")
        else:
            found[name] = value.value
    return found


def wrong_label(name: str, value: str) -> str:
    """What is wrong with a label of an alert; empty if nothing is."""
    if name not in NAMES and not (name.startswith(TAG_PREFIX) and name != TAG_PREFIX):
        close = offer(name, NAMES)
        return f"there is no label {name!r}: {close}" + ("" if close.startswith("did") else f", and {TAG_PREFIX}NAME")
    if name == "severity" and value not in SEVERITIES:
        return f"there is no such severity: {offer(value, SEVERITIES)}"
    return ""


def _muted(fields: Fields, policy: Policy) -> bool | str | None:
    node = fields.take("muted")
    if node is None:
        return None
    text = as_text(node)
    if text in ("true", "false"):
        return text == "true"
    names = [m.name for m in policy.maintenance] + [i.name for i in policy.inhibitions]
    if text not in names:
        fields.wrong(node, f"expected true, false or the name of a maintenance or an inhibition: {offer(text, names)}")
    return text


def judge(policy: Policy, case: Case, now_ms: int) -> Verdict:
    """Whether the policy does what a case expects."""
    at_ms = now_ms if case.at_ms is None else case.at_ms
    found = explain(policy, case.labels, at_ms)
    told = tuple(each.receiver for each in found.told)
    wrong: list[str] = []
    if missing := [name for name in case.expect if name not in told]:
        wrong.append(f"not told: {', '.join(missing)}{_why_not(found, missing)}")
    if more := [f"{each.receiver} ({each.because})" for each in found.told if each.receiver not in case.expect]:
        wrong.append(f"told though not expected: {', '.join(more)}")
    routes = tuple(dict.fromkeys(each.route for each in found.told))
    if case.routes is not None and set(routes) != set(case.routes):
        wrong.append(f"routes: expected {', '.join(case.routes) or 'none'}, came {', '.join(routes) or 'none'}")
    if case.within_ms is not None:
        wrong += [
            f"{each.receiver}: expected within {format_duration(case.within_ms)}, comes after "
            f"{format_duration(each.first_ms - at_ms)} ({', '.join(each.waits)})"
            for each in found.told
            if each.first_ms - at_ms > case.within_ms
        ]
    certain = [mute.name for mute in found.muted if mute.certain]
    if isinstance(case.muted, bool) and case.muted != bool(certain):
        wrong.append(f"expected {'' if case.muted else 'not '}to be muted, came {', '.join(certain) or 'not muted'}")
    elif isinstance(case.muted, str) and case.muted not in [mute.name for mute in found.muted]:
        wrong.append(f"expected to be muted by {case.muted}, came {', '.join(certain) or 'not muted'}")
    return Verdict(case, told, tuple(wrong))


def _why_not(found: Explanation, missing: list[str]) -> str:
    reasons = [f"{left.receiver}: {left.why}" for left in found.left_out if left.receiver in missing]
    if reasons:
        return f" ({'; '.join(reasons)})"
    tells = [visited.path for visited in found.visited if visited.tells]
    return f" (it came to {', '.join(tells)})" if tells else ""
