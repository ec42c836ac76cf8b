"""How a reference's scores are cut: fine bins for metrics and calibration, coarse buckets for evidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.calibration_map import fit_calibration
from streams.statistics.performance.pairs import BINARY, MULTICLASS, Pairs, PerformanceLayout, Predicted

Floats = NDArray[np.float64]

SCORE_EDGES = 99
MOST_SCORE_BUCKETS = 10
LEAST_CONDITION_PAIRS = 200
"""So many pairs of the reference has every bucket of scores at every age."""


def leading_scores(layout: PerformanceLayout, predicted: Predicted) -> Floats:
    """The number float64[n] that a prediction is known by: the score, the largest probability, the prediction.

    NaN where there is none.
    """
    scores = predicted.scores
    if not scores.shape[1] or not len(scores):
        return np.full(predicted.rows, np.nan)
    if layout.task != MULTICLASS:
        return np.asarray(scores[:, 0])
    largest = np.where(np.isnan(scores), -np.inf, scores).max(axis=1)
    return np.asarray(np.where(np.isfinite(largest), largest, np.nan))


def learn_score_edges(layout: PerformanceLayout, predicted: Predicted) -> Floats:
    """Inner edges of the score bins, float64[B - 1], ascending: at most 99, bins of equal mass.

    Of several classes half of the edges part the probabilities of all of them, half the largest ones. Binary: the
    threshold is one of the edges.
    """
    leading = leading_scores(layout, predicted)
    leading = leading[np.isfinite(leading)]
    if layout.task == MULTICLASS:
        everything = predicted.scores[np.isfinite(predicted.scores)]
        edges = np.concatenate([_quantiles(everything, SCORE_EDGES // 2), _quantiles(leading, SCORE_EDGES // 2 + 1)])
        return np.unique(edges)
    if layout.task == BINARY:
        return np.unique(np.append(_quantiles(leading, SCORE_EDGES - 1), layout.threshold))
    return np.unique(_quantiles(leading, SCORE_EDGES))


def _quantiles(values: Floats, number: int) -> Floats:
    """So many values of the column that cut it in parts of equal mass; none that has nothing below."""
    if not len(values):
        return np.zeros(0)
    found = np.quantile(values, np.arange(1, number + 1) / (number + 1), method="inverted_cdf")
    return np.asarray(found[found > values.min()])


def learn_score_buckets(layout: PerformanceLayout, predicted: Predicted, ages: NDArray[np.int64]) -> Floats:
    """Inner edges float64[Q - 1] of at most ten buckets of equal mass of the pairs' leading scores.

    Every bucket has at least ``LEAST_CONDITION_PAIRS`` pairs in every age bucket, ``ages`` int64[n], else there are
    fewer. A score s is in bucket ``np.searchsorted(edges, s, "right")``; one that is missing in the last.
    """
    leading = leading_scores(layout, predicted)
    finite = leading[np.isfinite(leading)]
    for buckets in range(MOST_SCORE_BUCKETS, 1, -1):
        edges = np.unique(_quantiles(finite, buckets - 1))
        size = len(edges) + 1
        cells = np.bincount(
            ages * size + np.searchsorted(edges, leading, "right"), minlength=(layout.ages) * size
        )  # fmt: skip
        if cells.min() >= LEAST_CONDITION_PAIRS:
            return edges
    return np.zeros(0)


def learn_calibration(layout: PerformanceLayout, pairs: Pairs) -> Floats:
    """The share of positives in each score bin, not decreasing: binary float64[B]; several classes float64[C * B].

    Each pair counts as its weight says. Empty for numbers, and where there are no scores.
    """
    scores = pairs.predicted.scores
    if layout.task not in (BINARY, MULTICLASS) or not np.isfinite(scores).any():
        return np.zeros(0)
    columns = [1] if layout.task == BINARY else list(range(len(layout.classes)))
    return np.concatenate([_calibration(layout, pairs, scores[:, at], code) for at, code in enumerate(columns)])


def _calibration(layout: PerformanceLayout, pairs: Pairs, scores: Floats, code: int) -> Floats:
    there = np.isfinite(scores)
    cells = np.searchsorted(layout.score_edges, scores[there], "right")
    weights = pairs.weights[there]
    # of weighted rows as many count as would tell as much (Kish, "Survey sampling", 1965, section 11.7)
    weights = weights * (weights.sum() / max(float((weights**2).sum()), 1e-300))
    totals = np.bincount(cells, weights, layout.bins)
    positives = np.minimum(np.bincount(cells, weights * (pairs.actual[there] == code), layout.bins), totals)
    edges = np.concatenate([[0.0], layout.score_edges, [1.0]])
    means = (edges[:-1] + edges[1:]) / 2
    seen = totals > 0
    means[seen] = np.bincount(cells, weights * scores[there], layout.bins)[seen] / totals[seen]
    return fit_calibration(positives, totals, np.clip(means, 0.0, 1.0))
