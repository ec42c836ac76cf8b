"""Positions come from the journal; gaps in the log are passed over, gaps on the way to us are not."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from driftline.codec import encode

BATCH = 20


class Publisher:
    """Publishes batches with ids of their own, one after the other."""

    def __init__(self, world: Any, samples: Any) -> None:
        self.world = world
        self.samples = samples
        self.published = 0

    def batch(self) -> Any:
        self.published += 1
        number = self.published - 1
        return self.samples.rows(BATCH, first=number * BATCH, at=number * 0.1, every=0.001)

    def send(self, count: int) -> int:
        """Publish so many batches; how many rows that are."""
        for _ in range(count):
            self.world.send(self.batch())
        self.world.flush()
        return count * BATCH

    def send_in_transaction(self, count: int, *, commit: bool) -> int:
        producer = Producer(
            self.world.settings.client(transactional_id="publisher", partitioner="murmur2_random") | {"log_level": 0}
        )
        producer.init_transactions(20)
        producer.begin_transaction()
        for _ in range(count):
            value = encode("PredictionBatch", self.batch().to_record())
            producer.produce(self.world.topics.predictions, value, b"d")
        producer.flush()
        (producer.commit_transaction if commit else producer.abort_transaction)(20)
        return count * BATCH


def end_of(world: Any) -> int:
    return int(world.ends()[world.topics.predictions, 0])


def wait_rows(world: Any, rows: int, **options: Any) -> None:
    world.wait(lambda: world.counters("d")["rows"] >= rows, **options)
    assert world.counters("d")["rows"] == rows
    assert world.counters("d")["duplicate_rows"] == 0


def commit_in_group(world: Any, offset: int) -> None:
    """Say in the worker's group that it has come to an offset."""
    at = TopicPartition(world.topics.predictions, 0, offset)
    group = ConsumerGroupTopicPartitions(world.settings.application_id, [at])
    admin = AdminClient(world.settings.client())
    for future in admin.alter_consumer_group_offsets([group]).values():
        future.result(20)


def test_offsets_of_the_group_are_for_onlookers_only(worlds: Any, samples: Any, check_replay: Any) -> None:
    world = worlds()
    publisher = Publisher(world, samples)
    world.put(samples.spec(), samples.baseline())
    rows = publisher.send(1500)
    worker = world.start()
    wait_rows(world, rows)
    admin = AdminClient(world.settings.client())
    group = world.settings.application_id

    def told() -> bool:
        request = ConsumerGroupTopicPartitions(group, [TopicPartition(world.topics.predictions, 0)])
        (answer,) = admin.list_consumer_group_offsets([request])[group].result(20).topic_partitions
        return bool(answer.offset == 1500)

    world.wait(told)
    assert worker.stop() == 0

    rows += publisher.send(20)
    commit_in_group(world, 1515)  # ahead of the journal: 15 messages would be lost
    worker = world.start()
    wait_rows(world, rows)
    assert worker.stop() == 0

    admin.delete_consumer_groups([group])[group].result(20)  # as if it had never been
    rows += publisher.send(20)
    worker = world.start()
    wait_rows(world, rows)
    assert "placed at offset" in worker.text, "what was applied is not read again one by one"
    check_replay(world)
    assert worker.stop() == 0


def test_gaps_that_are_in_the_log_are_passed_over(worlds: Any, samples: Any) -> None:
    world = worlds()
    publisher = Publisher(world, samples)
    world.put(samples.spec(), samples.baseline())
    rows = publisher.send(10)
    worker = world.start("--stall-seconds", "2")
    rows += publisher.send_in_transaction(10, commit=True)
    publisher.send_in_transaction(10, commit=False)
    publisher.send_in_transaction(1, commit=False)
    rows += publisher.send(10)
    rows += publisher.send_in_transaction(10, commit=True)  # its marker is the last thing in the log
    wait_rows(world, rows)
    time.sleep(3.5)
    assert worker.running, "a marker that nobody can apply is no stall"
    assert worker.stop() == 0

    publisher.send(10)  # the broker deletes these before anybody came
    at = TopicPartition(world.topics.predictions, 0, end_of(world))
    admin = AdminClient(world.settings.client())
    admin.delete_records([at])[at].result(20)
    rows += publisher.send(10)
    worker = world.start()
    wait_rows(world, rows)
    assert not world.dead_letters()
    assert worker.stop() == 0


def test_messages_lost_on_the_way_are_fetched_again_even_if_none_follow(worlds: Any, samples: Any) -> None:
    world = worlds()
    publisher = Publisher(world, samples)
    world.put(samples.spec(), samples.baseline())
    rows = publisher.send(60)
    losing = """
import streams.owner as owner
take, lost = owner.OwnedPartition.take, set()
async def losing(self, message):
    if message.offset % 7 in (3, 4) or message.offset > 50:
        if message.offset not in lost:
            lost.add(message.offset)
            return None
    return await take(self, message)
owner.OwnedPartition.take = losing
"""
    worker = world.start(before=losing)
    wait_rows(world, rows)
    assert worker.stop() == 0


def test_a_worker_that_stands_still_ends_itself(worlds: Any, samples: Any) -> None:
    world = worlds()
    publisher = Publisher(world, samples)
    world.put(samples.spec(), samples.baseline())
    publisher.send(5)
    hanging = """
import asyncio, streams.owner as owner
async def hanging(self, message):
    await asyncio.sleep(1e6)
owner.OwnedPartition.take = hanging
"""
    worker = world.start("--stall-seconds", "3", before=hanging)
    worker.told_to_end = True
    assert worker.process.wait(30) == 4
    assert "no progress" in worker.text
