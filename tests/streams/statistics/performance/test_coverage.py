"""How often quantiles cover what turns out, against a slow computation row by row."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.humility.fit import ABSOLUTE_RESIDUAL, INTERVAL_EXCESS, ONE_MINUS_PROBABILITY
from streams.statistics.performance.coverage import coverage_scores
from streams.statistics.performance.fields import COVERAGE_COUNTS
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import (
    BINARY,
    MULTICLASS,
    REGRESSION,
    Decisions,
    Pairs,
    PerformanceLayout,
    Predicted,
)
from streams.statistics.performance.sums import (
    GRID,
    add,
    count_pairs,
    from_fields,
    pack,
    subtract,
    take_group,
    to_fields,
    unpack,
)

LAYOUTS = {
    "binary": PerformanceLayout(BINARY, ("no", "yes"), coverage_score=ONE_MINUS_PROBABILITY),
    "classes": PerformanceLayout(MULTICLASS, ("a", "b", "c"), coverage_score=ONE_MINUS_PROBABILITY),
    "residual": PerformanceLayout(REGRESSION, coverage_score=ABSOLUTE_RESIDUAL),
    "excess": PerformanceLayout(REGRESSION, coverage_score=INTERVAL_EXCESS),
}


def make_pairs(layout: PerformanceLayout, rng: np.random.Generator, rows: int, *, weighted: bool = False) -> Pairs:
    if layout.task == BINARY:
        scores, actual = rng.random((rows, 1)), rng.integers(0, 2, rows)
    elif layout.task == MULTICLASS:
        scores, actual = rng.dirichlet(np.ones(3), rows), rng.integers(0, 3, rows)
    else:
        middle = rng.normal(size=rows)
        scores = np.stack([middle, middle - rng.random(rows), middle + rng.random(rows)], axis=1)
        actual = middle + rng.normal(size=rows)
    scores[rng.random(rows) < 0.1] = np.nan
    quantiles = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(0.5, 0.3, rows))
    static = np.where(rng.random(rows) < 0.1, np.nan, rng.choice([0.4, 0.6], rows))
    decisions = Decisions(
        rng.integers(0, 4, rows).astype(np.uint8),
        rng.integers(0, 2**63, rows).astype(np.uint64),
        quantiles,
        static,
        rng.integers(0, 2, rows),
        np.full(rows, np.nan),
    )
    return Pairs(
        Predicted(scores, np.full(rows, -1, np.int64)),
        actual.astype(np.float64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        rng.choice([1.0, 4.0], rows) if weighted else np.ones(rows),
        np.full(rows, 255, np.uint8),
        rng.random(rows),
        decisions=decisions,
    )


def slow_score(name: str, scores: list[float], actual: float) -> float | None:
    """The score of one row; None where it is not known."""
    if any(np.isnan(each) for each in scores):
        return None
    if name == "residual":
        return abs(actual - scores[0])
    if name == "excess":
        return max(scores[1] - actual, actual - scores[2])
    if name == "binary":
        return 1 - (scores[0] if actual == 1 else 1 - scores[0])
    return 1 - scores[int(actual)]


def slow_sums(name: str, pairs: Pairs) -> dict[str, Any]:
    """The sums, row by row: numbers of rows, their weights, and numbers in units of the grid."""
    assert pairs.decisions is not None
    counts = dict.fromkeys(COVERAGE_COUNTS, 0)
    weights = dict.fromkeys(COVERAGE_COUNTS, Fraction(0))
    numbers = {"quantile_sum": 0, "adaptive_width": 0, "adaptive_width_squared": 0}
    for row in range(pairs.rows):
        weight = Fraction(float(pairs.weights[row]))
        line = pairs.predicted.scores[row].tolist()
        score = slow_score(name, line, float(pairs.actual[row]))
        issued, static = float(pairs.decisions.quantiles[row]), float(pairs.decisions.static[row])
        found = {
            "with_quantile": score is not None and not np.isnan(issued),
            "covered": score is not None and score <= issued,
            "with_static": score is not None and not np.isnan(static),
            "covered_static": score is not None and score <= static,
        }
        for each, is_so in found.items():
            counts[each] += is_so
            weights[each] += weight * is_so
        if found["with_quantile"]:
            width = max(2 * issued + (line[2] - line[1] if name == "excess" else 0.0), 0.0)
            for each, number in zip(numbers, (issued, width, width * width), strict=True):
                numbers[each] += round(Fraction(number * float(weight)) / Fraction(GRID))
    return {"counts": counts, "weights": weights, "numbers": numbers}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_coverage_is_that_of_a_slow_count_row_by_row(name: str, weighted: bool) -> None:
    layout = LAYOUTS[name]
    pairs = make_pairs(layout, np.random.default_rng(3), 400, weighted=weighted)
    sums = take_group(count_pairs(layout, pairs, np.zeros(400, np.int64), 1), 0)
    expected = slow_sums(name, pairs)
    assert {each: int(sums[each]) for each in COVERAGE_COUNTS} == expected["counts"]
    for each in (
        "quantile_sum",
        *(("adaptive_width", "adaptive_width_squared") if name in ("residual", "excess") else ()),
    ):
        assert int(sums[each]) == expected["numbers"][each]
    got = metrics(layout, sums)
    weight = expected["weights"]
    for metric, part, whole in [
        ("adaptive_coverage", "covered", "with_quantile"),
        ("static_coverage", "covered_static", "with_static"),
    ]:
        found = got[metric]
        assert found.value == pytest.approx(float(weight[part] / weight[whole]), abs=1e-12)
        assert found.rows == expected["counts"][whole]
        assert found.low is not None and found.high is not None and found.value is not None
        assert found.low < found.value < found.high
    assert ("adaptive_width" in got) == (layout.task == REGRESSION)


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(LAYOUTS)), seed=st.integers(0, 2**20), weighted=st.booleans(), data=st.data())
def test_coverage_adds_up_in_any_order_is_taken_away_again_and_survives_every_form(
    name: str, seed: int, weighted: bool, data: st.DataObject
) -> None:
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    pairs = make_pairs(layout, rng, 30, weighted=weighted)
    group = rng.integers(-1, 3, 30)
    together = count_pairs(layout, pairs, group, 3)
    cut = data.draw(st.integers(0, 30))
    order = rng.permutation(30)
    first, second = order[:cut], order[cut:]
    a = count_pairs(layout, pairs.take(first), group[first], 3)
    b = count_pairs(layout, pairs.take(second), group[second], 3)
    for at in range(3):
        whole = take_group(together, at)
        summed = add(take_group(a, at), take_group(b, at))
        assert to_fields(summed) == to_fields(whole)
        assert to_fields(subtract(summed, take_group(b, at))) == to_fields(take_group(a, at))
        assert to_fields(unpack(layout, pack(whole))) == to_fields(whole)
        counts, numbers = to_fields(whole)
        assert to_fields(from_fields(layout, counts, numbers)) == (counts, numbers)


def test_a_layout_without_humility_keeps_what_it_kept() -> None:
    layout = PerformanceLayout(REGRESSION)
    pairs = make_pairs(layout, np.random.default_rng(1), 10)
    sums = take_group(count_pairs(layout, pairs, np.zeros(10, np.int64), 1), 0)
    assert not set(COVERAGE_COUNTS) & set(sums)
    assert not {"adaptive_coverage", "static_coverage", "adaptive_width"} & set(metrics(layout, sums))


def test_nothing_is_said_of_coverage_where_no_row_had_a_quantile() -> None:
    layout = LAYOUTS["residual"]
    pairs = make_pairs(layout, np.random.default_rng(1), 0)
    sums = take_group(count_pairs(layout, pairs, np.zeros(0, np.int64), 1), 0)
    got = metrics(layout, sums)
    assert [got[name].value for name in ("adaptive_coverage", "static_coverage", "adaptive_width")] == [None] * 3


@pytest.mark.parametrize("value", [1e308, -1e308, 1e200])
def test_numbers_that_are_out_of_all_reason_do_not_stop_the_count(value: float) -> None:
    layout = LAYOUTS["excess"]
    pairs = make_pairs(layout, np.random.default_rng(1), 3)
    pairs.predicted.scores[:] = [[0.0, -value, value]] * 3
    assert pairs.decisions is not None
    pairs.decisions.quantiles[:] = 0.5
    sums = take_group(count_pairs(layout, pairs, np.zeros(3, np.int64), 1), 0)
    assert int(sums["with_quantile"]) == 3
    assert 0 <= int(sums["adaptive_width"]) <= 3 * 2**230


def test_a_score_that_does_not_fit_the_task_is_known_of_no_row() -> None:
    pairs = make_pairs(LAYOUTS["residual"], np.random.default_rng(1), 5)
    assert np.isnan(coverage_scores(ONE_MINUS_PROBABILITY, REGRESSION, pairs.predicted, pairs.actual)).all()
    none = Predicted(np.zeros((5, 0)), np.zeros(5, np.int64))
    assert np.isnan(coverage_scores(ONE_MINUS_PROBABILITY, MULTICLASS, none, np.zeros(5))).all()
