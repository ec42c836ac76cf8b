"""What the topics still have of a partition: its messages, and the order in which they were applied."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaException

from driftline.codec import decode
from driftline.settings import KafkaSettings
from services.kafka import REACH_SECONDS, ClusterError, broker_time_ms, consumer, read_to_end
from streams.clients import offset_range
from streams.messages import Message

Entries = list[Mapping[str, Any]]


class Log:
    """The messages of one topic and partition, in order, read once.

    ``low`` and ``end``: the offsets that it has, as of now; ``passed``: how many of them have been read.
    """

    def __init__(self, settings: KafkaSettings, topic: str, number: int) -> None:
        self.topic = topic
        self.low, self.end = watermarks(settings, topic, number)
        self.passed = 0
        self._messages = _messages_of(settings, topic, number)
        self._next: Message | None = None

    def run(self, first_offset: int, last_offset: int) -> Iterator[Message]:
        """The messages from one offset to another, as far as the log still has them."""
        while (message := self._peek()) is not None and message.offset <= last_offset:
            self._next = None
            self.passed = message.offset + 1 - self.low
            if message.offset >= first_offset:
                yield message

    def rest(self) -> Iterator[Message]:
        """Everything that was not asked for."""
        while (message := self._peek()) is not None:
            self._next = None
            self.passed = message.offset + 1 - self.low
            yield message
        self.passed = self.end - self.low  # the last offsets may be transaction markers

    def _peek(self) -> Message | None:
        if self._next is None:
            self._next = next(self._messages, None)
        return self._next

    def close(self) -> None:
        """Let go of the connection."""
        self._messages.close()


def _messages_of(settings: KafkaSettings, topic: str, number: int) -> Generator[Message, None, None]:
    for found in read_to_end(settings, topic, partitions=[number]):
        yield Message(topic, number, found.offset() or 0, found.timestamp()[1], found.key(), found.value())


def order_of(settings: KafkaSettings, number: int) -> Iterator[tuple[int, Entries]]:
    """The order in which a partition applied its messages, commit by commit, each with the broker's time (ms).

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    for message in read_to_end(settings, settings.topics.streams_order, partitions=[number]):
        record = decode(message.value())[1]
        yield broker_time_ms(message) or 0, record["entries"]


def watermarks(settings: KafkaSettings, topic: str, number: int) -> tuple[int, int]:
    """The first offset that a partition still has, and the one behind its last.

    Raises:
        ClusterError: Kafka does not answer.
    """
    reader = consumer(settings)
    try:
        there = offset_range(reader, topic, number, REACH_SECONDS)
        return there.start, there.stop
    except KafkaException as error:
        raise ClusterError(f"{topic}/{number}: its ends cannot be looked up: {error}") from error
    finally:
        reader.close()
