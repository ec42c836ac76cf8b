"""How novel an input is: the largest surprise of its columns, the joint distance of the numeric ones being one of them.

The surprise of a value is -log of the share of reference rows in its bin, in nats. That a row is above a threshold is
found without looking at most bins: for every numeric column there is a range of values, the longest run of bins whose
surprise is at most the lowest threshold, and only what lies outside of it is looked up.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, PredictionColumns
from driftline.humility.batch import Batch, Flags
from driftline.humility.fit import CATEGORICAL, JOINT, HumilityFit, NoveltyColumn
from driftline.humility.layout import Layout
from driftline.humility.row import Row
from driftline.joint import SCORE_GRID, WINSOR, joint_distance

_CALM = 1e60
"""Differences of numbers up to here, divided by scales down to its reciprocal, do not overflow."""


def novelty_scores(fit: HumilityFit, columns: PredictionColumns) -> Floats:
    """The novelty score of every row of a batch, float64[n], by what was learnt; -infinity without any column."""
    layout = Layout("", None, None)
    novelty = Novelty(fit, layout)
    batch = Batch(layout, columns, np.zeros(columns.rows, np.uint8))
    with np.errstate(all="ignore"):
        return novelty.scores(batch)


class Novelty:
    """Novelty by what was learnt.

    Args:
        fit: What was learnt: columns and their surprise, and the arrays of the joint distance.
        layout: Gets the columns; it must have no numeric ones yet, because those of the novelty come first.
    """

    def __init__(self, fit: HumilityFit, layout: Layout) -> None:
        numeric = [column for column in fit.novelty if column.kind not in (CATEGORICAL, JOINT)]
        joint = [column for column in fit.novelty if column.kind == JOINT]
        together = fit.joint_columns if joint else ()
        for place, name in enumerate((*together, *(column.name for column in numeric))):
            assert layout.number(name) <= place, "columns of the novelty come first"
        self._numeric = [(layout.number(column.name), _Bins(column)) for column in numeric]
        self._texts = [
            (layout.category(column.name), _Categories(column)) for column in fit.novelty if column.kind == CATEGORICAL
        ]
        self._joint = _Joint(fit.joint, len(together), _Bins(joint[0])) if joint else None
        self._width = len(layout.numeric)

    def scores(self, batch: Batch) -> Floats:
        """Scores float64[n]."""
        found = np.full(batch.rows, -np.inf)
        for place, bins in self._numeric:
            np.maximum(found, bins.of(batch.x[place]), out=found)
        for place, categories in self._texts:
            np.maximum(found, categories.of(batch.text(place)), out=found)
        if self._joint is not None:
            np.maximum(found, self._joint.of(batch.x), out=found)
        return found

    def above(self, thresholds: Sequence[float]) -> Novel:
        """A test of rows by groups: row i is novel if its score is above its group's threshold; see :class:`Novel`."""
        return Novel(self._numeric, self._texts, self._joint, self._width, thresholds)


class Novel:
    """Whether scores are above thresholds.

    Args:
        numeric, texts, joint, width: Of the :class:`Novelty`.
        thresholds: By part of the segmentation, the last for rows of none; infinite for a group that never is.
    """

    def __init__(
        self,
        numeric: Sequence[tuple[int, _Bins]],
        texts: Sequence[tuple[int, _Categories]],
        joint: _Joint | None,
        width: int,
        thresholds: Sequence[float],
    ) -> None:
        self._thresholds = tuple(thresholds)
        self._by_part = np.array(thresholds, np.float64)
        lowest = min(thresholds)
        self._width = width
        self._low, self._high = np.full(width, -np.inf), np.full(width, np.inf)
        self._bins: list[list[_Bins]] = [[] for _ in range(width)]
        for place, bins in numeric:
            low, high = bins.usual(lowest)
            self._low[place], self._high[place] = low, high
            self._bins[place].append(bins)
        self._all_usual = b"\x01" * width
        self._texts = tuple((place, categories.usual(lowest), categories) for place, categories in texts)
        self._joint = joint
        self._is_calm = joint is not None and joint.is_calm(self._low, self._high)

    # One row

    def holds_of(self, row: Row) -> bool:
        """Whether a row's score is above its threshold."""
        threshold = self._thresholds[row.part]
        for place, usual, categories in self._texts:
            text = row.texts[place]
            if text not in usual and categories.of_one(text) > threshold:
                return True
        if not self._width:
            return False
        x = row.x[: self._width]
        where_usual = ((self._low <= x) & (x < self._high)).tobytes()
        is_usual = where_usual == self._all_usual
        if not is_usual and self._unusual(x, where_usual, threshold):
            return True
        return self._joint is not None and self._joint.of_one(x, row.whole, is_usual and self._is_calm) > threshold

    def _unusual(self, x: Floats, usual: bytes, threshold: float) -> bool:
        place = usual.find(0)
        while place >= 0:
            for bins in self._bins[place]:
                if bins.of_one(x.item(place)) > threshold:
                    return True
            place = usual.find(0, place + 1)
        return False

    # Batches

    def holds(self, batch: Batch) -> Flags:
        """Which rows' scores are above their thresholds, bool[n]."""
        thresholds = self._by_part[batch.parts]
        found = batch.no()
        for place, _, categories in self._texts:
            found |= categories.of(batch.text(place)) > thresholds
        if not self._width:
            return found
        x = batch.x[: self._width]
        usual = (self._low[:, None] <= x) & (x < self._high[:, None])
        for place in np.flatnonzero(~usual.all(axis=1)).tolist():
            rows = np.flatnonzero(~usual[place])
            for bins in self._bins[place]:
                found[rows] |= bins.of(x[place, rows]) > thresholds[rows]
        if self._joint is not None:
            found |= self._joint.of(x) > thresholds
        return found


class _Bins:
    """Surprise of numbers; value v is in bin ``bisect_right(edges, v)``, the last entry is for missing."""

    def __init__(self, column: NoveltyColumn) -> None:
        self._edges, self._surprise = column.edges, column.surprise
        self._edge_array = np.array(column.edges, np.float64)
        self._surprise_array = np.array(column.surprise, np.float64)

    def of_one(self, value: float) -> float:
        return self._surprise[-1] if value != value else self._surprise[bisect_right(self._edges, value)]

    def of(self, values: Floats) -> Floats:
        """Surprise float64[n] of values float64[n]."""
        places = np.searchsorted(self._edge_array, values, "right")
        places[np.isnan(values)] = len(self._surprise) - 1
        return np.asarray(self._surprise_array[places])

    def usual(self, threshold: float) -> tuple[float, float]:
        """The longest range ``low <= v < high`` of bins that are not above a threshold; empty if there is none."""
        start, best = 0, (0, 0)
        for end, surprise in enumerate(self._surprise[:-1]):
            if surprise > threshold:
                start = end + 1
            elif end + 1 - start > best[1] - best[0]:
                best = start, end + 1
        edges = (-math.inf, *self._edges, math.inf)
        return (edges[best[0]], edges[best[1]]) if best[1] > best[0] else (math.inf, -math.inf)


class _Categories:
    """Surprise of categories: of each that is known, then of an unseen one, then of missing."""

    def __init__(self, column: NoveltyColumn) -> None:
        known = len(column.categories)
        self._of: dict[str | None, float] = dict(zip(column.categories, column.surprise[:known], strict=True))
        self._unseen, self._missing = column.surprise[known:]
        self._of[None] = self._of[""] = self._missing

    def of_one(self, text: str | None) -> float:
        return self._of.get(text, self._unseen)

    def of(self, column: CategoricalColumn) -> Floats:
        """Surprise float64[n] of a column."""
        by_code = [*(self._of.get(text, self._unseen) for text in column.categories), self._missing]
        return np.asarray(np.array(by_code, np.float64)[column.codes])

    def usual(self, threshold: float) -> frozenset[str | None]:
        """Known categories, and None for missing, that are not above a threshold."""
        return frozenset(text for text, surprise in self._of.items() if surprise <= threshold)


class _Joint:
    """Surprise of the joint distance of the first columns of a layout; see :func:`driftline.joint.joint_distance`."""

    def __init__(self, learnt: Mapping[str, Sequence[float]], size: int, bins: _Bins) -> None:
        self._arrays = {name: np.array(values, np.float64) for name, values in learnt.items()}
        self._size, self._bins = size, bins
        self._centre, self._mean = self._arrays["centre"], self._arrays["mean"] / SCORE_GRID
        self._scale = self._arrays["scale"] * SCORE_GRID
        self._whiten = self._arrays["whiten"].reshape(size, size)
        self._floor, self._ceiling = np.full(size, -WINSOR / SCORE_GRID), np.full(size, WINSOR / SCORE_GRID)

    def of(self, x: Floats) -> Floats:
        """Surprise float64[n] of rows, float64[S, n]."""
        return self._bins.of(joint_distance(self._arrays, x[: self._size]))

    def is_calm(self, low: Floats, high: Floats) -> bool:
        """Whether no number can overflow on the way, where values lie between bounds float64[N]."""
        numbers = np.concatenate((low[: self._size], high[: self._size], self._centre))
        return bool((np.abs(numbers) < _CALM).all() and (self._arrays["scale"] > 1 / _CALM).all())

    def of_one(self, x: Floats, whole: bool, calm: bool) -> float:
        """Surprise of a row, float64[S]: the same steps, and the squares added up in the same order.

        Args:
            x: The row.
            whole: Nothing is missing.
            calm: Nothing can overflow, about which numpy would have to be told to keep quiet.
        """
        values: NDArray[np.float64] = x[: self._size]
        if not whole:
            values = np.where(np.isnan(values), self._centre, values)  # a missing value has the score 0
        if calm:
            return self._bins.of_one(self._distance(values))
        with np.errstate(all="ignore"):
            return self._bins.of_one(self._distance(values))

    def _distance(self, values: Floats) -> float:
        scores = np.rint(np.minimum(np.maximum((values - self._centre) / self._scale, self._floor), self._ceiling))
        independent = self._whiten.dot(scores - self._mean)
        squares = np.add.accumulate(independent * independent)
        return math.sqrt(squares.item(self._size - 1) / self._size) * SCORE_GRID
