"""When a humility rule fires, as people write it.

Conditions without fields of their own are words (``novel_input``, ``in_alarm``), a feature alone is short for
``{feature: NAME}``, a number for the bound that there is only one of (``confidence: 0.6``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from driftline.humility.rules import (
    ALL_OF,
    ANY_OF,
    CHALLENGER_DISAGREEMENT,
    CONFIDENCE,
    IN_ALARM,
    INTERVAL_WIDTH,
    LOW_OBSERVATION_REGION,
    MARGIN,
    MISSING_INPUT,
    NOT,
    OUTLYING_INPUT,
    PREDICTION_OUT_OF_RANGE,
    SCORE,
    STALE_INPUT,
    UNCERTAIN_PREDICTION,
    Condition,
)
from services.deployments.durations import duration_text
from services.deployments.fields import DAY_MS, MAX_NAME, Label, Monitor, Section, Version, duration_from

MOST_VALUES = 1_000
"""Values, features or versions that one condition lists."""


def word_to_fields(value: Any) -> Any:
    """Bring a word to a mapping of it: ``certified`` to ``{certified: }``."""
    return {value: None} if isinstance(value, str) else value


def optional_fields(value: Any) -> Any:
    """What is named with nothing behind it, ``novel_input:``, has no fields."""
    return {} if value is None else value


def is_number(value: Any) -> bool:
    """Whether it came as a number, and not as a word or a truth."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_feature(value: Any) -> Any:
    """Bring ``outlying_input: A`` and ``outlying_input: [A, B]`` to their fields."""
    return _short(value, "feature", "features")


def _of_version(value: Any) -> Any:
    """Bring ``challenger_disagreement: V`` and ``challenger_disagreement: [V, W]`` to their fields."""
    return {"version": value} if is_number(value) else _short(value, "version", "versions")


def _short(value: Any, one: str, several: str) -> Any:
    if isinstance(value, str):
        return {one: value}
    return {several: value} if isinstance(value, list) else optional_fields(value)


def _bound(name: str) -> Callable[[Any], Any]:
    """Bring ``confidence: 0.6`` to ``confidence: {low: 0.6}``."""

    def to_fields(value: Any) -> Any:
        return {name: value} if is_number(value) else optional_fields(value)

    return to_fields


def _measure(value: Any) -> Any:
    return optional_fields(word_to_fields(value))


def _condition(value: Any) -> Any:
    if isinstance(value, list):
        raise ValueError("expected one condition, came a list: say how they combine, as in all: [...] or any: [...]")
    return word_to_fields(value)


def _monitors(value: Any) -> Any:
    """Bring ``in_alarm: M`` to a list; nothing behind it means any monitor."""
    return [value] if isinstance(value, str) else [] if value is None else value


FeatureName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


class Nothing(Section):
    """What has no fields."""


class OneOf(Section):
    """One of several things, each under a name of its own. ``noun``: what they are; ``advice``: what to do with two."""

    noun: ClassVar[str]
    advice: ClassVar[str] = "give one"

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        written = {name: field.alias or name for name, field in type(self).model_fields.items()}
        names = [text for name, text in written.items() if name in self.given]
        if len(names) != 1:
            known = ", ".join(written.values())
            came = f"came {' and '.join(names)}: {self.advice}" if names else f"came none: give one of {known}"
            raise ValueError(f"expected one {self.noun}, {came}")
        return self

    @property
    def given(self) -> set[str]:
        """Names of the fields that were given."""
        return {name for name in self.model_fields_set if getattr(self, name) is not None}


class Bounds(Section):
    """Numbers from ``low`` to ``high``; either may be left out."""

    low: float | None = None
    high: float | None = None


class Below(Section):
    """Numbers below ``low``."""

    written: ClassVar[str] = "a number"

    low: float


class Above(Section):
    """Numbers above ``high``."""

    written: ClassVar[str] = "a number"

    high: float


NoFields = Annotated[Nothing | None, BeforeValidator(optional_fields, json_schema_input_type=Nothing | None)]
NumberBelow = Annotated[Below | None, BeforeValidator(_bound("low"), json_schema_input_type=float | Below)]
NumberAbove = Annotated[Above | None, BeforeValidator(_bound("high"), json_schema_input_type=float | Above)]


class UncertainPrediction(OneOf):
    """How uncertain: score between two bounds; confidence or margin below one; interval wider than one; more than one
    class in the prediction set; confidence below the certified one.
    """

    noun: ClassVar[str] = "measure"
    advice: ClassVar[str] = "combine conditions with all: [...] or any: [...]"

    score: Annotated[Bounds | None, BeforeValidator(optional_fields)] = None
    confidence: NumberBelow = None
    margin: NumberBelow = None
    interval_width: NumberAbove = None
    set_size: NoFields = None
    certified: NoFields = None


class OutlyingInput(Bounds):
    """Numeric features below ``low`` or above ``high``; without either, outside the fitted bounds."""

    feature: FeatureName | None = None
    features: Annotated[list[FeatureName], Field(max_length=MOST_VALUES)] | None = None


class LowObservationRegion(Section):
    """A category, or a pair of two features', that is one of ``values`` or has fewer than ``least`` reference rows."""

    feature: FeatureName | None = None
    features: Annotated[list[FeatureName], Field(max_length=MOST_VALUES)] | None = None
    values: Annotated[list[Label], Field(max_length=MOST_VALUES)] | None = None
    least: Annotated[int, Field(ge=1, le=10**12)] | None = None


class MissingInput(Section):
    """At least ``least`` of the features are missing; of all watched ones where none is named."""

    feature: FeatureName | None = None
    features: Annotated[list[FeatureName], Field(max_length=MOST_VALUES)] | None = None
    least: Annotated[int, Field(ge=1, le=10**6)] | None = None


class StaleInput(Section):
    """A numeric feature that is a time, in ``unit`` since 1970, older than ``older_than`` before the event."""

    feature: FeatureName
    unit: Literal["s", "ms", "us"]
    older_than: Annotated[int, duration_from(1, 3650 * DAY_MS)]


class ChallengerDisagreement(Section):
    """A challenger predicts another class, or a number further away than ``by``; any of them where none is named."""

    version: Version | None = None
    versions: Annotated[list[Version], Field(max_length=MOST_VALUES)] | None = None
    by: Annotated[float, Field(ge=0)] | None = None


class When(OneOf):
    """When a rule fires: one trigger, or a combination of conditions."""

    noun: ClassVar[str] = "trigger"
    written: ClassVar[str] = "a trigger, all, any or not"
    advice: ClassVar[str] = "combine them with all: [...] or any: [...]"

    all_of: Annotated[list[ACondition] | None, Field(alias=ALL_OF)] = None
    any_of: Annotated[list[ACondition] | None, Field(alias=ANY_OF)] = None
    negated: Annotated[ACondition | None, Field(alias=NOT)] = None
    uncertain_prediction: Annotated[
        UncertainPrediction | None, BeforeValidator(_measure, json_schema_input_type=str | UncertainPrediction)
    ] = None
    outlying_input: Annotated[
        OutlyingInput | None, BeforeValidator(_of_feature, json_schema_input_type=str | list[str] | OutlyingInput)
    ] = None
    novel_input: NoFields = None
    low_observation_region: Annotated[
        LowObservationRegion | None,
        BeforeValidator(_of_feature, json_schema_input_type=str | list[str] | LowObservationRegion),
    ] = None
    missing_input: Annotated[
        MissingInput | None, BeforeValidator(_of_feature, json_schema_input_type=str | list[str] | MissingInput | None)
    ] = None
    stale_input: Annotated[StaleInput | None, BeforeValidator(optional_fields)] = None
    prediction_out_of_range: Annotated[
        Bounds | None, BeforeValidator(optional_fields, json_schema_input_type=Bounds | None)
    ] = None
    challenger_disagreement: Annotated[
        ChallengerDisagreement | None,
        BeforeValidator(_of_version, json_schema_input_type=str | list[str] | ChallengerDisagreement | None),
    ] = None
    in_alarm: Annotated[
        list[Monitor] | None, BeforeValidator(_monitors, json_schema_input_type=Monitor | list[Monitor] | None)
    ] = None

    @property
    def trigger(self) -> str:
        """The name of the trigger or combination, as it is written."""
        (name,) = self.given
        return type(self).model_fields[name].alias or name

    @property
    def fields(self) -> Any:
        """What stands under it."""
        (name,) = self.given
        return getattr(self, name)

    def to_spec(self) -> Condition:
        """What the streams see."""
        fields = self.fields
        if self.trigger in (ALL_OF, ANY_OF):
            return Condition(self.trigger, tuple(each.to_spec() for each in fields))
        if isinstance(fields, When):
            return Condition(NOT, (fields.to_spec(),))
        if self.trigger == IN_ALARM:
            return Condition(IN_ALARM, values=tuple(map(str, fields)))
        return Condition(self.trigger, **_leaf(fields))


ACondition = Annotated[When, BeforeValidator(_condition, json_schema_input_type=str | When)]
When.model_rebuild()


def number_or_none(value: float | None) -> float | None:
    """As the streams have it."""
    return None if value is None else float(value)


def named_features(fields: Section) -> tuple[str, ...]:
    """The features that a trigger names, in order."""
    one, several = getattr(fields, "feature", None), getattr(fields, "features", None)
    return (*(() if one is None else (one,)), *(several or ()))


def _leaf(fields: Section) -> dict[str, Any]:
    """The fields of a trigger as those of a :class:`driftline.humility.rules.Condition`."""
    columns = named_features(fields)
    match fields:
        case UncertainPrediction():
            (measure,) = fields.given
            bounds = getattr(fields, measure)
            low, high = getattr(bounds, "low", None), getattr(bounds, "high", None)
            return {"measure": measure, "low": number_or_none(low), "high": number_or_none(high)}
        case OutlyingInput():
            return {"columns": columns, "low": number_or_none(fields.low), "high": number_or_none(fields.high)}
        case LowObservationRegion():
            return {"columns": columns, "values": tuple(fields.values or ()), "least": fields.least or 1}
        case MissingInput():
            return {"columns": columns, "least": fields.least or 1}
        case StaleInput():
            return {"columns": columns, "measure": fields.unit, "older_than_ms": fields.older_than}
        case Bounds():
            return {"low": number_or_none(fields.low), "high": number_or_none(fields.high)}
        case ChallengerDisagreement():
            versions = (*(() if fields.version is None else (fields.version,)), *(fields.versions or ()))
            return {"values": versions, "high": number_or_none(fields.by)}
        case _:
            return {}


def condition_document(condition: Condition) -> str | dict[str, Any]:
    """A condition as a person would write it: a word where it has no fields."""
    trigger = condition.trigger
    if trigger in (ALL_OF, ANY_OF):
        return {trigger: [condition_document(each) for each in condition.conditions]}
    if trigger == NOT:
        return {NOT: condition_document(condition.conditions[0])}
    if trigger == UNCERTAIN_PREDICTION:
        return {trigger: _measure_document(condition)}
    if trigger == IN_ALARM:
        return {trigger: list(condition.values)} if condition.values else trigger
    fields = _fields_document(condition)
    return {trigger: fields} if fields else trigger


def _measure_document(condition: Condition) -> str | dict[str, Any]:
    bounds: dict[str, Any] = {
        SCORE: range_document(condition.low, condition.high),
        CONFIDENCE: condition.low,
        MARGIN: condition.low,
        INTERVAL_WIDTH: condition.high,
    }
    return {condition.measure: bounds[condition.measure]} if condition.measure in bounds else condition.measure


def _fields_document(condition: Condition) -> dict[str, Any]:
    trigger, columns = condition.trigger, list(condition.columns)
    named: dict[str, Any] = {"feature": columns[0]} if len(columns) == 1 else {"features": columns} if columns else {}
    if trigger in (OUTLYING_INPUT, PREDICTION_OUT_OF_RANGE):
        return named | range_document(condition.low, condition.high)
    if trigger == LOW_OBSERVATION_REGION:
        return named | ({"values": list(condition.values)} if condition.values else {"least": condition.least})
    if trigger == MISSING_INPUT:
        return named | ({"least": condition.least} if condition.least != 1 else {})
    if trigger == STALE_INPUT:
        return named | {"unit": condition.measure, "older_than": duration_text(condition.older_than_ms or 0)}
    if trigger == CHALLENGER_DISAGREEMENT:
        versions = list(condition.values)
        whose = {"version": versions[0]} if len(versions) == 1 else {"versions": versions} if versions else {}
        return whose | ({} if condition.high is None else {"by": condition.high})
    return {}


def range_document(low: float | None, high: float | None) -> dict[str, Any]:
    """The ends that there are."""
    return {name: end for name, end in (("low", low), ("high", high)) if end is not None}
