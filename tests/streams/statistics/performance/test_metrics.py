"""Metrics from sums are those of scikit-learn on the raw data; undefined ones are None."""

import math
import warnings
from dataclasses import astuple

import numpy as np
import pytest
import sklearn.metrics as sk

from streams.statistics.performance.metrics import Metric, metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import (
    Sums,
    add,
    count_pairs,
    count_predictions,
    empty,
    from_fields,
    take_group,
    to_fields,
)

EQUAL = (1.0,)
UNEQUAL = (1.0, 2.5, 20.0)
VALUES = np.array([[0.0, -100.0], [-10.0, 50.0]])
BINARY_LAYOUT = PerformanceLayout(BINARY, ("no", "yes"), values=VALUES)
CLASSES = PerformanceLayout(MULTICLASS, ("a", "b", "c", "d"))
NUMBERS = PerformanceLayout(REGRESSION, quantile=0.8)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def paired(scores: object, actual: object, *, labels: object = None, weights: object = None) -> Pairs:
    """Pairs with nothing else of interest."""
    actual = np.asarray(actual, np.float64)
    n = len(actual)
    scores = np.asarray(scores, np.float64)
    return Pairs(
        Predicted(scores[:, None] if scores.ndim == 1 else scores, _or(labels, -1, n).astype(np.int64)),
        actual,
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        _or(weights, 1.0, n),
        np.full(n, 255, np.uint8),
        np.zeros(n),
    )


def _or(values: object, default: float, rows: int) -> np.ndarray:
    return np.full(rows, default) if values is None else np.asarray(values)


def summed(layout: PerformanceLayout, pairs: Pairs) -> Sums:
    where = np.zeros(pairs.rows, np.int64)
    return take_group(
        add(count_pairs(layout, pairs, where, 1), count_predictions(layout, pairs.predicted, where, 1)), 0
    )


def binary_pairs(weights: tuple[float, ...], rows: int = 2_000) -> Pairs:
    rng = np.random.default_rng(4)
    scores = rng.beta(1, 2, rows)
    scores[:50] = rng.choice([0.0, 1.0, 0.5, 0.01, 1e-300], 50)
    actual = rng.random(rows) < scores**1.3
    return paired(scores, actual, labels=scores >= 0.5, weights=rng.choice(weights, rows))


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL])
def test_binary_metrics_are_those_of_the_raw_data(weights):
    pairs = binary_pairs(weights)
    found = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, pairs))
    y, scores, labels = pairs.actual.astype(int), pairs.predicted.scores[:, 0], pairs.predicted.labels
    raw = {
        "accuracy": sk.accuracy_score(y, labels, sample_weight=pairs.weights),
        "precision": sk.precision_score(y, labels, sample_weight=pairs.weights),
        "recall": sk.recall_score(y, labels, sample_weight=pairs.weights),
        "f1": sk.f1_score(y, labels, sample_weight=pairs.weights),
        "balanced_accuracy": sk.balanced_accuracy_score(y, labels, sample_weight=pairs.weights),
        "matthews_corrcoef": sk.matthews_corrcoef(y, labels, sample_weight=pairs.weights),
        "log_loss": sk.log_loss(y, scores, sample_weight=pairs.weights),
        "brier": sk.brier_score_loss(y, scores, sample_weight=pairs.weights),
        "prevalence": np.average(y, weights=pairs.weights),
        "value": np.average(VALUES[labels, y], weights=pairs.weights),
        "predicted_positive_rate": labels.mean(),
    }
    for name, expected in raw.items():
        assert found[name].value == pytest.approx(expected, rel=1e-9), name
        assert found[name].error == 0 and found[name].low < expected < found[name].high, name
    binned = {
        "roc_auc": sk.roc_auc_score(y, scores, sample_weight=pairs.weights),
        "average_precision": sk.average_precision_score(y, scores, sample_weight=pairs.weights),
    }
    for name, expected in binned.items():
        assert abs(found[name].value - expected) <= found[name].error < 0.02, name
        assert abs(found[name].value - expected) < 0.002, name
    assert found["roc_auc"].rows == 2_000 and found["precision"].rows == labels.sum()


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL])
def test_multiclass_metrics_are_those_of_the_raw_data(weights):
    rng = np.random.default_rng(5)
    n = 1_500
    scores = rng.dirichlet([3, 2, 1, 0.5], n)
    actual = (scores.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    labels = np.where(rng.random(n) < 0.9, scores.argmax(axis=1), rng.integers(0, 4, n))
    w = rng.choice(weights, n)
    found = metrics(CLASSES, summed(CLASSES, paired(scores, actual, labels=labels, weights=w)))
    raw = {
        "accuracy": sk.accuracy_score(actual, labels, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(actual, labels, sample_weight=w),
        "matthews_corrcoef": sk.matthews_corrcoef(actual, labels, sample_weight=w),
        "log_loss": sk.log_loss(actual, scores, sample_weight=w),
        "brier": sk.brier_score_loss(actual, scores, sample_weight=w),
    }
    for average in ("macro", "weighted"):
        for name, score in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
            raw[f"{name}_{average}"] = score(actual, labels, sample_weight=w, average=average)
    for name, expected in raw.items():
        assert found[name].value == pytest.approx(expected, rel=1e-9), name
        assert found[name].low < expected < found[name].high and found[name].error == 0, name
    for average in ("macro", "weighted"):
        expected = sk.roc_auc_score(actual, scores, sample_weight=w, multi_class="ovr", average=average)
        assert abs(found[f"roc_auc_{average}"].value - expected) <= found[f"roc_auc_{average}"].error < 0.02
    each = [sk.average_precision_score(actual == k, scores[:, k], sample_weight=w) for k in range(4)]
    assert abs(found["average_precision_macro"].value - np.mean(each)) <= found["average_precision_macro"].error < 0.03
    assert 0 <= found["expected_calibration_error"].value < 0.1


def test_averages_over_classes_leave_out_those_that_never_came_as_scikit_learn_does():
    actual, labels = [0, 0, 1, 1, 1], [0, 2, 1, 1, 0]
    found = metrics(CLASSES, summed(CLASSES, paired(np.zeros((5, 0)), actual, labels=labels)))
    for average in ("macro", "weighted"):
        for name, score in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
            expected = score(actual, labels, average=average, zero_division=0)
            assert found[f"{name}_{average}"].value == pytest.approx(expected, rel=1e-12), name
    assert found["balanced_accuracy"].value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["matthews_corrcoef"].value == pytest.approx(sk.matthews_corrcoef(actual, labels))
    assert found["log_loss"].value is None and found["roc_auc_macro"].value is None


@pytest.mark.parametrize("weights", [EQUAL, UNEQUAL])
def test_regression_metrics_are_those_of_the_raw_data(weights):
    rng = np.random.default_rng(6)
    n = 2_000
    actual = rng.gamma(2, 30, n)
    predicted = actual * rng.lognormal(0, 0.2, n) + rng.normal(0, 3, n)
    width = rng.gamma(2, 5, n)
    w = rng.choice(weights, n)
    pairs = paired(np.stack((predicted, predicted - width, predicted + width), axis=1), actual, weights=w)
    found = metrics(NUMBERS, summed(NUMBERS, pairs))
    e = predicted - actual
    raw = {
        "mae": sk.mean_absolute_error(actual, predicted, sample_weight=w),
        "rmse": sk.root_mean_squared_error(actual, predicted, sample_weight=w),
        "mape": sk.mean_absolute_percentage_error(actual, predicted, sample_weight=w),
        "r2": sk.r2_score(actual, predicted, sample_weight=w),
        "quantile_loss": sk.mean_pinball_loss(actual, predicted, sample_weight=w, alpha=0.8),
        "bias": np.average(e, weights=w),
        "smape": np.average(2 * abs(e) / (abs(actual) + abs(predicted)), weights=w),
        "interval_coverage": np.average(abs(e) <= width, weights=w),
        "interval_width": np.average(2 * width, weights=w),
    }
    assert raw.keys() == found.keys()
    for name, expected in raw.items():
        assert found[name].value == pytest.approx(expected, rel=1e-9), name
        assert found[name].low < expected < found[name].high and found[name].error == 0, name


def test_sums_that_went_through_a_message_tell_the_same():
    pairs = binary_pairs(UNEQUAL)
    sums = summed(BINARY_LAYOUT, pairs)
    through = from_fields(BINARY_LAYOUT, *to_fields(sums))
    for (name, before), after in zip(
        metrics(BINARY_LAYOUT, sums).items(), metrics(BINARY_LAYOUT, through).values(), strict=True
    ):
        assert astuple(after) == pytest.approx(astuple(before), rel=1e-7, abs=1e-9), name


def assert_tidy(found: dict[str, Metric]) -> None:
    """Plain numbers, finite and in order, or None."""
    for name, metric in found.items():
        for number in (metric.value, metric.low, metric.high):
            assert number is None or (type(number) is float and math.isfinite(number)), name
        assert (metric.low is None) == (metric.high is None), name
        if metric.value is not None and metric.low is not None:
            assert metric.low <= metric.value <= metric.high or metric.error > 0 or "calibration" in name, name
        assert type(metric.rows) is int and type(metric.error) is float and metric.error >= 0, name


@pytest.mark.parametrize(
    ("scores", "actual", "undefined"),
    [
        ([], [], None),
        ([0.2, 0.3, 0.4], [0, 0, 0], {"precision", "recall", "f1", "roc_auc", "average_precision", "lift"}),
        ([0.7, 0.8, 0.9], [1, 1, 1], {"roc_auc", "balanced_accuracy", "matthews_corrcoef"}),
        ([0.5] * 4, [0, 1, 0, 1], {"matthews_corrcoef"}),
        ([0.1, 0.9], [0, 1], set()),
        ([0.0, 1.0], [1, 0], set()),
        ([np.nan] * 3, [0, 1, 1], {"accuracy", "roc_auc", "log_loss", "brier", "lift", "expected_calibration_error"}),
        ([0.9], [1], {"roc_auc"}),
    ],
)
def test_what_few_rows_do_not_tell_is_none(scores, actual, undefined):
    found = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, paired(np.array(scores).reshape(-1, 1), actual)))
    assert_tidy(found)
    nothing = {name for name, metric in found.items() if metric.value is None}
    assert nothing >= (set(found) if undefined is None else undefined)
    if undefined == set():
        assert not nothing


def test_no_rows_and_tasks_that_are_only_counted():
    for layout in (BINARY_LAYOUT, CLASSES, NUMBERS):
        found = metrics(layout, take_group(empty(layout, 1), 0))
        assert found and all(metric == Metric(None, None, None, 0) for metric in found.values())
    ranking = PerformanceLayout("ranking")
    assert metrics(ranking, take_group(empty(ranking, 1), 0)) == {}


def test_all_ties_rank_like_chance():
    found = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, paired([0.3] * 1_000, np.arange(1_000) % 4 == 0)))
    assert found["roc_auc"].value == pytest.approx(0.5) and found["roc_auc"].error == pytest.approx(0.5)
    assert found["average_precision"].value == pytest.approx(0.25)
    assert found["lift"].value == pytest.approx(1.0)
    assert_tidy(found)


def test_perfect_scores_have_intervals_with_width():
    actual = np.arange(100) % 2
    found = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, paired(np.where(actual, 0.95, 0.05), actual)))
    for name in ("accuracy", "precision", "recall", "f1", "matthews_corrcoef", "roc_auc", "average_precision"):
        assert found[name].value == pytest.approx(1.0) and 0.8 < found[name].low < 0.999, name
    assert_tidy(found)


def test_huge_and_tiny_numbers_are_told_where_float64_holds_them():
    actual = np.array([1e150, -1e150, 3.0, 0.0, 1e-300, 5e-324])
    predicted = np.array([-1e150, 1e150, 3.0, 0.0, 1e150, 1.7e308])
    found = metrics(NUMBERS, summed(NUMBERS, paired(np.stack([predicted, predicted, predicted], axis=1), actual)))
    assert_tidy(found)
    assert found["mae"].value == pytest.approx(1.7e308 / 6)
    assert found["rmse"].value == pytest.approx(1.7e308 / math.sqrt(6))
    assert found["r2"].value is None and found["mape"].value is None
    small = metrics(NUMBERS, summed(NUMBERS, paired(np.full((3, 3), 1e-300), np.full(3, -1e-300))))
    assert_tidy(small)
    assert small["rmse"].value == 0 and 1e-5 < small["rmse"].error < 1e-4 and small["r2"].value is None
    middling = metrics(NUMBERS, summed(NUMBERS, paired(np.full((3, 3), 1e150), np.full(3, 0.0))))
    assert middling["rmse"].value == pytest.approx(1e150) and middling["mape"].value is None


def test_numbers_far_from_zero_keep_their_r2_or_have_none_that_is_wrong():
    rng = np.random.default_rng(8)
    deviation = rng.normal(size=500)
    for offset in (0.0, 1e3, 1e6, 1e9, 1e15):
        actual = offset + deviation
        predicted = offset + 0.9 * deviation
        sums = summed(NUMBERS, paired(np.stack([predicted] * 3, axis=1), actual))
        for kept in (sums, from_fields(NUMBERS, *to_fields(sums))):
            found = metrics(NUMBERS, kept)["r2"]
            expected = sk.r2_score(actual, predicted)
            assert found.value is None or abs(found.value - expected) <= found.error + 1e-6
            assert found.value is not None or offset > 1e6
            if found.low is not None:
                assert found.low < expected < found.high


def test_missing_labels_and_scores_leave_out_only_their_metrics():
    scores = np.array([0.9, np.nan, 0.2, np.nan])
    labels = np.array([-1, 1, -1, -1])
    found = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, paired(scores, [1, 0, 0, 1], labels=labels)))
    assert (found["accuracy"].rows, found["brier"].rows, found["prevalence"].rows) == (3, 2, 4)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["predicted_positive_rate"].value == pytest.approx(2 / 3)


def test_many_classes_take_no_memory_of_their_cube():
    layout = PerformanceLayout(MULTICLASS, tuple(f"class {k}" for k in range(400)))
    rng = np.random.default_rng(9)
    actual = rng.integers(0, 400, 3_000)
    labels = np.where(rng.random(3_000) < 0.5, actual, rng.integers(0, 400, 3_000))
    found = metrics(layout, summed(layout, paired(np.zeros((3_000, 0)), actual, labels=labels)))
    assert found["f1_macro"].value == pytest.approx(sk.f1_score(actual, labels, average="macro"), rel=1e-9)
    assert found["f1_macro"].low < found["f1_macro"].value < found["f1_macro"].high


def test_equal_weights_change_nothing_and_unequal_ones_widen_the_intervals():
    pairs = binary_pairs(EQUAL)
    plain = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, pairs))
    scores, actual = pairs.predicted.scores[:, 0], pairs.actual
    fourfold = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, paired(scores, actual, weights=np.full(2_000, 4.0))))
    for name, metric in plain.items():
        assert fourfold[name].low == pytest.approx(metric.low, rel=1e-9, abs=1e-12), name
        assert fourfold[name].value == pytest.approx(metric.value, rel=1e-9), name
    uneven = np.where(np.arange(2_000) % 10, 1.0, 31.0)
    weighted = metrics(BINARY_LAYOUT, summed(BINARY_LAYOUT, paired(scores, actual, weights=uneven)))
    effective = uneven.sum() ** 2 / (uneven**2).sum()
    for name in ("accuracy", "f1", "matthews_corrcoef", "roc_auc", "brier", "log_loss"):
        wider = (weighted[name].high - weighted[name].low) / (plain[name].high - plain[name].low)
        assert wider == pytest.approx(math.sqrt(2_000 / effective), rel=0.25), name
