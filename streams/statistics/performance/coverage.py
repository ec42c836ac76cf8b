"""How often the actual value was among those that a quantile of scores admits, and how wide such intervals were.

A quantile q covers an actual value whose score is at most q (split-conformal prediction: Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005). It is compared as it was issued with the prediction, an *adaptive* one
(Gibbs and Candes, "Adaptive conformal inference under distribution shift", NeurIPS 2021), and as it was fitted, the
*static* one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from driftline.humility.fit import ABSOLUTE_RESIDUAL, INTERVAL_EXCESS, ONE_MINUS_PROBABILITY
from streams.statistics.performance.fields import COVERAGE_NUMBERS, Sums, weighted
from streams.statistics.performance.grid import grouped_sums
from streams.statistics.performance.intervals import Metric, mean, share
from streams.statistics.performance.pairs import (
    BINARY,
    MULTICLASS,
    REGRESSION,
    Decisions,
    Floats,
    Integers,
    Pairs,
    PerformanceLayout,
    Predicted,
)

LARGEST_QUANTILE = 2.0**200
"""Larger quantiles count as none, and larger widths as this: nobody is told anything by them, and they must not hide
all other rows."""

Mask = NDArray[np.bool_]


def coverage_scores(score: str, task: str, predicted: Predicted, actual: Floats) -> Floats:
    """How far each prediction was from what turned out, float64[n]; NaN where that is not known.

    Args:
        score: A score of :mod:`driftline.humility.fit`.
        task: Of the model.
        predicted: n rows.
        actual: float64[n], the actual value, or the index of the actual class.
    """
    scores = predicted.scores
    if not scores.shape[1]:
        return np.full(len(actual), np.nan)
    if task == REGRESSION and score == ABSOLUTE_RESIDUAL:
        with np.errstate(over="ignore"):
            return np.abs(actual - scores[:, 0])
    if task == REGRESSION and score == INTERVAL_EXCESS:
        with np.errstate(over="ignore"):
            return np.maximum(scores[:, 1] - actual, actual - scores[:, 2])
    if task == BINARY and score == ONE_MINUS_PROBABILITY:
        given = np.where(actual == 1, scores[:, 0], 1 - scores[:, 0])
    elif task == MULTICLASS and score == ONE_MINUS_PROBABILITY:
        given = scores[np.arange(len(actual)), actual.astype(np.intp)]
    else:
        return np.full(len(actual), np.nan)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where((given >= 0) & (given <= 1), 1 - given, np.nan))


def is_covered(scores: Floats, quantiles: Floats) -> tuple[Mask, Mask]:
    """Of scores and quantiles, float64[n]: in which rows both are known, and which of these are covered, bool[n]."""
    known = ~(np.isnan(scores) | np.isnan(quantiles))
    with np.errstate(invalid="ignore"):
        return known, known & (scores <= quantiles)


def adaptive_widths(score: str, predicted: Predicted, quantiles: Floats) -> Floats:
    """Widths of the intervals that quantiles, float64[n], give the predictions of a regression, float64[n]."""
    scores = predicted.scores
    with np.errstate(over="ignore", invalid="ignore"):
        widths = 2 * quantiles
        if score == INTERVAL_EXCESS:
            widths = scores[:, 2] - scores[:, 1] + widths
        return np.clip(widths, 0.0, LARGEST_QUANTILE)


def coverage_pairs(layout: PerformanceLayout, pairs: Pairs, cells: Integers | None, groups: int, weighs: bool) -> Sums:
    """What is counted of how pairs are covered; ``cells``: group of each row, None: all in the only one."""
    decisions = pairs.decisions
    if decisions is None:
        return {}
    scores = coverage_scores(layout.coverage_score, layout.task, pairs.predicted, pairs.actual)
    with_quantile, covered = is_covered(scores, decisions.quantiles)
    with_static, covered_static = is_covered(scores, decisions.static)
    masks = {
        "with_quantile": with_quantile,
        "covered": covered,
        "with_static": with_static,
        "covered_static": covered_static,
    }
    sums: Sums = {}
    for name, mask in masks.items():
        rows = np.flatnonzero(mask)
        sums[name] = np.array([len(rows)]) if cells is None else np.bincount(cells[rows], minlength=groups)
        if weighs:
            weights = np.where(mask, pairs.weights, 0.0)
            sums["weighted_" + name] = grouped_sums(weights[None], cells, groups)[0]
    rows = np.flatnonzero(with_quantile)
    numbers = _numbers(layout, pairs, decisions, rows)
    if weighs:
        numbers = numbers * pairs.weights[rows]
    found = grouped_sums(numbers, None if cells is None else cells[rows], groups)
    return sums | dict(zip(COVERAGE_NUMBERS, found, strict=False))


def _numbers(layout: PerformanceLayout, pairs: Pairs, decisions: Decisions, rows: NDArray[np.intp]) -> Floats:
    """Of some rows what is added up, float64[K, m]."""
    quantiles = decisions.quantiles[rows]
    if layout.task != REGRESSION:
        return quantiles[None]
    predicted = Predicted(pairs.predicted.scores[rows], pairs.predicted.labels[rows])
    widths = adaptive_widths(layout.coverage_score, predicted, quantiles)
    return np.stack((quantiles, widths, widths * widths))


def coverage_metrics(layout: PerformanceLayout, sums: Sums, effect: float) -> dict[str, Metric]:
    """``adaptive_coverage``, ``static_coverage`` and, of a regression, ``adaptive_width``, of sums without groups.

    ``effect``: independent rows for each pair.
    """
    rows, weight = int(sums["with_quantile"]), int(weighted(sums, "with_quantile"))
    static, static_weight = int(sums["with_static"]), int(weighted(sums, "with_static"))
    found = {
        "adaptive_coverage": share(int(weighted(sums, "covered")), weight, rows, effect),
        "static_coverage": share(int(weighted(sums, "covered_static")), static_weight, static, effect),
    }
    if layout.task == REGRESSION:
        width, squares = int(sums["adaptive_width"]), int(sums["adaptive_width_squared"])
        found["adaptive_width"] = mean(width, squares, weight, rows, effect, 0.0)
    return found
