"""The delays at which it is said to be found that humility rules act otherwise are those of the detectors."""

import dataclasses

import numpy as np
import pytest

from driftline.humility.fit import HumilityFit
from driftline.humility.rules import Condition, HumilitySpec, Rule
from services.deployments.accounts import DeploymentAccount, Rate
from services.deployments.comparison import INCOMPARABLE, compare
from services.deployments.humility_delays import humility_delays, with_yes
from services.deployments.summary import MONITOR_TITLES, summarise
from streams.baseline import Baseline, BaselineStream, OutcomeReference
from streams.counting import MISCOVERAGE
from streams.humility.evidence import DISAGREEMENT, NO, RULE_PREFIX, YES
from streams.monitor import Monitors
from streams.specification import CONCEPT_DRIFT, HUMILITY, MONITORS, DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.budget import start_mass_log
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.tilts import tilts_of

ROWS, RESOLVED = 20_000, 10_000
RULES = HumilitySpec(tuple(Rule(name, Condition("in_alarm"), "record") for name in ("a", "b", "c")))
SPEC = DeploymentSpec(
    "d", "m", "regression", (FeatureSpec("x", "numeric"),), outcomes=OutcomeSpec(86_400_000), humility=RULES
)
OUTCOMES = OutcomeReference(
    86_400_000, ROWS, RESOLVED, np.array([1]), 5, (), np.zeros(0), np.zeros(0), np.zeros(0), {}, {}, {}
)


def stream(name: str, rate: float, rows: int = ROWS) -> BaselineStream:
    counts = np.zeros(CATEGORICAL.size, np.int64)
    counts[0] = round(rate * rows)
    counts[1] = rows - counts[0]
    tempering = np.ones(tilts_of(CATEGORICAL).size, np.float32)
    return BaselineStream(name, "humility", CATEGORICAL, CategoricalBins((YES, NO)), counts, 0.005, tempering)


STREAMS = (
    stream(RULE_PREFIX + "a", 0.01),
    stream(RULE_PREFIX + "b", 0.05),
    stream(RULE_PREFIX + "c", 0.2),
    stream(DISAGREEMENT, 0.0),
    stream(MISCOVERAGE, 0.1, RESOLVED),
)


def baseline(fit: str = "digest", streams: tuple[BaselineStream, ...] = STREAMS) -> Baseline:
    made = HumilityFit(fit, "", ROWS, ROWS // 2, 0, 1, 0.95)
    span_us = 20 * 86_400_000_000
    return Baseline("d", "1", ROWS, streams, "", 0, span_us, outcomes=OUTCOMES, humility=made)


def monitors() -> Monitors:
    return Monitors(SPEC, baseline(), 0, 0)


def test_every_change_of_what_the_rules_do_has_a_delay() -> None:
    found = humility_delays(monitors(), baseline(), HUMILITY)
    assert [(each.change, each.stream, each.streams, each.counted) for each in found[::3]] == [
        ("a rule's or an action's share of predictions rises by 2 points", "humility:rule:b", 3, "predictions"),
        ("the share of decisions that are not those in force rises by 2 points", DISAGREEMENT, 1, "predictions"),
        ("the share of actual values that are not covered rises by 2 points", MISCOVERAGE, 1, "outcomes"),
    ]
    assert len(found) == 9 and found[2].change.endswith("by 10 points")
    assert humility_delays(monitors(), baseline(), CONCEPT_DRIFT) == []


def test_larger_changes_are_found_sooner() -> None:
    found = humility_delays(monitors(), baseline(), HUMILITY)
    for group in (found[:3], found[3:6], found[6:]):
        events = [each.events for each in group]
        assert events == sorted(events, reverse=True) and np.isfinite(events[1:]).all() and events[-1] > 0


def test_a_delay_is_as_long_as_the_best_bet_takes_or_a_little_longer() -> None:
    delay = humility_delays(monitors(), baseline(), HUMILITY)[2]
    monitor, block = monitors().monitors[HUMILITY], monitors().blocks[0]
    index = [s.name for s in block.streams].index(delay.stream)
    needed_nats = monitor.threshold_nats - monitor.log_weights[0][index] - start_mass_log(0)
    before, after = 0.05, 0.15
    nats = after * np.log(after / before) + (1 - after) * np.log((1 - after) / (1 - before))
    assert needed_nats / nats < delay.events < 4 * needed_nats / nats


def test_days_are_of_predictions_or_of_outcomes() -> None:
    found = humility_delays(monitors(), baseline(), HUMILITY)
    account = DeploymentAccount(SPEC, (), None, "1", Rate(1000.0, "x"), Rate(500.0, "x"))
    assert account.days_of(found[2]) == pytest.approx(found[2].events / 1000)
    assert account.days_of(found[-1]) == pytest.approx(found[-1].events / 500)
    later = dataclasses.replace(account, outcome_rate=None)
    assert later.days_of(found[-1]) is None and later.days_of(found[0]) is not None


def test_no_more_can_fire_than_there_are() -> None:
    p = np.zeros(CATEGORICAL.size)
    p[:2] = 0.98, 0.02
    after = with_yes(p, 0.1)
    assert after[:2].tolist() == pytest.approx([1.0, 0.0]) and after.sum() == pytest.approx(1.0)


def test_a_rule_s_rate_has_no_missing_values() -> None:
    assert summarise(STREAMS[0]).missing_share is None and summarise(STREAMS[0]).rows == ROWS
    assert set(MONITOR_TITLES) == set(MONITORS)


def test_rates_of_other_rules_are_not_compared() -> None:
    (first, *_) = compare(baseline(), baseline())
    assert first.distance is not None and first.distance.total_variation == 0
    (other, *_) = compare(baseline(), baseline("another"))
    assert other.kind == INCOMPARABLE and other.note == "of other humility rules or guarantees"
