"""What a decision costs where it is asked for: one row with 50 features, a batch of 500, and what stays in memory.

The rules are the costly ones: novelty over all 50 features and their joint distance, a certified confidence by region,
bounds of five features, a rare value, missing values and an adaptive interval. Times are those of the caller's clock,
with whatever else the machine does; the features are ready as a dictionary, as a serving application has them.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from bench.report import Figure, figure, print_table, within
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.humility.policy import Policy
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from services.publish.reading import take
from streams.baseline import Baseline, BaselineSegment
from streams.humility.fit import learn_fit
from streams.humility.judge import policy_of
from streams.specification import BINARY, DeploymentSpec, FeatureSpec, OutcomeSpec, SegmentSpec

NUMERIC, TEXT = 44, 6
BATCH_ROWS = 500
FIT_ROWS = 20_000
P50_US, P99_US, BATCH_US = 20.0, 60.0, 1.0
MOST_GROWTH_BYTES = 20_000
"""What the interpreter's own caches may hold more after the calls than before."""

RULES = (
    Rule("novel", Condition("novel_input"), "refuse"),
    Rule("unsure", Condition("uncertain_prediction", measure="certified"), "route", route_to="people"),
    Rule("two", Condition("uncertain_prediction", measure="set_size"), "record"),
    Rule(
        "outside", Condition("outlying_input", columns=tuple(f"x{i}" for i in range(5))), "override", Override("prior")
    ),
    Rule("rare", Condition("low_observation_region", columns=("t0",), least=50), "record"),
    Rule("gaps", Condition("missing_input", least=5), "refuse", priority=1),
    Rule("alarmed", Condition("in_alarm"), "route", route_to="people"),
)


def draw(rng: np.random.Generator, rows: int) -> PredictionColumns:
    """Independent rows of 44 numbers and 6 texts."""
    numbers = rng.normal(size=(NUMERIC, rows))
    texts = {
        f"t{i}": CategoricalColumn([f"v{k}" for k in range(20)], rng.zipf(2.0, rows).clip(1, 20).astype(np.int32) - 1)
        for i in range(TEXT)
    }
    return PredictionColumns(
        "bench",
        "1",
        [f"p{row}" for row in range(rows)],
        1_700_000_000_000_000 + np.arange(rows, dtype=np.int64) * 60_000_000,
        {f"x{i}": values for i, values in enumerate(numbers)},
        texts,
        prediction=rng.beta(0.5, 0.5, rows),
    )


def prepared(rng: np.random.Generator) -> tuple[Policy, PredictionColumns]:
    """A policy with all of its fits, and fresh rows."""
    features = [FeatureSpec(f"x{i}", "numeric") for i in range(NUMERIC)]
    features += [FeatureSpec(f"t{i}", "categorical") for i in range(TEXT)]
    spec = DeploymentSpec(
        "bench",
        "classifier",
        BINARY,
        tuple(features),
        positive_class="1",
        segments=(SegmentSpec("t1", "t1"),),
        outcomes=OutcomeSpec(horizon_ms=3_600_000, classes=("0", "1")),
        humility=HumilitySpec(RULES, Guarantees(novelty_rate=0.01, max_error=0.1, coverage=0.9, segment="t1")),
    )
    baseline = Baseline("bench", "1", 0, (), segments=(BaselineSegment("t1", "t1", ("v0", "v1", "(other)")),))
    columns = draw(rng, FIT_ROWS)
    assert columns.prediction is not None
    actual = (rng.random(FIT_ROWS) < columns.prediction).astype(np.float64)
    known = OutcomeColumns("bench", columns.prediction_ids, columns.timestamps_us + 60_000_000, actual)
    fit = learn_fit(spec, baseline, [columns], [known], source="bench")
    policy = policy_of(spec, Baseline("bench", "1", 0, (), segments=baseline.segments, humility=fit))
    assert policy is not None
    assert not policy.unarmed, policy.unarmed
    return policy, draw(rng, 2_000)


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on costs."""
    policy, columns = prepared(np.random.default_rng([seed, 9]))
    rows = feature_rows(columns)
    scores = columns.prediction
    assert scores is not None
    values = scores.tolist()
    calls = 20_000 if quick else 200_000
    times = _times(policy, rows, values, calls, time.perf_counter)
    own = _times(policy, rows, values, calls // 4, time.thread_time)
    batch = take(columns, np.arange(BATCH_ROWS))
    per_row = min(_batch_seconds(policy, batch) for _ in range(20)) / BATCH_ROWS
    calls = 50_000 if quick else 1_000_000
    grown = _growth(policy, rows, values, calls)
    p50, p99 = np.quantile(times, [0.5, 0.99]).tolist()
    acted = policy.decide_columns(columns).actions
    figures = [
        figure("decide one row, p50", p50 * 1e6, "µs", at_most=P50_US, note=f"50 features, {len(times):,} calls"),
        figure("decide one row, p99", p99 * 1e6, "µs", at_most=P99_US, note="by the clock, whatever else runs"),
        figure("decide one row, p99 of its own time", float(np.quantile(own, 0.99)) * 1e6, "µs", note="of the thread"),
        figure("decide a batch, per row", per_row * 1e6, "µs", at_most=BATCH_US, note=f"{BATCH_ROWS} rows"),
        figure(
            "memory that calls leave behind",
            grown,
            "bytes",
            at_most=MOST_GROWTH_BYTES,
            note=f"traced, {calls:,} calls after as many as warm up",
        ),
        figure(
            "rows that are answered", 100 * float((acted == 0).mean()), "%", note="the others are decided by some rule"
        ),
    ]
    print_table(
        f"What a decision costs: {len(RULES)} rules, 50 features, novelty with joint distance, groups",
        ("", "value", "unit", "at most", ""),
        ((r["metric"], within(r, f"{r['value']:,}"), r["unit"], r["bound"] or "", r["note"]) for r in figures),
    )
    return figures


def feature_rows(columns: PredictionColumns) -> list[dict[str, object]]:
    """The features of each row, as an application has them."""
    numbers = {name: values.tolist() for name, values in columns.numeric.items()}
    texts = {name: column.values() for name, column in columns.categorical.items()}
    names = [*numbers, *texts]
    return [dict(zip(names, row, strict=True)) for row in zip(*numbers.values(), *texts.values(), strict=True)]


def _times(
    policy: Policy, rows: list[dict[str, object]], scores: list[float], calls: int, clock: Callable[[], float]
) -> np.ndarray:
    """Seconds of each call, float64[n], by a clock."""
    decide, found = policy.decide_row, np.empty(calls)
    for row in rows[:200]:
        decide(row, 0.5)
    for call in range(calls):
        row, score = rows[call % len(rows)], scores[call % len(rows)]
        begin = clock()
        decide(row, score, timestamp_us=1)
        found[call] = clock() - begin
    return found


def _batch_seconds(policy: Policy, batch: PredictionColumns) -> float:
    begin = time.perf_counter()
    for _ in range(10):
        policy.decide_columns(batch)
    return (time.perf_counter() - begin) / 10


def _growth(policy: Policy, rows: list[dict[str, object]], scores: list[float], calls: int) -> int:
    """Bytes that are allocated after so many calls and were not before them."""
    decide = policy.decide_row
    tracemalloc.start()
    try:
        before = 0
        for part in range(2):
            for call in range(calls if part else min(calls, 10_000)):
                decide(rows[call % len(rows)], scores[call % len(rows)], timestamp_us=1)
            gc.collect()
            now, _ = tracemalloc.get_traced_memory()
            grown, before = now - before, now
        return max(grown, 0)
    finally:
        tracemalloc.stop()
