"""Kafka clients of the streams that stand outside the consumer group."""

from __future__ import annotations

import logging
import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from driftline.producer import REQUESTS_IN_FLIGHT
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER

READ_AHEAD_KIB = 8 << 10
"""librdkafka's own is 64 MiB, for each of the partitions that open at once."""

MOVING = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
    )
)
"""What is answered while a partition finds its leader: when it has just been made, or a broker has gone or returned."""

MOVING_SECONDS = 10.0
"""So long a partition may take to find its leader."""

logger = logging.getLogger("driftline.streams.librdkafka")


class _Demoted:
    """librdkafka complains of every connection it loses, on every client; what stops us comes as an error of ours."""

    @staticmethod
    def log(_level: int, *text: Any) -> None:
        logger.debug(*text)


def plain_consumer(settings: KafkaSettings, purpose: str, **properties: Any) -> Consumer:
    """A consumer that joins no group, commits nothing, sees committed transactions only and is told of every end.

    Args:
        settings: How to reach Kafka.
        purpose: Part of its group's name, which brokers may want to authorise.
        **properties: librdkafka properties with underscores for dots; they win.
    """
    defaults: dict[str, Any] = {
        "group_id": f"{settings.application_id}-{purpose}",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "auto_offset_reset": "earliest",
        "enable_partition_eof": True,
        "fetch_wait_max_ms": 50,
        "queued_max_messages_kbytes": READ_AHEAD_KIB,
    }
    return Consumer(settings.client(**(defaults | properties)) | {"logger": _Demoted()})


def plain_admin(settings: KafkaSettings) -> AdminClient:
    """A client that asks about topics; it must be kept until its requests are answered."""
    return AdminClient(settings.client() | {"logger": _Demoted()})


def transactional_producer(settings: KafkaSettings, transactional_id: str, **properties: Any) -> Producer:
    """A producer of transactions, with the partitioner that all producers share."""
    defaults: dict[str, Any] = {
        "transactional_id": transactional_id,
        "partitioner": PARTITIONER,
        "max_in_flight_requests_per_connection": REQUESTS_IN_FLIGHT,
        "compression_type": "lz4",
        "linger_ms": 5,
    }
    callbacks = {"error_cb": properties.pop("error_cb", None) or (lambda _: None), "logger": _Demoted()}
    return Producer(settings.client(**(defaults | properties)) | callbacks)


def offset_range(consumer: Consumer, topic: str, partition: int, timeout_seconds: float) -> range:
    """The offsets that a partition has now: from the first that is still there to before the next one.

    Asked while the partition finds its leader, librdkafka fails at once; here it is asked again.

    Raises:
        KafkaException: Kafka does not answer in time, or refuses.
    """
    deadline = time.monotonic() + MOVING_SECONDS
    while True:
        try:
            return range(*consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_seconds))
        except KafkaException as error:
            if error.args[0].code() not in MOVING or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
