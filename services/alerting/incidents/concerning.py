"""Who is told of what a transaction changed, each incident once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from services.alerting.incidents.changes import Changes
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.quieting import inhibited_by
from services.alerting.notify.threads import concern
from services.alerting.policy.labels import Labels
from services.alerting.policy.model import Policy


def concern_changed(
    connection: sa.Connection,
    policy: Policy,
    changes: Changes,
    now_ms: int,
    *,
    except_receiver: str = "",
    also: Sequence[Labels] = (),
) -> None:
    """Write changes, and bring each incident that changed, or that what changed mutes or no longer mutes, to everybody
    it concerns. ``also``: labels of further signals that may mute others now, or no longer do.
    """
    told = changes.write()
    labels = [signal.values["labels"] for signal in changes.fired_or_ended()]
    labels += also
    ids = dict.fromkeys([*told, *sorted(inhibited_by(connection, policy, labels))])
    concern_each(connection, policy, ids, now_ms, except_receiver=except_receiver)


def concern_each(
    connection: sa.Connection, policy: Policy, incident_ids: Iterable[str], now_ms: int, *, except_receiver: str = ""
) -> None:
    """Bring incidents to everybody they concern; they are read together, not one by one."""
    for some in chunks(incident_ids):
        for incident_id, incident in load_incidents(connection, policy, some, now_ms, records=0).items():
            concern(connection, policy, incident_id, now_ms, except_receiver=except_receiver, incident=incident)
