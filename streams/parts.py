"""Parts of the traffic: which rows belong to them, which have rows enough, and the counts of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from driftline.reading import dividing_column
from driftline.reading import part_codes as part_codes
from streams.baseline import OTHER_PART, RULE_PART, BaselineSegment, BaselineStream
from streams.columns import Watched, occurrences
from streams.specification import SegmentSpec
from streams.statistics.counting import count_categorical_block, count_numeric_block, stack_numeric
from streams.statistics.layouts import CATEGORICAL, NUMERIC, NumericBins

Counts = NDArray[np.int64]
Codes = NDArray[np.int64]

MINIMUM_PART_ROWS = 500
"""A part of the traffic with fewer reference rows is not watched on its own: it joins the rest."""

MOST_PART_STREAMS = 2_000
"""Streams of parts of the traffic that one deployment version may have."""


def fit_segment(asked: SegmentSpec, batches: Sequence[PredictionColumns]) -> BaselineSegment | None:
    """The parts of a segmentation that have reference rows enough; None if none has."""
    if asked.is_rule:
        segment = BaselineSegment(asked.name, asked.column, (RULE_PART,), asked.low, asked.high)
        inside = sum(int((part_codes(segment, batch) == 0).sum()) for batch in batches)
        return segment if inside >= MINIMUM_PART_ROWS else None
    counts = occurrences(dividing_column(batch, asked.column) for batch in batches)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    wanted = [value for value in ranked if value in asked.values] if asked.values else ranked[: asked.most]
    values = [value for value in wanted if counts[value] >= MINIMUM_PART_ROWS and value != OTHER_PART]
    if sum(batch.rows for batch in batches) - sum(counts[value] for value in values) >= MINIMUM_PART_ROWS:
        values.append(OTHER_PART)
    return BaselineSegment(asked.name, asked.column, tuple(values)) if values else None


class PartCounter:
    """Counts of the same columns in parts of the traffic.

    Args:
        segments: The segmentations.
        streams: All streams of the baseline; those of each part are the same, in the same order.
        numeric: The streams of the rows of :attr:`Watched.numeric`.
        categorical: Those of :attr:`Watched.categorical`.
    """

    def __init__(
        self,
        segments: Sequence[BaselineSegment],
        streams: Sequence[BaselineStream],
        numeric: Sequence[BaselineStream],
        categorical: Sequence[BaselineStream],
    ) -> None:
        self._sizes = [len(segment.values) for segment in segments]
        first = next((part for segment in segments for part in segment.parts), None)
        part = [s for s in streams if s.segment == first]
        rows = {s.name: row for row, s in enumerate(numeric)}
        columns = {s.name: column for column, s in enumerate(categorical)}
        self._rows = [rows[s.name] for s in part if s.name in rows]
        self._columns = [columns[s.name] for s in part if s.name in columns]
        self._block = stack_numeric([s.bins for s in part if isinstance(s.bins, NumericBins)])

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
