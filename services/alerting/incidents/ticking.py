"""What the clock alone does to incidents: silences and maintenance begin and end, and what came and went calms down."""

from __future__ import annotations

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.changes import DAY_MS, Changes, Deed
from services.alerting.incidents.concerning import concern_each
from services.alerting.incidents.quieting import firing_signals, silence_of
from services.alerting.incidents.silences import muted_by
from services.alerting.incidents.views import RESOLVED
from services.alerting.policy.model import Policy
from services.alerting.policy.times import maintenance_of, next_maintenance_edge_ms

_TICKED = "incidents.ticked"


def tick(connection: sa.Connection, policy: Policy, topics: Topics, now_ms: int) -> int | None:
    """Within a transaction, act upon what began or ended since the last time; returns when to come again.

    Args:
        connection: Of the transaction.
        policy: In force.
        topics: For the audit: silences that expire.
        now_ms: The clock.

    Returns:
        The next moment, milliseconds since 1970 UTC, at which something begins or ends; None if nothing will.
    """
    w = db.watch.c
    kept = connection.execute(sa.select(w.value).where(w.name == _TICKED)).scalar()
    last_ms = now_ms if kept is None else int(kept["ms"])
    concerned = _silences(connection, policy, topics, last_ms, now_ms)
    concerned |= _maintenance(connection, policy, last_ms, now_ms)
    concerned |= _calmed(connection, policy, now_ms)
    if kept is None:
        connection.execute(sa.insert(db.watch).values(name=_TICKED, value={"ms": now_ms}))
    elif last_ms < now_ms and (concerned or _edges(connection, policy, last_ms, now_ms)):
        connection.execute(sa.update(db.watch).where(w.name == _TICKED).values(value={"ms": now_ms}))
    concern_each(connection, policy, sorted(concerned), now_ms)
    return _next_ms(connection, policy, now_ms)


def _silences(connection: sa.Connection, policy: Policy, topics: Topics, last_ms: int, now_ms: int) -> set[str]:
    """Incidents of silences that began or expired; those that expired are put on record."""
    s = db.silences.c
    begun = (s.starts_ms > last_ms) & (s.starts_ms <= now_ms) & (s.ends_ms > now_ms)
    expired = (s.ends_ms <= now_ms) & (s.told_end == sa.false())
    changes = Changes(connection, policy, topics, now_ms)
    silences = [silence_of(row) for row in connection.execute(sa.select(db.silences).where(begun)).mappings()]
    for row in connection.execute(sa.select(db.silences).where(expired)).mappings().all():
        silences.append(silence_of(row))
        connection.execute(sa.update(db.silences).where(s.id == row["id"]).values(told_end=True))
        about = {"incident": row["incident_id"]} if row["incident_id"] else {}
        deed = Deed(
            identity=("silence", row["id"], "expired"),
            reason="Its time is over.",
            via="clock",
            detail={"silence": row["id"], **about},
        )
        changes.tell("silence.expired", f"silence:{row['id']}", deed, row["incident_id"])
    changes.write()
    return muted_by(connection, silences)


def _maintenance(connection: sa.Connection, policy: Policy, last_ms: int, now_ms: int) -> set[str]:
    """Incidents with a signal that maintenance has begun or ceased to mute."""
    edge_ms = next_maintenance_edge_ms(policy, last_ms) if policy.maintenance else None
    if edge_ms is None or edge_ms > now_ms:
        return set()
    found: set[str] = set()
    for signal in firing_signals(connection).values():
        if signal.incident_id not in found:
            was = maintenance_of(policy, signal.labels, last_ms)
            if was is not maintenance_of(policy, signal.labels, now_ms):
                found.add(signal.incident_id)
    return found


def _calmed(connection: sa.Connection, policy: Policy, now_ms: int) -> set[str]:
    """Incidents that came and went, and no longer do."""
    i = db.incidents.c
    most = policy.correlation.flapping_reopenings
    query = sa.select(i.id).where(i.flapping == sa.true(), i.status != RESOLVED)
    flapping = connection.execute(query).scalars().all()
    calmed = {incident_id for incident_id in flapping if len(_reopened_ms(connection, incident_id, now_ms)) < most}
    if calmed:
        connection.execute(sa.update(db.incidents).where(i.id.in_(calmed)).values(flapping=False))
    return calmed


def _reopened_ms(connection: sa.Connection, incident_id: str, now_ms: int) -> list[int]:
    """When an incident was opened again within the last day, by what fired."""
    e = db.entries.c
    query = sa.select(e.time_ms).where(
        e.incident_id == incident_id,
        e.action == "incident.reopened",
        e.actor_kind != "human",
        e.time_ms > now_ms - DAY_MS,
    )
    return sorted(connection.execute(query).scalars())


def _edges(connection: sa.Connection, policy: Policy, last_ms: int, now_ms: int) -> bool:
    """Whether anything began since the last time: it must not be found again."""
    s = db.silences.c
    begun = sa.select(s.id).where(s.starts_ms > last_ms, s.starts_ms <= now_ms).limit(1)
    edge_ms = next_maintenance_edge_ms(policy, last_ms) if policy.maintenance else None
    return connection.execute(begun).first() is not None or (edge_ms is not None and edge_ms <= now_ms)


def _next_ms(connection: sa.Connection, policy: Policy, now_ms: int) -> int | None:
    s, i = db.silences.c, db.incidents.c
    starts = sa.select(sa.func.min(s.starts_ms)).where(s.ends_ms > now_ms, s.starts_ms > now_ms)
    ends = sa.select(sa.func.min(s.ends_ms)).where(s.ends_ms > now_ms, s.told_end == sa.false())
    moments = [connection.execute(starts).scalar(), connection.execute(ends).scalar()]
    if policy.maintenance:
        moments.append(next_maintenance_edge_ms(policy, now_ms))
    flapping = sa.select(i.id).where(i.flapping == sa.true(), i.status != RESOLVED)
    for incident_id in connection.execute(flapping).scalars().all():
        reopened = _reopened_ms(connection, incident_id, now_ms)
        few = len(reopened) - policy.correlation.flapping_reopenings
        if few >= 0:
            moments.append(reopened[few] + DAY_MS)
    return min((int(moment) for moment in moments if moment is not None), default=None)
