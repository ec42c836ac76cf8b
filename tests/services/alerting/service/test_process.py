"""The service as a process of its own: signals, reloads, secrets in its hands, a broker that goes away."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from driftline.codec import encode
from driftline.settings import KafkaSettings
from services.broker.embedded import EmbeddedBroker
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_WEBHOOK, Answer
from services.kafka import publish
from services.topics import ensure_topics

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[4]


def count(database: Path, condition: str) -> int:
    with sqlite3.connect(database) as connection:
        return int(connection.execute(f"select count(*) from notifications where {condition}").fetchone()[0])


def test_sigterm_ends_it_in_order_with_the_message_under_way_settled(
    cluster: Any, receiver: Any, start_process: Any, make_alert: Any, tmp_path: Path, eventually: Any
) -> None:
    receiver.answer_always(PAGERDUTY, Answer(202, delay_seconds=1.5))
    process = start_process()
    process.wait_for("reading alerts")
    cluster.publish(make_alert())
    eventually(lambda: count(tmp_path / "alerting.db", "status = 'sending' and receiver = 'pagerduty'"))
    assert process.end() == 0
    assert count(tmp_path / "alerting.db", "status != 'sent'") == 0
    assert len(cluster.audit("notification.sent")) == 2, "what was done is on record before it ends"
    assert not (tmp_path / "alerting.json").exists()


ROUTING = """
receivers:
  - {name: pagerduty, type: pagerduty, routing_key_env: DRIFTLINE_PAGERDUTY_ROUTING_KEY}
  - {name: chat, type: slack, webhook_url_env: DRIFTLINE_SLACK_WEBHOOK_URL}
route: {notify: [%s], group_wait: 0s}
"""


def test_a_file_that_changes_and_sighup_put_another_routing_in_force_and_a_bad_one_does_not(
    cluster: Any, receiver: Any, start_process: Any, make_apart: Any, tmp_path: Path, eventually: Any
) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(ROUTING % "pagerduty")
    process = start_process("--config", str(file))
    process.wait_for("reading alerts")
    cluster.publish(make_apart(1))
    receiver.wait_for(1, PAGERDUTY)

    said = len(process.said())
    file.write_text(ROUTING % "chat")
    process.wait_for("is in force", after=said)
    cluster.publish(make_apart(2))
    receiver.wait_for(1, SLACK_WEBHOOK)
    assert len(receiver.received(PAGERDUTY)) == 1

    said = len(process.said())
    file.write_text(ROUTING % "nobody-of-that-name")
    process.process.send_signal(signal.SIGHUP)
    process.wait_for("stays in force", after=said)
    assert "nobody-of-that-name" in process.said()[said:]
    cluster.publish(make_apart(3))
    receiver.wait_for(2, SLACK_WEBHOOK)
    eventually(lambda: len(cluster.audit("policy.loaded")) == 2 and cluster.audit("policy.refused"))
    assert process.end() == 0


def test_commands_find_the_service_and_what_they_do_is_told_and_on_record(
    cluster: Any,
    receiver: Any,
    start_process: Any,
    make_alert: Any,
    tmp_path: Path,
    eventually: Any,
) -> None:
    process = start_process()
    process.wait_for("reading alerts")
    cluster.publish(make_alert())
    receiver.wait_for(2)

    def command(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *words, "--json"],
            cwd=ROOT,
            env={
                "PATH": "",
                "HOME": str(tmp_path),
                "DRIFTLINE_ALERTING_CONNECTION_FILE": str(tmp_path / "alerting.json"),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (incident,) = command("incidents", "list")
    command("incidents", "ack", incident["id"], "--reason", "I look at it")
    receiver.wait_for(2, PAGERDUTY)
    assert receiver.accepted(PAGERDUTY)[-1].body["event_action"] == "acknowledge"
    eventually(lambda: cluster.audit("incident.acknowledged"))
    (event,) = cluster.audit("incident.acknowledged")
    assert (event["actor_kind"], event["reason"], event["detail"]["via"]) == ("human", "I look at it", "cli")
    assert process.end() == 0


WEBHOOK_CANARY = "Tcanary/Bcanary/webhook-canary-4711"
TOKEN_CANARY = "xoxb-token-canary-4712"
KEY_CANARY = "pagerduty-key-canary-4713-000000"


def test_secrets_appear_in_no_output(
    cluster: Any, receiver: Any, start_process: Any, make_apart: Any, tmp_path: Path, eventually: Any
) -> None:
    """Everything at DEBUG, receivers that quote the secrets back at us, a redirect and a dead address."""
    webhook = f"http://127.0.0.1:{receiver.port}/services/{WEBHOOK_CANARY}"
    quoting = f"{KEY_CANARY} {webhook} {WEBHOOK_CANARY} {TOKEN_CANARY}"
    for service in (PAGERDUTY, SLACK_WEBHOOK, SLACK_POST):
        redirect = Answer(307, {"Location": f"http://127.0.0.1:1/{KEY_CANARY}"})
        receiver.script(service, Answer(500, body=quoting), redirect, Answer(0), Answer(400, body=quoting))
    (tmp_path / "token").write_text(TOKEN_CANARY + "\n")
    (tmp_path / "routing.yaml").write_text(
        "receivers:\n"
        "  - {name: pagerduty, type: pagerduty, routing_key_env: DRIFTLINE_PAGERDUTY_ROUTING_KEY}\n"
        "  - {name: webhook, type: slack, webhook_url_env: DRIFTLINE_SLACK_WEBHOOK_URL}\n"
        "  - {name: bot, type: slack, channel: C123, token_file: token}\n"
        "route: {notify: [pagerduty, webhook, bot], group_wait: 0s}\n"
    )
    process = start_process(
        "--json",
        "--config",
        str(tmp_path / "routing.yaml"),
        DRIFTLINE_LOG_LEVEL="debug",
        DRIFTLINE_PAGERDUTY_ROUTING_KEY=KEY_CANARY,
        DRIFTLINE_SLACK_WEBHOOK_URL=webhook,
        DRIFTLINE_SLACK_API_URL=receiver.slack_api_url,
    )
    process.wait_for('"event": "ready"')
    cluster.publish(make_apart(1))
    eventually(lambda: len(cluster.audit("notification.failed")) >= 2, 90)
    cluster.publish(make_apart(2))
    eventually(lambda: len(cluster.audit("notification.sent")) >= 3, 90)
    token = json.loads((tmp_path / "alerting.json").read_text())["token"]
    assert process.end() == 0

    requests = receiver.received()
    assert any(KEY_CANARY in str(r.body) for r in requests), "the canary was used"
    outputs = {
        "log": (tmp_path / "alerting.log").read_bytes(),
        "database": b"".join(p.read_bytes() for p in tmp_path.glob("alerting.db*")),
        "audit": repr(cluster.audit()).encode(),
    }
    for name, output in outputs.items():
        for canary in (KEY_CANARY, "webhook-canary", "Bcanary", TOKEN_CANARY, token):
            assert canary.encode() not in output, f"{canary} in {name}"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DRIFTLINE_SLACK_WEBHOOK_URL": "http://hooks.example.org/services/secret-canary"}, "https"),
        ({"DRIFTLINE_SLACK_WEBHOOK_URL": "secret-canary"}, "DRIFTLINE_SLACK_WEBHOOK_URL"),
        ({"DRIFTLINE_PAGERDUTY_ROUTING_KEY": "secret canary"}, "a routing key has"),
        ({"DRIFTLINE_SLACK_WEBHOOK_URL": "", "DRIFTLINE_SLACK_TOKEN": "secret-canary"}, "channel"),
        ({"DRIFTLINE_ALERTING_CONFIG": "/nowhere/secret.yaml"}, "expected a readable file"),
        ({"DRIFTLINE_ALERTING_TLS_KEY": "key.pem"}, "TLS needs both"),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_status_2_and_without_the_secret(
    start_process: Any, variables: dict[str, str], expected: str
) -> None:
    process = start_process(**variables)
    assert process.process.wait(90) == 2
    said = " ".join(process.said().split())
    assert expected in said
    assert "canary" not in said


def test_it_bears_a_broker_that_goes_away_and_comes_back(
    tmp_path: Path, receiver: Any, start_process: Any, make_apart: Any, eventually: Any
) -> None:
    broker = EmbeddedBroker(tmp_path / "broker", heap_mb=256)
    broker.start()
    try:
        settings = KafkaSettings(broker.bootstrap_servers)
        ensure_topics(settings, partitions=1)
        options = {"DRIFTLINE_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "DRIFTLINE_TOPIC_PREFIX": ""}
        process = start_process(**options)
        process.wait_for("reading alerts")
        receiver.script(PAGERDUTY, Answer(500))
        publish(settings, "alerts", b"credit", encode("Alert", make_apart(1)))
        eventually(receiver.received)
        broker.kill()
        assert len(receiver.wait_for(2)) == 2, "what was taken in is sent without Kafka"
        process.wait_for("wait in the database", 90)
        broker.start()
        publish(settings, "alerts", b"credit", encode("Alert", make_apart(2)))
        assert len(receiver.wait_for(4, timeout_seconds=90)) == 4
        assert process.end() == 0
    finally:
        broker.stop()


def test_a_database_that_is_locked_for_a_while_is_said_and_caught_up_with(
    cluster: Any, receiver: Any, start_process: Any, make_apart: Any, tmp_path: Path
) -> None:
    process = start_process()
    process.wait_for("reading alerts")
    cluster.publish(make_apart(1))
    receiver.wait_for(2)
    with sqlite3.connect(tmp_path / "alerting.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        cluster.publish(make_apart(2))
        process.wait_for("database", 90, after=len(process.said()))
        time.sleep(1.0)
        other.execute("ROLLBACK")
    assert len(receiver.wait_for(4, timeout_seconds=90)) == 4
    assert process.end() == 0
