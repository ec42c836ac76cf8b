"""Reliability, the confusion matrix and groups as tables on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.cli.output import print_table, safe, stdout
from services.cli.plots import square
from services.cli.windows import number_text
from services.performance.tables import Confusion, Groups, Reliability
from streams.statistics.performance.fairness import (
    FOUR_FIFTHS,
    MEASURES,
    MINIMUM_ROWS,
    Comparison,
    Rate,
    four_fifths,
)
from streams.statistics.performance.pairs import BINARY, PerformanceLayout

_MOST_CLASSES = 10
_MOST_CONFUSIONS = 15
_DASH = "–"
_ANY_OTHER = "(any other)"

_HEADS = {
    "selection_rate": "selected",
    "true_positive_rate": "TPR",
    "false_positive_rate": "FPR",
    "false_negative_rate": "FNR",
    "positive_predictive_value": "PPV",
    "base_rate": "base rate",
    "mean_actual": "mean actual",
}


def show_calibration(title: str, found: Reliability, layout: PerformanceLayout, *, mixed_edges: bool) -> None:
    """Print a reliability table, its plot, and the decomposition of the Brier score."""
    _title(title)
    if not found.rows:
        stdout.print("no scores with an outcome yet", highlight=False)
        return
    what = f"share {_class(layout.classes[1])}" if layout.task == BINARY else "share right"
    print_table(
        ["rows", "mean score", what, "95 %", "reference", ""],
        [
            (
                f"{row.rows:,.0f}",
                number_text(row.predicted),
                number_text(row.observed),
                f"{number_text(row.low)}{_DASH}{number_text(row.high)}",
                number_text(row.reference),
                ("too high" if row.predicted > row.high else "too low") if row.outside else "",
            )
            for row in found.rows
        ],
        numbers=("rows", "mean score", what, "95 %", "reference"),
    )
    for line in square([(row.predicted, row.observed) for row in found.rows]):
        stdout.print(safe(line), highlight=False, soft_wrap=True)
    stdout.print(f"[dim]{safe(what)} by mean score; on the dots scores are calibrated[/]", highlight=False)
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
        heads = [f"actual {name}" for name in names]
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


def show_groups(title: str, found: Groups, layout: PerformanceLayout) -> None:
    """Print rates by group, differences beside a group, and the extremes."""
    _title(title)
    names = next(iter(found.rates.values()), {})
    if not names:
        stdout.print("nothing is computed of groups here", highlight=False)
        return
    heads = [_HEADS.get(name, name.replace("_", " ")) for name in names]
    print_table(
        ["group", "rows", *heads],
        [(group, f"{_rows(rates):,}", *(_rate(rates[name]) for name in names)) for group, rates in found.rates.items()],
        numbers=("rows", *heads),
    )
    titles = {measure.name: measure.title for measure in MEASURES[layout.task]}
    ratios = {measure.name for measure in MEASURES[layout.task] if measure.ratio}
    print_table(
        ["measure", "group", "beside", "value", "95 % together", "verdict"],
        [
            (
                f"{titles[one.measure]}, {'ratio' if one.measure in ratios else 'difference'}",
                one.group,
                one.reference or "best of each",
                number_text(one.value),
                _ends(one.low, one.high),
                _verdict(one, ratio=one.measure in ratios),
            )
            for one in found.comparisons
        ],
        numbers=("value", "95 % together"),
    )
    for worst in found.disparities:
        if worst.value is not None:
            kind = "smallest ratio" if worst.measure in ratios else "largest difference"
            stdout.print(
                f"{titles[worst.measure]}: {kind} {number_text(worst.value)} ({_ends(worst.low, worst.high)}), "
                f"{safe(worst.lowest)} to {safe(worst.highest)}",
                highlight=False,
                soft_wrap=True,
            )
    for note in _notes(found, binary=layout.task == BINARY):
        stdout.print(f"[dim]{safe(note)}[/]", highlight=False, soft_wrap=True)


def _notes(found: Groups, *, binary: bool) -> list[str]:
    notes = [
        "intervals of one measure hold together for all groups with 95 %, not over measures; rows count as independent"
    ]
    if any(not one.judged for one in found.comparisons) or not found.comparisons:
        notes.append(f"groups with fewer than {MINIMUM_ROWS} rows behind a rate are shown and not judged")
    if binary:
        notes.append(
            f"four-fifths rule: a favourable decision at less than {FOUR_FIFTHS} of the rate of the group that gets it "
            "most often is a rule of thumb for adverse impact (29 CFR 1607.4 D), neither a test of significance nor a "
            "finding of law; 'selected' is predicted positive, of all predictions"
        )
    return notes


def _verdict(one: Comparison, *, ratio: bool) -> str:
    if not one.judged:
        return "too few rows"
    differs = "differs" if one.differs else ""
    rule = four_fifths(one) if ratio else ""
    return ", ".join(text for text in (differs, f"{rule} four fifths" if rule.startswith("below") else "") if text)


def _rows(rates: Mapping[str, Rate]) -> int:
    return max((rate.rows for rate in rates.values()), default=0)


def _rate(rate: Rate) -> str:
    return (
        number_text(rate.value) if rate.value is None else f"{number_text(rate.value)} ({_ends(rate.low, rate.high)})"
    )


def _ends(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return _DASH
    return f"{number_text(low)}{_DASH}{'∞' if math.isinf(high) else number_text(high)}"


def _class(name: str) -> str:
    return name or _ANY_OTHER


def _title(title: str) -> None:
    stdout.print(f"\n[bold]{safe(title)}[/]", highlight=False, soft_wrap=True)
