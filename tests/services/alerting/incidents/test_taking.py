"""What alerts do to signals and incidents: the table of decisions, any order, any repetition, any cut into batches."""

import random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.codec import Record
from services.alerting.database import tables as db
from services.alerting.incidents.actions import Do
from services.alerting.incidents.checking import check_alert
from services.alerting.incidents.views import most_urgent
from services.alerting.policy.model import Correlation

MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000
T0 = 1_371_045_600_000_000

fresh = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def at(alert: Record, change_us: int, detected_us: int | None = None) -> Record:
    """An alert at another time."""
    return {**alert, "change_time_us": change_us, "detection_time_us": detected_us or change_us}


def test_related_alarms_of_a_deployment_are_one_incident_with_its_causes_ranked(any_rig: Any, make_alert: Any) -> None:
    monitors = ["fairness", "concept_drift", "data_drift", "detector:adwin:x", "data_quality", "prediction_drift"]
    counts = any_rig.take(*(make_alert(n, monitor=monitor) for n, monitor in enumerate(monitors, 1)))
    assert counts == {"opened": 1, "joined": 5}
    incident = any_rig.one()
    assert [signal.labels["monitor"] for signal in incident.signals] == [
        "data_quality",
        "data_drift",
        "prediction_drift",
        "concept_drift",
        "fairness",
        "detector:adwin:x",
    ]
    assert incident.title == "Data quality change and 5 more alarms in credit, version 1"
    assert (incident.status, incident.episode, incident.revision) == ("open", 1, 6)
    assert [entry.action for entry in incident.entries] == ["incident.opened"] + ["incident.joined"] * 5
    assert [event["action"] for event in any_rig.audit()] == [entry.action for entry in incident.entries]


def test_deployments_with_one_upstream_that_changed_in_the_same_minute_are_one_incident(
    any_rig: Any, make_alert: Any, make_numeric_cause: Any
) -> None:
    any_rig.take(make_alert(1, deployment_id="a"), make_alert(1, deployment_id="b"))
    any_rig.take(make_alert(1, deployment_id="c"))
    any_rig.take(make_alert(1, deployment_id="d", causes=[make_numeric_cause("other")]))
    late = at(make_alert(1, deployment_id="e"), T0 + 10 * MINUTE_US, T0 + 10 * HOUR_US)
    any_rig.take(late)
    assert sorted("".join(sorted(i.deployments)) for i in any_rig.incidents()) == ["abc", "d", "e"]
    shared = any_rig.one(deployment="b")
    assert shared.upstream == "feature:temperature"
    assert any_rig.one(deployment="c").id == shared.id


def test_no_incident_has_two_deployments_where_the_routing_file_says_so(make_rig: Any, make_alert: Any) -> None:
    rig = make_rig(correlation=Correlation(across="none"))
    rig.take(make_alert(1, deployment_id="a"), make_alert(1, deployment_id="b"))
    assert len(rig.incidents()) == 2


def test_what_changed_long_after_is_another_incident(rig: Any, make_alert: Any) -> None:
    first = make_alert(1)
    rig.take(first, at(make_alert(2), first["detection_time_us"] + HOUR_US))
    rig.take(at(make_alert(3), first["detection_time_us"] + 2 * HOUR_US + 1))
    assert sorted(len(i.signals) for i in rig.incidents()) == [1, 2]
    rig.take(at(make_alert(4), first["detection_time_us"] + 3 * HOUR_US))
    assert sorted(len(i.signals) for i in rig.incidents()) == [2, 2]


def test_it_is_over_with_its_last_alarm_and_opens_again_soon_after(any_rig: Any, make_alert: Any) -> None:
    any_rig.take(make_alert(1), make_alert(2))
    end_us = T0 + 20 * HOUR_US
    assert any_rig.take(at(make_alert(1, "resolved"), T0, end_us)) == {"changed": 1}
    assert any_rig.one().status == "open"
    any_rig.now_ms += 1000
    assert any_rig.take(at(make_alert(2, "resolved"), T0, end_us)) == {"resolved": 1}
    over = any_rig.one()
    assert (over.status, over.resolved_ms, over.firing) == ("resolved", any_rig.now_ms, ())
    any_rig.now_ms += 1000
    soon = at(make_alert(3), end_us + 10 * MINUTE_US)
    assert any_rig.take(soon) == {"reopened": 1}
    again = any_rig.one()
    assert (again.id, again.status, again.episode, again.resolved_ms) == (over.id, "open", 2, None)
    any_rig.take(at(make_alert(3, "resolved"), T0, end_us + 11 * MINUTE_US))
    late = at(make_alert(4), end_us + 11 * MINUTE_US + 30 * MINUTE_US + 1)
    assert any_rig.take(late) == {"opened": 1}


def test_one_that_comes_and_goes_is_called_flapping_and_calms_down(make_rig: Any, make_alert: Any) -> None:
    rig = make_rig()
    for n in range(1, 6):
        moment = T0 + n * 10 * MINUTE_US
        rig.now_ms += 600_000
        rig.take(at(make_alert(n), moment), at(make_alert(n, "resolved"), moment, moment + MINUTE_US))
    rig.take(at(make_alert(9), T0 + HOUR_US))
    incident = rig.one()
    assert (incident.episode, incident.flapping) == (6, True)
    calm_ms = rig.tick()
    assert calm_ms is not None and rig.now_ms < calm_ms <= rig.now_ms + 86_400_000
    rig.tick(calm_ms - 1)
    assert rig.one().flapping
    rig.tick(calm_ms)
    assert not rig.one().flapping


def test_worse_than_what_was_acknowledged_takes_the_acknowledgement_away(any_rig: Any, make_alert: Any) -> None:
    any_rig.take(make_alert(1, severity="warning"))
    any_rig.do(any_rig.one(), Do.ACKNOWLEDGE)
    any_rig.take(make_alert(2, severity="warning"), make_alert(3, severity="info"))
    assert any_rig.one().status == "acknowledged"
    any_rig.take(make_alert(4, severity="critical"))
    incident = any_rig.one()
    assert (incident.status, incident.severity, incident.acknowledged_by) == ("open", "critical", "")
    assert incident.entries[-1].action == "incident.unacknowledged"
    assert "acknowledged by ada as warning and is now critical" in incident.entries[-1].reason


def test_the_severity_is_that_of_what_fires(rig: Any, make_alert: Any) -> None:
    rig.take(make_alert(1, severity="critical"), make_alert(2, severity="info"))
    assert rig.one().severity == "critical"
    rig.take(make_alert(1, "resolved", severity="critical"))
    assert rig.one().severity == "info"
    rig.take(make_alert(2, "resolved", severity="info"))
    assert rig.one().severity == "info"


def test_an_alarm_that_is_raised_again_with_another_severity_changes_its_incident(rig: Any, make_alert: Any) -> None:
    rig.take(make_alert(1, severity="warning"))
    assert rig.take({**make_alert(1, severity="critical"), "id": "worse"}) == {"changed": 1}
    assert (rig.one().severity, rig.one().revision) == ("critical", 2)
    assert rig.take({**make_alert(1, severity="critical"), "id": "same"}) == {"changed": 1}
    assert rig.one().revision == 2


def test_an_end_whose_beginning_was_never_seen_opens_nothing_and_tells_nobody(
    make_rig: Any, make_alert: Any, receivers: Any
) -> None:
    rig = make_rig(receivers.slack_token())
    assert rig.take(make_alert(1, "resolved")) == {"resolved_unseen": 1}
    incident = rig.one()
    assert (incident.status, len(incident.signals), rig.concerned()) == ("resolved", 1, set())
    assert rig.take(make_alert(1)) == {"stale": 1}
    (signal,) = rig.one().signals
    assert signal.status == "resolved" and signal.firing is not None and signal.resolved is not None
    assert rig.take(make_alert(2)) == {"opened": 1}
    assert rig.concerned() == {i.id for i in rig.incidents(status="open")}


def test_what_a_person_resolved_stays_so_until_something_new_fires(any_rig: Any, make_alert: Any) -> None:
    any_rig.take(make_alert(1, severity="error"), make_alert(2, severity="error"))
    any_rig.do(any_rig.one(), Do.RESOLVE)
    resolved = any_rig.one()
    assert resolved.status == "resolved" and len(resolved.firing) == 2
    assert any_rig.take({**make_alert(1), "id": "again"}) == {"changed": 1}
    assert any_rig.take(make_alert(2, "resolved")) == {"changed": 1}
    assert any_rig.one().status == "resolved" and any_rig.one().revision == resolved.revision
    assert any_rig.take(make_alert(3, severity="info")) == {"reopened": 1}
    again = any_rig.one()
    assert (again.status, again.episode, again.severity, len(again.firing)) == ("open", 2, "error", 2)
    any_rig.do(again, Do.RESOLVE)
    worse = {**make_alert(1, severity="critical"), "id": "worse"}
    assert any_rig.take(worse) == {"reopened": 1}
    assert any_rig.one().severity == "critical"


def test_repeats_change_nothing_whatever_batch_they_are_in(rig: Any, make_alert: Any) -> None:
    alerts = [make_alert(1), make_alert(2), make_alert(1, "resolved")]
    rig.take(*alerts)
    before = rig.digest()
    assert rig.take(*alerts, *alerts) == {"duplicate": 6}
    assert rig.digest() == before


names = st.sampled_from(["a", "b", "c"])
records = st.lists(
    st.tuples(
        names,
        st.integers(1, 4),
        st.sampled_from(["firing", "firing", "resolved"]),
        st.integers(0, 8).map(lambda quarter: T0 + quarter * HOUR_US // 4),
        st.sampled_from(["critical", "error", "warning", "info"]),
        st.sampled_from(["x", "y"]),
    ),
    max_size=16,
)


def built(make_alert: Any, make_numeric_cause: Any, drawn: list[Any]) -> list[Record]:
    """Alerts of what was drawn; one of each (deployment, number, status)."""
    alerts: dict[str, Record] = {}
    for deployment, number, status, moment, severity, feature in drawn:
        alert = make_alert(
            number, status, deployment_id=deployment, severity=severity, causes=[make_numeric_cause(feature)]
        )
        alerts.setdefault(alert["id"], at(alert, moment, moment + MINUTE_US))
    return list(alerts.values())


@fresh
@given(drawn=records, seed=st.integers(0, 2**32))
def test_the_state_depends_on_the_order_alone_not_on_repeats_or_batches(
    make_rig: Any, make_alert: Any, make_numeric_cause: Any, drawn: list[Any], seed: int
) -> None:
    alerts = built(make_alert, make_numeric_cause, drawn)
    plain, odd, chance = make_rig(), make_rig(), random.Random(seed)
    for alert in alerts:
        plain.take(alert)
    done: list[Record] = []
    while alerts:
        size = chance.randint(1, len(alerts))
        batch, alerts = alerts[:size], alerts[size:]
        done += batch
        odd.take(*batch, *chance.choices(done, k=chance.randint(0, 3)))
    assert odd.digest() == plain.digest()


@fresh
@given(drawn=records)
def test_what_is_kept_of_an_incident_is_what_its_signals_say(
    make_rig: Any, make_alert: Any, make_numeric_cause: Any, drawn: list[Any]
) -> None:
    rig, alerts = make_rig(), built(make_alert, make_numeric_cause, drawn)
    rig.take(*alerts)
    ended = {(a["incident_key"], a["episode"]) for a in alerts if a["status"] == "resolved"}
    incidents = rig.incidents()
    signals = [(signal, incident) for incident in incidents for signal in incident.signals]
    assert {(s.incident_key, s.episode) for s, _ in signals} == {(a["incident_key"], a["episode"]) for a in alerts}
    for signal, _ in signals:
        assert (signal.status == "resolved") == ((signal.incident_key, signal.episode) in ended)
    for incident in incidents:
        assert (incident.status == "resolved") == (not incident.firing)
        if incident.firing:
            assert incident.severity == most_urgent([signal.severity for signal in incident.firing])
        assert incident.started_us == min(signal.change_time_us for signal in incident.signals)
        assert bool(incident.upstream) == (len(incident.deployments) > 1)


@fresh
@given(drawn=records, seed=st.integers(0, 2**32))
def test_deployments_that_share_nothing_are_told_apart_in_any_interleaving_of_partitions(
    make_rig: Any, make_alert: Any, make_numeric_cause: Any, partition_alerts: Any, drawn: list[Any], seed: int
) -> None:
    alerts = built(make_alert, make_numeric_cause, drawn)
    chance, queues = random.Random(seed), [list(q) for q in partition_alerts(alerts).values()]
    one, other = make_rig(correlation=Correlation(across="none")), make_rig(correlation=Correlation(across="none"))
    one.take(*alerts)
    while queues := [queue for queue in queues if queue]:
        other.take(chance.choice(queues).pop(0))
    assert other.digest() == one.digest()


@settings(fresh, max_examples=20)
@given(order=st.permutations([(d, n) for d in "abc" for n in (1, 2)]))
def test_what_has_one_cause_is_one_incident_whoever_comes_first(
    make_rig: Any, make_alert: Any, order: list[tuple[str, int]]
) -> None:
    rig = make_rig()
    rig.take(*(make_alert(number, deployment_id=deployment) for deployment, number in order))
    incident = rig.one()
    assert {(s.labels["deployment"], s.episode) for s in incident.signals} == set(order)


@pytest.mark.parametrize(
    "name", ["x" * 1024, "nul\0nul", "\u202eabc", "<!channel>", "'; DROP TABLE incidents; --", "é" * 512]
)
def test_odd_names_are_kept_apart_and_found_again(any_rig: Any, make_alert: Any, name: str) -> None:
    first = check_alert(make_alert(1, deployment_id=name, incident_key=name, owner=name, monitor=name))
    second = check_alert(make_alert(1, "resolved", deployment_id=name, incident_key=name))
    any_rig.take(first, make_alert(1, deployment_id="z" * 100, causes=[]))
    assert any_rig.take(second) == {"resolved": 1}
    assert len(any_rig.incidents()) == 2
    assert any_rig.one(status="resolved").deployment_id == name.replace("\0", "�")


def test_a_very_long_feature_is_an_upstream_all_the_same(
    any_rig: Any, make_alert: Any, make_numeric_cause: Any
) -> None:
    name = "f" * 10_000
    same = {"causes": [make_numeric_cause(name)]}
    other = {"causes": [make_numeric_cause(name + "x")]}
    any_rig.take(make_alert(1, deployment_id="a", **same), make_alert(1, deployment_id="b", **same))
    any_rig.take(make_alert(1, deployment_id="c", **other))
    assert sorted(len(i.signals) for i in any_rig.incidents()) == [1, 2]


def test_times_that_no_calendar_has_do_not_stop_anything(any_rig: Any, make_alert: Any) -> None:
    first, last = -(2**63), 2**63 - 1
    any_rig.take(at(make_alert(1), first, last), at(make_alert(2), last, first))
    any_rig.take(at(make_alert(3), last, last), at(make_alert(1, "resolved"), first, first))
    assert sum(len(incident.signals) for incident in any_rig.incidents()) == 3


def test_figures_that_are_none_do_not_stop_anything(any_rig: Any, make_alert: Any) -> None:
    any_rig.take(make_alert(1, log_evidence_nats=float("inf"), threshold_nats=float("inf")))
    any_rig.take(make_alert(2, log_evidence_nats=float("nan")))
    assert len(any_rig.one().signals) == 2


def test_ten_thousand_alarms_of_a_deployment_are_taken_without_reading_them_all_again(
    rig: Any, make_alert: Any
) -> None:
    statements: list[str] = []
    listener = lambda conn, cursor, statement, *rest: statements.append(statement)  # noqa: E731
    rig.take(*(make_alert(n) for n in range(1, 301)))
    sa.event.listen(rig.database._engine, "before_cursor_execute", listener)
    rig.take(*(make_alert(n) for n in range(301, 601)))
    few = len(statements)
    statements.clear()
    rig.take(*(make_alert(n) for n in range(601, 901)))
    assert len(statements) == few < 60
    assert len(rig.rows(db.signals)) == 900
