"""Bins that several windows have in common, where their baselines cut them differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.fields import COVERAGE_COUNTS, COVERAGE_NUMBERS, WEIGHTED, is_weighted, zeros
from streams.statistics.performance.grid import as_weights
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.sums import Sums

SCORE_AXES: Mapping[str, int] = {
    "predicted_scores": 0,
    "scores": 0,
    "score_sums": 0,
    "confidence": 0,
    "confidence_sums": 0,
    "class_scores": 1,
}
"""The sums by score bin, and which axis that is; with an additional last bin for rows without a score, or without."""

_EDGE_METRICS = (
    "roc_auc",
    "average_precision",
    "expected_calibration_error",
    "smooth_calibration_error",
    "lift",
)


def depends_on_edges(metric: str) -> bool:
    """Whether a metric is computed from score bins, so that windows with other bins cannot tell it together."""
    return metric.startswith(_EDGE_METRICS)


def common_edges(edges: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The edges that all have, ascending."""
    return reduce(np.intersect1d, edges)


def coarsened(layout: PerformanceLayout, sums: Sums, target: PerformanceLayout) -> Sums:
    """Sums in the bins of ``target``, whose edges are among those of ``layout``, and without what it does not keep.

    Where it keeps coverage and ``layout`` does not, no row has a quantile.
    """
    found = dict(sums)
    if target.coverage_score and not layout.coverage_score:
        kept = zeros(target, ())
        absent = {name: kept[name] for name in (*COVERAGE_COUNTS, *COVERAGE_NUMBERS) if name in kept}
        found |= absent
        if is_weighted(found):
            found |= {WEIGHTED + name: as_weights(absent[name]) for name in COVERAGE_COUNTS}
    for name in ("value", "value_squared") if target.values is None else ():
        found.pop(name, None)
    for name in ("quantile_loss", "quantile_loss_squared") if target.quantile is None else ():
        found.pop(name, None)
    if len(target.age_edges_us) != len(layout.age_edges_us) and "ages" in found:
        found["ages"] = _joined(found["ages"], 0, _targets(layout.age_edges_us, target.age_edges_us))
    if len(target.score_edges) != len(layout.score_edges):
        into = _targets(layout.score_edges, target.score_edges)
        for name, axis in SCORE_AXES.items():
            for twin in (name, f"weighted_{name}"):
                if twin in found:
                    found[twin] = _joined(found[twin], axis, into)
    return found


def _targets(edges: NDArray[Any], coarse: NDArray[Any]) -> NDArray[np.intp]:
    """For each bin between ``edges`` the bin between ``coarse`` that holds it."""
    return np.concatenate(([0], np.searchsorted(coarse, edges, "right")))


def _joined(array: NDArray[Any], axis: int, into: NDArray[np.intp]) -> NDArray[Any]:
    """Bins added up along an axis; what stands behind the last of them, the rows without a score, stays last."""
    bins = np.moveaxis(array, axis, 0)
    extra = len(bins) - len(into)
    joined = np.zeros((int(into[-1]) + 1 + extra, *bins.shape[1:]), array.dtype)
    np.add.at(joined, into, bins[: len(into)])
    if extra:
        joined[-extra:] = bins[len(into) :]
    return np.moveaxis(joined, 0, axis)
