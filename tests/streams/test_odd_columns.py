"""Columns at the edge of what can be watched: none of them stops a deployment, or says anything on standard error."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from driftline.events import CategoricalColumn, PredictionColumns
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, FeatureSpec

SPEC = DeploymentSpec(
    "d",
    "model",
    "other",
    (
        FeatureSpec("x", "numeric"),
        FeatureSpec("y", "numeric"),
        FeatureSpec("absent", "numeric"),
        FeatureSpec("c", "categorical"),
        FeatureSpec("e", "embedding"),
    ),
    importance_source="estimated",
)


def rows(samples: Any, first: int, count: int) -> PredictionColumns:
    rng = np.random.default_rng(first)
    return PredictionColumns(
        "d",
        "1",
        [str(first + i) for i in range(count)],
        samples.t0 + (first + np.arange(count)) * samples.second,
        {"x": rng.normal(size=count), "y": rng.normal(size=count), "absent": np.full(count, np.nan)},
        {"c": CategoricalColumn(["", "b"], rng.integers(-1, 2, count).astype(np.int32))},
        prediction=rng.normal(size=count),
        vectors={"e": rng.normal(size=(count, 3)).astype(np.float32)},
    )


def test_a_feature_that_is_never_there_gets_the_least_importance(samples: Any) -> None:
    baseline = build_baseline(SPEC, "1", [rows(samples, 0, 400)], source="test")
    baseline.check()
    importance = {s.name: s.importance for s in baseline.streams if s.role == "feature"}
    assert 0 < importance["absent"] == min(importance.values())


def test_wild_values_are_counted_without_a_warning(samples: Any) -> None:
    baseline = build_baseline(SPEC, "1", [rows(samples, 0, 400)], source="test")
    machine = samples.machine(SPEC, baseline)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for offset, wild in enumerate((np.inf, -np.inf, np.nan, 1e308, -1e308, 5e-324)):
            batch = rows(samples, 1_000 + 10 * offset, 10)
            vectors = batch.vectors["e"].copy()
            vectors[::2] = np.clip(wild, -3e38, 3e38) if np.isfinite(wild) else wild
            vectors[1, 0], vectors[1, 1] = np.inf, -np.inf
            numeric = {**batch.numeric, "x": np.full(10, wild)}
            changed = dataclasses.replace(batch, numeric=numeric, vectors={"e": vectors})
            machine.apply(samples.message(changed, offset))
    assert machine.counters()["rows"] == 60
    assert machine.restarted().digest() == machine.digest()
