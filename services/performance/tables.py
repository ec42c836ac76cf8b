"""What is no single number: reliability, the confusion matrix, and how groups compare, of one window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from services.performance.windows import Window, parts_of
from streams.baseline import OutcomeReference
from streams.statistics.performance import shares
from streams.statistics.performance.calibration import BrierDecomposition, brier_decomposition, reliability_curve
from streams.statistics.performance.fairness import (
    Comparison,
    Disparity,
    Rate,
    compare_groups,
    disparities,
    group_rates,
)
from streams.statistics.performance.fields import Sums, weighted
from streams.statistics.performance.grid import GRID
from streams.statistics.performance.intervals import design_effect
from streams.statistics.performance.pairs import BINARY, MULTICLASS, PerformanceLayout
from streams.statistics.performance.score_bins import score_bins


@dataclass(frozen=True, slots=True)
class ReliabilityRow:
    """A group of rows with similar scores.

    Attributes:
        rows: Their weight; their number where all weigh the same.
        predicted: Mean score.
        observed: Share that turned out as predicted: of two classes, the positive one; of more, the most probable one.
        low: Lower 95 % limit of ``observed``.
        high: Upper limit.
        reference: Share that the reference had at that score; None where it is not known.
    """

    rows: float
    predicted: float
    observed: float
    low: float
    high: float
    reference: float | None

    @property
    def outside(self) -> bool:
        """Whether the mean score lies outside the interval of what turned out."""
        return not self.low <= self.predicted <= self.high


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability curve, and the Brier score's decomposition of a binary model."""

    rows: tuple[ReliabilityRow, ...]
    brier: BrierDecomposition | None


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pairs by predicted (first) and actual class; numbers of rows, and ``weights`` where these differ."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    @property
    def weighted(self) -> bool:
        """Whether pairs weigh differently."""
        return self.weights != tuple(tuple(float(count) for count in line) for line in self.counts)


@dataclass(frozen=True, slots=True)
class Groups:
    """The parts of a segmentation as groups of people: rates by group, each beside another, and the extremes."""

    segment: str
    rates: Mapping[str, Mapping[str, Rate]]
    comparisons: tuple[Comparison, ...]
    disparities: tuple[Disparity, ...]


def reliability(layout: PerformanceLayout, sums: Sums, reference: OutcomeReference | None) -> Reliability:
    """The reliability curve of sums, beside what the reference showed at the same scores; empty without scores."""
    bins = score_bins(layout, sums)
    if bins is None or not bins.totals.sum() > 0:
        return Reliability((), None)
    curve = reliability_curve(bins.positives, bins.totals, bins.score_sums)
    effective = bins.rows * design_effect(sums) / bins.totals.sum()
    known = None
    if layout.task == BINARY and reference is not None and reference.calibration.shape == (layout.bins,):
        known = reference.calibration[np.searchsorted(layout.score_edges, curve.predicted, "right")]
    rows = []
    for at, (size, predicted, observed) in enumerate(zip(curve.rows, curve.predicted, curve.observed, strict=True)):
        low, high = shares.wilson(min(float(observed), 1.0), float(size) * effective)
        before = None if known is None else float(known[at])
        rows.append(ReliabilityRow(float(size), float(predicted), float(observed), low, high, before))
    brier = None
    if layout.task == BINARY:
        mean = int(sums["brier"]) / int(weighted(sums, "with_scores"))
        brier = brier_decomposition(mean, bins.positives, bins.totals, bins.score_sums)
    return Reliability(tuple(rows), brier)


def confusion(layout: PerformanceLayout, sums: Sums) -> Confusion:
    """The confusion matrix of sums; empty for numbers."""
    if layout.task not in (BINARY, MULTICLASS):
        return Confusion((), (), ())
    return Confusion(
        layout.classes,
        tuple(tuple(line) for line in sums["confusion"].tolist()),
        tuple(tuple(cell * GRID for cell in line) for line in weighted(sums, "confusion").tolist()),
    )


def groups(window: Window, segment: str, reference: str | None = None) -> Groups:
    """How the parts of a segmentation compare in a window.

    Args:
        window: The window.
        segment: The segmentation.
        reference: The part to compare with, ``SEGMENTATION=VALUE``; where it has no predictions in this window, or for
            None, the one treated best.
    """
    parts = {name: window.parts[name] for name in parts_of([window], segment)}
    rates = group_rates(window.layout, parts)
    beside = reference if reference in parts else None
    return Groups(
        segment,
        rates,
        tuple(compare_groups(window.layout, rates, reference=beside)),
        tuple(disparities(window.layout, rates)),
    )
