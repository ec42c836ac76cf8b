"""A play: the real program against recording receivers, on a clock that runs sixty times as fast.

Expectations are stated in the play's own minutes, as Alertmanager's acceptance tests state theirs in virtual time: *at*
minute 2 an alert comes, *between* minutes 4 and 7 the receiver hears of it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from driftline.codec import decode, encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.demo.receivers import PAGERDUTY, SLACK_UPDATE, RecordingReceiver
from services.kafka import Publisher, read_to_end
from services.topics import ensure_topics

ROOT = Path(__file__).parents[4]
SPEED = 60.0


@dataclass(frozen=True)
class Heard:
    """A message that a receiver took: who, what, and at which minute of the play."""

    receiver: str
    kind: str
    minute: float
    about: frozenset[str]
    body: Mapping[str, Any]


class Play:
    """The program, its topics, its receivers, and the clock of the play."""

    def __init__(self, bootstrap_servers: str, prefix: str, folder: Path, receiver: RecordingReceiver) -> None:
        self.settings = KafkaSettings(bootstrap_servers, Topics(prefix))
        ensure_topics(self.settings, partitions=1)
        self.folder = folder
        self.receiver = receiver
        self.policy = folder / "routing.yaml"
        self.log = folder / "alerting.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._begin = time.monotonic()
        self._clock_start_ms = time.time_ns() // 1_000_000

    def write(self, policy: str) -> None:
        """Put the routing file in force at the next start or reload."""
        self.policy.write_text(policy)

    def start(self, *options: str) -> None:
        """Start the program; minute 0 is when it reads alerts."""
        seen = len(self.said())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")} | {
            "DRIFTLINE_BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": self.settings.topics.prefix,
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{self.folder / 'alerting.db'}",
            "DRIFTLINE_ALERTING_CONFIG": str(self.policy),
            "DRIFTLINE_ALERTING_CONNECTION_FILE": str(self.folder / "alerting.json"),
            "DRIFTLINE_ALERTING_CLOCK_SPEED": str(SPEED),
            "DRIFTLINE_ALERTING_CLOCK_START_MS": str(self._clock_start_ms),
            "DRIFTLINE_PAGERDUTY_URL": self.receiver.pagerduty_url,
            "DRIFTLINE_SLACK_API_URL": self.receiver.slack_api_url,
            "SLACK_TOKEN": "xoxb-a-token",
            **{f"KEY_{name.upper()}": name.ljust(32, "0") for name in ("pager", "lead", "second", "nights")},
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "services.cli.main", "alerting", "--port", "0", *options]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while "reading alerts" not in self.said()[seen:]:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        self._environment = environment
        self._begin = time.monotonic()

    def said(self) -> str:
        """The program's log."""
        return self.log.read_text() if self.log.exists() else ""

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the program."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(90)

    @property
    def minute(self) -> float:
        """Minutes of the play since the last start."""
        return (time.monotonic() - self._begin) * SPEED / 60

    def until(self, minute: float) -> None:
        """Wait for a minute of the play."""
        time.sleep(max((minute - self.minute) * 60 / SPEED, 0))

    def publish(self, *alerts: Mapping[str, Any]) -> None:
        """Put alerts on the topic."""
        with Publisher(self.settings) as publisher:
            for alert in alerts:
                publisher.send(self.settings.topics.alerts, b"key", encode("Alert", dict(alert)), [])

    def command(self, *words: str) -> str:
        """Run a ``driftline`` command against the running program, and return what it printed."""
        command = [sys.executable, "-m", "services.cli.main", *words]
        environment = self._environment
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def listed(self, deployment: str) -> list[dict[str, Any]]:
        """Incidents of a deployment, as ``driftline incidents list`` tells them."""
        found: list[dict[str, Any]] = json.loads(
            self.command("incidents", "list", "--json", "--deployment", deployment)
        )
        return found

    def audited(self, action: str) -> int:
        """How many audit events of an action there are."""
        records = (decode(m.value())[1] for m in read_to_end(self.settings, self.settings.topics.audit))
        return len({record["id"] for record in records if record["action"] == action})

    def heard(self, receiver: str | None = None, about: str | None = None) -> list[Heard]:
        """What arrived since the last start, in order."""
        found = [self._heard(request) for request in self.receiver.accepted()]
        keys: dict[str, frozenset[str]] = {}
        named = []
        for message, key in found:
            keys[key] = keys.get(key, frozenset()) | message.about
            named.append(Heard(message.receiver, message.kind, message.minute, keys[key], message.body))
        return [m for m in named if receiver in (None, m.receiver) and (about is None or about in m.about)]

    def _heard(self, request: Any) -> tuple[Heard, str]:
        body, minute = request.body, (request.monotonic_seconds - self._begin) * SPEED / 60
        about = frozenset(re.findall(r"play-[a-z]+(?:-\d+)?", str(body)))
        if request.service == PAGERDUTY:
            receiver, kind, key = str(body["routing_key"]).rstrip("0"), body["event_action"], body["dedup_key"]
        else:
            receiver = str(body["channel"])
            update = request.service == SLACK_UPDATE
            kind = "update" if update else "answer" if body.get("thread_ts") else "post"
            key = f"{body['channel']}/{body.get('ts') or body.get('thread_ts')}"
        return Heard(receiver, kind, minute, about, body), key


@pytest.fixture(scope="module")
def module_receiver() -> Iterator[RecordingReceiver]:
    """Slack and PagerDuty on the loopback interface, for a whole play."""
    with RecordingReceiver() as running:
        yield running


StartPlay = Callable[..., Play]


@pytest.fixture(scope="module")
def make_play(
    kafka: Any, tmp_path_factory: pytest.TempPathFactory, module_receiver: RecordingReceiver
) -> Iterator[StartPlay]:
    """Makes plays, each with topics and a folder of its own."""
    made: list[Play] = []

    def make(name: str) -> Play:
        folder = tmp_path_factory.mktemp(name)
        made.append(Play(kafka.bootstrap_servers, f"play-{os.getpid()}-{name}.", folder, module_receiver))
        return made[-1]

    yield make
    for play in made:
        if play.process is not None and play.process.poll() is None:
            play.end(signal.SIGKILL)
