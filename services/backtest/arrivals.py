"""Rows of files in the order in which they arrived, however many there are and however the files are sorted.

Files are sorted in many ways: a table of flights by departure has its outcomes by departure too, not by landing. Rows
are sorted in runs of bounded size, which are written to a temporary file and merged as they are read (Knuth, "The Art
of Computer Programming", volume 3, section 5.4). Where a run begins no earlier than the one before ends the two are
one: a file that is sorted already is one run, and is read back block by block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.codec import Record, decode, encode
from driftline.events import CategoricalColumn, HumilityColumns, OutcomeColumns, PredictionColumns
from services.publish.publishing import event_times
from services.publish.reading import take

RUN_BYTES = 64 << 20
"""Rows in memory before they are sorted and written …"""

RUN_ROWS = 131_072
"""… or so many of them."""

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 8_192
"""Rows of a run that are read back at once; of each run there is one such block in memory."""

Columns = TypeVar("Columns", bound=PredictionColumns | OutcomeColumns)


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    """Where rows lie in the file."""

    offset: int
    length: int


class Arrivals(Generic[Columns]):
    """Rows of one kind; added in any order, read in order of their time.

    Predictions are of one version and, where they were decided by humility rules, of one policy.

    Args:
        file: Where they wait; several may share one.
        name: The record that a block is written as.
        read: Reads such a record.
    """

    def __init__(self, file: BinaryIO, name: str, read: Callable[[Record], Columns]) -> None:
        self.rows = 0
        self.first_us: int | None = None
        self._file, self._name, self._read = file, name, read
        self._waiting: list[Columns] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._runs: list[list[_Block]] = []
        self._last_us = 0

    def add(self, batch: Columns) -> None:
        """Add rows."""
        if not batch.rows:
            return
        earliest_us = int(event_times(batch).min())
        self.first_us = earliest_us if self.first_us is None else min(self.first_us, earliest_us)
        self.rows += batch.rows
        self._waiting.append(batch)
        self._waiting_rows += batch.rows
        self._waiting_bytes += size_bytes(batch)
        if self._waiting_rows >= RUN_ROWS or self._waiting_bytes >= RUN_BYTES:
            self._write_run()

    def _write_run(self) -> None:
        if not self._waiting:
            return
        rows_of_block = max(64, min(BLOCK_ROWS, BLOCK_BYTES * self._waiting_rows // max(1, self._waiting_bytes)))
        run = in_order(joined(self._waiting))
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        times = event_times(run)
        if not self._runs or int(times[0]) < self._last_us:
            self._runs.append([])
        self._last_us = int(times[-1])
        self._file.seek(0, 2)
        for start in range(0, run.rows, rows_of_block):
            rows = np.arange(start, min(start + rows_of_block, run.rows))
            written = encode(self._name, take(run, rows).to_record())
            self._runs[-1].append(_Block(self._file.tell(), len(written)))
            self._file.write(written)

    def blocks(self) -> Iterator[Columns]:
        """All rows in order of their time, some thousand at once. Nothing may be added any more."""
        self._write_run()
        heads = [head for run in self._runs if (head := self._head(iter(run))) is not None]
        while heads:
            # up to where one run's block ends every row is in memory
            bound = min(int(head.times_us[-1]) for head in heads)
            pieces: list[Columns] = []
            left: list[_Head[Columns]] = []
            for head in heads:
                end = int(np.searchsorted(head.times_us, bound, "right"))
                if head.at < end:
                    pieces.append(take(head.rows, np.arange(head.at, end)))
                    head.at = end
                if end < head.rows.rows:
                    left.append(head)
                elif (follower := self._head(head.run)) is not None:
                    left.append(follower)
            heads = left
            yield in_order(joined(pieces))

    def _head(self, run: Iterator[_Block]) -> _Head[Columns] | None:
        block = next(run, None)
        if block is None:
            return None
        self._file.seek(block.offset)
        rows = self._read(decode(self._file.read(block.length))[1])
        return _Head(rows, event_times(rows), run)


@dataclasses.dataclass(slots=True)
class _Head(Generic[Columns]):
    """The block of a run that is in memory, and how far it has been read."""

    rows: Columns
    times_us: NDArray[np.int64]
    run: Iterator[_Block]
    at: int = 0


class Cursor(Generic[Columns]):
    """Goes through rows in order of their time."""

    def __init__(self, blocks: Iterator[Columns]) -> None:
        self._blocks = blocks
        self._block: Columns | None = next(blocks, None)
        self._at = 0

    @property
    def next_us(self) -> int | None:
        """Time of the next row; None at the end."""
        return None if self._block is None else int(event_times(self._block)[self._at])

    def ahead_us(self, rows: int) -> int | None:
        """Time of the row so many rows on, the next one being one row on, or of the last; None at the end."""
        self._have(rows)
        if self._block is None:
            return None
        return int(event_times(self._block)[min(self._at + rows, self._block.rows) - 1])

    def before(self, time_us: int, most_rows: int) -> Iterator[Columns]:
        """The next rows before a time, so many at once at most."""
        while self._block is not None:
            self._have(most_rows)
            stop = int(np.searchsorted(event_times(self._block), time_us, "left"))
            if stop <= self._at:
                return
            end = min(self._at + most_rows, stop)
            piece = take(self._block, np.arange(self._at, end))
            self._at = end
            if end == self._block.rows:
                self._block, self._at = next(self._blocks, None), 0
            yield piece

    def _have(self, rows: int) -> None:
        """See to it that so many rows are at hand, if there are."""
        while self._block is not None and self._block.rows - self._at < rows:
            follower = next(self._blocks, None)
            if follower is None:
                return
            left = take(self._block, np.arange(self._at, self._block.rows))
            self._block, self._at = joined([left, follower]), 0


def in_order(batch: Columns) -> Columns:
    """The rows in order of their time; those of one time in the order in which they were."""
    times = event_times(batch)
    if (times[1:] >= times[:-1]).all():
        return batch
    return take(batch, np.argsort(times, kind="stable"))


def joined(batches: Sequence[Columns]) -> Columns:
    """Batches of one file, which have the same columns, as one."""
    if len(batches) == 1:
        return batches[0]
    whole: Columns = _joined_fields(batches)
    return whole


def _joined_fields(parts: Sequence[Any]) -> Any:
    first = parts[0]
    found: dict[str, Any] = {}
    for field in dataclasses.fields(first):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Mapping):
            found[field.name] = {name: _joined([value[name] for value in values]) for name in values[0]}
        elif not isinstance(values[0], (str, int)) and values[0] is not None:
            found[field.name] = _joined(values)
    return dataclasses.replace(first, **found)


def _joined(values: Sequence[object]) -> object:
    if isinstance(values[0], HumilityColumns):
        return _joined_fields(values)
    if isinstance(values[0], CategoricalColumn):
        return _joined_categories([value for value in values if isinstance(value, CategoricalColumn)])
    if isinstance(values[0], np.ndarray):
        return np.concatenate([value for value in values if isinstance(value, np.ndarray)])
    return [item for value in values if isinstance(value, Sequence) for item in value]


def _joined_categories(columns: Sequence[CategoricalColumn]) -> CategoricalColumn:
    index: dict[str, int] = {}
    codes = []
    for column in columns:
        lookup = [index.setdefault(category, len(index)) for category in column.categories]
        codes.append(np.array([*lookup, -1], np.int32)[column.codes])
    return CategoricalColumn(list(index), np.concatenate(codes))


def size_bytes(batch: PredictionColumns | OutcomeColumns) -> int:
    """About how much memory a batch takes."""
    sample = batch.prediction_ids[:64]
    total = batch.rows * (80 + sum(map(len, sample)) // max(1, len(sample)))
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        for part in value.values() if isinstance(value, Mapping) else [value]:
            column: NDArray[np.generic] | None = part.codes if isinstance(part, CategoricalColumn) else part
            total += column.nbytes if isinstance(column, np.ndarray) else 0
    return total
