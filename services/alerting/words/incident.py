"""What a message about incidents says, in plain words: the same in every channel.

What changed, since when, how sure, how bad, what it touches, what to look at. No clock is read: the time of the message
is :attr:`services.alerting.channels.delivery.Delivery.sent_ms`. The same delivery gives the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import ACKNOWLEDGED, RESOLVED, SILENCED, Incident
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import SEVERITIES
from services.alerting.words.explaining import explanation
from services.alerting.words.facts import incident_facts, many_facts
from services.alerting.words.links import links
from services.alerting.words.parts import (
    Part,
    incident_part,
    pictures,
    reading_of,
    signal_parts,
    signal_steps,
)
from services.alerting.words.story import moment, news, said, story, why_told
from services.alerting.words.text import Line, Value, command, line, value
from services.alerting.words.titles import HEADLINE_CHARACTERS, because_words, incident_headline

__all__ = ("Part", "Text", "describe", "incident_title", "mark_of")

SHOWN_IN_FULL = 3
SHOWN_SIGNALS = 8
SHOWN_INCIDENTS = 12
NAMED_INCIDENTS = 50

MARKS = {"critical": "🔴", "error": "🟠", "warning": "🟡", "info": "🔵"}
OVER_MARK = "✅"
QUIET_MARK = "🔕"
LIFE_MARK = "💚"
TEST_MARK = "🧪"


@dataclass(frozen=True, slots=True)
class Text:
    """A message.

    Attributes:
        mark: An emoji for its severity or end.
        headline: One line of at most 147 characters.
        summary: What fits a telephone's screen.
        news: What is new since the last message; of a trigger only what is unusual about it: that it was opened again,
            that an escalation or a failed receiver brought it here.
        parts: Signals, the strongest first; further ones are counted in ``more``.
        more: "and 12 more signals", or None.
        steps: What to do next; None when there is nothing to do.
        facts: Name and value: deployment, version, owner, severity, touched deployments …
        story: Who acknowledged, noted, silenced: the latest entries of people.
        links: Text and address: incident, evidence, runbook. Only plain http(s).
        command: Shows the incident.
        plots: The causes worth a picture, at most two.
        over: Whether it tells of an end.
    """

    mark: str
    headline: Line
    summary: Line
    news: tuple[Line, ...]
    parts: tuple[Part, ...]
    more: Line | None
    steps: Line | None
    facts: tuple[tuple[str, Value], ...]
    story: tuple[Line, ...]
    links: tuple[tuple[str, str], ...]
    command: Line
    plots: tuple[Record, ...]
    over: bool


def incident_title(incident: Incident) -> str:
    """The headline of one incident, at most 147 characters, for lists."""
    return str(incident_headline(incident))


def describe(delivery: Delivery) -> Text:
    """Put a message into words: of one incident, of several (a group or a digest), a heartbeat or a test. Never raises
    for what decodes.
    """
    if delivery.kind == Kind.TEST:
        return _test(delivery)
    if not delivery.incidents:
        return _heartbeat(delivery)
    if len(delivery.incidents) == 1:
        return _one(delivery, delivery.incidents[0])
    return _several(delivery)


def _one(delivery: Delivery, incident: Incident) -> Text:
    over = _tells_end(delivery)
    prefix = _prefix(delivery, incident)
    headline = line(prefix, *incident_headline(incident, HEADLINE_CHARACTERS - len(prefix)).parts)
    shown = incident.signals[:SHOWN_SIGNALS]
    steps = next((steps for signal in incident.signals if (steps := signal_steps(signal)) is not None), None)
    return Text(
        mark=mark_of(incident) if over else _mark_while_open(incident),
        headline=headline,
        summary=_summary(headline, incident),
        news=(*why_told(delivery), *_came_late(delivery), *news(delivery, incident)),
        parts=signal_parts(incident, shown, SHOWN_IN_FULL),
        more=_more(len(incident.signals) - len(shown), "signal"),
        steps=None if over else steps,
        facts=tuple(incident_facts(incident, delivery.sent_ms)),
        story=story(incident),
        links=links(delivery.public_url, delivery.incidents),
        command=line(command("incidents show", incident.id)),
        # Whoever looks at an incident that is over still sees what it was; a message of its end needs no picture.
        plots=() if delivery.kind == Kind.RESOLVE else pictures(incident),
        over=over,
    )


def _several(delivery: Delivery) -> Text:
    """A group or a digest: a part for each incident."""
    incidents, over = delivery.incidents, _tells_end(delivery)
    running = [incident for incident in incidents if incident.status != RESOLVED]
    headline = _headline_of_several(delivery, len(running))
    first = incidents[0]
    changed = tuple(
        line(*incident_headline(incident, 80).parts, ": ", *sentence.parts)
        for incident in incidents[:SHOWN_INCIDENTS]
        for sentence in news(delivery, incident)[-1:]
    )
    shown = incidents[:SHOWN_INCIDENTS]
    tells_changes = delivery.kind not in (Kind.TRIGGER, Kind.DIGEST)
    return Text(
        mark=OVER_MARK if over else _mark_while_open(min(running or incidents, key=_urgency)),
        headline=headline,
        summary=line(*headline.parts, ". First: ", *incident_headline(first).parts),
        news=(*why_told(delivery), *_came_late(delivery), *(changed if tells_changes else ())),
        parts=tuple(incident_part(incident, brief=delivery.kind == Kind.DIGEST) for incident in shown),
        more=_more_named(incidents[SHOWN_INCIDENTS:]),
        steps=None
        if over
        else line("Next: see each of them with ", command("incidents show"), " and its id, the most urgent first."),
        facts=tuple(many_facts(delivery)),
        story=(),
        links=links(delivery.public_url, incidents),
        command=line(command("incidents list")),
        plots=() if over or delivery.kind == Kind.DIGEST else pictures(first)[:1],
        over=over,
    )


def mark_of(incident: Incident) -> str:
    """An emoji for how bad it is, that it is quiet, or that it is over."""
    if incident.status == RESOLVED:
        return OVER_MARK
    return QUIET_MARK if incident.state == SILENCED else MARKS.get(incident.severity, "🔵")


def _tells_end(delivery: Delivery) -> bool:
    """A first message tells that something began, however late it is; the message of its end follows it."""
    return delivery.over and delivery.kind != Kind.TRIGGER


def _came_late(delivery: Delivery) -> tuple[Line, ...]:
    if not delivery.over or delivery.kind != Kind.TRIGGER:
        return ()
    return (line("This message could not be sent earlier: it is over meanwhile, and the message of its end follows."),)


def _mark_while_open(incident: Incident) -> str:
    return MARKS.get(incident.severity, "🔵") if incident.status == RESOLVED else mark_of(incident)


def _prefix(delivery: Delivery, incident: Incident) -> str:
    if incident.status == RESOLVED:
        return "" if delivery.kind == Kind.TRIGGER else "Resolved: "
    if incident.state == SILENCED:
        return "Silenced: "
    if incident.status == ACKNOWLEDGED:
        return "Acknowledged: "
    if delivery.kind == Kind.REPEAT:
        return "Still open: "
    if delivery.kind == Kind.ACKNOWLEDGE:
        return "Given back: "
    return "Again: " if delivery.kind == Kind.TRIGGER and incident.episode > 1 else ""


def _summary(headline: Line, incident: Incident) -> Line:
    """The headline, what changed most, and what the rest probably comes from."""
    signals = incident.firing or incident.signals
    if not signals:
        return headline
    parts = [*headline.parts]
    told = reading_of(signals[0])
    if told is not None:
        parts += [". ", *told.parts]
    explained = [other for other in signals[1:] if explanation(incident, other) is signals[0]]
    if explained:
        parts += [
            f". {len(explained):,} more alarm{_s(len(explained))}, probably because: ",
            *because_words(signals[0]).parts,
        ]
    return line(*parts)


def _headline_of_several(delivery: Delivery, running: int) -> Line:
    incidents = delivery.incidents
    deployments = dict.fromkeys(name for incident in incidents for name in incident.deployments if name)
    over = len(incidents) - running
    parts = [f"{running:,} incidents" if running != 1 else "1 incident"]
    if not running:
        tells_end = delivery.kind not in (Kind.TRIGGER, Kind.DIGEST)
        parts = [f"{'Resolved: ' if tells_end else ''}{over:,} incidents"]
        if delivery.kind == Kind.DIGEST:
            parts.append(", over meanwhile,")
    elif over:
        parts.append(f", {over:,} more resolved,")
    if delivery.kind == Kind.DIGEST:
        parts[0] = f"Digest: {parts[0]}"
    if delivery.kind == Kind.REPEAT:
        parts[0] = f"Still open: {parts[0]}"
    if len(deployments) == 1:
        parts += [" in ", value(next(iter(deployments)), 56)]
    elif deployments:
        parts.append(f" in {len(deployments):,} deployments")
    grouped = [value(f"{name}={content}", 40) for name, content in delivery.group_labels[:1]]
    if grouped:
        parts += [" (", *grouped, ")"]
    return line(*parts)


def _heartbeat(delivery: Delivery) -> Text:
    sentence = line(
        f"Sent at {moment(delivery.sent_ms)}. As long as these come, this way to you works. If one is missing, ask why."
    )
    return _plain(delivery, LIFE_MARK, line("Driftline: sign of life of alerting"), sentence)


def _test(delivery: Delivery) -> Text:
    sentence = line(
        f"Sent at {moment(delivery.sent_ms)}. Nothing is wrong: somebody wants to know whether this way works."
    )
    return _plain(delivery, TEST_MARK, line("Driftline: test of the receiver ", value(delivery.receiver, 56)), sentence)


def _plain(delivery: Delivery, mark: str, headline: Line, sentence: Line) -> Text:
    why = (line("Why: ", said(delivery.reason), "."),) if delivery.reason.strip() else ()
    part = Part(headline, line("sent"), (sentence, *why), ())
    return Text(
        mark=mark,
        headline=headline,
        summary=line(*headline.parts, ". ", *sentence.parts),
        news=(),
        parts=(part,),
        more=None,
        steps=None,
        facts=(("Receiver", value(delivery.receiver)), ("Sent", Value(moment(delivery.sent_ms)))),
        story=(),
        links=links(delivery.public_url, ()),
        command=line(command("receivers list")),
        plots=(),
        over=False,
    )


def _urgency(incident: Incident) -> int:
    return SEVERITIES.index(incident.severity) if incident.severity in SEVERITIES else len(SEVERITIES)


def _more(count: int, noun: str) -> Line | None:
    return line(f"and {count:,} more {noun}{_s(count)}") if count > 0 else None


def _more_named(others: Sequence[Incident]) -> Line | None:
    """The incidents there is no room to tell of, each by what it touches: a digest leaves nobody's out."""
    if not others:
        return None
    parts: list[str] = [f"and {len(others):,} more incident{_s(len(others))}: "]
    for at, incident in enumerate(others[:NAMED_INCIDENTS]):
        parts += [*([", "] if at else []), value(next(iter(incident.deployments), "") or incident.id, 40)]
    if len(others) > NAMED_INCIDENTS:
        parts.append(f" and {len(others) - NAMED_INCIDENTS:,} others")
    return line(*parts)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
