"""Ranking from binned scores: the stated error holds whatever the order within bins."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.statistics.performance import ranking

EDGES = np.array([0.25, 0.5, 0.75])


def binned(scores, actual, weights):
    bins = EDGES.searchsorted(scores, "right")
    return [np.bincount(bins[actual == y], weights[actual == y], minlength=4).astype(float) for y in (0, 1)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.sampled_from([1, 3, 1_000]), st.booleans())
def test_the_error_bounds_every_order_within_bins(seed, n, steps, weighs):
    rng = np.random.default_rng(seed)
    # few steps make ties, which can raise average precision above that of any strict order
    scores = np.clip((rng.integers(0, 4, n) + rng.integers(0, steps, n) / steps) / 4, 0, 0.999)
    actual = rng.integers(0, 2, n)
    weights = rng.choice([0.3, 1.0, 4.0], n) if weighs else np.ones(n)
    negatives, positives = binned(scores, actual, weights)
    area = ranking.roc_auc(negatives, positives, 1.0)
    precision = ranking.average_precision(negatives, positives, 1.0, whole=not weighs)
    if actual.min() == actual.max():
        assert area is None
    else:
        assert abs(area.value - sk.roc_auc_score(actual, scores, sample_weight=weights)) <= area.error + 1e-12
    if not actual.any():
        assert precision is None
        return
    raw = sk.average_precision_score(actual, scores, sample_weight=weights)
    assert abs(precision.value - raw) <= precision.error + 1e-12
    assert 0 <= precision.low <= precision.high <= 1


def test_the_error_is_reached_by_the_extreme_orders():
    negatives, positives = np.array([3.0, 2.0]), np.array([1.0, 4.0])
    found = ranking.average_precision(negatives, positives, 1.0)
    actual = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1])
    best = sk.average_precision_score(actual, [0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    worst_actual = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    worst = sk.average_precision_score(worst_actual, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert found.error == pytest.approx(max(best - found.value, found.value - worst), rel=1e-12)
    assert ranking.roc_auc(negatives, positives, 1.0).error == pytest.approx((3 * 1 + 2 * 4) / 5 / 5 / 2)


def test_a_bin_for_each_score_has_no_error_and_delongs_variance():
    rng = np.random.default_rng(2)
    m, n = 40, 60
    x, y = rng.normal(1, 1, m), rng.normal(0, 1, n)
    order = np.argsort(np.concatenate((x, y)))
    positives = (order < m).astype(float)
    found = ranking.roc_auc(1 - positives, positives, 1.0)
    wins = (x[:, None] > y[None, :]).astype(float)
    variance = wins.mean(axis=1).var(ddof=1) / m + wins.mean(axis=0).var(ddof=1) / n
    assert found.value == pytest.approx(wins.mean()) and found.error == 0
    middle = np.log(found.value / (1 - found.value))
    spread = 1.959964 * np.sqrt(variance) / (found.value * (1 - found.value))
    assert found.low == pytest.approx(1 / (1 + np.exp(spread - middle)), rel=1e-6)


def test_average_precisions_variance_is_that_of_resampling():
    rng = np.random.default_rng(3)
    edges = np.linspace(0.1, 0.9, 9)
    actual = rng.random(1_000) < 0.3
    bins = edges.searchsorted(np.clip(rng.normal(0.4 + 0.25 * actual, 0.2), 0, 1))
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, 1_000, 1_000)
        cells = [np.bincount(bins[rows][actual[rows] == y], minlength=10).astype(float) for y in (0, 1)]
        drawn.append(ranking.average_precision(*cells, 1.0).value)
    cells = [np.bincount(bins[actual == y], minlength=10).astype(float) for y in (0, 1)]
    found = ranking.average_precision(*cells, 1.0)
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.15)


def test_lift_is_exact_where_the_tenth_ends_at_an_edge():
    negatives, positives = np.array([80.0, 5.0, 4.0]), np.array([1.0, 4.0, 6.0])
    found = ranking.lift(negatives, positives, 1.0)
    assert found.value == pytest.approx((6 / 10) / (11 / 100)) and found.error == 0
    assert found.low < found.value < found.high <= 10


def test_lifts_error_bounds_every_order_within_the_bin_where_the_tenth_ends():
    negatives, positives = np.array([60.0, 20.0, 4.0]), np.array([4.0, 10.0, 2.0])
    found = ranking.lift(negatives, positives, 1.0)
    base = 16 / 100
    best, worst = (2 + 4) / 10 / base, 2 / 10 / base
    assert found.value == pytest.approx((2 + 4 * 10 / 30) / 10 / base)
    assert found.error == pytest.approx(max(best - found.value, found.value - worst))


def test_separated_classes_have_newcombes_limits():
    found = ranking.roc_auc(np.array([20.0, 0.0]), np.array([0.0, 20.0]), 1.0)
    assert found.value == 1 and found.high == 1 and 0.8 < found.low < 0.95
    worst = ranking.roc_auc(np.array([0.0, 20.0]), np.array([20.0, 0.0]), 1.0)
    assert (worst.low, worst.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
