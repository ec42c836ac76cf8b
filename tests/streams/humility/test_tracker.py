"""The tracker of coverage: counts alone decide where it stands, and its bound holds for every sequence."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.humility.fit import ABSOLUTE_RESIDUAL, CoverageStart, HumilityFit
from streams.humility.tracker import Facts, FactsHistory, Tracker, fit_digest, tracker_of
from streams.statistics.humility import tracker_bound

FIT = HumilityFit(
    "spec",
    "test",
    100,
    50,
    0,
    1,
    0.95,
    coverage=0.9,
    coverage_score=ABSOLUTE_RESIDUAL,
    score_range=4.0,
    step=0.05,
    coverage_starts=(CoverageStart("", 50, 1.0), CoverageStart("side=up", 50, 2.0)),
)
STARTS = {each.segment: each.quantile for each in FIT.coverage_starts}
GROUPS = ("", "side=up", "side=gone")


def count(tracker: Tracker, rows: list[tuple[int, bool, bool]]) -> None:
    codes, known, missed = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    tracker.count(GROUPS, np.asarray(codes, np.int64), np.asarray(known, bool), np.asarray(missed, bool))


rows_of = st.lists(st.tuples(st.integers(-1, 2), st.booleans(), st.booleans()), max_size=40)


@settings(max_examples=60)
@given(rows=rows_of, cut=st.integers(0, 40), data=st.data())
def test_it_stands_where_the_counts_put_it_whatever_the_order_and_splitting(
    rows: list[tuple[int, bool, bool]], cut: int, data: st.DataObject
) -> None:
    rows = [(group, known, missed and known) for group, known, missed in rows]
    tracker, other = tracker_of(FIT, STARTS), tracker_of(FIT, STARTS)
    count(tracker, rows)
    shuffled = data.draw(st.permutations(rows))
    count(other, shuffled[:cut])
    count(other, shuffled[cut:])
    assert tracker.publish(1) == other.publish(1)
    assert tracker.quantiles == other.quantiles
    for at, name in enumerate(GROUPS[:2]):
        mine = [missed for group, known, missed in rows if group == at and known]
        expected = STARTS[name] + FIT.step * (sum(mine) - (1 - 0.9) * len(mine))
        assert tracker.quantiles[name] == pytest.approx(expected, abs=1e-12)
    assert set(tracker.quantiles) == set(STARTS)


def test_it_publishes_once_a_slot_and_says_whether_anything_changed() -> None:
    tracker = tracker_of(FIT, STARTS)
    assert tracker.quantiles == STARTS and not tracker.publish(5)
    count(tracker, [(0, True, True)])
    assert not tracker.publish(5) and tracker.quantiles == STARTS, "the slot is the same"
    assert not tracker.publish(4)
    assert tracker.publish(6) and tracker.quantiles[""] > STARTS[""]
    assert tracker.standing()[0] == {"segment": "", "quantile": tracker.quantiles[""], "known": 1, "missed": 1}
    count(tracker, [(0, True, False)])
    assert tracker.standing()[0]["known"] == 1, "what was told follows from the counts that are told"
    assert not tracker.publish(7) or tracker.standing()[0]["known"] == 2
    tracker.forget_slot()
    count(tracker, [(1, True, True)])
    assert tracker.publish(1), "slots of another length are numbered anew"


def test_what_the_journal_keeps_is_the_whole_of_it() -> None:
    tracker = tracker_of(FIT, STARTS)
    count(tracker, [(0, True, True), (1, True, False)])
    tracker.publish(3)
    count(tracker, [(0, True, True)])
    again = Tracker.from_fields(json.loads(json.dumps(tracker.to_fields())))
    assert again.to_fields() == tracker.to_fields() and again.quantiles == tracker.quantiles
    assert not again.publish(3) and again.publish(4) == tracker.publish(4) and again.standing() == tracker.standing()


def test_without_coverage_there_is_nothing_to_track() -> None:
    for fit in (None, HumilityFit("spec", "test", 1, 1, 0, 1, 0.95)):
        tracker = tracker_of(fit, {})
        count(tracker, [(0, True, True)])
        assert tracker.quantiles == {} and tracker.standing() == [] and not tracker.publish(9)
        assert (tracker.fit == "") == (fit is None) and tracker.fit == fit_digest(fit)


def walk(choose: Callable[[int, float], float], steps: int, delay: int, publish_every: int) -> tuple[Tracker, float]:
    """Play scores against the tracker: each may be chosen knowing everything, and its outcome comes later."""
    tracker = tracker_of(FIT, STARTS)
    pending: list[tuple[float, float]] = []
    most = 0.0
    for step in range(steps):
        if step % publish_every == 0:
            tracker.publish(step)
        issued = tracker.quantiles[""]
        pending.append((issued, choose(step, issued)))
        if len(pending) > delay:
            quantile, score = pending.pop(0)
            count(tracker, [(0, True, score > quantile)])
        most = max(most, abs(issued))
    return tracker, most


@pytest.mark.parametrize("delay", [0, 30])
@pytest.mark.parametrize("publish_every", [1, 20])
@pytest.mark.parametrize(
    "choose",
    [
        lambda step, issued: min(issued + 1e-9, 4.0),  # always just missed
        lambda step, issued: 4.0,
        lambda step, issued: 0.0,
        lambda step, issued: 4.0 if step // 200 % 2 else 0.0,
        lambda step, issued: float(np.random.default_rng(step).uniform(0, 4)),
    ],
)
def test_no_sequence_of_scores_brings_coverage_further_from_its_goal_than_the_bound(
    choose: Callable[[int, float], float], delay: int, publish_every: int
) -> None:
    """Whatever is chosen in the range of the scores, even knowing the quantile: Gibbs and Candes 2021, with delays."""
    tracker, _ = walk(choose, 3_000, delay, publish_every)
    group = tracker.groups[""]
    bound = tracker_bound(FIT.score_range, FIT.step, group.known, delay + publish_every)
    assert abs(group.missed / group.known - 0.1) <= bound


def test_facts_are_found_by_message_and_forgotten_once_nothing_waits() -> None:
    history = FactsHistory()
    assert history.at(3) is None
    history.note(Facts(0, (("", 1.0),)))
    history.note(Facts(5, (("", 1.0),)))  # nothing new
    history.note(Facts(7, (("", 1.0),), 4))
    history.note(Facts(7, (("", 2.0),), 4))  # before the same message
    history.note(Facts(9, (("", 2.0),), 0))
    known = [history.at(offset) for offset in (0, 6, 7, 8, 9, 100)]
    assert [(facts.quantiles[0][1], facts.alarms) for facts in known if facts is not None] == [
        (1.0, 0), (1.0, 0), (2.0, 4), (2.0, 4), (2.0, 0), (2.0, 0),
    ]  # fmt: skip
    changes = history.take_changes()
    assert sorted(changes) == [0, 7, 9] and history.take_changes() == {}
    again = FactsHistory()
    for offset in (9, 0, 7):
        fields = changes[offset]
        assert fields is not None
        again.restore(offset, fields)
    assert again.entries == history.entries
    history.forget(8)
    assert [entry.offset for entry in history.entries] == [7, 9] and history.take_changes() == {0: None}
    history.clear()
    assert history.take_changes() == {7: None, 9: None} and history.at(9) is None


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 255))
def test_facts_come_back_from_the_journal_to_the_bit(quantile: float, alarms: int) -> None:
    facts = Facts(3, (("", quantile), ("side=\u2028'\"", -quantile)), alarms)
    assert Facts.from_fields(3, facts.to_fields()) == facts
