"""A deployment's specification, as the streams and services see it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from driftline.codec import Record, encode
from streams.errors import StreamsError

NUMERIC = "numeric"
CATEGORICAL = "categorical"

DATA_DRIFT = "data_drift"
PREDICTION_DRIFT = "prediction_drift"
MONITORS = (DATA_DRIFT, PREDICTION_DRIFT)
"""The detectors of a deployment. Each raises alarms of its own under its own part of the budget."""

DEFAULT_SEVERITIES = {DATA_DRIFT: "warning", PREDICTION_DRIFT: "error"}


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One watched feature: its name in the events, its kind (numeric or categorical) and relative importance."""

    name: str
    kind: str
    importance: float = 1.0


@dataclass(frozen=True, slots=True)
class FalseAlarmBudget:
    """At most ``count`` false alarms expected per ``per_ms`` of event time, for the whole ``scope``.

    ``share`` is this deployment's part of the promise, 0 to 1.
    """

    count: float = 1.0
    per_ms: int = 30 * 86_400_000
    scope: str = "fleet"
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What is watched, and how. Field by field the record ``DeploymentSpec`` of the contract."""

    deployment_id: str
    model_id: str
    task: str
    features: tuple[FeatureSpec, ...]
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    positive_class: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    shards: int = 1
    window_ms: int = 3_600_000
    lateness_ms: int = 600_000
    start_slot_ms: int = 3_600_000
    margin_tv: float = 0.05
    earliest_event_time_us: int = 946_684_800_000_000
    clock_skew_ms: int = 3_600_000
    false_alarms: FalseAlarmBudget = FalseAlarmBudget()
    severities: Mapping[str, str] = field(default_factory=dict)
    runbook_url: str | None = None
    revision: int = 1

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Record) -> DeploymentSpec:
        """Read the fields of the Avro record."""
        return cls(
            **{
                **record,
                "features": tuple(FeatureSpec(**feature) for feature in record["features"]),
                "false_alarms": FalseAlarmBudget(**record["false_alarms"]),
            }
        )

    def check(self) -> None:
        """Refuse what no stream could follow; the edges check more, and say it with line and column.

        Raises:
            StreamsError: Names the field.
        """
        budget = self.false_alarms
        positive: dict[str, float] = {
            "shards": self.shards,
            "window_ms": self.window_ms,
            "start_slot_ms": self.start_slot_ms,
            "false_alarms.count": budget.count,
            "false_alarms.per_ms": budget.per_ms,
            "false_alarms.share": budget.share,
        }
        never_negative: dict[str, float] = {"lateness_ms": self.lateness_ms, "clock_skew_ms": self.clock_skew_ms}
        never_negative |= {f"importance of feature {f.name!r}": f.importance for f in self.features}
        for name, value in positive.items():
            if not (value > 0 and math.isfinite(value)):
                raise StreamsError(f"deployment {self.deployment_id!r}: {name} must be a positive number, is {value}")
        for name, value in never_negative.items():
            if not (value >= 0 and math.isfinite(value)):
                raise StreamsError(f"deployment {self.deployment_id!r}: {name} must not be negative, is {value}")
        if budget.share > 1:
            raise StreamsError(f"deployment {self.deployment_id!r}: false_alarms.share must be at most 1")

    def digest(self) -> str:
        """SHA-256 of the encoded record, hexadecimal."""
        return hashlib.sha256(encode("DeploymentSpec", self.to_record())).hexdigest()

    def severity(self, monitor: str) -> str:
        """The severity of a monitor's alerts."""
        return self.severities.get(monitor, DEFAULT_SEVERITIES[monitor])
