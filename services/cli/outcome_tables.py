"""Reliability, the confusion matrix and groups as tables on a terminal."""

from __future__ import annotations

from services.cli.output import print_table, safe, stdout
from services.cli.plots import square
from services.cli.windows import interval_text, number_text
from services.performance.tables import Confusion, Groups, Reliability
from streams.statistics.performance.fairness import (
    FOUR_FIFTHS,
    MEASURES,
    MINIMUM_ROWS,
    Comparison,
    Measure,
    four_fifths,
)
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


def show_groups(title: str, found: Groups, layout: PerformanceLayout) -> None:
    """Print rates by group, differences beside a group, and the extremes."""
    _title(title)
    measures = {measure.name: measure for measure in MEASURES.get(layout.task, ())}
    if not any(found.rates.values()):
        stdout.print("nothing is computed of groups here", highlight=False)
        return
    beside = {(one.measure, one.group): one for one in found.comparisons}
    plain = {m.rates[0]: m.name for m in measures.values() if len(m.rates) == 1 and not m.ratio}
    rows = []
    for name in next(iter(found.rates.values())):
        label = name.replace("_", " ")
        for group, rates in found.rates.items():
            one = beside.get((plain.get(name, ""), group))
            rate = rates[name]
            rows.append(
                [
                    label,
                    group,
                    f"{rate.rows:,}",
                    number_text(rate.value),
                    interval_text(rate.low, rate.high),
                    *_beside(one),
                ]
            )
            label = ""
    numbers = ("rows", "value", "95 %", "difference", "95 % together")
    print_table(
        ["rate", "group", "rows", "value", "95 %", "difference", "from", "95 % together", "verdict"],
        rows,
        numbers=numbers,
    )
    others = [one for one in found.comparisons if one.measure not in plain.values()]
    if others:
        print_table(
            ["measure", "group", "value", "from", "95 % together", "verdict"],
            [[_title_of(measures[one.measure]), one.group, *_beside(one)] for one in others],
            numbers=("value", "95 % together"),
        )
    for worst in found.disparities:
        if worst.value is not None:
            measure = measures[worst.measure]
            kind = "smallest ratio" if measure.ratio else "largest difference"
            stdout.print(
                f"{measure.title}: {kind} {number_text(worst.value)} ({interval_text(worst.low, worst.high)}), "
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


def _title_of(measure: Measure) -> str:
    return f"{measure.title}, {'ratio' if measure.ratio else 'difference'}"


def _beside(one: Comparison | None) -> list[str]:
    """The cells of a comparison: value, from which group, interval, verdict."""
    if one is None:
        return ["", "", "", ""]
    reference = one.reference or "best of each"
    return [number_text(one.value), reference, interval_text(one.low, one.high), _verdict(one)]


def _verdict(one: Comparison) -> str:
    if not one.judged:
        return "too few rows"
    differs = "differs" if one.differs else ""
    rule = four_fifths(one) if one.measure == "demographic_parity_ratio" else ""
    return ", ".join(text for text in (differs, f"{rule} four fifths" if rule.startswith("below") else "") if text)


def _class(name: str) -> str:
    return name or _ANY_OTHER


def _title(title: str) -> None:
    stdout.print(f"\n[bold]{safe(title)}[/]", highlight=False, soft_wrap=True)
