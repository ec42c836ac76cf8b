"""A partition in this worker's hands: its journal, its state machine, and what waits for the next commit."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from driftline.codec import SchemaRegistry
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from streams.catalogue import Catalogue
from streams.decoding import Decoded, decode_message
from streams.errors import JournalError
from streams.journal import Journal
from streams.messages import Message
from streams.partition import Partition

MAX_PENDING_MESSAGES = 400
"""A commit begins at the latest when so many messages wait for it, and no more than twice as many may wait."""

PROBE_TIMEOUT_SECONDS = 20.0


class Acknowledgeable(Protocol):
    """A source event: acknowledged when what it did is committed."""

    def ack(self) -> bool:
        """Acknowledge it."""


class OwnedPartition:
    """One partition, from :meth:`open` to :meth:`drop`; used by one event loop.

    Args:
        number: The partition.
        settings: How to reach Kafka.
        catalogue: Specifications and baselines, shared by the worker's partitions.
        catalogue_thread: The one thread that may touch the catalogue.
        registry: For records in the Confluent wire format.
    """

    def __init__(
        self,
        number: int,
        settings: KafkaSettings,
        catalogue: Catalogue,
        catalogue_thread: ThreadPoolExecutor,
        registry: SchemaRegistry | None = None,
    ) -> None:
        self.number = number
        self.partition = Partition(number, settings.topics)
        self.dropped = False
        self.gaps_repaired = 0
        self.progressed_at = time.monotonic()
        self._settings = settings
        self._registry = registry
        self._catalogue = catalogue
        self._catalogue_thread = catalogue_thread
        self._journal = Journal(settings, number)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"journal-{number}")
        self._pending: list[Acknowledgeable] = []
        self._commit_lock = asyncio.Lock()
        self._accepted_gap: dict[str, int] = {}

    async def open(self) -> None:
        """Fence earlier owners, read the state and the prediction ids (steps 1 and 2 of the journal)."""
        await self._in_thread(self._open)
        await self._refresh_catalogue()
        self.put_changes_in_force()

    def _open(self) -> None:
        to_remember = self.partition.restore(self._journal.open())
        if to_remember:
            self.partition.remember(
                read_range(self._settings, self._settings.topics.predictions, self.number, to_remember)
            )

    async def take(self, event: Acknowledgeable, message: Message) -> int | None:
        """Apply one source message.

        Returns:
            The offset that the consumer must be placed at if messages before this one were not applied; else None.
        """
        if self.dropped:
            return None
        position = self.partition.position[message.topic]
        if message.offset < position:
            event.ack()
            return None
        if message.offset > position and not await self._gap_is_in_the_log(message, position):
            return position
        decoded = decode_message(message, self._settings.topics, self._registry)
        await self._look_up(decoded)
        if self.dropped:
            return None
        self.partition.apply(decoded)
        self.progressed_at = time.monotonic()
        self._pending.append(event)
        if len(self._pending) >= MAX_PENDING_MESSAGES:
            await self._keep_up()
        return None

    async def _gap_is_in_the_log(self, message: Message, position: int) -> bool:
        """Whether the log itself has nothing between the position and this message (transactions, retention)."""
        known = self._accepted_gap.get(message.topic)
        if known is None or known < position:
            known = await self._in_thread(next_offset, self._settings, message.topic, self.number, position)
            self._accepted_gap[message.topic] = known
        if known >= message.offset:
            return True
        self.gaps_repaired += 1
        return False

    async def _look_up(self, decoded: Decoded) -> None:
        columns = decoded.columns
        if columns is None or not self.partition.needs(columns):
            return
        self.put_changes_in_force(columns)
        if self.partition.needs(columns) and self._catalogue.read_at_ms <= decoded.message.timestamp_ms + 1000:
            await self._refresh_catalogue()
            self.put_changes_in_force(columns)

    async def _refresh_catalogue(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._catalogue_thread, self._catalogue.refresh)

    def put_changes_in_force(self, columns: PredictionColumns | OutcomeColumns | None = None) -> None:
        """Put in force what the catalogue says anew about what is in force here, and about what ``columns`` need."""
        specs, baselines = self.partition.in_force()
        wanted_specs, wanted_baselines = set(specs), set(baselines)
        if columns is not None:
            wanted_specs.add(columns.deployment_id)
            if isinstance(columns, PredictionColumns):
                wanted_baselines.add((columns.deployment_id, columns.model_version))
        for deployment_id in sorted(wanted_specs):
            spec = self._catalogue.specs.get(deployment_id)
            if spec is not None and spec != specs.get(deployment_id):
                self.partition.put_spec_in_force(spec)
                specs[deployment_id] = spec
        for key in sorted(wanted_baselines):
            baseline, known = self._catalogue.baselines.get(key), baselines.get(key)
            if baseline is not None and key[0] in specs and (known is None or known.digest != baseline.digest):
                self.partition.put_baseline_in_force(baseline)

    async def _keep_up(self) -> None:
        """Begin a commit without waiting for it, unless too much waits already."""
        if len(self._pending) >= 2 * MAX_PENDING_MESSAGES or not self._commit_lock.locked():
            await self.commit()

    async def commit(self) -> None:
        """Commit what was applied and acknowledge it (steps 5 and 6 of the journal).

        Raises:
            JournalError: The worker must end.
        """
        async with self._commit_lock:
            if self.dropped:
                return
            records, emissions, order = self.partition.take()
            pending, self._pending = self._pending, []
            if order:
                await self._in_thread(self._journal.commit, records, emissions, order)
            for event in pending:
                event.ack()

    def drop(self) -> None:
        """The partition belongs to somebody else now: what was not committed will be applied there."""
        self.dropped = True
        self._pending = []
        self._journal.close()
        self._thread.shutdown(wait=False)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _plain_consumer(settings: KafkaSettings) -> Consumer:
    return Consumer(
        settings.client(
            group_id=f"{settings.application_id}-probe",
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_partition_eof=True,
            fetch_wait_max_ms=50,
        )
    )


def next_offset(settings: KafkaSettings, topic: str, partition: int, offset: int) -> int:
    """The offset of the first message at or after ``offset``; that offset itself if there is none yet.

    Raises:
        JournalError: Kafka does not answer.
    """
    consumer = _plain_consumer(settings)
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        found = consumer.poll(PROBE_TIMEOUT_SECONDS)
    except KafkaException as error:
        raise JournalError(f"{topic}/{partition}: offset {offset} cannot be looked up: {error}") from error
    finally:
        consumer.close()
    if found is None:
        raise JournalError(f"{topic}/{partition}: no answer while looking up offset {offset}")
    return offset if found.error() is not None else int(found.offset() or 0)


def read_range(settings: KafkaSettings, topic: str, partition: int, offsets: range) -> list[Message]:
    """The messages of a range of offsets, as far as the log still has them.

    Raises:
        JournalError: Kafka does not answer.
    """
    consumer = _plain_consumer(settings)
    messages: list[Message] = []
    deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
    try:
        consumer.assign([TopicPartition(topic, partition, offsets.start)])
        while True:
            if time.monotonic() > deadline:
                raise JournalError(f"{topic}/{partition}: no answer while reading offsets {offsets}")
            for message in consumer.consume(500, timeout=0.05):
                deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
                if message.error() is not None or (message.offset() or 0) >= offsets.stop:
                    return messages
                messages.append(
                    Message(
                        topic, partition, message.offset() or 0, message.timestamp()[1], message.key(), message.value()
                    )
                )
                if messages[-1].offset == offsets.stop - 1:
                    return messages
    except KafkaException as error:
        raise JournalError(f"{topic}/{partition}: offsets {offsets} cannot be read: {error}") from error
    finally:
        consumer.close()
