"""How many rows come in a span of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.rate import MOST_EMPTY_INTERVALS, RateMeter, fit_rate
from streams.statistics.layouts import BELOW_MIN, bin_numeric, fit_numeric

MINUTE = 60_000_000
HOUR = 60 * MINUTE
MONDAY = 4 * 24 * HOUR  # 1970-01-05


def poisson_times(rng: np.random.Generator, hours: int, per_hour: np.ndarray) -> np.ndarray:
    """Event times of a Poisson process whose rate depends on the hour of the day."""
    parts = [MONDAY + h * HOUR + np.sort(rng.integers(0, HOUR, rng.poisson(per_hour[h % 24]))) for h in range(hours)]
    return np.concatenate(parts).astype(np.int64)


def meter(times: np.ndarray, shards: int = 1) -> tuple[RateMeter, np.ndarray]:
    fitted = fit_rate(times, shards)
    assert fitted is not None
    derived, observations = fitted
    return RateMeter(derived, fit_numeric(observations)), observations


def test_the_interval_has_twenty_rows_on_average_and_the_reference_three_hundred_intervals() -> None:
    rng = np.random.default_rng(0)
    busy, _ = meter(poisson_times(rng, 24, np.full(24, 6_000)))
    calm, _ = meter(poisson_times(rng, 24 * 20, np.full(24, 40)))
    assert (busy.interval_us, calm.interval_us) == (MINUTE, HOUR)
    assert fit_rate(poisson_times(rng, 100, np.full(24, 40)), 1) is None


def test_a_reference_of_four_weeks_is_compared_hour_by_hour() -> None:
    rng = np.random.default_rng(1)
    day = np.where((np.arange(24) >= 8) & (np.arange(24) < 20), 900, 60)
    _, four_weeks = meter(poisson_times(rng, 24 * 28 + 1, day))
    _, three_weeks = meter(poisson_times(rng, 24 * 21, day))
    assert four_weeks.std() < 0.45 < 0.8 < three_weeks.std()
    assert four_weeks.mean() == pytest.approx(1, abs=0.1)


def test_a_shard_is_thinned_to_its_part() -> None:
    rng = np.random.default_rng(2)
    times = poisson_times(rng, 24 * 7, np.full(24, 6_000))
    whole, _ = meter(times)
    part, _ = meter(times, shards=4)
    assert part.derived.arrays["expected"][0] == pytest.approx(whole.derived.arrays["expected"][0] / 4, rel=0.02)


def counted(m: RateMeter, times: np.ndarray, splits: list[int]) -> np.ndarray:
    parts = [part for part in np.split(times, sorted(set(splits))) if len(part)]
    return np.concatenate([m.take(part, unbroken=True) for part in parts])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3_000), max_size=8), st.integers(0, 50))
def test_any_split_into_batches_counts_the_same_as_counting_interval_by_interval(splits: list[int], gap: int) -> None:
    rng = np.random.default_rng(3)
    reference = poisson_times(rng, 24 * 14, np.full(24, 1_500))
    live = poisson_times(rng, 3, np.full(24, 1_500))
    live = np.concatenate([live, live + 3 * HOUR + gap * MINUTE])
    m, _ = meter(reference)
    found = counted(m, live, splits)
    number = live // MINUTE
    rows = np.bincount(number - number[0])[1:-1]
    expected = rows / m.derived.arrays["expected"][0]
    np.testing.assert_array_equal(found, bin_numeric(m.bins, expected))
    assert (m.interval, m.rows) == (number[-1], int((number == number[-1]).sum()))


def test_a_long_silence_is_counted_up_to_a_bound_and_rows_late_for_it_join_the_present() -> None:
    rng = np.random.default_rng(4)
    m, _ = meter(poisson_times(rng, 24 * 14, np.full(24, 1_500)))
    m.take(np.array([MONDAY]), unbroken=True)
    ended = m.pass_over(MONDAY // MINUTE + 10**7)
    assert ended.tolist() == [BELOW_MIN] * MOST_EMPTY_INTERVALS
    assert not m.take(np.array([MONDAY + 5 * MINUTE]), unbroken=True).size
    assert m.rows == 1


def test_where_another_version_answered_in_between_nothing_is_said_of_it() -> None:
    rng = np.random.default_rng(5)
    m, _ = meter(poisson_times(rng, 24 * 14, np.full(24, 1_500)))
    first = MONDAY + np.arange(40) * (MINUTE // 10)
    m.take(first, unbroken=True)
    assert not m.take(first + 100 * MINUTE, unbroken=False).size
    assert m.take(first + 110 * MINUTE, unbroken=True).size


def test_the_meter_goes_on_from_what_was_written() -> None:
    rng = np.random.default_rng(6)
    m, _ = meter(poisson_times(rng, 24 * 14, np.full(24, 1_500)))
    live = poisson_times(rng, 2, np.full(24, 1_500))
    m.take(live[:700], unbroken=True)
    other = RateMeter(m.derived, m.bins)
    other.restore(m.to_fields())
    first, second = m.take(live[700:], unbroken=True), other.take(live[700:], unbroken=True)
    assert first.size
    np.testing.assert_array_equal(first, second)
    assert m.to_fields() == other.to_fields()
