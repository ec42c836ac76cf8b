"""Which outcome of a prediction is in force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streams.outcomes.arrivals import (
    Arrivals,
    Integers,
    Mask,
    Matched,
    Refusal,
    acted_on,
    labelling_probability,
    latest_of_each,
)
from streams.outcomes.frames import NOT_KNOWN, Frame, Rows
from streams.outcomes.reading import read_actual

LATE_OUTCOME = "late_outcome"


def judge(frame: Frame, rows: Rows, arrivals: Arrivals, is_open: Mask) -> tuple[Matched, list[Refusal]]:
    """Outcomes beside their predictions: those that can be used, and are the latest known, are in force from now on.

    Args:
        frame: Where the predictions wait.
        rows: n rows, with what is in force so far.
        arrivals: n outcomes, in order of arrival.
        is_open: bool[n], whether the prediction's window takes outcomes.
    """
    columns, times, known = arrivals.columns, rows["time_us"], arrivals.columns.actual_timestamps_us
    refusals = []
    good = np.ones(len(rows), np.bool_)
    actual = read_actual(frame.layout, columns)
    if actual.refusals:
        good[list(actual.refusals)] = False
        refusals += arrivals.refusals(
            "outcome_value",
            ~good,
            lambda n, at: (
                f"{n} outcomes cannot be used: row {int(arrivals.rows[at])} of the message: {actual.refusals[at]}"
            ),
        )
    outside = good & ~((known >= times - frame.skew_ms * 1000) & (known <= times + frame.horizon_ms * 1000))
    if outside.any():
        refusals += arrivals.refusals("outcome_time", outside, _outside(frame, arrivals, times))
        good &= ~outside
    late = good & ~is_open
    if late.any():
        refusals += arrivals.refusals(LATE_OUTCOME, late, _late)
        good &= ~late
    now = rows.copy()
    now["known_us"], now["value"] = np.maximum(known, times), actual.values
    now["weight"], now["acted"] = 1.0 / labelling_probability(columns), acted_on(columns)
    if not good.all():
        rows, now = rows[good], now[good]
    return _latest_known(frame, rows, now), refusals


def _latest_known(frame: Frame, rows: Rows, now: Rows) -> Matched:
    """Of several outcomes of one prediction, here or before, the latest known; of equally late ones the larger."""
    rank = frame.rank(now["value"])
    keep = latest_of_each(now, now["known_us"], rank)
    again = rows["known_us"][keep] != NOT_KNOWN
    if again.any():
        before, after = rows[keep], now[keep]
        newer = after["known_us"] > before["known_us"]
        same = again & (after["known_us"] == before["known_us"])
        newer[same] = rank[keep][same] > frame.rank(before["value"][same])
        keep, again = keep[~again | newer], again[~again | newer]
    if len(keep) == len(rows):
        return Matched(frame, now, rows, again, np.zeros(0, np.int64))
    superseded = np.ones(len(rows), np.bool_)
    superseded[keep] = False
    return Matched(frame, now[keep], rows[keep], again, rows["time_us"][superseded])


def _outside(frame: Frame, arrivals: Arrivals, times_us: Integers) -> Callable[[int, int], str]:
    def text(rows: int, at: int) -> str:
        known_us = int(arrivals.columns.actual_timestamps_us[at])
        return (
            f"{rows} outcomes became known before their prediction or later than outcomes.horizon "
            f"({frame.horizon_ms} ms): row {int(arrivals.rows[at])} became known at {np.datetime64(known_us, 'us')}, "
            f"its prediction is of {np.datetime64(int(times_us[at]), 'us')}"
        )

    return text


def _late(rows: int, _at: int) -> str:
    return (
        f"{rows} outcomes came after their window was final: they became known in time and were published later than "
        "the specification's outcomes.lateness allows"
    )
