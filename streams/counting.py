"""A baseline's streams in blocks, and how a batch's rows become their counts.

A *block* is a set of streams that share a layout and a way of being counted. Evidence, windows and the journal see
blocks as arrays; only this module knows what each is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, PredictionColumns
from streams.association import AssociationCounter
from streams.baseline import (
    ERROR,
    FAIRNESS_ROLE,
    FEATURE,
    HUMILITY_ROLE,
    LABELS_ROLE,
    LATENCY,
    OUTCOME_ROLE,
    QUALITY_PREFIX,
    RATE_ROLE,
    SCHEMA,
    Baseline,
    BaselineStream,
)
from streams.columns import Watched, categorical_column, numeric_column, prediction_column
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
from streams.parts import PartCounter, part_codes
from streams.statistics.arrays import adjacent, places
from streams.statistics.counting import batch_lookups, count_categorical_block, count_numeric_block, stack_numeric
from streams.statistics.layouts import (
    CATEGORICAL,
    LOSS,
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
OUTCOME_BLOCK = "outcome"
LOSS_BLOCK = "loss"
LABELS_BLOCK = "labels"
HUMILITY_BLOCK = "humility"
MISCOVERAGE_BLOCK = "miscoverage"
BLOCKS = (
    NUMERIC_BLOCK,
    *SEASONAL_BLOCKS,
    CATEGORICAL_BLOCK,
    QUALITY_BLOCK,
    ASSOCIATION_BLOCK,
    NUMERIC_PARTS_BLOCK,
    CATEGORICAL_PARTS_BLOCK,
    RATE_BLOCK,
    OUTCOME_BLOCK,
    LOSS_BLOCK,
    LABELS_BLOCK,
    HUMILITY_BLOCK,
    MISCOVERAGE_BLOCK,
)
"""Values; what is derived from them; values of parts of the traffic; rows per interval of time; predictions beside
their outcomes (all under conditions; the tail of losses), and whether outcomes come; what the humility rules did, and
which outcomes the fitted intervals missed. Humility stands last: where its rules are fitted again the places of all
other blocks stay (:mod:`streams.humility.refit`)."""

OUTCOME_BLOCKS = (OUTCOME_BLOCK, LOSS_BLOCK)
"""What :class:`streams.outcomes.evidence.OutcomeCounter` counts."""

MISCOVERAGE = "humility:miscoverage"
"""The stream of humility that is counted when an outcome joins; the others are counted with the rows of predictions."""

HUMILITY_BLOCKS = (HUMILITY_BLOCK, MISCOVERAGE_BLOCK)

NOT_ROWS_BLOCKS = (RATE_BLOCK, *OUTCOME_BLOCKS, LABELS_BLOCK, *HUMILITY_BLOCKS)
"""What is not counted in the columns of predictions as they come."""


def block_of(stream: BaselineStream) -> str:
    """The block a stream belongs to."""
    if stream.role == RATE_ROLE:
        return RATE_BLOCK
    if stream.role == LABELS_ROLE:
        return LABELS_BLOCK
    if stream.role == HUMILITY_ROLE:
        return MISCOVERAGE_BLOCK if stream.name == MISCOVERAGE else HUMILITY_BLOCK
    if stream.role in (OUTCOME_ROLE, FAIRNESS_ROLE):
        return LOSS_BLOCK if stream.layout is LOSS else OUTCOME_BLOCK
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
        self._joint_rows = adjacent([row_of[name] for name in self._joint.inputs] if self._joint else [])
        self._plain = stack_numeric([s.bins for s in self._numeric if isinstance(s.bins, NumericBins)])
        self._seasonal = [
            stack_seasonal([s.bins for s in blocks[name] if isinstance(s.bins, SeasonalBins)])
            for name in SEASONAL_BLOCKS
            if name in blocks
        ]
        self._cuts = [s.bins for s in self._categorical if isinstance(s.bins, CategoricalBins)]
        self._quality = _QualitySources(blocks.get(QUALITY_BLOCK, ()), self._numeric, self._categorical, self._derived)
        associations = blocks.get(ASSOCIATION_BLOCK, ())
        self._association = AssociationCounter(associations, baseline.derived, self._numeric, self._categorical)
        in_parts = [s for name in (NUMERIC_PARTS_BLOCK, CATEGORICAL_PARTS_BLOCK) for s in blocks.get(name, ())]
        self._parts = PartCounter(baseline.segments, in_parts, self._numeric, self._categorical)
        self._not_rows = [
            (name, len(blocks[name]), blocks[name][0].layout.size) for name in NOT_ROWS_BLOCKS if name in blocks
        ]

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
            Per block int64[G, S, K]; zeros for those that count no rows of predictions (``NOT_ROWS_BLOCKS``).
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
        for name, streams, bins in self._not_rows:
            found[name] = np.zeros((groups, streams, bins), np.int64)
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


def _group_sizes(index: Codes | None, groups: int, rows: int) -> Counts:
    """Rows of each group, int64[G]."""
    if index is None:
        return np.array([rows], np.int64)
    return np.bincount(index[index >= 0], minlength=groups)


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
        self._numeric, self._categorical = places(from_numeric), places(from_categorical)

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
