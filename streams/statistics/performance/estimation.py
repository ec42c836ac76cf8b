"""How good a model is without its outcomes: estimates from its predictions and from what the reference showed.

**Classification** is confidence-based performance estimation (CBPE; NannyML's documentation, "Estimation of performance
of the monitored model"). If the calibrated probability of the positive class is p, a row that is predicted positive is
right with probability p. So the expected numbers of positives in each score bin and predicted class, E Y = m p of m
predictions, stand in for those that outcomes would give, and each metric is computed from them. With several classes
the sums of calibrated probabilities by predicted class stand in for the confusion matrix.

**Regression** is direct loss estimation: the mean of the losses that a model of the loss expects
(:mod:`.expected_loss`).

**What they are worth.** They follow changes of the inputs alone. They are valid only as long as the relation between
inputs and outcome is that of the reference: where that changes, they go on promising what was true before, and nothing
in predictions alone could tell. Outcomes tell (:func:`realised_error`). Even without such a change they are right only
for rows of which the score says all that the inputs say of the outcome, or that have the reference's mix of the rest.

**Intervals** (95 %) are of the value that outcomes of these very n predictions would show, not of an expectation. Two
things make it uncertain: outcomes are drawn, which even true probabilities leave open (Y is binomial; n p (1 - p)); and
the probabilities were learnt from N reference rows (p (1 - p) / N_b in a bin of N_b). With g = d metric / d Y,

    Var = sum_bc g_bc^2 m_bc p_b (1 - p_b)  +  sum_b (sum_c g_bc m_bc)^2 p_b (1 - p_b) / max(N_b, 1)           (1)

by the delta method; limits of shares are those of their logit. Rows count as independent. That the calibration map
pools bins and shrinks makes its part smaller than the second sum for traffic unlike the reference, not larger. With
several classes, and of losses, the spread of the rows' own probabilities is not in the sums, and the largest that their
means allow is taken: intervals there are wider than they need to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.baseline import OutcomeReference
from streams.statistics.arrays import Floats
from streams.statistics.performance import ranking
from streams.statistics.performance.expected_loss import columns_of, expected_loss, fit_expected_loss
from streams.statistics.performance.fields import Sums
from streams.statistics.performance.grid import GRID, from_grid
from streams.statistics.performance.intervals import Metric, Z, logit_interval, undefined
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

__all__ = [
    "EstimateError",
    "columns_of",
    "estimate",
    "expected_loss",
    "fit_expected_loss",
    "realised_error",
]


@dataclass(frozen=True, slots=True)
class EstimateError:
    """How an estimate compared with the truth.

    Attributes:
        difference: Estimate less truth: above zero where a share was promised too high, or a loss too large.
        inside: Whether the truth lay within the estimate's interval, give or take what bins hide of both.
        rows: Pairs that the truth is of.
    """

    difference: float
    inside: bool
    rows: int


def estimate(layout: PerformanceLayout, reference: OutcomeReference, sums: Sums) -> dict[str, Metric]:
    """Metrics that are to be expected of the predictions in ``sums``, with the names of :func:`.metrics.metrics`.

    - binary, of predictions with a score: ``accuracy``, ``precision``, ``recall``, ``f1``, ``specificity``,
      ``balanced_accuracy``, ``prevalence``, ``roc_auc``, ``average_precision``, with values ``value``;
    - multi-class, of predictions with all scores: ``accuracy``, ``precision``, ``recall`` and ``f1`` with ``_macro``
      and ``_weighted``, with values ``value``;
    - regression, of predictions whose loss is expected: ``mae``, ``mse``, ``rmse``.

    ``rows`` of a metric are predictions, not pairs. Empty where the reference has nothing to estimate with.

    Args:
        layout: Of the sums and of the reference.
        reference: What its outcomes showed.
        sums: Of predictions, without groups; those of pairs are not looked at.

    Raises:
        ValueError: The reference's calibration is of other score bins.
    """
    if layout.task == BINARY and reference.calibration.size:
        return _binary(layout, reference, sums)
    if layout.task == MULTICLASS and reference.calibration.size:
        return _multiclass(layout, reference, sums)
    if layout.task == REGRESSION and reference.expected_loss:
        return _regression(reference, sums)
    return {}


def realised_error(estimated: Mapping[str, Metric], realised: Mapping[str, Metric]) -> dict[str, EstimateError]:
    """What estimates were worth, for metrics that have both values; of windows whose outcomes are there.

    The estimate is of all predictions, the truth of those with an outcome: where few have one, and no fair sample, the
    difference is also theirs.
    """
    found = {}
    for name, promised in estimated.items():
        true = realised.get(name)
        if true is None or true.value is None or promised.value is None:
            continue
        hidden = promised.error + true.error
        inside = (
            promised.low is not None
            and promised.high is not None
            and promised.low - hidden <= true.value <= promised.high + hidden
        )
        found[name] = EstimateError(promised.value - true.value, inside, true.rows)
    return found


# ---- two classes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Expected:
    """Predictions by score bin and predicted class, ``m`` float64[B, 2]; what is known of each bin, float64[B].

    ``p``: probability of the positive class; ``learnt_from``: rows of the reference it was learnt from.
    """

    m: Floats
    p: Floats
    learnt_from: Floats

    def deviation(self, gradient: Floats) -> float:
        """Standard deviation of a metric, equation 1; ``gradient`` float64[B, 2] by positives of each cell."""
        spread = self.p * (1 - self.p)
        drawn = float(((gradient**2 * self.m).sum(axis=1) * spread).sum())
        learnt = (gradient * self.m).sum(axis=1) ** 2 * spread / np.maximum(self.learnt_from, 1)
        return math.sqrt(drawn + float(learnt.sum()))

    def share(self, value: float, gradient: Floats, rows: float, error: float = 0.0) -> Metric:
        """A metric between 0 and 1."""
        low, high = _share_limits(value, self.deviation(gradient))
        return Metric(value, low, high, round(rows), error)


_CERTAIN = 1e-12

_BINARY_NAMES = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "specificity",
    "balanced_accuracy",
    "prevalence",
    "roc_auc",
    "average_precision",
)


def _share_limits(value: float, deviation: float) -> tuple[float, float]:
    if not 0 < value < 1:
        return max(value - Z * deviation, 0.0), min(value + Z * deviation, 1.0)
    return logit_interval(value, deviation)


def _by_class(negative: Floats | float, positive: Floats | float, bins: int) -> Floats:
    """A gradient float64[B, 2] from that of rows predicted negative and of rows predicted positive."""
    return np.stack([np.broadcast_to(negative, bins), np.broadcast_to(positive, bins)], axis=1).astype(np.float64)


def _binary(layout: PerformanceLayout, reference: OutcomeReference, sums: Sums) -> dict[str, Metric]:
    bins = layout.bins
    if reference.calibration.shape != (bins,):
        raise ValueError(f"expected a calibration of {bins} score bins, got one of {reference.calibration.size}")
    m = sums["predicted_scores"][:bins].astype(np.float64)
    of_reference = _over_ages(reference, "scores")
    learnt_from = np.zeros(bins) if of_reference is None else of_reference.reshape(-1, 2)[:bins].sum(axis=1)
    # no outcome is certain, whoever wrote the map
    p = np.clip(reference.calibration, _CERTAIN, 1 - _CERTAIN)
    cells = _Expected(m, p, learnt_from * _independent(reference))
    n = float(m.sum())
    if not n:
        return {name: undefined(0) for name in (*_BINARY_NAMES, *(["value"] if layout.values is not None else []))}
    found = _from_confusion(layout, cells, n)
    positives = cells.p * m.sum(axis=1)
    return found | _from_ranking(cells, m.sum(axis=1) - positives, positives)


def _from_confusion(layout: PerformanceLayout, cells: _Expected, n: float) -> dict[str, Metric]:
    bins, said_no, said_yes = len(cells.p), float(cells.m[:, 0].sum()), float(cells.m[:, 1].sum())
    missed, hit = (float(number) for number in cells.p @ cells.m)
    positives, negatives = hit + missed, n - hit - missed
    recall, specificity = hit / positives, (said_no - missed) / negatives
    f1 = 2 * hit / (said_yes + positives)
    of_recall = _by_class(-recall / positives, (1 - recall) / positives, bins)
    of_specificity = _by_class((specificity - 1) / negatives, specificity / negatives, bins)
    found = {
        "accuracy": cells.share((hit + said_no - missed) / n, _by_class(-1 / n, 1 / n, bins), n),
        "precision": cells.share(hit / said_yes, _by_class(0.0, 1 / said_yes, bins), said_yes)
        if said_yes
        else undefined(0),
        "recall": cells.share(recall, of_recall, n),
        "f1": cells.share(f1, _by_class(-f1 / (said_yes + positives), (2 - f1) / (said_yes + positives), bins), n),
        "specificity": cells.share(specificity, of_specificity, n),
        "balanced_accuracy": cells.share((recall + specificity) / 2, (of_recall + of_specificity) / 2, n),
        "prevalence": cells.share(positives / n, _by_class(1 / n, 1 / n, bins), n),
    }
    if layout.values is not None:
        worth = layout.values
        value = float(worth[0] @ [said_no - missed, missed] + worth[1] @ [said_yes - hit, hit]) / n
        gain = (worth[:, 1] - worth[:, 0]) / n
        radius = Z * cells.deviation(_by_class(float(gain[0]), float(gain[1]), bins))
        found["value"] = Metric(value, value - radius, value + radius, round(n))
    return found


def _from_ranking(cells: _Expected, negatives: Floats, positives: Floats) -> dict[str, Metric]:
    """From expected numbers by score bin; one more positive in a bin is one negative less there."""
    p, n, rows = float(positives.sum()), float(negatives.sum()), float(cells.m.sum())
    area = ranking.roc_auc(negatives, positives, 1.0)
    precision = ranking.average_precision(negatives, positives, 1.0, whole=False)
    if area is None or precision is None:
        return {"roc_auc": undefined(round(rows)), "average_precision": undefined(round(rows))}
    below = np.cumsum(negatives) - negatives / 2
    above = p - np.cumsum(positives) + positives / 2
    of_area = (below - above) / (p * n) - area.value * (1 / p - 1 / n)
    all_above = rows - np.cumsum(negatives + positives) + (negatives + positives) / 2
    at = np.divide(above, all_above, out=np.zeros_like(above), where=all_above > 0)
    lift = np.divide(positives, all_above, out=np.zeros_like(above), where=all_above > 0)
    of_precision = (at - precision.value + np.cumsum(lift) - lift / 2) / p
    bins = len(positives)
    return {
        "roc_auc": cells.share(area.value, _by_class(of_area, of_area, bins), rows, area.error),
        "average_precision": cells.share(
            precision.value, _by_class(of_precision, of_precision, bins), rows, precision.error
        ),
    }


# ---- several classes -------------------------------------------------------------------------------------------------


def _multiclass(layout: PerformanceLayout, reference: OutcomeReference, sums: Sums) -> dict[str, Metric]:
    c = len(layout.classes)
    cells = np.array([[from_grid(units) for units in line] for line in sums["expected_confusion"].tolist()])
    of_reference = _over_ages(reference, "confusion")
    learnt_from = np.zeros(c) if of_reference is None else of_reference.reshape(c, c).sum(axis=1)
    learnt_from = learnt_from * _independent(reference)
    n, said, turned_out = float(cells.sum()), cells.sum(axis=1), cells.sum(axis=0)
    names = ["accuracy", *(f"{name}_{how}" for name in ("precision", "recall", "f1") for how in ("macro", "weighted"))]
    if layout.values is not None:
        names.append("value")
    # probabilities are on the grid one by one
    if n < 0.5:
        return {name: undefined(0) for name in names}

    def deviation(gradient: Floats) -> float:
        """Each row of the matrix is as of rows with its mean probabilities, the widest spread there could be."""
        means = np.divide((gradient * cells).sum(axis=1), said, out=np.zeros(c), where=said > 0)
        drawn = ((gradient - means[:, None]) ** 2 * cells).sum(axis=1)
        return math.sqrt(float(((1 + said / np.maximum(learnt_from, 1)) * drawn).sum()))

    def share(value: float, gradient: Floats) -> Metric:
        return Metric(value, *_share_limits(value, deviation(gradient)), round(n))

    found = {"accuracy": share(float(np.trace(cells)) / n, np.eye(c) / n)}
    there = (said > 0) | (turned_out > 0)
    for name, (each, gradient) in _of_classes(cells, said, turned_out).items():
        found[f"{name}_macro"] = share(float(each[there].mean()), gradient / there.sum())
        value = float(each @ turned_out) / n
        found[f"{name}_weighted"] = share(value, (gradient * turned_out + each) / n)
    if layout.values is not None:
        value, radius = float((layout.values * cells).sum()) / n, Z * deviation(layout.values / n)
        found["value"] = Metric(value, value - radius, value + radius, round(n))
    return {name: found[name] for name in names}


def _of_classes(cells: Floats, said: Floats, turned_out: Floats) -> dict[str, tuple[Floats, Floats]]:
    """Metrics of each class k, float64[C], and what one more row of an actual class k does to its: [predicted, k].

    How many rows are predicted as a class is known, so that only the actual classes vary.
    """
    hits, eye = np.diag(cells), np.eye(len(cells))

    def divided(part: Floats, whole: Floats) -> Floats:
        return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)

    one = np.ones(len(cells))
    recall, f1 = divided(hits, turned_out), divided(2 * hits, said + turned_out)
    return {
        "precision": (divided(hits, said), eye * divided(one, said)),
        "recall": (recall, (eye - recall) * divided(one, turned_out)),
        "f1": (f1, (2 * eye - f1) * divided(one, said + turned_out)),
    }


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _regression(reference: OutcomeReference, sums: Sums) -> dict[str, Metric]:
    """Losses vary with E e^2 - (E |e|)^2, and squared ones with the kurtosis of the reference's errors, scaled."""
    n = int(sums["expected_rows"])
    if not n:
        return {name: undefined(0) for name in ("mae", "mse", "rmse")}
    mae, mse = (from_grid(int(sums[name])) / n for name in ("expected_absolute_error", "expected_squared_error"))
    known = _over_ages(reference, "with_prediction")
    rows = 0.0 if known is None else float(known[0]) * _independent(reference)
    # what is drawn in n rows, and what was learnt from those of the reference
    per_row = 1 / n + 1 / max(rows, 1.0)
    radius = Z * math.sqrt(max(mse - mae**2, 0.0) * per_row)
    found = {"mae": Metric(mae, max(mae - radius, 0.0), mae + radius, n, _unseen(mae))}
    kurtosis = _kurtosis(reference)
    root = math.sqrt(mse)
    for name, value, power in (("mse", mse, 1.0), ("rmse", root, 0.5)):
        low, high = None, None
        if kurtosis is not None and value > 0:
            spread = math.exp(min(Z * math.sqrt(max(kurtosis - 1, 0.0) * per_row) * power, _WIDEST))
            low, high = (value / spread, value * spread) if math.isfinite(value * spread) else (None, None)
        found[name] = Metric(value, low, high, n, _unseen(mse) if power == 1 else 0.0)
    return found


_WIDEST = 100.0
"""Limits further than by a factor of e^100 from the value tell nothing."""


def _unseen(value: float) -> float:
    """Each row's loss is on the grid of the sums; stated where that matters."""
    return GRID / 2 if value * 1e-6 < GRID / 2 else 0.0


def _kurtosis(reference: OutcomeReference) -> float | None:
    """Mean e^4 over the square of mean e^2 of the reference's errors."""
    squares, fourths = (reference.sums.get(name) for name in ("squared_error", "error_fourth"))
    weights = reference.sums.get("weighted_with_prediction", reference.counts.get("with_prediction"))
    if squares is None or fourths is None or weights is None or not squares.sum() > 0:
        return None
    mean_square = float(squares.sum()) / float(weights.sum())
    found = float(fourths.sum()) / float(weights.sum()) / mean_square / mean_square
    return found if math.isfinite(found) else None


# ---- the reference ---------------------------------------------------------------------------------------------------


def _over_ages(reference: OutcomeReference, name: str) -> NDArray[np.float64] | None:
    """The reference's counts of all ages, flat; None where there are none."""
    counts = reference.counts.get(name)
    return None if counts is None else counts.sum(axis=0).reshape(-1).astype(np.float64)


def _independent(reference: OutcomeReference) -> float:
    """Independent rows for each pair of the reference: fewer where they weigh unequally (Kish 1965, section 11.7)."""
    weights, squares = (reference.sums.get(name) for name in ("weights", "weights_squared"))
    resolved = reference.counts.get("resolved")
    if weights is None or squares is None or resolved is None or not (squares.sum() > 0 and resolved.sum() > 0):
        return 1.0
    return min(float(weights.sum()) ** 2 / float(squares.sum()) / float(resolved.sum()), 1.0)
