"""What the tests of the alerting service share: alerts, a topic of their own, local receivers, a running service."""

import asyncio
import dataclasses
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from driftline.codec import Record, decode, encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.alerting.service import AlertingService
from services.alerting.settings import (
    AlertingSettings,
    Destination,
    Pace,
    PagerDutySettings,
    SlackSettings,
)
from services.demo.receivers import RecordingReceiver
from services.kafka import Publisher, read_to_end
from services.topics import ensure_topics

MakeAlert = Callable[..., Record]

_NUMERIC_BINS = [
    "< -5",
    "-5 – 0.5",
    *(f"{10 * i + 0.5:g} – {10 * i + 10.5:g}" for i in range(10)),
    "100.5 – 120",
    "≥ 120",
    "(missing)",
]


def effects(**changes: Any) -> Record:
    """Of 1,000 rows that are worth 400 independent ones."""
    sizes = {"psi": 0.83, "jensen_shannon": 0.4, "total_variation": 0.52, "hellinger": 0.3, "kl": 0.9}
    ordered = {"kolmogorov_smirnov": 0.52, "kolmogorov_smirnov_error": 0.1, "wasserstein": 31.5, "wasserstein_error": 9}
    intervals = {"total_variation": [0.47, 0.57], "psi": [0.7, 1.0]}
    return {**sizes, **ordered, "chi_square": 2.7, "independent_rows": 400.0, "intervals": intervals, **changes}


def numeric_cause(stream: str = "temperature", **changes: Any) -> Record:
    """62 % of 1000 rows above the 9th decile."""
    cause = {
        "stream": stream,
        "role": "feature",
        "evidence_share": 0.8,
        "log_evidence_nats": 20.0,
        "change_time_us": 1_371_045_600_000_000,
        "rows": 1000,
        "effects": effects(),
        "tv_low": 0.47,
        "tv_high": 0.57,
        "bins": _NUMERIC_BINS,
        "expected": [0.0001, 0.005, *([0.0988] * 10), 0.005, 0.0001, 0.0018],
        "observed": [0, 2, *([42] * 9), 600, 20, 0, 0],
    }
    return {**cause, **changes}


def categorical_cause(stream: str = "carrier", **changes: Any) -> Record:
    """A category that went from 10 % to 40 %."""
    labels = ["AA", "UA", "DL", *([""] * 17), "(other)", "(unseen)", "(missing)"]
    cause = numeric_cause(stream, evidence_share=0.2, bins=labels)
    cause["expected"] = [0.1, 0.5, 0.39, *([0.0] * 17), 0.01, 0.0, 0.0]
    cause["observed"] = [400, 300, 290, *([0] * 17), 10, 0, 0]
    return {**cause, **changes}


def build_alert(number: int = 1, status: str = "firing", **changes: Any) -> Record:
    """Alert ``number``: its firing and its resolve belong together."""
    deployment = changes.get("deployment_id", "credit")
    incident = changes.pop("incident_key", f"{deployment}/1/data_drift/0/{number}")
    alert = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{incident}/{status}")),
        "incident_key": incident,
        "deployment_id": deployment,
        "model_id": "credit-scorer",
        "model_version": "1",
        "monitor": "data_drift",
        "severity": "error",
        "status": status,
        "episode": number,
        "change_time_us": 1_371_045_600_000_000,
        "detection_time_us": 1_371_057_600_000_000 + (0 if status == "firing" else 86_400_000_000),
        "trigger_time_ms": 1_700_000_000_000,
        "log_evidence_nats": 21.3,
        "threshold_nats": 17.4,
        "rows_since_change": 12_345,
        "causes": [numeric_cause(), categorical_cause()],
        "evidence_offsets": [{"topic": "predictions", "partition": 0, "first_offset": 10, "last_offset": 20}],
        "baseline_digest": "ab" * 32,
        "spec_revision": 1,
        "false_alarms": "at most 1 false alarm expected per 30 days over the whole fleet",
        "owner": "risk-team",
        "tags": {"tier": "1"},
        "runbook_url": "https://wiki.example.org/runbooks/drift",
        "diagnosis": "",
    }
    return {**alert, **changes}


@pytest.fixture(scope="session")
def make_alert() -> MakeAlert:
    """Builds alerts; ``make_alert(n, "resolved")`` ends ``make_alert(n)``."""
    return build_alert


class Cluster:
    """Topics of a test's own on the session's broker."""

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        self.settings = KafkaSettings(bootstrap_servers, Topics(prefix))
        self.prefix = prefix
        ensure_topics(self.settings, partitions=1)

    def publish(self, *alerts: Record) -> None:
        """Put alerts on the topic, in order."""
        self.publish_raw(*(encode("Alert", alert) for alert in alerts))

    def publish_raw(self, *values: bytes) -> None:
        """Put bytes on the topic ``alerts``."""
        with Publisher(self.settings) as publisher:
            for value in values:
                publisher.send(self.settings.topics.alerts, b"key", value, [("origin", b"test")])

    def records(self, topic: str) -> list[Record]:
        """Everything on a topic, decoded."""
        return [decode(message.value())[1] for message in read_to_end(self.settings, topic)]

    def audit(self, action: str | None = None) -> list[Record]:
        """The audit events, of one action if it is named; every id once."""
        events = {event["id"]: event for event in self.records(self.settings.topics.audit)}
        return [event for event in events.values() if action is None or event["action"] == action]


@pytest.fixture
def cluster(bootstrap_servers: str, topic_prefix: str) -> Cluster:
    """Kafka with the topics of an installation of the test's own."""
    return Cluster(bootstrap_servers, topic_prefix)


@pytest.fixture
def receiver() -> Iterator[RecordingReceiver]:
    """Slack and PagerDuty on the loopback interface."""
    with RecordingReceiver() as running:
        yield running


QUICK = Pace(1000.0, 1000)


class Destinations:
    """Destinations at the local receivers."""

    def __init__(self, receiver: RecordingReceiver) -> None:
        self._receiver = receiver

    def pagerduty(self, **changes: Any) -> PagerDutySettings:
        """PagerDuty."""
        settings = PagerDutySettings("pagerduty", SecretStr("R" * 32), self._receiver.pagerduty_url)
        return dataclasses.replace(settings, **{"pace": QUICK, "timeout_seconds": 2.0, **changes})

    def slack_webhook(self, **changes: Any) -> SlackSettings:
        """Slack, by webhook."""
        settings = SlackSettings("slack", webhook_url=SecretStr(self._receiver.slack_webhook_url))
        return dataclasses.replace(settings, **{"pace": QUICK, "timeout_seconds": 2.0, **changes})

    def slack_token(self, **changes: Any) -> SlackSettings:
        """Slack, by token."""
        token = SecretStr("xoxb-a-token")
        settings = SlackSettings("slack", token=token, channel="C123", api_url=self._receiver.slack_api_url)
        return dataclasses.replace(settings, **{"pace": QUICK, "timeout_seconds": 2.0, **changes})


@pytest.fixture
def destinations(receiver: RecordingReceiver) -> Destinations:
    """Makes destinations at the local receivers."""
    return Destinations(receiver)


class RunningService:
    """The service in a thread of its own."""

    def __init__(self, kafka: KafkaSettings, settings: AlertingSettings, port: int = 0) -> None:
        self._service = AlertingService(kafka, settings, port=port, chance=random.Random(1))
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._ready.wait(0.05):
            assert self._thread.is_alive(), f"the service ended: {self.error!r}"
            assert time.monotonic() < deadline, "the service is not ready after 30 s"

    def _run(self) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await self._service.run(self._ready.set)

        try:
            asyncio.run(run())
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """End the service in order and fail if it failed."""
        if self._thread.is_alive():
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._service.stop)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the service did not end"
        if self.error is not None:
            raise self.error


StartService = Callable[..., RunningService]


@pytest.fixture
def start_service(cluster: Cluster, tmp_path: Path) -> Iterator[StartService]:
    """Starts a service with the destinations given; every start in a test shares one database."""
    running: list[RunningService] = []

    def start(*destinations: Destination, port: int = 0, **settings: Any) -> RunningService:
        url = f"sqlite:///{tmp_path / 'alerting.db'}"
        service = RunningService(
            cluster.settings, AlertingSettings(destinations=destinations, database_url=url, **settings), port
        )
        running.append(service)
        return service

    yield start
    for service in running:
        service.stop()
