"""What a baseline knows of outcomes, in the terms of people: how late they come, and how good the model was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.performance.maturity import DelayCurve, delay_curve, reference_sums
from services.performance.names import METRICS
from streams.baseline import Baseline, OutcomeReference
from streams.outcomes.ages import age_text
from streams.outcomes.reference import LOW_COVERAGE
from streams.specification import BINARY, MULTICLASS, OTHER_TASK, REGRESSION
from streams.statistics.performance.calibration import ReliabilityCurve, reliability_curve
from streams.statistics.performance.grid import ONE
from streams.statistics.performance.metrics import Metric, metrics
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.score_bins import score_bins
from streams.statistics.performance.sums import Sums, merge

LEADING = {BINARY: "accuracy", MULTICLASS: "accuracy", REGRESSION: "mae"}
"""The metric that is shown by age."""

EARLY_NOTE = (
    "outcomes that are known early are no fair sample of all: what is known so far is compared with what the reference "
    "showed at the same ages, never with its final figure"
)


@dataclass(frozen=True, slots=True)
class AtAge:
    """What the reference showed when its predictions had an age.

    Attributes:
        age_us: The age.
        known: Share of its predictions whose outcome was known.
        pairs: How many these are, by the outcomes that count in the end.
        metrics: Of these alone.
    """

    age_us: int
    known: float
    pairs: int
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, eq=False, slots=True)
class OutcomeSummary:
    """A baseline's outcomes.

    Attributes:
        reference: What was learnt.
        layout: How its sums are read.
        young: Reference predictions that were too young.
        coverage: Share of predictions with an outcome, each counted as its labelling probability says.
        curve: Shares known by age.
        by_age: At each age edge, and at the horizon.
        metrics: Of all outcomes, in the order in which metrics are listed.
        reliability: Predicted probabilities and shares that came true, in groups; None for other than classes.
        acted: Pairs whose prediction was not acted on, was, and where that is not known.
    """

    reference: OutcomeReference
    layout: PerformanceLayout
    young: int
    coverage: float
    curve: DelayCurve
    by_age: Sequence[AtAge]
    metrics: Mapping[str, Metric]
    reliability: ReliabilityCurve | None
    acted: tuple[int, int, int]

    @property
    def task(self) -> str:
        """The task, as far as it matters for outcomes."""
        return self.layout.task


def summarise_outcomes(baseline: Baseline) -> OutcomeSummary | None:
    """Sum up what a baseline knows of outcomes; None where that is nothing."""
    reference, curve = baseline.outcomes, delay_curve(baseline)
    if reference is None or curve is None:
        return None
    layout = reference_layout(reference)
    parts = reference_sums(reference, layout)
    whole = merge(parts)
    horizon_us = reference.horizon_ms * 1000
    ends = [*reference.age_edges_us.tolist(), horizon_us]
    by_age = []
    for at, age_us in enumerate(ends):
        so_far = merge(parts[: at + 1])
        known = float(np.interp(age_us, curve.ages_us, curve.known))
        by_age.append(AtAge(age_us, known, int(so_far["resolved"]), metrics(layout, so_far)))
    found = by_age[-1].metrics
    first, second, unknown = whole["acted"].tolist()
    return OutcomeSummary(
        reference=reference,
        layout=layout,
        young=max(baseline.rows - reference.rows, 0),
        coverage=min(int(whole["weights"]) / ONE / max(reference.rows, 1), 1.0),
        curve=curve,
        by_age=by_age,
        metrics={name: found[name] for name in METRICS.get(layout.task, ()) if name in found},
        reliability=_reliability(layout, whole),
        acted=(first, second, unknown),
    )


def reference_layout(reference: OutcomeReference) -> PerformanceLayout:
    """How a reference's sums are read, from their names: a baseline knows its classes, and not its task."""
    counts, sums = reference.counts, reference.sums
    task = OTHER_TASK
    if "predicted_scores" in counts:
        task = BINARY
    elif "confusion" in counts:
        task = MULTICLASS
    elif "with_prediction" in counts:
        task = REGRESSION
    classes = len(reference.classes)
    return PerformanceLayout(
        task=task,
        classes=reference.classes if task in (BINARY, MULTICLASS) else (),
        score_edges=reference.score_edges,
        age_edges_us=reference.age_edges_us,
        # only whether they were asked for matters where everything is counted
        values=np.zeros((classes, classes)) if "value" in sums else None,
        quantile=0.5 if "quantile_loss" in sums else None,
    )


def _reliability(layout: PerformanceLayout, sums: Sums) -> ReliabilityCurve | None:
    bins = score_bins(layout, sums)
    if bins is None or not bins.totals.sum() > 0:
        return None
    return reliability_curve(bins.positives, bins.totals, bins.score_sums)


def outcome_lines(found: OutcomeSummary) -> list[str]:
    """What is to be said of a baseline's outcomes, in sentences."""
    reference = found.reference
    horizon, final = age_text(reference.horizon_ms * 1000), age_text(reference.final_age_us)
    lines = [
        f"outcomes: {reference.resolved:,} of {reference.rows:,} predictions have one within the horizon of {horizon} "
        f"({found.coverage:.1%}); a cohort is final at the age of {final}, by which 99 % of them were known"
    ]
    if found.young:
        lines.append(f"{found.young:,} reference predictions are left out: their horizon had not passed")
    if found.coverage < LOW_COVERAGE:
        lines.append("few of the reference's predictions have an outcome: if those are no fair sample, neither is this")
    acted = found.acted[1]
    if acted:
        lines.append(
            f"{acted:,} of the predictions ({acted / reference.resolved:.1%}) were acted on, which may have changed "
            "their outcome"
        )
    return lines


def metric_text(metric: Metric | None) -> str:
    """A metric with its interval, for people."""
    if metric is None or metric.value is None:
        return "–"
    if metric.low is None or metric.high is None:
        return _number(metric.value)
    return f"{_number(metric.value)} ({_number(metric.low)} – {_number(metric.high)})"


def _number(value: float) -> str:
    return f"{value:.3f}" if 0.0005 <= abs(value) < 100 else f"{value:.4g}"


def outcomes_document(found: OutcomeSummary | None) -> dict[str, Any] | None:
    """What a baseline knows of outcomes, for machines."""
    if found is None:
        return None
    reference, curve = found.reference, found.curve
    reliability = found.reliability
    return {
        "task": found.task,
        "classes": list(reference.classes),
        "horizon_ms": reference.horizon_ms,
        "final_age_us": reference.final_age_us,
        "predictions": reference.rows,
        "resolved": reference.resolved,
        "too_young": found.young,
        "coverage": found.coverage,
        "acted_on": dict(zip(("no", "yes", "unknown"), found.acted, strict=True)),
        "delay": [
            {"age_us": age, "known": share}
            for age, share in zip(curve.ages_us.tolist(), curve.known.tolist(), strict=True)
        ],
        "by_age": [
            {
                "age_us": each.age_us,
                "known": each.known,
                "outcomes": each.pairs,
                "metrics": {name: metric_document(metric) for name, metric in each.metrics.items()},
            }
            for each in found.by_age
        ],
        "metrics": {name: metric_document(metric) for name, metric in found.metrics.items()},
        "calibration": None
        if reliability is None
        else [
            {"rows": rows, "predicted": predicted, "observed": observed}
            for rows, predicted, observed in zip(
                reliability.rows.tolist(), reliability.predicted.tolist(), reliability.observed.tolist(), strict=True
            )
        ],
    }


def metric_document(metric: Metric) -> dict[str, Any]:
    """A metric, for machines."""
    return {"value": metric.value, "low": metric.low, "high": metric.high, "rows": metric.rows, "error": metric.error}
