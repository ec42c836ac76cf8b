"""The background thread: batches, delivers, and keeps what Kafka does not take."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from driftline import codec
from driftline.batcher import Batcher, Delivery
from driftline.batches import Message
from driftline.buffer import Buffer
from driftline.errors import SpoolFullError
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.forking import HANDLES
from driftline.producer import REFUSED, TOO_LARGE, discard, leak, make_producer
from driftline.spool import Spool, adoptable

log = logging.getLogger("driftline")

# A full window, or anything on its way while no broker can be reached, without one acknowledgement for so long: Kafka
# counts as away. librdkafka says that all brokers are down once, which may be long before there is something to send.
_STALL_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_ADOPTION_SECONDS = 30.0
_REPLAY_WINDOW = 32  # batches from disk that are on their way at the same time
_LEAST_MESSAGE_BYTES = 16_384
GRACE_SECONDS = 5.0
"""What a thread may take beyond its deadline, to write to disk what it has."""


class Sender:
    """Takes rows from a :class:`Buffer` and sees every one of them delivered, spooled or dropped.

    1. Rows become columns, columns become messages of at most ``max_message_bytes``.
    2. A message goes to the producer, unless Kafka is known to be away or older messages wait on disk (``spool``).
    3. The delivery report settles it, if it says at which offset. Otherwise the message is spooled, offered again
       (``block``) or dropped.
    4. Going offline takes everything back from the producer, in order, and starts a new one: an idempotent producer
       whose messages were purged has lost its sequence.
    5. What is on disk is offered again, oldest first; the first acknowledgement means that Kafka is back.

    Callbacks only take notes: librdkafka does not allow a poll within a poll.
    """

    def __init__(self, buffer: Buffer, delivery: Delivery, registry: codec.SchemaRegistry | None) -> None:
        self._buffer = buffer
        self._delivery = delivery
        self._registry = registry
        self._spools = delivery.when_unavailable == "spool"
        self._batcher = Batcher(delivery, self._drop)
        self._window_rows = max(delivery.batch_rows, delivery.max_buffered_rows // 2)
        self._own = Spool.create(delivery.spool_folder, delivery.spool_limit_bytes)
        self._adopted: deque[Spool] = deque()
        self._adoption_at = 0.0
        self._producer: Any = None
        self._generation = 0
        self._in_flight: dict[int, Message] = {}
        self._in_flight_rows = 0
        self._replaying = 0
        self._failed: list[Message] = []
        self._too_large: list[Message] = []
        self._again: deque[Message] = deque()
        self._again_at = 0.0
        self._progress_at = 0.0
        self._offline = False
        self._brokers_down = False
        self._fatal = False
        self._gave_up = False
        self._warned: set[str] = set()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Make the producer now, so that a wrong setting shows at once. Raises :class:`SettingsError`."""
        self._live_producer()

    def start(self) -> None:
        """Start the thread; a daemon, so that a process can end without closing its client."""
        _RUNNING.add(self)
        self._thread = threading.Thread(target=self._run, name="driftline-sender", daemon=True)
        self._thread.start()

    def close(self, deadline: float) -> None:
        """Tell the thread to deliver, keep or drop everything by a monotonic time, and end."""
        self._buffer.close(deadline)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end; False if it has not."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            return not self._thread.is_alive()
        return True

    def abandon(self) -> None:
        """In a forked child: keep away from what belongs to the parent."""
        if self._producer is not None:
            leak(self._producer)
        for spool in (self._own, *self._adopted):
            spool.abandon()

    # The loop

    def _run(self) -> None:
        while True:
            try:
                if self._finished():
                    break
                work = self._buffer.take(self._wait_seconds())
                for message in self._batcher.messages(work):
                    self._dispatch(message)
                self._turn()
            except Exception:  # the thread must outlive whatever happens to one batch
                log.exception("the client's background thread met an error and goes on")
                time.sleep(0.1)
        self._discard_producer()
        for spool in (self._own, *self._adopted):
            spool.close()
        _RUNNING.discard(self)

    def _wait_seconds(self) -> float:
        if self._in_flight or self._again or self._buffer.close_at is not None:
            return 0.02
        return 0.2 if self._waiting_on_disk() else 1.0

    def _finished(self) -> bool:
        if self._buffer.close_at is None:
            return False
        self._give_up_when_late()
        if self._buffer.counters().pending:
            return False
        return self._gave_up or self._offline or not (self._in_flight or self._waiting_on_disk())

    def _waiting_on_disk(self) -> bool:
        return not self._own.empty or bool(self._adopted)

    def _turn(self) -> None:
        self._poll(0)
        if self._gave_up:
            return
        self._offer_again()
        if self._spools:
            now = time.monotonic()
            if now >= self._adoption_at and self._buffer.close_at is None:
                self._adopt(now)
            self._replay(now)

    # Delivery

    def _dispatch(self, message: Message) -> None:
        while True:
            if self._failed or self._too_large:
                self._poll(0)
            if self._gave_up:
                return self._keep_or_drop([message])
            if self._spools and (self._offline or not self._own.empty):
                return self._to_spool([message])
            self._offer_again()
            if not self._again and self._room_for(message):
                return self._produce(message)
            self._poll(0.02)
            if self._spools and self._stalled():
                self._go_offline("the broker stopped acknowledging")
            self._give_up_when_late()

    def _stalled(self) -> bool:
        return bool(self._in_flight) and time.monotonic() - self._progress_at > _STALL_SECONDS

    def _room_for(self, message: Message) -> bool:
        return not self._in_flight or self._in_flight_rows + message.rows <= self._window_rows

    def _offer_again(self) -> None:
        if time.monotonic() < self._again_at:
            return
        while self._again and not self._failed and self._room_for(self._again[0]):
            self._produce(self._again.popleft())

    def _produce(self, message: Message) -> None:
        if not self._in_flight:
            self._progress_at = time.monotonic()
        self._in_flight[message.sequence] = message
        self._in_flight_rows += message.rows
        self._replaying += message.origin is not None
        try:
            value = message.value
            if self._registry is not None:
                value = codec.with_registry(value, self._registry)
            self._live_producer().produce(
                message.topic,
                value=value,
                key=message.key,
                headers=message.headers,
                on_delivery=partial(self._reported, self._generation, message.sequence),
            )
        except KafkaException as error:
            self._reported(self._generation, message.sequence, error.args[0], None)
        except Exception as error:  # the queue is full, the registry away, a header refused …
            self._warn(type(error).__name__, f"a batch was not delivered: {error}")
            self._land(message.sequence)
            self._failed.append(message)

    def _land(self, sequence: int) -> Message | None:
        message = self._in_flight.pop(sequence, None)
        if message is not None:
            self._in_flight_rows -= message.rows
            self._replaying -= message.origin is not None
        return message

    def _reported(self, generation: int, sequence: int, error: KafkaError | None, report: Any) -> None:
        message = self._land(sequence) if generation == self._generation else None
        if message is None:
            return
        self._progress_at = time.monotonic()
        if error is None and report.offset() is None:
            # librdkafka infers this from the success of a later message, which proves nothing: it may come twice.
            self._warn("no offset", "a batch was reported as delivered, but not where: it counts as not delivered")
            self._failed.append(message)
        elif error is None:
            if self._offline:
                log.warning("Kafka is back")
            self._offline = self._brokers_down = False
            self._settle(message, delivered=message.rows)
        elif error.code() in TOO_LARGE and message.origin is None and message.rows > 1:
            self._too_large.append(message)
        elif error.code() in REFUSED:
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
        if spool.own:
            self._buffer.settle_spooled(delivered=delivered, dropped=dropped)
        else:
            self._buffer.settle_spooled(adopted=delivered)

    def _poll(self, seconds: float) -> None:
        """Hear what became of messages, and act on it."""
        if self._producer is not None:
            self._producer.poll(seconds)
        else:
            time.sleep(seconds)
        if self._too_large:
            self._split()
        if self._fatal:  # an idempotent producer does not recover from these; a new one may
            self._fatal = False
            self._again.extend(self._take_back())
        if self._brokers_down and self._spools and not self._offline and self._stalled():
            self._go_offline("no broker answers")
        if self._failed:
            if self._spools:
                self._go_offline("a batch was not delivered")
            elif self._delivery.when_unavailable == "block":
                self._again.extendleft(sorted(self._failed, key=_newest_first))
                self._failed.clear()
                self._again_at = time.monotonic() + _RETRY_SECONDS
            else:
                failed, self._failed = self._failed, []
                self._keep_or_drop(failed)

    def _split(self) -> None:
        """The topic takes less than thought: halve what it refused, and make smaller batches from now on."""
        refused, self._too_large = self._too_large, []
        size = min(len(message.value) for message in refused)
        self._batcher.max_bytes = max(_LEAST_MESSAGE_BYTES, min(self._batcher.max_bytes, size // 2))
        self._warn("too_large", f"{refused[0].topic} takes no {size} bytes: smaller batches from now on")
        # The producer joins messages into requests of up to the old size; that limit is set when it is made.
        for message in sorted((*refused, *self._take_back()), key=_oldest_first):
            if message.origin is not None or message.rows == 1 or len(message.value) <= self._batcher.max_bytes:
                self._again.append(message)
                continue
            name, record = codec.decode(message.value)
            columns: PredictionColumns | OutcomeColumns = (
                OutcomeColumns.from_record(record) if name == "OutcomeBatch" else PredictionColumns.from_record(record)
            )
            self._again.extend(self._batcher.encode(columns))

    # Away and back

    def _take_back(self) -> list[Message]:
        """Every message that is on its way, oldest first; the producer is given up."""
        messages = sorted((*self._failed, *self._again, *self._in_flight.values()), key=_oldest_first)
        self._failed.clear()
        self._again.clear()
        self._in_flight.clear()
        self._in_flight_rows = self._replaying = 0
        self._discard_producer()
        return messages

    def _go_offline(self, reason: str) -> None:
        if not self._offline:
            log.warning("Kafka is away (%s): batches go to %s", reason, self._own.directory)
        self._offline = True
        self._again_at = time.monotonic() + _RETRY_SECONDS
        self._keep_or_drop(self._take_back())

    def _give_up_when_late(self) -> None:
        """When the time to close is over, what is on its way goes to disk, or is dropped."""
        deadline = self._buffer.close_at
        if deadline is not None and time.monotonic() >= deadline and not self._gave_up:
            self._gave_up = True
            self._keep_or_drop(self._take_back())

    def _keep_or_drop(self, messages: list[Message]) -> None:
        for spool in (self._own, *self._adopted):
            spool.put_back([m for m in messages if m.origin is not None and m.origin[0] is spool])
        fresh = [message for message in messages if message.origin is None]
        if self._spools:
            self._to_spool(fresh)
        elif fresh:
            self._drop(
                sum(message.rows for message in fresh), "dropped", "what Kafka did not take is dropped and counted"
            )

    def _to_spool(self, messages: list[Message]) -> None:
        spooled = 0
        for message in messages:
            try:
                self._own.append(message)
            except (OSError, SpoolFullError) as error:
                self._drop(message.rows, type(error).__name__, f"a batch is dropped: {error}")
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
            message.sequence = self._batcher.next_sequence()
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

    def _drop(self, rows: int, kind: str, reason: str) -> None:
        self._warn(kind, reason)
        self._buffer.settle(dropped=rows)

    def _warn(self, kind: str, message: str) -> None:
        """Log each kind of trouble once, then at debug level: a broken cluster must not fill the application's log."""
        log.log(logging.DEBUG if kind in self._warned else logging.WARNING, "%s", message)
        self._warned.add(kind)

    # The producer

    def _live_producer(self) -> Any:
        if self._producer is None:
            self._producer = make_producer(
                self._delivery.settings,
                timeout_seconds=self._delivery.delivery_timeout_seconds,
                max_message_bytes=self._delivery.max_message_bytes,
                max_request_bytes=self._batcher.max_bytes,
                on_error=self._kafka_error,
            )
        return self._producer

    def _kafka_error(self, error: KafkaError) -> None:
        self._warn(f"kafka {error.code()}", f"Kafka client: {error.str()}")
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._brokers_down = True
        if error.fatal():
            self._fatal = True

    def _discard_producer(self) -> None:
        self._generation += 1
        if self._producer is not None:
            with HANDLES:
                producer, self._producer = self._producer, None
                discard(producer)
                del producer  # the last one to know of it ends it


def _oldest_first(message: Message) -> int:
    return message.sequence


def _newest_first(message: Message) -> int:
    return -message.sequence


_RUNNING: set[Sender] = set()


def close_all(timeout_seconds: float) -> None:
    """End every background thread of this process, all within the same time."""
    deadline = time.monotonic() + timeout_seconds
    running = list(_RUNNING)
    for sender in running:
        sender.close(deadline)
    for sender in running:
        sender.join(max(0.0, deadline - time.monotonic()) + GRACE_SECONDS)


def abandon_all() -> None:
    """In a forked child: keep away from everything that belongs to the parent's threads."""
    for sender in list(_RUNNING):
        sender.abandon()
    _RUNNING.clear()
