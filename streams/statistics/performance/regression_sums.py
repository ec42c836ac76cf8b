"""Sums of regressions; see :mod:`streams.statistics.performance.sums`.

A row with numbers so large or small that the fourth power of its error would leave float64 is added up with rational
numbers. Which rows these are depends on each row alone, so that the sums stay independent of order and splitting.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.fields import REGRESSION_NUMBERS, Sums
from streams.statistics.performance.grid import grouped_sums, to_grid
from streams.statistics.performance.pairs import Floats, Integers, Pairs, PerformanceLayout

_LARGE = 2.0**200
"""Beyond it, and below its inverse as a divisor, numbers are rational. Weighted by up to 2^64, the fourth power of the
sum of two such is below 2^872, on the grid below 2^902."""

Mask = NDArray[np.bool_]
Numbers = dict[str, Any]
"""By name: float64[n] of n rows, or one rational number of one row."""


def regression_pairs(
    layout: PerformanceLayout, pairs: Pairs, cells: Integers | None, groups: int, weighs: bool
) -> Sums:
    """What is counted of pairs of numbers; ``cells``: group of each row, None: all in the only one."""
    predicted, low, high = (np.ascontiguousarray(column) for column in pairs.predicted.scores.T)
    actual, weights = np.ascontiguousarray(pairs.actual), pairs.weights
    with_prediction = np.isfinite(predicted)
    nonzero = with_prediction & (actual != 0)
    with_interval = np.isfinite(low) & np.isfinite(high)
    with np.errstate(invalid="ignore"):
        inside = with_interval & (low <= actual) & (actual <= high)
    masks = {"with_prediction": with_prediction, "nonzero": nonzero, "with_interval": with_interval, "inside": inside}
    sums: Sums = {}
    for name, mask in masks.items():
        sums[name] = _count(mask, cells, groups)
        if weighs:
            sums["weighted_" + name] = grouped_sums(np.where(mask, weights, 0.0)[None], cells, groups)[0]
    extreme = _extreme(predicted, low, high, actual)
    factor = weights if weighs else None
    quantile = layout.quantile

    def add_up(mask: Mask, numbers_of: Callable[..., Numbers], *columns: Floats) -> None:
        usual, rare = mask & ~extreme, np.flatnonzero(mask & extreme)
        numbers = numbers_of(*(column[usual] for column in columns))
        stacked = np.stack(list(numbers.values()))
        if factor is not None:
            stacked = stacked * factor[usual]
        found = grouped_sums(stacked, None if cells is None else cells[usual], groups)
        for row in rare.tolist():
            exact = numbers_of(*(Fraction(float(column[row])) for column in columns))
            weight = Fraction(1) if factor is None else Fraction(float(factor[row]))
            group = 0 if cells is None else cells[row]
            for k, number in enumerate(exact.values()):
                found[k, group] += to_grid(weight * number)
        sums.update(zip(numbers, found, strict=True))

    add_up(with_prediction, lambda p, a: _error_numbers(p, a, quantile), predicted, actual)
    add_up(nonzero, _percentage_numbers, predicted, actual)
    add_up(with_interval, _interval_numbers, low, high)
    return sums


def regression_predictions(expected: Floats | None, cells: Integers | None, groups: int) -> Sums:
    """Sums of the errors that a model of the loss expects, ``expected`` float64[n, 2] of |e| and e^2, or NaN."""
    if expected is None:
        return {}
    known: Mask = np.asarray(np.isfinite(expected).all(axis=1))
    numbers = np.ascontiguousarray(expected[known].T)
    found = grouped_sums(numbers, None if cells is None else cells[known], groups)
    return {
        "expected_rows": _count(known, cells, groups),
        "expected_absolute_error": found[0],
        "expected_squared_error": found[1],
    }


def _error_numbers(predicted: Any, actual: Any, quantile: float | None) -> Numbers:
    error = predicted - actual
    squared, actual_squared = error * error, actual * actual
    size = abs(error)
    symmetric = _symmetric(size, abs(predicted) + abs(actual))
    values = (
        error,
        size,
        squared,
        squared * squared,
        actual,
        actual_squared,
        actual_squared * actual,
        actual_squared * actual_squared,
        actual * squared,
        actual_squared * squared,
        predicted,
        symmetric,
        symmetric * symmetric,
    )
    numbers = dict(zip(REGRESSION_NUMBERS, values, strict=True))
    if quantile is not None:
        loss = _pinball(error, quantile)
        numbers |= {"quantile_loss": loss, "quantile_loss_squared": loss * loss}
    return numbers


def _symmetric(error: Any, scale: Any) -> Any:
    """2 |e| / (|p| + |a|); 0 where both are 0."""
    if isinstance(scale, Fraction):
        return 2 * error / scale if scale else scale
    return 2 * np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)


def _pinball(error: Any, quantile: float) -> Any:
    """max(q (a - p), (1 - q) (p - a)), the loss of a prediction of a quantile (Koenker and Bassett 1978)."""
    if isinstance(error, Fraction):
        return max(-Fraction(quantile) * error, (1 - Fraction(quantile)) * error)
    return np.maximum(-quantile * error, (1 - quantile) * error)


def _percentage_numbers(predicted: Any, actual: Any) -> Numbers:
    share = abs(predicted - actual) / abs(actual)
    return {"absolute_percentage_error": share, "absolute_percentage_error_squared": share * share}


def _interval_numbers(low: Any, high: Any) -> Numbers:
    width = high - low
    return {"interval_width": width, "interval_width_squared": width * width}


def _extreme(predicted: Floats, low: Floats, high: Floats, actual: Floats) -> Mask:
    """Rows that are added up with rational numbers."""
    found: Mask = np.zeros(len(actual), np.bool_)
    for column in (predicted, low, high, actual):
        size = np.abs(column)
        with np.errstate(invalid="ignore"):
            found |= ((size > _LARGE) & (size < np.inf)) | ((size < 1 / _LARGE) & (size > 0))
    return found


def _count(mask: Mask, cells: Integers | None, groups: int) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(mask)]) if cells is None else np.bincount(cells[mask], minlength=groups)
