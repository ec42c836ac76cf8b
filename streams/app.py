"""The Faust application: one agent reads predictions and outcomes and hands each message to its partition's owner.

Faust gives group membership, the assignment of partitions, fetching and the event loop. It does not keep state: no
tables, no ``exactly_once``, no ``take()``; positions come from the journal, and the group is told them after its
commit. Any error ends the process with a status of its own (crash-only): the supervisor starts a new one, which begins
from the journal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

import faust
import mode.loop
from faust.types import TP

from driftline.codec import SchemaRegistry
from driftline.errors import RegistryError
from driftline.settings import KafkaSettings
from streams.catalogue import Catalogue
from streams.credentials import broker_credentials
from streams.errors import StreamsError
from streams.messages import Message
from streams.outcomes.directory import PendingError
from streams.owner import OwnedPartition, Surroundings
from streams.transport import JournalTransport

COMMIT_INTERVAL_SECONDS = 0.25
CATALOGUE_INTERVAL_SECONDS = 1.0
WATCH_INTERVAL_SECONDS = 1.0
TIME_INTERVAL_SECONDS = 10.0

STANDING_SECONDS = 2.0
"""A partition that stands for so long, and is behind, is helped along."""

OPENING_AT_ONCE = 8
"""Partitions whose journals are read at the same time, each by a thread of its own."""

STOP_SECONDS = 3.0
"""How long Faust may take to leave its group when it is told to end."""

EXIT_FAILED = 1
EXIT_CANNOT_COMMIT = 3
EXIT_STALLED = 4
EXIT_DATA_DIRECTORY = 5

LETTING_GO_SECONDS = 2.0
"""How long a worker that ends may take to write its indexes of pending predictions."""

logger = logging.getLogger("driftline.streams")


class Worker:
    """The partitions this process owns, and the Faust application around them.

    Args:
        settings: How to reach Kafka.
        data_dir: Holds the indexes of pending predictions, of this process only; what is lost is read from the topics
            again.
        registry: For records in the Confluent wire format.
        stall_seconds: A partition that has messages but makes no progress for so long ends the process.
        session_seconds: A worker that is silent for so long loses its partitions to the others.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        data_dir: Path,
        registry: SchemaRegistry | None = None,
        stall_seconds: float = 120.0,
        session_seconds: float = 10.0,
    ) -> None:
        self._settings = settings
        self._topics = (settings.topics.predictions, settings.topics.outcomes)
        self._stall_seconds = stall_seconds
        self._owned: dict[int, OwnedPartition] = {}
        self._opening: dict[int, asyncio.Task[OwnedPartition]] = {}
        self._latest_opening: dict[int, asyncio.Task[OwnedPartition]] = {}
        self._being_opened: dict[int, OwnedPartition] = {}
        self._closing: dict[int, Future[None]] = {}
        self._may_open = asyncio.Semaphore(OPENING_AT_ONCE)
        self._assigned_at = self._took_at = time.monotonic()
        self._catalogue = Catalogue(settings, registry)
        self._shared = Surroundings(
            settings=settings,
            catalogue=self._catalogue,
            catalogue_thread=ThreadPoolExecutor(1, thread_name_prefix="catalogue"),
            registry=registry,
            end_offset=lambda topic, partition: self.app.consumer.highwater(TP(topic, partition)),
            committed=self._tell_group,
            failed=lambda error: end(_status_of(error), "the journal could not be committed", error),
            data_dir=data_dir,
        )
        self.app = self._create_app(data_dir, session_seconds)

    def _create_app(self, data_dir: Path, session_seconds: float) -> faust.App:
        settings = self._settings
        servers = settings.bootstrap_servers.split(",")
        app = faust.App(
            settings.application_id,
            broker=[f"kafka://{server.strip()}" for server in servers],
            broker_credentials=broker_credentials(settings),
            store="memory://",
            datadir=str(data_dir),
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=2 << 20,
            broker_max_poll_records=200,
            broker_commit_interval=1.0,
            broker_session_timeout=session_seconds,
            broker_heartbeat_interval=session_seconds / 5,
            stream_buffer_maxsize=256,
            stream_wait_empty=False,
            producer_acks=-1,
        )
        app.transport = JournalTransport(app.conf.broker_consumer, app)
        source = app.topic(*self._topics, key_serializer="raw", value_serializer="raw", value_type=bytes)
        app.agent(source, name="observe")(self._observe)
        app.timer(COMMIT_INTERVAL_SECONDS)(self._commit_all)
        app.timer(CATALOGUE_INTERVAL_SECONDS)(self._follow_catalogue)
        app.timer(WATCH_INTERVAL_SECONDS)(self._watch)
        app.timer(TIME_INTERVAL_SECONDS)(self._pass_time)
        revoked: Any = app.on_partitions_revoked  # its type asks for a parameter it does not pass
        revoked.connect(self._on_revoked, weak=False)
        assigned: Any = app.on_partitions_assigned
        assigned.connect(self._on_assigned, weak=False)
        return app

    def run(self, log_level: str = "info") -> NoReturn:
        """Work until a signal comes; ends the process with status 0 then, or with another one if it cannot go on."""
        if sys.platform != "win32":
            mode.loop.use("uvloop")
        process = _Process(self.app, loglevel=log_level.upper(), quiet=False, redirect_stdouts=False)
        status: Any = EXIT_FAILED
        try:
            process.execute_from_commandline()
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else EXIT_FAILED
        except BaseException:
            logger.exception("the worker failed")
        for owned in self._owned.values():
            self._drop(owned)
        wait(self._closing.values(), LETTING_GO_SECONDS)
        # threads that open a journal, or wait for a broker that is gone, hold nothing that the log does not
        _leave(status)

    def humility_totals(self) -> list[tuple[int, str, str, dict[str, int]]]:
        """Partition, deployment, version, and what became of its rows; may be asked by any thread."""
        return [
            (number, *found)
            for number, owned in list(self._owned.items())
            for found in owned.partition.humility_totals()
        ]

    async def _observe(self, stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await self._take(event.message)
            except Exception as error:
                end(_status_of(error), "a message could not be applied", error)

    async def _take(self, source: Any) -> None:
        partition = source.partition
        owned = self._owned.get(partition)
        if owned is None:
            owned = await self._opened(partition)
            if owned is None:
                return
        message = Message(
            source.topic,
            partition,
            source.offset,
            round(source.timestamp * 1000),
            source.key,
            source.value,
            tuple(source.headers.items() if isinstance(source.headers, dict) else source.headers or ()),
        )
        place_at = await owned.take(message)
        self._took_at = time.monotonic()
        if place_at is not None:
            await self._place(TP(message.topic, partition), place_at)

    async def _opened(self, partition: int) -> OwnedPartition | None:
        """The partition once it is open; None if it is not this worker's any more."""
        opening = self._opening.get(partition)
        if opening is None:
            if not any(TP(topic, partition) in self.app.consumer.assignment() for topic in self._topics):
                return None
            opening = self._begin_to_open(partition)
        owned = await asyncio.shield(opening)
        return None if owned.dropped else owned

    def _begin_to_open(self, partition: int) -> asyncio.Task[OwnedPartition]:
        task = asyncio.create_task(self._open(partition, self._latest_opening.get(partition)))
        self._opening[partition] = self._latest_opening[partition] = task
        return task

    async def _open(self, partition: int, before: asyncio.Task[OwnedPartition] | None) -> OwnedPartition:
        this = asyncio.current_task()
        if before is not None:
            await asyncio.wait([before])  # it was given up, but must not fence this one
        if (closing := self._closing.pop(partition, None)) is not None:
            await asyncio.wait([asyncio.wrap_future(closing)])  # two must not write one index
        owned = OwnedPartition(partition, self._shared)
        self._being_opened[partition] = owned
        try:
            async with self._may_open:
                if self._opening.get(partition) is this:
                    await owned.open()
        except Exception as error:
            if self._opening.get(partition) is this:
                end(_status_of(error), f"partition {partition} could not be opened", error)
        if self._being_opened.get(partition) is owned:
            del self._being_opened[partition]
        if self._opening.get(partition) is not this:  # revoked meanwhile: it may be somebody else's by now
            self._drop(owned)
            return owned
        del self._opening[partition]
        self._owned[partition] = owned
        logger.info("partition %d: open at %s", partition, owned.partition.position)
        return owned

    def _drop(self, owned: OwnedPartition) -> None:
        owned.drop()
        if owned.closed is not None:
            self._closing[owned.number] = owned.closed

    def _tell_group(self, partition: int, position: Mapping[str, int]) -> None:
        consumer: Any = self.app.consumer
        consumer.tell_group({TP(topic, partition): offset for topic, offset in position.items()})

    async def _commit_all(self) -> None:
        try:
            await asyncio.gather(*(owned.commit() for owned in list(self._owned.values())))
        except Exception as error:
            end(_status_of(error), "the journal could not be committed", error)

    async def _follow_catalogue(self) -> None:
        if not self._owned:
            return
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._shared.catalogue_thread, self._catalogue.refresh)
        except (StreamsError, RegistryError) as error:
            logger.warning("%s", error)  # what is in force stays so; an unknown deployment would insist
        for owned in list(self._owned.values()):
            owned.follow_catalogue()

    async def _on_assigned(self, _app: Any, assigned: Any, *_: Any, **__: Any) -> None:
        self._assigned_at = time.monotonic()
        for partition in {tp.partition for tp in assigned if tp.topic in self._topics}:
            if partition not in self._owned and partition not in self._opening:
                self._begin_to_open(partition)

    async def _on_revoked(self, _app: Any, revoked: Any, *_: Any, **__: Any) -> None:
        for partition in {tp.partition for tp in revoked if tp.topic in self._topics}:
            self._opening.pop(partition, None)
            being_opened = self._being_opened.pop(partition, None)
            if being_opened is not None:
                being_opened.give_up()
            latest = self._latest_opening.get(partition)
            if latest is not None and latest.done():
                del self._latest_opening[partition]  # it holds the partition's state
            owned = self._owned.pop(partition, None)
            if owned is not None:
                self._drop(owned)

    async def _watch(self) -> None:
        """Fetch again what was lost on the way, and end the process if that does not help: a new one will do better.

        Around a rebalance Faust drops messages that its consumer has passed; the next message would show the gap, but
        on a quiet topic there is none.
        """
        busy = time.monotonic() - self._took_at < STANDING_SECONDS
        for owned in list(self._owned.values()):
            standing = time.monotonic() - owned.progressed_at
            # while the agent is busy, what is due may wait in its buffer
            if standing < STANDING_SECONDS * (5 if busy else 1) or not self._may_be_behind(owned):
                continue
            try:
                due = await owned.due()
            except StreamsError as error:
                logger.warning("%s", error)
                continue
            if owned.dropped or time.monotonic() - owned.progressed_at < standing:
                continue
            if due is None:
                owned.progressed_at = time.monotonic()
            elif standing > self._stall_seconds:
                end(EXIT_STALLED, f"{due[0]}/{owned.number}: no progress for {standing:.0f} s at offset {due[1]}")
            else:
                place_at = owned.place(due[0])
                if place_at is not None:
                    await self._place(TP(due[0], owned.number), place_at)

    async def _pass_time(self) -> None:
        """Let time pass where nothing comes: silence is news, too."""
        for owned in list(self._owned.values()):
            try:
                await owned.pass_time(round(time.time() * 1000))
            except StreamsError as error:
                logger.warning("%s", error)

    def _may_be_behind(self, owned: OwnedPartition) -> bool:
        """Whether the log was seen to go on beyond what was applied; true where nothing was seen of it yet."""
        ends = {topic: self._shared.end_offset(topic, owned.number) for topic in self._topics}
        return any(end < 0 or end > owned.partition.position[topic] for topic, end in ends.items())

    async def _place(self, tp: TP, offset: int) -> None:
        if tp in self.app.consumer.assignment():
            logger.info("%s/%d: the consumer is placed at offset %d", tp.topic, tp.partition, offset)
            await self.app.consumer.seek_wait({tp: offset})


class _Process(faust.Worker):
    """Faust's worker, without the seconds it sleeps before it ends, or waits for a broker that is gone."""

    async def stop(self) -> None:
        """Stop; after a while, however far that has come."""
        status = EXIT_FAILED if self.crashed else 0
        asyncio.get_running_loop().call_later(STOP_SECONDS, _leave, status)
        await super().stop()

    def _shutdown_loop(self) -> None:
        if self.crash_reason:
            raise self.crash_reason


def _status_of(error: Exception) -> int:
    return EXIT_DATA_DIRECTORY if isinstance(error, PendingError) else EXIT_CANNOT_COMMIT


def end(status: int, what: str, error: Exception | None = None) -> NoReturn:
    """End the process at once: what was not committed leaves no trace, and nothing may run on with doubtful state."""
    logger.critical("%s; ending with status %d", what, status, exc_info=error)
    _leave(status)


def _leave(status: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
