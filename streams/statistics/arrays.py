"""What all statistics share: array types, the grid of log e-values, log-sum-exp, and indices of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Codes = NDArray[np.uint8]
Base = NDArray[np.float32]
"""Log evidence at the last start; multiples of 2^-15 nats of at most 512, which float32 holds exactly."""

NATS_PER_UNIT = 2.0**-20
"""The grid on which log e-values live; see :mod:`streams.statistics.tilts`, "Exact sums"."""


def log_sum_exp(values: Floats) -> Floats:
    """The logarithm of the sum of exponentials over the last axis; -inf where all values are -inf."""
    top = values.max(axis=-1)
    anchor = np.where(top > -np.inf, top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(values - anchor[..., None]).sum(axis=-1)) + anchor)


def adjacent(rows: list[int]) -> list[int] | slice:
    """An index of these rows: a slice, which copies nothing, where they lie side by side."""
    if rows and rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return rows


def places(pairs: Sequence[tuple[int, int]]) -> tuple[list[int] | slice, list[int] | slice]:
    """Where rows go to, and where they come from, as indices of arrays."""
    return adjacent([to for to, _ in pairs]), adjacent([source for _, source in pairs])
