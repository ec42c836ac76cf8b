"""What Driftline says of itself: signals that no record on a topic tells of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.changes import Changes, Deed
from services.alerting.incidents.concerning import concern_changed
from services.alerting.incidents.drafts import SignalDraft
from services.alerting.incidents.grouping import SYSTEM_PREFIX, Newcomer, Surroundings, incident_id_of
from services.alerting.incidents.views import FIRING, RESOLVED
from services.alerting.policy.labels import NAMES
from services.alerting.policy.model import SEVERITIES, Policy
from services.alerting.records import reference, whole
from services.alerting.words.system import SystemWords

ORIGIN = "watch"

RAISED, ENDED = "system.raised", "system.ended"


def raise_signal(
    connection: sa.Connection,
    policy: Policy,
    topics: Topics,
    *,
    name: str,
    severity: str,
    labels: Mapping[str, str],
    words: SystemWords,
    now_ms: int,
) -> bool:
    """Raise an alarm about Driftline itself, within a transaction; returns whether that changed anything.

    An alarm that is raised already takes the new severity and the new words; people are told where the severity or the
    headline differs.

    Args:
        connection: Of the transaction.
        policy: In force.
        topics: For the audit.
        name: What it is about; ``streams-lag``, ``topic-silent:predictions``. The part before a colon is its monitor.
        severity: One of the four.
        labels: Beyond monitor and severity, for routes.
        words: What it says.
        now_ms: The clock; also its event time.
    """
    changes = Changes(connection, policy, topics, now_ms)
    said = _labels(name, severity, labels)
    if not raise_in(changes, name, severity, said, json.loads(json.dumps(words.document()))):
        return False
    concern_changed(connection, policy, changes, now_ms)
    return True


def end_signal(connection: sa.Connection, policy: Policy, topics: Topics, *, name: str, now_ms: int) -> bool:
    """End an alarm about Driftline itself, within a transaction; returns whether it was raised."""
    s = db.signals.c
    fires = sa.select(s.id).where(s.incident_key == SYSTEM_PREFIX + name, s.status == FIRING).limit(1)
    if connection.execute(fires).first() is None:
        return False
    changes = Changes(connection, policy, topics, now_ms)
    end_in(changes, name)
    concern_changed(connection, policy, changes, now_ms)
    return True


def raise_in(
    changes: Changes,
    name: str,
    severity: str,
    labels: Mapping[str, str],
    words: Mapping[str, Any],
    incident_id: str | None = None,
) -> bool:
    """Raise an alarm among other changes, in a certain incident if one is given; returns whether anything differs."""
    key = SYSTEM_PREFIX + name
    changes.drafts.load_signals([key])
    last = max(_episodes(changes, key), key=lambda signal: signal.values["episode"], default=None)
    facts: dict[str, object] = {
        "name": whole(name),
        "severity": severity,
        "labels": whole(dict(labels)),
        "words": whole(dict(words)),
        "incident_key": reference(key),
    }
    if last is not None and last.status == FIRING:
        return _differs(changes, last, severity, labels, words, facts)
    episode = 1 if last is None else int(last.values["episode"]) + 1
    now_us = changes.now_ms * 1000
    if incident_id is None:
        surroundings = Surroundings(changes.policy.correlation)
        for incident in changes.drafts.incidents.values():
            surroundings.add_incident(incident)
        placement = surroundings.place(Newcomer(key, "", SYSTEM_PREFIX, now_us, now_us, ()))
        incident_id = placement.incident_id or incident_id_of(f"{key}\0{episode}")
    changes.drafts.add_signal(
        {
            "incident_id": incident_id,
            "incident_key": key,
            "episode": episode,
            "origin": ORIGIN,
            "deployment_id": "",
            "monitor": labels["monitor"],
            "severity": severity,
            "status": FIRING,
            "labels": dict(labels),
            "upstreams": [],
            "change_time_us": now_us,
            "evidence_nats": 0.0,
            "opened_us": now_us,
            "resolved_us": None,
            "firing_alert_id": None,
            "resolved_alert_id": None,
            "words": dict(words),
            "updated_ms": changes.now_ms,
        }
    )
    facts |= {"episode": episode}
    deed = Deed(identity=(key, episode), reason=str(words.get("headline", "")), via=ORIGIN, detail=facts)
    _also(changes, RAISED, incident_id, deed)
    draft = changes.drafts.incidents.get(incident_id)
    if draft is None:
        values = {"severity": severity, "deployment_id": "", "owner": labels.get("owner", ""), "upstream": ""}
        draft = changes.opened(incident_id, {**values, "started_us": now_us, "last_us": now_us}, deed)
        draft.count(severity, 1)
        draft.touches("")
    else:
        draft.count(severity, 1)
        draft.set(last_us=max(draft.last_us, now_us))
        (changes.reopened if draft.is_resolved else changes.joined)(draft, deed)
    draft.incident_keys.add(key)
    return True


def _differs(
    changes: Changes,
    signal: SignalDraft,
    severity: str,
    labels: Mapping[str, str],
    words: Mapping[str, Any],
    facts: Mapping[str, object],
) -> bool:
    """An alarm that is raised already is raised with other words, or another severity."""
    was, was_words = signal.values["severity"], signal.values["words"] or {}
    if was == severity and was_words == words:
        return False
    draft = changes.drafts.incidents[signal.incident_id]
    signal.set(severity=severity, labels=dict(labels), words=dict(words), updated_ms=changes.now_ms)
    draft.count(was, -1)
    draft.count(severity, 1)
    deed = Deed(
        identity=(signal.values["incident_key"], signal.values["episode"], changes.now_ms),
        reason=str(words.get("headline", "")),
        via=ORIGIN,
        detail={**facts, "episode": signal.values["episode"]},
    )
    if not draft.is_resolved:
        if was != severity or was_words.get("headline") != words.get("headline"):
            changes.changed(draft, deed)
    elif SEVERITIES.index(severity) < SEVERITIES.index(was):
        changes.reopened(draft, deed)
    return True


def end_in(changes: Changes, name: str) -> None:
    """End an alarm among other changes."""
    key, now_us = SYSTEM_PREFIX + name, changes.now_ms * 1000
    changes.drafts.load_signals([key])
    for signal in _episodes(changes, key):
        if signal.status != FIRING:
            continue
        draft, episode = changes.drafts.incidents[signal.incident_id], signal.values["episode"]
        signal.set(status=RESOLVED, resolved_us=now_us, updated_ms=changes.now_ms)
        signal.ended = True
        draft.count(signal.values["severity"], -1)
        facts = {"name": whole(name), "incident_key": reference(key), "episode": episode}
        reason = "What Driftline said of itself is over."
        deed = Deed(identity=(key, episode, "end"), reason=reason, via=ORIGIN, detail=facts)
        _also(changes, ENDED, draft.id, deed)
        if draft.is_resolved:
            changes.changed(draft, deed, told=False)
            continue
        draft.set(last_us=max(draft.last_us, now_us))
        if draft.fires:
            changes.changed(draft, deed)
        else:
            changes.resolved(draft, deed)


def _also(changes: Changes, action: str, incident_id: str, deed: Deed) -> None:
    """The audit has an event of its own of it, which is no entry: the incident's own event is."""
    said = replace(deed, detail={**deed.detail, "incident": incident_id})
    changes.tell(action, f"incident:{incident_id}", said)


def _episodes(changes: Changes, key: str) -> list[SignalDraft]:
    return [signal for (known, _), signal in changes.drafts.signals.items() if known == key]


def _labels(name: str, severity: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Every label there is, as the alerts of deployments have them."""
    own = {"monitor": SYSTEM_PREFIX + name.partition(":")[0], "severity": severity}
    return {**dict.fromkeys(NAMES, ""), **labels, **own}
