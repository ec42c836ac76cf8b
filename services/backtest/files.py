"""Files of predictions and outcomes through the state machine, in the order in which they would have arrived.

A prediction arrives at its event time, an outcome when it became known. Time goes on slice by slice: the predictions of
a slice, then its outcomes, then whatever the passing of time brings. A slice ends after so many predictions as make a
message, and after a twelfth of the start slot at the latest: with little traffic an outcome must not wait for days
until its message is full.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from driftline.events import OutcomeColumns, PredictionColumns
from driftline.topics import Topics, record_key
from services.backtest.arrivals import Arrivals, Cursor
from services.backtest.findings import Applied, Findings, Heard, Range
from services.backtest.replay import TAKE_MESSAGES, BacktestError, Progress, Threshold
from services.deployments.reference_outcomes import has_outcomes
from services.event_time import rfc3339
from services.publish.errors import FileError
from services.publish.files import open_file
from services.publish.publishing import event_times, shard_of
from services.publish.reading import OnError, Selection, Tally, read_outcomes, read_predictions, take
from streams.baseline import Baseline
from streams.decoding import Decoded
from streams.messages import Message
from streams.monitor import Monitors
from streams.outcomes.store import PendingStore
from streams.partition import Partition
from streams.specification import DeploymentSpec

MESSAGE_ROWS = 500
"""Rows of a message, as ``driftline publish`` has them."""

SLICES_OF_SLOT = 12
LONGEST_SLICE_US = 3_600_000_000

MOST_STEPS = 10_000
"""Through a time without rows it is gone in so many steps at most."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where predictions and outcomes are.

    Attributes:
        predictions: The file of predictions.
        outcomes: That of outcomes; None for the columns of the first, if it has such columns.
        version: The version that answered; None where the file says so.
        file_format: Of both; None where their names tell.
        on_error: What to do with a value that cannot be read.
    """

    predictions: Path
    outcomes: Path | None = None
    version: str | None = None
    file_format: str | None = None
    on_error: OnError = "stop"


class FileRun:
    """The rows of files, through one state machine for each partition that they would be on.

    Args:
        spec: What is in force.
        baselines: What is in force, per version.
        wanted: Event times of the predictions that count.
        partitions: Partition of each Kafka key, in the order of the shards.
        topics: Names for messages.
        folder: Where rows wait, on disk.
    """

    def __init__(
        self,
        spec: DeploymentSpec,
        baselines: list[Baseline],
        wanted: Range,
        partitions: Mapping[bytes, int],
        topics: Topics,
        folder: Path,
    ) -> None:
        self.tally, self.outcomes_tally = Tally(), Tally()
        self.baselines = {baseline.digest: baseline for baseline in baselines}
        self.thresholds = [
            Threshold(baseline.model_version, name, monitor.threshold_nats)
            for baseline in baselines
            for name, monitor in Monitors(spec, baseline, 0, 0).monitors.items()
        ]
        self._spec, self._wanted, self._folder, self._keys = spec, wanted, folder, list(partitions)
        self._places = {
            number: _Place(number, spec, baselines, wanted, topics, folder / str(number))
            for number in sorted(set(partitions.values()))
        }
        self._place_of = [self._places[number] for number in partitions.values()]

    @property
    def findings(self) -> list[Findings]:
        """What was found, by partition."""
        return [place.findings for place in self._places.values()]

    @property
    def applied(self) -> list[Applied]:
        """What was applied, by partition."""
        return [place.applied for place in self._places.values()]

    def run(self, files: Files, progress: Progress) -> None:
        """Read, sort and apply everything.

        Raises:
            FileError: A file is damaged, a column is missing, or no version is given.
            BadValueError: A bad value, and nobody said to skip it.
            BacktestError: No prediction is in the range.
            StreamsError: Settings that no stream could follow.
        """
        with contextlib.ExitStack() as open_places, tempfile.TemporaryFile(dir=self._folder) as waiting:
            for place in self._places.values():
                open_places.callback(place.close)
            predictions = self._read_predictions(files, waiting, progress)
            outcomes = self._read_outcomes(files, waiting, progress)
            self._apply(list(predictions.values()), outcomes, progress)

    def _read_predictions(
        self, files: Files, waiting: BinaryIO, progress: Progress
    ) -> dict[tuple[object, ...], Arrivals[PredictionColumns]]:
        found: dict[tuple[object, ...], Arrivals[PredictionColumns]] = {}
        opened = open_file(files.predictions, files.file_format)
        selection = Selection(self._wanted.from_us, self._wanted.to_us)
        for batch in read_predictions(
            opened,
            self._spec,
            version=files.version,
            selection=selection,
            on_error=files.on_error,
            tally=self.tally,
            run_rows=8_192,
        ):
            # rows of one version and policy whose embeddings have one dimension can share a message
            dimensions = tuple(sorted((name, values.shape[1]) for name, values in batch.vectors.items()))
            policy = None if batch.humility is None else (batch.humility.policy, batch.humility.revision)
            kind = (batch.model_version, dimensions, policy)
            if kind not in found:
                found[kind] = Arrivals(waiting, "PredictionBatch", PredictionColumns.from_record)
            found[kind].add(batch)
            progress(0, None, self.tally.taken)
        if not found:
            outside = f", {self.tally.outside:,} are outside of the range" if self.tally.outside else ""
            given = f" {self._wanted}" if str(self._wanted) else ""
            raise BacktestError(
                f"{files.predictions} has no prediction{given}: it has {self.tally.read:,} rows{outside}"
            )
        return found

    def _read_outcomes(self, files: Files, waiting: BinaryIO, progress: Progress) -> Arrivals[OutcomeColumns]:
        found = Arrivals(waiting, "OutcomeBatch", OutcomeColumns.from_record)
        path = files.outcomes
        if path is None and has_outcomes(open_file(files.predictions, files.file_format), self._spec):
            path = files.predictions
        if path is None:
            return found
        if self._spec.outcomes is None:
            if files.outcomes is None:
                return found
            raise FileError(
                f"{path}: {self._spec.deployment_id!r} expects no outcomes: add --set outcomes.horizon=30d, or add "
                "outcomes to its specification"
            )
        opened = open_file(path, files.file_format)
        selection = Selection(self._wanted.from_us, None)  # those of the last predictions come after them
        for batch in read_outcomes(
            opened, self._spec, selection=selection, on_error=files.on_error, tally=self.outcomes_tally
        ):
            found.add(batch)
            progress(0, None, self.tally.taken + self.outcomes_tally.taken)
        return found

    def _apply(
        self, predictions: list[Arrivals[PredictionColumns]], outcomes: Arrivals[OutcomeColumns], progress: Progress
    ) -> None:
        total = sum(arrivals.rows for arrivals in predictions) + outcomes.rows
        answers = [Cursor(arrivals.blocks()) for arrivals in predictions]
        known = Cursor(outcomes.blocks())
        slice_us = min(max(1_000, self._spec.start_slot_ms * 1000 // SLICES_OF_SLOT), LONGEST_SLICE_US)
        horizon_us = 0 if self._spec.outcomes is None else self._spec.outcomes.horizon_ms * 1000
        done = messages = 0
        last_event_us = last_known_us = 0
        now_us = _floor(_first(cursor.next_us for cursor in answers) or 0, slice_us)
        while (next_us := _first([*(cursor.next_us for cursor in answers), known.next_us])) is not None:
            is_answered = _first(cursor.next_us for cursor in answers) is None
            if is_answered and next_us > last_event_us + horizon_us:
                last_known_us = next_us  # and there is no prediction that it could be of
                break
            now_us = max(now_us, next_us) if is_answered else self._wait(now_us, next_us, slice_us)
            end_us = self._end_of_slice(answers, now_us, slice_us)
            for cursor in answers:
                for batch in cursor.before(end_us, MESSAGE_ROWS):
                    self._deal(batch)
                    last_event_us = max(last_event_us, int(batch.timestamps_us[-1]))
                    done, messages = done + batch.rows, messages + 1
            for known_batch in known.before(end_us, MESSAGE_ROWS):
                self._deal(known_batch)
                last_known_us = max(last_known_us, int(known_batch.actual_timestamps_us[-1]))
                done, messages = done + known_batch.rows, messages + 1
            if not is_answered:  # that nothing comes after the last prediction is no silence
                self._pass_time(end_us)
            if messages >= TAKE_MESSAGES:
                for place in self._places.values():
                    place.findings.take(place.partition)
                progress(done, total, done)
                messages = 0
            now_us = end_us
        for place in self._places.values():
            place.finish(last_known_us)
        progress(total, total, done)

    @staticmethod
    def _end_of_slice(answers: list[Cursor[PredictionColumns]], now_us: int, slice_us: int) -> int:
        full = [ahead for cursor in answers if (ahead := cursor.ahead_us(MESSAGE_ROWS)) is not None]
        return max(now_us, min([_floor(now_us, slice_us) + slice_us - 1, *full])) + 1

    def _wait(self, now_us: int, next_us: int, slice_us: int) -> int:
        """Let time pass until the next row comes, as a worker would."""
        step_us = max(slice_us, _floor((next_us - now_us) // MOST_STEPS, slice_us))
        while now_us + step_us <= next_us:
            now_us = _floor(now_us, slice_us) + step_us
            self._pass_time(now_us)
        return max(now_us, _floor(next_us, slice_us))

    def _pass_time(self, time_us: int) -> None:
        for place in self._places.values():
            place.pass_time(time_us // 1000)

    def _deal(self, batch: PredictionColumns | OutcomeColumns) -> None:
        """Give each shard its rows."""
        if len(self._keys) == 1:
            self._place_of[0].apply(self._keys[0], batch)
            return
        shards = np.array([shard_of(name, len(self._keys)) for name in batch.prediction_ids], np.intp)
        for shard in np.unique(shards).tolist():
            self._place_of[shard].apply(self._keys[shard], take(batch, np.flatnonzero(shards == shard)))

    def notes(self) -> Iterator[str]:
        """What is to be known of the files."""
        for tally, what in ((self.tally, "predictions"), (self.outcomes_tally, "outcomes")):
            if tally.rejected:
                first = tally.examples[0]
                yield (
                    f"{tally.rejected:,} rows of {what} were skipped for values that cannot be read, the first on line "
                    f"{first.line}{f', column {first.column}' if first.column else ''}: {first.message}"
                )
        if self._spec.outcomes is not None and not self.outcomes_tally.taken:
            yield "there are no outcomes in the files: accuracy is not known (--outcomes FILE)"
        streams = {stream.name for baseline in self.baselines.values() for stream in baseline.streams}
        missing = [
            f.name
            for f in self._spec.features
            if not any(stream == f.name or stream.startswith(f"{f.name}.") for stream in streams)
        ]
        if missing:
            yield f"not watched, because no baseline has them: {', '.join(missing)}"
        if self._wanted.to_us is not None and self.tally.outside:
            yield f"alarms noticed from {rfc3339(self._wanted.to_us)} on are left out"


@dataclass(eq=False)
class _Place:
    """A partition, and what it would have been sent."""

    number: int
    spec: DeploymentSpec
    baselines: list[Baseline]
    wanted: Range
    topics: Topics
    folder: Path
    applied: Applied = field(default_factory=Applied)

    def __post_init__(self) -> None:
        self.findings = Findings(self.wanted)
        self._store = PendingStore(self.folder)
        self.partition = Partition(self.number, self.topics, self._store)
        self._heard = Heard()
        self._heard.spec(self.spec)
        self._next = dict.fromkeys((self.topics.predictions, self.topics.outcomes), 0)
        self.partition.put_spec_in_force(self.spec)
        for baseline in self.baselines:
            self.partition.put_baseline_in_force(baseline)

    def apply(self, key: bytes, batch: PredictionColumns | OutcomeColumns) -> None:
        """Apply a message; it arrives with its last row."""
        is_prediction = isinstance(batch, PredictionColumns)
        topic = self.topics.predictions if is_prediction else self.topics.outcomes
        times = event_times(batch)
        message = Message(topic, self.number, self._next[topic], -(-int(times[-1]) // 1000), key, None)
        self._next[topic] += 1
        if is_prediction:
            self.applied.add(batch.rows, int(times[0]), int(times[-1]))
        self._heard.hear(batch, message)
        self.partition.apply(Decoded(message, batch))

    def pass_time(self, time_ms: int) -> None:
        """Everything that was known until then has been applied."""
        self._heard.everything(time_ms)
        if self.wanted.touches(time_ms * 1000, time_ms * 1000):
            self.partition.pass_time(time_ms)

    def finish(self, last_known_us: int) -> None:
        """Take what is left; nothing that became known up to the last outcome of the file is missing."""
        horizon_us = 0 if self.spec.outcomes is None else self.spec.outcomes.horizon_ms * 1000
        known_us = max(self._heard.known_us, last_known_us)
        self.findings.finish(self.partition, self.spec, known_us, waits_us=horizon_us)

    def close(self) -> None:
        """Let go of the disk."""
        self._store.close()


def keys_of(spec: DeploymentSpec) -> list[bytes]:
    """The Kafka key of each shard."""
    if spec.shards == 1:
        return [record_key(spec.deployment_id)]
    return [record_key(spec.deployment_id, shard) for shard in range(spec.shards)]


def _floor(time_us: int, step_us: int) -> int:
    return time_us // step_us * step_us


def _first(times_us: Iterable[int | None]) -> int | None:
    """The earliest time; None where there is none."""
    return min((time for time in times_us if time is not None), default=None)
