"""Event time: which start slot and which window a row belongs to, and what is too late.

The clock of a deployment is the largest event time it has shown on the partition; it never runs backwards. Start slots
follow the clock (a late row joins the current one); windows follow each row's own event time, until the clock has
passed the window's end plus the allowed lateness.

The clock is kept per deployment, not per partition: one publisher with a fast clock, or a replayed year, must not make
every other deployment's rows late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.specification import DeploymentSpec

Times = NDArray[np.int64]

FIRST_REVISION_ROWS = 64
"""A provisional summary is written when a window's rows reach 64, 256, 1,024 …: early sight at a bounded price."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a message that fall into one start slot and one window.

    Attributes:
        slot: Index of the start slot.
        slot_time_us: The clock at the first row of the message that fell into the slot.
        window_start_us: Start of the window; None for rows whose window is closed.
        rows: Number of rows.
    """

    slot: int
    slot_time_us: int
    window_start_us: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class Grouping:
    """A message's rows by slot and window.

    Attributes:
        groups: In order of slots.
        index: int64[n], the group of each row, -1 for rows that do not count; None if all rows are in the one group.
        clock_us: The deployment's clock after the message.
    """

    groups: list[Group]
    index: Times | None
    clock_us: int


def group_rows(
    times_us: Times, counted: NDArray[np.bool_] | None, clock_us: int | None, spec: DeploymentSpec
) -> Grouping:
    """Sort a message's rows into start slots and windows.

    Args:
        times_us: int64[n], event times in order of arrival.
        counted: bool[n], rows that count; None if all do.
        clock_us: The deployment's clock before the message; None before its first.
        spec: Lengths of slots and windows, allowed lateness.

    Returns:
        The groups; none if no row counts.
    """
    times = times_us if counted is None else times_us[counted]
    if not times.size:
        return Grouping([], None, clock_us if clock_us is not None else int(times_us.max(initial=0)))
    group = _only_group(times, clock_us, spec)
    if group is not None:
        latest_us = int(np.maximum.reduce(times))
        return Grouping(
            [group], None if counted is None else np.where(counted, 0, -1), max(latest_us, group.slot_time_us)
        )
    rows = np.arange(len(times_us)) if counted is None else np.flatnonzero(counted)
    clock = np.maximum.accumulate(times)
    if clock_us is not None:
        clock = np.maximum(clock, clock_us)
    slot = clock // (spec.start_slot_ms * 1000)
    window_us = spec.window_ms * 1000
    window = times // window_us
    before = np.concatenate(([clock_us if clock_us is not None else times[0]], clock[:-1]))
    late = (window + 1) * window_us + spec.lateness_ms * 1000 <= before
    # one sortable key per row: the slot's rank, then the window's rank + 1, or 0 for a window that is closed
    slots, slot_rank = np.unique(slot, return_inverse=True)
    windows, window_rank = np.unique(window, return_inverse=True)
    width = len(windows) + 1
    keys, inverse, sizes = np.unique(
        slot_rank * width + np.where(late, 0, window_rank + 1), return_inverse=True, return_counts=True
    )
    first_rows = np.searchsorted(slot, slots).tolist()
    groups = []
    for value, size in zip(keys.tolist(), sizes.tolist(), strict=True):
        in_slot, in_window = divmod(value, width)
        window_start_us = int(windows[in_window - 1]) * window_us if in_window else None
        groups.append(Group(int(slots[in_slot]), int(clock[first_rows[in_slot]]), window_start_us, size))
    index = np.full(len(times_us), -1, dtype=np.int64)
    index[rows] = inverse
    return Grouping(groups, index, int(clock[-1]))


def _only_group(times: Times, clock_us: int | None, spec: DeploymentSpec) -> Group | None:
    """The group of rows that lie in one slot and one open window, as most messages do; None if they may not."""
    earliest_us, latest_us = int(np.minimum.reduce(times)), int(np.maximum.reduce(times))
    first_us = int(times[0])
    if clock_us is not None:
        first_us, latest_clock_us = max(first_us, clock_us), max(latest_us, clock_us)
    else:
        latest_clock_us = latest_us
    slot_us, window_us = spec.start_slot_ms * 1000, spec.window_ms * 1000
    slot, window_start_us = first_us // slot_us, earliest_us // window_us * window_us
    window_end_us = window_start_us + window_us
    if (
        latest_clock_us // slot_us != slot
        or latest_us >= window_end_us
        or window_end_us + spec.lateness_ms * 1000 <= latest_clock_us
    ):
        return None
    return Group(slot, first_us, window_start_us, len(times))


@dataclass(eq=False, slots=True)
class Window:
    """The mergeable sums of one event-time window: per block of streams int64[S, K].

    ``first_offset``: the message that opened it. It is part of the summary's id: where a window is opened again (an
    earlier baseline returns, a longer lateness), the sums add up and do not replace each other.
    """

    counts: list[NDArray[np.int64]]
    first_offset: int
    rows: int = 0
    revision: int = 0
    next_revision_rows: int = FIRST_REVISION_ROWS

    def add(self, counts: list[NDArray[np.int64]], rows: int) -> None:
        """Add a group's counts."""
        for mine, more in zip(self.counts, counts, strict=True):
            mine += more
        self.rows += rows

    def due(self) -> bool:
        """Whether a provisional summary is due; the next one will be at four times as many rows."""
        if self.rows < self.next_revision_rows:
            return False
        while self.next_revision_rows <= self.rows:
            self.next_revision_rows *= 4
        return True


def closed(window_start_us: int, clock_us: int, spec: DeploymentSpec) -> bool:
    """Whether a window takes no more rows."""
    return window_start_us + (spec.window_ms + spec.lateness_ms) * 1000 <= clock_us
