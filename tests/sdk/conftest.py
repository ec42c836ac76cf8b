"""Topics on the session's broker, and what arrived there."""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # public by its documentation

import driftline
from driftline.events import OutcomeColumns, PredictionColumns

PARTITIONS = 7


def create_topics(bootstrap_servers: str, names: list[str], config: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    topics = [NewTopic(name, PARTITIONS, 1, config=config) for name in names]
    for future in admin.create_topics(topics).values():
        future.result(30)


def read_topic(bootstrap_servers: str, topic: str, *, rows: int, timeout_seconds: float = 30.0) -> list[Message]:
    """All messages of a topic once they have that many rows, and whatever else comes within half a second."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    messages: list[Message] = []
    errors: list[str] = []
    there: dict[int, tuple[int, int]] = {}
    count, deadline = 0, time.monotonic() + timeout_seconds
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None and count >= rows:
                break
            if message is None:
                continue
            if message.error():
                errors.append(str(message.error()))
                continue
            messages.append(message)
            _, record = driftline.decode(message.value())
            count += len(record["prediction_ids"])
        if count < rows:  # tells what never arrived from what was not read
            there = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), 30) for p in partitions}
    finally:
        consumer.close()
    places = [(message.partition(), message.offset()) for message in messages]
    assert count >= rows, (
        f"{count} of {rows} rows came in {timeout_seconds:g} s, at {places}; "
        f"the partitions have {there}; errors: {errors}"
    )
    return messages


@dataclass(frozen=True)
class Arrivals:
    """The topics of one test."""

    settings: driftline.KafkaSettings

    def prediction_messages(self, rows: int) -> list[Message]:
        return read_topic(self.settings.bootstrap_servers, self.settings.topics.predictions, rows=rows)

    def predictions(self, rows: int) -> list[PredictionColumns]:
        return [
            PredictionColumns.from_record(driftline.decode(message.value())[1])
            for message in self.prediction_messages(rows)
        ]

    def outcomes(self, rows: int) -> list[OutcomeColumns]:
        messages = read_topic(self.settings.bootstrap_servers, self.settings.topics.outcomes, rows=rows)
        return [OutcomeColumns.from_record(driftline.decode(message.value())[1]) for message in messages]

    def prediction_ids(self, rows: int) -> list[str]:
        return [key for batch in self.predictions(rows) for key in batch.prediction_ids]


@pytest.fixture
def make_arrivals() -> Callable[..., Arrivals]:
    """Topics on any broker: `make_arrivals(bootstrap_servers, prefix)`."""

    def make(bootstrap_servers: str, prefix: str = "", **config: str) -> Arrivals:
        settings = driftline.KafkaSettings(bootstrap_servers, driftline.Topics(prefix))
        create_topics(bootstrap_servers, [settings.topics.predictions, settings.topics.outcomes], config)
        return Arrivals(settings)

    return make


@pytest.fixture
def arrivals(bootstrap_servers: str, topic_prefix: str, make_arrivals: Callable[..., Arrivals]) -> Arrivals:
    return make_arrivals(bootstrap_servers, topic_prefix)


@pytest.fixture
def client(arrivals: Arrivals, tmp_path: Path) -> Iterator[driftline.Client]:
    with driftline.Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path / "spool") as client:
        yield client


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds: `eventually(lambda: ..., 10)`."""

    def wait(condition: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            time.sleep(0.02)

    return wait
