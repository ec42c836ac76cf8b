"""From the topic ``alerts`` to real HTTP servers, through the whole service."""

import contextlib
import itertools
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from driftline.codec import encode
from services.alerting.errors import DatabaseError
from services.broker.ports import free_port
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_UPDATE, SLACK_WEBHOOK, Answer, Received, too_many
from services.kafka import ClusterError, Publisher, admin_client

pytestmark = pytest.mark.timeout(120)


def actions(received: list[Received]) -> list[tuple[str, str]]:
    return [(r.body["event_action"], r.body["dedup_key"]) for r in received]


def header(received: Received) -> str:
    return str(received.body["blocks"][0]["text"]["text"])


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def test_a_trigger_and_its_resolve_reach_pagerduty_and_slack_and_the_audit(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    service = start_service(destinations.pagerduty(), destinations.slack_webhook())
    firing, resolved = make_alert(), make_alert(status="resolved")
    cluster.publish(firing)
    assert len(receiver.wait_for(2)) == 2
    cluster.publish(resolved)
    assert len(receiver.wait_for(4)) == 4
    service.stop()

    key = firing["incident_key"]
    assert actions(receiver.accepted(PAGERDUTY)) == [("trigger", key), ("resolve", key)]
    opened, closed = receiver.accepted(SLACK_WEBHOOK)
    assert header(opened) == "🟠 Data drift in credit, version 1"
    assert header(closed) == "✅ Resolved: Data drift in credit, version 1"
    assert not [r.problems for r in receiver.received() if r.problems]
    told = {(e["action"], e["detail"].get("destination"), e["detail"].get("kind")) for e in cluster.audit()}
    assert told == {
        ("incident.opened", None, None),
        ("incident.resolved", None, None),
        ("notification.sent", "pagerduty", "trigger"),
        ("notification.sent", "pagerduty", "resolve"),
        ("notification.sent", "slack", "trigger"),
        ("notification.sent", "slack", "resolve"),
    }
    assert {e["subject"] for e in cluster.audit()} == {f"incident:{key}"}
    assert f"alert:{firing['id']}" in cluster.audit("incident.opened")[0]["evidence"]


def test_a_storm_of_429_loses_nothing_keeps_the_order_and_respects_retry_after(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    incidents = 12
    for service in (PAGERDUTY, SLACK_WEBHOOK):
        receiver.script(service, *[too_many(0.2)] * 15)
    start_service(destinations.pagerduty(), destinations.slack_webhook())
    for number in range(1, incidents + 1):
        cluster.publish(make_alert(number), make_alert(number, "resolved"))
    assert len(receiver.wait_for(4 * incidents, timeout_seconds=60)) == 4 * incidents

    for service in (PAGERDUTY, SLACK_WEBHOOK):
        requests = receiver.received(service)
        assert len(requests) == 2 * incidents + 15, "every 429 cost one attempt, no more"
        for before, after in itertools.pairwise(requests):
            if before.status == 429:
                assert after.monotonic_seconds - before.monotonic_seconds >= 0.2
    seen: set[str] = set()
    for action, key in actions(receiver.accepted(PAGERDUTY)):
        assert (key in seen) == (action == "resolve")
        seen.add(key)
    triggers = [h for h in map(header, receiver.accepted(SLACK_WEBHOOK)) if "Resolved" not in h]
    assert len(triggers) == incidents


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Answer(500, body="oops"), id="500"),
        pytest.param(Answer(503, {"Retry-After": "1"}), id="503 with Retry-After"),
        pytest.param(too_many(1), id="429"),
        pytest.param(Answer(0), id="connection closed"),
        pytest.param(Answer(200, delay_seconds=1.5), id="time-out"),
        pytest.param(Answer(302, {"Location": "/v2/enqueue"}), id="redirect"),
        pytest.param(Answer(408), id="408"),
    ],
)
def test_trouble_at_the_receiver_delays_a_message_and_does_not_lose_it(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any, trouble: Answer
) -> None:
    for service in (PAGERDUTY, SLACK_WEBHOOK, SLACK_POST):
        receiver.script(service, trouble)
    start_service(
        destinations.pagerduty(timeout_seconds=0.7),
        destinations.slack_webhook(timeout_seconds=0.7),
        destinations.slack_token(timeout_seconds=0.7, name="slack-by-token"),
    )
    cluster.publish(make_alert())
    eventually(lambda: len(cluster.audit("notification.sent")) == 3)
    retried = cluster.audit("notification.retried")
    assert {e["detail"]["destination"] for e in retried} == {"pagerduty", "slack", "slack-by-token"}
    for service in (PAGERDUTY, SLACK_WEBHOOK, SLACK_POST):
        assert len(receiver.received(service)) == 2


def test_only_the_first_retry_of_a_message_is_put_on_record(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    receiver.script(PAGERDUTY, *[too_many(0.01)] * 20)
    start_service(destinations.pagerduty())
    cluster.publish(make_alert())
    eventually(lambda: cluster.audit("notification.sent"))
    assert len(cluster.audit("notification.retried")) == 1
    assert cluster.audit("notification.sent")[0]["detail"]["attempts"] == "21"


def test_a_message_refused_for_good_is_given_up_and_others_go_on(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    receiver.script(PAGERDUTY, Answer(400, body='{"errors": ["routing_key is not valid"]}'))
    receiver.script(SLACK_WEBHOOK, Answer(404, body="no_service"))
    start_service(destinations.pagerduty(), destinations.slack_webhook())
    cluster.publish(make_alert(1))
    eventually(lambda: len(cluster.audit("notification.failed")) == 2)
    cluster.publish(make_alert(2))
    assert len(receiver.wait_for(2)) == 2
    failed = {e["detail"]["destination"]: e["reason"] for e in cluster.audit("notification.failed")}
    assert failed == {
        "pagerduty": 'HTTP 400: {"errors": ["routing_key is not valid"]}',
        "slack": "HTTP 404: no_service",
    }


def test_a_message_is_given_up_at_an_age_and_the_audit_says_so(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    receiver.answer_always(PAGERDUTY, Answer(500))
    start_service(destinations.pagerduty(), give_up_seconds=1.5)
    cluster.publish(make_alert())
    eventually(lambda: cluster.audit("notification.failed"))
    assert cluster.audit("notification.failed")[0]["reason"].startswith("given up after ")


def test_an_alert_that_is_published_twice_is_told_once(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(destinations.pagerduty())
    cluster.publish(make_alert(1), make_alert(1), make_alert(1, "resolved"), make_alert(1), make_alert(1, "resolved"))
    cluster.publish(make_alert(2))
    receiver.wait_for(3)
    eventually(lambda: len(cluster.audit("notification.sent")) == 3)
    assert len(receiver.received()) == 3
    assert len(cluster.audit("incident.opened")) == 2


def test_a_restart_goes_on_where_the_last_run_was_and_reads_no_alert_again(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    receiver.answer_always(PAGERDUTY, Answer(503))
    first = start_service(destinations.pagerduty())
    cluster.publish(*(make_alert(n) for n in range(1, 6)))
    eventually(lambda: len(receiver.received()) >= 2)
    first.stop()
    cluster.publish(make_alert(6), make_alert(1, "resolved"))
    receiver.answer_always(PAGERDUTY, None)
    start_service(destinations.pagerduty())
    got = actions(receiver.wait_for(7, timeout_seconds=60))
    keys = [make_alert(n)["incident_key"] for n in range(1, 7)]
    assert sorted(got) == sorted([*(("trigger", key) for key in keys), ("resolve", keys[0])])


def test_a_destination_told_to_wait_waits_over_a_restart(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    receiver.script(PAGERDUTY, too_many(4))
    first = start_service(destinations.pagerduty())
    cluster.publish(make_alert(1))
    eventually(lambda: len(receiver.received()) == 1)
    first.stop()
    cluster.publish(make_alert(2))
    start_service(destinations.pagerduty())
    assert len(receiver.wait_for(2)) == 2
    refused, *later = receiver.received()
    assert all(r.monotonic_seconds - refused.monotonic_seconds >= 4 for r in later)


def test_a_resolve_whose_trigger_was_never_seen_is_told_as_such(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(destinations.pagerduty(), destinations.slack_token())
    cluster.publish(make_alert(status="resolved"))
    assert len(receiver.wait_for(2)) == 2
    assert actions(receiver.accepted(PAGERDUTY))[0][0] == "resolve"
    assert header(receiver.accepted(SLACK_POST)[0]).startswith("✅ Resolved")
    eventually(lambda: cluster.audit("incident.resolved"))
    assert "never seen" in cluster.audit("incident.resolved")[0]["reason"]
    cluster.publish(make_alert(), make_alert(2))  # the trigger comes late: it is over already
    receiver.wait_for(4)
    assert [key for _, key in actions(receiver.accepted(PAGERDUTY))][1:] == [make_alert(2)["incident_key"]]


def test_without_a_destination_incidents_are_kept_and_the_audit_says_that_nobody_was_told(
    cluster: Any, start_service: Any, make_alert: Any, tmp_path: Path
) -> None:
    start_service()
    cluster.publish(make_alert())
    eventually(lambda: cluster.audit("incident.opened"))
    assert cluster.audit("incident.opened")[0]["reason"] == "Nobody is told: no destination is configured."
    with sqlite3.connect(tmp_path / "alerting.db") as connection:
        assert connection.execute("select status, deployment_id from incidents").fetchall() == [("firing", "credit")]


def test_a_destination_gets_its_severity_and_above(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(destinations.pagerduty(minimum_severity="error"), destinations.slack_webhook())
    for number, severity in enumerate(("info", "warning", "error", "critical"), start=1):
        cluster.publish(make_alert(number, severity=severity), make_alert(number, "resolved", severity=severity))
    assert len(receiver.wait_for(12)) == 12
    severities = [r.body["payload"]["severity"] for r in receiver.accepted(PAGERDUTY) if "payload" in r.body]
    assert sorted(severities) == ["critical", "error"]
    assert len(receiver.accepted(SLACK_WEBHOOK)) == 8


def test_with_a_token_slack_updates_the_message_and_answers_in_its_thread(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(destinations.slack_token())
    cluster.publish(make_alert())
    receiver.wait_for(1)
    cluster.publish(make_alert(status="resolved"))
    posted, updated, answered = receiver.wait_for(3)
    assert (posted.service, updated.service, answered.service) == (SLACK_POST, SLACK_UPDATE, SLACK_POST)
    assert updated.body["ts"] == answered.body["thread_ts"] == "1700000000.000001"
    assert header(updated) == "✅ Resolved: Data drift in credit, version 1"
    assert "temperature" in str(updated.body["blocks"]), "the evidence stays"


def test_slack_posts_anew_when_the_message_to_update_is_gone(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    gone = Answer(200, {"Content-Type": "application/json"}, '{"ok": false, "error": "message_not_found"}')
    receiver.script(SLACK_UPDATE, gone)
    start_service(destinations.slack_token())
    cluster.publish(make_alert(), make_alert(status="resolved"))
    eventually(lambda: len(cluster.audit("notification.sent")) == 2)
    last = receiver.received(SLACK_POST)[-1]
    assert "thread_ts" not in last.body
    assert header(last).startswith("✅ Resolved")


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ("open", [("trigger", 2), ("resolve", 2), ("trigger", 3)]),
        ("all", [("trigger", 1), ("resolve", 1), ("trigger", 2), ("resolve", 2), ("trigger", 3)]),
        ("none", [("trigger", 3)]),
    ],
)
def test_the_very_first_start_tells_of_what_is_still_open(
    cluster: Any,
    receiver: Any,
    destinations: Any,
    start_service: Any,
    make_alert: Any,
    history: str,
    told: list[tuple[str, int]],
) -> None:
    cluster.publish(make_alert(1), make_alert(1, "resolved"), make_alert(2))
    start_service(destinations.pagerduty(), history=history)
    cluster.publish(make_alert(2, "resolved"), make_alert(3))
    got = actions(receiver.wait_for(len(told)))
    assert sorted(got) == sorted((action, make_alert(number)["incident_key"]) for action, number in told)
    eventually(lambda: len(cluster.audit("incident.opened")) == 3)


def test_alerts_of_transactions_are_read_and_aborted_ones_are_not(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    """The streams publish in transactions: offsets at the end of the log that hold no message are passed over."""
    topic = cluster.settings.topics.alerts

    def commit(*alerts: Any) -> None:
        with Publisher(cluster.settings, transactional_id=cluster.prefix) as publisher:
            for alert in alerts:
                publisher.send(topic, b"key", encode("Alert", alert))

    def abort(alert: Any) -> None:
        publisher = Publisher(cluster.settings, transactional_id=cluster.prefix)
        with contextlib.suppress(ZeroDivisionError), publisher:
            publisher.send(topic, b"key", encode("Alert", alert))
            publisher.flush()
            raise ZeroDivisionError

    commit(make_alert(1))
    abort(make_alert(2))
    start_service(destinations.pagerduty(), history="open")
    assert actions(receiver.wait_for(1)) == [("trigger", make_alert(1)["incident_key"])]
    abort(make_alert(3))
    commit(make_alert(1, "resolved"), make_alert(4))
    keys = [make_alert(number)["incident_key"] for number in (1, 4)]
    assert sorted(actions(receiver.wait_for(3))[1:]) == [("resolve", keys[0]), ("trigger", keys[1])]


def test_what_is_no_alert_goes_to_the_dead_letters_and_the_rest_goes_on(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(destinations.pagerduty())
    letter = {"id": "1", "reason": "x", "error": "", "source_topic": "t", "source_partition": 0, "source_offset": 0}
    letter |= {"source_timestamp_ms": 0, "value_bytes": 0, "value_sha256": ""}
    wrong = [b"", b"\xc3\x01nonsense", b"{}", encode("DeadLetter", letter), encode("Alert", make_alert())[:-3]]
    cluster.publish_raw(*wrong, encode("Alert", make_alert(incident_key="")))
    cluster.publish(make_alert())
    assert len(receiver.wait_for(1)) == 1
    eventually(lambda: len(cluster.records(cluster.settings.topics.dead_letters)) == 6)
    letters = cluster.records(cluster.settings.topics.dead_letters)
    assert [letter["value"] or b"" for letter in letters][:5] == wrong
    assert [letter["source_offset"] for letter in letters] == [0, 1, 2, 3, 4, 5]
    assert letters[0]["headers"] == [{"name": "origin", "value": b"test"}]
    assert [e["detail"]["reason"] for e in cluster.audit("alert.refused")] == [letter["reason"] for letter in letters]


def test_alerts_deleted_before_they_were_read_are_put_on_record(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(destinations.pagerduty()).stop()
    cluster.publish(make_alert(1), make_alert(2), make_alert(3))
    topic = cluster.settings.topics.alerts
    admin = admin_client(cluster.settings)
    for future in admin.delete_records([TopicPartition(topic, 0, 2)]).values():
        future.result(10)
    start_service(destinations.pagerduty())
    assert actions(receiver.wait_for(1)) == [("trigger", make_alert(3)["incident_key"])]
    eventually(lambda: cluster.audit("alerts.skipped"))
    assert cluster.audit("alerts.skipped")[0]["detail"] == {"stored_offset": "0", "next_offset": "2"}


def test_health_and_metrics_are_served_on_the_loopback_interface(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    port = free_port("127.0.0.1")
    start_service(destinations.pagerduty(), port=port)
    cluster.publish(make_alert())
    receiver.wait_for(1)
    eventually(lambda: cluster.audit("notification.sent"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert 'driftline_alerting_alerts_total{result="opened"} 1.0' in text
    assert 'driftline_alerting_attempts_total{destination="pagerduty",kind="trigger",result="sent"} 1.0' in text
    assert "driftline_alerting_incidents_firing 1.0" in text
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")


def test_a_second_service_on_the_same_database_is_refused(start_service: Any) -> None:
    start_service()
    second = None
    with pytest.raises(AssertionError, match="another alerting service runs"):
        second = start_service()
    assert second is None


def test_the_service_ends_with_an_error_when_kafka_stays_away(tmp_path: Path, destinations: Any) -> None:
    import asyncio

    from driftline.settings import KafkaSettings
    from services.alerting.service import AlertingService
    from services.alerting.settings import AlertingSettings

    settings = AlertingSettings(
        (destinations.pagerduty(),), f"sqlite:///{tmp_path / 'a.db'}", kafka_timeout_seconds=1.0
    )
    service = AlertingService(KafkaSettings(f"127.0.0.1:{free_port('127.0.0.1')}"), settings)
    with pytest.raises(ClusterError, match="so the service ends"):
        asyncio.run(service.run())


def test_a_database_that_is_none_is_refused(tmp_path: Path, start_service: Any) -> None:
    (tmp_path / "alerting.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(AssertionError, match="cannot be used as the alerting database"):
        start_service()


def test_only_databases_that_outlive_the_process_are_taken() -> None:
    from services.alerting.database import open_database

    for url in ("sqlite://", "sqlite:///:memory:", "postgresql://host/db", "nonsense"):
        with pytest.raises(DatabaseError, match="expected sqlite:///FILE"):
            open_database(url)
