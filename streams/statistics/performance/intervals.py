"""A metric with its 95 % interval, and the intervals that metrics have.

Rows count as independent. Rows of unequal weight are worth fewer: (sum of weights)^2 / sum of their squares (Kish,
"Survey Sampling", 1965, section 11.7); ``effect`` below is that number over the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

from streams.statistics.performance.fields import Sums
from streams.statistics.performance.grid import ONE
from streams.statistics.performance.pairs import Floats
from streams.statistics.performance.shares import Interval, wilson

Z = float(ndtri(0.975))


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of some rows.

    Attributes:
        value: None where the rows do not tell it: none of a class, nothing predicted, too large for float64.
        low: Lower 95 % limit; None where it cannot be had.
        high: Upper limit.
        rows: Pairs that it is a share, mean or function of: of precision those predicted positive, of recall those that
            are; of ``predicted_positive_rate`` predictions.
        error: How far the value from bins may lie from that of the raw scores, whatever their order within bins; 0
            where nothing but the rounding of sums to their grid lies between.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int
    error: float = 0.0


def undefined(rows: int) -> Metric:
    """A metric that the rows do not tell."""
    return Metric(None, None, None, rows)


def design_effect(sums: Sums) -> float:
    """Independent rows for each pair; 1 where all weigh the same."""
    rows, total, squares = int(sums["resolved"]), int(sums["weights"]), int(sums["weights_squared"])
    if not rows or not squares:
        return 1.0
    # weights squared are rounded to the grid one by one, so that equal weights may come out a little above 1
    return min(total * total / (squares * ONE * rows), 1.0)


def share(part: int, whole: int, rows: int, effect: float) -> Metric:
    """A share with Wilson's interval."""
    if not whole:
        return undefined(rows)
    value = part / whole
    return Metric(value, *wilson(value, rows * effect), rows)


def mean(total: int, squares: int, weight: int, rows: int, effect: float, lowest: float = -math.inf) -> Metric:
    """A mean with Student's interval.

    Args:
        total: Sum of the numbers, on the grid, weighted.
        squares: Sum of their squares.
        weight: Sum of the weights.
        rows: Number of rows.
        effect: Independent rows for each.
        lowest: What no such mean is below.
    """
    value = quotient(total, weight)
    if value is None:
        return undefined(rows)
    free = rows * effect - 1
    deviation = root(squares * weight - total * total, weight * weight) if free > 0 else None
    if deviation is None:
        return Metric(value, None, None, rows)
    radius = -float(stdtrit(free, 0.025)) * deviation / math.sqrt(free)
    return Metric(value, *finite(max(value - radius, lowest), value + radius), rows)


def finite(low: float, high: float) -> tuple[float | None, float | None]:
    """Limits, or none where one of them is beyond float64."""
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)


def quotient(part: int, whole: int) -> float | None:
    """``part / whole``; None where that is undefined or beyond float64."""
    try:
        return part / whole
    except (ZeroDivisionError, OverflowError):
        return None


def root(part: int, whole: int) -> float | None:
    """The square root of ``part / whole`` of integers of any size; that of less than 0, by rounding, is 0."""
    if not whole:
        return None
    if part <= 0:
        return 0.0
    # enough bits for float64, in an even number of places so that the root of the shift is one
    shift = 128 - part.bit_length() + whole.bit_length()
    shift += shift % 2
    scaled = (part << shift) // whole if shift >= 0 else part // (whole << -shift)
    try:
        return math.ldexp(math.isqrt(scaled), -shift // 2)
    except OverflowError:
        return None


def delta_deviation(shares: Floats, gradient: Floats, rows: float) -> float:
    """Standard deviation of a function of the cells of a multinomial number, by the delta method.

    ``shares`` of the cells and ``gradient`` of the function with respect to them, up to a constant; any shape.
    """
    centred = gradient - (shares * gradient).sum()
    return math.sqrt(float((shares * centred**2).sum()) / rows)


def drawn_together(shares: Floats, rows: float) -> Floats:
    """Shares of cells with z^2 = 3.84 more rows, spread evenly over the cells.

    At shares of 0 and 1 the delta method gives intervals without width; this is what Agresti and Coull, "Approximate is
    better than 'exact' for interval estimation of binomial proportions", American Statistician 52, 1998, do for one.
    """
    return np.asarray((shares * rows + Z**2 / shares.size) / (rows + Z**2))


def logit_interval(value: float, deviation: float) -> Interval:
    """Limits of a number strictly between 0 and 1, by the delta method for its logit."""
    spread = Z * deviation / (value * (1 - value))
    middle = float(logit(value))
    # rounding must not put a limit on the other side of the value
    return min(float(expit(middle - spread)), value), max(float(expit(middle + spread)), value)


def mean_of(values: Sequence[float], limits: Sequence[Interval], weights: Floats) -> Interval:
    """Limits of a weighted mean of independent numbers from those of each.

    Source: Zou and Donner, "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27, 2008 (method of variance estimates recovery).
    """
    each, ends = np.array(values), np.array(limits)
    value = float(weights @ each)
    low = value - float(np.linalg.norm(weights * (each - ends[:, 0])))
    return low, value + float(np.linalg.norm(weights * (ends[:, 1] - each)))
