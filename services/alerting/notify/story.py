"""What became of messages, told twice: in the incident's story that people read, and to the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as t
from services.alerting.notify.publishing import publish
from services.alerting.records import SOURCE, Publication, audit_event, deterministic_id


def tell_story(
    connection: sa.Connection,
    topics: Topics,
    *,
    action: str,
    identity: Sequence[object],
    incidents: Sequence[Mapping[str, Any]],
    receiver: str,
    time_ms: int,
    reason: str,
    detail: Mapping[str, object],
    entry: bool = True,
    actor: str = SOURCE,
    actor_kind: str = "service",
    via: str = "clock",
) -> None:
    """Note within a transaction what became of a message: one audit event and one entry for each incident in it.

    Args:
        connection: Of the transaction.
        topics: For the audit.
        action: As noun.verb.
        identity: What makes this event this one; each incident's id is added.
        incidents: As the row of the outbox has them; empty for a message that is about none.
        receiver: Whose message.
        time_ms: When.
        reason: Why, in words.
        detail: Further facts. Of an incident's own event, also what was told of it.
        entry: Whether the incident's story has it, or the audit alone.
        actor: Who did it.
        actor_kind: Whether that is a service or a human.
        via: By which way.
    """
    events: list[Publication] = []
    entries: list[dict[str, Any]] = []
    for told in incidents or [{}]:
        incident_id = str(told.get("incident", ""))
        own = {**told, "receiver": receiver, **detail}
        key = deterministic_id(action, *identity, incident_id)
        events.append(
            audit_event(
                topics.audit,
                action=action,
                subject=f"incident:{incident_id}" if incident_id else f"receiver:{receiver}",
                identity=(*identity, incident_id),
                time_ms=time_ms,
                reason=reason,
                detail=own,
                actor=actor,
                actor_kind=actor_kind,
            )
        )
        if entry and incident_id:
            entries.append(
                {
                    "key": key,
                    "incident_id": incident_id,
                    "time_ms": time_ms,
                    "action": action,
                    "actor_kind": actor_kind,
                    "actor": actor,
                    "via": via,
                    "reason": reason,
                    "detail": own,
                }
            )
    publish(connection, events)
    if entries:
        connection.execute(sa.insert(t.entries), entries)
