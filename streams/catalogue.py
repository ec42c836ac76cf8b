"""Specifications and baselines as they stand on their compacted topics.

Workers follow the two topics with a plain consumer, outside any group: everybody needs all of them. The catalogue is
read to its end before a partition opens, and again before a deployment is called unknown.
"""

from __future__ import annotations

import logging
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftline.codec import SchemaRegistry, decode
from driftline.errors import RegistryError
from driftline.settings import KafkaSettings
from streams.baseline import Baseline
from streams.clients import MOVING, MOVING_SECONDS, offset_range, plain_consumer
from streams.errors import StreamsError
from streams.humility.judge import check_rules
from streams.specification import DeploymentSpec

READ_TIMEOUT_SECONDS = 30.0

OPEN_TRANSACTION_SECONDS = 2.0
"""A commit that its publisher was told of can be read some milliseconds later; so long it is waited for."""

logger = logging.getLogger("driftline.streams.catalogue")


class Catalogue:
    """Not thread-safe: one executor thread calls it.

    Args:
        settings: How to reach Kafka.
        registry: For records in the Confluent wire format.
    """

    def __init__(self, settings: KafkaSettings, registry: SchemaRegistry | None = None) -> None:
        self._topics = settings.topics
        self._registry = registry
        self._settings = settings
        self._consumer: Consumer | None = None
        self._ends: Consumer | None = None
        self._next: dict[tuple[str, int], int] = {}
        self._end_seen: dict[tuple[str, int], int] = {}
        self.specs: dict[str, DeploymentSpec] = {}
        self.baselines: dict[tuple[str, str], Baseline] = {}
        self.deployments: set[str] = set()
        self.changes = 0

    def refresh(self) -> None:
        """Read both topics to their present end; ``changes`` counts what was new.

        ``deployments`` then has everything with a record on its topic, also one that cannot be used.

        Raises:
            StreamsError: Kafka does not answer, or a topic does not exist.
            RegistryError: The schema registry does not answer.
        """
        deadline = time.monotonic() + MOVING_SECONDS
        while True:
            try:
                return self._read(*self._open())
            except Exception as error:
                # what was fetched and not taken would be missing: the next reading begins anew
                self._consumer, self._next, self._end_seen = None, {}, {}
                if not isinstance(error, KafkaException):
                    raise
                if error.args[0].code() not in MOVING or time.monotonic() > deadline:
                    raise StreamsError(f"the deployments and baselines topics cannot be read: {error}") from error
            time.sleep(0.1)

    def _open(self) -> tuple[Consumer, Consumer]:
        if self._consumer is None or self._ends is None:
            consumer = plain_consumer(self._settings, "catalogue")
            for topic in (self._topics.deployments, self._topics.baselines):
                found = consumer.list_topics(topic, timeout=READ_TIMEOUT_SECONDS).topics[topic]
                if found.error is not None:
                    raise StreamsError(
                        f"topic {topic!r}: {found.error.str()}: create it with 'driftline topics create'"
                    )
                self._next |= {(topic, partition): 0 for partition in found.partitions}
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for topic, p in self._next])
            self._consumer = consumer
            # on the reader's own connection the question would wait behind a fetch that waits for news
            self._ends = plain_consumer(self._settings, "catalogue", isolation_level="read_uncommitted")
        return self._consumer, self._ends

    def _read(self, consumer: Consumer, ends: Consumer) -> None:
        known = {at: offset_range(ends, *at, READ_TIMEOUT_SECONDS).stop for at in self._next}
        started = time.monotonic()
        deadline = started + READ_TIMEOUT_SECONDS
        while behind := {at for at, end in known.items() if self._next[at] < end}:
            if (
                all(self._end_seen.get(at) == self._next[at] for at in behind)
                and time.monotonic() - started > OPEN_TRANSACTION_SECONDS
            ):
                return  # what somebody has not committed is not published
            for message in consumer.consume(1000, timeout=0.02):
                at, offset = (str(message.topic()), int(message.partition() or 0)), int(message.offset() or 0)
                error = message.error()
                if error is None:
                    self._take(message)
                    self._next[at] = offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._next[at] = offset  # also past markers of transactions and what compaction removed
                    self._end_seen[at] = offset
                else:
                    raise KafkaException(error)
                deadline = time.monotonic() + READ_TIMEOUT_SECONDS
            if time.monotonic() > deadline:
                raise StreamsError(f"no answer for {READ_TIMEOUT_SECONDS:.0f} s while reading specifications")

    def _take(self, message: Message) -> None:
        where = f"{message.topic()}/{message.partition()}/{message.offset()}"
        key = (message.key() or b"").decode("utf-8", "replace")
        self.changes += 1
        if message.value() is None:
            self.specs.pop(key, None)
            self.deployments.discard(key)
            deployment_id, _, version = key.partition("@")
            self.baselines.pop((deployment_id, version), None)
            return
        if message.topic() == self._topics.deployments:
            self.deployments.add(key)
        try:
            name, record = decode(message.value(), registry=self._registry)
            if message.topic() == self._topics.deployments and name == "DeploymentSpec":
                spec = DeploymentSpec.from_record(record)
                spec.check()
                check_rules(spec)
                self.specs[spec.deployment_id] = spec
            elif message.topic() == self._topics.baselines and name == "Baseline":
                baseline = Baseline.from_record(record)
                baseline.check()
                self.baselines[baseline.deployment_id, baseline.model_version] = baseline
            else:
                raise StreamsError(f"{name} does not belong on this topic")
        except RegistryError:
            raise
        except Exception as error:
            # whatever a record may hold: the one before stays in force, a bad one must not stop what works
            logger.error("%s: not used: %s", where, error)
