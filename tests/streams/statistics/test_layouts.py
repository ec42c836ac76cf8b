"""Values become bins: ties, out of range, missing, categories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streams.statistics.counting import count_categorical_block, count_numeric_block, stack_numeric
from streams.statistics.layouts import (
    ABOVE_MAX,
    ASSOCIATION,
    BELOW_MIN,
    CATEGORICAL,
    CATEGORICAL_MISSING,
    KNOWN_CATEGORIES_LIMIT,
    NUMERIC,
    NUMERIC_MISSING,
    OTHER,
    QUALITY,
    QUALITY_MISSING,
    QUALITY_OUT_OF_RANGE,
    QUALITY_UNSEEN,
    QUALITY_VALID,
    UNSEEN,
    CategoricalBins,
    Layout,
    NumericBins,
    bin_categorical,
    bin_numeric,
    count_codes,
    dictionary_lookup,
    fit_categorical,
    fit_numeric,
    nominal_probabilities,
    possible_bins,
    quality_counts,
    reference_probabilities,
)

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
COLUMN = hnp.arrays(np.float64, st.integers(0, 60), elements=st.one_of(ANY_FLOAT, st.integers(-3, 3).map(float)))


def slow_bin(bins: NumericBins, value: float) -> int:
    """One value at a time, from the definition."""
    if value != value:
        return NUMERIC_MISSING
    if value in (np.inf, -np.inf):
        return ABOVE_MAX if value > 0 else BELOW_MIN
    return int(bins.remap[sum(edge <= value for edge in bins.edges.tolist())])


@given(COLUMN, COLUMN)
def test_binning_agrees_with_its_definition(reference: np.ndarray, live: np.ndarray) -> None:
    bins = fit_numeric(reference)
    for column in (reference, live):
        assert bin_numeric(bins, column).tolist() == [slow_bin(bins, value) for value in column.tolist()]


@given(COLUMN)
def test_no_finite_reference_value_is_out_of_range(reference: np.ndarray) -> None:
    finite = reference[np.isfinite(reference)]
    codes = bin_numeric(fit_numeric(reference), finite)
    assert ((codes > BELOW_MIN) & (codes < ABOVE_MAX)).all()


@given(COLUMN)
def test_bins_keep_the_order_of_values(reference: np.ndarray) -> None:
    finite = np.sort(reference[np.isfinite(reference)])
    assert (np.diff(bin_numeric(fit_numeric(reference), finite).astype(int)) >= 0).all()


@given(COLUMN)
def test_values_outside_the_reference_range_are_out_of_range(reference: np.ndarray) -> None:
    finite = reference[np.isfinite(reference)]
    if finite.size and np.abs(finite).max() < 1e300:
        bins = fit_numeric(reference)
        assert bin_numeric(bins, [np.nextafter(finite.max(), np.inf)])[0] == ABOVE_MAX
        assert bin_numeric(bins, [np.nextafter(finite.min(), -np.inf)])[0] == BELOW_MIN


def test_a_continuous_column_has_its_nominal_masses() -> None:
    column = np.random.default_rng(1).normal(size=20_000)
    bins = fit_numeric(column)
    assert bins.remap.tolist() == list(range(14))
    shares = count_codes(bin_numeric(bins, column), NUMERIC) / column.size
    assert np.abs(shares - nominal_probabilities()).max() < 2e-4


def test_a_zero_inflated_column_puts_the_zeros_in_the_middle_of_their_ranks() -> None:
    column = np.concatenate([np.zeros(600), np.arange(1, 401) / 7.0])
    codes = bin_numeric(fit_numeric(column), column)
    assert NUMERIC.bin_names[codes[0]] in ("core_2", "core_3")
    shares = count_codes(codes, NUMERIC) / column.size
    assert shares[codes[0]] >= 0.6
    assert (shares[9:12] > 0.09).all()


def test_a_two_valued_and_a_constant_column_work() -> None:
    two = np.repeat([0.0, 1.0], [600, 400])
    low, high = (int(code) for code in bin_numeric(fit_numeric(two), [0.0, 1.0]))
    assert (NUMERIC.bin_names[low], NUMERIC.bin_names[high]) == ("core_2", "core_8")
    constant = fit_numeric(np.full(50, 3.25))
    assert [NUMERIC.bin_names[c] for c in bin_numeric(constant, [3.25, 3.0, 4.0, np.nan])] == [
        "core_5",
        "below_min",
        "above_max",
        "missing",
    ]


def test_distinct_raw_bins_stay_distinct_under_ties() -> None:
    column = np.random.default_rng(2).poisson(2, 5_000).astype(float)
    bins = fit_numeric(column)
    occupied = np.unique(np.searchsorted(bins.edges, column, side="right"))
    assert len(set(bins.remap[occupied].tolist())) == len(occupied)


def test_a_column_without_finite_values_calls_every_value_out_of_range() -> None:
    bins = fit_numeric([np.nan, np.nan])
    assert bin_numeric(bins, [1.0, np.inf, -np.inf, np.nan]).tolist() == [
        BELOW_MIN,
        ABOVE_MAX,
        BELOW_MIN,
        NUMERIC_MISSING,
    ]


def test_malformed_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="13 edges"):
        NumericBins(np.zeros(5), np.zeros(6, np.uint8))
    with pytest.raises(ValueError, match="not decrease"):
        NumericBins(np.arange(13.0)[::-1], np.zeros(14, np.uint8))
    with pytest.raises(ValueError, match="remapped"):
        NumericBins(np.arange(13.0), np.full(14, 14, np.uint8))


@given(
    st.lists(COLUMN, min_size=1, max_size=4),
    st.integers(0, 30),
    st.data(),
)
def test_counting_a_block_equals_binning_its_columns(
    references: list[np.ndarray], rows: int, data: st.DataObject
) -> None:
    bins = [fit_numeric(reference) for reference in references]
    values = data.draw(hnp.arrays(np.float64, (len(bins), rows), elements=ANY_FLOAT))
    segments = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=rows, max_size=rows)), np.int64)
    block = stack_numeric(bins)
    whole = count_numeric_block(block, values)
    split = count_numeric_block(block, values, segments, 3)
    assert whole.shape == (1, len(bins), 15)
    for column, cut in enumerate(bins):
        codes = bin_numeric(cut, values[column])
        assert whole[0, column].tolist() == count_codes(codes, NUMERIC).tolist()
        for group in range(3):
            assert split[group, column].tolist() == count_codes(codes[segments == group], NUMERIC).tolist()


def test_a_block_of_the_wrong_shape_is_refused() -> None:
    block = stack_numeric([fit_numeric(np.arange(20.0))])
    with pytest.raises(ValueError, match=r"\(1, n\)"):
        count_numeric_block(block, np.zeros((2, 5)))


WORDS = st.text("abc", max_size=3)


@given(st.lists(st.one_of(st.none(), WORDS), max_size=80), st.lists(WORDS, unique=True, max_size=12), st.data())
def test_dictionary_codes_and_strings_count_alike(
    reference: list[str | None], dictionary: list[str], data: st.DataObject
) -> None:
    bins = fit_categorical(reference)
    rows = data.draw(st.lists(st.integers(-1, len(dictionary) - 1), max_size=40))
    segments = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=len(rows), max_size=len(rows))), np.int64)
    strings = [None if code < 0 else dictionary[code] for code in rows]
    codes = bin_categorical(bins, strings)
    lookup = dictionary_lookup(bins, dictionary)
    assert lookup[np.array(rows, int)].tolist() == codes.tolist()
    counted = count_categorical_block([lookup], [np.array(rows, np.int32)])
    assert counted[0, 0].tolist() == count_codes(codes, CATEGORICAL).tolist()
    split = count_categorical_block([lookup], [np.array(rows, np.int32)], segments, 2)
    for group in range(2):
        assert split[group, 0].tolist() == count_codes(codes[segments == group], CATEGORICAL).tolist()


def test_categories_are_ranked_by_frequency_then_name() -> None:
    values = [f"c{i:02}" for i in range(25) for _ in range(30 - i)] + [None, "b", "a"]
    bins = fit_categorical(values)
    assert bins.top == tuple(f"c{i:02}" for i in range(20))
    assert bins.known == ("a", "b", "c20", "c21", "c22", "c23", "c24")
    assert bin_categorical(bins, ["c00", "c19", "c20", "a", "new", None]).tolist() == [
        0,
        19,
        OTHER,
        OTHER,
        UNSEEN,
        CATEGORICAL_MISSING,
    ]
    assert [bins.code(c) for c in ("c00", "a", "new")] == [0, OTHER, UNSEEN]


def test_known_categories_are_bounded_and_the_rest_is_unseen_in_the_reference_too() -> None:
    values = [f"id{i}" for i in range(KNOWN_CATEGORIES_LIMIT + 500)]
    bins = fit_categorical(values)
    counts = count_codes(bin_categorical(bins, values), CATEGORICAL)
    assert (counts[OTHER], counts[UNSEEN]) == (KNOWN_CATEGORIES_LIMIT, 480)


def test_wrong_categorical_bins_and_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 20"):
        CategoricalBins(tuple(str(i) for i in range(21)))
    with pytest.raises(ValueError, match="listed once"):
        CategoricalBins(("a",), ("a",))
    lookup = dictionary_lookup(CategoricalBins(("a",)), ["a", "b"])
    for code in (2, -2):
        with pytest.raises(ValueError, match="dictionary"):
            count_categorical_block([lookup], [np.array([code])])


@given(st.sampled_from([NUMERIC, CATEGORICAL]), st.lists(st.integers(0, 22), max_size=60))
def test_quality_counts_are_a_coarsening_of_the_same_events(layout: Layout, drawn: list[int]) -> None:
    codes = [code % layout.size for code in drawn]
    kind = {
        NUMERIC: {BELOW_MIN: QUALITY_OUT_OF_RANGE, ABOVE_MAX: QUALITY_OUT_OF_RANGE, NUMERIC_MISSING: QUALITY_MISSING},
        CATEGORICAL: {UNSEEN: QUALITY_UNSEEN, CATEGORICAL_MISSING: QUALITY_MISSING},
    }[layout]
    quality = [kind.get(code, QUALITY_VALID) for code in codes]
    counts = count_codes(np.array(codes, int), layout)
    assert quality_counts(counts, layout).tolist() == [quality.count(k) for k in range(QUALITY.size)]
    stacked = quality_counts(np.stack([counts, 2 * counts])[None], layout)
    assert stacked.shape == (1, 2, QUALITY.size)
    assert (stacked[0, 1] == 2 * stacked[0, 0]).all()


def test_quality_counts_of_another_width_are_refused() -> None:
    for counts, layout in ((np.zeros(15), CATEGORICAL), (np.zeros(5), QUALITY), (np.zeros(10), ASSOCIATION)):
        with pytest.raises(ValueError, match="numeric or categorical"):
            quality_counts(counts, layout)


def test_a_bin_is_possible_if_it_was_filled_or_is_where_broken_pipelines_show() -> None:
    boolean = np.zeros(CATEGORICAL.size, int)
    boolean[:2] = 5
    assert np.flatnonzero(possible_bins(boolean, CATEGORICAL)).tolist() == [0, 1, UNSEEN, CATEGORICAL_MISSING]
    assert possible_bins(np.zeros((2, 5)), QUALITY).all() and possible_bins(np.zeros(10), ASSOCIATION).all()
    assert possible_bins(np.eye(15), NUMERIC).sum() == 12 * 4 + 3 * 3


@given(hnp.arrays(np.int64, (3, 15), elements=st.integers(0, 10**7)))
def test_reference_probabilities_are_positive_and_add_up_to_one(counts: np.ndarray) -> None:
    p = reference_probabilities(counts)
    assert np.allclose(p.sum(axis=1), 1)
    assert p.min() > 0.9e-4
