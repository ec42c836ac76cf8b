"""Who is told of what a transaction changed, each incident once."""

from __future__ import annotations

import sqlalchemy as sa

from services.alerting.incidents.changes import Changes
from services.alerting.incidents.quieting import inhibited_by
from services.alerting.notify.threads import concern
from services.alerting.policy.model import Policy


def concern_changed(
    connection: sa.Connection, policy: Policy, changes: Changes, now_ms: int, *, except_receiver: str = ""
) -> None:
    """Write changes, and bring each incident that changed, or that what changed mutes or no longer mutes, to everybody
    it concerns.
    """
    told = changes.write()
    labels = [signal.values["labels"] for signal in changes.fired_or_ended()]
    for incident_id in dict.fromkeys([*told, *sorted(inhibited_by(connection, policy, labels))]):
        concern(connection, policy, incident_id, now_ms, except_receiver=except_receiver)
