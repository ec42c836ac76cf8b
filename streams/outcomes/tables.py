"""Tables of pending rows: lookups among the rows in memory and the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr
from numpy.typing import NDArray

from streams.outcomes.directory import PendingError
from streams.outcomes.runs import Run
from streams.outcomes.sections import SLICE_ROWS, Integers, Keys, Rows, Section, field, newest_order, plain

_HEAD = (("key", "<u8", 0), ("check", "<u8", 8), ("time_us", "<i8", 16))
_ALWAYS_US = int(np.iinfo(np.int64).min)
_LEAST_ROOM = 16
"""Rows; a power of two."""
_SLOTS_PER_ROW = 4
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio."""


@dataclass(slots=True)
class Stored:
    """A table as the manifest knows it."""

    number: int
    name: str
    layout: str
    forgotten_before_us: int = _ALWAYS_US
    is_dropped: bool = False


class Recent:
    """A table's rows that are in memory only.

    They are found by a hash table whose entries are chained (Knuth, "The Art of Computer Programming", volume 3,
    section 6.4), newest rows first: a batch is put or looked up with a few array operations.
    """

    def __init__(self, row_bytes: int) -> None:
        self._rows: Rows = np.empty(0, np.dtype((np.void, row_bytes)))
        self._size = 0
        self._grow(_LEAST_ROOM)

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> Rows:
        """All that were put, older ones first, as bytes."""
        return self._rows[: self._size]

    @property
    def memory_bytes(self) -> int:
        """How much memory they take."""
        return self._rows.nbytes + self._newest.nbytes + self._older.nbytes

    def put(self, rows: Rows) -> None:
        """Add rows, as bytes."""
        begin, end = self._size, self._size + len(rows)
        if end > len(self._rows):
            self._grow(1 << (end - 1).bit_length())
        self._rows[begin:end] = rows
        self._size = end
        self._chain(begin, end)

    def find(self, keys: Keys, checks: Keys) -> tuple[NDArray[np.intp], Rows]:
        """Which ids are here, ascending, and the last row of each.

        Args:
            keys: uint64[m].
            checks: uint64[m].
        """
        place = np.full(len(keys), -1, np.intp)
        number = self._newest.take(self._slots(keys, checks))
        at = np.flatnonzero(number >= 0)
        number = number[at]
        while at.size:
            rows = self._rows.take(number)
            same = (field(rows, "key") == keys[at]) & (field(rows, "check") == checks[at])
            place[at[same]] = number[same]
            number = self._older.take(number)
            there = np.flatnonzero(~same & (number >= 0))
            at, number = at[there], number[there]
        at = np.flatnonzero(place >= 0)
        return at, self._rows.take(place[at])

    def _slots(self, keys: Keys, checks: Keys) -> Integers:
        """Where chains begin: Fibonacci hashing of what might not be spread by itself."""
        return (((keys ^ checks) * _GOLDEN) >> self._shift).view(np.int64)

    def _chain(self, begin: int, end: int) -> None:
        """Put rows at the beginning of their chains, later ones before earlier ones."""
        rows = self._rows[begin:end]
        slots = self._slots(field(rows, "key"), field(rows, "check"))
        numbers = np.arange(begin, end, dtype=np.int32)
        self._older[begin:end] = self._newest.take(slots)
        self._newest[slots] = numbers
        if (self._newest.take(slots) != numbers).any():
            order = np.argsort(slots, kind="stable")
            slots, numbers = slots[order], numbers[order]
            again = slots[1:] == slots[:-1]
            self._older[numbers[1:][again]] = numbers[:-1][again]
            last = np.append(~again, True)
            self._newest[slots[last]] = numbers[last]

    def _grow(self, room: int) -> None:
        """Make room for so many rows, a power of two."""
        rows = np.empty(room, self._rows.dtype)
        rows[: self._size] = self.rows
        self._rows = rows
        bits = (room * _SLOTS_PER_ROW).bit_length() - 1
        self._shift = np.uint64(64 - bits)
        self._newest = np.full(1 << bits, -1, np.int32)
        self._older = np.empty(room, np.int32)
        self._chain(0, self._size)


class Held:
    """What a store holds, shared with its tables.

    Attributes:
        runs: Older ones first.
        sealed: Rows that are being written, by number of the table; older ones first, all newer than the runs.
        recent: Rows that are in memory only, by number of the table; newer than all others.
        recent_rows: How many those are.
        generation: Changes whenever the runs do.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.sealed: list[dict[int, Recent]] = []
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

    @property
    def in_memory(self) -> list[dict[int, Recent]]:
        """All rows in memory, newest first."""
        return [self.recent, *reversed(self.sealed)]

    def seal(self) -> dict[int, Recent]:
        """The rows in memory, which do not change any more."""
        self.sealed.append(self.recent)
        self.recent, self.recent_rows = {}, 0
        return self.sealed[-1]

    def unseal(self, run: Run | None) -> None:
        """The oldest sealed rows are in a run now."""
        del self.sealed[0]
        self.replace(len(self.runs), len(self.runs), run)

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
        return sum(map(len, self._parts()))

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
        wanted = np.arange(len(keys))
        for part in self._parts():
            at, rows_found = part.find(keys, checks)
            if at.size:
                here = wanted[at]
                found[here], rows[here] = True, rows_found
                left = np.ones(len(wanted), bool)
                left[at] = False
                wanted, keys, checks = wanted[left], keys[left], checks[left]
                if not wanted.size:
                    break
        if self._stored.forgotten_before_us > _ALWAYS_US:
            forgotten = np.flatnonzero(found & (field(rows, "time_us") < self._stored.forgotten_before_us))
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
        parts = [_between(recent.rows, first_us, after_us) for recent in reversed(self._in_memory())]
        for section in self._newest_first():
            if section.first_us < after_us and first_us <= section.last_us:
                parts.append(_between(section.rows, first_us, after_us))
        rows = np.concatenate([np.empty(0, np.dtype((np.void, self.dtype.itemsize))), *parts])
        rows = rows.take(newest_order(field(rows, "key"), rows, sorted_parts=False))
        found, rows = self.get(field(rows, "key"), field(rows, "check"))  # some may be hidden by a row of another time
        times = rows["time_us"]
        rows = rows[found & (first_us <= times) & (times < after_us)]
        return rows[np.lexsort((rows["check"], rows["key"], rows["time_us"]))]

    def _in_memory(self) -> list[Recent]:
        each = (part.get(self._stored.number) for part in self._held.in_memory)
        return [recent for recent in each if recent is not None]

    def _parts(self) -> list[Recent | Section]:
        """Where rows are, newest first."""
        return [*self._in_memory(), *self._newest_first()]

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
