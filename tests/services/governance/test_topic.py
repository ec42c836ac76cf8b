"""Reading a topic in its order, on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from driftline.settings import KafkaSettings
from services.governance.errors import TopicError
from services.governance.topic import LogChangedError, TopicReader
from services.kafka import ClusterError


def values(kafka: KafkaSettings, start: int | None = None) -> list[bytes]:
    with TopicReader(kafka, kafka.topics.audit) as reader:
        return [record.value for batch in reader.batches(start) for record in batch]


def transactional(kafka: KafkaSettings) -> Producer:
    producer = Producer(kafka.client(transactional_id=kafka.topics.audit))
    producer.init_transactions(30)
    producer.begin_transaction()
    return producer


def test_an_empty_topic_has_nothing(kafka_settings: KafkaSettings) -> None:
    assert values(kafka_settings) == []


def test_an_open_transaction_hides_what_follows_until_it_ends(kafka_settings: KafkaSettings) -> None:
    topic = kafka_settings.topics.audit
    plain = Producer(kafka_settings.client())
    plain.produce(topic, b"before")
    plain.flush(30)
    pending = transactional(kafka_settings)
    pending.produce(topic, b"inside")
    pending.flush(30)
    plain.produce(topic, b"after")
    plain.flush(30)
    assert values(kafka_settings) == [b"before"]
    pending.commit_transaction(30)
    assert values(kafka_settings) == [b"before", b"inside", b"after"]


def test_a_topic_that_ends_in_markers_is_read_to_its_end(kafka_settings: KafkaSettings) -> None:
    producer = transactional(kafka_settings)
    producer.produce(kafka_settings.topics.audit, b"never")
    producer.flush(30)
    producer.abort_transaction(30)
    assert values(kafka_settings) == []
    producer.begin_transaction()
    producer.produce(kafka_settings.topics.audit, b"one")
    producer.commit_transaction(30)
    assert values(kafka_settings) == [b"one"]
    assert values(kafka_settings, 2) == [b"one"]


def test_an_offset_that_is_not_there_is_an_error(kafka_settings: KafkaSettings) -> None:
    producer = Producer(kafka_settings.client())
    producer.produce(kafka_settings.topics.audit, b"one")
    producer.flush(30)
    with TopicReader(kafka_settings, kafka_settings.topics.audit) as reader:
        reader.start(50)
        with pytest.raises(LogChangedError):
            reader.poll(30)


def test_a_topic_with_more_partitions_or_none_is_an_error(
    kafka_settings: KafkaSettings, create_topics: Callable[..., None]
) -> None:
    wide = kafka_settings.topics.audit + "-wide"
    create_topics(kafka_settings, wide, partitions=2)
    with pytest.raises(TopicError, match="single partition"):
        TopicReader(kafka_settings, wide)
    with pytest.raises(ClusterError, match="does not exist"):
        TopicReader(kafka_settings, wide + "-none")
