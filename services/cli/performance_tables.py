"""Accuracy windows as tables and plots on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from services.cli.fairness_tables import show_groups
from services.cli.outcome_tables import show_calibration, show_confusion
from services.cli.output import print_table, safe, stdout
from services.cli.performance_json import reference_of
from services.cli.performance_notes import estimate_marks, final_text, has_estimates, marks_of
from services.cli.plots import LEGEND, Point, interval_line, scale_of, timeline
from services.cli.windows import interval_text, number_text, period_label
from services.performance.names import CALIBRATION, CONFUSION, FAIRNESS, more_is_better
from services.performance.report import ABOVE, Reading, WindowReading
from services.performance.tables import confusion, groups, reliability
from services.performance.windows import FINAL
from streams.baseline import Baseline
from streams.statistics.performance.metrics import Metric

if TYPE_CHECKING:
    from services.cli.performance import Request

_DASH = "–"
_WIDEST_PLOT, _NARROWEST_PLOT = 28, 10
_DISPENSABLE = ("95 % of it", "usual")
_DISPENSABLE_AT_LAST = ("known", "estimate")
"""Left out on a narrow terminal, the first before verdicts become signs, the others after."""

_SIGNS = {"worse": "▼", "better": "▲", "above": "≠", "below": "≠"}
_WORDS, _OF = ("version", "role", "part", "metric"), "of"
_BETWEEN = 3
"""Spaces that a table has between two columns."""


def show_metrics(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> None:
    """Print one line per window, part and metric, and what is to be known of them."""
    first = readings[0].window
    stdout.print(
        f"[bold]{safe(first.deployment_id)}[/] by event time of the predictions, UTC; 'same age': the reference at the "
        "ages that these outcomes have",
        highlight=False,
        soft_wrap=True,
    )
    cells, plots = _rows(readings, metrics, request)
    heads, rows = _fitted(_heads(readings, metrics, request), cells, stdout.width)
    room = min(_WIDEST_PLOT, stdout.width - _width(heads, rows) - _BETWEEN)
    if room >= _NARROWEST_PLOT:
        at = len(heads) - (heads[-1] == "verdict")
        heads.insert(at, "")
        for row, plot in zip(rows, plots, strict=True):
            row.insert(at, plot(room))
    print_table(heads, rows, numbers=[head for head in heads if head not in (*_WORDS, _OF, "", "verdict")])
    if request.plot:
        show_timelines(readings, metrics, request)


def show_tables(
    readings: Sequence[WindowReading],
    tables: Sequence[str],
    request: Request,
    segments: Sequence[str],
    baselines: Mapping[str, Baseline],
) -> None:
    """Print the tables that were asked for, window by window."""
    for item in readings if tables else ():
        window = item.window
        label = period_label(window.start_us, request.period)
        state = "" if window.status == FINAL else f", open: {final_text([item])}"
        title = f"{window.deployment_id}@{window.model_version} {window.role}, {label}{state}"
        for table in tables:
            if table == FAIRNESS:
                for segment in segments:
                    show_groups(f"{title}: {segment}", groups(window, segment, request.reference), window.layout)
                continue
            for part in item.parts:
                named = f"{title}: {part.part}" if part.part else title
                sums = window.parts[part.part]
                if table == CALIBRATION:
                    reference = None if part.part else reference_of(item, baselines)
                    found = reliability(window.layout, sums, reference)
                    show_calibration(named, found, window.layout, mixed_edges=window.mixed_edges)
                elif table == CONFUSION:
                    show_confusion(named, confusion(window.layout, sums))


def show_timelines(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> None:
    """Draw each metric over the periods, one plot per role and part of the traffic."""
    # the champion, which is the last by name, stands first
    drawn = sorted({(item.window.role, part.part) for item in readings for part in item.parts}, key=lambda one: one[1])
    drawn.sort(key=lambda one: one[0], reverse=True)
    for metric in metrics:
        for role, name in drawn:
            found = [
                (item, part.readings[metric])
                for item in readings
                for part in item.parts
                if (item.window.role, part.part) == (role, name) and metric in part.readings
            ]
            points = [_point(reading, item, estimate=request.estimate) for item, reading in found]
            if not any(point.value is not None for point in points):
                continue
            first, last = (period_label(found[at][0].window.start_us, request.period) for at in (0, -1))
            stdout.print(f"\n[bold]{safe(' '.join([metric, role, name]).rstrip())}[/]", highlight=False, soft_wrap=True)
            for text in timeline(points, number_text, (first, last), stdout.width):
                stdout.print(safe(text), highlight=False, soft_wrap=True)
    stdout.print(f"[dim]{LEGEND}[/]", highlight=False, soft_wrap=True)


def _point(reading: Reading, item: WindowReading, *, estimate: bool) -> Point:
    value = reading.value
    ends = None if value is None or value.low is None or value.high is None else (value.low, value.high)
    estimated = _value(reading.estimate) if estimate else None
    return Point(_value(value), ends, _value(reading.reference), estimated, doubted=bool(estimate_marks(item, reading)))


def _heads(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> list[str]:
    lead = ["from", *_leads(readings)]
    estimates = ["estimate", "95 % of it"] if _estimates(readings, metrics, request) else []
    several = ["metric"] if len(metrics) > 1 else []
    value = "value" if several else metrics[0]
    return [*lead, "rows", "known", "usual", *several, value, "95 %", "same age", *estimates, "verdict"]


def _leads(readings: Sequence[WindowReading]) -> list[str]:
    """Columns that not all lines have the same in."""
    found = []
    if len({item.window.model_version for item in readings}) > 1:
        found.append("version")
    if len({item.window.role for item in readings}) > 1:
        found.append("role")
    if any(part.part for item in readings for part in item.parts):
        found.append("part")
    return found


def _rows(
    readings: Sequence[WindowReading], metrics: Sequence[str], request: Request
) -> tuple[list[list[str]], list[Callable[[int], str]]]:
    """The table's cells, and each line's plot by its width."""
    leads = _leads(readings)
    rows: list[list[str]] = []
    plots: list[Callable[[int], str]] = []
    scales = {metric: _scale(readings, metric) for metric in metrics}
    estimates = _estimates(readings, metrics, request)
    for item in readings:
        window = item.window
        label = marks_of(item) + period_label(window.start_us, request.period)
        open_ = "" if window.status == FINAL else "open "
        for part in item.parts:
            facts = {"version": window.model_version, "role": window.role, "part": part.part or "all"}
            lead = [label, *(facts[name] for name in leads)]
            lead += [f"{open_}{part.predictions:,}", _percent(part.coverage), _percent(item.expected_coverage)]
            for metric in metrics:
                reading = part.readings.get(metric, Reading(None))
                several = [metric] if len(metrics) > 1 else []
                rows.append([*lead, *several, *_cells(reading, item, metric, estimated=estimates)])
                plots.append(partial(_plot, reading, scales[metric]))
                lead = [""] * len(lead)
            label = ""
    return rows, plots


def _estimates(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> bool:
    return request.estimate and has_estimates(readings, metrics)


def _cells(reading: Reading, item: WindowReading, metric: str, *, estimated: bool) -> list[str]:
    estimates = []
    if estimated:
        marks = estimate_marks(item, reading)
        estimates = [number_text(_value(reading.estimate)) + marks, _interval(reading.estimate)]
    return [
        number_text(_value(reading.value)),
        _interval(reading.value),
        number_text(_value(reading.reference)),
        *estimates,
        _verdict(reading, metric),
    ]


def _verdict(reading: Reading, metric: str) -> str:
    more = more_is_better(metric)
    if not reading.outside or more is None:
        return reading.outside
    return "better" if (reading.outside == ABOVE) == more else "worse"


def _fitted(heads: list[str], cells: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The columns that a narrow terminal has room for; what all lines need stays."""
    heads, rows = list(heads), [list(row) for row in cells]

    def without(names: Sequence[str]) -> None:
        for name in names:
            if name in heads and _width(heads, rows) > width:
                at = heads.index(name)
                for line in (heads, *rows):
                    del line[at]

    without(_DISPENSABLE)
    if _width(heads, rows) > width:
        value = heads.index("95 %") - 1
        del heads[-1]
        for row in rows:
            row[value] += _SIGNS.get(row.pop(), "")
    without(_DISPENSABLE_AT_LAST)
    if _width(heads, rows) > width:
        heads, rows = _with_words_joined(heads, rows)
    without(["95 %"])
    return heads, rows


def _with_words_joined(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns of words as one, which may have several lines: next to each other they would have no room at all."""
    names = [name for name in heads if name in _WORDS]
    if not names:
        return heads, rows
    first, others = heads.index(names[0]), [heads.index(name) for name in names[1:]]

    def joined(line: Sequence[str], text: str) -> list[str]:
        return [text if at == first else cell for at, cell in enumerate(line) if at not in others]

    texts = [" ".join(cell for cell in (row[at] for at in (first, *others)) if cell) for row in rows]
    return joined(heads, _OF), [joined(row, text) for row, text in zip(rows, texts, strict=True)]


def _width(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Characters of a line of the table."""
    found = 1
    for at, head in enumerate(heads):
        cells = [row[at] for row in rows]
        if head == _OF:
            cells = [word for cell in cells for word in cell.split()]
        found += max([len(head), *map(len, cells)]) + _BETWEEN
    return found


def _scale(readings: Sequence[WindowReading], metric: str) -> tuple[float, float] | None:
    known = [part.readings[metric] for item in readings for part in item.parts if metric in part.readings]
    ends = [end for reading in known if reading.value is not None for end in (reading.value.low, reading.value.high)]
    values = [_value(metric) for reading in known for metric in (reading.value, reading.reference)]
    return scale_of([*ends, *values])


def _plot(reading: Reading, scale: tuple[float, float] | None, width: int) -> str:
    value = reading.value
    if scale is None or value is None:
        return ""
    ends = None if value.low is None or value.high is None else (value.low, value.high)
    return interval_line(value.value, ends, _value(reading.reference), scale, width)


def _value(metric: Metric | None) -> float | None:
    return None if metric is None else metric.value


def _interval(metric: Metric | None) -> str:
    return _DASH if metric is None else interval_text(metric.low, metric.high)


def _percent(share: float | None) -> str:
    return _DASH if share is None else f"{share:.1%}"
