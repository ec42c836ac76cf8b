"""What is served instead of a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats
from driftline.humility.batch import Batch, codes_in, finite_or_nan
from driftline.humility.bounds import INFINITE, bound, no_bounds, value_between, values_between
from driftline.humility.fit import HumilityFit
from driftline.humility.row import Row
from driftline.humility.rules import BY_CLIP, BY_PRIOR, BY_VERSION
from driftline.humility.rules import Override as Asked
from driftline.reading import PREDICTION

Served = tuple[float | None, str | None, str | None]
"""Value, class, and the version that is to be asked."""


@dataclass(frozen=True, slots=True)
class Override:
    """What one rule serves.

    Attributes:
        value: A constant; None for none.
        label: A constant class; None for none.
        ends: The range that the prediction is pulled into; None where it is not.
        version: Whose answer it is; None where it is nobody's.
    """

    value: float | None = None
    label: str | None = None
    ends: tuple[float, float] | None = None
    version: str | None = None

    @classmethod
    def of(
        cls, asked: Asked, fit: HumilityFit | None, range_of: Callable[[str], tuple[float, float] | None]
    ) -> Override:
        """What a rule asks for; ``range_of`` has the fitted bounds."""
        if asked.kind == BY_CLIP:
            if no_bounds(asked.low, asked.high):
                return cls(ends=range_of(PREDICTION) or INFINITE)
            return cls(ends=(bound(asked.low, -math.inf), bound(asked.high, math.inf)))
        if asked.kind == BY_PRIOR:
            return cls() if fit is None else cls(fit.prior, fit.prior_label)
        return cls(version=asked.version) if asked.kind == BY_VERSION else cls(asked.value, asked.label)

    def of_row(self, row: Row) -> Served:
        """What is served for a row."""
        if self.ends is not None:
            clipped = value_between(row.prediction, *self.ends)
            return None if clipped != clipped else clipped, None, None
        if self.version is None:
            return self.value, self.label, None
        value, label = row.challenger(self.version)
        return value, label, self.version if value is None and label is None else None

    def values(self, batch: Batch) -> Floats:
        """Values served for the rows of a batch, float64[n]; NaN for none."""
        if self.ends is not None:
            return values_between(batch.prediction, *self.ends)
        if self.version is None:
            return np.full(batch.rows, np.nan if self.value is None else self.value)
        return finite_or_nan(batch.columns.challenger_predictions.get(self.version), batch.rows)

    def labels(self, batch: Batch, rows: NDArray[np.intp], names: dict[str, int]) -> NDArray[np.int32]:
        """Classes served for some rows, as codes int32 in a dictionary that grows by what it lacks; -1 for none."""
        if self.version is None:
            code = names.setdefault(self.label, len(names)) if self.label is not None else -1
            return np.full(len(rows), code, np.int32)
        index: dict[str, int] = {}
        codes = codes_in(index, batch.columns.challenger_labels.get(self.version), batch.rows)[rows]
        texts = list(index)
        lookup = {code: names.setdefault(texts[code], len(names)) for code in np.unique(codes).tolist() if code >= 0}
        return np.array([lookup.get(code, -1) for code in codes.tolist()], np.int32)
