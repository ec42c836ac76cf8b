"""One real worker on a real broker: joined rows a second, ten million predictions waiting, and the index lost.

    python -m bench.outcomes worker [--quick]

In this order, with a deployment on each of four partitions:

1. **without**: predictions of deployments that expect no outcomes; the worker's memory is what it has without.
2. **pending**: ten million predictions of deployments that do; memory and disk with all of them waiting.
3. **joined**: as many predictions as outcomes lie in the topics, the worker is started again and joins them, each
   commit a transaction. Counted from the moment at which every partition has committed to the last commit.
4. **rebuilt**: the worker is stopped, its data directory removed, one more batch published and the worker started:
   until it has committed that batch on every partition it has read all that waits again.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from bench.cluster import PARTITIONS, Cluster, WorkerProcess, cluster
from bench.outcomes.machine import NAME
from bench.outcomes.traffic import BATCH_ROWS, Delays, OutcomeTraffic
from bench.report import Figure, figure, print_table, within
from driftline.codec import decode, encode
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.topics import record_key
from services.kafka import consumer
from streams.baseline import Baseline
from streams.decoding import decode_message
from streams.messages import Message
from streams.specification import DeploymentSpec

PAIRS_PER_SECOND = 120_000
REBUILT_ROWS_PER_SECOND = 200_000
DISK_MIB, MEMORY_MIB = 2048, 500
WITHOUT_ROWS = 1_000_000
DEADLINE_SECONDS = 900
SAMPLE_SECONDS = 0.25
LIMIT_ROWS = 50_000

_EXPECTING = [f"{NAME}-{partition}" for partition in range(PARTITIONS)]
_PLAIN = [f"plain-{partition}" for partition in range(PARTITIONS)]


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a partition: when it was written to the log, and the messages applied by then."""

    partition: int
    time_ms: int
    predictions: int
    outcomes: int


class Commits:
    """Follows the committed positions of both topics."""

    def __init__(self, cluster_: Cluster) -> None:
        topic = cluster_.settings.topics.streams_state
        self._consumer = consumer(cluster_.settings, enable_partition_eof=False)
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
        self.all: list[Commit] = []
        self.latest: dict[int, Commit] = {}

    def read(self) -> None:
        """Read what is new."""
        while messages := self._consumer.consume(1000, timeout=0.05):
            for message in messages:
                if message.key() == b"position":
                    fields = decode(message.value())[1]["fields"]
                    at = message.partition() or 0, message.timestamp()[1], fields["predictions"], fields["outcomes"]
                    self.all.append(Commit(*at))
                    self.latest[self.all[-1].partition] = self.all[-1]

    def totals(self) -> tuple[int, int]:
        """Messages of the predictions and of the outcomes topic that were applied so far."""
        latest = self.latest.values()
        return sum(commit.predictions for commit in latest), sum(commit.outcomes for commit in latest)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()


@dataclass
class Peaks:
    """The most that a worker took while it was watched, MiB."""

    anonymous: float = 0.0
    resident: float = 0.0
    disk: float = 0.0

    def look(self, worker: WorkerProcess, directory: Path) -> None:
        """Look now."""
        self.anonymous = max(self.anonymous, worker.memory_bytes("RssAnon") / 2**20)
        self.resident = max(self.resident, worker.memory_bytes() / 2**20)
        self.disk = max(self.disk, _disk_bytes(directory) / 2**20)


def _disk_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass  # merged away meanwhile
    return total


@dataclass(frozen=True)
class Joined:
    """A worker's way through both topics, from the moment at which every partition had committed."""

    pairs: float
    seconds: float
    commits: int
    cpu_seconds: float
    main_seconds: float

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds


class Run:
    """The cluster, its traffic, and how much of it was published."""

    def __init__(self, running: Cluster, traffic: OutcomeTraffic) -> None:
        self.cluster, self.traffic = running, traffic
        self.commits = Commits(running)
        self.directory = running.directory / "worker"
        self.messages = [0, 0]

    def publish(self, batches: Iterable[tuple[PredictionColumns | OutcomeColumns, int]]) -> None:
        """Publish batches, each to a partition, as fast as it goes."""
        producer, topics = self.cluster.producer(), self.cluster.settings.topics
        for columns, partition in batches:
            is_prediction = isinstance(columns, PredictionColumns)
            topic = topics.predictions if is_prediction else topics.outcomes
            value = encode("PredictionBatch" if is_prediction else "OutcomeBatch", columns.to_record())
            self.messages[0 if is_prediction else 1] += 1
            while True:
                try:
                    producer.produce(topic, key=record_key(columns.deployment_id), value=value, partition=partition)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if left := producer.flush(120):
            raise RuntimeError(f"{left} batches were not acknowledged within 120 s")

    def predictions(self, names: Sequence[str], begin: int, end: int) -> Iterator[tuple[PredictionColumns, int]]:
        """Rows of each deployment, in turn."""
        each = [self.traffic.prediction_batches(name, begin, end) for name in names]
        for together in zip(*each, strict=True):
            yield from ((columns, partition) for partition, columns in enumerate(together))

    def outcomes(self, names: Sequence[str], begin: int, end: int) -> Iterator[tuple[OutcomeColumns, int]]:
        """What becomes known while these rows come, in turn."""
        each = [self.traffic.outcome_batches(name, begin, end) for name in names]
        for together in zip_longest(*each):
            yield from ((columns, partition) for partition, columns in enumerate(together) if columns is not None)

    def wait(self, worker: WorkerProcess, peaks: Peaks) -> None:
        """Wait until everything that was published is committed."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.commits.totals() != (self.messages[0], self.messages[1]):
            worker.require_alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.commits.totals()} of {self.messages} messages after {DEADLINE_SECONDS} s")
            time.sleep(SAMPLE_SECONDS)
            self.commits.read()
            peaks.look(worker, self.directory)

    def let_wait(self, names: Sequence[str], rows: int) -> Peaks:
        """Publish predictions and have them applied."""
        self.publish(self.predictions(names, 0, rows // len(names)))
        peaks = Peaks()
        with WorkerProcess(self.cluster) as worker:
            self.wait(worker, peaks)
        return peaks

    def join(self, begin_row: int, end_row: int, peaks: Peaks) -> Joined:
        """Publish these rows of each deployment and what becomes known meanwhile, and have them joined."""
        rows = begin_row, end_row
        self.publish(_by_turns(self.predictions(_EXPECTING, *rows), self.outcomes(_EXPECTING, *rows)))
        self.commits.read()
        before, seen = self.commits.latest.copy(), len(self.commits.all)
        begin: tuple[float, ...] | None = None
        done_at_begin = (0, 0)
        with WorkerProcess(self.cluster) as worker:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while self.commits.totals() != (self.messages[0], self.messages[1]):
                worker.require_alive()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.commits.totals()} of {self.messages} messages in {DEADLINE_SECONDS} s")
                time.sleep(SAMPLE_SECONDS)
                self.commits.read()
                now = worker.cpu_seconds(), worker.main_thread()[0]
                peaks.look(worker, self.directory)
                if begin is None and all(self.commits.latest[p] != before[p] for p in range(PARTITIONS)):
                    begin, done_at_begin = now, self.commits.totals()
        if begin is None or self.commits.totals() == done_at_begin:
            raise RuntimeError(
                f"{end_row - begin_row} rows are too few: they were through before every partition had committed"
            )
        new = sorted(self.commits.all[seen:], key=lambda commit: commit.time_ms)
        firsts: dict[int, Commit] = {}
        for commit in new:
            firsts.setdefault(commit.partition, commit)
        begin_ms = max(commit.time_ms for commit in firsts.values())
        latest = {commit.partition: commit for commit in new if commit.time_ms <= begin_ms}
        messages = sum(self.messages) - sum(commit.predictions + commit.outcomes for commit in latest.values())
        cpu, main = (after - earlier for after, earlier in zip(now, begin, strict=True))
        staged = sum(self.messages) - sum(done_at_begin)
        return Joined(
            pairs=messages / 2 * BATCH_ROWS,
            seconds=(new[-1].time_ms - begin_ms) / 1000,
            commits=sum(commit.time_ms > begin_ms for commit in new),
            cpu_seconds=cpu / (staged / 2 * BATCH_ROWS),
            main_seconds=main / (staged / 2 * BATCH_ROWS),
        )

    def restart(self, row: int, *, lose_index: bool) -> float:
        """Seconds from the start of the worker's process until it has committed one more batch on every partition."""
        if lose_index:
            shutil.rmtree(self.directory)
        self.publish(self.predictions(_EXPECTING, row, row + BATCH_ROWS))
        begin = time.time() * 1000
        with WorkerProcess(self.cluster) as worker:
            self.wait(worker, Peaks())
        return (max(commit.time_ms for commit in self.commits.latest.values()) - begin) / 1000


def decoded_per_second(run: Run, begin: int) -> float:
    """Predictions, and as many outcomes, that one core of this machine decodes in a second of its time."""
    topics, offset, time_ms = run.cluster.settings.topics, 0, int(time.time() * 1000)
    end, messages = begin + LIMIT_ROWS, []
    for columns, partition in _by_turns(run.predictions(_EXPECTING, begin, end), run.outcomes(_EXPECTING, begin, end)):
        is_prediction = isinstance(columns, PredictionColumns)
        value = encode("PredictionBatch" if is_prediction else "OutcomeBatch", columns.to_record())
        topic = topics.predictions if is_prediction else topics.outcomes
        messages.append(Message(topic, partition, offset, time_ms, record_key(columns.deployment_id), value))
    begin_seconds = time.thread_time()
    for message in messages:
        decode_message(message, topics)
    return len(messages) / 2 * BATCH_ROWS / (time.thread_time() - begin_seconds)


def _by_turns(
    predictions: Iterator[tuple[PredictionColumns, int]], outcomes: Iterator[tuple[OutcomeColumns, int]]
) -> Iterator[tuple[PredictionColumns | OutcomeColumns, int]]:
    """One of each as long as there are both."""
    for prediction in predictions:
        yield prediction
        outcome = next(outcomes, None)
        if outcome is not None:
            yield outcome
    yield from outcomes


def _without_outcomes(
    deployments: Iterable[tuple[DeploymentSpec, Baseline]], names: Sequence[str]
) -> list[tuple[DeploymentSpec, Baseline]]:
    """The same deployments under other names, expecting no outcomes."""
    found = []
    for (spec, baseline), name in zip(deployments, names, strict=True):
        plain = dataclasses.replace(baseline, deployment_id=name, digest="")
        plain = dataclasses.replace(plain, digest=plain.content_digest())
        found.append((dataclasses.replace(spec, deployment_id=name, outcomes=None), plain))
    return found


def measure(seed: int, quick: bool) -> list[Figure]:
    """Ten million waiting, or a million if it is to be quick."""
    pending, rows = (1_000_000, 400_000) if quick else (10_000_000, 2_400_000)
    delays = Delays(rows // PARTITIONS, pending // PARTITIONS)
    traffic = OutcomeTraffic(delays, seed)
    with cluster("outcomes") as running:
        run = Run(running, traffic)
        deployments = traffic.deployments(_EXPECTING)
        running.publish_deployments([*deployments, *_without_outcomes(deployments, _PLAIN)])
        without = run.let_wait(_PLAIN, WITHOUT_ROWS)
        waiting = run.let_wait(_EXPECTING, pending)
        joining = Peaks()
        end = (pending + rows) // PARTITIONS
        joined = run.join(pending // PARTITIONS, end, joining)
        limit = decoded_per_second(run, pending // PARTITIONS)
        intact = run.restart(end, lose_index=False)
        rebuilt = run.restart(end + BATCH_ROWS, lose_index=True)
        again = pending + 2 * rows
    figures = [
        *_joined(joined, pending, limit),
        *_held(without, waiting, joining, pending, rows),
        *_rebuilt(again, intact, rebuilt),
    ]
    print_table(
        f"One worker, {pending:,} predictions waiting",
        ("", "value", "unit", "bound", ""),
        ((r["metric"], within(r, f"{r['value']:,}"), r["unit"], r["bound"] or "", r["note"]) for r in figures),
    )
    return figures


def _joined(joined: Joined, pending: int, limit: float) -> list[Figure]:
    note = f"{pending:,} waiting, batches of {BATCH_ROWS}, exactly-once, {PARTITIONS} partitions"
    cpu, main = joined.cpu_seconds, joined.main_seconds
    return [
        figure(
            "worker: predictions, and outcomes, joined in a second",
            joined.pairs_per_second,
            "1/s",
            at_least=PAIRS_PER_SECOND,
            note=note,
        ),
        figure("one core that decodes the same messages, and no more", limit, "1/s", note="of each kind"),
        figure("worker: share of that limit", joined.pairs_per_second / limit, "share"),
        figure(
            "worker: joined in a second of its main thread's time", 1 / main, "1/s", note="had it a core of its own"
        ),
        figure("worker: main thread working", main * 1e6, "µs/pair", note="a prediction and an outcome"),
        figure("worker: other threads working", (cpu - main) * 1e6, "µs/pair", note="fetching, journals, merging"),
        figure("worker: commits", joined.commits / joined.seconds, "1/s", note="transactions"),
    ]


def _held(without: Peaks, waiting: Peaks, joining: Peaks, pending: int, rows: int) -> list[Figure]:
    note = f"{pending:,} predictions waiting"
    more = f"and then {rows:,} predictions and outcomes more"
    return [
        figure("worker: disk", waiting.disk, "MiB", at_most=DISK_MIB, note=f"{note}, at most"),
        figure("worker: disk while joining", joining.disk, "MiB", at_most=DISK_MIB, note=more),
        figure(
            "worker: memory for what waits",
            waiting.anonymous - without.anonymous,
            "MiB",
            at_most=MEMORY_MIB,
            note=f"{note}: most anonymous memory, less that of a worker without outcomes",
        ),
        figure(
            "worker: memory for what waits, with the files' pages",
            waiting.resident - without.resident,
            "MiB",
            at_most=MEMORY_MIB,
            note="peak resident memory, less that without; the system takes pages of files back when it needs them",
        ),
        figure(
            "worker: memory while joining",
            joining.anonymous - without.anonymous,
            "MiB",
            at_most=MEMORY_MIB,
            note=f"anonymous, less that without; {more}",
        ),
        figure("worker: peak resident memory, without outcomes", without.resident, "MiB", note="whole process"),
        figure("worker: peak resident memory, waiting", waiting.resident, "MiB", note="whole process, files' pages"),
        figure("worker: peak resident memory, joining", joining.resident, "MiB", note="whole process, files' pages"),
    ]


def _rebuilt(rows: int, intact: float, rebuilt: float) -> list[Figure]:
    return [
        figure("worker: starting with its index", intact, "s", note="until one more batch is committed everywhere"),
        figure("worker: starting without its index", rebuilt, "s", note=f"{rows:,} rows of both topics read again"),
        figure(
            "worker: rows read again in a second",
            rows / rebuilt,
            "rows/s",
            at_least=REBUILT_ROWS_PER_SECOND,
            note="by all the time from the start of the process",
        ),
        figure(
            "worker: rows read again in a second, without the time of a start with its index",
            rows / max(rebuilt - intact, 1e-9),
            "rows/s",
        ),
    ]
