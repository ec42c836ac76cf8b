"""Columns of the contract: checked when they are read."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from driftline import codec
from driftline.errors import EventError
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns


def batch(rows: int = 3, **changes: Any) -> PredictionColumns:
    given_fields: dict[str, Any] = {
        "deployment_id": "credit",
        "model_version": "v1",
        "prediction_ids": [f"p{i}" for i in range(rows)],
        "timestamps_us": np.arange(rows, dtype=np.int64),
        "numeric": {"income": np.arange(rows, dtype=np.float64)},
        "categorical": {"city": CategoricalColumn.from_values(["a"] * rows)},
    }
    return PredictionColumns(**{**given_fields, **changes})


def read(record: dict[str, Any]) -> PredictionColumns:
    return PredictionColumns.from_record(codec.decode(codec.encode("PredictionBatch", record))[1])


def test_nan_and_infinity_come_back_bit_for_bit() -> None:
    values = np.array([math.nan, math.inf, -math.inf, -0.0, 5e-324])
    came = read(batch(5, numeric={"x": values}).to_record()).numeric["x"]
    assert came.tobytes() == values.tobytes()


def test_big_endian_arrays_are_written_little_endian() -> None:
    values = np.array([1.5, 2.5, 3.5], dtype=">f8")
    assert read(batch(3, numeric={"x": values}).to_record()).numeric["x"].tolist() == [1.5, 2.5, 3.5]


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    )
)
def test_vectors_come_back_bit_for_bit(values: NDArray[np.float32]) -> None:
    came = read(batch(len(values), vectors={"text": values, "image": values[:, ::-1]}).to_record()).vectors
    assert came["text"].shape == values.shape and came["text"].dtype == np.float32
    assert came["text"].tobytes() == values.tobytes()
    assert came["image"].tobytes() == np.ascontiguousarray(values[:, ::-1]).tobytes()


@given(st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 9), st.binary(max_size=64), st.integers(1, 4))
def test_whatever_a_batch_says_of_its_vectors_they_fit_or_are_refused(dimension: int, data: bytes, rows: int) -> None:
    record = batch(rows).to_record() | {"vectors": {"text": {"dimension": dimension, "values": data}}}
    if dimension < 1 or len(data) != rows * dimension * 4:
        with pytest.raises(EventError, match="column 'text': "):
            read(record)
    else:
        came = read(record).vectors["text"]
        assert came.shape == (rows, dimension) and came.tobytes() == data


def test_errors_come_back() -> None:
    error = CategoricalColumn.from_values([None, "timeout", "overload"])
    came = read(batch(3, error=error).to_record()).error
    assert came is not None and came.values() == [None, "timeout", "overload"]
    assert read(batch(3).to_record()).error is None


@pytest.mark.parametrize("dimension", [0, -1, 65_537, 2**31 - 1, -(2**31)])
def test_an_impossible_dimension_is_refused_by_name(dimension: int) -> None:
    record = batch(3).to_record() | {"vectors": {"text": {"dimension": dimension, "values": b"\0" * 12}}}
    with pytest.raises(EventError, match="column 'text': a vector has 1 to 65536 numbers"):
        read(record)


@pytest.mark.parametrize("size", [0, 4, 23, 25, 48])
def test_vectors_with_another_number_of_bytes_are_refused(size: int) -> None:
    record = batch(3).to_record() | {"vectors": {"text": {"dimension": 2, "values": bytes(size)}}}
    with pytest.raises(
        EventError, match=f"column 'text': expected 3 vectors .* of 2 values.*came {size} bytes"
    ) as caught:
        read(record)
    assert caught.value.reason == "unequal_columns"


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=30))
def test_a_categorical_column_gives_back_its_values(values: list[str | None]) -> None:
    column = CategoricalColumn.from_values(values)
    assert column.values() == values
    assert len(set(column.categories)) == len(column.categories)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(EventError) as caught:
        read(batch(0).to_record())
    assert caught.value.reason == "empty_batch"


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"timestamps_us": np.arange(2)}, "timestamps_us"),
        ({"numeric": {"income": np.zeros(4)}}, "income"),
        ({"categorical": {"city": CategoricalColumn.from_values(["a"])}}, "city"),
        ({"prediction": np.zeros(2)}, "prediction"),
        ({"prediction_label": CategoricalColumn.from_values("ab")}, "prediction_label"),
        ({"class_probabilities": {"good": np.zeros(2)}}, "good"),
        ({"segments": {"region": CategoricalColumn.from_values("ab")}}, "region"),
        ({"latency_ms": np.zeros(9)}, "latency_ms"),
        ({"vectors": {"text": np.zeros((2, 6))}}, "text"),
        ({"error": CategoricalColumn.from_values("ab")}, "error"),
    ],
)
def test_columns_of_unequal_length_are_refused_by_name(changes: dict[str, Any], column: str) -> None:
    with pytest.raises(EventError, match=column) as caught:
        read(batch(3, **changes).to_record())
    assert caught.value.reason == "unequal_columns"


@pytest.mark.parametrize("codes", [[0, 1, 2], [0, -2, 0], [2**31 - 1, 0, 0]])
def test_codes_outside_the_categories_are_refused(codes: list[int]) -> None:
    column = CategoricalColumn(["a", "b"], np.array(codes, dtype=np.int32))
    with pytest.raises(EventError, match="codes must lie between -1 and 1"):
        read(batch(3, categorical={"city": column}).to_record())


@pytest.mark.parametrize("name", ["", "a#1", "a@v", "a\nb", "x" * 257])
@pytest.mark.parametrize("field", ["deployment_id", "model_version"])
def test_names_that_cannot_be_keys_are_refused(field: str, name: str) -> None:
    with pytest.raises(EventError, match=field):
        read(batch(3, **{field: name}).to_record())


@pytest.mark.parametrize("ids", [["a", "", "c"], ["a", "x" * 257, "c"]])
def test_an_impossible_prediction_id_is_refused_with_its_row(ids: list[str]) -> None:
    with pytest.raises(EventError, match="row 1"):
        read(batch(3, prediction_ids=ids).to_record())


def outcomes(**changes: Any) -> OutcomeColumns:
    fields: dict[str, Any] = {"actual_value": np.zeros(2), **changes}
    return OutcomeColumns("credit", ["a", "b"], np.zeros(2, dtype=np.int64), **fields)


def test_an_outcome_without_value_and_label_is_refused() -> None:
    with pytest.raises(EventError, match=r"a number in actual_value or a class in actual_label, came neither"):
        OutcomeColumns.from_record(outcomes(actual_value=None).to_record())


def test_was_acted_on_is_yes_no_or_unknown() -> None:
    fine = outcomes(was_acted_on=np.array([1, 255], dtype=np.uint8))
    assert OutcomeColumns.from_record(fine.to_record()).was_acted_on.tolist() == [1, 255]  # type: ignore[union-attr]
    with pytest.raises(EventError, match="expected 0, 1 or 255"):
        OutcomeColumns.from_record(outcomes(was_acted_on=np.array([1, 7], dtype=np.uint8)).to_record())
