"""Accuracy windows and references as the streams and the baseline's builder write them, from raw rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from driftline.codec import Record
from streams.baseline import OutcomeReference
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import Sums, add, count_pairs, count_predictions, take_group, to_fields

HOUR_US = 3_600_000_000


def predicted_of(layout: PerformanceLayout, scores: Any) -> Predicted:
    """Scores float[n] (binary, regression) or float[n, C]; labels as the threshold or the largest score gives them."""
    values = np.asarray(scores, np.float64)
    if layout.task == BINARY:
        return Predicted(values[:, None], (values >= layout.threshold).astype(np.int64))
    if layout.task == MULTICLASS:
        return Predicted(values, values.argmax(axis=1).astype(np.int64))
    if layout.task == REGRESSION:
        return Predicted(np.stack((values, values - 1, values + 1), axis=1), np.full(len(values), -1, np.int64))
    return Predicted(np.zeros((len(values), 0)), np.full(len(values), -1, np.int64))


def sums_of(
    layout: PerformanceLayout,
    scores: Any,
    actual: Any,
    *,
    resolved: Any = None,
    ages_us: Any = None,
    acted: Any = 255,
    weights: Any = None,
    rows: Any = None,
) -> Sums:
    """Sums of predictions and of those with an outcome; ``rows``: a mask, of these only."""
    kept = np.ones(len(scores), bool) if rows is None else np.asarray(rows, bool)
    scores, actual = np.asarray(scores)[kept], np.asarray(actual, np.float64)[kept]
    n = len(scores)
    known = np.ones(n, bool) if resolved is None else np.asarray(resolved, bool)[kept]
    predicted = predicted_of(layout, scores)
    pairs = Pairs(
        predicted,
        actual,
        np.zeros(n, np.int64),
        np.zeros(n, np.int64) if ages_us is None else np.asarray(ages_us, np.int64)[kept],
        np.ones(n) if weights is None else np.asarray(weights, np.float64)[kept],
        np.broadcast_to(np.asarray(acted, np.uint8), (len(kept),))[kept],
        np.zeros(n),
    )
    index = np.where(known, 0, -1)
    counted = count_pairs(layout, pairs, index, 1)
    return take_group(add(counted, count_predictions(layout, predicted, np.zeros(n, np.int64), 1)), 0)


def record_of(
    layout: PerformanceLayout,
    scores: Any,
    actual: Any,
    *,
    start_us: int = 0,
    parts: Mapping[str, Any] | None = None,
    resolved: Any = None,
    ages_us: Any = None,
    acted: Any = 255,
    weights: Any = None,
    **changes: Any,
) -> Record:
    """A ``PerformanceWindow`` record; ``parts``: masks of rows by name."""
    facts = {"resolved": resolved, "ages_us": ages_us, "acted": acted, "weights": weights}
    written = []
    for name, rows in {"": None, **(parts or {})}.items():
        counts, sums = to_fields(sums_of(layout, scores, actual, rows=rows, **facts))
        written.append({"segment": name, "counts": counts, "sums": sums})
    partition = changes.get("partition", 0)
    return {
        "id": f"{changes.get('model_version', '1')}/{start_us}/{partition}",
        "deployment_id": "delays",
        "model_version": "1",
        "role": "champion",
        "partition": partition,
        "window_start_us": start_us,
        "window_end_us": start_us + HOUR_US,
        "status": "final",
        "revision": 1,
        "clock_us": start_us + 100 * HOUR_US,
        "horizon_ms": 48 * HOUR_US // 1000,
        "task": layout.task,
        "classes": list(layout.classes),
        "score_edges": layout.score_edges.tolist(),
        "age_edges_us": layout.age_edges_us.tolist(),
        "baseline_digest": "none",
        "corrections": 0,
        "superseded": 0,
        "parts": written,
    } | changes


def reference_of(
    layout: PerformanceLayout, scores: Any, actual: Any, *, ages_us: Any = None, **changes: Any
) -> OutcomeReference:
    """A reference all of whose outcomes are known."""
    n = len(scores)
    ages = np.zeros(n, np.int64) if ages_us is None else np.asarray(ages_us, np.int64)
    buckets = np.searchsorted(layout.age_edges_us, ages, "left")
    by_age = [to_fields(sums_of(layout, scores, actual, ages_us=ages, rows=buckets == a)) for a in range(layout.ages)]
    facts: dict[str, Any] = {
        "horizon_ms": 48 * HOUR_US // 1000,
        "rows": n,
        "resolved": n,
        "age_edges_us": layout.age_edges_us,
        "final_age_us": 10 * HOUR_US,
        "classes": layout.classes,
        "score_edges": layout.score_edges,
        "score_buckets": np.array([0.25, 0.5, 0.75]),
        "calibration": (
            layout.score_edges.take([0, *range(layout.bins - 1)]) if layout.task == BINARY else np.zeros(0)
        ),
        "expected_loss": {},
        "counts": {name: np.array([counts[name] for counts, _ in by_age]) for name in by_age[0][0]},
        "sums": {name: np.array([sums[name] for _, sums in by_age]) for name in by_age[0][1]},
    }
    return OutcomeReference(**(facts | changes))


@pytest.fixture
def make_sums() -> Callable[..., Sums]:
    """:func:`sums_of`, for tests."""
    return sums_of


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """:func:`record_of`, for tests."""
    return record_of


@pytest.fixture
def make_reference() -> Callable[..., OutcomeReference]:
    """:func:`reference_of`, for tests."""
    return reference_of
