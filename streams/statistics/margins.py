"""How far the truth may lie from a finite reference, and the margin that follows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from streams.statistics.arrays import Floats
from streams.statistics.layouts import Layout, possible_bins

MOST_ENUMERATED_BINS = 12
"""Up to this number of bins every set of bins (2,047 of them) gets an interval of its own."""


def reference_radius(counts: ArrayLike, beta: float, layout: Layout | None = None) -> Floats:
    """Total variation float64[S] within which the true distribution lies around the frequencies of m independent
    reference events, with probability 1 - ``beta``.

    ``counts``: int[S, K]. ``layout``: leaves out bins that cannot occur
    (:func:`~streams.statistics.layouts.possible_bins`); without it all K can.

    The total variation is the largest error of the frequency of any set of bins, TV = max_A |p(A) - f(A)|. A set and
    its complement have the same error, so K bins have 2^(K-1) - 1 sets to look at, and the union bound gives each of
    them an error probability of ``beta`` / (2^(K-1) - 1). How far p(A) may lie from f(A) is then bounded

    - by Hoeffding's inequality, the same for all sets: sqrt(log(2 (2^(K-1) - 1) / beta) / (2m)) (Weissman,
      Ordentlich, Seroussi, Verdu, Weinberger, "Inequalities for the L1 deviation of the empirical distribution", 2003,
      theorem 2.1);
    - or exactly, by the limits of Clopper and Pearson ("The use of confidence or fiducial limits illustrated in the
      case of the binomial", Biometrika 26, 1934), which know that a rare set has a small error: 5,000 values without
      one missing among them leave 0.002 in five bins, where Hoeffding's inequality says 0.03.

    Clopper-Pearson limits serve up to twelve bins. The proof is for bins fixed beforehand. Bins cut at the
    reference's own quantiles have the reversed law (given the sample, the probabilities of its spacings are
    Dirichlet) with the same first two moments up to 1/m.
    """
    observed = np.atleast_2d(np.asarray(counts, np.int64))
    if not 0 < beta < 1:
        raise ValueError(f"expected an error probability between 0 and 1, got {beta}")
    possible = np.ones(observed.shape, bool) if layout is None else possible_bins(observed, layout)
    return np.array([_radius(row[mask], beta) for row, mask in zip(observed, possible, strict=True)])


def _radius(counts: NDArray[np.int64], beta: float) -> float:
    """The radius of one stream from the counts int64[K] of the bins that can occur."""
    m, bins = int(counts.sum()), len(counts)
    if m == 0:
        return 1.0
    if bins < 2:
        return 0.0
    if bins > MOST_ENUMERATED_BINS:
        return min(1.0, float(np.sqrt(((bins - 1) * np.log(2) + np.log(2 / beta)) / (2 * m))))
    members = np.arange(1, 2 ** (bins - 1))[:, None] >> np.arange(bins - 1) & 1
    inside = np.unique(members @ counts[:-1])
    return float(clopper_pearson_deviation(inside, m, beta / len(members)).max())


def clopper_pearson_deviation(count: ArrayLike, m: int, beta: float) -> Floats:
    """How far, float64[...], a probability may lie from the frequency ``count`` / ``m``: the larger distance to the
    two-sided exact limits that hold with probability 1 - ``beta``.
    """
    n = np.asarray(count, np.float64)
    # betaincinv is undefined at the ends, where the limits are 0 and 1
    upper = np.where(n < m, betaincinv(np.minimum(n, m - 1) + 1, np.maximum(m - n, 1), 1 - beta / 2), 1.0)
    lower = np.where(n > 0, betaincinv(np.maximum(n, 1), m - np.maximum(n, 1) + 1, beta / 2), 0.0)
    return np.asarray(np.maximum(upper - n / m, n / m - lower))


def effective_margins(
    operator_margin: ArrayLike, counts: ArrayLike, beta: float, layout: Layout | None = None
) -> Floats:
    """The margins eps float64[S] of streams: what the operator calls no change, widened to what the reference counts
    int[S, K] can tell apart. ``operator_margin``: a number or float64[S].
    """
    return np.maximum(np.asarray(operator_margin, np.float64), reference_radius(counts, beta, layout))
