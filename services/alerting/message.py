"""What an alert says to people, in plain words: the same text in Slack, PagerDuty and ``driftline alerts show``.

What changed, since when, how sure, how bad, what it touches, what to look at. Every function here takes any decoded
``Alert``, however odd its values: times outside the calendar, NaN, ten thousand characters, names that are orders to
a chat program.
"""

from __future__ import annotations

import datetime as dt
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.readings import percent, reading, stream_name, telling, unit
from services.alerting.text import Line, Value, line, value, web_link
from streams.baseline import ASSOCIATION_ROLE, ERROR, JOINT_ROLE, QUALITY_ROLE, RATE_ROLE
from streams.detectors import MONITOR_PREFIX

SHOWN_CAUSES = 5

_MONITORS = {
    "data_drift": "Data drift",
    "prediction_drift": "Prediction drift",
    "data_quality": "Data quality",
    "service": "Service",
}
_CHANGED = {
    "data_drift": ("The inputs of ", " no longer look like the reference"),
    "prediction_drift": ("The predictions of ", " no longer look like the reference"),
    "data_quality": ("The data of ", " are no longer as usable as in the reference"),
    "service": ("The service of ", " no longer behaves as in the reference"),
}
_WHERE_TO_LOOK = {
    "data_quality": "look where these values come from: the source, the join, the unit, a new category",
    "service": "look at the service: its logs, what was released lately, what it depends on, who calls it",
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
    parts.append(_sizes(cause))
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


def _headline(record: Record, resolved: bool) -> Line:
    """At most 147 characters, so that it fits Slack's header of 150 with a mark before it."""
    title = monitor_title(record["monitor"])
    if record["monitor"] in ("data_quality", "service"):
        title = line(*title.parts, " change")
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
    opening, changed = _CHANGED.get(record["monitor"], ("The streams of ", " no longer look like the reference"))
    parts = [opening, value(record["deployment_id"]), changed]
    causes = record["causes"]
    if not causes:
        return line(*parts, ".")
    names = [stream_name(cause).parts for cause in causes[:_SENTENCE_NAMES]]
    parts += ["; most changed: ", *names[0]]
    for name in names[1:]:
        parts += [", ", *name]
    if len(causes) > _SENTENCE_NAMES:
        parts.append(f" and {len(causes) - _SENTENCE_NAMES} more")
    return line(*parts, ".")


def _since(record: Record) -> Line:
    start, found = record["change_time_us"], record["detection_time_us"]
    rows, first = record["rows_since_change"], record["causes"][:1]
    counted = [f"{rows:,} {unit(first[0]) if first else 'rows'}"]
    if first and first[0].get("segment"):
        counted += [" of ", value(first[0]["segment"])]
    return line(
        "Since about ",
        format_time(start),
        " (estimated); noticed at ",
        format_time(found),
        f", {format_span(found - start)} and ",
        *counted,
        " later.",
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
    rounded = f"{float(f'{times:.2g}'):,.0f}" if times >= 10 else f"{times:.1f}"
    return f": {rounded} times what it asks"


def _how_bad(cause: Record) -> Line:
    """How large the change is: as a count where few rows matter, else as a total variation, which is the share of rows
    that would have to be others for the difference to be gone.
    """
    if _is_counted(cause):
        return _how_many(cause)
    distance = cause["effects"]["total_variation"]
    interval = _interval(cause)
    parts = [
        f"The change is {_psi_in_words(cause['effects']['psi'])} by the usual reading of PSI: ",
        f"{percent(distance)} of rows{interval} would have to ",
    ]
    if cause["role"] in (JOINT_ROLE, ASSOCIATION_ROLE):
        parts.append("be combined otherwise")
    else:
        parts += ["have other values of ", *stream_line(cause).parts]
    return line(*parts, " to look like the reference again.", "" if interval else _why_no_interval(cause))


def _is_counted(cause: Record) -> bool:
    """Whether a change is told by how many rows (or intervals) are affected: PSI calls a hundredth of them small."""
    return cause["role"] in (QUALITY_ROLE, RATE_ROLE) or cause["stream"] == ERROR


def _how_many(cause: Record) -> Line:
    found = telling(cause)
    if found is None:
        return line("How large the change is cannot be told: the alert has no counts.")
    statement, total = found
    expected = statement.expected * total
    usual = "fewer than 1" if expected < 1 else f"about {expected:,.0f}"
    affected = f"Since then {round(statement.observed * total):,} of {total:,} {unit(cause)}"
    where = (" of ", value(cause["segment"])) if cause.get("segment") else ()
    name = () if cause["role"] != QUALITY_ROLE else (" (", *stream_line(cause | {"segment": ""}).parts, ")")
    return line(affected, *where, " ", *statement.words, *name, f"; the reference leads to expect {usual}.")


def _steps(record: Record) -> Line:
    """What to do next. Names go into commands quoted, so that none becomes a command of its own."""
    deployment, version = record["deployment_id"], record["model_version"]
    parts = ["Next: "]
    if web_link(record["runbook_url"]):
        parts.append("follow the runbook; ")
    monitor, causes = record["monitor"], record["causes"]
    if monitor.startswith(MONITOR_PREFIX):
        stream = monitor.removeprefix(MONITOR_PREFIX).partition(":")[2]
        return line(*parts, "see how far it went: ", _command("windows show", deployment, "--stream", stream), ".")
    if monitor in _WHERE_TO_LOOK:
        parts.append(_WHERE_TO_LOOK[monitor])
    else:
        stream = ("--stream", causes[0]["stream"]) if causes else ()
        parts += ["see how far and when: ", _command("windows show", deployment, *stream)]
    since = _day(record["change_time_us"])
    build = _command("baseline build", deployment, "--from-topic", "--version", version, "--from", since)
    return line(*parts, ". If this is how things are to be, a baseline of the time since ends the alarm: ", build, ".")


def _command(name: str, *arguments: str) -> Value:
    return Value(f"driftline {name} " + " ".join(shlex.quote(value(argument)) for argument in arguments))


def _day(time_us: int) -> str:
    """The first whole day after a time, as commands take it."""
    try:
        return (_EPOCH + dt.timedelta(microseconds=time_us, days=1)).date().isoformat()
    except OverflowError:
        return "DAY"


def _sizes(cause: Record) -> str:
    effects = cause["effects"]
    psi, distance = effects["psi"], effects["total_variation"]
    size = "Total variation" if _is_counted(cause) else f"PSI {_number(psi)} ({_psi_in_words(psi)}), total variation"
    return f"{size} {percent(distance)}{_interval(cause)}, {cause['rows']:,} {unit(cause)}"


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
    if record["status"] != "resolved" and not record["monitor"].startswith(MONITOR_PREFIX):
        first = record["causes"][:1]
        counted = unit(first[0]) if first else "rows"
        facts.append((f"{counted.capitalize()} since the change", Value(f"{record['rows_since_change']:,}")))
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
