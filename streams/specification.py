"""A deployment's specification, as the streams and services see it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from driftline.codec import Record, encode
from driftline.humility.rules import ALARM_MONITORS, HumilitySpec
from streams.errors import StreamsError

NUMERIC = "numeric"
CATEGORICAL = "categorical"
BOOLEAN = "boolean"
TEXT = "text"
EMBEDDING = "embedding"
KINDS = (NUMERIC, CATEGORICAL, BOOLEAN, TEXT, EMBEDDING)
"""What a feature's values are. A boolean is a categorical; texts and embeddings are watched through columns that are
derived from them."""

DATA_DRIFT = "data_drift"
PREDICTION_DRIFT = "prediction_drift"
DATA_QUALITY = "data_quality"
SERVICE = "service"
CONCEPT_DRIFT = "concept_drift"
LABELS = "labels"
FAIRNESS = "fairness"
HUMILITY = "humility"
MONITORS = ALARM_MONITORS
"""The detectors of a deployment. Each raises alarms of its own under its own part of the budget."""

DEFAULT_SEVERITIES = {
    DATA_DRIFT: "warning",
    PREDICTION_DRIFT: "error",
    DATA_QUALITY: "warning",
    SERVICE: "error",
    CONCEPT_DRIFT: "critical",
    LABELS: "warning",
    FAIRNESS: "error",
    HUMILITY: "error",
}

BINARY = "binary_classification"
MULTICLASS = "multiclass_classification"
REGRESSION = "regression"
OTHER_TASK = "other"
"""What a model does."""

OUTCOMES_KIND = "outcomes"
FEATURES_KIND = "features"
OPERATIONS_KIND = "operations"
DEFAULT_BUDGET_KINDS = {OUTCOMES_KIND: 0.5, FEATURES_KIND: 0.4, OPERATIONS_KIND: 0.1}
"""How a deployment's budget is shared by default: half for streams of scores and outcomes, four tenths for those of
the features, a tenth for humility and the running of the service."""

MONITOR_PARTS = {
    PREDICTION_DRIFT: (OUTCOMES_KIND, 0.3),
    CONCEPT_DRIFT: (OUTCOMES_KIND, 0.5),
    LABELS: (OUTCOMES_KIND, 0.1),
    FAIRNESS: (OUTCOMES_KIND, 0.1),
    DATA_DRIFT: (FEATURES_KIND, 0.75),
    DATA_QUALITY: (FEATURES_KIND, 0.25),
    SERVICE: (OPERATIONS_KIND, 0.5),
    HUMILITY: (OPERATIONS_KIND, 0.5),
}
"""Which part of which kind's budget a monitor works under. Where there are no humility rules, their part is not spent.
Where no outcomes are expected, predictions have all of their kind's; where no groups are compared, concept drift has
their part."""

RISK_WEIGHTS = {"high": 4, "medium": 2, "low": 1}
"""How much of the fleet's budget a deployment gets, relative to the others, by risk tier."""


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One watched feature: its name in the events, its kind (one of ``KINDS``), relative importance, own margin."""

    name: str
    kind: str
    importance: float = 1.0
    margin_tv: float | None = None


@dataclass(frozen=True, slots=True)
class FalseAlarmBudget:
    """At most ``count`` false alarms expected per ``per_ms`` of event time, for the whole ``scope``.

    ``share`` is this deployment's part of the promise, 0 to 1; ``kinds`` how that part is shared between kinds of
    streams where it is not as ``DEFAULT_BUDGET_KINDS`` says.
    """

    count: float = 1.0
    per_ms: int = 30 * 86_400_000
    scope: str = "fleet"
    share: float = 1.0
    kinds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """Parts of the traffic that are watched on their own, under their parent's budget.

    Attributes:
        name: Names the segmentation.
        column: The feature or segment attribute that tells the part.
        values: Its values that are watched; empty for the most frequent ones of the reference.
        most: At most so many values; the others together are one part.
        low: Where it is a rule on a number: the part with ``low <= value < high``.
        high: Its upper end; None for none.
    """

    name: str
    column: str
    values: tuple[str, ...] = ()
    most: int = 10
    low: float | None = None
    high: float | None = None

    @property
    def is_rule(self) -> bool:
        """Whether it is a range of a number, and no list of values."""
        return self.low is not None or self.high is not None


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector from the literature that follows one numeric stream, outside the false-alarm budget."""

    detector: str
    stream: str
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecisionValue:
    """What a row of a predicted and an actual class is worth; negative for a cost."""

    predicted: str
    actual: str
    value: float


@dataclass(frozen=True, slots=True)
class OutcomeSpec:
    """What is expected of outcomes, and what is computed from them. Field by field the record of the contract.

    Attributes:
        horizon_ms: An outcome counts if it became known at most this long after its prediction.
        window_ms: Length of the accuracy windows, by event time of the predictions.
        lateness_ms: How long after it became known an outcome may take to be published; None: a tenth of the horizon.
        classes: The classes there are; empty: those of the reference. An outcome of another class is refused.
        threshold: Binary without predicted classes: the positive class is predicted from this score on.
        values: What decisions are worth; pairs of classes not given are worth nothing.
        quantile: Regression: the prediction is this quantile; None: a mean or median.
        interval_coverage: Regression: what the model's own intervals promise to cover.
        margin_tv: Changes of losses, calibration and outcomes smaller than this are of no interest.
        fairness: Segmentations whose parts are compared as groups of people.
    """

    horizon_ms: int
    window_ms: int = 86_400_000
    lateness_ms: int | None = None
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    values: tuple[DecisionValue, ...] = ()
    quantile: float | None = None
    interval_coverage: float = 0.9
    margin_tv: float = 0.02
    fairness: tuple[str, ...] = ()

    @property
    def final_after_ms(self) -> int:
        """How long after a window's end its numbers are final: horizon and lateness."""
        return self.horizon_ms + (self.horizon_ms // 10 if self.lateness_ms is None else self.lateness_ms)


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
    risk: str = "medium"
    importance_source: str = "given"
    quality_margin_tv: float = 0.005
    disabled_monitors: tuple[str, ...] = ()
    segments: tuple[SegmentSpec, ...] = ()
    detectors: tuple[DetectorSpec, ...] = ()
    outcomes: OutcomeSpec | None = None
    challengers: tuple[str, ...] = ()
    humility: HumilitySpec | None = None

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
                "disabled_monitors": tuple(record["disabled_monitors"]),
                "segments": tuple(
                    SegmentSpec(**{**segment, "values": tuple(segment["values"])}) for segment in record["segments"]
                ),
                "detectors": tuple(DetectorSpec(**detector) for detector in record["detectors"]),
                "outcomes": None if record["outcomes"] is None else _outcomes(record["outcomes"]),
                "challengers": tuple(record["challengers"]),
                "humility": None if record["humility"] is None else HumilitySpec.from_record(record["humility"]),
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
        if self.outcomes is not None:
            positive |= {"outcomes.horizon_ms": self.outcomes.horizon_ms, "outcomes.window_ms": self.outcomes.window_ms}
        never_negative: dict[str, float] = {"lateness_ms": self.lateness_ms, "clock_skew_ms": self.clock_skew_ms}
        never_negative |= {f"importance of feature {f.name!r}": f.importance for f in self.features}
        never_negative |= {
            f"margin of feature {f.name!r}": f.margin_tv for f in self.features if f.margin_tv is not None
        }
        never_negative |= {f"false_alarms.kinds of {kind!r}": part for kind, part in budget.kinds.items()}
        never_negative |= {"quality_margin_tv": self.quality_margin_tv, "margin_tv": self.margin_tv}
        for each in () if self.outcomes is None else self.outcomes.values:
            if not math.isfinite(each.value):
                what = f"outcomes.values of predicted {each.predicted!r} and actual {each.actual!r}"
                raise StreamsError(
                    f"deployment {self.deployment_id!r}: {what} must be a finite number, is {each.value}"
                )
        for name, value in positive.items():
            if not (value > 0 and math.isfinite(value)):
                raise StreamsError(f"deployment {self.deployment_id!r}: {name} must be a positive number, is {value}")
        for name, value in never_negative.items():
            if not (value >= 0 and math.isfinite(value)):
                raise StreamsError(f"deployment {self.deployment_id!r}: {name} must not be negative, is {value}")
        if budget.share > 1:
            raise StreamsError(f"deployment {self.deployment_id!r}: false_alarms.share must be at most 1")
        if sum({**DEFAULT_BUDGET_KINDS, **budget.kinds}.values()) > 1 + 1e-9:
            raise StreamsError(f"deployment {self.deployment_id!r}: false_alarms.kinds must add up to at most 1")

    def digest(self) -> str:
        """SHA-256 of the encoded record, hexadecimal."""
        return hashlib.sha256(encode("DeploymentSpec", self.to_record())).hexdigest()

    def monitor_share(self, monitor: str) -> float:
        """The part of the whole promise that one of this deployment's monitors works under."""
        kind, part = MONITOR_PARTS[monitor]
        if monitor == HUMILITY and self.humility is None:
            return 0.0
        if kind == OUTCOMES_KIND and self.outcomes is None:
            part = 1.0 if monitor == PREDICTION_DRIFT else 0.0
        elif kind == OUTCOMES_KIND and self.outcomes is not None and not self.outcomes.fairness:
            spare = MONITOR_PARTS[FAIRNESS][1]
            part += {CONCEPT_DRIFT: spare, FAIRNESS: -spare}.get(monitor, 0.0)
        budget = self.false_alarms
        return budget.share * budget.kinds.get(kind, DEFAULT_BUDGET_KINDS[kind]) * part

    def severity(self, monitor: str) -> str:
        """The severity of a monitor's alerts."""
        return self.severities.get(monitor, DEFAULT_SEVERITIES[monitor])


def _outcomes(record: Record) -> OutcomeSpec:
    lists = {"classes": tuple(record["classes"]), "fairness": tuple(record["fairness"])}
    return OutcomeSpec(**{**record, **lists, "values": tuple(DecisionValue(**value) for value in record["values"])})
