"""History that changed rules are tried on: predictions batch by batch, and their outcomes by key.

Predictions are never all in memory. Of each outcome 40 bytes are, and of each prediction 16, so as to count it once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from driftline.events import OutcomeColumns, PredictionColumns
from driftline.limits import no_probability
from driftline.registry import Registry
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.deployments.reference_outcomes import has_outcomes
from services.kafka import broker_time_ms, read_to_end
from services.publish.files import open_file
from services.publish.mapping import prediction_mapping
from services.publish.reading import OnError, Selection, Tally, read_outcomes, read_predictions, take
from streams.decoding import decode_message
from streams.messages import Message
from streams.outcomes.keys import Keys, id_keys
from streams.outcomes.reading import read_actual
from streams.specification import DeploymentSpec
from streams.statistics.performance.pairs import Floats, Integers, PerformanceLayout

Progress = Callable[[int], None]
"""Told the rows that were read since last time."""

FILE_ROWS = 8_192
"""Where versions mix in a file, rows of one version are brought together within so many rows."""


class History(Protocol):
    """Where rows come from; it can be gone through several times."""

    def predictions(self) -> Iterator[PredictionColumns]:
        """Predictions of one version in the selected time."""

    def outcomes(self) -> Iterator[OutcomeColumns]:
        """Outcomes of these and of others."""


@dataclass(slots=True)
class TopicHistory:
    """The committed messages on the topics, taken as the workers take them.

    Attributes:
        settings: How to reach Kafka.
        spec: The deployment.
        version: Predictions of this version.
        selection: Event times of the predictions.
        progress: Told of rows.
        refused: Messages of the deployment that cannot be read, as found by the last time through.
    """

    settings: KafkaSettings
    spec: DeploymentSpec
    version: str
    selection: Selection
    progress: Progress = lambda rows: None
    refused: int = 0

    def predictions(self) -> Iterator[PredictionColumns]:
        """See :class:`History`."""
        self.refused = 0
        for columns in self._read(self.settings.topics.predictions):
            if not isinstance(columns, PredictionColumns):
                self.refused += 1
            elif columns.model_version == self.version:
                yield from _within(columns, self.selection)

    def outcomes(self) -> Iterator[OutcomeColumns]:
        """See :class:`History`."""
        for columns in self._read(self.settings.topics.outcomes):
            if isinstance(columns, OutcomeColumns):
                yield columns

    def _read(self, topic: str) -> Iterator[PredictionColumns | OutcomeColumns | None]:
        spec, registry = self.spec, Registry.from_settings(self.settings)
        keys = {record_key(spec.deployment_id)} | {record_key(spec.deployment_id, s) for s in range(spec.shards)}
        # no event is later than its message by more than the clocks may differ
        from_us = self.selection.from_us
        since_ms = None if from_us is None else max(0, from_us // 1000 - spec.clock_skew_ms)
        for raw in read_to_end(self.settings, topic, since_ms=since_ms):
            if raw.key() not in keys or raw.value() is None:
                continue
            place = cast(int, raw.partition()), cast(int, raw.offset())
            message = Message(topic, *place, broker_time_ms(raw) or 0, raw.key(), raw.value())
            columns = decode_message(message, self.settings.topics, registry).columns
            if columns is None or columns.deployment_id != spec.deployment_id:
                yield None
                continue
            self.progress(columns.rows)
            yield columns


@dataclass(slots=True)
class FileHistory:
    """Files of predictions, and of their outcomes where these are not columns of the same files.

    Attributes:
        files: Of predictions.
        outcomes_file: Of outcomes; None for the columns of the files themselves.
        spec: The deployment.
        version: The version of the rows; of files that say whose rows are, those of this version.
        selection: Event times of the predictions.
        on_error: What to do with a value that cannot be read.
        file_format: Of the files; None where their names tell.
        tally: What became of rows of predictions, the last time through.
        progress: Told of rows.
    """

    files: Sequence[Path]
    outcomes_file: Path | None
    spec: DeploymentSpec
    version: str
    selection: Selection
    on_error: OnError
    file_format: str | None
    tally: Tally
    progress: Progress = lambda rows: None

    def predictions(self) -> Iterator[PredictionColumns]:
        """See :class:`History`."""
        self.tally = Tally()
        for path in self.files:
            file = open_file(path, self.file_format)
            named = prediction_mapping(self.spec, file.names, str(path)).model_version
            for batch in read_predictions(
                file,
                self.spec,
                version=None if named else self.version,
                selection=self.selection,
                on_error=self.on_error,
                tally=self.tally,
                run_rows=FILE_ROWS,
            ):
                self.progress(batch.rows)
                if batch.model_version == self.version:
                    yield batch

    def outcomes(self) -> Iterator[OutcomeColumns]:
        """See :class:`History`."""
        if self.outcomes_file is not None:
            opened = [open_file(self.outcomes_file, None)]
        else:
            every = (open_file(path, self.file_format) for path in self.files)
            opened = [file for file in every if has_outcomes(file, self.spec)]
        for file in opened:
            for batch in read_outcomes(file, self.spec, on_error=self.on_error, tally=Tally()):
                self.progress(batch.rows)
                yield batch


class Once:
    """Lets each prediction through once: of an id that comes again, the first row counts."""

    def __init__(self) -> None:
        self.repeated = 0
        self._runs: list[Keys] = []

    def new(self, columns: PredictionColumns, keys: Keys) -> tuple[PredictionColumns, Keys]:
        """The rows of a batch whose ids have not come yet."""
        flat = _flat(keys)
        _, first = np.unique(flat, return_index=True)
        fresh = np.zeros(len(flat), bool)
        fresh[first] = True
        for run in self._runs:
            at = np.minimum(run.searchsorted(flat), len(run) - 1)
            fresh &= run[at] != flat
        rows = np.flatnonzero(fresh)
        self.repeated += len(flat) - len(rows)
        self._remember(np.sort(flat[rows]))
        return (columns, keys) if len(rows) == len(flat) else (take(columns, rows), keys[rows])

    def _remember(self, run: Keys) -> None:
        """Keep few sorted runs, each at least twice as long as the next: a key is merged a logarithm of times."""
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))


@dataclass(frozen=True, eq=False, slots=True)
class Joined:
    """The outcomes of n predictions: ``known`` bool[n]; of the k that have one ``values``, ``ages_us``, ``weights``."""

    known: NDArray[np.bool_]
    values: Floats
    ages_us: Integers
    weights: Floats


class OutcomeIndex:
    """Outcomes by the key of their prediction.

    As everywhere the last one within the horizon counts; of several that were known at one time the largest value.
    """

    def __init__(self, layout: PerformanceLayout, batches: Iterable[OutcomeColumns]) -> None:
        empty = (np.zeros((0, 2), np.uint64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        found = [_usable(layout, batch) for batch in batches] or [empty]
        keys, times, values, weights = (np.concatenate(part) for part in zip(*found, strict=True))
        flat = _flat(keys)
        order = np.lexsort((weights, values, times, flat))
        self._keys, self._times_us, self._values, self._weights = (
            flat[order],
            times[order],
            values[order],
            weights[order],
        )

    @property
    def rows(self) -> int:
        """Outcomes that can be used."""
        return len(self._keys)

    def join(self, keys: Keys, times_us: Integers, horizon_us: int) -> Joined:
        """The outcomes of predictions.

        Args:
            keys: uint64[n, 2].
            times_us: int64[n], their event times.
            horizon_us: Outcomes count that were known at most so much later.
        """
        flat = _flat(keys)
        first = self._keys.searchsorted(flat, "left")
        at = self._keys.searchsorted(flat, "right") - 1
        late = at >= first
        while late.any():  # as often as an id has outcomes after the horizon
            late[late] = self._times_us[at[late]] - times_us[late] > horizon_us
            at[late] -= 1
            late &= at >= first
        known = at >= first
        chosen = at[known]
        ages = np.maximum(self._times_us[chosen] - times_us[known], 0)
        return Joined(known, self._values[chosen], ages, self._weights[chosen])


def _usable(layout: PerformanceLayout, batch: OutcomeColumns) -> tuple[Keys, Integers, Floats, Floats]:
    values, chances = read_actual(layout, batch).values, batch.labelling_probability
    weights = np.ones(batch.rows) if chances is None else 1 / np.where(no_probability(chances), 1.0, chances)
    good = np.isfinite(values)
    ids = list(itertools.compress(batch.prediction_ids, good.tolist()))
    keys = id_keys(ids) if ids else np.zeros((0, 2), np.uint64)
    return keys, batch.actual_timestamps_us[good], values[good], weights[good]


def _flat(keys: Keys) -> Keys:
    """One number for each key, uint64[n]: two of ten million ids agree in it with probability 3e-6."""
    return np.asarray(keys[:, 0] ^ (keys[:, 1] * np.uint64(0x9E3779B97F4A7C15)))


def _within(columns: PredictionColumns, selection: Selection) -> Iterator[PredictionColumns]:
    inside = np.ones(columns.rows, bool)
    if selection.from_us is not None:
        inside &= columns.timestamps_us >= selection.from_us
    if selection.to_us is not None:
        inside &= columns.timestamps_us < selection.to_us
    if inside.all():
        yield columns
    elif inside.any():
        yield take(columns, np.flatnonzero(inside))
