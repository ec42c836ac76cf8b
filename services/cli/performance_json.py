"""Accuracy windows as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from services.performance.maturity import fits
from services.performance.names import CALIBRATION, CONFUSION, FAIRNESS, of_groups
from services.performance.report import PartReading, Reading, WindowReading
from services.performance.tables import Groups, confusion, groups, reliability
from streams.baseline import Baseline, OutcomeReference
from streams.statistics.performance.fairness import four_fifths
from streams.statistics.performance.metrics import Metric

if TYPE_CHECKING:
    from services.cli.performance import Request


def window_document(
    item: WindowReading, request: Request, segments: Sequence[str], baselines: Mapping[str, Baseline]
) -> dict[str, Any]:
    """One window, with the metrics and tables that were asked for."""
    window = item.window
    found = {
        "deployment": window.deployment_id,
        "version": window.model_version,
        "role": window.role,
        "start_us": window.start_us,
        "end_us": window.end_us,
        "status": window.status,
        "known_until_us": window.clock_us,
        "mature_at_us": item.mature_at_us,
        "final_at_us": window.final_at_us,
        "windows": window.windows,
        "baseline_digests": list(window.baselines),
        "bins_of_several_baselines": window.mixed_edges,
        "corrections": window.corrections,
        "superseded": window.superseded,
        "expected_coverage": item.expected_coverage,
        "has_reference": item.has_reference,
        "parts": [_part(item, part, request, baselines) for part in item.parts],
    }
    if request.estimate:
        found["estimates_doubted"] = None if item.doubt is None else dataclasses.asdict(item.doubt)
    if segments:
        wanted = None if FAIRNESS in request.metrics else set(request.metrics) & set(of_groups(window.layout.task))
        found["fairness"] = [_groups(groups(window, segment, request.reference), wanted) for segment in segments]
    return found


def reference_of(item: WindowReading, baselines: Mapping[str, Baseline]) -> OutcomeReference | None:
    """The reference whose bins a window has; None where there is none, or the window has those of several."""
    baseline = baselines.get(item.window.baselines[0]) if len(item.window.baselines) == 1 else None
    reference = None if baseline is None else baseline.outcomes
    return reference if reference is not None and fits(reference, item.window.layout) else None


def _part(
    item: WindowReading, part: PartReading, request: Request, baselines: Mapping[str, Baseline]
) -> dict[str, Any]:
    layout, sums = item.window.layout, item.window.parts[part.part]
    found: dict[str, Any] = {
        "part": part.part,
        "predictions": part.predictions,
        "resolved": part.resolved,
        "coverage": part.coverage,
        "acted": dict(zip(("no", "yes", "unknown"), part.acted, strict=True)),
        "weighted_by_labelling_probability": part.weighted,
        "effective_outcomes": part.effective,
        "metrics": {
            name: _reading(item, part.readings[name], estimate=request.estimate)
            for name in request.metrics
            if name in part.readings
        },
    }
    if CALIBRATION in request.metrics:
        known = reliability(layout, sums, reference_of(item, baselines) if not part.part else None)
        found["calibration"] = {
            "groups": [dataclasses.asdict(row) for row in known.rows],
            "brier": None if known.brier is None else dataclasses.asdict(known.brier),
        }
    if CONFUSION in request.metrics:
        matrix = confusion(layout, sums)
        found["confusion"] = {
            "classes": list(matrix.classes),
            "predicted_by_actual": matrix.counts,
            "weights": matrix.weights if matrix.weighted else None,
        }
    return found


def _reading(item: WindowReading, reading: Reading, *, estimate: bool) -> dict[str, Any]:
    found = {**_metric(reading.value), "reference_at_same_age": _metric(reading.reference), "outside": reading.outside}
    if not estimate:
        return found
    error = reading.estimate_error
    return found | {
        "estimate": _metric(reading.estimate),
        "estimate_disproved": item.disproved(reading),
        "estimate_error": None if error is None else {"difference": error.difference, "inside": error.inside},
    }


def _metric(metric: Metric | None) -> dict[str, Any]:
    return {} if metric is None else dataclasses.asdict(metric)


def _groups(found: Groups, wanted: Collection[str] | None) -> dict[str, Any]:
    """``wanted``: these rates and measures only."""

    def asked(name: str) -> bool:
        return wanted is None or name in wanted

    return {
        "segment": found.segment,
        "rates": {
            group: {name: dataclasses.asdict(rate) for name, rate in rates.items() if asked(name)}
            for group, rates in found.rates.items()
        },
        "comparisons": [
            dataclasses.asdict(one)
            | ({"four_fifths": four_fifths(one)} if one.measure == "demographic_parity_ratio" else {})
            for one in found.comparisons
            if asked(one.measure)
        ],
        "disparities": [dataclasses.asdict(one) for one in found.disparities if asked(one.measure)],
    }
