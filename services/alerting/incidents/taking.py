"""What an alert does to its signal and its incident.

======== ================= ==========================================================================================
alert    signal            what it does
======== ================= ==========================================================================================
firing   unknown           a new signal: it joins an incident, opens one again, or opens one
firing   firing            the signal as this record has it; the incident changes where its severity does, and one
                           that somebody resolved opens again where it is worse than it was
firing   resolved          stale: its end is known already; what the record says is kept where nothing was
resolved firing            the signal is over, and with the last one its incident
resolved unknown           its incident is kept as one that is over. Nobody is told, unless the audit shows that
                           an earlier service told of its trigger
resolved resolved          stale
======== ================= ==========================================================================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.codec import Record
from services.alerting.database import tables as db
from services.alerting.incidents.changes import Changes, Deed
from services.alerting.incidents.checking import kept
from services.alerting.incidents.drafts import SignalDraft, chunks
from services.alerting.incidents.grouping import (
    SYSTEM_PREFIX,
    Newcomer,
    Placement,
    Surroundings,
    asked_upstreams,
    incident_id_of,
    upstreams_of,
)
from services.alerting.incidents.views import FIRING, RESOLVED
from services.alerting.policy.labels import labels_of
from services.alerting.policy.model import SEVERITIES
from services.alerting.records import alert_evidence, digest, reference

_MOST_UPSTREAM_CHARACTERS = 200


class Change(enum.StrEnum):
    """What an alert did."""

    OPENED = "opened"
    JOINED = "joined"
    REOPENED = "reopened"
    CHANGED = "changed"
    RESOLVED = "resolved"
    RESOLVED_UNSEEN = "resolved_unseen"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Taken:
    """An alert from the topic.

    Attributes:
        alert: Decoded and checked.
        record: Encoded.
        position: Topic, partition and offset.
    """

    alert: Record
    record: bytes
    position: tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the audit says of signals, from before the database was lost.

    Attributes:
        incidents: (reference of incident_key, episode) to the incident's id, and the upstream by which it joined it.
        told: Incidents of which somebody was told.
    """

    incidents: Mapping[tuple[str, str], tuple[str, str]]
    told: frozenset[str] = frozenset()

    def incident_of(self, incident_key: str, episode: int) -> str | None:
        """In which incident a signal was."""
        return self.placed(incident_key, episode)[0] or None

    def placed(self, incident_key: str, episode: int) -> tuple[str, str]:
        """The same, with the upstream by which it joined; empty for what is not known."""
        return self.incidents.get((str(reference(incident_key)), str(episode)), ("", ""))


NOTHING_REMEMBERED = Remembered({})


class Taking:
    """Takes alerts, in order, into the incidents of one transaction.

    Args:
        changes: Of the transaction.
        remembered: Asked before the rules of grouping are.
    """

    def __init__(self, changes: Changes, remembered: Remembered = NOTHING_REMEMBERED) -> None:
        self._changes = changes
        self._drafts = changes.drafts
        self._remembered = remembered
        self._surroundings = Surroundings(changes.policy.correlation)

    def prepare(self, alerts: Sequence[Record]) -> None:
        """Read what the alerts may belong to, all at once. Call before :meth:`take`, once."""
        if not alerts:
            return
        self._drafts.load_signals(alert["incident_key"] for alert in alerts)
        firing = [alert for alert in alerts if alert["status"] == FIRING]
        ids = {
            found
            for alert in alerts
            if (found := self._remembered.incident_of(alert["incident_key"], alert["episode"])) is not None
        }
        if firing:
            since_us = min(alert["detection_time_us"] for alert in firing)
            since_us = _in_range(since_us - self._changes.policy.correlation.reopen_within_ms * 1000)
            ids |= self._of_deployments({alert["deployment_id"] for alert in firing}, since_us)
            ids |= self._near(firing, since_us)
        self._drafts.load_incidents(ids)
        for draft in self._drafts.incidents.values():
            self._surroundings.add_incident(draft)

    def _of_deployments(self, deployments: Iterable[str], since_us: int) -> set[str]:
        """Incidents of some deployments that are open, or were after a moment."""
        d, found = db.incident_deployments.c, set[str]()
        for some in chunks(deployments):
            query = (
                sa.select(d.incident_id)
                .join(db.incidents, db.incidents.c.id == d.incident_id)
                .where(d.deployment_id.in_(some), _is_or_was_open(since_us))
            )
            found |= set(self._changes.connection.execute(query).scalars())
        return found

    def _near(self, alerts: Sequence[Record], since_us: int) -> set[str]:
        """Incidents that have a signal with an upstream of these alerts, near them; their times are noted."""
        correlation = self._changes.policy.correlation
        upstreams = {name for alert in alerts for name in asked_upstreams(self._upstreams(alert), correlation)}
        if not upstreams:
            return set()
        u, within_us = db.signal_upstreams.c, correlation.across_within_ms * 1000
        spans = (
            (u.change_time_us, [alert["change_time_us"] for alert in alerts]),
            (u.opened_us, [alert["detection_time_us"] for alert in alerts]),
        )
        found: set[str] = set()
        for some in chunks(upstreams):
            for column, moments in spans:
                query = (
                    sa.select(u.upstream, u.incident_id, u.change_time_us, u.opened_us)
                    .join(db.incidents, db.incidents.c.id == u.incident_id)
                    .where(
                        u.upstream.in_(some),
                        column.between(_in_range(min(moments) - within_us), _in_range(max(moments) + within_us)),
                    )
                    .where(_is_or_was_open(since_us))
                )
                for row in self._changes.connection.execute(query):
                    found.add(row.incident_id)
                    self._surroundings.add_signal(row.incident_id, (row.upstream,), row.change_time_us, row.opened_us)
        return found

    def _upstreams(self, alert: Record) -> tuple[str, ...]:
        found = upstreams_of(alert, self._changes.policy.sources)
        return tuple(kept(name) if len(name) <= _MOST_UPSTREAM_CHARACTERS else _shortened(name) for name in found)

    def take(self, taken: Taken) -> Change:
        """Take an alert that was never taken before."""
        alert = taken.alert
        signal = self._drafts.signals.get((alert["incident_key"], alert["episode"]))
        if alert["status"] == FIRING:
            if signal is None:
                return self._new_signal(taken)
            return self._fires_again(taken, signal)
        if signal is None:
            return self._ended_unseen(taken)
        if signal.status == RESOLVED:
            return Change.STALE
        return self._ended(taken, signal)

    def _new_signal(self, taken: Taken) -> Change:
        alert = taken.alert
        upstreams = self._upstreams(alert)
        newcomer = Newcomer(
            incident_key=alert["incident_key"],
            deployment_id=alert["deployment_id"],
            monitor=alert["monitor"],
            change_us=alert["change_time_us"],
            detected_us=alert["detection_time_us"],
            upstreams=upstreams,
        )
        placement = self._placed(newcomer, alert)
        incident_id = placement.incident_id or incident_id_of(alert["id"])
        draft = self._drafts.incidents.get(incident_id)
        self._drafts.add_signal(_signal(alert, incident_id, upstreams, self._changes.now_ms))
        deed = self._deed(taken, placement.why, placement.upstream)
        if draft is None:
            change = Change.OPENED
            values = {
                "severity": alert["severity"],
                "deployment_id": alert["deployment_id"],
                "owner": alert["owner"],
                "upstream": "",
                "started_us": alert["change_time_us"],
                "last_us": alert["detection_time_us"],
            }
            draft = self._changes.opened(incident_id, values, deed)
            draft.count(alert["severity"], 1)
        else:
            draft.count(alert["severity"], 1)
            draft.set(
                started_us=min(draft.values["started_us"], alert["change_time_us"]),
                last_us=max(draft.last_us, alert["detection_time_us"]),
                upstream=draft.values["upstream"] or placement.upstream,
            )
            if draft.is_resolved:
                change = Change.REOPENED
                self._changes.reopened(draft, deed)
            else:
                change = Change.JOINED
                self._changes.joined(draft, deed)
        draft.touches(alert["deployment_id"])
        if alert["monitor"].startswith(SYSTEM_PREFIX):
            draft.incident_keys.add(alert["incident_key"])
        self._surroundings.add_incident(draft)
        self._surroundings.add_signal(
            incident_id,
            asked_upstreams(upstreams, self._changes.policy.correlation),
            newcomer.change_us,
            newcomer.detected_us,
        )
        return change

    def _placed(self, newcomer: Newcomer, alert: Record) -> Placement:
        known, upstream = self._remembered.placed(alert["incident_key"], alert["episode"])
        if known:
            return Placement(known, upstream=upstream, why="The audit says that it was in this incident.")
        return self._surroundings.place(newcomer)

    def _fires_again(self, taken: Taken, signal: SignalDraft) -> Change:
        alert = taken.alert
        draft = self._drafts.incidents[signal.incident_id]
        times = {
            "change_time_us": min(signal.values["change_time_us"], alert["change_time_us"]),
            "opened_us": _earliest(signal.values["opened_us"], alert["detection_time_us"]),
        }
        if signal.status == RESOLVED:
            if signal.values["firing_alert_id"] is None:
                # It came after its end. Nobody is told; whoever looks at it later sees what it was.
                signal.set(**_said(alert), **times, firing_alert_id=alert["id"])
                draft.set(started_us=min(draft.values["started_us"], alert["change_time_us"]))
            return Change.STALE
        was = signal.values["severity"]
        signal.set(**_said(alert), **times, firing_alert_id=alert["id"], updated_ms=self._changes.now_ms)
        draft.count(was, -1)
        draft.count(alert["severity"], 1)
        draft.set(
            started_us=min(draft.values["started_us"], alert["change_time_us"]),
            last_us=draft.last_us if draft.is_resolved else max(draft.last_us, alert["detection_time_us"]),
        )
        worse = SEVERITIES.index(alert["severity"]) < SEVERITIES.index(was)
        if draft.is_resolved and worse:
            reason = f"It was resolved by hand; one of its alarms went from {was} to {alert['severity']}."
            self._changes.reopened(draft, self._deed(taken, reason))
            return Change.REOPENED
        differs = was != alert["severity"] and not draft.is_resolved
        reason = f"Its severity went from {was} to {alert['severity']}." if differs else "Its alarm was raised again."
        self._changes.changed(draft, self._deed(taken, reason), told=differs)
        return Change.CHANGED

    def _ended(self, taken: Taken, signal: SignalDraft) -> Change:
        alert = taken.alert
        draft = self._drafts.incidents[signal.incident_id]
        signal.set(
            status=RESOLVED,
            resolved_us=alert["detection_time_us"],
            resolved_alert_id=alert["id"],
            updated_ms=self._changes.now_ms,
        )
        signal.ended = True
        draft.count(signal.values["severity"], -1)
        if draft.is_resolved:
            reason = "It was resolved by hand before; now this alarm of it is over too."
            self._changes.changed(draft, self._deed(taken, reason), told=False)
            return Change.CHANGED
        draft.set(last_us=max(draft.last_us, alert["detection_time_us"]))
        if draft.fires:
            self._changes.changed(draft, self._deed(taken, "One of its alarms is over; others go on."))
            return Change.CHANGED
        self._changes.resolved(draft, self._deed(taken, "Every alarm of it is over."))
        return Change.RESOLVED

    def _ended_unseen(self, taken: Taken) -> Change:
        alert = taken.alert
        known = self._remembered.incident_of(alert["incident_key"], alert["episode"])
        incident_id = known or incident_id_of(alert["id"])
        draft = self._drafts.incidents.get(incident_id)
        values = _signal(alert, incident_id, (), self._changes.now_ms)
        self._drafts.add_signal(values)
        if draft is None:
            reason = "The beginning of this alarm was never seen here: it is kept as one that is over."
            draft = self._changes.kept_as_over(
                incident_id,
                {
                    "severity": alert["severity"],
                    "deployment_id": alert["deployment_id"],
                    "owner": alert["owner"],
                    "upstream": "",
                    "started_us": alert["change_time_us"],
                    "last_us": alert["detection_time_us"],
                },
                self._deed(taken, reason),
            )
            # Whoever was told of it by a service before this database must be told of its end.
            draft.is_told = incident_id in self._remembered.told
        else:
            reason = "An alarm of it is over whose beginning was never seen here."
            self._changes.changed(draft, self._deed(taken, reason), told=False)
        draft.touches(alert["deployment_id"])
        return Change.RESOLVED_UNSEEN

    def _deed(self, taken: Taken, reason: str, upstream: str = "") -> Deed:
        alert = taken.alert
        return Deed(
            identity=(alert["id"],),
            reason=reason,
            after_digest=digest(taken.record),
            evidence=alert_evidence(alert, taken.position),
            detail={
                "alert": reference(alert["id"]),
                "incident_key": reference(alert["incident_key"]),
                "episode": alert["episode"],
                "status": alert["status"],
                "deployment": alert["deployment_id"],
                "version": alert["model_version"],
                "monitor": alert["monitor"],
                "severity": alert["severity"],
                "change_time_us": alert["change_time_us"],
                "detection_time_us": alert["detection_time_us"],
                "owner": alert["owner"],
                **({"upstream": upstream} if upstream else {}),
            },
        )


def _is_or_was_open(since_us: int) -> sa.ColumnElement[bool]:
    i = db.incidents.c
    return (i.status != RESOLVED) | (i.resolved_us >= since_us)


def _in_range(moment_us: int) -> int:
    """A moment that a database takes: an alert may have the last one there is."""
    return max(-(2**63), min(moment_us, 2**63 - 1))


def _said(alert: Record) -> dict[str, Any]:
    """Columns of a signal that its last firing record says."""
    excess = alert["log_evidence_nats"] - alert["threshold_nats"]
    return {
        "severity": alert["severity"],
        "labels": labels_of(alert),
        "evidence_nats": excess if math.isfinite(excess) else 0.0,
    }


def _signal(alert: Record, incident_id: str, upstreams: Sequence[str], now_ms: int) -> dict[str, Any]:
    """Columns of a signal that was unknown."""
    fires = alert["status"] == FIRING
    return {
        "incident_id": incident_id,
        "incident_key": alert["incident_key"],
        "episode": alert["episode"],
        "origin": "alerts",
        "deployment_id": alert["deployment_id"],
        "monitor": alert["monitor"],
        "status": alert["status"],
        "upstreams": list(upstreams),
        "change_time_us": alert["change_time_us"],
        "opened_us": alert["detection_time_us"] if fires else None,
        "resolved_us": None if fires else alert["detection_time_us"],
        "firing_alert_id": alert["id"] if fires else None,
        "resolved_alert_id": None if fires else alert["id"],
        "words": None,
        "updated_ms": now_ms,
        **_said(alert),
    }


def _shortened(name: str) -> str:
    """A name that an index takes: its beginning, and a digest that keeps it apart from others."""
    return f"{kept(name[:_MOST_UPSTREAM_CHARACTERS])}… {digest(name.encode(errors='surrogatepass'))[:12]}"


def _earliest(known_us: int | None, came_us: int) -> int:
    return came_us if known_us is None else min(known_us, came_us)
