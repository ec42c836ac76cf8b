"""The audit events and dead letters the service writes. Every id is derived from what happened, so a repeated write
is the same event.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from driftline.codec import Record, encode
from services.alerting.words.text import clean, shorten
from services.kafka import cloud_event_headers

SOURCE = "alerting"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:driftline:alerting")
_DETAIL_CHARACTERS = 1000
_EVIDENCE_REFERENCES = 20
_KEPT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Publication:
    """A message that will be published, at least once."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, str]]


def deterministic_id(*parts: object) -> str:
    """A uuid5 of what identifies an event."""
    return str(uuid.uuid5(_NAMESPACE, "\0".join(map(str, parts))))


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def audit_event(
    topic: str,
    *,
    action: str,
    subject: str,
    identity: Sequence[object],
    time_ms: int,
    reason: str = "",
    after_digest: str | None = None,
    evidence: Sequence[str] = (),
    detail: Mapping[str, object] | None = None,
) -> Publication:
    """An ``AuditEvent`` for the topic.

    Args:
        topic: The audit topic.
        action: As noun.verb.
        subject: To what.
        identity: What makes this event this one, besides the action.
        time_ms: When, milliseconds since 1970 UTC.
        reason: Why, in words.
        after_digest: SHA-256 of the subject after.
        evidence: References.
        detail: Further facts; values are cleaned and shortened.
    """
    event_id = deterministic_id(action, *identity)
    event: Record = {
        "id": event_id,
        "time_us": time_ms * 1000,
        "source": SOURCE,
        "actor_kind": "service",
        "actor": SOURCE,
        "action": action,
        "subject": _bounded(subject),
        "before_digest": None,
        "after_digest": after_digest,
        "reason": _bounded(reason),
        "evidence": [_bounded(reference) for reference in evidence[:_EVIDENCE_REFERENCES]],
        "detail": {name: _bounded(value) for name, value in (detail or {}).items()},
    }
    return _publication(topic, event["subject"].encode(), "AuditEvent", event, event_id, time_ms)


def dead_letter(
    topic: str,
    source: tuple[str, int, int],
    *,
    reason: str,
    error: str,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    time_ms: int,
) -> Publication:
    """A ``DeadLetter`` for a message that could not be used; ``source`` is its topic, partition and offset."""
    letter_id = deterministic_id("dead-letter", *source, reason)
    letter = {
        "id": letter_id,
        "reason": reason,
        "error": _bounded(error),
        "source_topic": source[0],
        "source_partition": source[1],
        "source_offset": source[2],
        "source_timestamp_ms": timestamp_ms,
        "key": key,
        "headers": [{"name": name, "value": content} for name, content in headers],
        "value": None if value is None else value[:_KEPT_BYTES],
        "value_bytes": len(value or b""),
        "value_sha256": digest(value or b""),
    }
    return _publication(topic, str(source[1]).encode(), "DeadLetter", letter, letter_id, time_ms)


def alert_evidence(alert: Record, position: tuple[str, int, int]) -> list[str]:
    """References from an incident's event: the alert record, and the messages that prove it."""
    topic, partition, offset = position
    ranges = [
        f"{r['topic']}/{r['partition']}/{r['first_offset']}-{r['last_offset']}"
        for r in alert["evidence_offsets"][: _EVIDENCE_REFERENCES - 2]
    ]
    return [f"alert:{alert['id']}", f"{topic}/{partition}/{offset}", *ranges]


def _bounded(text: object) -> str:
    return shorten(clean(text), _DETAIL_CHARACTERS)


def _publication(topic: str, key: bytes, name: str, record: Record, event_id: str, time_ms: int) -> Publication:
    headers = cloud_event_headers(name, source=SOURCE, event_id=event_id, time_us=time_ms * 1000)
    return Publication(topic, key, encode(name, record), [(header, content.decode()) for header, content in headers])
