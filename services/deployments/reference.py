"""A reference from the predictions topic: what a version answered in a range of event time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, PredictionColumns, Vectors
from driftline.registry import Registry
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.errors import ServicesError
from services.event_time import rfc3339
from services.kafka import broker_time_ms, read_to_end
from services.publish.reading import Selection, take
from streams.decoding import decode_message
from streams.messages import Message
from streams.specification import DeploymentSpec

DEFAULT_LIMIT = 1_000_000
"""Rows of a reference at most; with 50 features and their ids they take about 600 MB while they are read."""

_CHUNK_ROWS = 8_192
_MOST_VERSIONS = 1_000

Progress = Callable[[int], None]


class NoReferenceError(ServicesError):
    """The topic has no rows that were asked for."""

    exit_code = 2


@dataclass(slots=True)
class Span:
    """How many rows, and from when to when."""

    rows: int = 0
    first_us: int = 0
    last_us: int = 0

    def add(self, times_us: NDArray[np.int64]) -> None:
        """Take in the times of some rows."""
        first, last = int(times_us.min()), int(times_us.max())
        self.first_us = min(first, self.first_us) if self.rows else first
        self.last_us = max(last, self.last_us) if self.rows else last
        self.rows += len(times_us)

    def __str__(self) -> str:
        return f"{self.rows:,} rows from {rfc3339(self.first_us)} to {rfc3339(self.last_us)}"


@dataclass(slots=True)
class TopicReference:
    """What was found.

    Attributes:
        columns: The rows, without repeated ones, in the order of the topic, partition by partition.
        versions: All rows of the deployment that are on the topic from where it was read on, by version.
        duplicates: Rows of a prediction id that had come before.
        outside: Rows of the version outside the selected time.
        beyond: Rows left out because there are more than the limit, the latest ones; repeated ones among them.
        refused: Messages of the deployment that cannot be read.
    """

    columns: list[PredictionColumns] = field(default_factory=list)
    versions: dict[str, Span] = field(default_factory=dict)
    duplicates: int = 0
    outside: int = 0
    beyond: int = 0
    refused: int = 0

    @property
    def rows(self) -> int:
        """Number of rows in the reference."""
        return sum(batch.rows for batch in self.columns)


def read_topic(
    settings: KafkaSettings,
    spec: DeploymentSpec,
    version: str,
    selection: Selection,
    *,
    progress: Progress = lambda rows: None,
) -> TopicReference:
    """The committed predictions of one version in a range of event time.

    Messages are taken as the workers take them: those with another key than the deployment's, and those that cannot be
    read, do not count. A prediction id counts once. Where there are more rows than ``selection.limit`` (a million, if
    it is not given) those with the earliest event times are the reference: left out here and there, rows would no
    longer show how much they depend on each other. Holds twice that many rows in memory at most.

    Args:
        settings: How to reach Kafka.
        spec: The deployment.
        version: Rows of this version only.
        selection: The range of event time, and how many rows at most.
        progress: Told the rows of the deployment that were read since last time.

    Raises:
        NoReferenceError: No row was found; what is there instead is named.
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    topic = settings.topics.predictions
    keys = {record_key(spec.deployment_id)} | {record_key(spec.deployment_id, s) for s in range(spec.shards)}
    registry = Registry.from_settings(settings)
    found = TopicReference()
    collector = _Collector(selection, found)
    # no event is later than its message by more than the clocks may differ
    since_ms = None if selection.from_us is None else max(0, selection.from_us // 1000 - spec.clock_skew_ms)
    for raw in read_to_end(settings, topic, since_ms=since_ms):
        if raw.key() not in keys or raw.value() is None:
            continue
        partition = cast(int, raw.partition())
        message = Message(
            topic, partition, cast(int, raw.offset()), broker_time_ms(raw) or 0, raw.key(), raw.value()
        )  # fmt: skip
        columns = decode_message(message, settings.topics, registry).columns
        if not isinstance(columns, PredictionColumns) or columns.deployment_id != spec.deployment_id:
            found.refused += 1
            continue
        progress(columns.rows)
        if columns.model_version in found.versions or len(found.versions) < _MOST_VERSIONS:
            found.versions.setdefault(columns.model_version, Span()).add(columns.timestamps_us)
        if columns.model_version == version:
            collector.take(partition, columns)
    found.columns = collector.finish()
    if not found.rows:
        raise NoReferenceError(_nothing(spec.deployment_id, version, topic, selection, found))
    return found


def source_text(topic: str, selection: Selection, found: TopicReference) -> str:
    """Where the rows came from, for people."""
    times = [
        f"{word} {rfc3339(time_us)}"
        for word, time_us in (("from", selection.from_us), ("to", selection.to_us))
        if time_us is not None
    ]
    return " ".join(["topic", topic, *times, f"({found.rows} rows)"])


def _nothing(deployment: str, version: str, topic: str, selection: Selection, found: TopicReference) -> str:
    bounds = [
        f"{word} {rfc3339(time_us)}"
        for word, time_us in (("from", selection.from_us), ("before", selection.to_us))
        if time_us is not None
    ]
    asked = f"the topic {topic!r} has no rows of {deployment}@{version}" + (
        f" {' and '.join(bounds)}" if bounds else ""
    )
    refused = f"; {found.refused:,} of its messages cannot be read" if found.refused else ""
    if not found.versions:
        return (
            f"{asked}, and none of any other version{refused}: publish predictions first, choose an earlier --from, or "
            "give a file"
        )
    largest = sorted(found.versions.items(), key=lambda item: -item[1].rows)[:5]
    listed = "; ".join(f"version {name[:80]!r}: {span}" for name, span in largest)
    return f"{asked}{refused}. It has {listed}"


class _Collector:
    """The rows that are wanted, in chunks per partition, never more than twice the limit."""

    def __init__(self, selection: Selection, found: TopicReference) -> None:
        self._selection, self._found = selection, found
        self._limit = DEFAULT_LIMIT if selection.limit is None else selection.limit
        self._ids: set[str] = set()
        self._pending: dict[int, list[PredictionColumns]] = {}
        self._pending_rows: dict[int, int] = {}
        self._chunks: dict[int, list[PredictionColumns]] = {}
        self._rows = 0
        self._last_us: int | None = None

    def take(self, partition: int, columns: PredictionColumns) -> None:
        """Take in a batch."""
        rows = np.flatnonzero(self._wanted(columns))
        new = [row for row in rows.tolist() if self._is_new(columns.prediction_ids[row])]
        self._found.duplicates += len(rows) - len(new)
        if self._last_us is not None:
            early = [row for row in new if columns.timestamps_us[row] <= self._last_us]
            self._found.beyond += len(new) - len(early)
            new = early
        if not new:
            return
        self._pending.setdefault(partition, []).append(take(columns, np.array(new, np.intp)))
        self._pending_rows[partition] = self._pending_rows.get(partition, 0) + len(new)
        self._rows += len(new)
        if self._pending_rows[partition] >= _CHUNK_ROWS:
            self._close(partition)
        if self._rows >= 2 * self._limit:
            self._cut()

    def _wanted(self, columns: PredictionColumns) -> NDArray[np.bool_]:
        times, inside = columns.timestamps_us, np.ones(columns.rows, bool)
        if self._selection.from_us is not None:
            inside &= times >= self._selection.from_us
        if self._selection.to_us is not None:
            inside &= times < self._selection.to_us
        self._found.outside += int((~inside).sum())
        return inside

    def _is_new(self, prediction_id: str) -> bool:
        known = len(self._ids)
        self._ids.add(prediction_id)
        return len(self._ids) > known

    def _close(self, partition: int) -> None:
        if batches := self._pending.pop(partition, None):
            self._chunks.setdefault(partition, []).extend(merged(batches))
            self._pending_rows[partition] = 0

    def finish(self) -> list[PredictionColumns]:
        """The chunks, partition by partition, of the earliest rows up to the limit."""
        for partition in list(self._pending):
            self._close(partition)
        if self._rows > self._limit:
            self._cut()
        return [chunk for partition in sorted(self._chunks) for chunk in self._chunks[partition] if chunk.rows]

    def _cut(self) -> None:
        """Keep the rows with the earliest event times; of rows at the last time, those that come first."""
        for partition in list(self._pending):
            self._close(partition)
        places = [(partition, at) for partition in sorted(self._chunks) for at in range(len(self._chunks[partition]))]
        times = np.concatenate([self._chunks[p][at].timestamps_us for p, at in places])
        kept = np.zeros(len(times), bool)
        kept[np.argsort(times, kind="stable")[: self._limit]] = True
        after = 0
        for partition, at in places:
            chunk = self._chunks[partition][at]
            own = kept[after : after + chunk.rows]
            after += chunk.rows
            if not own.all():
                self._ids.difference_update(chunk.prediction_ids[row] for row in np.flatnonzero(~own).tolist())
                self._chunks[partition][at] = take(chunk, np.flatnonzero(own))
        self._found.beyond += len(times) - int(kept.sum())
        self._rows = int(kept.sum())
        self._last_us = int(times[kept].max())


def merged(batches: Sequence[PredictionColumns]) -> list[PredictionColumns]:
    """Batches of one version, one after the other in few large ones; vectors of other dimensions begin a new one.

    A feature, or a part of a prediction, that some batches do not have is missing in their rows. What serving
    applications decided is left out: a reference is decided anew by the rules it is for.
    """
    groups: list[list[PredictionColumns]] = []
    dimensions: dict[str, int] = {}
    for batch in batches:
        own = {name: values.shape[1] for name, values in batch.vectors.items()}
        if not groups or any(dimensions.get(name, size) != size for name, size in own.items()):
            groups.append([])
            dimensions = {}
        dimensions |= own
        groups[-1].append(batch)
    joined = [group[0] if len(group) == 1 else _joined(group) for group in groups]
    return [batch if batch.humility is None else dataclasses.replace(batch, humility=None) for batch in joined]


def _joined(batches: Sequence[PredictionColumns]) -> PredictionColumns:
    rows = [batch.rows for batch in batches]

    def numbers(found: Sequence[Floats | None]) -> Floats | None:
        if all(part is None for part in found):
            return None
        return np.concatenate([np.full(n, np.nan) if p is None else p for p, n in zip(found, rows, strict=True)])

    def texts(found: Sequence[CategoricalColumn | None]) -> CategoricalColumn | None:
        if all(part is None for part in found):
            return None
        index: dict[str, int] = {}
        codes = []
        for part, n in zip(found, rows, strict=True):
            known = () if part is None else part.categories
            lookup = np.array([*(index.setdefault(text, len(index)) for text in known), -1], np.int32)
            codes.append(np.full(n, -1, np.int32) if part is None else lookup[part.codes])
        return CategoricalColumn(list(index), np.concatenate(codes))

    def vectors(found: Sequence[Vectors | None]) -> Vectors:
        dimension = next(part.shape[1] for part in found if part is not None)
        empty = [np.full((n, dimension), np.nan, np.float32) for n in rows]
        return np.concatenate([e if part is None else part for part, e in zip(found, empty, strict=True)])

    def numbers_by_name(name: str) -> dict[str, Floats]:
        maps = [getattr(batch, name) for batch in batches]
        joined = {key: numbers([each.get(key) for each in maps]) for key in _names(maps)}
        return {key: column for key, column in joined.items() if column is not None}

    def texts_by_name(name: str) -> dict[str, CategoricalColumn]:
        maps = [getattr(batch, name) for batch in batches]
        joined = {key: texts([each.get(key) for each in maps]) for key in _names(maps)}
        return {key: column for key, column in joined.items() if column is not None}

    return dataclasses.replace(
        batches[0],
        prediction_ids=[name for batch in batches for name in batch.prediction_ids],
        timestamps_us=np.concatenate([batch.timestamps_us for batch in batches]),
        numeric=numbers_by_name("numeric"),
        categorical=texts_by_name("categorical"),
        prediction=numbers([batch.prediction for batch in batches]),
        prediction_label=texts([batch.prediction_label for batch in batches]),
        class_probabilities=numbers_by_name("class_probabilities"),
        segments=texts_by_name("segments"),
        latency_ms=numbers([batch.latency_ms for batch in batches]),
        vectors={
            key: vectors([batch.vectors.get(key) for batch in batches]) for key in _names([b.vectors for b in batches])
        },
        error=texts([batch.error for batch in batches]),
        prediction_low=numbers([batch.prediction_low for batch in batches]),
        prediction_high=numbers([batch.prediction_high for batch in batches]),
        challenger_predictions=numbers_by_name("challenger_predictions"),
        challenger_labels=texts_by_name("challenger_labels"),
    )


def _names(maps: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(name for each in maps for name in cast(dict[str, object], each)))
