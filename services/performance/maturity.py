"""Equal maturity: what the reference showed at the ages that a window's outcomes have.

Early outcomes are no fair sample of all: what is known of a flight two hours after its departure is that it landed in
time. So an accuracy of outcomes so far is compared with the reference's at the same ages of outcomes, never with its
accuracy when all was known. The reference keeps its sums by age of the outcome; weighting each age as often as the
window has it is direct standardisation (Kitagawa, "Components of a difference between two rates", JASA 50, 1955), and
the interval has the rows that the weights leave (Kish, "Survey Sampling", 1965, section 11.7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from services.performance.windows import Span
from streams.baseline import LABELS_ROLE, Baseline, OutcomeReference
from streams.outcomes.ages import LabelAges
from streams.statistics.performance.fields import WEIGHTED, Sums, fields, weighted, weighted_fields
from streams.statistics.performance.grid import ONE, Whole, to_grid
from streams.statistics.performance.metrics import Metric, metrics
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.sums import from_fields, merge

_MATCHED_SHARE = 0.9
"""Of a window's outcomes so many must have ages that the reference has too; else there is nothing to compare with."""

_OF_PREDICTIONS = ("predicted_positive_rate",)
"""Metrics of all predictions, whatever their outcomes' ages: nothing to match."""

_POINTS = 257


def reference_sums(reference: OutcomeReference, layout: PerformanceLayout) -> list[Sums]:
    """The reference's sums for each of its age buckets.

    Raises:
        ValueError: They are those of another layout.
    """
    return [
        from_fields(
            layout,
            {name: array[age].tolist() for name, array in reference.counts.items()},
            {name: array[age].tolist() for name, array in reference.sums.items()},
        )
        for age in range(len(reference.age_edges_us) + 1)
    ]


def fits(reference: OutcomeReference, layout: PerformanceLayout) -> bool:
    """Whether a reference's sums can be read with a layout: the same bins, ages and classes."""
    return (
        np.array_equal(reference.age_edges_us, layout.age_edges_us)
        and np.array_equal(reference.score_edges, layout.score_edges)
        and (not layout.classes or reference.classes == layout.classes)
    )


def matched_reference(reference: OutcomeReference, layout: PerformanceLayout, sums: Sums) -> dict[str, Metric]:
    """The reference's metrics with its outcomes weighted to the ages of a window's outcomes.

    Args:
        reference: What the reference's outcomes showed.
        layout: Of ``sums``.
        sums: Of the window; only its ages are used.

    Returns:
        By name; empty where no outcome is known yet, the layouts differ, or more than a tenth of the outcomes have ages
        of which the reference has none.
    """
    wanted = sums["ages"]
    if not wanted.sum() or not fits(reference, layout):
        return {}
    layout = _known_layout(reference, layout)
    by_age = reference_sums(reference, layout)
    had = np.array([int(one["resolved"]) for one in by_age])
    matched = np.where(had > 0, wanted, 0)
    if matched.sum() < _MATCHED_SHARE * wanted.sum():
        return {}
    # weights are 1 on average over the reference's rows that take part
    total = Fraction(int(had[matched > 0].sum()), int(matched.sum()))
    weighted_parts = [
        _weighted(layout, one, Fraction(int(many), int(rows)) * total)
        for one, many, rows in zip(by_age, matched, had, strict=True)
        if many
    ]
    found = metrics(layout, merge(weighted_parts))
    return {name: metric for name, metric in found.items() if name not in _OF_PREDICTIONS}


@dataclass(frozen=True, eq=False, slots=True)
class DelayCurve:
    """How long the reference's outcomes took.

    ``ages_us`` int64[P] ascending from 0; ``known`` float64[P], the share of all predictions whose outcome was known by
    then. Between them outcomes are taken as spread evenly; behind the last none came.
    """

    ages_us: NDArray[np.int64]
    known: NDArray[np.float64]


def delay_curve(baseline: Baseline) -> DelayCurve | None:
    """The delay curve of a baseline's outcomes; None where it has none."""
    reference = baseline.outcomes
    if reference is None or not reference.rows:
        return None
    found = next((one for one in baseline.derived if one.kind == LABELS_ROLE), None)
    if found is not None:
        ages, known = LabelAges.from_derived(found).curve_ages_us, LabelAges.from_derived(found).curve_known
    elif "resolved" in reference.counts:
        last = max(reference.horizon_ms * 1000, *reference.age_edges_us.tolist(), 0)
        ages = np.array([*reference.age_edges_us.tolist(), last])
        known = reference.counts["resolved"].reshape(len(ages), -1)[:, 0].cumsum() / reference.rows
    else:
        return None
    return DelayCurve(np.concatenate(([0], ages)), np.concatenate(([0.0 if ages[0] > 0 else known[0]], known)))


def expected_coverage(curve: DelayCurve, spans: Iterable[Span]) -> float | None:
    """The share of predictions that had their outcome in the reference when they were as old as these.

    Args:
        curve: The reference's delays.
        spans: The windows, each with what is known up to when, weighted by their predictions; these are taken as spread
            evenly over their window.
    """
    found = weight = 0.0
    for span in spans:
        elapsed = np.linspace(span.clock_us - span.end_us, span.clock_us - span.start_us, _POINTS)
        at = np.interp(np.clip(elapsed, 0, span.horizon_us), curve.ages_us, curve.known)
        found += span.predictions * float((at[1:] + at[:-1]).mean() / 2)
        weight += span.predictions
    return found / weight if weight else None


def _known_layout(reference: OutcomeReference, layout: PerformanceLayout) -> PerformanceLayout:
    """Without what the reference was not asked for: a value or quantile that was declared later, and humility."""
    return dataclasses.replace(
        layout,
        values=layout.values if "value" in reference.sums else None,
        quantile=layout.quantile if "quantile_loss" in reference.sums else None,
        coverage_score="",
    )


def _weighted(layout: PerformanceLayout, sums: Sums, factor: Fraction) -> Sums:
    """Sums of the same rows that each weigh ``factor`` times as much; counts remain those of rows."""
    twins = {name.removeprefix(WEIGHTED) for name in weighted_fields(layout)}
    found = {
        name: sums[name] if field.counts or name in twins else _times(sums[name], factor)
        for name, field in fields(layout).items()
    }
    found["weights_squared"] = _times(sums["weights_squared"], factor**2)
    for name in twins:
        found[WEIGHTED + name] = _times(weighted(sums, name), factor)
    return found


def _times(array: Whole, factor: Fraction) -> Whole:
    """On the grid again, rounded."""
    units = to_grid(factor)
    return np.asarray((array * units + ONE // 2) // ONE, object)
