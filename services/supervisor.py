"""Everything on one machine: broker, stream workers, alerting, governance, kept running together."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException

from driftline.settings import DEFAULT_BOOTSTRAP_SERVERS, KafkaSettings
from services.broker.errors import BrokerError
from services.child import Child, ChildPlan, Patience
from services.errors import ServicesError
from services.kafka import admin_client, answer
from services.topics import TopicsReport, ensure_topics

if TYPE_CHECKING:
    from services.broker.embedded import EmbeddedBroker

BROKER = "broker"
_BOOTSTRAP = "DRIFTLINE_BOOTSTRAP_SERVERS"
_CONNECTION = "DRIFTLINE_ALERTING_CONNECTION_FILE"
# A message under way may take its time-out of 15 s, and what it did is to be put on record.
_ALERTING_STOP_SECONDS = 45.0
_WATCH_SECONDS = 0.5
_READY_POLL_SECONDS = 0.3


class SupervisorError(ServicesError):
    """Something that has to run does not."""


@dataclass(frozen=True, slots=True)
class Status:
    """What became of one of the supervised: its process id, how often it was started again, why it was given up."""

    name: str
    pid: int | None
    restarts: int
    given_up: str | None


def needs_broker(environment: Mapping[str, str] | None = None) -> bool:
    """Whether no cluster is named by ``DRIFTLINE_BOOTSTRAP_SERVERS`` or the file ``DRIFTLINE_CONFIG``."""
    env = os.environ if environment is None else environment
    if env.get(_BOOTSTRAP):
        return False
    return KafkaSettings.from_environment(env).bootstrap_servers in ("", DEFAULT_BOOTSTRAP_SERVERS)


class Supervisor:
    """Runs Driftline's processes on this machine, and starts again what ends.

    ``start()``:

    1. Start the embedded broker, unless a cluster is named.
    2. Create the topics that are missing.
    3. Start workers, alerting and governance, each a process of its own with a log in ``<data_dir>/logs``. Alerting
       writes where it listens, with a token for this user, to ``<data_dir>/alerting.json``.

    ``stop()`` ends them in the order worker, alerting, governance, broker: whoever writes goes before whoever reads.
    When this process dies, however it dies, the kernel kills them (Linux).

    Args:
        data_dir: Holds the broker's data, logs, databases and keys.
        environment: Variables to add to this process's for the children; they win.
        workers: Number of stream workers.
        broker: Run the embedded broker; None if no cluster is named.
        port: The broker's; None for that of the last run, or a free one.
        children: What to run in place of the usual processes.
        say: Told what happens, by name and text; every line of a child goes to ``echo``.
        echo: Told every line a child prints.
        patience: When to start a child again.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        environment: Mapping[str, str] | None = None,
        workers: int = 1,
        broker: bool | None = None,
        port: int | None = None,
        children: Sequence[ChildPlan] | None = None,
        say: Callable[[str, str], None] | None = None,
        echo: Callable[[str, str], None] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._environment = os.environ | dict(environment or {})
        self._with_broker = needs_broker(self._environment) if broker is None else broker
        self._port = port
        self._plans = list(usual_children(self.data_dir, workers) if children is None else children)
        self._workers = sum(plan.name.startswith("worker") for plan in self._plans) if children is None else 0
        self._with_alerting = children is None
        self._say = say or _silent
        self._echo = echo or _silent
        self._patience = patience or Patience()
        self._broker: EmbeddedBroker | None = None
        self._broker_lock = threading.Lock()
        self._broker_restarts = 0
        self._broker_given_up: str | None = None
        self._stopping = threading.Event()
        self._children: list[Child] = []
        self.topics: TopicsReport | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka listens."""
        return self.settings.bootstrap_servers

    @property
    def settings(self) -> KafkaSettings:
        """How the children reach Kafka."""
        return KafkaSettings.from_environment(self._environment)

    @property
    def restarts(self) -> int:
        """How often anything was started again."""
        return self._broker_restarts + sum(child.restarts for child in self._children)

    @property
    def connection_file(self) -> Path:
        """Where commands find the alerting service."""
        return Path(self._environment.get(_CONNECTION) or self.data_dir / "alerting.json")

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.data_dir / "logs"

    def statuses(self) -> list[Status]:
        """What became of each so far."""
        found = [Status(c.plan.name, c.pid, c.restarts, c.given_up) for c in self._children]
        if self._broker is not None:
            found.insert(0, Status(BROKER, self._broker_pid(), self._broker_restarts, self._broker_given_up))
        return found

    def start(self) -> None:
        """Start everything; see the class.

        Raises:
            ServicesError: The broker does not come up, the cluster does not answer, or the topics do not fit; nothing
                is left running.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        for name, value in self._places().items():
            self._environment.setdefault(name, value)
        try:
            if self._with_broker:
                self._start_broker()
            self.topics = ensure_topics(self.settings)
            if self._with_alerting:
                self.connection_file.unlink(missing_ok=True)  # of a run that was killed: nobody listens there any more
            self._children = [
                Child(
                    plan,
                    self._environment,
                    self.logs / f"{plan.name}.log",
                    say=self._say,
                    echo=self._echo,
                    patience=self._patience,
                )
                for plan in self._plans
            ]
            for child in self._children:
                child.start()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout_seconds: float = 60.0) -> None:
        """Return when every child runs, the workers have shared out the partitions and alerting answers commands.

        Raises:
            SupervisorError: They have not in time, or one was given up.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (all(child.pid for child in self._children) and self._workers_joined() and self._alerting_answers()):
            self.require_alive()
            if time.monotonic() > deadline:
                waiting = [c.plan.name for c in self._children if not c.pid]
                waiting = waiting or (["the workers' consumer group"] if self._alerting_answers() else ["alerting"])
                late = f"not ready after {timeout_seconds:.0f} s: waiting for {', '.join(waiting)}"
                raise SupervisorError(f"{late}; logs are in {self.logs}")
            time.sleep(_READY_POLL_SECONDS)

    def require_alive(self) -> None:
        """Raise if anything was given up.

        Raises:
            SupervisorError: Names it, with the last lines it printed.
        """
        if self._broker_given_up is not None:
            raise SupervisorError(f"the broker was given up: {self._broker_given_up}")
        for child in self._children:
            if child.given_up is not None:
                lines = "\n".join(f"  {line}" for line in child.last_lines)
                log = self.logs / f"{child.plan.name}.log"
                raise SupervisorError(f"{child.plan.name} was given up: {child.given_up}. Its log: {log}\n{lines}")

    def stop(self) -> None:
        """Stop everything in order; without effect when nothing runs."""
        self._stopping.set()
        for group in _by_rank(self._children):
            for child in group:
                child.ask_to_stop()
            for child in group:
                child.await_stop()
        with self._broker_lock:
            if self._broker is not None:
                self._broker.stop()
                self._broker = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _places(self) -> dict[str, str]:
        """Where the children keep what they keep, unless the environment says otherwise."""
        return {
            "DRIFTLINE_GOVERNANCE_DATABASE_URL": f"sqlite:///{self.data_dir / 'governance.db'}",
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{self.data_dir / 'alerting.db'}",
            _CONNECTION: str(self.data_dir / "alerting.json"),
            "DRIFTLINE_ALERTING_TOKENS": str(self.data_dir / "tokens.yaml"),
            "DRIFTLINE_AUDIT_KEY_FILE": str(self.data_dir / "audit-key"),
            "PYTHONUNBUFFERED": "1",
        }

    def _start_broker(self) -> None:
        from services.broker.embedded import EmbeddedBroker

        try:
            broker = EmbeddedBroker(self.data_dir / BROKER, port=self._port)
            broker.start()
        except BrokerError as error:
            raise SupervisorError(str(error)) from error
        self._broker = broker
        self._environment[_BOOTSTRAP] = broker.bootstrap_servers
        self._say(BROKER, f"started, process {broker.pid}")
        threading.Thread(target=self._watch_broker, name="supervise-broker", daemon=True).start()

    def _watch_broker(self) -> None:
        failures, began = 0, time.monotonic()
        while not self._stopping.wait(_WATCH_SECONDS):
            why = self._broker_ended()
            if why is None:
                continue
            quick = time.monotonic() - began < self._patience.quick_seconds
            failures = failures + 1 if quick else 0
            if failures >= self._patience.quick_failures:
                self._broker_given_up = why
                self._say(BROKER, f"given up: {why}")
                return
            delay = self._patience.delay_seconds(failures)
            self._say(BROKER, f"{why}; starting it again in {delay:g} s")
            if self._stopping.wait(delay):
                return
            began = time.monotonic()
            self._restart_broker()

    def _broker_ended(self) -> str | None:
        with self._broker_lock:
            if self._broker is None or self._stopping.is_set():
                return None
            try:
                return "it ended by itself" if self._broker.wait(0) else None
            except BrokerError as error:
                return str(error).split(". The end of", 1)[0]

    def _restart_broker(self) -> None:
        with self._broker_lock:
            if self._broker is None or self._stopping.is_set():
                return
            self._broker_restarts += 1
            try:
                self._broker.stop()
                self._broker.start()
            except BrokerError as error:
                self._say(BROKER, str(error))
                return
            self._say(BROKER, f"started, process {self._broker.pid}")

    def _broker_pid(self) -> int | None:
        broker = self._broker
        try:
            return None if broker is None else broker.pid
        except BrokerError:
            return None

    def _alerting_answers(self) -> bool:
        """Whether alerting has said where it listens."""
        return not self._with_alerting or self.connection_file.exists()

    def _workers_joined(self) -> bool:
        """Whether the streams' consumer group is settled and has all workers."""
        if not self._workers:
            return True
        group = self.settings.application_id
        try:
            admin = admin_client(self.settings)
            described = answer(admin.describe_consumer_groups([group], request_timeout=5.0)[group], 6.0)
        except (KafkaException, ServicesError):
            return False
        return described.state.name == "STABLE" and len(described.members) >= self._workers


def usual_children(data_dir: Path, workers: int) -> Sequence[ChildPlan]:
    """Workers, alerting and governance, as commands of this installation."""
    command = [sys.executable, "-m", "services.cli.main"]
    plans = [
        ChildPlan(f"worker-{n}", [*command, "worker", "--data-dir", str(data_dir / f"worker-{n}")])
        for n in range(1, workers + 1)
    ]
    alerting = ChildPlan("alerting", [*command, "alerting"], _ALERTING_STOP_SECONDS)
    return [*plans, alerting, ChildPlan("governance", [*command, "governance"])]


def _by_rank(children: Sequence[Child]) -> list[list[Child]]:
    """Children in the order they stop: those that write before those that read; workers together."""
    groups: dict[str, list[Child]] = {}
    for child in children:
        groups.setdefault(child.plan.name.partition("-")[0], []).append(child)
    return list(groups.values())


def _silent(name: str, text: str) -> None:
    """Say nothing."""
