"""From the topic ``alerts`` to real HTTP servers and back, through the whole service."""

import asyncio
import contextlib
import itertools
import json
import sqlite3
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from driftline.codec import encode
from driftline.settings import KafkaSettings
from services.alerting.api.connection import read_connection
from services.alerting.errors import DatabaseError
from services.alerting.policy.model import Watch
from services.alerting.service import AlertingService
from services.alerting.settings import AlertingSettings
from services.broker.ports import free_port
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_UPDATE, SLACK_WEBHOOK, Answer, Received, too_many
from services.kafka import ClusterError, Publisher, admin_client

pytestmark = pytest.mark.timeout(180)


def actions(received: list[Received]) -> list[str]:
    return [r.body["event_action"] for r in received]


def keys(received: list[Received]) -> list[tuple[str, str]]:
    return [(r.body["event_action"], r.body["dedup_key"]) for r in received]


def kinds_by_incident(cluster: Any) -> list[list[str]]:
    """What was sent of each incident, by the audit."""
    sent: dict[str, list[str]] = {}
    for event in cluster.audit("notification.sent"):
        sent.setdefault(event["subject"], []).append(event["detail"]["kind"])
    return [sorted(kinds) for kinds in sent.values()]


def about(received: Received) -> str:
    """The deployment that a request is about, by the names of make_apart."""
    text = json.dumps(received.body)
    found = [n for n in range(100, 0, -1) if f"model-{n}" in text]
    return f"model-{found[0]}" if found else ""


def test_a_trigger_and_its_end_reach_pagerduty_and_slack_and_the_audit(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_alert: Any, eventually: Any
) -> None:
    service = start_service(receivers.pagerduty(), receivers.slack_webhook())
    firing, resolved = make_alert(), make_alert(status="resolved")
    cluster.publish(firing)
    assert len(receiver.wait_for(2)) == 2
    cluster.publish(resolved)
    assert len(receiver.wait_for(4)) == 4
    eventually(lambda: len(cluster.audit("notification.sent")) == 4)
    service.stop()

    (first, key), (last, same) = keys(receiver.accepted(PAGERDUTY))
    assert (first, last) == ("trigger", "resolve")
    assert key == same
    assert not [r.problems for r in receiver.received() if r.problems]
    told = {event["action"] for event in cluster.audit()}
    assert {"incident.opened", "incident.resolved", "notification.decided", "notification.sent"} <= told
    (opened,) = cluster.audit("incident.opened")
    assert f"alert:{firing['id']}" in opened["evidence"]
    assert {e["subject"] for e in cluster.audit("notification.sent")} == {opened["subject"]}


def test_what_has_one_cause_is_one_message(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_alert: Any, eventually: Any
) -> None:
    start_service(receivers.pagerduty())
    monitors = ("data_drift", "prediction_drift", "concept_drift", "humility")
    cluster.publish(
        *(make_alert(n, monitor=m, incident_key=f"credit/1/{m}/0/{n}") for n, m in enumerate(monitors)),
    )
    eventually(lambda: cluster.audit("notification.sent"))
    eventually(lambda: len(cluster.audit("incident.joined")) == 3)
    assert len(cluster.audit("incident.opened")) == 1
    assert len({key for _, key in keys(receiver.accepted(PAGERDUTY))}) == 1


def test_a_storm_of_429_loses_nothing_keeps_the_order_and_respects_retry_after(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any
) -> None:
    incidents = 12
    for service in (PAGERDUTY, SLACK_WEBHOOK):
        receiver.script(service, *[too_many(0.2)] * 15)
    start_service(receivers.pagerduty(), receivers.slack_webhook())
    for number in range(1, incidents + 1):
        cluster.publish(make_apart(number))
    receiver.wait_for(2, timeout_seconds=90)
    for number in range(1, incidents + 1):
        cluster.publish(make_apart(number, "resolved"))
    ended = {f"model-{number}" for number in range(1, incidents + 1)}
    receiver.wait_for(4 * incidents, timeout_seconds=90)

    for service in (PAGERDUTY, SLACK_WEBHOOK):
        for before, after in itertools.pairwise(receiver.received(service)):
            if before.status == 429:
                assert after.monotonic_seconds - before.monotonic_seconds >= 0.2
    seen: set[str] = set()
    for action, key in keys(receiver.accepted(PAGERDUTY)):
        assert (key in seen) == (action == "resolve")
        seen.add(key)
    assert len(seen) == incidents
    assert {about(r) for r in receiver.accepted(SLACK_WEBHOOK)} == ended


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
    cluster: Any,
    receiver: Any,
    receivers: Any,
    start_service: Any,
    make_alert: Any,
    eventually: Any,
    trouble: Answer,
) -> None:
    for service in (PAGERDUTY, SLACK_WEBHOOK, SLACK_POST):
        receiver.script(service, trouble)
    start_service(
        receivers.pagerduty(timeout_seconds=0.7),
        receivers.slack_webhook(timeout_seconds=0.7),
        receivers.slack_token(timeout_seconds=0.7, name="slack-by-token"),
    )
    cluster.publish(make_alert())
    eventually(lambda: len(cluster.audit("notification.sent")) == 3)
    retried = cluster.audit("notification.retried")
    assert {e["detail"]["receiver"] for e in retried} == {"pagerduty", "slack", "slack-by-token"}
    for service in (PAGERDUTY, SLACK_WEBHOOK):
        assert len(receiver.received(service)) == 2
    # By token it can be looked whether what went out before the time-out is there.
    posted = receiver.received(SLACK_POST)
    assert len(posted) == (1 if trouble.status == 200 else 2)


def test_a_message_refused_for_good_is_given_up_and_others_go_on(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any, eventually: Any
) -> None:
    receiver.script(PAGERDUTY, Answer(400, body='{"errors": ["routing_key is not valid"]}'))
    receiver.script(SLACK_WEBHOOK, Answer(404, body="no_service"))
    start_service(receivers.pagerduty(), receivers.slack_webhook())
    cluster.publish(make_apart(1))
    eventually(lambda: len(cluster.audit("notification.failed")) == 2)
    cluster.publish(make_apart(2))
    assert len(receiver.wait_for(2)) == 2
    failed = {e["detail"]["receiver"]: e["reason"] for e in cluster.audit("notification.failed")}
    assert "routing_key is not valid" in failed["pagerduty"]
    assert "HTTP 404: no_service" in failed["slack"]


def test_what_a_receiver_refuses_its_fallback_is_told(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_route: Any, make_alert: Any
) -> None:
    receiver.script(PAGERDUTY, Answer(400, body="no"))
    both = receivers.pagerduty(fallback="slack"), receivers.slack_webhook()
    start_service(policy=make_policy(*both, route=make_route("pagerduty")))
    cluster.publish(make_alert())
    assert len(receiver.wait_for(1, SLACK_WEBHOOK)) == 1


def test_an_alert_that_is_published_twice_is_told_once(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any, eventually: Any
) -> None:
    start_service(receivers.pagerduty())
    cluster.publish(make_apart(1), make_apart(1))
    receiver.wait_for(1)
    cluster.publish(make_apart(1, "resolved"), make_apart(1), make_apart(1, "resolved"))
    cluster.publish(make_apart(2))
    receiver.wait_for(3)
    eventually(lambda: len(cluster.audit("notification.sent")) == 3)
    assert len(receiver.received()) == 3
    assert len(cluster.audit("incident.opened")) == 2


def test_a_restart_goes_on_where_the_last_run_was_and_reads_no_alert_again(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any, eventually: Any
) -> None:
    receiver.answer_always(PAGERDUTY, Answer(503))
    first = start_service(receivers.pagerduty())
    cluster.publish(*(make_apart(n) for n in range(1, 6)))
    eventually(lambda: len(receiver.received()) >= 2)
    eventually(lambda: len(cluster.audit("notification.decided")) == 5)
    first.stop()
    cluster.publish(make_apart(6), make_apart(1, "resolved"))
    receiver.answer_always(PAGERDUTY, None)
    start_service(receivers.pagerduty())
    got = keys(receiver.wait_for(7, timeout_seconds=90))
    assert len({key for _, key in got}) == 6
    eventually(lambda: len(cluster.audit("notification.sent")) == 7)
    assert sorted(kinds_by_incident(cluster)) == [["resolve", "trigger"], *[["trigger"]] * 5]
    assert len(cluster.audit("incident.opened")) == 6


def test_a_receiver_told_to_wait_waits_over_a_restart(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any, eventually: Any
) -> None:
    receiver.script(PAGERDUTY, too_many(6))
    first = start_service(receivers.pagerduty())
    cluster.publish(make_apart(1))
    eventually(lambda: len(receiver.received()) == 1)
    first.stop()
    cluster.publish(make_apart(2))
    start_service(receivers.pagerduty())
    assert len(receiver.wait_for(2)) == 2
    refused, *later = receiver.received()
    assert all(r.monotonic_seconds - refused.monotonic_seconds >= 6 for r in later)


def test_a_resolve_whose_trigger_nobody_saw_is_kept_and_tells_nobody(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any, eventually: Any
) -> None:
    start_service(receivers.pagerduty())
    cluster.publish(make_apart(1, "resolved"))
    eventually(lambda: cluster.audit("incident.resolved"))
    cluster.publish(make_apart(1), make_apart(2))  # the trigger comes late: it is over already
    receiver.wait_for(1)
    eventually(lambda: cluster.audit("notification.sent"))
    assert [about(r) for r in receiver.accepted(PAGERDUTY)] == ["model-2"]


def test_without_a_receiver_incidents_are_kept(
    cluster: Any, start_service: Any, make_alert: Any, tmp_path: Path, eventually: Any
) -> None:
    start_service()
    cluster.publish(make_alert())
    eventually(lambda: cluster.audit("incident.opened"))
    with sqlite3.connect(tmp_path / "alerting.db") as connection:
        assert connection.execute("select status, deployment_id from incidents").fetchall() == [("open", "credit")]


def test_a_receiver_gets_its_severity_and_above(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any
) -> None:
    start_service(receivers.pagerduty(minimum_severity="error"), receivers.slack_webhook())
    for number, severity in enumerate(("info", "warning", "error", "critical"), start=1):
        cluster.publish(make_apart(number, severity=severity))
    assert len(receiver.wait_for(6)) == 6
    severities = [r.body["payload"]["severity"] for r in receiver.accepted(PAGERDUTY) if "payload" in r.body]
    assert sorted(severities) == ["critical", "error"]
    assert len(receiver.accepted(SLACK_WEBHOOK)) == 4


def test_with_a_token_slack_updates_the_message_and_answers_in_its_thread(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_alert: Any
) -> None:
    start_service(receivers.slack_token())
    cluster.publish(make_alert())
    receiver.wait_for(1, SLACK_POST)
    cluster.publish(make_alert(status="resolved"))
    receiver.wait_for(1, SLACK_UPDATE)
    posted, answered = receiver.wait_for(2, SLACK_POST)
    updated = receiver.accepted(SLACK_UPDATE)[-1]
    assert "thread_ts" not in posted.body
    assert updated.body["ts"] == answered.body["thread_ts"]
    assert "Resolved" in json.dumps(updated.body["blocks"])


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ("open", [["resolve", "trigger"], ["trigger"]]),
        ("all", [["resolve", "trigger"], ["resolve", "trigger"], ["trigger"]]),
        ("none", [["trigger"]]),
    ],
)
def test_the_very_first_start_tells_of_what_is_still_open(
    cluster: Any,
    receiver: Any,
    receivers: Any,
    start_service: Any,
    make_apart: Any,
    eventually: Any,
    history: str,
    told: list[list[str]],
) -> None:
    cluster.publish(make_apart(1), make_apart(1, "resolved"), make_apart(2))
    start_service(receivers.pagerduty(), history=history)
    receiver.wait_for(len(told) - 1 + (history == "all"))
    cluster.publish(make_apart(2, "resolved"), make_apart(3))
    eventually(lambda: len(cluster.audit("incident.opened")) == 3)
    eventually(lambda: len(cluster.audit("notification.sent")) == sum(map(len, told)))
    assert sorted(kinds_by_incident(cluster)) == told


def test_alerts_of_transactions_are_read_and_aborted_ones_are_not(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any
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

    commit(make_apart(1))
    abort(make_apart(2))
    start_service(receivers.pagerduty())
    assert [about(r) for r in receiver.wait_for(1)] == ["model-1"]
    abort(make_apart(3))
    commit(make_apart(1, "resolved"), make_apart(4))
    assert sorted(actions(receiver.wait_for(3))) == ["resolve", "trigger", "trigger"]
    assert {about(r) for r in receiver.accepted()} - {""} == {"model-1", "model-4"}


def test_what_is_no_alert_goes_to_the_dead_letters_and_the_rest_goes_on(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_alert: Any, eventually: Any
) -> None:
    start_service(receivers.pagerduty())
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
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_apart: Any, eventually: Any
) -> None:
    start_service(receivers.pagerduty()).stop()
    cluster.publish(make_apart(1), make_apart(2), make_apart(3))
    topic = cluster.settings.topics.alerts
    admin = admin_client(cluster.settings)
    for future in admin.delete_records([TopicPartition(topic, 0, 2)]).values():
        future.result(10)
    start_service(receivers.pagerduty())
    assert [about(r) for r in receiver.wait_for(1)] == ["model-3"]
    eventually(lambda: cluster.audit("alerts.skipped"))
    detail = cluster.audit("alerts.skipped")[0]["detail"]
    assert (detail["stored_offset"], detail["next_offset"]) == ("0", "2")


# Receivers that a reload changes


def test_a_receiver_that_a_reload_adds_is_told_of_what_is_open_and_of_what_comes(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_apart: Any, eventually: Any
) -> None:
    pagerduty, slack = receivers.pagerduty(), receivers.slack_webhook()
    service = start_service(pagerduty)
    cluster.publish(make_apart(1))
    receiver.wait_for(1, PAGERDUTY)
    service.change(make_policy(pagerduty, slack))
    eventually(lambda: set(service.service.policy.receivers) == {"pagerduty", "slack"})
    cluster.publish(make_apart(2))
    receiver.wait_for(2, PAGERDUTY)
    assert [about(r) for r in receiver.wait_for(2, SLACK_WEBHOOK)] == ["model-1", "model-2"]


def test_what_waits_for_a_receiver_goes_out_by_the_settings_that_a_reload_gives_it(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_apart: Any, eventually: Any
) -> None:
    closed = receivers.pagerduty(url=f"http://127.0.0.1:{free_port('127.0.0.1')}/v2/enqueue")
    service = start_service(closed)
    cluster.publish(*(make_apart(n) for n in range(1, 4)))
    eventually(lambda: cluster.audit("notification.retried"))
    service.change(make_policy(receivers.pagerduty()))
    assert {about(r) for r in receiver.wait_for(3)} == {"model-1", "model-2", "model-3"}
    assert len(receiver.received()) == 3


def test_a_message_under_way_while_its_receiver_changes_is_sent_once(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_apart: Any, eventually: Any
) -> None:
    receiver.script(PAGERDUTY, Answer(202, delay_seconds=1.0))
    service = start_service(receivers.pagerduty())
    cluster.publish(make_apart(1), make_apart(2))
    eventually(lambda: cluster.audit("notification.decided"))
    for timeout in (2.5, 3.0, 3.5):
        service.change(make_policy(receivers.pagerduty(timeout_seconds=timeout)))
    eventually(lambda: len(cluster.audit("notification.sent")) == 2)
    assert sorted(about(r) for r in receiver.received()) == ["model-1", "model-2"]


def test_a_receiver_that_asked_for_patience_is_left_alone_whatever_a_reload_gives_it(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_apart: Any, eventually: Any
) -> None:
    receiver.script(PAGERDUTY, Answer(429, {"Retry-After": "6"}, delay_seconds=1.0))
    service = start_service(receivers.pagerduty())
    cluster.publish(make_apart(1))
    eventually(lambda: cluster.audit("notification.decided"))
    service.change(make_policy(receivers.pagerduty(timeout_seconds=3.0)))  # while the request is under way
    refused, later = receiver.wait_for(1) and receiver.received()
    assert later.monotonic_seconds - refused.monotonic_seconds >= 6


def test_a_receiver_that_a_reload_removes_is_told_nothing_more_and_the_others_go_on(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_apart: Any, eventually: Any
) -> None:
    pagerduty, slack = receivers.pagerduty(), receivers.slack_webhook()
    service = start_service(pagerduty, slack)
    cluster.publish(make_apart(1))
    receiver.wait_for(2)
    eventually(lambda: len(cluster.audit("notification.sent")) == 2)
    service.change(make_policy(slack))
    eventually(lambda: set(service.service.policy.receivers) == {"slack"})
    cluster.publish(make_apart(2))
    receiver.wait_for(2, SLACK_WEBHOOK)
    service.stop()
    assert len(receiver.received(PAGERDUTY)) == 1


def test_a_sign_of_life_goes_through_the_channel_and_is_on_record(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, eventually: Any
) -> None:
    watch = Watch(heartbeat_every_ms=86_400_000, heartbeat_receivers=("slack",))
    service = start_service(policy=make_policy(receivers.slack_webhook(), watch=watch))
    assert len(receiver.wait_for(1, SLACK_WEBHOOK)) == 1
    eventually(lambda: cluster.audit("heartbeat.sent"))
    service.stop()
    start_service(policy=make_policy(receivers.slack_webhook(), watch=watch)).stop()
    assert len(receiver.received(SLACK_WEBHOOK)) == 1


def test_a_receiver_that_fails_is_an_incident_at_the_others_and_its_end_is_told(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_policy: Any, make_apart: Any, eventually: Any
) -> None:
    receiver.answer_always(SLACK_WEBHOOK, Answer(503))
    both = receivers.pagerduty(), receivers.slack_webhook()
    start_service(policy=make_policy(*both, watch=Watch(channel_failing_ms=1000)))
    cluster.publish(make_apart(1))
    assert about(receiver.wait_for(1, PAGERDUTY)[0]) == "model-1"
    second = receiver.wait_for(2, PAGERDUTY, timeout_seconds=60)[1]
    assert "do not reach slack" in json.dumps(second.body)
    eventually(lambda: cluster.audit("system.raised"))
    receiver.answer_always(SLACK_WEBHOOK, None)
    assert [about(r) for r in receiver.wait_for(1, SLACK_WEBHOOK, timeout_seconds=60)] == ["model-1"]


# The interface, and what ends the service


def test_the_interface_is_found_by_the_connection_file_which_goes_with_the_service(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_alert: Any, tmp_path: Path, eventually: Any
) -> None:
    file = tmp_path / "run" / "alerting.json"
    service = start_service(receivers.pagerduty(), port=0, connection_file=file)
    assert file.stat().st_mode & 0o777 == 0o600
    connection = read_connection(file)
    assert connection is not None
    assert connection.url == f"http://127.0.0.1:{service.port}"
    cluster.publish(make_alert())
    eventually(lambda: cluster.audit("notification.sent"))

    def get(path: str, token: str = connection.token) -> Any:
        request = urllib.request.Request(connection.url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    (incident,) = json.loads(get("/api/v1/incidents"))["incidents"]
    assert incident["deployments"] == ["credit"]
    assert b"ok" in get("/healthz")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get("/api/v1/incidents", "driftline_wrong")
    service.stop()
    assert not file.exists()


def test_an_acknowledgement_over_http_reaches_every_channel_and_the_audit(
    cluster: Any, receiver: Any, receivers: Any, start_service: Any, make_alert: Any, tmp_path: Path, eventually: Any
) -> None:
    file = tmp_path / "alerting.json"
    start_service(receivers.pagerduty(), receivers.slack_token(), port=0, connection_file=file)
    cluster.publish(make_alert())
    receiver.wait_for(1, PAGERDUTY)
    receiver.wait_for(1, SLACK_POST)
    connection = read_connection(file)
    assert connection is not None
    eventually(lambda: cluster.audit("incident.opened"))
    incident = cluster.audit("incident.opened")[0]["subject"].partition(":")[2]
    request = urllib.request.Request(
        f"{connection.url}/api/v1/incidents/{incident}/acknowledge",
        json.dumps({"reason": "I look at it"}).encode(),
        {"Authorization": f"Bearer {connection.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200
    assert actions(receiver.wait_for(2, PAGERDUTY)) == ["trigger", "acknowledge"]
    assert "I look at it" in json.dumps(receiver.wait_for(1, SLACK_UPDATE)[-1].body["blocks"])
    eventually(lambda: cluster.audit("incident.acknowledged"))
    (event,) = cluster.audit("incident.acknowledged")
    assert (event["actor_kind"], event["reason"]) == ("human", "I look at it")
    assert event["actor"] not in ("", "alerting")


def test_everything_works_on_postgresql(
    cluster: Any,
    receiver: Any,
    receivers: Any,
    start_service: Any,
    make_apart: Any,
    postgres: str,
    eventually: Any,
) -> None:
    options = {"database_url": postgres}
    first = start_service(receivers.pagerduty(), receivers.slack_token(), **options)
    hostile = "\x00<!channel>\u202e" + "x" * 10_000
    cluster.publish(make_apart(1, owner=hostile), make_apart(2))
    receiver.wait_for(2, PAGERDUTY)
    receiver.wait_for(2, SLACK_POST)
    eventually(lambda: len(cluster.audit("notification.sent")) == 4)
    first.stop()
    cluster.publish(make_apart(1, "resolved", owner=hostile))
    start_service(receivers.pagerduty(), receivers.slack_token(), **options)
    assert sorted(actions(receiver.wait_for(3, PAGERDUTY))) == ["resolve", "trigger", "trigger"]
    receiver.wait_for(1, SLACK_UPDATE)
    eventually(lambda: len(cluster.audit("notification.sent")) == 6)


def test_a_database_server_that_comes_late_is_waited_for(
    cluster: Any,
    receiver: Any,
    receivers: Any,
    start_service: Any,
    make_apart: Any,
    postgres: str,
    postgres_server: Any,
) -> None:
    postgres_server.stop()
    later = threading.Timer(3.0, postgres_server.start)
    later.start()
    try:
        start_service(receivers.pagerduty(), database_url=postgres)
        cluster.publish(make_apart(1))
        assert len(receiver.wait_for(1)) == 1
    finally:
        later.join()


def test_a_second_service_on_the_same_database_is_refused(start_service: Any) -> None:
    start_service()
    second = None
    with pytest.raises(AssertionError, match="another alerting service runs"):
        second = start_service()
    assert second is None


def test_the_service_ends_when_its_database_is_taken_away(
    start_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr("services.alerting.running._OWNER_SECONDS", 0.2)
    service = start_service()
    eventually(lambda: (tmp_path / "alerting.db").exists())
    (tmp_path / "alerting.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(DatabaseError, match="was deleted while the service ran"):
        service.wait_end()


def test_the_service_ends_when_another_takes_postgresql(
    start_service: Any, postgres: str, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.alerting.running._OWNER_SECONDS", 0.2)
    service = start_service(database_url=postgres)
    name = postgres.partition("?")[0].rpartition("/")[2]
    postgres_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted", name
    )
    with pytest.raises(DatabaseError, match="is lost"):
        service.wait_end()


def test_the_service_ends_with_an_error_when_kafka_stays_away(sqlite: str, make_policy: Any) -> None:
    settings = AlertingSettings(database_url=sqlite, kafka_timeout_seconds=1.0)
    service = AlertingService(KafkaSettings(f"127.0.0.1:{free_port('127.0.0.1')}"), settings, policy=make_policy())
    with pytest.raises(ClusterError, match="so the service ends"):
        asyncio.run(service.run())


def test_a_port_that_is_taken_ends_the_start_with_what_to_do(
    cluster: Any, start_service: Any, receiver: Any, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=r"cannot be used.*--port"):
        start_service(port=receiver.port)
