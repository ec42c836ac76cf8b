"""What serving applications were told last: the compacted topic ``humility``."""

from __future__ import annotations

from dataclasses import dataclass

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.kafka import latest_by_key

RECORD_NAME = "HumilityState"


@dataclass(frozen=True, slots=True)
class GroupQuantile:
    """Where the tracker of a group stands.

    Attributes:
        segment: ``SEGMENTATION=VALUE``; empty for rows of all parts that have none of their own.
        quantile: Scores up to it are covered.
        known: Outcomes so far.
        missed: Of these, not covered.
    """

    segment: str
    quantile: float
    known: int
    missed: int

    @property
    def coverage(self) -> float | None:
        """Share of outcomes that were covered."""
        return 1 - self.missed / self.known if self.known else None


@dataclass(frozen=True, slots=True)
class Standing:
    """What one partition knows of a version at this moment.

    Attributes:
        model_version: The version.
        partition: The partition of the predictions topic.
        clock_us: Event time of the deployment, microseconds since 1970 UTC.
        policy: Digest of the rules and the fit in force.
        alarms: Monitors in alarm.
        quantiles: By group.
    """

    model_version: str
    partition: int
    clock_us: int
    policy: str
    alarms: tuple[str, ...]
    quantiles: tuple[GroupQuantile, ...]


def standings(settings: KafkaSettings, deployment_id: str) -> list[Standing]:
    """What is on the topic of a deployment, by version and partition. Records that cannot be read are left out.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    found = []
    for key, message in latest_by_key(settings, settings.topics.humility).items():
        if not key.startswith(f"{deployment_id}@".encode()):
            continue
        try:
            name, record = decode(message.value())
        except CodecError:
            continue  # not ours to judge here
        if name == RECORD_NAME and record["deployment_id"] == deployment_id:
            found.append(_standing(record))
    return sorted(found, key=lambda each: (each.model_version, each.partition))


def _standing(record: Record) -> Standing:
    return Standing(
        model_version=record["model_version"],
        partition=record["partition"],
        clock_us=record["clock_us"],
        policy=record["policy"],
        alarms=tuple(record["alarms"]),
        quantiles=tuple(GroupQuantile(**each) for each in record["quantiles"]),
    )
