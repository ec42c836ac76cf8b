"""Reading topics to their end, and publishing what arrives."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka import admin as kafka_admin

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.broker.embedded import EmbeddedBroker
from services.kafka import (
    ClusterError,
    MissingTopicError,
    Publisher,
    broker_time_ms,
    cloud_event_headers,
    latest_by_key,
    publish,
    read_to_end,
)


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers, Topics(topic_prefix))


@pytest.fixture
def topic(settings: KafkaSettings) -> str:
    name = settings.topics.predictions
    admin = kafka_admin.AdminClient(settings.client())
    for future in admin.create_topics([kafka_admin.NewTopic(name, 3)]).values():
        future.result(10)
    deadline = time.monotonic() + 20
    while name not in admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
        time.sleep(0.05)  # a broker learns of a topic after the controller has created it
    return name


def values(settings: KafkaSettings, topic: str, **limits: int) -> list[bytes | None]:
    return [message.value() for message in read_to_end(settings, topic, **limits)]  # type: ignore[arg-type]


def test_every_message_of_every_partition_is_read_in_order(settings: KafkaSettings, topic: str) -> None:
    with Publisher(settings) as publisher:
        for number in range(3000):
            publisher.send(topic, b"key%d" % (number % 50), b"%d" % number)
    read = list(read_to_end(settings, topic))
    assert sorted(int(m.value() or b"") for m in read) == list(range(3000))
    for partition in range(3):
        numbers = [int(m.value() or b"") for m in read if m.partition() == partition]
        assert numbers and numbers == sorted(numbers)


def test_a_topic_can_be_read_as_soon_as_it_is_known(settings: KafkaSettings) -> None:
    """Its partitions may still be looking for their leaders then."""
    admin = kafka_admin.AdminClient(settings.client())
    for number in range(20):
        name = f"{settings.topics.predictions}-{number}"
        admin.create_topics([kafka_admin.NewTopic(name, 10)])
        while name not in admin.list_topics(timeout=10).topics:
            pass
        assert values(settings, name) == []


def test_reading_ends_at_once_on_an_empty_topic(settings: KafkaSettings, topic: str) -> None:
    began = time.monotonic()
    assert values(settings, topic) == []
    assert time.monotonic() - began < 5


def test_reading_ends_behind_transactions_that_were_aborted_and_leaves_them_out(
    settings: KafkaSettings, topic: str
) -> None:
    with Publisher(settings, transactional_id=topic) as publisher:
        publisher.send(topic, b"a", b"kept")

    def fail() -> None:
        with Publisher(settings, transactional_id=topic) as publisher:
            publisher.send(topic, b"a", b"dropped")
            publisher.flush()
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert values(settings, topic) == [b"kept"]


def test_messages_that_arrive_while_reading_are_left_for_the_next_time(settings: KafkaSettings, topic: str) -> None:
    with Publisher(settings) as publisher:
        for number in range(10):
            publisher.send(topic, b"one key", b"%d" % number)
    read = []
    for message in read_to_end(settings, topic):
        read.append(message.value())
        publish(settings, topic, b"one key", b"later")
        if len(read) > 10:
            break
    assert read == [b"%d" % number for number in range(10)]


def test_reading_can_start_at_a_time_and_keep_to_partitions(settings: KafkaSettings, topic: str) -> None:
    producer = Producer(settings.client())
    for partition in range(2):
        for moment_ms in (1_000_000, 2_000_000, 3_000_000):
            producer.produce(topic, b"%d/%d" % (partition, moment_ms), partition=partition, timestamp=moment_ms)
    producer.flush()
    assert set(values(settings, topic, since_ms=2_500_000)) == {b"0/3000000", b"1/3000000"}
    assert values(settings, topic, since_ms=9_000_000) == []
    late = list(read_to_end(settings, topic, partitions=[1], since_ms=2_000_000))
    assert [broker_time_ms(m) for m in late] == [2_000_000, 3_000_000]


def test_reading_can_keep_to_the_last_messages_of_each_partition(settings: KafkaSettings, topic: str) -> None:
    producer = Producer(settings.client())
    for number in range(20):
        producer.produce(topic, b"%d" % number, partition=number % 2)
    producer.flush()
    assert sorted(values(settings, topic, last=2)) == [b"16", b"17", b"18", b"19"]
    assert len(values(settings, topic, last=99)) == 20


def test_the_latest_message_of_each_key_is_kept_and_deleted_keys_are_gone(settings: KafkaSettings, topic: str) -> None:
    with Publisher(settings) as publisher:
        for key, value in [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"b", None)]:
            publisher.send(topic, key, value)
    assert {key: m.value() for key, m in latest_by_key(settings, topic).items()} == {b"a": b"2", b"c": b"1"}


def test_keys_go_where_java_and_aiokafka_send_them(settings: KafkaSettings, topic: str) -> None:
    # murmur2 of the key, as org.apache.kafka.common.utils.Utils.murmur2 has it, positive, modulo 3 partitions
    expected = {key: (murmur2(key) & 0x7FFFFFFF) % 3 for key in (b"delays", b"delays#1", b"a", b"\xc3\xa9t\xc3\xa9")}
    with Publisher(settings) as publisher:
        for key in expected:
            publisher.send(topic, key, b"x")
    assert {m.key(): m.partition() for m in read_to_end(settings, topic)} == expected


def murmur2(data: bytes) -> int:
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    for start in range(0, len(data) - len(data) % 4, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    tail = data[len(data) - len(data) % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_a_later_publisher_fences_the_one_before_whose_change_is_not_seen(settings: KafkaSettings, topic: str) -> None:
    def race() -> None:
        with Publisher(settings, transactional_id=topic) as first:
            first.send(topic, b"k", b"first")
            with Publisher(settings, transactional_id=topic) as second:
                second.send(topic, b"k", b"second")

    with pytest.raises(ClusterError, match="run the command again"):
        race()
    assert values(settings, topic) == [b"second"]


@pytest.mark.parametrize("transactional", [False, True])
def test_a_message_that_the_leader_refuses_before_it_takes_the_next_is_not_lost(
    kafka: Any, settings: KafkaSettings, topic: str, late_leader: Callable[[str], Any], transactional: bool
) -> None:
    if not isinstance(kafka, EmbeddedBroker):
        pytest.skip("only the embedded broker is known to be alone")
    leader = late_leader(settings.bootstrap_servers)
    through = KafkaSettings(leader.bootstrap_servers, settings.topics)
    sent = [b"%d" % number + os.urandom(500_000) for number in range(8)]
    with Publisher(through, transactional_id=topic if transactional else None) as publisher:
        for value in sent:
            publisher.send(topic, b"k", value)
    assert leader.refused == 1
    assert values(settings, topic) == sent


def test_a_refused_message_is_an_error(settings: KafkaSettings, topic: str) -> None:
    with pytest.raises(ClusterError, match=r"does not take the message|not published"):
        publish(settings, topic, b"k", b"x" * 13 * 1024 * 1024)


@pytest.mark.parametrize("act", [lambda s: list(read_to_end(s, "nope")), lambda s: latest_by_key(s, "nope")])
def test_a_missing_topic_is_named_with_the_command_that_creates_it(
    settings: KafkaSettings, act: Callable[[KafkaSettings], object]
) -> None:
    with pytest.raises(MissingTopicError, match=r"'nope' does not exist .*driftline topics create"):
        act(settings)


def test_a_cluster_that_is_not_there_is_named_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CONNECT_SECONDS", "2")
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"no Kafka cluster answers at 127\.0\.0\.1:9"):
        publish(KafkaSettings("127.0.0.1:9"), "t", None, b"x")
    assert time.monotonic() - began < 5


def test_a_time_to_wait_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CONNECT_SECONDS", "soon")
    with pytest.raises(ClusterError, match=r"DRIFTLINE_CONNECT_SECONDS: expected a number .* came 'soon'"):
        list(read_to_end(KafkaSettings("127.0.0.1:9"), "t"))


def test_a_property_that_librdkafka_does_not_know_is_named(bootstrap_servers: str) -> None:
    with pytest.raises(ClusterError, match=r"settings cannot be used.*no\.such\.property"):
        list(read_to_end(KafkaSettings(bootstrap_servers, librdkafka={"no.such.property": "1"}), "t"))


def test_headers_follow_the_cloudevents_binding() -> None:
    headers = dict(cloud_event_headers("Alert", source="streams/0", event_id="e1", time_us=1_500_000))
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"e1",
        "ce_type": b"driftline.Alert",
        "ce_source": b"driftline/streams/0",
        "ce_time": b"1970-01-01T00:00:01.500000Z",
        "content-type": b"application/avro",
    }
