"""The reference's error: exact limits, coverage, and what they are needed for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streams.statistics.distances import total_variation
from streams.statistics.layouts import ASSOCIATION, CATEGORICAL, NUMERIC, QUALITY, nominal_probabilities
from streams.statistics.margins import clopper_pearson_deviation, effective_margins, reference_radius


@given(st.integers(1, 5_000), st.data(), st.sampled_from([0.05, 1e-3, 1e-6]))
def test_deviations_are_those_of_scipys_exact_interval(m: int, data: st.DataObject, beta: float) -> None:
    count = data.draw(st.integers(0, m))
    low, high = stats.binomtest(count, m).proportion_ci(1 - beta, method="exact")
    expected = max(high - count / m, count / m - low)
    assert clopper_pearson_deviation(count, m, beta) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_radius_is_the_largest_deviation_of_any_set_of_bins() -> None:
    counts, beta = [700, 3, 0, 90, 7], 0.01
    sets = [[k for k in range(5) if code >> k & 1] for code in range(1, 31)]  # with its complement, each twice
    largest = max(clopper_pearson_deviation(sum(counts[k] for k in s), 800, beta / 15) for s in sets)
    assert reference_radius(counts, beta)[0] == pytest.approx(float(largest), rel=1e-12)


@pytest.mark.parametrize(
    "p",
    [[0.96, 0.01, 0.01, 0.02, 0.0], [0.999, 0.001, 0.0, 0.0, 0.0], [0.2] * 5, [0.5, 0.3, 0.1, 0.06, 0.04]],
    ids=["nearly all valid", "hardly any bad", "uniform", "unequal"],
)
@pytest.mark.parametrize("m", [200, 3_000])
def test_the_truth_lies_within_the_radius(p: list[float], m: int) -> None:
    references = np.random.default_rng(1).multinomial(m, p, size=400)
    truth = np.array([total_variation(row, np.array(p)) for row in references])
    radius = reference_radius(references, 0.05)
    assert (truth <= radius).mean() >= 0.95
    assert radius.mean() < 6 * truth.mean() + 10 / m


def test_a_reference_without_a_bad_value_leaves_little_room() -> None:
    """log(2 * 15 / beta) / m in five bins; Hoeffding's inequality would leave 0.03."""
    radius = reference_radius([5_000, 0, 0, 0, 0], 1e-3, QUALITY)[0]
    assert radius == pytest.approx(np.log(30_000) / 5_000, rel=0.01)
    assert effective_margins(0.005, [5_000, 0, 0, 0, 0], 1e-3, QUALITY)[0] == 0.005
    assert effective_margins(0.005, [500, 0, 0, 0, 0], 1e-3, QUALITY)[0] == pytest.approx(0.0204, abs=2e-4)


def test_many_bins_use_the_inequality_of_weissman_and_others() -> None:
    counts = np.rint(20_000 * nominal_probabilities()).astype(int)
    expected = np.sqrt((15 * np.log(2) + np.log(1e3)) / (2 * counts.sum()))
    assert reference_radius(counts, 1e-3, NUMERIC)[0] == pytest.approx(expected, rel=1e-4)


def test_bins_that_cannot_occur_do_not_widen_the_margin() -> None:
    boolean = np.zeros((2, 23), int)
    boolean[:, :2] = [[4_000, 1_000], [400, 100]]
    with_layout, without = reference_radius(boolean, 1e-3, CATEGORICAL), reference_radius(boolean, 1e-3)
    assert (with_layout < 0.6 * without).all()
    assert with_layout[0] < with_layout[1]
    assert reference_radius(boolean[:1, [0, 1, 21, 22]], 1e-3) == pytest.approx(with_layout[:1])
    assert reference_radius(np.full((1, 10), 50), 1e-3, ASSOCIATION)[0] < 0.15


def test_margins_go_stream_by_stream_and_never_below_the_operators() -> None:
    counts = np.array([[9_000, 10, 0, 50, 0], [90, 1, 0, 5, 0]])
    radius = reference_radius(counts, 1e-3)
    assert effective_margins([0.1, 0.001], counts, 1e-3).tolist() == [0.1, radius[1]]
    assert reference_radius(np.zeros((1, 5)), 1e-3)[0] == 1
    with pytest.raises(ValueError, match="probability"):
        reference_radius(counts, 1.0)
