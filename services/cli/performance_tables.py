"""Accuracy windows as tables and plots on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from services.cli.outcome_tables import show_calibration, show_confusion, show_groups
from services.cli.output import print_table, safe, stdout
from services.cli.performance_json import reference_of
from services.cli.plots import interval_line, scale_of
from services.cli.windows import interval_text, number_text, period_label
from services.event_time import rfc3339
from services.performance.names import CALIBRATION, CONFUSION, COVERAGE, FAIRNESS, more_is_better
from services.performance.report import ABOVE, Reading, WindowReading, estimator_errors
from services.performance.tables import confusion, groups, reliability
from services.performance.windows import ALL, FINAL
from streams.baseline import Baseline
from streams.statistics.performance.metrics import Metric

if TYPE_CHECKING:
    from services.cli.performance import Request
    from services.performance.belief import ConceptAlarm, EstimatorError

_DASH = "–"
_ACTED, _MIXED, _DOUBTED = "†", "‡", "?"
_WIDEST_PLOT, _NARROWEST_PLOT = 28, 10
_DISPENSABLE = ("95 % of it", "usual")
"""Left out first on a narrow terminal."""

_SIGNS = {"worse": "▼", "better": "▲", "above": "≠", "below": "≠"}
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
    words = ("version", "role", "part", "metric", "", "verdict")
    print_table(heads, rows, numbers=[head for head in heads if head not in words])
    for line in _footnotes(readings, metrics, request):
        stdout.print(f"[dim]{safe(line)}[/]", highlight=False, soft_wrap=True)


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
        state = "" if window.status == FINAL else f", open: {_final_text([item])}"
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
        if item.acted:
            stdout.print(f"[dim]{safe(_acted_note(readings))}[/]", highlight=False, soft_wrap=True)


def _heads(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> list[str]:
    lead = ["from", *_leads(readings)]
    estimates = ["estimate", "95 % of it"] if request.estimate else []
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
    for item in readings:
        window = item.window
        marks = (_ACTED if item.acted else "") + (_MIXED if window.mixed_edges else "")
        label = marks + period_label(window.start_us, request.period)
        open_ = "" if window.status == FINAL else "open "
        for part in item.parts:
            facts = {"version": window.model_version, "role": window.role, "part": part.part or "all"}
            lead = [label, *(facts[name] for name in leads)]
            lead += [f"{open_}{part.predictions:,}", _percent(part.coverage), _percent(item.expected_coverage)]
            for metric in metrics:
                reading = part.readings.get(metric, Reading(None))
                several = [metric] if len(metrics) > 1 else []
                rows.append([*lead, *several, *_cells(reading, item, metric, request)])
                plots.append(partial(_plot, reading, scales[metric]))
                lead = [""] * len(lead)
            label = ""
    return rows, plots


def _cells(reading: Reading, item: WindowReading, metric: str, request: Request) -> list[str]:
    estimates = []
    if request.estimate:
        doubted = _DOUBTED if item.doubt is not None and _value(reading.estimate) is not None else ""
        estimates = [number_text(_value(reading.estimate)) + doubted, _interval(reading.estimate)]
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


def _final_text(waiting: Sequence[WindowReading]) -> str:
    """When the numbers of open windows will be final, and by when the reference lets expect nearly all outcomes."""
    last = max(waiting, key=lambda item: item.window.final_at_us)
    until = f"final on {rfc3339(last.window.final_at_us)[:10]}"
    if last.mature_at_us is not None:
        until = f"99 % of the outcomes are expected by {rfc3339(last.mature_at_us)[:10]}, {until}"
    return until if len(waiting) == 1 else f"of the last of them {until}"


def _fitted(heads: list[str], cells: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The columns that a narrow terminal has room for; what all lines need stays."""
    heads, rows = list(heads), [list(row) for row in cells]
    for name in _DISPENSABLE:
        if name in heads and _width(heads, rows) > width:
            at = heads.index(name)
            for line in (heads, *rows):
                del line[at]
    if _width(heads, rows) > width:
        value = heads.index("95 %") - 1
        del heads[-1]
        for row in rows:
            row[value] += _SIGNS.get(row.pop(), "")
    return heads, rows


def _width(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(max([len(head), *(len(row[at]) for row in rows)]) + _BETWEEN for at, head in enumerate(heads)) + 1


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


def _footnotes(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> list[str]:
    found = []
    compared = [metric for metric in metrics if metric != COVERAGE]
    waiting = [item for item in readings if item.window.status != FINAL]
    if waiting:
        found.append(
            "known: share of predictions with an outcome, usual: of the reference's when they were as old; what is "
            "open is of the outcomes so far, and those are no fair sample of all: compare with 'same age' only"
        )
        found.append(f"open: {_final_text(waiting)}")
    if compared and not any(item.has_reference for item in readings):
        if any(len(item.window.baselines) > 1 for item in readings):
            found.append("nothing is compared with a reference where windows of several baselines are added up")
        else:
            found.append(
                "there is no reference: no baseline of these bins has outcomes; build one from rows with their "
                "outcomes: driftline baseline build DEPLOYMENT FILE --version V"
            )
    elif compared and any(part.part != ALL for item in readings for part in item.parts):
        found.append("the reference is of all the traffic, and not kept by part")
    if any(reading.outside for item in readings for part in item.parts for reading in part.readings.values()):
        found.append(
            "verdict: the difference from the reference is more than chance, each line on its own with 95 %; it "
            "describes, and never raises an alarm"
        )
    if any(item.acted for item in readings):
        found.append(_acted_note(readings))
    if any(item.window.mixed_edges for item in readings):
        found.append(
            f"{_MIXED} windows with the score bins of several baselines: what is computed from score bins (areas under "
            "curves, calibration errors, lift) is not shown; the rest is exact"
        )
    return [*found, *(_estimate_notes(readings, compared) if request.estimate else [])]


def _acted_note(readings: Sequence[WindowReading]) -> str:
    acted, resolved = sum(item.acted for item in readings), sum(item.resolved for item in readings)
    return (
        f"{_ACTED} of {resolved:,} predictions with an outcome {acted:,} were acted on: their outcomes may be effects "
        "of the decisions, or known only because of them (selective labels), and these numbers not the model's alone"
    )


def _estimate_notes(readings: Sequence[WindowReading], metrics: Sequence[str]) -> list[str]:
    found = [
        "estimate: of all predictions, from their scores alone, if the relation between scores and outcomes is that of "
        "the reference; an estimate without labels cannot see that this has changed"
    ]
    alarms = dict.fromkeys(item.doubt for item in readings if item.doubt is not None)
    found += [f"{_DOUBTED} not to be believed: {_alarm_text(alarm)}" for alarm in alarms]
    if not any(_value(r.estimate) is not None for i in readings for p in i.parts for r in p.readings.values()):
        found.append("nothing can be estimated here: it takes a reference with outcomes, and scores or their losses")
    for metric in metrics:
        for believed, error in estimator_errors(readings, metric).items():
            if error is not None:
                found.append(f"{metric}: {_error_text(error, believed=believed)}")
    return found


def _alarm_text(alarm: ConceptAlarm) -> str:
    moved = {
        "relation": "the relation between inputs and outcome moved",
        "outcome_rate": "the rate of outcomes moved",
        "inputs": "the inputs moved",
    }.get(alarm.diagnosis, "the outcomes are not those of the reference")
    until = "still open" if alarm.resolved_us is None else f"resolved on {rfc3339(alarm.resolved_us)[:10]}"
    return (
        f"alarm for concept drift of version {alarm.model_version}: {moved} about "
        f"{rfc3339(alarm.change_time_us)[:10]}, found on {rfc3339(alarm.detection_time_us)[:10]}, {until}"
    )


def _error_text(error: EstimatorError, *, believed: bool) -> str:
    whose = "estimates" if believed else f"estimates marked {_DOUBTED}"
    direction = "too high" if error.mean > 0 else "too low"
    if error.windows == 1:
        return f"{whose} of the one final window: {number_text(error.largest)} {direction}"
    return (
        f"{whose} of {error.windows} final windows were off by {number_text(error.mean_absolute)} on average, by "
        f"{number_text(error.largest)} at most; "
        f"{number_text(abs(error.mean))} {direction} on average; {error.inside} inside the estimate's interval"
    )
