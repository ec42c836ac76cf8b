"""Kolmogorov-Smirnov and Wasserstein distances of binned numeric streams, and what the bins may hide of them.

Both compare distribution functions, and bins tell these at their edges only. Between two edges a distribution
function rises from one known value to the next, in an unknown way. What is given is therefore the distance that the
edges show, and how far the distance of the values themselves may be from it: the tightest bounds that hold however
the mass lies within its bins.

Missing values are left out: these are distances between the values that are there. ``cdf`` and ``cdf0`` are float64
[..., 14], the share of the present values of the window and of the reference up to and with each ``NUMERIC`` bin (see
:func:`cumulated_shares`), without smoothing: it is the reference's rows that the values are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from streams.statistics.arrays import Floats
from streams.statistics.layouts import ABOVE_MAX, NUMERIC_MISSING, NumericBins


def cumulated_shares(counts: ArrayLike) -> Floats:
    """Empirical distribution function at the upper edge of each bin, int[..., 15] to float64[..., 14].

    NaN where no value is present.
    """
    cumulated = np.cumsum(np.asarray(counts)[..., :NUMERIC_MISSING], axis=-1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(cumulated / cumulated[..., -1:])


def bin_widths(bins: Sequence[NumericBins | None]) -> Floats:
    """Widths float64[S, 14] of the bins of S columns, in the columns' own units.

    Zero for the two open ends and for bins that no value can fall into (ties); NaN for None, and for a column that had
    no finite value in the reference.
    """
    widths = np.zeros((len(bins), NUMERIC_MISSING + 1))
    edges = np.full((len(bins), ABOVE_MAX), np.nan)
    places = np.zeros((len(bins), ABOVE_MAX - 1), np.intp)
    for column, cut in enumerate(bins):
        if cut is not None:
            edges[column], places[column] = cut.edges, cut.remap[1:-1]
    with np.errstate(invalid="ignore"):
        raw = np.diff(edges, axis=1)
    # between equal edges lies nothing: such a raw bin must not overwrite the width of the bin whose number it has
    np.put_along_axis(widths, np.where(raw > 0, places, NUMERIC_MISSING), raw, axis=1)
    widths[~np.isfinite(edges).all(axis=1)] = np.nan
    return widths[:, :NUMERIC_MISSING]


def _below(cdf: Floats) -> Floats:
    """The distribution function at the lower edge of each bin."""
    below = np.zeros_like(cdf)
    below[..., 1:] = cdf[..., :-1]
    return below


def _farthest(cdf: Floats, cdf0: Floats) -> Floats:
    """How far apart the two distribution functions may be somewhere within each bin."""
    return np.maximum(cdf - _below(cdf0), cdf0 - _below(cdf))


def kolmogorov_smirnov(cdf: Floats, cdf0: Floats) -> Floats:
    """The largest difference of the distribution functions at an edge, 0 to 1.

    The distance sup_x |F(x) - G(x)| of the values is never smaller, and larger by at most
    :func:`kolmogorov_smirnov_error`.
    """
    return np.asarray(np.abs(cdf - cdf0).max(axis=-1))


def kolmogorov_smirnov_error(cdf: Floats, cdf0: Floats) -> Floats:
    """By how much the Kolmogorov-Smirnov distance of the values may exceed that of the bins.

    Within bin k, F lies between F_(k-1) and F_k, and G between G_(k-1) and G_k; so sup |F - G| is at most
    max_k max(F_k - G_(k-1), G_k - F_(k-1)), reached where all of one's mass lies at the bin's start and all of the
    other's at its end. It exceeds the edges' distance by no more than the largest mass of a bin.
    """
    return np.asarray(_farthest(cdf, cdf0).max(axis=-1) - kolmogorov_smirnov(cdf, cdf0))


def wasserstein(cdf: Floats, cdf0: Floats, widths: Floats) -> Floats:
    """Wasserstein-1 distance, the integral of |F - G|, in the column's own units, with the mass spread evenly within
    its bins (Vallender, "Calculation of the Wasserstein distance between probability distributions on the line",
    1974).

    It is about the values clipped to the reference's range: a value beyond counts as if on the edge, because its bin
    does not say how far beyond it is. Clipping never makes a Wasserstein distance larger, so the values themselves are
    at least as far apart.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray((widths * _mean_absolute(cdf - cdf0)).sum(axis=-1))


def _mean_absolute(difference: Floats) -> Floats:
    """Mean over each bin of |F - G|, linear from ``difference`` at its lower edge to that at its upper edge."""
    before = _below(difference)
    low, high = np.abs(before), np.abs(difference)
    total = low + high
    crossing = before * difference < 0
    squares = np.divide(low**2 + high**2, total, out=np.zeros_like(total), where=total > 0)
    return np.where(crossing, squares, total) / 2


def wasserstein_error(cdf: Floats, cdf0: Floats, widths: Floats) -> Floats:
    """How far the Wasserstein-1 distance of the (clipped) values may be from that of the bins, in either direction.

    Bin by bin, |F - G| is at most max(F_k - G_(k-1), G_k - F_(k-1)) and at least max(0, G_(k-1) - F_k, F_(k-1) - G_k),
    and both are reached all over the bin; the sums over bins, weighted by their widths, are the bounds.
    """
    rises, falls = cdf - _below(cdf0), cdf0 - _below(cdf)
    most, least = np.maximum(rises, falls), np.maximum(-np.minimum(rises, falls), 0.0)
    between = _mean_absolute(cdf - cdf0)
    with np.errstate(invalid="ignore"):
        above, beneath = (widths * (most - between)).sum(axis=-1), (widths * (between - least)).sum(axis=-1)
    return np.asarray(np.maximum(np.maximum(above, beneath), 0.0))
