"""Calibration from score bins against the rows themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from streams.statistics.performance.calibration import (
    brier_decomposition,
    expected_calibration_error,
    reliability_curve,
    smooth_calibration_error,
)
from streams.statistics.performance.calibration_map import fit_calibration

EDGES = np.linspace(0.01, 0.99, 99)


def binned(scores, outcomes, edges=EDGES):
    """Positives, totals and score sums by bin."""
    bins = np.searchsorted(edges, scores, "right")
    size = len(edges) + 1
    return (
        np.bincount(bins, outcomes, size),
        np.bincount(bins, minlength=size).astype(float),
        np.bincount(bins, scores, size),
    )


def drawn(rng, rows, error=0.0):
    """Scores and outcomes whose probability is ``error * 4 p (1 - p)`` above the score p."""
    scores = rng.beta(2, 3, rows)
    truth = np.clip(scores + 4 * error * scores * (1 - scores), 0, 1)
    return scores, (rng.random(rows) < truth).astype(float)


# ---- Brier score -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_the_parts_of_the_brier_score_add_up_and_the_rest_is_that_of_stephenson(seed, rows):
    rng = np.random.default_rng(seed)
    scores, outcomes = drawn(rng, rows, error=0.05)
    edges = np.array([0.2, 0.4, 0.6])
    parts = brier_decomposition(float(np.mean((scores - outcomes) ** 2)), *binned(scores, outcomes, edges))
    assert parts.brier == pytest.approx(parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins)
    bins = np.searchsorted(edges, scores, "right")
    variance = covariance = 0.0
    for k in np.unique(bins):
        f, o = scores[bins == k], outcomes[bins == k]
        variance += ((f - f.mean()) ** 2).sum() / rows
        covariance += 2 * ((f - f.mean()) * (o - o.mean())).sum() / rows
    assert parts.within_bins == pytest.approx(variance - covariance, abs=1e-12)


def test_the_brier_parts_are_those_of_the_rows():
    rng = np.random.default_rng(4)
    scores = rng.choice([0.1, 0.35, 0.8], 500)
    outcomes = (rng.random(500) < scores**2).astype(float)
    parts = brier_decomposition(brier_score_loss(outcomes, scores), *binned(scores, outcomes))
    shares = {score: outcomes[scores == score].mean() for score in np.unique(scores)}
    observed = np.array([shares[score] for score in scores])
    assert parts.reliability == pytest.approx(np.mean((scores - observed) ** 2))
    assert parts.resolution == pytest.approx(np.mean((observed - outcomes.mean()) ** 2))
    assert parts.within_bins == pytest.approx(0, abs=1e-12)


def test_debiased_reliability_of_a_calibrated_model_is_about_zero():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(200):
        scores, outcomes = drawn(rng, 300)
        found.append(brier_decomposition(0.2, *binned(scores, outcomes, np.linspace(0.1, 0.9, 9))))
    plain = np.mean([parts.reliability for parts in found])
    debiased = np.mean([parts.reliability_debiased for parts in found])
    assert plain > 0.003
    assert abs(debiased) < 0.1 * plain


def test_without_rows_there_is_nothing():
    nothing = np.zeros(100)
    assert brier_decomposition(0.0, nothing, nothing, nothing) is None
    assert expected_calibration_error(nothing, nothing, nothing) is None
    assert smooth_calibration_error(nothing, nothing, nothing, EDGES) is None
    assert not len(reliability_curve(nothing, nothing, nothing).rows)


# ---- calibration errors ----------------------------------------------------------------------------------------------


def test_the_expected_calibration_error_is_that_of_the_rows_in_the_same_groups():
    rng = np.random.default_rng(6)
    scores, outcomes = drawn(rng, 5_000, error=0.08)
    edges = np.quantile(scores, np.arange(1, 100) / 100, method="inverted_cdf")
    found = expected_calibration_error(*binned(scores, outcomes, edges))
    order = np.argsort(scores)
    groups = np.array_split(order, 10)
    naive = sum(len(g) / 5_000 * abs(scores[g].mean() - outcomes[g].mean()) for g in groups)
    assert found.value == pytest.approx(naive, abs=1e-3)
    assert found.error == 0


def test_groups_have_about_equal_mass_and_keep_all_rows():
    rng = np.random.default_rng(7)
    scores, outcomes = drawn(rng, 10_000)
    curve = reliability_curve(*binned(scores, outcomes))
    assert len(curve.rows) == 10
    assert curve.rows.sum() == 10_000
    assert curve.rows.max() < 1.4 * curve.rows.min()
    assert (np.diff(curve.predicted) > 0).all()
    assert (curve.rows * curve.observed).sum() == pytest.approx(outcomes.sum())


def test_chance_alone_is_mostly_taken_out_of_the_debiased_error():
    rng = np.random.default_rng(8)
    found = [expected_calibration_error(*binned(*drawn(rng, 500))) for _ in range(200)]
    plain, debiased = np.mean([each.value for each in found]), np.mean([each.debiased for each in found])
    assert plain == pytest.approx(0.8 * np.sqrt(10 / 500) * 0.45, rel=0.2)
    assert debiased < 0.6 * plain


@pytest.mark.parametrize("error", [0.0, 0.05, -0.2])
def test_the_intervals_of_both_errors_cover_the_truth(error):
    rng = np.random.default_rng(9)
    big = binned(*drawn(rng, 3_000_000, error))
    true_smooth = smooth_calibration_error(*big, EDGES).value
    within = {"expected": 0, "smooth": 0}
    for _ in range(100):
        sample = binned(*drawn(rng, 600, error))
        found = expected_calibration_error(*sample)
        smooth = smooth_calibration_error(*sample, EDGES)
        group_truth = _true_group_error(sample, error)
        within["expected"] += found.low - 1e-9 <= group_truth <= found.high
        within["smooth"] += smooth.low - 1e-9 <= true_smooth <= smooth.high + 0.002
    assert min(within.values()) >= 92


def _true_group_error(sample, error):
    """The error of the groups if their rows' outcomes were their probabilities."""
    curve = reliability_curve(*sample)
    distance = 4 * error * curve.predicted * (1 - curve.predicted)
    return float(curve.rows @ np.abs(distance)) / curve.rows.sum()


def naive_smooth_error(scores, outcomes):
    """Every row by itself, kernels reflected by images, the width by halving."""
    t = (np.arange(400) + 0.5) / 400

    def integral(width):
        total = np.zeros_like(t)
        for image in range(-2, 3):
            for side in (-1, 1):
                z = (t[:, None] - (side * scores + 2 * image)[None]) / width
                total += np.exp(-(z**2) / 2) @ (outcomes - scores)
        return np.abs(total).mean() / len(scores) / width / np.sqrt(2 * np.pi)

    narrow, wide = 1e-3, 1.0
    for _ in range(14):
        middle = (narrow + wide) / 2
        narrow, wide = (middle, wide) if integral(middle) > middle else (narrow, middle)
    return narrow


@pytest.mark.parametrize(("rows", "error"), [(150, 0.0), (300, 0.1), (400, -0.05)])
def test_the_smooth_error_is_that_of_the_rows_within_the_error_stated(rows, error):
    rng = np.random.default_rng(rows)
    for _ in range(3):
        scores, outcomes = drawn(rng, rows, error)
        found = smooth_calibration_error(*binned(scores, outcomes), EDGES)
        assert abs(found.value - naive_smooth_error(scores, outcomes)) <= found.error + 2e-4
        assert found.error < 0.03


def test_the_error_of_bins_is_stated_larger_for_wide_bins_and_holds_there():
    rng = np.random.default_rng(11)
    wide = np.array([0.25, 0.5, 0.75])
    scores, outcomes = drawn(rng, 400, 0.1)
    coarse = smooth_calibration_error(*binned(scores, outcomes, wide), wide)
    fine = smooth_calibration_error(*binned(scores, outcomes), EDGES)
    assert coarse.error > 3 * fine.error
    assert abs(coarse.value - naive_smooth_error(scores, outcomes)) <= coarse.error


def test_weights_count_as_rows_and_widen_the_interval():
    rng = np.random.default_rng(12)
    positives, totals, sums = binned(*drawn(rng, 2_000, 0.05))
    for function in (
        expected_calibration_error,
        lambda *arrays, **given: smooth_calibration_error(*arrays, EDGES, **given),
    ):
        plain = function(positives, totals, sums)
        weighed = function(3 * positives, 3 * totals, 3 * sums, effective=2_000)
        fewer = function(positives, totals, sums, effective=500)
        assert weighed.value == pytest.approx(plain.value)
        assert weighed.low == pytest.approx(plain.low)
        assert weighed.high == pytest.approx(plain.high)
        assert fewer.high - fewer.low > plain.high - plain.low


def test_a_perfect_model_has_no_error():
    found = smooth_calibration_error([0, 10], [10, 10], [0, 10], [0.5])
    assert found.value == 0
    assert expected_calibration_error([0, 10], [10, 10], [0, 10]).value == 0


# ---- The map from score bins to probabilities ------------------------------------------------------------------------


def test_without_scores_the_map_is_the_isotonic_regression_of_the_bins():
    rng = np.random.default_rng(1)
    scores, outcomes = drawn(rng, 200_000, error=0.1)
    positives, totals, _ = binned(scores, outcomes)
    bins = np.searchsorted(EDGES, scores, "right")
    expected = IsotonicRegression(out_of_bounds="clip").fit(bins, outcomes).predict(np.arange(100))
    wide = totals > 200
    assert wide.sum() > 60
    np.testing.assert_allclose(fit_calibration(positives, totals)[wide], expected[wide], atol=0.005)


def test_the_map_is_drawn_to_the_overall_share_by_one_row():
    found = fit_calibration([0, 30], [10, 40])
    share = 30.5 / 51
    np.testing.assert_allclose(found, [share / 11, (30 + share) / 41])


def test_empty_bins_lie_between_their_neighbours_and_continue_the_ends():
    found = fit_calibration([0, 0, 0, 30, 0], [0, 100, 0, 100, 0])
    assert found[0] == found[1]
    assert found[2] == pytest.approx((found[1] + found[3]) / 2)
    assert found[4] == found[3]


def test_nothing_known_is_a_half():
    np.testing.assert_array_equal(fit_calibration([0, 0], [0, 0]), [0.5, 0.5])


@st.composite
def counted(draw):
    size = draw(st.integers(1, 12))
    totals = draw(st.lists(st.integers(0, 50), min_size=size, max_size=size))
    positives = [draw(st.integers(0, total)) for total in totals]
    return positives, totals


@given(counted(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_map_never_falls_and_is_never_certain(counts, with_scores):
    positives, totals = counts
    scores = (np.arange(len(totals)) + 0.5) / len(totals) if with_scores else None
    found = fit_calibration(positives, totals, scores)
    assert found.shape == (len(totals),)
    assert (np.diff(found) >= -1e-12).all()
    assert ((found > 0) & (found < 1)).all()


def test_with_scores_calibrated_ones_are_kept_and_few_rows_do_less_harm():
    rng = np.random.default_rng(2)
    errors = {False: [], True: []}
    for _ in range(20):
        scores, outcomes = drawn(rng, 1_000)
        positives, totals, sums = binned(scores, outcomes)
        means = np.where(totals > 0, sums / np.maximum(totals, 1), (np.arange(100) + 0.5) / 100)
        for with_scores, found in errors.items():
            learnt = fit_calibration(positives, totals, means if with_scores else None)
            found.append(float(totals @ np.abs(learnt - means)) / 1_000)
    assert np.mean(errors[True]) < 0.4 * np.mean(errors[False])


def test_with_scores_many_rows_win_whatever_the_form_of_the_miscalibration():
    rng = np.random.default_rng(3)
    scores = rng.random(400_000)
    truth = np.where(scores < 0.5, 0.2, 0.6)
    positives, totals, sums = binned(scores, (rng.random(400_000) < truth).astype(float))
    found = fit_calibration(positives, totals, sums / totals)
    np.testing.assert_allclose(found, np.where(sums / totals < 0.5, 0.2, 0.6), atol=0.02)


def test_separated_classes_have_a_map_too():
    found = fit_calibration([0, 50], [50, 50], [0.4, 0.6])
    assert found[0] < 0.05
    assert found[1] > 0.95


@pytest.mark.parametrize(
    ("positives", "totals", "scores"),
    [([3], [2], None), ([-1], [2], None), ([1, 1], [2], None), ([1], [2], [1.5]), ([1], [2], [0.1, 0.2])],
)
def test_arrays_that_do_not_belong_together_are_refused(positives, totals, scores):
    with pytest.raises(ValueError, match="expected"):
        fit_calibration(positives, totals, scores)
