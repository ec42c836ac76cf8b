"""Which column of a file is which field of the events, by the deployment's specification."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.publish.decisions import ACTION, FIELDS, NEEDED
from services.publish.errors import FileError
from streams.specification import DeploymentSpec

_CLASS, _SEGMENT, _FEATURE = "probability:", "segment:", "feature:"
_NESTED_FEATURES = "features."
_NESTED_HUMILITY = "humility."
_LISTED = 12


@dataclass(frozen=True, slots=True)
class PredictionMapping:
    """Field to column; None where the file has no such column and needs none."""

    timestamp: str
    prediction_id: str | None
    model_version: str | None
    prediction: str | None
    prediction_label: str | None
    latency_ms: str | None
    error: str | None
    prediction_low: str | None = None
    prediction_high: str | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    class_probabilities: Mapping[str, str] = field(default_factory=dict)
    segments: Mapping[str, str] = field(default_factory=dict)
    challenger_predictions: Mapping[str, str] = field(default_factory=dict)
    challenger_labels: Mapping[str, str] = field(default_factory=dict)
    humility: Mapping[str, str] = field(default_factory=dict)

    def columns(self) -> list[str]:
        """All columns that are needed."""
        own = (
            self.timestamp,
            self.prediction_id,
            self.model_version,
            self.prediction,
            self.prediction_label,
            self.latency_ms,
            self.error,
            self.prediction_low,
            self.prediction_high,
        )
        by_name = (
            self.features,
            self.class_probabilities,
            self.segments,
            self.challenger_predictions,
            self.challenger_labels,
            self.humility,
        )
        more = [column for fields in by_name for column in fields.values()]
        return list(dict.fromkeys([*(name for name in own if name is not None), *more]))


@dataclass(frozen=True, slots=True)
class OutcomeMapping:
    """Field to column; None where the file has no such column and needs none."""

    actual_timestamp: str
    prediction_id: str | None
    actual_value: str | None
    actual_label: str | None
    was_acted_on: str | None
    labelling_probability: str | None = None

    def columns(self) -> list[str]:
        """All columns that are needed."""
        own = (
            self.actual_timestamp,
            self.prediction_id,
            self.actual_value,
            self.actual_label,
            self.was_acted_on,
            self.labelling_probability,
        )
        return list(dict.fromkeys(name for name in own if name is not None))


class _Finder:
    def __init__(self, spec: DeploymentSpec, names: Sequence[str], source: str) -> None:
        self._columns = spec.columns
        self._names = names
        self._known = frozenset(names)
        self._deployment = spec.deployment_id
        self._source = source

    def optional(self, name: str) -> str | None:
        """A field's column: the one the specification names, which must be there, or the field's own name."""
        given = self._columns.get(name)
        if given is not None:
            return self.required(name)
        return name if name in self._known else None

    def both(self, one: str, other: str) -> tuple[str | None, str | None]:
        """The columns of two fields of which neither makes sense alone."""
        found = self.optional(one), self.optional(other)
        if found[0] is None and found[1] is not None:
            self.required(one, what=f"{one} beside {other}")
        if found[1] is None and found[0] is not None:
            self.required(other, what=f"{other} beside {one}")
        return found

    def required(self, name: str, *, own: Sequence[str] = (), what: str | None = None) -> str:
        """The same for a field that has to be there."""
        given = self._columns.get(name)
        for candidate in [given] if given is not None else own or [name]:
            if candidate in self._known:
                return candidate
        raise FileError(self._missing(what or name, given or (own or [name])[0]))

    def _missing(self, what: str, column: str) -> str:
        close = difflib.get_close_matches(column, self._names, 3, cutoff=0.5) or [
            name for name in self._names if name.lower() == column.lower()
        ]
        listed = ", ".join(map(repr, self._names[:_LISTED])) + (" …" if len(self._names) > _LISTED else "")
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"the file has {listed}."
        return (
            f"{self._source} has no column {column!r} for {what}: {hint} Columns are named in the specification of "
            f"{self._deployment!r}, under columns: (or column: of a feature)"
        )

    def prefixed(self, prefix: str) -> dict[str, str]:
        """Fields such as ``probability:CLASS`` that the specification names."""
        return {name.removeprefix(prefix): self.required(name) for name in self._columns if name.startswith(prefix)}

    def within(self, prefix: str) -> dict[str, str]:
        """Columns of the file such as ``challenger_predictions.VERSION``, by what stands behind the prefix."""
        return {name.removeprefix(prefix): name for name in self._names if name.startswith(prefix) and name != prefix}

    def decisions(self) -> dict[str, str]:
        """The columns of decisions; none where the file has no actions."""
        found = {field: name for field, name in self.within(_NESTED_HUMILITY).items() if field in FIELDS}
        if ACTION not in found:
            return {}
        needed = {field: self.required(_NESTED_HUMILITY + field, what=f"decisions ({field})") for field in NEEDED}
        return found | needed


def prediction_mapping(spec: DeploymentSpec, names: Sequence[str], source: str) -> PredictionMapping:
    """Find the columns of predictions.

    Args:
        spec: Names the features, and the columns that are called otherwise.
        names: The file's columns.
        source: The file, for errors.

    Raises:
        FileError: A column that the specification names, or a watched feature, or the time is not there, or one end of
            the intervals without the other, or decisions without their policy.
    """
    find = _Finder(spec, names, source)
    low, high = find.both("prediction_low", "prediction_high")
    return PredictionMapping(
        timestamp=find.required("timestamp"),
        prediction_id=find.optional("prediction_id"),
        model_version=find.optional("model_version"),
        prediction=find.optional("prediction"),
        prediction_label=find.optional("prediction_label"),
        latency_ms=find.optional("latency_ms"),
        error=find.optional("error"),
        prediction_low=low,
        prediction_high=high,
        features={
            f.name: find.required(
                _FEATURE + f.name, own=[f.name, _NESTED_FEATURES + f.name], what=f"the feature {f.name!r}"
            )
            for f in spec.features
        },
        class_probabilities=find.prefixed(_CLASS),
        segments=find.prefixed(_SEGMENT),
        challenger_predictions=find.within("challenger_predictions."),
        challenger_labels=find.within("challenger_labels."),
        humility=find.decisions(),
    )


def outcome_mapping(spec: DeploymentSpec, names: Sequence[str], source: str) -> OutcomeMapping:
    """Find the columns of outcomes; see :func:`prediction_mapping`.

    Raises:
        FileError: A column that the specification names, the time, or both of value and label are not there.
    """
    find = _Finder(spec, names, source)
    value, label = find.optional("actual_value"), find.optional("actual_label")
    if value is None and label is None:
        find.required("actual_label", what="the outcome (actual_value or actual_label)")
    return OutcomeMapping(
        actual_timestamp=find.required("actual_timestamp"),
        prediction_id=find.optional("prediction_id"),
        actual_value=value,
        actual_label=label,
        was_acted_on=find.optional("was_acted_on"),
        labelling_probability=find.optional("labelling_probability"),
    )
