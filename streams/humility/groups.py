"""Mondrian groups: what is computed for each part of the traffic that has rows enough, and for all others together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from streams.baseline import BaselineSegment
from streams.parts import part_codes
from streams.statistics.humility import RowsNeeded

Integers = NDArray[np.int64]

POOLED = ""
"""The group of all rows that have none of their own."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each row may have of its own.

    Attributes:
        names: ``SEGMENTATION=VALUE``.
        codes: int64[n], index into ``names``, -1 for none.
    """

    names: tuple[str, ...]
    codes: Integers

    @classmethod
    def of(cls, segment: BaselineSegment | None, batches: Sequence[PredictionColumns], rows: Integers) -> Groups:
        """The parts of a segmentation; none without one. ``rows``: int64[n], places in the batches."""
        if segment is None:
            return cls((), np.full(len(rows), -1, np.int64))
        codes = np.concatenate([part_codes(segment, batch, lenient=True) for batch in batches])
        return cls(tuple(segment.parts), codes[rows])


@dataclass(frozen=True)
class Grouped(Generic[T_co]):
    """What was computed by group.

    Attributes:
        found: Group, number of its rows, and what was found; the pooled one first, if it has any.
        short: Group and what it lacks.
    """

    found: tuple[tuple[str, int, T_co], ...]
    short: tuple[tuple[str, RowsNeeded], ...]


def by_group(groups: Groups, rows: Integers, compute: Callable[[Integers], T | RowsNeeded]) -> Grouped[T]:
    """Compute something for each group that has rows enough, and for the others together.

    The pooled group calibrates on the rows that it will be used for, those of no group of their own: so it is a group
    like any other. Where these are too few, all rows stand in for them, and that is said: what holds on average over
    the traffic is the best that is known of parts of which little or nothing is.

    Args:
        groups: Of n rows.
        rows: int64[m], which of them count.
        compute: Of some of these rows, int64[k].
    """
    found: list[tuple[str, int, T]] = []
    short: list[tuple[str, RowsNeeded]] = []
    rest = np.ones(len(rows), bool)
    for number, name in enumerate(groups.names):
        mine = groups.codes[rows] == number
        computed = compute(rows[mine])
        if isinstance(computed, RowsNeeded):
            short.append((name, computed))
        else:
            found.append((name, int(mine.sum()), computed))
            rest &= ~mine
    counted = rows[rest]
    pooled = compute(counted)
    if isinstance(pooled, RowsNeeded) and found:
        whole = compute(rows)
        if not isinstance(whole, RowsNeeded):
            if len(counted):
                short.insert(0, (POOLED, pooled))
            counted, pooled = rows, whole
    if isinstance(pooled, RowsNeeded):
        return Grouped(tuple(found), ((POOLED, pooled), *short))
    return Grouped(((POOLED, len(counted), pooled), *found), tuple(short))
