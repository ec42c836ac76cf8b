"""What the outcomes of two baselines show, side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from services.cli import output
from services.cli.baseline_tables import show_outcome_differences
from services.deployments.outcome_comparison import (
    AGES,
    CHANGED,
    COVERAGE,
    FINAL_AGE,
    HORIZON,
    MEDIAN_AGE,
    SAME,
    UNKNOWN,
    OutcomeDifference,
    compare_outcomes,
)
from streams.baseline import Baseline, OutcomeReference
from streams.statistics.performance.pairs import BINARY, REGRESSION, PerformanceLayout

Make = Callable[..., Any]

HOUR_US = 3_600_000_000
LAYOUT = PerformanceLayout(BINARY, ("on_time", "late"), age_edges_us=np.array([HOUR_US, 5 * HOUR_US]))


def baseline_of(reference: OutcomeReference | None) -> Baseline:
    return Baseline("delays", "1", 2000, (), outcomes=reference)


def by_name(first: OutcomeReference | None, second: OutcomeReference | None) -> dict[str, OutcomeDifference]:
    found = compare_outcomes(baseline_of(first), baseline_of(second))
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


def rows(right: int, wrong: int) -> tuple[Any, Any]:
    """Scores and outcomes: so many right and wrong, of each half late."""
    actual = np.arange(right + wrong) % 2
    scores = np.where(np.arange(right + wrong) < right, actual, 1 - actual) * 0.8 + 0.1
    return scores, actual


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float, float]:
    """Second share less first with Newcombe's limits (Statistics in Medicine 17, 1998, method 10)."""
    (k1, n1), (k2, n2) = first, second
    one, other = (binomtest(k, n).proportion_ci(method="wilson") for k, n in (first, second))
    p1, p2 = k1 / n1, k2 / n2
    low = p2 - p1 - math.hypot(p2 - other.low, one.high - p1)
    return p2 - p1, low, p2 - p1 + math.hypot(other.high - p2, p1 - one.low)


# the fixture is a function that keeps nothing
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(right=st.integers(50, 250), later=st.integers(50, 250))
def test_a_change_of_accuracy_has_the_interval_of_two_shares(make_reference: Make, right: int, later: int) -> None:
    found = by_name(
        make_reference(LAYOUT, *rows(right, 300 - right)), make_reference(LAYOUT, *rows(later, 400 - later))
    )
    change, low, high = newcombe((right, 300), (later, 400))
    accuracy = found["accuracy"]
    assert (accuracy.change, accuracy.low, accuracy.high) == pytest.approx((change, low, high))
    assert accuracy.verdict == (CHANGED if low > 0 or high < 0 else SAME)
    assert accuracy.first.startswith(f"{right / 300:.3f} (") and accuracy.second.startswith(f"{later / 400:.3f} (")


def test_a_baseline_beside_itself_has_not_changed(make_reference: Make) -> None:
    reference = make_reference(LAYOUT, *rows(200, 100))
    found = by_name(reference, reference)
    assert {"accuracy", "brier", "roc_auc", "prevalence", COVERAGE, *AGES} <= set(found)
    assert {each.change for each in found.values() if each.change is not None} == {0.0}
    assert {each.verdict for each in found.values()} == {SAME}


def test_coverage_and_ages_are_compared(make_reference: Make) -> None:
    scores, actual = rows(300, 100)
    early = np.where(np.arange(400) < 300, HOUR_US // 2, 3 * HOUR_US)
    late = np.where(np.arange(400) < 100, HOUR_US // 2, 3 * HOUR_US)
    first = make_reference(LAYOUT, scores, actual, ages_us=early, rows=500)
    second = make_reference(LAYOUT, scores, actual, ages_us=late, rows=400, final_age_us=12 * HOUR_US)
    found = by_name(first, second)
    change, low, high = newcombe((400, 500), (400, 400))
    coverage = found[COVERAGE]
    assert (coverage.change, coverage.low, coverage.high) == pytest.approx((change, low, high))
    assert coverage.verdict == CHANGED and found[FINAL_AGE].change == 2 * HOUR_US
    # 300 of 400 known evenly up to an hour: 200 after 40 minutes; then 100, and 300 from the first hour to the fifth
    assert found[MEDIAN_AGE].first == "40 min"
    assert found[MEDIAN_AGE].change == pytest.approx(HOUR_US * (1 + 4 * 100 / 300 - 2 / 3), abs=2)
    assert found["accuracy"].change == 0 and found[HORIZON].change == 0


def test_what_only_one_has_stands_alone(make_reference: Make) -> None:
    reference = make_reference(LAYOUT, *rows(200, 100))
    assert compare_outcomes(baseline_of(None), baseline_of(None)) == []
    gone, new = by_name(reference, None), by_name(None, reference)
    assert list(gone) == list(new)
    for name in ("accuracy", COVERAGE, FINAL_AGE):
        assert gone[name].first == new[name].second != "" and gone[name].second == new[name].first == ""
        assert gone[name].change is new[name].change is None and gone[name].verdict == SAME


def test_other_classes_tasks_and_unripe_horizons_are_not_compared(make_reference: Make) -> None:
    scores, actual = rows(200, 100)
    reference = make_reference(LAYOUT, scores, actual)
    others = dataclasses.replace(LAYOUT, classes=("no", "yes"))
    found = by_name(reference, make_reference(others, scores, actual))
    assert found["accuracy"].verdict == UNKNOWN and found["accuracy"].change is None and found[COVERAGE].change == 0
    numbers = make_reference(
        PerformanceLayout(REGRESSION, age_edges_us=LAYOUT.age_edges_us), scores, actual, classes=()
    )
    found = by_name(reference, numbers)
    assert (found["accuracy"].first != "", found["accuracy"].second, found["mae"].first) == (True, "", "")
    # 99 % of the first's were known after 10 hours: a horizon of 20 hours waits for them, one of 5 hours does not
    for hours, accuracy in ((20, SAME), (5, UNKNOWN)):
        found = by_name(reference, make_reference(LAYOUT, scores, actual, horizon_ms=hours * 3_600_000))
        assert found["accuracy"].verdict == accuracy and found[COVERAGE].verdict == UNKNOWN
        assert found[HORIZON].change == (hours - 48) * HOUR_US


def test_the_table_says_what_changed(
    make_reference: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.stdout, "width", 120)
    show_outcome_differences([])
    assert capsys.readouterr().out == ""
    first, second = make_reference(LAYOUT, *rows(280, 20)), make_reference(LAYOUT, *rows(200, 100))
    show_outcome_differences(compare_outcomes(baseline_of(first), baseline_of(second)))
    lines = capsys.readouterr().out.splitlines()
    accuracy = next(line for line in lines if line.strip().startswith("accuracy"))
    assert accuracy.split()[1] == "0.933" and "-0.267" in accuracy and accuracy.rstrip().endswith(CHANGED)
    final = next(line for line in lines if line.strip().startswith(FINAL_AGE))
    assert final.split() == ["final", "age", "10", "h", "10", "h"]
    assert max(map(len, lines)) <= 120
