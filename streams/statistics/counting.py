"""Batches of columns to counts: the hot path.

Measured on one core, 17 columns of 500 rows: looking every value up among the edges 0.41 µs per row; comparing the
whole block with one edge after the other 0.23; sorting the columns and looking the edges up among the values 0.10,
which needs all rows in one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.statistics.layouts import (
    BELOW_MIN,
    CATEGORICAL,
    NUMERIC,
    NUMERIC_MISSING,
    CategoricalBins,
    NumericBins,
    dictionary_lookup,
)


@dataclass(frozen=True, eq=False)
class NumericBlock:
    """The cuts of S numeric columns side by side.

    ``edges``: float64[14, S, 1], the first is -inf: every value but NaN reaches it, so counting the edges a value
    reaches tells missing (0) from below the minimum (1) without a separate pass.
    ``marks``: float64[S, 14], the edges after the first, and NaN, which is sorted behind every value.
    ``remap``: int64[S * 15], from column and number of edges reached to column and ``NUMERIC`` bin.
    """

    edges: NDArray[np.float64]
    marks: NDArray[np.float64]
    remap: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def columns(self) -> int:
        """Number of columns, S."""
        return int(self.edges.shape[1])


def stack_numeric(bins: Sequence[NumericBins]) -> NumericBlock:
    """Lay the cuts of several columns side by side for :func:`count_numeric_block`."""
    width = NUMERIC.size
    edges = np.full((width - 1, len(bins), 1), -np.inf)
    remap = np.empty((len(bins), width), np.int64)
    for column, cut in enumerate(bins):
        edges[1:, column, 0] = cut.edges
        remap[column] = (NUMERIC_MISSING, BELOW_MIN, *cut.remap[1:])
        remap[column] += column * width
    offsets = (np.arange(len(bins)) * width)[:, None]
    marks = np.full((len(bins), width - 1), np.nan)
    marks[:, :-1] = edges[1:, :, 0].T
    return NumericBlock(edges, marks, remap.ravel(), offsets)


def count_numeric_block(
    block: NumericBlock, values: NDArray[np.float64], segments: NDArray[np.int64] | None = None, segment_count: int = 1
) -> NDArray[np.int64]:
    """Counts int64[G, S, 15] of S columns, ``values`` float64[S, n], in G segments of the batch.

    ``segments``: int64[n], the segment of each row from 0 to ``segment_count`` - 1, or -1 for a row not to be counted;
    without it all rows are in segment 0. NaN is missing; infinities are out of range.
    """
    columns, width = block.columns, NUMERIC.size
    if values.ndim != 2 or values.shape[0] != columns:
        raise ValueError(f"expected values of shape ({columns}, n), one row per column, got {values.shape}")
    size = columns * width
    if segments is None:
        raw = _edges_reached(block, values).reshape(1, size)
    else:
        raw = _edges_reached_by_segment(block, values, segments, segment_count)
    counts = np.zeros_like(raw)
    for group in range(segment_count):
        # bincount sums its weights in float64, exact for counts below 2^53
        counts[group] = np.bincount(block.remap, weights=raw[group], minlength=size)
    return counts.reshape(segment_count, columns, width)


def _edges_reached(block: NumericBlock, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values of each column reach 0, 1, … 14 edges, int64[S, 15]."""
    below = np.zeros((block.columns, NUMERIC.size), np.int64)
    for column, (in_order, marks) in enumerate(zip(np.sort(values, axis=1), block.marks, strict=True)):
        below[column, 1:] = in_order.searchsorted(marks)
    raw = np.empty_like(below)
    raw[:, 0] = values.shape[1] - below[:, -1]
    np.subtract(below[:, 1:], below[:, :-1], out=raw[:, 1:])
    return raw


def _edges_reached_by_segment(
    block: NumericBlock, values: NDArray[np.float64], segments: NDArray[np.int64], segment_count: int
) -> NDArray[np.int64]:
    """The same for each segment, int64[G, S * 15]."""
    size = block.columns * NUMERIC.size
    reached = np.zeros(values.shape, np.uint8)
    does_reach = np.empty(values.shape, np.bool_)
    for edge in block.edges:
        np.greater_equal(values, edge, out=does_reach)
        reached += does_reach.view(np.uint8)
    index = reached + block.offsets
    index += segments * size
    if segments.size and segments.min() < 0:
        index = index[:, segments >= 0]
    return np.bincount(index.ravel(), minlength=segment_count * size).reshape(segment_count, size)


def count_categorical_block(
    lookups: Sequence[NDArray[np.int64]],
    codes: Sequence[NDArray[np.integer]],
    segments: NDArray[np.int64] | None = None,
    segment_count: int = 1,
) -> NDArray[np.int64]:
    """Counts int64[G, S, 23] of S dictionary-encoded columns.

    ``lookups``: per column what :func:`~streams.statistics.layouts.dictionary_lookup` gave for the batch's dictionary;
    ``codes``: per column int[n], -1 is missing. ``segments`` as in :func:`count_numeric_block`.
    Raises ``ValueError`` for a code outside its dictionary.
    """
    width = CATEGORICAL.size
    counts = np.empty((segment_count, len(lookups), width), np.int64)
    kept = None if segments is None or not segments.size or segments.min() >= 0 else segments >= 0
    for column, (lookup, column_codes) in enumerate(zip(lookups, codes, strict=True)):
        entries = len(lookup)
        index = column_codes + 1  # missing first, as bincount takes no negative numbers
        if segments is not None:
            if index.size and not 0 <= index.min() <= index.max() < entries:
                raise _outside(column, entries)
            index = index + segments * entries
            if kept is not None:
                index = index[kept]
        try:
            per_entry = np.bincount(index, minlength=segment_count * entries)
        except ValueError as error:
            raise _outside(column, entries) from error
        if len(per_entry) > segment_count * entries:
            raise _outside(column, entries)
        bins = np.concatenate((lookup[-1:], lookup[:-1]))
        for group in range(segment_count):
            in_group = per_entry[group * entries : (group + 1) * entries]
            counts[group, column] = np.bincount(bins, weights=in_group, minlength=width)
    return counts


def _outside(column: int, entries: int) -> ValueError:
    return ValueError(f"column {column}: codes must lie in [-1, {entries - 2}], the size of its dictionary")


def batch_lookups(bins: Sequence[CategoricalBins], dictionaries: Sequence[Sequence[str]]) -> list[NDArray[np.int64]]:
    """:func:`~streams.statistics.layouts.dictionary_lookup` for every column of a batch."""
    return [dictionary_lookup(cut, dictionary) for cut, dictionary in zip(bins, dictionaries, strict=True)]
