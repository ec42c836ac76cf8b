"""What the product promises: false alarms within the budget, and alarms soon after a change. Seeded simulations."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from streams.statistics.budget import best_growth_nats
from streams.statistics.dependence import tempering
from streams.statistics.evidence import make_bets, without_idle_tilts
from streams.statistics.layouts import (
    NUMERIC,
    QUALITY,
    NumericBins,
    bin_numeric,
    count_codes,
    fit_numeric,
    nominal_probabilities,
)
from streams.statistics.margins import effective_margins
from streams.statistics.replay import replay, step_counts
from streams.statistics.tilts import ASSOCIATION_TILTS, CATEGORICAL_TILTS, NUMERIC_TILTS, QUALITY_TILTS, Tilts

P0 = nominal_probabilities()
FLEET_THRESHOLD = np.log(3.6e7)  # 50,000 streams, hourly starts, 30 days, one false alarm


TOGETHER = np.array([0.19, 0.10, 0.05, 0.10, 0.12, 0.10, 0.05, 0.10, 0.19, 0.0])
"""Thirds of a feature and of a prediction that goes with it (a correlation of one half), row by row."""

WITHIN_MARGIN = TOGETHER + 0.015 * np.array([-1, 0, 1, 0, 0, 0, 1, 0, -1, 0])


def normal_bins(shift: float, scale: float = 1.0) -> np.ndarray:
    edges = norm.ppf(np.cumsum(P0)[1:12])
    p = np.zeros(15)
    p[1:13] = np.diff(norm.cdf(np.concatenate([[-np.inf], (edges - shift) / scale, [np.inf]])))
    return p


def ar1(rng: np.random.Generator, streams: int, n: int, phi: float) -> np.ndarray:
    noise = rng.normal(size=(streams, n)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=1)


@pytest.mark.parametrize("start_every", [1, 20])
@pytest.mark.parametrize(("c", "streams", "steps"), [(100, 100, 2_000), (1_000, 300, 3_000)])
def test_false_alarms_stay_within_the_bound_and_use_it(c: int, streams: int, steps: int, start_every: int) -> None:
    rng = np.random.default_rng([c, start_every])
    bets = make_bets(NUMERIC_TILTS, np.tile(P0, (streams, 1)), 0.0)
    counts = rng.multinomial(10, P0, size=(streams, steps))
    ratio = replay(bets, counts, start_every, np.log(c)).alarms_over_bound(np.log(c))
    assert 0.2 < ratio <= 1.0


def test_false_alarms_of_categorical_streams_stay_within_the_bound() -> None:
    rng = np.random.default_rng(12)
    p0 = np.concatenate([rng.dirichlet(np.ones(6)) * 0.97, np.zeros(14), [0.02, 0.005, 0.005]])
    bets = make_bets(CATEGORICAL_TILTS, np.tile(p0, (100, 1)), 0.0)
    ratio = replay(bets, rng.multinomial(10, p0, size=(100, 2_000)), 1, np.log(100)).alarms_over_bound(np.log(100))
    assert 0.2 < ratio <= 1.0


def test_no_distribution_at_the_edge_of_the_margin_breaks_the_bound() -> None:
    """The worst case of the null: all of the margin spent on what some tilt looks for."""
    rng = np.random.default_rng(13)
    edge = P0.copy()
    edge[2], edge[11] = P0[2] - 0.05, P0[11] + 0.05
    bets = make_bets(NUMERIC_TILTS, np.tile(P0, (100, 1)), 0.05)
    ratio = replay(bets, rng.multinomial(10, edge, size=(100, 2_000)), 1, np.log(100)).alarms_over_bound(np.log(100))
    assert 0.01 < ratio <= 1.0


@pytest.mark.parametrize(
    ("p0", "edge", "margin", "tilts"),
    [
        ([0.975, 0.005, 0.0, 0.02, 0.0], [0.975, 0.005, 0.0, 0.02, 0.0], 0.0, QUALITY_TILTS),
        ([0.98, 0.0, 0.0, 0.02, 0.0], [0.975, 0.0, 0.0, 0.025, 0.0], 0.005, QUALITY_TILTS),
        ([1.0, 0.0, 0.0, 0.0, 0.0], [0.995, 0.0, 0.005, 0.0, 0.0], 0.005, QUALITY_TILTS),
        (TOGETHER, TOGETHER, 0.0, ASSOCIATION_TILTS),
        (TOGETHER, WITHIN_MARGIN, 0.03, ASSOCIATION_TILTS),
    ],
    ids=["quality", "quality at the edge", "a kind never seen, at the edge", "association", "association at the edge"],
)
def test_false_alarms_of_quality_and_association_stay_within_the_bound(p0, edge, margin: float, tilts: Tilts) -> None:
    rng = np.random.default_rng(22)
    bets = make_bets(tilts, np.tile(p0, (100, 1)), margin)
    result = replay(bets, rng.multinomial(10, edge, size=(100, 2_000)), 1, np.log(100))
    assert 0.01 < result.alarms_over_bound(np.log(100)) <= 1.0


@pytest.mark.parametrize(
    ("shift", "scale", "most"),
    [
        (0.1, 1.0, 1.10),
        (0.2, 1.0, 1.15),
        (0.3, 1.0, 1.25),
        (0.5, 1.0, 1.35),
        (1.0, 1.0, 1.55),
        (0.0, 1.3, 1.75),
        (0.0, 0.75, 1.6),
    ],
)
def test_a_change_is_found_nearly_as_soon_as_information_theory_allows(shift: float, scale: float, most: float) -> None:
    """Mean delay over log c / KL of the values themselves, which the bins keep 94-97 % of (scale: 80-88 %).

    The change begins with a start, and every hundred events are an hour with a start of its own: c = 3.6e7 is what
    50,000 streams need that start every hour of a month.
    """
    rng = np.random.default_rng(14)
    p1 = normal_bins(shift, scale)
    divergence = (scale**2 - 1 + shift**2) / 2 - np.log(scale)
    limit = FLEET_THRESHOLD / divergence
    per_step = max(1, round(limit / 100))
    bets = without_idle_tilts(make_bets(NUMERIC_TILTS, np.tile(P0, (1_000, 1)), 0.0))
    counts = rng.multinomial(per_step, p1, size=(1_000, 600))
    result = replay(bets, counts, max(1, round(100 / per_step)), FLEET_THRESHOLD, until_first_alarm=True)
    assert (result.first_alarm_step >= 0).all()
    assert 0.8 < (result.first_alarm_step + 1).mean() * per_step / limit < most


def exponential_bins(ratio: float) -> np.ndarray:
    """An exponential column whose mean has changed by a factor."""
    p = np.zeros(15)
    p[1:13] = np.diff(1 - (1 - np.concatenate([[0.0], np.cumsum(P0)[1:12], [1.0]])) ** (1 / ratio))
    return p


def categories(*probabilities: float) -> np.ndarray:
    return np.pad(probabilities, (0, 23 - len(probabilities)))


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.05])
@pytest.mark.parametrize(
    ("tilts", "p0", "p1", "most"),
    [
        (NUMERIC_TILTS, P0, exponential_bins(1.5), 1.7),
        (NUMERIC_TILTS, P0, exponential_bins(0.6), 1.7),
        (NUMERIC_TILTS, P0, normal_bins(-0.6, 0.8), 1.6),
        (CATEGORICAL_TILTS, categories(0.4, 0.3, 0.15, 0.1, 0.05), categories(0.3, 0.225, 0.1125, 0.1, 0.2625), 1.6),
        (CATEGORICAL_TILTS, categories(0.4, 0.3, 0.15, 0.1, 0.05), categories(0.3, 0.26, 0.18, 0.15, 0.11), 2.2),
        (CATEGORICAL_TILTS, categories(0.8, 0.2), categories(0.7, 0.3), 1.4),
        (ASSOCIATION_TILTS, TOGETHER, np.append(np.full(9, 1 / 9), 0.0), 1.6),
    ],
    ids=["exponential up", "exponential down", "shift and scale", "one category", "flatter", "boolean", "association"],
)
def test_changes_of_other_columns_are_found_soon_as_well(
    tilts: Tilts, p0: np.ndarray, p1: np.ndarray, most: float, margin: float
) -> None:
    rng = np.random.default_rng(23)
    limit = FLEET_THRESHOLD / best_growth_nats(p1, p0, margin)
    per_step = max(1, round(limit / 60))
    bets = make_bets(tilts, np.tile(p0, (40, 1)), margin)
    counts = rng.multinomial(per_step, p1, size=(40, 300))
    found = replay(bets, counts, 300, FLEET_THRESHOLD, until_first_alarm=True).first_alarm_step
    assert (found >= 0).all()
    assert (found + 1).mean() * per_step / limit < most


@pytest.mark.parametrize(
    ("missing", "now", "most"), [(0.0, 0.02, 1.3), (0.0, 0.1, 1.4), (0.3, 0.05, 1.3), (0.3, 0.36, 1.6)]
)
def test_a_change_of_missing_values_is_found_close_to_the_limit(missing: float, now: float, most: float) -> None:
    rng = np.random.default_rng(24)
    p0, p1 = np.array([[1 - share, 0, 0, share, 0] for share in (missing, now)])
    limit = FLEET_THRESHOLD / best_growth_nats(p1, p0, 0.005)
    per_step = max(1, round(limit / 60))
    bets = make_bets(QUALITY_TILTS, np.tile(p0, (60, 1)), 0.005)
    counts = rng.multinomial(per_step, p1, size=(60, 300))
    found = replay(bets, counts, 300, FLEET_THRESHOLD, until_first_alarm=True).first_alarm_step
    assert (found >= 0).all()
    assert (found + 1).mean() * per_step / limit < most


@pytest.mark.parametrize("kind", QUALITY.rare_bins)
def test_a_column_that_breaks_altogether_alarms_within_five_events(kind: int) -> None:
    bets = make_bets(QUALITY_TILTS, [5_000, 0, 0, 0, 0], 0.005)
    broken = np.zeros((1, 20, 5), np.int64)
    broken[0, :, kind] = 1
    assert 0 <= replay(bets, broken, 20, FLEET_THRESHOLD).first_alarm_step[0] < 5


def test_the_margin_costs_little_for_large_shifts_and_a_small_one_is_found_all_the_same() -> None:
    """eps = 0.05: 0.3 standard deviations in 2,400 events, 1 standard deviation in 90."""
    rng = np.random.default_rng(15)
    bets = make_bets(NUMERIC_TILTS, np.tile(P0, (40, 1)), 0.05)
    for shift, per_step, most_events in ((0.3, 20, 2_400), (1.0, 2, 90)):
        counts = rng.multinomial(per_step, normal_bins(shift), size=(40, 300))
        found = replay(bets, counts, 300, FLEET_THRESHOLD, until_first_alarm=True).first_alarm_step
        assert (found >= 0).all()
        assert (found + 1).mean() * per_step < most_events


def test_a_change_within_the_margin_never_alarms_by_design() -> None:
    rng = np.random.default_rng(16)
    p1 = normal_bins(0.1)  # a total variation of 0.04
    bets = make_bets(NUMERIC_TILTS, np.tile(P0, (30, 1)), 0.05)
    assert replay(bets, rng.multinomial(500, p1, size=(30, 1_000)), 10, FLEET_THRESHOLD).alarms.sum() == 0


def reference_and_live(rng: np.random.Generator, m: int, streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference counts in bins fitted to m values each, and the true bin probabilities of the same unchanged source."""
    counts, truth = np.zeros((streams, 15), np.int64), np.zeros((streams, 15))
    for s, column in enumerate(rng.normal(size=(streams, m))):
        bins = fit_numeric(column)
        counts[s] = count_codes(bin_numeric(bins, column), NUMERIC)
        cdf = np.concatenate([[0.0], norm.cdf(bins.edges), [1.0]])
        truth[s, :14] = np.diff(cdf)
    return counts, truth


def test_a_finite_reference_with_its_margin_raises_no_false_alarm_where_none_at_all_raises_many() -> None:
    rng = np.random.default_rng(17)
    reference, truth = reference_and_live(rng, 5_000, 60)
    live = rng.multinomial(500, truth[:, None, :], size=(60, 2_000))
    assert effective_margins(0.05, reference, 1e-6, NUMERIC).tolist() == [0.05] * 60
    with_margin = replay(make_bets(NUMERIC_TILTS, reference, 0.05), live, 20, FLEET_THRESHOLD)
    assert with_margin.alarms.sum() == 0
    small, small_truth = reference_and_live(rng, 1_000, 60)
    live = rng.multinomial(500, small_truth[:, None, :], size=(60, 1_000))
    assert (replay(make_bets(NUMERIC_TILTS, small, 0.0), live, 20, FLEET_THRESHOLD).alarms > 0).mean() > 0.2
    widened = effective_margins(0.05, small, 1e-6, NUMERIC)
    assert widened.min() > 0.08
    assert replay(make_bets(NUMERIC_TILTS, small, widened), live, 20, FLEET_THRESHOLD).alarms.sum() == 0


def test_an_autocorrelated_stream_stays_within_the_bound_only_when_tempered() -> None:
    """AR(1), phi = 0.9: untempered many times the bound, tempered with its own reference within it."""
    rng = np.random.default_rng(18)
    streams, threshold = 40, np.log(100)
    references = ar1(rng, streams, 30_000, 0.9)
    edges = np.concatenate([[-9.0], norm.ppf(np.cumsum(P0)[1:12]), [9.0]])
    bins = NumericBins(edges, np.arange(14, dtype=np.uint8))
    gamma = np.array([tempering(bin_numeric(bins, reference), NUMERIC_TILTS) for reference in references])
    live = step_counts(bin_numeric(bins, ar1(rng, streams, 40_000, 0.9)), 20, 15)
    known = np.tile(P0, (streams, 1))
    untempered = replay(make_bets(NUMERIC_TILTS, known, 0.0), live, 1, threshold).alarms_over_bound(threshold)
    tempered = replay(make_bets(NUMERIC_TILTS, known, 0.0, gamma), live, 1, threshold).alarms_over_bound(threshold)
    assert untempered > 10
    assert 0.1 < tempered <= 1.0


def test_a_small_reference_of_a_strongly_dependent_stream_still_tempers_enough() -> None:
    """5,000 events at phi = 0.9 are some 260 independent ones."""
    rng = np.random.default_rng(21)
    streams, threshold = 40, np.log(1_000)
    bins = NumericBins(np.concatenate([[-9.0], norm.ppf(np.cumsum(P0)[1:12]), [9.0]]), np.arange(14, dtype=np.uint8))
    gamma = [tempering(bin_numeric(bins, column), NUMERIC_TILTS) for column in ar1(rng, streams, 5_000, 0.9)]
    live = step_counts(bin_numeric(bins, ar1(rng, streams, 40_000, 0.9)), 20, 15)
    bets = make_bets(NUMERIC_TILTS, np.tile(P0, (streams, 1)), 0.0, np.array(gamma))
    assert replay(bets, live, 1, threshold).alarms_over_bound(threshold) <= 1.0


def test_a_broken_pipeline_alarms_within_a_few_dozen_events() -> None:
    bets = make_bets(NUMERIC_TILTS, P0 * 5_000, 0.05)
    missing = np.zeros((1, 60, 15), np.int64)
    missing[0, :, 14] = 1
    assert 0 <= replay(bets, missing, 60, FLEET_THRESHOLD).first_alarm_step[0] < 12


def test_steps_count_every_event_of_a_complete_step_once() -> None:
    codes = np.random.default_rng(19).integers(0, 15, size=(3, 47)).astype(np.uint8)
    counts = step_counts(codes, 10, 15)
    assert counts.shape == (3, 4, 15)
    assert (counts.sum(axis=2) == 10).all()
    assert counts[1, 2].tolist() == np.bincount(codes[1, 20:30], minlength=15).tolist()
