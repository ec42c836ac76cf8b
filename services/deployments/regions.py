"""Whether a combination of conditions can hold at all: interval reasoning over columns that know nothing of each other.

A formula says of columns where their values lie. It is decided by a tableau: what has to hold together is intersected,
column by column, and of alternatives one after the other is tried. Columns are taken to be independent, so what cannot
hold here cannot hold for any row; the other way round nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

End = tuple[float, int]
"""A number, and 1 just above it, -1 just below it: the end of an interval that does not hold it."""

Column = Hashable
"""What has one value, or none, in a row."""

_LOWEST, _HIGHEST = (-math.inf, 0), (math.inf, 0)


@dataclass(frozen=True, slots=True)
class Region:
    """Values of a column: disjoint intervals from end to end, in order, and whether it may be missing."""

    intervals: tuple[tuple[End, End], ...]
    missing: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no value lies in it."""
        return not self.intervals and not self.missing

    def intersection(self, other: Region) -> Region:
        """What lies in both."""
        shared = []
        here = there = 0
        while here < len(self.intervals) and there < len(other.intervals):
            (low, high), (other_low, other_high) = self.intervals[here], other.intervals[there]
            if max(low, other_low) <= min(high, other_high):
                shared.append((max(low, other_low), min(high, other_high)))
            here, there = (here + 1, there) if high < other_high else (here, there + 1)
        return Region(tuple(shared), self.missing and other.missing)

    def complement(self) -> Region:
        """All that does not lie in it."""
        gaps = []
        begin = _LOWEST
        for low, high in self.intervals:
            gaps.append((begin, (low[0], low[1] - 1)))
            begin = (high[0], high[1] + 1)
        gaps.append((begin, _HIGHEST))
        return Region(tuple(gap for gap in gaps if gap[0] <= gap[1]), not self.missing)


_MOST_CHOICES = 100
"""Choices inside of choices that are followed."""

EVERYTHING = Region(((_LOWEST, _HIGHEST),), missing=True)
PRESENT = Region(((_LOWEST, _HIGHEST),))
MISSING = Region((), missing=True)


def between(low: float | None, high: float | None, *, missing: bool = False) -> Region:
    """Numbers from ``low`` to ``high``, both included; None for no end."""
    ends = ((-math.inf if low is None else low, 0), (math.inf if high is None else high, 0))
    return Region((ends,) if ends[0] <= ends[1] else (), missing)


def below(end: float, *, missing: bool = False) -> Region:
    """Numbers below one."""
    return Region(((_LOWEST, (end, -1)),), missing)


def above(end: float, *, missing: bool = False) -> Region:
    """Numbers above one."""
    return Region((((end, 1), _HIGHEST),), missing)


def points(values: Sequence[float]) -> Region:
    """Some numbers, each on its own."""
    return Region(tuple(((value, 0), (value, 0)) for value in sorted(set(values))))


@dataclass(frozen=True, slots=True)
class Lies:
    """A column's value lies in a region."""

    column: Column
    region: Region


@dataclass(frozen=True, slots=True)
class Both:
    """All of the parts hold; of none, always."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of the parts holds at least; of none, never."""

    parts: tuple[Formula, ...]


Formula = Lies | Both | Either


def negation(formula: Formula) -> Formula:
    """What holds exactly where a formula does not."""
    if isinstance(formula, Lies):
        return Lies(formula.column, formula.region.complement())
    parts = tuple(map(negation, formula.parts))
    return Either(parts) if isinstance(formula, Both) else Both(parts)


class Search:
    """Decides formulas, each with a number of steps and all with another: a hostile one must not take for ever.

    Args:
        domain: The values that a column can have at all.
        steps: How many parts of formulas are looked at for one question.
        all_steps: For all of them.
    """

    def __init__(self, domain: Callable[[Column], Region], steps: int = 20_000, all_steps: int = 300_000) -> None:
        self._domain = domain
        self._steps, self._all_left, self._left = steps, all_steps, 0

    def can_hold(self, *formulas: Formula) -> bool:
        """Whether formulas can hold together; also true where that could not be decided."""
        given = self._left = min(self._steps, self._all_left)
        found = self._extend({}, list(formulas), [], _MOST_CHOICES)
        self._all_left -= given - max(self._left, 0)
        return found

    def _extend(self, known: dict[Column, Region], todo: list[Formula], open_: list[Either], choices: int) -> bool:
        """Whether what is known can be extended to all that is to do and one part of each that is open."""
        known = dict(known)
        self._left -= len(known) // 16
        while todo or open_:
            self._left -= 1
            if self._left < 0 or not choices:
                return True
            if todo:
                if not self._take(known, todo, open_):
                    return False
                continue
            left = [self._fitting(known, either) for either in open_]
            todo = [parts[0] for parts in left if len(parts) == 1]
            open_ = [Either(parts) for parts in left if len(parts) != 1]
            if not todo:
                chosen = min(open_, key=lambda either: len(either.parts))
                rest = [either for either in open_ if either is not chosen]
                return any(self._extend(known, [part], list(rest), choices - 1) for part in chosen.parts)
        return True

    def _take(self, known: dict[Column, Region], todo: list[Formula], open_: list[Either]) -> bool:
        """Take the last thing to do into what is known, or its parts; False where it cannot be."""
        formula = todo.pop()
        if isinstance(formula, Both):
            todo.extend(formula.parts)
        elif isinstance(formula, Either):
            open_.append(formula)
        else:
            self._left -= len(formula.region.intervals) // 16
            region = self._known(known, formula.column).intersection(formula.region)
            if region.is_empty:
                return False
            known[formula.column] = region
        return True

    def _fitting(self, known: dict[Column, Region], either: Either) -> tuple[Formula, ...]:
        """The parts that what is known leaves."""
        self._left -= len(either.parts)
        return tuple(part for part in either.parts if self._fits(known, part))

    def _fits(self, known: dict[Column, Region], part: Formula) -> bool:
        if not isinstance(part, Lies):
            return True
        return not self._known(known, part.column).intersection(part.region).is_empty

    def _known(self, known: dict[Column, Region], column: Column) -> Region:
        return known[column] if column in known else self._domain(column)
