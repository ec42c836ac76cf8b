"""The fleet's budget is never handed out twice."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deployments.budget import capacity_for, fleet_capacity, handed_out, shared, weight_of
from services.deployments.errors import DeploymentError
from streams.specification import RISK_WEIGHTS, DeploymentSpec, FalseAlarmBudget

TIERS = sorted(RISK_WEIGHTS)


def spec(
    name: str, scope: str = "fleet", count: float = 1.0, risk: str = "medium", share: float = 1.0
) -> DeploymentSpec:
    budget = FalseAlarmBudget(count=count, scope=scope, share=share)
    return DeploymentSpec(name, "m", "other", (), false_alarms=budget, risk=risk)


def fleet_of(current: dict[str, DeploymentSpec]) -> list[DeploymentSpec]:
    return [s for s in current.values() if s.false_alarms.scope == "fleet"]


names = st.integers(0, 20)
applies = st.lists(
    st.tuples(names, st.sampled_from(["fleet", "fleet", "deployment"]), st.sampled_from(TIERS)),
    min_size=1,
    max_size=8,
    unique_by=lambda step: step[0],
)
steps = st.lists(applies | st.sets(names, max_size=5), max_size=10)


def before_there_were_tiers(deployments: int) -> dict[str, DeploymentSpec]:
    """What the rule without tiers left on the topic: 1 / (next power of two), everybody of the medium tier."""
    share = 2.0 ** -math.ceil(math.log2(deployments)) if deployments else 1.0
    return {f"d{i}": spec(f"d{i}", share=share) for i in range(deployments)}


@given(steps, st.integers(0, 12))
def test_the_shares_of_the_fleet_never_add_up_to_more_than_one_at_any_moment(
    sequence: list[list[tuple[int, str, str]] | set[int]], already_there: int
) -> None:
    current = before_there_were_tiers(already_there)
    for step in sequence:
        capacity = fleet_capacity(current.values())
        if isinstance(step, set):
            current = {name: s for name, s in current.items() if name not in {f"d{i}" for i in step}}
            assert handed_out(current.values()) <= 1.0
            continue
        for published in shared(current, [spec(f"d{number}", scope, risk=risk) for number, scope, risk in step]):
            current[published.deployment_id] = published
            assert handed_out(current.values()) <= 1.0
        for number, scope, risk in step:
            applied = current[f"d{number}"]
            assert (applied.false_alarms.scope, applied.risk) == (scope, risk)
        fleet = fleet_of(current)
        per_weight = {s.false_alarms.share / RISK_WEIGHTS[s.risk] for s in fleet}
        assert len(per_weight) <= 1, "everybody has its weight's part of one capacity"
        assert not fleet or fleet_capacity(fleet) >= capacity
        assert all(s.false_alarms.share == 1.0 for s in current.values() if s.false_alarms.scope == "deployment")


@given(st.lists(st.sampled_from(TIERS), min_size=1, max_size=60))
def test_a_growing_fleet_uses_more_than_half_of_its_promise(risks: list[str]) -> None:
    current: dict[str, DeploymentSpec] = {}
    for number, risk in enumerate(risks):
        current |= {s.deployment_id: s for s in shared(current, [spec(f"d{number}", risk=risk)])}
        assert 0.5 < handed_out(current.values()) <= 1.0


@given(st.integers(1, 200))
def test_shares_given_before_there_were_tiers_stay_as_they_are(deployments: int) -> None:
    current = before_there_were_tiers(deployments)
    assert [s for s in shared(current, [current["d0"]]) if s != current["d0"]] == []
    newcomer = {s.deployment_id: s for s in shared(current, [spec("new")])}
    assert newcomer["new"].false_alarms.share == 2.0 ** -math.ceil(math.log2(deployments + 1))


def test_high_gets_four_times_and_medium_twice_as_much_as_low() -> None:
    given_out = {s.risk: s.false_alarms.share for s in shared({}, [spec(tier, risk=tier) for tier in TIERS])}
    assert given_out == {"high": 0.5, "medium": 0.25, "low": 0.125}


def test_shares_that_were_handed_out_twice_are_mended_by_the_next_apply() -> None:
    current = {name: spec(name, share=0.8) for name in ("a", "b")}
    assert handed_out(current.values()) == 1.6
    mended = {s.deployment_id: s for s in shared(current, [spec("a")])}
    assert handed_out((current | mended).values()) == 1.0


def test_the_others_come_first_when_their_shares_shrink_and_only_then() -> None:
    current = {"a": shared({}, [spec("a")])[0]}
    assert current["a"].false_alarms.share == 1.0
    grown = shared(current, [spec("b")])
    assert [(s.deployment_id, s.false_alarms.share) for s in grown] == [("a", 0.5), ("b", 0.5)]
    current = {s.deployment_id: s for s in grown}
    grown = shared(current, [spec("c")])
    assert [s.deployment_id for s in grown] == ["a", "b", "c"]
    current = {s.deployment_id: s for s in grown}
    assert [(s.deployment_id, s.false_alarms.share) for s in shared(current, [spec("d")])] == [("d", 0.25)]


def test_a_tier_that_rises_takes_from_room_that_is_free_before_it_takes_from_others() -> None:
    current = {s.deployment_id: s for s in shared({}, [spec("a"), spec("b", risk="low")])}
    assert [current[name].false_alarms.share for name in "ab"] == [0.5, 0.25]
    risen = shared(current, [spec("b", risk="medium")])
    assert [(s.deployment_id, s.false_alarms.share) for s in risen] == [("b", 0.5)]
    current |= {s.deployment_id: s for s in risen}
    assert [(s.deployment_id, s.false_alarms.share) for s in shared(current, [spec("b", risk="high")])] == [
        ("a", 0.25),
        ("b", 0.5),
    ]


def test_a_deployment_with_a_budget_of_its_own_leaves_the_fleet_alone() -> None:
    current = {"a": shared({}, [spec("a")])[0]}
    assert [s.deployment_id for s in shared(current, [spec("b", "deployment", risk="high")])] == ["b"]
    assert weight_of(spec("b", "deployment", risk="high")) == 0


def test_two_different_promises_for_one_fleet_are_refused() -> None:
    current = {"a": shared({}, [spec("a")])[0]}
    with pytest.raises(DeploymentError, match=r"different ones: 1 per 30d: a; 2 per 30d: b"):
        shared(current, [spec("b", count=2)])
    both = shared(current, [spec("a", count=2), spec("b", count=2)])
    assert {s.deployment_id for s in both} == {"a", "b"}


@given(st.integers(1, 5000))
def test_the_capacity_is_the_next_power_of_two(weight: int) -> None:
    capacity = capacity_for(weight)
    assert capacity >= weight and capacity & (capacity - 1) == 0 and capacity // 2 < weight


def test_other_fields_are_left_as_they_are() -> None:
    given_spec = dataclasses.replace(spec("a"), description="x", revision=7)
    assert shared({}, [given_spec])[0] == given_spec


def alarms_and_bound(thresholds: list[float], *, evidence_falls: bool) -> tuple[float, float]:
    """Mean number of alarms of a Shiryaev-Roberts detector that starts with every event, and the bound sum 1 / c_s.

    Its e-values are 2 or 0 with equal probability: k twos in a row make M = 2^(k+1) - 2, so thresholds of 30 and 62 are
    hit exactly and the bound is sharp.
    """
    rng = np.random.default_rng(5)
    evidence, alarms = np.zeros(40_000), 0
    for before, c in itertools.pairwise([thresholds[0], *thresholds]):
        if evidence_falls:
            evidence *= min(1.0, c / before)
        evidence = (evidence + 1) * 2 * rng.integers(0, 2, len(evidence))
        alarms += int((evidence >= c).sum())
        evidence[evidence >= c] = 0
    return alarms / len(evidence), sum(1 / c for c in thresholds)


def test_the_bound_survives_a_share_that_shrinks_while_evidence_is_kept() -> None:
    alarms, bound = alarms_and_bound([30.0] * 60 + [62.0] * 60, evidence_falls=False)
    assert 0.9 * bound < alarms < 1.01 * bound


def test_the_bound_survives_a_share_that_grows_only_if_evidence_falls_with_the_threshold() -> None:
    back_and_forth = ([1e6] * 5 + [30.0]) * 40
    alarms, bound = alarms_and_bound(back_and_forth, evidence_falls=False)
    assert alarms > 1.8 * bound
    alarms, bound = alarms_and_bound(back_and_forth, evidence_falls=True)
    assert alarms < bound
