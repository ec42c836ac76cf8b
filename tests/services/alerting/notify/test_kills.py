"""The service killed with kill -9, at every named point and at random: nothing is lost, no end before its beginning."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.alerting.crash import ENVIRONMENT, POINTS
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_UPDATE, SLACK_WEBHOOK, Answer, too_many

ROOT = Path(__file__).parents[4]
POLICY = """\
version: 1
defaults: {group_wait: 0s, group_interval: 0s, repeat_interval: 0s}
correlation: {across: none}
receivers:
  - {name: pager, type: pagerduty, routing_key_env: KEY, rate_per_second: 1000, burst: 1000}
  - {name: bot, type: slack, token_env: TOKEN, channel: C123, rate_per_second: 1000, burst: 1000}
  - {name: hook, type: slack, webhook_url_env: HOOK, rate_per_second: 1000, burst: 1000}
route: {notify: [pager, bot, hook]}
"""
PER_ROUND = 3
RANDOM_ROUNDS = 2

pytestmark = pytest.mark.timeout(400)


class Service:
    """``driftline alerting``, started again and again on one database."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.database = folder / "alerting.db"
        self._log = folder / "alerting.log"
        usual = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")}
        self._environment = usual | environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "services.cli.main", "alerting", "--history", "all", "--port", "0"]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment | more, stdout=log, stderr=log, start_new_session=True
            )

    def command(self, *words: str) -> int:
        """A ``driftline`` command against it; returns its exit status."""
        command = [sys.executable, "-m", "services.cli.main", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, timeout=60, check=False
        ).returncode

    def died(self, seconds: float) -> bool:
        """Whether it has died within so long, killed."""
        assert self.process is not None
        try:
            return self.process.wait(seconds) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(90)

    def ask(self, query: str) -> list[Any]:
        """What the database says; nothing before there is one."""
        if not self.database.exists():
            return []
        with sqlite3.connect(self.database, timeout=30) as connection:
            try:
                return connection.execute(query).fetchall()
            except sqlite3.OperationalError:
                return []

    def said(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture
def service(cluster: Any, receiver: Any, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "routing.yaml").write_text(POLICY)
    running = Service(
        {
            "DRIFTLINE_BOOTSTRAP_SERVERS": cluster.settings.bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": cluster.prefix,
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{tmp_path / 'alerting.db'}",
            "DRIFTLINE_ALERTING_CONFIG": str(tmp_path / "routing.yaml"),
            "DRIFTLINE_ALERTING_CONNECTION_FILE": str(tmp_path / "alerting.json"),
            "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
            "DRIFTLINE_SLACK_API_URL": receiver.slack_api_url,
            "KEY": "R" * 32,
            "TOKEN": "xoxb-a-token",
            "HOOK": receiver.slack_webhook_url,
        },
        tmp_path,
    )
    yield running
    if running.process is not None:
        running.end(signal.SIGKILL)


def wait_until(condition: Callable[[], object], seconds: float, why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


def heard_more_than(receiver: Any, most: int) -> bool:
    return len(receiver.received()) > most


def test_killed_at_every_point_and_at_random_nothing_is_lost_and_no_end_comes_before_its_beginning(
    cluster: Any, receiver: Any, service: Service, make_apart: Any
) -> None:
    chance = random.Random(20261121)
    # Slow answers, so that most kills at random hit a message under way; now and then one of the usual troubles.
    for name, status in ((PAGERDUTY, 202), (SLACK_WEBHOOK, 200)):
        good = Answer(status, delay_seconds=0.02)
        receiver.answer_always(name, good)
        receiver.script(name, *chance.choices([good, Answer(500), too_many(0.05), Answer(0)], [9, 1, 1, 1], k=40))
    rounds = [*POINTS, *[""] * RANDOM_ROUNDS]
    died = Counter[str]()
    for number, point in enumerate(rounds):
        arrived = len(receiver.received())
        crash = {ENVIRONMENT: f"{point}:{chance.randint(1, 3) if point.startswith('outbox') else 1}"}
        service.start(**(crash if point else {}))
        first = number * PER_ROUND
        cluster.publish(*(make_apart(n) for n in range(first, first + PER_ROUND)))
        cluster.publish(*(make_apart(n, "resolved") for n in range(max(first - PER_ROUND, 0), first)))
        if point == "action.after_commit":
            newest = f"select id from incidents where deployment_id = 'model-{first}' and status = 'open'"
            wait_until(partial(service.ask, newest), 60, service.said)
            [(incident,)] = service.ask(newest)
            assert service.command("incidents", "ack", incident, "--reason", "mine") != 0, "it died before it answered"
        if point:
            assert service.died(60), f"it did not come to {point}: {service.said()[-3000:]}"
            died[point] += 1
        else:
            most = arrived + chance.randint(0, 8)
            wait_until(partial(heard_more_than, receiver, most), 60, service.said)
            time.sleep(chance.uniform(0, 0.1))
            service.end(signal.SIGKILL)
    assert set(died) == set(POINTS)

    incidents = PER_ROUND * len(rounds)
    service.start()
    cluster.publish(*(make_apart(n, "resolved") for n in range(incidents - PER_ROUND, incidents)))
    unfinished = "select receiver, kind, status, last_error from notifications where status not in ('sent', 'merged')"
    ended = "select count(*) from notifications where kind = 'resolve' and status = 'sent'"
    wait_until(
        lambda: service.ask(ended) == [(3 * incidents,)] and not service.ask(unfinished),
        120,
        lambda: (service.ask(unfinished), service.ask(ended), service.said()[-3000:]),
    )
    assert service.end(signal.SIGTERM) == 0
    [(doubts,)] = service.ask("select coalesce(sum(doubts), 0) from notifications")

    events = [(r.body["event_action"], r.body["dedup_key"]) for r in receiver.accepted(PAGERDUTY)]
    keys = {key for _, key in events}
    assert len(keys) == incidents, "lost"
    for key in keys:
        actions = [action for action, other in events if other == key]
        assert {"trigger", "resolve"} <= set(actions), "lost"
        last_trigger = max(n for n, action in enumerate(actions) if action != "resolve")
        assert last_trigger < actions.index("resolve"), "a trigger after its resolve opens the pager's incident again"

    hooks = len(receiver.accepted(SLACK_WEBHOOK))
    assert 2 * incidents <= hooks <= 2 * incidents + doubts, "only what was in doubt is sent twice"
    roots = [r for r in receiver.accepted(SLACK_POST) if not r.body.get("thread_ts")]
    assert len(roots) == incidents, "Slack was asked whether it had the message, and had it once"
    assert {r.body["ts"] for r in receiver.accepted(SLACK_UPDATE)} and doubts > 0
    sent = cluster.audit("notification.sent")
    assert len(sent) >= 6 * incidents, "and all of it is on record"
    assert len(cluster.audit("incident.opened")) == len(cluster.audit("incident.resolved")) == incidents
    [taken] = cluster.audit("incident.acknowledged")
    assert (taken["actor_kind"], taken["reason"]) == ("human", "mine")
