"""How runs are written, which of them are merged when, and the thread that does it step by step, small things first."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from streams.outcomes.runs import Run, RunWriter
from streams.outcomes.sections import SLICE_ROWS, Keys, Rows, Section, field, newest_order
from streams.outcomes.tables import Recent

MOST_RUNS = 12
"""Runs that a lookup may have to ask."""

GROWTH = 2

SMALL_BYTES = 4 << 20
"""Runs up to this size count as one of it: a merge of them takes milliseconds, and a lookup asks one run less."""


def next_merge(sizes: Sequence[int], forgotten: Sequence[float], busy: Sequence[bool]) -> tuple[int, int] | None:
    """The neighbours to merge next: first and end of their places; None if all is well as it is.

    A run is merged with all newer ones once they are ``GROWTH`` times as large as it. With 160 runs' worth of rows each
    row is written 2.5 times besides its first, and there are 4.5 runs on average and 8 at most; with ``GROWTH`` 1 those
    are 3.8, 3.5 and 7, with 3 2.4, 5.1 and 10. The oldest ones are written again
    without the rows that are not asked for any more once those are half of them.

    Args:
        sizes: Bytes of each run, older ones first.
        forgotten: About how many of them belong to rows that are not asked for any more.
        busy: Whether it is being merged.
    """
    for end in range(len(sizes), 0, -1):
        if sum(forgotten[:end]) * 2 >= sum(sizes[:end]) and not any(busy[:end]):
            return 0, end
    begin = max((at + 1 for at, is_busy in enumerate(busy) if is_busy), default=0)
    newer = [max(size, SMALL_BYTES) for size in sizes]
    for at in range(begin, len(sizes) - 1):
        if sum(newer[at + 1 :]) >= GROWTH * newer[at]:
            return at, len(sizes)
    if len(sizes) > MOST_RUNS and len(sizes) - begin > 1:
        return max(begin, len(sizes) - MOST_RUNS // 2), len(sizes)
    return None


def merge(
    inputs: Sequence[Run], number: int, directory: Path | None, tables: Mapping[int, int], *, oldest: bool
) -> Iterator[Run | None]:
    """Merge runs, a slice at a time: yields None after each slice, and last the new run, or None if it has no rows.

    A row whose time is over is left out only if no older run may hold another row of its id, which it hides: that one
    would be found again.

    Args:
        inputs: Neighbours, older ones first.
        number: Of the new run.
        directory: Where its file goes.
        tables: The tables there are, and the time before which their rows are not asked for any more.
        oldest: No run is older than these.
    """
    sections: dict[int, list[Section]] = {}
    for run in inputs:
        for table, section in run.sections.items():
            if table in tables:
                sections.setdefault(table, []).append(section)
    sizes = [(sum(map(len, each)), each[0].rows.itemsize) for each in sections.values()]
    writer = RunWriter(number, directory, sizes)
    try:
        for (table, each), (most_rows, row_bytes) in zip(sections.items(), sizes, strict=True):
            writer.begin(table, most_rows, row_bytes)
            before_us = tables[table] if oldest else np.iinfo(np.int64).min
            if before_us <= max(section.last_us for section in each):
                for keys, rows in _merged(each, before_us):
                    writer.append(keys, rows)
                    del keys, rows  # a merge that waits for its turn holds no memory
                    yield None
            writer.end()
        yield writer.finish()
    except BaseException:
        writer.give_up()
        raise


def _merged(sections: Sequence[Section], before_us: int) -> Iterator[tuple[Keys, Rows]]:
    """The rows of a table's sections, older ones first, slice by slice."""
    drops = before_us > min(section.first_us for section in sections)
    for ranges in _slices(sections):
        keys = np.concatenate([s.keys[begin:end] for s, (begin, end) in zip(sections, ranges, strict=True)])
        rows = np.concatenate([s.rows[begin:end] for s, (begin, end) in zip(sections, ranges, strict=True)])
        if len(sections) > 1:
            order = newest_order(keys, rows, sorted_parts=True)
            keys, rows = keys.take(order), rows.take(order)
        if drops:
            keep = np.flatnonzero(field(rows, "time_us") >= before_us)
            keys, rows = keys.take(keep), rows.take(keep)
        for section, (begin, end) in zip(sections, ranges, strict=True):
            section.release(begin, end)
        yield keys, rows
        del keys, rows


def _slices(sections: Sequence[Section]) -> Iterator[list[tuple[int, int]]]:
    """Ranges of the sections that belong together, about ``SLICE_ROWS`` rows in all; rows of one key in one slice."""
    largest = max(sections, key=len)
    parts = -(-sum(map(len, sections)) // SLICE_ROWS)
    bounds = largest.keys[np.arange(1, parts) * len(largest) // parts]
    cuts = [[0, *np.searchsorted(s.keys[:-1], bounds).tolist(), len(s)] for s in sections]
    for part in range(parts):
        yield [(cut[part], cut[part + 1]) for cut in cuts]


def write_recent(recent: Mapping[int, Recent], number: int, directory: Path | None) -> Iterator[Run | None]:
    """Write rows in memory as a run: yields None after each table, and last the run.

    Args:
        recent: By number of the table; does not change meanwhile.
        number: Of the run.
        directory: Where its file goes.
    """
    writer = RunWriter(number, directory, [(len(each), each.rows.itemsize) for each in recent.values()])
    try:
        for table, each in recent.items():
            rows = each.rows
            keys = field(rows, "key")
            order = newest_order(keys, rows, sorted_parts=False)
            writer.begin(table, len(order), rows.itemsize)
            writer.append(keys[order], rows.take(order))
            writer.end()
            yield None
        yield writer.finish()
    except BaseException:
        writer.give_up()
        raise


class Task:
    """A run on its way.

    Args:
        number: Of the run.
        inputs: The runs it takes the place of; none for rows in memory.
        steps: See :func:`merge` and :func:`write_recent`.
    """

    def __init__(self, number: int, inputs: Sequence[Run], steps: Iterator[Run | None]) -> None:
        self.number = number
        self.inputs = list(inputs)
        self.size = sum(run.size for run in inputs)
        self.result: Run | None = None
        self.error: Exception | None = None
        self.is_done = False
        self._steps = steps

    def step(self) -> None:
        """Do some of it."""
        try:
            self.result = next(self._steps)
        except StopIteration:
            self.is_done = True
        except Exception as error:  # whatever it is, the caller's thread has to hear of it
            self.error = error
            self.is_done = True

    def finish(self) -> None:
        """Do all of it."""
        while not self.is_done:
            self.step()

    def give_up(self) -> None:
        """Stop and leave nothing behind."""
        self._steps.close()  # type: ignore[attr-defined] # a generator
        if self.result is not None and self.result.path is not None:
            self.result.path.unlink(missing_ok=True)


class Merger:
    """A thread that does a step of the smallest task at a time: a large one never keeps a small one waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Task] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> None:
        """Have a task done."""
        with self._changed:
            self._waiting.append(task)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pending-merges", daemon=True)
            self._thread.start()

    def wait(self, task: Task) -> None:
        """Wait until a task is done."""
        if not task.is_done:
            with self._changed:
                self._changed.wait_for(lambda: task.is_done)

    def stop(self) -> None:
        """Give up what is not done."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for task in self._waiting:
            task.give_up()
        self._waiting, self._stopping = [], False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting)
                if self._stopping:
                    return
                task = min(self._waiting, key=lambda each: each.size)
            task.step()
            if task.is_done:
                with self._changed:
                    self._waiting.remove(task)
                    self._changed.notify_all()
