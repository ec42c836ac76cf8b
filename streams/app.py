"""The Faust application: one agent reads predictions and outcomes and hands each message to its partition's owner.

Faust gives group membership, the assignment of partitions, fetching and the event loop. It does not keep state: no
tables, no ``exactly_once``, no ``take()``; events are acknowledged by hand, after the journal's commit. Any error ends
the process with a status of its own (crash-only): the supervisor starts a new one, which begins from the journal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faust
from faust.types import TP

from driftline.codec import SchemaRegistry
from driftline.settings import KafkaSettings
from streams.catalogue import Catalogue
from streams.credentials import broker_credentials
from streams.errors import StreamsError
from streams.messages import Message
from streams.owner import OwnedPartition

COMMIT_INTERVAL_SECONDS = 0.25
CATALOGUE_INTERVAL_SECONDS = 1.0
WATCHDOG_INTERVAL_SECONDS = 10.0

EXIT_CANNOT_COMMIT = 3
EXIT_STALLED = 4

logger = logging.getLogger("driftline.streams")


class Worker:
    """The partitions this process owns, and the Faust application around them.

    Args:
        settings: How to reach Kafka.
        data_dir: Faust's own directory; nothing in it is needed again.
        registry: For records in the Confluent wire format.
        stall_seconds: A partition that has messages but makes no progress for so long ends the process.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        data_dir: Path,
        registry: SchemaRegistry | None = None,
        stall_seconds: float = 120.0,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._stall_seconds = stall_seconds
        self._owned: dict[int, OwnedPartition] = {}
        self._rebalances = 0
        self._catalogue = Catalogue(settings, registry)
        self._catalogue_thread = ThreadPoolExecutor(1, thread_name_prefix="catalogue")
        self.app = self._create_app(data_dir)

    def _create_app(self, data_dir: Path) -> faust.App:
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
            consumer_max_fetch_size=4 << 20,
            broker_max_poll_records=200,
            broker_commit_interval=1.0,
            broker_session_timeout=10.0,
            broker_heartbeat_interval=2.0,
            stream_buffer_maxsize=256,
            stream_wait_empty=False,
            producer_acks=-1,
        )
        topics = settings.topics
        source = app.topic(
            topics.predictions, topics.outcomes, key_serializer="raw", value_serializer="raw", value_type=bytes
        )
        app.agent(source, name="observe")(self._observe)
        app.timer(COMMIT_INTERVAL_SECONDS)(self._commit_all)
        app.timer(CATALOGUE_INTERVAL_SECONDS)(self._follow_catalogue)
        app.timer(WATCHDOG_INTERVAL_SECONDS)(self._watch)
        revoked: Any = app.on_partitions_revoked  # its type asks for a parameter it does not pass
        revoked.connect(self._on_revoked, weak=False)
        return app

    async def _observe(self, stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await self._take(event)
            except Exception as error:
                end(EXIT_CANNOT_COMMIT, "a message could not be applied", error)

    async def _take(self, event: Any) -> None:
        source = event.message
        message = Message(
            source.topic,
            source.partition,
            source.offset,
            round(source.timestamp * 1000),
            source.key,
            source.value,
            tuple(source.headers.items() if isinstance(source.headers, dict) else source.headers or ()),
        )
        owned = self._owned.get(message.partition) or await self._own(message.partition)
        place_at = await owned.take(event, message)
        if place_at is not None:
            logger.info("%s/%d: placed at offset %d", message.topic, message.partition, place_at)
            await self.app.consumer.seek_wait({TP(message.topic, message.partition): place_at})

    async def _own(self, partition: int) -> OwnedPartition:
        owned = OwnedPartition(partition, self._settings, self._catalogue, self._catalogue_thread, self._registry)
        rebalances = self._rebalances
        await owned.open()
        if rebalances != self._rebalances:
            owned.drop()  # it may be somebody else's by now; if it is still ours, the next message opens it again
            return owned
        self._owned[partition] = owned
        logger.info("partition %d: open at %s", partition, owned.partition.position)
        return owned

    async def _commit_all(self) -> None:
        try:
            await asyncio.gather(*(owned.commit() for owned in list(self._owned.values())))
        except Exception as error:
            end(EXIT_CANNOT_COMMIT, "the journal could not be committed", error)

    async def _follow_catalogue(self) -> None:
        if not self._owned:
            return
        try:
            loop = asyncio.get_running_loop()
            if await loop.run_in_executor(self._catalogue_thread, self._catalogue.refresh):
                for owned in self._owned.values():
                    owned.put_changes_in_force()
        except StreamsError as error:
            logger.warning("%s", error)  # what is in force stays so; an unknown deployment would insist

    async def _on_revoked(self, _app: Any, revoked: Any, *_: Any, **__: Any) -> None:
        topics = self._settings.topics
        self._rebalances += 1
        for partition in {tp.partition for tp in revoked if tp.topic in (topics.predictions, topics.outcomes)}:
            owned = self._owned.pop(partition, None)
            if owned is not None:
                owned.drop()

    async def _watch(self) -> None:
        """End the process if a partition has messages but stands still: a new one will do better."""
        for number, owned in self._owned.items():
            standing = time.monotonic() - owned.progressed_at
            if standing < self._stall_seconds:
                continue
            for topic, position in owned.partition.position.items():
                end_offset = self.app.consumer.highwater(TP(topic, number))
                if end_offset is not None and end_offset > position:
                    end(EXIT_STALLED, f"{topic}/{number}: no progress for {standing:.0f} s at offset {position}")
            owned.progressed_at = time.monotonic()


def end(status: int, what: str, error: Exception | None = None) -> None:
    """End the process at once: what was not committed leaves no trace, and nothing may run on with doubtful state."""
    logger.critical("%s; ending with status %d", what, status, exc_info=error)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)
