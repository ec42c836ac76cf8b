"""Whether an alarm says rightly what has moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from streams import state
from streams.alerts import diagnosis_of
from streams.baseline import OutcomeReference
from streams.monitor import Monitors
from streams.outcomes.diagnosis import diagnose
from streams.outcomes.evidence import (
    CALIBRATION,
    INPUTS,
    LOSS,
    OUTCOME,
    OUTCOME_RATE,
    RELATION,
    RESIDUAL,
    OutcomeCounter,
)
from streams.outcomes.joint import JOINT, JointTable
from streams.specification import BINARY, MULTICLASS, REGRESSION

CASES: list[tuple[str, str, Mapping[str, Any]]] = [
    ("other inputs", INPUTS, {"inputs": 0.8}),
    ("easier inputs", INPUTS, {"inputs": -0.8}),
    ("more bad outcomes", OUTCOME_RATE, {"odds": 1.0}),
    ("fewer bad outcomes", OUTCOME_RATE, {"odds": -0.8}),
    ("flipped", RELATION, {"relation": lambda z: 1 - expit(z)}),
    ("three in ten flipped", RELATION, {"relation": lambda z: 0.7 * expit(z) + 0.3 * expit(-z)}),
    ("every score means more", RELATION, {"relation": lambda z: expit(z + 1)}),
    ("scores mean less", RELATION, {"relation": lambda z: expit(0.3 * z - 0.7)}),
    ("easier inputs, and another relation", RELATION, {"relation": lambda z: expit(z + 1), "inputs": -0.8}),
]


@pytest.mark.parametrize(("kind", "change"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_nine_alarms_in_ten_say_rightly_what_has_moved(law: Any, kind: str, change: Mapping[str, Any]) -> None:
    runs, spec = 10, law.spec()
    told = []
    for seed in range(runs):
        rng = np.random.default_rng([seed, 7])
        baseline = law.baseline(1 + seed % 2)
        found = law.alarms(spec, baseline, law.draw(rng, 1_000), law.draw(rng, 6_000, **change))
        assert found, seed
        _, alarm, monitors = found[0]
        diagnosis = diagnosis_of(spec, monitors, alarm)
        assert diagnosis.probability is not None
        assert 0.3 < diagnosis.probability <= 1
        told.append(diagnosis.kind)
    assert told.count(kind) >= 0.9 * runs, told


def test_inputs_that_move_slightly_raise_no_alarm_where_scores_are_calibrated(law: Any) -> None:
    rng = np.random.default_rng(3)
    assert not law.alarms(law.spec(), law.baseline(), law.draw(rng, 15_000, inputs=0.15))


def test_words_name_the_figures_and_how_sure_they_are(law: Any) -> None:
    rng = np.random.default_rng(5)
    pairs = law.draw(rng, 4_000, relation=lambda z: expit(z + 1))
    ((_, alarm, monitors), *_) = law.alarms(law.spec(), law.baseline(), pairs)
    diagnosis = diagnosis_of(law.spec(), monitors, alarm)
    rows = int(alarm.joint_counts.sum())
    rate = 100 * float(alarm.joint_counts.reshape(-1, 2)[:, 1].sum()) / rows
    assert f"of {rows:,} outcomes since the change {rate:.0f} in 100 were of the positive class" in diagnosis.reason
    assert diagnosis.reason.startswith("at equal predictions outcomes are others")
    assert diagnosis.reason.endswith("sure")


def test_the_table_holds_each_pair_with_a_score_once(law: Any) -> None:
    baseline, pairs = law.baseline(), law.draw(np.random.default_rng(2), 500)
    pairs.predicted.scores[::7] = np.nan
    table = JointTable.of(BINARY, baseline.outcomes)
    counts = OutcomeCounter(law.spec(), baseline).count(pairs)[JOINT].reshape(table.reference.shape)
    naive = np.zeros_like(counts)
    for score, actual, age in zip(pairs.predicted.scores[:, 0], pairs.actual, pairs.ages_us, strict=True):
        if not np.isnan(score):
            group = table.group_of[sum(score >= edge for edge in baseline.outcomes.score_edges)]
            naive[sum(age > edge for edge in baseline.outcomes.age_edges_us), group, int(actual)] += 1
    assert np.array_equal(counts, naive)
    assert table.reference.sum() == baseline.outcomes.resolved


def test_a_diagnosis_is_the_same_after_the_state_was_written_and_read(law: Any) -> None:
    spec, baseline, rng = law.spec(), law.baseline(), np.random.default_rng(8)
    before, after = law.draw(rng, 3_000), law.draw(rng, 4_000, odds=1.0)
    monitors = Monitors(spec, baseline, 0, 0)
    assert not law.alarms(spec, baseline, before, monitors=monitors)
    copy = state.restore_monitors(spec, baseline, state.evidence_fields(monitors), state.slot_fields(monitors))
    told = []
    for each in (monitors, copy):
        ((step, alarm, _), *_) = law.alarms(spec, baseline, after, monitors=each)
        told.append((step, alarm.joint_counts.tolist(), diagnosis_of(spec, each, alarm)))
    assert told[0] == told[1]


def test_a_journal_without_the_table_is_read_as_one_that_has_seen_nothing(law: Any) -> None:
    spec, baseline = law.spec(), law.baseline()
    monitors = Monitors(spec, baseline, 0, 0)
    law.alarms(spec, baseline, law.draw(np.random.default_rng(8), 3_000), monitors=monitors)
    evidence, slot = state.evidence_fields(monitors), state.slot_fields(monitors)
    del evidence["past_joint"], slot["joint"]
    copy = state.restore_monitors(spec, baseline, evidence, slot)
    assert copy.joint_counts.sum() == 0
    copy.start(10**9, 10**9, 0.0)
    assert copy.history.blocks


def confusion(law: np.ndarray[Any, Any], rows: int) -> OutcomeReference:
    nothing = np.zeros(0)
    counts = {"confusion": (rows * law).round().astype(np.int64).reshape(1, -1)}
    return OutcomeReference(
        1, rows, rows, np.zeros(0, np.int64), 0, ("a", "b", "c"), nothing, nothing, nothing, {}, counts, {}
    )


LAW = np.array([[0.30, 0.03, 0.02], [0.04, 0.25, 0.06], [0.01, 0.04, 0.25]])
"""Predicted by actual."""


def other_classes(kind: str) -> np.ndarray[Any, Any]:
    if kind == INPUTS:
        return LAW * np.array([0.4, 1.0, 2.0])[:, None]
    if kind == OUTCOME_RATE:
        return LAW * np.array([0.4, 1.0, 2.0])[None, :]
    return LAW[:, [0, 2, 1]]


@pytest.mark.parametrize("kind", [INPUTS, OUTCOME_RATE, RELATION])
def test_several_classes_are_told_apart_by_what_was_predicted(kind: str) -> None:
    table = JointTable.of(MULTICLASS, confusion(LAW, 10_000))
    p = other_classes(kind).ravel()
    told = []
    for seed in range(10):
        counts = np.random.default_rng(seed).multinomial(600, p / p.sum())
        told.append(diagnose([LOSS], False, table, counts).kind)
    assert told.count(kind) >= 9, told


def test_calibration_among_the_causes_rules_out_that_inputs_alone_moved() -> None:
    table = JointTable.of(MULTICLASS, confusion(LAW, 10_000))
    p = other_classes(INPUTS).ravel()
    counts = (3_000 * p / p.sum()).astype(np.int64)
    assert diagnose([LOSS], False, table, counts).kind == INPUTS
    assert diagnose([LOSS, CALIBRATION], False, table, counts).kind != INPUTS


def test_a_relation_that_moved_within_the_margin_is_not_blamed(law: Any) -> None:
    table = JointTable.of(BINARY, law.baseline(1).outcomes)
    pairs = law.draw(np.random.default_rng(1), 60_000, inputs=0.8, relation=lambda z: expit(z + 0.1))
    counts = OutcomeCounter(law.spec(), law.baseline(1)).count(pairs)[JOINT]
    big = dataclasses.replace(table, reference=table.reference * 100)
    assert diagnose([LOSS], False, big, counts, margin_tv=0.0).kind == RELATION
    assert diagnose([LOSS], False, big, counts, margin_tv=0.05).kind == INPUTS


@pytest.mark.parametrize(
    ("causes", "inputs_moved", "kind"),
    [
        ([RESIDUAL, LOSS], True, RELATION),
        ([LOSS], True, INPUTS),
        ([LOSS, OUTCOME], True, INPUTS),
        ([OUTCOME], True, OUTCOME_RATE),
        ([LOSS, OUTCOME], False, OUTCOME_RATE),
        ([LOSS], False, ""),
    ],
)
def test_numbers_are_diagnosed_by_their_causes(causes: list[str], inputs_moved: bool, kind: str) -> None:
    assert JointTable.of(REGRESSION, confusion(np.zeros((3, 3)), 0)) is None
    diagnosis = diagnose(causes, inputs_moved)
    assert (diagnosis.kind, diagnosis.probability) == (kind, None)
    assert bool(diagnosis.reason) == bool(kind)


def test_a_few_pairs_are_no_table() -> None:
    table = JointTable.of(MULTICLASS, confusion(LAW, 10_000))
    counts = np.zeros(9, np.int64)
    counts[0] = 20
    assert diagnose([LOSS], False, table, counts).probability is None


@settings(max_examples=12, deadline=None)
@given(
    counts=st.lists(st.integers(0, 10**6), min_size=9, max_size=9),
    causes=st.sets(st.sampled_from([LOSS, OUTCOME, CALIBRATION])),
    moved=st.booleans(),
)
def test_any_counts_have_a_diagnosis(counts: list[int], causes: set[str], moved: bool) -> None:
    """Classes that vanish, or that the reference never saw where they are now, included."""
    rare = LAW.copy()
    rare[0] = [0.35, 0, 0]
    table = JointTable.of(MULTICLASS, confusion(rare, 5_000))
    diagnosis = diagnose(causes, moved, table, np.array(counts), independence=0.3, margin_tv=0.05)
    if sum(counts) >= 50:
        assert diagnosis.kind in (INPUTS, OUTCOME_RATE, RELATION)
        assert diagnosis.probability is not None
        assert 0 < diagnosis.probability <= 1
