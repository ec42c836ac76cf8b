"""Messages that need not be sent any more: merged into a later one, into a digest, or superfluous."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as t
from services.alerting.notify.audience import dedups
from services.alerting.notify.kinds import Kind
from services.alerting.notify.story import tell_story
from services.alerting.policy.model import Policy
from services.alerting.records import deterministic_id

PENDING, SENDING, SENT, DEAD, MERGED = "pending", "sending", "sent", "dead", "merged"
GATHERED = "gathered"
"""A digest that is not sent yet tells of it: its lane waits for that digest."""

UNFINISHED = (PENDING, SENDING, GATHERED)

BACKLOG_LANE = "backlog"
IN_A_DEAD_DIGEST = "the digest that told of it failed"
NOBODY_SAW = "nobody saw the beginning of this: it could not be delivered"

_SUPERSEDED_BY: dict[str, frozenset[str]] = {
    # A later message shows everything as it is. But a pager must hear that somebody took it, whatever comes later
    # (except that it is over), and a reminder must still be noticed, unless somebody took it or it is over.
    Kind.UPDATE: frozenset({Kind.UPDATE, Kind.ACKNOWLEDGE, Kind.REPEAT, Kind.RESOLVE}),
    Kind.REPEAT: frozenset({Kind.REPEAT, Kind.ACKNOWLEDGE, Kind.RESOLVE}),
    Kind.ACKNOWLEDGE: frozenset({Kind.ACKNOWLEDGE, Kind.RESOLVE}),
}


def settle_lane(connection: sa.Connection, topics: Topics, row: sa.Row[Any], now_ms: int) -> int:
    """Merge the oldest message of a lane if it need not be sent; returns 1 if it was merged, else 0."""
    if row.thread_id is None:
        return 0
    n = t.notifications.c
    if row.kind != Kind.RESOLVE:
        since = sa.select(n.id).where(n.thread_id == row.thread_id, n.id > row.id, n.status == SENT).limit(1)
        if connection.execute(since).first() is not None:
            # It was given up and asked for again: its pager would open the incident again after its end.
            _merge(connection, topics, row, "what came after it has been told since", now_ms)
            return 1
    if row.kind in _SUPERSEDED_BY and not row.doubts:
        later = (n.thread_id == row.thread_id) & (n.id > row.id) & (n.status == PENDING)
        by = later & n.kind.in_(_SUPERSEDED_BY[row.kind])
        into = connection.execute(sa.select(n.key).where(by).order_by(n.id).limit(1)).scalar()
        if into is not None:
            _merge(connection, topics, row, f"a later message tells of it too: {into}", now_ms)
            return 1
    if row.kind in (Kind.UPDATE, Kind.ACKNOWLEDGE, Kind.RESOLVE) and not row.doubts and _nobody_saw(connection, row):
        _merge(connection, topics, row, NOBODY_SAW, now_ms)
        return 1
    return 0


def _nobody_saw(connection: sa.Connection, row: sa.Row[Any]) -> bool:
    """Whether the thread's beginning failed for good and nothing else of it has arrived."""
    n = t.notifications.c
    of_thread = sa.select(n.id).where(n.thread_id == row.thread_id, n.id < row.id)
    # One whose answer was lost may have been seen after all.
    beginning = n.kind.in_((Kind.TRIGGER, Kind.DIGEST)) & (n.status == DEAD) & (n.doubts == 0)
    failed = connection.execute(of_thread.where(beginning)).first()
    return failed is not None and connection.execute(of_thread.where(n.status == SENT)).first() is None


def _merge(connection: sa.Connection, topics: Topics, row: sa.Row[Any], why: str, now_ms: int) -> None:
    values = {"status": MERGED, "finished_ms": now_ms, "last_error": why}
    connection.execute(sa.update(t.notifications).where(t.notifications.c.id == row.id).values(**values))
    _tell_merged(connection, topics, row, why, now_ms)


def _tell_merged(connection: sa.Connection, topics: Topics, row: sa.Row[Any], why: str, now_ms: int) -> None:
    tell_story(
        connection,
        topics,
        action="notification.merged",
        identity=(row.key, now_ms),
        incidents=row.incidents,
        receiver=row.receiver,
        time_ms=now_ms,
        reason=why,
        detail={"kind": row.kind, "attempts": row.attempts},
        entry=False,
    )


def gather_backlog(connection: sa.Connection, topics: Topics, policy: Policy, receiver: str, now_ms: int) -> int:
    """Make one digest of all first messages that wait at a receiver, if they are too many; returns how many it took.

    Criticals go by themselves. A receiver that keeps a state of its own (a pager) gets every message. What may have
    arrived already is looked for by its own key, so it goes by itself too.
    """
    if not policy.backlog_digest or dedups(policy.receivers.get(receiver)):
        return 0
    n = t.notifications.c
    waiting = (
        (n.receiver == receiver)
        & (n.status == PENDING)
        & (n.urgency > 0)
        & (n.kind == Kind.TRIGGER)
        & (n.doubts == 0)
        & n.thread_id.is_not(None)
    )
    first = connection.execute(sa.select(n.id).where(waiting).limit(policy.backlog_digest + 1)).all()
    if len(first) <= policy.backlog_digest:
        return 0
    unsent_digest = (n.receiver == receiver) & (n.lane == BACKLOG_LANE) & n.status.in_((PENDING, SENDING))
    if connection.execute(sa.select(n.id).where(unsent_digest)).first() is not None:
        return 0
    rows = connection.execute(sa.select(t.notifications).where(waiting).order_by(n.urgency, n.id)).all()
    incidents = list({told["incident"]: told for row in rows for told in row.incidents}.values())
    connection.execute(
        sa.insert(t.notifications).values(
            key=deterministic_id("backlog", receiver, now_ms, *(row.key for row in rows)),
            thread_id=None,
            lane=BACKLOG_LANE,
            receiver=receiver,
            kind=Kind.DIGEST.value,
            reason=f"{len(rows)} first messages were waiting for this receiver: they are told in one",
            incidents=incidents,
            urgency=min(row.urgency for row in rows),
            status=PENDING,
            attempts=0,
            doubts=0,
            next_attempt_ms=now_ms,
            created_ms=min(row.created_ms for row in rows),
            last_error="",
        )
    )
    connection.execute(
        sa.update(t.notifications).where(waiting).values(status=GATHERED, last_error="waits for the digest it is in")
    )
    for row in rows:
        _tell_merged(connection, topics, row, "too many first messages were waiting: told in one digest", now_ms)
    return len(rows)
