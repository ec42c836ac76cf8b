"""The fleet's budget is never handed out twice."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deployments.budget import capacity_for, shared
from services.deployments.errors import DeploymentError
from streams.specification import DeploymentSpec, FalseAlarmBudget


def spec(name: str, scope: str = "fleet", count: float = 1.0) -> DeploymentSpec:
    return DeploymentSpec(name, "m", "other", (), false_alarms=FalseAlarmBudget(count=count, scope=scope))


steps = st.lists(
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(["fleet", "deployment"])),
        min_size=1,
        max_size=8,
        unique_by=lambda step: step[0],
    ),
    max_size=8,
)


@given(steps)
def test_the_shares_of_the_fleet_never_add_up_to_more_than_one_at_any_moment(
    applies: list[list[tuple[int, str]]],
) -> None:
    current: dict[str, DeploymentSpec] = {}
    for apply in applies:
        for published in shared(current, [spec(f"d{number}", scope) for number, scope in apply]):
            current[published.deployment_id] = published
            assert (
                math.fsum(spec.false_alarms.share for spec in current.values() if spec.false_alarms.scope == "fleet")
                <= 1.0
            )
        assert len({s.false_alarms.share for s in current.values() if s.false_alarms.scope == "fleet"}) <= 1
        assert all(s.false_alarms.share == 1.0 for s in current.values() if s.false_alarms.scope == "deployment")


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


def test_a_deployment_with_a_budget_of_its_own_leaves_the_fleet_alone() -> None:
    current = {"a": shared({}, [spec("a")])[0]}
    assert [s.deployment_id for s in shared(current, [spec("b", "deployment")])] == ["b"]


def test_two_different_promises_for_one_fleet_are_refused() -> None:
    current = {"a": shared({}, [spec("a")])[0]}
    with pytest.raises(DeploymentError, match=r"different ones: 1 per 30d: a; 2 per 30d: b"):
        shared(current, [spec("b", count=2)])
    both = shared(current, [spec("a", count=2), spec("b", count=2)])
    assert {s.deployment_id for s in both} == {"a", "b"}


@given(st.integers(1, 5000))
def test_the_capacity_is_the_next_power_of_two(deployments: int) -> None:
    capacity = capacity_for(deployments)
    assert capacity >= deployments and capacity & (capacity - 1) == 0 and capacity // 2 < deployments


def test_other_fields_are_left_as_they_are() -> None:
    given_spec = dataclasses.replace(spec("a"), description="x", revision=7)
    assert shared({}, [given_spec])[0] == given_spec
