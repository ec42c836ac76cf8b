"""How many rows come in a span of time, against what is usual: too few, too many, none.

The reference's time is cut into intervals of equal length. The rows of an interval, divided by what the reference had
at that hour of the week, are one observation of the stream ``rate``: here an event of the evidence engine is an
interval of time and not a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats
from streams.baseline import RATE
from streams.derived import RATE as RATE_KIND
from streams.derived import Derived
from streams.statistics.layouts import NumericBins, bin_numeric
from streams.statistics.seasons import HOUR_OF_WEEK, season_index

Times = NDArray[np.int64]
Counts = NDArray[np.int64]
Codes = NDArray[np.uint8]

_NONE = np.zeros(0, np.uint8)

INTERVALS_US = tuple(seconds * 1_000_000 for seconds in (60, 300, 900, 3_600, 21_600, 86_400))
ROWS_PER_INTERVAL = 20
"""The shortest interval with so many rows on average is used: fewer rows say little, longer intervals come late."""

LEAST_INTERVALS = 300
"""With fewer intervals in the reference the rate is not watched: its margin would hide all but silence."""

LEAST_CYCLES = 4
_WEEK_US = 7 * 86_400_000_000
_HOURS = 168

MOST_EMPTY_INTERVALS = 2_000
"""Of a longer silence so many intervals are counted: they suffice for any alarm."""


def fit_rate(times_us: Times, shards: int) -> tuple[Derived, Floats] | None:
    """Learn the usual number of rows per interval from event times int64[m], not decreasing.

    Returns:
        The computation, and float64[T] the reference's own observations in order; None where the reference is too
        short. A deployment in several shards is thinned to the rows of one of them, drawn at random.
    """
    if shards > 1:
        times_us = times_us[np.random.default_rng(len(times_us)).integers(shards, size=len(times_us)) == 0]
    if not times_us.size:
        return None
    span_us = int(times_us[-1] - times_us[0])
    for interval_us in INTERVALS_US:
        intervals = span_us // interval_us
        if intervals < LEAST_INTERVALS:
            return None
        if times_us.size >= ROWS_PER_INTERVAL * intervals:
            break
    else:
        return None
    number = times_us // interval_us
    # the first and the last interval are not whole
    rows = np.bincount(number - number[0], minlength=int(number[-1] - number[0]) + 1)[1:-1]
    first = int(number[0]) + 1
    expected = np.full(_HOURS, rows.mean())
    if span_us >= LEAST_CYCLES * _WEEK_US:
        hour = season_index((first + np.arange(len(rows))) * interval_us, HOUR_OF_WEEK)
        sums, visits = np.bincount(hour, rows, _HOURS), np.bincount(hour, minlength=_HOURS)
        # one interval's worth of the mean keeps an hour that was always empty from dividing by zero
        expected = (sums + rows.mean()) / (visits + 1)
    derived = Derived(RATE_KIND, RATE, (), {"interval_us": np.array([float(interval_us)]), "expected": expected})
    return derived, _observations(derived, first, rows)


def _observations(derived: Derived, first: int, rows: Counts) -> Floats:
    """Rows of consecutive intervals from the ``first`` on, as shares of what is usual at their hour."""
    interval_us = int(derived.arrays["interval_us"][0])
    hour = season_index((first + np.arange(len(rows))) * interval_us, HOUR_OF_WEEK)
    return np.asarray(rows / derived.arrays["expected"][hour])


@dataclass(eq=False, slots=True)
class RateMeter:
    """The rows of the interval that is going on.

    Attributes:
        derived: What is usual.
        bins: How shares of it become bins.
        interval: Its number since 1970; negative before the first row.
        rows: Its rows so far.
        whole: Whether it was watched from its beginning.
    """

    derived: Derived
    bins: NumericBins
    interval: int = -1
    rows: int = 0
    whole: bool = False

    @property
    def interval_us(self) -> int:
        """Length of an interval, microseconds."""
        return int(self.derived.arrays["interval_us"][0])

    def take(self, clock_us: Times, *, unbroken: bool) -> Codes:
        """Take in rows by the deployment's clock at each, int64[n], not decreasing.

        Args:
            clock_us: The clock at each row.
            unbroken: Whether this version has answered all rows since its last one. If not, empty intervals in between
                say that another version answered, and are passed over.

        Returns:
            Bins uint8[m] in ``NUMERIC`` of the intervals that ended, in order.
        """
        # rows that come after their interval was given up count in the current one
        number = np.maximum(clock_us // self.interval_us, self.interval)
        last = int(number[-1])
        if last == self.interval and number[0] == last:
            self.rows += len(number)
            return _NONE
        first = self.interval if self.interval >= 0 else int(number[0])
        span = last - first + 1
        if span > MOST_EMPTY_INTERVALS or not unbroken:
            return self._take_sparse(number, unbroken=unbroken)
        rows = np.bincount(number - first, minlength=span)
        rows[0] += self.rows if self.interval >= 0 else 0
        ended = rows[:-1] if self.whole else rows[1:-1]
        begin = first if self.whole else first + 1
        self.interval, self.rows, self.whole = last, int(rows[-1]), self.whole or span > 1
        return self._binned(begin, ended)

    def _take_sparse(self, number: Times, *, unbroken: bool) -> Codes:
        """Where most intervals are empty, or are not ours to judge: one after the other."""
        found = [_NONE]
        for interval, rows in zip(*(part.tolist() for part in np.unique(number, return_counts=True)), strict=True):
            if interval == self.interval:
                self.rows += rows
                continue
            if self.interval >= 0 and unbroken:
                found.append(self.pass_over(interval))
            self.interval, self.rows, self.whole = interval, rows, self.interval >= 0 and unbroken
        return np.concatenate(found)

    def pass_over(self, interval: int) -> Codes:
        """End all intervals before ``interval``, which begins without rows; their bins as :meth:`take`."""
        if self.interval < 0 or interval <= self.interval:
            return _NONE
        empty = min(interval - self.interval - 1, MOST_EMPTY_INTERVALS)
        ended = np.zeros(empty + 1, np.int64)
        ended[0] = self.rows
        begin = self.interval
        if not self.whole:
            ended, begin = ended[1:], begin + 1
        self.interval, self.rows, self.whole = interval, 0, True
        return self._binned(begin, ended)

    def _binned(self, first: int, rows: Counts) -> Codes:
        return bin_numeric(self.bins, _observations(self.derived, first, rows))

    def to_fields(self) -> dict[str, int]:
        """What changes, for the journal."""
        return {"rate_interval": self.interval, "rate_rows": self.rows, "rate_whole": int(self.whole)}

    def restore(self, fields: Mapping[str, int]) -> None:
        """Take what was written."""
        self.interval, self.rows = fields["rate_interval"], fields["rate_rows"]
        self.whole = bool(fields["rate_whole"])
