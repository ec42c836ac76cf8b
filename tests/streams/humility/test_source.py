"""The source of a policy makes the same policy again."""

from __future__ import annotations

import json
from typing import Any

from driftline.humility.policy import Policy
from streams.baseline import Baseline
from streams.humility.source import policy_from, policy_source
from streams.outcomes.rulebook import Rulebook, rulebook_of
from streams.specification import DeploymentSpec


def test_a_policy_made_again_has_the_digest_it_had_and_decides_alike(
    fitted: tuple[DeploymentSpec, Baseline], humble: Any
) -> None:
    spec, baseline = fitted
    policy = Policy.of(spec.to_record(), baseline.to_record())
    again = policy_from(policy_source(spec, baseline))
    assert policy is not None and again is not None
    assert again.digest == policy.digest and again.groups == policy.groups
    rows = humble.rows(500, seed=3)
    one, other = policy.decide_columns(rows), again.decide_columns(rows)
    assert (one.actions == other.actions).all() and (one.fired == other.fired).all() and one.fired.any()
    assert len(policy_source(spec, baseline)) < 20_000, "what a baseline's streams are is none of its business"


def test_a_rulebook_comes_back_from_the_journal(fitted: tuple[DeploymentSpec, Baseline]) -> None:
    spec, baseline = fitted
    policy = Policy.of(spec.to_record(), baseline.to_record())
    assert policy is not None
    rules = rulebook_of(policy, baseline)
    again = Rulebook.from_json(json.loads(json.dumps(rules.to_json())))
    assert again.to_json() == rules.to_json() and repr(again) == repr(rules)
    assert rules.policy == policy.digest and len(rules.static) == len(rules.groups)
