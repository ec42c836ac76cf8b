"""A watched column, whatever kind its publisher took it for."""

import numpy as np
import pytest

from driftline.errors import EventError
from driftline.events import CategoricalColumn, PredictionColumns
from streams.columns import categorical_column, numeric_column


def batch(numeric: list[float] | None, texts: list[str | None] | None, rows: int = 3) -> PredictionColumns:
    return PredictionColumns(
        "d",
        "1",
        [f"r{i}" for i in range(rows)],
        np.arange(rows),
        {} if numeric is None else {"x": np.array(numeric)},
        {} if texts is None else {"x": CategoricalColumn.from_values(texts)},
    )


def test_an_absent_column_is_missing() -> None:
    assert np.isnan(numeric_column(batch(None, None), "x")).all()
    assert categorical_column(batch(None, None), "x").values() == [None] * 3


def test_numbers_as_text_are_read() -> None:
    read = numeric_column(batch(None, [" 1.5 ", "NA", "-2e3"]), "x")
    assert np.array_equal(read, [1.5, np.nan, -2000.0], equal_nan=True)


def test_booleans_count_as_one_and_zero() -> None:
    assert numeric_column(batch(None, ["true", "false", "true"]), "x").tolist() == [1.0, 0.0, 1.0]


def test_text_that_is_no_number_is_refused_with_the_value() -> None:
    with pytest.raises(EventError, match="'twelve' is not a number"):
        numeric_column(batch(None, ["1", "twelve", "3"]), "x")


def test_numbers_as_categories_have_the_text_that_other_publishers_use() -> None:
    assert categorical_column(batch([1.0, np.nan, 2.5], None), "x").values() == ["1", None, "2.5"]


def test_both_halves_of_a_mixed_column_are_taken() -> None:
    mixed = batch([1.0, np.nan, np.nan], [None, "b", None])
    assert categorical_column(mixed, "x").values() == ["1", "b", None]
    mixed = batch([1.0, np.nan, np.nan], [None, "7", None])
    assert np.array_equal(numeric_column(mixed, "x"), [1.0, 7.0, np.nan], equal_nan=True)
