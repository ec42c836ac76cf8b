"""Looking up what is in a source topic, beside the consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from driftline.settings import KafkaSettings
from streams.clients import offset_range, plain_consumer
from streams.errors import JournalError
from streams.messages import Message

ANSWER_TIMEOUT_SECONDS = 20.0


class LogReader:
    """Reads one partition number of the source topics. Not thread-safe: one executor thread calls it.

    Args:
        settings: How to reach Kafka.
        partition: The partition.
    """

    def __init__(self, settings: KafkaSettings, partition: int) -> None:
        self._settings = settings
        self._partition = partition
        self._consumer: Consumer | None = None

    def end_offset(self, topic: str) -> int:
        """The offset that the next message would have.

        Raises:
            JournalError: Kafka does not answer.
        """
        try:
            return offset_range(self._open(), topic, self._partition, ANSWER_TIMEOUT_SECONDS).stop
        except KafkaException as error:
            raise JournalError(f"{topic}/{self._partition}: its end cannot be looked up: {error}") from error

    def first_offset(self, topic: str) -> int:
        """The offset of the first message that is still there, or would be.

        Raises:
            JournalError: Kafka does not answer.
        """
        try:
            return offset_range(self._open(), topic, self._partition, ANSWER_TIMEOUT_SECONDS).start
        except KafkaException as error:
            raise JournalError(f"{topic}/{self._partition}: its beginning cannot be looked up: {error}") from error

    def first_message(self, topic: str, offset: int) -> int | None:
        """The offset of the first message at or after ``offset``; None if there is none yet.

        Raises:
            JournalError: Kafka does not answer.
        """
        found = next(self._messages(topic, offset), None)
        return None if found is None else found.offset

    def read(self, topic: str, offsets: range) -> Iterator[Message]:
        """The messages of a range of offsets, as far as the log still has them.

        Raises:
            JournalError: Kafka does not answer.
        """
        for message in self._messages(topic, offsets.start) if offsets else ():
            if message.offset >= offsets.stop:
                return
            yield message
            if message.offset == offsets.stop - 1:
                return

    def _messages(self, topic: str, offset: int) -> Iterator[Message]:
        """Messages from an offset to the present end."""
        consumer = self._open()
        try:
            consumer.assign([TopicPartition(topic, self._partition, offset)])
            deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
            at_once = 1  # a larger number is waited for to the end of the time
            while time.monotonic() < deadline:
                for message in consumer.consume(at_once, timeout=0.05):
                    at_once = 500
                    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
                    error = message.error()
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            return
                        raise KafkaException(error)
                    at, sent_ms = message.offset(), message.timestamp()[1]
                    yield Message(topic, self._partition, at or 0, sent_ms, message.key(), message.value())
            raise JournalError(f"{topic}/{self._partition}: no answer while reading from offset {offset}")
        except KafkaException as error:
            raise JournalError(f"{topic}/{self._partition}: offset {offset} cannot be read: {error}") from error
        finally:
            consumer.unassign()

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._consumer = plain_consumer(self._settings, "probe")
        return self._consumer

    def close(self) -> None:
        """Let go of the connection."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
