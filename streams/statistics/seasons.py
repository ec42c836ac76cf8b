"""Seasons: a numeric column that is judged by what is usual at its hour of the week.

A column with a daily or weekly cycle is never distributed like its reference: at night it is the reference of the
nights. Without seasons that is dependence, and :mod:`streams.statistics.dependence` answers it with an exponent of
about a hundredth, at which a real change takes weeks to be found. With seasons the hour is a condition
(:mod:`streams.statistics.conditional`, which says what that costs): each hour has edges of its own, and a visit of it
is an hour that passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.statistics.arrays import Codes, Counts, Floats
from streams.statistics.conditional import (
    MINIMUM_CONDITION_ROWS,
    ConditionalBins,
    ConditionalFit,
    bin_conditional,
    fit_conditional,
    row_groups,
)
from streams.statistics.counting import NumericBlock, count_numeric_block, stack_numeric
from streams.statistics.dependence import tempering
from streams.statistics.layouts import (
    NUMERIC,
    bin_numeric,
    fit_numeric,
)
from streams.statistics.tilts import NUMERIC_TILTS

HOUR_OF_WEEK = "hour_of_week"
HOUR_AND_WEEKEND = "hour_and_weekend"
SEASONS = {HOUR_OF_WEEK: 168, HOUR_AND_WEEKEND: 48}
"""The kinds of seasons and how many there are of each, the finer one first. All are UTC."""

MINIMUM_CYCLES = 4
"""Weeks that a reference must cover: fewer do not tell a Monday from that Monday."""

MINIMUM_SHARE = 0.9
"""The seasons with enough rows must hold this share of all rows, or seasons of this kind are not used."""

MINIMUM_GAIN = 1.5
"""Seasons are used where they raise the median exponent at least so many times: what they make better must be worth
their edges, 13 numbers per season."""

_HOUR_US = 3_600_000_000
_WEEK_HOURS = 168
_EPOCH_HOUR = 72  # 1970-01-01 was a Thursday
_BLOCKS_IN_MEMORY = 4


def season_index(times_us: ArrayLike, season: str) -> NDArray[np.int64]:
    """Season int64[n] of event times, microseconds since 1970 UTC.

    ``hour_of_week``: 0 to 167, from Monday 0:00 UTC. ``hour_and_weekend``: the hour of the day, 0 to 23 from Monday to
    Friday and 24 to 47 on Saturday and Sunday.
    """
    hour = (np.asarray(times_us, np.int64) // _HOUR_US + _EPOCH_HOUR) % _WEEK_HOURS
    if season == HOUR_OF_WEEK:
        return np.asarray(hour)
    if season == HOUR_AND_WEEKEND:
        return np.asarray(hour % 24 + 24 * (hour >= 5 * 24))
    raise ValueError(f"expected one of {', '.join(SEASONS)}, got {season!r}")


@dataclass(frozen=True, eq=False)
class SeasonalBins(ConditionalBins):
    """How a numeric column is cut in each of B seasons; the condition is a key of ``SEASONS``.

    Raises ``ValueError`` for anything else.
    """

    def __post_init__(self) -> None:
        number = SEASONS.get(self.condition)
        if number is None or len(self.edges) != number or len(self.remap) != number:
            raise ValueError(
                f"expected edges of the seasons of one of {SEASONS}, got {len(self.edges)} and {len(self.remap)} for "
                f"{self.condition!r}"
            )
        super().__post_init__()

    @property
    def season(self) -> str:
        """The kind of season."""
        return self.condition


@dataclass(frozen=True, eq=False)
class SeasonalFit(ConditionalFit):
    """What a reference with seasons gave."""

    bins: SeasonalBins


def fit_seasonal(values: ArrayLike, times_us: ArrayLike) -> SeasonalFit | None:
    """Cut a reference column, float64[m], by season, if it has seasons.

    ``times_us``: int64[m], event times, not decreasing. None where the reference covers fewer than four weeks, where
    its rows do not suffice, and where seasons would not raise the median exponent 1.5 times. Hours of the week are
    taken where they have rows enough, else hours of the day with a weekend of their own.
    """
    column, times = np.asarray(values, np.float64), np.asarray(times_us, np.int64)
    if not times.size or times[-1] // _HOUR_US - times[0] // _HOUR_US + 1 < MINIMUM_CYCLES * _WEEK_HOURS:
        return None
    for season in SEASONS:
        index = season_index(times, season)
        rows = np.bincount(index[np.isfinite(column)], minlength=SEASONS[season])
        enough = rows >= MINIMUM_CONDITION_ROWS
        if rows[enough].sum() >= MINIMUM_SHARE * max(rows.sum(), 1):
            return _fit(column, times, season, index)
    return None


def _fit(column: Floats, times: NDArray[np.int64], season: str, index: NDArray[np.int64]) -> SeasonalFit | None:
    plain = bin_numeric(fit_numeric(column), column)
    if not _differs(plain, index, SEASONS[season]):
        return None
    visits = _visits(times[np.isfinite(column)], season)
    fit = fit_conditional(column, index, season, SEASONS[season], visits=visits)
    if np.median(fit.tempering) < MINIMUM_GAIN * np.median(tempering(plain, NUMERIC_TILTS)):
        return None
    return SeasonalFit(
        SeasonalBins(season, fit.bins.edges, fit.bins.remap), fit.codes, fit.tempering, fit.margin_excess
    )


def _differs(codes: Codes, index: NDArray[np.int64], seasons: int) -> bool:
    """Whether seasons differ at all: Pearson's chi-square of seasons against bins, beyond three deviations of it.

    Only saves the trouble of trying; dependence within an hour makes it say yes too often.
    """
    table = np.bincount(index * NUMERIC.size + codes, minlength=seasons * NUMERIC.size).reshape(seasons, -1)
    table = table[np.ix_(table.sum(axis=1) > 0, table.sum(axis=0) > 0)].astype(np.float64)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return bool(((table - expected) ** 2 / expected).sum() > freedom + 3 * np.sqrt(2 * freedom))


def _visits(times: NDArray[np.int64], season: str) -> NDArray[np.int64]:
    """In how many different hours each season was seen, int64[B]."""
    hours = np.unique(times // _HOUR_US)
    return np.bincount(season_index(hours * _HOUR_US, season), minlength=SEASONS[season])


def bin_seasonal(bins: SeasonalBins, values: ArrayLike, times_us: ArrayLike) -> Codes:
    """Bin codes uint8[n] in ``NUMERIC`` of a column float64[n] at event times int64[n]."""
    return bin_conditional(bins, values, season_index(times_us, bins.season))


@dataclass(eq=False)
class SeasonalBlock:
    """The cuts of S seasonal columns side by side, all of one kind of season.

    The cuts of a few seasons at a time are laid out for counting: a batch rarely has more than two.
    """

    bins: tuple[SeasonalBins, ...]
    _laid_out: dict[int, NumericBlock] = field(default_factory=dict, repr=False)

    @property
    def season(self) -> str:
        """The kind of season."""
        return self.bins[0].season

    def at(self, index: int) -> NumericBlock:
        """The cuts of all columns in one season."""
        found = self._laid_out.pop(index, None)
        if found is None:
            found = stack_numeric([bins.at(index) for bins in self.bins])
            if len(self._laid_out) >= _BLOCKS_IN_MEMORY:
                self._laid_out.pop(next(iter(self._laid_out)))
        self._laid_out[index] = found
        return found


def stack_seasonal(bins: Sequence[SeasonalBins]) -> SeasonalBlock:
    """Put several columns of one kind of season side by side for :func:`count_seasonal`."""
    if len({each.season for each in bins}) != 1:
        raise ValueError("expected columns of one kind of season; stack each kind by itself")
    return SeasonalBlock(tuple(bins))


def count_seasonal(
    block: SeasonalBlock,
    values: Floats,
    times_us: NDArray[np.int64],
    segments: NDArray[np.int64] | None = None,
    segment_count: int = 1,
) -> Counts:
    """Counts int64[G, S, 15] of S seasonal columns, ``values`` float64[S, n], at event times int64[n].

    ``segments`` as in :func:`~streams.statistics.counting.count_numeric_block`, whose counts these are, season by
    season.
    """
    index = season_index(times_us, block.season)
    if index.size and (index == index[0]).all():
        return count_numeric_block(block.at(int(index[0])), values, segments, segment_count)
    counts = np.zeros((segment_count, len(block.bins), NUMERIC.size), np.int64)
    for at, members in row_groups(index):
        if segments is None:
            counts += count_numeric_block(block.at(at), values[:, members])
            continue
        members = members[segments[members] >= 0]
        # only the segments that this season has: many of them, each with few seasons, must not cost their product
        present, own = np.unique(segments[members], return_inverse=True)
        if present.size:
            counts[present] += count_numeric_block(block.at(at), values[:, members], own, len(present))
    return counts
