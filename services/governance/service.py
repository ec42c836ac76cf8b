"""The governance service: the one writer of the ledger over the audit topic.

What it promises, step by step:

1. The ledger is locked; a second service is refused.
2. Before anything is signed, the past is compared: the last checkpoint that was published under this key has to be
   the root of as many of our leaves, and the last records on the topic have to be our last leaves, byte for byte and
   offset by offset. If the topic was made anew, all of them.
3. Committed records are read in offset order from the ledger's own position and appended, a batch per transaction.
4. When there are new leaves, at most every ``seal_seconds`` or after ``seal_records``: size and root are made
   durable, then signed, then published with the leaf hashes, then marked as published. A crash in between publishes
   the same bytes again.
5. Should the topic and the ledger no longer agree, the service ends with an error and signs nothing more.

Kafka may be away for ``give_up_seconds``; after that the service ends, and its supervisor starts it again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from confluent_kafka import KafkaException, TopicCollection

from driftline.settings import KafkaSettings
from services.audit import AuditError, AuditTrail
from services.governance.checkpoint import Checkpoint, SigningKey, create_key, load_key
from services.governance.checkpoints import checkpoint_record, last_published
from services.governance.errors import GovernanceError, KeyFileError, LedgerMismatchError
from services.governance.ledger import Ledger
from services.governance.merkle import leaf_hash
from services.governance.settings import GovernanceSettings
from services.governance.topic import LogChangedError, LogRecord, TopicReader
from services.kafka import ClusterError, Publisher, admin_client, cloud_event_headers

log = logging.getLogger("driftline.governance")

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_DRAIN_SECONDS = 15.0
_ANSWER_SECONDS = 10.0
_SHRUNK_LOOKS = 5


class GovernanceService:
    """Keeps the ledger until it is told to stop. For one thread; nothing is opened before :meth:`run`."""

    def __init__(self, kafka: KafkaSettings, settings: GovernanceSettings) -> None:
        self._kafka = kafka
        self._settings = settings

    def run(self, stop: threading.Event) -> None:
        """Keep the ledger until ``stop`` is set; then seal what is there and return.

        Raises:
            LedgerBusyError: Another service writes this ledger.
            LedgerMismatchError: Topic, ledger and what was signed do not agree.
            GovernanceError: The key or the database cannot be used, or Kafka stayed away.
        """
        topics = self._kafka.topics
        with Ledger(self._settings.database_url, origin=self._settings.origin, topic=topics.audit) as ledger:
            key, created = _signing_key(ledger, self._settings)
            action = "governance.started"
            patience = _Patience(self._settings.give_up_seconds)
            while not stop.is_set():
                try:
                    with _mismatches(), contextlib.ExitStack() as stack:
                        writer = _Writer(self._kafka, self._settings, ledger, key, stack)
                        trail = stack.enter_context(AuditTrail(self._kafka, "governance"))
                        writer.prepare()
                        patience.worked()
                        if created:
                            _say(trail, "key.created", ledger, key)
                        _say(trail, action, ledger, key)
                        created, action = False, "governance.resumed"
                        log.info("the ledger %s has %d records; going on", key.verifier.name, ledger.size)
                        writer.keep(stop, patience)
                        _say(trail, "governance.stopped", ledger, key)
                        writer.finish()
                        return
                except (ClusterError, AuditError) as error:
                    patience.failed(error)
                    log.warning("Kafka: %s", error)
                    stop.wait(_RETRY_SECONDS)


class _Patience:
    """How long Kafka may be away."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._heard = time.monotonic()

    def worked(self) -> None:
        self._heard = time.monotonic()

    def failed(self, error: Exception) -> None:
        """Raises GovernanceError when it has been too long."""
        away = time.monotonic() - self._heard
        if away > self._seconds:
            raise GovernanceError(f"Kafka has been away for {away:.0f} s, giving up: {error}") from error


@contextlib.contextmanager
def _mismatches() -> Iterator[None]:
    try:
        yield
    except LogChangedError as error:
        raise LedgerMismatchError(
            f"the audit topic no longer has what the ledger has ({error}): it was cut, deleted or made anew. Nothing "
            "more is signed."
        ) from error


class _Writer:
    """One connection's worth of keeping the ledger."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: GovernanceSettings,
        ledger: Ledger,
        key: SigningKey,
        stack: contextlib.ExitStack,
    ) -> None:
        self._kafka, self._settings, self._ledger, self._key = kafka, settings, ledger, key
        self._topic = kafka.topics.audit
        self._reader = stack.enter_context(TopicReader(kafka, self._topic))
        self._seals = stack.enter_context(TopicReader(kafka, kafka.topics.audit_checkpoints))
        self._admin = admin_client(kafka)
        self._publisher = Publisher(kafka, timeout_seconds=min(30.0, settings.give_up_seconds))
        self._promised: Checkpoint | None = None
        self._topic_id = ""
        self._sealed_at = self._probed_at = time.monotonic()

    def prepare(self) -> None:
        """Compare the past, then go to where the ledger left off."""
        ledger = self._ledger
        self._topic_id = self._read_topic_id()
        same_topic = ledger.fact("topic_id") in (None, self._topic_id)
        self._recheck(0 if not same_topic else max(0, ledger.size - self._settings.recheck_records))
        if ledger.fact("topic_id") != self._topic_id:
            ledger.set_fact("topic_id", self._topic_id)
        self._promised = last_published(self._seals, self._key.verifier)
        self._keep_promise()
        low, _ = self._reader.watermarks()
        if ledger.size == 0 and low > 0:
            log.warning(
                "the audit topic begins at offset %d: records before it were removed, the ledger begins there", low
            )
        self._reader.start(low if ledger.next_offset is None else ledger.next_offset)

    def keep(self, stop: threading.Event, patience: _Patience) -> None:
        """Append, seal and publish until ``stop`` is set."""
        while not stop.is_set():
            self._take(_POLL_SECONDS)
            self._seal()
            if time.monotonic() - self._probed_at > _PROBE_SECONDS:
                self._probe()
                patience.worked()
                self._probed_at = time.monotonic()

    def finish(self) -> None:
        """Take what is on the topic now, and seal it."""
        _, high = self._reader.watermarks()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while (self._ledger.next_offset or 0) < high and time.monotonic() < deadline:
            end = self._take(_POLL_SECONDS)
            if end is not None and end >= high:
                break
        self._seal(now=True)

    def _take(self, wait_seconds: float) -> int | None:
        records, end = self._reader.poll(wait_seconds)
        while self._promised is not None and records:
            inside = self._promised.size - self._ledger.size
            self._ledger.append(records[:inside])
            records = records[inside:]
            self._keep_promise()
        self._ledger.append(records)
        if end is not None and self._promised is not None:
            raise LedgerMismatchError(
                f"{self._topic!r} has {self._ledger.size} records, but a checkpoint over {self._promised.size} was "
                "signed with this key and published: records are gone. Nothing more is signed."
            )
        return end

    def _keep_promise(self) -> None:
        if self._promised is not None and self._promised.size <= self._ledger.size:
            self._ledger.adopt_head(self._promised.size, self._promised.root)
            self._promised = None

    def _seal(self, *, now: bool = False) -> None:
        if self._promised is not None:
            return  # catching up with what was signed before: no root is signed before that one stands
        ledger, settings = self._ledger, self._settings
        waiting = ledger.size - ledger.head_size
        due = now or time.monotonic() - self._sealed_at >= settings.seal_seconds or waiting >= settings.seal_records
        if waiting and due:
            ledger.close_head()
            self._sealed_at = time.monotonic()
        for head in ledger.unpublished():
            value = checkpoint_record(ledger, head, self._key)
            headers = cloud_event_headers("LedgerCheckpoint", source="governance")
            self._publisher.send(self._kafka.topics.audit_checkpoints, None, value, headers)
            self._publisher.flush()
            ledger.mark_published(head.size)
            log.debug("sealed %d records, root %s", head.size, head.root.hex())

    def _probe(self) -> None:
        """Is it still the same topic, and has it still what the ledger has?"""
        ledger = self._ledger
        if self._read_topic_id() != self._topic_id:
            raise LedgerMismatchError(f"{self._topic!r} was deleted and made anew while the ledger was being written")
        low, high = self._reader.watermarks()
        self._require_first(low)
        for _ in range(_SHRUNK_LOOKS):  # a new leader may be a moment behind
            if ledger.next_offset is None or high >= ledger.next_offset:
                return
            time.sleep(_RETRY_SECONDS)
            _, high = self._reader.watermarks()
        raise LedgerMismatchError(
            f"{self._topic!r} ends at offset {high}, the ledger has read up to {ledger.next_offset}: records are gone. "
            "Nothing more is signed."
        )

    def _require_first(self, low: int) -> None:
        _, first, _ = next(self._ledger.positions(), (0, low, b""))
        if low > first:
            raise LedgerMismatchError(
                f"{self._topic!r} begins at offset {low}, the ledger at offset {first}: records were removed "
                "from its beginning. Set its retention.ms and retention.bytes to -1. Nothing more is signed."
            )

    def _recheck(self, start: int) -> None:
        """Compare the leaves from ``start`` on with the topic."""
        ledger = self._ledger
        if not ledger.size:
            return
        self._require_first(self._reader.watermarks()[0])
        positions = ledger.positions(start)
        index, offset, hashed = next(positions)
        log.info("comparing records %d to %d with the topic", start, ledger.size - 1)
        for batch in self._reader.batches(offset):
            for record in batch:
                self._require_same(index, offset, hashed, record)
                following = next(positions, None)
                if following is None:
                    return
                index, offset, hashed = following
        raise LedgerMismatchError(
            f"{self._topic!r} has no record {index} (offset {offset}) any more, the ledger has "
            f"{ledger.size}: it was cut, or made anew with fewer records. Nothing more is signed."
        )

    def _require_same(self, index: int, offset: int, hashed: bytes, record: LogRecord) -> None:
        if record.offset != offset:
            raise LedgerMismatchError(
                f"{self._topic!r}: expected record {index} at offset {offset}, the next one there is at "
                f"{record.offset}. Nothing more is signed: run `driftline audit verify`."
            )
        if leaf_hash(record.value) != hashed:
            raise LedgerMismatchError(
                f"{self._topic!r}: record {index} at offset {offset} is not the one in the ledger. Nothing more is "
                "signed: run `driftline audit verify`."
            )

    def _read_topic_id(self) -> str:
        """Kafka's id of the topic: another one after the topic was deleted and made anew."""
        try:
            asked = self._admin.describe_topics(TopicCollection([self._topic]))
            return str(asked[self._topic].result(_ANSWER_SECONDS).topic_id)
        except (KafkaException, TimeoutError) as error:
            raise ClusterError(f"the topic {self._topic!r} cannot be described: {error}") from error


def _signing_key(ledger: Ledger, settings: GovernanceSettings) -> tuple[SigningKey, bool]:
    """The key this ledger is signed with; a ledger without a key gets a new one."""
    path, known = settings.key_file, ledger.fact("public_key")
    created = not path.exists()
    if created:
        if known is not None:
            raise KeyFileError(f"{path} is missing; this ledger is signed with {known}: put that key back")
        key = create_key(path, settings.origin)
        log.warning(
            "a new audit key was made: %s. Give its public half to everybody who is to verify: %s", path, key.verifier
        )
    else:
        key = load_key(path)
    if key.verifier.name != settings.origin:
        raise KeyFileError(f"{path} is the key of {key.verifier.name!r}, this ledger is {settings.origin!r}")
    if known is None:
        ledger.set_fact("public_key", str(key.verifier))
    elif known != str(key.verifier):
        raise KeyFileError(f"{path} holds {key.verifier}; this ledger is signed with {known}: put that key back")
    return key, created


def _say(trail: AuditTrail, action: str, ledger: Ledger, key: SigningKey) -> None:
    detail = {"public_key": str(key.verifier), "records": str(ledger.size)}
    trail.record(action, f"ledger:{key.verifier.name}", actor="governance", detail=detail)
