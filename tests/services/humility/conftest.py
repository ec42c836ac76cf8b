"""A deployment whose every row is known, so that what a report says can be counted by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from driftline.batches import take
from driftline.codec import Record
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from streams.baseline import Baseline, BaselineStream
from streams.specification import BINARY, REGRESSION, DecisionValue, DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.tilts import tilts_of

HOUR_US = 3_600_000_000
RULES = (
    Rule("storm", Condition("outlying_input", columns=("y",), low=-1.5, high=1.5), "refuse", priority=5),
    Rule("odd", Condition("low_observation_region", columns=("c",), values=("b",)), "record", dry_run=True),
    Rule("mid", Condition("uncertain_prediction", measure="score", low=0.3, high=0.5), "override",
         Override("label", label="late")),
    Rule("desk", Condition("missing_input", columns=("y",)), "route", route_to="desk"),
)  # fmt: skip


def spec_of(rules: tuple[Rule, ...] = RULES, *, task: str = BINARY, **changes: Any) -> DeploymentSpec:
    return DeploymentSpec(
        "delays",
        "m",
        task,
        (FeatureSpec("x", "numeric"), FeatureSpec("y", "numeric"), FeatureSpec("c", "categorical")),
        positive_class="late" if task == BINARY else None,
        outcomes=OutcomeSpec(
            2 * HOUR_US // 1000,
            window_ms=HOUR_US // 1000,
            classes=("on time", "late") if task == BINARY else (),
            values=(DecisionValue("late", "late", 2.0), DecisionValue("late", "on time", -1.0))
            if task == BINARY
            else (),
        ),
        humility=HumilitySpec(rules, Guarantees()),
        **changes,
    )


@dataclass
class Rows:
    """Predictions and outcomes, in batches of some hundred; ``known`` says which have an outcome in time."""

    predictions: list[PredictionColumns]
    outcomes: list[OutcomeColumns]
    y: Any
    b: Any
    score: Any
    late: Any
    known: Any


def rows_of(seed: int = 1, rows: int = 1200, *, task: str = BINARY, start_us: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=rows), rng.normal(size=rows)
    y[rng.random(rows) < 0.05] = np.nan
    b = rng.random(rows) < 0.4
    if task == BINARY:
        score = 1 / (1 + np.exp(-2 * x))
        late = rng.random(rows) < np.where(np.abs(y) > 1.5, 0.5, score)
    else:
        score = 10 * x
        late = score + rng.normal(size=rows) * np.where(np.abs(y) > 1.5, 9, 1)
    times = start_us + np.arange(rows) * 10_000_000
    delay = rng.integers(0, 3 * HOUR_US, rows)
    ids = [f"{seed}-{row}" for row in range(rows)]
    columns = PredictionColumns(
        "delays", "1", ids, times, {"x": x, "y": y},
        {"c": CategoricalColumn(["a", "b"], b.astype(np.int32))}, prediction=score,
    )  # fmt: skip
    named: dict[str, Any] = {"actual_value": late}
    if task == BINARY:
        named = {"actual_label": CategoricalColumn(["on time", "late"], late.astype(np.int32))}
    outcomes = OutcomeColumns("delays", ids, times + delay, **named)
    cuts = np.array_split(np.arange(rows), 5)
    return Rows(
        [take(columns, cut) for cut in cuts],
        [take(outcomes, cut) for cut in np.array_split(rng.permutation(rows), 3)],
        y, b, score, late, delay <= 2 * HOUR_US,
    )  # fmt: skip


@dataclass
class Held:
    """Rows at hand, as a history."""

    rows: Rows
    passes: int = 0

    def predictions(self) -> Iterator[PredictionColumns]:
        self.passes += 1
        yield from self.rows.predictions

    def outcomes(self) -> Iterator[OutcomeColumns]:
        yield from self.rows.outcomes


def baseline_of(spec: DeploymentSpec) -> Baseline:
    """One that knows next to nothing: what is tried on history needs no more."""
    stream = BaselineStream(
        name="c", role="feature", layout=CATEGORICAL, bins=CategoricalBins(("a", "b"), ()), margin_tv=0.05,
        counts=np.eye(1, CATEGORICAL.size, dtype=np.int64)[0] * 4000,
        tempering=np.ones(tilts_of(CATEGORICAL).size, np.float32),
    )  # fmt: skip
    found = Baseline(spec.deployment_id, "1", 4000, (stream,), last_event_us=1)
    return dataclasses.replace(found, digest=found.content_digest())


def window_of(
    rules: Mapping[str, tuple[int, int]], *, rows: int = 100, actions: tuple[int, ...] = (100, 0, 0, 0), **changes: Any
) -> Record:
    """A ``HumilityWindow``; ``rules``: how often each fired and acted."""
    part = {
        "segment": "",
        "rows": rows,
        "decided": rows // 2,
        "stale": 1,
        "disagreeing": 2,
        "actions": list(actions),
        "fired": [fired for fired, _ in rules.values()],
        "acted": [acted for _, acted in rules.values()],
    }
    start_us, partition = changes.get("window_start_us", 0), changes.get("partition", 0)
    return {
        "id": f"{start_us}/{partition}/{changes.get('policy', 'p')}",
        "deployment_id": "delays",
        "model_version": "1",
        "partition": partition,
        "window_start_us": start_us,
        "window_end_us": start_us + HOUR_US,
        "status": "final",
        "revision": 1,
        "clock_us": start_us,
        "policy": "p",
        "spec_revision": 1,
        "baseline_digest": "none",
        "rules": list(rules),
        "parts": [part, dict(part, segment="c=a", rows=rows // 4)],
    } | changes


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """What the tests make."""
    return SimpleNamespace(
        spec=spec_of,
        rows=rows_of,
        baseline=baseline_of,
        window=window_of,
        held=Held,
        regression=REGRESSION,
        replace=dataclasses.replace,
    )
