"""Python values to columns: what a caller hands over, checked in the caller's thread, and packed in the background.

The kind of a feature is the kind of its values: numbers are numeric, text and booleans categorical, lists and arrays
of numbers vectors, None and NaN missing. Where a column mixes kinds, each value lands in the map of its own and is
missing in the others, so what becomes of a row never depends on the rows it happens to travel with.
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
from driftline.events import (
    MAX_ID_LENGTH,
    CategoricalColumn,
    Floats,
    Times,
    Vectors,
    category_text,
    checked_dimension,
    checked_name,
    single_precision,
)
from driftline.rows import timestamp_us

NUMBERS: frozenset[type] = frozenset(
    {int, float, *(np.dtype(code).type for code in "bBhHiIlLqQefd")}  # numpy's integers and floats, by type code
)
_TEXTS: frozenset[type] = frozenset({str, bool, np.bool_})
_MISSING: frozenset[type] = frozenset({type(None)})
_NUMBERS_OR_MISSING = NUMBERS | _MISSING
_TEXTS_OR_MISSING = _TEXTS | _MISSING
_PLAIN = NUMBERS | _TEXTS | _MISSING
_TEXT_KEYS: frozenset[type] = frozenset({str})
_MISSING_NAMES = frozenset({"NAType", "NaTType"})  # pandas, which this package does not import


def plain(value: Any, what: str) -> Any:
    """A value as number, text, boolean or None.

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
        f"{what}: expected a number, text, a boolean or None (a feature may also be a list of numbers), "
        f"came {type(value).__name__}; turn times into numbers"
    )


def plain_features(features: Any) -> tuple[dict[str, Any], dict[str, Vectors] | None]:
    """A copy of a row's features, checked: the plain ones, and the vectors or None where there are none."""
    if not isinstance(features, Mapping):
        raise EventError(f"features: expected a mapping of name to value, came {type(features).__name__}")
    copy = dict(features)
    if not _TEXT_KEYS.issuperset(map(type, copy)):
        copy = {feature_name(name, "features"): value for name, value in copy.items()}
    if _PLAIN.issuperset(map(type, copy.values())):
        return copy, None
    vectors = {}
    for name, value in [(name, value) for name, value in copy.items() if type(value) not in _PLAIN]:
        what = f"feature {name[:80]!r}"
        if is_vector(value):
            vectors[name] = vector(value, what)
            del copy[name]
        else:
            copy[name] = plain(value, what)
    return copy, vectors or None


def is_vector(value: Any) -> bool:
    """Whether it is meant as a vector: a list, a tuple, or an array or tensor of one dimension."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def vector(values: Any, what: str) -> Vectors:
    """A vector as float32, shape ``(dimension,)``, copied. None among the numbers is NaN.

    Raises:
        EventError: There is something else than numbers in it, nothing, or too much.
    """
    checked_dimension(len(values), what)
    if not isinstance(values, (list, tuple)):
        array = np.asarray(values)
        if array.dtype.kind in "iuf":
            return single_precision(array)
        values = array.tolist()
    if not _NUMBERS_OR_MISSING.issuperset(map(type, values)):
        values = [_component(value, f"{what}, value {place}") for place, value in enumerate(values)]
    try:
        return single_precision(values)
    except OverflowError:  # an integer beyond float64
        return single_precision(floats(values))


def _component(value: Any, what: str) -> float | None:
    if isinstance(value, (str, bool, np.bool_)):
        raise EventError(f"{what}: a vector has numbers only, came {type(value).__name__} {str(value)[:40]!r}")
    return number(value, what)


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
        raise EventError(f"{what}: expected a number, came text {value[:40]!r}; a class goes into {_label_for(what)}")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _label_for(what: str) -> str:
    """The argument that takes a class instead of the number that another one takes."""
    return {"actual_value": "actual_label", "prediction": "prediction_label"}.get(what, "the label")


def label(value: Any, what: str) -> str | None:
    """A class or a segment's value as text, or None."""
    if value is None or type(value) is str:
        return value
    return category_text(plain(value, what))


def error_class(value: Any, what: str) -> str | None:
    """The class of an error: text, or an exception, which goes by its type's name. None or empty is no error."""
    if isinstance(value, BaseException):
        return type(value).__name__
    value = plain(value, what)
    if value is None or isinstance(value, str):
        return value or None
    raise EventError(f"{what}: expected a short class such as 'timeout', or an exception, came {type(value).__name__}")


def flag(value: Any, what: str) -> bool | None:
    """True, False or None; 1 and 0 are the first two, and NaN is the third, as a column with gaps has them."""
    if value is None or type(value) is bool:
        return value
    value = plain(value, what)
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if type(value) in NUMBERS and (value != value or value in (0, 1)):
        return None if value != value else bool(value)
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


def challengers(values: Any) -> tuple[dict[str, float] | None, dict[str, str] | None]:
    """What challengers would have said, each a number, a class, or a tuple of both: version to number and to class."""
    if values is None:
        return None, None
    if not isinstance(values, Mapping):
        raise EventError(f"challengers: expected a mapping of version to answer, came {type(values).__name__}")
    by_number, by_class = {}, {}
    for version, answer in values.items():
        what = f"challengers[{str(version)[:80]!r}]"
        checked_name(version, what)
        of_number, of_class = answer if isinstance(answer, tuple) and len(answer) == 2 else _by_kind(answer, what)
        found, name = number(of_number, what), label(of_class, what)
        if found is not None:
            by_number[version] = found
        if name is not None:
            by_class[version] = name
    return by_number or None, by_class or None


def _by_kind(answer: Any, what: str) -> tuple[Any, Any]:
    """An answer as number and class, one of which is None."""
    answer = plain(answer, what)
    return (None, answer) if isinstance(answer, (str, bool, np.bool_)) else (answer, None)


def challenger_columns(table: Any) -> tuple[dict[str, Floats], dict[str, CategoricalColumn]]:
    """The same by columns, each of numbers, of classes, or a tuple of two such columns."""
    by_number, by_class = {}, {}
    for version, column in [] if table is None else named_columns(table, "challengers").items():
        what = f"challengers[{version[:80]!r}]"
        checked_name(version, what)
        if isinstance(column, tuple) and len(column) == 2 and not any(map(_is_single, column)):  # both, or None
            of_number, of_class = column
        else:
            of_number, of_class, vectors = feature_column(column, what)
            if vectors is not None:
                raise EventError(f"{what}: expected numbers or classes, came vectors of {vectors.shape[1]} numbers")
        if of_number is not None:
            by_number[version] = number_column(of_number, what)
        if of_class is not None:
            by_class[version] = of_class if isinstance(of_class, CategoricalColumn) else label_column(of_class, what)
    return by_number, by_class


def _is_single(value: Any) -> bool:
    return isinstance(value, str) or not (value is None or hasattr(value, "__len__"))


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
    array = _array(column, what)
    if array.ndim != 1:
        raise EventError(f"{what}: expected one dimension, came shape {array.shape}")
    return array


def _array(column: Any, what: str) -> NDArray[Any]:
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
        raise EventError(f"{what}: expected a column (array or sequence), came {type(column).__name__}")
    if isinstance(column, (list, tuple)):
        return np.fromiter(column, object, len(column))  # np.array would guess: [1, 'a'] becomes ['1', 'a']
    if hasattr(column, "to_numpy") and hasattr(column, "chunks"):
        return np.asarray(column.to_numpy())  # pyarrow.ChunkedArray
    if hasattr(column, "to_numpy") and hasattr(column, "to_pylist"):
        return np.asarray(column.to_numpy(zero_copy_only=False))  # pyarrow.Array
    return np.asarray(column)


def feature_column(column: Any, what: str) -> tuple[Floats | None, CategoricalColumn | None, Vectors | None]:
    """A feature column as numeric column, categorical column and vectors, copied; None for those without a value.

    Vectors are a two-dimensional array, one row each, or a column of lists or arrays of one length.
    """
    coded = _pandas_codes(column)
    if coded is not None:
        return None, coded, None
    array = _array(column, what)
    if array.ndim == 2:
        return None, None, _matrix(array, what)
    if array.ndim != 1:
        raise EventError(f"{what}: expected one dimension, or two for vectors, came shape {array.shape}")
    if array.dtype.kind in "iuf":
        return np.array(array, dtype=np.float64), None, None
    if array.dtype.kind == "b":
        return None, CategoricalColumn(["false", "true"], array.astype(np.int32)), None
    if array.dtype.kind not in "OUT":
        raise EventError(f"{what}: expected numbers, text or booleans, came {array.dtype}; turn times into numbers")
    values, vectors = array.tolist(), None
    if not _PLAIN.issuperset(map(type, values)):
        vectors = vector_column({row: value for row, value in enumerate(values) if is_vector(value)}, len(values), what)
        values = [None if is_vector(value) else plain(value, f"{what}, row {row}") for row, value in enumerate(values)]
    return *by_kind(values), vectors


def _matrix(array: NDArray[Any], what: str) -> Vectors:
    if array.dtype.kind not in "iuf":
        raise EventError(f"{what}: expected vectors of numbers, came {array.dtype}")
    checked_dimension(array.shape[1], what)
    return single_precision(array)


def vector_column(by_row: Mapping[int, Any], rows: int, what: str) -> Vectors | None:
    """The vectors of some rows, the others NaN, as float32 of shape ``(rows, dimension)``; None if there are none.

    Raises:
        EventError: They differ in dimension.
    """
    found = {row: vector(value, f"{what}, row {row}") for row, value in by_row.items()}
    if not found:
        return None
    dimension = len(next(iter(found.values())))
    result = np.full((rows, dimension), np.nan, dtype=np.float32)
    for row, values in found.items():
        if len(values) != dimension:
            raise EventError(
                f"{what}, row {row}: expected a vector of {dimension} numbers like those before, came {len(values)}"
            )
        result[row] = values
    return result


def number_column(column: Any, what: str) -> Floats:
    """A column of numbers as float64, copied."""
    array = array_of(column, what)
    if array.dtype.kind in "iufb":
        return np.array(array, dtype=np.float64)
    numeric, categorical, vectors = feature_column(array, what)
    if vectors is not None:
        raise EventError(f"{what}: expected numbers, came vectors of {vectors.shape[1]} numbers")
    if categorical is not None:
        raise EventError(
            f"{what}: expected numbers, came {categorical.categories[0][:40]!r}; a class goes into {_label_for(what)}"
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


def error_column(column: Any, what: str) -> CategoricalColumn:
    """A column of errors by class; see :func:`error_class`."""
    return CategoricalColumn.from_values(
        [error_class(value, f"{what}, row {row}") for row, value in enumerate(array_of(column, what).tolist())]
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
