"""Java, aiokafka and the SDK put a key on the same partition."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2  # type: ignore[import-untyped]  # it has no types
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

import driftline
from driftline.topics import PARTITIONER, baseline_key, partition_of, record_key
from driftline.topics import murmur2 as driftline_murmur2

# From Apache Kafka's own UtilsTest.testMurmur2.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def java_murmur2(data: bytes) -> int:
    """`org.apache.kafka.common.utils.Utils.murmur2`, as an unsigned number."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def java_partition(key: bytes, partitions: int) -> int:
    return (java_murmur2(key) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(("key", "expected"), VECTORS.items())
def test_murmur2_gives_kafkas_own_vectors(key: bytes, expected: int) -> None:
    assert java_murmur2(key) == expected & 0xFFFFFFFF


@given(st.binary(max_size=40), st.integers(1, 64))
def test_aiokafka_places_keys_as_java_does(key: bytes, partitions: int) -> None:
    assert murmur2(key) & 0xFFFFFFFF == java_murmur2(key)
    everything = list(range(partitions))
    assert DefaultPartitioner()(key, everything, everything) == java_partition(key, partitions)


@given(st.binary(max_size=40), st.integers(1, 64))
def test_the_client_knows_where_its_key_lies(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == java_partition(key, partitions)
    assert driftline_murmur2(key) == java_murmur2(key)


def test_keys_are_what_the_topic_table_says() -> None:
    assert record_key("credit") == b"credit"
    assert record_key("credit", 3) == b"credit#3"
    assert baseline_key("credit", "v1") == b"credit@v1"


def test_librdkafka_places_keys_as_java_does(arrivals: Any) -> None:
    topic, partitions = arrivals.settings.topics.predictions, 7
    keys = [*VECTORS, *(record_key(f"deployment-{i}", i % 3) for i in range(200)), "Łódź-信用".encode()]
    placed: dict[Any, Any] = {}
    producer = Producer(arrivals.settings.client(partitioner=PARTITIONER))
    for key in keys:
        producer.produce(
            topic, b"", key, on_delivery=lambda error, message: placed.update({message.key(): message.partition()})
        )
    assert producer.flush(30) == 0
    assert placed == {key: java_partition(key, partitions) for key in keys}
    assert len(set(placed.values())) == partitions


def test_the_client_sends_predictions_and_outcomes_to_the_same_java_partition(
    arrivals: Any, tmp_path: Any, eventually: Callable[..., None]
) -> None:
    for shard in (None, 0, 1, 2):
        deployment = f"credit-{uuid.uuid4().hex[:6]}"
        with driftline.Client(
            deployment, "v1", settings=arrivals.settings, shard=shard, spool_dir=tmp_path, strict=True
        ) as client:
            client.log_outcome(client.log_prediction({"a": 1}), 1.0)
    messages = arrivals.prediction_messages(4)
    assert len(messages) == 4
    for message in messages:
        assert message.partition() == java_partition(message.key(), 7)
