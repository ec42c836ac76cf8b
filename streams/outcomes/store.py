"""Where predictions wait for their outcomes, and outcomes are remembered: an index of a partition's topics.

Rows are put into memory; some of them at a time are written as a *run* (:mod:`streams.outcomes.runs`), sorted by key;
runs are merged, so that there are never many. Both is done in the background (:mod:`streams.outcomes.merging`), and
what a lookup finds depends on what was put and forgotten, never on what was written or merged when.

It is only an index: what is lost is read from the topics again. So nothing is synced to disk, and all that matters is
that damage is noticed. The order of a checkpoint:

1. **runs**: all rows in memory are written as a run, under a name that was never used.
2. **manifest**: the list of the runs with their checksums, the tables and the position take the place of the last one
   at once.
3. **remove**: files that the manifest does not name any more are removed.

Whoever must not take up what was never committed elsewhere does the first step before the commit and the others after
it (:meth:`PendingStore.prepare`, :meth:`PendingStore.confirm`).

Whoever opens the directory compares every byte with the checksums. If anything is odd, the store is empty, at no
position, and says why in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from streams.outcomes.directory import (
    Manifest,
    PendingError,
    lock_directory,
    read_manifest,
    remove_everything,
    remove_runs,
    write_manifest,
)
from streams.outcomes.merging import MOST_RUNS, Merger, Task, merge, next_merge, write_recent
from streams.outcomes.runs import DamagedError, Run, load_run, run_name
from streams.outcomes.tables import Held, PendingTable, Stored, table_layout

__all__ = ["PendingError", "PendingStore", "PendingTable"]

SPILL_ROWS = 120_000
"""Rows in memory before they are written, in 20 to 40 ms. A little less than a power of two, as their room doubles."""

MOST_SPILLS = 1
"""Runs that are being written; whoever puts rows faster than they can be written waits."""

logger = logging.getLogger("driftline.streams.outcomes")


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
            self._lock = lock_directory(directory)
            try:
                self._open(directory)
            except BaseException:
                self._lock.close()
                raise

    def _clear(self) -> None:
        self._tables: dict[str, Stored] = {}
        self._handles: dict[str, PendingTable] = {}
        self._held = Held()
        self._spills: list[Task] = []
        self._merges: list[Task] = []
        self._in_manifest: set[Path] = set()
        self._prepared: _Prepared | None = None
        self._replaced: list[Path] = []
        self._next_table = 0
        self._next_run = 1
        self.position: dict[str, int] = {}

    def table(self, name: str, dtype: np.dtype[np.void]) -> PendingTable:
        """Open a table, or create it.

        Raises:
            PendingError: The table has other fields, or a table cannot have these.
        """
        layout = table_layout(dtype)
        stored = self._tables.get(name)
        if stored is None:
            stored = self._tables[name] = Stored(self._next_table, name, layout)
            self._next_table += 1
        if stored.layout != layout:
            raise PendingError(f"table {name!r} has the fields {stored.layout}, not {layout}: drop it first")
        if name not in self._handles:
            self._handles[name] = PendingTable(dtype, stored, self._held, self._after_put)
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
            self._held.recent_rows -= len(self._held.recent.pop(stored.number, ()))

    def checkpoint(self, position: Mapping[str, int]) -> None:
        """Write what is in memory, so that the store can be opened again as it is now, at this position.

        Raises:
            PendingError: The disk is full, or cannot be written to.
        """
        self.prepare(position)
        self.confirm()

    def prepare(self, position: Mapping[str, int]) -> None:
        """Begin a checkpoint of the store as it is now, which :meth:`confirm` puts in force.

        Raises:
            PendingError: The disk is full, or cannot be written to.
        """
        self._spill()
        self._prepared = _Prepared(
            position=dict(position),
            tables=[(each.number, each.name, each.layout, each.forgotten_before_us) for each in self._tables.values()],
            runs=list(self._held.runs),
            spills=list(self._spills),
            paths=self._paths(),
            next_table=self._next_table,
            next_run=self._next_run,
        )

    def confirm(self) -> None:
        """Put what was prepared last in force, if anything was, whatever has been put or merged since.

        Raises:
            PendingError: The disk is full, or cannot be written to.
        """
        prepared = self._prepared
        if prepared is None:
            return
        for spill in prepared.spills:
            self._finish(spill)
        self.position = dict(prepared.position)
        if self._directory is not None:
            with self._writing():
                write_manifest(self._directory, prepared.manifest())
                for path in self._replaced:
                    if path not in prepared.paths:
                        path.unlink(missing_ok=True)
        self._in_manifest = prepared.paths
        self._replaced = [path for path in self._replaced if path in self._in_manifest]
        self._prepared = None

    def reset(self) -> None:
        """Remove everything: no position, no tables; objects that stand for them are of no use any more."""
        if self._merger is not None:
            self._merger.stop()
        for stored in self._tables.values():
            stored.is_dropped = True
        self._clear()
        if self._directory is not None:
            with self._writing():
                remove_everything(self._directory)

    def close(self) -> None:
        """Stop merging and let go of the directory. What was put since the last checkpoint is lost."""
        self._prepared = None
        if self._merger is not None:
            self._merger.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def memory_bytes(self) -> int:
        """Memory it takes, without the files' pages in the system's cache."""
        recent = sum(each.memory_bytes for part in self._held.in_memory for each in part.values())
        return recent + sum(run.memory_bytes for run in self._held.runs)

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

    def _after_put(self) -> None:
        if self._held.recent_rows >= self._spill_rows:
            self._spill()

    def _spill(self) -> None:
        """Have the rows in memory written as a run."""
        self._look_after_runs()
        if not self._held.recent:
            return
        number, sealed = self._take_run_number(), self._held.seal()
        self._spills.append(Task(number, (), write_recent(sealed, number, self._directory)))
        if self._merger is not None:
            self._merger.submit(self._spills[-1])
        while len(self._spills) > (0 if self._merger is None else MOST_SPILLS):
            self._finish(self._spills[0])
            self._take_over()
        self._look_after_runs()

    def _finish(self, task: Task) -> None:
        """Wait until a task is done.

        Raises:
            PendingError: It cannot be done.
        """
        if self._merger is None:
            task.finish()
        else:
            self._merger.wait(task)
        if task.error is not None:
            raise self._not_written(task.error) from task.error

    def _take_run_number(self) -> int:
        self._next_run += 1
        return self._next_run - 1

    def _look_after_runs(self) -> None:
        """Take over what was merged, and have merged what is due. Waits only if merging cannot keep pace."""
        self._take_over()
        while (due := self._due()) is not None:
            self._begin_merge(*due)
            if self._merger is None:
                self._finish(self._merges[-1])
                self._take_over()
        while self._merger is not None and len(self._held.runs) > MOST_RUNS and self._merges:
            self._finish(min(self._merges, key=lambda each: each.size))
            self._take_over()

    def _due(self) -> tuple[int, int] | None:
        merging = {run.number for each in self._merges for run in each.inputs}
        before_us = np.full(self._next_table, np.iinfo(np.int64).max, np.int64)
        for stored in self._tables.values():
            before_us[stored.number] = stored.forgotten_before_us
        return next_merge(
            [run.size for run in self._held.runs],
            [run.forgotten_bytes(before_us) for run in self._held.runs],
            [run.number in merging for run in self._held.runs],
        )

    def _begin_merge(self, begin: int, end: int) -> None:
        inputs = self._held.runs[begin:end]
        before_us = {stored.number: stored.forgotten_before_us for stored in self._tables.values()}
        number = self._take_run_number()
        self._merges.append(Task(number, inputs, merge(inputs, number, self._directory, before_us, oldest=begin == 0)))
        if self._merger is not None:
            self._merger.submit(self._merges[-1])

    def _take_over(self) -> None:
        """Put runs that were written in the place of the rows in memory, and such that were merged in that of others.

        Raises:
            PendingError: A run could not be written.
        """
        while self._spills and self._spills[0].is_done:
            self._finish(self._spills[0])
            self._held.unseal(self._spills.pop(0).result)
        for each in [each for each in self._merges if each.is_done]:
            self._merges.remove(each)
            self._finish(each)
            begin = self._held.runs.index(each.inputs[0])
            self._held.replace(begin, begin + len(each.inputs), each.result)
            for path in [run.path for run in each.inputs if run.path is not None]:
                if path in self._in_manifest or (self._prepared is not None and path in self._prepared.paths):
                    self._replaced.append(path)
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> PendingError:
        why = error.strerror if isinstance(error, OSError) else repr(error)
        return PendingError(
            f"pending rows cannot be written to {self._directory}: {why}. Make room or choose another directory; what "
            "is missing is read from the topics again."
        )

    def _paths(self) -> set[Path]:
        """The files of all that is held now, those that are being written among them."""
        if self._directory is None:
            return set()
        numbers = [run.number for run in self._held.runs] + [spill.number for spill in self._spills]
        return {self._directory / run_name(number) for number in numbers}

    def _open(self, directory: Path) -> None:
        """Take up what the last checkpoint left; nothing, if any of it is not as it was."""
        try:
            manifest = read_manifest(directory)
            self._held.runs = [load_run(directory, *entry) for entry in manifest.runs]
        except (DamagedError, OSError) as error:
            logger.warning("pending rows in %s will be read from the topics again: %s", directory, error)
            manifest = Manifest()
            self._held.runs = []
        self._tables = {entry[1]: Stored(*entry) for entry in manifest.tables}
        self._next_table, self._next_run = manifest.next_table, manifest.next_run
        self.position = dict(manifest.position)
        self._in_manifest = self._paths()
        with self._writing():
            if manifest.position or manifest.tables:
                remove_runs(directory, keep={path.name for path in self._in_manifest})
            else:
                remove_everything(directory)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A checkpoint that is not in force yet: what the store held, and the files of that."""

    position: dict[str, int]
    tables: list[tuple[int, str, str, int]]
    runs: list[Run]
    spills: list[Task]
    paths: set[Path]
    next_table: int
    next_run: int

    def manifest(self) -> Manifest:
        """The manifest, once all is written."""
        runs = [*self.runs, *(spill.result for spill in self.spills if spill.result is not None)]
        return Manifest(
            position=self.position,
            tables=self.tables,
            runs=[(run.number, run.size, run.footer_at, run.footer_crc) for run in runs],
            next_table=self.next_table,
            next_run=self.next_run,
        )
