"""Seasons: a numeric column that is judged by what is usual at its hour of the week.

A column with a daily or weekly cycle is never distributed like its reference: at night it is the reference of the
nights. Without seasons that is dependence, and :mod:`streams.statistics.dependence` answers it with an exponent of
about a hundredth, at which a real change takes weeks to be found. With seasons each hour has edges of its own, the
quantiles of the reference's rows of that hour, and a value goes to the bin of the one common ``NUMERIC`` layout in
which its own hour puts it. That is the probability integral transform by season, cut into bins (Rosenblatt, "Remarks
on a multivariate transformation", Annals of Mathematical Statistics 23, 1952): what is left is the deviation from the
usual, counts of all hours add up, and the baseline stays one distribution.

**What a season costs.** Its edges are learnt from fewer rows, so within a season the true probabilities of the bins
differ from the baseline's by delta_s with variance sigma^2 / m_s, m_s being the season's reference rows. With
pi_s = m_s / m, the season's share of the rows,

- over whole cycles the errors average out: Var(sum_s pi_s delta_s) = sum_s pi_s^2 sigma^2 / m_s = sigma^2 / m, the
  same as that of a column without seasons. The margin for the size of the reference is that of m rows, and one term
  more: the lowest edges of a season are order statistics, below which a new value falls with probability
  r / (m_s + 1) where the reference has a share of (r - 1) / m_s. That bias of about 1 / m_s has one sign in all
  seasons: on average sum_s pi_s / m_s, the number of seasons over m (:attr:`SeasonalFit.margin_excess`);
- within a cycle they do not: a visit of the season with n_s = m_s / visits_s rows has a sum of scores with variance
  n_s sigma^2 + n_s^2 sigma^2 / m_s = n_s sigma^2 (1 + 1 / visits_s). The reference itself does not show it, because
  its own rows made the edges. All exponents are therefore divided by 1 + sum_s pi_s / visits_s: by 1.25 where each
  hour of the week was seen four times.

Both assume that production visits the seasons as often as the reference did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.statistics.arrays import Codes, Counts, Floats
from streams.statistics.counting import NumericBlock, count_numeric_block, stack_numeric
from streams.statistics.dependence import tempering
from streams.statistics.layouts import (
    HIGH_TAIL,
    LOW_TAIL,
    NUMERIC,
    NumericBins,
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

MINIMUM_SEASON_ROWS = 200
"""Fewer rows do not tell a season's 0.5 % quantile; such a season keeps the edges of the whole reference."""

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
class SeasonalBins:
    """How a numeric column is cut in each of B seasons.

    ``season``: a key of ``SEASONS``. ``edges``: float64[B, 13], ``remap``: uint8[B, 14], per season what
    :class:`~streams.statistics.layouts.NumericBins` has. Raises ``ValueError`` for anything else.
    """

    season: str
    edges: Floats
    remap: NDArray[np.uint8]
    _cuts: tuple[NumericBins, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        edges, remap = np.asarray(self.edges, np.float64), np.asarray(self.remap, np.uint8)
        number = SEASONS.get(self.season)
        if number is None or len(edges) != number or len(remap) != number:
            raise ValueError(
                f"expected edges of the seasons of one of {SEASONS}, got {len(edges)} and {len(remap)} for "
                f"{self.season!r}"
            )
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "remap", remap)
        object.__setattr__(self, "_cuts", tuple(map(NumericBins, edges, remap)))

    def at(self, index: int) -> NumericBins:
        """The cuts of one season."""
        return self._cuts[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeasonalBins) and self.season == other.season and self._cuts == other._cuts


@dataclass(frozen=True, eq=False)
class SeasonalFit:
    """What a reference with seasons gave; see the module for the two costs.

    ``codes``: uint8[m], the reference's own bins. ``tempering``: float64[I], exponents that pay for the errors of the
    edges. ``margin_excess``: total variation to be added to what the size of the reference asks as margin.
    """

    bins: SeasonalBins
    codes: Codes
    tempering: Floats
    margin_excess: float


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
        enough = rows >= MINIMUM_SEASON_ROWS
        if rows[enough].sum() >= MINIMUM_SHARE * max(rows.sum(), 1):
            return _fit(column, times, season, index, rows)
    return None


def _fit(
    column: Floats, times: NDArray[np.int64], season: str, index: NDArray[np.int64], rows: NDArray[np.int64]
) -> SeasonalFit | None:
    overall = fit_numeric(column)
    plain = bin_numeric(overall, column)
    if not _differs(plain, index, SEASONS[season]):
        return None
    bins = _cut(column, season, index, rows, overall)
    codes = bin_seasonal(bins, column, times)
    share = rows / rows.sum()
    visits = _visits(times[np.isfinite(column)], season)
    exponents = tempering(codes, NUMERIC_TILTS) / (1 + float((share / np.maximum(visits, 1)).sum()))
    if np.median(exponents) < MINIMUM_GAIN * np.median(tempering(plain, NUMERIC_TILTS)):
        return None
    used = rows >= MINIMUM_SEASON_ROWS
    return SeasonalFit(bins, codes, exponents, float((share[used] / rows[used]).sum()))


def _differs(codes: Codes, index: NDArray[np.int64], seasons: int) -> bool:
    """Whether seasons differ at all: Pearson's chi-square of seasons against bins, beyond three deviations of it.

    Only saves the trouble of trying; dependence within an hour makes it say yes too often.
    """
    table = np.bincount(index * NUMERIC.size + codes, minlength=seasons * NUMERIC.size).reshape(seasons, -1)
    table = table[np.ix_(table.sum(axis=1) > 0, table.sum(axis=0) > 0)].astype(np.float64)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return bool(((table - expected) ** 2 / expected).sum() > freedom + 3 * np.sqrt(2 * freedom))


def _cut(
    column: Floats, season: str, index: NDArray[np.int64], rows: NDArray[np.int64], overall: NumericBins
) -> SeasonalBins:
    edges = np.repeat(overall.edges[None], SEASONS[season], axis=0)
    remap = np.repeat(overall.remap[None], SEASONS[season], axis=0)
    groups = _groups(index)
    for at, members in groups:
        if rows[at] >= MINIMUM_SEASON_ROWS:
            edges[at], remap[at] = _opened(column[members], overall)
    return SeasonalBins(season, edges, remap)


def _opened(values: Floats, overall: NumericBins) -> tuple[Floats, NDArray[np.uint8]]:
    """The quantiles of one season between the ends of the whole reference.

    Out of range stays what no row of the reference was. What merely exceeds its season belongs to the tails; with a
    season's own ends, one value in a hundred would be out of range in a season of two hundred rows.
    """
    cut = fit_numeric(values)
    edges, remap = cut.edges.copy(), cut.remap.copy()
    if edges[0] == edges[1]:  # the lowest value is frequent: it has a bin already, and below it is the tail
        remap[1] = LOW_TAIL
    top = edges[-1]
    if np.nextafter(edges[-2], np.inf) >= top:  # the highest is frequent: it joins the bin below the tail
        if edges[-3] == edges[-2]:
            remap[-3] = remap[-2]
        edges[-2], remap[-2] = top, HIGH_TAIL
    edges[0], edges[-1] = overall.edges[0], overall.edges[-1]
    return edges, remap


def _visits(times: NDArray[np.int64], season: str) -> NDArray[np.int64]:
    """In how many different hours each season was seen, int64[B]."""
    hours = np.unique(times // _HOUR_US)
    return np.bincount(season_index(hours * _HOUR_US, season), minlength=SEASONS[season])


def _groups(index: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    """Per season that occurs, its number and the rows that are in it."""
    order = np.argsort(index, kind="stable")
    present, starts = np.unique(index[order], return_index=True)
    return list(zip(present.tolist(), np.split(order, starts[1:]), strict=True)) if present.size else []


def bin_seasonal(bins: SeasonalBins, values: ArrayLike, times_us: ArrayLike) -> Codes:
    """Bin codes uint8[n] in ``NUMERIC`` of a column float64[n] at event times int64[n]."""
    column = np.asarray(values, np.float64)
    codes = np.empty(column.shape, np.uint8)
    for at, members in _groups(season_index(times_us, bins.season)):
        codes[members] = bin_numeric(bins.at(at), column[members])
    return codes


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
    for at, members in _groups(index):
        if segments is None:
            counts += count_numeric_block(block.at(at), values[:, members])
            continue
        members = members[segments[members] >= 0]
        # only the segments that this season has: many of them, each with few seasons, must not cost their product
        present, own = np.unique(segments[members], return_inverse=True)
        if present.size:
            counts[present] += count_numeric_block(block.at(at), values[:, members], own, len(present))
    return counts
