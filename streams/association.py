"""How a feature goes together with the prediction: both cut into thirds, and counted in a table of three by three."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats
from streams.baseline import ASSOCIATION_PREFIX, BaselineStream
from streams.columns import Watched
from streams.derived import ASSOCIATION as ASSOCIATION_KIND
from streams.derived import Derived
from streams.specification import DeploymentSpec
from streams.statistics.arrays import places
from streams.statistics.layouts import ASSOCIATION, ASSOCIATION_MISSING, CATEGORICAL, THIRDS, count_codes

Counts = NDArray[np.int64]
Codes = NDArray[np.int64]
Thirds = NDArray[np.uint8]

ASSOCIATION_MARGINS = 3.0
"""The margin of an association, in margins of the deployment: a change of either column alone changes their table too,
and must be found in that column first."""

MOST_MARGIN = 0.99
"""A margin of one would leave nothing to find."""

MISSING_THIRD = len(THIRDS)

_CELL_OF_PAIR = np.array(
    [
        ASSOCIATION_MISSING if MISSING_THIRD in (feature, prediction) else len(THIRDS) * feature + prediction
        for feature in range(MISSING_THIRD + 1)
        for prediction in range(MISSING_THIRD + 1)
    ],
    np.uint8,
)
_CELLS_OF_PAIRS = np.eye(ASSOCIATION.size, dtype=np.int64)[_CELL_OF_PAIR]


def association_margin(spec: DeploymentSpec) -> float:
    """What the operator calls no change of an association."""
    return min(MOST_MARGIN, ASSOCIATION_MARGINS * spec.margin_tv)


def thirds_of_numbers(values: Floats, low: Floats | float, high: Floats | float) -> Thirds:
    """The third each value lies in, uint8[..., n]: 0, 1, 2, or 3 for missing; cuts are numbers or float64[..., 1]."""
    # NaN is neither below a cut nor equal to itself
    below = (values <= low).view(np.uint8) + (values <= high).view(np.uint8) + (values == values).view(np.uint8)
    return np.asarray(MISSING_THIRD - below)


def table_cells(thirds: Thirds, target: Thirds) -> NDArray[np.uint8]:
    """The cell of the three-by-three table, uint8[..., n], of thirds of a feature and of the prediction."""
    return np.asarray(_CELL_OF_PAIR[_pairs(thirds, target)])


def _pairs(thirds: Thirds, target: Thirds) -> NDArray[np.uint8]:
    """Both thirds in one number from 0 to 15."""
    return np.asarray(thirds * np.uint8(MISSING_THIRD + 1) + target)


def fit_thirds(
    name: str, codes: NDArray[np.uint8], values: Floats | None, target: Thirds | None
) -> tuple[Derived, Thirds]:
    """Cut a column into three parts of about equal mass.

    Args:
        name: The column.
        codes: uint8[m], the bin of each row of the reference.
        values: float64[m], where they are numbers; they are cut by their size.
        target: Thirds uint8[m] of the prediction, in the order of whose mean categories are cut; None for the
            prediction itself, whose categories are cut in the order of their frequency.

    Returns:
        The cut, and the thirds uint8[m] of the column's own rows.
    """
    if values is not None:
        finite = np.sort(values[np.isfinite(values)])
        cuts = finite[[len(finite) // 3, 2 * len(finite) // 3]] if finite.size else np.zeros(2)
        derived = Derived(ASSOCIATION_KIND, name, (name,), {"cuts": cuts.astype(np.float64)})
        return derived, thirds_of_numbers(values[None], cuts[:1, None], cuts[1:, None])[0]
    counts = count_codes(codes, CATEGORICAL).astype(np.float64)
    known = np.ones(len(codes), bool) if target is None else target != MISSING_THIRD
    order = np.arange(len(counts), dtype=np.float64)
    if target is not None:
        sums = np.bincount(codes[known], target[known], CATEGORICAL.size)
        order = sums / np.maximum(np.bincount(codes[known], minlength=CATEGORICAL.size), 1)
    ranked = np.argsort(order[:-1], kind="stable")
    mass = counts[ranked] / max(counts[ranked].sum(), 1)
    middle = np.cumsum(mass) - mass / 2
    thirds = np.full(CATEGORICAL.size, float(MISSING_THIRD))
    thirds[ranked] = np.minimum(np.floor(3 * middle), 2)
    derived = Derived(ASSOCIATION_KIND, name, (name,), {"thirds": thirds})
    return derived, thirds.astype(np.uint8)[codes]


class AssociationCounter:
    """Counts of thirds of features against thirds of the prediction; see :func:`thirds_of_numbers`.

    Args:
        streams: The associations.
        derived: All computations of the baseline.
        numeric: The streams of the rows of :attr:`Watched.numeric`.
        categorical: Those of :attr:`Watched.categorical`.
    """

    def __init__(
        self,
        streams: Sequence[BaselineStream],
        derived: Sequence[Derived],
        numeric: Sequence[BaselineStream],
        categorical: Sequence[BaselineStream],
    ) -> None:
        by_name = {d.name: d for d in derived if d.kind == ASSOCIATION_KIND}
        numeric_rows = {s.name: row for row, s in enumerate(numeric)}
        categorical_rows = {s.name: row for row, s in enumerate(categorical)}
        self._size = len(streams)
        features = [stream.name.removeprefix(ASSOCIATION_PREFIX) for stream in streams]
        inside = [(at, name) for at, name in enumerate(features) if name in numeric_rows]
        self._at, self._rows = places([(at, numeric_rows[name]) for at, name in inside])
        cuts = np.array([by_name[name].arrays["cuts"] for _, name in inside]).reshape(-1, 2)
        self._low, self._high = cuts[:, :1], cuts[:, 1:]
        self._categorical = [
            (at, categorical_rows[name], by_name[name].arrays["thirds"].astype(np.uint8))
            for at, name in enumerate(features)
            if name in categorical_rows
        ]
        if not streams:
            return
        self._target = by_name[by_name[features[0]].inputs[1]]
        name = self._target.name
        self._target_row = numeric_rows.get(name, -1)
        self._target_column = categorical_rows.get(name, -1)
        self._offsets = (np.arange(self._size) * len(_CELL_OF_PAIR))[:, None]

    def count(self, watched: Watched, lookups: Sequence[Codes], index: Codes | None, groups: int) -> Counts:
        """Counts int64[G, S, 10]; ``lookups`` as in :func:`~streams.statistics.counting.count_categorical_block`."""
        thirds = np.empty((self._size, watched.rows), np.uint8)
        if watched.numeric is not None:
            thirds[self._at] = thirds_of_numbers(watched.numeric[self._rows], self._low, self._high)
        for at, column, by_bin in self._categorical:
            thirds[at] = by_bin[lookups[column]][watched.categorical[column].codes]
        pairs = _pairs(thirds, self._target_thirds(watched, lookups)) + self._offsets
        size = self._size * len(_CELL_OF_PAIR)
        if index is not None:
            pairs = (pairs + index * size)[:, index >= 0]
        found = np.bincount(pairs.ravel(), minlength=groups * size).reshape(groups, self._size, -1)
        return np.asarray(found @ _CELLS_OF_PAIRS)

    def _target_thirds(self, watched: Watched, lookups: Sequence[Codes]) -> Thirds:
        if self._target_row >= 0 and watched.numeric is not None:
            low, high = self._target.arrays["cuts"]
            return thirds_of_numbers(watched.numeric[self._target_row], low, high)
        by_bin = self._target.arrays["thirds"].astype(np.uint8)
        codes = watched.categorical[self._target_column].codes
        return np.asarray(by_bin[lookups[self._target_column]][codes])
