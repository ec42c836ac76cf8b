"""What a baseline says, in the terms of people: for the terminal, for machines and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.deployments.outcome_summary import outcomes_document, summarise_outcomes
from streams.arming import is_refused, refused
from streams.baseline import ERROR, HUMILITY_ROLE, LABELS_ROLE, Arming, Baseline, BaselineStream
from streams.reference import REFERENCE_ERROR_PROBABILITY
from streams.specification import (
    CONCEPT_DRIFT,
    DATA_DRIFT,
    DATA_QUALITY,
    FAIRNESS,
    HUMILITY,
    LABELS,
    PREDICTION_DRIFT,
    SERVICE,
)
from streams.statistics.conditional import ConditionalBins
from streams.statistics.layouts import LOSS, CategoricalBins, NumericBins
from streams.statistics.margins import reference_radius
from streams.statistics.seasons import SeasonalBins

OPERATOR, REFERENCE_SIZE, REFUSED, IN_ITS_CUTS = "stated", "reference size", "refused", "in its cuts"

MONITOR_TITLES = {
    DATA_DRIFT: "data drift",
    PREDICTION_DRIFT: "prediction drift",
    DATA_QUALITY: "data quality",
    SERVICE: "service",
    CONCEPT_DRIFT: "concept drift",
    LABELS: "labels",
    FAIRNESS: "fairness",
    HUMILITY: "humility",
}


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One stream of a baseline.

    Attributes:
        stream: The stream.
        rows: Reference rows that it was learnt from; None where its cuts, and not its counts, tell what is normal.
        missing_share: Share of them without a value; None for streams that are no column's values.
        margin_source: ``stated`` by the specification, from the ``reference size`` where that asks for more,
            ``in its cuts`` for large losses, or ``refused``.
        inflation: Rows that are worth one independent row, for the median alternative.
        worst_inflation: The same for the alternative that suffers most from dependence.
        season: ``hour_of_week``, ``hour_and_weekend`` or empty.
    """

    stream: BaselineStream
    rows: int | None
    missing_share: float | None
    margin_source: str
    inflation: float
    worst_inflation: float
    season: str


def summarise(stream: BaselineStream) -> StreamSummary:
    """Sum up one stream."""
    rows = int(stream.counts.sum())
    # a request without an error did not fail, what is open is not missing, and a rule fires or does not
    holds_values = (
        isinstance(stream.bins, (NumericBins, CategoricalBins, ConditionalBins))
        and stream.layout is not LOSS
        and stream.role not in (LABELS_ROLE, HUMILITY_ROLE)
        and stream.name != ERROR
    )
    return StreamSummary(
        stream=stream,
        rows=None if stream.layout is LOSS else rows,
        missing_share=float(stream.counts[-1]) / rows if holds_values and rows else None,
        margin_source=_margin_source(stream),
        inflation=float(1 / np.median(stream.tempering)),
        worst_inflation=float(1 / stream.tempering.min()),
        season=stream.bins.season if isinstance(stream.bins, SeasonalBins) else "",
    )


def _margin_source(stream: BaselineStream) -> str:
    if is_refused(stream):
        return REFUSED
    if stream.layout is LOSS:
        return IN_ITS_CUTS
    radius = float(reference_radius(stream.counts[None], REFERENCE_ERROR_PROBABILITY, stream.layout)[0])
    if isinstance(stream.bins, ConditionalBins):
        radius += stream.bins.conditions / max(int(stream.counts.sum()), 1)
    return OPERATOR if stream.margin_tv > radius * (1 + 1e-9) else REFERENCE_SIZE


def arming_lines(baseline: Baseline) -> list[tuple[str, str]]:
    """Per monitor its name and what its arming showed, in words."""
    out = refused(baseline)
    return [
        (MONITOR_TITLES.get(item.monitor, item.monitor), _arming_text(item, out.get(item.monitor, [])))
        for item in baseline.arming
    ]


def _arming_text(item: Arming, refused_streams: Sequence[BaselineStream]) -> str:
    names = [stream.label for stream in refused_streams]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if item.widened == 0:
        return f"refused: {shown or 'all its streams'} break the bound however little their events count"
    alarms = "1 alarm" if item.alarms == 1 else f"{item.alarms:,} alarms"
    text = f"replayed {item.starts:,} starts: {alarms}, bound {item.bound:,.0f}: holds"
    if item.widened < 1:
        text += f", widened by {item.widened:g}"
    return text + (f"; refused: {shown}" if names else "")


def document(baseline: Baseline) -> dict[str, Any]:
    """A baseline for machines."""
    out = refused(baseline)
    return {
        "deployment": baseline.deployment_id,
        "version": baseline.model_version,
        "digest": baseline.digest,
        "rows": baseline.rows,
        "first_event_us": baseline.first_event_us,
        "last_event_us": baseline.last_event_us,
        "source": baseline.source,
        "arming": [
            {
                "monitor": item.monitor,
                "starts": item.starts,
                "alarms": item.alarms,
                "bound": item.bound,
                "widened": item.widened,
                "threshold_nats": item.threshold_nats,
                "refused": [stream.label for stream in out.get(item.monitor, [])],
            }
            for item in baseline.arming
        ],
        "outcomes": outcomes_document(summarise_outcomes(baseline)),
        "segments": [{"segment": s.name, "column": s.column, "values": list(s.values)} for s in baseline.segments],
        "streams": [stream_document(stream) for stream in baseline.streams],
    }


def stream_document(stream: BaselineStream) -> Mapping[str, Any]:
    """A stream for machines."""
    found = summarise(stream)
    used = stream.counts > 0
    return {
        "stream": stream.name,
        "segment": stream.segment,
        "role": stream.role,
        "kind": stream.layout.name,
        "season": found.season,
        "rows": found.rows,
        "missing_share": found.missing_share,
        "margin_tv": float(stream.margin_tv),
        "margin_source": found.margin_source,
        "variance_inflation": found.inflation,
        "worst_variance_inflation": found.worst_inflation,
        "importance": float(stream.importance),
        "bins_used": int(used.sum()),
        "bins": [
            {"bin": label, "rows": int(count)}
            for label, count in zip(stream.bin_labels(), stream.counts.tolist(), strict=True)
            if count
        ],
    }
