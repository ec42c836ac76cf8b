"""What metrics are drawn from: confusion matrix, ROC, precision-recall and gains curves, reliability, Brier's parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.calibration import BrierDecomposition, brier_decomposition
from streams.statistics.performance.fields import Sums, class_count, has_class_scores, weighted
from streams.statistics.performance.grid import GRID
from streams.statistics.performance.intervals import design_effect
from streams.statistics.performance.pairs import BINARY, MULTICLASS, Floats, PerformanceLayout
from streams.statistics.performance.shares import wilson


@dataclass(frozen=True, eq=False, slots=True)
class ConfusionMatrix:
    """Pairs by predicted (first index) and actual class: ``rows`` int64[C, C], and their ``weights`` float64[C, C]."""

    classes: tuple[str, ...]
    rows: NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True, eq=False, slots=True)
class RocCurve:
    """What share of each class scores at or above each threshold, float64[K] each; thresholds fall from infinity."""

    thresholds: Floats
    false_positive_rate: Floats
    true_positive_rate: Floats


@dataclass(frozen=True, eq=False, slots=True)
class PrecisionRecallCurve:
    """Precision and recall of the rows at or above each threshold, float64[K] each; falling thresholds."""

    thresholds: Floats
    precision: Floats
    recall: Floats


@dataclass(frozen=True, eq=False, slots=True)
class GainsCurve:
    """What share of the positives the share of rows with the highest scores holds, float64[K] each, from 0 to 1."""

    share_of_rows: Floats
    share_of_positives: Floats


@dataclass(frozen=True, eq=False, slots=True)
class ReliabilityTable:
    """Per score bin with rows, ascending: how often what was foretold with these scores turned out.

    Attributes:
        lower: float64[M], lower end of the bin.
        upper: float64[M], upper end.
        rows: int64[M].
        mean_score: float64[M].
        share: float64[M], share of rows of the positive class; multi-class: whose predicted class was right.
        low: float64[M], lower 95 % limit of the share (Wilson).
        high: float64[M], upper limit.
    """

    lower: Floats
    upper: Floats
    rows: NDArray[np.int64]
    mean_score: Floats
    share: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False, slots=True)
class ScoreBins:
    """Weights by score bin, float64[B]: rows against and for what the scores foretell, and sums of scores."""

    negatives: Floats
    positives: Floats
    score_sums: Floats

    @property
    def totals(self) -> Floats:
        """float64[B], weights of all rows."""
        return self.negatives + self.positives


def score_bins(layout: PerformanceLayout, sums: Sums) -> ScoreBins | None:
    """Binary: by score of the positive class; multi-class: by the largest probability. None for other tasks."""
    names = _BINNED.get(layout.task)
    if names is None:
        return None
    outcomes = _floats(weighted(sums, names[0]))[: layout.bins]
    return ScoreBins(outcomes[:, 0], outcomes[:, 1], _floats(weighted(sums, names[1])))


_BINNED = {BINARY: ("scores", "score_sums"), MULTICLASS: ("confidence", "confidence_sums")}


def confusion_matrix(layout: PerformanceLayout, sums: Sums) -> ConfusionMatrix | None:
    """None where the task has no classes."""
    if layout.task not in _BINNED:
        return None
    classes = layout.classes if len(layout.classes) == class_count(layout) else ("negative", "positive")
    return ConfusionMatrix(classes, sums["confusion"].copy(), _floats(weighted(sums, "confusion")))


def roc_curve(layout: PerformanceLayout, sums: Sums, of_class: int = 1) -> RocCurve | None:
    """At the edges of the score bins: exact there. None without both classes.

    ``of_class``: multi-class, index of the class that is compared with the rest; of no concern to two classes.
    """
    cells = _against_the_rest(layout, sums, of_class)
    if cells is None or not (cells.sum(axis=0) > 0).all():
        return None
    shares = _from_the_top(cells) / cells.sum(axis=0)
    return RocCurve(_thresholds(layout), shares[:, 0], shares[:, 1])


def precision_recall_curve(layout: PerformanceLayout, sums: Sums, of_class: int = 1) -> PrecisionRecallCurve | None:
    """At the edges of the score bins that some row reaches: exact there. None without positives."""
    cells = _against_the_rest(layout, sums, of_class)
    if cells is None or not cells[:, 1].sum() > 0:
        return None
    above = _from_the_top(cells)
    rows = above.sum(axis=1)
    reached = rows > 0
    precision = above[reached, 1] / rows[reached]
    return PrecisionRecallCurve(_thresholds(layout)[reached], precision, above[reached, 1] / cells[:, 1].sum())


def gains_curve(layout: PerformanceLayout, sums: Sums, of_class: int = 1) -> GainsCurve | None:
    """At the edges of the score bins; between them rows are taken as mixed, a straight line. None without positives."""
    cells = _against_the_rest(layout, sums, of_class)
    if cells is None or not cells[:, 1].sum() > 0:
        return None
    above = _from_the_top(cells)
    rows = above.sum(axis=1)
    kept = np.concatenate(([True], np.diff(rows) > 0))
    return GainsCurve(rows[kept] / rows[-1], above[kept, 1] / above[-1, 1])


def reliability_table(layout: PerformanceLayout, sums: Sums) -> ReliabilityTable | None:
    """Per bin with rows; None where the task has no classes."""
    bins = score_bins(layout, sums)
    if bins is None:
        return None
    rows = sums[_BINNED[layout.task][0]][: layout.bins].sum(axis=1)
    used = np.flatnonzero(rows)
    totals = bins.totals[used]
    share = bins.positives[used] / totals
    effective = rows[used] * design_effect(sums)
    limits = np.array([wilson(*pair) for pair in zip(share.tolist(), effective.tolist(), strict=True)]).reshape(-1, 2)
    ends = np.concatenate(([0.0], layout.score_edges, [1.0]))
    return ReliabilityTable(
        lower=ends[used],
        upper=ends[used + 1],
        rows=rows[used],
        mean_score=bins.score_sums[used] / totals,
        share=share,
        low=limits[:, 0],
        high=limits[:, 1],
    )


def brier_parts(layout: PerformanceLayout, sums: Sums) -> BrierDecomposition | None:
    """Murphy's decomposition of a binary Brier score; None for other tasks and without rows."""
    bins, weight = score_bins(layout, sums), int(weighted(sums, "with_scores")) if layout.task == BINARY else 0
    if bins is None or not weight:
        return None
    return brier_decomposition(int(sums["brier"]) / weight, bins.positives, bins.totals, bins.score_sums)


def _floats(units: NDArray[Any]) -> Floats:
    return np.asarray(units.astype(np.float64) * GRID)


def _against_the_rest(layout: PerformanceLayout, sums: Sums, of_class: int) -> Floats | None:
    """Weights float64[B, 2] by score bin: not of the class, of the class."""
    if layout.task == BINARY:
        return np.asarray(_floats(weighted(sums, "scores"))[: layout.bins])
    if has_class_scores(layout):
        return np.asarray(_floats(weighted(sums, "class_scores"))[of_class])
    return None


def _from_the_top(cells: Floats) -> Floats:
    """Weights float64[B + 1, 2] at or above each threshold, from none to all."""
    return np.concatenate((np.zeros((1, 2)), np.cumsum(cells[::-1], axis=0)))


def _thresholds(layout: PerformanceLayout) -> Floats:
    return np.concatenate(([np.inf], layout.score_edges[::-1], [0.0]))
