"""The background thread: batches, delivers, and keeps what Kafka does not take."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from driftline import codec
from driftline.batches import (
    Message,
    between,
    cloud_event_headers,
    encoded,
    outcome_columns,
    prediction_columns,
)
from driftline.buffer import Buffer, Work
from driftline.errors import RegistryError, SettingsError, SpoolFullError
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.spool import Spool, adoptable
from driftline.topics import PARTITIONER, record_key

log = logging.getLogger("driftline")

_STALL_SECONDS = 0.5  # a full window without one acknowledgement for so long: Kafka counts as away
_RETRY_SECONDS = 1.0
_ADOPTION_SECONDS = 30.0
_REPLAY_WINDOW = 32  # batches from disk that are on their way at the same time
_QUEUE_KBYTES = 262_144
_LEAST_MESSAGE_BYTES = 16_384

# What Kafka will not take however often it is offered. Missing rights and missing topics are not among them:
# somebody may be about to mend those.
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
_REFUSED = _TOO_LARGE | {KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD}


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where batches go, and what happens to them when Kafka is away."""

    deployment_id: str
    model_id: str | None
    shard: int | None
    settings: KafkaSettings = field(repr=False)
    batch_rows: int
    max_buffered_rows: int
    max_message_bytes: int
    when_unavailable: str
    delivery_timeout_seconds: float
    spool_folder: Path
    spool_limit_bytes: int
    headers: tuple[tuple[str, str], ...] = ()


class _QuietLog:
    """Takes librdkafka's log, which repeats itself several times a second while Kafka is away, at debug level.

    What matters of it arrives through the error callback, too.
    """

    def log(self, _level: int, message: str, *arguments: Any) -> None:
        logging.getLogger("driftline.kafka").debug(message, *arguments)


class Sender:
    """Takes rows from a :class:`Buffer` and sees every one of them delivered, spooled or dropped.

    1. Rows become columns, columns become messages of at most ``max_message_bytes``.
    2. A message goes to the producer, unless Kafka is known to be away or older messages wait on disk (``spool``).
    3. The delivery report settles it. A failed one is spooled, offered again (``block``) or dropped.
    4. Going offline takes everything back from the producer, in order, and starts a new one: an idempotent producer
       whose messages were purged has lost its sequence.
    5. What is on disk is offered again, oldest first; the first acknowledgement means that Kafka is back.
    """

    def __init__(self, buffer: Buffer, delivery: Delivery, registry: codec.SchemaRegistry | None) -> None:
        self._buffer = buffer
        self._delivery = delivery
        self._registry = registry
        self._spools = delivery.when_unavailable == "spool"
        self._key = record_key(delivery.deployment_id, delivery.shard)
        self._max_bytes = delivery.max_message_bytes
        self._window_rows = max(delivery.batch_rows, delivery.max_buffered_rows // 2)
        self._own = Spool.create(delivery.spool_folder, delivery.spool_limit_bytes)
        self._adopted: deque[Spool] = deque()
        self._adoption_at = 0.0
        self._producer: Any = None
        self._generation = 0
        self._sequence = 0
        self._in_flight: dict[int, Message] = {}
        self._in_flight_rows = 0
        self._replaying = 0
        self._failed: list[Message] = []
        self._again: deque[Message] = deque()
        self._again_at = 0.0
        self._progress_at = 0.0
        self._offline = False
        self._brokers_down = False
        self._gave_up = False
        self._warned: set[str] = set()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Make the producer now, so that a wrong setting shows at once.

        Raises:
            SettingsError: librdkafka does not take the settings.
        """
        try:
            self._live_producer()
        except (KafkaException, TypeError, ValueError) as error:
            raise SettingsError(f"the Kafka client does not take its settings: {error}") from None

    def start(self) -> None:
        """Start the thread; a daemon, so that a process can end without closing its client."""
        self._thread = threading.Thread(target=self._run, name="driftline-sender", daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end; False if it has not."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            return not self._thread.is_alive()
        return True

    def abandon(self) -> None:
        """In a forked child: keep away from what belongs to the parent.

        The producer's threads do not exist here, and its destructor would wait for them: it is never called.
        """
        if self._producer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
        for spool in (self._own, *self._adopted):
            spool.abandon()

    # The loop

    def _run(self) -> None:
        while not self._finished():
            busy = self._in_flight or self._again
            work = self._buffer.take(0.02 if busy else 0.2 if self._waiting_on_disk() else 1.0)
            try:
                for columns in self._columns(work):
                    self._send(columns)
                self._turn()
            except Exception:  # the thread must outlive whatever happens to one batch
                log.exception("the client's background thread met an error and goes on")
                time.sleep(0.1)
        self._end()

    def _finished(self) -> bool:
        deadline = self._buffer.close_at
        if deadline is None:
            return False
        if time.monotonic() >= deadline and not self._gave_up:
            self._give_up()
        if self._buffer.counters().pending:
            return False
        return self._gave_up or self._offline or not (self._in_flight or self._waiting_on_disk())

    def _end(self) -> None:
        self._discard_producer()
        for spool in (self._own, *self._adopted):
            spool.close()

    def _waiting_on_disk(self) -> bool:
        return not self._own.empty or bool(self._adopted)

    def _columns(self, work: Work) -> Iterator[PredictionColumns | OutcomeColumns]:
        delivery, step = self._delivery, self._delivery.batch_rows
        for start in range(0, len(work.predictions), step):
            yield from self._guarded(
                lambda rows: prediction_columns(rows, delivery.deployment_id, delivery.model_id),
                work.predictions[start : start + step],
            )
        for start in range(0, len(work.outcomes), step):
            yield from self._guarded(
                lambda rows: [outcome_columns(rows, delivery.deployment_id)], work.outcomes[start : start + step]
            )
        for columns in work.columns:
            for start in range(0, columns.rows, step):
                yield between(columns, start, min(start + step, columns.rows))

    def _guarded(self, build: Any, rows: list[Any]) -> list[PredictionColumns | OutcomeColumns]:
        try:
            return list(build(rows))
        except Exception as error:  # checked rows build; a mistake in that must cost one batch, not the thread
            self._drop(len(rows), f"a batch of {len(rows)} rows could not be built: {error!r}")
            return []

    def _send(self, columns: PredictionColumns | OutcomeColumns) -> None:
        left = columns.rows
        try:
            for message in self._messages(columns):
                self._dispatch(message)
                left -= message.rows
        except Exception as error:
            self._drop(left, f"{left} rows could not be sent: {error!r}")

    def _messages(self, columns: PredictionColumns | OutcomeColumns) -> Iterator[Message]:
        topics, outcome = self._delivery.settings.topics, isinstance(columns, OutcomeColumns)
        name = "OutcomeBatch" if outcome else "PredictionBatch"
        for value, rows in encoded(columns, self._max_bytes, self._drop):
            self._sequence += 1
            yield Message(
                topic=topics.outcomes if outcome else topics.predictions,
                key=self._key,
                value=value,
                headers=[*cloud_event_headers(name, self._delivery.deployment_id), *self._delivery.headers],
                rows=rows,
                sequence=self._sequence,
            )

    # Delivery

    def _dispatch(self, message: Message) -> None:
        while not self._gave_up:
            if self._spools and (self._offline or not self._own.empty):
                return self._to_spool([message])
            if self._in_flight_rows + message.rows <= self._window_rows or not self._in_flight:
                return self._produce(message)
            self._poll(0.02)
            if self._spools and time.monotonic() - self._progress_at > _STALL_SECONDS:
                self._go_offline("the broker stopped acknowledging")
            deadline = self._buffer.close_at
            if deadline is not None and time.monotonic() >= deadline:
                self._give_up()
        return self._keep_or_drop([message])

    def _produce(self, message: Message) -> None:
        value = message.value
        if not self._in_flight:
            self._progress_at = time.monotonic()
        self._in_flight[message.sequence] = message
        self._in_flight_rows += message.rows
        self._replaying += message.origin is not None
        try:
            if self._registry is not None:
                value = codec.with_registry(value, self._registry)
            self._live_producer().produce(
                message.topic,
                value=value,
                key=message.key,
                headers=message.headers,
                on_delivery=partial(self._reported, self._generation, message.sequence),
            )
        except BufferError:
            self._land(message.sequence)
            self._failed.append(message)
        except KafkaException as error:
            self._reported(self._generation, message.sequence, error.args[0], None)
        except RegistryError as error:
            self._warn("registry", str(error))
            self._land(message.sequence)
            self._failed.append(message)

    def _land(self, sequence: int) -> Message | None:
        message = self._in_flight.pop(sequence, None)
        if message is not None:
            self._in_flight_rows -= message.rows
            self._replaying -= message.origin is not None
        return message

    def _reported(self, generation: int, sequence: int, error: KafkaError | None, _message: Any) -> None:
        message = self._land(sequence) if generation == self._generation else None
        if message is None:
            return
        self._progress_at = time.monotonic()
        if error is None:
            if self._offline:
                log.warning("Kafka is back")
            self._offline = False
            self._settle(message, delivered=message.rows)
        elif error.code() in _TOO_LARGE and message.origin is None and message.rows > 1:
            self._too_large(message)
        elif error.code() in _REFUSED:
            self._warn("refused", f"Kafka refuses a batch of {len(message.value)} bytes, which is dropped: {error}")
            self._settle(message, dropped=message.rows)
        else:
            self._warn("failed", f"a batch was not delivered: {error}")
            self._failed.append(message)

    def _settle(self, message: Message, *, delivered: int = 0, dropped: int = 0) -> None:
        if message.origin is None:
            self._buffer.settle(delivered=delivered, dropped=dropped)
            return
        spool: Spool = message.origin[0]
        spool.acknowledge(message)
        if not spool.own:
            self._buffer.settle_spooled(adopted=delivered)
            return
        self._buffer.settle_spooled(delivered=delivered, dropped=dropped)

    def _too_large(self, message: Message) -> None:
        """The topic takes less than thought: halve this batch, and those to come."""
        self._max_bytes = max(_LEAST_MESSAGE_BYTES, min(self._max_bytes, len(message.value) // 2))
        self._warn("too_large", f"{message.topic} takes no {len(message.value)} bytes: smaller batches from now on")
        name, record = codec.decode(message.value)
        reader = OutcomeColumns if name == "OutcomeBatch" else PredictionColumns
        columns = reader.from_record(record)
        for start, stop in ((0, columns.rows // 2), (columns.rows // 2, columns.rows)):
            self._again.extend(self._messages(between(columns, start, stop)))
        # The producer joins messages into requests of up to the old size: that limit is set when it is made.
        self._again.extend(self._take_back())
        self._again_at = 0.0

    def _poll(self, seconds: float) -> None:
        if self._producer is not None:
            self._producer.poll(seconds)
        else:
            time.sleep(seconds)
        if self._brokers_down:
            self._brokers_down = False
            if self._spools and not self._offline and self._in_flight_rows:
                self._go_offline("no broker answers")
        if self._failed:
            if self._spools:
                self._go_offline("a batch was not delivered")
            elif self._delivery.when_unavailable == "block":
                self._again.extend(self._failed)
                self._failed.clear()
                self._again_at = time.monotonic() + _RETRY_SECONDS
            else:
                failed, self._failed = self._failed, []
                self._keep_or_drop(failed)

    def _turn(self) -> None:
        self._poll(0)
        now = time.monotonic()
        if self._gave_up:
            return
        if self._again and now >= self._again_at:
            again, self._again = self._again, deque()
            for message in again:
                self._dispatch(message)
        if self._spools:
            if now >= self._adoption_at and self._buffer.close_at is None:
                self._adopt(now)
            self._replay(now)

    # Away and back

    def _take_back(self) -> list[Message]:
        """Every message that is on its way, oldest first; the producer is given up."""
        messages = sorted((*self._failed, *self._in_flight.values()), key=lambda message: message.sequence)
        self._failed = []
        self._in_flight = {}
        self._in_flight_rows = self._replaying = 0
        self._discard_producer()
        return messages

    def _go_offline(self, reason: str) -> None:
        if not self._offline:
            log.warning("Kafka is away (%s): batches go to %s", reason, self._own.directory)
        self._offline = True
        self._again_at = time.monotonic() + _RETRY_SECONDS
        messages = sorted((*self._again, *self._take_back()), key=lambda message: message.sequence)
        self._again.clear()
        self._keep_or_drop(messages)

    def _keep_or_drop(self, messages: list[Message]) -> None:
        fresh = [message for message in messages if message.origin is None]
        for spool in (self._own, *self._adopted):
            spool.put_back(m for m in messages if m.origin is not None and m.origin[0] is spool)
        if self._spools:
            self._to_spool(fresh)
        elif fresh:
            self._drop(
                sum(message.rows for message in fresh), "batches that Kafka did not take are dropped and counted"
            )

    def _to_spool(self, messages: Iterable[Message]) -> None:
        spooled = 0
        for message in messages:
            try:
                self._own.append(message)
            except (OSError, SpoolFullError) as error:
                self._drop(message.rows, f"a batch is dropped: {error}")
            else:
                spooled += message.rows
        try:
            self._own.sync()
        except OSError as error:
            self._warn("sync", f"the spool may not survive a power failure: {error}")
        self._buffer.settle(spooled=spooled)

    def _replay(self, now: float) -> None:
        if self._offline and now < self._again_at:
            return
        window = 1 if self._offline else _REPLAY_WINDOW
        while self._replaying < window and not self._failed:
            message = self._next_on_disk()
            if message is None:
                if self._offline and not self._replaying:
                    self._offline = False  # nothing left to try with: the next batch will tell
                return
            self._sequence += 1
            message.sequence = self._sequence
            self._produce(message)

    def _next_on_disk(self) -> Message | None:
        message = self._own.next()
        if self._own.lost_rows:
            lost, self._own.lost_rows = self._own.lost_rows, 0
            self._warn("lost", f"{lost} spooled rows could not be read back")
            self._buffer.settle_spooled(dropped=lost)
        while message is None and self._adopted:
            spool = self._adopted[0]
            message = spool.next()
            if message is not None or not spool.empty:
                break
            spool.close()
            self._adopted.popleft()
        return message

    def _adopt(self, now: float) -> None:
        self._adoption_at = now + _ADOPTION_SECONDS
        known = {spool.directory for spool in (self._own, *self._adopted)}
        for spool in adoptable(self._delivery.spool_folder, known):
            log.warning("adopting the spool %s of a process that has ended", spool.directory)
            self._adopted.append(spool)

    def _give_up(self) -> None:
        """The time to close is over: what is on its way goes to disk, or is dropped."""
        self._gave_up = True
        messages = sorted((*self._again, *self._take_back()), key=lambda message: message.sequence)
        self._again.clear()
        self._keep_or_drop(messages)

    def _drop(self, rows: int, reason: str) -> None:
        self._warn("dropped", reason)
        self._buffer.settle(dropped=rows)

    def _warn(self, kind: str, message: str) -> None:
        """Log each kind of trouble once, then at debug level: a broken cluster must not fill the application's log."""
        log.log(logging.DEBUG if kind in self._warned else logging.WARNING, "%s", message)
        self._warned.add(kind)

    # The producer

    def _live_producer(self) -> Any:
        if self._producer is None:
            chosen = self._delivery.settings.librdkafka
            defaults = {"compression.type": "lz4", "linger.ms": "5", "client.id": "driftline"}
            self._producer = Producer(
                {
                    **{name: value for name, value in defaults.items() if name not in chosen},
                    **self._delivery.settings.client(
                        enable_idempotence=True,
                        acks="all",
                        partitioner=PARTITIONER,
                        message_timeout_ms=int(self._delivery.delivery_timeout_seconds * 1000),
                        message_max_bytes=max(1_000_000, self._delivery.max_message_bytes + 65_536),
                        batch_size=self._max_bytes,
                        queue_buffering_max_kbytes=_QUEUE_KBYTES,
                        reconnect_backoff_max_ms=1000,
                    ),
                    "error_cb": self._kafka_error,
                    "logger": _QuietLog(),
                }
            )
        return self._producer

    def _kafka_error(self, error: KafkaError) -> None:
        self._warn(f"kafka {error.code()}", f"Kafka client: {error.str()}")
        if error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():
            self._brokers_down = True

    def _discard_producer(self) -> None:
        self._generation += 1
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)  # the reports of what was purged; they belong to a generation that is over
