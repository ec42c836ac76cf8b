"""Files of rows, read in parts of bounded size: CSV, Parquet, JSON lines.

Whatever the format, a part has named columns and knows the line each row stands on.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from services.publish.errors import BadValue, FileError, shown

Column = Any
"""A ``pyarrow.Array``, or a list of Python values where the format has no types (JSON)."""

_BLOCK_BYTES = 2 << 20
_PART_ROWS = 20_000
_PART_BYTES = 32 << 20
"""Of a file whose rows are long (embeddings) a part has fewer."""
_NAMED_ROWS = 2_000
_DELIMITERS = ",;\t|"
_CSV, _PARQUET, _JSON_LINES = "csv", "parquet", "jsonl"
FORMATS = (_CSV, _PARQUET, _JSON_LINES)
_SUFFIXES = {
    ".csv": _CSV,
    ".tsv": _CSV,
    ".txt": _CSV,
    ".parquet": _PARQUET,
    ".pq": _PARQUET,
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": _JSON_LINES,
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a file, in order.

    Attributes:
        columns: Name to values, all of one length.
        lines: int64, the line (row for Parquet) of each, from 1.
        bad: Rows that could not be read at all; they are not in the columns.
    """

    columns: dict[str, Column]
    lines: NDArray[np.int64]
    bad: Sequence[BadValue] = ()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.lines)


class RowFile(Protocol):
    """A file of rows.

    Attributes:
        path: Where it is.
        unit: What a row's number counts: ``line`` or ``row``.
        names: Its columns.
    """

    path: Path
    unit: str
    names: Sequence[str]

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """The rows in order, with at least the wanted columns that the file has.

        Raises:
            FileError: The file is damaged.
        """


def open_file(path: Path, file_format: str | None = None) -> RowFile:
    """Open a file of rows.

    Args:
        path: The file; ``.gz``, ``.bz2``, ``.zst`` and ``.lz4`` are unpacked (not for Parquet, which does that itself).
        file_format: ``csv``, ``parquet`` or ``jsonl``; told from the name if not given.

    Raises:
        FileError: It is not there, empty, or not what its name says.
    """
    kind = file_format or _format_of(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if kind == _PARQUET:
            return ParquetFile(path)
        if start == b"PAR1":
            raise FileError(f"{path}: a Parquet file named otherwise: say --format parquet")
        return JsonLinesFile(path) if kind == _JSON_LINES else CsvFile(path)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise FileError(f"{path}: not a {kind} file: {_first_line(error)}") from error


def _format_of(path: Path) -> str:
    name = path.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    found = _SUFFIXES.get(Path(name).suffix)
    if found is None:
        known = ", ".join(_SUFFIXES)
        raise FileError(f"{path}: the name does not tell the format (known: {known}): say --format {'|'.join(FORMATS)}")
    return found


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


class CsvFile:
    """Comma-separated values with a header; semicolons, tabs and bars are told from the header.

    Every column is read as text, so that the place of what cannot be read is known. Quoted values may span lines.
    """

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._invalid: list[Any] = []
        with pa.input_stream(str(path), compression="detect") as stream:
            head = stream.read(_BLOCK_BYTES)
        if not head.strip():
            raise FileError(f"{path}: the file is empty; expected a header line and rows")
        self._delimiter, names, self._header_lines = _header(path, head)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise FileError(f"{path}, line 1: the column {twice[:80]!r} is there twice")
        self.names: Sequence[str] = names

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """See :class:`RowFile`. All columns are read: a line break inside one moves the lines of all rows after it."""
        numbers = _RecordNumbers(self._header_lines)
        try:
            with pa.input_stream(str(self.path), compression="detect") as stream:
                for batch in self._open(stream):
                    yield _csv_part(batch, numbers, self._invalid)
                if self._invalid:
                    yield Part({}, np.empty(0, np.int64), numbers.bad_rows(self._invalid))
        except pa.ArrowException as error:
            raise FileError(f"{self.path}{_bad_encoding(self.path)}: {_first_line(error)}") from error
        except OSError as error:
            raise FileError(f"{self.path}: {error}") from error

    def _open(self, stream: Any) -> Any:
        names = list(self.names)
        self._invalid = []

        def set_aside(row: Any) -> str:
            self._invalid.append(row)
            return "skip"

        return pa_csv.open_csv(
            stream,
            # One thread: only then does the parser say which row it could not read.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=set_aside,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )


class _RecordNumbers:
    """Turns the parser's record numbers into lines of the file."""

    def __init__(self, header_lines: int) -> None:
        self._next_record = 2
        self._extra_lines = header_lines - 1

    def take(self, batch: Any, invalid: list[Any]) -> tuple[NDArray[np.int64], list[BadValue]]:
        """The lines of a batch's rows, and the unreadable rows before its end, which leave ``invalid``."""
        rows = batch.num_rows
        aside = np.array([row.number for row in invalid], dtype=np.int64)
        candidates = np.arange(self._next_record, self._next_record + rows + len(aside))
        records = candidates[~np.isin(candidates, aside)][:rows]
        last = int(records[-1]) if rows else self._next_record - 1
        breaks = _line_breaks(batch)
        lines = records + self._extra_lines + np.concatenate([[0], np.cumsum(breaks)[:-1]]).astype(np.int64)
        bad = []
        while invalid and invalid[0].number <= last:
            row = invalid.pop(0)
            before = int(breaks[: int(np.searchsorted(records, row.number))].sum())
            bad.append(_unreadable(row, row.number + self._extra_lines + before))
            more = row.text.count("\n")
            lines[records > row.number] += more
            self._extra_lines += more
        self._extra_lines += int(breaks.sum())
        self._next_record = last + 1
        return lines, bad

    def bad_rows(self, invalid: Sequence[Any]) -> list[BadValue]:
        """The rows behind the last batch."""
        return [_unreadable(row, row.number + self._extra_lines) for row in invalid]


def _unreadable(row: Any, line: int) -> BadValue:
    came = "no value" if not row.text.strip() else f"{row.actual_columns}"
    return BadValue(line, "", f"expected {row.expected_columns} values, came {came}: {shown(row.text)}")


def _line_breaks(batch: Any) -> NDArray[np.int64]:
    """Line breaks inside the values of each row."""
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        data = column.buffers()[2]
        if data is not None and b"\n" in memoryview(data).tobytes():
            total += pc.count_substring(column, "\n").to_numpy(zero_copy_only=False)
    return total


def _csv_part(batch: Any, numbers: _RecordNumbers, invalid: list[Any]) -> Part:
    lines, bad = numbers.take(batch, invalid)
    keep = np.zeros(batch.num_rows, dtype=bool)  # an empty line comes as a row of empty values
    for column in batch.columns:
        if keep.all():
            break
        keep |= pc.binary_length(column).to_numpy(zero_copy_only=False) > 0
    if not keep.all():
        batch, lines = batch.filter(pa.array(keep)), lines[keep]
    return Part(dict(zip(batch.schema.names, batch.columns, strict=True)), lines, bad)


def _header(path: Path, head: bytes) -> tuple[str, list[str], int]:
    """Delimiter, column names and number of lines of the header."""
    try:
        text = head.decode("utf-8-sig", "strict" if len(head) < _BLOCK_BYTES else "ignore")
    except UnicodeDecodeError as error:
        first_line = head.split(b"\n", 1)[0]
        if error.start < len(first_line):
            came = f"0x{head[error.start]:02x}"
            raise FileError(f"{path}, line 1: not text: expected UTF-8 with a header line, came {came}") from error
        text = first_line.decode("utf-8-sig") + "\n"  # the rows are complained of when they are read
    if "\x00" in text[:4096]:
        raise FileError(f"{path}, line 1: not text: expected CSV with a header line")
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    delimiter = delimiter if first.count(delimiter) else ","
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        names = next(reader)
    except (csv.Error, StopIteration) as error:
        raise FileError(f"{path}, line 1: expected a header with column names: {error}") from error
    if not any(name.strip() for name in names):
        raise FileError(f"{path}, line 1: expected a header with column names, came an empty line")
    return delimiter, names, reader.line_num


def _bad_encoding(path: Path) -> str:
    """Where a text file stops being UTF-8, as part of a message."""
    with pa.input_stream(str(path), compression="detect") as stream:
        for number, line in enumerate(_lines(stream), start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f", line {number}: expected UTF-8 text, came the byte 0x{line[error.start]:02x}"
    return ""


class ParquetFile:
    """Apache Parquet; rows are counted from 1."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = pa_parquet.ParquetFile(path)
        self.names: Sequence[str] = list(self._file.schema_arrow.names)

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """See :class:`RowFile`. Only the wanted columns are read."""
        columns = [name for name in self.names if name in set(wanted)]
        row = 1
        try:
            for batch in self._file.iter_batches(self._part_rows(), columns=columns):
                lines = np.arange(row, row + batch.num_rows, dtype=np.int64)
                row += batch.num_rows
                yield Part(dict(zip(batch.schema.names, batch.columns, strict=True)), lines)
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"{self.path}, behind row {row - 1}: {_first_line(error)}") from error

    def _part_rows(self) -> int:
        metadata = self._file.metadata
        bytes_unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        return max(1, min(_PART_ROWS, int(_PART_BYTES * metadata.num_rows // max(1, bytes_unpacked))))


class JsonLinesFile:
    """One JSON object per line; objects inside are columns named with a dot (``features.age``)."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = self._first_names()
        if not self.names:
            raise FileError(f"{path}: expected one JSON object per line; the beginning of the file has none")

    def _first_names(self) -> Sequence[str]:
        """The names in the first rows; rows behind them may leave some out, and have others."""
        names: dict[str, None] = {}
        with pa.input_stream(str(self.path), compression="detect") as stream:
            for number, line in enumerate(_lines(stream)):
                if number >= _NAMED_ROWS:
                    break
                with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
                    names |= dict.fromkeys(_flat(orjson.loads(line)))
        return list(names)

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """See :class:`RowFile`. A column that no row of a part has is absent from it."""
        try:
            with pa.input_stream(str(self.path), compression="detect") as stream:
                yield from self._parts(stream, wanted)
        except OSError as error:
            raise FileError(f"{self.path}: {error}") from error

    def _parts(self, stream: Any, wanted: Sequence[str]) -> Iterator[Part]:
        rows: list[dict[str, Any]] = []
        lines: list[int] = []
        bad: list[BadValue] = []
        size = 0
        for number, text in enumerate(_lines(stream), start=1):
            if text.isspace():
                continue
            size += len(text)
            try:
                document = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                bad.append(BadValue(number, "", f"expected one JSON object per line: {error.msg}"))
                continue
            if not isinstance(document, dict):
                bad.append(BadValue(number, "", f"expected a JSON object, came {shown(document)}"))
                continue
            rows.append(_flat(document))
            lines.append(number)
            if len(rows) + len(bad) >= _PART_ROWS or size >= _PART_BYTES:
                yield _json_part(rows, lines, bad, wanted)
                rows, lines, bad, size = [], [], [], 0
        if rows or bad:
            yield _json_part(rows, lines, bad, wanted)


def _lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line or b" "
        if len(rest) > 8 * _BLOCK_BYTES:
            raise FileError(f"a line is longer than {8 * _BLOCK_BYTES} bytes: expected one JSON object per line")
    if rest:
        yield rest


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    if not any(isinstance(value, dict) for value in document.values()):
        return document
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def _json_part(rows: list[dict[str, Any]], lines: list[int], bad: list[BadValue], wanted: Sequence[str]) -> Part:
    present = set().union(*rows) if rows else set()
    columns = {name: [row.get(name) for row in rows] for name in wanted if name in present}
    return Part(columns, np.array(lines, dtype=np.int64), bad)
