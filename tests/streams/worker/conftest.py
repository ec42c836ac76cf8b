"""Workers as processes on a real broker, and what they leave on its topics."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from driftline.codec import decode, encode
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER, Topics, baseline_key, record_key
from services.kafka import Publisher
from services.topics import ensure_topics
from streams.baseline import Baseline
from streams.messages import Message
from streams.output import END_PREFIX
from streams.specification import DeploymentSpec

START = "import typer; from services.worker import worker; typer.run(worker)"
SESSION_SECONDS = 2
"""How long a killed worker is missed before its partitions are given away."""


@dataclass
class Found:
    """A record on a topic."""

    key: bytes | None
    partition: int
    name: str
    record: Mapping[str, Any]


class WorkerProcess:
    """``driftline worker`` as a process of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, data_dir: Path) -> None:
        self.log, self.data_dir = log, data_dir
        self.told_to_end = False
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout: float = 15) -> int:
        """End it as a supervisor does; its exit status."""
        self.told_to_end = True
        self.process.terminate()
        return self.process.wait(timeout)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")


class World:
    """An installation of its own on the broker: topics, publishers, workers, and eyes."""

    def __init__(self, bootstrap_servers: str, prefix: str, folder: Path, partitions: int) -> None:
        self.settings = KafkaSettings(bootstrap_servers, Topics(prefix), application_id=prefix.strip("."))
        self.topics = self.settings.topics
        self.partitions = partitions
        self.workers: list[WorkerProcess] = []
        self.specs: dict[str, DeploymentSpec] = {}
        self.baselines: dict[str, Baseline] = {}
        self._folder = folder
        self._started = 0
        self._state_reader: Consumer | None = None
        self._state: dict[tuple[int, bytes], dict[str, Any]] = {}
        ensure_topics(self.settings, partitions, 1)
        self.producer = Producer(
            self.settings.client(
                partitioner=PARTITIONER,
                enable_idempotence=True,
                compression_type="lz4",
                linger_ms=2,
                message_max_bytes=12 << 20,
            )
            | {"log_level": 0}
        )

    def put(self, *specs_and_baselines: DeploymentSpec | Baseline, transactional_id: str | None = None) -> None:
        """Publish specifications and baselines; returns when they are acknowledged."""
        with Publisher(self.settings, transactional_id=transactional_id) as publisher:
            for each in specs_and_baselines:
                if isinstance(each, Baseline):
                    key = baseline_key(each.deployment_id, each.model_version)
                    self.baselines[each.digest] = each
                    publisher.send(self.topics.baselines, key, encode("Baseline", each.to_record()))
                else:
                    self.specs[each.digest()] = each
                    key = record_key(each.deployment_id)
                    publisher.send(self.topics.deployments, key, encode("DeploymentSpec", each.to_record()))

    def send(
        self,
        what: PredictionColumns | OutcomeColumns | bytes | None,
        *,
        key: bytes | None = None,
        topic: str = "",
        **options: Any,
    ) -> None:
        """Publish a batch, or any bytes."""
        if isinstance(what, PredictionColumns):
            key = key or record_key(what.deployment_id)
            options.setdefault("timestamp", int(what.timestamps_us.max()) // 1000)
            what = encode("PredictionBatch", what.to_record())
        elif isinstance(what, OutcomeColumns):
            key, topic = key or record_key(what.deployment_id), self.topics.outcomes
            options.setdefault("timestamp", int(what.actual_timestamps_us.max()) // 1000)
            what = encode("OutcomeBatch", what.to_record())
        self.producer.produce(topic or self.topics.predictions, what, key, **options)
        self.producer.poll(0)

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def start(self, *options: str, before: str = "", data_dir: Path | None = None) -> WorkerProcess:
        """Start a worker; ``before`` is Python that runs first, to break something."""
        number, self._started = self._started, self._started + 1
        data_dir = data_dir or self._folder / f"worker-{number}"
        environment = {
            **os.environ,
            "DRIFTLINE_BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": self.topics.prefix,
            "DRIFTLINE_APPLICATION_ID": self.settings.application_id,
        }
        command = [sys.executable, "-c", before + START, "--data-dir", str(data_dir)]
        command += ["--session-seconds", str(SESSION_SECONDS), *options]
        worker = WorkerProcess(command, environment, self._folder / f"worker-{number}.log", data_dir)
        self.workers.append(worker)
        return worker

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of every source partition."""
        reader = self._reader("ends")
        found = {}
        for topic in (self.topics.predictions, self.topics.outcomes):
            for partition in range(self.partitions):
                at = TopicPartition(topic, partition)
                found[topic, partition] = reader.get_watermark_offsets(at, timeout=10)[1]
        reader.close()
        return found

    def state(self) -> dict[tuple[int, bytes], dict[str, Any]]:
        """The streams' state as it stands: partition and key to fields."""
        if self._state_reader is None:
            self._state_reader = self._reader("state")
            self._state_reader.assign([TopicPartition(self.topics.streams_state, p, 0) for p in range(self.partitions)])
        while messages := self._state_reader.consume(500, 0.1):
            for message in messages:
                if message.error() is not None:
                    continue
                at = int(message.partition() or 0), message.key() or b""
                if message.value() is None:
                    self._state.pop(at, None)
                else:
                    self._state[at] = decode(message.value())[1]["fields"]
        return self._state

    def open_partitions(self) -> set[int]:
        """Partitions that a worker says it has opened."""
        found = set()
        for worker in self.workers:
            found |= {int(number) for number in re.findall(r"partition (\d+): open at", worker.text)}
        return found

    def position(self, partition: int, topic: str = "predictions") -> int:
        return int(self.state().get((partition, b"position"), {}).get(topic, 0))

    def wait(self, condition: Callable[[], Any], seconds: float = 40, *, supervised: bool = False) -> Any:
        """Wait until something is so; a worker that ends meanwhile is an error, or started again if supervised."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            for worker in self.workers:
                if not (worker.running or worker.told_to_end or worker.process.returncode == -signal.SIGKILL):
                    assert supervised, f"a worker ended with {worker.process.returncode}: {worker.text[-3000:]}"
                    self.workers.remove(worker)
                    self.start()
                    break
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.workers[-1].text[-3000:]}"
            time.sleep(0.05)
        return found

    def wait_applied(self, seconds: float = 40, *, supervised: bool = False) -> None:
        """Wait until everything that was published is applied."""
        self.flush()
        ends = self.ends()

        def applied() -> bool:
            self.state()
            return all(
                self.position(partition, "predictions" if topic == self.topics.predictions else "outcomes") >= end
                for (topic, partition), end in ends.items()
            )

        self.wait(applied, seconds, supervised=supervised)

    def counters(self, deployment_id: str) -> dict[str, int]:
        """The counters of a deployment, over all partitions."""
        total: dict[str, int] = defaultdict(int)
        for (_, key), fields in self.state().items():
            if key == f"deployment/{deployment_id}".encode():
                for name in ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows"):
                    total[name] += fields[name]
        return total

    def digest(self) -> str:
        """A hash of the whole state."""
        return hashlib.sha256(repr(sorted(self.state().items())).encode()).hexdigest()

    def read(self, topic: str) -> list[Found]:
        """Every committed record of a topic, by its attribute name."""
        found = []
        for message in self.messages(getattr(self.topics, topic)):
            name, record = decode(message.value)
            found.append(Found(message.key, message.partition, name, record))
        return found

    def messages(self, topic: str) -> list[Message]:
        """Every committed message of a topic."""
        reader = self._reader("read")
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        reader.assign([TopicPartition(topic, p, 0) for p in partitions])
        found, left = [], set(partitions)
        while left:
            message = reader.poll(5)
            assert message is not None, "the broker does not answer"
            error = message.error()
            if error is None:
                headers: Any = tuple(message.headers() or ())
                sent_ms = message.timestamp()[1]
                found.append(
                    Message(
                        topic,
                        int(message.partition() or 0),
                        int(message.offset() or 0),
                        sent_ms,
                        message.key(),
                        message.value(),
                        headers,
                    )
                )
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                left.discard(int(message.partition() or 0))
        reader.close()
        return found

    def dead_letters(self) -> list[Mapping[str, Any]]:
        return [found.record for found in self.read("dead_letters")]

    def _reader(self, purpose: str) -> Consumer:
        return Consumer(
            self.settings.client(
                group_id=f"test-{purpose}",
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_partition_eof=True,
                fetch_wait_max_ms=20,
            )
            | {"log_level": 0}
        )

    def close(self) -> None:
        for worker in self.workers:
            if worker.running:
                worker.process.send_signal(signal.SIGCONT)
                worker.kill()
        if self._state_reader is not None:
            self._state_reader.close()


@pytest.fixture
def worlds(bootstrap_servers: str, topic_prefix: str, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds on the session's broker."""
    made: list[World] = []

    def make(partitions: int = 1) -> World:
        folder = tmp_path / f"world-{len(made)}"
        folder.mkdir()
        made.append(World(bootstrap_servers, f"{len(made)}{topic_prefix}", folder, partitions))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture(scope="session")
def check_replay(samples: Any) -> Callable[[World], None]:
    """Holds a world's state and output to a replay of its log in the order that was written down."""

    def check(world: World) -> None:
        sources = {
            (message.topic, message.partition, message.offset): message
            for topic in (world.topics.predictions, world.topics.outcomes)
            for message in world.messages(topic)
        }
        orders: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for found in world.read("streams_order"):
            orders[found.record["partition"]] += found.record["entries"]
        state: dict[tuple[int, bytes], dict[str, Any]] = {}
        emitted: dict[str, list[Any]] = defaultdict(list)
        for partition, entries in orders.items():
            machine = samples.empty_machine(partition, world.topics)
            for entry in entries:
                if entry["source"] == "control":
                    digest = entry["digest"]
                    if digest.startswith(END_PREFIX):
                        machine.partition.end(digest.removeprefix(END_PREFIX))
                        continue
                    machine.put(world.specs.get(digest) or world.baselines[digest])
                    continue
                if entry["source"] == "clock":
                    machine.pass_time(entry["first_offset"])
                    continue
                for offset in range(entry["first_offset"], entry["last_offset"] + 1):
                    machine.apply(sources.pop((entry["source"], partition, offset)))  # each one once
            machine.commit()
            state |= {(partition, key): fields for key, fields in machine.records.items()}
            for emission in machine.emissions:
                emitted[emission.topic].append(decode(encode(emission.record_name, emission.record))[1])
        assert not sources, "every message was applied"
        assert world.state() == state
        for topic in ("windows", "humility", "alerts", "audit", "dead_letters"):
            assert sorted(map(repr, (found.record for found in world.read(topic)))) == sorted(
                map(repr, emitted[topic])
            ), f"{topic}: what was committed is what follows from the log, once"

    return check


@pytest.fixture
def world_on() -> Any:
    """The class, for tests that have a broker of their own."""
    return World
