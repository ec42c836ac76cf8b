"""What the commands print: for people on a terminal, or JSON for machines."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.markup import escape

stdout = Console()
stderr = Console(stderr=True)

JSON_OPTION = typer.Option("--json", help="Print JSON for machines.")


def safe(text: object) -> str:
    """Text from data, made harmless for a terminal: no control characters, no markup."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)))


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
    sys.stdout.flush()


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print what went wrong on standard error and end the command."""
    stderr.print(f"[bold red]error:[/] {safe(message)}", soft_wrap=True)
    raise typer.Exit(code)
