"""Distances between distribution functions from bins, against scipy on the raw values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from streams.statistics import ordered as o
from streams.statistics.layouts import ABOVE_MAX, NUMERIC, NumericBins, bin_numeric, count_codes, fit_numeric

VALUES = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    elements=st.one_of(st.integers(-4, 4).map(float), st.floats(-100, 100, width=32), st.just(np.nan)),
)


def binned(bins: NumericBins, *columns: np.ndarray) -> list[np.ndarray]:
    return [o.cumulated_shares(count_codes(bin_numeric(bins, column), NUMERIC)) for column in columns]


def present(column: np.ndarray) -> np.ndarray:
    return np.asarray(column[~np.isnan(column)])


@given(VALUES, VALUES)
def test_the_distances_of_the_values_lie_within_the_stated_error(reference: np.ndarray, values: np.ndarray) -> None:
    """Ties, constants, values out of range, missing ones: whatever the columns."""
    if not present(reference).size or not present(values).size:
        return
    bins = fit_numeric(reference)
    cdf, cdf0 = binned(bins, values, reference)
    widths = o.bin_widths([bins])[0]

    truth = stats.ks_2samp(present(values), present(reference)).statistic
    shown = o.kolmogorov_smirnov(cdf, cdf0)
    assert shown - 1e-9 <= truth <= shown + o.kolmogorov_smirnov_error(cdf, cdf0) + 1e-9

    clipped = np.clip(present(values), bins.edges[0], bins.edges[-1])
    truth = stats.wasserstein_distance(clipped, present(reference))
    error = o.wasserstein_error(cdf, cdf0, widths)
    assert abs(o.wasserstein(cdf, cdf0, widths) - truth) <= error + 1e-9
    assert truth <= stats.wasserstein_distance(present(values), present(reference)) + 1e-9


@given(hnp.arrays(np.int64, (2, 15), elements=st.integers(0, 20)).filter(lambda c: (c[:, :14].sum(axis=1) > 0).all()))
def test_the_error_is_no_larger_than_the_largest_bin_and_the_bounds_are_reached(counts: np.ndarray) -> None:
    """The values that make the bound true: one side's mass at the lower edges of its bins, the other's at the upper."""
    cdf, cdf0 = o.cumulated_shares(counts)
    shares = counts[:, :14] / counts[:, :14].sum(axis=1, keepdims=True)
    error = o.kolmogorov_smirnov_error(cdf, cdf0)
    assert -1e-12 <= error <= shares.max() + 1e-12
    early, late = np.arange(14.0), np.arange(14.0) + 0.9

    def ks(first: np.ndarray, second: np.ndarray) -> float:
        columns = [np.repeat(place, n) for place, n in zip((first, second), counts[:, :14], strict=True)]
        return float(stats.ks_2samp(*columns).statistic)

    assert o.kolmogorov_smirnov(cdf, cdf0) == pytest.approx(ks(early, early))
    assert o.kolmogorov_smirnov(cdf, cdf0) + error == pytest.approx(max(ks(early, late), ks(late, early)))


def test_a_shift_is_measured_in_the_columns_own_unit_and_the_error_shrinks_with_the_bins() -> None:
    rng = np.random.default_rng(2)
    reference, values = rng.uniform(0, 1000, 20_000), rng.uniform(250, 1000, 20_000)
    bins = fit_numeric(reference)
    cdf, cdf0 = binned(bins, values, reference)
    widths = o.bin_widths([bins])[0]
    assert widths.sum() == pytest.approx(np.ptp(reference))
    truth = stats.wasserstein_distance(values, reference)
    assert truth == pytest.approx(125, rel=0.02)
    assert o.wasserstein(cdf, cdf0, widths) == pytest.approx(truth, rel=0.02)
    assert 10 < o.wasserstein_error(cdf, cdf0, widths) < 110  # bins are 99 wide


def test_distributions_that_agree_are_at_no_distance_and_missing_values_are_left_out() -> None:
    counts = np.array([0, 5, *([99] * 10), 5, 0, 0])
    with_missing = counts.copy()
    with_missing[14] = 700
    bins = fit_numeric(np.random.default_rng(1).normal(size=1_000))
    cdf, cdf0 = o.cumulated_shares(np.array([counts, with_missing]))
    assert o.kolmogorov_smirnov(cdf, cdf0) == 0
    assert o.wasserstein(cdf, cdf0, o.bin_widths([bins])[0]) == 0


def test_without_values_there_is_no_distance() -> None:
    nothing = np.zeros(15, np.int64)
    nothing[14] = 3
    cdf, cdf0 = o.cumulated_shares(np.array([nothing, np.ones(15, np.int64)]))
    widths = np.ones(14)
    for distance in (o.kolmogorov_smirnov, o.kolmogorov_smirnov_error):
        assert np.isnan(distance(cdf, cdf0))
    for distance_in_units in (o.wasserstein, o.wasserstein_error):
        assert np.isnan(distance_in_units(cdf, cdf0, widths))


def test_columns_without_edges_of_their_own_have_no_widths_and_do_not_disturb_others() -> None:
    known, empty = fit_numeric(np.arange(1000.0)), fit_numeric([np.nan, np.nan])
    widths = o.bin_widths([known, None, empty, fit_numeric([5.0] * 40)])
    assert widths.shape == (4, 14)
    assert widths[0].sum() == pytest.approx(999) and widths[0, [0, ABOVE_MAX]].tolist() == [0, 0]
    assert np.isnan(widths[1:3]).all()
    assert widths[3].sum() < 1e-12
    assert o.bin_widths([]).shape == (0, 14)
