"""What the numbers of a prediction and its outcome may be, row by row and for whole columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline import columns as read
from driftline.errors import EventError
from driftline.events import CategoricalColumn, Floats

Flags = NDArray[np.bool_]

INTERVAL = "both ends of the model's interval as finite numbers, the lower first, or neither"
"""What the ends of an interval have to be."""


def interval(low: Any, high: Any) -> tuple[float | None, float | None]:
    """Both ends of the model's own interval, or None twice. NaN is none.

    Raises:
        EventError: One end is missing or infinite, or the ends are in the wrong order.
    """
    if low is None and high is None:
        return None, None
    lower, upper = _given(read.number(low, "prediction_low")), _given(read.number(high, "prediction_high"))
    for end, what in ((lower, "prediction_low"), (upper, "prediction_high")):
        if end is not None and math.isinf(end):
            raise _wrong_interval(f"{what} is {end}")
    if lower is not None and upper is not None and lower > upper:
        raise _wrong_interval(f"prediction_low {lower} is above prediction_high {upper}")
    if (lower is None) != (upper is None):
        raise _wrong_interval(f"prediction_{'low' if lower is None else 'high'} is missing")
    return lower, upper


def _given(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _wrong_interval(what: str) -> EventError:
    return EventError(f"{what}: expected {INTERVAL}")


def actual(value: Any, of_class: str | None) -> float | None:
    """An actual value, or None where there is none beside the actual class. NaN is none.

    Raises:
        EventError: There is neither value nor class, or the value is infinite.
    """
    given = read.number(value, "actual_value")
    if given is not None and math.isinf(given):
        raise EventError(f"actual_value: expected a finite number, came {given}")
    found = _given(given)
    if found is None and of_class is None:
        came = "both are missing" if given is None else "actual_value is NaN, which is none, and the label is missing"
        raise EventError(f"an outcome needs actual_value or actual_label; {came}: log it once it is known")
    return found


def probability(value: Any, what: str) -> float | None:
    """A probability above 0 and at most 1, or None."""
    given = read.number(value, what)
    if given is not None and not 0 < given <= 1:
        raise EventError(f"{what}: expected a number above 0 and at most 1, came {given}")
    return given


def no_interval(low: Floats | None, high: Floats | None, rows: int) -> Flags | None:
    """Which rows, bool[n], have ends that make no interval; see :func:`interval`. None where no row has any."""
    if low is None and high is None:
        return None
    lower = np.full(rows, np.nan) if low is None else low
    upper = np.full(rows, np.nan) if high is None else high
    with np.errstate(invalid="ignore"):
        return np.asarray((lower > upper) | (np.isnan(lower) != np.isnan(upper)) | np.isinf(lower) | np.isinf(upper))


def no_actual(values: Floats | None, labels: CategoricalColumn | None, rows: int) -> Flags:
    """Which rows, bool[n], have neither an actual value nor an actual class; NaN is no value."""
    unknown = np.ones(rows, dtype=bool) if values is None else np.isnan(values)
    return unknown if labels is None else np.asarray(unknown & (labels.codes < 0))


def no_probability(values: Floats) -> Flags:
    """Which rows, bool[n], are no probability above 0 and at most 1; NaN is none."""
    return np.asarray(~((values > 0) & (values <= 1)))


def check_intervals(low: Floats | None, high: Floats | None) -> None:
    """Columns of lower and upper ends, NaN where a row has none; see :func:`interval`.

    Raises:
        EventError: Names the first row of which one end is missing or infinite, or the ends are in the wrong order.
    """
    if low is None and high is None:
        return
    if low is None or high is None:
        raise _wrong_interval(f"prediction_{'low' if low is None else 'high'} is missing")
    wrong = no_interval(low, high, len(low))
    if wrong is not None and wrong.any():
        row = int(wrong.argmax())
        raise _wrong_interval(f"row {row}: prediction_low is {low[row]}, prediction_high {high[row]}")


def check_actuals(values: Floats | None, labels: CategoricalColumn | None, rows: int) -> None:
    """Columns of actual values and classes; see :func:`actual`.

    Raises:
        EventError: Names the first row without value and class, or with an infinite value.
    """
    unknown = no_actual(values, labels, rows)
    if unknown.any():
        raise EventError(
            f"row {int(unknown.argmax())}: an outcome needs actual_value or actual_label, both are missing (NaN is no "
            "outcome): leave out the rows whose outcome is not known yet"
        )
    if values is not None and np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise EventError(f"actual_value, row {row}: expected a finite number, came {values[row]}")


def probability_column(column: Any, what: str) -> Floats:
    """A column of probabilities above 0 and at most 1, as float64, copied. A missing one is refused."""
    values = read.number_column(column, what)
    wrong = no_probability(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise EventError(
            f"{what}, row {row}: expected a number above 0 and at most 1, came {values[row]}; "
            "a row that was certain to be labelled has 1"
        )
    return values
