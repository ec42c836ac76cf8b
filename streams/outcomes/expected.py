"""The loss that a model of numbers is expected to have, learnt from a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from streams.baseline import FEATURE, Baseline
from streams.columns import PREDICTION, numeric_column
from streams.statistics.layouts import NUMERIC
from streams.statistics.performance.expected_loss import columns_of, expected_loss, fit_expected_loss
from streams.statistics.performance.pairs import REGRESSION, Pairs, PerformanceLayout

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def learn_expected_loss(
    baseline: Baseline,
    predictions: Sequence[PredictionColumns],
    layout: PerformanceLayout,
    rows: Integers,
    pairs: Pairs,
) -> dict[str, Floats]:
    """The model of the loss from the reference's pairs; empty for classes, and where no pair has a prediction.

    It looks at the prediction, then at the watched numeric features in the order of their streams: what is at hand
    when predictions are counted. ``rows``: int64[m], those of the pairs in the batches, one after the other.
    """
    if layout.task != REGRESSION:
        return {}
    there = np.isfinite(pairs.predicted.scores[:, 0])
    if not there.any():
        return {}
    computed = {column for derived in baseline.derived for column in derived.columns}
    features = [
        stream.name
        for stream in baseline.streams
        if stream.role == FEATURE and stream.layout is NUMERIC and not stream.segment and stream.name not in computed
    ]
    columns = [PREDICTION, *features]
    errors = (pairs.predicted.scores[:, 0] - pairs.actual)[there]
    return fit_expected_loss(_values(columns, predictions, rows[there]), columns, errors)


def expected_of(model: Mapping[str, Floats], predictions: Sequence[PredictionColumns], rows: Integers) -> Floats | None:
    """The absolute and the squared error that are expected of some rows, float64[n, 2]; None without a model.

    NaN where the row has no prediction.
    """
    if not model:
        return None
    values = _values(columns_of(model), predictions, rows)
    return np.where(np.isfinite(values[0])[:, None], expected_loss(model, values), np.nan)


def _values(columns: Sequence[str], predictions: Sequence[PredictionColumns], rows: Integers) -> Floats:
    """The columns of some rows, float64[K, n]; the prediction is the first."""
    first, *features = columns
    assert first == PREDICTION, "the prediction comes first"
    said = [np.full(b.rows, np.nan) if b.prediction is None else b.prediction for b in predictions]
    whole = [said, *([numeric_column(batch, name) for batch in predictions] for name in features)]
    return np.stack([np.concatenate(parts)[rows] for parts in whole])
