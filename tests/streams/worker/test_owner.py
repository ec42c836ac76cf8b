"""A partition's owner and its journal, without a worker around them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Producer

from driftline.codec import encode
from streams.catalogue import Catalogue
from streams.errors import JournalError
from streams.owner import OwnedPartition, Surroundings
from streams.reference import build_baseline


@pytest.fixture
def surroundings(worlds: Any) -> Any:
    """Of a world with one partition; what it was told is in ``told``."""
    world = worlds()
    thread = ThreadPoolExecutor(1)
    told: list[Any] = []
    shared = Surroundings(
        settings=world.settings,
        catalogue=Catalogue(world.settings),
        catalogue_thread=thread,
        registry=None,
        end_offset=lambda topic, partition: 0,
        committed=lambda partition, position: told.append(dict(position)),
        failed=told.append,
    )
    yield world, shared, told
    thread.shutdown()


async def applied(world: Any, owned: OwnedPartition) -> None:
    for message in world.messages(world.topics.predictions):
        await owned.take(message)


async def test_a_fenced_owner_commits_nothing_and_one_that_was_told_says_nothing(
    surroundings: Any, samples: Any
) -> None:
    world, shared, _ = surroundings
    world.put(samples.spec(), samples.baseline())
    world.send(samples.rows(10))
    world.flush()
    first, second = OwnedPartition(0, shared), OwnedPartition(0, shared)
    await first.open()
    await applied(world, first)
    await second.open()
    with pytest.raises(JournalError, match="fenced"):
        await first.commit()
    assert world.counters("d")["rows"] == 0
    await applied(world, second)
    third = OwnedPartition(0, shared)
    await third.open()
    committing = asyncio.create_task(second.commit())
    await asyncio.sleep(0)
    second.drop()  # its partition was given away while it committed
    await committing
    await applied(world, third)
    await third.commit()
    assert world.counters("d")["rows"] == 10
    first.drop()
    third.drop()


async def test_ids_are_remembered_as_they_were_judged_then(surroundings: Any, samples: Any) -> None:
    """After a restart, messages are read again that came under other rules: refused then is not seen."""
    world, shared, _ = surroundings
    rows = samples.rows(40)
    part = samples.part
    later = dataclasses.replace(rows, timestamps_us=rows.timestamps_us.copy())
    later.timestamps_us[20] = samples.t0 - 10**15
    world.put(samples.spec(), samples.baseline())
    world.send(part(rows, slice(0, 10)))  # counted
    world.send(part(rows, slice(10, 20)), key=b"d#0")  # wrong key
    world.send(part(later, slice(20, 30)))  # one row out of time
    world.send(part(rows, slice(30, 40)))
    world.flush()
    owned = OwnedPartition(0, shared)
    await owned.open()
    await applied(world, owned)
    world.put(samples.spec(shards=2, earliest_event_time_us=0, revision=2))
    await owned.commit()
    owned.drop()

    restarted = OwnedPartition(0, shared)
    await restarted.open()
    restarted.follow_catalogue()
    world.send(rows, key=b"d#0")
    world.flush()
    position = restarted.partition.position[world.topics.predictions]
    (message,) = [m for m in world.messages(world.topics.predictions) if m.offset >= position]
    await restarted.take(message)
    await restarted.commit()
    counters = world.counters("d")
    assert (counters["rows"], counters["duplicate_rows"]) == (40, 29)
    restarted.drop()


async def test_a_journal_of_another_log_is_refused(surroundings: Any, samples: Any) -> None:
    """The topic was made anew: its offsets would be taken for those that were applied."""
    world, shared, _ = surroundings
    world.put(samples.spec(), samples.baseline())
    world.send(samples.rows(10))
    world.flush()
    owned = OwnedPartition(0, shared)
    await owned.open()
    message = dataclasses.replace(samples.message(samples.rows(5), 0), topic=world.topics.predictions)
    for offset in range(3):  # as if the log had been longer
        await owned.take(dataclasses.replace(message, offset=offset))
    await owned.commit()
    owned.drop()
    with pytest.raises(JournalError, match="made anew"):
        await OwnedPartition(0, shared).open()


async def test_an_alarm_does_not_wait_for_the_next_commit(surroundings: Any, samples: Any) -> None:
    world, shared, told = surroundings
    world.put(samples.spec(), samples.baseline())
    for k, shift in enumerate((0.0, 0.0, 3.0)):
        world.send(samples.rows(2000, first=2000 * k, at=100 * k, every=0.05, shift=shift))
    world.flush()
    owned = OwnedPartition(0, shared)
    await owned.open()
    await applied(world, owned)
    raised: list[tuple[str, str]] = []
    for _ in range(100):
        if told[-1][world.topics.predictions] == 3 and raised:
            break
        await asyncio.sleep(0.02)
        raised = [(found.record["monitor"], found.record["status"]) for found in world.read("alerts")]
    assert sorted(raised) == [("data_drift", "firing"), ("data_quality", "firing")]
    assert told[-1][world.topics.predictions] == 3
    owned.drop()


async def test_specifications_may_come_in_a_transaction(worlds: Any, samples: Any) -> None:
    """Its marker is an offset that no message has."""
    world = worlds()
    catalogue = Catalogue(world.settings)
    catalogue.refresh()
    assert not catalogue.specs
    for name in ("d", "e"):
        world.put(samples.spec(name), transactional_id=f"{world.topics.prefix}test")
        catalogue.refresh()
        assert name in catalogue.specs
    begun = time.monotonic()
    catalogue.refresh()
    assert catalogue.changes == 2
    assert time.monotonic() - begun < 0.5

    hanging = Producer(world.settings.client(transactional_id=f"{world.topics.prefix}hanging") | {"log_level": 0})
    hanging.init_transactions(20)
    hanging.begin_transaction()
    hanging.produce(world.topics.deployments, encode("DeploymentSpec", samples.spec("f").to_record()), b"f")
    hanging.flush()
    catalogue.refresh()
    assert "f" not in catalogue.specs
    hanging.commit_transaction(20)
    catalogue.refresh()
    assert "f" in catalogue.specs


async def of_even_traffic(world: Any, shared: Surroundings, samples: Any) -> OwnedPartition:
    """An owner for which silence is news, and that has applied everything."""
    hours = 8
    spec = samples.spec()
    reference = samples.rows(hours * 1800, at=-hours * 3600, every=2.0, seed=3)
    world.put(spec, build_baseline(spec, "1", [reference], source="sample"))
    world.send(samples.rows(600, at=0, every=2.0))
    world.flush()
    owned = OwnedPartition(0, shared)
    await owned.open()
    await applied(world, owned)
    times_passed(owned)
    return owned


def times_passed(owned: OwnedPartition) -> list[int]:
    """What the state machine was told of the time since the last call."""
    records, _, order = owned.partition.take()
    assert set(records) >= {b"position"} or not order
    return [entry["first_offset"] for entry in order if entry["source"] == "clock"]


async def test_time_passes_only_up_to_what_was_applied(surroundings: Any, samples: Any) -> None:
    world, shared, _ = surroundings
    owned = await of_even_traffic(world, shared, samples)
    later_ms = owned.partition._log_time_ms + 3_600_000  # after the publisher's last row
    await owned.pass_time(later_ms)  # messages came just now: only what is seen next time is sure
    assert times_passed(owned) == []
    await owned.pass_time(later_ms + 60_000)
    assert times_passed(owned) == [later_ms]
    world.send(samples.rows(1, first=600, at=1300))
    world.flush()
    owned.progressed_at -= 60  # quiet: the log is asked, and has a message that was not applied
    await owned.pass_time(later_ms + 7_200_000)
    assert times_passed(owned) == []
    owned.drop()


async def test_no_time_passes_before_both_topics_were_seen(surroundings: Any, samples: Any) -> None:
    """Of a topic without an answer yet any number of messages may be unread: outcomes that seem never to have come."""
    world, shared, _ = surroundings
    ends = {world.topics.predictions: 1, world.topics.outcomes: -1}
    shared = dataclasses.replace(shared, end_offset=lambda topic, partition: ends[topic])
    owned = await of_even_traffic(world, shared, samples)
    later_ms = owned.partition._log_time_ms + 3_600_000
    await owned.pass_time(later_ms)
    ends[world.topics.outcomes] = 5  # a backlog, none of it applied
    await owned.pass_time(later_ms + 60_000)
    assert times_passed(owned) == []
    await owned.pass_time(later_ms + 120_000)
    assert times_passed(owned) == []
    owned.partition.position[world.topics.outcomes] = 5
    await owned.pass_time(later_ms + 180_000)
    assert times_passed(owned) == [later_ms + 60_000]
    owned.drop()
