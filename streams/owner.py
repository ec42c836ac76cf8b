"""A partition in this worker's hands: its journal, its state machine, and what waits for the next commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftline.codec import SchemaRegistry
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from streams.catalogue import Catalogue
from streams.decoding import Decoded, decode_message
from streams.errors import JournalError
from streams.journal import Journal
from streams.log import LogReader
from streams.messages import Message
from streams.outcomes.store import PendingError, PendingStore
from streams.partition import Partition
from streams.pending import open_pending, say_what_is_read_again

MAX_PENDING_MESSAGES = 400
"""A commit begins at the latest when so many messages wait for it …"""

MAX_PENDING_BYTES = 32 << 20
"""… or so much of them; no more than twice as much of either may wait."""

PLACE_AFRESH_BEYOND = 1000
"""So many messages that were applied before are passed over one by one; for more the consumer is placed ahead."""

QUIET_SECONDS = 10.0
"""A partition without a message for so long is quiet."""

PLACING_SECONDS = 5.0
"""How long the consumer has to deliver from where it was placed, before it is placed again."""

logger = logging.getLogger("driftline.streams")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker's partitions share.

    Attributes:
        settings: How to reach Kafka.
        catalogue: Specifications and baselines.
        catalogue_thread: The one thread that may touch the catalogue.
        registry: For records in the Confluent wire format.
        end_offset: Where a topic's partition was last seen to end; negative if nothing is known.
        committed: Told a partition's positions after every commit.
        failed: Told of an error that the worker cannot go on with.
        data_dir: Where the indexes of pending predictions lie; None to keep them in memory.
    """

    settings: KafkaSettings
    catalogue: Catalogue
    catalogue_thread: ThreadPoolExecutor
    registry: SchemaRegistry | None
    end_offset: Callable[[str, int], int]
    committed: Callable[[int, Mapping[str, int]], None]
    failed: Callable[[Exception], None]
    data_dir: Path | None = None


class OwnedPartition:
    """One partition, from :meth:`open` to :meth:`drop`; used by one event loop.

    The journal and the log are touched by the partition's own executor thread only, the state machine and its index of
    pending predictions by that thread until the partition is open and after it is dropped, and by the event loop only
    in between: a commit takes what is to be written, as bytes that nothing changes any more, before its thread begins.

    The index on disk never has what was not committed: a checkpoint is prepared with what a commit takes, and put in
    force when the commit is done. So one that is found later, by whomever, is the index of a beginning of the log.

    Attributes:
        number: The partition.
        partition: Its state machine, once it is open.
        dropped: It belongs to somebody else.
        closed: Done when nothing is written any more; None before :meth:`drop`.
    """

    partition: Partition

    def __init__(self, number: int, surroundings: Surroundings) -> None:
        self.number = number
        self.dropped = False
        self.closed: Future[None] | None = None
        self.gaps_repaired = 0
        self.progressed_at = time.monotonic()
        self._shared = surroundings
        self._topics = surroundings.settings.topics
        self._journal = Journal(surroundings.settings, number)
        self._log = LogReader(surroundings.settings, number)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"journal-{number}")
        self._pending_messages = self._pending_bytes = 0
        self._store: PendingStore | None = None
        self._in_doubt = True  # what was applied may not be what is committed
        self._given_up = False
        self._commit_lock = asyncio.Lock()
        self._commit_task: asyncio.Task[None] | None = None
        self._next_message: dict[str, int] = {}
        self._placed: dict[str, tuple[int, float]] = {}
        self._looked_up_before: dict[str, int] = {}
        self._changes_seen = -1
        self._horizon: tuple[int, dict[str, int]] = (0, {})

    async def open(self) -> None:
        """Fence earlier owners, read the state and the prediction ids (steps 1 and 2 of the journal), and pending rows.

        Raises:
            JournalError: The state cannot be had, or belongs to another log.
            PendingError: The index of pending predictions cannot be kept in the data directory.
        """
        await self._in_thread(self._open)
        for notice in self.partition.notices:
            logger.warning("partition %d: %s", self.number, notice)
        await self._refresh_catalogue()
        self.put_changes_in_force()
        if not self.dropped:
            self._shared.committed(self.number, dict(self.partition.position))

    def _open(self) -> None:
        records = self._journal.open()
        self._store = open_pending(self._shared.settings, self._shared.data_dir, self.number)
        self.partition = Partition(self.number, self._topics, self._store)
        found_at = dict(self._store.position)
        to_remember = self.partition.restore(records)
        for topic, position in self.partition.position.items():
            end = self._log.end_offset(topic)
            if end < position:
                raise JournalError(
                    f"{topic}/{self.number} ends at offset {end}, but {position} were applied: it was made anew, or "
                    f"lost messages. Delete {self._topics.streams_state!r} too to begin anew, or set another "
                    "DRIFTLINE_TOPIC_PREFIX"
                )
        begun = time.monotonic()
        say_what_is_read_again(self.partition, self._topics, found_at, self._log)
        registry, to_recover = self._shared.registry, self.partition.to_recover[self._topics.outcomes]
        self.partition.remember(self._read(self._topics.predictions, to_remember), registry)
        self.partition.recover_outcomes(self._read(self._topics.outcomes, to_recover), registry)
        self._in_doubt = False
        if any(self.partition.to_recover.values()):
            self._store.checkpoint(self.partition.position)
            seconds = time.monotonic() - begun
            logger.info("partition %d: pending predictions were read again in %.1f s", self.number, seconds)

    def _read(self, topic: str, offsets: range) -> Iterator[Message]:
        """Messages of the log, for as long as somebody wants the partition opened."""
        for message in self._log.read(topic, offsets):
            if self._given_up:
                raise JournalError(f"partition {self.number} was given away while it was opened")
            yield message

    def give_up(self) -> None:
        """End :meth:`open` early: the partition belongs to somebody else now."""
        self._given_up = True

    async def take(self, message: Message) -> int | None:
        """Apply one source message.

        Returns:
            The offset that the consumer must be placed at if this message is not the one that is due; else None.
        """
        if self.dropped:
            return None
        position = self.partition.position[message.topic]
        if message.offset < position:
            far = position - message.offset > PLACE_AFRESH_BEYOND
            return self.place(message.topic) if far else None
        if message.offset > position and not await self._gap_is_in_the_log(message, position):
            return self.place(message.topic)
        decoded = decode_message(message, self._topics, self._shared.registry)
        await self._look_up(decoded)
        if self.dropped:
            return None
        self.partition.apply(decoded)
        self.progressed_at = time.monotonic()
        self._pending_messages += 1
        self._pending_bytes += len(message.value or b"")
        await self._keep_up()
        return None

    def place(self, topic: str) -> int | None:
        """Where to place the consumer; None while it is on its way there."""
        position = self.partition.position[topic]
        known, since = self._placed.get(topic, (-1, 0.0))
        if known == position and time.monotonic() - since < PLACING_SECONDS:
            return None
        self._placed[topic] = (position, time.monotonic())
        return position

    async def _gap_is_in_the_log(self, message: Message, position: int) -> bool:
        """Whether the log itself has nothing between the position and this message (transactions, retention)."""
        known = self._next_message.get(message.topic, -1)
        if known < position:
            found = await self._in_thread(self._log.first_message, message.topic, position)
            known = self._next_message[message.topic] = position if found is None else found
        if known >= message.offset:
            return True
        self.gaps_repaired += 1
        return False

    async def _look_up(self, decoded: Decoded) -> None:
        """Put in force what a message needs; the catalogue is read to its end before it is said to be missing."""
        columns, message = decoded.columns, decoded.message
        if columns is None or not self.partition.needs(columns):
            return
        self.put_changes_in_force(columns)
        if not self.partition.needs(columns) or message.offset < self._looked_up_before.get(message.topic, 0):
            return
        # what is in the log by now was published before this reading of the catalogue begins
        in_the_log = self._shared.end_offset(message.topic, self.number)
        await self._refresh_catalogue()
        self._looked_up_before[message.topic] = max(in_the_log, message.offset + 1)
        self.put_changes_in_force(columns)

    async def _refresh_catalogue(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._shared.catalogue_thread, self._shared.catalogue.refresh)

    def follow_catalogue(self) -> None:
        """Put in force what has changed since the last time."""
        if self._changes_seen != self._shared.catalogue.changes:
            self._changes_seen = self._shared.catalogue.changes
            self.put_changes_in_force()

    def put_changes_in_force(self, columns: PredictionColumns | OutcomeColumns | None = None) -> None:
        """Put in force what the catalogue says anew about what is in force here, and about what ``columns`` need."""
        if self.dropped:
            return
        specs, baselines = self.partition.in_force()
        wanted_specs, wanted_baselines = set(specs), set(baselines)
        if columns is not None:
            wanted_specs.add(columns.deployment_id)
            if isinstance(columns, PredictionColumns):
                wanted_baselines.add((columns.deployment_id, columns.model_version))
        catalogue = self._shared.catalogue
        if catalogue.deployments:  # a topic that is empty was made anew: nobody retires everything
            for deployment_id in sorted(specs.keys() - catalogue.deployments):
                self.partition.end(deployment_id)
                wanted_specs.discard(deployment_id)
                wanted_baselines = {key for key in wanted_baselines if key[0] != deployment_id}
        for deployment_id in sorted(wanted_specs):
            spec = catalogue.specs.get(deployment_id)
            if spec is not None and spec != specs.get(deployment_id):
                self.partition.put_spec_in_force(spec)
                specs[deployment_id] = spec
        for key in sorted(wanted_baselines):
            baseline, known = catalogue.baselines.get(key), baselines.get(key)
            if baseline is not None and key[0] in specs and (known is None or known.digest != baseline.digest):
                self.partition.put_baseline_in_force(baseline)

    async def _keep_up(self) -> None:
        """Begin a commit without waiting for it, unless too much waits already."""
        fill = max(self._pending_messages / MAX_PENDING_MESSAGES, self._pending_bytes / MAX_PENDING_BYTES)
        if fill >= 2:
            await self.commit()
        elif (fill >= 1 or self.partition.urgent) and (self._commit_task is None or self._commit_task.done()):
            self._commit_task = asyncio.create_task(self._commit_what_is_due())

    async def _commit_what_is_due(self) -> None:
        try:
            await self.commit()
            while self.partition.urgent and not self.dropped:  # an alarm that was raised while the commit ran
                await self.commit()
        except Exception as error:
            self._shared.failed(error)

    async def commit(self) -> None:
        """Commit what was applied and acknowledge it (steps 5 and 6 of the journal).

        Raises:
            JournalError: The worker must end.
            PendingError: It must end as well: the index of pending predictions cannot be written.
        """
        async with self._commit_lock:
            if self.dropped:
                return
            records, emissions, order = self.partition.take()
            self._pending_messages = self._pending_bytes = 0
            if not order:
                return
            position = dict(self.partition.position)
            try:
                self._in_doubt = True
                await self._in_thread(self._commit, records, emissions, order)
            except JournalError as error:
                if not self.dropped:
                    raise
                logger.info("%s (the partition was given away meanwhile)", error)
                return
            if not self.dropped:
                self.partition.committed()
                self._shared.committed(self.number, position)

    def _commit(self, *what: Any) -> None:
        self._journal.commit(*what)
        self._in_doubt = False

    async def pass_time(self, now_ms: int) -> None:
        """Tell the state machine what time it is, if that matters and everything until then was applied.

        Where messages come, the ends of the log that were seen at one look must be applied at the next; then it was at
        least so late as at the first. Where none come the log itself is asked: what was seen of it may be old.

        Args:
            now_ms: Milliseconds since 1970 UTC.

        Raises:
            JournalError: Kafka does not answer: nothing is known about what was published.
        """
        if self.dropped:
            return
        position = self.partition.position
        seen_ms, ends = self._horizon
        if time.monotonic() - self.progressed_at < QUIET_SECONDS:
            if any(position[topic] < end for topic, end in ends.items()):
                return
            ends = {topic: self._shared.end_offset(topic, self.number) for topic in position}
            if min(ends.values()) >= 0:  # else a topic was not seen yet: there may be any number of messages in it
                self._horizon = now_ms, ends
            self.partition.pass_time(seen_ms)
        elif self.partition.awaits_time(now_ms) and await self.due() is None and not self.dropped:
            self.partition.pass_time(now_ms)
        await self._keep_up()

    async def due(self) -> tuple[str, int] | None:
        """A topic, and the position in it, with a message that was not applied; None if all of them were.

        Raises:
            JournalError: Kafka does not answer.
        """
        for topic, position in list(self.partition.position.items()):
            if self.dropped:
                break
            if await self._in_thread(self._log.first_message, topic, position) is not None:
                return topic, position
        return None

    def drop(self) -> None:
        """The partition belongs to somebody else now: what was not committed will be applied there."""
        if self.dropped:
            return
        self.dropped = True
        self.closed = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        self._journal.close()
        self._log.close()
        if self._store is None:
            return
        try:
            if self._in_doubt:
                return
            if self.partition.uncommitted:
                self.partition.committed()
            else:
                self._store.checkpoint(self.partition.position)
        except PendingError as error:  # the next owner reads more of the topics
            logger.warning("partition %d: %s", self.number, error)
        finally:
            self._store.close()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
