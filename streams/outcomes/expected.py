"""The loss that a model of numbers is expected to have, from what is known when it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from streams.baseline import FEATURE, Baseline
from streams.columns import PREDICTION, numeric_column
from streams.derived import Derived
from streams.statistics.layouts import NUMERIC
from streams.statistics.performance.estimation import expected_loss, fit_expected_loss
from streams.statistics.performance.pairs import REGRESSION, Pairs, PerformanceLayout

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

EXPECTED_LOSS = "expected_loss"
"""Kind of the baseline's record whose inputs are the columns that the model of the loss looks at, in their order."""


@dataclass(frozen=True, eq=False, slots=True)
class LossModel:
    """The model of the loss; without columns there is none.

    Attributes:
        columns: ``prediction``, then the watched numeric features in the order of their streams.
        model: What :func:`streams.statistics.performance.estimation.expected_loss` reads.
    """

    columns: tuple[str, ...] = ()
    model: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def derived(self) -> tuple[Derived, ...]:
        """The names of its columns, as a baseline stores them."""
        return (Derived(EXPECTED_LOSS, EXPECTED_LOSS, self.columns),) if self.columns else ()

    def expected(self, predictions: Sequence[PredictionColumns], rows: Integers) -> Floats | None:
        """The absolute and the squared error to be expected of some rows, float64[n, 2]; None without a model."""
        return expected_loss(self.model, _values(self.columns, predictions, rows)) if self.columns else None


def learn_expected_loss(
    baseline: Baseline,
    predictions: Sequence[PredictionColumns],
    layout: PerformanceLayout,
    rows: Integers,
    pairs: Pairs,
) -> LossModel:
    """Learn the loss from the reference's pairs; ``rows`` int64[m] are theirs in the batches, one after the other."""
    if layout.task != REGRESSION:
        return LossModel()
    computed = {column for derived in baseline.derived for column in derived.columns}
    features = [
        stream.name
        for stream in baseline.streams
        if stream.role == FEATURE and stream.layout is NUMERIC and not stream.segment and stream.name not in computed
    ]
    columns = (PREDICTION, *features)
    errors = pairs.predicted.scores[:, 0] - pairs.actual
    return LossModel(columns, fit_expected_loss(_values(columns, predictions, rows), columns, errors))


def _values(columns: Sequence[str], predictions: Sequence[PredictionColumns], rows: Integers) -> Floats:
    """The columns of some rows, float64[K, n]."""
    whole = [
        np.concatenate([_column(batch, name, first=at == 0) for batch in predictions])[rows]
        for at, name in enumerate(columns)
    ]
    return np.stack(whole)


def _column(batch: PredictionColumns, name: str, *, first: bool) -> Floats:
    if not first:
        return numeric_column(batch, name)
    return np.full(batch.rows, np.nan) if batch.prediction is None else batch.prediction
