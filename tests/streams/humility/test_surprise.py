"""Surprise: unusual values are more surprising, and by how much is known where the source is known."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.events import CategoricalColumn
from driftline.humility.fit import NoveltyColumn
from streams.humility.surprise import categorical_surprise, joint_surprise, numeric_surprise

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def of_number(column: NoveltyColumn, value: float) -> float:
    return column.surprise[bisect_right(column.edges, value)]


def of_category(column: NoveltyColumn, value: str | None) -> float:
    if value is None:
        return column.surprise[-1]
    known = dict(zip(column.categories, column.surprise, strict=False))
    return known.get(value, column.surprise[-2])


@settings(max_examples=200)
@given(st.lists(st.one_of(FINITE, st.just(math.nan), st.just(math.inf)), max_size=120))
def test_any_column_has_ascending_edges_and_grows_more_surprising_outwards(values: list[float]) -> None:
    column = numeric_surprise("x", np.array(values, float))
    assert len(column.surprise) == len(column.edges) + 2
    assert all(low < high for low, high in zip(column.edges, column.edges[1:], strict=False))
    assert np.isfinite(column.edges).all()
    assert np.isfinite(column.surprise).all()
    assert min(column.surprise) >= 0
    present = list(column.surprise[:-1])
    lowest = present.index(min(present))
    assert present[: lowest + 1] == sorted(present[: lowest + 1], reverse=True)
    assert present[lowest:] == sorted(present[lowest:])


def test_the_surprise_of_a_normal_value_is_that_of_its_two_tails() -> None:
    column = numeric_surprise("x", np.random.default_rng(0).normal(size=100_000))
    for sds in (1.0, 2.0, 3.0, 3.7):
        expected = -math.log(math.erfc(sds / math.sqrt(2)))
        for value in (sds, -sds):
            # a bin begins at most a step before the value
            assert expected - 0.5 < of_number(column, value) < expected + 0.15
    assert of_number(column, 8.0) > of_number(column, 6.0) > of_number(column, 4.7) > 10


def test_missing_is_as_surprising_as_it_is_rare_and_so_is_being_there() -> None:
    never = numeric_surprise("x", np.arange(1_000.0))
    often = numeric_surprise("x", np.where(np.arange(1_000) % 10 == 0, np.nan, np.arange(1_000.0)))
    mostly = numeric_surprise("x", np.where(np.arange(1_000) % 10 == 0, np.arange(1_000.0), np.nan))
    assert never.surprise[-1] == pytest.approx(-math.log(0.5 / 1_001))
    assert often.surprise[-1] == pytest.approx(-math.log(0.1), rel=0.01)
    assert mostly.surprise[-1] < 0.12
    assert min(mostly.surprise[:-1]) == pytest.approx(-math.log(0.1), rel=0.01)


def test_a_constant_column_is_surprised_by_any_other_value() -> None:
    column = numeric_surprise("x", np.full(500, 3.0))
    assert of_number(column, 3.0) == 0
    assert of_number(column, np.nextafter(3.0, 4)) == of_number(column, np.nextafter(3.0, 2)) > 6


def test_values_of_few_kinds_are_as_surprising_as_their_share_beyond() -> None:
    column = numeric_surprise("x", np.repeat([0.0, 1.0, 2.0], [5_000, 4_000, 1_000]))
    assert of_number(column, 2.0) == pytest.approx(-math.log(2 * 0.1))
    assert of_number(column, 1.0) == of_number(column, 0.0) == 0
    assert of_number(column, 3.0) > 9


def test_the_joint_distance_is_unusual_where_it_is_large_alone() -> None:
    column = joint_surprise(np.random.default_rng(0).gamma(4, size=20_000))
    assert of_number(column, 0.0) == 0
    assert of_number(column, 12.0) > of_number(column, 8.0) > 2


def test_the_rarer_a_category_the_more_surprising_and_a_new_one_most() -> None:
    column = categorical_surprise("c", CategoricalColumn.from_values(["a"] * 900 + ["b"] * 90 + ["c"] * 9 + ["d"]))
    found = [of_category(column, name) for name in ("a", "b", "c", "d", "never seen")]
    assert found == sorted(found)
    assert column.categories == ("a", "b", "c", "d")
    # a tenth of the rows has a category that is at most as frequent as b, and one row in a thousand a new one
    assert found[1] == pytest.approx(-math.log(0.1 + 0.0015), rel=0.01)
    assert found[-1] == pytest.approx(-math.log(1.5 / 1_001))


def test_a_new_identifier_surprises_nobody() -> None:
    column = categorical_surprise("id", CategoricalColumn.from_values([f"u{i}" for i in range(2_000)]))
    assert of_category(column, "new") < 0.01
    assert of_category(column, "u7") == 0


def test_empty_texts_are_missing() -> None:
    column = categorical_surprise("c", CategoricalColumn.from_values(["a", "", None, "a"]))
    assert column.categories == ("a",)
    assert of_category(column, None) == pytest.approx(-math.log(2.5 / 5))


@given(st.lists(st.sampled_from(["a", "b", "c", "", None]), max_size=30), st.randoms())
def test_the_order_of_rows_does_not_matter(values: list[str | None], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (categorical_surprise("c", CategoricalColumn.from_values(each)) for each in (values, shuffled))
    assert one == other


def test_categories_that_are_not_remembered_are_as_if_never_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.humility.surprise.MOST_CATEGORIES", 2)
    column = categorical_surprise("c", CategoricalColumn.from_values(["a"] * 50 + ["b"] * 30 + ["c"] * 20))
    assert column.categories == ("a", "b")
    assert of_category(column, "c") == of_category(column, "never seen") == pytest.approx(-math.log(20.5 / 101))
