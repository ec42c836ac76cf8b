"""Taking alerts in.

One transaction (:meth:`Store.take`) holds the dedup rows, the incidents' changes, the messages to send, the audit
events and the topic's next offset: all or nothing. The consumer is placed from that offset, never from a group's
commit: an alert that was taken is never read again in vain, and one that was not taken is read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.codec import Record, decode, encode
from driftline.topics import Topics
from services.alerting import database as db
from services.alerting.database import Database
from services.alerting.incidents import FIRING, RESOLVED, TRIGGER, Change, Decision, decide, takes
from services.alerting.notify.outbox import enqueue, publish
from services.alerting.records import Publication, alert_evidence, audit_event, digest
from services.alerting.settings import AlertingSettings

DUPLICATE = "duplicate"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message of the topic ``alerts``: an alert, or what is published because it is none."""

    topic: str
    partition: int
    offset: int
    alert: Record | None
    refusal: tuple[Publication, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition goes on. See :data:`services.alerting.database.positions`."""

    next_offset: int
    history_end: int


class Store:
    """Where alerts go. Thread-safe."""

    def __init__(
        self, database: Database, settings: AlertingSettings, topics: Topics, now_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._destinations = settings.destinations
        self._history = settings.history
        self._topics = topics
        self._now_ms = now_ms

    def positions(self, topic: str) -> dict[int, Position]:
        """Where each known partition goes on."""
        with self._database.transaction() as connection:
            rows = connection.execute(sa.select(db.positions).where(db.positions.c.topic == topic))
            return {row.partition: Position(row.next_offset, row.history_end) for row in rows}

    def place(self, topic: str, partition: int, next_offset: int, history_end: int, gap: str = "") -> None:
        """Set where a partition goes on.

        At its first sight, or when the log no longer has the stored offset: ``gap`` says why.
        """
        where = (db.positions.c.topic == topic) & (db.positions.c.partition == partition)
        with self._database.transaction() as connection:
            known = connection.execute(sa.select(db.positions.c.next_offset).where(where)).scalar()
            if known is None:
                told = self._history != "open" or history_end <= next_offset
                values = {"topic": topic, "partition": partition, "history_end": history_end, "history_told": told}
                connection.execute(sa.insert(db.positions).values(next_offset=next_offset, **values))
            else:
                connection.execute(sa.update(db.positions).where(where).values(next_offset=next_offset))
            if gap:
                event = audit_event(
                    self._topics.audit,
                    action="alerts.skipped",
                    subject=f"topic:{topic}/{partition}",
                    identity=(topic, partition, known, next_offset),
                    time_ms=self._now_ms(),
                    reason=gap,
                    detail={"stored_offset": known, "next_offset": next_offset},
                )
                publish(connection, [event])

    def take(self, batch: Sequence[Incoming]) -> Counter[str]:
        """Take messages in, in one transaction; returns how many did what (a :class:`Change`, duplicate, refused)."""
        results: Counter[str] = Counter()
        with self._database.transaction() as connection:
            places = {(m.topic, m.partition): self._place_of(connection, m) for m in batch}
            ends: dict[tuple[str, int], int] = {}
            for message in batch:
                history_end = places[message.topic, message.partition]
                quiet = self._history != "all" and message.offset < history_end
                if message.offset >= history_end:
                    self._tell_history(connection, message.topic, message.partition, message.offset)
                results[self._take_one(connection, message, quiet=quiet)] += 1
                ends[message.topic, message.partition] = message.offset + 1
            for (topic, partition), next_offset in ends.items():
                self._advance(connection, topic, partition, next_offset)
        return results

    def advance(self, topic: str, partition: int, next_offset: int) -> None:
        """Move a position over offsets that hold no message (transaction markers, aborted records)."""
        with self._database.transaction() as connection:
            self._advance(connection, topic, partition, next_offset)

    @staticmethod
    def _place_of(connection: sa.Connection, message: Incoming) -> int:
        where = (db.positions.c.topic == message.topic) & (db.positions.c.partition == message.partition)
        return int(connection.execute(sa.select(db.positions.c.history_end).where(where)).scalar_one())

    def _take_one(self, connection: sa.Connection, message: Incoming, *, quiet: bool) -> str:
        alert = message.alert
        if alert is None:
            publish(connection, message.refusal)
            return REFUSED
        seen = sa.select(db.alerts.c.id).where(db.alerts.c.id == alert["id"])
        if connection.execute(seen).first() is not None:
            return DUPLICATE
        now = self._now_ms()
        record = encode("Alert", alert)
        place = {"topic": message.topic, "partition": message.partition}
        connection.execute(
            sa.insert(db.alerts).values(id=alert["id"], record=record, offset=message.offset, seen_ms=now, **place)
        )
        same = (db.incidents.c.incident_key == alert["incident_key"]) & (db.incidents.c.episode == alert["episode"])
        known = connection.execute(sa.select(db.incidents.c.id, db.incidents.c.status).where(same)).first()
        triggered = [] if known is None else self._triggered(connection, known.id)
        decision = decide(alert, None if known is None else known.status, triggered, self._destinations)
        incident_id = _keep_incident(connection, alert, decision, None if known is None else known.id, place, now)
        if not quiet:
            for name in decision.destinations:
                enqueue(connection, alert, incident_id, name, str(decision.kind), now)
        position = (message.topic, message.partition, message.offset)
        publish(connection, self._incident_events(alert, record, decision, position, quiet=quiet, now=now))
        return decision.change.value

    @staticmethod
    def _triggered(connection: sa.Connection, incident_id: int) -> list[str]:
        n = db.notifications.c
        query = sa.select(n.destination).where(n.incident_id == incident_id, n.kind == TRIGGER).order_by(n.id)
        return list(connection.execute(query).scalars())

    def _incident_events(
        self, alert: Record, record: bytes, decision: Decision, position: tuple[str, int, int], *, quiet: bool, now: int
    ) -> list[Publication]:
        action = {
            Change.OPENED: "incident.opened",
            Change.RESOLVED: "incident.resolved",
            Change.RESOLVED_UNSEEN: "incident.resolved",
        }.get(decision.change)
        if action is None:
            return []
        return [
            audit_event(
                self._topics.audit,
                action=action,
                subject=f"incident:{alert['incident_key']}",
                identity=(alert["id"],),
                time_ms=now,
                reason=self._why_told(decision, quiet=quiet),
                after_digest=digest(record),
                evidence=alert_evidence(alert, position),
                detail={
                    "deployment": alert["deployment_id"],
                    "version": alert["model_version"],
                    "monitor": alert["monitor"],
                    "severity": alert["severity"],
                    "episode": alert["episode"],
                    "change_time_us": alert["change_time_us"],
                    "detection_time_us": alert["detection_time_us"],
                    "told": "" if quiet else ", ".join(decision.destinations),
                },
            )
        ]

    def _why_told(self, decision: Decision, *, quiet: bool) -> str:
        if quiet:
            return "The alert was there before this service first started; of those, incidents still open are told."
        unseen = (
            "The trigger of this incident was never seen here. " if decision.change == Change.RESOLVED_UNSEEN else ""
        )
        if decision.destinations:
            return f"{unseen}Told: {', '.join(decision.destinations)}."
        if not self._destinations:
            return f"{unseen}Nobody is told: no destination is configured."
        if decision.change == Change.RESOLVED:
            return "Nobody is told: nobody was told when it opened."
        return f"{unseen}Nobody is told: no destination takes this severity."

    def _advance(self, connection: sa.Connection, topic: str, partition: int, next_offset: int) -> None:
        p = db.positions.c
        where = (p.topic == topic) & (p.partition == partition)
        connection.execute(sa.update(db.positions).where(where).values(next_offset=next_offset))
        self._tell_history(connection, topic, partition, next_offset)

    def _tell_history(self, connection: sa.Connection, topic: str, partition: int, next_offset: int) -> None:
        """Once, when the history ends: enqueue the incidents that are still open."""
        p = db.positions.c
        where = (p.topic == topic) & (p.partition == partition)
        over = where & (p.history_told == sa.false()) & (p.history_end <= next_offset)
        if connection.execute(sa.select(p.topic).where(over)).first() is None:
            return
        connection.execute(sa.update(db.positions).where(where).values(history_told=True))
        i = db.incidents.c
        still_open = (
            sa.select(i.id, db.alerts.c.record)
            .join(db.alerts, db.alerts.c.id == i.firing_alert_id)
            .where(i.topic == topic, i.partition == partition, i.status == FIRING)
            .order_by(i.id)
        )
        for incident_id, record in connection.execute(still_open).all():
            alert = decode(record)[1]
            for destination in self._destinations:
                if takes(destination, alert["severity"]):
                    enqueue(connection, alert, incident_id, destination.name, TRIGGER, self._now_ms())

    def firing(self) -> int:
        """How many incidents are open."""
        query = sa.select(sa.func.count()).select_from(db.incidents).where(db.incidents.c.status == FIRING)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())


def _keep_incident(
    connection: sa.Connection, alert: Record, decision: Decision, known: int | None, place: Mapping[str, Any], now: int
) -> int:
    if known is not None and decision.change == Change.STALE:
        return known
    firing = alert["status"] == FIRING
    values: dict[str, Any] = {
        "severity": alert["severity"],
        "change_time_us": alert["change_time_us"],
        "updated_ms": now,
    }
    if firing:
        values |= {"status": FIRING, "opened_us": alert["detection_time_us"], "firing_alert_id": alert["id"]}
    else:
        values |= {"status": RESOLVED, "resolved_us": alert["detection_time_us"], "resolved_alert_id": alert["id"]}
    if known is not None:
        connection.execute(sa.update(db.incidents).where(db.incidents.c.id == known).values(**values))
        return known
    names = ("incident_key", "episode", "deployment_id", "model_version", "monitor")
    values |= {name: alert[name] for name in names} | dict(place)
    inserted = connection.execute(sa.insert(db.incidents).values(**values)).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])
