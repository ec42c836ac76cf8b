"""Runs: rows sorted by key that never change again, of which :mod:`streams.outcomes.store` is made.

A run holds a *section* (:mod:`streams.outcomes.sections`) for each table that had rows when it was written. A section's
keys are kept twice: within the rows, and beside them as plain numbers, eight to a cache line, where they are looked up.

    section: keys uint64[n + 1], the last of them 2^64 - 1 | rows, n times the table's row size
    run:     sections | footer, one _FOOTER record a section, with checksums
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.outcomes.sections import LAST_KEY, Bytes, Integers, Keys, Rows, Section, field

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
    sections, mapped = {}, _file_of(stored)
    for entry in footer:
        keys, rows = _stored(stored, entry)
        file = None if mapped is None else (mapped, int(entry["keys_at"]), int(entry["rows_at"]))
        sections[int(entry["table"])] = Section(keys, rows, int(entry["first_us"]), int(entry["last_us"]), file)
    return sections


def _file_of(stored: Bytes) -> mmap.mmap | None:
    """The mapped file that bytes are a view of."""
    mapped = stored.base.obj if isinstance(stored.base, memoryview) else None
    return mapped if isinstance(mapped, mmap.mmap) else None


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
