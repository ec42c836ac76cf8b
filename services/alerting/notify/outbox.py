"""Messages that are to be sent, and what came of them; and what is to be said on Kafka.

Three transactions make up a message's life:

1. It is decided on, in the transaction that takes the alert in (:func:`enqueue`).
2. Before it is sent, that it is being sent (:meth:`Outbox.claim`).
3. What came of it, with its audit event (:meth:`Outbox.sent`, :meth:`Outbox.retry`, :meth:`Outbox.give_up`).

A process killed between 2 and 3 leaves the message *in doubt*; the next start sends it again (:meth:`Outbox.recover`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.codec import Record, decode
from driftline.topics import Topics
from services.alerting import database as db
from services.alerting.database import Database
from services.alerting.incidents import TRIGGER
from services.alerting.records import Publication, audit_event, deterministic_id
from services.alerting.settings import SEVERITIES

PENDING, SENDING, SENT, DEAD = "pending", "sending", "sent", "dead"
_UNFINISHED = (PENDING, SENDING)

IN_DOUBT = "the service ended while sending, so it is not known whether this arrived: sent again"


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


class Outbox:
    """What is to be sent. Thread-safe."""

    def __init__(self, database: Database, topics: Topics, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._topics = topics
        self._now_ms = now_ms

    def recover(self) -> int:
        """Make messages that a killed process was sending due again; returns how many are in doubt."""
        n = db.notifications.c
        with self._database.transaction() as connection:
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
                publish(connection, [event])
            return len(rows)

    def claim(self, destination: str) -> Claim | None:
        """The next message that is due at a destination, marked as being sent; None if nothing is due.

        Of the oldest unfinished message of each lane, the most urgent and then the oldest.
        """
        n = db.notifications.c
        with self._database.transaction() as connection:
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
        with self._database.transaction() as connection:
            due = connection.execute(query.where(db.notifications.c.id.in_(_heads(destination)))).scalar()
            return None if due is None else int(due)

    def sent(self, claim: Claim, receipt: Mapping[str, Any]) -> None:
        """A message arrived; ``receipt`` is what the channel needs to refer to it later."""
        now = self._now_ms()
        values = {"status": SENT, "finished_ms": now, "receipt": dict(receipt), "last_error": ""}
        waited = {"seconds_waited": f"{max(now - claim.created_ms, 0) / 1000:.3f}"}
        self._finish(claim, values, "notification.sent", "", now, waited)

    def retry(self, claim: Claim, error: str, next_attempt_ms: int, hold_until_ms: int | None = None) -> None:
        """A message did not arrive and is sent again; ``hold_until_ms`` keeps the whole destination back until then."""
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
        with self._database.transaction() as connection:
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
            publish(connection, [event])

    def holds(self) -> dict[str, int]:
        """Until when each destination is kept back, milliseconds since 1970 UTC."""
        with self._database.transaction() as connection:
            return {row.name: row.hold_until_ms for row in connection.execute(sa.select(db.destinations))}

    def publications(self, limit: int) -> list[tuple[int, Publication]]:
        """The oldest messages that are not yet known to be published, with their row ids."""
        query = sa.select(db.publications).order_by(db.publications.c.id).limit(limit)
        with self._database.transaction() as connection:
            return [
                (r.id, Publication(r.topic, r.key, r.value, [(name, value) for name, value in r.headers]))
                for r in connection.execute(query)
            ]

    def published(self, last_id: int) -> None:
        """Everything up to a row id is published."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(db.publications).where(db.publications.c.id <= last_id))

    def backlog(self) -> dict[tuple[str, str], int]:
        """How many messages each (destination, status) has."""
        n = db.notifications.c
        query = sa.select(n.destination, n.status, sa.func.count()).group_by(n.destination, n.status)
        with self._database.transaction() as connection:
            return {(name, status): count for name, status, count in connection.execute(query)}

    def unpublished(self) -> int:
        """How many messages wait to be published."""
        with self._database.transaction() as connection:
            waiting = sa.select(sa.func.count()).select_from(db.publications)
            return int(connection.execute(waiting).scalar_one())


def enqueue(connection: sa.Connection, alert: Record, incident_id: int, destination: str, kind: str, now: int) -> None:
    """Decide to tell a destination, within a transaction; a message that was decided on before stays as it is."""
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


def publish(connection: sa.Connection, messages: Sequence[Publication]) -> None:
    """Decide to publish on Kafka, within a transaction."""
    for message in messages:
        connection.execute(
            sa.insert(db.publications).values(
                topic=message.topic, key=message.key, value=message.value, headers=[list(h) for h in message.headers]
            )
        )


def _heads(destination: str) -> sa.Select[Any]:
    """The oldest unfinished message of each lane: the only one of it that may be sent."""
    n = db.notifications.c
    return sa.select(sa.func.min(n.id)).where(n.destination == destination, n.status.in_(_UNFINISHED)).group_by(n.lane)
