"""Runs: rows sorted by key that never change again, of which :mod:`streams.outcomes.store` is made.

A run holds a *section* for each table that had rows when it was written. A section's keys are kept twice: within the
rows, and beside them as plain numbers, eight to a cache line, where they are looked up. Keys are digests and so evenly
spread: a *directory* says for each value of a key's first bits how many keys lie below it, and the key that is looked
for is one of the next few. That takes two reads from memory where a binary search of ten million keys takes twenty,
each of which waits for the one before.

    section: keys uint64[n + 1], the last of them 2^64 - 1 | rows, n times the table's row size
    run:     sections | footer, one _FOOTER record a section, with checksums

Rows are handled as bytes: all that is known of them is that they begin with key, check and time.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]
Keys = NDArray[np.uint64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

SLICE_ROWS = 131_072
"""Rows that a merge holds in memory at once, and handles between two chances to let a smaller merge go first: 10 ms."""

LAST_KEY = np.uint64(2**64 - 1)

_ROWS_PER_SLOT = 2
_LEAST_ROWS = 4_096
"""Fewer rows are searched: they are in the processor's cache, and of many small sections each costs next to nothing."""
_FARTHEST = 64
"""Steps from a directory's entry: more, and the keys are not spread as digests are; they are then searched for."""
_BUFFERED_BYTES = 16 << 20
"""A run up to this size is put together in memory and written at once."""
_SAMPLES = 16
_SAMPLED = 4_096

_FOOTER = np.dtype(
    [
        ("table", "<u4"),
        ("row_bytes", "<u4"),
        ("rows", "<u8"),
        ("keys_at", "<u8"),
        ("rows_at", "<u8"),
        ("keys_crc", "<u4"),
        ("rows_crc", "<u4"),
        ("first_us", "<i8"),
        ("last_us", "<i8"),
        ("sample_us", "<i8", (_SAMPLES,)),  # times of some of the rows, sorted
    ]
)


RUN_SUFFIX = ".run"


class DamagedError(Exception):
    """What is stored is not what was written."""


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
    """

    def __init__(self, keys: Keys, rows: Rows, first_us: int, last_us: int) -> None:
        self.keys, self.rows, self.first_us, self.last_us = keys, rows, first_us, last_us
        self._below: NDArray[np.uint32] | None = None
        if len(rows) >= _LEAST_ROWS:
            below, self._shift = _directory(keys[:-1])
            if max(int(np.diff(below).max()), len(rows) - int(below[-1])) <= _FARTHEST:
                self._below = below

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def index_bytes(self) -> int:
        """Memory of the directory."""
        return 0 if self._below is None else self._below.nbytes

    def find(self, keys: Keys, checks: Keys) -> tuple[NDArray[np.intp], Rows]:
        """Look rows up.

        Args:
            keys: uint64[m].
            checks: uint64[m].

        Returns:
            Which of the m are here, ascending, and their rows.
        """
        place = self._place(keys)
        at = np.flatnonzero((self.keys.take(place) == keys) & (place < len(self)))
        rows = self.rows.take(place[at])
        same = field(rows, "check") == checks[at]
        if same.all():
            return at, rows
        for one in np.flatnonzero(~same).tolist():
            place_of_one = self._beyond(int(place[at[one]]), keys[at[one]], checks[at[one]])
            if place_of_one is not None:
                rows[one], same[one] = self.rows[place_of_one], True
        return at[same], rows[same]

    def _place(self, keys: Keys) -> NDArray[np.intp]:
        """Where the first row with each key is, or would be."""
        if self._below is None:
            return np.searchsorted(self.keys[:-1], keys)
        place = self._below.take((keys >> self._shift).view(np.int64)).astype(np.intp)
        behind = np.flatnonzero(self.keys.take(place) < keys)
        while behind.size:
            place[behind] += 1
            wanted = keys[behind]
            behind = behind[self.keys.take(place[behind]) < wanted]
        return place

    def _beyond(self, place: int, key: np.uint64, check: np.uint64) -> int | None:
        """Place of a row whose key other rows have, too."""
        end = int(np.searchsorted(self.keys[:-1], key, side="right"))
        found = np.flatnonzero(field(self.rows[place:end], "check") == check)
        return place + int(found[0]) if found.size else None


@dataclass(frozen=True, eq=False)
class Run:
    """Rows of many tables.

    Attributes:
        number: Larger than that of any run that was written before.
        sections: By number of the table.
        path: Its file; None if it is in memory only.
        size: Bytes in all.
        footer: What is known of the sections.
        footer_at: Where in the file the footer begins.
        footer_crc: Checksum of the footer.
    """

    number: int
    sections: dict[int, Section]
    path: Path | None
    size: int
    footer: NDArray[np.void]
    footer_at: int
    footer_crc: int

    @property
    def memory_bytes(self) -> int:
        """Memory that is not a view of the file."""
        return sum(section.index_bytes for section in self.sections.values()) + (self.size if self.path is None else 0)

    def forgotten_bytes(self, before_us: Integers) -> float:
        """About how many bytes belong to rows that are not asked for any more.

        Args:
            before_us: By number of the table, the time before which its rows are not asked for.
        """
        before = before_us[self.footer["table"]]
        shares = (self.footer["sample_us"] < before[:, None]).mean(axis=1)
        shares = np.where(
            before <= self.footer["first_us"], 0.0, np.where(before > self.footer["last_us"], 1.0, shares)
        )
        return float((shares * self.footer["rows"] * (self.footer["row_bytes"] + 8)).sum())


class _Sink:
    """Bytes at places of their own: in memory, in the end written to a file; large ones in the file at once."""

    def __init__(self, path: Path | None, most_bytes: int) -> None:
        self._path = path
        self._file = path.open("wb") if path is not None and most_bytes > _BUFFERED_BYTES else None
        self._buffer: Bytes = np.zeros(0 if self._file else most_bytes, np.uint8)

    def write(self, at: int, data: Bytes) -> None:
        if self._file is None:
            self._buffer[at : at + len(data)] = data
            return
        left = data.data
        while left:
            written = os.pwrite(self._file.fileno(), left, at)
            at, left = at + written, left[written:]

    def finish(self, size: int) -> Bytes:
        """The first ``size`` bytes, read-only."""
        if self._file is not None:
            self._file.truncate(size)
            self._file.close()
        elif self._path is not None:
            self._path.write_bytes(self._buffer[:size].data)
        if self._path is not None:
            return map_file(self._path)
        self._buffer.flags.writeable = False
        return self._buffer[:size]

    def give_up(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def map_file(path: Path) -> Bytes:
    """A file's bytes, read from it when they are used."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


class RunWriter:
    """Writes a run, table by table: ``begin``, ``append`` in order of (key, check), ``end``; then ``finish``.

    Args:
        number: Of the run.
        directory: Where its file goes; None to keep it in memory.
        sizes: Of each table that may come, the most rows it may have and their size in bytes.
    """

    def __init__(self, number: int, directory: Path | None, sizes: Sequence[tuple[int, int]]) -> None:
        self.number = number
        self.path = None if directory is None else directory / run_name(number)
        most = sum((rows + 2) * 8 + rows * row_bytes for rows, row_bytes in sizes) + len(sizes) * _FOOTER.itemsize
        self._sink = _Sink(self.path, most)
        self._end = 0
        self._footer: list[NDArray[np.void]] = []

    def begin(self, table: int, most_rows: int, row_bytes: int) -> None:
        """Begin the section of a table."""
        entry = np.zeros((), _FOOTER)
        entry["table"], entry["row_bytes"] = table, row_bytes
        entry["keys_at"] = (self._end + 7) // 8 * 8
        entry["rows_at"] = entry["keys_at"] + (most_rows + 1) * 8
        entry["first_us"], entry["last_us"] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self._entry, self._times = entry, [np.empty(0, np.int64)]
        self._every = max(most_rows // _SAMPLED, 1)

    def append(self, keys: Keys, rows: Rows) -> None:
        """Write rows, as bytes, with their keys."""
        if not len(keys):
            return
        entry, times = self._entry, field(rows, "time_us")
        entry["rows_crc"] = self._write(int(entry["rows_at"]) + int(entry["rows"]) * rows.itemsize, rows, "rows_crc")
        self._write_keys(keys)
        entry["rows"] += len(keys)
        entry["first_us"] = min(int(entry["first_us"]), int(times.min()))
        entry["last_us"] = max(int(entry["last_us"]), int(times.max()))
        self._times.append(times[:: self._every].copy())

    def _write_keys(self, keys: Keys) -> None:
        entry = self._entry
        entry["keys_crc"] = self._write(int(entry["keys_at"]) + int(entry["rows"]) * 8, keys, "keys_crc")

    def _write(self, at: int, values: NDArray[Any], checksum: str) -> int:
        data = np.ascontiguousarray(values).view(np.uint8)
        self._sink.write(at, data)
        return zlib.crc32(data.data, int(self._entry[checksum]))

    def end(self) -> None:
        """End the section; one without rows is left out."""
        entry = self._entry
        if entry["rows"]:
            self._write_keys(np.array([LAST_KEY]))
            times = np.sort(np.concatenate(self._times))
            entry["sample_us"] = times[(np.arange(_SAMPLES) * 2 + 1) * len(times) // (_SAMPLES * 2)]
            self._end = int(entry["rows_at"] + entry["rows"] * entry["row_bytes"])
            self._footer.append(entry)

    def finish(self) -> Run | None:
        """Write the footer; None if there are no rows, and then no file either."""
        if not self._footer:
            self._sink.give_up()
            return None
        footer = np.array(self._footer, _FOOTER)
        data = footer.view(np.uint8)
        self._sink.write(self._end, data)
        size = self._end + len(data)
        stored = self._sink.finish(size)
        return Run(self.number, _sections(stored, footer), self.path, size, footer, self._end, zlib.crc32(data.data))

    def give_up(self) -> None:
        """Leave nothing behind."""
        self._sink.give_up()


def run_name(number: int) -> str:
    """Name of a run's file."""
    return f"{number:012d}{RUN_SUFFIX}"


def _sections(stored: Bytes, footer: NDArray[np.void]) -> dict[int, Section]:
    sections = {}
    for entry in footer:
        keys, rows = _stored(stored, entry)
        sections[int(entry["table"])] = Section(keys, rows, int(entry["first_us"]), int(entry["last_us"]))
    return sections


def _stored(stored: Bytes, entry: np.void) -> tuple[Keys, Rows]:
    rows, keys_at, rows_at, row_bytes = (int(entry[name]) for name in ("rows", "keys_at", "rows_at", "row_bytes"))
    return (
        stored[keys_at : keys_at + (rows + 1) * 8].view("<u8"),
        stored[rows_at : rows_at + rows * row_bytes].view(np.dtype((np.void, row_bytes))),
    )


def load_run(directory: Path, number: int, size: int, footer_at: int, footer_crc: int) -> Run:
    """Open a run and compare every byte of it with its checksum.

    Raises:
        DamagedError: The file is not the one that was written.
        OSError: It cannot be read.
    """
    path = directory / run_name(number)
    stored = map_file(path) if path.stat().st_size else np.empty(0, np.uint8)
    footer_bytes = stored[footer_at:]
    if len(stored) != size:
        raise DamagedError(f"{path.name} has {len(stored):,} bytes, not {size:,}")
    if zlib.crc32(footer_bytes.data) != footer_crc or len(footer_bytes) % _FOOTER.itemsize:
        raise DamagedError(f"{path.name} has another footer than was written")
    footer = footer_bytes.view(_FOOTER)
    for entry in footer:
        keys, rows = _stored(stored, entry)
        checksums = zlib.crc32(keys.view(np.uint8).data), zlib.crc32(rows.view(np.uint8).data)
        if checksums != (entry["keys_crc"], entry["rows_crc"]):
            raise DamagedError(f"{path.name} has other rows than were written")
    return Run(number, _sections(stored, footer), path, size, footer, footer_at, footer_crc)
