"""Watched columns of a batch. How they are read, for the streams and serving applications alike, is in
:mod:`driftline.reading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats
from driftline.reading import PREDICTION as PREDICTION
from driftline.reading import PREDICTION_LABEL as PREDICTION_LABEL
from driftline.reading import PROBABILITY_PREFIX as PROBABILITY_PREFIX
from driftline.reading import categorical_column as categorical_column
from driftline.reading import numeric_column as numeric_column
from driftline.reading import prediction_column as prediction_column


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


def occurrences(columns: Iterable[CategoricalColumn]) -> dict[str, int]:
    """How many rows have each category."""
    totals: dict[str, int] = {}
    for column in columns:
        present = np.bincount(column.codes[column.codes >= 0], minlength=len(column.categories)).tolist()
        for category, count in zip(column.categories, present, strict=True):
            totals[category] = totals.get(category, 0) + count
    return totals
