"""Reading and writing Kafka topics from commands and services.

Everything goes through :class:`driftline.settings.KafkaSettings`, so TLS and SASL work everywhere or nowhere.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from driftline.producer import REQUESTS_IN_FLIGHT
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER
from services.errors import ServicesError
from streams.clients import offset_range

Headers = Sequence[tuple[str, bytes]]

REACH_SECONDS = 10.0
"""How long a command waits for the cluster before it says that it is not there."""

MAX_MESSAGE_BYTES = 12 * 1024 * 1024
"""Room for a message of 10 MB and what travels with it."""

# librdkafka would write to standard error itself; what matters comes back as an error.
_SILENT = logging.getLogger("driftline.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_STALL_SECONDS = 30.0
_DELIVERY_SECONDS = 30.0
_POLL_SECONDS = 0.5


class ClusterError(ServicesError):
    """The Kafka cluster cannot be reached, or refuses what was asked of it."""


class MissingTopicError(ClusterError):
    """A topic that has to be there is not."""

    def __init__(self, topic: str, settings: KafkaSettings) -> None:
        super().__init__(
            f"the topic {topic!r} does not exist on {settings.bootstrap_servers}: create the topics with "
            "`driftline topics create`, or start everything with `driftline up`"
        )
        self.topic = topic


class _Ears:
    """Remembers the last thing librdkafka complained about, to say why a cluster cannot be reached."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.last:
            self.last = error.str()


def quiet(properties: dict[str, Any], ears: _Ears | None = None) -> dict[str, Any]:
    """Keep librdkafka's own log off the terminal; what matters reaches the user as an error of ours."""
    return {**properties, "logger": _SILENT, "error_cb": ears or _Ears()}


def unreachable(settings: KafkaSettings, why: str) -> ClusterError:
    """The error for a cluster that does not answer."""
    detail = f" ({why})" if why else ""
    return ClusterError(
        f"no Kafka cluster answers at {settings.bootstrap_servers}{detail}: start one with `driftline up`, or set "
        "DRIFTLINE_BOOTSTRAP_SERVERS (and DRIFTLINE_KAFKA_SECURITY_PROTOCOL etc. for TLS and SASL) to yours"
    )


def reach_seconds() -> float:
    """How long to wait for the cluster: ``DRIFTLINE_CONNECT_SECONDS``, or 10.

    Raises:
        ClusterError: The setting is no number of seconds.
    """
    text = os.environ.get("DRIFTLINE_CONNECT_SECONDS", "").strip()
    try:
        seconds = float(text) if text else REACH_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 600:
        raise ClusterError(f"DRIFTLINE_CONNECT_SECONDS: expected a number from 0.1 to 600, came {text[:40]!r}")
    return seconds


def admin_client(settings: KafkaSettings, *, timeout_seconds: float | None = None) -> AdminClient:
    """An admin client of a cluster that has answered.

    Raises:
        ClusterError: The cluster does not answer in time, or the properties make no client.
    """
    return _reached(settings, timeout_seconds)[0]


def cluster_metadata(settings: KafkaSettings, *, timeout_seconds: float | None = None) -> Any:
    """Brokers, topics and partitions of the cluster: a ``confluent_kafka.admin.ClusterMetadata``.

    Raises:
        ClusterError: The cluster does not answer in time, or the properties make no client.
    """
    return _reached(settings, timeout_seconds)[1]


def _reached(settings: KafkaSettings, timeout_seconds: float | None) -> tuple[AdminClient, Any]:
    ears, timeout = _Ears(), reach_seconds() if timeout_seconds is None else timeout_seconds
    try:
        admin = AdminClient(quiet(settings.client(), ears))
    except (KafkaException, ValueError, TypeError) as error:
        raise ClusterError(f"the Kafka settings cannot be used: {_text(error)}") from error
    try:
        return admin, admin.list_topics(timeout=timeout)
    except KafkaException as error:
        admin.poll(0)  # serves the error callback, which knows more than "timed out"
        raise unreachable(settings, ears.last or _text(error)) from error


def answer(future: Future[Any], timeout_seconds: float = 2 * REACH_SECONDS) -> Any:
    """What an admin client's request brought.

    Raises:
        KafkaException: The cluster refused.
        ClusterError: It did not answer in time.
    """
    try:
        return future.result(timeout_seconds)
    except TimeoutError as error:
        raise ClusterError(f"the Kafka cluster did not answer a request within {timeout_seconds:.0f} s") from error


def _text(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)


def consumer(settings: KafkaSettings, **properties: Any) -> Consumer:
    """A consumer that joins no group by itself, commits nothing and sees committed transactions only.

    Args:
        settings: How to reach Kafka.
        **properties: librdkafka properties with underscores for dots; they win.
    """
    defaults: dict[str, Any] = {
        "group_id": f"{settings.application_id}-reader",
        "enable_auto_commit": False,
        "auto_offset_reset": "error",
        "isolation_level": "read_committed",
        "enable_partition_eof": True,
        "fetch_wait_max_ms": 50,
    }
    return Consumer(quiet(settings.client(**(defaults | properties))))


def topic_partitions(settings: KafkaSettings, topic: str) -> list[int]:
    """The numbers of a topic's partitions, ascending.

    Raises:
        MissingTopicError: There is no such topic.
        ClusterError: The cluster does not answer.
    """
    found = cluster_metadata(settings).topics.get(topic)
    if found is None or found.error is not None:
        raise MissingTopicError(topic, settings)
    return sorted(found.partitions)


def read_to_end(
    settings: KafkaSettings,
    topic: str,
    *,
    partitions: Collection[int] | None = None,
    since_ms: int | None = None,
    last: int | None = None,
    stall_seconds: float = _STALL_SECONDS,
) -> Iterator[Message]:
    """Every committed message that is on a topic now, in the order of each partition.

    Messages that arrive while reading are left for the next call, so the iterator ends on a busy topic too.

    Args:
        settings: How to reach Kafka.
        topic: Topic name, prefix included.
        partitions: Read these only.
        since_ms: Start at the first message with this broker time stamp or a later one, milliseconds since 1970 UTC.
        last: Read only so many of the last offsets of each partition; some of them may be transaction markers.
        stall_seconds: Give up when nothing comes for so long.

    Raises:
        MissingTopicError: There is no such topic.
        ClusterError: The cluster does not answer, or refuses.
    """
    wanted = [p for p in topic_partitions(settings, topic) if partitions is None or p in partitions]
    reader = consumer(settings)
    try:
        yield from _read_assigned(
            settings, reader, topic, _start_positions(reader, topic, wanted, since_ms, last), stall_seconds
        )
    except KafkaException as error:
        raise ClusterError(f"reading {topic!r} on {settings.bootstrap_servers} failed: {_text(error)}") from error
    finally:
        reader.close()


def _start_positions(
    reader: Consumer, topic: str, partitions: Sequence[int], since_ms: int | None, last: int | None
) -> list[tuple[TopicPartition, int]]:
    """Where to start each partition that has something to read, and the offset to stop before."""
    ends = {p: offset_range(reader, topic, p, REACH_SECONDS) for p in partitions}
    at = [TopicPartition(topic, p, OFFSET_BEGINNING if since_ms is None else since_ms) for p in partitions]
    if since_ms is not None and at:
        at = reader.offsets_for_times(at, timeout=REACH_SECONDS)
    positions = []
    for start in at:
        low, high = ends[start.partition].start, ends[start.partition].stop
        earliest = low if last is None else max(low, high - last)
        first = high if start.offset == OFFSET_END else max(earliest, start.offset)
        if first < high:
            positions.append((TopicPartition(topic, start.partition, first), high))
    return positions


def _read_assigned(
    settings: KafkaSettings,
    reader: Consumer,
    topic: str,
    positions: Sequence[tuple[TopicPartition, int]],
    stall_seconds: float,
) -> Iterator[Message]:
    if not positions:
        return
    stop_at = {start.partition: end for start, end in positions}
    reader.assign([start for start, _ in positions])
    last_progress = time.monotonic()
    while stop_at:
        message = reader.poll(_POLL_SECONDS)
        if message is None:
            if time.monotonic() - last_progress > stall_seconds:
                raise unreachable(settings, f"nothing came for {stall_seconds:.0f} s")
            continue
        last_progress = time.monotonic()
        partition, error = cast(int, message.partition()), message.error()
        if error is not None:
            # The last offsets may be transaction markers, which are never delivered: then the partition just ends.
            if error.code() == KafkaError._PARTITION_EOF:
                stop_at.pop(partition, None)
                continue
            raise KafkaException(error)
        end, offset = stop_at.get(partition), cast(int, message.offset())
        if end is None:
            continue
        if offset < end:
            yield message
        if offset >= end - 1:
            del stop_at[partition]
            reader.pause([TopicPartition(topic, partition)])


def latest_by_key(settings: KafkaSettings, topic: str) -> dict[bytes, Message]:
    """The latest message of every key of a compacted topic; deleted keys (empty values) are left out.

    Raises:
        MissingTopicError: There is no such topic.
        ClusterError: The cluster does not answer, or refuses.
    """
    latest: dict[bytes, Message] = {}
    for message in read_to_end(settings, topic):
        key = message.key()
        if key is None:
            continue
        latest.pop(key, None)  # a key's place in the order is that of its latest message
        if message.value() is not None:
            latest[key] = message
    return latest


def broker_time_ms(message: Message) -> int | None:
    """A message's time stamp on the broker, milliseconds since 1970 UTC; None where it has none."""
    kind, value = message.timestamp()
    return None if kind == TIMESTAMP_NOT_AVAILABLE else int(value)


def cloud_event_headers(
    record: str, *, source: str, event_id: str | None = None, time_us: int | None = None
) -> list[tuple[str, bytes]]:
    """Headers of the CloudEvents 1.0 Kafka binding, binary mode.

    Args:
        record: Name of the record, for example ``DeploymentSpec``.
        source: The process that publishes, for example ``cli``.
        event_id: A new one if not given.
        time_us: Microseconds since 1970 UTC; now if not given.
    """
    moment = dt.datetime.now(dt.UTC) if time_us is None else dt.datetime.fromtimestamp(time_us / 1e6, dt.UTC)
    values = {
        "ce_specversion": "1.0",
        "ce_id": event_id or str(uuid.uuid4()),
        "ce_type": f"driftline.{record}",
        "ce_source": f"driftline/{source}",
        "ce_time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "content-type": "application/avro",
    }
    return [(name, value.encode()) for name, value in values.items()]


class Publisher:
    """Publishes messages and knows that they arrived.

    ``flush()``, and leaving the ``with`` block without an error, return only when every message is acknowledged by
    all in-sync replicas. Partitions are chosen as Java and aiokafka do. With ``transactional_id`` the messages become
    visible together, at the end of the block, or not at all; a later publisher with the same id fences this one.

    Raises:
        ClusterError: A message was refused or not acknowledged in time, or another publisher took over.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        transactional_id: str | None = None,
        timeout_seconds: float = _DELIVERY_SECONDS,
    ) -> None:
        self._settings = settings
        self._transactional = transactional_id is not None
        self._timeout_seconds = timeout_seconds
        self._failures: list[str] = []
        cluster_metadata(settings)  # a cluster that is not there is named within seconds, not after a delivery time-out
        properties = settings.client(
            partitioner=PARTITIONER,
            enable_idempotence=True,
            acks="all",
            max_in_flight_requests_per_connection=REQUESTS_IN_FLIGHT,
            compression_type="zstd",
            message_max_bytes=MAX_MESSAGE_BYTES,
            linger_ms=5,
            delivery_timeout_ms=int(timeout_seconds * 1000),
        )
        if transactional_id is not None:
            properties |= {"transactional.id": transactional_id, "transaction.timeout.ms": int(timeout_seconds * 1000)}
        try:
            self._producer = Producer(quiet(properties))
            if self._transactional:
                self._producer.init_transactions(timeout_seconds)
                self._producer.begin_transaction()
        except KafkaException as error:
            raise ClusterError(f"cannot publish to {settings.bootstrap_servers}: {_text(error)}") from error

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Queue a message; an empty value deletes the key of a compacted topic."""
        # In a transaction the commit answers for all messages, and a callback would turn the error of a fenced producer
        # into a SystemError (confluent-kafka 2.16).
        report: dict[str, Any] = {} if self._transactional else {"on_delivery": self._delivered}
        while True:
            try:
                self._producer.produce(topic, value, key, headers=list(headers), **report)
            except BufferError:
                self._producer.poll(_POLL_SECONDS)
                continue
            except KafkaException as error:
                raise ClusterError(f"{topic!r} does not take the message: {_text(error)}") from error
            self._producer.poll(0)
            return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append(f"{message.topic()!r}: {error.str()}")
        elif message.offset() is None:  # librdkafka infers it from the success of a later message, which proves nothing
            self._failures.append(f"{message.topic()!r}: reported as delivered, but not where")

    def flush(self) -> None:
        """Wait until every message is acknowledged."""
        try:
            left = self._producer.flush(self._timeout_seconds)
        except KafkaException as error:
            raise ClusterError(f"cannot publish to {self._settings.bootstrap_servers}: {_text(error)}") from error
        if self._failures or left:
            why = self._failures[0] if self._failures else f"{left} not acknowledged in {self._timeout_seconds:.0f} s"
            lost = len(self._failures) + left
            self._failures.clear()
            raise ClusterError(f"{lost} message(s) were not published to {self._settings.bootstrap_servers}: {why}")

    def commit(self) -> None:
        """Make the messages of the transaction visible and begin the next one."""
        self._commit()
        self._producer.begin_transaction()

    def _commit(self) -> None:
        try:
            self._producer.commit_transaction(self._timeout_seconds)
        except KafkaException as error:
            cause = error.args[0]
            if cause.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                raise ClusterError(
                    "somebody else published the same kind of change at the same moment; nothing of yours was "
                    "published: run the command again"
                ) from error
            raise ClusterError(f"the transaction was not committed: {_text(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drop()
        elif self._transactional:
            self._commit()
        else:
            self.flush()

    def _drop(self) -> None:
        self._producer.purge()
        if not self._transactional:
            self._producer.flush(1)
            return
        try:
            self._producer.abort_transaction(REACH_SECONDS)
        except KafkaException:
            pass  # fenced or gone: the broker aborts it, and the first error is the one to show


def publish(settings: KafkaSettings, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
    """Publish one message and return when it is acknowledged.

    Raises:
        ClusterError: It was not.
    """
    with Publisher(settings) as publisher:
        publisher.send(topic, key, value, headers)
