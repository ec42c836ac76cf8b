"""Columns and parts of the traffic out of a batch, in the kind that a specification declares.

Publishers are not always of one mind about kinds: a weekday arrives as 1 to 7, a price as text. What can be read
without guessing is read. The streams refuse anything else with the value that could not be; humility rules take it for
missing, because a decision is due whatever came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from driftline.errors import EventError
from driftline.events import CategoricalColumn, Floats, PredictionColumns, category_text

PREDICTION = "prediction"
PREDICTION_LABEL = "prediction_label"
PROBABILITY_PREFIX = "probability:"

OTHER_PART = "(other)"
RULE_PART = "in"
"""Names of parts of the traffic: the values that are not watched on their own; the rows that a rule holds for."""

_BOOLEANS = {"true": 1.0, "false": 0.0}
_MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "none"})


class Segmentation(Protocol):
    """What divides the traffic into parts; ``values`` are the parts, ``low`` and ``high`` the ends of a rule."""

    @property
    def column(self) -> str:
        """The feature or segment attribute that tells the part."""

    @property
    def values(self) -> tuple[str, ...]:
        """The parts; ``(other)``, last, is the rest; a rule has the one part ``in``."""

    @property
    def low(self) -> float | None:
        """Lower end of a rule; None for none."""

    @property
    def high(self) -> float | None:
        """Upper end of a rule, exclusive."""


def number_in(text: str) -> float | None:
    """The number a text stands for; true and false are 1 and 0, words for missing NaN, and None is anything else."""
    stripped = text.strip()
    if stripped in _BOOLEANS:
        return _BOOLEANS[stripped]
    try:
        return float(stripped)
    except ValueError:
        return math.nan if stripped.lower() in _MISSING_TEXTS else None


def numeric_column(columns: PredictionColumns, name: str, *, lenient: bool = False) -> Floats:
    """A feature as float64, shape ``(rows,)``; all NaN if the batch does not have it.

    A column of mixed values arrives in two halves, numbers and texts; each row is taken from the half that has it.

    Args:
        columns: The batch.
        name: The feature.
        lenient: Text that is not a number is missing.

    Raises:
        EventError: The column came as text that is not a number, and ``lenient`` is not set.
    """
    values, texts = columns.numeric.get(name), columns.categorical.get(name)
    if texts is None:
        return np.full(columns.rows, np.nan) if values is None else values
    numbers = np.array([*(_number(name, text, lenient) for text in texts.categories), math.nan])
    from_texts = np.asarray(numbers[texts.codes])
    return from_texts if values is None else np.where(np.isnan(values), from_texts, values)


def _number(name: str, text: str, lenient: bool) -> float:
    number = number_in(text)
    if number is None and not lenient:
        raise EventError(
            f"feature {name!r} is declared numeric, but {text[:80]!r} is not a number: publish numbers, "
            "or declare it categorical in the specification"
        )
    return math.nan if number is None else number


def categorical_column(columns: PredictionColumns, name: str) -> CategoricalColumn:
    """A feature as a dictionary-encoded column; all missing if the batch does not have it.

    A column of mixed values arrives in two halves, numbers and texts; each row is taken from the half that has it.
    """
    return _in_one(columns.numeric.get(name), columns.categorical.get(name), columns.rows)


def _in_one(values: Floats | None, texts: CategoricalColumn | None, rows: int) -> CategoricalColumn:
    if values is None:
        missing = np.full(rows, -1, dtype=np.int32)
        return CategoricalColumn((), missing) if texts is None else texts
    if texts is None:
        texts = CategoricalColumn((), np.full(rows, -1, dtype=np.int32))
    index = {category: code for code, category in enumerate(texts.categories)}
    distinct, position = np.unique(values, return_inverse=True)
    of_distinct = [category_text(value) for value in distinct.tolist()]
    codes = [-1 if text is None else index.setdefault(text, len(index)) for text in of_distinct]
    from_values = np.array(codes, dtype=np.int32)[position]
    return CategoricalColumn(list(index), np.where(texts.codes >= 0, texts.codes, from_values))


def finite_categorical_column(columns: PredictionColumns, name: str) -> CategoricalColumn:
    """As :func:`categorical_column`, but infinite numbers are missing."""
    values = columns.numeric.get(name)
    if values is not None:
        values = np.where(np.isfinite(values), values, np.nan)
    return _in_one(values, columns.categorical.get(name), columns.rows)


def prediction_column(columns: PredictionColumns, stream: str) -> Floats | CategoricalColumn | None:
    """The values of a prediction stream: ``prediction``, ``prediction_label`` or ``probability:CLASS``."""
    if stream == PREDICTION:
        return columns.prediction
    if stream == PREDICTION_LABEL:
        return columns.prediction_label
    return columns.class_probabilities.get(stream.removeprefix(PROBABILITY_PREFIX))


def dividing_column(columns: PredictionColumns, name: str) -> CategoricalColumn:
    """An attribute that divides the traffic; for rows that do not have it, the feature of that name."""
    attribute = columns.segments.get(name)
    if attribute is None:
        return categorical_column(columns, name)
    if name not in columns.numeric and name not in columns.categorical:
        return attribute
    feature = categorical_column(columns, name)
    size = len(attribute.categories)
    shifted = np.where(feature.codes >= 0, feature.codes + size, -1).astype(np.int32)
    codes = np.where(attribute.codes >= 0, attribute.codes, shifted)
    return CategoricalColumn([*attribute.categories, *feature.categories], codes)


def part_index(values: Sequence[str]) -> tuple[dict[str, int], int]:
    """The part of each value that has one of its own, and the part of the rest: -1 where it is none."""
    return {value: code for code, value in enumerate(values)}, len(values) - 1 if values[-1:] == (OTHER_PART,) else -1


def part_codes(segment: Segmentation, columns: PredictionColumns, *, lenient: bool = False) -> NDArray[np.int64]:
    """The part of a segmentation that each row belongs to, int64[n], -1 for none.

    Raises:
        EventError: It is a rule on a number that came as text, and ``lenient`` is not set; see :func:`numeric_column`.
    """
    if segment.values == (RULE_PART,):
        values = numeric_column(columns, segment.column, lenient=lenient)
        low = -np.inf if segment.low is None else segment.low
        high = np.inf if segment.high is None else segment.high
        return np.where((values >= low) & (values < high), 0, -1)
    texts = dividing_column(columns, segment.column)
    index, rest = part_index(segment.values)
    lookup = np.array([*(index.get(value, rest) for value in texts.categories), rest], np.int64)
    return np.asarray(lookup[texts.codes])
