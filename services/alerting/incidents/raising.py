"""What Driftline says of itself: signals that no record on a topic tells of."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.changes import Changes, Deed
from services.alerting.incidents.concerning import concern_changed
from services.alerting.incidents.grouping import SYSTEM_PREFIX, Newcomer, Surroundings, incident_id_of
from services.alerting.incidents.views import FIRING, RESOLVED
from services.alerting.policy.labels import NAMES
from services.alerting.policy.model import SEVERITIES, Policy
from services.alerting.records import reference, whole
from services.alerting.words.system import SystemWords

ORIGIN = "watch"


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
    key, drafts, now_us = SYSTEM_PREFIX + name, changes.drafts, now_ms * 1000
    drafts.load_signals([key])
    episodes = [signal for (k, _), signal in drafts.signals.items() if k == key]
    last = max(episodes, key=lambda signal: signal.values["episode"], default=None)
    said = _labels(name, severity, labels)
    detail: dict[str, object] = {
        "name": reference(name),
        "severity": severity,
        "labels": whole(said),
        "words": whole(words.document()),
    }
    if last is not None and last.status == FIRING:
        was, was_words = last.values["severity"], last.values["words"] or {}
        if was == severity and was_words == words.document():
            return False
        draft = drafts.incidents[last.incident_id]
        last.set(severity=severity, labels=said, words=words.document(), updated_ms=now_ms)
        draft.count(was, -1)
        draft.count(severity, 1)
        deed = Deed(identity=(key, last.values["episode"], now_ms), reason=words.headline, via=ORIGIN, detail=detail)
        worse = SEVERITIES.index(severity) < SEVERITIES.index(was)
        if draft.is_resolved and worse:
            changes.reopened(draft, deed)
        elif not draft.is_resolved and (was != severity or was_words.get("headline") != words.headline):
            changes.changed(draft, deed)
        concern_changed(connection, policy, changes, now_ms)
        return True
    episode = 1 if last is None else int(last.values["episode"]) + 1
    surroundings = Surroundings(policy.correlation)
    for incident in drafts.incidents.values():
        surroundings.add_incident(incident)
    placement = surroundings.place(Newcomer(key, "", SYSTEM_PREFIX, now_us, now_us, ()))
    incident_id = placement.incident_id or incident_id_of(f"{key}\0{episode}")
    drafts.add_signal(
        {
            "incident_id": incident_id,
            "incident_key": key,
            "episode": episode,
            "origin": ORIGIN,
            "deployment_id": "",
            "monitor": said["monitor"],
            "severity": severity,
            "status": FIRING,
            "labels": said,
            "upstreams": [],
            "change_time_us": now_us,
            "evidence_nats": 0.0,
            "opened_us": now_us,
            "resolved_us": None,
            "firing_alert_id": None,
            "resolved_alert_id": None,
            "words": words.document(),
            "updated_ms": now_ms,
        }
    )
    facts = {**detail, "incident_key": reference(key), "episode": episode}
    deed = Deed(identity=(key, episode), reason=words.headline, via=ORIGIN, detail=facts)
    changes.tell(
        "system.raised",
        f"incident:{incident_id}",
        Deed(identity=(key, episode), reason=words.headline, via=ORIGIN, detail={**facts, "incident": incident_id}),
    )
    draft_or_none = drafts.incidents.get(incident_id)
    if draft_or_none is None:
        values = {"severity": severity, "deployment_id": "", "owner": said["owner"], "upstream": ""}
        draft = changes.opened(incident_id, {**values, "started_us": now_us, "last_us": now_us}, deed)
        draft.count(severity, 1)
        draft.touches("")
    else:
        draft = draft_or_none
        draft.count(severity, 1)
        draft.set(last_us=max(draft.last_us, now_us))
        (changes.reopened if draft.is_resolved else changes.joined)(draft, deed)
    concern_changed(connection, policy, changes, now_ms)
    return True


def end_signal(connection: sa.Connection, policy: Policy, topics: Topics, *, name: str, now_ms: int) -> bool:
    """End an alarm about Driftline itself, within a transaction; returns whether it was raised."""
    changes = Changes(connection, policy, topics, now_ms)
    key, drafts, now_us = SYSTEM_PREFIX + name, changes.drafts, now_ms * 1000
    s = db.signals.c
    fires = sa.select(s.id).where(s.incident_key == key, s.status == FIRING).limit(1)
    if connection.execute(fires).first() is None:
        return False
    drafts.load_signals([key])
    for signal in [signal for (k, _), signal in drafts.signals.items() if k == key and signal.status == FIRING]:
        draft, episode = drafts.incidents[signal.incident_id], signal.values["episode"]
        signal.set(status=RESOLVED, resolved_us=now_us, updated_ms=now_ms)
        signal.ended = True
        draft.count(signal.values["severity"], -1)
        facts = {"name": reference(name), "incident_key": reference(key), "episode": episode}
        reason = "What Driftline said of itself is over."
        deed = Deed(identity=(key, episode, "end"), reason=reason, via=ORIGIN, detail=facts)
        changes.tell(
            "system.ended",
            f"incident:{draft.id}",
            Deed(identity=(key, episode), reason=reason, via=ORIGIN, detail={**facts, "incident": draft.id}),
        )
        if draft.is_resolved:
            changes.changed(draft, deed, told=False)
            continue
        draft.set(last_us=max(draft.last_us, now_us))
        if draft.fires:
            changes.changed(draft, deed)
        else:
            changes.resolved(draft, deed)
    concern_changed(connection, policy, changes, now_ms)
    return True


def _labels(name: str, severity: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Every label there is, as the alerts of deployments have them."""
    own = {"monitor": SYSTEM_PREFIX + name.partition(":")[0], "severity": severity}
    return {**dict.fromkeys(NAMES, ""), **labels, **own}
