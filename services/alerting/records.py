"""The audit events and dead letters the service writes. Every id is derived from what happened, so a repeated write
is the same event.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from driftline.codec import Record, encode
from services.alerting.words.text import clean, shorten
from services.kafka import cloud_event_headers

SOURCE = "alerting"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:driftline:alerting")
_DETAIL_CHARACTERS = 1000
_REASON_CHARACTERS = 4000
_EVIDENCE_REFERENCES = 20

MOST_WHOLE_CHARACTERS = 20_000
"""A fact that a rebuild reads is not shortened; whoever makes one keeps it below this."""
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


class Whole(str):
    """A fact in an event's detail that a rebuild reads back: it is kept as it is, not cleaned or shortened."""

    __slots__ = ()


def whole(document: Any) -> Whole:
    """A fact as JSON, in ASCII: nothing in it steers a terminal.

    Raises:
        ValueError: It has more than :data:`MOST_WHOLE_CHARACTERS`.
    """
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    if len(text) > MOST_WHOLE_CHARACTERS:
        raise ValueError(f"a fact for the audit has at most {MOST_WHOLE_CHARACTERS:,} characters, came {len(text):,}")
    return Whole(text)


def reference(name: str) -> Whole:
    """A name as an event's detail has it, to be found again by it: as it is, or its digest where it is odd or long."""
    return Whole(name if name == _bounded(name) else f"sha256:{digest(name.encode(errors='surrogatepass'))}")


def reason_text(reason: str) -> str:
    """A reason as it is written: cleaned and shortened."""
    return shorten(clean(reason), _REASON_CHARACTERS)


def actor_text(actor: str) -> str:
    """Who did it, as it is written: cleaned and shortened."""
    return _bounded(actor)


def event_id(action: str, identity: Sequence[object]) -> str:
    """The id of the audit event of an action."""
    return deterministic_id(action, *identity)


def detail_texts(detail: Mapping[str, object]) -> dict[str, str]:
    """An event's detail as it is written: cleaned and shortened, but for what is :class:`Whole`."""
    return {name: str(value) if isinstance(value, Whole) else _bounded(value) for name, value in detail.items()}


def audit_event(
    topic: str,
    *,
    action: str,
    subject: str,
    identity: Sequence[object],
    time_ms: int,
    reason: str = "",
    actor: str = SOURCE,
    actor_kind: str = "service",
    before_digest: str | None = None,
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
        actor: Who did it.
        actor_kind: ``human``, ``service`` or ``automation``.
        before_digest: SHA-256 of the subject before.
        after_digest: SHA-256 of the subject after.
        evidence: References.
        detail: Further facts; values are cleaned and shortened, unless they are :class:`Whole`.
    """
    identified = event_id(action, identity)
    event: Record = {
        "id": identified,
        "time_us": time_ms * 1000,
        "source": SOURCE,
        "actor_kind": actor_kind,
        "actor": actor_text(actor),
        "action": action,
        "subject": _bounded(subject),
        "before_digest": before_digest,
        "after_digest": after_digest,
        "reason": reason_text(reason),
        "evidence": [_bounded(item) for item in evidence[:_EVIDENCE_REFERENCES]],
        "detail": detail_texts(detail or {}),
    }
    return _publication(topic, event["subject"].encode(), "AuditEvent", event, identified, time_ms)


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
