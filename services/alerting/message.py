"""What an alert says to people, in plain words: the same text in Slack, PagerDuty and ``driftline alerts show``.

What changed, since when, how sure, how bad, what it touches, what to look at. Every function here takes any decoded
``Alert``, however odd its values: times outside the calendar, NaN, ten thousand characters, names that are orders to
a chat program.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.readings import percent, reading, stream_name
from services.alerting.text import Line, Value, line, value, web_link

SHOWN_CAUSES = 5

_MONITORS = {
    "data_drift": ("Data drift", "The inputs of "),
    "prediction_drift": ("Prediction drift", "The predictions of "),
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_PROMISE_CHARACTERS = 400
_SENTENCE_NAMES = 3


@dataclass(frozen=True, slots=True)
class AlertText:
    """What an alert says.

    Attributes:
        headline: One line: what, where.
        sentences: What changed, since when, how sure, how bad.
        causes: One line per cause, the strongest first.
        facts: Name and value: deployment, version, owner, severity …
        runbook_url: Where to find what to do; None when there is none or it is no http(s) address.
        command: Shows the whole alert.
        resolved: Whether it tells of an end.
    """

    headline: Line
    sentences: tuple[Line, ...]
    causes: tuple[Line, ...]
    facts: tuple[tuple[str, Value], ...]
    runbook_url: str | None
    command: Line
    resolved: bool


def describe_alert(record: Record) -> AlertText:
    """Put an ``Alert`` into words. Never raises for a record that decodes."""
    resolved = record["status"] == "resolved"
    sentences = _resolved_sentences(record) if resolved else _firing_sentences(record)
    return AlertText(
        headline=_headline(record, resolved),
        sentences=tuple(sentences),
        causes=tuple(cause_line(cause) for cause in record["causes"][:SHOWN_CAUSES]),
        facts=tuple(_facts(record)),
        runbook_url=web_link(record["runbook_url"]),
        command=line("driftline alerts show ", value(record["id"])),
        resolved=resolved,
    )


def cause_line(cause: Record) -> Line:
    """One cause: 'temperature: 62 % of rows lie above the reference's 9th decile (27.1), expected 10 %. PSI 0.8, …'."""
    told = reading(cause)
    parts = [*stream_name(cause["stream"]).parts, ": "]
    if told is not None:
        parts += [*told.parts, ". "]
    parts.append(_sizes(cause))
    if math.isfinite(share := cause["evidence_share"]):
        parts.append(f"; {percent(share)} of the evidence")
    return line(*parts)


def stream_line(cause: Record) -> Line:
    """What a cause's stream is called: a feature's name, or 'predicted probability of …'."""
    return stream_name(cause["stream"])


def monitor_title(monitor: str) -> Line:
    """How a monitor is called: 'Data drift'."""
    if monitor in _MONITORS:
        return line(_MONITORS[monitor][0])
    return line("Monitor ", value(monitor))


def _headline(record: Record, resolved: bool) -> Line:
    title = monitor_title(record["monitor"])
    if resolved:
        title = line("Resolved: ", *title.parts)
    return line(*title.parts, " in ", value(record["deployment_id"]), ", version ", value(record["model_version"], 40))


def _firing_sentences(record: Record) -> list[Line]:
    sentences = [_what(record), _since(record), _how_sure(record)]
    if record["causes"]:
        sentences.append(_how_bad(record["causes"][0]))
    return sentences


def _resolved_sentences(record: Record) -> list[Line]:
    start, end = record["change_time_us"], record["detection_time_us"]
    return [
        line(
            "The monitor reports this incident over at ",
            format_time(end),
            ". The change had begun about ",
            format_time(start),
            f" (estimated), {format_span(end - start)} before.",
        )
    ]


def _what(record: Record) -> Line:
    opening = _MONITORS.get(record["monitor"], ("", "The streams of "))[1]
    parts = [opening, value(record["deployment_id"]), " no longer look like the reference"]
    causes = record["causes"]
    if not causes:
        return line(*parts, ".")
    names = [stream_name(cause["stream"]).parts for cause in causes[:_SENTENCE_NAMES]]
    parts += ["; most changed: ", *names[0]]
    for name in names[1:]:
        parts += [", ", *name]
    if len(causes) > _SENTENCE_NAMES:
        parts.append(f" and {len(causes) - _SENTENCE_NAMES} more")
    return line(*parts, ".")


def _since(record: Record) -> Line:
    start, found = record["change_time_us"], record["detection_time_us"]
    return line(
        "Since about ",
        format_time(start),
        " (estimated); noticed at ",
        format_time(found),
        f", {format_span(found - start)} and {record['rows_since_change']:,} rows later.",
    )


def _how_sure(record: Record) -> Line:
    evidence, threshold = record["log_evidence_nats"], record["threshold_nats"]
    parts = [
        f"Evidence {_number(evidence)} nats against a threshold of {_number(threshold)}{_times(evidence - threshold)}."
    ]
    if record["false_alarms"]:
        parts += [
            " The threshold keeps this promise on false alarms: ",
            value(record["false_alarms"], _PROMISE_CHARACTERS),
        ]
        parts.append("" if record["false_alarms"].rstrip().endswith(".") else ".")
    return line(*parts)


def _times(excess_nats: float) -> str:
    if not math.isfinite(excess_nats) or excess_nats < 0:
        return ""
    times = math.exp(min(excess_nats, 20.0))
    if times >= 1e6:
        return ": more than a million times what it asks"
    return f": {times:,.0f} times what it asks" if times >= 10 else f": {times:.1f} times what it asks"


def _how_bad(cause: Record) -> Line:
    return line("Size of the change in ", *stream_name(cause["stream"]).parts, ": ", _sizes(cause), ".")


def _sizes(cause: Record) -> str:
    effects = cause["effects"]
    psi, distance = effects["psi"], effects["total_variation"]
    interval = f" (95 % interval {percent(cause['tv_low'])} to {percent(cause['tv_high'])})"
    return (
        f"PSI {_number(psi)} ({_psi_in_words(psi)}), total variation {percent(distance)}"
        f"{interval if math.isfinite(cause['tv_low'] + cause['tv_high']) else ''}, {cause['rows']:,} rows"
    )


def _psi_in_words(psi: float) -> str:
    """The rule of thumb of credit scoring: below 0.1 small, to 0.25 moderate, above large."""
    if not math.isfinite(psi):
        return "not measured"
    return "small" if psi < 0.1 else "moderate" if psi < 0.25 else "large"


def _facts(record: Record) -> Sequence[tuple[str, Value]]:
    facts = [
        ("Deployment", value(record["deployment_id"])),
        ("Version", value(record["model_version"])),
        ("Severity", value(record["severity"])),
        ("Owner", value(record["owner"])),
        ("Model", value(record["model_id"])),
        ("Rows since the change", Value(f"{record['rows_since_change']:,}")),
    ]
    tags = list(record["tags"].items())
    if tags:
        shown = ", ".join(f"{value(k, 40)}={value(v, 40)}" for k, v in tags[:6])
        facts.append(("Tags", Value(shown + (f" and {len(tags) - 6} more" if len(tags) > 6 else ""))))
    return facts


def format_time(time_us: int) -> str:
    """Microseconds since 1970 as '12 Jun 2013 14:05 UTC'; times outside the calendar are said to be so."""
    try:
        moment = _EPOCH + dt.timedelta(microseconds=time_us)
    except (OverflowError, ValueError):
        return f"a time outside the calendar ({time_us} µs since 1970)"
    return f"{moment.day} {moment:%b} {moment.year:04d} {moment:%H:%M} UTC"


def format_span(span_us: int) -> str:
    """A length of time: '3 h 20 min', '4 days', '12 s'."""
    seconds = abs(span_us) / 1e6
    sign = "minus " if span_us < 0 else ""
    if seconds < 120:
        return f"{sign}{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{sign}{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{sign}{hours} h {rest} min" if rest else f"{sign}{hours} h"
    return f"{sign}{round(hours / 24):,} days"


def _number(number: float) -> str:
    if not math.isfinite(number):
        return "unknown"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:,.1f}" if abs(number) < 1e6 else f"{number:.3g}"
