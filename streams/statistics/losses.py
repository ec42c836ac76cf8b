"""Losses: squared residuals, absolute errors, logarithmic losses; whether they grew.

Ten bins of equal mass say nothing about *how far* beyond the reference a value lies, and for losses that is what
tells a broken region of the input space: one event in sixty with a residual of ten standard deviations. So the bins of
the ``LOSS`` layout lie in the tail.

**Tail.** Beyond a threshold u, about the 95 % quantile, the reference's tail is taken to be

    P(X > u + y) = 0.05 (1 + xi y / s)^(-1 / xi),   for xi = 0   0.05 exp(-y / s)                                  (1)

(peaks over threshold: Pickands, "Statistical inference using extreme order statistics", Annals of Statistics 3, 1975).
The edges are placed where (1), with its margin, has the probabilities of
:func:`~streams.statistics.layouts.loss_probabilities`. So all losses have one baseline, and the margin needs no ball
around it: a tenth more exceedances, a quarter larger ones, are no change.

**What the reference tells of it.** (1) is an assumption about values that no reference has seen, and each of its
numbers is taken on the safe side of what the reference can tell.

- u: an order statistic that is exceeded by at most the nominal share with a confidence of 98 % (tolerance limit: Wilks,
  "Determination of sample sizes for setting tolerance limits", Annals of Mathematical Statistics 12, 1941).
- s: from the mean excess over u, s = mean (1 - xi), times a quarter more or its own upper limit, 98 % for exponential
  excesses, if that is more.
- xi: by L-moments, xi = 2 - l1 / l2 (Hosking and Wallis, "Parameter and quantile estimation for the generalized Pareto
  distribution", Technometrics 29, 1987), where the reference can tell it from zero. Squares of normal residuals have an
  exponential tail; absolute errors of a quantity that varies by orders of magnitude do not. Excesses of all conditions,
  each in units of its own mean, tell it together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, chdtri

from streams.statistics.arrays import Floats
from streams.statistics.conditional import ConditionalBins, Indices, row_groups
from streams.statistics.dependence import tempering, variance_inflation
from streams.statistics.layouts import (
    LOSS_LAST_TAIL,
    LOSS_MARGIN_RATE,
    LOSS_MARGIN_SCALE,
    LOSS_MISSING,
    LOSS_STEP_NATS,
    LOSS_THRESHOLD_QUANTILE,
    loss_probabilities,
)
from streams.statistics.tilts import LOSS_TILTS

MINIMUM_EXCEEDANCES = 10
"""Fewer values beyond the threshold do not tell how large they are."""

CONFIDENCE_ERROR = 0.02
"""Threshold and scale are each on the safe side with a probability of 98 %."""

SHAPE_ERROR = 1.15
"""Standard error of the shape of an exponential tail times the root of the number of exceedances, measured."""

SHAPE_SIGNIFICANCE = 3.0
EXCEEDANCES_FOR_A_TEST = 400
"""From so many on a shape must be three standard errors from zero to be believed: squared normal residuals, 0.03, keep
an exponential tail. With fewer that test would let through tails that are far too heavy, and the estimate counts."""

MOST_SHAPE = 0.9
"""A tail without a mean has a shape of one."""

NOMINAL_ROWS = 1_000_000_000
"""For how many rows the counts of a loss's baseline are given: its last bin, 9e-9, then has ten."""


def loss_counts() -> NDArray[np.int64]:
    """The baseline's counts int64[15] of every loss: nominal probabilities times a round number, rounded up."""
    return np.ceil(loss_probabilities() * NOMINAL_ROWS).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Tail:
    """What values beyond a threshold showed: ``excesses`` float64[k] over it, ascending."""

    threshold: float
    excesses: Floats

    def edges(self, shape: float) -> Floats:
        """The edges float64[13] of the tail's bins for a shape xi: quantiles of (1) with its margin."""
        twice = 2 * len(self.excesses)
        # the sum of k exponential excesses over their mean is half a chi-square of 2k degrees of freedom
        margin = max(LOSS_MARGIN_SCALE, twice / float(chdtri(twice, 1 - CONFIDENCE_ERROR)))
        nats = LOSS_STEP_NATS * np.arange(LOSS_LAST_TAIL)
        units = np.expm1(shape * nats) / shape if shape > 0 else nats
        first = np.nextafter(self.threshold, np.inf)  # what equals the threshold does not exceed it
        return np.asarray(first + float(self.excesses.mean()) * (1 - shape) * margin * units)


def fit_loss(
    values: ArrayLike, index: Indices, condition: str, conditions: int, *, coarser: Indices | None = None
) -> ConditionalBins | None:
    """Cut a reference's losses, float64[m], in the ``LOSS`` layout under each of B conditions.

    The arguments are those of :func:`~streams.statistics.conditional.fit_conditional`; what is not finite takes no
    part. A condition with fewer than ten values beyond its threshold takes the cuts of its coarser group, or of the
    whole reference; None where even that has too few.
    """
    column = np.asarray(values, np.float64)
    finite = np.isfinite(column)
    column, index = column[finite], index[finite]
    overall = _tail(column)
    if overall is None:
        return None
    own = _tails(column, index)
    wider = {} if coarser is None else _tails(column, coarser[index])
    shape = tail_shape(
        np.concatenate([tail.excesses / tail.excesses.mean() for tail in (own or {0: overall}).values()])
    )
    group = np.full(conditions, -1) if coarser is None else coarser
    cuts = [own.get(at, wider.get(int(group[at]), overall)).edges(shape) for at in range(conditions)]
    return ConditionalBins(condition, np.array(cuts), np.tile(np.arange(LOSS_MISSING, dtype=np.uint8), (conditions, 1)))


def loss_tempering(codes: ArrayLike) -> Floats:
    """Exponent gamma float64[10] of every bet on a loss, from the reference's own bin codes uint8[m] in ``LOSS``.

    One where its values come independently of each other. A value far in the tail is worth ten nats, of which two in a
    row must not count twice where large losses come in clusters: :func:`~streams.statistics.dependence.tempering` then
    leaves little of them. It estimates how clustered they are without a test, and for bets as large as these the
    chance agreement of a few values would be enough; so it is asked only where the variance of block sums is
    significantly inflated.
    """
    inflated = (variance_inflation(codes, LOSS_TILTS) > 1).any()
    return tempering(codes, LOSS_TILTS) if inflated else np.ones(LOSS_TILTS.size)


def _tails(column: Floats, index: Indices) -> dict[int, _Tail]:
    """The tails of the conditions that have values enough."""
    return {at: tail for at, rows in row_groups(index) if (tail := _tail(column[rows])) is not None}


def _tail(values: Floats) -> _Tail | None:
    """The tail of finite values float64[m]; None where fewer than ten exceed the threshold."""
    ordered, m = np.sort(values), len(values)
    lowest = int(np.ceil(LOSS_THRESHOLD_QUANTILE * m))
    ranks = np.arange(max(lowest, 1), m + 1 - MINIMUM_EXCEEDANCES)
    # the probability below the r-th of m values has the distribution Beta(r, m + 1 - r)
    unsafe = betainc(ranks, m + 1 - ranks, 1 - LOSS_MARGIN_RATE * (1 - LOSS_THRESHOLD_QUANTILE))
    safe = ranks[unsafe <= CONFIDENCE_ERROR]
    if not safe.size:
        return None
    threshold = float(ordered[safe[0] - 1])
    excesses = ordered[np.searchsorted(ordered, threshold, side="right") :] - threshold
    return _Tail(threshold, excesses) if len(excesses) >= MINIMUM_EXCEEDANCES else None


def tail_shape(excesses: Floats) -> float:
    """Shape xi of a generalised Pareto distribution, zero where k excesses float64[k] do not tell it from that."""
    ordered, k = np.sort(excesses), len(excesses)
    first = float(ordered.mean())
    second = float((2 * np.arange(1, k + 1) - k - 1) @ ordered) / (k * (k - 1))
    shape = 2 - first / second if second > 0 else 0.0
    least = SHAPE_SIGNIFICANCE * SHAPE_ERROR / np.sqrt(k) if k >= EXCEEDANCES_FOR_A_TEST else 0.0
    return min(shape, MOST_SHAPE) if shape > least else 0.0
