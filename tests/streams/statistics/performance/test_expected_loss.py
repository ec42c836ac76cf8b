"""The model of the loss: what it learns, and what it never does."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streams.statistics.performance.expected_loss import columns_of, expected_loss, fit_expected_loss

NAMES = ["prediction", "hour", "nothing: at all"]


def drawn(rng, rows, shift=0.0):
    """Columns float64[3, rows], errors, and their true standard deviation."""
    values = rng.normal(shift, 1, (3, rows))
    deviation = np.exp(0.5 * values[0] - 0.3 * np.abs(values[1]))
    return values, rng.normal(size=rows) * deviation, deviation


@pytest.fixture(scope="module")
def learnt():
    values, errors, _ = drawn(np.random.default_rng(1), 10_000)
    return values, errors, fit_expected_loss(values, NAMES, errors)


def test_the_mean_expected_loss_of_the_reference_is_its_mean_loss(learnt):
    values, errors, model = learnt
    np.testing.assert_allclose(
        expected_loss(model, values).mean(axis=0), [np.abs(errors).mean(), (errors**2).mean()], rtol=0.02
    )


def test_it_follows_inputs_that_change(learnt):
    _, _, model = learnt
    values, errors, deviation = drawn(np.random.default_rng(2), 50_000, shift=0.7)
    found = expected_loss(model, values)
    assert np.corrcoef(found[:, 0], deviation)[0, 1] > 0.8
    np.testing.assert_allclose(found[:, 0].mean(), np.abs(errors).mean(), rtol=0.08)
    assert np.abs(errors).mean() > 1.2 * model["scale"][0]


def test_columns_that_tell_nothing_change_nothing():
    rng = np.random.default_rng(3)
    model = fit_expected_loss(rng.normal(size=(8, 3_000)), [str(at) for at in range(8)], rng.normal(size=3_000))
    fresh = expected_loss(model, rng.normal(size=(8, 2_000)))
    assert fresh[:, 0].std() < 0.06 * fresh[:, 0].mean()


def test_the_columns_come_back_by_name_and_order():
    rng = np.random.default_rng(4)
    names = [f"{'<script>' if at == 3 else 'x'}:{at}" for at in range(12)]
    model = fit_expected_loss(rng.normal(size=(12, 50)), names, rng.normal(size=50))
    assert columns_of(model) == names


def test_a_model_read_back_from_a_record_is_the_same(learnt):
    values, _, model = learnt
    flat = {name: np.array(array.ravel().tolist()) for name, array in sorted(model.items(), reverse=True)}
    np.testing.assert_array_equal(expected_loss(flat, values), expected_loss(model, values))
    assert all(array.ndim == 1 and array.dtype == np.float64 for array in model.values())


def test_rows_do_not_depend_on_each_other(learnt):
    values, _, model = learnt
    whole = expected_loss(model, values)
    order = np.random.default_rng(5).permutation(values.shape[1])
    np.testing.assert_array_equal(expected_loss(model, values[:, order]), whole[order])
    np.testing.assert_array_equal(expected_loss(model, values[:, 17:18]), whole[17:18])


def test_learning_twice_gives_the_same_bits(learnt):
    values, errors, model = learnt
    again = fit_expected_loss(values.copy(), NAMES, errors.copy())
    assert all(np.array_equal(again[name], array) for name, array in model.items())


@given(arrays(np.float64, st.tuples(st.just(3), st.integers(1, 20)), elements=st.floats(allow_nan=True)))
@settings(max_examples=100, deadline=None)
def test_whatever_comes_the_expectation_is_finite_and_no_less_than_jensen_allows(learnt, values):
    _, _, model = learnt
    found = expected_loss(model, values)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found[:, 1] >= found[:, 0] ** 2 * (1 - 1e-12)).all()


def test_missing_values_have_a_loss_of_their_own():
    rng = np.random.default_rng(6)
    column = rng.normal(size=4_000)
    missing = rng.random(4_000) < 0.3
    column[missing] = np.nan
    errors = rng.normal(size=4_000) * np.where(missing, 3.0, 1.0)
    model = fit_expected_loss(column[None], ["x"], errors)
    low, high = expected_loss(model, np.array([[0.0, np.nan]]))[:, 0]
    assert high > 2 * low


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_errors_of_any_size_are_learnt(size):
    rng = np.random.default_rng(7)
    errors = rng.normal(size=500) * size
    found = expected_loss(fit_expected_loss(rng.normal(size=(1, 500)), ["x"], errors), rng.normal(size=(1, 10)))
    np.testing.assert_allclose(found[:, 0], 0.8 * size, rtol=0.3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("rows", [1, 3, 11])
def test_few_rows_have_a_constant(rows):
    errors = np.arange(1.0, rows + 1)
    model = fit_expected_loss(np.arange(2.0 * rows).reshape(2, rows), ["x", "y"], errors)
    found = expected_loss(model, np.array([[0.0, 100.0, np.nan], [5.0, -5.0, np.nan]]))
    np.testing.assert_allclose(found[:, 0], errors.mean(), rtol=0.4)


def test_a_model_that_never_errs_is_expected_not_to():
    model = fit_expected_loss(np.arange(100.0)[None], ["x"], np.zeros(100))
    np.testing.assert_array_equal(expected_loss(model, np.array([[3.0, np.nan]])), np.zeros((2, 2)))


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="2 columns by 3 rows"):
        fit_expected_loss(np.zeros((2, 4)), ["x", "y"], np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        fit_expected_loss(np.zeros((1, 2)), ["x"], np.array([1.0, np.nan]))
    model = fit_expected_loss(np.zeros((1, 2)), ["x"], np.ones(2))
    with pytest.raises(ValueError, match="'x'"):
        expected_loss(model, np.zeros((2, 2)))


def test_twenty_columns_take_less_than_half_a_microsecond_a_row():
    rng = np.random.default_rng(8)
    model = fit_expected_loss(rng.normal(size=(20, 200)), [str(at) for at in range(20)], rng.normal(size=200))
    values = rng.normal(size=(20, 100_000))
    seconds = []
    for _ in range(5):
        begin = time.process_time()
        expected_loss(model, values)
        seconds.append(time.process_time() - begin)
    assert min(seconds) / 100_000 < 0.5e-6
