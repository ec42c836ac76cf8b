"""PagerDuty, Events API v2.

``trigger`` opens an alert, ``acknowledge`` says that somebody has it, ``resolve`` closes it. All carry the thread's key
as ``dedup_key``: an event that is sent again after a crash or a lost answer changes nothing there, and what changed is
told by another ``trigger`` under the same key, which changes the open alert. A sign of life is a *change event*, which
shows on the service's page and pages nobody.

Nobody is paged by a ``trigger`` while PagerDuty holds the alert acknowledged, and the API cannot take an
acknowledgement back. A message that is to catch somebody's attention then (the severity rose after somebody took it)
closes the alert and opens it anew, under the same key.

Limits: body 512 KB, summary 1024 characters, dedup_key 255.
Source: https://developer.pagerduty.com/docs/events-api-v2-overview and the pages "Send an alert event", "Send a change
event" and "Rate limits".
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from driftline.codec import Record
from services.alerting.channels.base import Outcome, Pacer, Redactor, Sent, ask
from services.alerting.channels.delivery import Delivery
from services.alerting.clock import Clock
from services.alerting.incidents.views import ACKNOWLEDGED, RESOLVED, SILENCED, Incident, Signal
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import SEVERITIES, PagerDutyReceiver
from services.alerting.words.incident import Part, Text, describe
from services.alerting.words.parts import pictures
from services.alerting.words.plots import plot_alternative
from services.alerting.words.readings import stream_name
from services.alerting.words.text import clean, shorten, web_link

MAX_BODY_BYTES = 512 * 1024
MAX_SUMMARY = 1024
MAX_DEDUP_KEY = 255

# A body near the limit is of no use to anybody, and the limit is counted in a way that is not documented.
_BODY_BYTES = 400 * 1024
_FIELD_CHARACTERS = 1000
_SIGNALS = 50

HELD = "acknowledged"
"""In the receipt: whether PagerDuty holds the alert acknowledged."""

_DETAILED_CAUSES = 20
_LINKS = 10

Event = dict[str, Any]
PictureAddress = Callable[[str, int], str]
"""Of an incident's id and the rank of its picture, from 1: where it is shown to whoever has the address."""


class PagerDutyChannel:
    """Sends to one PagerDuty service. At least once; repeats are merged by ``dedup_key``.

    Args:
        receiver: Where to.
        session: Of :func:`services.alerting.channels.base.http_session`.
        redact: Takes secrets out of what PagerDuty says.
        clock: Of the service; unused here, where nothing is asked by time.
        picture_address: Where pictures are shown; without, messages have none.
    """

    def __init__(
        self,
        receiver: PagerDutyReceiver,
        session: aiohttp.ClientSession,
        redact: Redactor,
        clock: Clock | None = None,
        picture_address: PictureAddress | None = None,
    ) -> None:
        self._receiver = receiver
        self._session = session
        self._redact = redact
        self._picture_address = picture_address

    def __repr__(self) -> str:
        return f"PagerDutyChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """Nothing is held besides the session, which is the caller's."""

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. See :class:`services.alerting.channels.base.Channel`."""
        text = describe(delivery)
        if delivery.kind is Kind.HEARTBEAT:
            failure = await self._post(_change_url(self._receiver.url), change_event(delivery, text), pace)
            return failure or Sent()
        event = event_of(delivery, text, self._picture_address)
        action, url = event["event_action"], self._receiver.url
        over = {"event_action": "resolve", "dedup_key": event["dedup_key"], "client": "Driftline"}
        # The receipt of a thread's first message is that of an earlier thread.
        held = bool(delivery.receipt.get(HELD)) and delivery.kind not in (Kind.TRIGGER, Kind.DIGEST)
        if held and action == "trigger" and delivery.kind is Kind.REPEAT:
            # Sent again after a kill in between, the resolve finds nothing open and is dropped.
            if failure := await self._post(url, over, pace):
                return failure
            held = False
        if failure := await self._post(url, event, pace):
            return failure
        if delivery.kind is Kind.TEST:
            # The test is over once it has arrived; nobody should have to close it.
            return await self._post(url, over, pace) or Sent()
        return Sent({"dedup_key": event["dedup_key"], HELD: action == "acknowledge" or (held and action == "trigger")})

    async def _post(self, url: str, event: Event, pace: Pacer) -> Outcome | None:
        body = body_of({"routing_key": self._receiver.routing_key.get_secret_value(), **event})
        await pace()
        _, failure = await ask(
            self._session,
            "POST",
            url,
            body,
            headers={},
            timeout_seconds=self._receiver.timeout_seconds,
            redact=self._redact,
        )
        return failure


def dedup_key(delivery: Delivery) -> str:
    """Under which a message's alert is known; a test has one of its own."""
    return (delivery.thread_key if delivery.kind is not Kind.TEST else f"test-{delivery.key}")[:MAX_DEDUP_KEY]


def event_of(delivery: Delivery, text: Text, picture_address: PictureAddress | None = None) -> Event:
    """The event for a message, without its routing key.

    An acknowledgement is given back by a ``trigger``: the API knows no other way, and PagerDuty keeps its own.
    """
    common: Event = {"dedup_key": dedup_key(delivery), "client": "Driftline"}
    if address := web_link(delivery.public_url):
        common["client_url"] = address
    # What begins and is over meanwhile is told both, in that order: its end is a message of its own.
    if delivery.kind is Kind.RESOLVE or (delivery.over and delivery.kind is not Kind.TRIGGER):
        return {**common, "event_action": "resolve"}
    left = [incident for incident in delivery.incidents if incident.status != RESOLVED]
    if delivery.kind is Kind.ACKNOWLEDGE and left and all(incident.status == ACKNOWLEDGED for incident in left):
        return {**common, "event_action": "acknowledge"}
    event = {**common, "event_action": "trigger", "payload": _payload(delivery, text, left)}
    if links := _links(text):
        event["links"] = links
    if images := _images(delivery, text, picture_address):
        event["images"] = images
    return event


def change_event(delivery: Delivery, text: Text) -> Event:
    """A sign of life."""
    return {
        "payload": {
            "summary": shorten(str(text.summary), MAX_SUMMARY),
            "source": "driftline",
            "timestamp": _timestamp(delivery.sent_ms),
            "custom_details": {_field(name): str(content) for name, content in text.facts},
        }
    }


def body_of(event: Event) -> bytes:
    """JSON that PagerDuty takes: details that would make it too long are left out, the last first, and counted."""
    body = _json(event)
    if len(body) <= _BODY_BYTES:
        return body
    details = event["payload"]["custom_details"]
    signals, left_out = list(details.get("signals", [])), details.get("signals_left_out", 0)
    while len(body) > _BODY_BYTES and signals:
        left_out += len(signals) - len(signals) // 2
        signals = signals[: len(signals) // 2]
        cut = {**details, "signals": signals, "signals_left_out": left_out}
        body = _json({**event, "payload": {**event["payload"], "custom_details": cut}})
    if len(body) > _BODY_BYTES:
        few = {"what_happened": details.get("what_happened", ""), "cut": "the details are too long for PagerDuty"}
        body = _json({**event, "payload": {**event["payload"], "custom_details": few}})
    return body


def _json(event: Event) -> bytes:
    return json.dumps(event, allow_nan=False).encode()


def _change_url(url: str) -> str:
    """Change events have an address beside that of alert events."""
    return f"{url.removesuffix('/enqueue')}/change/enqueue"


def _payload(delivery: Delivery, text: Text, left: Sequence[Incident]) -> Event:
    first = (delivery.incidents or (None,))[0]
    signal = first.signals[0] if first is not None and first.signals else None
    labels = signal.labels if signal is not None else {}
    payload = {
        "summary": shorten(str(text.summary), MAX_SUMMARY) or "Driftline",
        "source": _field(", ".join(filter(None, _deployments(delivery)))) or "driftline",
        "severity": min((i.severity for i in left), key=SEVERITIES.index, default="info"),
        "timestamp": _timestamp(first.opened_ms if first is not None else delivery.created_ms),
        "component": _field(labels.get("model", "")),
        "group": _field(", ".join(f"{name}={content}" for name, content in delivery.group_labels))
        or _field(labels.get("deployment", "")),
        "class": _field(labels.get("monitor", "")),
        "custom_details": _details(delivery, text),
    }
    return {name: content for name, content in payload.items() if content not in (None, "")}


def _deployments(delivery: Delivery) -> list[str]:
    every = dict.fromkeys(name for incident in delivery.incidents for name in incident.deployments)
    names = list(every)
    return names if len(names) <= 5 else [*names[:5], f"and {len(names) - 5} more"]


def _details(delivery: Delivery, text: Text) -> Event:
    """Everything that is known, for people and for rules in PagerDuty."""
    signals = [(incident, signal) for incident in delivery.incidents for signal in incident.signals]
    details: Event = {
        "what_happened": _sentences(text.parts[:1]),
        "what_to_do": "" if text.steps is None else str(text.steps),
        "what_is_new": " ".join(map(str, text.news)),
        "why_sent": _field(delivery.reason),
        "because": _field(delivery.because),
        "silenced": _silenced(delivery.incidents),
        "incidents": [_incident(incident) for incident in delivery.incidents[:_SIGNALS]],
        "signals": [_signal(incident, signal) for incident, signal in signals[:_SIGNALS]],
        "further_parts": [f"{part.headline}: {part.status}" for part in text.parts[1:]],
        "people": [str(line) for line in text.story],
        "show": str(text.command),
    }
    details.update({f"fact: {name}": str(content) for name, content in text.facts})
    if len(signals) > _SIGNALS:
        details["signals_left_out"] = len(signals) - _SIGNALS
    return {name: content for name, content in details.items() if content not in ("", [], None)}


def _sentences(parts: Sequence[Part]) -> str:
    return " ".join(str(sentence) for part in parts for sentence in part.sentences)


def _silenced(incidents: Sequence[Incident]) -> str:
    """An alert cannot be taken back, so what is silenced says so."""
    mutes = [
        f"incident {incident.id}: {signal.mute.kind} {_field(signal.mute.name)}: {_field(signal.mute.reason)}"
        for incident in incidents
        if incident.state == SILENCED
        for signal in incident.firing[:1]
        if signal.mute is not None
    ]
    return _field("; ".join(mutes))


def _incident(incident: Incident) -> Event:
    facts = {
        "id": incident.id,
        "title": _field(incident.title),
        "state": incident.state,
        "severity": incident.severity,
        "episode": incident.episode,
        "owner": _field(incident.owner),
        "upstream": _field(incident.upstream),
        "opened": _timestamp(incident.opened_ms),
        "change_began": _timestamp(incident.started_us // 1000),
        "acknowledged_by": _field(incident.acknowledged_by),
        "assigned_to": _field(incident.assigned_to),
        "comes_and_goes": incident.flapping or None,
    }
    return {name: content for name, content in facts.items() if content not in ("", None)}


def _signal(incident: Incident, signal: Signal) -> Event:
    labels = signal.labels
    facts: Event = {
        "incident": incident.id,
        "monitor": _field(labels.get("monitor", "")),
        "deployment": _field(labels.get("deployment", "")),
        "model_version": _field(labels.get("version", "")),
        "owner": _field(labels.get("owner", "")),
        "status": signal.status,
        "severity": signal.severity,
        "episode": signal.episode,
        "change_began": _timestamp(signal.change_time_us // 1000),
        "muted": "" if signal.mute is None else _field(f"{signal.mute.kind} {signal.mute.name}: {signal.mute.reason}"),
    }
    if signal.record is not None:
        facts.update(_record(signal.record))
    if signal.words is not None:
        facts["words"] = [_field(str(sentence)) for sentence in list(signal.words.get("sentences", []))[:10]]
    return {name: content for name, content in facts.items() if content not in ("", [], None)}


def _record(alert: Record) -> Event:
    return {
        "diagnosis": _field(alert.get("diagnosis", "")),
        "diagnosis_reason": _field(alert.get("diagnosis_reason", "")),
        "diagnosis_probability": _finite(alert.get("diagnosis_probability") or math.nan),
        "causes": [_cause(cause) for cause in alert["causes"][:_DETAILED_CAUSES]],
        "tags": {_field(name): _field(content) for name, content in list(alert["tags"].items())[:50]},
        "rows_since_change": alert["rows_since_change"],
        "log_evidence_nats": _finite(alert["log_evidence_nats"]),
        "threshold_nats": _finite(alert["threshold_nats"]),
        "false_alarms": _field(alert["false_alarms"]),
        "alert_id": _field(alert["id"]),
    }


def _cause(cause: Record) -> Mapping[str, Any]:
    sizes = dict(cause["effects"])
    intervals = sizes.pop("intervals")
    return {
        "stream": str(stream_name(cause)),
        "role": _field(cause["role"]),
        "part_of_traffic": _field(cause.get("segment", "")),
        "evidence_share": _finite(cause["evidence_share"]),
        "rows": cause["rows"],
        **{name: None if size is None else _finite(size) for name, size in sizes.items()},
        "intervals": {_field(name): [_finite(end) for end in ends[:2]] for name, ends in list(intervals.items())[:20]},
    }


def _links(text: Text) -> list[Event]:
    found = [(web_link(address), name) for name, address in text.links[:_LINKS]]
    return [{"href": address, "text": name} for address, name in found if address]


def _images(delivery: Delivery, text: Text, picture_address: PictureAddress | None) -> list[Event]:
    """Pictures, which PagerDuty fetches by https only. They are the first incident's."""
    if picture_address is None or not delivery.public_url.startswith("https://") or not text.plots:
        return []
    incident = delivery.incidents[0]
    images: list[Event] = []
    for rank, cause in enumerate(pictures(incident), start=1):
        if src := web_link(picture_address(incident.id, rank)):
            image = {"src": src, "alt": shorten(plot_alternative(cause), _FIELD_CHARACTERS)}
            images.append(image | ({"href": text.links[0][1]} if text.links else {}))
    return images


def _field(text: object) -> str:
    raw = str(text)
    return shorten(clean(raw[: _FIELD_CHARACTERS + 1]) + raw[_FIELD_CHARACTERS + 1 :], _FIELD_CHARACTERS)


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return round(number, 6) if math.isfinite(number) else None


def _timestamp(time_ms: int) -> str | None:
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time_ms)
    except (OverflowError, ValueError):
        return None
    return moment.isoformat(timespec="milliseconds") if time_ms > 0 else None
