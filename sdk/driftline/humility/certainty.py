"""How sure a prediction is of itself: confidence, margin, interval and prediction set. NaN stands for unknown.

The confidence of a prediction is its largest class probability; of a binary score s of the positive class
max(s, 1 - s); of a regression minus the width of the model's own interval. Where a binary prediction comes with the
probability of one class only, that is its score. Where the largest probability is above one it is none, and what is
not known is uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from driftline.events import Floats
from driftline.humility.batch import Batch, Flags
from driftline.humility.fit import ABSOLUTE_RESIDUAL, INTERVAL_EXCESS
from driftline.humility.layout import BINARY, REGRESSION
from driftline.humility.row import Row

_NAN = math.nan

_CERTAIN = 1.0 + 1e-6
"""A probability may be larger than one by the rounding of single precision."""


class Certainty:
    """Certainty of the predictions of one model.

    Args:
        task: What the model does.
        positive_class: Of a binary classifier: the class that the score speaks of.
        score: The score that adaptive quantiles are of (:mod:`driftline.humility.fit`); empty for none.
        classes: All classes, where the specification lists them.
    """

    def __init__(self, task: str, positive_class: str | None, score: str = "", classes: Collection[str] = ()) -> None:
        self._binary, self._regression = task == BINARY, task == REGRESSION
        self._positive = "positive" if positive_class is None else positive_class
        self._listed = classes if len(classes) == 2 else ()
        self._score = score

    # One row

    def confidence_of(self, row: Row) -> float:
        """Confidence of a row."""
        return row.low - row.high if self._regression else self._top_two_of(row)[0]

    def margin_of(self, row: Row) -> float:
        """Difference of the two largest probabilities of a row."""
        if self._regression:
            return _NAN
        top, second = self._top_two_of(row)
        return top - second

    def interval_of(self, row: Row) -> tuple[float, float] | None:
        """Both ends of the adaptive interval of a row where its quantile is known, else of the model's own."""
        q = row.quantile
        if q == q and self._score == ABSOLUTE_RESIDUAL:
            low, high = row.prediction - q, row.prediction + q
        elif q == q and self._score == INTERVAL_EXCESS:
            low, high = row.low - q, row.high + q
        else:
            low, high = row.low, row.high
        return None if low != low or high != high else (low, high)

    def width_of(self, row: Row) -> float:
        """Width of that interval."""
        q = row.quantile
        if q == q and self._score == ABSOLUTE_RESIDUAL:
            return 2.0 * q if row.prediction == row.prediction else _NAN
        own = row.high - row.low
        return own + 2.0 * q if q == q and self._score == INTERVAL_EXCESS else own

    def set_size_of(self, row: Row) -> int:
        """Classes with a score, 1 - probability, of at most the quantile; -1 where no probability is known."""
        classes, q = row.classes, row.quantile
        if self._is_pair(len(classes)):
            s = self._score_of(row)
            return -1 if s != s else (1.0 - s <= q) + (1.0 - (1.0 - s) <= q)
        return sum(1.0 - p <= q for p in classes.values()) if classes else -1

    def prediction_set_of(self, row: Row) -> tuple[str, ...] | None:
        """Those classes, sorted; None where no probability is known."""
        classes, q = row.classes, row.quantile
        if self._is_pair(len(classes)):
            s = self._score_of(row)
            if s != s:
                return None
            name = next(iter(classes), self._positive)
            classes = {name: s, self._other_than(name): 1.0 - s}
        return tuple(sorted([name for name, p in classes.items() if 1.0 - p <= q])) if classes else None

    def _is_pair(self, known: int) -> bool:
        return self._binary and known < 2

    def _other_than(self, name: str) -> str:
        return next((other for other in self._listed if name in self._listed and other != name), f"not {name}")

    def _score_of(self, row: Row) -> float:
        """Of a binary prediction: the one probability that is given, or the score."""
        return next(iter(row.classes.values()), row.prediction)

    def _top_two_of(self, row: Row) -> tuple[float, float]:
        top, second = self._largest_two_of(row)
        return (top, second) if top <= _CERTAIN else (_NAN, _NAN)

    def _largest_two_of(self, row: Row) -> tuple[float, float]:
        classes = row.classes
        if self._is_pair(len(classes)):
            s = self._score_of(row)
            other = 1.0 - s
            return (s, other) if s >= other else (other, s)
        if len(classes) < 2:
            return next(iter(classes.values()), _NAN), _NAN
        if len(classes) == 2:
            one, other = classes.values()
            return (one, other) if one >= other else (other, one)
        second, top = sorted(classes.values())[-2:]
        return top, second

    # Batches

    def confidence(self, batch: Batch) -> Floats:
        """Confidence, float64[n]."""
        if self._regression:
            return batch.low - batch.high
        return self._top_two(batch)[0]

    def margin(self, batch: Batch) -> Floats:
        """Difference of the two largest probabilities, float64[n]."""
        if self._regression:
            return np.full(batch.rows, np.nan)
        top, second = self._top_two(batch)
        return top - second

    def interval(self, batch: Batch) -> tuple[Floats, Floats]:
        """Both ends of the adaptive interval where the quantile is known, else of the model's own; float64[n] each."""
        q = batch.quantiles
        if self._score == ABSOLUTE_RESIDUAL:
            low, high = batch.prediction - q, batch.prediction + q
        elif self._score == INTERVAL_EXCESS:
            low, high = batch.low - q, batch.high + q
        else:
            return batch.low, batch.high
        unknown = np.isnan(q)
        return np.where(unknown, batch.low, low), np.where(unknown, batch.high, high)

    def width(self, batch: Batch) -> Floats:
        """Width of that interval, float64[n]."""
        q, own = batch.quantiles, batch.high - batch.low
        if self._score == ABSOLUTE_RESIDUAL:
            return np.where(np.isnan(q), own, np.where(np.isnan(batch.prediction), np.nan, 2.0 * q))
        return np.where(np.isnan(q), own, own + 2.0 * q) if self._score == INTERVAL_EXCESS else own

    def set_size(self, batch: Batch) -> Floats:
        """Number of classes of the prediction set, float64[n]."""
        q, (pair, s), classes = batch.quantiles, self._pairs(batch), batch.classes
        sizes = (1.0 - classes <= q).sum(axis=0).astype(np.float64)
        sizes[np.isnan(classes).all(axis=0)] = np.nan
        of_pair = (1.0 - s <= q).astype(np.float64) + (1.0 - (1.0 - s) <= q)
        return np.where(pair, np.where(np.isnan(s), np.nan, of_pair), sizes)

    def _pairs(self, batch: Batch) -> tuple[Flags, Floats]:
        """Binary predictions of which fewer than two probabilities are known, bool[n], and their scores."""
        if not self._binary:
            return batch.no(), np.full(batch.rows, np.nan)
        known = ~np.isnan(batch.classes)
        count = known.sum(axis=0)
        single = np.where(known, batch.classes, 0.0).sum(axis=0)
        return count < 2, np.where(count == 1, single, batch.prediction)

    def _top_two(self, batch: Batch) -> tuple[Floats, Floats]:
        top, second = self._largest_two(batch)
        possible = top <= _CERTAIN
        return np.where(possible, top, np.nan), np.where(possible, second, np.nan)

    def _largest_two(self, batch: Batch) -> tuple[Floats, Floats]:
        classes = batch.classes
        top = second = np.full(batch.rows, np.nan)
        if len(classes) == 1:
            top = classes[0]
        elif len(classes) > 1:
            ascending = np.sort(np.where(np.isnan(classes), -np.inf, classes), axis=0)
            top, second = (np.where(values == -np.inf, np.nan, values) for values in (ascending[-1], ascending[-2]))
        if not self._binary:
            return top, second
        pair, s = self._pairs(batch)
        other = 1.0 - s
        return np.where(pair, np.maximum(s, other), top), np.where(pair, np.minimum(s, other), second)
