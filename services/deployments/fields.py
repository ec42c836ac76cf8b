"""What the fields of a specification may hold: names, classes, durations, margins."""

from __future__ import annotations

import difflib
import zoneinfo
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from driftline.errors import EventError
from driftline.rows import timestamp_us
from services.deployments.durations import duration_ms, duration_text

MAX_NAME = 256
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def _name(text: str) -> str:
    if not text or len(text) > MAX_NAME or not text.isprintable() or "#" in text or "@" in text:
        raise ValueError(
            f"expected 1 to {MAX_NAME} printable characters without '#' and '@' (they separate keys), "
            f"came {text[:80]!r}"
        )
    return text


def _column(text: str) -> str:
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise ValueError(f"expected the name of a column, 1 to {MAX_NAME} printable characters, came {text[:80]!r}")
    return text


def _label(value: Any) -> Any:
    """A class may look like a number or a boolean; it is text all the same."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def _segmentation(text: str) -> str:
    if not text or len(text) > MAX_NAME or not text.isprintable() or "=" in text:
        raise ValueError(
            f"expected 1 to {MAX_NAME} printable characters without '=' (it separates a part from its value), "
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


def duration_from(low_ms: int, high_ms: int) -> BeforeValidator:
    """A duration as people write it, in milliseconds, from the lowest to the highest."""

    def check(value: Any) -> int:
        given = duration_ms(value)
        if not low_ms <= given <= high_ms:
            raise ValueError(
                f"expected {duration_text(low_ms)} to {duration_text(high_ms)}, came {duration_text(given)}"
            )
        return given

    return BeforeValidator(check, json_schema_input_type=str)


def _runbook(text: str) -> str:
    if not text.startswith(("https://", "http://")) or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"expected an http(s) address, came {text[:80]!r}")
    return text


_AS_TEXT = BeforeValidator(_label, json_schema_input_type=str | int | bool)

Name = Annotated[str, AfterValidator(_name)]
Column = Annotated[str, AfterValidator(_column)]
Label = Annotated[str, _AS_TEXT, Field(min_length=1, max_length=MAX_NAME)]
Segmentation = Annotated[str, AfterValidator(_segmentation)]
Margin = Annotated[float, Field(ge=0, lt=0.5)]
Part = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Version = Annotated[str, _AS_TEXT, AfterValidator(_name)]
Zone = Annotated[str, AfterValidator(_zone)]
Moment = Annotated[int, BeforeValidator(_moment_us, json_schema_input_type=str)]
Runbook = Annotated[str, AfterValidator(_runbook)]
Switch = Annotated[
    Literal["on", "off"], BeforeValidator(_on_or_off, json_schema_input_type=Literal["on", "off"] | bool)
]


Monitor = Literal[
    "data_drift",
    "prediction_drift",
    "data_quality",
    "service",
    "concept_drift",
    "labels",
    "fairness",
    "humility",
]


class Section(BaseModel):
    """A part of the file: nothing unknown, nothing converted, no NaN. ``written``: how people write it."""

    written: ClassVar[str] = "'key: value' lines"

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
