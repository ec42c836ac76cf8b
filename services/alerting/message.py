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
from streams.detectors import MONITOR_PREFIX

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
        summary: The headline and what changed most: what fits a telephone's screen.
        sentences: What changed, since when, how sure, how bad.
        causes: One line per cause, the strongest first.
        facts: Name and value: deployment, version, owner, severity …
        runbook_url: Where to find what to do; None when there is none or it is no http(s) address.
        command: Shows the whole alert.
        resolved: Whether it tells of an end.
    """

    headline: Line
    summary: Line
    sentences: tuple[Line, ...]
    causes: tuple[Line, ...]
    facts: tuple[tuple[str, Value], ...]
    runbook_url: str | None
    command: Line
    resolved: bool


def describe_alert(record: Record) -> AlertText:
    """Put an ``Alert`` into words. Never raises for a record that decodes."""
    resolved = record["status"] == "resolved"
    if record["monitor"].startswith(MONITOR_PREFIX):
        sentences = _signal_sentences(record, resolved=resolved)
    else:
        sentences = _resolved_sentences(record) if resolved else _firing_sentences(record)
    headline = _headline(record, resolved)
    return AlertText(
        headline=headline,
        summary=_summary(headline, record["causes"]),
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
    parts = [*stream_line(cause).parts, ": "]
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
    if monitor.startswith(MONITOR_PREFIX):
        detector, _, stream = monitor.removeprefix(MONITOR_PREFIX).partition(":")
        return line("Signal of ", value(detector, 12), " on ", value(stream, 17))
    return line("Monitor ", value(monitor, 32))


def _headline(record: Record, resolved: bool) -> Line:
    """At most 147 characters, so that it fits Slack's header of 150 with a mark before it."""
    title = monitor_title(record["monitor"])
    if resolved:
        title = line("Resolved: ", *title.parts)
    deployment, version = value(record["deployment_id"], 56), value(record["model_version"], 24)
    return line(*title.parts, " in ", deployment, ", version ", version)


def _summary(headline: Line, causes: Sequence[Record]) -> Line:
    if not causes:
        return headline
    told = reading(causes[0])
    rest = () if told is None else (": ", *told.parts)
    return line(*headline.parts, ". ", *stream_line(causes[0]).parts, *rest)


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


def _signal_sentences(record: Record, *, resolved: bool) -> list[Line]:
    """Of a known detector that was asked for besides: it has no evidence, no causes and keeps no promise."""
    detector, _, stream = record["monitor"].removeprefix(MONITOR_PREFIX).partition(":")
    start, end = record["change_time_us"], record["detection_time_us"]
    whose = (value(detector), " on ", value(stream), " in ", value(record["deployment_id"]))
    if resolved:
        return [
            line(*whose, " has been quiet since, or is no longer asked for: over at ", format_time(end), "."),
            line("It first signalled at ", format_time(start), f", {format_span(end - start)} before."),
        ]
    return [
        line(*whose, " signalled a change at ", format_time(start), " and starts anew with what it sees since."),
        line("What that is worth: ", value(record["false_alarms"], _PROMISE_CHARACTERS), "."),
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
    """The total variation in words: it is the share of rows that would have to be others for the difference to be
    gone.
    """
    distance = cause["effects"]["total_variation"]
    interval = _interval(cause)
    parts = [
        f"The change is {_psi_in_words(cause['effects']['psi'])} by the usual reading of PSI: ",
        f"{percent(distance)} of rows{interval} would have to have other values of ",
        *stream_line(cause).parts,
        " to look like the reference again.",
    ]
    return line(*parts, "" if interval else _why_no_interval(cause))


def _sizes(cause: Record) -> str:
    effects = cause["effects"]
    psi, distance = effects["psi"], effects["total_variation"]
    words = f"PSI {_number(psi)} ({_psi_in_words(psi)}), total variation {percent(distance)}{_interval(cause)}"
    return f"{words}, {cause['rows']:,} rows"


def _interval(cause: Record) -> str:
    """The 95 % interval of the total variation; empty where it spans all there is and so says nothing.

    Alerts of earlier releases have one-sided limits only, which hold at 90 % together.
    """
    both = cause["effects"]["intervals"].get("total_variation", ())
    level = "95 %" if len(both) == 2 else "90 %"
    low, high = both if len(both) == 2 else (cause["tv_low"], cause["tv_high"])
    if not math.isfinite(low + high) or (low <= 0 and high >= 1):
        return ""
    if high >= 1:
        return f" (at {level} confidence at least {percent(low)})"
    return f" ({level} interval {percent(low)} to {percent(high)})"


def _why_no_interval(cause: Record) -> str:
    """Rows in a row are alike: a week of one sort of weather is one observation of the weather, not a thousand."""
    independent = cause["effects"]["independent_rows"]
    if independent is None or not 0 < independent < cause["rows"]:
        return ""
    worth = "one" if independent < 1.5 else f"{independent:,.0f}" if independent < 1e15 else "many"
    return (
        " How exact that share is cannot be told: successive rows are so much alike that these "
        f"{cause['rows']:,} are worth no more than {worth} independent of each other."
    )


def _psi_in_words(psi: float) -> str:
    """The rule of thumb of credit scoring: below 0.1 small, to 0.25 moderate, above large."""
    if not math.isfinite(psi):
        return "of unknown size"
    return "small" if psi < 0.1 else "moderate" if psi < 0.25 else "large"


def _facts(record: Record) -> Sequence[tuple[str, Value]]:
    facts = [
        ("Deployment", value(record["deployment_id"])),
        ("Version", value(record["model_version"])),
        ("Severity", value(record["severity"])),
        ("Owner", value(record["owner"])),
        ("Model", value(record["model_id"])),
    ]
    if record["status"] != "resolved":
        facts.append(("Rows since the change", Value(f"{record['rows_since_change']:,}")))
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
