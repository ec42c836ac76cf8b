"""Writing to the audit record: an action is not confirmed before its record is durable."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from driftline.codec import encode
from driftline.errors import CodecError
from driftline.producer import REQUESTS_IN_FLIGHT
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER
from services.errors import ServicesError
from services.kafka import cloud_event_headers, quiet

DELIVERY_SECONDS = 30.0
"""How long a record may take to be acknowledged, retries included."""


class AuditError(ServicesError):
    """The record of an action is not known to be durable: the action must not be confirmed."""


class AuditTrail:
    """Writes events to the audit topic, one acknowledged record at a time. Safe to use from several threads.

    The records are acknowledged by all in-sync replicas and the producer is idempotent. An event that failed may
    have arrived all the same (the answer was lost): say it again with the same ``event_id``, and readers take the two
    for one.
    """

    def __init__(self, settings: KafkaSettings, source: str, *, timeout_seconds: float = DELIVERY_SECONDS) -> None:
        """Open the trail; Kafka need not be there yet.

        Args:
            settings: How to reach Kafka.
            source: The process that speaks: ``cli``, ``alerting``, ``governance``.
            timeout_seconds: How long one record may take.

        Raises:
            AuditError: The Kafka settings cannot be used.
        """
        self._topic = settings.topics.audit
        self._source = source
        self._timeout_seconds = timeout_seconds
        properties = settings.client(
            acks="all",
            enable_idempotence=True,
            max_in_flight_requests_per_connection=REQUESTS_IN_FLIGHT,
            partitioner=PARTITIONER,
            linger_ms=0,
            message_timeout_ms=int(timeout_seconds * 1000),
        )
        try:
            self._producer = Producer(quiet(properties))
        except (KafkaException, ValueError, TypeError) as error:
            raise AuditError(f"the audit record cannot be written: {_text(error)}") from error

    def record(
        self,
        action: str,
        subject: str,
        *,
        actor: str,
        actor_kind: str = "service",
        reason: str = "",
        before_digest: str | None = None,
        after_digest: str | None = None,
        evidence: Sequence[str] = (),
        detail: Mapping[str, str] | None = None,
        event_id: str | None = None,
        time_us: int | None = None,
    ) -> str:
        """Write one event and return its id once the brokers have acknowledged it.

        Args:
            action: What was done, as noun.verb: ``deployment.applied``.
            subject: To what: ``deployment:ID``, ``incident:KEY``.
            actor: Who did it.
            actor_kind: ``human``, ``service`` or ``automation``.
            reason: Why, in words.
            before_digest: SHA-256 of the subject before.
            after_digest: SHA-256 of the subject after.
            evidence: References: topic/partition/offset ranges, ids, digests.
            detail: Further facts.
            event_id: A new one if not given; give one derived from the cause where the action may be repeated.
            time_us: When it happened, microseconds since 1970 UTC; now if not given.

        Raises:
            AuditError: The event does not fit its schema, or was not acknowledged in time.
        """
        event_id = event_id or str(uuid.uuid4())
        time_us = time.time_ns() // 1000 if time_us is None else time_us
        event = {
            "id": event_id,
            "time_us": time_us,
            "source": self._source,
            "actor_kind": actor_kind,
            "actor": actor,
            "action": action,
            "subject": subject,
            "before_digest": before_digest,
            "after_digest": after_digest,
            "reason": reason,
            "evidence": list(evidence),
            "detail": dict(detail or {}),
        }
        if not (action and subject and actor):
            raise AuditError("an audit event needs an action, a subject and an actor")
        try:
            value = encode("AuditEvent", event)
            headers = cloud_event_headers("AuditEvent", source=self._source, event_id=event_id, time_us=time_us)
        except (CodecError, UnicodeError, ValueError, OverflowError, OSError) as error:
            raise AuditError(f"the audit event {action!r} cannot be written: {error}") from error
        self._deliver(action, event_id, subject.encode(), value, headers)
        return event_id

    def _deliver(
        self, action: str, event_id: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        done = threading.Event()
        failure: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failure.append(error)
            done.set()

        try:
            self._producer.produce(self._topic, value, key, headers=list(headers), on_delivery=delivered)
        except (KafkaException, BufferError) as error:
            raise AuditError(f"the audit event {action!r} was not written: {_text(error)}") from error
        deadline = time.monotonic() + self._timeout_seconds + 5.0  # librdkafka reports its own time-out first
        while not done.is_set():
            if time.monotonic() > deadline:
                raise AuditError(f"the audit event {action!r} ({event_id}) is not known to be written: no answer")
            self._producer.poll(0.1)
        if failure:
            raise AuditError(
                f"the audit event {action!r} ({event_id}) is not known to be written to {self._topic!r}: "
                f"{failure[0].str()}. It counts as not done; do it again when Kafka answers."
            )

    def close(self) -> None:
        """Release the connections. Every event that was confirmed is durable already."""
        self._producer.flush(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _text(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)
