"""A partition's state and position, committed together, owned by one worker at a time.

The guarantee is *state exactly once, emissions at least once with one id*, and it rests on the order of these steps:

1. **open**: ``init_transactions()`` of the transactional id ``<application>-<partition>`` fences every earlier owner
   and completes or aborts what it left open.
2. **load**: the partition of ``streams-state`` is read to its end, ``read_committed``. It holds the state records and
   the position: the next offset of each source topic.
3. **position**: the consumer is placed by the caller from the journal, never from the group's committed offset.
4. **apply**: the caller skips an offset below the position and applies the others in memory.
5. **commit**: one transaction with the dirty state records, the emissions, the order of what was applied, and the
   position.
6. **acknowledge**: only now does the caller acknowledge the source messages.

A failure in 5 leaves no trace in the log and an unusable journal: the worker must end and let the next owner begin at
1. A transaction is never retried in the same process (librdkafka #4953, #5423).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from driftline.codec import decode, encode
from driftline.settings import KafkaSettings
from streams.clients import offset_range, plain_consumer, transactional_producer
from streams.errors import JournalError
from streams.messages import Emission

OPEN_TIMEOUT_SECONDS = 60.0
COMMIT_TIMEOUT_SECONDS = 30.0
TRANSACTION_TIMEOUT_MS = 45_000
"""Longer than a commit may take, shorter than a reader of ``read_committed`` topics would put up with."""

MAX_MESSAGE_BYTES = 16 << 20

_SOURCE = b"driftline/streams/%d"


class Journal:
    """The journal of one partition. Not thread-safe: one executor thread calls it.

    Args:
        settings: How to reach Kafka.
        partition: The partition of the source topics this journal belongs to.
    """

    def __init__(self, settings: KafkaSettings, partition: int) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._partition = partition
        self._producer: Producer | None = None
        self._complaint = ""

    def open(self) -> StoredRecords:
        """Fence earlier owners and read the state (steps 1 and 2).

        Returns:
            Key to fields of every live ``JournalRecord``, to be taken out one by one.

        Raises:
            JournalError: Kafka refuses or does not answer, or a record cannot be read. A partition whose state is not
                whole is not processed.
        """
        try:
            self._producer = transactional_producer(
                self._settings,
                f"{self._settings.application_id}-{self._partition}",
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                message_max_bytes=MAX_MESSAGE_BYTES,
                error_cb=self._on_error,
            )
            self._producer.init_transactions(OPEN_TIMEOUT_SECONDS)
            return self._load()
        except KafkaException as error:
            raise self._failed("the journal cannot be opened", error) from error

    def _load(self) -> StoredRecords:
        consumer = plain_consumer(self._settings, "journal")
        raw: dict[bytes, bytes] = {}
        try:
            # asked first, the consumer knows the topic; otherwise it waits half a second before it looks
            offset_range(consumer, self._topics.streams_state, self._partition, OPEN_TIMEOUT_SECONDS)
            consumer.assign([TopicPartition(self._topics.streams_state, self._partition, OFFSET_BEGINNING)])
            deadline = time.monotonic() + OPEN_TIMEOUT_SECONDS
            while (messages := self._read_some(consumer, raw)) is not None:
                if messages:
                    deadline = time.monotonic() + OPEN_TIMEOUT_SECONDS
                elif time.monotonic() > deadline:
                    raise JournalError(
                        f"partition {self._partition}: nothing came from {self._topics.streams_state} for "
                        f"{OPEN_TIMEOUT_SECONDS:.0f} s: is the broker up?"
                    )
        finally:
            consumer.close()
        return StoredRecords(raw)

    @staticmethod
    def _read_some(consumer: Consumer, raw: dict[bytes, bytes]) -> int | None:
        """Read what is there: how many messages; None at the end of the partition."""
        messages = consumer.consume(1000, timeout=0.05)  # waits so long even when the end was reached
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return None  # nobody writes any more: earlier owners are fenced
                raise KafkaException(error)
            key, value = message.key() or b"", message.value()
            if value is None:
                raw.pop(key, None)
            else:
                raw[key] = value
        return len(messages)

    def commit(
        self,
        state: Mapping[bytes, Mapping[str, Any] | None],
        emissions: Iterable[Emission],
        order: list[dict[str, Any]],
    ) -> None:
        """Write everything of one commit in one transaction (step 5).

        Args:
            state: Key to fields of the ``JournalRecord`` that changed, None to delete. Holds the position.
            emissions: Records for the other topics.
            order: Entries of the ``OrderRecord``: what was applied, in which order.

        Raises:
            JournalError: The transaction did not commit, or another worker owns the partition. The journal is dead.
        """
        producer = self._producer
        if producer is None:
            raise JournalError(f"partition {self._partition}: the journal is not open")
        try:
            producer.begin_transaction()
            for key, fields in state.items():
                value = None if fields is None else encode("JournalRecord", {"kind": _kind(key), "fields": fields})
                self._produce(producer, self._topics.streams_state, key, value, partition=self._partition)
            for emission in emissions:
                self._emit(producer, emission)
            if order:
                record = encode("OrderRecord", {"partition": self._partition, "entries": order})
                key = struct.pack(">i", self._partition)
                self._produce(producer, self._topics.streams_order, key, record, partition=self._partition)
            producer.commit_transaction(COMMIT_TIMEOUT_SECONDS)
            producer.poll(0)  # serves the callbacks: what librdkafka has to say would pile up
        except (KafkaException, BufferError) as error:
            raise self._failed("the commit failed, the worker must end", error) from error

    def _emit(self, producer: Producer, emission: Emission) -> None:
        name = emission.record_name
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", (emission.id or emission.record["id"]).encode()),
            ("ce_type", b"driftline." + name.encode()),
            ("ce_source", _SOURCE % self._partition),
            ("content-type", b"application/avro"),
        ]
        topic = getattr(self._topics, emission.topic)
        self._produce(producer, topic, emission.key, encode(name, emission.record), headers=headers)

    def _produce(self, producer: Producer, topic: str, key: bytes | None, value: bytes | None, **options: Any) -> None:
        while True:
            try:
                producer.produce(topic, key=key, value=value, **options)
            except BufferError:
                producer.poll(0.1)  # the local queue is full: let deliveries make room
            else:
                return

    def _on_error(self, error: KafkaError) -> None:
        self._complaint = error.str()

    def _failed(self, what: str, error: Exception) -> JournalError:
        """The error to raise, with what librdkafka knows besides."""
        if self._producer is not None:
            self._producer.poll(0)
        cause = error.args[0] if error.args else error
        text = cause.str() if isinstance(cause, KafkaError) else str(cause)
        heard = f" ({self._complaint})" if self._complaint and self._complaint != text else ""
        return JournalError(f"partition {self._partition}: {what}: {text}{heard}")

    def close(self) -> None:
        """Let go of the connection. What was not committed is aborted by the next owner."""
        self._producer = None


class StoredRecords(MutableMapping[bytes, dict[str, Any]]):
    """Journal records as they were read, by key; decoded when they are taken out.

    Of a thousand deployments the bytes are 200 MB and the fields as many again: they go as the state comes.
    """

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, key: bytes) -> dict[str, Any]:
        fields: dict[str, Any] = decode(self._raw[key])[1]["fields"]
        return fields

    def __setitem__(self, key: bytes, fields: dict[str, Any]) -> None:
        self._raw[key] = encode("JournalRecord", {"kind": _kind(key), "fields": fields})

    def __delitem__(self, key: bytes) -> None:
        del self._raw[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def _kind(key: bytes) -> str:
    return key.split(b"/", 1)[0].decode()
