"""Figures as a table and as ``build/bench/NAME.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

OUTPUT = Path("build/bench")

Figure = dict[str, Any]


def figure(
    metric: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None, note: str = ""
) -> Figure:
    """One figure; ``at_least`` or ``at_most`` is the bound it is to hold."""
    value, bound = float(value), at_most if at_least is None else at_least
    holds = None
    if bound is not None:
        holds = value >= bound if at_least is not None else value <= bound
    return {"metric": metric, "value": _rounded(value), "unit": unit, "bound": bound, "holds": holds, "note": note}


def _rounded(value: float) -> float:
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")


def write(name: str, figures: Sequence[Figure]) -> None:
    """Show the figures of a bench and write them to its file."""
    save(name, figures)
    show({name: figures})


def save(name: str, figures: Sequence[Figure]) -> None:
    """Write the figures of a bench to its file."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"{name}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=180)


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> None:
    """Print rows under headings; the columns after the first ``left`` ones are numbers, set to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="left" if column < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _console().print(table)


def within(row: Figure, text: str) -> str:
    """``text`` for a table, marked red where the figure does not hold its bound."""
    return f"[bold red]{text}[/]" if row["holds"] is False else text


def show(benches: Mapping[str, Sequence[Figure]]) -> None:
    """Print the figures of some benches as one table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("bench", "figure"):
        table.add_column(heading, no_wrap=heading == "bench")
    table.add_column("value", justify="right", no_wrap=True)
    for heading in ("unit", "bound", "holds", "note"):
        table.add_column(heading, overflow="fold")
    for name, figures in benches.items():
        for row in figures:
            holds = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: ""}[row["holds"]]
            bound = "" if row["bound"] is None else f"{row['bound']:,g}"
            table.add_row(name, row["metric"], f"{row['value']:,}", row["unit"], bound, holds, str(row["note"]))
    _console().print(table)


def broken(figures: Iterable[Figure]) -> list[Figure]:
    """The figures that do not hold their bound."""
    return [row for row in figures if row["holds"] is False]
