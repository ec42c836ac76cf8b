"""The state machine's share of joining: the same messages through the same functions, without Kafka, with timers.

One partition with its store on disk, and millions of predictions waiting on it. Then come as many predictions as
outcomes, as the topics hold them: encoded batches that are decoded, applied and taken for the journal, in one thread.
The limit is what that thread does if it decodes the same messages and nothing else.

The timers stand around the production functions and are there in a part of the run of their own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.outcomes.traffic import BATCH_ROWS, CATEGORICAL_FEATURES, NUMERIC_FEATURES, Delays, OutcomeTraffic
from bench.report import Figure, figure, print_table, within
from bench.stages import StageTimes
from driftline.codec import encode
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.topics import Topics, record_key
from streams.counting import RowCounter
from streams.decoding import decode_message
from streams.deployment import Version
from streams.identities import Identities
from streams.messages import Message
from streams.outcomes.keys import id_keys
from streams.outcomes.store import PendingStore, PendingTable
from streams.outcomes.tally import Tally
from streams.partition import Partition
from streams.statistics.performance.sums import count_pairs, count_predictions

PAIRS_PER_SECOND = 120_000
NAME = "deployment"
MESSAGES_PER_TAKE = 40
"""As a worker at full speed that commits each of four partitions three times a second."""

FILL_MESSAGES = 200

_FUNCTIONS = {
    decode_message: "decode",
    id_keys: "keys of ids",
    count_pairs: "sums",
    count_predictions: "sums",
}
_METHODS = (
    (Partition, "_apply_rows", "watching inputs"),
    (RowCounter, "read", "watching inputs"),
    (Identities, "unseen", "watching inputs"),
    (PendingTable, "put", "store: put"),
    (PendingTable, "get", "store: get"),
    (PendingStore, "checkpoint", "store: put"),
    (Tally, "count", "sums"),
    (Version, "count_pairs", "evidence of outcomes"),
    (Partition, "take", "state to commit"),
)


@contextmanager
def timers(times: StageTimes) -> Iterator[None]:
    """Timers around the stages, wherever their functions have been imported to."""
    changed: list[tuple[Any, str, Any]] = []
    for module in [module for name, module in sys.modules.items() if name.startswith(("streams.", "bench."))]:
        for name, value in list(vars(module).items()):
            if callable(value) and getattr(value, "__hash__", None) and value in _FUNCTIONS:
                changed.append((module, name, value))
    changed += [(owner, name, getattr(owner, name)) for owner, name, _ in _METHODS]
    stages = {(owner, name): stage for owner, name, stage in _METHODS}
    for owner, name, value in changed:
        stage = stages.get((owner, name)) or _FUNCTIONS[value]
        setattr(owner, name, times.timed(stage, value))
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


class Machine:
    """A partition with one deployment, and its store in a directory."""

    def __init__(self, traffic: OutcomeTraffic, directory: Path) -> None:
        ((self._spec, self._baseline),) = traffic.deployments([NAME])
        self.topics = Topics("bench.")
        self.store = PendingStore(directory)
        self.partition = Partition(0, self.topics, self.store)
        self.partition.put_spec_in_force(self._spec)
        self.partition.put_baseline_in_force(self._baseline)
        self._offsets = {self.topics.predictions: 0, self.topics.outcomes: 0}

    def messages(self, batches: Iterable[PredictionColumns | OutcomeColumns]) -> list[Message]:
        """Batches as the topics hold them."""
        found, key = [], record_key(NAME)
        for columns in batches:
            if isinstance(columns, PredictionColumns):
                topic, name, time_us = self.topics.predictions, "PredictionBatch", columns.timestamps_us
            else:
                topic, name, time_us = self.topics.outcomes, "OutcomeBatch", columns.actual_timestamps_us
            offset = self._offsets[topic]
            self._offsets[topic] += 1
            value = encode(name, columns.to_record())
            found.append(Message(topic, 0, offset, int(time_us.max()) // 1000, key, value))
        return found

    def apply(self, messages: Iterable[Message]) -> None:
        """Decode and apply messages, and take what is to be committed."""
        for number, message in enumerate(messages, 1):
            self.partition.apply(decode_message(message, self.topics))
            if number % MESSAGES_PER_TAKE == 0:
                self.partition.take()

    def fill(self, traffic: OutcomeTraffic, rows: int) -> None:
        """Let the first rows wait."""
        step = FILL_MESSAGES * BATCH_ROWS
        for begin in range(0, rows, step):
            self.apply(self.messages(traffic.prediction_batches(NAME, begin, min(begin + step, rows))))

    def joined(self) -> int:
        """Outcomes that found their prediction so far."""
        join = self.partition._deployments[NAME].join
        assert join is not None
        return join.counters["joined_outcomes"]


@dataclass(frozen=True)
class Machined:
    """Pairs, and the seconds of the thread that they took: decoded only, applied, and by stage."""

    pairs: int
    messages: int
    decoding: float
    applying: float
    staged_pairs: int
    stages: dict[str, float]


def alternating(*lists: list[Message]) -> list[Message]:
    """One of each in turn."""
    return [message for together in zip(*lists, strict=False) for message in together]


def run(pending: int, rows: int, seed: int = 0) -> Machined:
    """Join ``rows`` predictions and as many outcomes with so many predictions waiting; the half of it with timers."""
    traffic = OutcomeTraffic(Delays(rows, pending), seed)
    with tempfile.TemporaryDirectory(prefix="driftline-bench-machine-") as directory:
        machine = Machine(traffic, Path(directory))
        machine.fill(traffic, pending)
        predictions = machine.messages(traffic.prediction_batches(NAME, pending, pending + rows))
        outcomes = machine.messages(traffic.outcome_batches(NAME, pending, pending + rows))
        messages = alternating(predictions, outcomes)
        half = len(messages) // 4 * 2
        begin = time.thread_time()
        for message in messages[:half]:
            decode_message(message, machine.topics)
        decoding = time.thread_time() - begin
        begin = time.thread_time()
        machine.apply(messages[:half])
        applying, pairs = time.thread_time() - begin, machine.joined()
        times = StageTimes()
        with timers(times):
            times.timed("rest of joining", machine.apply)(messages[half:])
        staged = machine.joined() - pairs
        machine.store.close()
    expected = half // 2 * BATCH_ROWS
    if not expected * 0.999 <= pairs <= expected:
        raise AssertionError(f"{pairs:,} of {expected:,} outcomes found their prediction")
    return Machined(pairs, half, decoding, applying, staged, dict(times.seconds))


def measure(seed: int, quick: bool) -> list[Figure]:
    """Pairs in a second of one core, over what decoding alone allows; and microseconds by stage."""
    pending, rows = (300_000, 100_000) if quick else (2_500_000, 300_000)
    found = run(pending, rows, seed)
    rate, limit = found.pairs / found.applying, found.pairs / found.decoding
    note = f"{pending:,} waiting; batches of {BATCH_ROWS}, {NUMERIC_FEATURES}+{CATEGORICAL_FEATURES} features and score"
    figures = [
        figure("state machine: predictions, and outcomes, joined in a second of one core", rate, "1/s", note=note),
        figure("the same messages decoded only, in a second of one core", limit, "1/s", note="of each kind"),
        figure("state machine: share of the limit", rate / limit, "share"),
    ]
    for stage, seconds in sorted(found.stages.items(), key=lambda item: -item[1]):
        micros = seconds / found.staged_pairs * 1e6
        share = seconds / sum(found.stages.values())
        figures.append(figure(f"state machine: {stage}", micros, "µs/pair", note=f"{share:.0%}"))
    print_table(
        "Joining without Kafka, in time of one core",
        ("", "value", "unit", ""),
        ((r["metric"], within(r, f"{r['value']:,}"), r["unit"], r["note"]) for r in figures),
    )
    return figures
