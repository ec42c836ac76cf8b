"""What an outgoing webhook says: JSON, version 1, described in docs/webhook.md and schemas/webhook-v1.schema.json.

Within a version fields are added and never change their meaning. Text from data is cleaned of control characters and
bounded; numbers that are none are null. A message that would be too large leaves out causes, then signals, then
incidents, and says how many.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

from driftline.codec import Record
from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import Incident, Signal
from services.alerting.words.incident import Text, describe, incident_title
from services.alerting.words.links import incident_url
from services.alerting.words.text import clean, shorten

VERSION = 1
MAX_BYTES = 256 * 1024

_TEXT_CHARACTERS = 1000
_LONG_TEXT_CHARACTERS = 4000
# How many incidents, signals of each and causes of each signal; the next ones where the first are too many.
_SIZES = ((50, 50, 10), (50, 20, 3), (50, 5, 1), (20, 3, 0), (5, 1, 0))
_NAMES = 50


def webhook_body(delivery: Delivery) -> bytes:
    """The body of a message, at most :data:`MAX_BYTES`, UTF-8 with every character beyond ASCII escaped."""
    text = describe(delivery)
    body = b""
    for size in _SIZES:
        body = json.dumps(document(delivery, text, size), separators=(",", ":"), allow_nan=False).encode("ascii")
        if len(body) <= MAX_BYTES:
            break
    return body


def document(delivery: Delivery, text: Text, size: tuple[int, int, int] = _SIZES[0]) -> dict[str, Any]:
    """The body before it is written.

    Args:
        delivery: The message.
        text: The message in words.
        size: At most so many incidents, signals of each, causes of each.
    """
    incidents, signals, causes = size
    return {
        "type": f"{'incident' if delivery.incidents else 'driftline'}.{delivery.kind}",
        "timestamp": _moment(delivery.sent_ms * 1000),
        "version": VERSION,
        "data": {
            "message": _text(delivery.key),
            "thread": _text(delivery.thread_key),
            "receiver": _text(delivery.receiver),
            "kind": str(delivery.kind),
            "reason": _text(delivery.reason),
            "because": _text(delivery.because),
            "over": delivery.over,
            "group": {_text(name): _text(content) for name, content in delivery.group_labels[:_NAMES]},
            "text": _words(text),
            "incidents": [
                _incident(incident, delivery.public_url, signals, causes) for incident in delivery.incidents[:incidents]
            ],
            "incidents_left_out": max(len(delivery.incidents) - incidents, 0),
        },
    }


def _words(text: Text) -> dict[str, Any]:
    return {
        "headline": str(text.headline),
        "summary": _long(text.summary),
        "news": list(map(_long, text.news)),
        "parts": [
            {
                "headline": str(part.headline),
                "status": _text(part.status),
                "sentences": list(map(_long, part.sentences)),
                "causes": list(map(_long, part.causes)),
            }
            for part in text.parts
        ],
        "steps": None if text.steps is None else _long(text.steps),
        "facts": [{"name": _text(name), "value": _text(content)} for name, content in text.facts],
        "story": list(map(_long, text.story)),
        "links": [{"text": _text(name), "href": address} for name, address in text.links],
        "command": str(text.command),
    }


def _incident(incident: Incident, public_url: str, signals: int, causes: int) -> dict[str, Any]:
    return {
        "id": _text(incident.id),
        "title": incident_title(incident),
        "status": _text(incident.status),
        "state": _text(incident.state),
        "episode": incident.episode,
        "revision": incident.revision,
        "severity": _text(incident.severity),
        "deployments": [_text(name) for name in incident.deployments[:_NAMES]],
        "owner": _text(incident.owner),
        "upstream": _text(incident.upstream),
        "started": _moment(incident.started_us),
        "last": _moment(incident.last_us),
        "opened": _moment(incident.opened_ms * 1000),
        "resolved": _moment_or_none(incident.resolved_ms),
        "acknowledged": _moment_or_none(incident.acknowledged_ms),
        "acknowledged_by": _text(incident.acknowledged_by),
        "assigned_to": _text(incident.assigned_to),
        "flapping": incident.flapping,
        "url": incident_url(public_url, incident.id),
        "signals": [_signal(signal, causes) for signal in incident.signals[:signals]],
        "signals_left_out": max(len(incident.signals) - signals, 0),
    }


def _signal(signal: Signal, causes: int) -> dict[str, Any]:
    record = signal.record
    mute = signal.mute
    document: dict[str, Any] = {
        "incident_key": _text(signal.incident_key),
        "episode": signal.episode,
        "origin": _text(signal.origin),
        "status": _text(signal.status),
        "severity": _text(signal.severity),
        "labels": {_text(name): _text(content) for name, content in list(signal.labels.items())[:_NAMES]},
        "change": _moment(signal.change_time_us),
        "opened": None if signal.opened_us is None else _moment(signal.opened_us),
        "resolved": None if signal.resolved_us is None else _moment(signal.resolved_us),
        "muted": None
        if mute is None
        else {
            "kind": _text(mute.kind),
            "name": _text(mute.name),
            "reason": _text(mute.reason),
            "until": _moment_or_none(mute.until_ms),
        },
        "alert": None,
    }
    if record is not None:
        document["alert"] = _alert(record, causes)
    return document


def _alert(record: Record, causes: int) -> dict[str, Any]:
    return {
        "id": _text(record["id"]),
        "log_evidence_nats": _number(record["log_evidence_nats"]),
        "threshold_nats": _number(record["threshold_nats"]),
        "rows_since_change": record["rows_since_change"],
        "false_alarms": _text(record["false_alarms"]),
        "diagnosis": _text(record.get("diagnosis", "")),
        "causes": [
            {
                "stream": _text(cause["stream"]),
                "role": _text(cause["role"]),
                "segment": _text(cause.get("segment", "")),
                "evidence_share": _number(cause["evidence_share"]),
                "rows": cause["rows"],
                "psi": _number(cause["effects"]["psi"]),
                "total_variation": _number(cause["effects"]["total_variation"]),
            }
            for cause in record["causes"][:causes]
        ],
        "causes_left_out": max(len(record["causes"]) - causes, 0),
    }


def _text(text: object, limit: int = _TEXT_CHARACTERS) -> str:
    raw = str(text)
    # Ten thousand characters need no cleaning to show a thousand; the length in the note stays the true one.
    return shorten(clean(raw[: limit + 1]) + raw[limit + 1 :], limit)


def _long(text: object) -> str:
    return _text(text, _LONG_TEXT_CHARACTERS)


def _number(number: float | None) -> float | None:
    """JSON has no NaN."""
    return number if number is not None and math.isfinite(number) else None


def _moment(time_us: int) -> str | None:
    """RFC 3339 with milliseconds; None for a time outside the calendar."""
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)
    except (OverflowError, ValueError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment_or_none(time_ms: int | None) -> str | None:
    return None if time_ms is None else _moment(time_ms * 1000)
