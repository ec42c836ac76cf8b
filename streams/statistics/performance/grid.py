"""Exact sums of numbers: each is rounded to a grid before it is added, so that no sum depends on order or splitting.

A number on the grid is a Python integer, in units of ``GRID``. Sums of them never overflow, are the same in any order,
and are undone by subtraction. They are made with float64 wherever that is exact: all partial sums below 2^53.
"""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.pairs import Floats, Integers

Whole = NDArray[Any]
"""Arrays of dtype object that hold Python integers; in type annotations only."""

GRID_BITS = 30
GRID = 2.0**-GRID_BITS
"""The unit of all sums of numbers, about 1e-9: what is smaller is not seen."""

ONE = 1 << GRID_BITS
"""The number 1 on the grid."""

_EXACT = 2.0**53
_ROWS_AT_ONCE = 1 << 22


def to_grid(number: float | Fraction) -> int:
    """The nearest multiple of ``GRID`` in units of it, of any finite number. Raises ``ValueError`` for others."""
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected a finite number to put on the grid of sums, got {number}")
    if isinstance(number, float) and math.isfinite(scaled := float(number) * ONE):
        return round(scaled)  # a float times a power of two is exact; ten times as fast as fractions
    return round(Fraction(number) * ONE)


def from_grid(units: int) -> float:
    """The nearest float64; numbers beyond the largest one become it."""
    try:
        return units / ONE
    except OverflowError:
        return sys.float_info.max if units > 0 else -sys.float_info.max


def as_weights(counts: NDArray[Any]) -> Whole:
    """Counts int64 as sums of weights that are all 1; sums of numbers come back as they are."""
    if counts.dtype == object:
        return counts
    return np.asarray(counts.astype(object) * ONE, object)


def grouped_sums(numbers: Floats, cells: Integers | None, size: int) -> Whole:
    """Sums object[K, size] of K numbers of each row, ``numbers`` float64[K, n], each rounded to the grid.

    ``cells``: int64[n], which sum from 0 to ``size`` - 1 a row belongs to; None: all to the only one.
    Raises ``ValueError`` for numbers that are not finite, or from 2^993 on.
    """
    rows = numbers.shape[1]
    if not rows:
        return np.zeros((len(numbers), size), object)
    with np.errstate(over="ignore"):
        scaled = np.multiply(numbers, float(ONE))
    np.rint(scaled, out=scaled)
    sums: Whole = np.empty((len(numbers), size), object)
    top = np.maximum(scaled.max(axis=1), -scaled.min(axis=1)) * rows
    for k, (row, is_exact) in enumerate(zip(scaled, (top < _EXACT).tolist(), strict=True)):
        if not is_exact:
            sums[k] = _sums_of_integers(row, np.zeros(rows, np.int64) if cells is None else cells, size)
        elif cells is None:
            sums[k] = int(row.sum())
        else:
            sums[k] = np.bincount(cells, weights=row, minlength=size).astype(np.int64)
    return sums


def _sums_of_integers(integers: Floats, cells: Integers, size: int) -> Whole:
    """Exact sums object[size] of float64[n] that are integers of any size, thirty bits at a time."""
    if not np.isfinite(integers).all():
        raise ValueError("expected finite numbers below 2^993 to add up; leave out rows that have none")
    sums = np.zeros(size, object)
    for start in range(0, len(integers), _ROWS_AT_ONCE):
        rest, into = integers[start : start + _ROWS_AT_ONCE], cells[start : start + _ROWS_AT_ONCE]
        unit = 1
        while rest.any():
            high = np.trunc(rest * GRID)
            low = rest - high * ONE
            sums += np.bincount(into, weights=low, minlength=size).astype(np.int64).astype(object) * unit
            rest = high
            unit *= ONE
    return sums
