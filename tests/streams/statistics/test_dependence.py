"""Variance inflation and tempering on streams whose dependence is known."""

import time

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from streams.association import table_cells, thirds_of_numbers
from streams.statistics import dependence
from streams.statistics.evidence import make_bets
from streams.statistics.layouts import (
    QUALITY,
    QUALITY_MISSING,
    QUALITY_VALID,
    bin_numeric,
    fit_numeric,
    nominal_probabilities,
)
from streams.statistics.replay import replay, step_counts
from streams.statistics.tilts import ASSOCIATION_TILTS, CATEGORICAL_TILTS, NUMERIC_TILTS, QUALITY_TILTS

LOCATION = np.array([family.startswith("shift by") for family in NUMERIC_TILTS.families])
MISSING = NUMERIC_TILTS.bins == 14


def ar1(streams: int, n: int, phi: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(streams, n)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=1)


def codes_of(column: np.ndarray) -> np.ndarray:
    return bin_numeric(fit_numeric(column), column)


def slow_variance_limit(codes: np.ndarray, shape: np.ndarray, length: int) -> float:
    scores = shape[codes]
    blocks = scores[: len(scores) // length * length].reshape(-1, length).sum(axis=1)
    ratio = blocks.var(ddof=1) / (length * scores.var())
    kurtosis = stats.kurtosis(scores) / length
    freedom = 2 / (2 / (len(blocks) - 1) + max(kurtosis, -1) / len(blocks))
    return ratio * freedom / stats.chi2.ppf(0.25, freedom)


def test_variance_inflation_is_the_largest_upper_limit_of_the_block_variance_ratios() -> None:
    codes = codes_of(ar1(1, 8_192, 0.8, seed=1)[0])
    lengths = [2**j for j in range(9) if 8_192 // 2**j >= dependence.MINIMUM_BLOCKS]
    got = dependence.variance_inflation(codes, NUMERIC_TILTS)
    for i in (0, 8, 22, 36):
        # every length of two or more is significant here, so the maximum is the plain one
        expected = max(slow_variance_limit(codes, NUMERIC_TILTS.shapes[i], length) for length in lengths)
        assert got[i] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2_000, 30_000])
def test_independent_streams_are_hardly_tempered(n: int) -> None:
    columns = np.random.default_rng(2).normal(size=(20, n))
    gamma = np.array([dependence.tempering(codes_of(column), NUMERIC_TILTS) for column in columns])
    assert np.median(gamma) > 0.95
    assert (gamma >= 0.8).mean() > 0.95
    categories = np.random.default_rng(3).integers(0, 5, size=n)
    assert dependence.tempering(categories, CATEGORICAL_TILTS).mean() > 0.95


@pytest.mark.parametrize(("phi", "least", "most"), [(0.3, 0.3, 0.7), (0.9, 0.03, 0.08)])
def test_location_tilts_of_autoregressive_streams_get_about_the_inverse_of_their_vif(phi, least, most) -> None:
    """The VIF of a mean is (1 + phi)/(1 - phi): 1.86 and 19."""
    gamma = [dependence.tempering(codes_of(x), NUMERIC_TILTS)[LOCATION].mean() for x in ar1(6, 30_000, phi, seed=4)]
    assert least < np.mean(gamma) < most


def test_a_column_that_cycles_by_itself_becomes_quiet_but_not_blind_to_missing_values() -> None:
    hour = np.repeat(np.tile(np.arange(24), 40), 30).astype(float)
    gamma = dependence.tempering(codes_of(hour), NUMERIC_TILTS)
    assert gamma[LOCATION].max() < 0.03
    assert (gamma[MISSING] == 1).all()
    weekday = np.repeat(np.tile(np.arange(7), 8), 700)
    assert dependence.tempering(weekday, CATEGORICAL_TILTS)[:20].max() < 0.01


def test_a_run_beyond_the_range_of_a_slow_column_is_not_taken_for_many_observations() -> None:
    slow = np.repeat(np.random.default_rng(10).normal(size=1_000), 30)
    gamma = dependence.tempering(codes_of(slow), NUMERIC_TILTS)
    assert gamma[np.isin(NUMERIC_TILTS.bins, [0, 13])].max() < 0.1
    assert (gamma[MISSING] == 1).all()


def test_three_neighbouring_rare_events_do_not_silence_their_bin_but_a_long_burst_does() -> None:
    codes = codes_of(np.random.default_rng(5).normal(size=30_000))
    codes[10_000:10_003] = 14
    assert dependence.tempering(codes, NUMERIC_TILTS)[MISSING].min() > 0.2
    codes[10_000:10_100] = 14
    assert dependence.tempering(codes, NUMERIC_TILTS)[MISSING].max() < 0.05


def quality_codes(missing: np.ndarray) -> np.ndarray:
    return np.where(missing, QUALITY_MISSING, QUALITY_VALID).astype(np.uint8)


def test_quality_is_tempered_where_bad_values_come_in_clusters_only() -> None:
    rng = np.random.default_rng(11)
    n, of_missing = 30_000, QUALITY_TILTS.bins == QUALITY_MISSING
    never, alone = np.zeros(n, bool), rng.random(n) < 0.01
    once = never.copy()
    once[12_345] = True
    for missing in (never, once):
        assert dependence.tempering(quality_codes(missing), QUALITY_TILTS).min() > 0.999
    assert dependence.tempering(quality_codes(alone), QUALITY_TILTS).min() > 0.9
    clustered = never.copy()
    for first in rng.integers(0, n - 20, size=30):
        clustered[first : first + 20] = True
    gamma = dependence.tempering(quality_codes(clustered), QUALITY_TILTS)
    assert gamma[of_missing].max() < 0.1
    assert (gamma[(QUALITY_TILTS.bins >= 0) & ~of_missing] == 1).all(), "that says nothing of other kinds"


def test_quality_with_clusters_keeps_its_bound_only_when_tempered() -> None:
    """Bursts of twenty missing values, one event in fifty on average."""
    rng = np.random.default_rng(12)

    def bursts(streams: int, n: int) -> np.ndarray:
        begin = rng.random((streams, n)) < 0.001
        within = lfilter(np.ones(20), [1.0], begin.astype(float), axis=1) > 0.5
        return np.where(within, QUALITY_MISSING, QUALITY_VALID).astype(np.uint8)

    streams, threshold = 40, np.log(100)
    references, live = bursts(streams, 30_000), step_counts(bursts(streams, 30_000), 20, QUALITY.size)
    gamma = np.array([dependence.tempering(codes, QUALITY_TILTS) for codes in references])
    known = np.tile([0.98, 0.0, 0.0, 0.02, 0.0], (streams, 1))
    untempered = replay(make_bets(QUALITY_TILTS, known, 0.005), live, 1, threshold).alarms_over_bound(threshold)
    tempered = replay(make_bets(QUALITY_TILTS, known, 0.005, gamma), live, 1, threshold).alarms_over_bound(threshold)
    assert untempered > 5
    assert tempered <= 1.0


def test_associations_of_slow_columns_are_tempered_and_of_independent_rows_not() -> None:
    def cells(columns: np.ndarray) -> np.ndarray:
        return table_cells(*thirds_of_numbers(columns, -0.43, 0.43))

    independent = dependence.tempering(cells(np.random.default_rng(13).normal(size=(2, 30_000))), ASSOCIATION_TILTS)
    assert np.median(independent) > 0.95 and independent.min() > 0.7
    slow = dependence.tempering(cells(ar1(2, 30_000, 0.9, seed=14)), ASSOCIATION_TILTS)
    concordance = np.array([family == "concordance" for family in ASSOCIATION_TILTS.families])
    # u v of two independent AR(1) streams is an AR(1) of phi^2, nearly
    assert 0.05 < slow[concordance].mean() < 0.25


def test_short_constant_and_empty_references_are_taken_as_they_are() -> None:
    for codes in (np.zeros(0, np.uint8), np.array([3], np.uint8), np.full(5_000, 7, np.uint8)):
        assert (dependence.tempering(codes, NUMERIC_TILTS) == 1).all()
        assert (dependence.variance_inflation(codes, NUMERIC_TILTS) == 1).all()


def test_the_eigenvalue_agrees_with_a_general_solver() -> None:
    rng = np.random.default_rng(6)
    chain = rng.dirichlet(np.ones(15), size=15)
    scores = rng.normal(size=(4, 15))
    expected = [np.log(np.abs(np.linalg.eigvals(chain * np.exp(s)[None, :])).max()) for s in scores]
    assert dependence.log_growth(chain, scores) == pytest.approx(expected, abs=1e-10)


def test_the_markov_variance_agrees_with_the_sum_of_autocovariances() -> None:
    rng = np.random.default_rng(7)
    chain = 0.7 * np.eye(15) + 0.3 * rng.dirichlet(np.ones(15), size=15)
    stationary = np.linalg.matrix_power(chain, 2_000)[0]
    shapes = rng.normal(size=(3, 15))
    got = dependence.markov_variance_inflation(chain, stationary, shapes)
    for shape, ratio in zip(shapes, got, strict=True):
        f = shape - stationary @ shape
        covariances = [stationary @ (f * (np.linalg.matrix_power(chain, lag) @ f)) for lag in range(200)]
        assert ratio == pytest.approx(1 + 2 * sum(covariances[1:]) / covariances[0])


def test_tempered_e_values_of_a_slow_chain_average_at_most_one() -> None:
    """A tail bin that comes in clusters: at gamma = 1/VIF the mean e-value explodes, at Markov's root it does not."""
    stay, p = 0.8, nominal_probabilities()
    chain = stay * np.eye(15) + (1 - stay) * p
    shapes = np.log(10.0) * (np.arange(15) == 12)[None]
    score = (shapes - np.log(np.exp(shapes) @ p)[:, None])[0]
    inflation = dependence.markov_variance_inflation(chain, p, shapes)[0]
    root = dependence.markov_tempering(chain, p, shapes)[0]
    assert inflation == pytest.approx((1 + stay) / (1 - stay))

    def mean_e_value(gamma: float, n: int) -> float:
        step = chain * np.exp(gamma * score)
        return float((p * np.exp(gamma * score)) @ np.linalg.matrix_power(step, n - 1).sum(axis=1))

    assert mean_e_value(root, 2_000) < 1.5 < 1e3 < mean_e_value(1 / inflation, 2_000)


def test_slowing_a_stream_down_divides_its_exponent() -> None:
    codes = codes_of(ar1(1, 8_000, 0.5, seed=8)[0])
    once = dependence.tempering(codes, NUMERIC_TILTS)[LOCATION].mean()
    slow = dependence.tempering(np.repeat(codes, 4), NUMERIC_TILTS)[LOCATION].mean()
    assert slow == pytest.approx(once / 4, rel=0.25)


def test_a_million_rows_stay_bounded() -> None:
    codes = np.random.default_rng(9).choice(15, size=1_000_000, p=nominal_probabilities()).astype(np.uint8)
    begin = time.perf_counter()
    gamma = dependence.tempering(codes, NUMERIC_TILTS)
    assert time.perf_counter() - begin < 5
    assert np.median(gamma) > 0.95
