"""One distance of a whole row's numeric features from the reference, with the same bits in any batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats

WINSOR = 4.0
"""Standardised values are clipped here: one wild value must not hide what the rest of the row says."""

SCORE_GRID = 2.0**-20
WHITENING_BITS = 23
"""Standardised values are rounded to a grid, entries of the whitening matrix to so many bits: see
:func:`joint_distance`."""


def joint_distance(arrays: Mapping[str, Floats], columns: Floats) -> Floats:
    """Mahalanobis distance float64[n] of whole rows, ``columns`` float64[S, n], per square root of a feature.

    d^2 = (1/S) |W (z - mean)|^2 with W the inverse Cholesky factor of the reference's covariance (Mahalanobis, "On the
    generalised distance in statistics", 1936), about 1 for a row like the reference's. ``arrays`` has what was learnt:
    ``centre``, ``scale`` and ``mean``, float64[S], and ``whiten``, float64[S * S].

    The product is exact, in whatever order it is summed: z - mean is a multiple of the grid of at most 23 bits, an
    entry of W has 23 bits, and there are at most 32 terms. The squares are not, and are added up feature by feature;
    a reduction over the axis would add in another order where a batch has a single row.
    """
    scores = standardised(arrays, columns)
    scores -= arrays["mean"][:, None] / SCORE_GRID
    size = len(scores)
    independent = arrays["whiten"].reshape(size, size) @ scores
    np.square(independent, out=independent)
    return np.asarray(np.sqrt(functools.reduce(np.add, independent) / size) * SCORE_GRID)


def standardised(arrays: Mapping[str, Floats], columns: Floats) -> NDArray[np.float64]:
    """Clipped scores float64[S, n], rounded to the grid, as multiples of it; those of missing values are 0."""
    with np.errstate(over="ignore"):  # what is too large is clipped
        scores = (columns - arrays["centre"][:, None]) / (arrays["scale"][:, None] * SCORE_GRID)
    np.clip(scores, -WINSOR / SCORE_GRID, WINSOR / SCORE_GRID, out=scores)
    np.rint(scores, out=scores)
    scores[np.isnan(scores)] = 0.0
    return np.asarray(scores)
