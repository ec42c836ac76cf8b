"""How strongly a feature and the prediction go together, from three-by-three tables of counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from streams.statistics.arrays import Floats
from streams.statistics.layouts import ASSOCIATION, ASSOCIATION_MISSING


def cramers_v(counts: ArrayLike) -> Floats:
    """Cramér's V float64[...] of tables in the ``ASSOCIATION`` layout, int[..., 10], from 0 (none) to 1 (complete).

    V = sqrt(chi^2 / n / min(r - 1, c - 1)) (Cramér, "Mathematical methods of statistics", 1946, 21.9), with the bias
    correction of Bergsma ("A bias-correction for Cramér's V and Tschuprow's T", Journal of the Korean Statistical
    Society 42, 2013): without it an unrelated feature has a V of 0.04 in 1,000 rows. Rows with a missing value do not
    take part. NaN without rows; 0 where feature or prediction has only one third.
    """
    observed = np.asarray(counts, np.float64)
    if observed.shape[-1] != ASSOCIATION.size:
        raise ValueError(f"expected counts of {ASSOCIATION.size} cells, got {observed.shape[-1]}")
    table = observed[..., :ASSOCIATION_MISSING].reshape(*observed.shape[:-1], 3, 3)
    n = table.sum(axis=(-2, -1))
    rows, columns = table.sum(axis=-1), table.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = rows[..., :, None] * columns[..., None, :] / n[..., None, None]
        terms = np.where(expected > 0, (table - expected) ** 2 / expected, 0.0)
        phi2 = terms.sum(axis=(-2, -1)) / n
        r, c = (rows > 0).sum(axis=-1), (columns > 0).sum(axis=-1)
        corrected = np.maximum(0.0, phi2 - (r - 1) * (c - 1) / (n - 1))
        smaller = np.minimum(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
        v = np.where(smaller > 0, np.sqrt(corrected / smaller), 0.0)
    return np.asarray(np.where(n > 1, np.minimum(v, 1.0), np.nan))
