"""Decisions of publishers beside what the rules say."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from driftline.batches import between
from driftline.events import NOT_DECIDED, CategoricalColumn
from driftline.humility.rules import (
    ALARM_MONITORS,
    ANSWERED,
    OVERRIDDEN,
    REFUSED,
    ROUTED,
    Condition,
    HumilitySpec,
    Override,
    Rule,
)
from streams.errors import StreamsError
from streams.humility.judge import Earlier, Judge, Judged, alarm_bits, alarms_looked_at, policy_of

DRIFT = alarm_bits(["data_drift"])


def effective(judged: Judged) -> list[tuple[int, int, str]]:
    """Action, fired and answer of each row, as text to compare NaN."""
    answers = judged.answer_labels.values() if judged.answer_labels is not None else [None] * len(judged.actions)
    return [
        (int(action), int(fired), f"{value} {label}")
        for action, fired, value, label in zip(judged.actions, judged.fired, judged.answers, answers, strict=True)
    ]


def test_rows_that_nobody_decided_are_decided_by_the_rules_with_what_the_streams_know(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.rows(2000)
    judged = Judge(spec, baseline).judge(rows, {"": 0.7}, DRIFT)
    x, y = rows.numeric["x"], rows.numeric["y"]
    far, odd, note = np.abs(x) > 2.5, y > 2, y < -2
    assert not judged.claimed.any()
    assert not judged.judged.any()
    np.testing.assert_array_equal(judged.fired, far | odd * 2 | note * 4 | 8)
    np.testing.assert_array_equal(judged.actions, np.where(far, REFUSED, ROUTED))
    np.testing.assert_array_equal(judged.acting, np.where(far, 0, 3))
    in_part = np.array(rows.categorical["c"].codes) == 0
    np.testing.assert_array_equal(judged.quantiles, np.where(in_part, 0.25, 0.7))
    # without alarms "odd" acts, and that is what the evidence is about
    np.testing.assert_array_equal(judged.watched_actions, np.select([far, odd], [REFUSED, OVERRIDDEN], ANSWERED))
    np.testing.assert_array_equal(judged.watched_fired, far | odd * 2 | note * 4)


@pytest.mark.parametrize("alarms", [0, DRIFT])
def test_a_publisher_that_decides_by_the_rules_in_force_agrees_whatever_the_streams_know(
    humble: Any, fitted: Any, alarms: int
) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(2000), {"": 0.61, "c=a": 0.4}, alarms)
    judge = Judge(spec, baseline)
    judged = judge.judge(rows, {"": 0.9, "c=a": 0.1}, alarm_bits(["service", "data_drift"]))
    assert judged.claimed.all()
    assert judged.judged.all()
    assert not (judged.stale | judged.disagrees).any()
    alone = judge.judge(dataclasses.replace(rows, humility=None), {"": 0.61, "c=a": 0.4}, alarms)
    assert effective(judged) == effective(alone)
    np.testing.assert_array_equal(judged.quantiles, alone.quantiles)
    np.testing.assert_array_equal(judged.acting, alone.acting)


def change(claim: Any, what: str, row: int) -> Any:
    if what == "action":
        values = claim.actions.copy()
        values[row] = (values[row] + 1) % 4
        return dataclasses.replace(claim, actions=values)
    if what == "fired":
        fired = claim.fired.copy()
        fired[row] ^= np.uint64(4)
        return dataclasses.replace(claim, fired=fired)
    if what == "answer":
        answers = np.full(len(claim.actions), np.nan)
        answers[row] = 0.5
        return dataclasses.replace(claim, answers=answers)
    labels = ["yes" if text is None and at == row else text for at, text in enumerate(claim.answer_labels.values())]
    return dataclasses.replace(claim, answer_labels=CategoricalColumn.from_values(labels))


@pytest.mark.parametrize("what", ["action", "fired", "answer", "label"])
def test_another_action_rule_or_answer_disagrees_and_counts_as_it_was_claimed(
    humble: Any, fitted: Any, what: str
) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(500))
    row = int(np.flatnonzero(rows.humility.actions == ANSWERED)[3])
    other = dataclasses.replace(rows, humility=change(rows.humility, what, row))
    judged = Judge(spec, baseline).judge(other)
    assert np.flatnonzero(judged.disagrees).tolist() == [row]
    assert not judged.stale.any()
    assert judged.actions.tolist() == other.humility.actions.tolist()
    assert judged.fired.tolist() == other.humility.fired.tolist()
    if what == "action":
        assert judged.acting[row] == -1


def test_rows_that_were_not_decided_are_decided_beside_those_that_were(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(600), {"": 0.8}, DRIFT)
    actions = rows.humility.actions.copy()
    actions[::2] = NOT_DECIDED
    mixed = dataclasses.replace(rows, humility=dataclasses.replace(rows.humility, actions=actions))
    judge = Judge(spec, baseline)
    judged = judge.judge(mixed, {"": 0.3})
    plain = dataclasses.replace(rows, humility=None)
    theirs, ours = judge.judge(plain, {"": 0.8}, DRIFT), judge.judge(plain, {"": 0.3})
    assert effective(judged)[1::2] == effective(theirs)[1::2]
    assert effective(judged)[::2] == effective(ours)[::2]
    np.testing.assert_array_equal(judged.quantiles[::2], ours.quantiles[::2])
    np.testing.assert_array_equal(judged.quantiles[1::2], theirs.quantiles[1::2])
    assert judged.claimed.tolist() == [False, True] * 300
    assert not judged.disagrees.any()


def test_a_batch_is_judged_as_its_rows_are(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(40), {"": 0.8}, DRIFT)
    rows = dataclasses.replace(rows, humility=change(rows.humility, "action", 7))
    judge = Judge(spec, baseline)
    whole = judge.judge(rows)
    for row in range(rows.rows):
        one = judge.judge(between(rows, row, row + 1))
        assert effective(one) == effective(whole)[row : row + 1]
        assert (one.stale[0], one.disagrees[0]) == (whole.stale[row], whole.disagrees[row])
        assert (one.watched_actions[0], one.watched_fired[0]) == (whole.watched_actions[row], whole.watched_fired[row])


# Rules that are not in force


def test_rules_that_were_in_force_are_judged_by_themselves_until_lateness_is_over(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    before = policy_of(spec, baseline)
    assert before is not None
    later = dataclasses.replace(spec, humility=HumilitySpec(spec.humility.rules[1:], spec.humility.guarantees))
    rows = humble.decided(spec, baseline, humble.rows(100))  # one a second
    rows = dataclasses.replace(rows, humility=change(rows.humility, "action", 5))
    until_us = int(rows.timestamps_us[39])
    judge = Judge(later, baseline, [Earlier(before, until_us)], until_us)
    judged = judge.judge(rows)
    tolerated = 39 + later.lateness_ms // 1000
    assert judged.judged.all()
    assert np.flatnonzero(judged.stale).tolist() == list(range(tolerated + 1, 100))
    assert np.flatnonzero(judged.disagrees).tolist() == [5]
    # what fired is told of the rules in force: the bits of others would name the wrong ones
    alone = judge.judge(dataclasses.replace(rows, humility=None))
    assert judged.fired.tolist() == alone.fired.tolist()
    assert judged.actions.tolist() == rows.humility.actions.tolist()
    assert (judged.acting[judged.actions != alone.actions] == -1).all()


def test_rules_that_nobody_knows_are_stale_but_for_a_while_after_a_change(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(100), policy="0" * 64, revision=3)
    at_us = int(rows.timestamps_us[39])
    judged = Judge(spec, baseline, (), at_us).judge(rows)
    assert judged.revision == 3
    assert np.flatnonzero(judged.stale).tolist() == list(range(50, 100))
    assert judged.judged.tolist() == judged.stale.tolist()
    assert not judged.disagrees.any()
    assert not Judge(spec, baseline, (), None).judge(rows).stale.any()
    assert Judge(spec, baseline).judge(rows).stale.all()


def test_another_version_s_answer_is_believed_where_the_event_does_not_tell_it(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    version = Override("version", version="2")
    fallback = Rule("odd", Condition("outlying_input", columns=("y",), high=2.0), "override", version)
    spec = dataclasses.replace(spec, humility=HumilitySpec((fallback,), spec.humility.guarantees), challengers=("2",))
    rows = humble.decided(spec, baseline, humble.rows(400))
    overridden = rows.humility.actions == OVERRIDDEN
    assert overridden.any()
    served = dataclasses.replace(rows.humility, answers=np.where(overridden, 0.125, np.nan))
    judged = Judge(spec, baseline).judge(dataclasses.replace(rows, humility=served))
    assert not judged.disagrees.any()
    assert (judged.answers[overridden] == 0.125).all()


def test_fired_bits_of_rules_that_there_are_not_name_no_rule(humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(10))
    wild = dataclasses.replace(rows.humility, fired=np.full(10, 2**64 - 1, np.uint64))
    judged = Judge(spec, baseline).judge(dataclasses.replace(rows, humility=wild))
    assert judged.disagrees.all()
    assert set(judged.fired.tolist()) == {15}


def test_a_deployment_without_rules_has_no_judge(samples: Any, fitted: Any) -> None:
    _, baseline = fitted
    with pytest.raises(StreamsError, match="neither humility rules nor guarantees"):
        Judge(samples.spec(), baseline)


def test_the_alarms_that_rules_look_at_are_known(fitted: Any) -> None:
    spec, _ = fitted
    assert alarms_looked_at(spec.humility.rules) == DRIFT
    any_alarm = dataclasses.replace(spec.humility.rules[3].when, values=())
    rule = dataclasses.replace(spec.humility.rules[3], when=any_alarm)
    assert alarms_looked_at((rule,)) == 2 ** len(ALARM_MONITORS) - 1
    assert alarms_looked_at(spec.humility.rules[:3]) == 0
