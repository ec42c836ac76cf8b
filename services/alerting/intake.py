"""Reads the topic ``alerts`` into the store, from where the store says, in a thread of its own.

1. Every partition starts at the offset that the database holds; the consumer group's commit is never asked.
2. A batch goes into the database in one transaction, with the next offset.
3. Only then is the next batch looked at. Whatever is killed whenever, the next start goes on at the first alert that
   was not taken.

A database that is locked, full or away for a while is waited for: the batch at hand is tried again until it is taken,
and nothing is read meanwhile. What a wait cannot mend ends the service.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftline.codec import decode
from driftline.errors import CodecError, EventError
from driftline.settings import KafkaSettings
from services.alerting.incidents.checking import check_alert
from services.alerting.incidents.remembering import read_audit
from services.alerting.incidents.store import REFUSED, Incoming, Place, Store
from services.alerting.metrics import Metrics
from services.alerting.records import Publication, audit_event, dead_letter, reason_text
from services.kafka import ClusterError, broker_time_ms, consumer, topic_partitions
from streams.clients import offset_range

log = logging.getLogger("driftline.alerting")

_BATCH = 500
_POLL_SECONDS = 0.2
_CHECK_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_DATABASE_WAIT_SECONDS = 1.0

# Of SQLite: busy, locked, a failing read or write, full, cannot be opened, changed by another.
_PASSING_SQLITE = frozenset({5, 6, 10, 13, 14, 17})
# Of PostgreSQL, classes of SQLSTATE: no connection, a transaction that met another, resources (disk, memory,
# connections), a lock that was not free, an operator who shuts down or starts up, the system's own errors.
_PASSING_POSTGRES = ("08", "40", "53", "55", "57", "58")

T = TypeVar("T")


def passes(error: sa.exc.OperationalError) -> bool:
    """Whether an error of the database may pass by itself: it is locked, full, or not there at the moment."""
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return (getattr(original, "sqlite_errorcode", 0) & 0xFF) in _PASSING_SQLITE
    state = getattr(original, "sqlstate", None)
    return state is None or str(state).startswith(_PASSING_POSTGRES)


class _StoppedError(Exception):
    """The service was stopped while it waited for the database."""


class Intake:
    """The reading thread's work.

    Args:
        kafka: How to reach Kafka.
        store: Where alerts go.
        metrics: What is counted.
        taken: Called, in this thread, after alerts were taken.
        give_up_seconds: Without Kafka for so long, :meth:`run` fails.
        now_ms: Wall clock.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        store: Store,
        metrics: Metrics,
        taken: Callable[[], None],
        *,
        give_up_seconds: float,
        now_ms: Callable[[], int],
    ) -> None:
        self._kafka = kafka
        self._topic = kafka.topics.alerts
        self._store = store
        self._metrics = metrics
        self._taken = taken
        self._give_up_seconds = give_up_seconds
        self._now_ms = now_ms
        self._stop = threading.Event()
        self._reached_at = time.monotonic()
        self._checked_at = 0.0
        self._next: dict[int, int] = {}
        self._last_trouble = ""
        self._database_trouble = ""
        self.ready = threading.Event()

    @property
    def trouble(self) -> str:
        """Why alerts cannot be kept at the moment; empty when they can."""
        return f"alerts cannot be kept: {self._database_trouble}" if self._database_trouble else ""

    @property
    def trouble_seconds(self) -> float:
        """Time since Kafka last answered, beyond what is usual; 0 when all is well."""
        silent = time.monotonic() - self._reached_at
        return silent if silent > 2 * (_CHECK_SECONDS + _ANSWER_SECONDS) else 0.0

    def stop(self) -> None:
        """End :meth:`run` after the batch at hand."""
        self._stop.set()

    def run(self) -> None:
        """Read until stopped.

        Raises:
            ClusterError: Kafka was away for too long.
        """
        while not self._stop.is_set():
            reader = None
            try:
                reader = consumer(self._kafka)
                self._read(reader)
            except _StoppedError:
                return
            except (ClusterError, KafkaException) as error:
                self._bear(error)
            finally:
                if reader is not None:
                    reader.close()

    def _bear(self, error: ClusterError | KafkaException) -> None:
        """Wait a moment after Kafka failed, or fail with it."""
        away_seconds = time.monotonic() - self._reached_at
        why = str(error) if isinstance(error, ClusterError) else str(error.args[0])
        if away_seconds > self._give_up_seconds:
            raise ClusterError(f"no answer from Kafka for {away_seconds:.0f} s, so the service ends: {why}") from error
        if why != self._last_trouble:
            log.warning("Kafka: %s. Trying again for %.0f s.", why, self._give_up_seconds)
        self._last_trouble = why
        self._stop.wait(1.0)

    def _read(self, reader: Consumer) -> None:
        self._place(reader)
        while not self._stop.is_set():
            first = reader.poll(_POLL_SECONDS)
            if first is not None:
                self._take(reader, [first, *reader.consume(_BATCH - 1, timeout=0)])
            elif time.monotonic() - self._checked_at > _CHECK_SECONDS:
                self._check(reader)

    def _place(self, reader: Consumer) -> None:
        """Put the consumer where the store says, for every partition there is."""
        if self._kept(lambda: self._store.wants_recollection(self._topic)):
            recollection = read_audit(self._kafka, self._stop.is_set)
            if self._stop.is_set():
                return
            self._store.remember(recollection)
            self._metrics.rebuilt(used=len(recollection.events), malformed=recollection.malformed)
        stored = self._kept(lambda: self._store.positions(self._topic))
        start, places = [], []
        for partition in sorted(topic_partitions(self._kafka, self._topic)):
            there = offset_range(reader, self._topic, partition, _ANSWER_SECONDS)
            low, high = there.start, there.stop
            offset = stored[partition].next_offset if partition in stored else None
            gap = ""
            if offset is None:
                log.info("%s/%d: first start, %d alerts are there already", self._topic, partition, high - low)
            elif offset < low:
                gap = f"The broker deleted alerts before they were read: {low - offset} offsets are gone."
            elif offset > high:
                gap = "The topic ends before the stored offset: it was made anew. It is read from its beginning."
            if gap:
                log.error("%s/%d: stored offset %s: %s", self._topic, partition, offset, gap)
            if offset is None or gap:
                offset = low
                places.append(Place(partition, offset, high, gap))
            self._next[partition] = offset
            start.append(TopicPartition(self._topic, partition, offset))
        self._kept(lambda: self._store.place(self._topic, places))
        reader.assign(start)
        self._reached()
        self.ready.set()

    def _reached(self) -> None:
        self._reached_at = time.monotonic()
        self._last_trouble = ""

    def _check(self, reader: Consumer) -> None:
        """While nothing comes: is Kafka there, are there more partitions, how far behind are we?"""
        self._checked_at = time.monotonic()
        lag = 0
        for partition, offset in self._next.items():
            high = offset_range(reader, self._topic, partition, _ANSWER_SECONDS).stop
            lag += max(high - offset, 0)
        self._reached()
        self._metrics.lag(lag)
        known = reader.list_topics(self._topic, timeout=_ANSWER_SECONDS).topics[self._topic].partitions
        if not set(known) <= set(self._next):
            log.info("%s has %d partitions now", self._topic, len(known))
            reader.unassign()
            self._place(reader)

    def _take(self, reader: Consumer, messages: Sequence[Message]) -> None:
        batch: list[Incoming] = []
        ends: dict[int, int] = {}
        failure: KafkaError | None = None
        for message in messages:
            error = message.error()
            if error is None:
                batch.append(self._incoming(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[_place(message)[1]] = _place(message)[2]
            else:
                failure = failure or error
        if batch:
            results = self._kept(lambda: self._store.take(batch))
            self._metrics.alerts(results)
            for incoming in batch:
                self._next[incoming.partition] = incoming.offset + 1
            if results[REFUSED]:
                log.warning(
                    "%d message(s) on %s are no alerts, and nobody is told of them; the first: %s; see %s",
                    results[REFUSED],
                    self._topic,
                    reason_text(next(each.problem for each in batch if each.alert is None)),
                    self._kafka.topics.dead_letters,
                )
            self._taken()
        for partition, end in ends.items():
            if end > self._next[partition]:  # the last offsets were markers of transactions, which are never delivered
                self._advance(partition, end)
                self._next[partition] = end
                self._taken()
        if failure is not None:
            raise KafkaException(failure)
        self._reached()

    def _advance(self, partition: int, next_offset: int) -> None:
        self._kept(lambda: self._store.advance(self._topic, partition, next_offset))

    def _kept(self, work: Callable[[], T]) -> T:
        """Do something with the database, as often as it takes while its trouble may pass.

        Every piece of work is one transaction: one that failed has done nothing.

        Raises:
            OperationalError: The trouble does not pass by itself.
            _StoppedError: The service was stopped meanwhile.
        """
        while True:
            try:
                done = work()
            except sa.exc.OperationalError as error:
                if not passes(error):
                    raise
                if self._stop.is_set():
                    raise _StoppedError from error
                why = str(error.orig).strip() or type(error.orig).__name__
                if why != self._database_trouble:
                    log.error("alerts cannot be kept: %s. They stay on the topic; trying again until it works.", why)
                self._database_trouble = why
                self._reached_at = time.monotonic()  # it is not Kafka that is away
                self._stop.wait(_DATABASE_WAIT_SECONDS)
            else:
                if self._database_trouble:
                    log.info("alerts are kept again")
                    self._database_trouble = ""
                return done

    def _incoming(self, message: Message) -> Incoming:
        topic, partition, offset = _place(message)
        try:
            name, alert = decode(message.value())
            if name != "Alert":
                raise CodecError(f"expected an Alert on {topic!r}, came a {name}", reason="wrong_schema")
            return Incoming(topic, partition, offset, check_alert(alert))
        except (CodecError, EventError) as error:
            return Incoming(topic, partition, offset, None, self._refusal(message, error), str(error))

    def _refusal(self, message: Message, error: CodecError | EventError) -> tuple[Publication, ...]:
        now = self._now_ms()
        source = _place(message)
        where = "/".join(map(str, source))
        letter = dead_letter(
            self._kafka.topics.dead_letters,
            source,
            reason=error.reason,
            error=str(error),
            timestamp_ms=broker_time_ms(message) or 0,
            key=message.key(),
            value=message.value(),
            headers=_headers(message),
            time_ms=now,
        )
        event = audit_event(
            self._kafka.topics.audit,
            action="alert.refused",
            subject=f"message:{where}",
            identity=(*source, error.reason),
            time_ms=now,
            reason=str(error),
            evidence=[where],
            detail={"reason": error.reason},
        )
        return letter, event


def _place(message: Message) -> tuple[str, int, int]:
    """Topic, partition and offset, which a delivered message always has."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None and offset is not None
    return str(message.topic()), partition, offset


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    given = message.headers() or []
    pairs = given.items() if isinstance(given, dict) else given
    return [(name, content.encode() if isinstance(content, str) else content) for name, content in pairs]
