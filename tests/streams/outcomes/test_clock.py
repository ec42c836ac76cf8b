"""Up to which event time outcomes are known, by what was published when."""

from __future__ import annotations

import numpy as np

from streams.outcomes.clock import FORGOTTEN_MS, LIVE_MS, OutcomeClock

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW_MS = 1_800_000_000_000
HORIZON_MS = 7 * DAY_MS


def us(*times_ms: int) -> np.ndarray:
    return np.array(times_ms, np.int64) * 1000


def spread(first_ms: int, last_ms: int) -> np.ndarray:
    return np.linspace(first_ms, last_ms, 200).astype(np.int64) * 1000


def test_of_rows_that_are_published_as_they_happen_everything_read_is_known() -> None:
    clock = OutcomeClock()
    clock.see_predictions(NOW_MS, us(NOW_MS))
    assert clock.is_live(NOW_MS)
    clock.read(NOW_MS * 1000, NOW_MS)
    assert clock.known_us(NOW_MS * 1000, NOW_MS, HORIZON_MS) == NOW_MS * 1000


def test_outcomes_tell_up_to_when_they_are_known_but_not_beyond_event_time() -> None:
    clock = OutcomeClock()
    clock.see_predictions(NOW_MS, us(NOW_MS))
    clock.see_outcomes(NOW_MS, us(NOW_MS - HOUR_MS, NOW_MS - 2 * HOUR_MS), 2 * HOUR_MS)
    assert clock.known_us(NOW_MS * 1000, NOW_MS, HORIZON_MS) == (NOW_MS - HOUR_MS) * 1000
    clock.see_outcomes(NOW_MS, us(NOW_MS), 0)
    assert clock.known_us((NOW_MS - DAY_MS) * 1000, NOW_MS, HORIZON_MS) == (NOW_MS - DAY_MS) * 1000


def test_a_night_that_is_published_in_one_go_is_not_known_before_its_outcomes_had_as_long() -> None:
    clock = OutcomeClock()
    clock.see_predictions(NOW_MS, spread(NOW_MS - 12 * HOUR_MS, NOW_MS))
    clock.read(NOW_MS * 1000, NOW_MS + 60_000)
    assert clock.known_us(NOW_MS * 1000, NOW_MS, HORIZON_MS) < (NOW_MS - 10 * HOUR_MS) * 1000
    # the first of the outcomes that follow, in any order, is the last that became known
    clock.see_outcomes(NOW_MS + 120_000, us(NOW_MS), 0)
    assert clock.known_us(NOW_MS * 1000, NOW_MS + 120_000, HORIZON_MS) < (NOW_MS - 10 * HOUR_MS) * 1000


def test_a_lag_is_forgotten_where_nothing_comes() -> None:
    clock = OutcomeClock()
    clock.see_predictions(NOW_MS, spread(NOW_MS - 12 * HOUR_MS, NOW_MS))
    clock.read(NOW_MS * 1000, NOW_MS + FORGOTTEN_MS)
    assert clock.known_us(NOW_MS * 1000, NOW_MS + FORGOTTEN_MS, HORIZON_MS) == NOW_MS * 1000


def test_of_history_outcomes_alone_tell_a_horizon_later() -> None:
    clock = OutcomeClock()
    clock.see_predictions(NOW_MS, spread(NOW_MS - 90 * DAY_MS, NOW_MS - 80 * DAY_MS))
    assert not clock.is_live(NOW_MS)
    clock.read((NOW_MS - 80 * DAY_MS) * 1000, NOW_MS)
    assert clock.read_us == 0
    clock.see_outcomes(NOW_MS, us(NOW_MS - 85 * DAY_MS), 0)
    assert clock.known_us((NOW_MS - 80 * DAY_MS) * 1000, NOW_MS, HORIZON_MS) == (NOW_MS - 92 * DAY_MS) * 1000


def test_a_few_stragglers_among_many_do_not_stop_the_clock() -> None:
    clock = OutcomeClock()
    times = np.full(100, NOW_MS * 1000, np.int64)
    times[:5] -= 5 * LIVE_MS * 1000
    clock.see_outcomes(NOW_MS, times, 0)
    assert clock.lag_ms(NOW_MS) == 0


def test_what_was_promised_of_lateness_is_no_lag() -> None:
    clock = OutcomeClock()
    clock.see_outcomes(NOW_MS, us(NOW_MS - 5 * HOUR_MS), 6 * HOUR_MS)
    assert clock.lag_ms(NOW_MS) == 0


def test_the_journal_keeps_it() -> None:
    clock, again = OutcomeClock(), OutcomeClock()
    clock.see_predictions(NOW_MS, spread(NOW_MS - 12 * HOUR_MS, NOW_MS))
    clock.see_outcomes(NOW_MS, us(NOW_MS - HOUR_MS), 0)
    again.restore(clock.to_fields())
    assert again.to_fields() == clock.to_fields()
    assert again.lag_ms(NOW_MS + HOUR_MS) == clock.lag_ms(NOW_MS + HOUR_MS) > 0
