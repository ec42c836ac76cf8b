"""The specification a person writes in YAML, checked whole, and what the streams make of it.

Example::

    deployment: delays
    model: delay-classifier
    task: binary_classification
    positive_class: late
    owner: operations
    features:
      distance_km: numeric
      carrier: {kind: categorical, importance: 2, column: CARRIER}
    columns:
      prediction_id: id
      timestamp: scheduled
      timezone: Europe/Berlin
      class_probabilities: {late: p_late}
    window: 1h
    lateness: 10m
    risk: high
    false_alarms: {count: 1, per: 30d, scope: fleet, kinds: {outcomes: 0.6, features: 0.3}}
    segments: {by_carrier: {column: carrier, most: 5}, long_haul: {column: distance_km, from: 3000}}
    monitors: {data_quality: off}
    detectors: {prediction: adwin}
    outcomes: {horizon: 30d, window: 1d, classes: [on_time, late], fairness: [by_carrier]}
    challengers: [2026-04]
    humility:
      rules: [{name: unsure, when: {uncertain_prediction: {score: {low: 0.4, high: 0.6}}}, action: record}]
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from services.deployments.durations import duration_text
from services.deployments.fields import (
    DAY_MS,
    HOUR_MS,
    MAX_NAME,
    MINUTE_MS,
    Column,
    Label,
    Margin,
    Moment,
    Monitor,
    Name,
    Part,
    Runbook,
    Section,
    Segmentation,
    Switch,
    Version,
    Zone,
    duration_from,
)
from services.deployments.humility import Humility, humility_document
from services.deployments.outcomes import Outcomes, outcomes_document
from services.event_time import rfc3339
from streams.specification import (
    MONITORS,
    DeploymentSpec,
    DetectorSpec,
    FalseAlarmBudget,
    FeatureSpec,
    SegmentSpec,
)

Kind = Literal["numeric", "categorical", "boolean", "text", "embedding"]
Severity = Literal["critical", "error", "warning", "info"]
BudgetKind = Literal["outcomes", "features", "operations"]
DetectorName = Literal["adwin", "page_hinkley", "kswin", "ddm", "eddm", "hddm_a", "hddm_w"]
TimestampFormat = Literal["rfc3339", "epoch_s", "epoch_ms", "epoch_us"]

_DEFAULTS = DeploymentSpec("-", "-", "other", ())
_DEFAULT_MOST = SegmentSpec("-", "-").most
MOST_PARTS = 100
"""Parts of one segmentation that are watched on their own; each has streams and memory of its own."""

MOST_CHALLENGERS = 100
"""Versions that are named as challengers."""


_CLASS_PREFIX, _SEGMENT_PREFIX, _FEATURE_PREFIX = "probability:", "segment:", "feature:"


class Feature(Section):
    """A watched feature. ``column`` is its name in files, where that differs; ``margin`` its own, where it has one."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    kind: Kind
    importance: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    margin: Margin | None = None
    column: Column | None = None


class Columns(Section):
    """Which column of a file holds what. A field left out is looked for under its own name."""

    prediction_id: Column | None = None
    timestamp: Column | None = None
    timestamp_format: TimestampFormat | None = None
    timezone: Zone | None = None
    model_version: Column | None = None
    prediction: Column | None = None
    prediction_label: Column | None = None
    class_probabilities: dict[Label, Column] = Field(default_factory=dict)
    segments: dict[Annotated[str, Field(min_length=1, max_length=MAX_NAME)], Column] = Field(default_factory=dict)
    latency_ms: Column | None = None
    error: Column | None = None
    prediction_low: Column | None = None
    prediction_high: Column | None = None
    actual_value: Column | None = None
    actual_label: Column | None = None
    actual_timestamp: Column | None = None
    was_acted_on: Column | None = None
    labelling_probability: Column | None = None


class FalseAlarms(Section):
    """At most ``count`` false alarms expected in ``per`` of event time, for the fleet or for this deployment alone.

    ``kinds`` says how a deployment's part is shared between streams of outcomes and scores, of features, and of
    operations; those not given keep their default.
    """

    count: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    per: Annotated[int, duration_from(HOUR_MS, 3650 * DAY_MS)] = _DEFAULTS.false_alarms.per_ms
    scope: Literal["fleet", "deployment"] = "fleet"
    kinds: dict[BudgetKind, Part] = Field(default_factory=dict)


class Segment(Section):
    """Parts of the traffic that are watched on their own.

    Either values of a column (``values``, or the ``most`` frequent of the reference), or a rule on a numeric feature:
    ``from`` (inclusive) and ``below`` (exclusive).
    """

    column: Column
    values: Annotated[list[Label], Field(max_length=MOST_PARTS)] = Field(default_factory=list)
    most: Annotated[int, Field(ge=1, le=MOST_PARTS)] | None = None
    low: Annotated[float | None, Field(alias="from")] = None
    below: float | None = None

    @property
    def is_rule(self) -> bool:
        """Whether it is a range of a number, and no list of values."""
        return self.low is not None or self.below is not None

    def to_spec(self, name: str) -> SegmentSpec:
        """What the streams see. A list of values is watched whole."""
        most = len(self.values) if self.values else _DEFAULT_MOST if self.most is None else self.most
        return SegmentSpec(
            name,
            self.column,
            tuple(self.values),
            most,
            None if self.low is None else float(self.low),
            None if self.below is None else float(self.below),
        )


class Detector(Section):
    """A detector from the literature that follows a stream besides, outside the false-alarm budget."""

    detector: DetectorName
    stream: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    parameters: dict[str, float] = Field(default_factory=dict)

    def to_spec(self) -> DetectorSpec:
        """What the streams see."""
        return DetectorSpec(self.detector, self.stream, {name: float(value) for name, value in self.parameters.items()})


class Specification(Section):
    """The whole file."""

    deployment: Name
    model: Name
    task: Literal["binary_classification", "multiclass_classification", "regression", "other"]
    features: list[Feature]
    description: str = ""
    owner: str = ""
    tags: dict[str, Label] = Field(default_factory=dict)
    positive_class: Label | None = None
    columns: Columns = Columns()
    shards: Annotated[int, Field(ge=1, le=1024)] = 1
    window: Annotated[int, duration_from(MINUTE_MS, 31 * DAY_MS)] = _DEFAULTS.window_ms
    lateness: Annotated[int, duration_from(0, 31 * DAY_MS)] = _DEFAULTS.lateness_ms
    start_slot: Annotated[int, duration_from(MINUTE_MS, 31 * DAY_MS)] = _DEFAULTS.start_slot_ms
    margin: Margin = _DEFAULTS.margin_tv
    quality_margin: Margin = _DEFAULTS.quality_margin_tv
    earliest_event_time: Moment = _DEFAULTS.earliest_event_time_us
    clock_skew: Annotated[int, duration_from(0, 3650 * DAY_MS)] = _DEFAULTS.clock_skew_ms
    risk: Literal["high", "medium", "low"] = "medium"
    false_alarms: FalseAlarms = FalseAlarms()
    importance: Literal["given", "estimated"] = "given"
    monitors: dict[Monitor, Switch] = Field(default_factory=dict)
    severities: dict[Monitor, Severity] = Field(default_factory=dict)
    segments: dict[Segmentation, Segment] = Field(default_factory=dict)
    detectors: list[Detector] = Field(default_factory=list)
    outcomes: Outcomes | None = None
    challengers: Annotated[list[Version], Field(max_length=MOST_CHALLENGERS)] = Field(default_factory=list)
    humility: Humility | None = None
    runbook: Runbook | None = None

    def to_spec(self) -> DeploymentSpec:
        """What the streams see; revision and share of the budget are filled in when it is applied."""
        budget = self.false_alarms
        return DeploymentSpec(
            deployment_id=self.deployment,
            model_id=self.model,
            task=self.task,
            features=tuple(
                FeatureSpec(f.name, f.kind, float(f.importance), None if f.margin is None else float(f.margin))
                for f in self.features
            ),
            description=self.description,
            owner=self.owner,
            tags=dict(self.tags),
            positive_class=self.positive_class,
            columns=self._column_map(),
            shards=self.shards,
            window_ms=self.window,
            lateness_ms=self.lateness,
            start_slot_ms=self.start_slot,
            margin_tv=float(self.margin),
            earliest_event_time_us=self.earliest_event_time,
            clock_skew_ms=self.clock_skew,
            quality_margin_tv=float(self.quality_margin),
            risk=self.risk,
            false_alarms=FalseAlarmBudget(
                float(budget.count),
                budget.per,
                budget.scope,
                kinds={str(kind): float(part) for kind, part in budget.kinds.items()},
            ),
            importance_source=self.importance,
            disabled_monitors=tuple(sorted((m for m, on in self.monitors.items() if on == "off"), key=MONITORS.index)),
            segments=tuple(segment.to_spec(name) for name, segment in self.segments.items()),
            detectors=tuple(detector.to_spec() for detector in self.detectors),
            severities={str(monitor): str(severity) for monitor, severity in self.severities.items()},
            runbook_url=self.runbook,
            outcomes=None if self.outcomes is None else self.outcomes.to_spec(),
            challengers=tuple(self.challengers),
            humility=None if self.humility is None else self.humility.to_spec(),
        )

    def _column_map(self) -> dict[str, str]:
        given = self.columns.model_dump(exclude_none=True, exclude={"class_probabilities", "segments"})
        given |= {_CLASS_PREFIX + label: column for label, column in self.columns.class_probabilities.items()}
        given |= {_SEGMENT_PREFIX + name: column for name, column in self.columns.segments.items()}
        given |= {_FEATURE_PREFIX + f.name: f.column for f in self.features if f.column is not None}
        return given


def to_document(spec: DeploymentSpec) -> dict[str, Any]:
    """A specification as a person would write it, every value stated; :func:`parse_specification` reads it back."""
    columns: dict[str, Any] = {}
    for field, column in spec.columns.items():
        for prefix, section in ((_CLASS_PREFIX, "class_probabilities"), (_SEGMENT_PREFIX, "segments")):
            if field.startswith(prefix):
                columns.setdefault(section, {})[field.removeprefix(prefix)] = column
                break
        else:
            if not field.startswith(_FEATURE_PREFIX):
                columns[field] = column
    document = {
        "deployment": spec.deployment_id,
        "model": spec.model_id,
        "task": spec.task,
        "description": spec.description,
        "owner": spec.owner,
        "tags": dict(spec.tags),
        "positive_class": spec.positive_class,
        "features": [_feature_document(spec, feature) for feature in spec.features],
        "columns": columns,
        "shards": spec.shards,
        "window": duration_text(spec.window_ms),
        "lateness": duration_text(spec.lateness_ms),
        "start_slot": duration_text(spec.start_slot_ms),
        "margin": spec.margin_tv,
        "quality_margin": spec.quality_margin_tv,
        "earliest_event_time": rfc3339(spec.earliest_event_time_us),
        "clock_skew": duration_text(spec.clock_skew_ms),
        "risk": spec.risk,
        "false_alarms": {
            "count": spec.false_alarms.count,
            "per": duration_text(spec.false_alarms.per_ms),
            "scope": spec.false_alarms.scope,
        }
        | ({"kinds": dict(spec.false_alarms.kinds)} if spec.false_alarms.kinds else {}),
        "importance": spec.importance_source,
        "monitors": dict.fromkeys(spec.disabled_monitors, "off"),
        "severities": dict(spec.severities),
        "segments": {segment.name: _segment_document(segment) for segment in spec.segments},
        "detectors": [_detector_document(detector) for detector in spec.detectors],
        "outcomes": outcomes_document(spec),
        "challengers": list(spec.challengers),
        "humility": humility_document(spec.humility),
        "runbook": spec.runbook_url,
    }
    return {name: value for name, value in document.items() if name == "features" or value not in (None, "", {}, [])}


def _feature_document(spec: DeploymentSpec, feature: FeatureSpec) -> dict[str, Any]:
    document: dict[str, Any] = {"name": feature.name, "kind": feature.kind, "importance": feature.importance}
    if feature.margin_tv is not None:
        document["margin"] = feature.margin_tv
    if _FEATURE_PREFIX + feature.name in spec.columns:
        document["column"] = spec.columns[_FEATURE_PREFIX + feature.name]
    return document


def _segment_document(segment: SegmentSpec) -> dict[str, Any]:
    if segment.is_rule:
        ends = {"from": segment.low, "below": segment.high}
        return {"column": segment.column} | {name: end for name, end in ends.items() if end is not None}
    parts = {"values": list(segment.values)} if segment.values else {"most": segment.most}
    return {"column": segment.column} | parts


def _detector_document(detector: DetectorSpec) -> dict[str, Any]:
    document: dict[str, Any] = {"detector": detector.detector, "stream": detector.stream}
    return document | ({"parameters": dict(detector.parameters)} if detector.parameters else {})
