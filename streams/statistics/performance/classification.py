"""Metrics of classifications, from sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance import ranking
from streams.statistics.performance.calibration import (
    CalibrationError,
    expected_calibration_error,
    smooth_calibration_error,
)
from streams.statistics.performance.fields import Sums, has_class_scores, weighted
from streams.statistics.performance.grid import GRID
from streams.statistics.performance.intervals import (
    Metric,
    Z,
    delta_deviation,
    design_effect,
    drawn_together,
    mean,
    mean_of,
    share,
    undefined,
)
from streams.statistics.performance.pairs import Floats, PerformanceLayout
from streams.statistics.performance.shares import wilson

Ranker = Callable[[Floats, Floats, float], ranking.Ranking | None]


def binary_metrics(layout: PerformanceLayout, sums: Sums) -> dict[str, Metric]:
    """Metrics of a binary classification, the positive class being the second, of sums without groups."""
    effect = design_effect(sums)
    rows, weights = sums["confusion"], weighted(sums, "confusion")
    (_, false_negative), (false_positive, true_positive) = weights.tolist()
    said, actual, all_rows = int(rows[1].sum()), int(rows[:, 1].sum()), int(rows.sum())
    positives, told = sums["scores"].sum(axis=0), weighted(sums, "scores").sum(axis=0)
    predictions = sums["predicted_scores"].sum(axis=0)
    shares = _shares(weights)
    found = {
        "accuracy": _accuracy(rows, weights, effect),
        "precision": share(true_positive, true_positive + false_positive, said, effect),
        "recall": share(true_positive, true_positive + false_negative, actual, effect),
        "f1": _binary_f1(true_positive, false_positive + false_negative, rows, effect),
        "balanced_accuracy": _balanced_accuracy(shares, rows, effect) if _has_all(shares) else undefined(all_rows),
        "matthews_corrcoef": _matthews(shares, all_rows, effect),
        "prevalence": share(int(told[1]), int(told.sum()), int(positives.sum()), effect),
        "predicted_positive_rate": share(int(predictions[1]), int(predictions.sum()), int(predictions.sum()), 1.0),
    }
    found |= _losses(layout, sums, effect)
    numbers, scores = sums["scores"][: layout.bins], _floats(weighted(sums, "scores"))[: layout.bins]
    scored = int(numbers.sum())
    per_weight = _per_weight(scored, effect, scores)
    negative, positive = scores[:, 0], scores[:, 1]
    whole = "weighted_scores" not in sums
    found["roc_auc"] = _ranked(ranking.roc_auc(negative, positive, per_weight), scored)
    precision = ranking.average_precision(negative, positive, per_weight, whole=whole)
    found["average_precision"] = _ranked(precision, scored)
    found["lift"] = _ranked(ranking.lift(negative, positive, per_weight), scored)
    return found | _calibration(layout, scores, _floats(weighted(sums, "score_sums")), scored, effect)


def multiclass_metrics(layout: PerformanceLayout, sums: Sums) -> dict[str, Metric]:
    """Metrics of a multi-class classification, of sums without groups.

    As in scikit-learn, averages are over the classes that are predicted or turned out; a class that is never predicted
    has precision 0, one that never turned out recall 0. ``balanced_accuracy`` is over those that turned out.
    ``roc_auc_macro`` (one class against the rest) is over those of which there are both; its interval is that of equal
    deviations that all move together, never too narrow.
    """
    effect = design_effect(sums)
    rows, weights = sums["confusion"], weighted(sums, "confusion")
    all_rows = int(rows.sum())
    shares = _shares(weights)
    found = {
        "accuracy": _accuracy(rows, weights, effect),
        "balanced_accuracy": _balanced_accuracy(shares, rows, effect),
        "matthews_corrcoef": _matthews(shares, all_rows, effect),
    }
    for name, function in _AVERAGES.items():
        found[name] = _smooth(function, shares, all_rows, effect)
    found["recall_weighted"] = found["accuracy"]
    found |= _losses(layout, sums, effect)
    numbers = sums["confidence"][: layout.bins]
    scored = int(numbers.sum())
    confidence = _floats(weighted(sums, "confidence"))[: layout.bins]
    found |= _calibration(layout, confidence, _floats(weighted(sums, "confidence_sums")), scored, effect)
    if has_class_scores(layout):
        found |= _against_the_rest(sums, effect)
    return found


# ---- from the confusion matrix ---------------------------------------------------------------------------------------


def _floats(units: NDArray[np.object_]) -> Floats:
    return np.asarray(units.astype(np.float64) * GRID)


def _shares(weights: NDArray[np.object_]) -> Floats:
    """Shares of the cells; zeros where there are no rows."""
    total = int(weights.sum())
    return (
        np.array([[cell / total for cell in line] for line in weights.tolist()]) if total else np.zeros(weights.shape)
    )


def _has_all(shares: Floats) -> bool:
    return bool((shares.sum(axis=0) > 0).all())


def _accuracy(rows: NDArray[np.int64], weights: NDArray[np.object_], effect: float) -> Metric:
    return share(int(np.trace(weights)), int(weights.sum()), int(rows.sum()), effect)


def _binary_f1(hits: int, slips: int, rows: NDArray[np.int64], effect: float) -> Metric:
    """F1 = 2 J / (1 + J), J the share of hits among all rows but the true negatives, whose interval is Wilson's.

    Undefined only where no row is positive and none was predicted to be.
    """
    jaccard = share(hits, hits + slips, int(rows.sum() - rows[0, 0]), effect)
    value, low, high = (None if j is None else 2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Metric(value, low, high, int(rows.sum()))


def _balanced_accuracy(shares: Floats, rows: NDArray[np.int64], effect: float) -> Metric:
    """Mean recall of the classes that turned out, each with Wilson's interval."""
    of_class = shares.sum(axis=0)
    there = np.flatnonzero(of_class)
    if not len(there):
        return undefined(0)
    recalls = (np.diag(shares)[there] / of_class[there]).tolist()
    counts = (rows.sum(axis=0)[there] * effect).tolist()
    limits = [wilson(recall, count) for recall, count in zip(recalls, counts, strict=True)]
    equal = np.full(len(there), 1 / len(there))
    return Metric(float(equal @ recalls), *mean_of(recalls, limits, equal), int(rows.sum()))


def _matthews(shares: Floats, rows: int, effect: float) -> Metric:
    """The correlation of predicted and actual class (Gorodkin, "Comparing two K-category assignments by a K-category
    correlation coefficient", Computational Biology and Chemistry 28, 2004, equation 8; of two classes Matthews, 1975).

    Undefined where one of them is the same in all rows. The interval is the delta method's for Fisher's
    z = artanh(MCC), at shares drawn together.
    """
    value = _correlation(shares)[0]
    if value is None:
        return undefined(rows)
    near = drawn_together(shares, rows * effect)
    middle, gradient = _correlation(near)
    if middle is None or not -1 < middle < 1:
        return Metric(value, None, None, rows)
    spread = Z * delta_deviation(near, gradient, rows * effect + Z**2) / (1 - middle**2)
    low, high = math.tanh(math.atanh(middle) - spread), math.tanh(math.atanh(middle) + spread)
    return Metric(value, min(low, value), max(high, value), rows)


def _correlation(shares: Floats) -> tuple[float | None, Floats]:
    predicted, actual = shares.sum(axis=1), shares.sum(axis=0)
    covariance = float(np.trace(shares) - predicted @ actual)
    spread, actual_spread = _spread(predicted), _spread(actual)
    product = spread * actual_spread
    if product <= 0:
        return None, shares
    value = covariance / math.sqrt(product)
    slope = np.eye(len(shares)) - actual[:, None] - predicted[None, :]
    bend = predicted[:, None] / spread + actual[None, :] / actual_spread
    return min(max(value, -1.0), 1.0), slope / math.sqrt(product) + value * bend


def _spread(shares: Floats) -> float:
    """1 - sum of squares, exactly 0 for one class."""
    return float((shares * (shares.sum() - shares)).sum()) if np.count_nonzero(shares) > 1 else 0.0


Smooth = Callable[[Floats], tuple[float, Floats]]
"""A function of the cells' shares, and its gradient."""


def _smooth(function: Smooth, shares: Floats, rows: int, effect: float) -> Metric:
    """A function of the classes that are there, with the delta method's interval at shares drawn together."""
    there = np.flatnonzero(shares.sum(axis=0) + shares.sum(axis=1))
    if not len(there):
        return undefined(rows)
    shares = shares[np.ix_(there, there)]
    value = function(shares)[0]
    near = drawn_together(shares, rows * effect)
    middle, gradient = function(near)
    spread = Z * delta_deviation(near, gradient, rows * effect + Z**2)
    low, high = max(middle - spread, 0.0), min(middle + spread, 1.0)
    return Metric(value, min(low, value), max(high, value), rows)


def _divided(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _precision_of_classes(shares: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Precision of each class, and the gradient of their weighted sum with respect to the cells."""
    predicted = shares.sum(axis=1)
    precision = _divided(np.diag(shares), predicted)
    gradient = np.diag(_divided(weights, predicted)) - _divided(weights * precision, predicted)[:, None]
    return precision, gradient


def _recall_of_classes(shares: Floats, weights: Floats) -> tuple[Floats, Floats]:
    recall, gradient = _precision_of_classes(shares.T, weights)
    return recall, gradient.T


def _f1_of_classes(shares: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """F1 of each class; Takahashi et al., "Confidence interval for micro-averaged F1 and macro-averaged F1 scores",
    Applied Intelligence 52, 2022, derive the variance of its mean.
    """
    both = shares.sum(axis=1) + shares.sum(axis=0)
    f1 = _divided(2 * np.diag(shares), both)
    slope = _divided(weights * f1, both)
    return f1, np.diag(_divided(2 * weights, both)) - slope[:, None] - slope[None, :]


OfClasses = Callable[[Floats, Floats], tuple[Floats, Floats]]


def _macro(of_classes: OfClasses) -> Smooth:
    def average(shares: Floats) -> tuple[float, Floats]:
        each, gradient = of_classes(shares, np.full(len(shares), 1 / len(shares)))
        return float(each.mean()), gradient

    return average


def _weighted(of_classes: OfClasses) -> Smooth:
    """Weighted by the classes' shares of the actual ones, which vary too."""

    def average(shares: Floats) -> tuple[float, Floats]:
        actual = shares.sum(axis=0)
        each, gradient = of_classes(shares, actual)
        return float(each @ actual), gradient + each[None, :]

    return average


_AVERAGES = {
    "precision_macro": _macro(_precision_of_classes),
    "recall_macro": _macro(_recall_of_classes),
    "f1_macro": _macro(_f1_of_classes),
    "precision_weighted": _weighted(_precision_of_classes),
    "f1_weighted": _weighted(_f1_of_classes),
}


# ---- from the scores -------------------------------------------------------------------------------------------------


def _losses(layout: PerformanceLayout, sums: Sums, effect: float) -> dict[str, Metric]:
    """Mean losses, and the mean value of the pairs with a predicted class."""
    rows, weight = int(sums["with_scores"]), int(weighted(sums, "with_scores"))
    found = {
        name: mean(int(sums[name]), int(sums[name + "_squared"]), weight, rows, effect, lowest=0.0)
        for name in ("log_loss", "brier")
    }
    if layout.values is not None:
        weight, rows = int(weighted(sums, "confusion").sum()), int(sums["confusion"].sum())
        found["value"] = mean(int(sums["value"]), int(sums["value_squared"]), weight, rows, effect)
    return found


def _per_weight(rows: int, effect: float, weights: Floats) -> float:
    """Independent rows for each unit of weight."""
    total = float(weights.sum())
    return rows * effect / total if total > 0 else 1.0


def _ranked(found: ranking.Ranking | None, rows: int) -> Metric:
    return undefined(rows) if found is None else Metric(found.value, found.low, found.high, rows, found.error)


def _calibration(
    layout: PerformanceLayout, outcomes: Floats, score_sums: Floats, rows: int, effect: float
) -> dict[str, Metric]:
    """Calibration errors; ``outcomes`` float64[B, 2], weights that were not and that were what the scores foretold."""
    hits, totals, effective = outcomes[:, 1], outcomes.sum(axis=1), rows * effect
    expected = expected_calibration_error(hits, totals, score_sums, effective=effective)
    smooth = smooth_calibration_error(hits, totals, score_sums, layout.score_edges, effective=effective)
    return {
        "expected_calibration_error": _calibrated(expected, rows),
        "smooth_calibration_error": _calibrated(smooth, rows),
    }


def _calibrated(found: CalibrationError | None, rows: int) -> Metric:
    return undefined(rows) if found is None else Metric(found.value, found.low, found.high, rows, found.error)


def _against_the_rest(sums: Sums, effect: float) -> dict[str, Metric]:
    """ROC-AUC and average precision of each class against the rest, averaged."""
    counts = sums["class_scores"]
    scores = _floats(weighted(sums, "class_scores"))
    rows = int(counts[0].sum()) if len(counts) else 0
    areas, precisions, shares = [], [], []
    whole = "weighted_class_scores" not in sums
    for of_class in scores:
        negative, positive = of_class[:, 0], of_class[:, 1]
        per_weight = _per_weight(rows, effect, of_class)
        area = ranking.roc_auc(negative, positive, per_weight)
        precision = ranking.average_precision(negative, positive, per_weight, whole=whole)
        if area is not None and precision is not None:
            areas.append(area)
            precisions.append(precision)
            shares.append(float(positive.sum()))
    if not shares:
        return {name: undefined(rows) for name in ("roc_auc_macro", "roc_auc_weighted", "average_precision_macro")}
    equal, by_share = np.full(len(shares), 1 / len(shares)), np.array(shares) / sum(shares)
    return {
        "roc_auc_macro": _averaged(areas, equal, rows),
        "roc_auc_weighted": _averaged(areas, by_share, rows),
        "average_precision_macro": _averaged(precisions, equal, rows),
    }


def _averaged(found: list[ranking.Ranking], weights: Floats, rows: int) -> Metric:
    value, low, high, error = (
        float(weights @ [getattr(each, name) for each in found]) for name in ("value", "low", "high", "error")
    )
    return Metric(value, low, high, rows, error)
