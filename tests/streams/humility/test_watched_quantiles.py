"""Rules that look at the adaptive quantile are acted on by it, and watched by the one that was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.events import PredictionColumns
from driftline.humility.fit import ONE_MINUS_PROBABILITY, CoverageStart, HumilityFit
from driftline.humility.policy import Policy
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Rule
from streams.baseline import Baseline
from streams.humility.judge import Judge, policy_of
from streams.specification import BINARY, DeploymentSpec, FeatureSpec

ROWS = 400
START, MOVED = 0.7, 0.8
UNSURE = Rule("unsure", Condition("uncertain_prediction", measure="set_size"), "refuse")
LOW = Rule("low", Condition("uncertain_prediction", measure="confidence", low=0.6), "refuse")


def policy(*rules: Rule) -> Policy:
    asked = HumilitySpec(rules, Guarantees(coverage=0.9))
    spec = DeploymentSpec("d", "m", BINARY, (FeatureSpec("x", "numeric"),), positive_class="1", humility=asked)
    fit = HumilityFit(
        asked.digest(), "rows", ROWS, ROWS // 2, 0, 1, 0.95,
        coverage=0.9, coverage_score=ONE_MINUS_PROBABILITY, score_range=1.0, step=0.01,
        coverage_starts=(CoverageStart("", ROWS, START),),
    )  # fmt: skip
    found = policy_of(spec, Baseline("d", "1", ROWS, (), humility=fit))
    assert found is not None
    return found


def rows() -> PredictionColumns:
    scores = (np.arange(ROWS) + 0.5) / ROWS
    return PredictionColumns(
        "d", "1", [str(row) for row in range(ROWS)], np.arange(ROWS, dtype=np.int64), prediction=scores
    )  # fmt: skip


def test_a_tracker_that_moved_changes_what_is_done_and_not_what_is_watched() -> None:
    judge = Judge.by(policy(UNSURE))
    moved, start = judge.judge(rows(), {"": MOVED}), judge.judge(rows(), {"": START})
    assert moved.fired.sum() == pytest.approx((2 * MOVED - 1) * ROWS)
    assert start.fired.sum() == pytest.approx((2 * START - 1) * ROWS)
    for judged in (moved, start):
        assert judged.watched_fired.tolist() == start.fired.tolist()
        assert judged.watched_actions.tolist() == start.actions.tolist()


def test_rules_that_do_not_look_at_it_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decide = Policy.decide_columns

    def counted(self: Policy, *given: object, **named: object) -> object:
        asked.append(1)
        return decide(self, *given, **named)  # type: ignore[arg-type]  # as it was called

    judge = Judge.by(policy(LOW))
    monkeypatch.setattr(Policy, "decide_columns", counted)
    judged = judge.judge(rows(), {"": MOVED})
    assert len(asked) == 1
    assert judged.watched_fired.tolist() == judged.fired.tolist()
