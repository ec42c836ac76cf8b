"""Rows by start slot and window."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.windows import closed, group_rows

times = st.lists(st.integers(-(10**15), 2 * 10**15), min_size=1, max_size=60)
near = st.lists(st.integers(10**15, 10**15 + 300_000_000), min_size=1, max_size=60)


@given(times_us=times | near, clock_us=st.none() | st.integers(0, 2 * 10**15), lateness_ms=st.integers(0, 100_000))
def test_rows_are_grouped_as_if_they_came_one_by_one(
    samples: Any, times_us: list[int], clock_us: int | None, lateness_ms: int
) -> None:
    spec = samples.spec(lateness_ms=lateness_ms)
    grouping = group_rows(np.array(times_us, np.int64), None, clock_us, spec)
    index = np.zeros(len(times_us), np.int64) if grouping.index is None else grouping.index
    clock, found = clock_us, []
    for row, time_us in enumerate(times_us):
        before = time_us if clock is None else clock
        clock = max(time_us, before)
        window_start_us = time_us // 60_000_000 * 60_000_000
        group = grouping.groups[index[row]]
        assert group.slot == clock // 60_000_000
        late = closed(window_start_us, before, spec)
        assert group.window_start_us == (None if late else window_start_us)
        if group.slot not in found:
            assert group.slot_time_us == clock
            found.append(group.slot)
    assert grouping.clock_us == clock
    assert sum(group.rows for group in grouping.groups) == len(times_us)
    assert [group.slot for group in grouping.groups] == sorted(group.slot for group in grouping.groups)


@given(times_us=near, seed=st.integers(0, 100))
def test_rows_that_do_not_count_leave_no_trace(samples: Any, times_us: list[int], seed: int) -> None:
    rows = np.array(times_us, np.int64)
    counted = np.random.default_rng(seed).random(len(rows)) < 0.5
    grouping = group_rows(rows, counted, 10**15, samples.spec())
    alone = group_rows(rows[counted], None, 10**15, samples.spec())
    assert grouping.groups == alone.groups
    assert grouping.clock_us == alone.clock_us
    if grouping.groups:
        assert grouping.index is not None
        assert (grouping.index[~counted] == -1).all()
        assert (grouping.index[counted] >= 0).all()
