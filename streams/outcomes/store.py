"""Where predictions wait for their outcomes, and outcomes are remembered: an index of a partition's topics.

Rows are put into memory; some of them at a time are written as a *run* (:mod:`streams.outcomes.runs`), sorted by key;
runs are merged in the background (:mod:`streams.outcomes.merging`), so that there are never many. What a lookup finds
depends on what was put and forgotten, never on what was written or merged when.

It is only an index: what is lost is read from the topics again. So nothing is synced to disk, and all that matters is
that damage is noticed. The order of a checkpoint:

1. **runs**: all rows in memory are written as a run, under a name that was never used.
2. **manifest**: the list of the runs with their checksums, the tables and the position take the place of the last one
   at once.
3. **remove**: files that the manifest does not name any more are removed.

Whoever opens the directory compares every byte with the checksums. If anything is odd, the store is empty, at no
position, and says why in the log.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import dtype_to_descr
from numpy.typing import NDArray

from streams.errors import StreamsError
from streams.outcomes.merging import MOST_RUNS, Merge, Merger, next_merge
from streams.outcomes.runs import (
    RUN_SUFFIX,
    SLICE_ROWS,
    DamagedError,
    Keys,
    Rows,
    Run,
    RunWriter,
    Section,
    field,
    load_run,
    merge,
    newest_order,
    plain,
    run_name,
)

SPILL_ROWS = 131_072
"""Rows in memory before they are written: a run is written in some 20 ms."""

_LOCK_FILE = "lock"
_MANIFEST = "manifest"
_FORMAT = 1
_HEAD = (("key", "<u8", 0), ("check", "<u8", 8), ("time_us", "<i8", 16))
_ALWAYS_US = int(np.iinfo(np.int64).min)
_INDEXED_ROW_BYTES = 180
"""Of a row in memory the id, its number and their place in the dictionary."""

logger = logging.getLogger("driftline.streams.outcomes")


class PendingError(StreamsError):
    """The index of pending predictions cannot be used."""


@dataclass(slots=True)
class _Stored:
    """A table as the manifest knows it."""

    number: int
    name: str
    layout: str
    forgotten_before_us: int = _ALWAYS_US
    is_dropped: bool = False


class _Recent:
    """A table's rows that are in memory only."""

    def __init__(self, row_bytes: int) -> None:
        self._rows: Rows = np.empty(16, np.dtype((np.void, row_bytes)))
        self._index: dict[bytes, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> Rows:
        return self._rows[: self._size]

    @property
    def memory_bytes(self) -> int:
        return self._rows.nbytes + _INDEXED_ROW_BYTES * len(self._index)

    def put(self, rows: Rows) -> None:
        size = self._size + len(rows)
        if size > len(self._rows):
            grown = np.empty(max(size, 2 * len(self._rows)), self._rows.dtype)
            grown[: self._size] = self.rows
            self._rows = grown
        self._rows[self._size : size] = rows
        self._index.update(zip(field(rows, "id").tolist(), range(self._size, size), strict=True))
        self._size = size

    def find(self, ids: Sequence[bytes]) -> tuple[NDArray[np.intp], Rows]:
        place = np.fromiter(map(self._index.get, ids, repeat(-1)), np.intp, count=len(ids))
        at = np.flatnonzero(place >= 0)
        return at, self._rows.take(place[at])


class PendingTable:
    """Rows of one kind, found by the 128 bits of key and check, a digest of an id.

    Attributes:
        name: Its name.
        dtype: Structured, beginning with ``key`` uint64, ``check`` uint64 and ``time_us`` int64.
    """

    def __init__(self, store: PendingStore, name: str, dtype: np.dtype[np.void], stored: _Stored) -> None:
        self.name, self.dtype = name, dtype
        self._store, self._stored = store, stored
        self._sections: list[Section] = []
        self._generation = -1

    @property
    def rows(self) -> int:
        """Rows held, hidden and forgotten ones included."""
        return len(self._store._recent_of(self._stored) or ()) + sum(map(len, self._newest_first()))

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
            self._store._put(self._stored, plain(rows))

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
        recent = self._store._recent_of(self._stored)
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
        recent = self._store._recent_of(self._stored)
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

    def _check(self) -> None:
        if self._stored.is_dropped:
            raise PendingError(f"table {self.name!r} was dropped: ask the store for it again")

    def _newest_first(self) -> list[Section]:
        if self._generation != self._store._generation:
            self._sections = self._store._sections_of(self._stored)
            self._generation = self._store._generation
        return self._sections


def _between(rows: Rows, first_us: int, after_us: int) -> Rows:
    parts = []
    for begin in range(0, len(rows), SLICE_ROWS):
        part = rows[begin : begin + SLICE_ROWS]
        times = field(part, "time_us")
        parts.append(part[(times >= first_us) & (times < after_us)])
    return np.concatenate(parts) if parts else rows[:0]


class PendingStore:
    """The tables of one partition. One thread at a time uses it.

    Args:
        directory: Where it is kept, one owner at a time; None to keep it in memory only.
        merge_in_background: False to merge within the calls that find something to merge.
        spill_rows: Rows in memory before they are written.

    Attributes:
        position: The next offsets, by topic, as of the last checkpoint; empty if there is none.

    Raises:
        PendingError: Somebody else has the directory, or it cannot be used.
    """

    def __init__(
        self, directory: Path | None, *, merge_in_background: bool = True, spill_rows: int = SPILL_ROWS
    ) -> None:
        self._directory = directory
        self._spill_rows = spill_rows
        self._merger = Merger() if merge_in_background else None
        self._clear()
        self._lock: IO[str] | None = None
        if directory is not None:
            self._lock = _locked(directory)
            try:
                self._open(directory)
            except BaseException:
                self._lock.close()
                raise

    def _clear(self) -> None:
        self._tables: dict[str, _Stored] = {}
        self._handles: dict[str, PendingTable] = {}
        self._recent: dict[int, _Recent] = {}
        self._recent_rows = 0
        self._runs: list[Run] = []
        self._merges: list[Merge] = []
        self._in_manifest: set[Path] = set()
        self._replaced: list[Path] = []
        self._next_table = 0
        self._next_run = 1
        self._generation = 0
        self.position: dict[str, int] = {}

    def table(self, name: str, dtype: np.dtype[np.void]) -> PendingTable:
        """Open a table, or create it.

        Raises:
            PendingError: The table has other fields, or a table cannot have these.
        """
        layout = _layout(dtype)
        stored = self._tables.get(name)
        if stored is None:
            stored = self._tables[name] = _Stored(self._next_table, name, layout)
            self._next_table += 1
        if stored.layout != layout:
            raise PendingError(f"table {name!r} has the fields {stored.layout}, not {layout}: drop it first")
        if name not in self._handles:
            self._handles[name] = PendingTable(self, name, dtype, stored)
        return self._handles[name]

    def names(self) -> list[str]:
        """The tables there are, sorted."""
        return sorted(self._tables)

    def drop(self, name: str) -> None:
        """Remove a table, if there is one, and all its rows; the object that stands for it is of no use any more."""
        stored = self._tables.pop(name, None)
        if stored is not None:
            stored.is_dropped = True
            self._handles.pop(name, None)
            self._recent_rows -= len(self._recent.pop(stored.number, ()))

    def checkpoint(self, position: Mapping[str, int]) -> None:
        """Write what is in memory, so that the store can be opened again as it is now, at this position.

        Raises:
            PendingError: The disk is full, or cannot be written to.
        """
        self._spill()
        self.position = dict(position)
        if self._directory is None:
            return
        with self._writing():
            self._write_manifest(self._directory)
            self._in_manifest = {run.path for run in self._runs if run.path is not None}
            for path in self._replaced:
                path.unlink(missing_ok=True)
        self._replaced = []

    def reset(self) -> None:
        """Remove everything: no position, no tables; objects that stand for them are of no use any more."""
        if self._merger is not None:
            self._merger.stop()
        for stored in self._tables.values():
            stored.is_dropped = True
        self._clear()
        if self._directory is not None:
            with self._writing():
                _remove_files(self._directory, keep=())

    def close(self) -> None:
        """Stop merging and let go of the directory. What was put since the last checkpoint is lost."""
        if self._merger is not None:
            self._merger.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def memory_bytes(self) -> int:
        """Memory it takes, without the files' pages in the system's cache."""
        recent = sum(each.memory_bytes for each in self._recent.values())
        return recent + sum(run.memory_bytes for run in self._runs)

    @property
    def disk_bytes(self) -> int:
        """Disk it takes, with what is being merged."""
        total = 0
        if self._directory is not None:
            for path in self._directory.iterdir():
                try:
                    total += path.stat().st_blocks * 512
                except FileNotFoundError:
                    pass  # a merge came to nothing
        return total

    def _put(self, stored: _Stored, rows: Rows) -> None:
        recent = self._recent.get(stored.number)
        if recent is None:
            recent = self._recent[stored.number] = _Recent(rows.dtype.itemsize)
        recent.put(rows)
        self._recent_rows += len(rows)
        if self._recent_rows >= self._spill_rows:
            self._spill()

    def _recent_of(self, stored: _Stored) -> _Recent | None:
        return self._recent.get(stored.number)

    def _sections_of(self, stored: _Stored) -> list[Section]:
        """A table's sections, newest first."""
        each = (run.sections.get(stored.number) for run in reversed(self._runs))
        return [section for section in each if section is not None]

    def _spill(self) -> None:
        """Write the rows in memory as a run."""
        self._look_after_runs()
        if not self._recent:
            return
        sizes = [(len(recent), recent.rows.itemsize) for recent in self._recent.values()]
        writer = RunWriter(self._take_run_number(), self._directory, sizes)
        with self._writing():
            try:
                for number, recent in self._recent.items():
                    rows = recent.rows
                    keys = field(rows, "key")
                    order = newest_order(keys, rows, sorted_parts=False)
                    writer.begin(number, len(order), rows.itemsize)
                    writer.append(keys[order], rows.take(order))
                    writer.end()
                run = writer.finish()
            except BaseException:
                writer.give_up()
                raise
        if run is not None:
            self._runs.append(run)
        self._recent, self._recent_rows = {}, 0
        self._generation += 1
        self._look_after_runs()

    def _take_run_number(self) -> int:
        self._next_run += 1
        return self._next_run - 1

    def _look_after_runs(self) -> None:
        """Take over what was merged, and have merged what is due. Waits only if merging cannot keep pace."""
        self._take_over()
        while (due := self._due()) is not None:
            self._begin_merge(*due)
            if self._merger is None:
                self._merges[-1].finish()
                self._take_over()
        while self._merger is not None and len(self._runs) > MOST_RUNS and self._merges:
            self._merger.wait(min(self._merges, key=lambda each: each.size))
            self._take_over()

    def _due(self) -> tuple[int, int] | None:
        merging = {run.number for each in self._merges for run in each.inputs}
        before_us = {stored.number: stored.forgotten_before_us for stored in self._tables.values()}
        return next_merge(
            [run.size for run in self._runs],
            [run.forgotten_bytes(before_us) for run in self._runs],
            [run.number in merging for run in self._runs],
        )

    def _begin_merge(self, begin: int, end: int) -> None:
        inputs = self._runs[begin:end]
        before_us = {stored.number: stored.forgotten_before_us for stored in self._tables.values()}
        steps = merge(inputs, self._take_run_number(), self._directory, before_us, oldest=begin == 0)
        self._merges.append(Merge(inputs, steps))
        if self._merger is not None:
            self._merger.submit(self._merges[-1])

    def _take_over(self) -> None:
        """Put the runs that were merged in the place of those they were merged from."""
        for each in [each for each in self._merges if each.is_done]:
            self._merges.remove(each)
            if each.error is not None:
                raise PendingError(f"runs of pending rows cannot be merged: {each.error}") from each.error
            begin = self._runs.index(each.inputs[0])
            self._runs[begin : begin + len(each.inputs)] = [] if each.result is None else [each.result]
            self._generation += 1
            for path in [run.path for run in each.inputs if run.path is not None]:
                if path in self._in_manifest:
                    self._replaced.append(path)
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PendingError(
                f"pending rows cannot be written to {self._directory}: {error.strerror}. Make room or choose another "
                "directory; what is missing is read from the topics again."
            ) from error

    def _write_manifest(self, directory: Path) -> None:
        tables = [[t.number, t.name, t.layout, t.forgotten_before_us] for t in self._tables.values()]
        content = {
            "format": _FORMAT,
            "position": self.position,
            "tables": tables,
            "next_table": self._next_table,
            "next_run": self._next_run,
            "runs": [[run.number, run.size, run.footer_at, run.footer_crc] for run in self._runs],
        }
        data = json.dumps(content, separators=(",", ":")).encode()
        path = directory / (_MANIFEST + ".new")
        path.write_bytes(b"%08x\n%s" % (zlib.crc32(data), data))
        path.replace(directory / _MANIFEST)

    def _open(self, directory: Path) -> None:
        """Take up what the last checkpoint left; nothing, if any of it is not as it was."""
        try:
            self._read(directory)
        except (DamagedError, OSError, ValueError, KeyError, TypeError) as error:
            self._clear()
            logger.warning(
                "pending rows in %s are damaged and will be read from the topics again: %r", directory, error
            )
        self._in_manifest = {run.path for run in self._runs if run.path is not None}
        with self._writing():
            keep = {path.name for path in self._in_manifest}
            _remove_files(directory, keep={_MANIFEST, *keep} if self._next_run > 1 else ())

    def _read(self, directory: Path) -> None:
        path = directory / _MANIFEST
        if not path.exists():
            return
        checksum, _, data = path.read_bytes().partition(b"\n")
        if checksum != b"%08x" % zlib.crc32(data):
            raise DamagedError("the manifest does not agree with its checksum")
        content = json.loads(data)
        if content["format"] != _FORMAT:
            raise DamagedError(f"the manifest has format {content['format']}, this version reads {_FORMAT}")
        for number, size, footer_at, footer_crc in content["runs"]:
            self._runs.append(load_run(directory / run_name(number), number, size, footer_at, footer_crc))
        self._tables = {name: _Stored(number, name, *rest) for number, name, *rest in content["tables"]}
        self._next_table, self._next_run = content["next_table"], content["next_run"]
        self.position = content["position"]


def _layout(dtype: np.dtype[np.void]) -> str:
    """A table's fields as text."""
    fields: Mapping[str, Any] = dtype.fields or {}
    if dtype.hasobject or any(fields.get(name, ())[:2] != (np.dtype(kind), at) for name, kind, at in _HEAD):
        raise PendingError(f"rows begin with key uint64, check uint64 and time_us int64 and hold no objects: {dtype}")
    return json.dumps(dtype_to_descr(dtype))


def _locked(directory: Path) -> IO[str]:
    """Lock a directory; the system lets go of it when the process ends, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / _LOCK_FILE).open("a+")
    except OSError as error:
        raise PendingError(f"{directory} cannot be used for pending rows: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        other = lock.read(20).strip()
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise PendingError(
                f"{directory} cannot be locked: {error.strerror}. Its file system needs locks."
            ) from error
        who = f" (process {other})" if other.isdecimal() else ""
        raise PendingError(
            f"{directory} is in use by another worker{who}. Stop that one, or give each worker a directory of its own."
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _remove_files(directory: Path, keep: Collection[str]) -> None:
    """Remove the store's files but those to keep; the manifest first, so that it never names what is not there."""
    mine = [path for path in directory.iterdir() if path.name.startswith(_MANIFEST) or path.suffix == RUN_SUFFIX]
    for path in sorted(mine, key=lambda path: path.suffix == RUN_SUFFIX):
        if path.name not in keep:
            path.unlink(missing_ok=True)
