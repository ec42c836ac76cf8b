"""Turns threads that are due into messages: the decision of :mod:`.planning`, written down.

What a receiver was told and the message that tells it are one transaction: after a kill, either both are there or
neither. Many threads share a transaction, since each costs the disk a rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.crash import crash_point
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.views import RESOLVED, Incident
from services.alerting.notify.audience import DIGEST_PREFIX, dedups
from services.alerting.notify.kinds import Kind
from services.alerting.notify.merging import PENDING
from services.alerting.notify.planning import CLOSED, OPEN, Plan, Rules, Thread, Told, plan, status_of, urgency_of
from services.alerting.notify.publishing import publish
from services.alerting.policy.model import Policy, PolicyHolder
from services.alerting.policy.routing import route_at
from services.alerting.policy.times import next_active_ms
from services.alerting.records import Publication, audit_event, deterministic_id

_BATCH = 200
_ENTRIES = 20
_AGAIN_MS = 1000
_NAMED_INCIDENTS = 50

Decided = Callable[[str, str], None]


def flush_due(
    database: Database,
    policy_holder: PolicyHolder,
    topics: Topics,
    now_ms: int,
    decided: Decided = lambda receiver, kind: None,
) -> int | None:
    """Look at every thread that is due; returns when the next one is, or None.

    Args:
        database: Of the service.
        policy_holder: The policy in force.
        topics: For the audit events.
        now_ms: The service's clock.
        decided: Called, after each commit, with receiver and kind of each message.
    """
    while True:
        with database.transaction() as connection:
            rows = _due(connection, now_ms)
            messages = flush_threads(connection, policy_holder.current, topics, rows, now_ms)
            if messages:
                crash_point("flush.before_commit")
            next_ms = None
            if len(rows) < _BATCH:
                next_ms = connection.execute(sa.select(sa.func.min(t.threads.c.next_flush_ms))).scalar()
        if messages:
            crash_point("flush.after_commit")
        for receiver, kind in messages:
            decided(receiver, kind)
        if len(rows) < _BATCH and (next_ms is None or next_ms > now_ms):
            return None if next_ms is None else int(next_ms)


def _due(connection: sa.Connection, now_ms: int) -> Sequence[sa.Row[Any]]:
    th = t.threads.c
    query = sa.select(t.threads).where(th.next_flush_ms <= now_ms).order_by(th.next_flush_ms, th.id).limit(_BATCH)
    return connection.execute(query).all()


def flush_threads(
    connection: sa.Connection, policy: Policy, topics: Topics, rows: Sequence[sa.Row[Any]], now_ms: int
) -> list[tuple[str, str]]:
    """Decide about threads within a transaction; returns receiver and kind of each message decided on."""
    told = _told_of(connection, [row.id for row in rows])
    ids = list({one.incident_id for of_thread in told.values() for one in of_thread})
    # The entries say what is new; of a thread that has told nothing yet, everything is.
    entries = _ENTRIES if any(row.status == OPEN for row in rows) else 0
    incidents = load_incidents(connection, policy, ids, now_ms, entries=entries, records=0) if ids else {}
    rules: dict[tuple[str, str, bool], Rules] = {}
    writing = Writing(topics, now_ms)
    for row in rows:
        if row.receiver not in policy.receivers:
            # A reload took the receiver away; should another bring it back, incidents that are still open are told.
            writing.rest(row.id, None)
            continue
        kind_of = (row.route, row.receiver, row.group_key.startswith(DIGEST_PREFIX))
        if kind_of not in rules:
            rules[kind_of] = rules_of(policy, row, now_ms)
        thread = Thread(row.status, row.next_flush_ms or 0, row.last_told_ms, told.get(row.id, ()))
        writing.plan(row, thread, plan(thread, incidents, rules[kind_of], now_ms), incidents)
    return writing.write(connection)


def rules_of(policy: Policy, thread: sa.Row[Any], now_ms: int) -> Rules:
    """What holds for a thread now."""
    route = route_at(policy, thread.route)
    receiver = policy.receivers[thread.receiver]
    return Rules(
        group_wait_ms=route.group_wait_ms,
        group_interval_ms=route.group_interval_ms,
        repeat_interval_ms=route.repeat_interval_ms,
        active_ms=next_active_ms(policy, route, now_ms),
        gathers=thread.group_key.startswith(DIGEST_PREFIX),
        send_resolved=receiver.send_resolved,
        dedups=dedups(receiver),
    )


def _told_of(connection: sa.Connection, thread_ids: Sequence[int]) -> dict[int, tuple[Told, ...]]:
    """What was told in some threads, without what is over and told to be."""
    ti, i = t.thread_incidents.c, t.incidents.c
    query = (
        sa.select(t.thread_incidents)
        .join(t.incidents, i.id == ti.incident_id)
        .where(ti.thread_id.in_(thread_ids), sa.or_(ti.told_status != RESOLVED, i.status != RESOLVED))
        .order_by(ti.thread_id, ti.incident_id)
    )
    told: dict[int, list[Told]] = {}
    for row in connection.execute(query):
        one = Told(
            row.incident_id, row.told_status, row.told_revision, row.told_severity, row.told_episode, row.because
        )
        told.setdefault(row.thread_id, []).append(one)
    return {thread: tuple(of_thread) for thread, of_thread in told.items()}


class Writing:
    """Decisions on their way into the database, many at a time.

    Args:
        topics: For the audit events.
        now_ms: The service's clock.
    """

    def __init__(self, topics: Topics, now_ms: int) -> None:
        self._topics = topics
        self._now_ms = now_ms
        self._threads: list[dict[str, Any]] = []
        self._told: list[dict[str, Any]] = []
        self._messages: list[dict[str, Any]] = []
        self._events: list[Publication] = []

    def rest(self, thread_id: int, next_ms: int | None) -> None:
        """Nothing is told; look again then."""
        self._threads.append({"thread": thread_id, "next_flush_ms": next_ms})

    def plan(self, row: sa.Row[Any], before: Thread, decided: Plan, incidents: Mapping[str, Incident]) -> None:
        """A decision about a thread."""
        next_ms = decided.next_ms
        if decided.kind is None and next_ms is not None and next_ms <= self._now_ms:
            next_ms = self._now_ms + _AGAIN_MS  # whatever the reason: never busy without a result
        after = decided.thread
        values: dict[str, Any] = {"thread": row.id, "next_flush_ms": None if after.status == CLOSED else next_ms}
        if decided.kind is not None or after.status != before.status:
            values |= {"status": after.status, "last_told_ms": after.last_told_ms}
        self._threads.append(values)
        for old, new in zip(before.told, after.told, strict=True):
            if old != new:
                self._tell(row.id, new)
        if decided.kind is not None:
            told = {one.incident_id: one.status for one in after.told}
            about = [incidents[incident_id] for incident_id in decided.about]
            self.message(row, decided.kind, decided.reason, about, told)

    def _tell(self, thread_id: int, told: Told) -> None:
        self._told.append(
            {
                "thread": thread_id,
                "incident": told.incident_id,
                "told_status": told.status,
                "told_revision": told.revision,
                "told_severity": told.severity,
                "told_episode": told.episode,
            }
        )

    def message(
        self, row: sa.Row[Any], kind: Kind, reason: str, about: Sequence[Incident], told: Mapping[str, str]
    ) -> None:
        """A message of a thread."""
        incidents = [
            {
                "incident": incident.id,
                "status": told.get(incident.id) or status_of(incident),
                "revision": incident.revision,
                "episode": incident.episode,
                "severity": incident.severity,
            }
            for incident in about
        ]
        says = [f"{one['incident']}/{one['revision']}/{one['status']}" for one in incidents]
        key = deterministic_id(
            "notification", row.receiver, row.group_key, row.episode, kind.value, reason, self._now_ms, *says
        )
        self._messages.append(
            {
                "key": key,
                "thread_id": row.id,
                "lane": row.group_key,
                "receiver": row.receiver,
                "kind": kind.value,
                "reason": reason,
                "incidents": incidents,
                "urgency": urgency_of(about) if about else 3,
                "status": PENDING,
                "attempts": 0,
                "doubts": 0,
                "next_attempt_ms": self._now_ms,
                "created_ms": self._now_ms,
                "last_error": "",
            }
        )
        self._events.append(
            audit_event(
                self._topics.audit,
                action="notification.decided",
                subject=f"incident:{about[0].id}" if len(about) == 1 else f"receiver:{row.receiver}",
                identity=(key,),
                time_ms=self._now_ms,
                reason=reason,
                detail={
                    "receiver": row.receiver,
                    "kind": kind.value,
                    "route": row.route,
                    "group_key": row.group_key,
                    "thread_episode": row.episode,
                    "incidents": ", ".join(incident.id for incident in about[:_NAMED_INCIDENTS]),
                },
            )
        )

    def remind(self, row: sa.Row[Any], reason: str, about: Sequence[Incident]) -> None:
        """A reminder in a thread, besides what the thread itself has to say."""
        self.message(row, Kind.REPEAT, reason, about, {})
        self._threads.append({"thread": row.id, "last_told_ms": self._now_ms})

    def write(self, connection: sa.Connection) -> list[tuple[str, str]]:
        """Write everything; returns receiver and kind of each message."""
        _update_threads(connection, self._threads)
        if self._told:
            ti = t.thread_incidents.c
            where = (ti.thread_id == sa.bindparam("thread")) & (ti.incident_id == sa.bindparam("incident"))
            names = ("told_status", "told_revision", "told_severity", "told_episode")
            statement = sa.update(t.thread_incidents).where(where).values({n: sa.bindparam(n) for n in names})
            connection.execute(statement, self._told)
        if self._messages:
            connection.execute(sa.insert(t.notifications), self._messages)
        publish(connection, self._events)
        return [(message["receiver"], message["kind"]) for message in self._messages]


def _update_threads(connection: sa.Connection, changes: Sequence[Mapping[str, Any]]) -> None:
    """Update threads, those with the same columns together."""
    for names in {tuple(change) for change in changes}:
        columns: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names if name != "thread"}
        statement = sa.update(t.threads).where(t.threads.c.id == sa.bindparam("thread")).values(columns)
        same = [change for change in changes if tuple(change) == names]
        connection.execute(
            statement, [{n if n == "thread" else f"new_{n}": value for n, value in c.items()} for c in same]
        )
