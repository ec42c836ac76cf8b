"""Whether losses grew: the layout of their tail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chi2, expon, f, genpareto, halfnorm, uniform

from streams.statistics.evidence import make_bets
from streams.statistics.layouts import (
    LOSS,
    LOSS_FIRST_TAIL,
    LOSS_LAST_TAIL,
    LOSS_MISSING,
    NumericBins,
    bin_numeric,
    count_codes,
    loss_probabilities,
)
from streams.statistics.losses import fit_loss, loss_counts, loss_tempering, tail_shape
from streams.statistics.replay import replay, step_counts
from streams.statistics.tilts import LOSS_TILTS

Floats = NDArray[np.float64]


def e_values() -> Floats:
    bets = make_bets(LOSS_TILTS, loss_counts(), 0.0)
    return np.exp(bets.shapes - bets.log_normaliser.T)


def cut(values: Floats) -> NumericBins:
    bins = fit_loss(values, np.zeros(len(values), np.int64), "age", 1)
    assert bins is not None
    return bins.at(0)


def expected_e_values(reference: Floats, production: Any) -> Floats:
    """Of every bet on losses with a distribution that is known, cut by a reference."""
    below = np.concatenate([[0.0], production.cdf(cut(reference).edges), [1.0]])
    above = np.concatenate([[1.0], production.sf(cut(reference).edges), [0.0]])
    p = np.where(below[1:] > 0.5, -np.diff(above), np.diff(below))
    return np.asarray(e_values()[:, :LOSS_MISSING] @ p)


def test_bets_never_fall_from_bin_to_bin_and_expect_at_most_one() -> None:
    """So they hold for every distribution that is stochastically no larger than the baseline."""
    assert (np.diff(e_values()[:, :LOSS_MISSING], axis=1) >= 0).all()
    assert (e_values() @ loss_probabilities() <= 1).all()
    assert (e_values()[:, LOSS_MISSING] <= 1).all()


def test_the_counts_of_the_baseline_are_its_probabilities() -> None:
    assert loss_probabilities().sum() == pytest.approx(1)
    assert np.allclose(loss_counts() / loss_counts().sum(), loss_probabilities(), atol=1e-9)
    assert (loss_counts()[:LOSS_MISSING] > 0).all()


TAILS = {"exponential": expon(), "squared normal": chi2(1), "absolute normal": halfnorm(), "bounded": uniform()}


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("rows", [1_000, 10_000])
def test_unchanged_losses_stay_within_the_margin(name: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    law = TAILS[name]
    for _ in range(30):
        assert (expected_e_values(law.rvs(rows, random_state=rng), law) <= 1.01).all()


def test_a_heavy_tail_is_seen_as_one() -> None:
    """With an exponential tail these bets would expect more than one hundred."""
    rng = np.random.default_rng(2)
    law = f(1, 3)  # squares of Student's t of three degrees of freedom
    found = [expected_e_values(law.rvs(20_000, random_state=rng), law).max() for _ in range(20)]
    assert np.median(found) < 1.1


def test_residuals_half_as_large_again_are_beyond_the_margin() -> None:
    reference = np.random.default_rng(0).normal(size=10_000) ** 2
    assert (expected_e_values(reference, chi2(1, scale=1.5**2)) > 1).all()


@pytest.mark.parametrize("shape", [0.3, 0.6])
def test_the_shape_is_that_of_a_generalised_pareto_distribution(shape: float) -> None:
    excesses = genpareto.rvs(shape, size=20_000, random_state=np.random.default_rng(1))
    assert tail_shape(excesses) == pytest.approx(shape, abs=0.1)


def test_an_exponential_tail_has_no_shape() -> None:
    rng = np.random.default_rng(3)
    assert [tail_shape(rng.exponential(size=500)) for _ in range(20)] == [0.0] * 20


def test_what_equals_the_threshold_does_not_exceed_it() -> None:
    """Losses of few kinds: a tenth of the values are the 95 % quantile."""
    values = np.repeat([0.0, 1.0, 2.0], [8_600, 1_000, 400])
    codes = bin_numeric(cut(values), values)
    assert set(codes[values <= 1].tolist()) == {0}
    assert (codes[values == 2] >= LOSS_FIRST_TAIL).all()


def test_the_threshold_is_exceeded_no_more_often_than_promised_with_98_percent() -> None:
    rng = np.random.default_rng(4)
    beyond = [1 - cut(rng.random(2_000)).edges[0] for _ in range(400)]
    assert sum(share > 0.055 for share in beyond) <= binom.ppf(0.999, 400, 0.02)


def test_losses_without_a_tail_are_not_cut() -> None:
    for values in (np.ones(5_000), np.arange(150.0), np.zeros(0), np.full(1_000, np.nan)):
        assert fit_loss(values, np.zeros(len(values), np.int64), "age", 1) is None


def test_each_condition_has_a_threshold_and_a_scale_of_its_own() -> None:
    rng = np.random.default_rng(5)
    index = np.repeat([0, 1, 2], [5_000, 5_000, 100])
    values = rng.exponential(size=10_100) * np.array([1.0, 10.0, 1.0])[index] + np.array([0, 5, 0])[index]
    bins = fit_loss(values, index, "age", 3)
    assert bins is not None
    alone = fit_loss(values[:5_000], index[:5_000], "age", 1)
    assert alone is not None and bins.edges[0, 0] == alone.edges[0, 0]
    widths = np.diff(bins.edges, axis=1)
    assert widths[1, 0] / widths[0, 0] == pytest.approx(10, rel=0.2)
    overall = fit_loss(values, np.zeros(len(values), np.int64), "age", 1)
    assert overall is not None and bins.edges[2, 0] == overall.edges[0, 0], "too few rows for a tail of its own"


def test_a_condition_with_few_rows_takes_the_tail_of_its_group() -> None:
    rng = np.random.default_rng(6)
    index = np.repeat([0, 1, 2, 3], [5_000, 5_000, 100, 100])
    values = rng.exponential(size=len(index)) * np.array([1.0, 10.0, 1.0, 10.0])[index]
    bins = fit_loss(values, index, "age_and_score", 4, coarser=np.array([0, 1, 0, 1]))
    assert bins is not None
    assert np.allclose(bins.edges[2:, 0], bins.edges[:2, 0], rtol=0.1)


@given(st.integers(0, 2**32 - 1))
def test_a_larger_loss_is_never_in_a_lower_bin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.exponential(size=300) * 20)
    codes = bin_numeric(cut(rng.exponential(size=1_000)), values)
    assert (np.diff(codes.astype(int)) >= 0).all() and codes.max() <= LOSS_LAST_TAIL


def test_independent_losses_are_not_tempered_and_clusters_are() -> None:
    rng = np.random.default_rng(7)
    independent = rng.exponential(size=10_000)
    assert (loss_tempering(bin_numeric(cut(independent), independent)) == 1).all()
    clustered = np.repeat(rng.exponential(size=1_000), 10)
    assert loss_tempering(bin_numeric(cut(clustered), clustered)).max() < 0.3


def test_unchanged_losses_keep_the_bound_and_larger_ones_are_found() -> None:
    rng = np.random.default_rng(8)
    streams, events, threshold = 60, 20_000, float(np.log(50))
    codes, grown = np.empty((streams, events), np.uint8), np.empty((streams, 2_000), np.uint8)
    for s in range(streams):
        bins = cut(rng.normal(size=5_000) ** 2)
        codes[s] = bin_numeric(bins, rng.normal(size=events) ** 2)
        few = rng.random(2_000) < 0.02
        grown[s] = bin_numeric(bins, (rng.normal(size=2_000) * np.where(few, 8, 1)) ** 2)
    bets = make_bets(LOSS_TILTS, np.tile(loss_counts(), (streams, 1)), 0.0)
    quiet = replay(bets, step_counts(codes, 100, LOSS.size), 1, threshold)
    assert quiet.alarms_over_bound(threshold) <= 1
    found = replay(bets, step_counts(grown, 10, LOSS.size), 10, float(np.log(1e6)), until_first_alarm=True)
    assert np.median(found.first_alarm_step) * 10 < 250
    assert count_codes(codes[0], LOSS).sum() == events
