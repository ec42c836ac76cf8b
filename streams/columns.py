"""A watched column out of a batch, in the kind that the specification declares.

Publishers are not always of one mind about kinds: a weekday arrives as 1 to 7, a price as text. What can be read
without guessing is read; anything else is refused with the value that could not be.
"""

from __future__ import annotations

import math

import numpy as np

from driftline.errors import EventError
from driftline.events import CategoricalColumn, Floats, PredictionColumns, category_text

PREDICTION = "prediction"
PREDICTION_LABEL = "prediction_label"
PROBABILITY_PREFIX = "probability:"

_MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "none"})


def numeric_column(columns: PredictionColumns, name: str) -> Floats:
    """A feature as float64, shape ``(rows,)``; all NaN if the batch does not have it.

    Raises:
        EventError: The column came as text that is not a number.
    """
    values = columns.numeric.get(name)
    if values is not None:
        return values
    column = columns.categorical.get(name)
    if column is None:
        return np.full(columns.rows, np.nan)
    numbers = np.array([*(_number(name, text) for text in column.categories), math.nan])
    return np.asarray(numbers[column.codes])


def categorical_column(columns: PredictionColumns, name: str) -> CategoricalColumn:
    """A feature as a dictionary-encoded column; all missing if the batch does not have it."""
    column = columns.categorical.get(name)
    if column is not None:
        return column
    values = columns.numeric.get(name)
    if values is None:
        return CategoricalColumn((), np.full(columns.rows, -1, dtype=np.int32))
    distinct, codes = np.unique(values, return_inverse=True)
    texts = [category_text(value) for value in distinct.tolist()]
    if None not in texts:
        return CategoricalColumn([text for text in texts if text is not None], codes.astype(np.int32))
    present = [text for text in texts if text is not None]
    recode = np.array([-1 if text is None else present.index(text) for text in texts], dtype=np.int32)
    return CategoricalColumn(present, recode[codes])


def prediction_column(columns: PredictionColumns, stream: str) -> Floats | CategoricalColumn | None:
    """The values of a prediction stream: ``prediction``, ``prediction_label`` or ``probability:CLASS``."""
    if stream == PREDICTION:
        return columns.prediction
    if stream == PREDICTION_LABEL:
        return columns.prediction_label
    return columns.class_probabilities.get(stream.removeprefix(PROBABILITY_PREFIX))


def _number(name: str, text: str) -> float:
    stripped = text.strip()
    try:
        return float(stripped)
    except ValueError:
        if stripped.lower() in _MISSING_TEXTS:
            return math.nan
        raise EventError(
            f"feature {name!r} is declared numeric, but {text[:80]!r} is not a number: publish numbers, "
            "or declare it categorical in the specification"
        ) from None
