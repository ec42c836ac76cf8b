"""The reference at a window's own ages, against a slow weighting of raw rows by scikit-learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from services.performance.maturity import (
    DelayCurve,
    delay_curve,
    expected_coverage,
    fits,
    matched_reference,
    reference_sums,
)
from services.performance.windows import Span
from streams.baseline import Baseline
from streams.outcomes.ages import LabelAges
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout
from streams.statistics.performance.sums import merge

HOUR_US = 3_600_000_000
LAYOUT = PerformanceLayout(
    BINARY, ("no", "yes"), np.linspace(0.01, 0.99, 99), np.array([HOUR_US, 5 * HOUR_US]), values=np.eye(2)
)
Make = Callable[..., Any]


@pytest.fixture
def late_truth() -> tuple[Any, Any, Any]:
    """Scores, outcomes and ages of 600 rows: what is true is known later."""
    rng = np.random.default_rng(4)
    scores = np.round(rng.random(600), 2)
    actual = rng.random(600) < scores
    ages = np.where(actual, rng.integers(0, 10, 600), rng.integers(0, 4, 600)) * HOUR_US
    return scores, actual, ages


def test_the_reference_is_weighted_to_the_ages_of_the_window(
    make_sums: Make, make_reference: Make, late_truth: Any
) -> None:
    scores, actual, ages = late_truth
    reference = make_reference(LAYOUT, scores, actual, ages_us=ages)
    young = ages <= 2 * HOUR_US
    window = make_sums(LAYOUT, scores[young], actual[young], ages_us=ages[young])
    found = matched_reference(reference, LAYOUT, window)
    bucket = np.searchsorted(LAYOUT.age_edges_us, ages, "left")
    wanted, had = np.bincount(bucket[young], minlength=3), np.bincount(bucket, minlength=3)
    weights = (wanted / had)[bucket]
    said = scores >= 0.5
    expected = {
        "accuracy": accuracy_score(actual, said, sample_weight=weights),
        "f1": f1_score(actual, said, sample_weight=weights),
        "log_loss": log_loss(actual, np.clip(scores, 1e-15, 1 - 1e-15), sample_weight=weights),
        "brier": brier_score_loss(actual, scores, sample_weight=weights),
        "prevalence": np.average(actual, weights=weights),
        "value": np.average(said == actual, weights=weights),
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=1e-6)
    area = roc_auc_score(actual, scores, sample_weight=weights)
    assert found["roc_auc"].value == pytest.approx(area, abs=found["roc_auc"].error + 1e-6)
    assert "predicted_positive_rate" not in found
    # early on fewer are positive than in the end, and the interval is of the rows that the weights leave
    final = metrics(LAYOUT, merge(reference_sums(reference, LAYOUT)))
    assert final["accuracy"].value == pytest.approx(accuracy_score(actual, said))
    assert final["prevalence"].value == pytest.approx(actual.mean())
    early, late = found["prevalence"], final["prevalence"]
    assert early.value is not None and late.value is not None and early.value < late.value - 0.1
    assert early.low is not None and early.high is not None and late.low is not None and late.high is not None
    assert early.high - early.low > late.high - late.low


def test_a_window_as_old_as_the_reference_is_compared_with_all_of_it(
    make_sums: Make, make_reference: Make, late_truth: Any
) -> None:
    scores, actual, ages = late_truth
    reference = make_reference(LAYOUT, scores, actual, ages_us=ages)
    same = make_sums(LAYOUT, scores, actual, ages_us=ages)
    found, whole = matched_reference(reference, LAYOUT, same), metrics(LAYOUT, same)
    for name, metric in found.items():
        assert (metric.value, metric.low, metric.high) == pytest.approx(
            (whole[name].value, whole[name].low, whole[name].high), abs=1e-6
        )


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION])
def test_other_tasks_are_weighted_too(make_sums: Make, make_reference: Make, task: str) -> None:
    rng = np.random.default_rng(6)
    layout = PerformanceLayout(
        task, ("a", "b", "c") if task == MULTICLASS else (), age_edges_us=np.array([HOUR_US]),
        quantile=0.5 if task == REGRESSION else None,
    )  # fmt: skip
    scores = rng.dirichlet(np.ones(3), 300) if task == MULTICLASS else rng.normal(size=300)
    actual = rng.integers(0, 3, 300) if task == MULTICLASS else scores + rng.normal(size=300)
    ages = rng.choice([0, 3 * HOUR_US], 300)
    reference = make_reference(layout, scores, actual, ages_us=ages)
    young = np.flatnonzero(ages == 0)[:50]
    found = matched_reference(reference, layout, make_sums(layout, scores[young], actual[young], ages_us=ages[young]))
    of = ages == 0
    expected = metrics(layout, make_sums(layout, scores[of], actual[of], ages_us=ages[of]))
    assert {n: m.value for n, m in found.items()} == pytest.approx({n: m.value for n, m in expected.items()}, abs=1e-6)


def test_nothing_is_compared_that_cannot_be(make_sums: Make, make_reference: Make, late_truth: Any) -> None:
    scores, actual, ages = late_truth
    early = ages <= HOUR_US
    reference = make_reference(LAYOUT, scores[early], actual[early], ages_us=ages[early])
    window = make_sums(LAYOUT, scores, actual, ages_us=ages)
    assert matched_reference(reference, LAYOUT, window) == {}  # the reference knows nothing of late outcomes
    young = make_sums(LAYOUT, scores[early], actual[early], ages_us=ages[early])
    assert matched_reference(reference, LAYOUT, young)["accuracy"].value is not None
    assert matched_reference(reference, LAYOUT, make_sums(LAYOUT, [], [])) == {}
    other = dataclasses.replace(LAYOUT, score_edges=np.array([0.5]))
    assert not fits(reference, other)
    assert matched_reference(reference, other, make_sums(other, scores, actual, ages_us=ages)) == {}
    without = dataclasses.replace(reference, sums={n: a for n, a in reference.sums.items() if "value" not in n})
    assert "value" not in matched_reference(without, LAYOUT, young)


def test_a_reference_knows_nothing_of_humility(make_sums: Make, make_reference: Make, late_truth: Any) -> None:
    scores, actual, ages = late_truth
    reference = make_reference(LAYOUT, scores, actual, ages_us=ages)
    humble = dataclasses.replace(LAYOUT, coverage_score="one_minus_probability")
    found = matched_reference(reference, humble, make_sums(humble, scores, actual, ages_us=ages))
    assert found == matched_reference(reference, LAYOUT, make_sums(LAYOUT, scores, actual, ages_us=ages))
    assert found and "adaptive_coverage" not in found


def test_coverage_is_that_of_the_reference_at_the_same_age() -> None:
    curve = DelayCurve(np.array([0, 2, 10]) * HOUR_US, np.array([0.0, 0.8, 0.9]))

    def at(clock_hours: int, horizon_hours: int = 48, predictions: int = 10) -> Span:
        return Span(0, 2 * HOUR_US, clock_hours * HOUR_US, horizon_hours * HOUR_US, 0, predictions)

    assert expected_coverage(curve, [at(100)]) == pytest.approx(0.9)
    assert expected_coverage(curve, [at(2)]) == pytest.approx(0.4)  # ages from 0 to 2 h
    assert expected_coverage(curve, [at(100, horizon_hours=2)]) == pytest.approx(0.8)
    assert expected_coverage(curve, [at(2), at(100, predictions=30)]) == pytest.approx((0.4 + 3 * 0.9) / 4)
    assert expected_coverage(curve, [at(2, predictions=0)]) is None


def test_the_delay_curve_is_the_finest_there_is(make_reference: Make, late_truth: Any) -> None:
    scores, actual, ages = late_truth
    reference = make_reference(LAYOUT, scores, actual, ages_us=ages, rows=1200)
    plain = delay_curve(Baseline("d", "1", 1, (), outcomes=reference))
    assert plain is not None and plain.ages_us.tolist() == [0, HOUR_US, 5 * HOUR_US, 48 * HOUR_US]
    assert plain.known[1:].tolist() == pytest.approx([(ages <= e).sum() / 1200 for e in (HOUR_US, 5 * HOUR_US, 10**12)])
    learnt = LabelAges(np.array([HOUR_US]), np.array([HOUR_US, 3 * HOUR_US]), np.array([0.25, 0.5]))
    fine = delay_curve(Baseline("d", "1", 1, (), derived=(learnt.to_derived(),), outcomes=reference))
    assert fine is not None and fine.ages_us.tolist() == [0, HOUR_US, 3 * HOUR_US]
    assert fine.known.tolist() == [0.0, 0.25, 0.5]
    assert delay_curve(Baseline("d", "1", 1, ())) is None
