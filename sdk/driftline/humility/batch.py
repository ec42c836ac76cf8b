"""A batch of predictions, read for humility rules: the same rows as in :mod:`driftline.humility.row`, by columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, PredictionColumns
from driftline.humility.layout import Layout
from driftline.reading import finite_categorical_column, numeric_column, part_codes

Flags = NDArray[np.bool_]
Codes = NDArray[np.int64]


class Batch:
    """What is known of n predictions. Arrays have shape ``(n,)`` unless said otherwise.

    Attributes:
        columns: The predictions as they travel.
        x: float64[N, n], the numeric columns of the layout; NaN where missing.
        finite: bool[N, n], where they are not.
        whole: Whether none of them is missing.
        prediction, low, high: float64, NaN where missing.
        classes: float64[C, n], finite probabilities; NaN where missing.
        class_names: C names.
        parts: int64, each row's part of the segmentation, -1 for none.
        alarms: uint8, monitors in alarm, as bits.
        quantiles: float64, adaptive quantiles; NaN where unknown.
    """

    def __init__(self, layout: Layout, columns: PredictionColumns, alarms: NDArray[np.uint8]) -> None:
        self.columns = columns
        self.rows = columns.rows
        self.alarms = alarms
        self.quantiles = np.full(self.rows, np.nan)
        self._names = tuple(layout.text)
        self._texts: dict[int, CategoricalColumn] = {}
        self.x, self.finite, self.whole = _numbers(tuple(layout.numeric), columns)
        self.prediction = finite_or_nan(columns.prediction, self.rows)
        self.low = finite_or_nan(columns.prediction_low, self.rows)
        self.high = finite_or_nan(columns.prediction_high, self.rows)
        self.parts = (
            np.full(self.rows, -1, np.int64)
            if layout.segment is None
            else part_codes(layout.segment, columns, lenient=True)
        )
        self._classes: Floats | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.columns.class_probabilities)

    @property
    def classes(self) -> Floats:
        """Probabilities, float64[C, n]."""
        if self._classes is None:
            given = self.columns.class_probabilities.values()
            stacked = np.stack(list(given)) if given else np.empty((0, self.rows))
            finite = np.isfinite(stacked)
            self._classes = stacked if finite.all() else np.where(finite, stacked, np.nan)
        return self._classes

    def text(self, place: int) -> CategoricalColumn:
        """A text column; infinite numbers are missing. An empty category is to be taken for missing, too."""
        found = self._texts.get(place)
        if found is None:
            found = self._texts[place] = finite_categorical_column(self.columns, self._names[place])
        return found

    def no(self) -> Flags:
        """No row."""
        return np.zeros(self.rows, np.bool_)


def _numbers(names: tuple[str, ...], columns: PredictionColumns) -> tuple[Floats, Flags, bool]:
    x = np.empty((len(names), columns.rows))
    numeric, categorical = columns.numeric, columns.categorical
    for i, name in enumerate(names):
        x[i] = numeric[name] if name in numeric and name not in categorical else _lenient(columns, name)
    finite = np.isfinite(x)
    whole = bool(finite.all())
    if not whole:
        x[~finite] = np.nan
    return x, finite, whole


def _lenient(columns: PredictionColumns, name: str) -> Floats:
    return numeric_column(columns, name, lenient=True)


def finite_or_nan(values: Floats | None, rows: int) -> Floats:
    """The values, NaN where they are missing or infinite."""
    if values is None:
        return np.full(rows, np.nan)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)


def flags_of(column: CategoricalColumn, holds: Callable[[str], bool], missing: bool) -> Flags:
    """A test of each row's category, bool[n]; empty text is missing."""
    return np.array([*(holds(text) if text else missing for text in column.categories), missing], np.bool_)[
        column.codes
    ]


def missing_of(column: CategoricalColumn) -> Flags:
    """Where a category is missing, bool[n]; empty text is."""
    return flags_of(column, lambda text: False, True) if "" in column.categories else np.asarray(column.codes < 0)


def codes_in(index: dict[str, int], column: CategoricalColumn | None, rows: int) -> Codes:
    """Codes int64[n] of a column in a dictionary that grows by what it lacks; -1 for missing and for empty text."""
    if column is None:
        return np.full(rows, -1, np.int64)
    places = [index.setdefault(text, len(index)) if text else -1 for text in column.categories]
    return np.asarray(np.array([*places, -1], np.int64)[column.codes])
