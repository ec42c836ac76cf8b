"""Sorted rows, and how one is found among millions of them: the part of a run that belongs to one table.

Keys are digests and so evenly spread: a *directory* says for each value of a key's first bits how many keys lie below
it, and the key that is looked for is one of the next few. That takes two reads from memory, where a binary search of
ten million keys takes twenty, each of which waits for the one before.

Rows are handled as bytes: all that is known of them is that they begin with key, check and time.
"""

from __future__ import annotations

import mmap
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]
Keys = NDArray[np.uint64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

SLICE_ROWS = 131_072
"""Rows that are handled at once where there are millions, and held in memory meanwhile."""

LAST_KEY = np.uint64(2**64 - 1)

_ROWS_PER_SLOT = 2
_LEAST_ROWS = 4_096
"""Fewer rows are searched: they are in the processor's cache, and of many small sections each costs next to nothing."""
_WINDOW = np.arange(8)
"""Keys that are compared from the directory's entry on: of digests all but one in ten thousand are among them, and what
is not is searched."""


@lru_cache(maxsize=1024)
def head(row_bytes: int) -> np.dtype[np.void]:
    """Rows of any table as what all of them begin with; ``id`` is key and check in one."""
    return np.dtype(
        {
            "names": ["id", "key", "check", "time_us"],
            "formats": ["S16", "<u8", "<u8", "<i8"],
            "offsets": [0, 0, 8, 16],
            "itemsize": row_bytes,
        }
    )


def plain(rows: Rows) -> Rows:
    """Rows as records of bytes, contiguous."""
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize)))


def field(rows: Rows, name: str) -> NDArray[Any]:
    """A view of a field that all rows have."""
    return rows.view(head(rows.dtype.itemsize))[name]


def newest_order(keys: Keys, rows: Rows, *, sorted_parts: bool) -> NDArray[np.intp]:
    """Order of rows by (key, check), of rows with the same id only the last one.

    Args:
        keys: uint64[n].
        rows: n rows, older ones first.
        sorted_parts: Whether they are a few sorted parts, one after the other. Makes a difference to the time only.
    """
    order = np.argsort(keys, kind="stable" if sorted_parts else "quicksort")
    ordered = keys.take(order)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return order
    shared = np.zeros(len(order), bool)
    shared[1:] |= equal
    shared[:-1] |= equal
    at = np.flatnonzero(shared)
    several = order[at]
    checks = field(rows, "check")[several]
    order[at] = several[np.lexsort((several, checks, keys[several]))]
    several = order[at]
    checks, repeated = field(rows, "check")[several], keys[several]
    replaced = (repeated[1:] == repeated[:-1]) & (checks[1:] == checks[:-1])
    keep = np.ones(len(order), bool)
    keep[at[:-1][replaced]] = False
    return order[keep]


def _directory(keys: Keys) -> tuple[NDArray[np.uint32], np.uint64]:
    """How many keys lie below each value of their first bits, and the shift that leaves those bits.

    Args:
        keys: uint64[n], sorted.
    """
    bits = max((len(keys) // _ROWS_PER_SLOT).bit_length(), 1)
    shift = np.uint64(64 - bits)
    below = np.zeros(1 << bits, np.uint32)
    step = min(1 << bits, SLICE_ROWS)
    start = 0
    for slot in range(0, 1 << bits, step):
        last = slot + step == 1 << bits
        end = len(keys) if last else int(np.searchsorted(keys, np.uint64(slot + step) << shift))
        counts = np.bincount((keys[start:end] >> shift).astype(np.intp) - slot, minlength=step)
        below[slot] = start
        below[slot + 1 : slot + step] = start + np.cumsum(counts[:-1])
        start = end
    return below, shift


class Section:
    """The rows of one table in one run, sorted by (key, check), which are all different.

    Args:
        keys: uint64[n + 1], the rows' keys and ``LAST_KEY``.
        rows: n rows as bytes.
        first_us: The smallest time.
        last_us: The largest time.
        file: The mapped file, and where the keys and the rows begin in it; None if they are in memory.
    """

    def __init__(
        self, keys: Keys, rows: Rows, first_us: int, last_us: int, file: tuple[mmap.mmap, int, int] | None = None
    ) -> None:
        self.keys, self.rows, self.first_us, self.last_us = keys, rows, first_us, last_us
        self._file = file
        self._below: NDArray[np.uint32] | None = None
        if len(rows) >= _LEAST_ROWS:
            self._below, self._shift = _directory(keys[:-1])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def index_bytes(self) -> int:
        """Memory of the directory."""
        return 0 if self._below is None else self._below.nbytes

    def release(self, begin: int, end: int) -> None:
        """Let go of the memory of these rows, which are not needed for a while: they are read from the file again."""
        if self._file is None:
            return
        mapped, keys_at, rows_at = self._file
        for at, size in ((keys_at, self.keys.itemsize), (rows_at, self.rows.itemsize)):
            first = -(-(at + begin * size) // mmap.PAGESIZE) * mmap.PAGESIZE
            after = (at + end * size) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < after:
                mapped.madvise(mmap.MADV_DONTNEED, first, after - first)

    def find(self, keys: Keys, checks: Keys) -> tuple[NDArray[np.intp], Rows]:
        """Look rows up.

        Args:
            keys: uint64[m].
            checks: uint64[m].

        Returns:
            Which of the m are here, ascending, and their rows.
        """
        at, place = self._place(keys)
        rows = self.rows.take(place)
        same = field(rows, "check") == checks[at]
        if same.all():
            return at, rows
        for one in np.flatnonzero(~same).tolist():
            place_of_one = self._beyond(int(place[one]), keys[at[one]], checks[at[one]])
            if place_of_one is not None:
                rows[one], same[one] = self.rows[place_of_one], True
        return at[same], rows[same]

    def _place(self, keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which of the keys are here, ascending, and the place of the first row with each."""
        if self._below is None:
            return self._search(keys)
        first = self._below.take((keys >> self._shift).view(np.int64)).astype(np.intp)
        window = self.keys.take(first[:, None] + _WINDOW, mode="clip")
        hits = np.flatnonzero(window == keys[:, None])
        at = hits // len(_WINDOW)
        place = first[at] + hits % len(_WINDOW)
        good = place < len(self)
        good[1:] &= at[1:] != at[:-1]
        if not good.all():
            at, place = at[good], place[good]
        far = np.flatnonzero(window[:, -1] < keys)
        if not far.size:
            return at, place
        far_at, far_place = self._search(keys[far])
        at, place = np.append(at, far[far_at]), np.append(place, far_place)
        order = np.argsort(at)
        return at[order], place[order]

    def _search(self, keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The same by binary search."""
        place = np.searchsorted(self.keys[:-1], keys)
        at = np.flatnonzero((self.keys.take(place) == keys) & (place < len(self)))
        return at, place[at]

    def _beyond(self, place: int, key: np.uint64, check: np.uint64) -> int | None:
        """Place of a row whose key other rows have, too."""
        end = int(np.searchsorted(self.keys[:-1], key, side="right"))
        found = np.flatnonzero(field(self.rows[place:end], "check") == check)
        return place + int(found[0]) if found.size else None
