"""Tables of pending rows: lookups among the rows in memory and the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr
from numpy.typing import NDArray

from streams.outcomes.directory import PendingError
from streams.outcomes.runs import SLICE_ROWS, Keys, Rows, Run, Section, field, newest_order, plain

_HEAD = (("key", "<u8", 0), ("check", "<u8", 8), ("time_us", "<i8", 16))
_ALWAYS_US = int(np.iinfo(np.int64).min)
_INDEXED_ROW_BYTES = 180
"""Of a row in memory the id, its number and their place in the dictionary."""


@dataclass(slots=True)
class Stored:
    """A table as the manifest knows it."""

    number: int
    name: str
    layout: str
    forgotten_before_us: int = _ALWAYS_US
    is_dropped: bool = False


class Recent:
    """A table's rows that are in memory only."""

    def __init__(self, row_bytes: int) -> None:
        self._rows: Rows = np.empty(16, np.dtype((np.void, row_bytes)))
        self._index: dict[bytes, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> Rows:
        """All that were put, older ones first, as bytes."""
        return self._rows[: self._size]

    @property
    def memory_bytes(self) -> int:
        """About how much memory they take."""
        return self._rows.nbytes + _INDEXED_ROW_BYTES * len(self._index)

    def put(self, rows: Rows) -> None:
        """Add rows, as bytes."""
        size = self._size + len(rows)
        if size > len(self._rows):
            grown = np.empty(max(size, 2 * len(self._rows)), self._rows.dtype)
            grown[: self._size] = self.rows
            self._rows = grown
        self._rows[self._size : size] = rows
        self._index.update(zip(field(rows, "id").tolist(), range(self._size, size), strict=True))
        self._size = size

    def find(self, ids: Sequence[bytes]) -> tuple[NDArray[np.intp], Rows]:
        """Which of the ids (``id`` of :func:`streams.outcomes.runs.head`) are here, ascending, and their last rows."""
        place = np.fromiter(map(self._index.get, ids, repeat(-1)), np.intp, count=len(ids))
        at = np.flatnonzero(place >= 0)
        return at, self._rows.take(place[at])


class Held:
    """What a store holds, shared with its tables.

    Attributes:
        runs: Older ones first.
        recent: By number of the table the rows that are in memory only.
        recent_rows: How many those are.
        generation: Changes whenever the runs do.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.recent: dict[int, Recent] = {}
        self.recent_rows = 0
        self.generation = 0

    def put(self, number: int, rows: Rows) -> None:
        """Add rows, as bytes, to a table."""
        recent = self.recent.get(number)
        if recent is None:
            recent = self.recent[number] = Recent(rows.dtype.itemsize)
        recent.put(rows)
        self.recent_rows += len(rows)

    def forget_recent(self) -> None:
        """No rows are in memory only any more."""
        self.recent, self.recent_rows = {}, 0

    def replace(self, begin: int, end: int, run: Run | None) -> None:
        """Put a run in the place of others."""
        self.runs[begin:end] = [] if run is None else [run]
        self.generation += 1

    def sections(self, number: int) -> list[Section]:
        """A table's sections, newest first."""
        each = (run.sections.get(number) for run in reversed(self.runs))
        return [section for section in each if section is not None]


class PendingTable:
    """Rows of one kind, found by the 128 bits of key and check, a digest of an id.

    Attributes:
        name: Its name.
        dtype: Structured, beginning with ``key`` uint64, ``check`` uint64 and ``time_us`` int64.
    """

    def __init__(self, dtype: np.dtype[np.void], stored: Stored, held: Held, after_put: Callable[[], None]) -> None:
        self.name, self.dtype = stored.name, dtype
        self._stored, self._held, self._after_put = stored, held, after_put
        self._sections: list[Section] = []
        self._generation = -1

    @property
    def rows(self) -> int:
        """Rows held, hidden and forgotten ones included."""
        self._check()
        return len(self._recent or ()) + sum(map(len, self._newest_first()))

    def put(self, rows: Rows) -> None:
        """Add rows. Of rows with the same key and check only the last one is found from now on.

        Args:
            rows: n rows of the table's dtype.

        Raises:
            PendingError: Rows of another dtype; the table was dropped; the disk is full.
        """
        if rows.dtype != self.dtype:
            raise PendingError(f"rows of table {self.name!r} have the dtype {self.dtype}, these have {rows.dtype}")
        self._check()
        if len(rows):
            self._held.put(self._stored.number, plain(rows))
            self._after_put()

    def get(self, keys: Keys, checks: Keys) -> tuple[NDArray[np.bool_], Rows]:
        """Look rows up.

        Args:
            keys: uint64[n].
            checks: uint64[n].

        Returns:
            found: bool[n]. A row that is forgotten is not found, nor is one that it hides.
            rows: n rows; zeros where none was found.

        Raises:
            PendingError: The table was dropped.
        """
        self._check()
        keys, checks = np.ascontiguousarray(keys, np.uint64), np.ascontiguousarray(checks, np.uint64)
        found = np.zeros(len(keys), bool)
        rows = np.zeros(len(keys), np.dtype((np.void, self.dtype.itemsize)))
        recent = self._recent
        if recent is not None:
            ids = np.stack([keys, checks], axis=1).view("S16").ravel().tolist()
            at, rows_found = recent.find(ids)
            found[at], rows[at] = True, rows_found
        wanted = np.flatnonzero(~found) if recent is not None else np.arange(len(keys))
        for section in self._newest_first():
            if not wanted.size:
                break
            at, rows_found = section.find(keys[wanted], checks[wanted])
            if at.size:
                here = wanted[at]
                found[here], rows[here] = True, rows_found
                wanted = wanted[~found[wanted]]
        forgotten = np.flatnonzero(found & (field(rows, "time_us") < self._stored.forgotten_before_us))
        if forgotten.size:
            found[forgotten], rows[forgotten] = False, np.zeros((), rows.dtype)
        return found, rows.view(self.dtype)

    def forget_before(self, time_us: int) -> None:
        """Forget rows with a smaller time, now and in future; their storage is given back in time."""
        stored = self._stored
        stored.forgotten_before_us = max(stored.forgotten_before_us, int(time_us))

    def rows_between(self, first_us: int, after_us: int) -> Rows:
        """The rows that can be found and have first_us <= time_us < after_us, sorted by time, key and check.

        Reads the times of all rows of the runs that have any from that time: about 20 ns a row held.
        """
        first_us = max(first_us, self._stored.forgotten_before_us)
        recent = self._recent
        parts = [] if recent is None else [_between(recent.rows, first_us, after_us)]
        for section in self._newest_first():
            if section.first_us < after_us and first_us <= section.last_us:
                parts.append(_between(section.rows, first_us, after_us))
        rows = np.concatenate([np.empty(0, np.dtype((np.void, self.dtype.itemsize))), *parts])
        rows = rows.take(newest_order(field(rows, "key"), rows, sorted_parts=False))
        found, rows = self.get(field(rows, "key"), field(rows, "check"))  # some may be hidden by a row of another time
        times = rows["time_us"]
        rows = rows[found & (first_us <= times) & (times < after_us)]
        return rows[np.lexsort((rows["check"], rows["key"], rows["time_us"]))]

    @property
    def _recent(self) -> Recent | None:
        return self._held.recent.get(self._stored.number)

    def _check(self) -> None:
        if self._stored.is_dropped:
            raise PendingError(f"table {self.name!r} was dropped: ask the store for it again")

    def _newest_first(self) -> list[Section]:
        if self._generation != self._held.generation:
            self._sections = self._held.sections(self._stored.number)
            self._generation = self._held.generation
        return self._sections


def _between(rows: Rows, first_us: int, after_us: int) -> Rows:
    parts = []
    for begin in range(0, len(rows), SLICE_ROWS):
        part = rows[begin : begin + SLICE_ROWS]
        times = field(part, "time_us")
        parts.append(part[(times >= first_us) & (times < after_us)])
    return np.concatenate(parts) if parts else rows[:0]


def table_layout(dtype: np.dtype[np.void]) -> str:
    """A table's fields as text."""
    fields: Mapping[str, Any] = dtype.fields or {}
    if dtype.hasobject or any(fields.get(name, ())[:2] != (np.dtype(kind), at) for name, kind, at in _HEAD):
        raise PendingError(f"rows begin with key uint64, check uint64 and time_us int64 and hold no objects: {dtype}")
    return json.dumps(dtype_to_descr(dtype))
