"""How far the streams have come: what their journals say against the ends of the topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from driftline.codec import decode
from driftline.settings import KafkaSettings
from services.kafka import ClusterError, consumer, topic_partitions
from streams.clients import offset_range

_TIMEOUT_SECONDS = 10.0
_FIRST_LOOK_RECORDS = 500
_POSITION_KEY = b"position"


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """One partition of the streams.

    Attributes:
        partition: Its number.
        applied: Topic to the next offset that will be applied.
        ends: Topic to the offset behind its last message.
        facts: The journal's position record: messages, dead_letters and so on; empty before the first commit.
    """

    partition: int
    applied: Mapping[str, int]
    ends: Mapping[str, int]
    facts: Mapping[str, Any]

    @property
    def lag(self) -> int:
        """Messages not applied yet."""
        return sum(self.lags.values())

    @property
    def lags(self) -> dict[str, int]:
        """The same by topic."""
        return {topic: max(0, end - self.applied[topic]) for topic, end in self.ends.items()}


def stream_positions(settings: KafkaSettings) -> list[StreamPosition]:
    """The position of every partition, from the journals' own records.

    Raises:
        ClusterError: The cluster does not answer, or a topic is missing.
    """
    topics = settings.topics
    partitions = topic_partitions(settings, topics.streams_state)
    reader = consumer(settings, auto_offset_reset="earliest")
    try:
        found = []
        for partition in partitions:
            facts = _latest_position(reader, topics.streams_state, partition)
            ends = {
                topic: offset_range(reader, topic, partition, _TIMEOUT_SECONDS).stop
                for topic in (topics.predictions, topics.outcomes)
            }
            applied = {topics.predictions: facts.get("predictions", 0), topics.outcomes: facts.get("outcomes", 0)}
            found.append(StreamPosition(partition, applied, ends, facts))
        return found
    except KafkaException as error:
        raise ClusterError(f"the streams' positions cannot be read: {error}") from error
    finally:
        reader.close()


def _latest_position(reader: Any, topic: str, partition: int) -> dict[str, Any]:
    """Every commit writes the position, so it is among the last records: look there first."""
    there = offset_range(reader, topic, partition, _TIMEOUT_SECONDS)
    low, high = there.start, there.stop
    look_back = _FIRST_LOOK_RECORDS
    while True:
        start = max(low, high - look_back)
        latest = _last_value(reader, topic, partition, start, high)
        if latest is not None:
            fields: dict[str, Any] = decode(latest)[1]["fields"]
            return fields
        if start == low:
            return {}
        look_back *= 8


def _last_value(reader: Any, topic: str, partition: int, start: int, end: int) -> bytes | None:
    latest: bytes | None = None
    if start >= end:
        return latest
    reader.assign([TopicPartition(topic, partition, start)])
    while True:
        message = reader.poll(_TIMEOUT_SECONDS)
        if message is None:
            raise ClusterError(f"{topic}/{partition}: no answer for {_TIMEOUT_SECONDS:.0f} s")
        if message.error() is not None:
            return latest  # the end: the last records are transaction markers
        if message.key() == _POSITION_KEY:
            latest = message.value()
        if message.offset() >= end - 1:
            return latest
