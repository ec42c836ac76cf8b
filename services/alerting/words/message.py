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
from services.alerting.words.humility import humility_steps, humility_words
from services.alerting.words.outcomes import concept_words, labels_words, outcome_steps
from services.alerting.words.readings import moved, reading, stream_name, telling, unit
from services.alerting.words.sizes import how_bad, number_text, sizes
from services.alerting.words.statements import Statement, percent
from services.alerting.words.text import Line, Value, command, line, value, web_link
from streams.baseline import LABELS_ROLE
from streams.detectors import ERROR, LOSS, MONITOR_PREFIX, RESIDUAL
from streams.specification import CONCEPT_DRIFT, FAIRNESS, HUMILITY, LABELS

SHOWN_CAUSES = 5

_MONITORS = {
    "data_drift": "Data drift",
    "prediction_drift": "Prediction drift",
    "data_quality": "Data quality",
    "service": "Service",
    CONCEPT_DRIFT: "Concept drift",
    LABELS: "Label arrival",
    FAIRNESS: "Fairness",
    HUMILITY: "Humility",
}
_OF_OUTCOMES = (CONCEPT_DRIFT, LABELS, FAIRNESS)
_CHANGED = {
    "data_drift": ("The inputs of ", " no longer look like the reference"),
    "prediction_drift": ("The predictions of ", " no longer look like the reference"),
    "data_quality": ("The data of ", " are no longer as usable as in the reference"),
    "service": ("The service of ", " no longer behaves as in the reference"),
    FAIRNESS: ("Parts of the traffic of ", " are treated otherwise than in the reference"),
}
_WHERE_TO_LOOK = {
    "data_quality": "look where these values come from: the source, the join, the unit, a new category",
    "service": "look at the service: its logs, what was released lately, what it depends on, who calls it",
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_PROMISE_CHARACTERS = 400
_REASON_CHARACTERS = 600
_SENTENCE_NAMES = 3


@dataclass(frozen=True, slots=True)
class AlertText:
    """What an alert says.

    Attributes:
        headline: One line: what, where.
        summary: The headline and what changed most: what fits a telephone's screen.
        sentences: What changed, since when, how sure, how bad.
        causes: One line per cause, the strongest first.
        steps: What to do next; None when there is nothing to do.
        facts: Name and value: deployment, version, owner, severity …
        runbook_url: Where to find what to do; None when there is none or it is no http(s) address.
        command: Shows the whole alert.
        resolved: Whether it tells of an end.
    """

    headline: Line
    summary: Line
    sentences: tuple[Line, ...]
    causes: tuple[Line, ...]
    steps: Line | None
    facts: tuple[tuple[str, Value], ...]
    runbook_url: str | None
    command: Line
    resolved: bool


def describe_alert(record: Record, *, promise: bool = True) -> AlertText:
    """Put an ``Alert`` into words. Never raises for a record that decodes.

    Args:
        record: The alert.
        promise: Whether the promise on false alarms is repeated; without, only the evidence is told.
    """
    resolved = record["status"] == "resolved"
    if record["monitor"].startswith(MONITOR_PREFIX):
        sentences = _signal_sentences(record, resolved=resolved)
    else:
        sentences = _resolved_sentences(record) if resolved else _firing_sentences(record, promise=promise)
    headline = alert_headline(record)
    return AlertText(
        headline=headline,
        summary=_summary(headline, record["causes"]),
        sentences=tuple(sentences),
        causes=tuple(cause_line(cause) for cause in record["causes"][:SHOWN_CAUSES]),
        steps=None if resolved else _steps(record),
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
    parts.append(sizes(cause))
    if math.isfinite(share := cause["evidence_share"]):
        parts.append(f"; {percent(share)} of the evidence")
    return line(*parts)


def stream_line(cause: Record) -> Line:
    """What a cause's stream is called: a feature's name, or 'how income and loan go together'."""
    return stream_name(cause)


def monitor_title(monitor: str) -> Line:
    """How a monitor is called: 'Data drift'."""
    if monitor in _MONITORS:
        return line(_MONITORS[monitor])
    if monitor.startswith(MONITOR_PREFIX):
        detector, _, stream = monitor.removeprefix(MONITOR_PREFIX).partition(":")
        return line("Signal of ", value(detector, 12), " on ", value(stream, 17))
    return line("Monitor ", value(monitor, 32))


def alert_title(monitor: str) -> Line:
    """What an alarm of a monitor is called in a headline: 'Data drift', 'Data quality change'."""
    title = monitor_title(monitor)
    if monitor in ("data_quality", "service", LABELS, FAIRNESS, HUMILITY):
        return line(*title.parts, " change")
    return title


def alert_headline(record: Record) -> Line:
    """At most 147 characters, so that it fits Slack's header of 150 with a mark before it."""
    title = alert_title(record["monitor"])
    if record["status"] == "resolved":
        title = line("Resolved: ", *title.parts)
    deployment, version = value(record["deployment_id"], 56), value(record["model_version"], 24)
    return line(*title.parts, " in ", deployment, ", version ", version)


def _summary(headline: Line, causes: Sequence[Record]) -> Line:
    if not causes:
        return headline
    told = reading(causes[0])
    rest = () if told is None else (": ", *told.parts)
    return line(*headline.parts, ". ", *stream_line(causes[0]).parts, *rest)


def _firing_sentences(record: Record, *, promise: bool) -> list[Line]:
    reason = record.get("diagnosis_reason", "")
    opening = "In short: " if record["monitor"] == HUMILITY else "What speaks for that: "
    why = [line(opening, value(reason, _REASON_CHARACTERS), ".")] if reason else []
    sentences = [what_changed(record), *why, _since(record), _how_sure(record, promise=promise)]
    if record["causes"]:
        sentences.append(how_bad(record["causes"][0]))
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


def what_changed(record: Record) -> Line:
    """The first sentence: 'The inputs of credit no longer look like the reference; most changed: age, income.'"""
    parts, causes = [*_changed(record)], record["causes"]
    if not causes:
        return line(*parts, ".")
    names = [stream_name(cause).parts for cause in causes[:_SENTENCE_NAMES]]
    parts += ["; most changed: ", *names[0]]
    for name in names[1:]:
        parts += [", ", *name]
    if len(causes) > _SENTENCE_NAMES:
        parts.append(f" and {len(causes) - _SENTENCE_NAMES} more")
    return line(*parts, ".")


def _changed(record: Record) -> tuple[str, ...]:
    deployment, causes = value(record["deployment_id"]), record["causes"]
    if record["monitor"] == CONCEPT_DRIFT:
        return concept_words(record.get("diagnosis", ""), deployment, moved(causes[0]) if causes else "")
    if record["monitor"] == LABELS:
        return labels_words(_known(record), deployment)
    if record["monitor"] == HUMILITY:
        found = telling(causes[0]) if causes else None
        return humility_words(causes[0] if causes else None, None if found is None else found[0], deployment)
    opening, changed = _CHANGED.get(record["monitor"], ("The streams of ", " no longer look like the reference"))
    return (opening, deployment, changed)


def _known(record: Record) -> Statement | None:
    """How many of the labels are known, by the strongest cause that says so."""
    cause = next((cause for cause in record["causes"] if cause["role"] == LABELS_ROLE), None)
    found = None if cause is None else telling(cause)
    return None if found is None else found[0]


def _since(record: Record) -> Line:
    start, found = record["change_time_us"], record["detection_time_us"]
    rows, first = record["rows_since_change"], record["causes"][:1]
    many = [f"{rows:,} {unit(first[0]) if first else 'rows'}"]
    if first and first[0].get("segment"):
        many += [" of ", value(first[0]["segment"])]
    estimated = "estimated, by when outcomes came" if record["monitor"] in _OF_OUTCOMES else "estimated"
    return line(
        "Since about ",
        format_time(start),
        f" ({estimated}); noticed at ",
        format_time(found),
        f", {format_span(found - start)} and ",
        *many,
        " later.",
    )


def _how_sure(record: Record, *, promise: bool) -> Line:
    evidence, threshold = record["log_evidence_nats"], record["threshold_nats"]
    times = _times(evidence - threshold)
    parts = [f"Evidence {number_text(evidence)} nats against a threshold of {number_text(threshold)}{times}."]
    if promise and record["false_alarms"]:
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
    rounded = f"{float(f'{times:.2g}'):,.0f}" if times >= 10 else f"{times:.1f}"
    return f": {rounded} times what it asks"


_METRICS_OF_STREAMS = {ERROR: ("accuracy",), LOSS: ("log_loss", "mae"), RESIDUAL: ("bias",)}
"""What shows how far a stream of outcomes went that a known detector follows; losses are of classes or of numbers."""


def _steps(record: Record) -> Line:
    """What to do next. Names go into commands quoted, so that none becomes a command of its own."""
    deployment, version = record["deployment_id"], record["model_version"]
    parts = ["Next: "]
    if web_link(record["runbook_url"]):
        parts.append("follow the runbook; ")
    monitor, causes = record["monitor"], record["causes"]
    if monitor.startswith(MONITOR_PREFIX):
        stream = monitor.removeprefix(MONITOR_PREFIX).partition(":")[2]
        parts.append("see how far it went: ")
        if stream not in _METRICS_OF_STREAMS:
            return line(*parts, command("windows show", deployment, "--stream", stream), ".")
        first, *others = (command("windows show", deployment, "--metric", m) for m in _METRICS_OF_STREAMS[stream])
        return line(*parts, first, *(part for other in others for part in (", or of numbers ", other)), ".")
    if monitor == HUMILITY:
        return line(*parts, *humility_steps(record, _day(record["change_time_us"])), ".")
    if monitor in _OF_OUTCOMES:
        parts += outcome_steps(record, _known(record))
    elif monitor in _WHERE_TO_LOOK:
        parts.append(_WHERE_TO_LOOK[monitor])
    else:
        stream = ("--stream", causes[0]["stream"]) if causes else ()
        parts += ["see how far and when: ", command("windows show", deployment, *stream)]
    since = _day(record["change_time_us"])
    build = command("baseline build", deployment, "--from-topic", "--version", version, "--from", since)
    ends = "a baseline of the time since ends the alarm"
    if monitor in _OF_OUTCOMES:
        ends = "a baseline of the time since, once its outcomes are known, ends the alarm"
    return line(*parts, f". If this is how things are to be, {ends}: ", build, ".")


def _day(time_us: int) -> str:
    """The first whole day after a time, as commands take it."""
    try:
        return (_EPOCH + dt.timedelta(microseconds=time_us, days=1)).date().isoformat()
    except OverflowError:
        return "DAY"


def _facts(record: Record) -> Sequence[tuple[str, Value]]:
    facts = [
        ("Deployment", value(record["deployment_id"])),
        ("Version", value(record["model_version"])),
        ("Severity", value(record["severity"])),
        ("Owner", value(record["owner"])),
        ("Model", value(record["model_id"])),
    ]
    if record["status"] != "resolved" and not record["monitor"].startswith(MONITOR_PREFIX):
        first = record["causes"][:1]
        what = unit(first[0]) if first else "rows"
        facts.append((f"{what.capitalize()} since the change", Value(f"{record['rows_since_change']:,}")))
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
