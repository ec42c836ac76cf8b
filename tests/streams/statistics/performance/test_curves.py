"""Curves and tables from sums are those of the raw data at the edges of the bins."""

import numpy as np
import pytest
import sklearn.metrics as sk

from streams.statistics.performance import curves
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import Sums, count_pairs, empty, take_group

LAYOUT = PerformanceLayout(BINARY, ("no", "yes"))
CLASSES = PerformanceLayout(MULTICLASS, ("a", "b", "c"))
_RNG = np.random.default_rng(1)
SCORES = _RNG.beta(1, 2, 1_000)
ACTUAL = (_RNG.random(1_000) < SCORES).astype(float)
WEIGHTS = _RNG.choice([1.0, 3.0], 1_000)


def summed(layout: PerformanceLayout, scores: np.ndarray, actual: np.ndarray, weights: np.ndarray) -> Sums:
    n = len(actual)
    zeros = np.zeros(n, np.int64)
    pairs = Pairs(Predicted(scores, zeros - 1), actual, zeros, zeros, weights, np.zeros(n, np.uint8), np.zeros(n))
    return take_group(count_pairs(layout, pairs, zeros, 1), 0)


@pytest.mark.parametrize("weights", [np.ones(1_000), WEIGHTS])
def test_curves_pass_through_the_points_of_the_raw_data(weights):
    sums = summed(LAYOUT, SCORES[:, None], ACTUAL, weights)
    roc, recall = curves.roc_curve(LAYOUT, sums), curves.precision_recall_curve(LAYOUT, sums)
    assert roc.thresholds[0] == np.inf and len(roc.thresholds) == LAYOUT.bins + 1
    assert (roc.false_positive_rate[-1], roc.true_positive_rate[-1]) == pytest.approx((1, 1))
    for threshold in (0.2, 0.5, 0.9):
        above = threshold <= SCORES
        at = np.flatnonzero(np.isclose(roc.thresholds, threshold))[0]
        assert roc.true_positive_rate[at] == pytest.approx(np.average(above[ACTUAL == 1], weights=weights[ACTUAL == 1]))
        assert roc.false_positive_rate[at] == pytest.approx(
            np.average(above[ACTUAL == 0], weights=weights[ACTUAL == 0])
        )
        at = np.flatnonzero(np.isclose(recall.thresholds, threshold))[0]
        assert recall.precision[at] == pytest.approx(np.average(ACTUAL[above], weights=weights[above]))
        assert recall.recall[at] == pytest.approx(sk.recall_score(ACTUAL, above, sample_weight=weights))
    area = np.trapezoid(roc.true_positive_rate, roc.false_positive_rate)
    assert area == pytest.approx(metrics(LAYOUT, sums)["roc_auc"].value)


def test_gains_show_the_lift():
    sums = summed(LAYOUT, SCORES[:, None], ACTUAL, np.ones(1_000))
    gains = curves.gains_curve(LAYOUT, sums)
    assert (gains.share_of_rows[0], gains.share_of_rows[-1], gains.share_of_positives[-1]) == (0, 1, 1)
    top = np.interp(0.1, gains.share_of_rows, gains.share_of_positives)
    assert top / 0.1 == pytest.approx(metrics(LAYOUT, sums)["lift"].value)


@pytest.mark.parametrize("weights", [np.ones(1_000), WEIGHTS])
def test_reliability_is_that_of_the_rows_in_each_bin(weights):
    table = curves.reliability_table(LAYOUT, summed(LAYOUT, SCORES[:, None], ACTUAL, weights))
    assert table.rows.sum() == 1_000
    for k in (0, 5, 30):
        inside = (table.lower[k] <= SCORES) & (table.upper[k] > SCORES)
        assert table.rows[k] == inside.sum()
        assert table.mean_score[k] == pytest.approx(np.average(SCORES[inside], weights=weights[inside]), rel=1e-6)
        assert table.share[k] == pytest.approx(np.average(ACTUAL[inside], weights=weights[inside]))
    assert ((table.low <= table.share) & (table.share <= table.high)).all()


def test_briers_parts_add_up_to_the_score_of_the_raw_data():
    parts = curves.brier_parts(LAYOUT, summed(LAYOUT, SCORES[:, None], ACTUAL, WEIGHTS))
    raw = sk.brier_score_loss(ACTUAL, SCORES, sample_weight=WEIGHTS)
    assert parts.brier == pytest.approx(raw, rel=1e-9)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert total == pytest.approx(raw, rel=1e-9)


def test_several_classes_have_a_curve_each_and_a_matrix_with_their_names():
    scores = _RNG.dirichlet([1, 1, 1], 500)
    actual = (scores.cumsum(axis=1) > _RNG.random((500, 1))).argmax(axis=1)
    sums = summed(CLASSES, scores, actual.astype(float), np.ones(500))
    matrix = curves.confusion_matrix(CLASSES, sums)
    assert matrix.classes == ("a", "b", "c")
    assert matrix.rows.T.tolist() == sk.confusion_matrix(actual, scores.argmax(axis=1)).tolist()
    for k in range(3):
        roc = curves.roc_curve(CLASSES, sums, k)
        area = np.trapezoid(roc.true_positive_rate, roc.false_positive_rate)
        assert area == pytest.approx(sk.roc_auc_score(actual == k, scores[:, k]), abs=0.01)
    table = curves.reliability_table(CLASSES, sums)
    assert (table.share * table.rows).sum() == pytest.approx((scores.argmax(axis=1) == actual).sum())


def test_nothing_is_drawn_of_nothing():
    for layout in (LAYOUT, CLASSES, PerformanceLayout(REGRESSION)):
        sums = take_group(empty(layout, 1), 0)
        assert curves.roc_curve(layout, sums) is None
        assert curves.precision_recall_curve(layout, sums) is None
        assert curves.gains_curve(layout, sums) is None
        assert curves.brier_parts(layout, sums) is None
    assert len(curves.reliability_table(LAYOUT, take_group(empty(LAYOUT, 1), 0)).rows) == 0
    assert curves.confusion_matrix(PerformanceLayout(REGRESSION), {}) is None
