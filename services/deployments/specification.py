"""The specification a person writes in YAML, checked whole, and what the streams make of it.

Example::

    deployment: delays
    model: delay-classifier
    task: binary_classification
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
"""

from __future__ import annotations

import difflib
import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from driftline.errors import EventError
from driftline.rows import timestamp_us
from services.deployments.durations import duration_ms, duration_text
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
Monitor = Literal["data_drift", "prediction_drift", "data_quality", "service"]
BudgetKind = Literal["outcomes", "features", "operations"]
DetectorName = Literal["adwin", "page_hinkley", "kswin", "ddm", "eddm", "hddm_a", "hddm_w"]
TimestampFormat = Literal["rfc3339", "epoch_s", "epoch_ms", "epoch_us"]

_DEFAULTS = DeploymentSpec("-", "-", "other", ())
_DEFAULT_MOST = SegmentSpec("-", "-").most
_MAX_NAME = 256
_DAY_MS = 86_400_000
MOST_PARTS = 100
"""Parts of one segmentation that are watched on their own; each has streams and memory of its own."""

_CLASS_PREFIX, _SEGMENT_PREFIX, _FEATURE_PREFIX = "probability:", "segment:", "feature:"


def _name(text: str) -> str:
    if not text or len(text) > _MAX_NAME or not text.isprintable() or "#" in text or "@" in text:
        raise ValueError(
            f"expected 1 to {_MAX_NAME} printable characters without '#' and '@' (they separate keys), "
            f"came {text[:80]!r}"
        )
    return text


def _column(text: str) -> str:
    if not text or len(text) > _MAX_NAME or not text.isprintable():
        raise ValueError(f"expected the name of a column, 1 to {_MAX_NAME} printable characters, came {text[:80]!r}")
    return text


def _label(value: Any) -> Any:
    """A class may look like a number or a boolean; it is text all the same."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def _segmentation(text: str) -> str:
    if not text or len(text) > _MAX_NAME or not text.isprintable() or "=" in text:
        raise ValueError(
            f"expected 1 to {_MAX_NAME} printable characters without '=' (it separates a part from its value), "
            f"came {text[:80]!r}"
        )
    return text


def _on_or_off(value: Any) -> Any:
    """In YAML 1.2 ``off`` is a word and ``false`` is not; people write both."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value


def _zone(text: str) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        close = difflib.get_close_matches(text, sorted(zoneinfo.available_timezones()), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"expected a time zone such as UTC or Europe/Berlin, came {text[:60]!r}{hint}") from error
    return text


def _moment_us(value: Any) -> int:
    try:
        if not isinstance(value, str):
            raise EventError(f"expected an RFC 3339 time such as 2000-01-01T00:00:00Z, came {value!r}")
        return timestamp_us(value)
    except EventError as error:
        raise ValueError(str(error)) from error


def _duration_from(low_ms: int, high_ms: int) -> BeforeValidator:
    def check(value: Any) -> int:
        given = duration_ms(value)
        if not low_ms <= given <= high_ms:
            raise ValueError(
                f"expected {duration_text(low_ms)} to {duration_text(high_ms)}, came {duration_text(given)}"
            )
        return given

    return BeforeValidator(check)


def _runbook(text: str) -> str:
    if not text.startswith(("https://", "http://")) or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"expected an http(s) address, came {text[:80]!r}")
    return text


Name = Annotated[str, AfterValidator(_name)]
Column = Annotated[str, AfterValidator(_column)]
Label = Annotated[str, BeforeValidator(_label), Field(min_length=1, max_length=_MAX_NAME)]
Segmentation = Annotated[str, AfterValidator(_segmentation)]
Margin = Annotated[float, Field(ge=0, lt=0.5)]
Part = Annotated[float, Field(ge=0, le=1)]
Switch = Annotated[Literal["on", "off"], BeforeValidator(_on_or_off)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Feature(_Section):
    """A watched feature. ``column`` is its name in files, where that differs; ``margin`` its own, where it has one."""

    name: Annotated[str, Field(min_length=1, max_length=_MAX_NAME)]
    kind: Kind
    importance: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    margin: Margin | None = None
    column: Column | None = None


class Columns(_Section):
    """Which column of a file holds what. A field left out is looked for under its own name."""

    prediction_id: Column | None = None
    timestamp: Column | None = None
    timestamp_format: TimestampFormat | None = None
    timezone: Annotated[str, AfterValidator(_zone)] | None = None
    model_version: Column | None = None
    prediction: Column | None = None
    prediction_label: Column | None = None
    class_probabilities: dict[Label, Column] = Field(default_factory=dict)
    segments: dict[Annotated[str, Field(min_length=1, max_length=_MAX_NAME)], Column] = Field(default_factory=dict)
    latency_ms: Column | None = None
    error: Column | None = None
    prediction_low: Column | None = None
    prediction_high: Column | None = None
    actual_value: Column | None = None
    actual_label: Column | None = None
    actual_timestamp: Column | None = None
    was_acted_on: Column | None = None
    labelling_probability: Column | None = None


class FalseAlarms(_Section):
    """At most ``count`` false alarms expected in ``per`` of event time, for the fleet or for this deployment alone.

    ``kinds`` says how a deployment's part is shared between streams of outcomes and scores, of features, and of
    operations; those not given keep their default.
    """

    count: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    per: Annotated[int, _duration_from(3_600_000, 3650 * _DAY_MS)] = _DEFAULTS.false_alarms.per_ms
    scope: Literal["fleet", "deployment"] = "fleet"
    kinds: dict[BudgetKind, Part] = Field(default_factory=dict)


class Segment(_Section):
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


class Detector(_Section):
    """A detector from the literature that follows a stream besides, outside the false-alarm budget."""

    detector: DetectorName
    stream: Annotated[str, Field(min_length=1, max_length=_MAX_NAME)]
    parameters: dict[str, float] = Field(default_factory=dict)

    def to_spec(self) -> DetectorSpec:
        """What the streams see."""
        return DetectorSpec(self.detector, self.stream, {name: float(value) for name, value in self.parameters.items()})


class Specification(_Section):
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
    window: Annotated[int, _duration_from(60_000, 31 * _DAY_MS)] = _DEFAULTS.window_ms
    lateness: Annotated[int, _duration_from(0, 31 * _DAY_MS)] = _DEFAULTS.lateness_ms
    start_slot: Annotated[int, _duration_from(60_000, 31 * _DAY_MS)] = _DEFAULTS.start_slot_ms
    margin: Margin = _DEFAULTS.margin_tv
    quality_margin: Margin = _DEFAULTS.quality_margin_tv
    earliest_event_time: Annotated[int, BeforeValidator(_moment_us)] = _DEFAULTS.earliest_event_time_us
    clock_skew: Annotated[int, _duration_from(0, 3650 * _DAY_MS)] = _DEFAULTS.clock_skew_ms
    risk: Literal["high", "medium", "low"] = "medium"
    false_alarms: FalseAlarms = FalseAlarms()
    importance: Literal["given", "estimated"] = "given"
    monitors: dict[Monitor, Switch] = Field(default_factory=dict)
    severities: dict[Monitor, Severity] = Field(default_factory=dict)
    segments: dict[Segmentation, Segment] = Field(default_factory=dict)
    detectors: list[Detector] = Field(default_factory=list)
    runbook: Annotated[str, AfterValidator(_runbook)] | None = None

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
