"""Rates and differences between groups: against fairlearn's published definitions, computed naively on raw rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from streams.statistics.performance.fairness import (
    MINIMUM_ROWS,
    Comparison,
    Disparity,
    compare_groups,
    disparities,
    four_fifths,
    group_rates,
)
from streams.statistics.performance.pairs import (
    BINARY,
    MULTICLASS,
    REGRESSION,
    Pairs,
    PerformanceLayout,
    Predicted,
)
from streams.statistics.performance.shares import wilson
from streams.statistics.performance.sums import Sums, add, count_pairs, count_predictions, take_group

BINARY_LAYOUT = PerformanceLayout(BINARY, ("no", "yes"))
CLASS_LAYOUT = PerformanceLayout(MULTICLASS, ("a", "b", "c"))
NUMBER_LAYOUT = PerformanceLayout(REGRESSION)
OTHERS = PerformanceLayout("other")


def sums_of(
    layout: PerformanceLayout,
    said: list[int] | np.ndarray[Any, Any],
    actual: list[Any] | np.ndarray[Any, Any],
    weights: np.ndarray[Any, Any] | None = None,
    unresolved: list[int] | None = None,
) -> Sums:
    """Sums of rows of one group; ``said``: predicted classes, or numbers."""
    n, wide = len(said), {BINARY: 1, MULTICLASS: 3, REGRESSION: 3}.get(layout.task, 0)

    def predicted(values: Any) -> Predicted:
        scores, labels = np.full((len(values), wide), np.nan), np.full(len(values), -1)
        if layout.task == REGRESSION:
            scores[:, 0] = values
        else:
            labels = np.array(values, np.int64)
        return Predicted(scores, labels)

    pairs = Pairs(
        predicted(said),
        np.array(actual, np.float64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.ones(n) if weights is None else weights,
        np.full(n, 255, np.uint8),
        np.zeros(n),
    )
    every = [*said, *(unresolved or [])]
    found = count_pairs(layout, pairs, np.zeros(n, np.int64), 1)
    return take_group(add(found, count_predictions(layout, predicted(every), np.zeros(len(every), np.int64), 1)), 0)


rows = st.lists(st.tuples(st.sampled_from("xyz"), st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(rows)
@settings(deadline=None, max_examples=60)
def test_measures_are_those_that_fairlearn_publishes(data: list[tuple[str, bool, bool]]) -> None:
    """fairlearn.metrics, "Common fairness metrics": the largest less the smallest (over the largest) of the groups."""
    names = sorted({name for name, _, _ in data})
    groups, selection, tpr, fpr, ppv, accuracy = {}, {}, {}, {}, {}, {}
    for name in names:
        said = [s for g, s, _ in data if g == name]
        true = [y for g, _, y in data if g == name]
        groups[name] = sums_of(BINARY_LAYOUT, [int(s) for s in said], [int(y) for y in true])
        selection[name] = sum(said) / len(said)
        if any(true):
            tpr[name] = sum(s and y for s, y in zip(said, true, strict=True)) / sum(true)
        if not all(true):
            fpr[name] = sum(s and not y for s, y in zip(said, true, strict=True)) / (len(true) - sum(true))
        if any(said):
            ppv[name] = sum(s and y for s, y in zip(said, true, strict=True)) / sum(said)
        accuracy[name] = sum(s == y for s, y in zip(said, true, strict=True)) / len(said)
    rates = group_rates(BINARY_LAYOUT, groups)
    for rate, expected in (
        ("selection_rate", selection),
        ("true_positive_rate", tpr),
        ("false_positive_rate", fpr),
        ("positive_predictive_value", ppv),
        ("accuracy", accuracy),
    ):
        assert {g: rates[g][rate].value for g in names} == pytest.approx({g: expected.get(g) for g in names})
    assert {g: rates[g]["false_negative_rate"].value for g in tpr} == pytest.approx({g: 1 - tpr[g] for g in tpr})

    found = {one.measure: one for one in disparities(BINARY_LAYOUT, rates, minimum_rows=1)}

    def spread(values: dict[str, float]) -> float | None:
        return pytest.approx(max(values.values()) - min(values.values())) if len(values) > 1 else None

    assert found["demographic_parity_difference"].value == spread(selection)
    assert found["equal_opportunity_difference"].value == spread(tpr)
    assert found["false_positive_rate_difference"].value == spread(fpr)
    assert found["predictive_parity_difference"].value == spread(ppv)
    assert found["accuracy_difference"].value == spread(accuracy)
    if len(names) > 1 and max(selection.values()) > 0:
        expected_ratio = min(selection.values()) / max(selection.values())
        assert found["demographic_parity_ratio"].value == pytest.approx(expected_ratio)
    both = {g for g in names if g in tpr and g in fpr}
    if len(both) > 1:
        odds = max(max(v[g] for g in both) - min(v[g] for g in both) for v in (tpr, fpr))
        assert found["equalized_odds_difference"].value == pytest.approx(odds)
    for one in found.values():
        if one.value is not None:
            assert one.low is not None and one.high is not None and one.low <= one.value + 1e-12 <= one.high + 1e-9


def binary_groups(**counts: tuple[int, int, int, int]) -> dict[str, Sums]:
    """True positives, false positives, false negatives, true negatives by group."""
    return {
        name: sums_of(
            BINARY_LAYOUT, [1] * tp + [1] * fp + [0] * fn + [0] * tn, [1] * tp + [0] * fp + [1] * fn + [0] * tn
        )
        for name, (tp, fp, fn, tn) in counts.items()
    }


def compared(
    groups: dict[str, Sums], layout: PerformanceLayout = BINARY_LAYOUT, **options: Any
) -> dict[Any, Comparison]:
    found = compare_groups(layout, group_rates(layout, groups), **options)
    return {(one.measure, one.group): one for one in found}


def test_intervals_hold_together_for_all_groups() -> None:
    groups = binary_groups(a=(60, 20, 40, 80), b=(30, 30, 70, 70), c=(50, 20, 50, 80))
    wide = compared(groups)["demographic_parity_difference", "b"]
    named = compared(groups, reference="a")["demographic_parity_difference", "b"]
    alone = compared({name: groups[name] for name in "ab"}, reference="a")["demographic_parity_difference", "b"]
    assert (wide.reference, wide.value) == ("a", pytest.approx(60 / 200 - 80 / 200))
    assert None not in (wide.low, wide.high, named.low, named.high, alone.low, alone.high)
    assert wide.low < named.low < alone.low and wide.high > named.high > alone.high  # type: ignore[operator]
    # Newcombe 1998 at 5 % over the three pairs, and over the two comparisons that were chosen beforehand
    for one, comparisons in ((wide, 3), (named, 2), (alone, 1)):
        (l1, u1), (l2, u2) = wilson(0.3, 200, 0.05 / comparisons), wilson(0.4, 200, 0.05 / comparisons)
        assert one.low == pytest.approx(-0.1 - math.hypot(0.3 - l1, u2 - 0.4))
        assert one.high == pytest.approx(-0.1 + math.hypot(u1 - 0.3, 0.4 - l2))


def test_a_group_of_few_rows_is_shown_and_not_judged() -> None:
    groups = binary_groups(a=(40, 40, 40, 80), b=(40, 40, 40, 80), few=(0, 0, 0, MINIMUM_ROWS - 1))
    found = compared(groups)
    few = found["demographic_parity_difference", "few"]
    assert few.value == pytest.approx(-0.4) and few.high is not None and few.high < 0
    assert not few.judged and not few.differs and four_fifths(found["demographic_parity_ratio", "few"]) == ""
    assert found["demographic_parity_difference", "b"].judged
    low, high = wilson(0.4, 200)
    worst = {one.measure: one for one in disparities(BINARY_LAYOUT, group_rates(BINARY_LAYOUT, groups))}
    assert worst["demographic_parity_difference"] == Disparity(
        "demographic_parity_difference", 0.0, 0.0, pytest.approx(math.hypot(high - 0.4, 0.4 - low)), "b", "a", 2
    )
    against_few = compared(groups, reference="few")["demographic_parity_difference", "a"]
    assert against_few.value == pytest.approx(0.4) and not against_few.judged and not against_few.differs


def test_the_best_group_is_the_one_with_the_least_of_what_is_bad() -> None:
    groups = binary_groups(a=(60, 40, 40, 60), b=(60, 10, 40, 90))
    found = compared(groups)
    assert ("false_positive_rate_difference", "b") not in found
    assert found["false_positive_rate_difference", "a"].value == pytest.approx(0.3)
    odds = found["equalized_odds_difference", "a"]
    assert odds.reference == "b" or odds.reference == ""  # the true-positive rates are the same
    assert odds.value == pytest.approx(0.3) and odds.differs and odds.low is not None and 0 < odds.low < 0.3


def test_the_four_fifths_rule_says_whether_chance_may_be_it() -> None:
    def said(selected: int, of: int) -> str:
        groups = binary_groups(a=(50 * of // 100, 0, 0, of - 50 * of // 100), b=(selected, 0, 0, of - selected))
        return four_fifths(compared(groups)["demographic_parity_ratio", "b"])

    assert (said(45, 100), said(38, 100), said(100, 1000)) == ("not below", "below, within the error", "below")


def test_selection_is_that_of_all_predictions_and_rates_those_of_weighted_pairs() -> None:
    rng = np.random.default_rng(3)
    said, true = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    weights = np.where(true == 1, 1.0, 8.0)
    sums = sums_of(BINARY_LAYOUT, said, true, weights, unresolved=[1] * 100)
    (rates,) = group_rates(BINARY_LAYOUT, {"g": sums}).values()
    assert rates["selection_rate"].value == pytest.approx((said.sum() + 100) / 400)
    assert rates["selection_rate"].effective == 400
    right = said == true
    assert rates["accuracy"].value == pytest.approx(np.average(right, weights=weights))
    assert rates["accuracy"].rows == 300
    assert rates["accuracy"].effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert rates["true_positive_rate"].value == pytest.approx(right[true == 1].mean())


def test_numbers_and_classes_are_compared_by_their_errors() -> None:
    rng = np.random.default_rng(5)
    truth = {"a": rng.normal(10, 2, 80), "b": rng.normal(12, 2, 50)}
    said = {"a": truth["a"] + rng.normal(0, 1, 80), "b": truth["b"] + rng.normal(1, 3, 50)}
    groups = {name: sums_of(NUMBER_LAYOUT, said[name], truth[name]) for name in truth}
    rates = group_rates(NUMBER_LAYOUT, groups)
    for name in truth:
        error = said[name] - truth[name]
        for rate, values in (("mae", abs(error)), ("bias", error), ("mean_actual", truth[name])):
            found = rates[name][rate]
            assert found.value == pytest.approx(values.mean())
            ends = student.interval(0.95, len(values) - 1, values.mean(), values.std(ddof=1) / math.sqrt(len(values)))
            assert (found.low, found.high) == pytest.approx(ends)
    found = compared(groups, NUMBER_LAYOUT)
    assert set(found) == {("mae_difference", "b"), ("bias_difference", "b")}
    assert found["mae_difference", "b"].differs and found["mae_difference", "b"].reference == "a"
    classes = {
        "a": sums_of(CLASS_LAYOUT, [0, 1, 2] * 30, [0, 1, 2] * 30),
        "b": sums_of(CLASS_LAYOUT, [0, 1, 2] * 30, [0, 1, 1] * 30),
    }
    one = compared(classes, CLASS_LAYOUT)["accuracy_difference", "b"]
    assert one.value == pytest.approx(-1 / 3) and one.differs


def test_what_cannot_be_compared_is_left_out() -> None:
    nobody = group_rates(BINARY_LAYOUT, binary_groups(a=(0, 0, 0, 0)))
    assert nobody["a"]["accuracy"].value is None and compare_groups(BINARY_LAYOUT, nobody) == []
    assert all(one.value is None for one in disparities(BINARY_LAYOUT, nobody))
    no_positives = compared(binary_groups(a=(0, 0, 0, 50), b=(0, 0, 0, 50)))
    assert no_positives["demographic_parity_ratio", "b"].value is None
    assert not no_positives["demographic_parity_ratio", "b"].differs
    assert ("equal_opportunity_difference", "b") not in no_positives
    assert group_rates(OTHERS, {"a": sums_of(OTHERS, [0], [0])}) == {"a": {}}
    with pytest.raises(KeyError, match="nobody"):
        compared(binary_groups(a=(1, 1, 1, 1)), reference="nobody")


def test_a_difference_is_reported_where_there_is_none_no_more_often_than_promised() -> None:
    rng, trials = np.random.default_rng(11), 300
    wrong = 0
    for _ in range(trials):
        counts = {f"g{k}": tuple(rng.multinomial(300, [0.2, 0.1, 0.1, 0.6]).tolist()) for k in range(4)}
        found = compared(binary_groups(**counts))  # type: ignore[arg-type]
        wrong += any(one.differs for (measure, _), one in found.items() if measure == "equalized_odds_difference")
    assert wrong / trials <= 0.08
