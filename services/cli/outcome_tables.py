"""Reliability and the confusion matrix as tables on a terminal."""

from __future__ import annotations

from services.cli.output import print_table, safe, stdout
from services.cli.plots import square
from services.cli.windows import interval_text, number_text
from services.performance.tables import Confusion, Reliability
from streams.statistics.performance.pairs import BINARY, PerformanceLayout

_MOST_CLASSES = 10
_MOST_CONFUSIONS = 15
_ANY_OTHER = "(any other)"


def show_calibration(title: str, found: Reliability, layout: PerformanceLayout, *, mixed_edges: bool) -> None:
    """Print a reliability table, its plot, and the decomposition of the Brier score."""
    _title(title)
    if not found.rows:
        stdout.print("no scores with an outcome yet", highlight=False)
        return
    what = safe(f"share {_class(layout.classes[1])}" if layout.task == BINARY else "share right")
    print_table(
        ["rows", "mean score", what, "95 %", "reference", ""],
        [
            (
                f"{row.rows:,.0f}",
                number_text(row.predicted),
                number_text(row.observed),
                interval_text(row.low, row.high),
                number_text(row.reference),
                ("too high" if row.predicted > row.high else "too low") if row.outside else "",
            )
            for row in found.rows
        ],
        numbers=("rows", "mean score", what, "95 %", "reference"),
    )
    for line in square([(row.predicted, row.observed) for row in found.rows]):
        stdout.print(safe(line), highlight=False, soft_wrap=True)
    stdout.print(f"[dim]{what} by mean score; on the dots scores are calibrated[/]", highlight=False)
    if found.brier is not None:
        brier = found.brier
        stdout.print(
            f"Brier {number_text(brier.brier)} = reliability {number_text(brier.reliability)} - resolution "
            f"{number_text(brier.resolution)} + uncertainty {number_text(brier.uncertainty)} + within bins "
            f"{number_text(brier.within_bins)}",
            highlight=False,
            soft_wrap=True,
        )
    if mixed_edges:
        stdout.print("[dim]in the bins that several baselines have in common[/]", highlight=False)


def show_confusion(title: str, found: Confusion) -> None:
    """Print a confusion matrix; of many classes those that are confused most."""
    _title(title)
    total = sum(map(sum, found.counts))
    if not total:
        stdout.print("no predicted classes with an outcome yet", highlight=False)
        return
    names = [_class(name) for name in found.classes]
    columns = [sum(line[actual] for line in found.weights) for actual in range(len(names))]

    def cell(predicted: int, actual: int) -> str:
        share = found.weights[predicted][actual] / columns[actual] if columns[actual] else 0.0
        return f"{found.counts[predicted][actual]:,} ({share:.1%})"

    if len(names) <= _MOST_CLASSES:
        heads = [safe(f"actual {name}") for name in names]  # headings are markup, cells are not
        print_table(
            ["predicted", *heads],
            [(name, *(cell(p, a) for a in range(len(names)))) for p, name in enumerate(names)],
            numbers=heads,
        )
    else:
        cells = [(p, a) for p in range(len(names)) for a in range(len(names)) if p != a and found.counts[p][a]]
        cells.sort(key=lambda at: (-found.counts[at[0]][at[1]], at))
        print_table(
            ["predicted", "actual", "rows"],
            [(names[p], names[a], cell(p, a)) for p, a in cells[:_MOST_CONFUSIONS]],
            numbers=("rows",),
        )
        if len(cells) > _MOST_CONFUSIONS:
            stdout.print(f"[dim]and {len(cells) - _MOST_CONFUSIONS:,} more: --json[/]", highlight=False)
    weighted = ", weighted by labelling probability" if found.weighted else ""
    stdout.print(f"[dim]rows, and in brackets their share of the actual class{weighted}[/]", highlight=False)


def _class(name: str) -> str:
    return name or _ANY_OTHER


def _title(title: str) -> None:
    stdout.print(f"\n[bold]{safe(title)}[/]", highlight=False, soft_wrap=True)
