"""Columns of a file to columns of events: numbers, categories, times, ids. What cannot be read is named by its row.

Missing everywhere: nothing, spaces, ``NA``, ``N/A``, ``NaN``, ``nan``, ``null`` and ``NULL``.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from driftline.events import MAX_ID_LENGTH, UNKNOWN_ACTED_ON, CategoricalColumn, category_text
from driftline.limits import no_interval, no_probability
from services.publish.errors import shown
from services.publish.files import Column

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
_MISSING_SET = frozenset(MISSING)
_MISSING_VALUES = pa.array(MISSING)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf(?:inity)?", re.IGNORECASE)
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
_UNITS_US = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_LARGEST_TIME_US = 253_402_300_800_000_000  # the year 10000
_ZONE_AT_END = re.compile(r"(?:[zZ]|[+-][0-9]{2}:?[0-9]{2})$")
RFC_3339 = "rfc3339"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Converted(Generic[T]):
    """A column as events have it. ``bad`` names, by row, what could not be read; such rows hold any value."""

    values: T
    bad: dict[int, str] = field(default_factory=dict)


def to_numbers(column: Column) -> Converted[NDArray[np.float64]]:
    """float64 values, NaN for missing. Numbers written as text are read; booleans are 0 and 1."""
    if isinstance(column, list):
        return _each(column, _number, np.float64, np.nan)
    column = decoded(column)
    if _is_text(column.type):
        return _text_to_numbers(column)
    if pa.types.is_null(column.type):
        return Converted(np.full(len(column), np.nan))
    if not (is_number(column.type) or pa.types.is_boolean(column.type)):
        return all_bad(column, "a number", np.full(len(column), np.nan))
    values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return Converted(np.asarray(values, dtype=np.float64))


def _text_to_numbers(column: Any) -> Converted[NDArray[np.float64]]:
    text = _missing_to_null(column)
    try:
        return Converted(pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        coded = text.dictionary_encode()
        readable = _each(coded.dictionary.to_pylist(), _number, np.float64, np.nan)
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        values = np.append(readable.values, np.nan)[codes]
        bad = {row: readable.bad[code] for row, code in enumerate(codes.tolist()) if code in readable.bad}
        return Converted(values, bad)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, came {str(value).lower()}")
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        text = value.strip()
        if text in _MISSING_SET:
            return math.nan
        if _NUMBER.fullmatch(text):
            return float(text)
    raise ValueError(f"expected a number, came {shown(value)}")


def to_finite_numbers(column: Column) -> Converted[NDArray[np.float64]]:
    """float64 values, NaN for missing; an infinite one is bad."""
    read = to_numbers(column)
    infinite = np.flatnonzero(np.isinf(read.values)).tolist()
    return Converted(
        read.values, read.bad | {row: f"expected a finite number, came {read.values[row]}" for row in infinite}
    )


def to_probabilities(column: Column) -> Converted[NDArray[np.float64]]:
    """Numbers above 0 and at most 1; a missing one is bad."""
    read = to_numbers(column)
    wrong = np.flatnonzero(no_probability(read.values)).tolist()
    came = {row: "nothing" if np.isnan(read.values[row]) else f"{read.values[row]}" for row in wrong}
    messages = {row: f"expected a probability above 0 and at most 1, came {text}" for row, text in came.items()}
    return Converted(read.values, messages | read.bad)


def unfit_intervals(low: NDArray[np.float64], high: NDArray[np.float64]) -> dict[int, str]:
    """By row, what is wrong with an interval: one end is missing or infinite, or the ends are in the wrong order."""
    none = no_interval(low, high, len(low))
    wrong = [] if none is None else np.flatnonzero(none).tolist()
    expected = "expected both ends of an interval as finite numbers, the lower first, or neither"
    return {row: f"{expected}; came {_end(low[row])} and {_end(high[row])}" for row in wrong}


def _end(value: float) -> str:
    return "nothing" if math.isnan(value) else f"{value}"


def to_categories(column: Column) -> Converted[CategoricalColumn]:
    """Text by dictionary, code -1 for missing. Numbers and booleans are written as the client writes them."""
    if isinstance(column, list):
        nested = {row: f"expected text, came {shown(v)}" for row, v in enumerate(column) if isinstance(v, (dict, list))}
        values = [None if row in nested else _category(value) for row, value in enumerate(column)]
        return Converted(CategoricalColumn.from_values(values), nested)
    column = decoded(column)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return all_bad(column, "text", CategoricalColumn([], np.full(len(column), -1, np.int32)))
    coded = column.dictionary_encode()
    texts = [_category(value) for value in coded.dictionary.to_pylist()]
    index: dict[str, int] = {}
    lookup = [-1 if text is None else index.setdefault(text, len(index)) for text in texts]
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Converted(CategoricalColumn(list(index), np.array([*lookup, -1], dtype=np.int32)[codes]))


def _category(value: Any) -> str | None:
    text = category_text(value)
    return None if text is None or text.strip() in _MISSING_SET else text


def to_ids(column: Column) -> Converted[list[str]]:
    """Prediction ids; a missing one is bad."""
    coded = to_categories(column)
    bad = dict(coded.bad)
    texts = coded.values.values()
    for row, text in enumerate(texts):
        if text is None:
            bad.setdefault(row, "the prediction id is missing")
        elif len(text) > MAX_ID_LENGTH:
            bad[row] = f"a prediction id has at most {MAX_ID_LENGTH} characters, came {len(text)}"
    return Converted([text or "?" for text in texts], bad)


def to_flags(column: Column) -> Converted[NDArray[np.uint8]]:
    """Yes or no as uint8 1 and 0, 255 for missing."""
    coded = to_categories(column)
    bad = dict(coded.bad)
    codes = np.full(len(coded.values.codes), UNKNOWN_ACTED_ON, dtype=np.uint8)
    for code, text in enumerate(coded.values.categories):
        rows = np.flatnonzero(coded.values.codes == code)
        word = text.strip().lower()
        if word in _TRUE or word in _FALSE:
            codes[rows] = word in _TRUE
        else:
            bad |= dict.fromkeys(rows.tolist(), f"expected true or false, came {shown(text)}")
    return Converted(codes, bad)


def to_booleans(column: Column) -> Converted[CategoricalColumn]:
    """Yes or no as the categories ``true`` and ``false``, as the client logs booleans; code -1 for missing."""
    flags = to_flags(column)
    codes = np.where(flags.values == UNKNOWN_ACTED_ON, -1, flags.values.astype(np.int32)).astype(np.int32)
    return Converted(CategoricalColumn(["false", "true"], codes), flags.bad)


def to_errors(column: Column) -> Converted[CategoricalColumn]:
    """Classes of errors, code -1 where there is none: the value is missing, or says no (``false``, ``0``, ``no``).

    A fraction is bad: a column of residuals may be called ``error``, too.
    """
    coded = to_categories(column)
    bad = dict(coded.bad)
    index: dict[str, int] = {}
    lookup = np.full(len(coded.values.categories) + 1, -1, dtype=np.int32)
    for code, text in enumerate(coded.values.categories):
        word = text.strip()
        if _NUMBER.fullmatch(word) and not word.isdecimal():
            message = f"expected the class of an error such as 'timeout', came {shown(text)}: is this another column?"
            bad |= dict.fromkeys(np.flatnonzero(coded.values.codes == code).tolist(), message)
        elif word.lower() not in _FALSE:
            lookup[code] = index.setdefault(word, len(index))
    return Converted(CategoricalColumn(list(index), lookup[coded.values.codes]), bad)


def to_times(column: Column, form: str | None, zone: str | None) -> Converted[NDArray[np.int64]]:
    """Microseconds since 1970 UTC; a missing time is bad.

    Args:
        column: RFC 3339 text, a typed time, or numbers if ``form`` says what they count.
        form: ``rfc3339`` (or None), ``epoch_s``, ``epoch_ms`` or ``epoch_us``.
        zone: What times without an offset mean, as an IANA name; without it they are bad. An hour that occurs twice is
            the first of the two.
    """
    if form in _UNITS_US:
        return _numbers_to_times(column, _UNITS_US[form])
    if isinstance(column, list):
        return _texts_to_times(column, zone)
    column = decoded(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _typed_times(column, zone)
    if is_number(column.type):
        hint = "expected a time, came a number: say timestamp_format: epoch_s, epoch_ms or epoch_us in columns"
        return Converted(np.zeros(len(column), np.int64), dict.fromkeys(range(len(column)), hint))
    if not _is_text(column.type):
        return all_bad(column, "a time", np.zeros(len(column), np.int64), missing="the time is missing")
    quick = _text_with_offsets(column)
    if quick is not None:
        return Converted(quick)
    coded = column.dictionary_encode()
    readable = _texts_to_times(coded.dictionary.to_pylist(), zone)
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    bad = {row: readable.bad[code] for row, code in enumerate(codes.tolist()) if code in readable.bad}
    bad |= dict.fromkeys(np.flatnonzero(codes < 0).tolist(), "the time is missing")
    return Converted(np.append(readable.values, 0)[codes], bad)


def _text_with_offsets(column: Any) -> NDArray[np.int64] | None:
    """The usual case in one go: every value is there, and has an offset."""
    if column.null_count:
        return None
    try:
        return np.asarray(pc.cast(column, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return None


def _typed_times(column: Any, zone: str | None) -> Converted[NDArray[np.int64]]:
    missing = dict.fromkeys(
        np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist(), "the time is missing"
    )
    naive = pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
    values = naive.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if getattr(column.type, "tz", None) is not None:
        return Converted(values, missing)
    if zone is None:
        hint = "the time has no zone: say timezone: in the deployment's columns"
        return Converted(values, dict.fromkeys(range(len(column)), hint))
    distinct, inverse = np.unique(values, return_inverse=True)
    epoch = dt.datetime(1970, 1, 1)
    local = [_local_to_us(epoch + dt.timedelta(microseconds=int(value)), zone) for value in distinct]
    return Converted(np.array(local, dtype=np.int64)[inverse], missing)


def _texts_to_times(values: Sequence[Any], zone: str | None) -> Converted[NDArray[np.int64]]:
    def read(value: Any) -> int:
        if value is None or (isinstance(value, str) and value.strip() in _MISSING_SET):
            raise ValueError("the time is missing")
        if not isinstance(value, str):
            raise ValueError(f"expected a time as RFC 3339 text, came {shown(value)}")
        try:
            moment = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"expected an RFC 3339 time such as 2024-05-01T12:00:00Z, came {shown(value)}") from None
        if moment.tzinfo is not None:
            return _to_us(moment)
        if zone is None:
            raise ValueError(f"the time {shown(value)} has no zone: say timezone: in the deployment's columns")
        return _local_to_us(moment, zone)

    return _each(values, read, np.int64, 0)


def _local_to_us(moment: dt.datetime, zone: str) -> int:
    return _to_us(moment.replace(tzinfo=zoneinfo.ZoneInfo(zone)))


def _to_us(moment: dt.datetime) -> int:
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _numbers_to_times(column: Column, unit_us: int) -> Converted[NDArray[np.int64]]:
    if not isinstance(column, list) and pa.types.is_integer(column.type) and not column.null_count:
        whole = column.to_numpy(zero_copy_only=False).astype(np.float64) * unit_us
        if whole.size and np.abs(whole).max() < _LARGEST_TIME_US:
            return Converted(column.to_numpy(zero_copy_only=False).astype(np.int64) * unit_us)

    def read(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            result = value * unit_us
        elif isinstance(value, str) and value.strip().isdecimal():
            result = int(value) * unit_us
        else:
            number = _number(value) if value is not None else math.nan
            if math.isnan(number):
                raise ValueError("the time is missing")
            result = round(number * unit_us) if math.isfinite(number) else _LARGEST_TIME_US
        if abs(result) >= _LARGEST_TIME_US:
            raise ValueError(f"expected a time in the unit the columns name, came {shown(value)}: beyond the year 9999")
        return result

    return _each(column if isinstance(column, list) else column.to_pylist(), read, np.int64, 0)


def _each(values: Sequence[Any], read: Callable[[Any], Any], dtype: Any, filler: Any) -> Converted[Any]:
    result = np.full(len(values), filler, dtype=dtype)
    bad = {}
    for row, value in enumerate(values):
        if value is None and dtype is np.float64:
            continue
        try:
            result[row] = read(value)
        except ValueError as error:
            bad[row] = str(error)
    return Converted(result, bad)


def _missing_to_null(column: Any) -> Any:
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(text, value_set=_MISSING_VALUES), pa.scalar(None, text.type), text)


def decoded(column: Any) -> Any:
    """An Arrow column without its dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: Any) -> bool:
    """Whether values of an Arrow type are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def all_bad(column: Any, expected: str, values: T, *, missing: str | None = None) -> Converted[T]:
    """An Arrow column of which no value can be read; what is missing is bad only if ``missing`` says so."""
    there = column.is_valid().to_numpy(zero_copy_only=False)
    bad = {
        row: f"expected {expected}, came {column.type}" if here else missing
        for row, here in enumerate(there.tolist())
        if here or missing
    }
    return Converted(values, {row: text for row, text in bad.items() if text is not None})
