"""Estimates without outcomes: against scikit-learn on expected rows, and against the truth."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from streams.baseline import OutcomeReference
from streams.statistics.performance.calibration_map import fit_calibration
from streams.statistics.performance.estimation import estimate, expected_loss, fit_expected_loss, realised_error
from streams.statistics.performance.metrics import Metric
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout, Predicted
from streams.statistics.performance.sums import count_predictions, take_group

NONE = np.zeros(0)
VALUES = np.array([[0.0, -5.0], [-1.0, 3.0]])


def reference(calibration=NONE, counts=None, sums=None, expected=None):
    """What a reference of one age bucket showed."""
    return OutcomeReference(
        1, 0, 0, np.zeros(0, np.int64), 0, (), NONE, NONE, np.asarray(calibration), expected or {},
        {name: np.reshape(array, (1, -1)) for name, array in (counts or {}).items()},
        {name: np.reshape(array, (1, -1)) for name, array in (sums or {}).items()},
    )  # fmt: skip


def of_predictions(layout, scores, labels=None, **given):
    scores = np.asarray(scores, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    labels = np.full(len(scores), -1) if labels is None else labels
    rows = np.zeros(len(scores), np.int64)
    return take_group(count_predictions(layout, Predicted(scores, labels), rows, 1, **given), 0)


# ---- two classes -----------------------------------------------------------------------------------------------------

LAYOUT = PerformanceLayout(BINARY, ("no", "yes"), threshold=0.4, values=VALUES)


def learnt(rng, rows, bend=1.5):
    """A reference of scores whose true probability is score^bend."""
    scores = rng.beta(2, 2, rows)
    outcomes = rng.random(rows) < scores**bend
    bins = np.searchsorted(LAYOUT.score_edges, scores, "right")
    counts = np.zeros((101, 2), np.int64)
    np.add.at(counts, (bins, outcomes.astype(int)), 1)
    calibration = fit_calibration(counts[:100, 1], counts[:100].sum(axis=1), (np.arange(100) + 0.5) / 100)
    return reference(calibration, {"scores": counts})


def test_binary_estimates_are_scikit_learns_on_rows_that_are_positive_by_their_probability():
    rng = np.random.default_rng(1)
    known = learnt(rng, 5_000)
    scores = rng.beta(1, 2, 700)
    bins = np.searchsorted(LAYOUT.score_edges, scores, "right")
    p = known.calibration[bins]
    truth, predicted = np.repeat([1, 0], 700), np.tile(scores >= 0.4, 2).astype(int)
    weights = np.concatenate([p, 1 - p])
    found = estimate(LAYOUT, known, of_predictions(LAYOUT, scores))
    expected = {
        "accuracy": accuracy_score,
        "precision": precision_score,
        "recall": recall_score,
        "f1": f1_score,
        "specificity": lambda y, said, sample_weight: recall_score(1 - y, 1 - said, sample_weight=sample_weight),
        "balanced_accuracy": balanced_accuracy_score,
        "prevalence": lambda y, said, sample_weight: np.average(y, weights=sample_weight),
        "value": lambda y, said, sample_weight: np.average(VALUES[said, y], weights=sample_weight),
    }
    for name, function in expected.items():
        assert found[name].value == pytest.approx(function(truth, predicted, sample_weight=weights)), name
    area = roc_auc_score(truth, np.tile(bins, 2), sample_weight=weights)
    assert found["roc_auc"].value == pytest.approx(area)
    precision = average_precision_score(truth, np.tile(bins, 2), sample_weight=weights)
    assert abs(found["average_precision"].value - precision) <= found["average_precision"].error + 1e-9
    assert set(found) == {*expected, "roc_auc", "average_precision"}
    assert found["accuracy"].rows == 700
    assert found["precision"].rows == int((scores >= 0.4).sum())


@pytest.mark.parametrize("reference_rows", [400, 20_000])
def test_the_intervals_cover_what_outcomes_then_show(reference_rows):
    rng = np.random.default_rng(reference_rows)
    rounds, rows, inside = 150, 500, {}
    for _ in range(rounds):
        known = learnt(rng, reference_rows)
        scores = rng.beta(2, 1.5, rows)
        y = (rng.random(rows) < scores**1.5).astype(int)
        said = (scores >= 0.4).astype(int)
        truth = {
            "accuracy": accuracy_score(y, said),
            "precision": precision_score(y, said),
            "recall": recall_score(y, said),
            "f1": f1_score(y, said),
            "prevalence": y.mean(),
            "roc_auc": roc_auc_score(y, scores),
            "average_precision": average_precision_score(y, scores),
            "value": VALUES[said, y].mean(),
        }
        found = estimate(LAYOUT, known, of_predictions(LAYOUT, scores))
        for name, value in truth.items():
            inside[name] = inside.get(name, 0) + (found[name].low <= value <= found[name].high)
    for name, count in inside.items():
        assert count / rounds >= 0.89, (name, count)
    # and are not so wide that they say nothing
    assert min(inside.values()) < rounds


def test_a_larger_reference_and_more_rows_narrow_the_interval_and_neither_alone_to_nothing():
    rng = np.random.default_rng(2)
    scores = rng.beta(2, 2, 100_000)

    def width(reference_rows, rows):
        found = estimate(
            LAYOUT, learnt(np.random.default_rng(3), reference_rows), of_predictions(LAYOUT, scores[:rows])
        )
        return found["accuracy"].high - found["accuracy"].low

    assert width(100_000, 1_000) < width(1_000, 1_000)
    assert width(1_000, 100_000) == pytest.approx(2 * 1.96 * 0.43 / np.sqrt(1_000), rel=0.15)
    assert width(100_000, 1_000) == pytest.approx(2 * 1.96 * 0.43 / np.sqrt(1_000), rel=0.15)


def test_traffic_that_the_reference_hardly_had_has_a_wide_interval():
    rng = np.random.default_rng(4)
    known = learnt(rng, 5_000)
    usual = estimate(LAYOUT, known, of_predictions(LAYOUT, np.full(2_000, 0.5)))["prevalence"]
    unusual = estimate(LAYOUT, known, of_predictions(LAYOUT, np.full(2_000, 0.003)))["prevalence"]
    deviation = np.sqrt(unusual.value * (1 - unusual.value))
    assert (unusual.high - unusual.low) / deviation > 3 * (usual.high - usual.low) / 0.48


def test_labels_given_count_and_rows_without_scores_do_not():
    rng = np.random.default_rng(5)
    known = learnt(rng, 5_000)
    scores = np.append(rng.random(50), np.nan)
    labels = np.append(np.zeros(50, np.int64), 1)
    found = estimate(LAYOUT, known, of_predictions(LAYOUT, scores, labels))
    assert found["accuracy"].rows == 50
    assert found["precision"].value is None
    assert found["accuracy"].value == pytest.approx(1 - found["prevalence"].value)


def test_without_predictions_or_a_reference_nothing_is_estimated():
    known = learnt(np.random.default_rng(6), 500)
    found = estimate(LAYOUT, known, of_predictions(LAYOUT, np.zeros(0)))
    assert set(found) == set(estimate(LAYOUT, known, of_predictions(LAYOUT, [0.3])))
    assert all(metric.value is None for metric in found.values())
    assert estimate(LAYOUT, reference(), of_predictions(LAYOUT, [0.3])) == {}
    assert estimate(PerformanceLayout("ranking"), known, {}) == {}


def test_a_calibration_of_other_bins_is_refused():
    with pytest.raises(ValueError, match="100 score bins"):
        estimate(LAYOUT, reference(np.full(7, 0.5)), of_predictions(LAYOUT, [0.3]))


def test_a_map_that_claims_certainty_does_no_harm():
    found = estimate(LAYOUT, reference(np.zeros(100)), of_predictions(LAYOUT, [0.3, 0.6]))
    assert found["accuracy"].value == pytest.approx(0.5)
    assert all(np.isfinite([metric.low, metric.high]).all() for metric in found.values())


def test_unequal_weights_of_the_reference_widen_the_interval():
    known = learnt(np.random.default_rng(7), 5_000)
    rows = known.counts["scores"].sum()
    light = reference(
        known.calibration,
        {**known.counts, "resolved": [rows]},
        {"weights": [float(rows)], "weights_squared": [10.0 * rows]},
    )
    sums = of_predictions(LAYOUT, np.random.default_rng(8).beta(2, 2, 50_000))
    plain, wide = estimate(LAYOUT, known, sums)["accuracy"], estimate(LAYOUT, light, sums)["accuracy"]
    assert plain.value == wide.value
    assert wide.high - wide.low > 2 * (plain.high - plain.low)


# ---- several classes -------------------------------------------------------------------------------------------------

CLASSES = PerformanceLayout(MULTICLASS, ("a", "b", "c"), values=np.diag([1.0, 2.0, 3.0]))


def many(rng, rows, tilt):
    """Probabilities of three classes, and outcomes drawn from them."""
    p = rng.dirichlet(tilt, rows)
    return p, (rng.random(rows)[:, None] > p.cumsum(axis=1)).sum(axis=1)


def identity():
    """The map of scores that are calibrated, by their bins' centres."""
    return np.tile((np.arange(100) + 0.5) / 100, (3, 1))


def test_multiclass_estimates_are_scikit_learns_on_rows_of_every_class_by_its_probability():
    rng = np.random.default_rng(11)
    p, _ = many(rng, 300, (1, 2, 3))
    known = reference(identity().ravel(), {"confusion": np.full(9, 1_000)})
    found = estimate(CLASSES, known, of_predictions(CLASSES, p, calibration=identity()))
    q = (np.floor(np.clip(p * 100, 0, 99)) + 0.5) / 100
    q /= q.sum(axis=1, keepdims=True)
    truth, said, weights = np.repeat([0, 1, 2], 300), np.tile(p.argmax(axis=1), 3), q.T.ravel()
    assert found["accuracy"].value == pytest.approx(accuracy_score(truth, said, sample_weight=weights))
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        for how in ("macro", "weighted"):
            expected = function(truth, said, average=how, sample_weight=weights)
            assert found[f"{name}_{how}"].value == pytest.approx(expected), (name, how)
    worth = np.average(CLASSES.values[said, truth], weights=weights)
    assert found["value"].value == pytest.approx(worth)
    assert found["accuracy"].rows == 300


def test_multiclass_intervals_cover_what_outcomes_then_show():
    rng = np.random.default_rng(12)
    known = reference(identity().ravel(), {"confusion": np.full(9, 10_000)})
    rounds, inside = 150, {}
    for _ in range(rounds):
        p, y = many(rng, 400, (1, 2, 1))
        said = p.argmax(axis=1)
        found = estimate(CLASSES, known, of_predictions(CLASSES, p, calibration=identity()))
        truth = {
            "accuracy": accuracy_score(y, said),
            "f1_macro": f1_score(y, said, average="macro"),
            "recall_macro": recall_score(y, said, average="macro"),
            "f1_weighted": f1_score(y, said, average="weighted"),
            "value": CLASSES.values[said, y].mean(),
        }
        for name, value in truth.items():
            inside[name] = inside.get(name, 0) + (found[name].low <= value <= found[name].high)
    assert min(inside.values()) >= 0.92 * rounds


def test_no_multiclass_predictions_have_undefined_metrics():
    known = reference(identity().ravel())
    found = estimate(CLASSES, known, of_predictions(CLASSES, np.zeros((0, 3)), calibration=identity()))
    assert {name: metric.value for name, metric in found.items()} == dict.fromkeys(found)
    assert "f1_macro" in found


# ---- numbers ---------------------------------------------------------------------------------------------------------

NUMBERS = PerformanceLayout(REGRESSION)


def learnt_losses(rng, rows):
    values = rng.normal(size=(2, rows))
    errors = rng.normal(size=rows) * np.exp(values[0] / 3)
    counts = {"with_prediction": [rows]}
    return reference(
        counts=counts,
        sums={"squared_error": [(errors**2).sum()], "error_fourth": [(errors**4).sum()]},
        expected=fit_expected_loss(values, ["prediction", "x"], errors),
    )


def test_expected_losses_are_averaged_and_their_intervals_cover_what_outcomes_then_show():
    rng = np.random.default_rng(21)
    known = learnt_losses(rng, 4_000)
    rounds, inside = 200, {"mae": 0, "mse": 0, "rmse": 0}
    for _ in range(rounds):
        values = rng.normal(0.3, 1, (2, 400))
        errors = rng.normal(size=400) * np.exp(values[0] / 3)
        expected = expected_loss(known.expected_loss, values)
        sums = of_predictions(NUMBERS, np.full((400, 3), np.nan), expected=expected)
        found = estimate(NUMBERS, known, sums)
        assert found["mae"].value == pytest.approx(expected[:, 0].mean(), rel=1e-6)
        assert found["rmse"].value == pytest.approx(np.sqrt(expected[:, 1].mean()), rel=1e-6)
        mse = np.mean(errors**2)
        for name, value in (("mae", np.abs(errors).mean()), ("mse", mse), ("rmse", np.sqrt(mse))):
            inside[name] += found[name].low <= value <= found[name].high
    assert min(inside.values()) >= 0.9 * rounds


def test_rows_whose_loss_is_not_known_do_not_count_and_none_leave_nothing():
    known = learnt_losses(np.random.default_rng(22), 300)
    expected = np.array([[1.0, 2.0], [np.nan, np.nan]])
    found = estimate(NUMBERS, known, of_predictions(NUMBERS, np.full((2, 3), np.nan), expected=expected))
    assert found["mae"] == Metric(1.0, found["mae"].low, found["mae"].high, 1)
    nothing = estimate(NUMBERS, known, of_predictions(NUMBERS, np.full((2, 3), np.nan)))
    assert [metric.value for metric in nothing.values()] == [None, None, None]
    assert estimate(NUMBERS, reference(), of_predictions(NUMBERS, np.full((2, 3), np.nan))) == {}


def test_a_reference_without_fourth_moments_leaves_squared_errors_without_interval():
    rng = np.random.default_rng(23)
    known = reference(expected=learnt_losses(rng, 300).expected_loss)
    sums = of_predictions(NUMBERS, np.full((1, 3), np.nan), expected=np.array([[1.0, 2.0]]))
    found = estimate(NUMBERS, known, sums)
    assert (found["mse"].value, found["mse"].low, found["mse"].high) == (2.0, None, None)


# ---- against the truth -----------------------------------------------------------------------------------------------


def test_the_error_of_estimates_is_that_of_metrics_that_have_both():
    estimated = {
        "accuracy": Metric(0.8, 0.75, 0.85, 100),
        "f1": Metric(0.5, 0.4, 0.6, 100, error=0.05),
        "roc_auc": Metric(None, None, None, 100),
        "specificity": Metric(0.9, 0.8, 0.95, 100),
        "rmse": Metric(1.0, None, None, 100),
    }
    realised = {
        "accuracy": Metric(0.71, 0.6, 0.8, 90),
        "f1": Metric(0.64, 0.5, 0.7, 90),
        "roc_auc": Metric(0.8, 0.7, 0.9, 90),
        "rmse": Metric(1.0, None, None, 90),
    }
    found = realised_error(estimated, realised)
    assert set(found) == {"accuracy", "f1", "rmse"}
    assert found["accuracy"].difference == pytest.approx(0.09)
    assert [found[name].inside for name in ("accuracy", "f1", "rmse")] == [False, True, False]
    assert found["accuracy"].rows == 90


def test_a_changed_relation_is_not_seen_by_the_estimate_and_seen_by_the_truth():
    rng = np.random.default_rng(31)
    known = learnt(rng, 20_000)
    scores = rng.beta(2, 2, 5_000)
    found = estimate(LAYOUT, known, of_predictions(LAYOUT, scores))
    said = (scores >= 0.4).astype(int)
    for outcomes, is_inside in (
        (rng.random(5_000) < scores**1.5, True),
        (rng.random(5_000) < 1 - scores**1.5, False),
    ):
        truth = {"accuracy": Metric(accuracy_score(outcomes, said), None, None, 5_000)}
        assert realised_error(found, truth)["accuracy"].inside is is_inside
