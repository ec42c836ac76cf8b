"""Making the database anew from the topics ``alerts`` and ``audit``.

With an empty database the service starts so:

1. The audit is read to its end (:mod:`services.alerting.incidents.remembering`).
2. History, which is what is on ``alerts``, is kept, and nobody is told of it.
3. Once all of it is there, in one transaction (:func:`rebuild`): what the audit tells of is done again in its order and
   at its time: the alerts it names, in the incidents it names, and what people did between them; silences; what
   Driftline said of itself; what every receiver was told, with what the channel returned, so that nothing told is told
   again and a message in Slack goes on being updated.
4. In the same transaction: alerts of which the audit knows nothing, by the rules of grouping, as if they came now.

An alert that the audit names and that ``alerts`` has no longer is made up from what the audit says of it, so that its
end still reaches whoever was told of its beginning.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from driftline.codec import Record, decode
from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.actions import ActionRefusedError, Do, apply_action
from services.alerting.incidents.changes import Changes, Deed
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.raising import ENDED, ORIGIN, RAISED, end_in, raise_in
from services.alerting.incidents.remembering import Event, Recollection
from services.alerting.incidents.retelling import Retelling
from services.alerting.incidents.taking import Taken, Taking
from services.alerting.policy.model import Policy
from services.alerting.records import reference

log = logging.getLogger("driftline.alerting")

_BY_HAND = {
    "incident.acknowledged": Do.ACKNOWLEDGE,
    "incident.unacknowledged": Do.UNACKNOWLEDGE,
    "incident.resolved": Do.RESOLVE,
    "incident.reopened": Do.REOPEN,
    "incident.noted": Do.NOTE,
    "incident.assigned": Do.ASSIGN,
    "incident.silenced": Do.SILENCE,
}
_ENTRIES = ("incident.", "silence.ended", "silence.expired", "notification.sent", "notification.failed")


@dataclass(slots=True)
class _History:
    """Alerts that are kept and not yet applied, by reference of their id."""

    waiting: dict[str, Taken] = field(default_factory=dict)
    applied: set[str] = field(default_factory=set)


def rebuild(
    connection: sa.Connection, policy: Policy, topics: Topics, recollection: Recollection, now_ms: int
) -> set[str]:
    """Apply history within a transaction; returns the incidents of whose end a receiver has not heard, or may not.

    Args:
        connection: Of the transaction; the alerts kept so far are history.
        policy: In force.
        topics: For the audit: of what it does not know yet.
        recollection: What it knows.
        now_ms: The clock.
    """
    history = _History()
    for one in _kept(connection):
        history.waiting[str(reference(one.alert["id"]))] = one
    changes = Changes(connection, policy, topics, now_ms)
    taking = Taking(changes, recollection.placed())
    silences = _Silences()
    _write_entries(connection, recollection.events)
    changes.is_replaying = True
    skipped = 0
    # What is raised already is newer than the audit: it has seen how things are.
    s = db.signals.c
    is_watched = connection.execute(sa.select(s.id).where(s.origin == ORIGIN).limit(1)).first() is not None
    for event in recollection.events:
        if is_watched and (event.action in (RAISED, ENDED) or "words" in event.detail):
            continue
        changes.now_ms = event.time_ms
        try:
            _again(changes, taking, history, silences, event)
        except (ActionRefusedError, KeyError, TypeError, ValueError) as error:
            skipped += 1
            log.debug("audit event %s cannot be applied: %r", event.id, error)
    changes.is_replaying = False
    changes.now_ms = now_ms
    for one in history.waiting.values():
        taking.take(one)
    changes.write()
    silences.write(connection)
    retelling = Retelling(recollection.events)
    retelling.write(connection, policy)
    e = db.entries.c
    gone = ~sa.exists().where(db.incidents.c.id == e.incident_id)
    connection.execute(sa.delete(db.entries).where(gone))
    if recollection.events:
        log.info(
            "the database was made anew from %d audit events and %d alerts%s",
            len(recollection.events),
            len(history.waiting) + len(history.applied),
            f"; {skipped} event(s) could not be applied" if skipped else "",
        )
    return retelling.open_incidents(connection)


def _kept(connection: sa.Connection) -> Iterable[Taken]:
    """Alerts that are kept, in the order of each partition, and between partitions by when they were triggered."""
    a = db.alerts.c
    partitions = connection.execute(sa.select(a.topic, a.partition).distinct().order_by(a.topic, a.partition)).all()
    streams: list[list[Taken]] = []
    for topic, partition in partitions:
        query = sa.select(a.record, a.offset).where(a.topic == topic, a.partition == partition).order_by(a.offset)
        rows = connection.execute(query).all()
        streams.append([Taken(decode(r.record)[1], r.record, (topic, partition, r.offset)) for r in rows])
    return heapq.merge(*streams, key=lambda one: one.alert["trigger_time_ms"])


def _again(changes: Changes, taking: Taking, history: _History, silences: _Silences, event: Event) -> None:
    """Do again what an audit event tells of."""
    detail = event.detail
    if event.action.startswith("silence."):
        silences.add(event)
    elif event.action == RAISED:
        raise_in(changes, *_said(detail), incident_id=event.incident)
    elif event.action == ENDED:
        end_in(changes, json.loads(detail["name"]))
    elif event.action.startswith("incident.") and "alert" in detail:
        name = detail["alert"]
        if name in history.applied:
            return
        history.applied.add(name)
        one = history.waiting.pop(name, None) or _made_up(event)
        if one is not None:
            taking.take(one)
    elif event.action in ("incident.changed", "incident.reopened") and "words" in detail:
        raise_in(changes, *_said(detail), incident_id=event.incident)
    elif event.action in _BY_HAND and "name" not in detail:
        draft = changes.drafts.incidents.get(event.incident)
        if draft is None or (event.action == "incident.unacknowledged" and "was" in detail):
            return
        deed = Deed(identity=(event.id,), reason=event.reason, actor=event.actor, actor_kind=event.actor_kind)
        apply_action(changes, draft, _BY_HAND[event.action], deed, to=detail.get("to", ""))


def _said(detail: Mapping[str, str]) -> tuple[str, str, dict[str, str], dict[str, Any]]:
    return (
        json.loads(detail["name"]),
        detail["severity"],
        json.loads(detail["labels"]),
        json.loads(detail["words"]),
    )


def _made_up(event: Event) -> Taken | None:
    """An alert that the topic has no longer, from what the audit says of it; None where that is too little."""
    detail = event.detail
    if detail["incident_key"].startswith("sha256:"):
        return None
    alert: Record = {
        "id": detail["alert"],
        "incident_key": detail["incident_key"],
        "deployment_id": detail["deployment"],
        "model_id": "",
        "model_version": detail["version"],
        "monitor": detail["monitor"],
        "severity": detail["severity"],
        "status": detail["status"],
        "episode": int(detail["episode"]),
        "change_time_us": int(detail["change_time_us"]),
        "detection_time_us": int(detail["detection_time_us"]),
        "trigger_time_ms": event.time_ms,
        "log_evidence_nats": 0.0,
        "threshold_nats": 0.0,
        "causes": [],
        "evidence_offsets": [],
        "owner": detail.get("owner", ""),
        "tags": {},
        "diagnosis": "",
    }
    return Taken(alert, b"", ("", 0, 0))


def _write_entries(connection: sa.Connection, events: Sequence[Event]) -> None:
    """Entries of what the audit tells of incidents; they are there before anything is counted by them."""
    about = [event for event in events if event.incident and event.action.startswith(_ENTRIES)]
    for some in chunks(about):
        known = sa.select(db.entries.c.key).where(db.entries.c.key.in_([event.id for event in some]))
        there = set(connection.execute(known).scalars())
        rows = [
            {
                "key": event.id,
                "incident_id": event.incident,
                "time_ms": event.time_ms,
                "action": event.action,
                "actor_kind": event.actor_kind,
                "actor": event.actor,
                "via": event.detail.get("via", "clock"),
                "reason": event.reason,
                "detail": dict(event.detail),
            }
            for event in some
            if event.id not in there
        ]
        if rows:
            connection.execute(sa.insert(db.entries), rows)


class _Silences:
    """Silences as the audit tells of them."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, event: Event) -> None:
        """One began or ended."""
        detail = event.detail
        name = detail["silence"]
        if event.action == "silence.created":
            self._rows[name] = {
                "id": name,
                "match": json.loads(detail["match"]) if "match" in detail else {},
                "incident_id": detail.get("incident"),
                "author": event.actor,
                "reason": event.reason,
                "via": detail.get("via", ""),
                "created_ms": event.time_ms,
                "starts_ms": int(detail["starts_ms"]),
                "ends_ms": int(detail["ends_ms"]),
                "ended_by": "",
                "told_end": False,
            }
        elif name in self._rows:
            ended = {"ends_ms": event.time_ms, "ended_by": event.actor} if event.action == "silence.ended" else {}
            self._rows[name].update(told_end=True, **ended)

    def write(self, connection: sa.Connection) -> None:
        """Keep those that the database does not have."""
        for some in chunks(self._rows):
            there = connection.execute(sa.select(db.silences.c.id).where(db.silences.c.id.in_(some))).scalars()
            new = set(some) - set(there)
            if new:
                connection.execute(sa.insert(db.silences), [self._rows[name] for name in some if name in new])
