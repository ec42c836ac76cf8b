"""Messages that are to be sent, and what came of them; and what is to be said on Kafka.

Three transactions make up a message's life:

1. It is decided on, in the transaction that changes what its receiver was told (:mod:`.flushing`).
2. Before it is sent, that it is being sent (:meth:`Outbox.claim`).
3. What came of it, with its audit event (:meth:`Outbox.sent`, :meth:`Outbox.retry`, :meth:`Outbox.give_up`).

A process killed between 2 and 3 leaves the message *in doubt*; the next start sends it again (:meth:`Outbox.recover`).

Order: within a lane (a receiver's group of incidents) messages go out in the order in which they were decided, one
when the one before it has arrived or was given up. An end whose beginning nobody saw is not sent. A message that a
later one of its thread makes superfluous is merged into it; beginnings, ends and what a pager has to be told never.
Across lanes the most urgent go first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.channels.delivery import Delivery
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.views import RESOLVED
from services.alerting.notify.kinds import Kind
from services.alerting.notify.merging import (
    BACKLOG_LANE,
    DEAD,
    GATHERED,
    IN_A_DEAD_DIGEST,
    MERGED,
    PENDING,
    SENDING,
    SENT,
    UNFINISHED,
    gather_backlog,
    settle_lane,
)
from services.alerting.notify.publishing import publish
from services.alerting.notify.reachability import note_failure, note_success
from services.alerting.notify.story import tell_story
from services.alerting.notify.threads import fall_back
from services.alerting.policy.model import SEVERITIES, Policy, PolicyHolder
from services.alerting.records import Publication, deterministic_id, whole

__all__ = ["DEAD", "GATHERED", "MERGED", "PENDING", "SENDING", "SENT", "Claim", "Outbox", "publish"]

IN_DOUBT = "the service ended while sending, so it is not known whether this arrived: sent again"
_ENTRIES = 50


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that is being sent.

    Attributes:
        id: Row.
        thread_id: Row of its thread; None for a sign of life, a test, and a digest of what had been waiting.
        lane: Its lane.
        delivery: What the channel is given.
        told: What it tells, as the row has it.
        group: The thread's group key, episode and route, for the audit.
    """

    id: int
    thread_id: int | None
    lane: str
    delivery: Delivery
    told: Sequence[Mapping[str, Any]]
    group: Mapping[str, object]


class Outbox:
    """What is to be sent. Thread-safe.

    Args:
        database: Of the service.
        policy: In force.
        topics: For the audit events.
        now_ms: The service's clock.
        merged: Called with a receiver's name and how many of its messages were merged into later ones.
    """

    def __init__(
        self,
        database: Database,
        policy: PolicyHolder,
        topics: Topics,
        now_ms: Callable[[], int],
        merged: Callable[[str, int], None] = lambda receiver, count: None,
    ) -> None:
        self._database = database
        self._policy = policy
        self._topics = topics
        self._now_ms = now_ms
        self._merged = merged
        # Of messages without a thread, what an attempt that half arrived left behind.
        self._half: dict[str, Mapping[str, Any]] = {}

    def recover(self) -> dict[str, int]:
        """Make messages that a killed process was sending due again; returns how many are in doubt, by receiver."""
        n = t.notifications.c
        in_doubt: dict[str, int] = {}
        with self._database.transaction() as connection:
            now = self._now_ms()
            for row in connection.execute(sa.select(t.notifications).where(n.status == SENDING)).all():
                in_doubt[row.receiver] = in_doubt.get(row.receiver, 0) + 1
                values = {"status": PENDING, "last_error": IN_DOUBT, "doubts": row.doubts + 1}
                connection.execute(sa.update(t.notifications).where(n.id == row.id).values(**values))
                tell_story(
                    connection,
                    self._topics,
                    action="notification.retried",
                    identity=(row.key, "in-doubt", row.attempts),
                    incidents=row.incidents,
                    receiver=row.receiver,
                    time_ms=now,
                    reason=IN_DOUBT,
                    detail={"kind": row.kind, "attempts": row.attempts},
                    entry=False,
                )
        return in_doubt

    def claim(self, receiver: str) -> Claim | None:
        """The next message that is due at a receiver, marked as being sent; None if nothing is due.

        Of the oldest unfinished message of each lane, the most urgent and then the oldest.
        """
        with self._database.transaction() as connection:
            claim, merged = self._claim(connection, receiver)
        if merged:
            self._merged(receiver, merged)
        return claim

    def _claim(self, connection: sa.Connection, receiver: str) -> tuple[Claim | None, int]:
        """The next message, and how many were found superfluous on the way to it."""
        policy = self._policy.current
        now = self._now_ms()
        merged = 0
        while True:
            row = self._next(connection, receiver, now)
            if row is None:
                return None, merged
            gone = settle_lane(connection, self._topics, row, now)
            if not gone and row.kind == Kind.TRIGGER and row.urgency > 0 and row.lane != BACKLOG_LANE:
                gone = gather_backlog(connection, self._topics, policy, receiver, now)
            if not gone:
                break
            merged += gone
        values = {"status": SENDING, "attempts": row.attempts + 1}
        connection.execute(sa.update(t.notifications).where(t.notifications.c.id == row.id).values(**values))
        return self._claimed(connection, policy, row, now), merged

    @staticmethod
    def _next(connection: sa.Connection, receiver: str, now_ms: int) -> sa.Row[Any] | None:
        n = t.notifications.c
        due = (n.receiver == receiver) & (n.status == PENDING) & (n.next_attempt_ms <= now_ms)
        query = sa.select(t.notifications).where(due, ~_earlier_unfinished()).order_by(n.urgency, n.id).limit(1)
        return connection.execute(query).first()

    def _claimed(self, connection: sa.Connection, policy: Policy, row: sa.Row[Any], now_ms: int) -> Claim:
        thread = None
        if row.thread_id is not None:
            thread = connection.execute(sa.select(t.threads).where(t.threads.c.id == row.thread_id)).one()
        ids = [str(told["incident"]) for told in row.incidents]
        found = load_incidents(connection, policy, ids, now_ms, entries=_ENTRIES) if ids else {}
        incidents = sorted(
            (found[incident_id] for incident_id in ids if incident_id in found),
            key=lambda i: (i.status == RESOLVED, SEVERITIES.index(i.severity), i.opened_ms, i.id),
        )
        because = ""
        if thread is not None:
            ti = t.thread_incidents.c
            given = sa.select(ti.because).where(ti.thread_id == thread.id, ti.because != "").limit(1)
            because = connection.execute(given).scalar() or ""
        delivery = Delivery(
            key=row.key,
            kind=Kind(row.kind),
            receiver=row.receiver,
            thread_key=thread_key(row.receiver, row.lane, 0 if thread is None else thread.episode, row.key),
            incidents=tuple(incidents),
            attempt=row.attempts + 1,
            doubtful=row.doubts > 0,
            receipt={**({} if thread is None else thread.receipt), **self._half.get(row.key, {})},
            reason=row.reason,
            created_ms=row.created_ms,
            sent_ms=now_ms,
            public_url=policy.public_url,
            group_labels=()
            if thread is None
            else tuple((str(name), str(value)) for name, value in thread.group_labels),
            because=because,
        )
        group: dict[str, object] = {}
        if thread is not None:
            group = {"group_key": thread.group_key, "thread_episode": thread.episode, "route": thread.route}
        return Claim(row.id, row.thread_id, row.lane, delivery, row.incidents, group)

    def next_due_ms(self, receiver: str) -> int | None:
        """When the next message of a receiver is due; None if none waits."""
        n = t.notifications.c
        query = sa.select(sa.func.min(n.next_attempt_ms)).where(
            n.receiver == receiver, n.status == PENDING, ~_earlier_unfinished()
        )
        with self._database.transaction() as connection:
            due = connection.execute(query).scalar()
            return None if due is None else int(due)

    def sent(
        self, claim: Claim, receipt: Mapping[str, Any], *, go_on: bool = False, is_back: bool = False
    ) -> Claim | None:
        """A message arrived; ``receipt`` is what the channel needs to refer to it later.

        With ``go_on`` the receiver's next message is claimed in the same transaction, and returned: the disk is waited
        for once, not twice. With ``is_back`` the receiver had been away: what waits for it by back-off is due now.
        """
        following, merged = None, 0
        with self._database.transaction() as connection:
            now = self._now_ms()
            delivery = claim.delivery
            kept = {**delivery.receipt, **receipt}
            if claim.thread_id is not None and receipt:
                where = t.threads.c.id == claim.thread_id
                connection.execute(sa.update(t.threads).where(where).values(receipt=kept))
            self._finish(connection, claim, SENT, "", now)
            if claim.lane == BACKLOG_LANE:
                _settle_gathered(connection, delivery.receiver, MERGED, f"told in the digest {delivery.key}", now)
            note_success(connection, delivery.receiver, now)
            if is_back:
                n = t.notifications.c
                waiting = (n.receiver == delivery.receiver) & (n.status == PENDING) & (n.next_attempt_ms > now)
                connection.execute(sa.update(t.notifications).where(waiting).values(next_attempt_ms=now))
            heartbeat = delivery.kind == Kind.HEARTBEAT
            tell_story(
                connection,
                self._topics,
                action="heartbeat.sent" if heartbeat else "notification.sent",
                identity=(delivery.key,),
                incidents=claim.told,
                receiver=delivery.receiver,
                time_ms=now,
                reason=delivery.reason,
                detail={
                    "kind": delivery.kind.value,
                    "attempts": delivery.attempt,
                    "seconds_waited": f"{max(now - delivery.created_ms, 0) / 1000:.3f}",
                    **claim.group,
                    **_receipt(kept),
                    **({"because": delivery.because} if delivery.because else {}),
                },
            )
            if go_on:
                following, merged = self._claim(connection, delivery.receiver)
        self._half.pop(delivery.key, None)
        if merged:
            self._merged(delivery.receiver, merged)
        return following

    def retry(
        self,
        claim: Claim,
        error: str,
        next_attempt_ms: int,
        *,
        hold_until_ms: int | None = None,
        doubtful: bool = False,
        receipt: Mapping[str, Any] | None = None,
    ) -> None:
        """A message did not arrive and is sent again.

        Args:
            claim: Which.
            error: Why, for people.
            next_attempt_ms: When.
            hold_until_ms: Keeps the whole receiver back until then.
            doubtful: It may have arrived.
            receipt: What its next attempt has to know of this one.
        """
        delivery = claim.delivery
        with self._database.transaction() as connection:
            now = self._now_ms()
            n = t.notifications.c
            values: dict[str, Any] = {"status": PENDING, "next_attempt_ms": next_attempt_ms, "last_error": error}
            if doubtful:
                values["doubts"] = n.doubts + 1
            connection.execute(sa.update(t.notifications).where(n.id == claim.id).values(**values))
            if receipt and claim.thread_id is not None:
                kept = {**delivery.receipt, **receipt}
                connection.execute(sa.update(t.threads).where(t.threads.c.id == claim.thread_id).values(receipt=kept))
            elif receipt:
                self._half[delivery.key] = {**self._half.get(delivery.key, {}), **receipt}
            note_failure(connection, delivery.receiver, error, now, hold_until_ms)
            # The first one only: a receiver that is away for hours would fill the audit with itself.
            if delivery.attempt == 1 or (doubtful and not delivery.doubtful):
                tell_story(
                    connection,
                    self._topics,
                    action="notification.retried",
                    identity=(delivery.key, delivery.attempt),
                    incidents=claim.told,
                    receiver=delivery.receiver,
                    time_ms=now,
                    reason=error,
                    detail={"kind": delivery.kind.value, "attempts": delivery.attempt, "in_doubt": doubtful},
                    entry=False,
                )

    def give_up(self, claim: Claim, error: str) -> list[str]:
        """A message will never arrive; returns the incidents that its receiver's fallback is told of now."""
        delivery = claim.delivery
        with self._database.transaction() as connection:
            now = self._now_ms()
            self._finish(connection, claim, DEAD, error, now)
            if claim.lane == BACKLOG_LANE:
                _settle_gathered(connection, delivery.receiver, DEAD, f"{IN_A_DEAD_DIGEST}: {error}", now)
            note_failure(connection, delivery.receiver, error, now, None)
            about = [str(told["incident"]) for told in claim.told]
            passed_on = fall_back(connection, self._policy.current, delivery.receiver, about, error, now)
            receiver = self._policy.current.receivers.get(delivery.receiver)
            tell_story(
                connection,
                self._topics,
                action="notification.failed",
                identity=(delivery.key, now),
                incidents=claim.told,
                receiver=delivery.receiver,
                time_ms=now,
                reason=error,
                detail={
                    "kind": delivery.kind.value,
                    "attempts": delivery.attempt,
                    **claim.group,
                    **({"fallback": receiver.fallback} if receiver is not None and passed_on else {}),
                },
            )
        self._half.pop(delivery.key, None)
        return passed_on

    @staticmethod
    def _finish(connection: sa.Connection, claim: Claim, status: str, error: str, now_ms: int) -> None:
        values = {"status": status, "finished_ms": now_ms, "last_error": error}
        connection.execute(sa.update(t.notifications).where(t.notifications.c.id == claim.id).values(**values))

    def give_up_orphans(self) -> int:
        """Give up messages that have waited too long for a receiver that the routing file no longer has."""
        policy = self._policy.current
        n = t.notifications.c
        with self._database.transaction() as connection:
            now = self._now_ms()
            unknown = sa.select(n.receiver).distinct().where(n.status == PENDING)
            gone = [name for name in connection.execute(unknown).scalars() if name not in policy.receivers]
            count = 0
            for name in gone:
                old = (n.receiver == name) & (n.status == PENDING) & (n.created_ms <= now - policy.give_up_ms)
                for row in connection.execute(sa.select(t.notifications).where(old)).all():
                    error = "the routing file has no such receiver any more"
                    values = {"status": DEAD, "finished_ms": now, "last_error": error}
                    connection.execute(sa.update(t.notifications).where(n.id == row.id).values(**values))
                    tell_story(
                        connection,
                        self._topics,
                        action="notification.failed",
                        identity=(row.key, now),
                        incidents=row.incidents,
                        receiver=name,
                        time_ms=now,
                        reason=error,
                        detail={"kind": row.kind, "attempts": row.attempts},
                    )
                    count += 1
            return count

    def holds(self) -> dict[str, int]:
        """Until when each receiver is kept back, milliseconds since 1970 UTC."""
        with self._database.transaction() as connection:
            return {row.name: row.hold_until_ms for row in connection.execute(sa.select(t.receivers))}

    def publications(self, limit: int) -> list[tuple[int, Publication]]:
        """The oldest messages that are not yet known to be published, with their row ids."""
        query = sa.select(t.publications).order_by(t.publications.c.id).limit(limit)
        with self._database.transaction() as connection:
            return [
                (r.id, Publication(r.topic, r.key, r.value, [(name, value) for name, value in r.headers]))
                for r in connection.execute(query)
            ]

    def published(self, last_id: int) -> None:
        """Everything up to a row id is published."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(t.publications).where(t.publications.c.id <= last_id))

    def backlog(self) -> dict[tuple[str, str], int]:
        """How many messages each (receiver, status) has."""
        n = t.notifications.c
        query = sa.select(n.receiver, n.status, sa.func.count()).group_by(n.receiver, n.status)
        with self._database.transaction() as connection:
            return {(name, status): count for name, status, count in connection.execute(query)}

    def unpublished(self) -> int:
        """How many messages wait to be published."""
        with self._database.transaction() as connection:
            waiting = sa.select(sa.func.count()).select_from(t.publications)
            return int(connection.execute(waiting).scalar_one())


def thread_key(receiver: str, group_key: str, episode: int, message_key: str) -> str:
    """What stays the same for every message of a thread; a message without one has its own."""
    return deterministic_id("thread", receiver, group_key, episode) if episode else deterministic_id(message_key)


def _earlier_unfinished() -> sa.Exists:
    """Whether a message has an older one in its lane that is not settled."""
    n, earlier = t.notifications.c, t.notifications.alias()
    e = earlier.c
    return sa.exists().where(e.receiver == n.receiver, e.lane == n.lane, e.status.in_(UNFINISHED), e.id < n.id)


def _receipt(kept: Mapping[str, Any]) -> dict[str, object]:
    """For the audit. A rebuild can do without one that is too long for it: the thread goes on with a message anew."""
    try:
        return {"receipt": whole(kept)} if kept else {}
    except ValueError:
        return {}


def _settle_gathered(connection: sa.Connection, receiver: str, status: str, why: str, now_ms: int) -> None:
    """What a digest carried shares its fate."""
    n = t.notifications.c
    where = (n.receiver == receiver) & (n.status == GATHERED)
    values = {"status": status, "finished_ms": now_ms, "last_error": why}
    connection.execute(sa.update(t.notifications).where(where).values(**values))
