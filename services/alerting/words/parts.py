"""A signal, or an incident among others, as a part of a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.incidents.views import FIRING, RESOLVED, SILENCED, Incident, Mute, Signal
from services.alerting.words.explaining import explanation
from services.alerting.words.message import (
    describe_alert,
    format_span,
    format_time,
    stream_line,
    what_changed,
)
from services.alerting.words.readings import reading, shares
from services.alerting.words.story import moment, said
from services.alerting.words.text import Line, Value, line, prose, value
from services.alerting.words.titles import because_words, incident_headline, signal_headline

MOST_PICTURES = 2
_PICTURED = 8
"""So many of the strongest signals may be pictured."""

_SYSTEM_SENTENCES = 6
_SYSTEM_CHARACTERS = 600
_BRIEF_CAUSES = 1
_OTHERS_CAUSES = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One signal of an incident; in a message about several incidents, one of them.

    Attributes:
        headline: "Data drift in credit, version 3".
        status: "firing", "resolved", "silenced until …".
        sentences: What changed, since when, how sure, how bad.
        causes: One line each, the strongest first.
    """

    headline: Line
    status: Line
    sentences: tuple[Line, ...]
    causes: tuple[Line, ...]


def signal_parts(incident: Incident, signals: Sequence[Signal], in_full: int) -> tuple[Part, ...]:
    """Signals of an incident, so many of them in full. A promise on false alarms that several keep is told once."""
    parts: list[Part] = []
    promises: set[str] = set()
    for signal in signals[:in_full]:
        promised = "" if signal.firing is None else signal.firing["false_alarms"]
        parts.append(_signal_part(incident, signal, promise=promised not in promises))
        promises.add(promised)
    return (*parts, *(_brief_part(incident, signal) for signal in signals[in_full:]))


def _signal_part(incident: Incident, signal: Signal, *, promise: bool) -> Part:
    """A signal with all that its records say."""
    sentences = (*_because(incident, signal), *_sentences(signal, promise=promise))
    return Part(signal_headline(signal), _status(signal), sentences, _causes(signal))


def _brief_part(incident: Incident, signal: Signal) -> Part:
    """A signal of which the first ones have said enough: what changed, and its strongest cause."""
    sentences = (*_because(incident, signal), *_sentences(signal)[:1])
    return Part(signal_headline(signal), _status(signal), sentences, _causes(signal)[:_BRIEF_CAUSES])


def incident_part(incident: Incident, *, brief: bool) -> Part:
    """An incident among others: what its strongest signal says. ``brief``: in a sentence."""
    shown = (incident.firing or incident.signals)[:1]
    status = line(_state(incident), ", ", value(incident.severity), ", ", value(incident.id))
    sentences = _sentences(shown[0]) if shown else ()
    if incident.status == RESOLVED and incident.resolved_ms is not None:
        sentences = (line(f"Over at {moment(incident.resolved_ms)}."), *sentences[:1])
    causes = _causes(shown[0])[:_OTHERS_CAUSES] if shown else ()
    if brief:
        sentences, causes = sentences[:1], ()
    return Part(incident_headline(incident), status, sentences, causes)


def signal_steps(signal: Signal) -> Line | None:
    """What to do next about a signal; None where it is over or nothing is known of it."""
    if signal.status != FIRING:
        return None
    if signal.words is not None:
        steps = str(signal.words.get("steps", "")).strip()
        return line(prose(steps, _SYSTEM_CHARACTERS)) if steps else None
    return None if signal.firing is None else describe_alert(signal.firing).steps


def reading_of(signal: Signal) -> Line | None:
    """The one figure that tells most about a signal; None where there is none."""
    if signal.words is not None:
        return next(iter(_system_sentences(signal)), None)
    causes = signal.record["causes"] if signal.record is not None else ()
    if not causes:
        return None
    told = reading(causes[0])
    return stream_line(causes[0]) if told is None else line(*stream_line(causes[0]).parts, ": ", *told.parts)


def pictures(incident: Incident) -> tuple[Record, ...]:
    """The causes worth a picture: the strongest of the strongest signals that fire (of all, once none does), or the
    two strongest of one.
    """
    ranked = [s.firing["causes"] for s in (incident.firing or incident.signals)[:_PICTURED] if s.firing is not None]
    shown = [causes[0] for causes in ranked if causes and shares(causes[0]) is not None]
    if len(shown) == 1 and len(ranked[0]) > 1 and shares(ranked[0][1]) is not None:
        shown.append(ranked[0][1])
    return tuple(shown[:MOST_PICTURES])


def _because(incident: Incident, signal: Signal) -> tuple[Line, ...]:
    cause = explanation(incident, signal)
    return () if cause is None else (line("Probably because: ", *because_words(cause).parts, "."),)


def _sentences(signal: Signal, *, promise: bool = True) -> tuple[Line, ...]:
    if signal.words is not None:
        return (*_system_sentences(signal), *_end(signal))
    told: list[Line] = []
    if signal.firing is not None:
        text = describe_alert(signal.firing, promise=promise)
        told += text.sentences if signal.status == FIRING else [what_changed(signal.firing)]
    if signal.status != FIRING:
        told += _end(signal) if signal.resolved is None else describe_alert(signal.resolved).sentences
    return tuple(told)


def _system_sentences(signal: Signal) -> tuple[Line, ...]:
    sentences = (signal.words or {}).get("sentences") or ()
    return tuple(line(prose(text, _SYSTEM_CHARACTERS)) for text in sentences[:_SYSTEM_SENTENCES])


def _end(signal: Signal) -> tuple[Line, ...]:
    if signal.status == FIRING or signal.resolved_us is None:
        return ()
    start = signal.change_time_us
    return (
        line(
            "Over at ", format_time(signal.resolved_us), f", {format_span(signal.resolved_us - start)} after it began."
        ),
    )


def _causes(signal: Signal) -> tuple[Line, ...]:
    record = signal.record
    return () if record is None else describe_alert(record).causes


def _status(signal: Signal) -> Line:
    if signal.status != FIRING:
        at = f" at {format_time(signal.resolved_us)}" if signal.resolved_us is not None else ""
        return line(f"resolved{at}")
    if signal.mute is not None:
        return mute_line(signal.mute)
    return line("firing, ", value(signal.severity))


def mute_line(mute: Mute) -> Line:
    """Why nobody is told of a signal: 'silenced until 12 Jun 2013 14:05 UTC: ada: new feature store'."""
    until = "" if mute.until_ms is None else f" until {moment(mute.until_ms)}"
    words = {"silence": "silenced", "maintenance": "under maintenance", "inhibition": "muted by "}
    by = (Value(value(mute.name, 60)),) if mute.kind == "inhibition" else ()
    reason = (": ", said(mute.reason)) if mute.reason.strip() else ()
    return line(words.get(mute.kind, "silenced"), *by, until, *reason)


def _state(incident: Incident) -> str:
    return SILENCED if incident.state == SILENCED else incident.status
