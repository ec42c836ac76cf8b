"""A partition's index of pending predictions: taken up where it may be, made anew where not, and it says so."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from services.kafka import admin_client
from streams import joining
from streams.baseline import Baseline
from streams.catalogue import Catalogue
from streams.errors import JournalError
from streams.outcomes.directory import InUseError
from streams.owner import OwnedPartition, Surroundings
from streams.pending import pending_directory
from streams.reference import build_baseline
from streams.specification import BINARY, DeploymentSpec, FeatureSpec, OutcomeSpec

MINUTE_US = 60_000_000
SPEC = DeploymentSpec(
    "d",
    "m",
    BINARY,
    (FeatureSpec("x", "numeric"),),
    positive_class="yes",
    outcomes=OutcomeSpec(horizon_ms=24 * 3_600_000, window_ms=3_600_000),
)
NOTICE = "the index of pending predictions"


def predicted(t0: int, first: int, rows: int, prefix: str = "p") -> PredictionColumns:
    rng = np.random.default_rng(first)
    x = rng.normal(size=rows)
    ids = [f"{prefix}{row}" for row in range(first, first + rows)]
    times = t0 + np.arange(first, first + rows) * MINUTE_US // 4
    return PredictionColumns("d", "1", ids, times, {"x": x}, {}, 1 / (1 + np.exp(-x)))


def told(columns: PredictionColumns, label: int = 1, minutes: int = 5) -> OutcomeColumns:
    labels = CategoricalColumn(["no", "yes"], np.full(columns.rows, label, np.int32))
    return OutcomeColumns("d", columns.prediction_ids, columns.timestamps_us + minutes * MINUTE_US, actual_label=labels)


@pytest.fixture(scope="module")
def baseline(samples: Any) -> Baseline:
    reference = predicted(0, 0, 600, "r")
    times = samples.t0 - 5000 * MINUTE_US + np.arange(600) * 5 * MINUTE_US
    reference = dataclasses.replace(reference, timestamps_us=times)
    labels = (np.random.default_rng(1).random(600) < reference.prediction).astype(np.int32)
    outcomes = dataclasses.replace(told(reference), actual_label=CategoricalColumn(["no", "yes"], labels))
    return build_baseline(SPEC, "1", [reference], source="test", outcomes=[outcomes])


class Place:
    """A world with one partition, and a worker's data directory in it."""

    def __init__(self, world: Any, data_dir: Path, thread: ThreadPoolExecutor, t0: int) -> None:
        self.world, self.data_dir, self.t0 = world, data_dir, t0
        self.errors: list[Exception] = []
        self.shared = Surroundings(
            settings=world.settings,
            catalogue=Catalogue(world.settings),
            catalogue_thread=thread,
            registry=None,
            end_offset=lambda topic, partition: 0,
            committed=lambda partition, position: None,
            failed=self.errors.append,
            data_dir=data_dir,
        )
        self.directory = pending_directory(world.settings, data_dir, 0)
        self.opened: list[OwnedPartition] = []

    async def open(self, data_dir: Path | None = None) -> OwnedPartition:
        shared = dataclasses.replace(self.shared, data_dir=data_dir or self.data_dir)
        self.opened.append(OwnedPartition(0, shared))
        await self.opened[-1].open()
        return self.opened[-1]

    async def apply(self, owned: OwnedPartition) -> None:
        """Give it everything that it has not applied, predictions first."""
        self.world.flush()
        for topic in (self.world.topics.predictions, self.world.topics.outcomes):
            for message in self.world.messages(topic):
                await owned.take(message)

    async def drop(self, owned: OwnedPartition) -> None:
        owned.drop()
        assert owned.closed is not None
        await asyncio.wrap_future(owned.closed)

    def first_hours(self, *batches: int) -> list[PredictionColumns]:
        return [predicted(self.t0, first, 40) for first in batches]

    def counters(self, owned: OwnedPartition) -> dict[str, int]:
        return owned.partition.joins()["d"].counters


@pytest.fixture
async def place(
    worlds: Any, baseline: Baseline, samples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr(joining, "CHECKPOINT_ROWS", 60)
    world = worlds()
    world.put(SPEC, baseline)
    thread = ThreadPoolExecutor(1)
    made = Place(world, tmp_path / "data", thread, samples.t0)
    yield made
    for owned in made.opened:
        owned.drop()
        if owned.closed is not None:
            owned.closed.result(10)
    thread.shutdown()


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "driftline.streams")
    return caplog


async def test_an_index_that_was_closed_in_order_is_taken_up_without_reading_the_topics(
    place: Place, notices: pytest.LogCaptureFixture
) -> None:
    first, second = place.first_hours(0, 40)
    place.world.send(first)
    place.world.send(told(first))
    owned = await place.open()
    await place.apply(owned)
    await owned.commit()
    await place.drop(owned)
    assert list(place.directory.glob("*.run"))

    notices.clear()
    owned = await place.open()
    assert NOTICE not in notices.text
    assert not any(owned.partition.to_recover.values())
    place.world.send(told(first, label=0, minutes=6))
    place.world.send(second)
    await place.apply(owned)
    assert place.counters(owned)["corrected_outcomes"] == 40


@pytest.mark.parametrize("damage", ["remove", "flip", "manifest", "another log"])
async def test_an_index_that_cannot_be_trusted_is_read_from_the_topics_again(
    place: Place, notices: pytest.LogCaptureFixture, damage: str
) -> None:
    (first,) = place.first_hours(0)
    place.world.send(first)
    place.world.send(told(first))
    owned = await place.open()
    await place.apply(owned)
    await owned.commit()
    await place.drop(owned)
    run = next(place.directory.glob("*.run"))
    if damage == "remove":
        run.unlink()
    elif damage == "flip":
        data = bytearray(run.read_bytes())
        data[len(data) // 2] ^= 1
        run.write_bytes(data)
    elif damage == "manifest":
        (place.directory / "manifest").write_text("nonsense")
    else:
        (place.directory / "log").write_text("cluster another\n")

    notices.clear()
    owned = await place.open()
    assert (
        "partition 0: the index of pending predictions is missing; messages that are read again: 1 of" in notices.text
    )
    if damage == "another log":
        assert "belongs to other topics: it is made anew" in notices.text
    else:
        assert "will be read from the topics again" in notices.text
    place.world.send(told(first))  # nothing new: they are known
    place.world.send(told(first, label=0, minutes=6))
    await place.apply(owned)
    assert place.counters(owned)["joined_outcomes"] == 40
    assert place.counters(owned)["superseded_outcomes"] == 40
    assert place.counters(owned)["corrected_outcomes"] == 40


async def test_what_was_never_committed_is_not_in_an_index_that_is_opened_again(
    place: Place, notices: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The old owner applies and prepares what it cannot commit; the new one takes the topics in another order."""
    first, second = place.first_hours(0, 40)
    place.world.send(first)
    one = await place.open()
    await place.apply(one)
    await one.commit()
    await place.drop(one)

    one = await place.open()
    for columns in (second, predicted(place.t0, 80, 40)):
        place.world.send(columns)
    place.world.send(told(first))
    await place.apply(one)
    other = await place.open(tmp_path / "other")  # fences the first
    with pytest.raises(JournalError, match="fenced"):
        await one.commit()
    await place.drop(one)
    await place.apply(other)
    await other.commit()
    place.world.send(told(second))
    await place.apply(other)
    await other.commit()
    await place.drop(other)

    notices.clear()
    one = await place.open()  # it comes back to the first worker
    assert "is behind the journal in" in notices.text
    assert {topic: len(offsets) for topic, offsets in one.partition.to_recover.items()} == {
        place.world.topics.predictions: 2,
        place.world.topics.outcomes: 2,
    }
    for columns in (first, second):
        place.world.send(told(columns, label=0, minutes=6))
    await place.apply(one)
    assert place.counters(one)["joined_outcomes"] == 80
    assert place.counters(one)["corrected_outcomes"] == 80


async def test_an_index_ahead_of_the_journal_belongs_to_another_one(
    place: Place, notices: pytest.LogCaptureFixture
) -> None:
    (first,) = place.first_hours(0)
    place.world.send(first)
    owned = await place.open()
    await place.apply(owned)
    await owned.commit()
    assert owned._store is not None
    owned._store.checkpoint({place.world.topics.predictions: 99, place.world.topics.outcomes: 0})
    owned._in_doubt = True  # as if it ended here
    await place.drop(owned)
    notices.clear()
    owned = await place.open()
    assert "is ahead of the journal in" in notices.text
    place.world.send(told(first))
    await place.apply(owned)
    assert place.counters(owned)["joined_outcomes"] == 40


async def test_nobody_opens_an_index_that_another_owner_has_not_closed(place: Place) -> None:
    owned = await place.open()
    with pytest.raises(InUseError, match="in use by another worker"):
        await place.open()
    await place.drop(owned)
    await place.open()


async def test_dropping_a_partition_does_not_wait_for_its_index(place: Place) -> None:
    place.world.send(predicted(place.t0, 0, 400))
    owned = await place.open()
    await place.apply(owned)
    await owned.commit()
    begun = time.monotonic()
    owned.drop()
    assert time.monotonic() - begun < 0.01
    assert owned.closed is not None
    await asyncio.wrap_future(owned.closed)


async def test_what_the_topics_have_no_more_is_named(place: Place, notices: pytest.LogCaptureFixture) -> None:
    for columns in place.first_hours(0, 40, 80):
        place.world.send(columns)
        place.world.send(told(columns))
    owned = await place.open()
    await place.apply(owned)
    await owned.commit()
    await place.drop(owned)
    for path in place.directory.iterdir():
        path.unlink()
    topics = place.world.topics
    admin = admin_client(place.world.settings)
    gone = [TopicPartition(topics.predictions, 0, 2), TopicPartition(topics.outcomes, 0, 1)]
    for future in admin.delete_records(gone).values():
        future.result(10)

    notices.clear()
    owned = await place.open()
    start, end = (f"{np.datetime64((place.t0 // MINUTE_US + m) * 60, 's')}Z" for m in (0, 60))
    assert (
        f"{topics.predictions} begins at offset 2 and the index of pending predictions needs it from 0: 2 messages are "
        f"gone (retention). Predictions that came with them wait no longer" in notices.text
    )
    assert f"{topics.outcomes} begins at offset 1 and the index of pending predictions needs it from 0" in notices.text
    assert f"(d, windows of {start} to {end})" in notices.text
    place.world.send(told(predicted(place.t0, 80, 40), label=0, minutes=6))
    await place.apply(owned)
    assert place.counters(owned)["corrected_outcomes"] == 40


def exit_of(world: Any, **options: Any) -> tuple[int, str]:
    worker = world.start(**options)
    worker.told_to_end = True
    return worker.process.wait(30), worker.text


def test_a_worker_without_a_usable_data_directory_says_so_and_ends_with_a_status_of_its_own(
    worlds: Any, baseline: Baseline, samples: Any, tmp_path: Path
) -> None:
    world = worlds()
    world.put(SPEC, baseline)
    in_the_way = tmp_path / "file"
    in_the_way.write_text("in the way")
    status, text = exit_of(world, data_dir=in_the_way / "data")
    assert (status, "cannot be used for pending rows: Not a directory" in text) == (5, True), text

    first = world.start()
    world.wait(world.open_partitions)
    status, text = exit_of(world, data_dir=first.data_dir)
    assert (status, f"is in use by another worker (process {first.process.pid})" in text) == (5, True), text
    assert first.stop() == 0

    for begin in range(0, 4000, 400):
        world.send(predicted(samples.t0, begin, 400))
    world.flush()
    little = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    often = "import streams.joining as j; j.CHECKPOINT_ROWS = 2000; "
    full = world.start(before=little + often, data_dir=tmp_path / "full")
    full.told_to_end = True
    assert full.process.wait(30) == 5, full.text[-2000:]
    assert "pending rows cannot be written to" in full.text
    assert "Make room or choose another directory" in full.text
    again = world.start(data_dir=tmp_path / "full")
    world.wait(lambda: "partition 0: open at" in again.text)
    world.wait_applied(30)
    assert again.stop() == 0
    assert NOTICE in again.text
    again = world.start(data_dir=tmp_path / "full")
    world.wait(lambda: "partition 0: open at" in again.text)
    assert NOTICE not in again.text, "it was told to end, and closed the index in order"
