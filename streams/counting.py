"""A baseline's streams in blocks, and how a batch's rows become their counts.

A *block* is a set of streams that share a layout and a way of being counted. Evidence, windows and the journal see
blocks as arrays; only this module knows what each is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, PredictionColumns
from streams.baseline import (
    ASSOCIATION_PREFIX,
    ERROR,
    FEATURE,
    LATENCY,
    QUALITY_PREFIX,
    RATE_ROLE,
    RULE_PART,
    SCHEMA,
    Baseline,
    BaselineSegment,
    BaselineStream,
)
from streams.columns import categorical_column, numeric_column, prediction_column
from streams.derived import (
    ASSOCIATION as ASSOCIATION_KIND,
)
from streams.derived import (
    EMBEDDING,
    JOINT,
    JOINT_DISTANCE,
    TEXT,
    Derived,
    embedding_columns,
    joint_distance,
    text_columns,
)
from streams.statistics.counting import batch_lookups, count_categorical_block, count_numeric_block, stack_numeric
from streams.statistics.layouts import (
    ASSOCIATION,
    ASSOCIATION_MISSING,
    CATEGORICAL,
    NUMERIC,
    QUALITY,
    QUALITY_VALID,
    CategoricalBins,
    NumericBins,
    quality_counts,
)
from streams.statistics.seasons import SEASONS, SeasonalBins, count_seasonal, stack_seasonal

Counts = NDArray[np.int64]
Codes = NDArray[np.int64]

NUMERIC_BLOCK = "numeric"
SEASONAL_BLOCKS = tuple(SEASONS)
CATEGORICAL_BLOCK = "categorical"
QUALITY_BLOCK = "quality"
ASSOCIATION_BLOCK = "association"
NUMERIC_PARTS_BLOCK = "numeric parts"
CATEGORICAL_PARTS_BLOCK = "categorical parts"
RATE_BLOCK = "rate"
BLOCKS = (
    NUMERIC_BLOCK,
    *SEASONAL_BLOCKS,
    CATEGORICAL_BLOCK,
    QUALITY_BLOCK,
    ASSOCIATION_BLOCK,
    NUMERIC_PARTS_BLOCK,
    CATEGORICAL_PARTS_BLOCK,
    RATE_BLOCK,
)
"""Values; what is derived from them; values of parts of the traffic; rows per interval of time."""


def block_of(stream: BaselineStream) -> str:
    """The block a stream belongs to."""
    if stream.role == RATE_ROLE:
        return RATE_BLOCK
    if isinstance(stream.bins, SeasonalBins):
        return stream.bins.season
    if stream.segment:
        return NUMERIC_PARTS_BLOCK if stream.layout is NUMERIC else CATEGORICAL_PARTS_BLOCK
    return stream.layout.name


def blocks_of(streams: Iterable[BaselineStream]) -> dict[str, tuple[BaselineStream, ...]]:
    """The streams of each block that has any, in the order of ``BLOCKS`` and of the baseline."""
    found: dict[str, list[BaselineStream]] = {}
    for stream in streams:
        found.setdefault(block_of(stream), []).append(stream)
    return {name: tuple(found[name]) for name in BLOCKS if name in found}


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
    parts: Sequence[Codes]

    @property
    def rows(self) -> int:
        """Number of rows, n."""
        return len(self.times_us)


class RowCounter:
    """Counts the rows of one baseline's version."""

    def __init__(self, baseline: Baseline) -> None:
        blocks = blocks_of(baseline.streams)
        self._names = tuple(blocks)
        self._numeric = [s for name in (NUMERIC_BLOCK, *SEASONAL_BLOCKS) for s in blocks.get(name, ())]
        self._categorical = blocks.get(CATEGORICAL_BLOCK, ())
        self._derived = [d for d in baseline.derived if d.kind in (TEXT, EMBEDDING)]
        self._joint = next((d for d in baseline.derived if d.kind == JOINT), None)
        self._segments = baseline.segments
        row_of = {stream.name: row for row, stream in enumerate(self._numeric)}
        self._joint_row = row_of.get(JOINT_DISTANCE, -1)
        self._joint_rows = _adjacent([row_of[name] for name in self._joint.inputs] if self._joint else [])
        self._plain = stack_numeric([s.bins for s in self._numeric if isinstance(s.bins, NumericBins)])
        self._seasonal = [
            stack_seasonal([s.bins for s in blocks[name] if isinstance(s.bins, SeasonalBins)])
            for name in SEASONAL_BLOCKS
            if name in blocks
        ]
        self._cuts = [s.bins for s in self._categorical if isinstance(s.bins, CategoricalBins)]
        self._quality = _QualitySources(blocks.get(QUALITY_BLOCK, ()), self._numeric, self._categorical, self._derived)
        self._association = _Association(
            blocks.get(ASSOCIATION_BLOCK, ()), baseline.derived, self._numeric, self._categorical
        )
        self._parts = _Parts(baseline, self._numeric, blocks)

    def read(self, columns: PredictionColumns) -> Watched:
        """The watched columns of a batch.

        Raises:
            EventError: A column cannot be read in the kind that the specification declares.
        """
        rows = columns.rows
        ready: dict[str, Floats] = {}
        for derived in self._derived:
            ready |= zip(derived.columns, derived_columns(derived, columns), strict=True)
        values = [
            ready[stream.name] if stream.name in ready else numeric_values(stream.name, stream.role, columns)
            for stream in self._numeric
        ]
        numeric = np.concatenate(values).reshape(len(values), rows) if values else None
        if self._joint is not None and numeric is not None:
            numeric[self._joint_row] = joint_distance(self._joint, numeric[self._joint_rows])
        texts = [categorical_values(stream.name, stream.role, columns) for stream in self._categorical]
        return Watched(
            columns.timestamps_us, numeric, texts, [part_codes(segment, columns) for segment in self._segments]
        )

    def count(self, watched: Watched, index: Codes | None, groups: int) -> list[Counts]:
        """Count a batch.

        Args:
            watched: Its columns, n rows.
            index: int64[n], group of each row, -1 for rows that do not count; None for one group of all rows.
            groups: Number of groups, G.

        Returns:
            Per block int64[G, S, K]; zeros for the block that counts time.
        """
        found = self._count_numbers(watched, index, groups)
        numbers = None
        if found:
            first, *others = found.values()
            numbers = np.concatenate((first, *others), axis=1) if others else first
        lookups = batch_lookups(self._cuts, [text.categories for text in watched.categorical])
        if self._categorical:
            codes = [text.codes for text in watched.categorical]
            found[CATEGORICAL_BLOCK] = count_categorical_block(lookups, codes, index, groups)
        for name in self._names:
            if name == QUALITY_BLOCK:
                in_group = _group_sizes(index, groups, watched.rows)
                found[name] = self._quality.count(numbers, found.get(CATEGORICAL_BLOCK), in_group)
            elif name == ASSOCIATION_BLOCK:
                found[name] = self._association.count(watched, lookups, index, groups)
            elif name == NUMERIC_PARTS_BLOCK:
                found[name] = self._parts.count_numeric(watched, index, groups)
            elif name == CATEGORICAL_PARTS_BLOCK:
                found[name] = self._parts.count_categorical(watched, lookups, index, groups)
            elif name == RATE_BLOCK:
                found[name] = np.zeros((groups, 1, NUMERIC.size), np.int64)
        return [found[name] for name in self._names]

    def _count_numbers(self, watched: Watched, index: Codes | None, groups: int) -> dict[str, Counts]:
        """Counts of the numeric blocks, plain and seasonal."""
        found: dict[str, Counts] = {}
        values, plain = watched.numeric, self._plain.columns
        if values is None:
            return found
        if plain:
            own = values if plain == len(values) else values[:plain]
            found[NUMERIC_BLOCK] = count_numeric_block(self._plain, own, index, groups)
        first = plain
        for block in self._seasonal:
            after = first + len(block.bins)
            found[block.season] = count_seasonal(block, values[first:after], watched.times_us, index, groups)
            first = after
        return found


def numeric_values(name: str, role: str, columns: PredictionColumns) -> Floats:
    """The values of a numeric stream that is no derived column, NaN where the batch does not have them."""
    values: object
    if role == FEATURE:
        return numeric_column(columns, name)
    values = columns.latency_ms if name == LATENCY else prediction_column(columns, name)
    return values if isinstance(values, np.ndarray) else np.full(columns.rows, np.nan)


def categorical_values(name: str, role: str, columns: PredictionColumns) -> CategoricalColumn:
    """The values of a categorical stream, missing where the batch does not have them."""
    if role == FEATURE:
        return categorical_column(columns, name)
    values = columns.error if name == ERROR else prediction_column(columns, name)
    if isinstance(values, CategoricalColumn):
        return values
    return CategoricalColumn((), np.full(columns.rows, -1, dtype=np.int32))


def derived_columns(derived: Derived, columns: PredictionColumns) -> Floats:
    """The columns of a text or an embedding, float64[C, n]."""
    if derived.kind == TEXT:
        return text_columns(derived, categorical_column(columns, derived.name))
    return embedding_columns(derived, columns.vectors.get(derived.name), columns.rows)


def part_codes(segment: BaselineSegment, columns: PredictionColumns) -> Codes:
    """The part of a segmentation that each row belongs to, int64[n], -1 for none."""
    if segment.values == (RULE_PART,):
        values = numeric_column(columns, segment.column)
        low = -np.inf if segment.low is None else segment.low
        high = np.inf if segment.high is None else segment.high
        return np.where((values >= low) & (values < high), 0, -1)
    texts = columns.segments.get(segment.column) or categorical_column(columns, segment.column)
    index = {value: code for code, value in enumerate(segment.values)}
    rest = len(segment.values) - 1 if segment.has_rest else -1
    lookup = np.array([*(index.get(value, rest) for value in texts.categories), rest], np.int64)
    return np.asarray(lookup[texts.codes])


def _group_sizes(index: Codes | None, groups: int, rows: int) -> Counts:
    """Rows of each group, int64[G]."""
    if index is None:
        return np.array([rows], np.int64)
    return np.bincount(index[index >= 0], minlength=groups)


def _adjacent(rows: list[int]) -> list[int] | slice:
    """An index of these rows: a slice, which copies nothing, where they lie side by side."""
    if rows and rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return rows


def _places(pairs: Sequence[tuple[int, int]]) -> tuple[list[int] | slice, list[int] | slice]:
    """Where rows go to, and where they come from, as indices of arrays."""
    return _adjacent([to for to, _ in pairs]), _adjacent([source for _, source in pairs])


class _QualitySources:
    """Counts of usable values, from the counts of the values themselves."""

    def __init__(
        self,
        streams: Sequence[BaselineStream],
        numeric: Sequence[BaselineStream],
        categorical: Sequence[BaselineStream],
        derived: Sequence[Derived],
    ) -> None:
        first_column = {d.name: d.columns[0] for d in derived}
        numeric_rows = {s.name: row for row, s in enumerate(numeric)}
        categorical_rows = {s.name: row for row, s in enumerate(categorical)}
        self._size = len(streams)
        from_numeric: list[tuple[int, int]] = []
        from_categorical: list[tuple[int, int]] = []
        self._schema = -1
        for at, stream in enumerate(streams):
            name = stream.name.removeprefix(QUALITY_PREFIX)
            if stream.name == SCHEMA:
                self._schema = at
            elif name in categorical_rows:
                from_categorical.append((at, categorical_rows[name]))
            else:
                from_numeric.append((at, numeric_rows[first_column.get(name, name)]))
        self._numeric, self._categorical = _places(from_numeric), _places(from_categorical)

    def count(self, numeric: Counts | None, categorical: Counts | None, rows: Counts) -> Counts:
        """Counts int64[G, S, 5] from those of the values; ``rows`` int64[G] were readable."""
        counts = np.zeros((len(rows), self._size, QUALITY.size), np.int64)
        for values, layout, (to, source) in (
            (numeric, NUMERIC, self._numeric),
            (categorical, CATEGORICAL, self._categorical),
        ):
            if values is not None:
                counts[:, to] = quality_counts(values[:, source], layout)
        if self._schema >= 0:
            counts[:, self._schema, QUALITY_VALID] = rows
        return counts


class _Association:
    """Counts of thirds of features against thirds of the prediction; see :func:`thirds_of_numbers`."""

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
        self._at, self._rows = _places([(at, numeric_rows[name]) for at, name in inside])
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

    def _target_thirds(self, watched: Watched, lookups: Sequence[Codes]) -> NDArray[np.uint8]:
        if self._target_row >= 0 and watched.numeric is not None:
            low, high = self._target.arrays["cuts"]
            return thirds_of_numbers(watched.numeric[self._target_row], low, high)
        by_bin = self._target.arrays["thirds"].astype(np.uint8)
        codes = watched.categorical[self._target_column].codes
        return np.asarray(by_bin[lookups[self._target_column]][codes])


MISSING_THIRD = 3


def thirds_of_numbers(values: Floats, low: Floats | float, high: Floats | float) -> NDArray[np.uint8]:
    """The third each value lies in, uint8[..., n]: 0, 1, 2, or 3 for missing; cuts are numbers or float64[..., 1]."""
    # NaN is neither below a cut nor equal to itself
    below = (values <= low).view(np.uint8) + (values <= high).view(np.uint8) + (values == values).view(np.uint8)
    return np.asarray(MISSING_THIRD - below)


def _pairs(thirds: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both thirds in one number from 0 to 15."""
    return np.asarray(thirds * np.uint8(MISSING_THIRD + 1) + target)


_CELL_OF_PAIR = np.array(
    [
        ASSOCIATION_MISSING if MISSING_THIRD in (feature, prediction) else 3 * feature + prediction
        for feature in range(MISSING_THIRD + 1)
        for prediction in range(MISSING_THIRD + 1)
    ],
    np.uint8,
)
_CELLS_OF_PAIRS = np.eye(ASSOCIATION.size, dtype=np.int64)[_CELL_OF_PAIR]


def table_cells(thirds: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The cell of the three-by-three table, uint8[..., n], of thirds of a feature and of the prediction."""
    return np.asarray(_CELL_OF_PAIR[_pairs(thirds, target)])


class _Parts:
    """Counts of the same columns in parts of the traffic."""

    def __init__(
        self,
        baseline: Baseline,
        values: Sequence[BaselineStream],
        blocks: dict[str, tuple[BaselineStream, ...]],
    ) -> None:
        self._sizes = [len(segment.values) for segment in baseline.segments]
        first = next((part for segment in baseline.segments for part in segment.parts), "")
        names = [s.name for s in baseline.streams if s.segment == first and first]
        numeric = {s.name: row for row, s in enumerate(values)}
        categorical = {s.name: row for row, s in enumerate(blocks.get(CATEGORICAL_BLOCK, ()))}
        self._rows = [numeric[name] for name in names if name in numeric]
        self._columns = [categorical[name] for name in names if name in categorical]
        cuts = [s.bins for s in blocks.get(NUMERIC_PARTS_BLOCK, ())[: len(self._rows)]]
        self._block = stack_numeric([cut for cut in cuts if isinstance(cut, NumericBins)])

    def count_numeric(self, watched: Watched, index: Codes | None, groups: int) -> Counts:
        """Counts int64[G, P * S, 15], part by part."""
        assert watched.numeric is not None
        values = watched.numeric[self._rows]
        return np.concatenate(
            [
                count_numeric_block(self._block, values, combined, groups * size).reshape(
                    groups, size * len(self._rows), NUMERIC.size
                )
                for combined, size in self._by_part(watched, index)
            ],
            axis=1,
        )

    def count_categorical(self, watched: Watched, lookups: Sequence[Codes], index: Codes | None, groups: int) -> Counts:
        """Counts int64[G, P * S, 23], part by part."""
        chosen = [lookups[column] for column in self._columns]
        codes = [watched.categorical[column].codes for column in self._columns]
        return np.concatenate(
            [
                count_categorical_block(chosen, codes, combined, groups * size).reshape(
                    groups, size * len(chosen), CATEGORICAL.size
                )
                for combined, size in self._by_part(watched, index)
            ],
            axis=1,
        )

    def _by_part(self, watched: Watched, index: Codes | None) -> Iterable[tuple[Codes, int]]:
        for codes, size in zip(watched.parts, self._sizes, strict=True):
            group = np.zeros(watched.rows, np.int64) if index is None else index
            yield np.where((codes >= 0) & (group >= 0), group * size + codes, -1), size
