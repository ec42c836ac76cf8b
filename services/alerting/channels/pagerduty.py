"""PagerDuty, Events API v2.

``trigger`` opens an alert, ``resolve`` closes it; both carry the incident's key as ``dedup_key``, so an event that is
sent again after a crash or a lost answer changes nothing there. Limits: body 512 KB, summary 1024 characters,
dedup_key 255.
Source: https://developer.pagerduty.com/docs/events-api-v2-overview and the pages "Send an alert event" and "Rate
    limits".
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from driftline.codec import Record
from services.alerting.channels.base import Outcome, Pacer, Redactor, Sent, network_error, outcome_of_status, proxy_for
from services.alerting.incidents import TRIGGER
from services.alerting.notify.outbox import Claim
from services.alerting.settings import PagerDutySettings
from services.alerting.words.message import describe_alert, stream_line
from services.alerting.words.text import clean, shorten

MAX_BODY_BYTES = 512 * 1024
MAX_SUMMARY = 1024
MAX_DEDUP_KEY = 255

_SEVERITY = {"critical": "critical", "error": "error", "warning": "warning", "info": "info"}
_FIELD_CHARACTERS = 1000
_DETAILED_CAUSES = 20
_ANSWER_BYTES = 4096


class PagerDutyChannel:
    """Sends to one PagerDuty service. At least once; repeats are merged by ``dedup_key``."""

    def __init__(self, settings: PagerDutySettings, session: aiohttp.ClientSession, redact: Redactor) -> None:
        self._settings = settings
        self._session = session
        self._redact = redact

    def __repr__(self) -> str:
        return f"PagerDutyChannel({self._settings.name!r})"

    async def send(self, claim: Claim, pace: Pacer) -> Outcome:
        """Send a trigger or a resolve. See :class:`services.alerting.channels.base.Channel`."""
        event = trigger_event(claim.alert) if claim.kind == TRIGGER else resolve_event(claim.alert)
        body = json.dumps({"routing_key": self._settings.routing_key.get_secret_value(), **event}).encode()
        url = self._settings.url
        await pace()
        try:
            async with self._session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json"},
                proxy=proxy_for(url),
                allow_redirects=False,
            ) as response:
                answer = self._redact((await response.content.read(_ANSWER_BYTES)).decode("utf-8", "replace"))
                failure = outcome_of_status(response.status, response.headers, answer, dt.datetime.now(dt.UTC))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return network_error(error)
        return failure or Sent({"dedup_key": event["dedup_key"]})


def dedup_key(incident_key: str) -> str:
    """The incident's key, at most 255 characters; a longer one keeps its beginning and a digest of the whole."""
    if len(incident_key) <= MAX_DEDUP_KEY:
        return incident_key
    whole = hashlib.sha256(incident_key.encode()).hexdigest()
    return f"{incident_key[: MAX_DEDUP_KEY - len(whole) - 1]}:{whole}"


def trigger_event(alert: Record) -> dict[str, Any]:
    """A trigger without its routing key."""
    text = describe_alert(alert)
    event: dict[str, Any] = {
        "event_action": "trigger",
        "dedup_key": dedup_key(alert["incident_key"]),
        "client": "Driftline",
        "payload": {
            "summary": shorten(str(text.summary), MAX_SUMMARY),
            "source": _field(alert["deployment_id"]) or "unknown",
            "severity": _SEVERITY[alert["severity"]],
            "timestamp": _timestamp(alert["trigger_time_ms"]),
            "component": _field(alert["model_id"]),
            "group": _field(alert["deployment_id"]),
            "class": _field(alert["monitor"]),
            "custom_details": _details(alert),
        },
    }
    if event["payload"]["timestamp"] is None:
        del event["payload"]["timestamp"]
    if text.runbook_url:
        event["links"] = [{"href": text.runbook_url, "text": "Runbook"}]
    return event


def resolve_event(alert: Record) -> dict[str, Any]:
    """A resolve without its routing key; dropped by PagerDuty when nothing is open under the key."""
    return {"event_action": "resolve", "dedup_key": dedup_key(alert["incident_key"]), "client": "Driftline"}


def _details(alert: Record) -> dict[str, Any]:
    text = describe_alert(alert)
    return {
        "what_happened": " ".join(map(str, text.sentences)),
        "what_to_do": "" if text.steps is None else str(text.steps),
        "diagnosis": _field(alert.get("diagnosis", "")),
        "diagnosis_reason": _field(alert.get("diagnosis_reason", "")),
        "diagnosis_probability": _finite(alert.get("diagnosis_probability") or math.nan),
        "causes": [_cause(cause) for cause in alert["causes"][:_DETAILED_CAUSES]],
        "causes_in_words": list(map(str, text.causes)),
        "model_version": _field(alert["model_version"]),
        "owner": _field(alert["owner"]),
        "tags": {_field(k): _field(v) for k, v in list(alert["tags"].items())[:50]},
        "rows_since_change": alert["rows_since_change"],
        "log_evidence_nats": _finite(alert["log_evidence_nats"]),
        "threshold_nats": _finite(alert["threshold_nats"]),
        "false_alarms": _field(alert["false_alarms"]),
        "alert_id": _field(alert["id"]),
        "episode": alert["episode"],
        "show": str(text.command),
    }


def _cause(cause: Record) -> Mapping[str, Any]:
    sizes = dict(cause["effects"])
    intervals = sizes.pop("intervals")
    return {
        "stream": str(stream_line(cause)),
        "role": _field(cause["role"]),
        "part_of_traffic": _field(cause.get("segment", "")),
        "evidence_share": _finite(cause["evidence_share"]),
        "rows": cause["rows"],
        **{name: None if size is None else _finite(size) for name, size in sizes.items()},
        "intervals": {_field(name): [_finite(end) for end in ends[:2]] for name, ends in list(intervals.items())[:20]},
    }


def _field(text: str) -> str:
    return shorten(clean(text[: _FIELD_CHARACTERS + 1]) + text[_FIELD_CHARACTERS + 1 :], _FIELD_CHARACTERS)


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return round(number, 6) if math.isfinite(number) else None


def _timestamp(time_ms: int) -> str | None:
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time_ms)
    except (OverflowError, ValueError):
        return None
    return moment.isoformat(timespec="milliseconds") if time_ms > 0 else None
