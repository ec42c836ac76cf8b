"""Publishing as it would have happened: predictions at departure, outcomes when they became known, day by day."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.batches import between
from driftline.events import OutcomeColumns, PredictionColumns
from services.demo.flights import DemonstrationFiles
from services.publish.files import open_file
from services.publish.publishing import event_times
from services.publish.reading import Selection, read_outcomes, read_predictions
from streams.specification import DeploymentSpec

DAY_US = 86_400_000_000

Columns = TypeVar("Columns", PredictionColumns, OutcomeColumns)


Rows = TypeVar("Rows", PredictionColumns, OutcomeColumns, contravariant=True)


class Sink(Protocol[Rows]):
    """Where rows go."""

    def publish(self, columns: Rows, /) -> None:
        """Hand over rows."""

    def flush(self) -> None:
        """Wait until they are acknowledged."""


class Replay:
    """A year's predictions and outcomes of one deployment, both in the order of their time.

    Args:
        spec: The deployment.
        files: Predictions in order of their event time, outcomes in order of the time at which they became known.
        version: The model version that predicted.
        parts: How often a day what has landed is told: in so many parts of it.
    """

    def __init__(self, spec: DeploymentSpec, files: DemonstrationFiles, version: str, *, parts: int = 1) -> None:
        self._parts = parts
        predictions = read_predictions(open_file(files.predictions), spec, version=version)
        self._predictions = dict(by_time(predictions, DAY_US // parts))
        self._outcomes = dict(by_time(read_outcomes(open_file(files.outcomes), spec), DAY_US // parts))

    def days(self, selection: Selection) -> list[int]:
        """The days, since 1970 in UTC, on which anything happened in a time of whole days."""
        first = -np.inf if selection.from_us is None else selection.from_us / DAY_US
        end = np.inf if selection.to_us is None else selection.to_us / DAY_US
        found = {part // self._parts for part in (*self._predictions, *self._outcomes)}
        return [day for day in sorted(found) if first <= day < end]

    def publish(self, day: int, predictions: Sink[PredictionColumns], outcomes: Sink[OutcomeColumns]) -> None:
        """Publish one day; nothing of a part of it before all that came earlier is acknowledged."""
        for part in range(day * self._parts, (day + 1) * self._parts):
            for prediction_columns in self._predictions.get(part, []):
                predictions.publish(prediction_columns)
            predictions.flush()
            for outcome_columns in self._outcomes.get(part, []):
                outcomes.publish(outcome_columns)
            outcomes.flush()


def by_time(batches: Iterator[Columns], span_us: int) -> Iterator[tuple[int, list[Columns]]]:
    """Rows in order of their time, by spans of it since 1970 UTC, each with its rows."""
    span: int | None = None
    found: list[Columns] = []
    for batch in batches:
        spans: NDArray[np.int64] = event_times(batch) // span_us
        starts = [0, *(np.flatnonzero(np.diff(spans)) + 1).tolist(), batch.rows]
        for start, end in itertools.pairwise(starts):
            if start == end:
                continue
            if span is not None and spans[start] != span:
                yield span, found
                found = []
            span = int(spans[start])
            found.append(between(batch, start, end))
    if span is not None:
        yield span, found
