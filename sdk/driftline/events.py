"""Predictions and outcomes as columns: what travels in ``PredictionBatch`` and ``OutcomeBatch``, checked.

A lone row is a batch of one: everything behind the codec sees columns only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.codec import Record
from driftline.errors import EventError

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Times = NDArray[np.int64]

MAX_ID_LENGTH = 256
MAX_DIMENSION = 65_536
UNKNOWN_ACTED_ON = 255
ACTIONS = ("answered", "overridden", "refused", "routed")
"""What became of a prediction under the humility rules, by code."""
ALARM_MONITORS = (
    "data_drift",
    "prediction_drift",
    "data_quality",
    "service",
    "concept_drift",
    "labels",
    "fairness",
    "humility",
)
"""Monitors by their bit in what an application knew of alarms."""
MOST_RULES = 64
"""Humility rules of a deployment: one bit each."""
NOT_DECIDED = 255
_TEXT_OR_NONE = frozenset({str, type(None)})


@dataclass(frozen=True, slots=True)
class CategoricalColumn:
    """A dictionary-encoded column of strings.

    Attributes:
        categories: The distinct values.
        codes: int32, shape ``(rows,)``: index into ``categories``, -1 for missing.
    """

    categories: Sequence[str]
    codes: NDArray[np.int32]

    @classmethod
    def from_values(cls, values: Iterable[Any]) -> CategoricalColumn:
        """Encode values in order of first appearance; None and NaN are missing, booleans 'true' and 'false'."""
        texts: Sequence[Any] = values if isinstance(values, (list, tuple)) else list(values)
        if not _TEXT_OR_NONE.issuperset(map(type, texts)):
            texts = list(map(category_text, texts))
        codes = {text: code for code, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
        categories = list(codes)
        codes[None] = -1
        return cls(categories, np.fromiter(map(codes.__getitem__, texts), np.int32, len(texts)))

    def values(self) -> list[str | None]:
        """The column as strings, None for missing."""
        return [None if code < 0 else self.categories[code] for code in self.codes.tolist()]


def category_text(value: Any) -> str | None:
    """The text a categorical value is counted under; None for missing (None, NaN)."""
    if value is None or value != value:  # NaN is the only value that differs from itself
        return None
    if isinstance(value, str):
        return str(value)  # numpy's strings are strings, and not only that
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


@dataclass(frozen=True, slots=True)
class HumilityColumns:
    """What serving applications decided by the humility rules, and what they knew. Arrays have shape ``(rows,)``.

    Attributes:
        policy: Digest of the rules and of the fit they were decided by.
        revision: Revision of the specification that has the rules.
        actions: uint8, one of the codes in :mod:`driftline.humility.rules`; 255 where nothing was decided.
        fired: uint64, bit r is set where rule r fired.
        quantiles: float64, the adaptive quantile that was known, NaN for none.
        alarms: uint8, bit m is set where monitor m of ``ALARM_MONITORS`` was known to be in alarm.
        answers: float64, what was served instead of the prediction; NaN where nothing was.
        answer_labels: The same of the predicted class.
    """

    policy: str
    revision: int
    actions: NDArray[np.uint8]
    fired: NDArray[np.uint64]
    quantiles: Floats | None = None
    alarms: NDArray[np.uint8] | None = None
    answers: Floats | None = None
    answer_labels: CategoricalColumn | None = None

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return {
            "policy": self.policy,
            "revision": self.revision,
            "actions": _pack(self.actions, "u1"),
            "fired": _pack(self.fired, "<u8"),
            "quantiles": None if self.quantiles is None else _pack(self.quantiles, "<f8"),
            "alarms": None if self.alarms is None else _pack(self.alarms, "u1"),
            "answers": None if self.answers is None else _pack(self.answers, "<f8"),
            "answer_labels": None if self.answer_labels is None else _pack_categorical(self.answer_labels),
        }

    @classmethod
    def from_record(cls, record: Record, rows: int) -> HumilityColumns:
        """Read the fields of the Avro record.

        Raises:
            EventError: ``reason`` is ``unequal_columns`` or ``wrong_schema``.
        """
        quantiles, alarms = record["quantiles"], record["alarms"]
        answers, labels = record["answers"], record["answer_labels"]
        actions = _unpack(record["actions"], "u1", rows, "humility.actions")
        if ((actions >= len(ACTIONS)) & (actions != NOT_DECIDED)).any():
            raise EventError(
                f"humility.actions: expected 0 to {len(ACTIONS) - 1}, or {NOT_DECIDED} for not decided, "
                f"came {actions[actions != NOT_DECIDED].max()}"
            )
        return cls(
            policy=record["policy"],
            revision=record["revision"],
            actions=actions,
            fired=_unpack(record["fired"], "<u8", rows, "humility.fired"),
            quantiles=None if quantiles is None else _unpack(quantiles, "<f8", rows, "humility.quantiles"),
            alarms=None if alarms is None else _unpack(alarms, "u1", rows, "humility.alarms"),
            answers=None if answers is None else _unpack(answers, "<f8", rows, "humility.answers"),
            answer_labels=None if labels is None else _unpack_categorical(labels, rows, "humility.answer_labels"),
        )


@dataclass(frozen=True, slots=True)
class PredictionColumns:
    """Predictions of one deployment and version. Every array has shape ``(rows,)``, but for those of ``vectors``.

    Attributes:
        deployment_id: The deployment that served them.
        model_version: The version that answered.
        prediction_ids: One per row.
        timestamps_us: int64 event times, microseconds since 1970-01-01 UTC.
        numeric: Feature name to float64 values; NaN is missing.
        categorical: Feature name to values.
        prediction: float64 predicted values or scores.
        prediction_label: Predicted classes.
        class_probabilities: Class name to float64 probabilities.
        segments: Segment attributes that are not features.
        latency_ms: float64 milliseconds taken to answer.
        vectors: Embedding feature's name to float32 values, shape ``(rows, dimension)``; a row with NaN or infinity
            is missing.
        error: Why requests could not be answered, as short classes; missing where they were.
        model_id: The model behind the deployment.
        prediction_low: float64 lower ends of the model's own intervals for the actual values; NaN where there is none.
        prediction_high: float64 upper ends.
        challenger_predictions: Version to float64 values or scores that challengers would have answered.
        challenger_labels: Version to the classes that challengers would have answered.
        humility: Decisions of the serving application; None where it did not decide.
    """

    deployment_id: str
    model_version: str
    prediction_ids: Sequence[str]
    timestamps_us: Times
    numeric: Mapping[str, Floats] = field(default_factory=dict)
    categorical: Mapping[str, CategoricalColumn] = field(default_factory=dict)
    prediction: Floats | None = None
    prediction_label: CategoricalColumn | None = None
    class_probabilities: Mapping[str, Floats] = field(default_factory=dict)
    segments: Mapping[str, CategoricalColumn] = field(default_factory=dict)
    latency_ms: Floats | None = None
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    error: CategoricalColumn | None = None
    model_id: str | None = None
    prediction_low: Floats | None = None
    prediction_high: Floats | None = None
    challenger_predictions: Mapping[str, Floats] = field(default_factory=dict)
    challenger_labels: Mapping[str, CategoricalColumn] = field(default_factory=dict)
    humility: HumilityColumns | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.prediction_ids)

    def to_record(self) -> Record:
        """The fields of a ``PredictionBatch``."""
        return {
            "deployment_id": self.deployment_id,
            "model_id": self.model_id,
            "model_version": self.model_version,
            "prediction_ids": list(self.prediction_ids),
            "timestamps_us": _pack(self.timestamps_us, "<i8"),
            "numeric": {name: _pack(values, "<f8") for name, values in self.numeric.items()},
            "categorical": {name: _pack_categorical(column) for name, column in self.categorical.items()},
            "prediction": None if self.prediction is None else _pack(self.prediction, "<f8"),
            "prediction_label": None if self.prediction_label is None else _pack_categorical(self.prediction_label),
            "class_probabilities": {name: _pack(values, "<f8") for name, values in self.class_probabilities.items()},
            "segments": {name: _pack_categorical(column) for name, column in self.segments.items()},
            "latency_ms": None if self.latency_ms is None else _pack(self.latency_ms, "<f8"),
            "vectors": {name: _pack_vectors(values) for name, values in self.vectors.items()},
            "error": None if self.error is None else _pack_categorical(self.error),
            "prediction_low": None if self.prediction_low is None else _pack(self.prediction_low, "<f8"),
            "prediction_high": None if self.prediction_high is None else _pack(self.prediction_high, "<f8"),
            "challenger_predictions": {v: _pack(values, "<f8") for v, values in self.challenger_predictions.items()},
            "challenger_labels": {v: _pack_categorical(column) for v, column in self.challenger_labels.items()},
            "humility": None if self.humility is None else self.humility.to_record(),
        }

    @classmethod
    def from_record(cls, record: Record) -> PredictionColumns:
        """Read the fields of a ``PredictionBatch``.

        Raises:
            EventError: ``reason`` is ``empty_batch``, ``unequal_columns`` or ``wrong_schema``.
        """
        ids = record["prediction_ids"]
        rows = _checked_ids(ids)
        score, label = record["prediction"], record["prediction_label"]
        latency, error = record["latency_ms"], record["error"]
        low, high = record["prediction_low"], record["prediction_high"]
        return cls(
            deployment_id=checked_name(record["deployment_id"], "deployment_id"),
            model_version=checked_name(record["model_version"], "model_version"),
            prediction_ids=ids,
            timestamps_us=_unpack(record["timestamps_us"], "<i8", rows, "timestamps_us"),
            numeric={name: _unpack(data, "<f8", rows, name) for name, data in record["numeric"].items()},
            categorical={name: _unpack_categorical(data, rows, name) for name, data in record["categorical"].items()},
            prediction=None if score is None else _unpack(score, "<f8", rows, "prediction"),
            prediction_label=None if label is None else _unpack_categorical(label, rows, "prediction_label"),
            class_probabilities={
                name: _unpack(data, "<f8", rows, f"class_probabilities[{name}]")
                for name, data in record["class_probabilities"].items()
            },
            segments={name: _unpack_categorical(data, rows, name) for name, data in record["segments"].items()},
            latency_ms=None if latency is None else _unpack(latency, "<f8", rows, "latency_ms"),
            vectors={name: _unpack_vectors(data, rows, name) for name, data in record["vectors"].items()},
            error=None if error is None else _unpack_categorical(error, rows, "error"),
            model_id=record["model_id"],
            prediction_low=None if low is None else _unpack(low, "<f8", rows, "prediction_low"),
            prediction_high=None if high is None else _unpack(high, "<f8", rows, "prediction_high"),
            challenger_predictions={
                version: _unpack(data, "<f8", rows, f"challenger_predictions[{version}]")
                for version, data in record["challenger_predictions"].items()
            },
            challenger_labels={
                version: _unpack_categorical(data, rows, f"challenger_labels[{version}]")
                for version, data in record["challenger_labels"].items()
            },
            humility=None if record["humility"] is None else HumilityColumns.from_record(record["humility"], rows),
        )


@dataclass(frozen=True, slots=True)
class OutcomeColumns:
    """What turned out to be true. Every array has shape ``(rows,)``.

    Attributes:
        deployment_id: The deployment.
        prediction_ids: The predictions the outcomes belong to.
        actual_timestamps_us: int64, when each became known, microseconds since 1970-01-01 UTC.
        actual_value: float64 actual values.
        actual_label: Actual classes.
        was_acted_on: uint8 0, 1 or 255 for unknown.
        labelling_probability: float64, above 0 and at most 1: where only a sample is ever labelled, how probable it was
            that each row was chosen.
    """

    deployment_id: str
    prediction_ids: Sequence[str]
    actual_timestamps_us: Times
    actual_value: Floats | None = None
    actual_label: CategoricalColumn | None = None
    was_acted_on: NDArray[np.uint8] | None = None
    labelling_probability: Floats | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.prediction_ids)

    def to_record(self) -> Record:
        """The fields of an ``OutcomeBatch``."""
        return {
            "deployment_id": self.deployment_id,
            "prediction_ids": list(self.prediction_ids),
            "actual_timestamps_us": _pack(self.actual_timestamps_us, "<i8"),
            "actual_value": None if self.actual_value is None else _pack(self.actual_value, "<f8"),
            "actual_label": None if self.actual_label is None else _pack_categorical(self.actual_label),
            "was_acted_on": None if self.was_acted_on is None else _pack(self.was_acted_on, "u1"),
            "labelling_probability": None
            if self.labelling_probability is None
            else _pack(self.labelling_probability, "<f8"),
        }

    @classmethod
    def from_record(cls, record: Record) -> OutcomeColumns:
        """Read the fields of an ``OutcomeBatch``. What single rows say is left to who uses them, and may refuse those.

        Raises:
            EventError: ``reason`` is ``empty_batch``, ``unequal_columns``, ``outcome_value`` (there is neither a column
                of values nor one of classes) or ``wrong_schema``.
        """
        ids = record["prediction_ids"]
        rows = _counted(ids)
        value, label, acted = record["actual_value"], record["actual_label"], record["was_acted_on"]
        if value is None and label is None:
            raise _no_outcome()
        return cls(
            deployment_id=checked_name(record["deployment_id"], "deployment_id"),
            prediction_ids=ids,
            actual_timestamps_us=_unpack(record["actual_timestamps_us"], "<i8", rows, "actual_timestamps_us"),
            actual_value=None if value is None else _unpack(value, "<f8", rows, "actual_value"),
            actual_label=None if label is None else _unpack_categorical(label, rows, "actual_label"),
            was_acted_on=None if acted is None else _unpack_flags(acted, rows),
            labelling_probability=None
            if record["labelling_probability"] is None
            else _unpack(record["labelling_probability"], "<f8", rows, "labelling_probability"),
        )


def prediction_from_event(record: Record) -> PredictionColumns:
    """One row (the fields of a ``PredictionEvent``) as columns.

    Numbers are numeric features, strings and booleans categorical, lists of numbers vectors. A null feature is left
    out: its kind is not known here, and a watched feature that is absent counts as missing.
    """
    numeric: dict[str, Floats] = {}
    categorical: dict[str, CategoricalColumn] = {}
    vectors: dict[str, Vectors] = {}
    for name, value in record["features"].items():
        if isinstance(value, (bool, str)):
            categorical[name] = CategoricalColumn.from_values([value])
        elif isinstance(value, list):
            checked_dimension(len(value), f"feature {name[:80]!r}")
            vectors[name] = single_precision([value])
        elif value is not None:
            numeric[name] = np.array([value], dtype=np.float64)
    score, label = record["prediction"], record["prediction_label"]
    latency, error = record["latency_ms"], record["error"]
    _checked_ids([record["prediction_id"]])
    return PredictionColumns(
        deployment_id=checked_name(record["deployment_id"], "deployment_id"),
        model_version=checked_name(record["model_version"], "model_version"),
        prediction_ids=[record["prediction_id"]],
        timestamps_us=np.array([record["timestamp"]], dtype=np.int64),
        numeric=numeric,
        categorical=categorical,
        prediction=None if score is None else np.array([score], dtype=np.float64),
        prediction_label=None if label is None else CategoricalColumn.from_values([label]),
        class_probabilities={
            name: np.array([value], dtype=np.float64) for name, value in record["class_probabilities"].items()
        },
        segments={name: CategoricalColumn.from_values([value]) for name, value in record["segments"].items()},
        latency_ms=None if latency is None else np.array([latency], dtype=np.float64),
        vectors=vectors,
        error=None if error is None else CategoricalColumn.from_values([error]),
        model_id=record["model_id"],
        prediction_low=None if record["prediction_low"] is None else np.array([record["prediction_low"]]),
        prediction_high=None if record["prediction_high"] is None else np.array([record["prediction_high"]]),
        challenger_predictions={
            version: np.array([value], dtype=np.float64) for version, value in record["challenger_predictions"].items()
        },
        challenger_labels={
            version: CategoricalColumn.from_values([value]) for version, value in record["challenger_labels"].items()
        },
        humility=None if record["humility"] is None else _decision_columns(record["humility"]),
    )


def _decision_columns(record: Record) -> HumilityColumns:
    """One decision (the fields of a ``HumilityDecision``) as columns of one row."""
    action, fired = record["action"], 0
    if action not in ACTIONS:
        raise EventError(f"humility.action: expected one of {', '.join(ACTIONS)}, came {action[:40]!r}")
    for rule in record["fired"]:
        if not 0 <= rule < MOST_RULES:
            raise EventError(f"humility.fired: expected numbers of rules, 0 to {MOST_RULES - 1}, came {rule}")
        fired |= 1 << rule
    quantile, answer, label = record["quantile"], record["answer"], record["answer_label"]
    alarms = alarm_bits(record["alarms"])
    return HumilityColumns(
        policy=record["policy"],
        revision=record["revision"],
        actions=np.array([ACTIONS.index(action)], dtype=np.uint8),
        fired=np.array([fired], dtype=np.uint64),
        quantiles=None if quantile is None else np.array([quantile], dtype=np.float64),
        alarms=np.array([alarms], dtype=np.uint8) if alarms else None,
        answers=None if answer is None else np.array([answer], dtype=np.float64),
        answer_labels=None if label is None else CategoricalColumn.from_values([label]),
    )


def alarm_bits(monitors: Iterable[str]) -> int:
    """Monitors in alarm as bits; see ``ALARM_MONITORS``.

    Raises:
        EventError: There is no such monitor.
    """
    bits = 0
    for name in monitors:
        if name not in ALARM_MONITORS:
            raise EventError(f"humility.alarms: expected monitors ({', '.join(ALARM_MONITORS)}), came {name[:40]!r}")
        bits |= 1 << ALARM_MONITORS.index(name)
    return bits


def outcome_from_event(record: Record) -> OutcomeColumns:
    """One row (the fields of an ``OutcomeEvent``) as columns. What it says is checked by who reads it."""
    value, label, acted = record["actual_value"], record["actual_label"], record["was_acted_on"]
    if value is None and label is None:
        raise _no_outcome()
    return OutcomeColumns(
        deployment_id=checked_name(record["deployment_id"], "deployment_id"),
        prediction_ids=[record["prediction_id"]],
        actual_timestamps_us=np.array([record["actual_timestamp"]], dtype=np.int64),
        actual_value=None if value is None else np.array([value], dtype=np.float64),
        actual_label=None if label is None else CategoricalColumn.from_values([label]),
        was_acted_on=None if acted is None else np.array([acted], dtype=np.uint8),
        labelling_probability=None
        if record["labelling_probability"] is None
        else np.array([record["labelling_probability"]], dtype=np.float64),
    )


def single_precision(values: Any) -> Vectors:
    """Numbers as float32, copied; beyond its range (3.4e38) they are infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32)


def checked_dimension(dimension: int, what: str) -> int:
    """The dimension of a vector. Raises :class:`EventError`."""
    if not 1 <= dimension <= MAX_DIMENSION:
        raise EventError(
            f"{what}: a vector has 1 to {MAX_DIMENSION} numbers (None where it is missing), came {dimension}"
        )
    return dimension


def _pack(values: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype=dtype).tobytes()


def _pack_categorical(column: CategoricalColumn) -> Record:
    return {"categories": list(column.categories), "codes": _pack(column.codes, "<i4")}


def _pack_vectors(values: Vectors) -> Record:
    return {"dimension": values.shape[1], "values": _pack(values, "<f4")}


def _unpack(data: bytes, dtype: str, rows: int, name: str) -> Any:
    width = int(dtype[-1])
    if len(data) != rows * width:
        raise EventError(
            f"column {name!r}: expected {rows} values of {width} bytes (one per prediction_id), came {len(data)} bytes",
            reason="unequal_columns",
        )
    return np.frombuffer(data, dtype)


def _unpack_flags(data: bytes, rows: int) -> NDArray[np.uint8]:
    flags: NDArray[np.uint8] = _unpack(data, "u1", rows, "was_acted_on")
    if ((flags > 1) & (flags != UNKNOWN_ACTED_ON)).any():
        raise EventError(f"was_acted_on: expected 0, 1 or {UNKNOWN_ACTED_ON} for unknown, came {flags.max()}")
    return flags


def _unpack_categorical(record: Record, rows: int, name: str) -> CategoricalColumn:
    codes = _unpack(record["codes"], "<i4", rows, name)
    categories = record["categories"]
    if codes.size and (codes.max() >= len(categories) or codes.min() < -1):
        raise EventError(
            f"column {name!r}: codes must lie between -1 and {len(categories) - 1} "
            f"({len(categories)} categories); came {codes.min()} to {codes.max()}"
        )
    return CategoricalColumn(categories, codes)


def _unpack_vectors(record: Record, rows: int, name: str) -> Vectors:
    dimension, data = checked_dimension(record["dimension"], f"column {name!r}"), record["values"]
    if len(data) != rows * dimension * 4:
        raise EventError(
            f"column {name!r}: expected {rows} vectors (one per prediction_id) of {dimension} values of 4 bytes, "
            f"came {len(data)} bytes",
            reason="unequal_columns",
        )
    return np.frombuffer(data, "<f4").reshape(rows, dimension)


def _no_outcome() -> EventError:
    return EventError(
        "expected a number in actual_value or a class in actual_label, came neither: publish it once it is known",
        reason="outcome_value",
    )


def _counted(ids: Sequence[str]) -> int:
    if not ids:
        raise EventError("the batch has no rows: publish nothing instead", reason="empty_batch")
    return len(ids)


def _checked_ids(ids: Sequence[str]) -> int:
    _counted(ids)
    lengths = set(map(len, ids))
    if 0 in lengths or max(lengths) > MAX_ID_LENGTH:
        row = next(i for i, text in enumerate(ids) if not 0 < len(text) <= MAX_ID_LENGTH)
        raise EventError(f"row {row}: a prediction_id has 1 to {MAX_ID_LENGTH} characters, came {len(ids[row])}")
    return len(ids)


def checked_name(name: str, field_name: str) -> str:
    """The name of a deployment or version, fit to be a key or a part of one. Raises :class:`EventError`."""
    if not isinstance(name, str):
        raise EventError(f"{field_name}: expected text, came {type(name).__name__}")
    if not 0 < len(name) <= MAX_ID_LENGTH or "#" in name or "@" in name or any(c < " " for c in name):
        raise EventError(
            f"{field_name}: expected 1 to {MAX_ID_LENGTH} printable characters without '#' and '@' "
            f"(they separate keys), came {name[:80]!r}"
        )
    return name
