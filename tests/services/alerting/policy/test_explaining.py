"""An explanation tells what the policy does, with every reason and every time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest

from services.alerting.policy.explaining import KnownSilence, explain
from services.alerting.policy.matching import parse_match
from services.alerting.policy.model import Policy
from services.alerting.policy.routing import assignments

Read = Callable[[str], Policy]
MINUTE, HOUR = 60_000, 3_600_000


def ms(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Zurich")).timestamp() * 1000)


SATURDAY = ms("2026-11-21T12:00")


def test_every_route_that_was_looked_at_is_told_with_the_reason(read: Read, whole: str) -> None:
    found = explain(read(whole), {"severity": "warning", "deployment": "fraud-1", "monitor": "concept_drift"}, SATURDAY)
    assert [(v.path, v.depth, v.matched, v.tells, v.why) for v in found.visited] == [
        ("route", 0, True, False, "takes everything"),
        ("route/criticals", 1, False, False, "severity is 'warning': critical"),
        ("route/2", 1, True, True, "deployment: fraud-*, monitor: {regex: concept_.*}, owner: {not: platform}"),
        ("route/2/1", 2, False, False, "tag.audit is not there: yes"),
        ("route/…", 1, False, False, "1 not looked at: route/2 took it"),
    ]


def test_messages_wait_for_their_group_their_hours_and_their_digest(read: Read, whole: str) -> None:
    policy = read(whole)
    hours = explain(policy, {"severity": "warning", "deployment": "fraud-1", "monitor": "concept_drift"}, SATURDAY)
    assert {(t.receiver, t.first_ms, t.waits, t.group) for t in hours.told} == {
        ("siem", ms("2026-11-23T08:00"), ("group_wait", "until office-hours"), ("owner=",)),
        ("mail", ms("2026-11-23T08:00"), ("group_wait", "until office-hours"), ("owner=",)),
    }
    (digest,) = explain(policy, {"severity": "info"}, SATURDAY).told
    assert (digest.receiver, digest.first_ms, digest.waits) == ("mail", ms("2026-11-23T09:00"), ("for the digest",))
    assert digest.gathered
    (chat,) = explain(policy, {"severity": "warning"}, SATURDAY).told
    assert (chat.receiver, chat.first_ms, chat.waits, chat.gathered) == (
        "chat",
        SATURDAY + 20_000,
        ("group_wait",),
        False,
    )
    assert (chat.group_interval_ms, chat.repeat_interval_ms, chat.type) == (6 * MINUTE, 3 * HOUR, "slack")


def test_who_is_left_out_is_told_with_the_reason(read: Read, whole: str) -> None:
    policy = read(whole)
    labels = {"severity": "critical", "tag.region": "eu", "deployment": "fraud-1", "monitor": "concept_drift"}
    found = explain(policy, {**labels, "owner": "risk-team"}, SATURDAY)
    assert [(left.receiver, left.route, left.why) for left in found.left_out] == [
        ("chat", "route/2", "route/criticals tells it already")
    ]
    low = read(whole.replace("notify: [mail]\ninhibit", "notify: [pager, mail]\ninhibit"))
    left = explain(low, {"severity": "info"}, SATURDAY).left_out
    assert [(each.receiver, each.why) for each in left] == [("pager", "it takes error and worse")]


def test_steps_of_an_escalation_come_with_their_times(read: Read, whole: str) -> None:
    found = explain(read(whole), {"severity": "critical", "tag.region": "eu"}, SATURDAY)
    assert [(s.escalation, s.number, s.at_ms - SATURDAY, s.receivers) for s in found.stages] == [
        ("standard", 1, HOUR // 4, ("pager", "chat")),
        ("standard", 2, HOUR + HOUR // 2, ("mail",)),
        ("standard", 3, 3 * HOUR, ("pager", "chat", "siem", "mail", "teams", "genie", "any", "hook-chat")),
    ]
    assert found.stages[-1].why.endswith("then the chain begins anew, 2 times")
    assert explain(read(whole), {"severity": "warning"}, SATURDAY).stages == ()


def test_what_mutes_is_told_and_messages_wait_for_its_end(read: Read, whole: str) -> None:
    policy = read(whole)
    now = ms("2026-12-01T23:00")
    silence = KnownSilence("s1", parse_match({"deployment": "cred*"}, "m"), "eve", "noise", now - 1, now + 5 * HOUR)
    over = KnownSilence("s2", parse_match({}, "m"), "eve", "noise", now - 2, now)
    found = explain(policy, {"deployment": "credit", "monitor": "data_drift"}, now, [silence, over])
    assert [(m.kind, m.name, m.until_ms, m.certain) for m in found.muted] == [
        ("silence", "s1", now + 5 * HOUR, True),
        ("maintenance", "release", ms("2026-12-02T02:00"), True),
        ("inhibition", "feed", None, False),
    ]
    assert found.is_muted
    assert found.told[0].first_ms == now + 5 * HOUR
    (soon,) = explain(policy, {"deployment": "credit"}, ms("2026-12-02T01:59:50")).told
    assert soon.first_ms == ms("2026-12-02T02:00:10") and soon.waits == ("group_wait",), "both waits go on together"
    assert "data_quality" in found.muted[2].reason and "'credit'" in found.muted[2].reason
    assert not explain(policy, {"monitor": "data_drift"}, now).is_muted, "an inhibition is only a possibility"


def test_a_pager_is_never_gathered(read: Read, whole: str) -> None:
    policy = read(
        whole.replace(
            'digest: {at: "09:00", days: mon-fri}\n      notify: [mail]',
            "digest: {every: 1d}\n      notify: [genie, mail]",
        )
    )
    found = explain(policy, {"severity": "info"}, SATURDAY)
    assert [(t.receiver, t.gathered) for t in found.told] == [("genie", False), ("mail", True)]


def test_what_driftline_says_of_itself_goes_where_watch_says(read: Read, whole: str, minimal: str) -> None:
    system = {"monitor": "system:kafka", "severity": "critical"}
    told = explain(read(whole), system, SATURDAY).told
    assert [(t.receiver, t.because) for t in told] == [
        ("pager", "watch, role on-call"),
        ("chat", "watch, role on-call"),
    ]
    tree = explain(read(minimal + "route: {notify: [a]}\n"), system, SATURDAY)
    assert [t.receiver for t in tree.told] == ["a"] and tree.visited
    nobody = explain(read(minimal + "route: {notify: []}\n"), system, SATURDAY)
    assert [t.receiver for t in nobody.told] == ["a", "b", "c"]


@pytest.mark.parametrize("severity", ["critical", "error", "warning", "info"])
@pytest.mark.parametrize("deployment", ["fraud-1", "credit"])
@pytest.mark.parametrize("audit", ["yes", ""])
def test_who_is_told_is_who_is_assigned(read: Read, whole: str, severity: str, deployment: str, audit: str) -> None:
    policy = read(whole)
    labels = {"severity": severity, "deployment": deployment, "monitor": "concept_drift", "tag.audit": audit}
    found = explain(policy, labels, SATURDAY)
    expected = assignments(policy, labels)
    assert [(t.receiver, t.route, t.because) for t in found.told] == [
        (a.receiver, a.route, a.because) for a in expected
    ]
