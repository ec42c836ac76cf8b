"""The monitors of outcomes are tried on the outcomes of their own reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import signal

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from streams.arming import is_refused
from streams.baseline import LABELS_ROLE, OUTCOME_ROLE, Baseline
from streams.outcomes.ages import LabelAges
from streams.outcomes.arming import _labels_in_steps, _outcomes_in_steps, arm_outcomes
from streams.outcomes.cohorts import KNOWN, OPEN
from streams.outcomes.reference import learn_outcomes
from streams.reference import build_baseline
from streams.specification import BINARY, CONCEPT_DRIFT, FAIRNESS, LABELS, DeploymentSpec, OutcomeSpec
from streams.statistics.performance.pairs import Pairs

HOUR_US = 3_600_000_000
ROWS = 6_000
SPEC = DeploymentSpec("d", "m", BINARY, (), positive_class="1", outcomes=OutcomeSpec(horizon_ms=86_400_000))


def swinging(pairs: Pairs, strength: float) -> Pairs:
    """The same with outcomes that are more often bad for a while, then less often."""
    rng = np.random.default_rng(1)
    swing = signal.lfilter([1], [1, -0.995], rng.normal(size=pairs.rows)) * np.sqrt(1 - 0.995**2)
    score = pairs.predicted.scores[:, 0]
    bad = rng.random(pairs.rows) < 1 / (1 + np.exp(-np.log(score / (1 - score)) - strength * swing))
    return dataclasses.replace(pairs, actual=bad.astype(np.float64))


def tempering(baseline: Baseline) -> dict[str, float]:
    return {s.name: float(np.median(s.tempering)) for s in baseline.streams if s.role == OUTCOME_ROLE}


def test_the_steps_hold_every_pair_once_in_order_of_arrival(law: Any) -> None:
    spec, pairs = law.spec(), law.draw(np.random.default_rng(1), 5_000)
    baseline = law.learn(spec, pairs)
    blocks, counts = _outcomes_in_steps(spec, baseline, pairs)
    for block, steps in zip(blocks, counts, strict=True):
        rows = steps.sum(axis=2)
        assert rows.max() - rows.min() <= 1, "equally many in each"
        for at, stream in enumerate(block):
            assert steps[:, at].sum() == 5_000
            if stream.name != "loss_tail":  # whose counts are nominal
                assert np.array_equal(steps[:, at].sum(axis=0), stream.counts)


def test_independent_outcomes_are_armed_as_they_are(law: Any) -> None:
    spec, pairs = law.spec(), law.draw(np.random.default_rng(1), 10_000)
    baseline = law.learn(spec, pairs)
    armed = arm_outcomes(spec, baseline, pairs, np.zeros(0, np.int64))
    assert [item.monitor for item in armed.arming] == [CONCEPT_DRIFT]
    assert armed.arming[0].alarms <= armed.arming[0].bound
    assert armed.digest == armed.content_digest()
    assert not any(is_refused(stream) for stream in armed.streams)
    assert armed.digest == arm_outcomes(spec, baseline, pairs, np.zeros(0, np.int64)).digest, "the same every time"


def test_outcomes_that_swing_count_for_less(law: Any) -> None:
    """What dependence measured and arming widened, together: the reference itself raises no more than allowed."""
    spec, plain = law.spec(), law.draw(np.random.default_rng(1), 10_000)
    swung = swinging(plain, 1.0)
    armed = {}
    for name, pairs in (("plain", plain), ("swung", swung)):
        armed[name] = arm_outcomes(spec, law.learn(spec, pairs), pairs, np.zeros(0, np.int64))
        assert armed[name].arming[0].alarms <= armed[name].arming[0].bound
    before, after = tempering(armed["plain"]), tempering(armed["swung"])
    refused = {s.name for s in armed["swung"].streams if is_refused(s)}
    assert all(name in refused or after[name] < 0.5 * before[name] for name in ("calibration", "outcome"))


def test_streams_without_tempering_are_widened_or_refused(law: Any) -> None:
    spec = law.spec()
    pairs = swinging(law.draw(np.random.default_rng(1), 10_000), 2.0)
    baseline = law.learn(spec, pairs)
    careless = dataclasses.replace(
        baseline,
        streams=tuple(
            dataclasses.replace(s, tempering=np.ones_like(s.tempering), margin_tv=0.0) for s in baseline.streams
        ),
    )
    armed = arm_outcomes(spec, careless, pairs, np.zeros(0, np.int64))
    assert armed.arming[0].widened > 0
    widened = [s for s, old in zip(armed.streams, careless.streams, strict=True) if s != old]
    assert any(is_refused(s) or s.tempering.max() < 1 for s in widened)


@pytest.fixture(scope="module")
def reference() -> tuple[PredictionColumns, OutcomeColumns]:
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(0, 400 * HOUR_US, ROWS)) + 10**15
    ids = [str(at) for at in range(ROWS)]
    score = rng.random(ROWS)
    bad = rng.random(ROWS) < score
    ages = (rng.gamma(4.0, 0.5, ROWS) * (1 + 0.6 * bad) * HOUR_US).astype(np.int64)
    known = np.flatnonzero(rng.random(ROWS) < 0.95)
    labels = CategoricalColumn(["0", "1"], bad[known].astype(np.int32))
    outcomes = OutcomeColumns("d", [ids[at] for at in known.tolist()], (times + ages)[known], actual_label=labels)
    return PredictionColumns("d", "1", ids, times, {}, prediction=score), outcomes


def test_cohorts_of_labels_are_those_counted_one_by_one(reference: tuple[PredictionColumns, OutcomeColumns]) -> None:
    predictions, outcomes = reference
    learnt = learn_outcomes(SPEC, Baseline("d", "1", 0, ()), [predictions], [outcomes])
    streams = [s for s in learnt.streams if s.role == LABELS_ROLE]
    baseline = Baseline("d", "1", ROWS, learnt.streams, derived=learnt.derived, outcomes=learnt.reference)
    counts = _labels_in_steps(baseline, learnt.known_us, len(streams))
    ages = LabelAges.from_derived(learnt.derived[0]).ages_us.tolist()
    naive = np.zeros_like(counts)
    for at, known in enumerate(learnt.known_us.tolist()):
        late = np.inf if known < 0 else known
        for j, age in enumerate(ages):
            if late <= age:
                naive[at * len(counts) // len(learnt.known_us), j, KNOWN] += 1
                break
            naive[at * len(counts) // len(learnt.known_us), j, OPEN] += 1
    assert len(streams) == len(ages) >= 3
    assert np.array_equal(counts, naive)
    for j, stream in enumerate(streams):
        assert np.array_equal(counts[:, j].sum(axis=0), stream.counts)


def test_a_baseline_with_outcomes_has_all_its_monitors_armed(
    reference: tuple[PredictionColumns, OutcomeColumns],
) -> None:
    predictions, outcomes = reference
    built = build_baseline(SPEC, "1", [predictions], source="t", outcomes=[outcomes])
    armed = {item.monitor: item for item in built.arming}
    assert {CONCEPT_DRIFT, LABELS} <= armed.keys()
    assert FAIRNESS not in armed, "no groups are declared"
    assert all(item.alarms <= item.bound for item in armed.values())
    assert len(armed) == len(built.arming), "each once"
