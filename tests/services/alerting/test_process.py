"""The service as a process of its own: killed at random, stopped by signal, with secrets in its hands."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.broker.embedded import EmbeddedBroker
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_WEBHOOK, Answer, too_many

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.timeout(180)


class Process:
    """``driftline alerting``."""

    def __init__(self, environment: dict[str, str], log: Path, *options: str) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "alerting", *options],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("DRIFTLINE_")} | environment,
            stdout=self._log,
            stderr=self._log,
        )

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._log.close()
        return code


StartProcess = Callable[..., Process]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "alerting.log"


@pytest.fixture
def environment(cluster: Any, receiver: Any, tmp_path: Path) -> dict[str, str]:
    return {
        "DRIFTLINE_BOOTSTRAP_SERVERS": cluster.settings.bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": cluster.prefix,
        "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{tmp_path / 'alerting.db'}",
        "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
        "DRIFTLINE_PAGERDUTY_ROUTING_KEY": "R" * 32,
        "DRIFTLINE_SLACK_WEBHOOK_URL": receiver.slack_webhook_url,
    }


@pytest.fixture
def start_process(environment: dict[str, str], log: Path) -> Iterator[StartProcess]:
    started: list[Process] = []

    def start(*options: str, **more: str) -> Process:
        started.append(Process(environment | more, log, *options))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


def unsent(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        query = "select count(*) from notifications where status != 'sent'"
        return int(connection.execute(query).fetchone()[0])


@pytest.mark.timeout(300)
def test_killed_twelve_times_it_loses_nothing_and_never_resolves_before_the_trigger(
    cluster: Any, receiver: Any, start_process: StartProcess, make_alert: Any, tmp_path: Path
) -> None:
    kills = 12
    incidents = 5 * (kills + 1)
    chance = random.Random(20240501)
    config = tmp_path / "destinations.yaml"
    config.write_text(
        "destinations:\n"
        "  - {name: pagerduty, type: pagerduty, rate_per_second: 1000, burst: 1000}\n"
        "  - {name: slack, type: slack, rate_per_second: 1000, burst: 1000}\n"
    )
    options = ("--config", str(config), "--history", "all")
    # Slow answers, so that most kills hit a message under way; now and then one of the usual troubles.
    for service, status in ((PAGERDUTY, 202), (SLACK_WEBHOOK, 200)):
        good = Answer(status, delay_seconds=0.03)
        receiver.answer_always(service, good)
        receiver.script(service, *chance.choices([good, Answer(500), too_many(0.05), Answer(0)], [8, 1, 1, 1], k=60))
    batches = [(make_alert(n), make_alert(n, "resolved")) for n in range(1, incidents + 1)]
    in_doubt = 0
    for kill in range(kills):
        process = start_process(*options)
        arrived = len(receiver.received())
        for firing, resolved in batches[kill * 5 : kill * 5 + 5]:
            cluster.publish(firing, resolved)
        if kill % 4 != 3:  # otherwise it is killed while it starts
            deadline = time.monotonic() + 20
            while len(receiver.received()) < arrived + chance.randint(1, 12) and time.monotonic() < deadline:
                time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        assert process.process.poll() is None
        process.end(signal.SIGKILL)
        if (tmp_path / "alerting.db").exists():
            with sqlite3.connect(tmp_path / "alerting.db") as connection:
                query = "select count(*) from notifications where status = 'sending'"
                in_doubt += connection.execute(query).fetchone()[0]

    last = start_process(*options)
    for firing, resolved in batches[kills * 5 :]:
        cluster.publish(firing, resolved)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if len(cluster.audit("notification.sent")) == 4 * incidents:
            break
        time.sleep(0.5)
    assert last.end(signal.SIGTERM) == 0
    assert unsent(tmp_path / "alerting.db") == 0

    keys = {firing["incident_key"] for firing, _ in batches}
    first: dict[tuple[str, str], int] = {}
    events = [(r.body["event_action"], r.body["dedup_key"]) for r in receiver.accepted(PAGERDUTY)]
    for position, event in enumerate(events):
        first.setdefault(event, position)
    assert set(first) == {(action, key) for key in keys for action in ("trigger", "resolve")}, "lost"
    for key in keys:
        last_trigger = max(p for p, event in enumerate(events) if event == ("trigger", key))
        assert last_trigger < first["resolve", key], "a trigger after its resolve opens the incident again"

    slack = Counter(str(r.body["blocks"][0]["text"]["text"]) for r in receiver.accepted(SLACK_WEBHOOK))
    posts = sum(slack.values())
    assert posts >= 2 * incidents
    repeated = posts + len(events) - 4 * incidents
    assert 0 <= repeated <= in_doubt <= 2 * kills, "only what was under way at a kill is sent twice"
    assert in_doubt > 0, "no kill hit a message under way: the test shows nothing"
    assert len(cluster.audit("incident.opened")) == len(cluster.audit("incident.resolved")) == incidents


def test_sigterm_ends_it_in_order_with_the_message_under_way_settled(
    cluster: Any, receiver: Any, start_process: StartProcess, make_alert: Any, tmp_path: Path, log: Path
) -> None:
    receiver.answer_always(PAGERDUTY, Answer(202, delay_seconds=1.0))
    process = start_process()
    wait_for_text(log, "reading alerts")
    cluster.publish(make_alert())
    deadline = time.monotonic() + 20
    while not sending(tmp_path / "alerting.db"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.end(signal.SIGTERM) == 0
    assert unsent(tmp_path / "alerting.db") == 0
    assert len(cluster.audit("notification.sent")) == 2


def sending(database: Path) -> bool:
    with sqlite3.connect(database) as connection:
        return bool(connection.execute("select 1 from notifications where status = 'sending'").fetchone())


def wait_for_text(log: Path, text: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


WEBHOOK_CANARY = "Tcanary/Bcanary/webhook-canary-4711"
TOKEN_CANARY = "xoxb-token-canary-4712"
KEY_CANARY = "pagerduty-key-canary-4713"


def test_secrets_appear_in_no_output(
    cluster: Any, receiver: Any, start_process: StartProcess, make_alert: Any, tmp_path: Path, log: Path
) -> None:
    """Everything at DEBUG, receivers that quote the secrets back at us, a redirect and a dead address."""
    webhook = f"http://127.0.0.1:{receiver.port}/services/{WEBHOOK_CANARY}"
    quoting = f"{KEY_CANARY} {webhook} {WEBHOOK_CANARY} {TOKEN_CANARY}"
    for service in (PAGERDUTY, SLACK_WEBHOOK, SLACK_POST):
        redirect = Answer(307, {"Location": f"http://127.0.0.1:1/{KEY_CANARY}"})
        receiver.script(service, Answer(500, body=quoting), redirect, Answer(0), Answer(400, body=quoting))
    (tmp_path / "token").write_text(TOKEN_CANARY + "\n")
    (tmp_path / "destinations.yaml").write_text(
        "destinations:\n"
        "  - {name: pagerduty, type: pagerduty}\n"
        "  - {name: webhook, type: slack}\n"
        f"  - {{name: bot, type: slack, channel: C1, token_file: {tmp_path / 'token'}}}\n"
    )
    process = start_process(
        "--json",
        "--config",
        str(tmp_path / "destinations.yaml"),
        DRIFTLINE_LOG_LEVEL="debug",
        DRIFTLINE_PAGERDUTY_ROUTING_KEY=KEY_CANARY,
        DRIFTLINE_SLACK_WEBHOOK_URL=webhook,
        DRIFTLINE_SLACK_API_URL=receiver.slack_api_url,
    )
    wait_for_text(log, '"event": "ready"')
    cluster.publish(make_alert())
    deadline = time.monotonic() + 60
    while len(cluster.audit("notification.failed")) < 3:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    cluster.publish(make_alert(2))
    assert len(receiver.wait_for(3)) == 3
    assert process.end(signal.SIGTERM) == 0

    requests = receiver.received()
    assert any(KEY_CANARY in str(r.body) for r in requests), "the canary was used"
    outputs = {
        "log": log.read_bytes(),
        "database": b"".join(p.read_bytes() for p in tmp_path.glob("alerting.db*")),
        "audit": repr(cluster.audit()).encode(),
    }
    for name, output in outputs.items():
        for canary in (KEY_CANARY, "webhook-canary", "Bcanary", TOKEN_CANARY):
            assert canary.encode() not in output, f"{canary} in {name}"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DRIFTLINE_SLACK_WEBHOOK_URL": "http://hooks.example.org/services/secret-canary"}, "must begin with https"),
        ({"DRIFTLINE_SLACK_WEBHOOK_URL": "secret-canary"}, "is no http(s) address"),
        ({"DRIFTLINE_PAGERDUTY_ROUTING_KEY": "secret canary"}, "visible ASCII characters"),
        ({"DRIFTLINE_SLACK_WEBHOOK_URL": "", "DRIFTLINE_SLACK_TOKEN": "secret-canary"}, "has a token but no channel"),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_status_2_and_without_the_secret(
    start_process: StartProcess, log: Path, variables: dict[str, str], expected: str
) -> None:
    assert start_process(**variables).process.wait(60) == 2
    said = " ".join(log.read_text().split())
    assert expected in said
    assert "canary" not in said


def test_it_bears_a_broker_that_goes_away_and_comes_back(
    tmp_path: Path, receiver: Any, environment: dict[str, str], start_process: StartProcess, make_alert: Any, log: Path
) -> None:
    from driftline.codec import encode
    from driftline.settings import KafkaSettings
    from services.kafka import publish
    from services.topics import ensure_topics

    broker = EmbeddedBroker(tmp_path / "broker", heap_mb=256)
    broker.start()
    try:
        settings = KafkaSettings(broker.bootstrap_servers)
        ensure_topics(settings, partitions=1)
        options = {"DRIFTLINE_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "DRIFTLINE_TOPIC_PREFIX": ""}
        process = start_process(**options)
        wait_for_text(log, "reading alerts")
        receiver.script(PAGERDUTY, Answer(500))
        publish(settings, "alerts", b"credit", encode("Alert", make_alert(1)))
        deadline = time.monotonic() + 20
        while not receiver.received():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        broker.kill()
        assert len(receiver.wait_for(2)) == 2, "what was taken in is sent without Kafka"
        wait_for_text(log, "wait in the database", 60)
        broker.start()
        publish(settings, "alerts", b"credit", encode("Alert", make_alert(2)))
        assert len(receiver.wait_for(4, timeout_seconds=60)) == 4
        assert process.end(signal.SIGTERM) == 0
    finally:
        broker.stop()
