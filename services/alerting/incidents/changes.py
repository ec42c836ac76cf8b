"""The one place where an incident changes: its row, the entry that tells of it, and the audit event, together.

Everything that changes incidents (alerts, people, the monitor of the monitor, a rebuild) makes a :class:`Changes`
within its transaction, calls what it does, and ends with :meth:`Changes.write`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.drafts import Drafts, IncidentDraft, SignalDraft, chunks
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.views import ACKNOWLEDGED, OPEN, RESOLVED, Incident
from services.alerting.notify.publishing import publish
from services.alerting.policy.model import SEVERITIES, Policy
from services.alerting.records import SOURCE, Publication, actor_text, audit_event, detail_texts, event_id, reason_text
from services.alerting.words.incident import incident_title

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Who did something, by which way, why, and what proves it.

    Attributes:
        identity: What makes the event this one, besides its action; a deed of the same identity is a repeat.
        reason: Why, in words.
        actor: Who.
        actor_kind: ``human`` or ``service``.
        via: ``alerts``, ``clock``, ``watch``, ``cli``, ``api``, ``slack`` or ``pagerduty``.
        detail: Further facts.
        evidence: References.
        after_digest: SHA-256 of the record that did it.
    """

    identity: Sequence[object]
    reason: str = ""
    actor: str = SOURCE
    actor_kind: str = "service"
    via: str = "alerts"
    detail: Mapping[str, object] = field(default_factory=dict)
    evidence: Sequence[str] = ()
    after_digest: str | None = None


@dataclass(slots=True)
class _Told:
    """An audit event, and the entry it is for an incident."""

    key: str
    event: Publication
    entry: dict[str, Any] | None


class Story:
    """Entries and audit events of one transaction, written together at its end.

    Args:
        topics: For the audit events.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._told: dict[str, _Told] = {}

    def add(self, action: str, subject: str, deed: Deed, time_ms: int, incident_id: str | None = None) -> None:
        """Something happened: to an incident, which then has an entry of it, or to something else."""
        key = event_id(action, deed.identity)
        if key in self._told:
            return
        detail = {"via": deed.via, **({"incident": incident_id} if incident_id else {}), **deed.detail}
        event = audit_event(
            self._topics.audit,
            action=action,
            subject=subject,
            identity=deed.identity,
            time_ms=time_ms,
            reason=deed.reason,
            actor=deed.actor,
            actor_kind=deed.actor_kind,
            after_digest=deed.after_digest,
            evidence=deed.evidence,
            detail=detail,
        )
        entry = None
        if incident_id is not None:
            entry = {
                "key": key,
                "incident_id": incident_id,
                "time_ms": time_ms,
                "action": action,
                "actor_kind": deed.actor_kind,
                "actor": actor_text(deed.actor),
                "via": deed.via,
                "reason": reason_text(deed.reason),
                "detail": detail_texts(detail),
            }
        self._told[key] = _Told(key, event, entry)

    def write(self, connection: sa.Connection) -> None:
        """Write all of it; an entry that is there already is a repeat, and is not published again."""
        there: set[str] = set()
        for some in chunks(key for key, told in self._told.items() if told.entry is not None):
            there |= set(connection.execute(sa.select(db.entries.c.key).where(db.entries.c.key.in_(some))).scalars())
        new = [told for key, told in self._told.items() if key not in there]
        entries = [told.entry for told in new if told.entry is not None]
        if entries:
            connection.execute(sa.insert(db.entries), entries)
        publish(connection, [told.event for told in new])
        self._told.clear()


def tell(
    connection: sa.Connection,
    topics: Topics,
    action: str,
    subject: str,
    deed: Deed,
    time_ms: int,
    incident_id: str | None = None,
) -> None:
    """One event by itself, and its entry where it is about an incident: for what changes no incident's row."""
    story = Story(topics)
    story.add(action, subject, deed, time_ms, incident_id)
    story.write(connection)


class Changes:
    """The changes of one transaction.

    Args:
        connection: Of the transaction.
        policy: In force.
        topics: For the audit events.
        now_ms: The clock; a rebuild sets it to when each thing happened.

    Attributes:
        is_replaying: What is done is on record already, and has its entries: none are written.
    """

    def __init__(self, connection: sa.Connection, policy: Policy, topics: Topics, now_ms: int) -> None:
        self.connection = connection
        self.policy = policy
        self.now_ms = now_ms
        self.drafts = Drafts(connection)
        self.is_replaying = False
        self._story = Story(topics)
        # When each incident was opened again within this transaction, which its entries do not have yet.
        self._reopened_ms: dict[str, list[int]] = {}

    def opened(self, incident_id: str, values: Mapping[str, Any], deed: Deed) -> IncidentDraft:
        """An incident opens. ``values``: severity, deployment_id, owner, upstream, started_us, last_us."""
        draft = self.drafts.add_incident(self._fresh(incident_id, OPEN) | dict(values))
        self._changed(draft, "incident.opened", deed)
        return draft

    def kept_as_over(self, incident_id: str, values: Mapping[str, Any], deed: Deed) -> IncidentDraft:
        """An incident of whose end alone is known. It has no ``resolved_us``, so nothing opens it again."""
        over = self._fresh(incident_id, RESOLVED) | {"resolved_ms": self.now_ms}
        draft = self.drafts.add_incident(over | dict(values))
        self._tell(draft, "incident.resolved", deed)
        return draft

    def _fresh(self, incident_id: str, status: str) -> dict[str, Any]:
        return {
            "id": incident_id,
            "status": status,
            "episode": 1,
            "created_ms": self.now_ms,
            "opened_ms": self.now_ms,
            "updated_ms": self.now_ms,
            "resolved_ms": None,
            "resolved_us": None,
            "acknowledged_ms": None,
            "acknowledged_by": "",
            "acknowledged_severity": "",
            "assigned_to": "",
            "flapping": False,
            "title": "",
            "revision": 0,
        }

    def joined(self, draft: IncidentDraft, deed: Deed) -> None:
        """An unresolved incident has a new signal, which is counted already."""
        draft.set(severity=draft.firing_severity())
        self._changed(draft, "incident.joined", deed)
        self._outgrow_acknowledgement(draft, deed)

    def changed(self, draft: IncidentDraft, deed: Deed, *, told: bool = True) -> None:
        """Something of its signals is different; not ``told``: people need not know."""
        if told:
            draft.set(severity=draft.firing_severity())
            self._changed(draft, "incident.changed", deed)
            self._outgrow_acknowledgement(draft, deed)
        else:
            draft.set()  # its title names what fires
            self._tell(draft, "incident.changed", deed)

    def resolved(self, draft: IncidentDraft, deed: Deed) -> None:
        """It is over."""
        draft.set(status=RESOLVED, resolved_ms=self.now_ms, resolved_us=draft.last_us)
        self._changed(draft, "incident.resolved", deed)

    def reopened(self, draft: IncidentDraft, deed: Deed) -> None:
        """It is not over after all: an episode of its own, which nobody has acknowledged."""
        draft.set(
            status=OPEN,
            episode=draft.values["episode"] + 1,
            severity=draft.firing_severity(),
            opened_ms=self.now_ms,
            resolved_ms=None,
            resolved_us=None,
            acknowledged_ms=None,
            acknowledged_by="",
            acknowledged_severity="",
        )
        if deed.actor_kind != "human":
            if not self.is_replaying:
                self._reopened_ms.setdefault(draft.id, []).append(self.now_ms)
            draft.set(flapping=self._reopenings(draft) >= self.policy.correlation.flapping_reopenings)
        self._changed(draft, "incident.reopened", deed)

    def acknowledged(self, draft: IncidentDraft, deed: Deed) -> None:
        """Somebody takes it."""
        draft.set(
            status=ACKNOWLEDGED,
            acknowledged_ms=self.now_ms,
            acknowledged_by=actor_text(deed.actor),
            acknowledged_severity=draft.severity,
        )
        self._changed(draft, "incident.acknowledged", deed)

    def unacknowledged(self, draft: IncidentDraft, deed: Deed) -> None:
        """It is given back, or is worse than what was taken."""
        draft.set(status=OPEN, acknowledged_ms=None, acknowledged_by="", acknowledged_severity="")
        self._changed(draft, "incident.unacknowledged", deed)

    def noted(self, draft: IncidentDraft, deed: Deed) -> None:
        """Somebody says something about it."""
        self._changed(draft, "incident.noted", deed)

    def assigned(self, draft: IncidentDraft, to: str, deed: Deed) -> None:
        """Somebody is to look after it."""
        draft.set(assigned_to=to)
        self._changed(draft, "incident.assigned", deed)

    def silenced(self, draft: IncidentDraft, deed: Deed) -> None:
        """A silence of this incident alone begins."""
        self._changed(draft, "incident.silenced", deed)

    def tell(self, action: str, subject: str, deed: Deed, incident_id: str | None = None) -> None:
        """What changes no incident's row, in the order of what does."""
        if not self.is_replaying:
            self._story.add(action, subject, deed, self.now_ms, incident_id)

    def write(self) -> list[str]:
        """Write everything; returns the incidents of which people may have to be told."""
        told, changed = self.write_untitled()
        self.give_titles(load_incidents(self.connection, self.policy, changed, self.now_ms, records=0, mutes=False))
        return told

    def write_untitled(self) -> tuple[list[str], list[str]]:
        """Write everything but titles, which are read off the incidents as they are then; returns the incidents of
        which people may have to be told, and all those that changed: :meth:`give_titles` must follow for these.
        """
        changed = [draft.id for draft in self.drafts.write()]
        self._story.write(self.connection)
        self._reopened_ms.clear()
        told = [draft.id for draft in self.drafts.incidents.values() if draft.is_told]
        for incident_id in told:
            self.drafts.incidents[incident_id].is_told = False
        return told, changed

    def give_titles(self, incidents: Mapping[str, Incident]) -> dict[str, str]:
        """Titles as the signals are now; lists and searches read them. Returns those that are new."""
        titles = {
            incident.id: title
            for incident in incidents.values()
            if (title := incident_title(incident)) != self.drafts.incidents[incident.id].values["title"]
        }
        if titles:
            where = db.incidents.c.id == sa.bindparam("the_id")
            rows = [{"the_id": incident_id, "the_title": title} for incident_id, title in titles.items()]
            self.connection.execute(sa.update(db.incidents).where(where).values(title=sa.bindparam("the_title")), rows)
        for incident_id, title in titles.items():
            self.drafts.incidents[incident_id].values["title"] = title
        return titles

    def fired_or_ended(self) -> list[SignalDraft]:
        """Signals that began or ceased to fire."""
        return [signal for signal in self.drafts.signals.values() if signal.fired or signal.ended]

    def _outgrow_acknowledgement(self, draft: IncidentDraft, deed: Deed) -> None:
        """An acknowledgement holds for what was acknowledged, not for worse."""
        severity, was = draft.severity, draft.values["acknowledged_severity"]
        if draft.status == ACKNOWLEDGED and was and SEVERITIES.index(severity) < SEVERITIES.index(was):
            by = draft.values["acknowledged_by"]
            reason = f"It was acknowledged by {by} as {was} and is now {severity}: it needs somebody's attention again."
            worse = Deed(identity=deed.identity, reason=reason, via=deed.via, detail={"severity": severity, "was": was})
            self.unacknowledged(draft, worse)

    def _changed(self, draft: IncidentDraft, action: str, deed: Deed) -> None:
        draft.set(revision=draft.values["revision"] + 1, updated_ms=self.now_ms)
        draft.is_told = True
        self._tell(draft, action, deed)

    def _tell(self, draft: IncidentDraft, action: str, deed: Deed) -> None:
        self.tell(action, f"incident:{draft.id}", deed, draft.id)

    def _reopenings(self, draft: IncidentDraft) -> int:
        """How many times it was opened again within the last day, by what fired."""
        since_ms = self.now_ms - DAY_MS
        e = db.entries.c
        query = sa.select(sa.func.count()).where(
            e.incident_id == draft.id,
            e.action == "incident.reopened",
            e.actor_kind != "human",
            e.time_ms > since_ms,
            e.time_ms <= self.now_ms,
        )
        earlier = int(self.connection.execute(query).scalar_one())
        return earlier + sum(moment > since_ms for moment in self._reopened_ms.get(draft.id, ()))
