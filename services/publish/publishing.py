"""Publishing what was read from a file through the client that serving applications use."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline import Client
from driftline.batches import between, take
from driftline.errors import KafkaUnavailableError
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.humility.decisions import Decisions
from driftline.settings import KafkaSettings
from services.kafka import cluster_metadata, topic_partitions, unreachable
from services.publish.errors import PublishError
from streams.specification import DeploymentSpec

_BLOCK_SECONDS = 60.0
_CLOSE_SECONDS = 60.0
_STATED_AT_LEAST = "-"  # the client wants a version; every call names its own

Columns = TypeVar("Columns", bound=PredictionColumns | OutcomeColumns)


def shard_of(prediction_id: str, shards: int) -> int:
    """The shard a prediction and its outcome go to: CRC-32 of the id's UTF-8, modulo the number of shards."""
    return zlib.crc32(prediction_id.encode()) % shards


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast event time passes, in multiples of the real one; None as fast as it goes.

    ``clock`` and ``sleep`` are the process's, unless a test brings its own.
    """

    speed: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def slices(self, batches: Iterable[Columns], rows: int) -> Iterator[Columns]:
        """Batches of at most so many rows, each when its last event's time has come; whole if there is no pace."""
        if self.speed is None:
            yield from batches
            return
        began = first_us = None
        for batch in batches:
            for start in range(0, batch.rows, rows):
                piece = between(batch, start, min(start + rows, batch.rows))
                times = event_times(piece)
                if began is None or first_us is None:
                    began, first_us = self.clock(), int(times[0])
                wait = (int(times.max()) - first_us) / 1e6 / self.speed - (self.clock() - began)
                if wait > 0:
                    self.sleep(wait)
                yield piece


def event_times(columns: PredictionColumns | OutcomeColumns) -> NDArray[np.int64]:
    """The times a batch's pace goes by."""
    return columns.timestamps_us if isinstance(columns, PredictionColumns) else columns.actual_timestamps_us


class FilePublisher:
    """Publishes the rows of one deployment, in order, and counts what Kafka acknowledged.

    One client per shard. When Kafka is away it waits; after a minute it gives up with an error.

    Raises:
        ClusterError: The cluster does not answer, or the topic is missing.
    """

    def __init__(self, settings: KafkaSettings, spec: DeploymentSpec, *, topic: str, batch_rows: int = 500) -> None:
        cluster_metadata(settings)
        topic_partitions(settings, topic)
        self._settings = settings
        self._spec = spec
        self._clients = [
            Client(
                spec.deployment_id,
                _STATED_AT_LEAST,
                model_id=spec.model_id,
                settings=settings,
                shard=None if spec.shards == 1 else shard,
                batch_rows=batch_rows,
                batch_ms=50,
                max_buffered_rows=max(20_000, 8 * batch_rows),
                when_unavailable="block",
                block_timeout_seconds=_BLOCK_SECONDS,
                strict=True,
            )
            for shard in range(spec.shards)
        ]

    def publish(self, columns: PredictionColumns | OutcomeColumns) -> None:
        """Hand over rows; waits when too many are on their way.

        Raises:
            ClusterError: Kafka did not take anything for a minute.
        """
        try:
            for client, part in self._sharded(columns):
                if isinstance(part, PredictionColumns):
                    _log_predictions(client, part)
                else:
                    _log_outcomes(client, part)
        except KafkaUnavailableError as error:
            raise unreachable(self._settings, str(error)) from error

    def _sharded(self, columns: Columns) -> Iterator[tuple[Client, Columns]]:
        if len(self._clients) == 1:
            yield self._clients[0], columns
            return
        shards = np.array([shard_of(name, len(self._clients)) for name in columns.prediction_ids], dtype=np.intp)
        for shard in np.unique(shards).tolist():
            yield self._clients[shard], take(columns, np.flatnonzero(shards == shard))

    @property
    def delivered(self) -> int:
        """Rows that Kafka has acknowledged."""
        return sum(client.counters().delivered for client in self._clients)

    def flush(self) -> None:
        """Wait, a minute at most, until what was handed over is acknowledged."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for client in self._clients:
            client.flush(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """Wait until everything is acknowledged.

        Raises:
            PublishError: Some rows were not.
        """
        self.flush()
        for client in self._clients:
            client.close(1.0)
        counters = [client.counters() for client in self._clients]
        lost = sum(c.accepted - c.delivered for c in counters)
        if lost:
            raise PublishError(
                f"{lost} row(s) were not acknowledged by Kafka at {self._settings.bootstrap_servers}, {self.delivered} "
                "were: publish the file again; rows with the same prediction ids count once"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        for client in self._clients:
            client.close(0.0 if kind is KeyboardInterrupt else 5.0)


def _log_predictions(client: Client, columns: PredictionColumns) -> None:
    features: dict[str, Any] = dict(columns.numeric)
    features |= {name: _texts(column) for name, column in columns.categorical.items()}
    features |= columns.vectors
    client.log_predictions(
        features,
        columns.prediction,
        prediction_ids=list(columns.prediction_ids),
        prediction_label=None if columns.prediction_label is None else _texts(columns.prediction_label),
        class_probabilities=dict(columns.class_probabilities) or None,
        timestamps=columns.timestamps_us,
        segments={name: _texts(column) for name, column in columns.segments.items()} or None,
        latency_ms=columns.latency_ms,
        error=None if columns.error is None else _texts(columns.error),
        model_version=columns.model_version,
        prediction_low=columns.prediction_low,
        prediction_high=columns.prediction_high,
        challengers=_challengers(columns) or None,
        decisions=None if columns.humility is None else Decisions.of_columns(columns.humility, columns.timestamps_us),
    )


def _challengers(columns: PredictionColumns) -> dict[str, tuple[NDArray[Any] | None, NDArray[Any] | None]]:
    """Version to what it answered: values and classes."""
    values, labels = columns.challenger_predictions, columns.challenger_labels
    texts = {version: _texts(column) for version, column in labels.items()}
    return {version: (values.get(version), texts.get(version)) for version in dict.fromkeys([*values, *labels])}


def _log_outcomes(client: Client, columns: OutcomeColumns) -> None:
    acted = columns.was_acted_on
    client.log_outcomes(
        list(columns.prediction_ids),
        columns.actual_value,
        None if columns.actual_label is None else _texts(columns.actual_label),
        columns.actual_timestamps_us,
        None if acted is None else [None if flag > 1 else bool(flag) for flag in acted.tolist()],
        labelling_probability=columns.labelling_probability,
    )


def _texts(column: CategoricalColumn) -> NDArray[Any]:
    """The column as an array of text, None for missing."""
    lookup = np.array([*column.categories, None], dtype=object)
    return np.asarray(lookup[column.codes])
