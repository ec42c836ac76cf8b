"""Who did what to an incident, and what is new since a receiver was last told, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import ACKNOWLEDGED, RESOLVED, Entry, Incident
from services.alerting.notify.kinds import Kind
from services.alerting.words.explaining import SYSTEM_PREFIX
from services.alerting.words.message import alert_title, format_span, format_time
from services.alerting.words.text import Line, Value, line, value
from services.alerting.words.titles import lowered

SHOWN_STORY = 5
SHOWN_NEWS = 6
_REASON_CHARACTERS = 500
_NAME_CHARACTERS = 60

_PEOPLE = {
    "incident.acknowledged": "took it",
    "incident.unacknowledged": "gave it back",
    "incident.noted": "noted",
    "incident.assigned": "assigned it",
    "incident.silenced": "silenced it",
    "incident.resolved": "resolved it",
    "incident.reopened": "opened it again",
    "silence.created": "silenced it",
    "silence.ended": "ended the silence",
}
_SERVICE = {
    "incident.joined": "New",
    "incident.changed": "Changed",
    "incident.unacknowledged": "Given back",
    "incident.escalated": "Escalated",
    "incident.reopened": "Opened again",
    "incident.resolved": "Over",
    "silence.expired": "The silence is over",
}
_TOLD = "notification.sent"


def moment(time_ms: int) -> str:
    """Milliseconds since 1970 as '12 Jun 2013 14:05 UTC'."""
    return format_time(time_ms * 1000)


def span(length_ms: int) -> str:
    """A length of time: '3 h 20 min'."""
    return format_span(max(length_ms, 0) * 1000)


def said(text: str, limit: int = _REASON_CHARACTERS) -> Value:
    """What somebody wrote, on one line."""
    return value(" ".join(text[: 4 * limit].split()), limit)


def story(incident: Incident) -> tuple[Line, ...]:
    """What people did, the latest few, the oldest of them first."""
    people = [entry for entry in incident.entries if entry.actor_kind == "human" and entry.action in _PEOPLE]
    return tuple(entry_line(entry) for entry in people[-SHOWN_STORY:])


def entry_line(entry: Entry) -> Line:
    """An entry as a sentence: 'ada took it at 12 Jun 2013 14:05 UTC by Slack: looking at the feed'."""
    at = f" at {moment(entry.time_ms)}"
    reason = (": ", said(entry.reason)) if entry.reason.strip() else ()
    if entry.actor_kind == "human" and entry.action in _PEOPLE:
        who = value(entry.actor, _NAME_CHARACTERS)
        return line(who, f" {_PEOPLE[entry.action]}", *_further(entry.detail), at, *_by_way(entry.via), *reason)
    title = _SERVICE.get(entry.action, value(entry.action, _NAME_CHARACTERS))
    return line(title, at, *_alarm(entry.detail), *reason)


def news(delivery: Delivery, incident: Incident) -> tuple[Line, ...]:
    """What is new about an incident since the receiver was last told of it, the latest last."""
    happened = _since_told(delivery.receiver, incident.entries)
    if delivery.kind in (Kind.TRIGGER, Kind.DIGEST):
        # To whom all of it is new, what led there is not.
        happened = [entry for entry in happened if entry.action == "incident.reopened"][-1:]
    shown = [entry_line(entry) for entry in happened[-SHOWN_NEWS:]]
    if len(happened) > SHOWN_NEWS:
        shown.insert(0, line(f"{len(happened) - SHOWN_NEWS} earlier changes."))
    return (*_opening(delivery, incident, {entry.action for entry in happened}), *shown)


def why_told(delivery: Delivery) -> tuple[Line, ...]:
    """Why this receiver is told although the routes do not say so."""
    because = delivery.because.strip()
    return (line("You are told of this because: ", said(because), "."),) if because else ()


def _opening(delivery: Delivery, incident: Incident, happened: Set[str]) -> Iterator[Line]:
    """What the entries may not say: they are the latest few."""
    if incident.status == RESOLVED:
        yield _end(incident)
    elif delivery.kind == Kind.REPEAT:
        open_for = span(delivery.sent_ms - incident.opened_ms)
        taken = incident.status == ACKNOWLEDGED
        yield line(f"Still open after {open_for}; ", "somebody has it." if taken else "nobody has taken it.")
    elif delivery.kind == Kind.ACKNOWLEDGE and incident.status == ACKNOWLEDGED:
        if "incident.acknowledged" not in happened:
            yield line(value(incident.acknowledged_by, _NAME_CHARACTERS), " has taken it.")
    elif delivery.kind == Kind.ACKNOWLEDGE:
        if "incident.unacknowledged" not in happened:
            yield line("Nobody has it any more.")
    elif delivery.kind == Kind.TRIGGER and incident.episode > 1 and "incident.reopened" not in happened:
        yield line(f"Opened again, for the {_ordinal(incident.episode - 1)} time.")
    if incident.flapping and incident.status != RESOLVED:
        yield line("It comes and goes; while it does, only reminders are sent.")


def _end(incident: Incident) -> Line:
    """How it ended: of itself, or by a person; 'firing' signals that a person resolved are named."""
    lasted = (
        "" if incident.resolved_ms is None else f", {span(incident.resolved_ms - incident.opened_ms)} after it opened"
    )
    by = next((entry for entry in reversed(incident.entries) if entry.action == "incident.resolved"), None)
    if by is not None and by.actor_kind == "human":
        still = f"; {len(incident.firing)} of its alarms still fire" if incident.firing else ""
        return line("Resolved by ", value(by.actor, _NAME_CHARACTERS), lasted, still, ".")
    return line("Over: none of its alarms fires any more", lasted, ".")


def _since_told(receiver: str, entries: Sequence[Entry]) -> list[Entry]:
    """What matters to people after the last message to a receiver; without one, everything there is."""
    since = 0
    for position, entry in enumerate(entries):
        if entry.action == _TOLD and entry.detail.get("receiver") == receiver:
            since = position + 1
    named = set(_PEOPLE) | set(_SERVICE)
    return [entry for entry in entries[since:] if entry.action in named]


def _alarm(detail: Mapping[str, object]) -> Iterator[str]:
    """Which alarm did it: ', data drift in credit, version 3 (error)'."""
    monitor, deployment = str(detail.get("monitor", "")), str(detail.get("deployment", ""))
    if not monitor:
        return
    yield ", "
    if monitor.startswith(SYSTEM_PREFIX):
        yield value(monitor.removeprefix(SYSTEM_PREFIX), _NAME_CHARACTERS)
        return
    yield from lowered(alert_title(monitor)).parts
    if deployment:
        yield " in "
        yield value(deployment, _NAME_CHARACTERS)
    if version := str(detail.get("version", "")):
        yield ", version "
        yield value(version, _NAME_CHARACTERS)
    if severity := str(detail.get("severity", "")):
        yield " ("
        yield value(severity, _NAME_CHARACTERS)
        yield ")"


def _further(detail: Mapping[str, object]) -> Iterator[str]:
    to, until = detail.get("to"), detail.get("until_ms")
    if to:
        yield " to "
        yield value(to, _NAME_CHARACTERS)
    if until is not None and str(until).lstrip("-").isdigit():
        yield f" until {moment(int(str(until)))}"


_WAYS = {"cli": "the command line", "api": "the HTTP interface", "slack": "Slack", "pagerduty": "PagerDuty"}


def _by_way(via: str) -> Iterator[str]:
    if via in _WAYS:
        yield f" by {_WAYS[via]}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
