"""The map from score bins to probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

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
