"""Conditions: what is usual under its circumstances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.statistics.conditional import (
    ConditionalBins,
    bin_conditional,
    count_conditional,
    fit_conditional,
    row_groups,
    stack_conditional,
    visits_of,
)
from streams.statistics.evidence import make_bets
from streams.statistics.layouts import (
    NUMERIC,
    NUMERIC_MISSING,
    bin_numeric,
    count_codes,
    fit_numeric,
    nominal_probabilities,
)
from streams.statistics.margins import reference_radius
from streams.statistics.replay import replay, step_counts
from streams.statistics.tilts import NUMERIC_TILTS

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def drawn(rows: int, shares: list[float], seed: int) -> tuple[Floats, Indices]:
    """Values whose mean and scale depend on their condition."""
    rng = np.random.default_rng(seed)
    index = rng.choice(len(shares), rows, p=shares)
    return rng.normal(size=rows) * (1 + index) + 4 * index, index.astype(np.int64)


def test_under_each_condition_the_bins_have_their_nominal_mass() -> None:
    values, index = drawn(20_000, [0.5, 0.3, 0.2], 1)
    fit = fit_conditional(values, index, "age", 3)
    assert fit.bins.conditions == 3
    for condition in range(3):
        counts = count_codes(fit.codes[index == condition], NUMERIC)
        rows = counts.sum()
        assert np.abs(counts / rows - nominal_probabilities()).max() <= 2 / rows + 1e-3
        own = fit_numeric(values[index == condition])
        assert np.array_equal(fit.bins.edges[condition, 1:-1], own.edges[1:-1])
    assert np.array_equal(fit.codes, bin_conditional(fit.bins, values, index))
    assert fit.margin_excess == pytest.approx(3 / 20_000)


def test_other_shares_of_the_conditions_move_nothing_and_another_distribution_does() -> None:
    reference = fit_conditional(*drawn(40_000, [0.5, 0.3, 0.2], 2), "age", 3)
    values, index = drawn(40_000, [0.1, 0.2, 0.7], 3)
    mixed = count_codes(bin_conditional(reference.bins, values, index), NUMERIC) / 40_000
    assert 0.5 * np.abs(mixed - nominal_probabilities()).sum() < 0.02
    plain = fit_numeric(drawn(40_000, [0.5, 0.3, 0.2], 2)[0])
    assert 0.5 * np.abs(count_codes(bin_numeric(plain, values), NUMERIC) / 40_000 - nominal_probabilities()).sum() > 0.3
    moved = count_codes(bin_conditional(reference.bins, values + 0.3 * (1 + index), index), NUMERIC) / 40_000
    assert 0.5 * np.abs(moved - nominal_probabilities()).sum() > 0.1


def test_a_condition_with_few_rows_takes_the_edges_of_its_group_or_of_all() -> None:
    rng = np.random.default_rng(4)
    index = np.repeat([0, 1, 2, 3, 4], [2_000, 2_000, 150, 150, 20])
    values = rng.normal(size=len(index)) + 10 * (index % 2)
    bins = fit_conditional(values, index, "age_and_score", 5, coarser=np.array([0, 1, 0, 1, 2])).bins
    assert np.abs(bins.edges[2, 1:-1] - bins.edges[0, 1:-1]).max() < 0.5
    assert np.abs(bins.edges[3, 1:-1] - bins.edges[1, 1:-1]).max() < 0.5
    assert bins.at(4) == fit_numeric(values)
    alone = fit_conditional(values, index, "age_and_score", 5).bins
    assert alone.at(2) == alone.at(3) == alone.at(4) == fit_numeric(values)


def test_visits_are_counted_by_their_beginnings() -> None:
    assert visits_of(np.array([2, 2, 0, 0, 2, 1, 1, 1]), 4).tolist() == [1, 1, 2, 0]
    assert visits_of(np.zeros(0, np.int64), 2).tolist() == [0, 0]


def test_conditions_that_come_once_each_are_tempered_by_half() -> None:
    """What is learnt from one visit has the error of one visit."""
    values = np.random.default_rng(5).normal(size=8_000)
    index = np.arange(8_000) // 2_000
    once = fit_conditional(values, index, "age", 4).tempering
    mixed = fit_conditional(values, np.arange(8_000) % 4, "age", 4).tempering
    assert np.median(once) == pytest.approx(np.median(mixed) / 2, rel=0.1)


def test_bins_and_remaps_must_go_together() -> None:
    with pytest.raises(ValueError, match="as many remaps"):
        ConditionalBins("age", np.zeros((2, 13)), np.zeros((1, 14), np.uint8))
    with pytest.raises(ValueError, match="at least one condition"):
        ConditionalBins("age", np.zeros((0, 13)), np.zeros((0, 14), np.uint8))


def slow_counts(bins: list[ConditionalBins], observed: list[tuple[int, int, float]]) -> NDArray[np.int64]:
    counts = np.zeros((len(bins), NUMERIC.size), np.int64)
    for stream, condition, value in observed:
        counts[stream, bin_numeric(bins[stream].at(condition), [value])[0]] += 1
    return counts


def odd_bins() -> list[ConditionalBins]:
    rng = np.random.default_rng(7)
    found = []
    for conditions, decimals in ((3, 8), (5, 0), (1, 1)):
        values = np.round(rng.normal(size=400 * conditions), decimals)
        found.append(fit_conditional(values, np.arange(400 * conditions) % conditions, "age", conditions).bins)
    return found


ODD_BINS = odd_bins()


@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_counting_by_table_is_binning_one_by_one(seed: int, rows: int) -> None:
    rng, fits = np.random.default_rng(seed), ODD_BINS
    table = stack_conditional(fits)
    stream = rng.integers(0, 3, rows)
    condition = rng.integers(0, np.array([3, 5, 1])[stream]) if rows else np.zeros(0, np.int64)
    values = np.round(rng.normal(size=rows) * 2, 1)
    values[rng.random(rows) < 0.1] = np.nan
    values[rng.random(rows) < 0.05] = np.inf
    values[rng.random(rows) < 0.05] = -np.inf
    left_out = rng.random(rows) < 0.2
    at = np.where(left_out, -1, table.first[stream] + condition)
    kept = [
        (int(s), int(c), float(v)) for s, c, v, out in zip(stream, condition, values, left_out, strict=True) if not out
    ]
    assert np.array_equal(count_conditional(table, values, at), slow_counts(fits, kept))


def test_more_streams_than_a_byte_has_cells_are_told_apart() -> None:
    fits = ODD_BINS * 14
    table = stack_conditional(fits)
    values = np.linspace(-2, 2, len(fits))
    kept = [(stream, 0, float(value)) for stream, value in enumerate(values)]
    assert np.array_equal(count_conditional(table, values, table.first[:-1]), slow_counts(fits, kept))


def test_missing_values_are_missing_and_left_out_rows_are_not() -> None:
    table = stack_conditional([fit_conditional(np.arange(500.0), np.zeros(500, np.int64), "age", 1).bins])
    counts = count_conditional(table, np.array([np.nan, np.nan, 3.0]), np.array([0, -1, -1]))
    assert counts.sum() == counts[0, NUMERIC_MISSING] == 1


def test_groups_of_rows_are_those_of_their_index() -> None:
    index = np.array([3, 1, 3, 0])
    assert {at: rows.tolist() for at, rows in row_groups(index)} == {0: [3], 1: [1], 3: [0, 2]}
    assert row_groups(np.zeros(0, np.int64)) == []


def test_the_bound_holds_with_the_same_and_with_other_shares() -> None:
    """Twelve conditions learnt from 10,000 rows; production has the shares the other way round."""
    streams, threshold, rng = 40, float(np.log(50)), np.random.default_rng(6)
    shares = np.linspace(1, 3, 12) / np.linspace(1, 3, 12).sum()
    live = {"same": np.empty((streams, 20_000), np.uint8), "other": np.empty((streams, 20_000), np.uint8)}
    counts, gamma = np.empty((streams, NUMERIC.size), np.int64), np.empty((streams, NUMERIC_TILTS.size))
    excess = np.empty(streams)
    for s in range(streams):
        values, index = drawn(10_000, shares.tolist(), 1_000 + s)
        fit = fit_conditional(values, index, "age", 12)
        counts[s], gamma[s], excess[s] = count_codes(fit.codes, NUMERIC), fit.tempering, fit.margin_excess
        for name, of in (("same", shares), ("other", shares[::-1])):
            live[name][s] = bin_conditional(fit.bins, *drawn(20_000, of.tolist(), int(rng.integers(2**31))))
    margin = reference_radius(counts, 1e-3, NUMERIC) + excess
    bets = make_bets(NUMERIC_TILTS, counts, margin, gamma)
    for codes in live.values():
        assert replay(bets, step_counts(codes, 200, NUMERIC.size), 1, threshold).alarms_over_bound(threshold) <= 1
