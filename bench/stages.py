"""Where the worker's time goes: the same messages, taken through the same functions in this process, with timers.

The timers stand around the production functions, none is inside them. What the worker's main thread used beyond them
is Faust, the event loop, and what a core loses by being shared; what its other threads used is measured too.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.cluster import Cluster
from bench.report import Figure, figure
from driftline.events import PredictionColumns
from driftline.topics import Topics
from services.kafka import read_to_end
from streams import partition as partition_module
from streams.baseline import Baseline
from streams.counting import RowCounter
from streams.decoding import decode_message
from streams.identities import Identities
from streams.journal import Journal
from streams.messages import Message
from streams.monitor import Monitors
from streams.partition import Partition
from streams.specification import DeploymentSpec

_STAGES: tuple[tuple[str, Any, str], ...] = (
    ("columns", RowCounter, "read"),
    ("identities", Identities, "unseen"),
    ("slots and windows", partition_module, "group_rows"),
    ("counting", RowCounter, "count"),
    ("evidence", Monitors, "count"),
    ("evidence", Monitors, "start"),
    ("evidence", Monitors, "take_time"),
    ("evidence", Monitors, "alarms"),
    ("evidence", Monitors, "resolutions"),
    ("slots and windows", Partition, "_count_window"),
    ("slots and windows", Partition, "_revise_windows"),
    ("slots and windows", Partition, "_close_windows"),
)


class StageTimes:
    """CPU seconds of this thread by stage; a stage inside another counts for itself only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._open.append(0.0)
            begin = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.thread_time() - begin
                self.seconds[stage] += spent - self._open.pop()
                if self._open:
                    self._open[-1] += spent

        return call


@contextmanager
def timers(times: StageTimes) -> Iterator[None]:
    originals = [getattr(owner, name) for _, owner, name in _STAGES]
    for (stage, owner, name), original in zip(_STAGES, originals, strict=True):
        setattr(owner, name, times.timed(stage, original))
    try:
        yield
    finally:
        for (_, owner, name), original in zip(_STAGES, originals, strict=True):
            setattr(owner, name, original)


def messages(cluster: Cluster, partition: int, count: int) -> list[Message]:
    """The first messages of a partition of the predictions topic."""
    topic, found = cluster.settings.topics.predictions, []
    for message in read_to_end(cluster.settings, topic, partitions=[partition]):
        offset, stamp = message.offset() or 0, message.timestamp()[1]
        found.append(Message(topic, partition, offset, stamp, message.key(), message.value()))
        if len(found) == count:
            break
    return found


def take_through(
    times: StageTimes,
    topics: Topics,
    given: Sequence[Message],
    deployment: tuple[DeploymentSpec, Baseline],
    journal: Journal,
    messages_per_commit: int,
) -> int:
    """Decode, apply and commit messages as the worker does; returns their rows."""
    spec, baseline = deployment
    rows, partition = 0, Partition(given[0].partition, topics)
    decode = times.timed("decode", decode_message)
    apply = times.timed("rest of applying", partition.apply)
    take = times.timed("state to commit", partition.take)
    with timers(times):
        partition.put_spec_in_force(spec)
        partition.put_baseline_in_force(baseline)
        for number, message in enumerate(given, 1):
            decoded = decode(message, topics)
            apply(decoded)
            if isinstance(decoded.columns, PredictionColumns):
                rows += decoded.columns.rows
            if number % messages_per_commit == 0 or number == len(given):
                journal.commit(*take())
    return rows


def measure(
    cluster: Cluster,
    deployment: tuple[DeploymentSpec, Baseline],
    messages_per_commit: int,
    main_us: float,
    others_us: float,
    count: int = 1200,
) -> list[Figure]:
    """Shares of the worker's CPU time by stage.

    Args:
        cluster: Whose predictions topic is filled and read by nobody else now; the deployment's is partition 0.
        deployment: Specification and baseline.
        messages_per_commit: As the worker committed.
        main_us: What the worker's main thread needed for a row, CPU microseconds.
        others_us: What its other threads needed.
        count: Messages to take.
    """
    times = StageTimes()
    journal = Journal(cluster.settings, 0)
    journal.open()
    given = messages(cluster, 0, count)
    rows = take_through(times, cluster.settings.topics, given, deployment, journal, messages_per_commit)
    journal.close()
    per_row = {stage: seconds / rows * 1e6 for stage, seconds in times.seconds.items()}
    order = sorted(per_row.items(), key=lambda item: -item[1])
    stages = [
        *order,
        ("Faust, event loop", max(0.0, main_us - sum(per_row.values()))),
        ("other threads: fetch, decompress, commit", others_us),
    ]
    total_us = main_us + others_us
    return [
        figure(f"stage: {stage}", us, "µs/row", note=f"{us / total_us:.0%} of the worker's CPU time")
        for stage, us in stages
    ]
