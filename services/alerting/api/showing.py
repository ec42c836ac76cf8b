"""Incidents as answers show them, with no more in them than the token may see."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable
from typing import Any

from services.access.tokens import Identity
from services.alerting.api import models as m
from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import FIRING, Entry, Incident, Signal, most_urgent
from services.alerting.notify.kinds import Kind
from services.alerting.words.incident import Text, describe, incident_title
from services.alerting.words.message import describe_alert

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_HUMAN = "human"


def moment(milliseconds: int | None) -> dt.datetime | None:
    """A time; None for none, and for one that no calendar has."""
    return None if milliseconds is None else event_moment(milliseconds * 1000)


def event_moment(microseconds: int | None) -> dt.datetime | None:
    """A time in microseconds; None for none, and for one that no calendar has."""
    if microseconds is None:
        return None
    try:
        return _EPOCH + dt.timedelta(microseconds=microseconds)
    except OverflowError:
        return None


def touched(incident: Incident) -> tuple[str, ...]:
    """The deployments that an incident is of."""
    return incident.deployments or (incident.deployment_id,)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What somebody may see of an incident.

    Attributes:
        incident: With the signals of deployments that the token sees only.
        withheld: How many were left out.
    """

    incident: Incident
    withheld: int


def seen(incident: Incident, who: Identity) -> Seen | None:
    """An incident for somebody's eyes; None if nothing of it is theirs.

    An incident may touch several deployments. Whoever answers for one of them must see it, and reads nothing of the
    others: not their names, their causes, or what machines wrote of them into the story.
    """
    if not who.limited:
        return Seen(incident, 0)
    own = tuple(_without_others(s) for s in incident.signals if who.sees(s.labels.get("deployment", "")))
    if who.sees_all(touched(incident)):
        return Seen(dataclasses.replace(incident, signals=own), 0)
    if not own:
        return None
    first = own[0]
    part = dataclasses.replace(
        incident,
        signals=own,
        deployment_id=first.labels.get("deployment", ""),
        owner=first.labels.get("owner", ""),
        severity=_severity(own),
        entries=tuple(map(_without_detail, incident.entries)),
    )
    return Seen(dataclasses.replace(part, title=incident_title(part)), len(incident.signals) - len(own))


def _severity(signals: Iterable[Signal]) -> str:
    every = list(signals)
    return most_urgent([s.severity for s in every if s.status == FIRING] or [s.severity for s in every])


def _without_others(signal: Signal) -> Signal:
    """What inhibits a signal may be an alarm of a deployment that is not to be named."""
    if signal.mute is None or signal.mute.kind != "inhibition":
        return signal
    mute = dataclasses.replace(signal.mute, reason=f"the inhibition {signal.mute.name}: another alarm fires")
    return dataclasses.replace(signal, mute=mute)


def _without_detail(entry: Entry) -> Entry:
    reason = entry.reason if entry.actor_kind == _HUMAN else ""
    return dataclasses.replace(entry, reason=reason, detail={})


def summary(what: Seen) -> m.Incident:
    """An incident in a list."""
    i = what.incident
    acknowledged = None
    if i.acknowledged_ms is not None:
        acknowledged = m.Acknowledged(by=i.acknowledged_by, time=moment(i.acknowledged_ms))
    return m.Incident(
        id=i.id,
        title=i.title or incident_title(i),
        status=i.status,  # type: ignore[arg-type]  # checked by the model
        state=i.state,
        severity=i.severity,
        episode=i.episode,
        deployments=[name for name in touched(i) if name],
        owner=i.owner,
        upstream=i.upstream,
        started=event_moment(i.started_us),
        opened=moment(i.opened_ms),
        updated=moment(i.updated_ms),
        resolved=moment(i.resolved_ms),
        acknowledged=acknowledged,
        assigned_to=i.assigned_to,
        flapping=i.flapping,
        revision=i.revision,
        firing=len(i.firing),
        signals=len(i.signals),
        withheld=what.withheld,
    )


def text_of(incident: Incident, now_ms: int, public_url: str) -> Text:
    """The incident in words, as it is now."""
    delivery = Delivery(
        key="",
        kind=Kind.UPDATE,
        receiver="",
        thread_key="",
        incidents=(incident,),
        attempt=1,
        doubtful=False,
        receipt={},
        reason="",
        created_ms=now_ms,
        sent_ms=now_ms,
        public_url=public_url,
    )
    return describe(delivery)


def words(text: Text) -> m.Words:
    """The words of an answer."""
    return m.Words(
        headline=str(text.headline),
        summary=str(text.summary),
        steps=None if text.steps is None else str(text.steps),
        facts={name: str(fact) for name, fact in text.facts},
        links=[m.Link(text=name, url=url) for name, url in text.links],
    )


def signal(given: Signal) -> m.Signal:
    """A signal with its words."""
    mute = None
    if given.mute is not None:
        mute = m.Mute(
            kind=given.mute.kind, name=given.mute.name, reason=given.mute.reason, until=moment(given.mute.until_ms)
        )
    said = _signal_words(given)
    return m.Signal(
        deployment=given.labels.get("deployment", ""),
        monitor=given.labels.get("monitor", ""),
        severity=given.severity,
        status=given.status,
        labels=dict(given.labels),
        incident_key=given.incident_key,
        episode=given.episode,
        alert_ids=[record["id"] for record in (given.firing, given.resolved) if record is not None],
        change_time=event_moment(given.change_time_us),
        opened=event_moment(given.opened_us),
        resolved=event_moment(given.resolved_us),
        mute=mute,
        **said,
    )


def _signal_words(given: Signal) -> dict[str, Any]:
    if given.words is not None:
        return {
            "headline": str(given.words.get("headline", "")),
            "sentences": [str(sentence) for sentence in given.words.get("sentences", ())],
        }
    if given.record is None:
        return {}
    text = describe_alert(given.record)
    return {
        "headline": str(text.headline),
        "sentences": list(map(str, text.sentences)),
        "causes": list(map(str, text.causes)),
    }


def entry(given: Entry) -> m.Entry:
    """A line of the story."""
    return m.Entry(
        time=moment(given.time_ms),
        action=given.action,
        actor_kind=given.actor_kind,
        actor=given.actor,
        via=given.via,
        reason=given.reason,
        detail=dict(given.detail),
    )
