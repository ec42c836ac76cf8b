"""Warnings are raised for what is probably not meant, and for nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alerting.policy.coverage import Given, covered, implied, possible, witness
from services.alerting.policy.linting import lint_at
from services.alerting.policy.matching import parse_match
from services.alerting.policy.model import Match, Policy

Read = Callable[[str], Policy]

ALL = "route: {notify: [a, b, c]}\n"


def routes(*inner: str) -> str:
    return "route:\n  notify: [a, b, c]\n  routes:\n" + "".join(f"    - {{{text}}}\n" for text in inner)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            routes("match: {severity: error}", "match: {severity: error, owner: x}"),
            "line 9: route/2 is never reached: route/1",
        ),
        (routes("group_wait: 1m", "match: {owner: x}"), "line 9: route/2 is never reached: route/1"),
        (
            routes("match: {severity: [critical, error]}", "match: {severity: {not: critical}}", "match: {owner: x}"),
            "line 10: route/3 is never reached: route/1 and route/2",
        ),
        (routes("match: {owner: 'r*'}", "match: {owner: [risk, rest]}"), "route/2 is never reached"),
        (routes("match: {owner: {not: x}}", "match: {owner: y}"), "route/2 is never reached"),
        (routes("match: {owner: {not: x}}", "match: {owner: {not: [x, y]}}"), "route/2 is never reached"),
        (
            routes("match: {severity: error}, routes: [{match: {severity: info}}]"),
            "line 8: route/1/1 takes nothing: its match contradicts the routes above it",
        ),
        (
            routes("match: {owner: {not: '*'}}", "match: {severity: {not: [critical, error, warning, info]}}"),
            "takes nothing",
        ),
        (
            "route: {routes: [{match: {severity: error}, notify: [a, b, c]}]}\n",
            "line 5: route: nobody is notified by it: notify is missing",
        ),
        (
            "roles: {r: {by_owner: {}}}\n" + routes("match: {owner: x}, notify: [role:r]"),
            "line 9: route/1: nobody is notified by it: its roles have nobody",
        ),
        (
            routes("match: {severity: [info, warning]}, notify: [b]"),
            "route/1: nobody is notified by it: b takes error and worse",
        ),
        ("route: {notify: [a, b]}\n", "line 4: receiver 'c' is never used"),
        (ALL + "roles: {r: [a]}\n", "role 'r' is never used"),
        (ALL + "intervals: {i: [{days: mon}]}\n", "interval 'i' is never used"),
        (ALL + "escalations: {e: {steps: [{after: 1m, notify: [a]}]}}\n", "escalation 'e' is never used"),
        (
            ALL + "inhibit: [{source: {severity: critical}, target: {deployment: x}}]\n",
            "line 6: inhibition 'inhibit-1' can mute its own source: source and target both take severity: critical",
        ),
        (
            "escalations: {e: {steps: [{after: 20s, notify: [a]}]}}\nroute: {notify: [a, b, c], escalate: e}\n",
            r"escalation e begins after 20s, before the first message \(group_wait 30s\)",
        ),
        (
            "escalations: {e: {steps: [{after: 1h, notify: [a]}]}}\n"
            "route: {notify: [a, b, c], routes: [{match: {severity: info}, escalate: e, digest: {every: 1d}}]}\n",
            "escalate what waits for the digest",
        ),
        ("route: {notify: [a, b, c], digest: {every: 1d}}\n", "a critical alert would wait for the digest"),
        (
            "route: {notify: [a, b, c], repeat_interval: 1m}\n",
            "repeat_interval .1m. is shorter than group_interval .5m.",
        ),
        (routes("match: {monitor: conceptdrift}"), "there is no monitor 'conceptdrift'"),
        (
            routes("notify: [a], continue: true", "match: {owner: x}, notify: [b, c]"),
            "line 8: route/1 takes everything and goes on: what no other route takes is told by it alone",
        ),
    ],
)
def test_what_is_probably_not_meant_is_told(read: Read, minimal: str, text: str, said: str) -> None:
    warnings = read(minimal + text).warnings
    assert len(warnings) == 1, warnings
    assert re.search(said, warnings[0]), warnings


@pytest.mark.parametrize(
    "text",
    [
        ALL,
        routes("match: {severity: error}, continue: true", "match: {severity: error, owner: x}"),
        routes("match: {severity: error, owner: x}", "match: {severity: error}"),
        routes("match: {owner: '*x'}", "match: {owner: 'x*'}"),
        routes("match: {severity: [critical, error]}", "match: {severity: warning}", "match: {owner: x}"),
        routes("match: {owner: {regex: 'r.*'}}", "match: {owner: {regex: 's.*'}}"),
        routes("match: {owner: x}, notify: []"),
        routes("notify: [a], continue: true", "match: {owner: x}, notify: [b]", "notify: [b, c]"),
        routes("group_wait: 1m, continue: true", "match: {owner: x}, notify: [b]"),
        "route:\n  routes: [{notify: [a], continue: true}, {notify: [b, c], continue: true}]\n",
        routes("match: {monitor: ['system:*', 'detector:psi:age', concept_drift]}"),
        routes("match: {severity: [warning, error]}, notify: [b]"),
        ALL + "inhibit: [{source: {severity: critical}, target: {severity: warning}, equal: [deployment]}]\n",
        "roles: {r: {by_owner: {x: [a], '*': [role:s]}}, s: [b, c]}\nroute: {notify: [role:r]}\n",
        "escalations: {e: {steps: [{after: 30s, notify: [c]}]}}\nroute: {notify: [a, b], escalate: e}\n",
        "route: {notify: [a, b]}\nwatch: {notify: [c]}\n",
        "intervals: {i: [{days: mon}]}\n" + routes("match: {severity: info}, active: [i], digest: {at: '09:00'}"),
    ],
)
def test_what_is_meant_is_not_warned_of(read: Read, minimal: str, text: str) -> None:
    assert read(minimal + text).warnings == ()


def test_a_fallback_uses_its_receiver_and_must_take_what_it_is_given(read: Read, minimal: str) -> None:
    used = minimal.replace("{name: a,", "{name: a, fallback: c,") + "route: {notify: [a, b]}\n"
    assert read(used).warnings == ()
    less = minimal.replace("{name: a,", "{name: a, fallback: b,") + "route: {notify: [a, c]}\n"
    assert read(less).warnings == ("line 2: receiver 'a': its fallback 'b' takes less than it does",)


def test_a_webhook_in_clear_text_or_without_a_signature_is_warned_of(read: Read) -> None:
    text = "receivers: [{name: a, type: webhook, url: 'http://10.0.0.1/', allow: 10.0.0.0/8}]\nroute: {notify: [a]}\n"
    assert [("clear text" in w, "not signed" in w) for w in read(text).warnings] == [(True, False), (False, True)]


def test_maintenance_that_is_over_is_told_by_the_clock(read: Read, whole: str) -> None:
    policy = read(whole)
    over = policy.maintenance[0].ends_ms
    assert lint_at(policy, over - 1) == ()
    assert lint_at(policy, over) == (
        f"line {policy.maintenance[0].line}: maintenance 'release' is over: it can be removed",
    )


def test_the_file_that_uses_everything_is_almost_without_warnings(read: Read, whole: str) -> None:
    assert read(whole).warnings == (
        "interval 'nights' is never used",
        "line 19: receiver 'siem': alerts travel in clear text (http)",
        "line 43: route/2: a critical alert would wait for office-hours",
    )


def test_a_thousand_routes_are_looked_at_in_reasonable_time(read: Read, minimal: str) -> None:
    many = [f"match: {{deployment: d{n}, severity: [critical, error]}}" for n in range(1000)]
    before = time.process_time()
    warnings = read(minimal + routes(*many, "match: {deployment: d7, severity: error}")).warnings
    assert [w.partition(" is never")[0] for w in warnings] == ["line 1008: route/1001"]
    assert time.process_time() - before < 30


VALUES = ["critical", "error", "x", "xy", ""]
condition = st.one_of(
    st.sampled_from(["critical", "x", "x*", "*", "?", "error"]),
    st.lists(st.sampled_from(["critical", "x", "xy", "x*"]), min_size=1, max_size=2),
    st.sampled_from(["critical", "x*", "*"]).map(lambda v: {"not": v}),
    st.just({"regex": "x.?"}),
)


match = st.dictionaries(st.sampled_from(["owner", "tag.x"]), condition, max_size=2)
worlds = [
    {"severity": s, "owner": o, "tag.x": t}
    for s in ("critical", "error", "warning", "info")
    for o in VALUES
    for t in VALUES
]


@settings(max_examples=200, deadline=None)
@given(st.lists(match, min_size=1, max_size=3), match, st.sampled_from([{}, {"severity": "error"}]))
def test_what_is_said_of_conditions_is_so(before: list[Any], wanted: Any, more: Any) -> None:
    """Against every combination of some values: a sure answer is never wrong."""
    earlier: list[Match] = [parse_match(document, "m") for document in before]
    later = parse_match({**wanted, **more}, "m")
    if covered([m.tests for m in earlier], Given(later.tests)):
        assert all(any(m(labels) for m in earlier) for labels in worlds if later(labels))
    if implied(earlier[0].tests, Given(later.tests)):
        assert all(earlier[0](labels) for labels in worlds if later(labels))
    if not possible(later.tests):
        assert not any(later(labels) for labels in worlds)
    found = witness([*later.tests, *earlier[0].tests])
    if found is not None:
        assert later(found) and earlier[0](found)
