"""The loss that is expected of a prediction: which columns it looks at, and of which rows it is told."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from driftline.events import PredictionColumns
from streams.baseline import Baseline
from streams.outcomes.expected import expected_of, learn_expected_loss
from streams.reference import build_baseline
from streams.specification import BINARY, REGRESSION, DeploymentSpec, FeatureSpec
from streams.statistics.performance.expected_loss import columns_of
from streams.statistics.performance.pairs import Pairs, PerformanceLayout, Predicted

ROWS = 4_000
Floats = np.ndarray[Any, np.dtype[np.float64]]


def events(first: int, rows: int, seed: int) -> PredictionColumns:
    rng = np.random.default_rng(seed)
    features = {"spread": rng.uniform(0.5, 3.0, rows), "idle": rng.normal(size=rows)}
    ids = [str(at) for at in range(first, first + rows)]
    times = 10**15 + np.arange(first, first + rows)
    return PredictionColumns("d", "1", ids, times, features, prediction=rng.normal(size=rows))


SPEC = DeploymentSpec(
    "d",
    "m",
    REGRESSION,
    (FeatureSpec("spread", "numeric"), FeatureSpec("idle", "numeric")),
)
BATCHES = [events(0, 1_500, 1), events(1_500, ROWS - 1_500, 2)]
LAYOUT = PerformanceLayout(REGRESSION)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return build_baseline(SPEC, "1", BATCHES, source="t")


def whole(name: str) -> Floats:
    return np.concatenate([batch.numeric[name] for batch in BATCHES])


def pairs_of(rows: np.ndarray[Any, Any], seed: int = 3) -> Pairs:
    """Errors as large as the column ``spread`` says."""
    rng = np.random.default_rng(seed)
    predicted = np.concatenate([batch.prediction for batch in BATCHES])[rows]
    zeros = np.zeros(len(rows), np.int64)
    missing = np.full(len(rows), np.nan)
    return Pairs(
        Predicted(np.stack([predicted, missing, missing], axis=1), zeros - 1),
        predicted + whole("spread")[rows] * rng.normal(size=len(rows)),
        zeros, zeros, np.ones(len(rows)), np.zeros(len(rows), np.uint8), np.zeros(len(rows)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(baseline: Baseline) -> dict[str, Floats]:
    rows = np.random.default_rng(1).permutation(ROWS)
    return learn_expected_loss(baseline, BATCHES, LAYOUT, rows, pairs_of(rows))


def test_it_looks_at_the_prediction_and_the_watched_numbers(baseline: Baseline, model: dict[str, Floats]) -> None:
    assert columns_of(model)[0] == "prediction"
    assert set(columns_of(model)) == {"prediction", "spread", "idle"}


def test_rows_are_found_across_batches_and_in_any_order(model: dict[str, Floats]) -> None:
    expected = expected_of(model, BATCHES, np.arange(ROWS))
    assert expected is not None
    some = np.array([3_999, 0, 1_499, 1_500])
    assert np.array_equal(expected_of(model, BATCHES, some), expected[some])


def test_expected_losses_are_those_of_the_law(model: dict[str, Floats]) -> None:
    """E|e| is sd * sqrt(2/pi), E e^2 is sd^2."""
    expected = expected_of(model, BATCHES, np.arange(ROWS))
    assert expected is not None
    spread = whole("spread")
    assert expected[:, 0].mean() == pytest.approx((spread * np.sqrt(2 / np.pi)).mean(), rel=0.05)
    assert np.corrcoef(expected[:, 0], spread)[0, 1] > 0.95
    assert np.corrcoef(expected[:, 1], spread**2)[0, 1] > 0.95


def test_a_row_needs_its_prediction_but_no_feature_to_have_an_expected_loss(
    model: dict[str, Floats],
) -> None:
    columns = events(0, 4, 9)
    columns.prediction[1] = np.nan
    columns.numeric["spread"][2] = np.nan
    found = expected_of(model, [columns], np.arange(4))
    assert found is not None
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2, 3]]).all()
    assert (found[[0, 2, 3]] > 0).all()
    silent = dataclasses.replace(columns, prediction=None)
    nothing = expected_of(model, [silent], np.arange(4))
    assert nothing is not None
    assert np.isnan(nothing).all()


def test_there_is_no_model_for_classes_nor_without_predictions(baseline: Baseline) -> None:
    rows = np.arange(100)
    pairs = pairs_of(rows)
    assert learn_expected_loss(baseline, BATCHES, PerformanceLayout(BINARY, ("0", "1")), rows, pairs) == {}
    silent = dataclasses.replace(pairs, predicted=Predicted(np.full((100, 3), np.nan), pairs.predicted.labels))
    assert learn_expected_loss(baseline, BATCHES, LAYOUT, rows, silent) == {}
    assert expected_of({}, BATCHES, rows) is None


def test_pairs_without_a_prediction_take_no_part(baseline: Baseline) -> None:
    rows = np.arange(ROWS)
    pairs = pairs_of(rows)
    odd = np.arange(ROWS) % 3 == 0
    pairs.predicted.scores[odd, 0] = np.nan
    actual = np.where(odd, 1e9, pairs.actual)
    found = learn_expected_loss(baseline, BATCHES, LAYOUT, rows, dataclasses.replace(pairs, actual=actual))
    alone = learn_expected_loss(baseline, BATCHES, LAYOUT, rows[~odd], pairs.take(np.flatnonzero(~odd)))
    assert found.keys() == alone.keys()
    assert all(np.array_equal(found[name], alone[name]) for name in found)
