"""The outcomes of a reference: from the file of its predictions, from one of their own, or from the outcomes topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from driftline.events import OutcomeColumns, PredictionColumns
from driftline.registry import Registry
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.kafka import broker_time_ms, read_to_end
from services.publish.errors import FileError
from services.publish.files import RowFile, open_file
from services.publish.reading import OnError, Selection, Tally, read_outcomes, take
from streams.decoding import decode_message
from streams.messages import Message
from streams.specification import DeploymentSpec

Progress = Callable[[int], None]

_VALUE_FIELDS = ("actual_value", "actual_label")


@dataclass(slots=True)
class ReferenceOutcomes:
    """What was found.

    Attributes:
        columns: The outcomes.
        until_us: Time up to which outcomes are known besides, of other predictions; None where only those are at hand.
        refused: Messages of the deployment that cannot be read, where they came from the topic.
    """

    columns: list[OutcomeColumns] = field(default_factory=list)
    until_us: int | None = None
    refused: int = 0

    @property
    def rows(self) -> int:
        """Number of outcomes."""
        return sum(batch.rows for batch in self.columns)


def has_outcomes(file: RowFile, spec: DeploymentSpec) -> bool:
    """Whether a file has a column of actual values or classes, under the name that the specification says."""
    return any(spec.columns.get(name, name) in file.names for name in _VALUE_FIELDS)


def file_outcomes(
    path: Path, spec: DeploymentSpec, *, file_format: str | None, on_error: OnError, tally: Tally
) -> ReferenceOutcomes:
    """All outcomes of a file; whichever predictions they belong to.

    Raises:
        FileError: Damaged, a column is missing, or there are none.
        BadValueError: A bad value, and ``on_error`` is ``stop``.
    """
    opened = open_file(path, file_format)
    found = ReferenceOutcomes(list(read_outcomes(opened, spec, on_error=on_error, tally=tally)))
    if not found.rows:
        raise FileError(
            f"{path} has columns of outcomes, and no row has one that can be used: give a file with outcomes "
            "(--outcomes FILE), or build the baseline without them (--without-outcomes)"
        )
    return found


def topic_outcomes(
    settings: KafkaSettings,
    spec: DeploymentSpec,
    predictions: Sequence[PredictionColumns],
    selection: Selection,
    *,
    progress: Progress = lambda rows: None,
) -> ReferenceOutcomes:
    """The committed outcomes of a reference, as far as they are known today.

    Those of other predictions are not kept, but tell how far time went on: so a reference that ended long ago has no
    predictions that are too young.

    Args:
        settings: How to reach Kafka.
        spec: The deployment.
        predictions: The reference.
        selection: The range of event time of its predictions.
        progress: Told the outcomes of the deployment that were read since last time.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    topic = settings.topics.outcomes
    keys = {record_key(spec.deployment_id)} | {record_key(spec.deployment_id, s) for s in range(spec.shards)}
    registry = Registry.from_settings(settings)
    ours = {name for batch in predictions for name in batch.prediction_ids}
    horizon_us = 0 if spec.outcomes is None else spec.outcomes.horizon_ms * 1000
    # a time beyond that tells no more, and may be wrong
    latest_us = max(int(batch.timestamps_us.max()) for batch in predictions) + horizon_us
    found = ReferenceOutcomes()
    # no outcome is published before its prediction was made, but for the difference of clocks
    since_ms = None if selection.from_us is None else max(0, selection.from_us // 1000 - spec.clock_skew_ms)
    for raw in read_to_end(settings, topic, since_ms=since_ms):
        if raw.key() not in keys or raw.value() is None:
            continue
        message = Message(
            topic,
            cast(int, raw.partition()),
            cast(int, raw.offset()),
            broker_time_ms(raw) or 0,
            raw.key(),
            raw.value(),
        )
        columns = decode_message(message, settings.topics, registry).columns
        if not isinstance(columns, OutcomeColumns) or columns.deployment_id != spec.deployment_id:
            found.refused += 1
            continue
        progress(columns.rows)
        mine = np.array([name in ours for name in columns.prediction_ids], bool)
        others = columns.actual_timestamps_us[~mine & (columns.actual_timestamps_us <= latest_us)]
        if others.size:
            found.until_us = max(int(others.max()), found.until_us or 0)
        if mine.any():
            found.columns.append(take(columns, np.flatnonzero(mine)))
    return found
