"""Publishing as it would have happened: predictions at departure, outcomes when they became known, day by day."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.batches import between
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from services.publish.files import open_file
from services.publish.publishing import FilePublisher, event_times
from services.publish.reading import Selection, read_outcomes, read_predictions
from streams.specification import DeploymentSpec

DAY_US = 86_400_000_000

Columns = TypeVar("Columns", PredictionColumns, OutcomeColumns)


class Replay:
    """A year's predictions and outcomes, both in the order of their time.

    Args:
        spec: The deployment.
        predictions: File of the predictions, in order of their event time.
        outcomes: File of the outcomes, in order of the time at which they became known.
        version: The model version that predicted.
    """

    def __init__(self, spec: DeploymentSpec, predictions: Path, outcomes: Path, version: str) -> None:
        self._spec = spec
        self._predictions = dict(by_day(read_predictions(open_file(predictions), spec, version=version)))
        self._outcomes = dict(by_day(read_outcomes(open_file(outcomes), spec)))

    def publish(
        self,
        settings: KafkaSettings,
        selection: Selection,
        *,
        after_day: Callable[[int], None] = lambda day: None,
    ) -> tuple[int, int]:
        """Publish what happened in a time; nothing of a day before all of the one before is acknowledged.

        Args:
            settings: How to reach Kafka.
            selection: The time, in whole days UTC.
            after_day: Told each day, in days since 1970, when it was published.

        Returns:
            Predictions and outcomes that Kafka acknowledged.

        Raises:
            ClusterError: Kafka does not answer, or the topics are missing.
            PublishError: Some rows were not acknowledged.
        """
        topics = settings.topics
        with (
            FilePublisher(settings, self._spec, topic=topics.predictions) as predictions,
            FilePublisher(settings, self._spec, topic=topics.outcomes) as outcomes,
        ):
            for day in self._days(selection):
                for prediction_columns in self._predictions.get(day, []):
                    predictions.publish(prediction_columns)
                predictions.flush()
                for outcome_columns in self._outcomes.get(day, []):
                    outcomes.publish(outcome_columns)
                outcomes.flush()
                after_day(day)
        return predictions.delivered, outcomes.delivered

    def _days(self, selection: Selection) -> list[int]:
        first = -np.inf if selection.from_us is None else selection.from_us / DAY_US
        end = np.inf if selection.to_us is None else selection.to_us / DAY_US
        return [day for day in sorted({*self._predictions, *self._outcomes}) if first <= day < end]


def by_day(batches: Iterator[Columns]) -> Iterator[tuple[int, list[Columns]]]:
    """Rows in order of their time as days since 1970, UTC, each with its rows."""
    day: int | None = None
    found: list[Columns] = []
    for batch in batches:
        days: NDArray[np.int64] = event_times(batch) // DAY_US
        starts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), batch.rows]
        for start, end in itertools.pairwise(starts):
            if start == end:
                continue
            if day is not None and days[start] != day:
                yield day, found
                found = []
            day = int(days[start])
            found.append(between(batch, start, end))
    if day is not None:
        yield day, found
