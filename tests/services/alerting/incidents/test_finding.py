"""Incidents as others see them: found by what is asked, page by page, without one left out or shown twice."""

from typing import Any

import pytest

from services.alerting.incidents.actions import Do
from services.alerting.incidents.loading import RECORDS, SearchError, find_incidents, load_incidents


def pages(rig: Any, limit: int, between: Any = None, **query: Any) -> list[str]:
    """Ids of all pages; something happens between each two."""
    found: list[str] = []
    before = None
    while True:
        with rig.database.transaction() as connection:
            some, before = find_incidents(connection, rig.policy, rig.now_ms, limit=limit, before=before, **query)
        found += [incident.id for incident in some]
        if before is None:
            return found
        assert len(some) == limit
        if between is not None:
            between()


def test_pages_hold_every_incident_once_whatever_happens_between_them(any_rig: Any, make_apart: Any) -> None:
    for number in range(1, 12):
        any_rig.now_ms += number % 3  # several within one millisecond
        any_rig.take(make_apart(number))
    everything = pages(any_rig, 500)
    assert len(everything) == len(set(everything)) == 11
    more = iter(range(100, 200))

    def happens() -> None:
        any_rig.now_ms += 10
        any_rig.take(make_apart(next(more)))
        for incident in any_rig.incidents()[::2]:
            any_rig.do(incident, Do.NOTE, "meanwhile")

    assert pages(any_rig, 3, happens) == everything


def test_it_is_found_by_what_it_is(any_rig: Any, make_apart: Any) -> None:
    any_rig.take(
        make_apart(1, severity="critical", owner="a-team"),
        make_apart(2, owner="b%team"),
        make_apart(3),
        make_apart(3, "resolved"),
    )
    first, second, third = (any_rig.one(deployment=f"model-{n}").id for n in (1, 2, 3))
    any_rig.do(second, Do.ACKNOWLEDGE)

    def found(**query: Any) -> set[str]:
        return {incident.id for incident in any_rig.incidents(**query)}

    assert found(status="open") == {first}
    assert found(status="acknowledged") == {second}
    assert found(status="resolved") == {third}
    assert found(status="unresolved") == {first, second}
    assert found(severity="critical") == {first}
    assert found(owner="b%team") == {second}
    assert found(text="MODEL-3") == {third}
    assert found(text="%") == set() and found(text="_odel") == set()
    assert found(text=first[:6]) == {first}
    assert found(text="drift") == {first, second, third}
    any_rig.do(first, Do.SILENCE, for_ms=1000)
    assert (found(status="silenced"), found(status="open")) == ({first}, set())
    assert found(deployment="model-1", status="resolved") == set()


@pytest.mark.parametrize(
    "query", [{"status": "burning"}, {"severity": "bad"}, {"before": "%%%"}, {"before": "YWJj"}, {"before": "é"}]
)
def test_what_makes_no_sense_is_refused(rig: Any, query: dict[str, Any]) -> None:
    with pytest.raises(SearchError, match="expected"):
        rig.incidents(**query)


def test_only_the_strongest_signals_come_with_their_records(rig: Any, make_alert: Any) -> None:
    rig.take(*(make_alert(n, log_evidence_nats=20.0 + n) for n in range(1, RECORDS + 6)))
    incident = rig.one()
    assert len(incident.signals) == RECORDS + 5
    with_records = [signal.episode for signal in incident.signals if signal.firing is not None]
    assert with_records == list(range(RECORDS + 5, 5, -1))


def test_incidents_come_in_the_order_asked_for_with_their_latest_entries(rig: Any, make_apart: Any) -> None:
    rig.take(make_apart(1), make_apart(2))
    ids = [incident.id for incident in rig.incidents()]
    for number in range(5):
        rig.now_ms += 1
        rig.do(ids[0], Do.NOTE, f"note {number}")
    with rig.database.transaction() as connection:
        asked = [ids[1], "none", ids[0], ids[1]]
        loaded = load_incidents(connection, rig.policy, asked, rig.now_ms, entries=2)
        assert load_incidents(connection, rig.policy, [], rig.now_ms) == {}
    assert list(loaded) == [ids[1], ids[0]]
    assert [entry.reason for entry in loaded[ids[0]].entries] == ["note 3", "note 4"]


def test_driftlines_own_alarms_are_incidents_of_their_own_and_come_back_to_the_same(any_rig: Any) -> None:
    assert any_rig.raise_signal("streams-lag")
    assert not any_rig.raise_signal("streams-lag")
    assert any_rig.raise_signal("topic-silent:predictions", headline="No predictions")
    lag = next(i for i in any_rig.incidents() if i.title == "Slow")
    assert (lag.signals[0].origin, lag.signals[0].labels["monitor"]) == ("watch", "system:streams-lag")
    assert len(any_rig.incidents()) == 2
    assert any_rig.raise_signal("streams-lag", severity="critical")
    assert any_rig.one(severity="critical").id == lag.id
    any_rig.now_ms += 60_000
    assert any_rig.end_signal("streams-lag") and not any_rig.end_signal("streams-lag")
    assert not any_rig.end_signal("never-raised")
    assert any_rig.one(status="resolved").id == lag.id
    any_rig.now_ms += 60_000
    any_rig.raise_signal("streams-lag")
    again = next(i for i in any_rig.incidents() if i.id == lag.id)
    assert (again.status, again.episode, len(again.signals)) == ("open", 2, 2)
    any_rig.end_signal("streams-lag")
    any_rig.now_ms += 3_600_000
    any_rig.raise_signal("streams-lag")
    assert len(any_rig.incidents()) == 3
    assert [e["action"] for e in any_rig.audit() if e["action"].startswith("system.")] == [
        "system.raised",
        "system.raised",
        "system.ended",
        "system.raised",
        "system.ended",
        "system.raised",
    ]
