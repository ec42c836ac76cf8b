"""Fitted bounds of numbers: for ``outlying_input``, ``prediction_out_of_range`` and ``clip`` where none are given.

A condition on one column fires where a value lies outside of two order statistics. One on several columns fires where
any of its columns does; its columns get bounds together, so that the rate of the whole condition is what was asked for:
the row's largest surprise (:mod:`streams.humility.surprise`) has a conformal threshold, and a column's bounds are the
values that are as surprising. A column of several conditions gets the widest of its bounds, which makes each of them
fire less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats
from driftline.humility.fit import NoveltyColumn
from driftline.humility.rules import BY_CLIP, OUTLYING_INPUT, PREDICTION_OUT_OF_RANGE, HumilitySpec
from driftline.reading import PREDICTION
from streams.humility.surprise import numeric_surprise
from streams.statistics.humility import ConformalThreshold, RowsNeeded, conformal_threshold, tolerance_bounds

Bounds = tuple[float, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FittedBounds:
    """``bounds`` by column; ``short``: names of columns, and the rows it takes to bound them."""

    bounds: Mapping[str, Bounds]
    short: tuple[tuple[str, RowsNeeded], ...]


def columns_together(asked: HumilitySpec, watched: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns that conditions want fitted bounds of, condition by condition, each set once, in order.

    ``watched``: numeric features; a condition that names none means all of them.
    """
    found: dict[tuple[str, ...], None] = {}
    for rule in asked.rules:
        for leaf in rule.when.leaves():
            if leaf.low is not None or leaf.high is not None:
                continue
            if leaf.trigger == OUTLYING_INPUT:
                found[tuple(sorted(leaf.columns or watched))] = None
            if leaf.trigger == PREDICTION_OUT_OF_RANGE:
                found[(PREDICTION,)] = None
        clip = rule.override
        if clip is not None and clip.kind == BY_CLIP and clip.low is None and clip.high is None:
            found[(PREDICTION,)] = None
    return list(found)


def fit_bounds(
    values: Mapping[str, Floats], together: Sequence[tuple[str, ...]], calibrates: Mask, rate: float, confidence: float
) -> FittedBounds:
    """Bounds of all columns: each on its own, and together where conditions look at several.

    Args:
        values: float64[n] by column, NaN where missing; missing values are not outside.
        together: Sets of columns that one condition looks at.
        calibrates: bool[n]; the other rows learn what is surprising.
        rate: At most this share of unchanged rows is outside of a column, or of a set.
        confidence: Over the choice of the rows.
    """
    bounds: dict[str, Bounds] = {}
    short: dict[str, RowsNeeded] = {}
    shared = {name for names in together if len(names) > 1 for name in names}
    alone = {name for names in together if len(names) == 1 for name in names}
    for name in sorted(alone | (values.keys() - shared)):
        column = values[name]
        _put(bounds, short, name, tolerance_bounds(column[np.isfinite(column)], rate, confidence))
    surprise = {name: numeric_surprise(name, values[name][~calibrates]) for name in sorted(shared)}
    for names in together:
        if len(names) < 2:
            continue
        scores = np.max([_surprise_of(surprise[name], values[name][calibrates]) for name in names], axis=0)
        threshold = conformal_threshold(scores, rate, confidence)
        for name in names:
            found = _inside(surprise[name], threshold) if isinstance(threshold, ConformalThreshold) else threshold
            _put(bounds, short, name, found)
    return FittedBounds(bounds, tuple(sorted(short.items())))


def _put(bounds: dict[str, Bounds], short: dict[str, RowsNeeded], name: str, found: Bounds | RowsNeeded) -> None:
    if isinstance(found, RowsNeeded):
        short[name] = found
        return
    low, high = bounds.get(name, found)
    bounds[name] = (min(low, found[0]), max(high, found[1]))


def _surprise_of(column: NoveltyColumn, values: Floats) -> Floats:
    """Surprise float64[n] of values; none of missing ones, which are not outside of anything."""
    bins = np.searchsorted(column.edges, values, "right")
    return np.where(np.isfinite(values), np.array(column.surprise)[bins], -np.inf)


def _inside(column: NoveltyColumn, threshold: ConformalThreshold) -> Bounds:
    """The smallest and the largest value that is no more surprising than the threshold."""
    usual = np.flatnonzero(np.array(column.surprise[:-1]) <= threshold.score)
    edges = np.array([-np.inf, *column.edges, np.inf])
    if not len(usual):
        # values are there so seldom that all of them are surprising: then none is out of bounds
        return -np.inf, np.inf
    return float(edges[usual[0]]), float(np.nextafter(edges[usual[-1] + 1], -np.inf))
