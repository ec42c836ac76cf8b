"""How groups compare, as tables on a terminal: everything of one window, or one measure over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from services.cli.output import print_table, safe, stdout
from services.cli.performance_notes import marks_of
from services.cli.windows import interval_text, number_text, period_label
from services.performance.report import WindowReading
from services.performance.tables import Groups, groups
from services.performance.windows import FINAL
from streams.statistics.performance.fairness import (
    FOUR_FIFTHS,
    MEASURES,
    MINIMUM_ROWS,
    Comparison,
    Disparity,
    Measure,
    four_fifths,
)
from streams.statistics.performance.pairs import BINARY, PerformanceLayout

if TYPE_CHECKING:
    from services.cli.performance import Request

_WORDS = ("from", "version", "role", "rate", "measure", "group", "beside", "lowest", "highest", "verdict")
"""Columns that are no numbers."""

_DEMOGRAPHIC_PARITY = ("demographic_parity_ratio", "demographic_parity_difference", "selection_rate")


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
            interval = interval_text(rate.low, rate.high)
            rows.append([label, _group(group), f"{rate.rows:,}", number_text(rate.value), interval, *_beside(one)])
            label = ""
    _print(["rate", "group", "rows", "value", "95 %", "difference", "beside", "95 % together", "verdict"], rows)
    others = [one for one in found.comparisons if one.measure not in plain.values()]
    if others:
        _print(
            ["measure", "group", "value", "beside", "95 % together", "verdict"],
            [[_title_of(measures[one.measure]), _group(one.group), *_beside(one)] for one in others],
        )
    for worst in found.disparities:
        if worst.value is not None:
            measure = measures[worst.measure]
            kind = "smallest ratio" if measure.ratio else "largest difference"
            stdout.print(
                f"{measure.title}: {kind} {number_text(worst.value)} ({interval_text(worst.low, worst.high)}), "
                f"{safe(_group(worst.lowest))} to {safe(_group(worst.highest))}",
                highlight=False,
                soft_wrap=True,
            )
    _notes(few=any(not one.judged for one in found.comparisons) or not found.comparisons, rule=layout.task == BINARY)


def show_measures(
    readings: Sequence[WindowReading], names: Sequence[str], request: Request, segments: Sequence[str]
) -> None:
    """Print rates of groups, and how far these are apart, window by window.

    Args:
        readings: The windows.
        names: Of rates and measures.
        request: What was asked for; where it names a reference, each group stands beside that one, else the two groups
            that are furthest apart.
        segments: The segmentations whose parts are compared.
    """
    for segment in segments:
        _title(f"{readings[0].window.deployment_id}: {segment}")
        found = [(item, groups(item.window, segment, request.reference)) for item in readings]
        lead = _leads(readings, request)
        rates = [
            [*lead(item), name.replace("_", " "), _group(group), f"{one[name].rows:,}", number_text(one[name].value),
             interval_text(one[name].low, one[name].high)]
            for item, compared in found
            for name in names
            for group, one in compared.rates.items()
            if name in one
        ]  # fmt: skip
        if rates:
            _print(
                [*_lead_heads(readings), "rate", "group", "rows", "value", "95 %"], _once(rates, len(lead(readings[0])))
            )
        if request.reference is not None and request.reference.startswith(f"{segment}="):
            _show_comparisons(found, names, lead, _lead_heads(readings))
        else:
            _show_disparities(found, names, lead, _lead_heads(readings))
    binary = readings[0].window.layout.task == BINARY
    _notes(few=True, rule=binary and any(name in _DEMOGRAPHIC_PARITY for name in names))


_Found = Sequence[tuple[WindowReading, Groups]]
_Lead = Callable[[WindowReading], list[str]]


def _show_disparities(found: _Found, names: Sequence[str], lead: _Lead, heads: Sequence[str]) -> None:
    """The two groups that are furthest apart, line by line."""
    measures = _measures(found)
    rows = [
        [*lead(item), _title_of(measures[one.measure]), number_text(one.value), interval_text(one.low, one.high),
         _group(one.lowest), _group(one.highest), _verdict_of(one, measures[one.measure])]
        for item, compared in found
        for name in names
        for one in compared.disparities
        if one.measure == name
    ]  # fmt: skip
    if rows:
        _print([*heads, "measure", "value", "95 % together", "lowest", "highest", "verdict"], _once(rows, len(heads)))


def _show_comparisons(found: _Found, names: Sequence[str], lead: _Lead, heads: Sequence[str]) -> None:
    """Each group beside the one that was asked for."""
    measures = _measures(found)
    rows = [
        [*lead(item), _title_of(measures[one.measure]), _group(one.group), *_beside(one)]
        for item, compared in found
        for name in names
        for one in compared.comparisons
        if one.measure == name
    ]
    if rows:
        _print([*heads, "measure", "group", "value", "beside", "95 % together", "verdict"], _once(rows, len(heads)))


def _measures(found: _Found) -> dict[str, Measure]:
    return {measure.name: measure for item, _ in found for measure in MEASURES.get(item.window.layout.task, ())}


def _verdict_of(worst: Disparity, measure: Measure) -> str:
    if worst.value is None or worst.low is None or worst.high is None:
        return "too few rows"
    differs = worst.high < 1 if measure.ratio else worst.low > 0
    below = measure.name == "demographic_parity_ratio" and worst.value < FOUR_FIFTHS
    rule = ("below" if worst.high < FOUR_FIFTHS else "below, within the error,") if below else ""
    return ", ".join(text for text in ("differs" if differs else "", f"{rule} four fifths" if rule else "") if text)


def _leads(readings: Sequence[WindowReading], request: Request) -> _Lead:
    heads = _lead_heads(readings)

    def lead(item: WindowReading) -> list[str]:
        window = item.window
        open_ = "" if window.status == FINAL else " open"
        facts = {"version": window.model_version, "role": window.role}
        return [
            marks_of(item) + period_label(window.start_us, request.period) + open_,
            *(facts[name] for name in heads[1:]),
        ]

    return lead


def _lead_heads(readings: Sequence[WindowReading]) -> list[str]:
    several = {"version": {item.window.model_version for item in readings}, "role": {i.window.role for i in readings}}
    return ["from", *(name for name, seen in several.items() if len(seen) > 1)]


def _once(rows: Sequence[list[str]], leads: int) -> list[list[str]]:
    """Rows, each lead of a window said once."""
    found: list[list[str]] = []
    for before, row in zip([None, *rows[:-1]], rows, strict=True):
        same = before is not None and before[:leads] == row[:leads]
        found.append([*([""] * leads), *row[leads:]] if same else row)
    return found


def _notes(*, few: bool, rule: bool) -> None:
    lines = [
        "intervals of one measure hold together for all groups with 95 %, not over measures or windows; rows count as "
        "independent"
    ]
    if few:
        lines.append(f"groups with fewer than {MINIMUM_ROWS} rows behind a rate are shown and not judged")
    if rule:
        lines.append(
            f"four-fifths rule: a favourable decision at less than {FOUR_FIFTHS} of the rate of the group that gets it "
            "most often is a rule of thumb for adverse impact (29 CFR 1607.4 D), neither a test of significance nor a "
            "finding of law; 'selected' is predicted positive, of all predictions"
        )
    for each in lines:
        stdout.print(f"[dim]{safe(each)}[/]", highlight=False, soft_wrap=True)


def _title_of(measure: Measure) -> str:
    return f"{measure.title}, {'ratio' if measure.ratio else 'difference'}"


def _group(part: str) -> str:
    """A part without the name of its segmentation, which stands above the table."""
    return (part.partition("=")[2] or "(empty)") if part else ""


def _beside(one: Comparison | None) -> list[str]:
    """The cells of a comparison: value, beside which group, interval, verdict."""
    if one is None:
        return ["", "", "", ""]
    reference = _group(one.reference) if one.reference else "best of each"
    return [number_text(one.value), reference, interval_text(one.low, one.high), _verdict(one)]


def _verdict(one: Comparison) -> str:
    if not one.judged:
        return "too few rows"
    differs = "differs" if one.differs else ""
    rule = four_fifths(one) if one.measure == "demographic_parity_ratio" else ""
    return ", ".join(text for text in (differs, f"{rule} four fifths" if rule.startswith("below") else "") if text)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_table(heads, rows, numbers=[head for head in heads if head not in _WORDS])


def _title(title: str) -> None:
    stdout.print(f"\n[bold]{safe(title)}[/]", highlight=False, soft_wrap=True)
