"""Changing what is in force, and its audit record, as one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from driftline.codec import Record, encode
from driftline.settings import KafkaSettings
from services.deployments.errors import DeploymentError
from services.kafka import MAX_MESSAGE_BYTES, Publisher, cloud_event_headers

SOURCE = "cli"

MAX_RECORD_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # headers and framing travel in the same message


@dataclass(frozen=True, slots=True)
class Change:
    """A record to put in force or to take out of it, and what the audit says about it.

    Attributes:
        topic: A compacted topic.
        key: The record's key.
        name: The record's name, for example ``DeploymentSpec``.
        record: Its fields; None to take what stands under the key out of force.
        action: As noun.verb.
        subject: What is changed, as kind:name.
        before_digest: SHA-256 of what was in force, None where nothing was.
        after_digest: SHA-256 of the record, None where there is none.
        detail: Further facts for the audit.
    """

    topic: str
    key: bytes
    name: str
    record: Record | None
    action: str
    subject: str
    before_digest: str | None
    after_digest: str | None
    detail: Mapping[str, str] = field(default_factory=dict)


class ChangeSet:
    """Puts changes in force in the order they are given, each with its audit record, all or none.

    Both go into one transaction: no change is without its record, and no record without its change.
    """

    def __init__(self, settings: KafkaSettings, publisher: Publisher, *, actor: str, reason: str) -> None:
        self._settings = settings
        self._publisher = publisher
        self._actor = actor
        self._reason = reason

    def add(self, change: Change) -> None:
        """Put one change into the transaction.

        Raises:
            DeploymentError: The record is larger than a message may be.
        """
        value = None if change.record is None else encode(change.name, change.record)
        if value is not None and len(value) > MAX_RECORD_BYTES:
            raise DeploymentError(
                f"{change.subject} has {len(value):,} bytes, a record at most {MAX_RECORD_BYTES:,}: "
                "watch fewer features in one deployment"
            )
        self._publisher.send(change.topic, change.key, value, cloud_event_headers(change.name, source=SOURCE))
        time_us, event_id = time.time_ns() // 1000, str(uuid.uuid4())
        event = {
            "id": event_id,
            "time_us": time_us,
            "source": SOURCE,
            "actor_kind": "human",
            "actor": self._actor,
            "action": change.action,
            "subject": change.subject,
            "before_digest": change.before_digest,
            "after_digest": change.after_digest,
            "reason": self._reason,
            "evidence": [],
            "detail": dict(change.detail),
        }
        self._publisher.send(
            self._settings.topics.audit,
            change.subject.encode(),
            encode("AuditEvent", event),
            cloud_event_headers("AuditEvent", source=SOURCE, event_id=event_id, time_us=time_us),
        )


@contextmanager
def changing(settings: KafkaSettings, what: str, *, actor: str, reason: str = "") -> Iterator[ChangeSet]:
    """A set of changes that takes effect at the end of the block.

    Read what is in force inside the block: whoever begins later fences this one, whose changes are then refused, so two
    people cannot both build on the same state.

    Args:
        settings: How to reach Kafka.
        what: What kind of thing is changed; one set of changes at a time for each.
        actor: Who changes it.
        reason: Why, in words.

    Raises:
        ClusterError: Kafka does not answer, or somebody else changed the same at the same moment; nothing took effect.
    """
    prefix = f"{settings.topics.prefix}{settings.application_id}"
    with Publisher(settings, transactional_id=f"{prefix}-change-{what}") as publisher:
        yield ChangeSet(settings, publisher, actor=actor, reason=reason)
