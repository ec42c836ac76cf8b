"""What the commands print: for people on a terminal, or JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import orjson
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDTH_OF_A_PIPE = 140  # a pipe has no width; tables folded to 80 columns are hard to read and to grep


def _console(*, of_errors: bool) -> Console:
    stream = sys.stderr if of_errors else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_PIPE
    return Console(stderr=of_errors, width=width)


stdout = _console(of_errors=False)
stderr = _console(of_errors=True)

JSON_OPTION = typer.Option("--json", help="Print JSON for machines.")


def safe(text: object) -> str:
    """Text from data, made harmless for a terminal: no control characters, no markup."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)))


def print_json(document: Any) -> None:
    """Print one JSON document on standard output; what a terminal would act on instead of showing is escaped."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps(document, option=options, default=str).decode()
    if not text.isascii():  # orjson escapes C0 controls, but neither C1 controls nor those that turn the direction
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = (), title: str | None = None
) -> None:
    """Print rows under headings; ``numbers`` names the columns that are set to the right.

    Cells may be anything; text from data is made harmless.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title and safe(title), title_justify="left")
    for column in columns:
        number = column in numbers
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else safe(cell) for cell in row))
    stdout.print(table)


def note(message: str) -> None:
    """Print a remark on standard error, where it does not mix with what was asked for."""
    for line in message.split("\n"):
        stderr.print(safe(line), soft_wrap=True, highlight=False)


def show_error(message: str) -> None:
    """Print what went wrong on standard error; the message may have several lines."""
    first, *more = message.split("\n")
    stderr.print(f"[bold red]error:[/] {safe(first)}", soft_wrap=True, highlight=False)
    for line in more:
        stderr.print(safe(line), soft_wrap=True, highlight=False)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print what went wrong on standard error and end the command."""
    show_error(message)
    raise typer.Exit(code)
