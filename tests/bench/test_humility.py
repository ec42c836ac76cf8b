"""What the humility bench itself relies on."""

from __future__ import annotations

import numpy as np
import pytest

from bench.humility import alarms, costs, risk, tracking
from bench.humility.source import (
    MEAN_SKILL,
    REGIONS,
    SKILL,
    Change,
    ConfidenceLaw,
    draw,
    most_exceeding,
    specification,
)
from bench.run import names
from driftline.humility.rules import Guarantees
from streams.specification import HUMILITY


def test_make_bench_finds_humility() -> None:
    assert "humility" in names()


def test_the_law_of_confidence_is_that_of_its_rows() -> None:
    columns, actual = draw(np.random.default_rng(0), 200_000)
    assert columns.prediction is not None
    sure = np.maximum(columns.prediction, 1 - columns.prediction)
    wrong = (columns.prediction >= 0.5) != actual
    region = columns.categorical["region"].codes
    law = ConfidenceLaw(100_000)
    for threshold in (0.5, 0.7, 0.95):
        assert law.answered(threshold) == pytest.approx((sure >= threshold).mean(), abs=0.005)
        assert law.error(threshold, MEAN_SKILL) == pytest.approx(wrong[sure >= threshold].mean(), abs=0.01)
        for number in range(len(REGIONS)):
            mine = (sure >= threshold) & (region == number)
            assert law.error(threshold, SKILL[number]) == pytest.approx(wrong[mine].mean(), abs=0.03)
    assert law.error(2.0, 0.9) == 0


def test_a_change_changes_what_it_says() -> None:
    rng = np.random.default_rng(1)
    before, _ = draw(rng, 20_000)
    after, _ = draw(rng, 20_000, Change(new_kinds=0.1, correlation=0.0, less_sure=0.5))
    assert (before.categorical["kind"].codes < 40).all()
    assert (after.categorical["kind"].codes == 40).mean() == pytest.approx(0.1, abs=0.01)
    correlation = [np.corrcoef(each.numeric["x0"], each.numeric["x1"])[0, 1] for each in (before, after)]
    assert correlation == pytest.approx([0.6, 0.0], abs=0.03)
    middle = [float((np.abs(each.prediction - 0.5) < 0.2).mean()) for each in (before, after)]
    assert middle[1] > middle[0] + 0.3


def test_what_chance_allows_is_more_than_delta_and_less_with_more_sets() -> None:
    assert 0.1 < most_exceeding(10_000, 0.1) < most_exceeding(100, 0.1) < 0.25


def test_pending_outcomes_are_counted_so_that_the_bound_is_that_of_its_sequence() -> None:
    rng = np.random.default_rng(2)
    at_once = tracking._run(rng, tracking._beyond, tracking.DELAYS["at once"], 3_000, 0.02)
    late = tracking._run(rng, tracking._beyond, tracking.DELAYS["after 500 rows"], 3_000, 0.02)
    assert late.last[1] > at_once.last[1]
    assert 0.2 < at_once.worst <= 1
    assert 0.2 < late.worst <= 1
    assert len(at_once.shares) == 3


def test_laws_of_errors_are_probabilities() -> None:
    u = np.linspace(0, 1, 1_001)
    for law in risk.LAWS:
        error = law.error(u)
        assert ((error >= 0) & (error <= 1)).all()
        assert (np.diff(law.seen(u)) >= 0).all()


def test_the_monitor_stands_at_the_threshold_of_the_fleet() -> None:
    spec = alarms._at_threshold(specification(Guarantees(novelty_rate=0.01)))
    share = spec.monitor_share(HUMILITY) * spec.false_alarms.count
    starts = spec.false_alarms.per_ms / spec.start_slot_ms
    assert np.log(starts / share) == pytest.approx(alarms.FLEET_THRESHOLD)


def test_rows_of_the_bench_of_costs_are_those_of_its_columns() -> None:
    columns = costs.draw(np.random.default_rng(3), 20)
    rows = costs.feature_rows(columns)
    assert len(rows) == 20
    assert len(rows[0]) == 50
    assert [row["x7"] for row in rows] == columns.numeric["x7"].tolist()
    assert [row["t2"] for row in rows] == columns.categorical["t2"].values()
