"""Python values to columns: what a caller hands over, checked in the caller's thread, and packed in the background.

The kind of a feature is the kind of its values: numbers are numeric, text and booleans categorical, None and NaN
missing. Where a column mixes both, each value lands in the map of its own kind and is missing in the other, so what
becomes of a row never depends on the rows it happens to travel with.
"""

from __future__ import annotations

import datetime as dt
import numbers
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.errors import EventError
from driftline.events import MAX_ID_LENGTH, CategoricalColumn, Floats, Times, category_text
from driftline.rows import timestamp_us

_NUMBERS: frozenset[type] = frozenset(
    {int, float, *(np.dtype(code).type for code in "bBhHiIlLqQefd")}  # numpy's integers and floats, by type code
)
_TEXTS: frozenset[type] = frozenset({str, bool, np.bool_})
_MISSING: frozenset[type] = frozenset({type(None)})
_NUMBERS_OR_MISSING = _NUMBERS | _MISSING
_TEXTS_OR_MISSING = _TEXTS | _MISSING
_PLAIN = _NUMBERS | _TEXTS | _MISSING
_TEXT_KEYS: frozenset[type] = frozenset({str})
_MISSING_NAMES = frozenset({"NAType", "NaTType"})  # pandas, which this package does not import


def plain(value: Any, what: str) -> Any:
    """A feature value as number, text, boolean or None.

    Raises:
        EventError: The value is none of these.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # text enumerations and numpy's strings, as text alone
    if type(value).__name__ in _MISSING_NAMES:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return plain(value[()], what)
    # Arrays and complex numbers can be cast to float too, with a warning and a loss.
    castable = hasattr(value, "__float__") and not isinstance(value, (np.ndarray, np.complexfloating))
    if isinstance(value, numbers.Real) or castable:
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
        except (TypeError, ValueError):
            pass
    raise _unfit(value, what)


def _unfit(value: Any, what: str) -> EventError:
    return EventError(
        f"{what}: expected a number, text, a boolean or None, came {type(value).__name__}; "
        "turn times into numbers and lists into several features"
    )


def plain_features(features: Any) -> dict[str, Any]:
    """A copy of a row's features, checked."""
    if not isinstance(features, Mapping):
        raise EventError(f"features: expected a mapping of name to value, came {type(features).__name__}")
    copy = dict(features)
    if not _TEXT_KEYS.issuperset(map(type, copy)):
        copy = {feature_name(name, "features"): value for name, value in copy.items()}
    if _PLAIN.issuperset(map(type, copy.values())):
        return copy
    return {name: plain(value, f"feature {name[:80]!r}") for name, value in copy.items()}


def feature_name(name: Any, what: str) -> str:
    """The name of a feature or segment attribute."""
    if not isinstance(name, str):
        raise EventError(f"{what}: names must be text, came {type(name).__name__} {str(name)[:80]!r}")
    return str.__str__(name)


def number(value: Any, what: str) -> float | None:
    """A number, or None."""
    if value is None or type(value) is float:
        return value
    value = plain(value, what)
    if value is None:
        return None
    if isinstance(value, str):
        raise EventError(f"{what}: expected a number, came text {value[:40]!r}; a class goes into the label")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def label(value: Any, what: str) -> str | None:
    """A class or a segment's value as text, or None."""
    if value is None or type(value) is str:
        return value
    return category_text(plain(value, what))


def flag(value: Any, what: str) -> bool | None:
    """True, False or None."""
    if value is None or type(value) is bool:
        return value
    value = plain(value, what)
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    raise EventError(f"{what}: expected True, False or None, came {str(value)[:40]!r}")


def numbers_by_class(values: Any, what: str) -> dict[str, float | None] | None:
    """Class to probability, or None."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise EventError(f"{what}: expected a mapping of class to number, came {type(values).__name__}")
    return {class_name(key, what): number(value, f"{what}[{str(key)[:80]}]") for key, value in values.items()}


def class_name(key: Any, what: str) -> str:
    """The name of a class."""
    name = label(key, what)
    if name is None:
        raise EventError(f"{what}: a class needs a name, came {key!r}")
    return name


def labels_by_name(values: Any, what: str) -> dict[str, str | None] | None:
    """Segment name to value, or None."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise EventError(f"{what}: expected a mapping of name to text, came {type(values).__name__}")
    return {feature_name(key, what): label(value, f"{what}[{str(key)[:80]}]") for key, value in values.items()}


def identifier(value: Any) -> str:
    """A prediction id: text of 1 to 256 characters; integers and UUIDs are written as text."""
    if type(value) is str:
        text = value
    elif isinstance(value, (str, int, np.integer, uuid.UUID)) and not isinstance(value, bool):
        text = str.__str__(value) if isinstance(value, str) else str(value)
    else:
        raise EventError(f"prediction_id: expected text, came {type(value).__name__}")
    if not 0 < len(text) <= MAX_ID_LENGTH:
        raise EventError(f"prediction_id: expected 1 to {MAX_ID_LENGTH} characters, came {len(text)}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EventError(f"prediction_id: {text[:80]!r} is not Unicode text: {error.reason}") from error
    return text


def time_us(value: Any) -> int:
    """A time as microseconds since 1970-01-01 UTC; see :func:`driftline.rows.timestamp_us`.

    numpy's and pandas' times without a zone are refused like any other.
    """
    if isinstance(value, np.integer):
        value = int(value)
    return timestamp_us(value)


# Columns


def floats(values: Sequence[Any]) -> Floats:
    """Numbers and None as float64; integers beyond float64 become infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([_number_or_nan(value) for value in values], dtype=np.float64)


def _number_or_nan(value: Any) -> float:
    converted = number(value, "")
    return float("nan") if converted is None else converted


def by_kind(values: Sequence[Any]) -> tuple[Floats | None, CategoricalColumn | None]:
    """A column of plain values as numeric and categorical column; None for the one without a value."""
    kinds = set(map(type, values))
    if kinds <= _MISSING:
        return None, None
    if kinds <= _NUMBERS_OR_MISSING:
        return floats(values), None
    if kinds <= _TEXTS_OR_MISSING:
        return None, CategoricalColumn.from_values(values)
    texts = [type(value) in _TEXTS for value in values]
    as_numbers = floats([None if is_text else value for value, is_text in zip(values, texts, strict=True)])
    as_text = CategoricalColumn.from_values(
        [value if is_text else None for value, is_text in zip(values, texts, strict=True)]
    )
    return (None if np.isnan(as_numbers).all() else as_numbers), as_text  # pandas writes a missing text as NaN


def named_columns(table: Any, what: str) -> dict[str, Any]:
    """Name to column, of a mapping, a pandas or polars data frame or a pyarrow table (none of which is imported)."""
    if isinstance(table, Mapping) or (hasattr(table, "items") and not hasattr(table, "column_names")):
        items: Iterable[tuple[Any, Any]] = table.items()
    elif hasattr(table, "column_names") and hasattr(table, "column"):
        items = ((name, table.column(name)) for name in table.column_names)
    elif hasattr(table, "get_columns"):
        items = ((column.name, column) for column in table.get_columns())
    else:
        raise EventError(f"{what}: expected a mapping of name to column, came {type(table).__name__}")
    return {feature_name(name, what): column for name, column in items}


def array_of(column: Any, what: str) -> NDArray[Any]:
    """A column as a one-dimensional numpy array; a view where that is possible."""
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
        raise EventError(f"{what}: expected a column (array or sequence), came {type(column).__name__}")
    if isinstance(column, (list, tuple)):
        array = np.empty(len(column), dtype=object)  # np.array would guess: [1, 'a'] becomes ['1', 'a']
        array[:] = column
    elif hasattr(column, "to_numpy") and hasattr(column, "chunks"):
        array = column.to_numpy()  # pyarrow.ChunkedArray
    elif hasattr(column, "to_numpy") and hasattr(column, "to_pylist"):
        array = column.to_numpy(zero_copy_only=False)  # pyarrow.Array
    else:
        array = np.asarray(column)
    if array.ndim != 1:
        raise EventError(f"{what}: expected one dimension, came shape {array.shape}")
    return array


def feature_column(column: Any, what: str) -> tuple[Floats | None, CategoricalColumn | None]:
    """A feature column as numeric and categorical column, copied; None for the one without a value."""
    coded = _pandas_codes(column)
    if coded is not None:
        return None, coded
    array = array_of(column, what)
    if array.dtype.kind in "iuf":
        return np.array(array, dtype=np.float64), None
    if array.dtype.kind == "b":
        return None, CategoricalColumn(["false", "true"], array.astype(np.int32))
    if array.dtype.kind not in "OUT":
        raise EventError(f"{what}: expected numbers, text or booleans, came {array.dtype}; turn times into numbers")
    values = array.tolist()
    if not _PLAIN.issuperset(map(type, values)):
        values = [plain(value, f"{what}, row {row}") for row, value in enumerate(values)]
    return by_kind(values)


def number_column(column: Any, what: str) -> Floats:
    """A column of numbers as float64, copied."""
    array = array_of(column, what)
    if array.dtype.kind in "iufb":
        return np.array(array, dtype=np.float64)
    numeric, categorical = feature_column(array, what)
    if categorical is not None:
        raise EventError(
            f"{what}: expected numbers, came {categorical.categories[0][:40]!r}; a class goes into the label"
        )
    return np.full(len(array), np.nan) if numeric is None else numeric


def label_column(column: Any, what: str) -> CategoricalColumn:
    """A column of classes as text."""
    coded = _pandas_codes(column)
    if coded is not None:
        return coded
    array = array_of(column, what)
    if array.dtype.kind == "b":
        return CategoricalColumn(["false", "true"], array.astype(np.int32))
    return CategoricalColumn.from_values(
        [label(value, f"{what}, row {row}") for row, value in enumerate(array.tolist())]
    )


def time_column(column: Any, what: str) -> Times:
    """A column of times as int64 microseconds since 1970-01-01 UTC; ``datetime64`` counts as UTC, as numpy has it."""
    array = _pandas_instants(column)
    if array is None:
        array = array_of(column, what)
    if array.dtype.kind == "M":
        if bool(np.isnat(array).any()):
            raise EventError(f"{what}, row {int(np.isnat(array).argmax())}: the time is missing", reason="event_time")
        return array.astype("datetime64[us]").astype(np.int64)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return np.array(_each(time_us, array.tolist(), what), dtype=np.int64)


def id_column(column: Any, what: str) -> list[str]:
    """A column of prediction ids."""
    values = column if isinstance(column, list) else array_of(column, what).tolist()
    if _TEXT_KEYS.issuperset(map(type, values)) and values:
        lengths = list(map(len, values))
        if min(lengths) > 0 and max(lengths) <= MAX_ID_LENGTH and "".join(values).isascii():
            return list(values)
    return _each(identifier, values, what)


def _each(read: Callable[[Any], Any], values: list[Any], what: str) -> list[Any]:
    result = []
    for row, value in enumerate(values):
        try:
            result.append(read(value))
        except EventError as error:
            raise EventError(f"{what}, row {row}: {error}", reason=error.reason) from error
    return result


def _pandas_codes(column: Any) -> CategoricalColumn | None:
    """A pandas categorical of text without going through its values."""
    if type(getattr(column, "dtype", None)).__name__ != "CategoricalDtype":
        return None
    values = getattr(column, "array", column)
    categories = [category_text(plain(value, "category")) for value in values.categories.tolist()]
    if any(category is None for category in categories) or len(set(categories)) != len(categories):
        return None
    return CategoricalColumn([str(category) for category in categories], np.array(values.codes, dtype=np.int32))


def _pandas_instants(column: Any) -> NDArray[Any] | None:
    """Times of pandas with a zone, as ``datetime64`` in UTC."""
    if type(getattr(column, "dtype", None)).__name__ != "DatetimeTZDtype":
        return None
    return np.asarray(column.to_numpy("datetime64[us]"))


def now_rfc3339() -> str:
    """The time, for ``ce_time``."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
