"""What the service knows, and the transactions that keep it true.

The guarantee rests on three of them:

1. :meth:`Store.take`: the dedup row, the incident's change, the messages to send, the audit events and the topic's
   next offset, all or nothing. The consumer is placed from that offset, never from a group's commit: an alert that
   was taken is never read again in vain, and one that was not taken is read again.
2. :meth:`Store.claim`: before a message is sent, that it is being sent.
3. :meth:`Store.sent`, :meth:`Store.retry`, :meth:`Store.give_up`: what came of it, with its audit event.

A process killed between 2 and 3 leaves the message *in doubt*; the next start sends it again (:meth:`Store.recover`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.codec import Record, decode, encode
from driftline.topics import Topics
from services.alerting import database as db
from services.alerting.incidents import FIRING, RESOLVED, TRIGGER, Change, Decision, decide, takes
from services.alerting.records import Publication, alert_evidence, audit_event, deterministic_id, digest
from services.alerting.settings import SEVERITIES, AlertingSettings

PENDING, SENDING, SENT, DEAD = "pending", "sending", "sent", "dead"
_UNFINISHED = (PENDING, SENDING)

DUPLICATE = "duplicate"
REFUSED = "refused"

IN_DOUBT = "the service ended while sending, so it is not known whether this arrived: sent again"


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


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that is being sent.

    Attributes:
        id: Row.
        key: The same for every attempt.
        destination: Name of the destination.
        kind: ``trigger`` or ``resolve``.
        attempts: Counting this one.
        alert: The record that is told.
        firing: The record that opened the incident; None if it was never seen.
        trigger_receipt: What the channel returned for the trigger; empty if there is none.
        created_ms: When it was decided.
    """

    id: int
    key: str
    destination: str
    kind: str
    attempts: int
    alert: Record
    firing: Record | None
    trigger_receipt: Mapping[str, Any]
    created_ms: int


class Store:
    """The database of one service. Thread-safe: one transaction at a time."""

    def __init__(
        self, engine: sa.Engine, settings: AlertingSettings, topics: Topics, now_ms: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._destinations = settings.destinations
        self._history = settings.history
        self._topics = topics
        self._now_ms = now_ms
        # SQLite takes one writer at a time; waiting here is fair and quick, waiting there is a sleep of growing length.
        self._lock = threading.Lock()

    # Reading the topic

    def positions(self, topic: str) -> dict[int, Position]:
        """Where each known partition goes on."""
        with self._lock, self._engine.begin() as connection:
            rows = connection.execute(sa.select(db.positions).where(db.positions.c.topic == topic))
            return {row.partition: Position(row.next_offset, row.history_end) for row in rows}

    def place(self, topic: str, partition: int, next_offset: int, history_end: int, gap: str = "") -> None:
        """Set where a partition goes on: at its first sight, or when the log no longer has the stored offset (``gap``
        says why).
        """
        where = (db.positions.c.topic == topic) & (db.positions.c.partition == partition)
        with self._lock, self._engine.begin() as connection:
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
                _publish(connection, [event])

    def take(self, batch: Sequence[Incoming]) -> Counter[str]:
        """Take messages in, in one transaction; returns how many did what (a :class:`Change`, duplicate, refused)."""
        results: Counter[str] = Counter()
        with self._lock, self._engine.begin() as connection:
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
        with self._lock, self._engine.begin() as connection:
            self._advance(connection, topic, partition, next_offset)

    @staticmethod
    def _place_of(connection: sa.Connection, message: Incoming) -> int:
        where = (db.positions.c.topic == message.topic) & (db.positions.c.partition == message.partition)
        return int(connection.execute(sa.select(db.positions.c.history_end).where(where)).scalar_one())

    def _take_one(self, connection: sa.Connection, message: Incoming, *, quiet: bool) -> str:
        alert = message.alert
        if alert is None:
            _publish(connection, message.refusal)
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
                _enqueue(connection, alert, incident_id, name, str(decision.kind), now)
        position = (message.topic, message.partition, message.offset)
        _publish(connection, self._incident_events(alert, record, decision, position, quiet=quiet, now=now))
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
                    _enqueue(connection, alert, incident_id, destination.name, TRIGGER, self._now_ms())

    # Sending

    def recover(self) -> int:
        """Make messages that a killed process was sending due again; returns how many are in doubt."""
        n = db.notifications.c
        with self._lock, self._engine.begin() as connection:
            in_doubt = sa.select(n.id, n.key, n.attempts, n.destination, n.kind, db.incidents).join(db.incidents)
            rows = connection.execute(in_doubt.where(n.status == SENDING)).mappings().all()
            for row in rows:
                where = db.notifications.c.id == row["id"]
                connection.execute(sa.update(db.notifications).where(where).values(status=PENDING, last_error=IN_DOUBT))
                event = audit_event(
                    self._topics.audit,
                    action="notification.retried",
                    subject=f"incident:{row['incident_key']}",
                    identity=(row["key"], "in-doubt", row["attempts"]),
                    time_ms=self._now_ms(),
                    reason=IN_DOUBT,
                    detail={"destination": row["destination"], "kind": row["kind"], "attempts": row["attempts"]},
                )
                _publish(connection, [event])
            return len(rows)

    def claim(self, destination: str) -> Claim | None:
        """The next message that is due at a destination, marked as being sent; None if nothing is due.

        Of the oldest unfinished message of each lane, the most urgent and then the oldest.
        """
        n = db.notifications.c
        with self._lock, self._engine.begin() as connection:
            due = n.next_attempt_ms <= self._now_ms()
            query = sa.select(db.notifications).where(n.id.in_(_heads(destination)), due)
            row = connection.execute(query.order_by(n.urgency, n.id).limit(1)).first()
            if row is None:
                return None
            sending = (
                sa.update(db.notifications).where(n.id == row.id).values(status=SENDING, attempts=row.attempts + 1)
            )
            connection.execute(sending)
            records = self._records(connection, row.incident_id, row.alert_id)
            trigger = sa.select(n.receipt).where(
                n.incident_id == row.incident_id, n.destination == destination, n.kind == TRIGGER, n.status == SENT
            )
            receipt = {} if row.kind == TRIGGER else connection.execute(trigger).scalar() or {}
        return Claim(
            id=row.id,
            key=row.key,
            destination=destination,
            kind=row.kind,
            attempts=row.attempts + 1,
            alert=decode(records[0])[1],
            firing=None if records[1] is None else decode(records[1])[1],
            trigger_receipt=receipt,
            created_ms=row.created_ms,
        )

    @staticmethod
    def _records(connection: sa.Connection, incident_id: int, alert_id: str) -> tuple[bytes, bytes | None]:
        told = sa.select(db.alerts.c.record).where(db.alerts.c.id == alert_id)
        firing = sa.select(db.alerts.c.record).join(db.incidents, db.incidents.c.firing_alert_id == db.alerts.c.id)
        first = connection.execute(firing.where(db.incidents.c.id == incident_id)).scalar()
        return connection.execute(told).scalar_one(), first

    def next_due_ms(self, destination: str) -> int | None:
        """When the next message of a destination is due; None if none waits."""
        query = sa.select(sa.func.min(db.notifications.c.next_attempt_ms))
        with self._lock, self._engine.begin() as connection:
            due = connection.execute(query.where(db.notifications.c.id.in_(_heads(destination)))).scalar()
            return None if due is None else int(due)

    def sent(self, claim: Claim, receipt: Mapping[str, Any]) -> None:
        """A message arrived; ``receipt`` is what the channel needs to refer to it later."""
        now = self._now_ms()
        values = {"status": SENT, "finished_ms": now, "receipt": dict(receipt), "last_error": ""}
        waited = {"seconds_waited": f"{max(now - claim.created_ms, 0) / 1000:.3f}"}
        self._finish(claim, values, "notification.sent", "", now, waited)

    def retry(self, claim: Claim, error: str, next_attempt_ms: int, hold_until_ms: int | None = None) -> None:
        """A message did not arrive and will be sent again; ``hold_until_ms`` keeps the whole destination back until
        then.
        """
        values = {"status": PENDING, "next_attempt_ms": next_attempt_ms, "last_error": error}
        # The first one only: a destination that is away for hours would fill the audit with itself.
        action = "notification.retried" if claim.attempts == 1 else None
        self._finish(claim, values, action, error, self._now_ms(), {}, hold_until_ms)

    def give_up(self, claim: Claim, error: str) -> None:
        """A message will never arrive."""
        now = self._now_ms()
        values = {"status": DEAD, "finished_ms": now, "last_error": error}
        self._finish(claim, values, "notification.failed", error, now, {})

    def _finish(
        self,
        claim: Claim,
        values: Mapping[str, Any],
        action: str | None,
        reason: str,
        now: int,
        detail: Mapping[str, object],
        hold_until_ms: int | None = None,
    ) -> None:
        with self._lock, self._engine.begin() as connection:
            connection.execute(sa.update(db.notifications).where(db.notifications.c.id == claim.id).values(**values))
            if hold_until_ms is not None:
                _hold(connection, claim.destination, hold_until_ms)
            if action is None:
                return
            facts = {"destination": claim.destination, "kind": claim.kind, "attempts": claim.attempts, **detail}
            event = audit_event(
                self._topics.audit,
                action=action,
                subject=f"incident:{claim.alert['incident_key']}",
                identity=(claim.key,),
                time_ms=now,
                reason=reason,
                evidence=[f"alert:{claim.alert['id']}"],
                detail={"deployment": claim.alert["deployment_id"], **facts},
            )
            _publish(connection, [event])

    def holds(self) -> dict[str, int]:
        """Until when each destination is kept back, milliseconds since 1970 UTC."""
        with self._lock, self._engine.begin() as connection:
            return {row.name: row.hold_until_ms for row in connection.execute(sa.select(db.destinations))}

    # Publishing

    def publications(self, limit: int) -> list[tuple[int, Publication]]:
        """The oldest messages that are not yet known to be published, with their row ids."""
        query = sa.select(db.publications).order_by(db.publications.c.id).limit(limit)
        with self._lock, self._engine.begin() as connection:
            return [
                (r.id, Publication(r.topic, r.key, r.value, [(name, value) for name, value in r.headers]))
                for r in connection.execute(query)
            ]

    def published(self, last_id: int) -> None:
        """Everything up to a row id is published."""
        with self._lock, self._engine.begin() as connection:
            connection.execute(sa.delete(db.publications).where(db.publications.c.id <= last_id))

    # Looking

    def backlog(self) -> dict[tuple[str, str], int]:
        """How many messages each (destination, status) has."""
        n = db.notifications.c
        query = sa.select(n.destination, n.status, sa.func.count()).group_by(n.destination, n.status)
        with self._lock, self._engine.begin() as connection:
            return {(name, status): count for name, status, count in connection.execute(query)}

    def counts(self) -> dict[str, int]:
        """Firing incidents, and messages that wait to be published."""
        firing = sa.select(sa.func.count()).select_from(db.incidents).where(db.incidents.c.status == FIRING)
        waiting = sa.select(sa.func.count()).select_from(db.publications)
        with self._lock, self._engine.begin() as connection:
            return {
                "firing": int(connection.execute(firing).scalar_one()),
                "unpublished": int(connection.execute(waiting).scalar_one()),
            }


def _heads(destination: str) -> sa.Select[Any]:
    """The oldest unfinished message of each lane: the only one of it that may be sent."""
    n = db.notifications.c
    return sa.select(sa.func.min(n.id)).where(n.destination == destination, n.status.in_(_UNFINISHED)).group_by(n.lane)


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


def _enqueue(connection: sa.Connection, alert: Record, incident_id: int, destination: str, kind: str, now: int) -> None:
    key = deterministic_id("notification", alert["incident_key"], alert["episode"], destination, kind)
    known = sa.select(db.notifications.c.id).where(db.notifications.c.key == key)
    if connection.execute(known).first() is not None:
        return
    connection.execute(
        sa.insert(db.notifications).values(
            key=key,
            incident_id=incident_id,
            lane=alert["incident_key"],
            destination=destination,
            kind=kind,
            alert_id=alert["id"],
            urgency=SEVERITIES.index(alert["severity"]),
            status=PENDING,
            attempts=0,
            next_attempt_ms=now,
            created_ms=now,
            last_error="",
            receipt={},
        )
    )


def _hold(connection: sa.Connection, destination: str, until_ms: int) -> None:
    connection.execute(sa.delete(db.destinations).where(db.destinations.c.name == destination))
    connection.execute(sa.insert(db.destinations).values(name=destination, hold_until_ms=until_ms))


def _publish(connection: sa.Connection, messages: Sequence[Publication]) -> None:
    for message in messages:
        connection.execute(
            sa.insert(db.publications).values(
                topic=message.topic, key=message.key, value=message.value, headers=[list(h) for h in message.headers]
            )
        )
