"""A law of predictions and late outcomes, known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from streams.baseline import Baseline, BaselineSegment, OutcomeReference
from streams.counting import blocks_of
from streams.monitor import Alarm, Monitors
from streams.outcomes.ages import age_bucket, age_edges
from streams.outcomes.evidence import OutcomeCounter, learn_streams
from streams.outcomes.reading import performance_layout
from streams.outcomes.reference import sums_by_age
from streams.outcomes.scores import learn_score_buckets
from streams.specification import BINARY, CONCEPT_DRIFT, DeploymentSpec, FalseAlarmBudget, OutcomeSpec
from streams.statistics.performance.pairs import Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import count_pairs

HOUR_US = 3_600_000_000
STEP = 100
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Law:
    """A calibrated score with logits N(-1, 1.3^2); a bad outcome becomes known later than a good one."""

    def spec(self, c: float = 2_400.0, task: str = BINARY, **outcomes: Any) -> DeploymentSpec:
        """A deployment whose monitor of concept drift alarms at odds of c."""
        expected = OutcomeSpec(horizon_ms=86_400_000, **outcomes)
        positive = {"positive_class": "1"} if task == BINARY else {}
        spec = DeploymentSpec("d", "m", task, (), outcomes=expected, **positive)
        starts = spec.false_alarms.per_ms / spec.start_slot_ms
        budget = FalseAlarmBudget(count=starts / (c * spec.monitor_share(CONCEPT_DRIFT)))
        return dataclasses.replace(spec, false_alarms=budget)

    def draw(
        self,
        rng: np.random.Generator,
        rows: int,
        *,
        relation: Callable[[Floats], Floats] = expit,
        inputs: float = 0.0,
        odds: float = 0.0,
        slower: float = 1.0,
        weights: float = 1.0,
    ) -> Pairs:
        """Pairs in the order in which their outcomes became known.

        ``relation``: from the score's logit to the probability of a bad outcome. ``inputs``: how much logits rise.
        ``odds``: by how much the logarithm of the odds of a bad outcome rises, each outcome's scores being as they
        were. ``slower``: factor of all ages.
        """
        z = 1.3 * rng.normal(size=rows if not odds else 6 * rows) - 1 + inputs
        bad = rng.random(len(z)) < relation(z)
        if odds:
            keep = rng.random(len(z)) < np.where(bad, np.exp(min(odds, 0)), np.exp(-max(odds, 0)))
            z, bad = z[keep][:rows], bad[keep][:rows]
        hours = slower * rng.gamma(4.0, 0.5, rows) * (1 + 0.6 * bad)
        times = np.sort(rng.random(rows)) * rows * HOUR_US / 60
        ages = (hours * HOUR_US).astype(np.int64)
        order = np.argsort(times + ages, kind="stable")
        scores = expit(z[order])
        return Pairs(
            Predicted(scores[:, None], (scores >= 0.5).astype(np.int64)),
            bad[order].astype(np.float64),
            times[order].astype(np.int64),
            ages[order],
            np.full(rows, weights),
            np.full(rows, 255, np.uint8),
            rng.random(rows),
        )

    def layout(self, spec: DeploymentSpec, pairs: Pairs, classes: tuple[str, ...] = ("0", "1")) -> PerformanceLayout:
        """The layout of a reference."""
        found = performance_layout(spec, self._reference(pairs, classes))
        assert found is not None
        return found

    @staticmethod
    def _reference(pairs: Pairs, classes: tuple[str, ...]) -> OutcomeReference:
        edges, nothing = age_edges(pairs.ages_us), np.zeros(0)
        bins = np.linspace(0.01, 0.99, 99)
        rows = pairs.rows
        return OutcomeReference(86_400_000, rows, rows, edges, 0, classes, bins, nothing, nothing, {}, {}, {})

    def learn(
        self,
        spec: DeploymentSpec,
        pairs: Pairs,
        classes: tuple[str, ...] = ("0", "1"),
        segments: tuple[BaselineSegment, ...] = (),
    ) -> Baseline:
        """The baseline of a reference's pairs."""
        layout, outcomes = self.layout(spec, pairs, classes), self._reference(pairs, classes)
        bucket = age_bucket(outcomes.age_edges_us, pairs.ages_us)
        counts, sums = sums_by_age(count_pairs(layout, pairs, bucket, layout.ages))
        buckets = learn_score_buckets(layout, pairs.predicted, bucket)
        outcomes = dataclasses.replace(outcomes, score_buckets=buckets, counts=counts, sums=sums)
        streams = learn_streams(spec, layout, outcomes, pairs, segments)
        return Baseline("d", "1", pairs.rows, tuple(streams), segments=segments, outcomes=outcomes)

    @cache  # noqa: B019 one law lives as long as the tests
    def baseline(self, seed: int = 1, rows: int = 20_000) -> Baseline:
        """The baseline of an unchanged reference."""
        return self.learn(self.spec(), self.draw(np.random.default_rng(seed), rows))

    def alarms(
        self,
        spec: DeploymentSpec,
        baseline: Baseline,
        *parts: Pairs,
        anew: bool = False,
        monitors: Monitors | None = None,
    ) -> list[tuple[int, Alarm, Monitors]]:
        """Alarms of concept drift while pairs come, a hundred at a time, each the first of a start slot.

        ``anew``: the monitors begin anew after each. With each the number of steps before it.
        """
        counter = OutcomeCounter(spec, baseline)
        monitors = monitors or Monitors(spec, baseline, 0, 0)
        found, step = [], 0
        for part in parts:
            for first in range(0, part.rows - STEP + 1, STEP):
                monitors.start(step, step, 0.0)
                monitors.count_blocks(counter.count(part.take(np.arange(first, first + STEP))))
                step += 1
                for alarm in monitors.alarms(step):
                    found.append((step, alarm, monitors))
                    if anew:
                        monitors = Monitors(spec, baseline, step, step)
        return found

    @staticmethod
    def names(alarm: Alarm, baseline: Baseline) -> set[str]:
        """The streams that caused an alarm."""
        blocks = list(blocks_of(baseline.streams).values())
        return {blocks[cause.block][cause.index].name for cause in alarm.causes}


@pytest.fixture(scope="session")
def law() -> Law:
    """The law."""
    return Law()
