"""Score bins as numbers: what reliability curves are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.fields import Sums, weighted
from streams.statistics.performance.grid import GRID
from streams.statistics.performance.pairs import BINARY, MULTICLASS, Floats, PerformanceLayout


@dataclass(frozen=True, eq=False, slots=True)
class ScoreBins:
    """Weights by score bin, float64[B]: rows against and for what the scores foretell, and sums of scores.

    ``rows``: their number, whatever they weigh.
    """

    negatives: Floats
    positives: Floats
    score_sums: Floats
    rows: int

    @property
    def totals(self) -> Floats:
        """float64[B], weights of all rows."""
        return self.negatives + self.positives


def score_bins(layout: PerformanceLayout, sums: Sums) -> ScoreBins | None:
    """Binary: by score of the positive class; multi-class: by the largest probability. None for other tasks."""
    names = _BINNED.get(layout.task)
    if names is None:
        return None
    outcomes = _floats(weighted(sums, names[0]))[: layout.bins]
    rows = int(sums[names[0]][: layout.bins].sum())
    return ScoreBins(outcomes[:, 0], outcomes[:, 1], _floats(weighted(sums, names[1])), rows)


_BINNED = {BINARY: ("scores", "score_sums"), MULTICLASS: ("confidence", "confidence_sums")}


def _floats(units: NDArray[Any]) -> Floats:
    return np.asarray(units.astype(np.float64) * GRID)
