"""Reading a topic of one partition in its order: committed records only, from a given offset, never a group's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from driftline.settings import KafkaSettings
from services.governance.errors import TopicError
from services.kafka import ClusterError, consumer, topic_partitions, unreachable
from streams.clients import offset_range

_BATCH = 5_000
_WAIT_SECONDS = 5.0
_STALL_SECONDS = 30.0

# What a consumer reports about the log itself; everything else is a matter of reaching the cluster.
_LOG_CHANGED = frozenset(
    {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
    | {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
    | {KafkaError.UNKNOWN_TOPIC_ID}
)


class LogRecord(NamedTuple):
    """One record: offset, time stamp (milliseconds since 1970 UTC) and the exact bytes of its value.

    A record without a value is read as one of no bytes: neither says anything.
    """

    offset: int
    timestamp_ms: int
    value: bytes


class LogChangedError(TopicError):
    """The topic does not have the offset that was asked for: it was cut, or made anew."""


class Batch(NamedTuple):
    """Records in order, and the offset of the topic's end if it was reached behind them."""

    records: list[LogRecord]
    end: int | None


class TopicReader:
    """Reads one topic that has exactly one partition.

    Raises:
        TopicError: The topic has more than one partition.
        ClusterError: Kafka does not answer, or has no such topic.
    """

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        partitions = topic_partitions(kafka, topic)
        if partitions != [0]:
            raise TopicError(
                f"the topic {topic!r} has {len(partitions)} partitions; records have one order only on one partition. "
                "Create it anew with a single partition."
            )
        self._kafka = kafka
        self._partition = TopicPartition(topic, 0)
        self._consumer = consumer(kafka)

    def watermarks(self) -> tuple[int, int]:
        """The first offset that is there, and the one the next record will have at least.

        Raises:
            ClusterError: Kafka does not answer.
        """
        try:
            there = offset_range(self._consumer, self._partition.topic, 0, _WAIT_SECONDS)
        except KafkaException as error:
            raise unreachable(self._kafka, str(error.args[0])) from error
        return there.start, there.stop

    def start(self, offset: int) -> None:
        """Go on with this offset."""
        self._consumer.assign([TopicPartition(self._partition.topic, 0, offset)])

    def poll(self, wait_seconds: float, most: int = _BATCH) -> Batch:
        """What has come, as soon as anything has.

        Raises:
            LogChangedError: The offset asked for is not there any more.
            ClusterError: Kafka refuses.
        """
        records: list[LogRecord] = []
        end = None
        messages = self._consumer.consume(1, wait_seconds)  # asked for more, it would wait for all of them
        if messages:
            messages += self._consumer.consume(most - 1, 0)
        for message in messages:
            error = message.error()
            if error is None:
                end = None
                records.append(LogRecord(message.offset() or 0, message.timestamp()[1], message.value() or b""))
            elif error.code() == KafkaError._PARTITION_EOF:
                end = message.offset()
            elif error.code() in _LOG_CHANGED:
                raise LogChangedError(f"{self._partition.topic!r}: {error.str()}")
            else:
                raise ClusterError(f"reading {self._partition.topic!r} failed: {error.str()}")
        return Batch(records, end)

    def batches(self, start: int | None = None) -> Iterator[list[LogRecord]]:
        """Everything from an offset (the first that is there by default) to the end as it is now.

        Raises:
            LogChangedError: The offset is not there.
            ClusterError: Kafka does not answer.
        """
        low, high = self.watermarks()
        at = low if start is None else start
        if at >= high:
            return
        self.start(at)
        heard = time.monotonic()
        while True:
            records, end = self.poll(0.2)
            if records or end is not None:
                heard = time.monotonic()
            elif time.monotonic() - heard > _STALL_SECONDS:
                raise unreachable(self._kafka, f"nothing came for {_STALL_SECONDS:.0f} s")
            inside = [record for record in records if record.offset < high]
            if inside:
                yield inside
            # The last offsets may be transaction markers, which are never delivered: then only the end is reported.
            if end is not None or (records and records[-1].offset >= high - 1):
                return

    def close(self) -> None:
        """Release the connections."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
