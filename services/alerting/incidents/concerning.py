"""Who is told of what a transaction changed, each incident once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

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
    told, changed = changes.write_untitled()
    labels = [signal.values["labels"] for signal in changes.fired_or_ended()]
    labels += also
    retitled = set(changed)
    concerned = dict.fromkeys([*told, *sorted(inhibited_by(connection, policy, labels))])
    # Read once for both: an incident may have ten thousand signals.
    for some in chunks(dict.fromkeys([*changed, *concerned])):
        incidents = load_incidents(connection, policy, some, now_ms, records=0)
        titles = changes.give_titles({i: incidents[i] for i in incidents.keys() & retitled})
        for incident_id, incident in incidents.items():
            if incident_id in concerned:
                named = replace(incident, title=titles.get(incident_id, incident.title))
                concern(connection, policy, incident_id, now_ms, except_receiver=except_receiver, incident=named)


def concern_each(
    connection: sa.Connection, policy: Policy, incident_ids: Iterable[str], now_ms: int, *, except_receiver: str = ""
) -> None:
    """Bring incidents to everybody they concern; they are read together, not one by one."""
    for some in chunks(incident_ids):
        for incident_id, incident in load_incidents(connection, policy, some, now_ms, records=0).items():
            concern(connection, policy, incident_id, now_ms, except_receiver=except_receiver, incident=incident)
