"""What the watch sees of a real Kafka."""

from typing import Any

import pytest

from driftline.codec import encode
from driftline.settings import KafkaSettings
from services.alerting.watch.observing import look_at_kafka
from services.broker.ports import free_port
from services.kafka import ClusterError, Publisher

pytestmark = pytest.mark.timeout(120)


def put(cluster: Any, topic: str, *values: bytes, transaction: bool = False) -> None:
    options = {"transactional_id": f"{cluster.prefix}{topic}"} if transaction else {}
    with Publisher(cluster.settings, **options) as publisher:
        for value in values:
            publisher.send(topic, None, value)


def position(cluster: Any, **fields: int) -> None:
    record = {"kind": "position", "fields": {"predictions": 0, "outcomes": 0, **fields}}
    with Publisher(cluster.settings) as publisher:
        publisher.send(cluster.settings.topics.streams_state, b"position", encode("JournalRecord", record))


def test_an_installation_without_messages_has_nothing_that_waits(cluster: Any) -> None:
    found = look_at_kafka(cluster.settings, ["predictions", "outcomes"], {})
    assert (found.places, found.ends, found.dead_letters) == ({}, {"predictions": 0, "outcomes": 0}, 0)


def test_messages_that_no_worker_applied_wait(cluster: Any) -> None:
    topics = cluster.settings.topics
    put(cluster, topics.predictions, b"1", b"2", b"3")
    put(cluster, topics.dead_letters, b"x")
    found = look_at_kafka(cluster.settings, ["predictions"], {})
    place = found.places[f"{topics.predictions}/0"]
    assert (place.applied, place.waiting) == (0, 3)
    assert found.ends == {"predictions": 3}
    assert found.dead_letters == 1
    again = look_at_kafka(cluster.settings, ["predictions"], {f"{topics.predictions}/0": 0})
    assert again.places == found.places, "it was looked: something real waits"


def test_markers_of_transactions_at_the_end_are_not_taken_for_messages_that_wait(cluster: Any) -> None:
    topics = cluster.settings.topics
    put(cluster, topics.predictions, b"1", b"2", transaction=True)
    position(cluster, predictions=2)
    name = f"{topics.predictions}/0"
    first = look_at_kafka(cluster.settings, [], {})
    assert first.places[name].waiting == 1, "at the first look it counts: it may be a message"
    assert look_at_kafka(cluster.settings, [], {name: 2}).places == {}
    put(cluster, topics.predictions, b"3")
    assert look_at_kafka(cluster.settings, [], {name: 2}).places[name].waiting == 2


def test_without_kafka_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CONNECT_SECONDS", "1")
    with pytest.raises(ClusterError, match="no Kafka cluster answers"):
        look_at_kafka(KafkaSettings(f"127.0.0.1:{free_port('127.0.0.1')}"), [], {})
