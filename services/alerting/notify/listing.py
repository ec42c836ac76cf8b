"""Messages as people see them, and sending again what was given up; messages that are about no incident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.incidents.actions import ActionRefusedError, Actor
from services.alerting.notify.kinds import Kind
from services.alerting.notify.merging import (
    BACKLOG_LANE,
    DEAD,
    GATHERED,
    IN_A_DEAD_DIGEST,
    MERGED,
    NOBODY_SAW,
    PENDING,
    SENDING,
    SENT,
)
from services.alerting.notify.story import tell_story
from services.alerting.records import deterministic_id

STATUSES = (PENDING, SENDING, GATHERED, SENT, DEAD, MERGED)
_DIRECT = {Kind.HEARTBEAT: 3, Kind.TEST: 1}


@dataclass(frozen=True, slots=True)
class Notification:
    """A message.

    Attributes:
        id: Its number, in the order in which they were decided.
        key: A uuid, the same for every attempt.
        receiver: Who it is for.
        kind: What it is for.
        status: ``pending``, ``sending``, ``gathered`` (waits for the digest it is in), ``sent``, ``dead`` (given up:
            it can be sent again) or ``merged`` (it need not be sent).
        reason: Why it was decided.
        incidents: What it tells: incident, status, revision, episode, severity.
        attempts: How often it was tried.
        doubts: How many of these nobody knows the end of.
        created_ms: When it was decided.
        next_attempt_ms: When it is tried next, while it is pending.
        finished_ms: When it was sent, given up or merged; None before.
        last_error: Why it did not arrive, or need not.
    """

    id: int
    key: str
    receiver: str
    kind: str
    status: str
    reason: str
    incidents: tuple[Mapping[str, Any], ...]
    attempts: int
    doubts: int
    created_ms: int
    next_attempt_ms: int
    finished_ms: int | None
    last_error: str


def list_notifications(
    connection: sa.Connection,
    *,
    status: str | None = None,
    receiver: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Notification]:
    """Messages, the latest first.

    Args:
        connection: Of a transaction.
        status: Only these; see :data:`STATUSES`.
        receiver: Only this one's.
        before: Only those with a smaller number: the last one of the page before.
        limit: At most so many.
    """
    n = t.notifications.c
    query = sa.select(t.notifications).order_by(n.id.desc()).limit(limit)
    if status is not None:
        query = query.where(n.status == status)
    if receiver is not None:
        query = query.where(n.receiver == receiver)
    if before is not None:
        query = query.where(n.id < before)
    names = [name for name in Notification.__dataclass_fields__ if name != "incidents"]
    return [
        Notification(**{name: getattr(row, name) for name in names}, incidents=tuple(row.incidents))
        for row in connection.execute(query)
    ]


def redrive(
    database: Database,
    topics: Topics,
    what: Sequence[int] | str,
    actor: Actor,
    now_ms: int,
) -> list[int]:
    """Have messages that were given up sent again, under the same key; returns their numbers.

    The end of an incident whose beginning is sent again follows it, if it was left out for that reason.

    Args:
        database: Of the service.
        topics: For the audit events.
        what: Numbers of messages, or a receiver's name for all of its.
        actor: Who asks.
        now_ms: The service's clock.

    Raises:
        ActionRefusedError: None of them was given up.
    """
    n = t.notifications.c
    asked = n.receiver == what if isinstance(what, str) else n.id.in_([int(number) for number in what])
    with database.transaction() as connection:
        rows = connection.execute(sa.select(t.notifications).where(asked, n.status == DEAD).order_by(n.id)).all()
        if not rows:
            named = f"of {what!r}" if isinstance(what, str) else "with " + ", ".join(map(str, what[:10]))
            raise ActionRefusedError(
                f"no message {named} was given up, so there is none to send again: list them with status dead", 404
            )
        rows = _by_themselves(connection, rows, now_ms)
        for row in rows:
            _send_again(connection, topics, row, actor, now_ms)
        threads = [row.thread_id for row in rows if row.kind == Kind.TRIGGER]
        left_out = sa.select(t.notifications).where(
            n.thread_id.in_(threads), n.status == MERGED, n.last_error == NOBODY_SAW, n.kind == Kind.RESOLVE
        )
        for row in connection.execute(left_out.order_by(n.id)).all():
            _send_again(connection, topics, row, actor, now_ms)
        return [row.id for row in rows]


def _by_themselves(connection: sa.Connection, rows: Sequence[sa.Row[Any]], now_ms: int) -> list[sa.Row[Any]]:
    """In place of a digest of what had been waiting, the messages that it carried: or they would be told twice."""
    n = t.notifications.c
    found = {row.id: row for row in rows if row.lane != BACKLOG_LANE}
    for digest in (row for row in rows if row.lane == BACKLOG_LANE):
        about = {told["incident"] for told in digest.incidents}
        lost = (n.receiver == digest.receiver) & (n.status == DEAD) & n.last_error.startswith(IN_A_DEAD_DIGEST)
        for row in connection.execute(sa.select(t.notifications).where(lost)).all():
            if about & {told["incident"] for told in row.incidents}:
                found[row.id] = row
        why = "what it carried is sent again by itself"
        values = {"status": MERGED, "finished_ms": now_ms, "last_error": why}
        connection.execute(sa.update(t.notifications).where(n.id == digest.id).values(**values))
    return [found[number] for number in sorted(found)]


def _send_again(connection: sa.Connection, topics: Topics, row: sa.Row[Any], actor: Actor, now_ms: int) -> None:
    values = {
        "status": PENDING,
        "attempts": 0,
        "next_attempt_ms": now_ms,
        "created_ms": now_ms,  # it is given up anew only after as long again
        "finished_ms": None,
        "last_error": f"sent again, as {actor.name} asked",
    }
    connection.execute(sa.update(t.notifications).where(t.notifications.c.id == row.id).values(**values))
    tell_story(
        connection,
        topics,
        action="notification.redriven",
        identity=(row.key, now_ms),
        incidents=row.incidents,
        receiver=row.receiver,
        time_ms=now_ms,
        reason=row.last_error,
        detail={"kind": row.kind, "attempts": row.attempts},
        actor=actor.name,
        actor_kind=actor.kind,
        via=actor.via,
    )


def enqueue_direct(connection: sa.Connection, receiver: str, kind: Kind, reason: str, now_ms: int) -> str:
    """Decide, within a transaction, on a sign of life or a test; returns its key.

    Of signs of life only one waits at a time: a receiver that was away for a week need not be told seven times that
    we live.

    Raises:
        ValueError: Of another kind: those have threads.
    """
    if kind not in _DIRECT:
        raise ValueError(f"expected a heartbeat or a test, came {kind.value!r}")
    n = t.notifications.c
    lane = f"{kind.value}:"
    if kind == Kind.HEARTBEAT:
        waiting = (n.receiver == receiver) & (n.lane == lane) & n.status.in_((PENDING, SENDING))
        if (known := connection.execute(sa.select(n.key).where(waiting)).scalar()) is not None:
            return str(known)
    last = connection.execute(sa.select(sa.func.max(n.id)).where(n.receiver == receiver, n.lane == lane)).scalar()
    key = deterministic_id("notification", receiver, kind.value, now_ms, last)
    connection.execute(
        sa.insert(t.notifications).values(
            key=key,
            thread_id=None,
            lane=lane,
            receiver=receiver,
            kind=kind.value,
            reason=reason,
            incidents=[],
            urgency=_DIRECT[kind],
            status=PENDING,
            attempts=0,
            doubts=0,
            next_attempt_ms=now_ms,
            created_ms=now_ms,
            last_error="",
        )
    )
    return key
