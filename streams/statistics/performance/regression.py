"""Metrics of regressions, from sums."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

from streams.statistics.performance.fields import Sums, weighted
from streams.statistics.performance.grid import GRID
from streams.statistics.performance.intervals import (
    Metric,
    Z,
    design_effect,
    finite,
    mean,
    root,
    share,
    undefined,
)
from streams.statistics.performance.pairs import PerformanceLayout

_RESOLVED = 50
"""A sum is known to one percent when it is so many units for each row, each of which may be half a unit off."""

_SEEN = 1e-6
"""Errors below this part of the value are rounding, and stated as 0."""

_CANCELLED = 0.05
"""A variance is not told where float64 sums may have it wrong by more than this part."""


def regression_metrics(layout: PerformanceLayout, sums: Sums) -> dict[str, Metric]:
    """Metrics of a regression, of sums without groups.

    ``bias`` is the mean of predicted less actual; ``mape`` is over actual values other than 0; ``smape`` the mean of
    2 |e| / (|predicted| + |actual|), between 0 and 2. ``interval_coverage`` and ``interval_width`` are of the model's
    own intervals. Numbers below 1e-9, the grid of the sums, are not seen: where that matters, ``error`` says so.
    """
    effect = design_effect(sums)
    rows, weight = int(sums["with_prediction"]), int(weighted(sums, "with_prediction"))
    nonzero, with_interval = int(sums["nonzero"]), int(sums["with_interval"])
    interval_weight = int(weighted(sums, "with_interval"))

    def mean_of(name: str, squares: str, weight: int, rows: int, lowest: float = 0.0) -> Metric:
        return mean(int(sums[name]), int(sums[squares]), weight, rows, effect, lowest)

    found = {
        "mae": mean_of("absolute_error", "squared_error", weight, rows),
        "rmse": _root_mean_squared_error(sums, weight, rows, effect),
        "mape": mean_of(
            "absolute_percentage_error",
            "absolute_percentage_error_squared",
            int(weighted(sums, "nonzero")),
            nonzero,
        ),
        "smape": mean_of("symmetric_percentage_error", "symmetric_percentage_error_squared", weight, rows),
        "r2": _coefficient_of_determination(sums, weight, rows, effect),
        "bias": mean_of("error", "squared_error", weight, rows, -math.inf),
        "interval_coverage": share(int(weighted(sums, "inside")), interval_weight, with_interval, effect),
        "interval_width": mean_of(
            "interval_width", "interval_width_squared", interval_weight, with_interval, -math.inf
        ),
    }
    if layout.quantile is not None:
        found["quantile_loss"] = mean_of("quantile_loss", "quantile_loss_squared", weight, rows)
    return found


def _root_mean_squared_error(sums: Sums, weight: int, rows: int, effect: float) -> Metric:
    """Limits by the delta method for the logarithm, from the mean of e^4; None where that is too small for the grid."""
    squares, fourths = int(sums["squared_error"]), int(sums["error_fourth"])
    value = root(squares, weight)
    if value is None:
        return undefined(rows)
    error = _noticed(GRID / 2 / (value + math.hypot(value, math.sqrt(GRID / 2))), value)
    if not squares or fourths < _RESOLVED * rows:
        return Metric(value, None, None, rows, error)
    # mean of e^4 over the square of that of e^2; 1 where all errors are of one size
    kurtosis = float(Fraction(fourths * weight, squares * squares))
    spread = Z * math.sqrt(max(kurtosis - 1, 0.0) / (rows * effect)) / 2
    if spread > _WIDEST:
        return Metric(value, None, None, rows, error)
    return Metric(value, *finite(value * math.exp(-spread), value * math.exp(spread)), rows, error)


_WIDEST = 100.0
"""Limits that lie further than by a factor of e^100 from the value tell nothing."""


def _coefficient_of_determination(sums: Sums, weight: int, rows: int, effect: float) -> Metric:
    """R^2 = 1 - r, r = mean e^2 / variance of the actual values; undefined where these are all the same.

    Limits by the delta method for log r, with nothing assumed of the distribution of errors and actual values but
    fourth moments: the variance of r is E(e^2 - r (a - E a)^2)^2 / (n Var(a)^2). None where e^4 is too small for the
    grid, or where a variance so far from 0 is lost in the rounding of sums that were float64.
    """
    if not weight:
        return undefined(rows)

    def moment(name: str) -> Fraction:
        return Fraction(int(sums[name]), weight)

    m, squares = moment("actual"), moment("actual_squared")
    error = moment("squared_error")
    variance = squares - m * m
    # rounding of the sums alone: the grid, and float64 where they were that
    blur = Fraction(GRID) * (1 + 2 * abs(m)) + (squares + m * m) * Fraction(sys.float_info.epsilon)
    if variance <= blur:
        return undefined(rows)
    ratio = error / variance
    value = _float(1 - ratio)
    if value is None:
        return undefined(rows)
    off = _noticed(_float(ratio * blur / variance + Fraction(GRID) / 2 / variance) or 0.0, max(abs(value), 1e-3))
    third, fourth = moment("actual_cubed"), moment("actual_fourth")
    both = moment("actual_squared_squared_error") - 2 * m * moment("actual_squared_error") + m * m * error
    centred = fourth - 4 * m * third + 6 * m**2 * squares - 3 * m**4
    spread = moment("error_fourth") - 2 * ratio * both + ratio**2 * centred
    lost = (
        ratio**2 * (fourth + 4 * abs(m * third) + 6 * m**2 * squares + 3 * m**4) * Fraction(4 * sys.float_info.epsilon)
    )
    if int(sums["error_fourth"]) < _RESOLVED * rows or spread <= 0 or lost > spread * Fraction(_CANCELLED) or not ratio:
        return Metric(value, None, None, rows, off)
    relative = _float(spread / error**2)
    if relative is None:
        return Metric(value, None, None, rows, off)
    width = Z * math.sqrt(relative / (rows * effect))
    if width > _WIDEST:
        return Metric(value, None, None, rows, off)
    return Metric(value, *finite(1 - float(ratio) * math.exp(width), 1 - float(ratio) * math.exp(-width)), rows, off)


def _noticed(error: float, value: float) -> float:
    return error if error > _SEEN * value else 0.0


def _float(number: Fraction) -> float | None:
    try:
        return float(number)
    except OverflowError:
        return None
