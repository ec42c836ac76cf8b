"""What Kafka holds: how far the streams are, where topics end, how many dead letters there are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from driftline.settings import KafkaSettings
from services.alerting.watch.judging import KafkaSeen, Place
from services.kafka import ClusterError, consumer, topic_partitions
from services.positions import stream_positions
from streams.clients import offset_range

_TIMEOUT_SECONDS = 10.0


def look_at_kafka(kafka: KafkaSettings, topics: Iterable[str], stuck_at: Mapping[str, int]) -> KafkaSeen:
    """Look.

    Args:
        kafka: How to reach it.
        topics: Names without prefix (:attr:`services.alerting.policy.model.Watch.silent_topics`).
        stuck_at: ``topic/partition`` to the offset at which the streams stood the last time: where they still stand
            there, it is looked whether anything real waits.

    Raises:
        ClusterError: It does not answer, or a topic is missing.
    """
    reader = consumer(kafka, auto_offset_reset="earliest")
    try:
        ends = {name: _end(reader, kafka, f"{kafka.topics.prefix}{name}") for name in topics}
        letters = _end(reader, kafka, kafka.topics.dead_letters)
        return KafkaSeen(_places(kafka, reader, stuck_at), ends, letters)
    except KafkaException as error:
        raise ClusterError(f"the ends of topics cannot be read: {error}") from error
    finally:
        reader.close()


def _end(reader: Any, kafka: KafkaSettings, topic: str) -> int:
    return sum(offset_range(reader, topic, p, _TIMEOUT_SECONDS).stop for p in topic_partitions(kafka, topic))


def _places(kafka: KafkaSettings, reader: Any, stuck_at: Mapping[str, int]) -> dict[str, Place]:
    places = {}
    for position in stream_positions(kafka):
        for topic, lag in position.lags.items():
            name, applied = f"{topic}/{position.partition}", position.applied[topic]
            if lag and stuck_at.get(name) == applied:
                # The last offsets may be markers of transactions, which nobody ever applies.
                lag = lag if _something_waits(reader, topic, position.partition, applied) else 0
            if lag:
                places[name] = Place(applied, lag)
    return places


def _something_waits(reader: Any, topic: str, partition: int, offset: int) -> bool:
    reader.assign([TopicPartition(topic, partition, offset)])
    try:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            message = reader.poll(0.5)
            if message is not None:
                return message.error() is None
        raise ClusterError(f"{topic}/{partition}: no answer for {_TIMEOUT_SECONDS:.0f} s")
    finally:
        reader.unassign()
