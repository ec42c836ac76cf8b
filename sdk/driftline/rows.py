"""Row events given as JSON objects, by whatever names their publishers use.

Other products' names for the same thing are read here, at the edge, and nowhere else.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any

from driftline.errors import EventError

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "prediction_id": ("association_id", "inference_id", "event_id", "ce-id", "ce_id", "associationId", "eventId"),
    "timestamp": ("event_timestamp",),
    "actual_timestamp": ("timestamp", "event_timestamp"),
    "actual_value": ("actual_score", "actualValue"),
    "was_acted_on": ("wasActedOn",),
    "labelling_probability": ("labeling_probability",),
}
_MICROSECONDS = 1_000_000
_Fields = Mapping[str, tuple[Callable[[Any], Any], bool]]
"""What an object may have: field to its reader, and whether it is required."""


def timestamp_us(value: Any) -> int:
    """Event time as microseconds since 1970-01-01 UTC.

    Args:
        value: RFC 3339 text with an offset, a ``datetime`` with a time zone, or an integer of microseconds.

    Raises:
        EventError: Anything else: a time without a zone would be somebody's guess.
    """
    if isinstance(value, bool):
        raise EventError(f"expected a time, came {value!r}", reason="event_time")
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise EventError(f"the time {str(value)[:40]} lies beyond 64 bits of microseconds", reason="event_time")
        return int(value)
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise EventError(f"expected an RFC 3339 time, came {value[:80]!r}", reason="event_time") from error
    if not isinstance(value, dt.datetime):
        raise EventError(f"expected a time, came {type(value).__name__}", reason="event_time")
    if value.tzinfo is None:
        raise EventError(f"the time {value.isoformat()} has no zone: add 'Z' or an offset", reason="event_time")
    delta = value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (delta.days * 86_400 + delta.seconds) * _MICROSECONDS + delta.microseconds


def record_from_json(name: str, document: Any) -> dict[str, Any]:
    """The fields of a row event from a JSON object.

    Args:
        name: ``PredictionEvent`` or ``OutcomeEvent``.
        document: What the JSON decoded to.

    Raises:
        EventError: A field is missing, unknown or of the wrong type; the message names it.
    """
    if not isinstance(document, dict):
        raise EventError(f"expected a JSON object, came {type(document).__name__}")
    return _read_object(document, _PREDICTION if name == "PredictionEvent" else _OUTCOME, name)


def _read_object(document: dict[str, Any], fields: _Fields, name: str) -> dict[str, Any]:
    given = dict(document)
    record = {field: _read_field(field, given, reader, required) for field, (reader, required) in fields.items()}
    if given:
        unknown = ", ".join(sorted(map(repr, given))[:5])
        raise EventError(f"unknown field {unknown}: {name} has {', '.join(fields)}")
    return record


def _read_field(field: str, given: dict[str, Any], reader: Callable[[Any], Any], required: bool) -> Any:
    present = next((alias for alias in (field, *_ALIASES.get(field, ())) if alias in given), None)
    value = None if present is None else given.pop(present)
    if value is None and required:
        raise EventError(f"the field {field!r} is required and missing")
    try:
        return reader(value)
    except EventError as error:
        raise EventError(f"{field}: {error}", reason=error.reason) from error


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise EventError(f"expected text, came {type(value).__name__}")
    return str(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise EventError(f"expected a number, came {type(value).__name__} {str(value)[:40]!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _boolean(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise EventError(f"expected true or false, came {str(value)[:40]!r}")


def _feature(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, list):
        return _vector(value)
    return _number(value)


def _vector(values: list[Any]) -> list[float]:
    """A list of numbers; null is NaN, which makes the vector a missing one."""
    numbers = []
    for place, value in enumerate(values):
        try:
            number = _number(value)
        except EventError as error:
            raise EventError(f"a vector's value {place}: {error}") from error
        numbers.append(math.nan if number is None else number)
    return numbers


def _map_of(reader: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def read(value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise EventError(f"expected an object, came {type(value).__name__}")
        return {name: _named(name, reader, item) for name, item in value.items()}

    return read


def _named(name: str, reader: Callable[[Any], Any], item: Any) -> Any:
    try:
        return reader(item)
    except EventError as error:
        raise EventError(f"{name[:80]!r}: {error}", reason=error.reason) from error


def _required_map(reader: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    inner = _map_of(reader)

    def read(value: Any) -> dict[str, Any]:
        items = inner(value)
        empty = next((name for name, item in items.items() if item is None), None)
        if empty is not None:
            raise EventError(f"{empty!r} is null: leave it out instead")
        return items

    return read


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise EventError(f"expected a whole number, came {type(value).__name__} {str(value)[:40]!r}")
    if not -(1 << 63) <= value < 1 << 63:
        raise EventError(f"expected a whole number of 64 bits, came {str(value)[:40]}")
    return value


def _list_of(reader: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def read(value: Any) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise EventError(f"expected a list, came {type(value).__name__}")
        return [_named(str(place), reader, item) for place, item in enumerate(value)]

    return read


def _some_text(value: Any) -> str:
    text = _text(value)
    if text is None:
        raise EventError("expected text, came null")
    return text


def _decision(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise EventError(f"expected an object, came {type(value).__name__}")
    return _read_object(value, _DECISION, "humility")


_DECISION: _Fields = {
    "policy": (_text, True),
    "revision": (_whole, True),
    "action": (_text, True),
    "fired": (_list_of(_whole), False),
    "quantile": (_number, False),
    "alarms": (_list_of(_some_text), False),
    "answer": (_number, False),
    "answer_label": (_text, False),
}
_PREDICTION: _Fields = {
    "prediction_id": (_text, True),
    "deployment_id": (_text, True),
    "model_id": (_text, False),
    "model_version": (_text, True),
    "timestamp": (timestamp_us, True),
    "features": (_map_of(_feature), True),
    "prediction": (_number, False),
    "prediction_label": (_text, False),
    "class_probabilities": (_required_map(_number), False),
    "segments": (_required_map(_text), False),
    "latency_ms": (_number, False),
    "error": (_text, False),
    "prediction_low": (_number, False),
    "prediction_high": (_number, False),
    "challenger_predictions": (_required_map(_number), False),
    "challenger_labels": (_required_map(_text), False),
    "humility": (_decision, False),
}
_OUTCOME: _Fields = {
    "prediction_id": (_text, True),
    "deployment_id": (_text, True),
    "actual_timestamp": (timestamp_us, True),
    "actual_value": (_number, False),
    "actual_label": (_text, False),
    "was_acted_on": (_boolean, False),
    "labelling_probability": (_number, False),
}
