"""What a message about incidents says, in plain words: the same in every channel.

What changed, since when, how sure, how bad, what it touches, what to look at.
"""

from __future__ import annotations

from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import Incident
from services.alerting.words.text import Line, Value


@dataclass(frozen=True, slots=True)
class Part:
    """One signal of an incident.

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


@dataclass(frozen=True, slots=True)
class Text:
    """A message.

    Attributes:
        mark: An emoji for its severity or end.
        headline: One line of at most 147 characters.
        summary: What fits a telephone's screen.
        news: What is new since the last message; empty for a trigger.
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
    raise NotImplementedError


def describe(delivery: Delivery) -> Text:
    """Put a message into words: of one incident, of several (a group or a digest), a heartbeat or a test. Never raises
    for what decodes.
    """
    raise NotImplementedError
