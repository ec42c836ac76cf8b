"""The fleet's promise is added up from what is in force, and what breaks it is named."""

import dataclasses

import pytest

from services.deployments.accounts import DeploymentAccount, MonitorAccount, Rate, fleet_of
from streams.specification import DeploymentSpec, FalseAlarmBudget


def spec(name: str, share: float, *, count: float = 1.0, scope: str = "fleet", shards: int = 1) -> DeploymentSpec:
    budget = FalseAlarmBudget(count=count, scope=scope, share=share)
    return DeploymentSpec(name, "m", "other", (), false_alarms=budget, shards=shards)


def test_a_promise_that_is_kept_has_no_flaws() -> None:
    fleet = fleet_of([spec("a", 0.5), spec("b", 0.5), spec("own", 1.0, scope="deployment")])
    assert (fleet.deployments, fleet.handed_out, fleet.capacity, fleet.flaws) == (2, 1.0, 4, ())


def test_shares_beyond_one_are_a_flaw_that_says_how_many_more_false_alarms_there_may_be() -> None:
    (flaw,) = fleet_of([spec("a", 0.75), spec("b", 0.75)]).flaws
    assert "handed out 1.5 of its promise" in flaw and "1.5 times the false alarms" in flaw


def test_different_promises_in_one_fleet_are_a_flaw_that_names_them() -> None:
    (flaw,) = fleet_of([spec("a", 0.25), spec("b", 0.25, count=3)]).flaws
    assert "1 per 30d: a; 3 per 30d: b" in flaw


def test_a_fleet_of_nobody_has_handed_out_nothing() -> None:
    assert fleet_of([]).handed_out == 0 and fleet_of([]).flaws == ()


def test_what_no_monitor_may_spend_is_kept_back() -> None:
    monitors = (MonitorAccount("data_drift", 0.1, 0.2, 8.0, 3), MonitorAccount("service", 0.0, 0.0, None, 0))
    account = DeploymentAccount(spec("a", 0.25, count=2.0), monitors)
    assert account.allowed == 0.2 and account.alarms == 3 and account.kept == pytest.approx(0.3)


def test_rows_of_one_shard_take_as_many_times_longer_as_there_are_shards() -> None:
    account = DeploymentAccount(spec("a", 1.0, shards=4), (), rate=Rate(1000.0, "test"))
    assert account.days(500) == 2.0
    assert dataclasses.replace(account, rate=None).days(500) is None
