"""What every receiver was told, from what the audit says of messages that arrived: so that nobody is told it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from services.alerting.database import tables as db
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.remembering import Event
from services.alerting.notify.kinds import Kind
from services.alerting.notify.planning import CLOSED, OPEN
from services.alerting.policy.model import INCIDENT, Policy
from services.alerting.policy.routing import route_at

_OF_INCIDENT = "incident:"


@dataclass(slots=True)
class _Thread:
    """A thread as messages that arrived tell of it."""

    receiver: str
    group_key: str
    episode: int
    route: str
    created_ms: int
    status: str = OPEN
    last_told_ms: int = 0
    receipt: dict[str, Any] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)


class Retelling:
    """Threads and escalations from audit events."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._threads: dict[tuple[str, str, int], _Thread] = {}
        # By receiver and incident: what was decided last. A digest of a backlog is in no thread of its own.
        self._decided: dict[tuple[str, str], Mapping[str, str]] = {}
        # By incident and chain: the last step taken since anybody had it.
        self._steps: dict[tuple[str, str], tuple[int, int, int]] = {}
        for event in events:
            try:
                self._add(event)
            except (KeyError, TypeError, ValueError):
                continue

    def _add(self, event: Event) -> None:
        detail = event.detail
        if event.action == "notification.decided":
            for incident_id in detail["incidents"].split(", "):
                self._decided[detail["receiver"], incident_id] = detail
        elif event.action == "notification.sent" and event.incident:
            self._sent(event, detail if "group_key" in detail else self._decided[detail["receiver"], event.incident])
        elif event.action == "incident.escalated":
            step = int(detail["step"]), int(detail["round"]), event.time_ms
            self._steps[event.incident, detail["chain"]] = step
        elif event.action in ("incident.acknowledged", "incident.reopened", "incident.resolved"):
            self._steps = {key: step for key, step in self._steps.items() if key[0] != event.incident}

    def _sent(self, event: Event, where: Mapping[str, str]) -> None:
        detail = event.detail
        key = detail["receiver"], where["group_key"], int(where["thread_episode"])
        thread = self._threads.setdefault(key, _Thread(*key, route=where["route"], created_ms=event.time_ms))
        thread.last_told_ms = event.time_ms
        if "receipt" in detail and "group_key" in detail:
            thread.receipt = json.loads(detail["receipt"])
        thread.status = CLOSED if detail["kind"] == Kind.RESOLVE else OPEN
        thread.told[event.incident] = {
            "told_status": detail["status"],
            "told_revision": int(detail["revision"]),
            "told_severity": detail["severity"],
            "told_episode": int(detail["episode"]),
            "because": detail.get("because", ""),
        }

    def write(self, connection: sa.Connection, policy: Policy) -> None:
        """Keep them, as far as their incidents are there and the database does not have them."""
        named = {incident_id for thread in self._threads.values() for incident_id in thread.told}
        named |= {incident_id for incident_id, _ in self._steps}
        there: set[str] = set()
        for some in chunks(named):
            there |= set(connection.execute(sa.select(db.incidents.c.id).where(db.incidents.c.id.in_(some))).scalars())
        t = db.threads.c
        known = {(r.receiver, r.group_key, r.episode) for r in connection.execute(sa.select(db.threads))}
        threads = [thread for key, thread in self._threads.items() if key not in known and thread.told.keys() & there]
        if threads:
            labels = _group_labels(connection, policy, threads)
            rows = [
                {
                    "receiver": thread.receiver,
                    "group_key": thread.group_key,
                    "episode": thread.episode,
                    "status": thread.status,
                    "route": thread.route,
                    "group_labels": labels.get((thread.receiver, thread.group_key), []),
                    "created_ms": thread.created_ms,
                    "next_flush_ms": None,
                    "last_told_ms": thread.last_told_ms,
                    "receipt": thread.receipt,
                }
                for thread in threads
            ]
            ids = connection.execute(sa.insert(db.threads).returning(t.id, sort_by_parameter_order=True), rows)
            told = [
                {"thread_id": thread_id, "incident_id": incident_id, **values}
                for thread_id, thread in zip(ids.scalars().all(), threads, strict=True)
                for incident_id, values in thread.told.items()
                if incident_id in there
            ]
            connection.execute(sa.insert(db.thread_incidents), told)
        self._write_steps(connection, policy, there)

    def _write_steps(self, connection: sa.Connection, policy: Policy, there: set[str]) -> None:
        """Escalations go on after the last step that was taken."""
        i, e = db.incidents.c, db.escalations.c
        for (incident_id, name), (step, again, time_ms) in self._steps.items():
            chain = policy.escalations.get(name)
            if chain is None or not chain.steps or incident_id not in there:
                continue
            episode = connection.execute(sa.select(i.episode).where(i.id == incident_id)).scalar_one()
            own = sa.select(e.chain).where(e.incident_id == incident_id, e.chain == name, e.episode == episode)
            if connection.execute(own).first() is not None:
                continue
            count = len(chain.steps)
            following = (again - 1) * count + step
            next_ms = None
            if following < count * (chain.repeat + 1):
                number = following % count
                before_ms = chain.steps[number - 1].after_ms if number else 0
                next_ms = time_ms + max(chain.steps[number].after_ms - before_ms, 1)
            connection.execute(
                sa.insert(db.escalations).values(
                    incident_id=incident_id,
                    chain=name,
                    episode=episode,
                    started_ms=time_ms,
                    next_step=following,
                    next_ms=next_ms,
                )
            )

    def open_incidents(self, connection: sa.Connection) -> set[str]:
        """Incidents of threads that are not over: their receivers may have to hear of an end, or of news."""
        t, ti = db.threads.c, db.thread_incidents.c
        query = sa.select(ti.incident_id).join(db.threads, t.id == ti.thread_id).where(t.status != CLOSED)
        return set(connection.execute(query).scalars())


def _group_labels(
    connection: sa.Connection, policy: Policy, threads: Iterable[_Thread]
) -> dict[tuple[str, str], list[list[str]]]:
    """What the groups of threads have in common: labels of any of their signals say it."""
    wanted = {
        (thread.receiver, thread.group_key): (thread.route, next(iter(thread.told)))
        for thread in threads
        if not thread.group_key.startswith(_OF_INCIDENT)
    }
    ids = {incident_id for _, incident_id in wanted.values()}
    incidents = load_incidents(connection, policy, ids, 0, records=0, mutes=False)
    found: dict[tuple[str, str], list[list[str]]] = {}
    for key, (path, incident_id) in wanted.items():
        incident = incidents.get(incident_id)
        names = [name for name in route_at(policy, path).group_by if name != INCIDENT]
        if incident is not None and incident.signals and names:
            labels = incident.signals[0].labels
            found[key] = [[name, labels.get(name, "")] for name in names]
    return found
