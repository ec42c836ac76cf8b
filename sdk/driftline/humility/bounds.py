"""Bounds that may be open, and values pulled between them."""

from __future__ import annotations

import math

import numpy as np

from driftline.events import Floats

INFINITE = (-math.inf, math.inf)
"""Bounds that nothing lies outside of."""


def bound(value: float | None, otherwise: float) -> float:
    """A bound; None for none."""
    return otherwise if value is None else value


def no_bounds(low: float | None, high: float | None) -> bool:
    """Whether both bounds are left to the fit."""
    return low is None and high is None


def values_between(values: Floats, low: float, high: float) -> Floats:
    """Values pulled into a range, float64[n]; NaN stays."""
    return np.where(values < low, low, np.where(values > high, high, values))


def value_between(value: float, low: float, high: float) -> float:
    """A value pulled into a range; NaN stays."""
    return low if value < low else high if value > high else value
