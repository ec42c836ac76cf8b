"""Effect sizes of streams as records: how far they are from their baseline, beside alarms and in windows.

They are read, and never raise an alarm: that is the evidence's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streams.baseline import BaselineStream
from streams.statistics import distances
from streams.statistics.arrays import Counts, Floats
from streams.statistics.intervals import confidence_intervals
from streams.statistics.layouts import NUMERIC, NumericBins
from streams.statistics.ordered import (
    bin_widths,
    cumulated_shares,
    kolmogorov_smirnov,
    kolmogorov_smirnov_error,
    wasserstein,
    wasserstein_error,
)

INTERVAL_ERROR = 0.05
"""Intervals hold at 95 %, each on its own."""

ORDERED_EFFECTS = ("kolmogorov_smirnov", "kolmogorov_smirnov_error", "wasserstein", "wasserstein_error")
"""Distances that need an order of the bins: null for categories."""

EffectSizes = dict[str, Any]
"""Field by field the record ``EffectSizes``."""


def effect_sizes(
    counts: ArrayLike, streams: Sequence[BaselineStream], independence: ArrayLike, *, intervals: bool
) -> list[EffectSizes | None]:
    """``EffectSizes`` of streams of one layout; None for a stream without events.

    Args:
        counts: int[S, K].
        streams: What they are compared with.
        independence: float64[S], independent events per event (see :class:`streams.monitor.Block`).
        intervals: Whether to give their confidence intervals too: milliseconds, where the distances take a tenth of
            one. Windows go without; who reads one has what it takes to compute them.
    """
    events = np.asarray(counts)
    reference = np.array([stream.counts for stream in streams])
    widths = _widths(streams)
    rows = np.maximum(events.sum(axis=-1), 1)
    share = np.maximum(np.asarray(independence, np.float64), 1.0 / rows)
    columns = _distances(events, reference, widths) | {"independent_rows": rows * share}
    told = _intervals(events, reference, share, widths) if intervals else [{} for _ in streams]
    some = np.any(events > 0, axis=-1).tolist()
    return [
        _present(sizes) | {"intervals": ends} if counted else None
        for sizes, ends, counted in zip(_rows(columns), told, some, strict=True)
    ]


def _rows(columns: Mapping[str, Floats]) -> list[dict[str, float]]:
    table = np.stack(list(columns.values()), axis=1).tolist()
    return [dict(zip(columns, sizes, strict=True)) for sizes in table]


def _present(sizes: Mapping[str, float]) -> EffectSizes:
    return {name: size if isfinite(size) else None for name, size in sizes.items()}


def _widths(streams: Sequence[BaselineStream]) -> Floats | None:
    """Widths of the bins in the order of values; None for streams whose bins have no order.

    NaN for a stream that is judged by seasons: each of its bins has other edges at every hour of the week, so there is
    no one unit to measure a distance in.
    """
    if streams[0].layout is not NUMERIC:
        return None
    return bin_widths([stream.bins if isinstance(stream.bins, NumericBins) else None for stream in streams])


def _distances(counts: Counts, reference: Counts, widths: Floats | None) -> dict[str, Floats]:
    p0 = distances.baseline_of_used_bins(counts, reference)
    found = {
        "psi": distances.population_stability_index(counts, p0),
        "jensen_shannon": distances.jensen_shannon_distance(counts, p0),
        "total_variation": distances.total_variation(counts, p0),
        "hellinger": distances.hellinger_distance(counts, p0),
        "kl": distances.kl_divergence_nats(counts, p0),
        "chi_square": distances.chi_square_divergence(counts, p0),
    }
    if widths is None:
        none = np.full(len(counts), np.nan)
        return found | dict.fromkeys(ORDERED_EFFECTS, none)
    cdf, cdf0 = cumulated_shares(counts), cumulated_shares(reference)
    ordered = (
        kolmogorov_smirnov(cdf, cdf0),
        kolmogorov_smirnov_error(cdf, cdf0),
        wasserstein(cdf, cdf0, widths),
        wasserstein_error(cdf, cdf0, widths),
    )
    return found | dict(zip(ORDERED_EFFECTS, ordered, strict=True))


def _intervals(counts: Counts, reference: Counts, share: Floats, widths: Floats | None) -> list[dict[str, list[float]]]:
    limits = confidence_intervals(counts, reference, share, INTERVAL_ERROR, widths)
    table = np.stack([np.stack(ends, axis=-1) for ends in limits.values()], axis=1).tolist()
    return [
        {name: ends for name, ends in zip(limits, row, strict=True) if isfinite(ends[0]) and isfinite(ends[1])}
        for row in table
    ]
