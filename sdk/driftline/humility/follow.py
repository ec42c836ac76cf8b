"""The background thread that follows a deployment's humility rules, so that deciding needs no network."""

from __future__ import annotations

import importlib
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from driftline import codec
from driftline.errors import CodecError, RegistryError
from driftline.forking import HANDLES
from driftline.humility import cache
from driftline.humility.known import BASELINE, SPECIFICATION, STATE, Known, Records, Standing, names_of, records_of
from driftline.producer import QuietLog, leak
from driftline.settings import KafkaSettings
from driftline.topics import partition_of, record_key

log = logging.getLogger("driftline")

KAFKA, CACHE, NOWHERE = "kafka", "cache", ""
"""Where what is known comes from."""

_POLL_SECONDS = 0.2
_POLL_MESSAGES = 500
_LOOK_SECONDS = 10.0  # between two looks at the topics while all is well; they also show that Kafka is there
_RETRY_SECONDS = 1.0
_ANSWER_SECONDS = 1.0
_KEEP_SECONDS = 5.0  # between two writes of the file
_MOST_FETCHED_KBYTES = 16_384
_AWAY, _FAILED, _UNKEPT = "away", "failed", "unkept"
_RESTART = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


@dataclass(frozen=True, slots=True)
class HumilityStatus:
    """What a client knows of the humility rules, and how well it follows them.

    Attributes:
        following: Kafka answers, and everything in it has been read: changes arrive within seconds.
        source: Where the rules come from: ``kafka``, ``cache`` (the file of an earlier process or time) or empty.
        revision: Revision of the specification; 0 where none is known.
        policy: Digest of what the client's version is decided by; empty where nothing is.
        age_seconds: Since when Kafka may have had other rules; None where none are known.
        rules: Names of the rules, in order.
        unarmed: A sentence for each rule, or part of one, that cannot fire, with the reason.
        quantiles: Where the adaptive quantile of each group stands.
        alarms: Monitors in alarm.
        undecided: Calls for predictions that were answered as they were, because there were no rules.
        failed: The same because of an error.
        trouble: What went wrong last; empty while nothing does.
    """

    following: bool
    source: str
    revision: int
    policy: str
    age_seconds: float | None
    rules: tuple[str, ...] = ()
    unarmed: tuple[str, ...] = ()
    quantiles: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    undecided: int = 0
    failed: int = 0
    trouble: str = ""


class Follower:
    """Keeps what is known of one deployment's humility rules as it stands in Kafka.

    1. Starting reads the file of an earlier process, so that deciding works before, and without, Kafka.
    2. The thread reads the compacted topics of deployments, baselines and humility from the beginning, outside any
       group, committed records only. Keys tell the deployment's own from the others.
    3. Once the end of every partition was reached, the records are compiled, and replace what was known in one go; so
       again after every change. Half of a topic is never decided by.
    4. What is known then goes to the file.

    While Kafka is away, or a topic of rules is missing, what was known stays. All partitions are read: which of them
    has a record depends on its key, and both topics of rules have one partition unless somebody wants it otherwise.

    Attributes:
        known: What is known now; replaced whole, so that any thread may read it at any time.
        started: Whether the thread was started.
    """

    def __init__(
        self,
        deployment_id: str,
        shard: int | None,
        settings: KafkaSettings,
        registry: codec.SchemaRegistry | None,
        file: Path,
    ) -> None:
        self.known = Known()
        self.started = False
        self._deployment_id = deployment_id
        self._shard = shard
        self._settings = settings
        self._registry = registry
        self._file = file
        topics = settings.topics
        self._names = {topics.deployments: SPECIFICATION, topics.baselines: BASELINE, topics.humility: STATE}
        self._rules_topics = (topics.deployments, topics.baselines)
        self._records = Records(deployment_id)
        self._source = NOWHERE
        self._current_us = 0
        self._troubles: dict[str, str] = {}
        self._failures = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._read_all = threading.Event()
        self._reachable = False
        self._thread: threading.Thread | None = None
        self._consumer: Any = None
        self._forget_position()
        self._kept_at = -math.inf
        self._unkept = False

    def _forget_position(self) -> None:
        self._next_offsets: dict[tuple[str, int], int] = {}
        self._unfinished: set[tuple[str, int]] | None = None
        """Partitions whose end has not been reached; None before the topics were looked at."""
        self._undecoded: dict[tuple[str, str], bytes] = {}
        self._own_partition: int | None = None
        self._changed = True
        self._look_at = 0.0

    # Callers

    def start(self) -> None:
        """Read the file and start the thread; without effect if it was started."""
        with self._lock:
            if self.started or self._stop.is_set():
                return
            self._recall()
            self._thread = threading.Thread(target=self._run, name="driftline-humility", daemon=True)
            _RUNNING.add(self)
            self._thread.start()
            self.started = True

    def wait(self, timeout_seconds: float | None) -> bool:
        """Wait until everything in Kafka has been read; False if it has not been in time."""
        return self._read_all.wait(timeout_seconds)

    def status(self, version: str, *, undecided: int, failed: int) -> HumilityStatus:
        """See :class:`HumilityStatus`."""
        known = self.known
        found = known.of(version)
        heard = HumilityStatus(
            following=self._reachable and self._complete() and not self._stop.is_set(),
            source=self._source,
            revision=known.revision,
            policy="",
            age_seconds=None if self._source == NOWHERE else max(0.0, time.time() - self._current_us / 1e6),
            undecided=undecided,
            failed=failed,
            trouble="; ".join(filter(None, [*self._troubles.values(), self._records.trouble])),
        )
        return heard if found is None else _with_rules(heard, found)

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stop.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end; False if it has not."""
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def forked(self, registry: codec.SchemaRegistry | None) -> Follower:
        """In a forked child: one of its own that knows what the parent knew, and has not started."""
        child = Follower(self._deployment_id, self._shard, self._settings, registry, self._file)
        child.known, child._source, child._current_us = self.known, self._source, self._current_us
        return child

    def abandon(self) -> None:
        """In a forked child: keep away from what belongs to the parent's thread."""
        if self._consumer is not None:
            leak(self._consumer)

    # The thread

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:  # the thread must outlive whatever a record or the cluster does to it
                self._fail(error)
                self._stop.wait(_RETRY_SECONDS)
        if self._complete() and not self._changed:
            self._keep()
        _RUNNING.discard(self)

    def _follow(self) -> None:
        """Read the topics from their beginning, and then whatever comes."""
        self._records.clear()
        self._forget_position()
        with HANDLES:
            # list_topics imports it: a child that is forked meanwhile would wait for that import for ever
            importlib.import_module("confluent_kafka.admin")
            self._consumer = self._new_consumer()
        try:
            while not self._stop.is_set():
                if time.monotonic() >= self._look_at:
                    self._look_at_topics()
                for message in self._consumer.consume(_POLL_MESSAGES, _POLL_SECONDS):
                    self._take(message)
                self._learn()
        finally:
            self._reachable = False
            with HANDLES:
                consumer, self._consumer = self._consumer, None
                consumer.close()
                del consumer

    def _new_consumer(self) -> Any:
        return Consumer(
            {
                "client.id": "driftline",
                **self._settings.client(
                    group_id=f"{self._settings.application_id}-reader",  # librdkafka wants one; it is never joined
                    enable_auto_commit=False,
                    auto_offset_reset="error",
                    isolation_level="read_committed",
                    enable_partition_eof=True,
                    queued_max_messages_kbytes=_MOST_FETCHED_KBYTES,
                    reconnect_backoff_max_ms=1000,
                ),
                "error_cb": self._hear,
                "logger": QuietLog(),
            }
        )

    def _hear(self, error: KafkaError) -> None:
        """A note only: librdkafka allows nothing else here."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._lose(error.str())

    def _lose(self, why: str) -> None:
        """Kafka does not answer: look again soon."""
        self._reachable = False
        self._look_at = min(self._look_at, time.monotonic() + _RETRY_SECONDS)
        self._warn(_AWAY, f"the humility rules are not followed, what is known of them stays: {why}")

    def _look_at_topics(self) -> None:
        """Find partitions that are to be read; an answer also shows that Kafka is there."""
        try:
            found = {(topic, number) for topic in self._names for number in self._partitions(topic)}
            predictions = [] if self._shard is None else self._partitions(self._settings.topics.predictions)
        except KafkaException as error:
            if not self._stop.is_set():
                self._look_at = math.inf
                self._lose(str(error))
            return
        gone = [topic for topic in self._rules_topics if not any(topic == place[0] for place in found)]
        if gone and self.known.revision:  # a broker that has just started knows of no topics: rules do not end so
            self._look_at = math.inf
            self._lose(f"there is no topic {' and no topic '.join(map(repr, gone))}")
            return
        self._well(_AWAY)
        self._well(_FAILED)
        self._reachable = True
        self._look_at = time.monotonic() + (_RETRY_SECONDS if self._undecoded else _LOOK_SECONDS)
        own = partition_of(record_key(self._deployment_id, self._shard), len(predictions)) if predictions else None
        self._changed |= own != self._own_partition
        self._own_partition = own
        if self._unfinished is None or found != self._next_offsets.keys():
            self._next_offsets = {place: self._next_offsets.get(place, OFFSET_BEGINNING) for place in found}
            self._unfinished = set(found)
            self._consumer.assign([TopicPartition(*place, offset) for place, offset in self._next_offsets.items()])
        self._decode_late()
        if self._complete() and not self._changed:
            self._current_us = time.time_ns() // 1000

    def _partitions(self, topic: str) -> list[int]:
        """The partitions of a topic; none where it does not exist.

        Raises:
            KafkaException: Kafka does not answer, or does not tell, or nobody wants to know any more.
        """
        if self._stop.is_set():
            raise KafkaException(KafkaError(KafkaError._DESTROY))  # each question may take a second
        metadata = self._consumer.list_topics(topic, _ANSWER_SECONDS).topics[topic]
        if metadata.error is not None and metadata.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(metadata.error)
        return sorted(metadata.partitions)

    def _take(self, message: Any) -> None:
        error, place = message.error(), (message.topic(), message.partition())
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and self._unfinished is not None:
                self._unfinished.discard(place)
            elif error.code() in _RESTART or error.fatal():
                raise KafkaException(error)
            return
        if place not in self._next_offsets:  # of an assignment before
            return
        self._next_offsets[place] = message.offset() + 1
        key = (message.key() or b"").decode("utf-8", "replace")
        name = self._names[place[0]]
        if key == self._deployment_id if name == SPECIFICATION else key.startswith(f"{self._deployment_id}@"):
            self._undecoded.pop((name, key), None)
            self._put(name, key, message.value())

    def _put(self, name: str, key: str, value: bytes | None) -> None:
        self._changed = True
        if value is None:
            self._records.drop(name, key)
            return
        try:
            came, record = codec.decode(value, registry=self._registry)
        except RegistryError as error:
            self._undecoded[name, key] = value
            self._look_at = min(self._look_at, time.monotonic() + _RETRY_SECONDS)
            self._warn(f"{name} {key}", f"the {name} {key!r} waits for the schema registry: {error}")
            return
        except CodecError as error:
            self._warn(f"{name} {key}", f"the {name} {key!r} cannot be read, the one before it stays: {error}")
            return
        self._well(f"{name} {key}")
        if came == name:
            self._records.put(name, record)

    def _decode_late(self) -> None:
        """Try again what waits for the schema registry."""
        waiting, self._undecoded = self._undecoded, {}
        for (name, key), value in waiting.items():
            self._put(name, key, value)

    def _complete(self) -> bool:
        return self._unfinished is not None and not self._unfinished and not self._undecoded

    def _learn(self) -> None:
        """Replace what is known, once everything has been read."""
        if self._complete() and self._changed:
            before, self.known = self.known, self._records.known(self._own_partition)
            self._source, self._current_us = KAFKA, time.time_ns() // 1000
            self._changed, self._unkept = False, True
            if self.known.revision != before.revision:
                log.info("humility: revision %d of %r", self.known.revision, self._deployment_id)
            self._read_all.set()
        if self._unkept and time.monotonic() - self._kept_at >= _KEEP_SECONDS:
            self._keep()

    def _fail(self, error: Exception) -> None:
        self._reachable = False
        self._failures += 1
        self._troubles = {**self._troubles, _FAILED: f"the humility rules are not followed: {error!r}"}
        if str(self._failures).strip("0") == "1":
            log.warning("%s (%d times so far); what is known of them stays", self._troubles[_FAILED], self._failures)

    def _warn(self, kind: str, message: str) -> None:
        """Note a trouble; each kind is logged once until it is over."""
        log.log(logging.DEBUG if kind in self._troubles else logging.WARNING, "%s", message)
        self._troubles = {**self._troubles, kind: message}

    def _well(self, kind: str) -> None:
        """A kind of trouble is over."""
        if kind in self._troubles:
            self._troubles = {of: message for of, message in self._troubles.items() if of != kind}

    # The file

    def _recall(self) -> None:
        """Know what an earlier process knew, unless more is known already."""
        if self._source != NOWHERE:
            return
        try:
            kept = cache.read(self._file)
            if kept is not None:
                self._records = records_of(kept.records, self._deployment_id)
                self.known = self._records.known(None)
                self._source, self._current_us = CACHE, kept.current_us
        except Exception as error:
            self._fail(error)

    def _keep(self) -> None:
        self._kept_at, self._unkept = time.monotonic(), False
        try:
            cache.write(self._file, cache.Kept(self._current_us, list(self._records.encoded())))
        except OSError as error:
            self._warn(_UNKEPT, f"the humility rules are not kept for a time without Kafka: {error}")
        else:
            self._well(_UNKEPT)


def _with_rules(status: HumilityStatus, found: Standing) -> HumilityStatus:
    return replace(
        status,
        policy=found.policy.digest,
        rules=tuple(rule.name for rule in found.policy.rules),
        unarmed=found.policy.unarmed,
        quantiles=dict(found.quantiles),
        alarms=names_of(found.alarms),
    )


_RUNNING: set[Follower] = set()


def stop_all() -> None:
    """Tell every follower of this process to end."""
    for follower in list(_RUNNING):
        follower.stop()


def join_all(timeout_seconds: float) -> None:
    """Wait for every follower of this process, all within the same time."""
    deadline = time.monotonic() + timeout_seconds
    for follower in list(_RUNNING):
        follower.join(max(0.0, deadline - time.monotonic()))


def abandon_all() -> None:
    """In a forked child: keep away from everything that belongs to the parent's threads."""
    for follower in list(_RUNNING):
        follower.abandon()
    _RUNNING.clear()
