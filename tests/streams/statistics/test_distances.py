"""Distances against scipy, and the confidence limits against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial.distance import jensenshannon

from streams.statistics import distances as d
from streams.statistics.layouts import CATEGORICAL, nominal_probabilities, reference_probabilities

COUNTS = hnp.arrays(np.int64, (4, 15), elements=st.integers(0, 10**6)).filter(lambda c: (c.sum(axis=1) > 0).all())
P0 = reference_probabilities(np.random.default_rng(1).integers(0, 400, size=(4, 15)))


@given(COUNTS)
def test_distances_agree_with_scipy(counts: np.ndarray) -> None:
    p = counts / counts.sum(axis=1, keepdims=True)
    smooth = (counts + P0) / (counts.sum(axis=1, keepdims=True) + 1)
    for s in range(4):
        assert d.jensen_shannon_distance(counts, P0)[s] == pytest.approx(jensenshannon(p[s], P0[s], base=2), abs=1e-6)
        assert d.kl_divergence_nats(counts, P0)[s] == pytest.approx(stats.entropy(smooth[s], P0[s]), abs=1e-12)
        jeffreys = stats.entropy(smooth[s], P0[s]) + stats.entropy(P0[s], smooth[s])
        assert d.population_stability_index(counts, P0)[s] == pytest.approx(jeffreys, abs=1e-12)
        bhattacharyya = np.sqrt(p[s] * P0[s]).sum()
        assert d.hellinger_distance(counts, P0)[s] ** 2 == pytest.approx(1 - bhattacharyya, abs=1e-12)
        chi_square = stats.chisquare(counts[s], counts[s].sum() * P0[s], sum_check=False).statistic / counts[s].sum()
        assert d.chi_square_divergence(counts, P0)[s] == pytest.approx(chi_square, rel=1e-9)
        assert d.total_variation(counts, P0)[s] == pytest.approx(np.maximum(p[s] - P0[s], 0).sum(), abs=1e-12)
    assert d.jensen_shannon_divergence_bits(counts, P0) == pytest.approx(d.jensen_shannon_distance(counts, P0) ** 2)


@given(COUNTS)
def test_distances_keep_their_known_inequalities(counts: np.ndarray) -> None:
    tv, hellinger = d.total_variation(counts, P0), d.hellinger_distance(counts, P0)
    assert (hellinger**2 <= tv + 1e-12).all() and (tv <= np.sqrt(2) * hellinger + 1e-12).all()
    assert (d.jensen_shannon_divergence_bits(counts, P0) <= tv + 1e-12).all()
    assert ((tv >= 0) & (tv <= 1)).all()


def test_distances_are_zero_at_the_baseline_one_at_the_far_end_and_nan_without_events() -> None:
    p0 = np.array([0.25, 0.75, 0.0])
    here, far, none = np.array([[1, 3, 0], [0, 0, 5], [0, 0, 0]])
    for distance in (d.total_variation, d.jensen_shannon_distance, d.hellinger_distance):
        assert distance(here, p0) == pytest.approx(0, abs=1e-8)
        assert distance(far, p0) == pytest.approx(1)
        assert np.isnan(distance(none, p0))
    for distance in (d.population_stability_index, d.kl_divergence_nats, d.chi_square_divergence):
        assert np.isnan(distance(np.zeros(15), P0[0]))
        assert distance(np.array([2, 6, 0]), p0) == pytest.approx(0, abs=1e-12)
        assert distance(far, p0) == np.inf


def test_the_expected_psi_without_change_is_bins_over_events() -> None:
    """Core bins only: E[PSI] = (K-1)/n, the reason why PSI does not alarm."""
    p0 = np.full(10, 0.1)
    psi = d.population_stability_index(np.random.default_rng(3).multinomial(500, p0, size=4_000), p0)
    assert psi.mean() == pytest.approx(9 / 500, rel=0.05)


@pytest.mark.parametrize("shift", [0, 1])
def test_confidence_limits_of_total_variation_cover_the_truth(shift: int) -> None:
    p0, n, beta = nominal_probabilities(), 300, 0.05
    p = np.roll(p0, shift)
    observed = d.total_variation(np.random.default_rng(5).multinomial(n, p, size=5_000), p0)
    truth = 0.5 * np.abs(p - p0).sum()
    assert (d.tv_upper_limit(observed, n, beta) >= truth).mean() >= 1 - beta
    assert (d.tv_lower_limit(observed, n, 15, beta) <= truth).mean() >= 1 - beta


def test_confidence_limits_close_in_with_events() -> None:
    assert d.tv_upper_limit(0.2, 10**8, 1e-6) == pytest.approx(0.2, abs=1e-3)
    assert d.tv_lower_limit(0.2, 10**8, 15, 1e-6) == pytest.approx(0.2, abs=1e-3)
    assert d.tv_upper_limit(0.2, 1, 1e-6) == 1
    assert d.tv_lower_limit(0.2, 1, 15, 1e-6) == 0
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="probability"):
            d.tv_upper_limit(0.1, 10, wrong)


def test_after_rows_to_resolve_an_unchanged_stream_is_typically_resolved_and_not_at_half() -> None:
    p0, margin, beta = nominal_probabilities(), 0.05, 0.05
    n = int(d.rows_to_resolve(p0, margin, beta))
    rng = np.random.default_rng(6)

    def resolved(rows: int) -> float:
        observed = d.total_variation(rng.multinomial(rows, p0, size=2_000), p0)
        return float((d.tv_upper_limit(observed, rows, beta) <= margin).mean())

    assert resolved(n) > 0.5
    assert resolved(n // 2) < 0.5
    assert d.rows_to_resolve(np.tile(p0, (3, 1)), [0.05, 0.1, 0.2], beta).shape == (3,)


def test_the_effect_size_of_an_unchanged_boolean_does_not_come_from_bins_it_cannot_fill() -> None:
    reference = np.zeros(CATEGORICAL.size, np.int64)
    reference[:2] = 14_000, 6_000
    counts = np.zeros(CATEGORICAL.size, np.int64)
    counts[:2] = 126, 54
    assert d.population_stability_index(counts, d.baseline_of_used_bins(counts, reference)) < 1e-6


def test_the_baseline_of_used_bins_keeps_what_either_side_filled_and_adds_up_to_one() -> None:
    counts, reference = np.array([[0, 2, 0, 0], [0, 0, 0, 1]]), np.array([[90, 0, 10, 0], [5, 5, 0, 0]])
    p0 = d.baseline_of_used_bins(counts, reference)
    assert (p0 > 0).tolist() == [[True, True, True, False], [True, True, False, True]]
    assert p0.sum(axis=1) == pytest.approx([1, 1])
    assert p0[0, 0] / p0[0, 2] == pytest.approx(90.5 / 10.5)
