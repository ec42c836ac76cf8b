"""What an outgoing webhook says: JSON, version 1, described in docs/webhook.md and schemas/webhook-v1.schema.json.

Within a version fields are added and never change their meaning. Text from data is cleaned of control characters and
bounded; numbers that are none are null. A message that would be too large leaves out causes, then signals, then
incidents, and says how many.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from typing import Any

from driftline.codec import Record
from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import Incident, Signal
from services.alerting.words.incident import Text, describe, incident_title
from services.alerting.words.links import incident_url
from services.alerting.words.text import clean, shorten

VERSION = 1
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Size:
    """At most so many incidents, signals of each, causes of each, and characters of each text."""

    incidents: int
    signals: int
    causes: int
    characters: int


# The next ones where the first are too many.
_SIZES = (
    Size(50, 50, 10, 1000),
    Size(50, 20, 3, 1000),
    Size(50, 5, 1, 300),
    Size(20, 3, 0, 150),
    Size(5, 1, 0, 80),
)
_NAMES = 50


def webhook_body(delivery: Delivery) -> bytes:
    """The body of a message, UTF-8, at most :data:`MAX_BYTES`."""
    text = describe(delivery)
    body = b""
    for size in _SIZES:
        body = json.dumps(
            document(delivery, text, size), ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()
        if len(body) <= MAX_BYTES:
            break
    return body


def document(delivery: Delivery, text: Text, size: Size = _SIZES[0]) -> dict[str, Any]:
    """The body before it is written."""
    return _Writer(size).message(delivery, text)


class _Writer:
    """Writes with texts of a size."""

    def __init__(self, size: Size) -> None:
        self._size = size

    def message(self, delivery: Delivery, text: Text) -> dict[str, Any]:
        most = self._size.incidents
        return {
            "type": f"{'incident' if delivery.incidents else 'driftline'}.{delivery.kind}",
            "timestamp": _moment(delivery.sent_ms * 1000),
            "version": VERSION,
            "data": {
                "message": self._text(delivery.key),
                "thread": self._text(delivery.thread_key),
                "receiver": self._text(delivery.receiver),
                "kind": str(delivery.kind),
                "reason": self._text(delivery.reason),
                "because": self._text(delivery.because),
                "over": delivery.over,
                "group": {self._text(name): self._text(content) for name, content in delivery.group_labels[:_NAMES]},
                "text": self._words(text),
                "incidents": [self._incident(incident, delivery.public_url) for incident in delivery.incidents[:most]],
                "incidents_left_out": max(len(delivery.incidents) - most, 0),
            },
        }

    def _words(self, text: Text) -> dict[str, Any]:
        return {
            "headline": str(text.headline),
            "summary": self._long(text.summary),
            "news": list(map(self._long, text.news)),
            "parts": [
                {
                    "headline": str(part.headline),
                    "status": self._text(part.status),
                    "sentences": list(map(self._long, part.sentences)),
                    "causes": list(map(self._long, part.causes)),
                }
                for part in text.parts
            ],
            "steps": None if text.steps is None else self._long(text.steps),
            "facts": [{"name": self._text(name), "value": self._text(content)} for name, content in text.facts],
            "story": list(map(self._long, text.story)),
            "links": [{"text": self._text(name), "href": address} for name, address in text.links],
            "command": str(text.command),
        }

    def _incident(self, incident: Incident, public_url: str) -> dict[str, Any]:
        most = self._size.signals
        return {
            "id": self._text(incident.id),
            "title": incident_title(incident),
            "status": self._text(incident.status),
            "state": self._text(incident.state),
            "episode": incident.episode,
            "revision": incident.revision,
            "severity": self._text(incident.severity),
            "deployments": [self._text(name) for name in incident.deployments[:_NAMES]],
            "owner": self._text(incident.owner),
            "upstream": self._text(incident.upstream),
            "started": _moment(incident.started_us),
            "last": _moment(incident.last_us),
            "opened": _moment(incident.opened_ms * 1000),
            "resolved": _moment_or_none(incident.resolved_ms),
            "acknowledged": _moment_or_none(incident.acknowledged_ms),
            "acknowledged_by": self._text(incident.acknowledged_by),
            "assigned_to": self._text(incident.assigned_to),
            "flapping": incident.flapping,
            "url": incident_url(public_url, incident.id),
            "signals": [self._signal(signal) for signal in incident.signals[:most]],
            "signals_left_out": max(len(incident.signals) - most, 0),
        }

    def _signal(self, signal: Signal) -> dict[str, Any]:
        record = signal.record
        mute = signal.mute
        document: dict[str, Any] = {
            "incident_key": self._text(signal.incident_key),
            "episode": signal.episode,
            "origin": self._text(signal.origin),
            "status": self._text(signal.status),
            "severity": self._text(signal.severity),
            "labels": {self._text(name): self._text(content) for name, content in list(signal.labels.items())[:_NAMES]},
            "change": _moment(signal.change_time_us),
            "opened": None if signal.opened_us is None else _moment(signal.opened_us),
            "resolved": None if signal.resolved_us is None else _moment(signal.resolved_us),
            "muted": None
            if mute is None
            else {
                "kind": self._text(mute.kind),
                "name": self._text(mute.name),
                "reason": self._text(mute.reason),
                "until": _moment_or_none(mute.until_ms),
            },
            "alert": None,
        }
        if record is not None:
            document["alert"] = self._alert(record)
        return document

    def _alert(self, record: Record) -> dict[str, Any]:
        most = self._size.causes
        return {
            "id": self._text(record["id"]),
            "log_evidence_nats": _number(record["log_evidence_nats"]),
            "threshold_nats": _number(record["threshold_nats"]),
            "rows_since_change": record["rows_since_change"],
            "false_alarms": self._text(record["false_alarms"]),
            "diagnosis": self._text(record.get("diagnosis", "")),
            "causes": [
                {
                    "stream": self._text(cause["stream"]),
                    "role": self._text(cause["role"]),
                    "segment": self._text(cause.get("segment", "")),
                    "evidence_share": _number(cause["evidence_share"]),
                    "rows": cause["rows"],
                    "psi": _number(cause["effects"]["psi"]),
                    "total_variation": _number(cause["effects"]["total_variation"]),
                }
                for cause in record["causes"][:most]
            ],
            "causes_left_out": max(len(record["causes"]) - most, 0),
        }

    def _text(self, text: object) -> str:
        return _bounded(text, self._size.characters)

    def _long(self, text: object) -> str:
        return _bounded(text, 4 * self._size.characters)


def _bounded(text: object, limit: int) -> str:
    raw = str(text)
    # Ten thousand characters need no cleaning to show a thousand; the length in the note stays the true one.
    return shorten(clean(raw[: limit + 1]) + raw[limit + 1 :], limit)


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
