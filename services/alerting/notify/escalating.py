"""Escalation chains: who is told next while nobody has taken an incident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.views import OPEN as INCIDENT_OPEN
from services.alerting.incidents.views import RESOLVED, SILENCED, Incident
from services.alerting.notify.audience import DIGEST_PREFIX, place_of
from services.alerting.notify.flushing import Decided, Writing
from services.alerting.notify.planning import OPEN, UNTOLD
from services.alerting.notify.story import tell_story
from services.alerting.notify.threads import place_incident
from services.alerting.policy.model import Escalation, Policy, PolicyHolder
from services.alerting.policy.roles import resolve, takes

_BATCH = 100


def escalate_due(
    database: Database,
    policy_holder: PolicyHolder,
    topics: Topics,
    now_ms: int,
    escalated: Callable[[str], None] = lambda chain: None,
    decided: Decided = lambda receiver, kind: None,
) -> int | None:
    """Take every step that is due; returns when the next one is, or None.

    Receivers that have not been told of the incident are told now; those that were are reminded.

    Args:
        database: Of the service.
        policy_holder: The policy in force.
        topics: For the audit events.
        now_ms: The service's clock.
        escalated: Called after each step's commit with the chain's name.
        decided: Called after it with receiver and kind of each reminder.
    """
    e = t.escalations.c
    while True:
        taken: list[str] = []
        reminders: list[tuple[str, str]] = []
        with database.transaction() as connection:
            policy = policy_holder.current
            due = sa.select(t.escalations).where(e.next_ms <= now_ms).order_by(e.next_ms).limit(_BATCH)
            rows = connection.execute(due).all()
            ids = list({row.incident_id for row in rows})
            incidents = load_incidents(connection, policy, ids, now_ms, records=0) if ids else {}
            for row in rows:
                messages = _take_step(connection, policy, topics, row, incidents.get(row.incident_id), now_ms)
                if messages is not None:
                    taken.append(row.chain)
                    reminders += messages
            next_ms = connection.execute(sa.select(sa.func.min(e.next_ms))).scalar()
        for chain in taken:
            escalated(chain)
        for receiver, kind in reminders:
            decided(receiver, kind)
        if next_ms is None or next_ms > now_ms:
            return None if next_ms is None else int(next_ms)


def _take_step(
    connection: sa.Connection,
    policy: Policy,
    topics: Topics,
    row: sa.Row[Any],
    incident: Incident | None,
    now_ms: int,
) -> list[tuple[str, str]] | None:
    """Take a step; returns receiver and kind of each reminder, or None where there is no step to take any more."""
    e = t.escalations.c
    own = (e.incident_id == row.incident_id) & (e.chain == row.chain) & (e.episode == row.episode)
    chain = policy.escalations.get(row.chain)
    halted = incident is None or incident.status != INCIDENT_OPEN or incident.state == SILENCED
    if incident is None or chain is None or not chain.steps or halted or incident.episode != row.episode:
        connection.execute(sa.update(t.escalations).where(own).values(next_ms=None))
        return None
    count = len(chain.steps)
    round_number, number = divmod(row.next_step, count)
    if round_number > chain.repeat:  # a reload made the chain shorter
        connection.execute(sa.update(t.escalations).where(own).values(next_ms=None))
        return None
    after = row.next_step + 1
    values: dict[str, Any] = {"next_step": after, "next_ms": None}
    if after < count * (chain.repeat + 1):
        began_ms = now_ms if after % count == 0 else row.started_ms
        # A step that is late does not make the next one come sooner after it than the file says.
        since_ms = chain.steps[after % count].after_ms - (0 if after % count == 0 else chain.steps[number].after_ms)
        values |= {"started_ms": began_ms, "next_ms": now_ms + max(since_ms, 1)}
    connection.execute(sa.update(t.escalations).where(own).values(**values))
    return _notify(connection, policy, topics, chain, row.next_step, incident, now_ms)


def _notify(
    connection: sa.Connection,
    policy: Policy,
    topics: Topics,
    chain: Escalation,
    step: int,
    incident: Incident,
    now_ms: int,
) -> list[tuple[str, str]]:
    number = step % len(chain.steps)
    again = step // len(chain.steps)
    because = f"escalation {chain.name}, step {number + 1} of {len(chain.steps)}" + (
        f", round {again + 1}" if again else ""
    )
    reason = f"{because}: nobody has taken it"
    told: list[str] = []
    reminded: list[sa.Row[Any]] = []
    for name, _ in resolve(policy, chain.steps[number].notify, incident.owner):
        receiver = policy.receivers.get(name)
        if receiver is None or not takes(receiver, incident.severity):
            continue
        told.append(name)
        if not place_incident(connection, policy, place_of(name, policy.route, incident, because), incident, now_ms):
            reminded += _open_threads(connection, name, incident.id)
    writing = Writing(topics, now_ms)
    for thread in reminded:
        writing.remind(thread, reason, [incident])
    reminders = writing.write(connection)
    tell_story(
        connection,
        topics,
        action="incident.escalated",
        identity=(incident.id, incident.episode, chain.name, step, now_ms),
        incidents=[{"incident": incident.id}],
        receiver=", ".join(told),
        time_ms=now_ms,
        reason=reason,
        detail={"chain": chain.name, "step": number + 1, "round": again + 1, "severity": incident.severity},
    )
    return reminders


def _open_threads(connection: sa.Connection, receiver: str, incident_id: str) -> Sequence[sa.Row[Any]]:
    """Of the receiver, where it was told of the incident: by itself, not among what was gathered."""
    th, ti = t.threads.c, t.thread_incidents.c
    query = (
        sa.select(t.threads)
        .join(t.thread_incidents, ti.thread_id == th.id)
        .where(
            th.receiver == receiver,
            th.status == OPEN,
            ti.incident_id == incident_id,
            ti.told_status.not_in((UNTOLD, RESOLVED)),
        )
        .order_by(th.id)
    )
    return [row for row in connection.execute(query) if not row.group_key.startswith(DIGEST_PREFIX)]
