"""An embedded broker with Driftline's topics, and worker processes on it, measured from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Producer, TopicPartition

from driftline.codec import decode, encode
from driftline.events import PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER, Topics, baseline_key, record_key
from services.broker.embedded import EmbeddedBroker
from services.kafka import Publisher, consumer, read_to_end
from services.topics import ensure_topics
from streams.baseline import Baseline
from streams.specification import DeploymentSpec

PARTITIONS = 4
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cluster:
    """A running broker, its settings, and a directory that goes when it goes."""

    broker: EmbeddedBroker
    settings: KafkaSettings
    directory: Path

    def publish_deployments(self, deployments: Iterable[tuple[DeploymentSpec, Baseline]]) -> None:
        """Make deployments known."""
        topics = self.settings.topics
        with Publisher(self.settings) as publisher:
            for spec, baseline in deployments:
                name = spec.deployment_id
                publisher.send(topics.deployments, name.encode(), encode("DeploymentSpec", spec.to_record()))
                key = baseline_key(name, baseline.model_version)
                publisher.send(topics.baselines, key, encode("Baseline", baseline.to_record()))

    def producer(self) -> Producer:
        """A producer as the SDK's."""
        return Producer(
            self.settings.client(
                partitioner=PARTITIONER,
                compression_type="lz4",
                linger_ms=5,
                enable_idempotence=True,
                queue_buffering_max_kbytes=256 << 10,
            )
        )

    def fill(self, batches: Iterable[tuple[PredictionColumns, int]]) -> int:
        """Publish batches, each to a partition (-1: the one of its key), as fast as it goes; returns their rows."""
        producer, rows, topic = self.producer(), 0, self.settings.topics.predictions
        for columns, partition in batches:
            key, value = record_key(columns.deployment_id), encode("PredictionBatch", columns.to_record())
            while True:
                try:
                    producer.produce(topic, key=key, value=value, partition=partition)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            rows += columns.rows
        left = producer.flush(120)
        if left:
            raise RuntimeError(f"{left} batches were not acknowledged within 120 s")
        return rows

    def count(self, topic: str) -> int:
        """Committed messages on a topic."""
        return sum(1 for _ in read_to_end(self.settings, topic))


@dataclass(frozen=True, slots=True)
class Position:
    """A committed position: when its record was written to the log (milliseconds since 1970), messages applied."""

    partition: int
    time_ms: int
    predictions: int


class Positions:
    """Follows the committed positions."""

    def __init__(self, cluster_: Cluster) -> None:
        topic = cluster_.settings.topics.streams_state
        self._consumer = consumer(cluster_.settings, enable_partition_eof=False)
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
        self.all: list[Position] = []
        self.latest: dict[int, int] = {}

    def read(self) -> int:
        """Read what is new; returns the number of prediction messages applied and committed so far."""
        while messages := self._consumer.consume(1000, timeout=0.05):
            for message in messages:
                if message.key() == b"position":
                    at = decode(message.value())[1]["fields"]["predictions"]
                    position = Position(message.partition() or 0, message.timestamp()[1], at)
                    self.all.append(position)
                    self.latest[position.partition] = at
        return sum(self.latest.values())

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()


@contextmanager
def cluster(name: str, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run an embedded broker with empty topics for the length of the block."""
    with (
        tempfile.TemporaryDirectory(prefix=f"driftline-bench-{name}-") as directory,
        EmbeddedBroker(Path(directory) / "kafka", settings=settings) as broker,
    ):
        kafka = KafkaSettings(broker.bootstrap_servers, Topics("bench."), application_id=f"bench-{name}")
        ensure_topics(kafka, PARTITIONS, 1)
        yield Cluster(broker, kafka, Path(directory))


@dataclass
class WorkerProcess:
    """A ``driftline worker`` process; its log goes to a file in the cluster's directory."""

    cluster: Cluster
    process: subprocess.Popen[bytes] = field(init=False)
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        settings = self.cluster.settings
        environment = {
            **os.environ,
            "DRIFTLINE_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": settings.topics.prefix,
            "DRIFTLINE_APPLICATION_ID": settings.application_id,
        }
        self.log = self.cluster.directory / f"worker-{time.monotonic_ns()}.log"
        command = [str(Path(sys.executable).with_name("driftline")), "worker"]
        command += ["--data-dir", str(self.cluster.directory / "worker")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def require_alive(self) -> None:
        """Raise an error with the end of its log if the worker has ended."""
        if self.process.poll() is not None:
            end = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-30:])
            raise RuntimeError(f"the worker ended with status {self.process.returncode}:\n{end}")

    def cpu_seconds(self) -> float:
        """CPU time of all its threads, user and system."""
        return cpu_seconds(self.process.pid)

    def main_thread(self) -> tuple[float, float]:
        """Seconds the main thread has worked, and has waited for a core that others had."""
        worked, waited, _ = Path(f"/proc/{self.process.pid}/schedstat").read_text().split()
        return int(worked) / 1e9, int(waited) / 1e9

    def memory_bytes(self, name: str = "VmHWM") -> int:
        """Resident memory: ``VmHWM`` its peak, ``VmRSS`` now; 0 if the process has ended."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name)), 0)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, user and system."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _CLOCK_TICKS
