"""What can go wrong with a file of predictions or outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.errors import ServicesError

_SHOWN = 40


class PublishError(ServicesError):
    """A file that cannot be read or published."""


class FileError(PublishError):
    """The file is not what its name says, or does not have the columns that the deployment names."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class BadValue:
    """A value that cannot be used: its line in the file (row for Parquet, both from 1), its column, and why."""

    line: int
    column: str
    message: str


class BadValueError(FileError):
    """Values that cannot be used, and no leave to skip their rows."""

    def __init__(self, path: str, unit: str, values: Sequence[BadValue]) -> None:
        first, *more = values
        where = f"{path}, {unit} {first.line}" + (f", column {first.column!r}" if first.column else "")
        also = f" ({len(more)} more in the same part of the file)" if more else ""
        super().__init__(
            f"{where}: {first.message}{also}. Nothing of this part was published; "
            "`--on-error skip` leaves such rows out and counts them"
        )
        self.values = tuple(values)


def shown(value: object) -> str:
    """A value as it is quoted in a message."""
    text = repr(value) if not isinstance(value, str) else repr(value[: _SHOWN + 1])
    return text if len(text) <= _SHOWN + 2 else text[:_SHOWN] + "…"
