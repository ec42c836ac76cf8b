"""A stand-in for PagerDuty: incidents by ``dedup_key`` as the Events API v2 makes them, and webhooks v3 about them.

A ``trigger`` opens an incident, or changes the one that is open under its key; ``acknowledge`` and ``resolve`` without
an open one are dropped. Whoever subscribed is told of every change: by a person, or by an integration, as our own
events are. Source: https://developer.pagerduty.com/docs/events-api-v2-overview and the page "Webhooks".
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_BODY = 512 * 1024
SEVERITIES = frozenset({"critical", "error", "warning", "info"})
TRIGGERED, ACKNOWLEDGED, RESOLVED = "triggered", "acknowledged", "resolved"

_STATUS_OF = {
    "incident.triggered": TRIGGERED,
    "incident.acknowledged": ACKNOWLEDGED,
    "incident.unacknowledged": TRIGGERED,
    "incident.resolved": RESOLVED,
    "incident.reopened": TRIGGERED,
}


@dataclass(slots=True)
class PagerDutyIncident:
    """An incident there.

    Attributes:
        id: PagerDuty's.
        dedup_key: Ours.
        status: ``triggered``, ``acknowledged`` or ``resolved``.
        severity: Of the last trigger.
        summary: Of the last trigger.
        events: What we sent, in order.
        notes: Of people.
    """

    id: str
    dedup_key: str
    status: str
    severity: str
    summary: str
    events: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A delivery of an event."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class PagerDutyAccount:
    """Incidents of one account. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._incidents: list[PagerDutyIncident] = []
        self._open: dict[str, PagerDutyIncident] = {}
        self._subscriptions: list[tuple[str, tuple[str, ...]]] = []
        self.dropped: list[Mapping[str, Any]] = []
        """Events that were about nothing open."""

    @property
    def incidents(self) -> list[PagerDutyIncident]:
        """All of them, the oldest first."""
        with self._lock:
            return list(self._incidents)

    def known_as(self, dedup_key: str) -> PagerDutyIncident:
        """The latest incident under a key; KeyError where there is none."""
        found = [incident for incident in self.incidents if incident.dedup_key == dedup_key]
        if not found:
            raise KeyError(f"no incident was ever opened under {dedup_key}")
        return found[-1]

    def subscribe(self, url: str, *secrets: str) -> None:
        """Tell this address of every change, signed with each of the secrets."""
        with self._lock:
            self._subscriptions.append((url, secrets))

    def take(self, event: Mapping[str, Any]) -> tuple[str, list[Webhook]]:
        """An event of ours: the key it is known under, and who is to be told."""
        with self._lock:
            action, key = str(event["event_action"]), str(event.get("dedup_key") or uuid.uuid4().hex)
            incident = self._open.get(key)
            if incident is None:
                if action != "trigger":
                    self.dropped.append(event)
                    return key, []
                incident = PagerDutyIncident(f"P{uuid.uuid4().hex[:12].upper()}", key, TRIGGERED, "", "")
                self._incidents.append(incident)
                self._open[key] = incident
            new = not incident.events
            incident.events.append(event)
            if action == "trigger":
                incident.severity, incident.summary = event["payload"]["severity"], event["payload"]["summary"]
                kind = "incident.triggered" if new else ""
            elif action == "acknowledge":
                kind = "incident.acknowledged" if incident.status == TRIGGERED else ""
            else:
                kind = "incident.resolved"
            return key, self._happens(incident, kind, None) if kind else []

    def does(self, kind: str, dedup_key: str, *, person: str | None, text: str = "") -> list[Webhook]:
        """A person does something to an incident there (None: a time there ran out); who is to be told."""
        incident = self.known_as(dedup_key)
        with self._lock:
            if kind == "incident.reopened":
                self._open[dedup_key] = incident
            if kind == "incident.annotated":
                incident.notes.append(text)
            agent = None if person is None else _person(person)
            return self._happens(incident, kind, agent, text)

    def _happens(
        self, incident: PagerDutyIncident, kind: str, agent: Mapping[str, Any] | None, text: str = ""
    ) -> list[Webhook]:
        incident.status = _STATUS_OF.get(kind, incident.status)
        if incident.status == RESOLVED:
            self._open.pop(incident.dedup_key, None)
        event = webhook_event(kind, incident, agent, text)
        return [signed_webhook(url, event, *secrets) for url, secrets in self._subscriptions]


def webhook_event(
    kind: str, incident: PagerDutyIncident, agent: Mapping[str, Any] | None, text: str = ""
) -> dict[str, Any]:
    """The document of a webhook v3."""
    address = f"https://example.pagerduty.com/incidents/{incident.id}"
    reference = {"id": incident.id, "type": "incident_reference", "html_url": address, "summary": incident.summary}
    data: dict[str, Any] = {
        "id": incident.id,
        "type": "incident",
        "html_url": address,
        "number": 1,
        "status": incident.status,
        "incident_key": incident.dedup_key,
        "title": incident.summary,
        "urgency": "high",
        "resolve_reason": None,
    }
    if kind == "incident.annotated":
        data = {
            "incident": reference,
            "id": uuid.uuid4().hex,
            "content": text,
            "trimmed": False,
            "type": "incident_note",
        }
    integration = {"id": "PINTEGR", "type": "integration_reference", "summary": "Events API v2"}
    return {
        "event": {
            "id": str(uuid.uuid4()),
            "event_type": kind,
            "resource_type": "incident",
            "occurred_at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            "agent": integration if agent is None else agent,
            "client": None,
            "data": data,
        }
    }


def signed_webhook(url: str, event: Mapping[str, Any], *secrets: str) -> Webhook:
    """A delivery, signed with each of the secrets, as during a rotation."""
    body = json.dumps(event).encode()
    signatures = ["v1=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest() for secret in secrets]
    headers = {
        "Content-Type": "application/json",
        "X-Webhook-Id": str(uuid.uuid4()),
        "X-PagerDuty-Signature": ",".join(signatures),
    }
    return Webhook(url, headers, body)


def _person(name: str) -> dict[str, Any]:
    who = f"P{hashlib.sha256(name.encode()).hexdigest()[:6].upper()}"
    return {"id": who, "type": "user_reference", "summary": name, "html_url": f"https://example.pagerduty.com/{who}"}


def pagerduty_problems(body: Mapping[str, Any], size: int) -> list[str]:
    """What PagerDuty would refuse an event for."""
    problems = _common_problems(body, size)
    action = body.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        problems.append(f"event_action {action!r}")
    key = body.get("dedup_key")
    if (action != "trigger" and not key) or (key is not None and not 0 < len(str(key)) <= 255):
        problems.append("dedup_key must have 1 to 255 characters")
    if action == "trigger":
        problems += _payload_problems(body.get("payload"))
        if isinstance(body.get("payload"), dict) and body["payload"].get("severity") not in SEVERITIES:
            problems.append(f"severity {body['payload'].get('severity')!r}")
    return problems


def change_problems(body: Mapping[str, Any], size: int) -> list[str]:
    """What PagerDuty would refuse a change event for."""
    problems = _common_problems(body, size)
    payload = body.get("payload")
    return problems + _payload_problems({"source": "-", **payload} if isinstance(payload, dict) else payload)


def _common_problems(body: Mapping[str, Any], size: int) -> list[str]:
    problems = [f"body of {size} bytes, at most {MAX_BODY}"] if size > MAX_BODY else []
    key = body.get("routing_key")
    if not isinstance(key, str) or len(key) != 32:
        problems.append("routing_key must have 32 characters")
    for link in body.get("links", []):
        if not str(link.get("href", "")).startswith(("http://", "https://")):
            problems.append("link is no address")
    for image in body.get("images", []):
        if not str(image.get("src", "")).startswith("https://"):
            problems.append("the source of an image must be https")
    return problems


def _payload_problems(payload: object) -> list[str]:
    if not isinstance(payload, dict):
        return ["payload is missing"]
    problems = []
    if not 0 < len(str(payload.get("summary") or "")) <= 1024:
        problems.append("summary must have 1 to 1024 characters")
    if not payload.get("source"):
        problems.append("source is missing")
    if "timestamp" in payload:
        try:
            dt.datetime.fromisoformat(str(payload["timestamp"]))
        except ValueError:
            problems.append("timestamp is no ISO 8601")
    for name in ("component", "group", "class"):
        if not isinstance(payload.get(name, ""), str):
            problems.append(f"{name} is no text")
    return problems
