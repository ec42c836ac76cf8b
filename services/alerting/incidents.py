"""What an alert means for its incident. Pure: the store does what is decided here.

An incident is one episode of one incident key. Records come at least once and may come late:

======== ================= ==========================================================================
alert    incident          decision
======== ================= ==========================================================================
firing   unknown           opened; a trigger for every destination that takes the severity
firing   firing            updated; a trigger for destinations that take it only now
firing   resolved          stale: its end is known already, so nothing is sent
resolved firing            resolved; a resolve where a trigger was decided on
resolved unknown           resolved unseen; a resolve for every destination that takes the severity: an earlier
                           service may have sent the trigger
resolved resolved          stale
======== ================= ==========================================================================
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from driftline.codec import Record
from driftline.errors import EventError
from services.alerting.settings import SEVERITIES, Destination

FIRING = "firing"
RESOLVED = "resolved"

TRIGGER = "trigger"
RESOLVE = "resolve"

_MAX_NAME = 1024


class Change(enum.StrEnum):
    """What an alert did."""

    OPENED = "opened"
    UPDATED = "updated"
    RESOLVED = "resolved"
    RESOLVED_UNSEEN = "resolved_unseen"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happened to the incident, and which destinations are told what (``trigger`` or ``resolve``)."""

    change: Change
    kind: str | None
    destinations: tuple[str, ...]


def decide(
    alert: Record, status: str | None, triggered: Sequence[str], destinations: Iterable[Destination]
) -> Decision:
    """Decide.

    Args:
        alert: The record.
        status: The incident's status; None for an unknown one.
        triggered: Names of the destinations that have a trigger of this incident, sent or not.
        destinations: All that are configured.
    """
    willing = tuple(d.name for d in destinations if takes(d, alert["severity"]))
    if alert["status"] == FIRING:
        if status is None:
            return Decision(Change.OPENED, TRIGGER, willing)
        if status == RESOLVED:
            return Decision(Change.STALE, None, ())
        return Decision(Change.UPDATED, TRIGGER, tuple(name for name in willing if name not in triggered))
    if status is None:
        return Decision(Change.RESOLVED_UNSEEN, RESOLVE, willing)
    if status == RESOLVED:
        return Decision(Change.STALE, None, ())
    return Decision(Change.RESOLVED, RESOLVE, tuple(triggered))


def takes(destination: Destination, severity: str) -> bool:
    """Whether a destination wants alerts of this severity."""
    return SEVERITIES.index(severity) <= SEVERITIES.index(destination.minimum_severity)


def check_alert(alert: Record) -> Record:
    """The record, if an incident can be kept of it.

    Raises:
        EventError: A name that everything is filed under is missing or too long.
    """
    for field in ("id", "incident_key", "deployment_id"):
        length = len(alert[field])
        if not 0 < length <= _MAX_NAME:
            raise EventError(f"an alert's {field} has 1 to {_MAX_NAME} characters, came {length}")
    return alert
