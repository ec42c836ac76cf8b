"""The final numbers: the same whatever the order, the splitting and the repetition of messages, and right.

Predictions and outcomes are given to the state machine twice: once in order, each row once; then with their messages
mixed, outcomes before predictions among them, cut elsewhere, and some of them twice. Some outcomes are corrected by a
later one, some never come. Every window's final counts and sums must be the same numbers, and what is computed from
them must be what scikit-learn says of the raw rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from bench.report import Figure, figure
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.topics import Topics, record_key
from streams.baseline import Baseline
from streams.decoding import Decoded
from streams.messages import Message
from streams.partition import Partition
from streams.reference import build_baseline
from streams.specification import BINARY, NUMERIC, DeploymentSpec, FeatureSpec, OutcomeSpec, SegmentSpec
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.sums import from_fields

HOUR_US = 3_600_000_000
START_US = 1_700_006_400_000_000
STEP_US = HOUR_US // 200
LABELS, GROUPS = ("no", "yes"), ("a", "b", "c")
ALL_TRAFFIC = ""
REFERENCE_ROWS = 8_000
CORRECTED, KNOWN = 0.05, 0.9
EXACT = {
    "accuracy": lambda actual, label, score: sklearn_metrics.accuracy_score(actual, label),
    "precision": lambda actual, label, score: sklearn_metrics.precision_score(actual, label),
    "recall": lambda actual, label, score: sklearn_metrics.recall_score(actual, label),
    "f1": lambda actual, label, score: sklearn_metrics.f1_score(actual, label),
    "matthews_corrcoef": lambda actual, label, score: sklearn_metrics.matthews_corrcoef(actual, label),
    "log_loss": lambda actual, label, score: sklearn_metrics.log_loss(actual, score),
    "brier": lambda actual, label, score: sklearn_metrics.brier_score_loss(actual, score),
}
BINNED = {
    "roc_auc": lambda actual, label, score: sklearn_metrics.roc_auc_score(actual, score),
    "average_precision": lambda actual, label, score: sklearn_metrics.average_precision_score(actual, score),
}
"""Computed from bins of the score, with an error that is stated beside them."""

Columns = PredictionColumns | OutcomeColumns
Integers = NDArray[np.int64]
Records = Mapping[tuple[int, str], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Counts and sums by window and part."""


class Rows:
    """Predictions and their outcomes, n rows.

    Args:
        rng: Where they come from.
        rows: How many.
        start_us: Event time of the first.
        tag: What their ids begin with.
    """

    def __init__(self, rng: np.random.Generator, rows: int, start_us: int, tag: str) -> None:
        self.ids = [f"{tag}-{row}" for row in range(rows)]
        self.times_us = start_us + np.arange(rows, dtype=np.int64) * STEP_US
        self.x = rng.normal(size=rows)
        self.score = 1 / (1 + np.exp(-self.x))
        self.group = rng.integers(0, len(GROUPS), rows).astype(np.int32)
        self.known = rng.random(rows) < KNOWN
        self.first = (rng.random(rows) < self.score).astype(np.int32)
        self.corrected = self.known & (rng.random(rows) < CORRECTED)
        self.actual = np.where(self.corrected, 1 - self.first, self.first).astype(np.int32)
        self.first_us = self.times_us + (rng.exponential(2 * HOUR_US, rows)).astype(np.int64)
        self.last_us = self.first_us + HOUR_US

    def predictions(self, at: Integers) -> PredictionColumns:
        """Some of the predictions."""
        return PredictionColumns(
            deployment_id="d",
            model_version="1",
            prediction_ids=[self.ids[row] for row in at.tolist()],
            timestamps_us=self.times_us[at],
            numeric={"x": self.x[at]},
            categorical={},
            prediction=self.score[at],
            segments={"group": CategoricalColumn(list(GROUPS), self.group[at])},
        )

    def outcomes(self) -> tuple[Integers, Integers, NDArray[np.int32]]:
        """Row, time and label of all outcomes, in the order in which they became known."""
        first, again = np.flatnonzero(self.known), np.flatnonzero(self.corrected)
        rows = np.concatenate([first, again])
        times = np.concatenate([self.first_us[first], self.last_us[again]])
        order = np.argsort(times, kind="stable")
        return rows[order], times[order], np.concatenate([self.first[first], self.actual[again]])[order]

    def outcome_columns(self, rows: Integers, times_us: Integers, labels: NDArray[np.int32]) -> OutcomeColumns:
        """Some of the outcomes."""
        return OutcomeColumns(
            deployment_id="d",
            prediction_ids=[self.ids[row] for row in rows.tolist()],
            actual_timestamps_us=times_us,
            actual_label=CategoricalColumn(list(LABELS), labels),
        )

    def batches(self, cuts: int) -> list[Columns]:
        """Everything in batches of this size, predictions first."""
        rows, times_us, labels = self.outcomes()
        found: list[Columns] = []
        for at in range(0, len(self.ids), cuts):
            found.append(self.predictions(np.arange(at, min(at + cuts, len(self.ids)))))
        for at in range(0, len(rows), cuts):
            part = slice(at, at + cuts)
            found.append(self.outcome_columns(rows[part], times_us[part], labels[part]))
        return found


def final_windows(spec: DeploymentSpec, baseline: Baseline, batches: Sequence[Columns]) -> tuple[Records, Any]:
    """The final windows after some messages, and one of their records for its layout."""
    topics = Topics("bench.")
    partition = Partition(0, topics)
    partition.put_spec_in_force(spec)
    partition.put_baseline_in_force(baseline)
    now_ms = int(max(_time_us(columns).max() for columns in batches)) // 1000
    for columns in batches:
        topic = topics.predictions if isinstance(columns, PredictionColumns) else topics.outcomes
        message = Message(topic, 0, partition.position[topic], now_ms, record_key("d"), b"")
        partition.apply(Decoded(message, columns))
    partition.end("d")
    _, emissions, _ = partition.take()
    final = [
        emission.record
        for emission in emissions
        if emission.record_name == "PerformanceWindow" and emission.record["status"] == "final"
    ]
    found = {
        (record["window_start_us"], part["segment"]): (part["counts"], part["sums"])
        for record in final
        for part in record["parts"]
    }
    return found, final[0]


def _time_us(columns: Columns) -> Integers:
    return columns.timestamps_us if isinstance(columns, PredictionColumns) else columns.actual_timestamps_us


def disturbed(rng: np.random.Generator, rows: Rows) -> list[Columns]:
    """The same in batches of another size, in any order, a tenth of them twice."""
    batches = rows.batches(int(rng.integers(37, 211)))
    batches += [batches[at] for at in rng.choice(len(batches), len(batches) // 10, replace=False)]
    return [batches[at] for at in rng.permutation(len(batches))]


def measure(seed: int, quick: bool) -> list[Figure]:
    """Numbers that differ between orders, and the largest difference from scikit-learn."""
    rng = np.random.default_rng([seed, 7])
    size, times = (4_000, 2) if quick else (20_000, 6)
    spec = DeploymentSpec(
        "d",
        "m",
        BINARY,
        (FeatureSpec("x", NUMERIC),),
        positive_class=LABELS[1],
        outcomes=OutcomeSpec(horizon_ms=2 * 86_400_000, window_ms=6 * 3_600_000, lateness_ms=30 * 86_400_000),
        segments=(SegmentSpec("group", "group"),),
    )
    reference = Rows(rng, REFERENCE_ROWS, START_US - 100 * 24 * HOUR_US, "r")
    batches = reference.batches(REFERENCE_ROWS)
    baseline = build_baseline(
        spec,
        "1",
        [columns for columns in batches if isinstance(columns, PredictionColumns)],
        source="bench",
        outcomes=[columns for columns in batches if isinstance(columns, OutcomeColumns)],
        outcomes_until_us=START_US,
    )
    rows = Rows(rng, size, START_US, "p")
    in_order, record = final_windows(spec, baseline, rows.batches(500))
    different = 0
    for _ in range(times):
        other, _ = final_windows(spec, baseline, disturbed(rng, rows))
        different += sum(other.get(key) != numbers for key, numbers in in_order.items()) + len(other) - len(in_order)
    layout = PerformanceLayout(
        record["task"],
        tuple(record["classes"]),
        np.array(record["score_edges"]),
        np.array(record["age_edges_us"], np.int64),
    )
    exact, binned = _differences(layout, in_order, rows)
    note = f"{len(in_order)} windows and parts, {size:,} predictions, {times} other orders"
    return [
        figure("invariance: windows whose final numbers depend on the order", different, "", at_most=0, note=note),
        figure("invariance: exact metrics less scikit-learn's", exact, "", at_most=1e-7, note=", ".join(EXACT)),
        figure(
            "invariance: binned metrics less scikit-learn's, over the stated error",
            binned,
            "times",
            at_most=1.0,
            note=", ".join(BINNED),
        ),
    ]


def _differences(layout: PerformanceLayout, found: Records, rows: Rows) -> tuple[float, float]:
    window_us = 6 * HOUR_US
    starts, label = rows.times_us // window_us * window_us, (rows.score >= 0.5).astype(int)
    exact, binned = 0.0, 0.0
    for (start_us, part), (counts, sums) in found.items():
        inside = (starts == start_us) & rows.known
        if part != ALL_TRAFFIC:
            inside &= rows.group == GROUPS.index(part.rpartition("=")[2])
        ours = metrics(layout, from_fields(layout, counts, sums))
        if ours["accuracy"].rows != inside.sum():
            raise AssertionError(f"{ours['accuracy'].rows} pairs in {part!r} from {start_us}, not {inside.sum()}")
        raw = rows.actual[inside], label[inside], rows.score[inside]
        for name, theirs in EXACT.items():
            exact = max(exact, abs((ours[name].value or 0.0) - theirs(*raw)))
        for name, theirs in BINNED.items():
            difference = abs((ours[name].value or 0.0) - theirs(*raw))
            binned = max(binned, difference / max(ours[name].error, 1e-12))
    return exact, binned
