"""Watched columns out of a batch, in the kind that the specification declares.

Publishers are not always of one mind about kinds: a weekday arrives as 1 to 7, a price as text. What can be read
without guessing is read; anything else is refused with the value that could not be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.errors import EventError
from driftline.events import CategoricalColumn, Floats, PredictionColumns, category_text

PREDICTION = "prediction"
PREDICTION_LABEL = "prediction_label"
PROBABILITY_PREFIX = "probability:"

_BOOLEANS = {"true": 1.0, "false": 0.0}
_MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True, eq=False, slots=True)
class Watched:
    """The watched columns of a batch of n rows.

    Attributes:
        times_us: int64[n], event times.
        numeric: float64[S, n], plain streams first, then seasonal ones.
        categorical: One per categorical stream.
        parts: Per segmentation int64[n], each row's part, -1 for none.
    """

    times_us: NDArray[np.int64]
    numeric: Floats | None
    categorical: Sequence[CategoricalColumn]
    parts: Sequence[NDArray[np.int64]]

    @property
    def rows(self) -> int:
        """Number of rows, n."""
        return len(self.times_us)


def numeric_column(columns: PredictionColumns, name: str) -> Floats:
    """A feature as float64, shape ``(rows,)``; all NaN if the batch does not have it.

    A column of mixed values arrives in two halves, numbers and texts; each row is taken from the half that has it.

    Raises:
        EventError: The column came as text that is not a number.
    """
    values, texts = columns.numeric.get(name), columns.categorical.get(name)
    if texts is None:
        return np.full(columns.rows, np.nan) if values is None else values
    numbers = np.array([*(_number(name, text) for text in texts.categories), math.nan])
    from_texts = np.asarray(numbers[texts.codes])
    return from_texts if values is None else np.where(np.isnan(values), from_texts, values)


def categorical_column(columns: PredictionColumns, name: str) -> CategoricalColumn:
    """A feature as a dictionary-encoded column; all missing if the batch does not have it.

    A column of mixed values arrives in two halves, numbers and texts; each row is taken from the half that has it.
    """
    values, texts = columns.numeric.get(name), columns.categorical.get(name)
    if values is None:
        missing = np.full(columns.rows, -1, dtype=np.int32)
        return CategoricalColumn((), missing) if texts is None else texts
    if texts is None:
        texts = CategoricalColumn((), np.full(columns.rows, -1, dtype=np.int32))
    index = {category: code for code, category in enumerate(texts.categories)}
    distinct, position = np.unique(values, return_inverse=True)
    of_distinct = [category_text(value) for value in distinct.tolist()]
    codes = [-1 if text is None else index.setdefault(text, len(index)) for text in of_distinct]
    from_values = np.array(codes, dtype=np.int32)[position]
    return CategoricalColumn(list(index), np.where(texts.codes >= 0, texts.codes, from_values))


def prediction_column(columns: PredictionColumns, stream: str) -> Floats | CategoricalColumn | None:
    """The values of a prediction stream: ``prediction``, ``prediction_label`` or ``probability:CLASS``."""
    if stream == PREDICTION:
        return columns.prediction
    if stream == PREDICTION_LABEL:
        return columns.prediction_label
    return columns.class_probabilities.get(stream.removeprefix(PROBABILITY_PREFIX))


def occurrences(columns: Iterable[CategoricalColumn]) -> dict[str, int]:
    """How many rows have each category."""
    totals: dict[str, int] = {}
    for column in columns:
        present = np.bincount(column.codes[column.codes >= 0], minlength=len(column.categories)).tolist()
        for category, count in zip(column.categories, present, strict=True):
            totals[category] = totals.get(category, 0) + count
    return totals


def _number(name: str, text: str) -> float:
    stripped = text.strip()
    if stripped in _BOOLEANS:
        return _BOOLEANS[stripped]
    try:
        return float(stripped)
    except ValueError:
        if stripped.lower() in _MISSING_TEXTS:
            return math.nan
        raise EventError(
            f"feature {name!r} is declared numeric, but {text[:80]!r} is not a number: publish numbers, "
            "or declare it categorical in the specification"
        ) from None
