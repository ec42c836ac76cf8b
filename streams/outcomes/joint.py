"""Predictions beside outcomes, counted: the table that tells what moved (:mod:`streams.outcomes.diagnosis`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.baseline import OutcomeReference
from streams.outcomes.scores import leading_scores
from streams.statistics.performance.pairs import BINARY, Pairs, PerformanceLayout

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

JOINT = "joint"
"""Name of the table's counts among those of a counter."""

SCORE_GROUPS = 12
MOST_CLASSES = 8
"""Of more classes the table would be large, and nearly empty."""

LEAST_PAIRS = 50
"""Fewer pairs tell too little."""


@dataclass(frozen=True, eq=False)
class JointTable:
    """The reference's joint law of predictions and outcomes, A ages, U predictions, V outcomes.

    Attributes:
        reference: float64[A, U, V], pairs of the reference.
        group_of: int64[B], the group of each bin of scores; None where u is the predicted class.
        score_edges, age_edges_us: As in ``OutcomeReference``.
    """

    reference: Floats
    group_of: NDArray[np.int64] | None
    score_edges: Floats
    age_edges_us: NDArray[np.int64]

    @classmethod
    def of(cls, task: str, outcomes: OutcomeReference | None) -> JointTable | None:
        """The table of a baseline's outcomes; None for numbers, for many classes, and where there is no reference."""
        if outcomes is None:
            return None
        ages = len(outcomes.age_edges_us) + 1
        scores = outcomes.counts.get("scores")
        if task == BINARY and scores is not None:
            bins = scores.reshape(ages, -1, 2)[:, :-1]
            if bins.sum() >= LEAST_PAIRS and bins.shape[1] == len(outcomes.score_edges) + 1:
                group_of = _groups(bins.sum(axis=(0, 2)))
                first = np.unique(group_of, return_index=True)[1]
                table = np.add.reduceat(bins, first, axis=1).astype(np.float64)
                return cls(table, group_of, outcomes.score_edges, outcomes.age_edges_us)
        confusion = outcomes.counts.get("confusion")
        if confusion is None or confusion.sum() < LEAST_PAIRS:
            return None
        classes = round((confusion.size / ages) ** 0.5)
        if not 2 <= classes <= MOST_CLASSES:
            return None
        table = confusion.reshape(ages, classes, classes).astype(np.float64)
        return cls(table, None, outcomes.score_edges, outcomes.age_edges_us)

    @property
    def cells(self) -> int:
        """Number of cells, A * U * V."""
        return self.reference.size

    def count(self, layout: PerformanceLayout, pairs: Pairs) -> Counts:
        """Counts int64[A * U * V] of pairs; those without a prediction have no part in them."""
        _, predictions, outcomes = self.reference.shape
        age = np.searchsorted(self.age_edges_us, pairs.ages_us, "left")
        if self.group_of is None:
            u, there = pairs.predicted.labels, pairs.predicted.labels >= 0
        else:
            leading = leading_scores(layout, pairs.predicted)
            there = np.isfinite(leading)
            u = self.group_of[np.searchsorted(self.score_edges, np.where(there, leading, 0.0), "right")]
        cells = (age * predictions + u) * outcomes + pairs.actual.astype(np.int64)
        return np.bincount(cells[there], minlength=self.cells)


def _groups(rows: Counts) -> NDArray[np.int64]:
    """The group of each bin, int64[B], ascending: at most twelve of about equal mass."""
    middle = np.cumsum(rows) - rows / 2
    groups = np.minimum(middle * SCORE_GROUPS // max(rows.sum(), 1), SCORE_GROUPS - 1).astype(np.int64)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
