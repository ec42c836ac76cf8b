"""Performance sums: an exact algebra, whatever the order and splitting of rows; and what is counted."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.statistics.performance import sums as s
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, Pairs, PerformanceLayout, Predicted

AGE_EDGES_US = np.array([100, 1_000], np.int64)
VALUES = np.array([[1.5, -7.0], [-0.1, 20.0]])
LAYOUTS = {
    "binary": PerformanceLayout(BINARY, ("no", "yes"), age_edges_us=AGE_EDGES_US, values=VALUES),
    "multiclass": PerformanceLayout(
        MULTICLASS, ("a", "b", "c"), np.array([0.2, 0.4, 0.6, 0.8]), AGE_EDGES_US, values=np.arange(9.0).reshape(3, 3)
    ),
    "many classes": PerformanceLayout(MULTICLASS, tuple(f"class {k}" for k in range(25)), np.array([0.5])),
    "regression": PerformanceLayout(REGRESSION, age_edges_us=AGE_EDGES_US, quantile=0.3),
    "ranking": PerformanceLayout("ranking", age_edges_us=AGE_EDGES_US),
}
LAYOUT_NAMES = sorted(LAYOUTS)
ODD = (0.0, 1.0, -3.0, 0.1, 1e150, -1e150, 1e-300, 5e-324, 1.7e308, -1.7e308, np.nan)


def random_pairs(layout: PerformanceLayout, seed: int, rows: int, *, weights: tuple[float, ...] = (1.0,)) -> Pairs:
    """Pairs of any kind: ties, missing scores and labels, odd numbers, weights."""
    rng = np.random.default_rng(seed)
    classes = len(layout.classes)
    labels = np.full(rows, -1, np.int64)
    actual = np.zeros(rows)
    if layout.task == BINARY:
        scores = np.round(rng.random((rows, 1)), 2)
    elif layout.task == MULTICLASS:
        scores = rng.dirichlet(np.ones(classes), rows) if seed % 5 else np.zeros((rows, 0))
    elif layout.task == REGRESSION:
        scores = rng.normal(10, 5, (rows, 3))
        strange = rng.random((rows, 3)) < 0.2
        scores[strange] = rng.choice(ODD, int(strange.sum()))
        actual = np.where(rng.random(rows) < 0.2, rng.choice(ODD[:-1], rows), rng.normal(10, 5, rows))
    else:
        scores = np.zeros((rows, 0))
    if classes:
        scores[rng.random(rows) < 0.1] = np.nan
        labels = rng.integers(-1, classes, rows)
        actual = rng.integers(0, classes, rows).astype(np.float64)
    return Pairs(
        Predicted(scores, labels),
        actual,
        np.zeros(rows, np.int64),
        rng.integers(0, 2_000, rows),
        rng.choice(weights, rows),
        rng.choice(np.array([0, 1, 255], np.uint8), rows),
        rng.random(rows),
    )


def counted(layout: PerformanceLayout, pairs: Pairs, index: np.ndarray | None = None, groups: int = 1) -> s.Sums:
    """Sums of pairs and of their predictions."""
    where = np.zeros(pairs.rows, np.int64) if index is None else index
    calibration = np.linspace(0, 1, len(layout.classes) * layout.bins).reshape(-1, layout.bins)
    expected = np.abs(pairs.jitter[:, None] + [0.0, 1.0])
    expected[pairs.jitter < 0.2] = np.nan
    return s.add(
        s.count_pairs(layout, pairs, where, groups),
        s.count_predictions(layout, pairs.predicted, where, groups, calibration=calibration, expected=expected),
    )


def assert_same(left: s.Sums, right: s.Sums) -> None:
    """The same names, shapes, types and numbers, to the bit."""
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype and array.shape == right[name].shape, name
        assert array.tolist() == right[name].tolist(), name
        if array.dtype == object:
            assert {type(number) for number in array.ravel().tolist()} <= {int}, name


names = st.sampled_from(LAYOUT_NAMES)
seeds = st.integers(0, 10_000)
rows = st.integers(0, 40)
weight_sets = st.sampled_from([(1.0,), (1.0, 2.5), (10 / 3,), (1e6, 1.0), (0.5, 1.5)])


@settings(max_examples=60, deadline=None)
@given(names, seeds, rows, weight_sets, st.integers(1, 4))
def test_the_order_and_the_splitting_of_rows_do_not_matter(name, seed, n, weights, groups):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    pairs = random_pairs(layout, seed, n, weights=weights)
    index = rng.integers(-1, groups, n)
    whole = counted(layout, pairs, index, groups)
    order = rng.permutation(n)
    assert_same(counted(layout, pairs.take(order), index[order], groups), whole)
    part = rng.random(n) < 0.5
    halves = [counted(layout, pairs.take(mask), index[mask], groups) for mask in (part, ~part)]
    assert_same(s.add(*halves), whole)
    assert_same(s.add(*reversed(halves)), whole)
    for group in range(groups):
        alone = counted(layout, pairs.take(index == group))
        assert_same(s.take_group(whole, group), s.take_group(alone, 0))


@settings(max_examples=60, deadline=None)
@given(names, seeds, rows, rows, weight_sets, weight_sets)
def test_subtraction_undoes_addition_whatever_the_weights(name, seed, n, m, weights, others):
    layout = LAYOUTS[name]
    a = counted(layout, random_pairs(layout, seed, n, weights=weights))
    b = counted(layout, random_pairs(layout, seed + 1, m, weights=others))
    assert_same(s.subtract(s.add(a, b), b), a)
    assert_same(s.add(s.subtract(a, b), b), a)
    assert_same(s.add(a, b), s.add(b, a))
    assert_same(s.subtract(a, a), s.empty(layout, 1))
    assert_same(s.add(a, s.empty(layout, 1)), a)


@settings(max_examples=40, deadline=None)
@given(names, seeds, st.lists(weight_sets, min_size=3, max_size=3))
def test_addition_is_associative_and_merging_is_addition(name, seed, weights):
    layout = LAYOUTS[name]
    parts = [
        s.take_group(counted(layout, random_pairs(layout, seed + k, 9, weights=each)), 0)
        for k, each in enumerate(weights)
    ]
    a, b, c = parts
    assert_same(s.add(s.add(a, b), c), s.add(a, s.add(b, c)))
    assert_same(s.merge(parts), s.merge(reversed(parts)))
    assert_same(s.merge(iter(parts)), s.add(s.add(a, b), c))


@settings(max_examples=60, deadline=None)
@given(names, seeds, rows, weight_sets)
def test_packing_is_exact(name, seed, n, weights):
    layout = LAYOUTS[name]
    sums = s.take_group(counted(layout, random_pairs(layout, seed, n, weights=weights)), 0)
    assert_same(s.unpack(layout, s.pack(sums)), sums)
    less = s.subtract(s.take_group(s.empty(layout, 1), 0), sums)
    assert_same(s.unpack(layout, s.pack(less)), less)


@settings(max_examples=60, deadline=None)
@given(names, seeds, rows, weight_sets)
def test_fields_come_back_to_the_nearest_float(name, seed, n, weights):
    layout = LAYOUTS[name]
    sums = s.take_group(counted(layout, random_pairs(layout, seed, n, weights=weights)), 0)
    counts, numbers = s.to_fields(sums)
    back = s.from_fields(layout, counts, numbers)
    assert s.to_fields(back) == (counts, numbers)
    for key, array in sums.items():
        if array.dtype != object:
            assert back[key].tolist() == array.tolist()
            continue
        for was, now in zip(array.ravel().tolist(), back[key].ravel().tolist(), strict=True):
            assert now == was or abs(was) > 2**53
            assert abs(was) > 2**1_054 or abs(now - was) * 2**53 <= abs(was)


def test_fields_hold_only_what_an_avro_record_can():
    layout = LAYOUTS["regression"]
    pairs = random_pairs(layout, 3, 200, weights=(1.0, 7.0))
    counts, numbers = s.to_fields(s.take_group(counted(layout, pairs), 0))
    assert all(type(value) is int for values in counts.values() for value in values)
    assert all(type(value) is float and np.isfinite(value) for values in numbers.values() for value in values)


def test_fields_of_another_layout_are_refused_and_absent_ones_are_zero():
    layout = LAYOUTS["binary"]
    with pytest.raises(ValueError, match="ages: expected 3 numbers"):
        s.from_fields(layout, {"ages": [1, 2]}, {})
    with pytest.raises(ValueError, match="finite"):
        s.from_fields(layout, {}, {"log_loss": [float("nan")]})
    assert_same(s.from_fields(layout, {"of the future": [1]}, {}), s.take_group(s.empty(layout, 1), 0))


def test_packed_sums_that_are_damaged_are_refused():
    layout = LAYOUTS["binary"]
    packed = s.pack(s.take_group(counted(layout, random_pairs(layout, 1, 30)), 0))
    for bad in (b"", b"\x07" + packed[1:], packed[:-1], packed + b"\0", packed[:20]):
        with pytest.raises(ValueError, match="expected"):
            s.unpack(layout, bad)
    with pytest.raises(ValueError, match="another layout"):
        s.unpack(LAYOUTS["regression"], packed)


def test_nothing_packs_into_a_few_bytes_and_a_histogram_into_few():
    layout = LAYOUTS["binary"]
    assert len(s.pack(s.take_group(s.empty(layout, 1), 0))) < 10
    assert len(s.pack(s.take_group(counted(layout, random_pairs(layout, 1, 30)), 0))) < 500


def test_weights_cost_nothing_until_one_is_not_1():
    layout = LAYOUTS["binary"]
    plain = counted(layout, random_pairs(layout, 1, 20))
    heavy = counted(layout, random_pairs(layout, 2, 20, weights=(1.0, 3.0)))
    assert not any(name.startswith("weighted_") for name in plain)
    assert {name for name in heavy if name.startswith("weighted_")} == set(s.weighted_fields(layout))
    both = s.add(plain, heavy)
    expected = plain["confusion"].astype(object) * s.ONE + heavy["weighted_confusion"]
    assert both["weighted_confusion"].tolist() == expected.tolist()


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 3.7, 1e4)])
def test_binary_sums_are_those_of_a_loop(weights):
    layout = LAYOUTS["binary"]
    pairs = random_pairs(layout, 5, 300, weights=weights)
    sums = s.take_group(counted(layout, pairs), 0)
    scores, confusion = np.zeros((101, 2), int), np.zeros((2, 2), int)
    weighted, losses = np.zeros((2, 2)), np.zeros(4)
    score_sums, predicted, worth = np.zeros(100), np.zeros((101, 2), int), np.zeros(2)
    for row in range(pairs.rows):
        p, label = pairs.predicted.scores[row, 0], pairs.predicted.labels[row]
        y, w = int(pairs.actual[row]), pairs.weights[row]
        at = 100 if np.isnan(p) else sum(edge <= p for edge in layout.score_edges)
        scores[at, y] += 1
        if label < 0 and at < 100:
            label = int(p >= 0.5)
        if label >= 0:
            confusion[label, y] += 1
            weighted[label, y] += w
            predicted[at, label] += 1
            worth += [w * VALUES[label, y], w * VALUES[label, y] ** 2]
        if at < 100:
            score_sums[at] += p
            loss = -np.log(np.clip(p if y else 1 - p, np.finfo(float).eps, 1 - np.finfo(float).eps))
            losses += [w * loss, w * loss**2, w * (p - y) ** 2, w * (p - y) ** 4]
    assert sums["scores"].tolist() == scores.tolist()
    assert sums["confusion"].tolist() == confusion.tolist()
    assert sums["predicted_scores"].tolist() == predicted.tolist()
    np.testing.assert_allclose(s.weighted(sums, "confusion").astype(float) * s.GRID, weighted, rtol=1e-12)
    np.testing.assert_allclose(sums["score_sums"].astype(float) * s.GRID, score_sums, atol=1e-6)
    found = [sums[name][()] * s.GRID for name in ("log_loss", "log_loss_squared", "brier", "brier_squared")]
    np.testing.assert_allclose(found, losses, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose([sums[name][()] * s.GRID for name in ("value", "value_squared")], worth, rtol=1e-8)
    assert sums["with_scores"][()] == scores[:100].sum()
    assert sums["ages"].tolist() == np.bincount(np.searchsorted([100, 1_000], pairs.ages_us), minlength=3).tolist()
    assert sums["acted"].tolist() == [(pairs.acted == code).sum() for code in (0, 1, 255)]
    assert sums["weights"][()] * s.GRID == pytest.approx(pairs.weights.sum(), rel=1e-12)


def test_multiclass_sums_are_those_of_a_loop():
    layout = LAYOUTS["multiclass"]
    pairs = random_pairs(layout, 6, 300)
    sums = s.take_group(counted(layout, pairs), 0)
    calibration = np.linspace(0, 1, 15).reshape(3, 5)
    confusion, confidence = np.zeros((3, 3), int), np.zeros((6, 2), int)
    class_scores, expected = np.zeros((3, 5, 2), int), np.zeros((3, 3))
    confidence_sums, losses = np.zeros(5), np.zeros(2)
    for row in range(pairs.rows):
        p, label, y = pairs.predicted.scores[row], pairs.predicted.labels[row], int(pairs.actual[row])
        bins = np.digitize(p, layout.score_edges)
        scored = not np.isnan(p).any()
        if label < 0 and scored:
            label = int(p.argmax())
        if label >= 0:
            confusion[label, y] += 1
            confidence[bins.max() if scored else 5, int(label == y)] += 1
        if scored:
            confidence_sums[bins.max()] += p.max()
            losses += [-np.log(p[y]), ((p - np.eye(3)[y]) ** 2).sum()]
            for k in range(3):
                class_scores[k, bins[k], int(k == y)] += 1
            probabilities = calibration[np.arange(3), bins]
            expected[label] += probabilities / probabilities.sum()
    assert sums["confusion"].tolist() == confusion.tolist()
    assert sums["confidence"].tolist() == confidence.tolist()
    assert sums["class_scores"].tolist() == class_scores.tolist()
    np.testing.assert_allclose(sums["expected_confusion"].astype(float) * s.GRID, expected, rtol=1e-7)
    np.testing.assert_allclose(sums["confidence_sums"].astype(float) * s.GRID, confidence_sums, rtol=1e-7)
    np.testing.assert_allclose([sums["log_loss"][()] * s.GRID, sums["brier"][()] * s.GRID], losses, rtol=1e-8)


def test_regression_sums_of_any_numbers_are_those_of_fractions():
    layout = LAYOUTS["regression"]
    pairs = random_pairs(layout, 7, 200)
    sums = s.take_group(counted(layout, pairs), 0)
    errors = [
        Fraction(p) - Fraction(a)
        for p, a in zip(pairs.predicted.scores[:, 0].tolist(), pairs.actual.tolist(), strict=True)
        if np.isfinite(p)
    ]
    for name, power in {"error": 1, "squared_error": 2, "error_fourth": 4}.items():
        exact = sum(error**power for error in errors)
        assert abs(Fraction(sums[name][()], s.ONE) / exact - 1) < Fraction(1, 10**12)
    assert sums["with_prediction"][()] == len(errors)
    low, high = pairs.predicted.scores[:, 1], pairs.predicted.scores[:, 2]
    assert sums["inside"][()] == ((low <= pairs.actual) & (pairs.actual <= high)).sum()
    assert sums["with_interval"][()] == (~np.isnan(low) & ~np.isnan(high)).sum()


def test_many_rows_add_up_exactly_beyond_what_float64_holds():
    layout = LAYOUTS["regression"]
    n = 20_000
    pairs = random_pairs(layout, 8, n)
    predicted = np.full((n, 3), np.nan)
    predicted[:, 0] = 1e6 + 1 / 3
    pairs = Pairs(
        Predicted(predicted, pairs.predicted.labels),
        np.full(n, 1.0),
        pairs.times_us,
        pairs.ages_us,
        pairs.weights,
        pairs.acted,
        pairs.jitter,
    )
    sums = s.count_pairs(layout, pairs, np.arange(n) % 2, 2)
    each = round(Fraction(1e6 + 1 / 3 - 1.0) ** 2 * s.ONE)
    assert abs(int(sums["squared_error"][0]) - each * n // 2) <= each * n // 2 * 2**-52
    assert int(sums["squared_error"][0]) % (n // 2) == 0


def test_huge_weights_do_not_hide_the_others_and_groups_that_are_not_there_are_refused():
    layout = LAYOUTS["binary"]
    pairs = random_pairs(layout, 9, 4, weights=(float("inf"),))
    assert s.count_pairs(layout, pairs, np.zeros(4, np.int64), 1)["weights"][0] == 4 * 2**64 * s.ONE
    for wrong in (-2, 2):
        with pytest.raises(ValueError, match="expected groups from -1 to 1"):
            s.count_pairs(layout, pairs, np.full(4, wrong), 2)
    with pytest.raises(ValueError, match="at least one part"):
        s.merge([])


def test_scores_that_are_no_probabilities_count_as_missing():
    layout = LAYOUTS["binary"]
    pairs = random_pairs(layout, 10, 4)
    odd = Predicted(np.array([[np.inf], [-1.0], [2.0], [np.nan]]), np.array([-1, 0, 1, -1]))
    pairs = Pairs(odd, np.ones(4), pairs.times_us, pairs.ages_us, pairs.weights, pairs.acted, pairs.jitter)
    sums = s.take_group(counted(layout, pairs), 0)
    assert sums["scores"][100].tolist() == [0, 4] and sums["with_scores"][()] == 0
    assert sums["confusion"].tolist() == [[0, 1], [0, 1]]
    assert sums["predicted_scores"].sum() == 2 and sums["predictions"][()] == 4
