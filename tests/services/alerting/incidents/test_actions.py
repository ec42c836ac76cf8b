"""What people do: once each, with who and why, and refused in words where it cannot be done."""

from typing import Any

import pytest
import sqlalchemy as sa

from services.alerting.database import tables as db
from services.alerting.incidents.actions import ActionRefusedError, Actor, Do
from services.alerting.incidents.muting import SILENCE

MINUTE_MS = 60_000


def test_every_action_has_its_entry_and_its_audit_event_with_who_and_why(any_rig: Any, make_alert: Any) -> None:
    any_rig.take(make_alert(1))
    incident = any_rig.one()
    steps = [
        (Do.ACKNOWLEDGE, {}, "incident.acknowledged", "acknowledged"),
        (Do.UNACKNOWLEDGE, {}, "incident.unacknowledged", "open"),
        (Do.NOTE, {}, "incident.noted", "open"),
        (Do.ASSIGN, {"to": "bob"}, "incident.assigned", "open"),
        (Do.SILENCE, {"for_ms": MINUTE_MS}, "incident.silenced", "open"),
        (Do.RESOLVE, {}, "incident.resolved", "resolved"),
        (Do.REOPEN, {}, "incident.reopened", "open"),
    ]
    for number, (do, detail, action, status) in enumerate(steps, 1):
        any_rig.now_ms += 1000
        after = any_rig.do(incident, do, f"reason {number}", Actor("ada", "slack"), **detail)
        assert (after.status, after.revision) == (status, number + 1)
        entry, event = after.entries[-1], any_rig.audit(action)[-1]
        assert (entry.action, entry.actor, entry.actor_kind, entry.via, entry.reason) == (
            action,
            "ada",
            "human",
            "slack",
            f"reason {number}",
        )
        assert (event["actor"], event["actor_kind"], event["reason"]) == ("ada", "human", f"reason {number}")
        assert (event["subject"], event["detail"]["via"]) == (f"incident:{incident.id}", "slack")
    assert any_rig.acted == len(steps)
    assert any_rig.one().assigned_to == "bob"


@pytest.mark.parametrize(
    ("first", "again", "detail"),
    [
        (Do.ACKNOWLEDGE, Do.ACKNOWLEDGE, {}),
        (None, Do.UNACKNOWLEDGE, {}),
        (Do.RESOLVE, Do.RESOLVE, {}),
        (None, Do.REOPEN, {}),
        (Do.ASSIGN, Do.ASSIGN, {"to": "bob"}),
    ],
)
def test_what_is_so_already_changes_nothing(
    rig: Any, make_alert: Any, first: Do | None, again: Do, detail: dict[str, Any]
) -> None:
    rig.take(make_alert(1))
    if first is not None:
        rig.do(rig.one(), first, **detail)
    before, acted = rig.digest(), rig.acted
    rig.now_ms += 1000
    rig.do(rig.one(), again, "another reason", Actor("eve", "api"), **detail)
    assert (rig.digest(), rig.acted) == (before, acted)


@pytest.mark.parametrize(("do", "detail"), [(Do.NOTE, {}), (Do.SILENCE, {"for_ms": MINUTE_MS})])
def test_a_request_that_is_repeated_is_done_once(any_rig: Any, make_alert: Any, do: Do, detail: Any) -> None:
    any_rig.take(make_alert(1))
    actor = Actor("ada", "pagerduty", request="webhook-1")
    any_rig.do(any_rig.one(), do, actor=actor, **detail)
    before = any_rig.digest()
    any_rig.now_ms += 5000
    any_rig.do(any_rig.one(), do, actor=actor, **detail)
    assert any_rig.digest() == before and any_rig.acted == 1
    any_rig.do(any_rig.one(), do, actor=Actor("ada", "pagerduty", request="webhook-2"), **detail)
    assert any_rig.acted == 2


@pytest.mark.parametrize("do", [Do.ACKNOWLEDGE, Do.UNACKNOWLEDGE, Do.ASSIGN, Do.SILENCE])
def test_what_is_over_is_not_taken(rig: Any, make_alert: Any, do: Do) -> None:
    rig.take(make_alert(1), make_alert(1, "resolved"))
    before = rig.digest()
    with pytest.raises(ActionRefusedError, match="is over; reopen it first") as refused:
        rig.do(rig.one(), do, to="bob", for_ms=1)
    assert refused.value.status == 409 and rig.digest() == before
    rig.do(rig.one(), Do.NOTE, "afterwards")
    assert rig.one().entries[-1].reason == "afterwards"


@pytest.mark.parametrize("do", [Do.RESOLVE, Do.SILENCE, Do.NOTE])
def test_a_reason_is_asked_for(rig: Any, make_alert: Any, do: Do) -> None:
    rig.take(make_alert(1))
    with pytest.raises(ActionRefusedError, match="a reason is missing") as refused:
        rig.do(rig.one(), do, " \n ", for_ms=1)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("named", "says", "status"),
    [
        ("abc", "at least its first four digits", 404),
        ("ffff", "there is no incident", 404),
        ("zzzz", "there is no incident", 404),
        ("%%%%", "there is no incident", 404),
        ("", "at least its first four digits", 404),
    ],
)
def test_an_incident_that_is_none_is_refused(rig: Any, named: str, says: str, status: int) -> None:
    with pytest.raises(ActionRefusedError, match=says) as refused:
        rig.do(named, Do.ACKNOWLEDGE)
    assert refused.value.status == status


def test_the_beginning_of_an_id_is_enough_unless_two_begin_so(rig: Any, make_alert: Any) -> None:
    rig.take(make_alert(1))
    whole = rig.one().id
    assert rig.do(whole[:4].upper(), Do.ACKNOWLEDGE).id == whole
    with rig.database.transaction() as connection:
        row = dict(connection.execute(sa.select(db.incidents)).mappings().one())
        connection.execute(sa.insert(db.incidents).values(**{**row, "id": whole[:4] + "0" * 8}))
    with pytest.raises(ActionRefusedError, match="several incidents begin with"):
        rig.do(whole[:4], Do.NOTE)
    assert rig.do(whole, Do.NOTE).id == whole


@pytest.mark.parametrize("for_ms", [None, 0, -1, 10**12, "5m", 1.5])
def test_a_silence_of_an_incident_has_a_length(rig: Any, make_alert: Any, for_ms: Any) -> None:
    rig.take(make_alert(1))
    with pytest.raises(ActionRefusedError, match="expected for_ms"):
        rig.do(rig.one(), Do.SILENCE, for_ms=for_ms)


def test_hostile_words_of_people_are_kept_harmless_and_on_one_line(any_rig: Any, make_alert: Any) -> None:
    any_rig.take(make_alert(1))
    any_rig.do(any_rig.one(), Do.NOTE, "one\r\ntwo\0 \u202ethree", Actor("a\x1b[31mda\n" + "x" * 500, "api"))
    entry = any_rig.one().entries[-1]
    assert entry.reason == "one two\ufffd \ufffdthree"
    assert len(entry.actor) <= 200 and "\x1b" not in entry.actor and "\n" not in entry.actor
    with pytest.raises(ActionRefusedError, match="at most 4,000 characters"):
        any_rig.do(any_rig.one(), Do.NOTE, "x" * 10_000)


def test_a_silence_of_one_incident_silences_that_one_alone(any_rig: Any, make_apart: Any) -> None:
    any_rig.take(make_apart(1), make_apart(2))
    one = any_rig.one(deployment="model-1")
    any_rig.do(one, Do.SILENCE, "known", for_ms=MINUTE_MS)
    assert [i.deployment_id for i in any_rig.incidents(status="silenced")] == ["model-1"]
    (mute,) = [signal.mute for signal in any_rig.one(status="silenced").signals]
    assert (mute.kind, mute.reason, mute.until_ms) == (SILENCE, "silenced by ada: known", any_rig.now_ms + MINUTE_MS)
    assert any_rig.tick(any_rig.now_ms + MINUTE_MS) is None
    assert any_rig.incidents(status="silenced") == []
    assert any_rig.one(deployment="model-1").entries[-1].action == "silence.expired"


def test_a_silence_by_labels_reaches_what_fires_and_what_comes_and_ends_by_hand(any_rig: Any, make_apart: Any) -> None:
    any_rig.take(make_apart(1), make_apart(2, severity="critical"))
    match = {"deployment": "model-*", "severity": {"not": "critical"}}
    end_ms = any_rig.now_ms + MINUTE_MS
    name = any_rig.desk.silence(match, Actor("ada", "api"), "release", starts_ms=None, ends_ms=end_ms)
    any_rig.take(make_apart(3))
    assert {i.deployment_id for i in any_rig.incidents(status="silenced")} == {"model-1", "model-3"}
    any_rig.now_ms += 1000
    any_rig.desk.end_silence(name, Actor("bob", "cli"), "done")
    assert any_rig.incidents(status="silenced") == []
    assert [(e["action"], e["actor"]) for e in any_rig.audit() if e["subject"] == f"silence:{name}"] == [
        ("silence.created", "ada"),
        ("silence.ended", "bob"),
    ]
    with pytest.raises(ActionRefusedError, match="is over already"):
        any_rig.desk.end_silence(name, Actor("bob", "cli"), "done")
    with pytest.raises(ActionRefusedError, match="there is no silence"):
        any_rig.desk.end_silence("nothing", Actor("bob", "cli"), "done")


def test_a_silence_that_begins_later_does_so(rig: Any, make_alert: Any) -> None:
    rig.take(make_alert(1))
    rig.tick()
    start = rig.now_ms + MINUTE_MS
    rig.desk.silence({"monitor": "data_drift"}, Actor("ada", "api"), "later", starts_ms=start, ends_ms=start + 1000)
    assert rig.one().state == "open"
    assert rig.tick() == start
    assert rig.tick(start) == start + 1000
    assert rig.one().state == "silenced"
    assert rig.tick(start + 1000) is None
    assert rig.one().state == "open"


@pytest.mark.parametrize(
    ("match", "reason", "minutes", "says"),
    [
        ({}, "why", 1, "at least one label"),
        ({"colour": "red"}, "why", 1, "colour"),
        ({"monitor": {"regex": "("}}, "why", 1, "silence"),
        ({"monitor": "x"}, "", 1, "a reason is missing"),
        ({"monitor": "x"}, "why", 0, "expected an end"),
        ({"monitor": "x"}, "why", 60 * 24 * 400, "at most a year"),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(
    rig: Any, match: dict[str, Any], reason: str, minutes: int, says: str
) -> None:
    with pytest.raises(ActionRefusedError, match=says) as refused:
        rig.desk.silence(match, Actor("ada", "api"), reason, starts_ms=None, ends_ms=rig.now_ms + minutes * MINUTE_MS)
    assert refused.value.status == 400 and rig.rows(db.silences) == []
    assert "\n" not in str(refused.value)


def test_what_is_done_is_done_whole_or_not_at_all(rig: Any, make_alert: Any, receivers: Any) -> None:
    rig.take(make_alert(1))
    before = rig.digest()
    with rig.database.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_more BEFORE INSERT ON publications BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(sa.exc.IntegrityError):
        rig.do(rig.one(), Do.ACKNOWLEDGE)
    with pytest.raises(sa.exc.IntegrityError):
        rig.take(make_alert(2))
    assert (rig.digest(), rig.acted, len(rig.rows(db.alerts))) == (before, 0, 1)
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("DROP TRIGGER no_more")
    rig.offsets[0] -= 1
    assert rig.take(make_alert(2)) == {"joined": 1}
