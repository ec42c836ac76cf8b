"""Seasons: what is usual at an hour of the week."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.statistics.counting import count_numeric_block, stack_numeric
from streams.statistics.dependence import tempering
from streams.statistics.evidence import make_bets
from streams.statistics.layouts import (
    ABOVE_MAX,
    BELOW_MIN,
    HIGH_TAIL,
    LOW_TAIL,
    NUMERIC,
    NUMERIC_MISSING,
    bin_numeric,
    count_codes,
    fit_numeric,
)
from streams.statistics.margins import reference_radius
from streams.statistics.replay import replay, step_counts
from streams.statistics.seasons import (
    HOUR_AND_WEEKEND,
    HOUR_OF_WEEK,
    SEASONS,
    SeasonalBins,
    SeasonalFit,
    bin_seasonal,
    count_seasonal,
    fit_seasonal,
    season_index,
    stack_seasonal,
)
from streams.statistics.tilts import NUMERIC_TILTS

HOUR_US = 3_600_000_000
WEEK = 168
MONDAY_US = int(dt.datetime(2024, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000


def event_times(weeks: int, per_hour: int, first_week: int = 0) -> NDArray[np.int64]:
    return MONDAY_US + np.arange(weeks * WEEK * per_hour) * HOUR_US // per_hour + first_week * WEEK * HOUR_US


def daily_cycle(times_us: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    noise = np.random.default_rng(seed).normal(size=len(times_us))
    return np.asarray(2 * np.sin(2 * np.pi * times_us / (24 * HOUR_US)) + noise)


def fitted(values: NDArray[np.float64], times_us: NDArray[np.int64]) -> SeasonalFit:
    fit = fit_seasonal(values, times_us)
    assert fit is not None
    return fit


@given(st.datetimes(dt.datetime(1901, 1, 1), dt.datetime(2200, 1, 1)))
def test_a_season_is_that_of_the_calendar(moment: dt.datetime) -> None:
    time_us = (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    assert season_index([time_us], HOUR_OF_WEEK) == moment.weekday() * 24 + moment.hour
    assert season_index([time_us], HOUR_AND_WEEKEND) == moment.hour + (24 if moment.weekday() >= 5 else 0)


def test_an_unknown_kind_of_season_is_refused() -> None:
    with pytest.raises(ValueError, match="hour_of_week"):
        season_index([0], "moon")


def test_seasons_need_four_weeks() -> None:
    times = event_times(4, 60)
    values = daily_cycle(times, 1)
    assert fitted(values, times).bins.season == HOUR_OF_WEEK
    short = times < times[0] + (4 * WEEK - 1) * HOUR_US
    assert fit_seasonal(values[short], times[short]) is None


def test_with_fewer_rows_the_seasons_are_coarser_or_there_are_none() -> None:
    times = event_times(4, 40)
    assert fitted(daily_cycle(times, 1), times).bins.season == HOUR_AND_WEEKEND
    times = event_times(4, 10)
    assert fit_seasonal(daily_cycle(times, 1), times) is None


def test_a_column_without_seasons_gets_none() -> None:
    times = event_times(4, 60)
    assert fit_seasonal(np.random.default_rng(2).normal(size=len(times)), times) is None
    assert fit_seasonal(np.full(len(times), np.nan), times) is None
    assert fit_seasonal([], []) is None


def test_a_season_with_few_rows_keeps_the_edges_of_all() -> None:
    times = event_times(4, 80)
    values = daily_cycle(times, 3)
    night = (season_index(times, HOUR_OF_WEEK) == 3) & (np.arange(len(times)) % 80 >= 20)
    times, values = times[~night], values[~night]
    bins = fitted(values, times).bins
    assert bins.at(3) == fit_numeric(values)
    assert bins.at(4) != fit_numeric(values)


@pytest.mark.parametrize("decimals", [None, 0], ids=["continuous", "ties"])
def test_each_season_has_its_own_quantiles(decimals: int | None) -> None:
    times = event_times(5, 60)
    values = daily_cycle(times, 4)
    if decimals is not None:
        values = np.round(values, decimals)
    fit = fitted(values, times)
    codes = bin_seasonal(fit.bins, values, times)
    assert np.array_equal(codes, fit.codes)
    index = season_index(times, fit.bins.season)
    overall = fit_numeric(values)
    for season in (0, 50, 167):
        own, mine = values[index == season], codes[index == season]
        order = np.argsort(own, kind="stable")
        assert (np.diff(mine[order].astype(int)) >= 0).all(), "the order of the values is that of their bins"
        if decimals is None:
            # the 0.5 % quantile and the nine between: as numpy draws them, without interpolation
            probabilities = 0.005 + 0.099 * np.arange(1, 10)
            quantiles = np.quantile(own, probabilities, method="inverted_cdf")
            assert np.array_equal(fit.bins.edges[season, 2:11], quantiles)
        else:
            middle = np.median(own)
            position = ((own < middle).mean() + (own <= middle).mean()) / 2
            nominal = (mine[own == middle][0] - 2) / 10
            assert abs(nominal + 0.05 - position) < 0.15, "a frequent value lies in the bin in the middle of its mass"
        assert fit.bins.edges[season, 0] == overall.edges[0]
        assert fit.bins.edges[season, -1] == overall.edges[-1]


@pytest.mark.parametrize("frequent", ["lowest", "highest"])
def test_what_exceeds_its_season_is_in_the_tail_and_what_exceeds_the_reference_out_of_range(frequent: str) -> None:
    times = event_times(4, 60)
    day = np.asarray(season_index(times, HOUR_OF_WEEK) % 24 >= 12)
    noise = np.random.default_rng(5).normal(size=len(times))
    half = np.maximum(noise, 0.0) if frequent == "lowest" else np.minimum(noise, 0.0)
    values = np.where(day, 10.0, -10.0) + half
    bins = fitted(values, times).bins
    noon, night = times[12 * 60], times[0]
    low, high = values.min(), values.max()
    probes = [low - 1, low, high, np.nextafter(high, np.inf), np.nan, np.inf, -np.inf]
    at_noon = bin_seasonal(bins, probes, np.full(7, noon))
    at_night = bin_seasonal(bins, probes, np.full(7, night))
    assert at_noon[[0, 1, 3, 4, 5, 6]].tolist() == [
        BELOW_MIN, LOW_TAIL, ABOVE_MAX, NUMERIC_MISSING, ABOVE_MAX, BELOW_MIN
    ]  # fmt: skip
    assert at_night[[0, 2, 3, 4, 5, 6]].tolist() == [
        BELOW_MIN, HIGH_TAIL, ABOVE_MAX, NUMERIC_MISSING, ABOVE_MAX, BELOW_MIN
    ]  # fmt: skip


def test_a_constant_that_follows_the_clock_leaves_its_bin_when_the_clock_is_wrong() -> None:
    times = event_times(4, 60)
    hour = (season_index(times, HOUR_OF_WEEK) % 24).astype(float)
    bins = fitted(hour, times).bins
    eight = times[8 * 60]
    codes = bin_seasonal(bins, [7.0, 8.0, 9.0], np.full(3, eight))
    assert codes[0] == LOW_TAIL
    assert codes[2] == HIGH_TAIL
    assert LOW_TAIL < codes[1] < HIGH_TAIL


@given(seed=st.integers(0, 10_000), rows=st.integers(0, 60), groups=st.sampled_from([None, 3]))
def test_counts_are_those_of_each_season_by_itself(seed: int, rows: int, groups: int | None) -> None:
    rng = np.random.default_rng(seed)
    bins = [
        SeasonalBins(
            HOUR_AND_WEEKEND,
            np.sort(rng.integers(-4, 4, size=(48, 13)).astype(float), axis=1),
            np.pad(rng.integers(0, 14, size=(48, 12)), ((0, 0), (1, 1)), constant_values=(0, 13)).astype(np.uint8),
        )
        for _ in range(2)
    ]
    times = MONDAY_US + rng.integers(0, WEEK, size=rows) * HOUR_US
    values = rng.choice([*range(-5, 6), np.nan, np.inf, -np.inf], size=(2, rows))
    segments = None if groups is None else rng.integers(-1, groups, size=rows)
    counts = count_seasonal(stack_seasonal(bins), values, times, segments, groups or 1)
    expected = np.zeros_like(counts)
    index = season_index(times, HOUR_AND_WEEKEND)
    for row in range(rows):
        group = 0 if segments is None else segments[row]
        if group >= 0:
            block = stack_numeric([b.at(int(index[row])) for b in bins])
            expected[group] += count_numeric_block(block, values[:, row : row + 1])[0]
    assert np.array_equal(counts, expected)
    codes = [bin_seasonal(b, column, times) for b, column in zip(bins, values, strict=True)]
    if segments is None:
        assert np.array_equal(counts[0], [count_codes(c, NUMERIC) for c in codes])


def test_counts_do_not_depend_on_how_rows_are_split() -> None:
    times = event_times(4, 60)
    values = daily_cycle(times, 6)
    block = stack_seasonal([fitted(values, times).bins])
    whole = count_seasonal(block, values[None, :2000], times[:2000])
    rest = count_seasonal(block, values[None, 1925:2000], times[1925:2000])
    parts = [count_seasonal(block, values[None, i : i + 77], times[i : i + 77]) for i in range(0, 1925, 77)]
    assert np.array_equal(whole, sum(parts) + rest)


def test_columns_of_different_seasons_do_not_stack() -> None:
    edges, remap = np.zeros((168, 13)), np.zeros((168, 14), np.uint8)
    fine, coarse = SeasonalBins(HOUR_OF_WEEK, edges, remap), SeasonalBins(HOUR_AND_WEEKEND, edges[:48], remap[:48])
    with pytest.raises(ValueError, match="one kind"):
        stack_seasonal([fine, coarse])
    with pytest.raises(ValueError, match="48"):
        SeasonalBins(HOUR_AND_WEEKEND, edges, remap)


def test_a_daily_cycle_is_found_near_the_bound_with_seasons_and_not_for_weeks_without() -> None:
    per_hour, threshold = 60, float(np.log(36_000))
    streams, quiet_hours = 12, 6 * WEEK
    seasonal, plain, seasonal_tempering, plain_tempering, with_seasons, without = [], [], [], [], [], []
    for seed in range(streams):
        times = event_times(4, per_hour)
        values = daily_cycle(times, seed)
        fit, cut = fitted(values, times), fit_numeric(values)
        later = event_times(10, per_hour, first_week=4)
        shift = 0.5 * (np.arange(len(later)) >= quiet_hours * per_hour)
        production = daily_cycle(later, 1000 + seed) + shift
        seasonal.append(count_codes(fit.codes, NUMERIC))
        seasonal_tempering.append(fit.tempering)
        with_seasons.append(bin_seasonal(fit.bins, production, later))
        plain.append(count_codes(bin_numeric(cut, values), NUMERIC))
        plain_tempering.append(tempering(bin_numeric(cut, values), NUMERIC_TILTS))
        without.append(bin_numeric(cut, production))
    assert np.median(plain_tempering) < 0.03
    assert np.median(seasonal_tempering) > 0.7
    radius = reference_radius(np.array(seasonal[:1]), 1e-3, NUMERIC)[0]
    margin = radius + SEASONS[HOUR_OF_WEEK] / len(times)
    bets = make_bets(NUMERIC_TILTS, np.array(seasonal), margin, np.array(seasonal_tempering))
    steps = step_counts(np.array(with_seasons), per_hour, NUMERIC.size)
    assert replay(bets, steps[:, :quiet_hours], 1, float(np.log(100))).alarms_over_bound(float(np.log(100))) <= 0.5
    delay_hours = replay(bets, steps, 1, threshold, until_first_alarm=True).first_alarm_step - quiet_hours
    # log c / KL is 1.4 hours for independent rows of known distribution
    assert (delay_hours >= 0).all()
    assert delay_hours.mean() < 5
    blunt = make_bets(NUMERIC_TILTS, np.array(plain), radius, np.array(plain_tempering))
    steps = step_counts(np.array(without), per_hour, NUMERIC.size)
    first = replay(blunt, steps, 1, threshold, until_first_alarm=True).first_alarm_step
    assert ((first < 0) | (first > quiet_hours + WEEK)).mean() >= 0.75
