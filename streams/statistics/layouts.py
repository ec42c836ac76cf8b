"""The five layouts in which every stream of evidence is counted, and how values become bins.

A *stream* is one watched column: a feature, a prediction, an error indicator. Whatever its type, its values become
counts in one of few fixed layouts, so that everything downstream (evidence, distances, merging of shards) is
arithmetic on integer arrays of a known width.

``NUMERIC`` (15 bins) cuts the reference distribution at its 0.5 % and 99.5 % quantiles and splits what lies between
into ten bins of equal mass. Ten equal-mass bins keep 94-96 % of the Kullback-Leibler information about a mean shift
of up to half a standard deviation; the two tails carry most of what is known about a change of scale.

``CATEGORICAL`` (23 bins) keeps the twenty most frequent categories, the rest of the known ones together, the unknown
ones, and missing. A Boolean is a categorical with two categories.

``QUALITY`` (5 bins) keeps only whether a value could be used. It is a coarsening of the two layouts before, so it
costs no second pass over the values; see :func:`quality_counts`.

``ASSOCIATION`` (10 bins) crosses the thirds of a feature with the thirds of the prediction: whether the two still go
together as in the reference, which no look at one column alone can tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

CORE_BINS = 10
TAIL_PROBABILITY = 0.005
TOP_CATEGORIES = 20
KNOWN_CATEGORIES_LIMIT = 10_000
"""Categories remembered by name besides the top ones. Rarer ones count as unseen, in the reference and in production
alike.
"""

PROBABILITY_FLOOR = 1e-4


@dataclass(frozen=True)
class Layout:
    """A fixed sequence of bins.

    ``bin_names``: one name per bin, in the order of every counts array. ``rare_bins``: indices of the bins that are
    (nearly) empty in a healthy reference and whose filling up points at a broken pipeline rather than at a shift.
    """

    name: str
    bin_names: tuple[str, ...]
    rare_bins: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of bins, K."""
        return len(self.bin_names)


NUMERIC = Layout(
    "numeric",
    ("below_min", "low_tail", *(f"core_{i}" for i in range(CORE_BINS)), "high_tail", "above_max", "missing"),
    rare_bins=(0, CORE_BINS + 3, CORE_BINS + 4),
)
CATEGORICAL = Layout(
    "categorical",
    (*(f"top_{i}" for i in range(TOP_CATEGORIES)), "other", "unseen", "missing"),
    rare_bins=(TOP_CATEGORIES + 1, TOP_CATEGORIES + 2),
)

QUALITY = Layout("quality", ("valid", "out_of_range", "unseen", "missing", "refused"), rare_bins=(1, 2, 3, 4))
"""``refused``: values that are no value of the column at all (text where a number belongs)."""

THIRDS = ("low", "middle", "high")
ASSOCIATION = Layout(
    "association",
    (*(f"{feature}/{prediction}" for feature in THIRDS for prediction in THIRDS), "missing"),
    rare_bins=(len(THIRDS) ** 2,),
)
"""Row by row: the third of the feature, then that of the prediction. ``missing``: one of the two is."""

LOSS = Layout("loss", ("usual", *(f"tail_{i}" for i in range(CORE_BINS + 3)), "missing"), rare_bins=(CORE_BINS + 4,))
"""As many bins as ``NUMERIC`` and cut by the same :class:`NumericBins`, so that the same code counts both."""

LAYOUTS = {layout.name: layout for layout in (NUMERIC, CATEGORICAL, QUALITY, ASSOCIATION, LOSS)}
"""Every layout by its name."""

BELOW_MIN, LOW_TAIL, FIRST_CORE, HIGH_TAIL, ABOVE_MAX, NUMERIC_MISSING = 0, 1, 2, 12, 13, 14
OTHER, UNSEEN, CATEGORICAL_MISSING = 20, 21, 22
QUALITY_VALID, QUALITY_OUT_OF_RANGE, QUALITY_UNSEEN, QUALITY_MISSING, QUALITY_REFUSED = range(5)
ASSOCIATION_MISSING = 9
LOSS_USUAL, LOSS_FIRST_TAIL, LOSS_LAST_TAIL, LOSS_MISSING = 0, 1, 13, 14

EDGE_COUNT = CORE_BINS + 3
"""Edges of a numeric column."""

_EDGE_PROBABILITIES = np.concatenate(
    ([0.0], TAIL_PROBABILITY + (1 - 2 * TAIL_PROBABILITY) * np.arange(CORE_BINS + 1) / CORE_BINS, [1.0])
)


def nominal_probabilities() -> NDArray[np.float64]:
    """Probability float64[15] that a continuous, never missing feature has by construction in each ``NUMERIC`` bin."""
    inside = np.diff(_EDGE_PROBABILITIES)
    return np.concatenate(([0.0], inside, [0.0, 0.0]))


LOSS_THRESHOLD_QUANTILE = 0.95
"""What the reference exceeds less often is its tail."""

LOSS_MARGIN_RATE, LOSS_MARGIN_SCALE = 1.1, 1.25
"""The margin of a loss lies in its cuts: a tenth more exceedances, a quarter larger ones, are no change."""

LOSS_STEP_NATS = 1.3
"""From one tail bin to the next the probability falls by exp(1.3); beyond the last edge it is 1e-8."""


def loss_probabilities() -> NDArray[np.float64]:
    """Probability float64[15] of each ``LOSS`` bin, the same for every loss: the cuts carry what differs."""
    tails = LOSS_LAST_TAIL - LOSS_USUAL
    beyond = LOSS_MARGIN_RATE * (1 - LOSS_THRESHOLD_QUANTILE) * np.exp(-LOSS_STEP_NATS * np.arange(tails))
    return np.concatenate(([1 - beyond[0]], beyond - np.append(beyond[1:], 0.0), [0.0]))


@dataclass(frozen=True, eq=False)
class NumericBins:
    """How one numeric column is cut.

    ``edges``: float64[13], not decreasing: minimum, 0.5 % quantile, nine inner quantiles, 99.5 % quantile, and the
    number just above the maximum. A finite value's *raw* bin is the number of edges that do not exceed it (0 to 13).
    ``remap``: uint8[14], the ``NUMERIC`` bin of each raw bin. It is the identity for a continuous column; where ties
    make edges coincide, a raw bin spans several nominal ones and goes to the one in the middle of its mass, so that
    its position in the order of the bins stays right.
    """

    edges: NDArray[np.float64]
    remap: NDArray[np.uint8]

    def __post_init__(self) -> None:
        edges, remap = np.asarray(self.edges, np.float64), np.asarray(self.remap, np.uint8)
        if edges.shape != (EDGE_COUNT,) or remap.shape != (EDGE_COUNT + 1,):
            raise ValueError(f"expected 13 edges and 14 remapped bins, got {edges.shape} and {remap.shape}")
        if np.isnan(edges).any() or (edges[1:] < edges[:-1]).any():
            raise ValueError("the edges of a numeric column must not decrease and not be NaN; fit the bins again")
        if (remap >= NUMERIC_MISSING).any():
            raise ValueError("a raw bin may only be remapped to one of the 14 bins of present values")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "remap", remap)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NumericBins)
            and np.array_equal(self.edges, other.edges)
            and np.array_equal(self.remap, other.remap)
        )


def fit_numeric(values: ArrayLike) -> NumericBins:
    """Cut a reference column, float64[m], into the ``NUMERIC`` layout.

    NaN and infinities do not take part in the quantiles. Works for constant, tied, tiny and empty columns; with no
    finite value at all, every finite value to come lies below the (infinite) minimum, which is the out-of-range bin
    it should be in.
    """
    column = np.asarray(values, np.float64)
    finite = np.sort(column[np.isfinite(column)])
    remap = np.arange(EDGE_COUNT + 1, dtype=np.uint8)
    if not finite.size:
        remap[:-1] = BELOW_MIN
        return NumericBins(np.full(EDGE_COUNT, np.inf), remap)
    # Quantiles that are values of the column (no interpolation): then no raw bin between two distinct edges is empty.
    edges = np.quantile(finite, _EDGE_PROBABILITIES, method="inverted_cdf")
    with np.errstate(over="ignore"):
        edges[-1] = np.nextafter(finite[-1], np.inf)
    occupied = np.flatnonzero(np.diff(edges) > 0)
    if occupied.size < EDGE_COUNT - 1:
        below = np.searchsorted(finite, edges, side="left") / finite.size
        middle = (below[occupied] + below[occupied + 1]) / 2
        nominal = np.searchsorted(_EDGE_PROBABILITIES[1:-1], middle, side="right")
        # Two raw bins whose middles share a nominal bin stay apart: the upper one moves up. There is always room,
        # because a nominal bin never exceeds its raw one.
        order = np.arange(occupied.size)
        remap[occupied + 1] = np.maximum.accumulate(nominal - order) + order + LOW_TAIL
    return NumericBins(edges, remap)


def bin_numeric(bins: NumericBins, values: ArrayLike) -> NDArray[np.uint8]:
    """Bin codes uint8[n] in ``NUMERIC`` of a column float64[n]: NaN is missing, infinities are out of range."""
    column = np.asarray(values, np.float64)
    codes = bins.remap[np.searchsorted(bins.edges, column, side="right")]
    codes[column == -np.inf] = BELOW_MIN
    codes[column == np.inf] = ABOVE_MAX
    codes[np.isnan(column)] = NUMERIC_MISSING
    return codes


@dataclass(frozen=True)
class CategoricalBins:
    """Which categories of one column are known.

    ``top``: up to twenty, most frequent first; the position is the bin. ``known``: the other categories of the
    reference, sorted, at most ``KNOWN_CATEGORIES_LIMIT`` of them; they share the bin ``other``.
    """

    top: tuple[str, ...]
    known: tuple[str, ...] = ()
    _codes: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.top) > TOP_CATEGORIES:
            raise ValueError(f"at most {TOP_CATEGORIES} top categories, got {len(self.top)}")
        codes = dict.fromkeys(self.known, OTHER)
        codes.update({category: code for code, category in enumerate(self.top)})
        if len(codes) != len(self.top) + len(self.known):
            raise ValueError("every category may be listed once, in the top or among the known ones")
        object.__setattr__(self, "_codes", codes)

    def code(self, category: str) -> int:
        """Bin of one category in ``CATEGORICAL``."""
        return self._codes.get(category, UNSEEN)


def fit_categorical(values: Iterable[str | None]) -> CategoricalBins:
    """Learn the categories of a reference column; ``None`` is missing."""
    counts = Counter(values)
    del counts[None]
    return fit_categorical_counts({category: count for category, count in counts.items() if category is not None})


def fit_categorical_counts(counts: Mapping[str, int]) -> CategoricalBins:
    """Learn the categories from how often each occurs. Equally frequent ones are ordered by name, so the result is
    unique.
    """
    ranked = sorted((c for c, n in counts.items() if n > 0), key=lambda category: (-counts[category], category))
    rest = ranked[TOP_CATEGORIES : TOP_CATEGORIES + KNOWN_CATEGORIES_LIMIT]
    return CategoricalBins(tuple(ranked[:TOP_CATEGORIES]), tuple(sorted(rest)))


def dictionary_lookup(bins: CategoricalBins, dictionary: Sequence[str]) -> NDArray[np.int64]:
    """Bins of a batch's dictionary, so that ``lookup[codes]`` bins a dictionary-encoded column.

    Returns int64[d + 1]; the extra last entry is *missing*, which is where the code -1 leads.
    """
    known = bins._codes
    return np.array([*(known.get(category, UNSEEN) for category in dictionary), CATEGORICAL_MISSING], np.int64)


def bin_categorical(bins: CategoricalBins, values: Iterable[str | None]) -> NDArray[np.uint8]:
    """Bin codes uint8[n] in ``CATEGORICAL`` of a column of strings; ``None`` is missing."""
    known = bins._codes
    return np.array([CATEGORICAL_MISSING if v is None else known.get(v, UNSEEN) for v in values], np.uint8)


def count_codes(codes: ArrayLike, layout: Layout) -> NDArray[np.int64]:
    """Counts int64[K] of a column's bin codes."""
    return np.bincount(np.asarray(codes, np.int64).ravel(), minlength=layout.size)


def quality_counts(counts: ArrayLike, layout: Layout) -> NDArray[np.int64]:
    """Counts int64[..., 5] in ``QUALITY`` of the same events, from counts int[..., K] in ``NUMERIC`` or
    ``CATEGORICAL``. None is *refused*: a value of the wrong type has no bin in those layouts.
    """
    observed = np.asarray(counts, np.int64)
    if layout not in (NUMERIC, CATEGORICAL) or observed.shape[-1:] != (layout.size,):
        raise ValueError(f"expected counts of a numeric or categorical column, got {observed.shape} in {layout.name}")
    return np.asarray(observed @ _QUALITY_OF[layout.name])


def _quality_of(layout: Layout, unusable: Mapping[int, int]) -> NDArray[np.int64]:
    """The quality of each bin, int64[K, 5] with a one in every row; ``valid`` unless it is among the ``unusable``."""
    quality = [unusable.get(index, QUALITY_VALID) for index in range(layout.size)]
    return np.eye(QUALITY.size, dtype=np.int64)[quality]


_QUALITY_OF = {
    NUMERIC.name: _quality_of(
        NUMERIC,
        {BELOW_MIN: QUALITY_OUT_OF_RANGE, ABOVE_MAX: QUALITY_OUT_OF_RANGE, NUMERIC_MISSING: QUALITY_MISSING},
    ),
    CATEGORICAL.name: _quality_of(CATEGORICAL, {UNSEEN: QUALITY_UNSEEN, CATEGORICAL_MISSING: QUALITY_MISSING}),
}


def possible_bins(counts: ArrayLike, layout: Layout) -> NDArray[np.bool_]:
    """Which bins can occur at all, bool[..., K], given reference counts int[..., K].

    A top category or a core bin that the reference never filled does not exist (fewer than twenty categories; edges
    that coincide); the rare bins and every cell of an association always do.
    """
    filled = np.asarray(counts) > 0
    if layout in (QUALITY, ASSOCIATION):
        return np.ones_like(filled)
    filled[..., list(layout.rare_bins)] = True
    return filled


def reference_probabilities(counts: ArrayLike) -> NDArray[np.float64]:
    """Baseline distribution p0 from reference counts, int[..., K] to float64[..., K].

    Krichevsky-Trofimov smoothing, (n_k + 1/2) / (m + K/2), then a floor of 1e-4 and renormalisation: a bin that the
    reference never filled keeps a probability, so that its first occurrence is evidence and not an infinity. Bins
    that cannot occur are included; they can only make a detector slower.
    """
    observed = np.asarray(counts, np.float64)
    total = observed.sum(axis=-1, keepdims=True)
    smoothed = np.maximum((observed + 0.5) / (total + 0.5 * observed.shape[-1]), PROBABILITY_FLOOR)
    return np.asarray(smoothed / smoothed.sum(axis=-1, keepdims=True))
