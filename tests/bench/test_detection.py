"""What the detection bench itself relies on."""

from __future__ import annotations

import numpy as np
import pytest

from bench.detection import friedman, outcome_delays, outcomes
from bench.detection.delays import normal_divergence
from bench.detection.false_alarms import deduplicated
from bench.detection.simulation import P0, alarm_events, autoregressive, bin_probabilities, known_bets, repeated
from bench.run import names
from streams.statistics.replay import replay, step_counts


def test_make_bench_finds_detection() -> None:
    assert "detection" in names()


def test_friedmans_functions_are_those_of_river() -> None:
    assert friedman.largest_difference_from_river(2_500) < 1e-9


def test_repeated_messages_are_counted_once_with_ids_and_twice_without() -> None:
    counts = np.random.default_rng(0).multinomial(10, P0, size=(3, 40))
    assert np.array_equal(deduplicated(counts), counts)
    assert repeated(counts).sum() == 2 * counts.sum() - counts[:, -1].sum()


def test_autoregressive_streams_are_stationary_with_unit_variance() -> None:
    values = autoregressive(np.random.default_rng(0), 400, 500, 0.9)
    assert values[:, 0].std() == pytest.approx(1, abs=0.1)
    assert values[:, -1].std() == pytest.approx(1, abs=0.1)
    assert (values[:, 1:] * values[:, :-1]).mean() == pytest.approx(0.9, abs=0.02)


def test_the_bins_of_a_normal_stream_hold_its_divergence() -> None:
    """Eleven cuts lose a few per cent of it."""
    assert np.allclose(bin_probabilities(), P0)
    p1 = bin_probabilities(0.3)
    used = P0 > 0
    binned = (p1[used] * np.log(p1[used] / P0[used])).sum()
    assert 0.95 < binned / normal_divergence(0.3, 1.0) < 1


def test_alarms_event_by_event_are_those_of_a_replay() -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice(len(P0), p=bin_probabilities(0.8), size=(5, 600)).astype(np.uint8)
    bets = known_bets(5)
    one_by_one = alarm_events(bets, codes, 50, 5.0)
    replayed = replay(bets, step_counts(codes, 1, len(P0)), 50, 5.0)
    assert [len(events) for events in one_by_one] == replayed.alarms.tolist()
    assert [events[0] for events in one_by_one] == replayed.first_alarm_step.tolist()
    assert replayed.alarms.sum() > 5


def test_what_has_not_changed_has_no_growth_and_what_has_less_than_its_divergence() -> None:
    rng = np.random.default_rng(1)
    for change in (outcome_delays._accuracy()[-1], outcome_delays._fairness()[-1]):
        spec = outcome_delays._spec(change)
        baseline = outcome_delays.learn(change.draw(rng, 10_000, False), spec, segments=change.segments)
        unchanged, changed = (change.draw(rng, 50_000, moved) for moved in (False, True))
        assert outcome_delays._growth(spec, baseline, unchanged, change.monitor) == 0
        assert 0 < outcome_delays._growth(spec, baseline, changed, change.monitor) < change.divergence


def test_pairs_of_the_first_hours_are_those_that_were_known_by_then() -> None:
    case = outcomes.Case("", first_hours=3.0)
    pairs = outcomes.draw(np.random.default_rng(1), 2_000, case)
    assert (pairs.times_us % (3 * outcomes.HOUR_US) + pairs.ages_us <= 3 * outcomes.HOUR_US).all()
    assert pairs.actual.mean() < outcomes.draw(np.random.default_rng(1), 2_000).actual.mean()
