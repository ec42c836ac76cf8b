"""Reliability, confusion and groups of a window, against naive counting of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix

from services.performance.tables import confusion, groups, reliability
from services.performance.windows import merge_records
from streams.specification import DeploymentSpec, FeatureSpec
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

LAYOUT = PerformanceLayout(BINARY, ("no", "yes"))
CLASSES = PerformanceLayout(MULTICLASS, ("a", "b", "c"))
Make = Callable[..., Any]


def test_reliability_groups_rows_by_score(make_sums: Make, make_reference: Make) -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(1000)
    actual = rng.random(1000) < scores**2  # too high, most of all in the middle
    reference = make_reference(LAYOUT, scores, actual, calibration=np.linspace(0, 1, LAYOUT.bins))
    found = reliability(LAYOUT, make_sums(LAYOUT, scores, actual), reference)
    assert len(found.rows) == 10 and sum(row.rows for row in found.rows) == 1000
    order = np.sort(scores)
    starts = np.cumsum([0, *(int(row.rows) for row in found.rows)])
    for row, start, end in zip(found.rows, starts[:-1], starts[1:], strict=True):
        mask = (scores >= order[start]) & (scores <= order[end - 1])
        assert row.predicted == pytest.approx(scores[mask].mean(), abs=1e-9)
        assert row.observed == pytest.approx(actual[mask].mean()) and row.low < row.observed < row.high
        assert row.reference == pytest.approx(row.predicted, abs=0.02)
    assert found.rows[5].outside and found.rows[5].predicted > found.rows[5].high
    assert found.brier is not None and found.brier.brier == pytest.approx(brier_score_loss(actual, scores), abs=1e-8)
    assert reliability(LAYOUT, make_sums(LAYOUT, [], []), None).rows == ()
    assert reliability(PerformanceLayout(REGRESSION), {}, None).rows == ()


def test_reliability_and_briers_parts_are_those_of_weighted_rows(make_sums: Make) -> None:
    rng = np.random.default_rng(5)
    scores = rng.beta(1, 2, 1000)
    actual, weights = rng.random(1000) < scores, rng.choice([1.0, 3.0], 1000)
    found = reliability(LAYOUT, make_sums(LAYOUT, scores, actual, weights=weights), None)
    assert sum(row.rows for row in found.rows) == pytest.approx(weights.sum())
    right = sum(row.rows * row.observed for row in found.rows)
    assert right == pytest.approx(np.sum(weights * actual)) and all(r.low <= r.observed <= r.high for r in found.rows)
    raw, parts = brier_score_loss(actual, scores, sample_weight=weights), found.brier
    assert parts is not None and parts.brier == pytest.approx(raw, rel=1e-6)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert total == pytest.approx(raw, rel=1e-6)


def test_reliability_of_several_classes_is_that_of_the_most_probable(make_sums: Make) -> None:
    rng = np.random.default_rng(2)
    scores = rng.dirichlet(np.ones(3), 500)
    actual = rng.integers(0, 3, 500)
    found = reliability(CLASSES, make_sums(CLASSES, scores, actual), None)
    right = scores.argmax(axis=1) == actual
    total = sum(row.rows for row in found.rows)
    assert sum(row.rows * row.observed for row in found.rows) / total == pytest.approx(right.mean())
    assert sum(row.rows * row.predicted for row in found.rows) / total == pytest.approx(scores.max(axis=1).mean())
    assert found.brier is None


def test_a_confusion_matrix_is_predicted_by_actual(make_sums: Make) -> None:
    rng = np.random.default_rng(3)
    scores, actual = rng.dirichlet(np.ones(3), 200), rng.integers(0, 3, 200)
    found = confusion(CLASSES, make_sums(CLASSES, scores, actual))
    expected = confusion_matrix(actual, scores.argmax(axis=1)).T
    assert np.array_equal(found.counts, expected) and not found.weighted and found.classes == ("a", "b", "c")
    weighted = confusion(CLASSES, make_sums(CLASSES, scores, actual, weights=np.where(actual == 1, 2.0, 1.0)))
    assert weighted.counts == found.counts and weighted.weighted
    assert np.array_equal(weighted.weights, expected * np.array([1, 2, 1]))
    assert confusion(PerformanceLayout(REGRESSION), {}).counts == ()


def test_groups_are_the_parts_of_one_segmentation(make_record: Make) -> None:
    spec = DeploymentSpec("delays", "m", BINARY, (FeatureSpec("x", "numeric"),))
    rng = np.random.default_rng(4)
    scores = rng.random(900)
    north = np.arange(900) < 500
    scores[~north] *= 0.7
    record = make_record(
        LAYOUT, scores, rng.random(900) < 0.5,
        parts={"side=north": north, "side=south": ~north, "side2=x": north, "side=(other)": np.arange(900) < 3},
    )  # fmt: skip
    (window,) = merge_records([record], spec)
    found = groups(window, "side")
    assert list(found.rates) == ["side=(other)", "side=north", "side=south"]
    assert found.rates["side=south"]["selection_rate"].value == pytest.approx((scores[~north] >= 0.5).mean())
    verdicts = {(one.measure, one.group): one for one in found.comparisons}
    parity = verdicts["demographic_parity_difference", "side=south"]
    assert parity.reference == "side=north" and parity.differs
    assert not verdicts["demographic_parity_difference", "side=(other)"].judged
    named = groups(window, "side", "side=south")
    assert {one.reference for one in named.comparisons} == {"side=south"}
    assert {one.reference for one in groups(window, "side", "side=gone").comparisons} == {
        one.reference for one in found.comparisons
    }
