"""A lost database is made anew from alerts and audit: the same incidents, and nobody is told anything twice."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from driftline.codec import Record, decode, encode
from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.actions import ActionRefusedError, Actor, Do
from services.alerting.incidents.remembering import recollect
from services.alerting.incidents.store import Incoming, Place
from services.alerting.notify.escalating import escalate_due
from services.alerting.notify.flushing import flush_due
from services.alerting.notify.outbox import Outbox
from services.alerting.policy.model import Correlation, Escalation, Step
from services.alerting.records import audit_event

MINUTE_MS, MINUTE_US, HOUR_US = 60_000, 60_000_000, 3_600_000_000
T0 = 1_371_045_600_000_000


def rebuilt(make_rig: Callable[..., Any], live: Any, *notified: Any, keep: int = 0, **options: Any) -> Any:
    """A rig on an empty database, with the topics that a live one has; the first ``keep`` alerts are lost."""
    rig = make_rig(*notified, **options)
    rig.now_ms = live.now_ms
    alerts = sorted(live.rows(db.alerts), key=lambda row: (row["partition"], row["offset"]))
    rig.place(*(live.offsets.get(partition, 0) for partition in range(3)), recollection=live.recollection())
    batch = [Incoming(rig.topic, a["partition"], a["offset"], decode(a["record"])[1]) for a in alerts[keep:]]
    for start in range(0, len(batch), 4):
        rig.store.take(batch[start : start + 4])
    for partition, end in live.offsets.items():  # what was taken twice is one row, and what was deleted is none
        rig.store.advance(rig.topic, partition, end)
    rig.offsets = dict(live.offsets)
    return rig


system_names = st.sampled_from(["streams-lag", "topic-silent:x"])
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("alert"),
            st.sampled_from(["a", "b", "c"]),
            st.integers(1, 5),
            st.sampled_from(["firing", "firing", "resolved"]),
            st.integers(0, 8),
            st.sampled_from(["critical", "error", "warning", "info"]),
        ),
        st.tuples(st.just("do"), st.sampled_from(list(Do)), st.integers(0, 3)),
        st.tuples(st.just("silence"), st.sampled_from([{"deployment": "a"}, {"severity": ["info", "warning"]}])),
        st.tuples(st.just("end_silence"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 90)),
        st.tuples(
            st.just("raise"), st.sampled_from(["streams-lag", "topic-silent:x"]), st.sampled_from(["error", "info"])
        ),
        st.tuples(st.just("end"), st.sampled_from(["streams-lag", "topic-silent:x"])),
    ),
    max_size=30,
)


def perform(rig: Any, make_alert: Any, make_numeric_cause: Any, drawn: list[Any]) -> None:
    """Do all of it."""
    rig.place(0, 0, 0)
    for number, step in enumerate(drawn):
        rig.now_ms += 1000
        kind, *rest = step
        incidents = rig.incidents() if kind == "do" else []
        if kind == "alert":
            deployment, episode, status, quarter, severity = rest
            moment = T0 + quarter * HOUR_US // 4
            alert = make_alert(episode, status, deployment_id=deployment, severity=severity)
            if deployment == "c":
                alert["causes"] = [make_numeric_cause("other")]
            alert |= {"change_time_us": moment, "detection_time_us": moment + MINUTE_US, "trigger_time_ms": number}
            rig.take(alert, partition="abc".index(deployment))
        elif kind == "do" and incidents:
            do, which = rest
            try:
                rig.do(
                    incidents[which % len(incidents)], do, f"reason {number}", to=f"bob {number % 2}", for_ms=MINUTE_MS
                )
            except ActionRefusedError:
                pass
        elif kind == "silence":
            rig.desk.silence(rest[0], Actor("ada", "api"), "noise", starts_ms=None, ends_ms=rig.now_ms + 5 * MINUTE_MS)
        elif kind == "end_silence":
            names = sorted(row["id"] for row in rig.rows(db.silences) if row["ends_ms"] > rig.now_ms)
            if names:
                rig.desk.end_silence(names[rest[0] % len(names)], Actor("bob", "cli"), "quiet again")
        elif kind == "wait":
            rig.tick(rig.now_ms + rest[0] * MINUTE_MS)
        elif kind == "raise":
            rig.raise_signal(*rest)
        elif kind == "end":
            rig.end_signal(rest[0])


EVERYTHING = [
    ("alert", "a", 1, "firing", 0, "error"),
    ("alert", "b", 1, "firing", 0, "warning"),
    ("do", Do.ACKNOWLEDGE, 0),
    ("alert", "c", 1, "firing", 4, "warning"),
    ("do", Do.ASSIGN, 0),
    ("do", Do.RESOLVE, 1),
    ("wait", 3),
    ("alert", "a", 1, "resolved", 2, "error"),
    ("alert", "a", 2, "firing", 3, "info"),
    ("alert", "c", 2, "resolved", 5, "info"),
    ("do", Do.SILENCE, 1),
    ("silence", {"deployment": "a"}),
    ("silence", {"severity": ["info", "warning"]}),
    ("end_silence", 0),
    ("wait", 9),
    ("alert", "c", 3, "firing", 5, "critical"),
    ("raise", "streams-lag", "info"),
    ("raise", "streams-lag", "error"),
    ("raise", "topic-silent:x", "error"),
    ("end", "streams-lag"),
    ("raise", "streams-lag", "info"),
    ("end", "topic-silent:x"),
    ("do", Do.NOTE, 1),
    ("do", Do.ACKNOWLEDGE, 2),
    ("do", Do.ACKNOWLEDGE, 1),
    ("do", Do.ACKNOWLEDGE, 0),
]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=steps)
@example(drawn=EVERYTHING)
def test_what_is_made_anew_is_what_was(
    make_rig: Any, make_alert: Any, make_numeric_cause: Any, drawn: list[Any]
) -> None:
    live = make_rig(correlation=Correlation(flapping_reopenings=1))
    perform(live, make_alert, make_numeric_cause, drawn)
    before = len(live.audit())
    again = rebuilt(make_rig, live, correlation=Correlation(flapping_reopenings=1))
    assert again.state() == live.state()
    assert again.audit() == [], "what the audit says already is not said again"
    assert len(live.audit()) == before


def test_one_kind_of_database_is_made_anew_from_what_another_published(
    make_rig: Any, make_alert: Any, make_numeric_cause: Any, any_database: Any
) -> None:
    live = make_rig()
    perform(live, make_alert, make_numeric_cause, EVERYTHING)
    again = rebuilt(make_rig, live, database=any_database)
    assert again.state() == live.state()


def test_it_goes_on_as_the_live_one_would(make_rig: Any, make_alert: Any) -> None:
    live = make_rig()
    live.take(make_alert(1), make_alert(2))
    live.do(live.one(), Do.ACKNOWLEDGE)
    again = rebuilt(make_rig, live)
    for rig in (live, again):
        rig.now_ms += 1000
        rig.take(make_alert(1, "resolved"), make_alert(3, severity="critical"))
    assert again.state() == live.state()
    assert again.one().status == "open"


def test_alerts_of_which_the_audit_knows_nothing_are_grouped_as_new(make_rig: Any, make_alert: Any) -> None:
    live = make_rig()
    live.take(make_alert(1))
    memory = live.recollection()
    live.take(make_alert(2), make_alert(1, "resolved"))
    again = make_rig()
    again.place(3, recollection=memory)
    assert again.take(make_alert(1), make_alert(2)) == {"history": 2}
    assert again.incidents() == []
    again.take(make_alert(1, "resolved"))
    incident = again.one()
    assert (incident.id, len(incident.firing)) == (live.one().id, 1)
    assert [event["action"] for event in again.audit()] == ["incident.joined", "incident.changed"]


def test_an_alert_that_the_topic_has_no_longer_is_made_up_from_the_audit(make_rig: Any, make_alert: Any) -> None:
    live = make_rig()
    live.take(make_alert(1, severity="critical"))
    again = rebuilt(make_rig, live, keep=1)
    incident = again.one()
    assert (incident.id, incident.status, incident.severity) == (live.one().id, "open", "critical")
    assert incident.signals[0].record is None
    assert again.take(make_alert(1, "resolved", severity="critical")) == {"resolved": 1}


def settle(rig: Any, outbox: Outbox, *receivers: str) -> list[tuple[str, str]]:
    """Send everything that is due; returns receiver and kind of each message."""
    sent = []
    flush_due(rig.database, rig.holder, Topics("test-"), rig.now_ms)
    for receiver in receivers:
        while (claim := outbox.claim(receiver)) is not None:
            outbox.sent(claim, {"ts": f"{rig.now_ms}"})
            sent.append((receiver, claim.delivery.kind.value))
    return sent


def make_outbox(rig: Any) -> Outbox:
    return Outbox(rig.database, rig.holder, Topics("test-"), lambda: rig.now_ms)


def test_nothing_told_is_told_again_and_its_end_is_told_where_its_beginning_was(
    make_rig: Any, make_alert: Any, make_apart: Any, receivers: Any
) -> None:
    slack, pager = receivers.slack_token(), receivers.pagerduty(minimum_severity="critical")
    live = make_rig(slack, pager)
    live.take(make_apart(1), make_apart(2, severity="critical"))
    assert sorted(settle(live, make_outbox(live), "slack", "pagerduty")) == [
        ("pagerduty", "trigger"),
        ("slack", "trigger"),
        ("slack", "trigger"),
    ]
    live.take(make_apart(3))
    again = rebuilt(make_rig, live, slack, pager)
    outbox = make_outbox(again)
    again.now_ms += 60_000
    assert settle(again, outbox, "slack", "pagerduty") == [("slack", "trigger")], "the one that nobody was told of"
    (row,) = [row for row in again.rows(db.threads) if row["receiver"] == "pagerduty"]
    assert row["receipt"] == {"ts": str(live.now_ms)}
    again.now_ms += 60_000
    again.take(make_apart(2, "resolved", severity="critical"), make_apart(1, "resolved"))
    assert sorted(settle(again, outbox, "slack", "pagerduty")) == [
        ("pagerduty", "resolve"),
        ("slack", "resolve"),
        ("slack", "resolve"),
    ]
    assert {row["status"] for row in again.rows(db.threads)} == {"open", "closed"}


def test_an_end_that_was_known_and_not_told_is_told(make_rig: Any, make_apart: Any, receivers: Any) -> None:
    slack = receivers.slack_token()
    live = make_rig(slack)
    live.take(make_apart(1))
    settle(live, make_outbox(live), "slack")
    live.take(make_apart(1, "resolved"))
    again = rebuilt(make_rig, live, slack)
    again.now_ms += 60_000
    assert settle(again, make_outbox(again), "slack") == [("slack", "resolve")]


def test_an_end_is_told_also_where_its_beginning_is_on_no_topic_any_more(
    make_rig: Any, make_apart: Any, receivers: Any
) -> None:
    slack = receivers.slack_token()
    live = make_rig(slack)
    live.take(make_apart(1))
    settle(live, make_outbox(live), "slack")
    again = rebuilt(make_rig, live, slack, keep=1)
    again.now_ms += 60_000
    again.take(make_apart(1, "resolved"))
    assert settle(again, make_outbox(again), "slack") == [("slack", "resolve")]


@pytest.mark.parametrize(("history", "told"), [("open", 1), ("none", 0), ("all", 1)])
def test_history_is_told_as_the_settings_say(
    make_rig: Any, make_apart: Any, receivers: Any, history: str, told: int
) -> None:
    rig = make_rig(receivers.slack_token(), history=history)
    rig.place(3, 2)
    counts = rig.take(make_apart(1), make_apart(2), make_apart(1, "resolved"))
    assert (counts == {"history": 3}) == (history != "all")
    if history != "all":
        assert rig.incidents() == [], "another partition's history is still to come"
    rig.take(make_apart(3), make_apart(3, "resolved"), partition=1)
    assert len(rig.incidents()) == 3
    open_one = rig.one(status="open").id
    assert (open_one in rig.concerned()) == bool(told)
    rig.take(make_apart(4))
    assert rig.one(deployment="model-4").id in rig.concerned()


def test_who_wants_to_be_told_of_all_history_is_told_of_it_whatever_the_audit_says(
    make_rig: Any, make_apart: Any, receivers: Any
) -> None:
    slack = receivers.slack_token()
    live = make_rig(slack)
    live.take(make_apart(1))
    settle(live, make_outbox(live), "slack")
    live.desk.silence({"deployment": "x"}, Actor("ada", "api"), "y", starts_ms=None, ends_ms=live.now_ms + MINUTE_MS)
    again = rebuilt(make_rig, live, slack, history="all")
    assert settle(again, make_outbox(again), "slack") == [("slack", "trigger")]
    assert again.rows(db.silences) == live.rows(db.silences)


def test_history_outlives_a_restart_in_its_middle(make_rig: Any, make_apart: Any) -> None:
    rig = make_rig()
    rig.place(2)
    rig.take(make_apart(1))
    assert rig.store.wants_recollection(rig.topic)
    other = make_rig(database=rig.database)
    other.offsets = rig.offsets
    other.take(make_apart(2))
    assert len(other.incidents()) == 2
    assert not other.store.wants_recollection(rig.topic)


def test_a_partition_that_is_added_later_has_no_history(make_rig: Any, make_apart: Any, receivers: Any) -> None:
    rig = make_rig(receivers.slack_token())
    rig.place(0)
    rig.store.place(rig.topic, [Place(0, 0, 0), Place(1, 0, 5)])
    assert rig.take(make_apart(1), partition=1) == {"opened": 1}
    assert rig.concerned() == {rig.one().id}


def test_what_is_no_event_of_this_service_is_passed_over(make_alert: Any, make_rig: Any) -> None:
    live = make_rig()
    live.take(make_alert(1))
    published = live.published()
    odd: Record = {**live.audit()[0], "id": "another", "source": "streams/0"}
    silence = audit_event("audit", action="silence.created", subject="silence:x", identity=("x",), time_ms=1)
    messages = [b"", None, b"\0nonsense", encode("AuditEvent", odd), *published, *published, silence.value]
    memory = recollect([messages])
    assert (len(memory.events), memory.malformed) == (2, 2)
    again = make_rig()
    again.place(1, recollection=memory)
    again.take(make_alert(1))
    assert again.one().id == live.one().id and again.rows(db.silences) == []


def test_an_escalation_goes_on_after_its_last_step(
    make_rig: Any, make_alert: Any, make_route: Any, receivers: Any
) -> None:
    slack, pager = receivers.slack_token(), receivers.pagerduty()
    chain = Escalation("standard", (Step(MINUTE_MS, ("slack",)), Step(3 * MINUTE_MS, ("pagerduty",))), 0, 0)
    usual = {"route": make_route("slack", escalate="standard"), "escalations": {"standard": chain}}
    live = make_rig(slack, pager, **usual)
    live.take(make_alert(1))
    settle(live, make_outbox(live), "slack", "pagerduty")
    live.now_ms += MINUTE_MS
    next_ms = escalate_due(live.database, live.holder, Topics("test-"), live.now_ms)
    assert settle(live, make_outbox(live), "slack", "pagerduty") == [("slack", "repeat")]
    again = rebuilt(make_rig, live, slack, pager, **usual)
    assert escalate_due(again.database, again.holder, Topics("test-"), again.now_ms) == next_ms
    assert settle(again, make_outbox(again), "slack", "pagerduty") == []
    again.now_ms = next_ms
    assert escalate_due(again.database, again.holder, Topics("test-"), again.now_ms) is None
    assert settle(again, make_outbox(again), "slack", "pagerduty") == [("pagerduty", "trigger")]


def test_groups_and_digests_of_a_backlog_are_remembered_as_told(
    make_rig: Any, make_apart: Any, make_route: Any, receivers: Any
) -> None:
    slack = receivers.slack_token()
    usual = {"route": make_route("slack", group_by=("owner", "deployment")), "backlog_digest": 3}
    live = make_rig(slack, **usual)
    live.take(*(make_apart(number) for number in range(1, 7)))
    assert settle(live, make_outbox(live), "slack") == [("slack", "digest")]
    again = rebuilt(make_rig, live, slack, **usual)
    again.now_ms += MINUTE_MS
    assert settle(again, make_outbox(again), "slack") == []

    def groups(rig: Any) -> list[Any]:
        return sorted((row["group_key"], row["group_labels"], row["status"]) for row in rig.rows(db.threads))

    assert groups(again) == groups(live) and len(groups(live)) == 6


def test_what_driftline_says_of_itself_now_outweighs_what_it_said_then(make_rig: Any, make_alert: Any) -> None:
    live = make_rig()
    live.take(make_alert(1))
    live.raise_signal("streams-lag", headline="Slow then")
    live.end_signal("streams-lag")
    again = make_rig()
    again.now_ms += 1000
    again.raise_signal("streams-lag", headline="Slow now")
    again.place(1, recollection=live.recollection())
    again.take(make_alert(1))
    assert {incident.title for incident in again.incidents(status="open")} == {
        "Slow now",
        "Data drift in credit, version 1",
    }
