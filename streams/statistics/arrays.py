"""What all statistics share: array types, the grid of log e-values, and log-sum-exp."""

from __future__ import annotations

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
