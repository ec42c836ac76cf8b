"""How scores are cut, against sorting and counting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streams.outcomes.scores import (
    LEAST_CONDITION_PAIRS,
    leading_scores,
    learn_calibration,
    learn_score_buckets,
    learn_score_edges,
)
from streams.specification import BINARY, MULTICLASS, OTHER_TASK, REGRESSION
from streams.statistics.performance.calibration_map import fit_calibration
from streams.statistics.performance.pairs import Pairs, PerformanceLayout, Predicted

Floats = np.ndarray[Any, np.dtype[np.float64]]


def predicted(scores: Floats) -> Predicted:
    return Predicted(scores, np.full(len(scores), -1, np.int64))


def layout(task: str, edges: Any = None, ages: int = 1, threshold: float = 0.5) -> PerformanceLayout:
    classes = {BINARY: ("0", "1"), MULTICLASS: ("a", "b", "c")}.get(task, ())
    edges = np.linspace(0.1, 0.9, 9) if edges is None else edges
    return PerformanceLayout(task, classes, edges, np.arange(ages - 1), threshold)


def pairs_of(scores: Floats, actual: Floats, weights: Floats | None = None) -> Pairs:
    rows, zeros = len(actual), np.zeros(len(actual), np.int64)
    weights = np.ones(rows) if weights is None else weights
    return Pairs(predicted(scores), actual, zeros, zeros, weights, np.zeros(rows, np.uint8), np.zeros(rows))


def test_a_prediction_is_known_by_its_score_its_largest_probability_or_its_value() -> None:
    nan = np.nan
    binary = leading_scores(layout(BINARY), predicted(np.array([[0.2], [nan]])))
    assert np.array_equal(binary, [0.2, nan], equal_nan=True)
    several = np.array([[0.2, 0.5, 0.3], [nan, 0.7, nan], [nan, nan, nan]])
    assert np.array_equal(leading_scores(layout(MULTICLASS), predicted(several)), [0.5, 0.7, nan], equal_nan=True)
    number = leading_scores(layout(REGRESSION), predicted(np.array([[-4.0, -5.0, -3.0], [nan, 0.0, 1.0]])))
    assert np.array_equal(number, [-4.0, nan], equal_nan=True)
    assert np.isnan(leading_scores(layout(OTHER_TASK), predicted(np.zeros((3, 0))))).all()
    assert leading_scores(layout(BINARY), predicted(np.zeros((0, 1)))).shape == (0,)


@given(
    values=arrays.arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 1, width=16)),
    threshold=st.sampled_from([0.5, 0.17]),
)
def test_edges_ascend_part_the_mass_evenly_and_hold_the_threshold(values: Floats, threshold: float) -> None:
    edges = learn_score_edges(layout(BINARY, threshold=threshold), predicted(values[:, None]))
    assert threshold in edges
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= 99
    quantiles = {sorted(values)[-(-len(values) * k // 99) - 1] for k in range(1, 99)} - {values.min()}
    assert set(edges.tolist()) == quantiles | {threshold}


def test_edges_of_scores_that_are_all_missing_are_the_threshold_alone() -> None:
    nothing = predicted(np.full((50, 1), np.nan))
    assert learn_score_edges(layout(BINARY), nothing).tolist() == [0.5]
    assert learn_score_edges(layout(REGRESSION), predicted(np.full((50, 3), np.nan))).tolist() == []
    assert learn_score_buckets(layout(BINARY), nothing, np.zeros(50, np.int64)).tolist() == []


def test_edges_of_several_classes_part_all_probabilities_and_the_largest_ones() -> None:
    scores = np.random.default_rng(1).dirichlet([1, 1, 1], 3_001)
    edges = learn_score_edges(layout(MULTICLASS), predicted(scores))
    everything = np.sort(scores.ravel())
    largest = np.sort(scores.max(axis=1))
    assert {everything[-(-9_003 * k // 50) - 1] for k in range(1, 50)} <= set(edges.tolist())
    assert {largest[-(-3_001 * k // 51) - 1] for k in range(1, 51)} <= set(edges.tolist())
    assert len(edges) <= 99


@pytest.mark.parametrize(("rows", "ages"), [(20_000, 4), (3_000, 3), (900, 2), (500, 1), (390, 1)])
def test_buckets_are_as_many_as_have_pairs_enough_at_every_age(rows: int, ages: int) -> None:
    rng = np.random.default_rng(rows)
    scores, age = rng.random(rows), rng.integers(0, ages, rows)
    edges = learn_score_buckets(layout(BINARY, ages=ages), predicted(scores[:, None]), age)

    def least(number: int) -> int:
        """Pairs in the emptiest cell of so many buckets."""
        cuts = [sorted(scores)[-(-rows * k // number) - 1] for k in range(1, number)]
        bucket = [sum(score >= cut for cut in cuts) for score in scores]
        cells = [(a, b) for a in range(ages) for b in range(number)]
        found = list(zip(age.tolist(), bucket, strict=True))
        return min(found.count(cell) for cell in cells)

    largest = next((n for n in range(10, 1, -1) if least(n) >= LEAST_CONDITION_PAIRS), 1)
    assert len(edges) + 1 == largest


def test_scores_of_few_kinds_make_fewer_buckets_and_none_that_is_empty() -> None:
    scores = np.repeat([0.1, 0.4, 0.9], [3_000, 2_000, 1_000])
    edges = learn_score_buckets(layout(BINARY), predicted(scores[:, None]), np.zeros(6_000, np.int64))
    assert edges.tolist() == [0.4, 0.9]


def test_calibration_is_that_of_shares_and_mean_scores_counted_one_by_one() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(2_000)
    scores[::50] = np.nan
    actual = (rng.random(2_000) < np.nan_to_num(scores) ** 2) * 1.0
    weights = rng.uniform(1, 4, 2_000)
    found = learn_calibration(layout(BINARY), pairs_of(scores[:, None], actual, weights))
    there = ~np.isnan(scores)
    factor = weights[there].sum() / (weights[there] ** 2).sum()
    total, positive, summed = np.zeros(10), np.zeros(10), np.zeros(10)
    for score, outcome, weight in zip(scores[there], actual[there], weights[there], strict=True):
        at = sum(score >= edge for edge in np.linspace(0.1, 0.9, 9))
        total[at] += factor * weight
        positive[at] += factor * weight * outcome
        summed[at] += factor * weight * score
    assert found == pytest.approx(fit_calibration(positive, total, summed / total), rel=1e-9)
    assert np.abs(found - (np.arange(10) + 0.5) ** 2 / 100).max() < 0.1


def test_labelling_weights_undo_a_sample_that_was_chosen_by_the_outcome() -> None:
    rng = np.random.default_rng(5)
    scores = rng.random(40_000)
    actual = (rng.random(40_000) < scores) * 1.0
    chance = np.where(actual == 1, 0.5, 0.1)
    kept = rng.random(40_000) < chance
    biased = learn_calibration(layout(BINARY), pairs_of(scores[kept, None], actual[kept]))
    weighted = learn_calibration(layout(BINARY), pairs_of(scores[kept, None], actual[kept], 1 / chance[kept]))
    truth = (np.arange(10) + 0.5) / 10
    assert np.abs(weighted - truth).max() < 0.06
    assert np.abs(biased - truth).max() > 0.2


def test_only_scores_of_classes_are_calibrated() -> None:
    scores = np.random.default_rng(1).dirichlet([1, 1, 1], 600)
    actual = np.arange(600) % 3.0
    assert len(learn_calibration(layout(MULTICLASS), pairs_of(scores, actual))) == 3 * 10
    assert learn_calibration(layout(MULTICLASS), pairs_of(np.full((600, 3), np.nan), actual)).size == 0
    assert learn_calibration(layout(REGRESSION), pairs_of(scores, actual)).size == 0
