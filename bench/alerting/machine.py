"""The service as a process of its own, with Kafka before it and recording receivers behind it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from driftline.codec import encode
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER, Topics
from services.broker.embedded import EmbeddedBroker
from services.topics import ensure_topics

START_US = 1_760_000_000_000_000
_READY_SECONDS = 60.0


def alert(number: int, status: str = "firing", **changes: Any) -> dict[str, Any]:
    """Alarm ``number`` of a deployment of its own, or its end. The id is that of the streams: derived, not random."""
    deployment = changes.get("deployment_id", name_of(number))
    effects = dict.fromkeys(("psi", "jensen_shannon", "total_variation", "hellinger", "kl"), 0.3)
    cause = {
        "stream": "income",
        "role": "feature",
        "evidence_share": 0.25,
        "log_evidence_nats": 20.0,
        "change_time_us": START_US,
        "rows": 5000,
        "effects": effects,
        "tv_low": 0.25,
        "tv_high": 0.35,
        "bins": [f"{i} – {i + 1}" for i in range(15)],
        "expected": [1 / 15] * 15,
        "observed": [200] * 14 + [2200],
    }
    key = f"{deployment}/1/{changes.get('monitor', 'data_drift')}/0/{number}"
    record = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key}/{status}")),
        "incident_key": key,
        "deployment_id": deployment,
        "model_id": "model",
        "model_version": "1",
        "monitor": "data_drift",
        "severity": "error",
        "status": status,
        "episode": number + 1,
        "change_time_us": START_US,
        "detection_time_us": START_US + 3_600_000_000 + (0 if status == "firing" else 1_800_000_000),
        "trigger_time_ms": time.time_ns() // 1_000_000,
        "log_evidence_nats": 21.0,
        "threshold_nats": 17.0,
        "rows_since_change": 5000,
        "causes": [{**cause, "stream": name} for name in ("income", "age", "region", "balance")],
        "evidence_offsets": [],
        "baseline_digest": "0" * 64,
        "spec_revision": 1,
        "owner": "risk-team",
        "runbook_url": "https://wiki.example.org/drift",
    }
    return record | changes


def name_of(number: int) -> str:
    """The deployment of alarm ``number``; nothing else in a message looks like it."""
    return f"bench-{number:05d}-x"


class Installation:
    """Topics of its own, a folder of its own, and the service on them.

    Args:
        bootstrap_servers: Of a running broker.
        folder: For the routing file, the database and the logs.
        policy: The routing file.
        environment: What the service's environment has besides.
    """

    def __init__(
        self, bootstrap_servers: str, folder: Path, policy: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.settings = KafkaSettings(bootstrap_servers, Topics(f"bench-{uuid.uuid4().hex[:8]}."))
        ensure_topics(self.settings, partitions=1)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.policy_file = folder / "routing.yaml"
        self.policy_file.write_text(policy)
        self.database = folder / "alerting.db"
        self.log = folder / "alerting.log"
        own = {
            "DRIFTLINE_BOOTSTRAP_SERVERS": bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": self.settings.topics.prefix,
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{self.database}",
            "DRIFTLINE_ALERTING_CONFIG": str(self.policy_file),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")}
        self._environment = inherited | own | dict(environment or {})
        self._producer = Producer(self.settings.client(linger_ms=0, partitioner=PARTITIONER))
        self._process: subprocess.Popen[bytes] | None = None
        self.started: Callable[[], None] = lambda: None  # called each time the process has been started

    def start(self, *options: str, ready: bool = True, **environment: str) -> None:
        """Start the service; ``ready`` waits until it reads alerts."""
        seen = len(self.said())
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "services.cli.main", "alerting", *options]
            self._process = subprocess.Popen(command, env=self._environment | environment, stdout=log, stderr=log)
        self.started()
        deadline = time.monotonic() + _READY_SECONDS
        while ready and "reading alerts" not in self.said()[seen:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start:\n{self.said()[seen:][-2000:]}")
            time.sleep(0.02)

    def said(self) -> str:
        """Everything it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 90.0) -> int:
        """End it by a signal; returns its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(seconds)

    def wait_end(self, seconds: float) -> bool:
        """Wait for it to end by itself; whether it did."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def publish(self, alerts: Iterable[Mapping[str, Any]]) -> None:
        """Put alerts on the topic, in order, and wait until Kafka has them."""
        for record in alerts:
            self._producer.produce(
                self.settings.topics.alerts, encode("Alert", record), str(record["deployment_id"]).encode()
            )
        if self._producer.flush(30):
            raise RuntimeError("Kafka did not take the alerts within 30 s")

    def count(self, query: str) -> int:
        """The number that a query gives; 0 while there is no database."""
        try:
            with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10) as connection:
                return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    @property
    def unfinished(self) -> int:
        """Messages that are decided on and neither sent nor given up, and threads that are due."""
        waiting = self.count("select count(*) from notifications where status in ('pending', 'sending')")
        now = time.time_ns() // 1_000_000
        return waiting + self.count(f"select count(*) from threads where next_flush_ms <= {now}")


@contextmanager
def broker() -> Iterator[tuple[str, Path]]:
    """A running broker and a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder) / "broker") as running:
        yield running.bootstrap_servers, Path(folder)


def wait_for(condition: Any, seconds: float, pause: float = 0.05) -> bool:
    """Wait until a condition holds; whether it came to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
