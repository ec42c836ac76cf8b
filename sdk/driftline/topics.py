"""Names of the topics, and how records find their partition."""

from __future__ import annotations

from dataclasses import dataclass

PARTITIONER = "murmur2_random"
"""librdkafka's name for the Java client's partitioner. Its default differs from aiokafka's and Java's: keyed records
would part company, and an outcome would not reach its prediction."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Topic names. ``prefix`` keeps several installations apart on one cluster."""

    prefix: str = ""

    def _named(self, name: str) -> str:
        return f"{self.prefix}{name}"

    @property
    def predictions(self) -> str:
        """``PredictionBatch`` and ``PredictionEvent``."""
        return self._named("predictions")

    @property
    def outcomes(self) -> str:
        """``OutcomeBatch`` and ``OutcomeEvent``."""
        return self._named("outcomes")

    @property
    def deployments(self) -> str:
        """``DeploymentSpec``, compacted."""
        return self._named("deployments")

    @property
    def baselines(self) -> str:
        """``Baseline``, compacted."""
        return self._named("baselines")

    @property
    def windows(self) -> str:
        """``WindowSummary``, ``PerformanceWindow``, ``HumilityWindow``."""
        return self._named("windows")

    @property
    def humility(self) -> str:
        """``HumilityState``, compacted."""
        return self._named("humility")

    @property
    def alerts(self) -> str:
        """``Alert``."""
        return self._named("alerts")

    @property
    def audit(self) -> str:
        """``AuditEvent``."""
        return self._named("audit")

    @property
    def audit_checkpoints(self) -> str:
        """``LedgerCheckpoint``."""
        return self._named("audit-checkpoints")

    @property
    def dead_letters(self) -> str:
        """``DeadLetter``."""
        return self._named("dead-letters")

    @property
    def streams_state(self) -> str:
        """``JournalRecord``, compacted."""
        return self._named("streams-state")

    @property
    def streams_order(self) -> str:
        """``OrderRecord``."""
        return self._named("streams-order")


def record_key(deployment_id: str, shard: int | None = None) -> bytes:
    """The Kafka key of a deployment's predictions and outcomes."""
    return (deployment_id if shard is None else f"{deployment_id}#{shard}").encode()


def baseline_key(deployment_id: str, model_version: str) -> bytes:
    """The Kafka key of a baseline."""
    return f"{deployment_id}@{model_version}".encode()


def humility_key(deployment_id: str, model_version: str, partition: int) -> bytes:
    """The Kafka key of a version's humility state on a partition."""
    return f"{deployment_id}@{model_version}#{partition}".encode()


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as Java's client and librdkafka's ``murmur2_random`` choose it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 with the seed of Kafka's ``org.apache.kafka.common.utils.Utils.murmur2``, as unsigned 32 bits."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    value = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * factor & mask
        value = (value * factor & mask) ^ ((word ^ word >> 24) * factor & mask)
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15
