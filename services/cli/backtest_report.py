"""What a back-test found, as tables for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from services.alerting.words.message import format_span
from services.backtest.accuracy import Accuracy, open_windows
from services.backtest.alarms import VERDICTS, MonitorCount, Pair, by_monitor
from services.cli.output import note, print_table, safe, stdout
from services.cli.windows import interval_text, number_text, period_label
from services.event_time import rfc3339
from services.performance.names import COVERAGE, METRICS
from services.performance.report import PartReading, Reading

if TYPE_CHECKING:
    from services.backtest.run import BackTest
    from services.windows import Period
    from streams.statistics.performance.metrics import Metric

_DASH = "–"
_SHOWN = 12
_MOST_CAUSES = 3


def usual_metrics(task: str) -> list[str]:
    """What is shown of a task where nothing is asked for: its first metric, or how many outcomes are known."""
    return [next(iter(METRICS.get(task, ())), COVERAGE)]


def show(
    found: BackTest, windows: Sequence[Accuracy], metrics: Sequence[str], period: Period, last: int | None
) -> None:
    """Print a back-test."""
    for change in found.changes:
        before, after = (safe("not given" if v is None else v) for v in (change.before, change.after))
        stdout.print(f"  {safe(change.field)}: {before} → [bold]{after}[/]", highlight=False)
    if found.pairs:
        times = ["change began", "noticed", "was noticed", "evidence", "resolved"]
        print_table(["", "monitor", "causes", *times], [_row(pair) for pair in found.pairs], numbers=times)
    _show_monitors(_counts(found))
    if windows:
        _show_accuracy(windows, metrics, period, last)
    several = len({threshold.model_version for threshold in found.thresholds}) > 1
    thresholds = ", ".join(
        f"{t.monitor} {t.nats:.1f} nats" + (f" ({t.model_version})" if several else "") for t in found.thresholds
    )
    promised = f"Promise: {found.promise}." + (f" Thresholds: {thresholds}." if thresholds else "")
    stdout.print(safe(promised), highlight=False)
    stdout.print(safe(summary(found)), highlight=False)
    rate = found.rows / max(found.seconds, 1e-3)
    stdout.print(
        f"[dim]{found.rows:,} rows of {'the topics' if found.source == 'topics' else 'files'}, events "
        f"{rfc3339(found.first_us)} to {rfc3339(found.last_us)}, in {found.seconds:.1f} s ({rate:,.0f} rows/s); "
        "nothing was written[/]",
        highlight=False,
    )
    for each in found.notes:
        note(f"note: {each}")


def _counts(found: BackTest) -> list[MonitorCount]:
    return by_monitor(found.pairs, {threshold.monitor for threshold in found.thresholds})


def _show_monitors(counts: Sequence[MonitorCount]) -> None:
    heads = ["would be", "were", *VERDICTS]
    rows = [[c.monitor, c.would, c.did, *(c.verdicts.get(verdict, 0) or "" for verdict in VERDICTS)] for c in counts]
    print_table(["alarms of", *heads], rows, numbers=heads)


def _row(pair: Pair) -> tuple[str, ...]:
    alarm = pair.shown
    alert = alarm.firing
    moved = f" ({alarm.diagnosis.replace('_', ' ')})" if alarm.diagnosis else ""
    return (
        _verdict(pair),
        alert["monitor"],
        ", ".join(alarm.causes[:_MOST_CAUSES]) + (" …" if len(alarm.causes) > _MOST_CAUSES else "") + moved,
        _when(alert["change_time_us"]),
        _DASH if pair.would is None else _when(pair.would.noticed_us),
        _DASH if pair.did is None else _when(pair.did.noticed_us),
        f"{alert['log_evidence_nats']:.1f} of {alert['threshold_nats']:.1f}" if alert["threshold_nats"] else _DASH,
        "open" if alarm.resolved_us is None else _when(alarm.resolved_us),
    )


def _verdict(pair: Pair) -> str:
    return pair.verdict if not pair.by_us else f"{format_span(abs(pair.by_us))} {pair.verdict}"


def _when(time_us: int) -> str:
    return rfc3339(time_us)[:16].replace("T", " ")


def _show_accuracy(windows: Sequence[Accuracy], metrics: Sequence[str], period: Period, last: int | None) -> None:
    starts = sorted({each.would.window.start_us for each in windows})
    shown = set(starts[-(last or _SHOWN) :])
    several = len({each.would.window.model_version for each in windows}) > 1
    named = len(metrics) > 1
    value = "would be" if named else metrics[0]
    rows = []
    for each in windows:
        window, part = each.would.window, each.part
        if window.start_us not in shown or part is None:
            continue
        open_ = "" if window.status == "final" else "open "
        lead = [period_label(window.start_us, period), *([window.model_version] if several else [])]
        lead += [f"{open_}{part.predictions:,}", _DASH if part.coverage is None else f"{part.coverage:.1%}"]
        for metric in metrics:
            reading = part.readings.get(metric, Reading(None))
            cells = [_value(reading.value), _limits(reading.value), _value(reading.reference), _did(each.did, metric)]
            rows.append([*lead, *([metric] if named else []), *cells])
            lead = [""] * len(lead)
    heads = ["from", *(["version"] if several else []), "rows", "known", *(["metric"] if named else [])]
    numbers = [value, "95 %", "same age", "was"]
    print_table([*heads, *numbers], rows, numbers=["rows", "known", *numbers])
    for line in _footnotes(windows, len(starts), len(shown)):
        stdout.print(f"[dim]{safe(line)}[/]", highlight=False, soft_wrap=True)


def _footnotes(windows: Sequence[Accuracy], periods: int, shown: int) -> list[str]:
    found = []
    if shown < periods:
        found.append(f"the last {shown} of {periods:,}; more: --last N, --by month")
    waiting = open_windows(windows)
    if waiting:
        found.append(
            f"{waiting:,} of {len(windows):,} are open, outcomes of them may still come: early ones are no fair sample "
            "of all, so compare with 'same age', the reference at the ages that these outcomes have"
        )
    if any(each.did is None for each in windows):
        found.append("was: where it is missing, the workers have written no window of the same version and time")
    return found


def _value(metric: Metric | None) -> str:
    return number_text(None if metric is None else metric.value)


def _limits(metric: Metric | None) -> str:
    return _DASH if metric is None else interval_text(metric.low, metric.high)


def _did(part: PartReading | None, metric: str) -> str:
    reading = None if part is None else part.readings.get(metric)
    return _value(None if reading is None else reading.value)


def summary(found: BackTest) -> str:
    """What came out, in a sentence."""
    would = sum(pair.would is not None for pair in found.pairs)
    did = sum(pair.did is not None for pair in found.pairs)
    number = {verdict: sum(pair.verdict == verdict for pair in found.pairs) for verdict in VERDICTS}
    settings = "these settings" if found.is_changed else "the settings in force"
    parts = [f"{n} {verdict}" for verdict, n in number.items() if n]
    raised = f"{would} alarm{'' if would == 1 else 's'}"
    return f"With {settings} {raised} would have been raised where {did} {'was' if did == 1 else 'were'}" + (
        f": {', '.join(parts)}." if parts else "."
    )


def document(found: BackTest, windows: Sequence[Accuracy], metrics: Sequence[str] | None) -> dict[str, Any]:
    """A back-test for JSON; ``metrics``: all that there are if not given."""
    return {
        "deployment": found.deployment_id,
        "source": found.source,
        "first_event_us": found.first_us,
        "last_event_us": found.last_us,
        "messages": found.messages,
        "rows": found.rows,
        "refused_messages": found.refused,
        "seconds": found.seconds,
        "changes": [{"field": c.field, "before": c.before, "after": c.after} for c in found.changes],
        "baseline_digest": found.baseline_digest,
        "false_alarms": found.promise,
        "thresholds": [
            {"version": t.model_version, "monitor": t.monitor, "threshold_nats": t.nats} for t in found.thresholds
        ],
        "monitors": [
            {"monitor": c.monitor, "would_be": c.would, "was": c.did}
            | {verdict: c.verdicts.get(verdict, 0) for verdict in VERDICTS}
            for c in _counts(found)
        ],
        "alarms": [
            {
                "verdict": pair.verdict,
                "later_by_us": None if pair.would is None or pair.did is None else pair.by_us,
                "would_be": None if pair.would is None else pair.would.document(),
                "was": None if pair.did is None else pair.did.document(),
            }
            for pair in found.pairs
        ],
        "accuracy": [_window_document(each, metrics) for each in windows],
        "open_windows": open_windows(windows),
        "summary": summary(found),
        "notes": found.notes,
    }


def _window_document(each: Accuracy, metrics: Sequence[str] | None) -> dict[str, Any]:
    window, part = each.would.window, each.part
    names = list(part.readings if part is not None else ()) if metrics is None else list(metrics)
    return {
        "version": window.model_version,
        "role": window.role,
        "start_us": window.start_us,
        "end_us": window.end_us,
        "status": window.status,
        "known_until_us": window.clock_us,
        "corrections": window.corrections,
        "superseded": window.superseded,
        "expected_coverage": each.would.expected_coverage,
        "would_be": _part_document(part, names),
        "was": _part_document(each.did, names),
    }


def _part_document(part: PartReading | None, names: Sequence[str]) -> dict[str, Any] | None:
    if part is None:
        return None
    known = {name: part.readings[name] for name in names if name in part.readings}
    return {
        "predictions": part.predictions,
        "resolved": part.resolved,
        "coverage": part.coverage,
        "metrics": {
            name: (dataclasses.asdict(reading.value) if reading.value is not None else {})
            | {"reference_at_same_age": None if reading.reference is None else dataclasses.asdict(reading.reference)}
            for name, reading in known.items()
        },
    }
