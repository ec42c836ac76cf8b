"""What callers hand over, row by row or as tables, becomes the columns they meant."""

import datetime as dt
import decimal
import enum
import math
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline import columns as read
from driftline import limits
from driftline.batches import (
    OutcomeRow,
    PredictionRow,
    between,
    cloud_event_headers,
    encoded,
    outcome_columns,
    prediction_columns,
    random_ids,
)
from driftline.codec import decode, encode
from driftline.errors import EventError
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.tables import outcome_table, prediction_table

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUE = st.none() | st.booleans() | st.floats() | st.integers(-(2**60), 2**60) | TEXT
FEATURES = st.dictionaries(st.sampled_from("abcdef"), VALUE, max_size=6)


class Colour(enum.StrEnum):
    RED = "red"


def no_refusal(rows: int, kind: str, reason: str) -> None:
    pytest.fail(f"{rows} rows were refused: {kind}: {reason}")


def row(features: dict[str, Any], key: str = "p", version: str = "v1", **fields: Any) -> PredictionRow:
    given_fields = {
        "prediction": None,
        "prediction_label": None,
        "class_probabilities": None,
        "segments": None,
        "latency_ms": None,
        "error": None,
        "vectors": None,
        **fields,
    }
    return PredictionRow(version, key, 0, features, **given_fields)


def value_at(columns: PredictionColumns, name: str, index: int) -> Any:
    """The value of a feature as a reader sees it: of either kind, or missing."""
    number = columns.numeric[name][index] if name in columns.numeric else math.nan
    text = columns.categorical[name].values()[index] if name in columns.categorical else None
    assert math.isnan(number) or text is None, "a value must not have two kinds"
    return text if math.isnan(number) else number


def expected(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else float(value)


@given(st.lists(FEATURES, min_size=1, max_size=20))
def test_what_becomes_of_a_row_does_not_depend_on_its_neighbours(features: list[dict[str, Any]]) -> None:
    (columns,) = prediction_columns([row(f, f"p{i}") for i, f in enumerate(features)], "d", None)
    for index, feature_values in enumerate(features):
        for name in "abcdef":
            assert value_at(columns, name, index) == expected(feature_values.get(name))


def test_model_versions_do_not_share_a_batch() -> None:
    rows = [row({"a": i}, f"p{i}", version=f"v{i % 2}") for i in range(6)]
    first, second = prediction_columns(rows, "d", "m")
    assert (first.model_version, second.model_version) == ("v0", "v1")
    assert first.prediction_ids == ["p0", "p2", "p4"]
    assert second.numeric["a"].tolist() == [1.0, 3.0, 5.0]
    assert second.model_id == "m"


def test_optional_fields_of_some_rows_are_missing_in_the_others() -> None:
    rows = [
        row({}, prediction=1.0, prediction_label="x", latency_ms=2.0, class_probabilities={"x": 1.0}),
        row({}, segments={"region": "eu"}),
    ]
    (columns,) = prediction_columns(rows, "d", None)
    assert columns.prediction is not None and columns.prediction[0] == 1.0 and math.isnan(columns.prediction[1])
    assert columns.prediction_label is not None and columns.prediction_label.values() == ["x", None]
    assert math.isnan(columns.class_probabilities["x"][1])
    assert columns.segments["region"].values() == [None, "eu"]
    (bare,) = prediction_columns([row({})], "d", None)
    assert [bare.prediction, bare.prediction_label, bare.latency_ms] == [None, None, None]


def test_outcomes_keep_unknown_apart_from_no() -> None:
    rows = [
        OutcomeRow("a", 1, 1.0, None, True),
        OutcomeRow("b", 2, None, "x", None),
        OutcomeRow("c", 3, 0.0, None, False),
    ]
    (columns,) = outcome_columns(rows, "d")
    assert columns.was_acted_on is not None and columns.was_acted_on.tolist() == [1, 255, 0]
    assert columns.actual_label is not None and columns.actual_label.values() == [None, "x", None]
    assert columns.labelling_probability is None


def test_a_row_without_an_interval_has_none_beside_those_with_one() -> None:
    rows = [
        row({}, prediction_low=1.0, prediction_high=2.0),
        row({}),
        row({}, prediction_low=-3.0, prediction_high=0.0),
    ]
    (columns,) = prediction_columns(rows, "d", None)
    np.testing.assert_array_equal(columns.prediction_low, [1.0, math.nan, -3.0])
    np.testing.assert_array_equal(columns.prediction_high, [2.0, math.nan, 0.0])
    (bare,) = prediction_columns([row({})], "d", None)
    assert bare.prediction_low is None and bare.prediction_high is None


@given(st.lists(st.none() | st.floats(0, 1, exclude_min=True), min_size=1, max_size=9))
def test_a_row_without_labelling_probability_was_certain_and_its_batch_is_read(given_rows: list[float | None]) -> None:
    rows = [OutcomeRow(f"p{i}", 1, 1.0, None, None, probability) for i, probability in enumerate(given_rows)]
    (columns,) = outcome_columns(rows, "d")
    again = OutcomeColumns.from_record(decode(encode("OutcomeBatch", columns.to_record()))[1])
    weights = np.ones(len(rows)) if again.labelling_probability is None else again.labelling_probability
    assert weights.tolist() == [1.0 if probability is None else probability for probability in given_rows]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int8(-3), -3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(2.5), 2.5),
        (Colour.RED, "red"),
        (decimal.Decimal("1.25"), 1.25),
        (10**400, 10**400),
        (pd.NA, None),
        (pd.NaT, None),
        (None, None),
    ],
)
def test_a_single_value_of_a_known_kind_is_taken(value: Any, plain: Any) -> None:
    came = read.plain(value, "x")
    assert came == plain
    assert not isinstance(came, (str,)) or type(came) is str


@pytest.mark.parametrize(
    "value",
    [{}, {1.0}, b"x", 1j, np.complex64(1), dt.datetime(2026, 1, 1), np.eye(2), object(), np.datetime64("2026")],
)
def test_a_value_of_another_kind_is_refused_by_name(value: Any) -> None:
    with pytest.raises(EventError, match="feature 'age': expected a number, text, a boolean or None"):
        read.plain_features({"age": value})


def test_features_are_copied() -> None:
    given_features: dict[str, Any] = {"a": 1, "v": np.ones(2, np.float32)}
    plain, vectors = read.plain_features(given_features)
    given_features["a"] = 2
    given_features["v"][:] = 0
    assert plain == {"a": 1} and vectors is not None
    assert vectors["v"].tolist() == [1.0, 1.0]
    assert read.plain_features({"a": 1}) == ({"a": 1}, None)


class Tensor:
    """What an array of another library has in common with numpy's."""

    ndim = 1

    def __len__(self) -> int:
        return 3

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([1, 2, 3])


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.0, 3],
        (1, np.float64(2), np.int8(3)),
        np.array([1, 2, 3], dtype=">i2"),
        np.array([1, 2, 3], dtype=np.float16),
        np.arange(6)[1:4],
        [decimal.Decimal(1), 2, 3],
        np.array([1, 2, 3], dtype=object),
        pd.Series([1, 2, 3]),
        Tensor(),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)
def test_lists_and_arrays_of_numbers_are_vectors(value: Any) -> None:
    _, vectors = read.plain_features({"text": value, "a": 1})
    assert vectors is not None and vectors["text"].dtype == np.float32
    assert vectors["text"].tolist() == [1.0, 2.0, 3.0]


def test_what_float32_cannot_hold_and_what_is_missing_stays_visible() -> None:
    _, vectors = read.plain_features({"v": [1e300, -(10**400), None, math.nan]})
    assert vectors is not None
    np.testing.assert_array_equal(vectors["v"], [math.inf, -math.inf, math.nan, math.nan])


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "a vector has 1 to 65536 numbers"),
        (np.zeros(65_537), "a vector has 1 to 65536 numbers .*came 65537"),
        ([1, "2"], "value 1: a vector has numbers only, came str '2'"),
        ([1, True], "value 1: a vector has numbers only, came bool"),
        ([[1], [2]], "value 0: expected a number"),
        (np.array([True]), "value 0: a vector has numbers only"),
        (np.array(["2026"], dtype="datetime64[D]"), "value 0: expected a number"),
        ([1j], "value 0: expected a number"),
    ],
    ids=repr,
)
def test_a_list_of_anything_else_is_refused_by_name(value: Any, complaint: str) -> None:
    with pytest.raises(EventError, match=f"feature 'text'.*{complaint}"):
        read.plain_features({"text": value})


@pytest.mark.parametrize(
    ("value", "name"),
    [("timeout", "timeout"), (TimeoutError("at 12:00"), "TimeoutError"), (Colour.RED, "red"), ("", None), (None, None)],
    ids=repr,
)
def test_an_error_is_a_class_or_an_exceptions_type(value: Any, name: str | None) -> None:
    assert read.error_class(value, "error") == name


@pytest.mark.parametrize("value", [True, False, 503, ["timeout"], TimeoutError], ids=repr)
def test_an_error_that_is_no_class_is_refused(value: Any) -> None:
    with pytest.raises(EventError, match="error: expected"):
        read.error_class(value, "error")


VECTORS = st.dictionaries(
    st.sampled_from("vw"), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3), max_size=2
)


@given(st.lists(VECTORS, min_size=1, max_size=12))
def test_every_row_keeps_its_vectors_whatever_dimension_its_neighbours_have(rows: list[dict[str, Any]]) -> None:
    batches = list(
        prediction_columns([row({}, f"p{i}", vectors=read.plain_features(v)[1]) for i, v in enumerate(rows)], "d", None)
    )
    came: dict[str, Any] = {}
    for batch in batches:
        assert [key for key in batch.prediction_ids if key in came] == []
        for index, key in enumerate(batch.prediction_ids):
            of_row = {name: values[index].tolist() for name, values in batch.vectors.items()}
            came[key] = {name: values for name, values in of_row.items() if not any(map(math.isnan, values))}
    assert came == {f"p{i}": values for i, values in enumerate(rows)}
    dimensions = {tuple(sorted((name, len(values)) for name, values in v.items())) for v in rows}
    assert len(batches) <= max(1, len(dimensions))


def test_rows_without_a_vector_share_the_batch_of_those_with_one() -> None:
    vector = {"v": np.ones(2, np.float32)}
    (columns,) = prediction_columns([row({}), row({}, vectors=vector), row({}), row({}, vectors=vector)], "d", None)
    np.testing.assert_array_equal(columns.vectors["v"][:, 0], [math.nan, 1, math.nan, 1])


@pytest.mark.parametrize("features", [[("a", 1)], None, "a", {1: 2}])
def test_features_must_be_a_mapping_of_names(features: Any) -> None:
    with pytest.raises(EventError, match="features"):
        read.plain_features(features)


def test_a_class_given_as_prediction_is_told_where_to_go() -> None:
    with pytest.raises(EventError, match="label"):
        read.number("late", "prediction")


@pytest.mark.parametrize("value", ["", "x" * 257, "a\ud800", None, 1.5, True, b"x"])
def test_an_impossible_prediction_id_is_refused(value: Any) -> None:
    with pytest.raises(EventError, match="prediction_id"):
        read.identifier(value)


def test_integers_and_uuids_are_prediction_ids() -> None:
    key = uuid.uuid4()
    assert [read.identifier(value) for value in (7, np.int64(8), key)] == ["7", "8", str(key)]


def table(features: Any, prediction: Any = None, **fields: Any) -> PredictionColumns:
    names = (
        "prediction_ids",
        "prediction_label",
        "class_probabilities",
        "timestamps",
        "segments",
        "latency_ms",
        "error",
        "prediction_low",
        "prediction_high",
    )
    return prediction_table(
        features,
        prediction,
        deployment_id="d",
        model_version="v",
        model_id=None,
        **{name: fields.get(name) for name in names},
    )


NUMBERS = [1.0, None, 3.0]
TEXTS = ["x", None, "y"]


@pytest.mark.parametrize(
    "column",
    [
        NUMBERS,
        tuple(NUMBERS),
        np.array([1.0, np.nan, 3.0], dtype=np.float32),
        np.array(NUMBERS, dtype=object),
        pd.Series(NUMBERS),
        pd.Series([1, None, 3], dtype="Int64"),
        pa.array(NUMBERS),
        pa.array([1, None, 3]),
        pa.chunked_array([[1.0], [None, 3.0]]),
        [decimal.Decimal(1), None, 3],
    ],
    ids=lambda column: type(column).__name__,
)
def test_numbers_of_every_library_are_numeric(column: Any) -> None:
    columns = table({"a": column})
    assert columns.categorical == {}
    assert np.array_equal(columns.numeric["a"], [1.0, np.nan, 3.0], equal_nan=True)


@pytest.mark.parametrize(
    "column",
    [
        TEXTS,
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pa.array(TEXTS),
        pa.chunked_array([["x"], [None, "y"]]),
        pa.array(TEXTS).dictionary_encode(),
    ],
    ids=lambda column: type(column).__name__,
)
def test_texts_of_every_library_are_categorical(column: Any) -> None:
    columns = table({"a": column})
    assert columns.numeric == {}
    assert columns.categorical["a"].values() == TEXTS


@pytest.mark.parametrize(
    "column", [[True, False], np.array([True, False]), pd.Series([True, False]), pa.array([True, False])]
)
def test_booleans_are_categorical(column: Any) -> None:
    assert table({"a": column}).categorical["a"].values() == ["true", "false"]


MATRIX = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "column",
    [
        MATRIX,
        list(np.array(MATRIX)),
        np.array(MATRIX, dtype=np.float32),
        np.array(MATRIX, dtype=int).T.copy().T,
        pd.Series(MATRIX),
        pa.array(MATRIX),
        pa.array(MATRIX, pa.list_(pa.float32(), 2)),
        pa.chunked_array([MATRIX[:1], MATRIX[1:]]),
    ],
    ids=lambda column: type(column).__name__,
)
def test_vectors_of_every_library_are_vectors(column: Any) -> None:
    columns = table({"v": column})
    assert columns.numeric == {} and columns.categorical == {}
    assert columns.vectors["v"].tolist() == MATRIX and columns.vectors["v"].dtype == np.float32


def test_a_table_keeps_vectors_and_numbers_of_one_column_apart() -> None:
    columns = table({"v": [[1, 2], None, 7.0, np.array([3, 4])]})
    np.testing.assert_array_equal(columns.vectors["v"], [[1, 2], [math.nan] * 2, [math.nan] * 2, [3, 4]])
    np.testing.assert_array_equal(columns.numeric["v"], [math.nan, math.nan, 7.0, math.nan])


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        ([[1, 2], [1, 2, 3]], "feature 'v', row 1: expected a vector of 2 numbers like those before, came 3"),
        ([[1, 2], ["x", 2]], "feature 'v', row 1, value 0: a vector has numbers only"),
        (np.array([["a"]]), "feature 'v': expected vectors of numbers"),
        (np.zeros((2, 0)), "feature 'v': a vector has 1 to 65536 numbers"),
        (np.zeros((2, 2, 2)), "feature 'v': expected one dimension, or two for vectors"),
    ],
    ids=repr,
)
def test_vectors_that_are_none_are_refused_by_name(column: Any, complaint: str) -> None:
    with pytest.raises(EventError, match=complaint):
        table({"v": column})


def test_errors_of_a_table_are_classes() -> None:
    columns = table({"a": [1, 2, 3]}, error=["timeout", None, ValueError("no")])
    assert columns.error is not None and columns.error.values() == ["timeout", None, "ValueError"]


@pytest.mark.parametrize("frame", [pd.DataFrame, pa.table], ids=["pandas", "pyarrow"])
def test_whole_frames_are_features(frame: Any) -> None:
    columns = table(frame({"a": [1, 2], "b": ["x", "y"]}))
    assert columns.numeric["a"].tolist() == [1.0, 2.0]
    assert columns.categorical["b"].values() == ["x", "y"]
    assert len(set(columns.prediction_ids)) == 2


def test_mixed_columns_keep_each_value_under_its_own_kind() -> None:
    columns = table({"a": [1, "x", None, True]})
    assert [value_at(columns, "a", i) for i in range(4)] == [1.0, "x", None, "true"]


def test_a_column_without_a_value_is_left_out() -> None:
    columns = table({"a": [None, None], "b": [1, 2]})
    assert list(columns.numeric) == ["b"]
    assert columns.categorical == {}


MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
MICROSECONDS = 1_767_323_045_678_901


@pytest.mark.parametrize(
    "column",
    [
        [MOMENT],
        [MICROSECONDS],
        ["2026-01-02T04:04:05.678901+01:00"],
        np.array([MICROSECONDS]),
        np.array(["2026-01-02T03:04:05.678901"], dtype="datetime64[us]"),
        np.array(["2026-01-02T03:04:05.678901999"], dtype="datetime64[ns]"),
        pd.Series([MOMENT]),
        pd.Series([pd.Timestamp(MOMENT).tz_convert("Asia/Tokyo")]),
        pa.array([MOMENT]),
    ],
    ids=lambda column: type(column).__name__,
)
def test_times_of_every_library_are_microseconds_of_utc(column: Any) -> None:
    assert table({"a": [1]}, timestamps=column).timestamps_us.tolist() == [MICROSECONDS]


@pytest.mark.parametrize(
    "column",
    [[MOMENT.replace(tzinfo=None)], ["2026-01-02T03:04:05"], [None], np.array(["NaT"], "datetime64[us]"), [1.5]],
)
def test_a_time_that_would_be_a_guess_is_refused_with_its_row(column: Any) -> None:
    with pytest.raises(EventError, match="timestamps, row 0"):
        table({"a": [1]}, timestamps=column)


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction": [1.0]},
        {"prediction_label": ["a"]},
        {"timestamps": [1, 2, 3]},
        {"prediction_ids": ["a"]},
        {"class_probabilities": {"a": [0.5]}},
        {"segments": {"a": ["x"]}},
        {"latency_ms": [1.0]},
        {"error": ["timeout"]},
    ],
)
def test_columns_of_unequal_length_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(EventError) as caught:
        table({"a": [1, 2]}, **fields)
    assert caught.value.reason == "unequal_columns"


def test_tables_are_copied() -> None:
    column = np.array([1.0, 2.0])
    columns = table({"a": column}, prediction=column)
    column[:] = 0
    assert columns.numeric["a"].tolist() == [1.0, 2.0]
    assert columns.prediction is not None and columns.prediction.tolist() == [1.0, 2.0]


def test_a_table_of_outcomes_is_read() -> None:
    chances = pd.Series([0.5, 1])
    columns = outcome_table("d", [1, 2], [None, 3], pd.Series(["a", None]), [MOMENT, MOMENT], [True, None], chances)
    assert columns.prediction_ids == ["1", "2"]
    assert columns.actual_label is not None and columns.actual_label.values() == ["a", None]
    assert columns.was_acted_on is not None and columns.was_acted_on.tolist() == [1, 255]
    np.testing.assert_array_equal(columns.actual_value, [math.nan, 3.0])
    np.testing.assert_array_equal(columns.labelling_probability, [0.5, 1.0])


@pytest.mark.parametrize(
    "acted",
    [
        [True, None, False],
        [1, None, 0],
        np.array([1.0, math.nan, 0.0]),
        pd.Series([True, None, False]),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Series([1, None, 0]),
        pd.Series([1, None, 0], dtype="Int64"),
        pa.array([True, None, False]),
    ],
    ids=lambda column: str(getattr(column, "dtype", getattr(column, "type", "list"))),
)
def test_who_acted_is_read_as_every_library_has_it(acted: Any) -> None:
    columns = outcome_table("d", ["a", "b", "c"], [1, 2, 3], None, None, acted)
    assert columns.was_acted_on is not None and columns.was_acted_on.tolist() == [1, 255, 0]


@pytest.mark.parametrize("value", [2, -1, 0.5, math.inf, "yes"])
def test_what_is_no_yes_or_no_is_refused_with_its_row(value: Any) -> None:
    with pytest.raises(EventError, match="was_acted_on, row 1: expected True, False or None, came"):
        outcome_table("d", ["a", "b"], [1, 2], None, None, [True, value])


def test_what_is_the_same_for_all_rows_may_be_given_once() -> None:
    given = outcome_table("d", ["a", "b"], [1, 2], None, MOMENT, True, 0.25)
    assert given.actual_timestamps_us.tolist() == [MICROSECONDS] * 2
    assert given.was_acted_on is not None and given.was_acted_on.tolist() == [1, 1]
    assert given.labelling_probability is not None and given.labelling_probability.tolist() == [0.25, 0.25]
    for time in (MOMENT.isoformat(), MICROSECONDS, np.int64(MICROSECONDS), pd.Timestamp(MOMENT)):
        assert table({"a": [1, 2]}, timestamps=time).timestamps_us.tolist() == [MICROSECONDS] * 2
    with pytest.raises(EventError, match="has no zone"):
        outcome_table("d", ["a"], [1], None, "2026-01-02T03:04:05", None)
    with pytest.raises(EventError, match=r"labelling_probability, row 0: .*came 1\.5"):
        outcome_table("d", ["a"], [1], None, None, None, 1.5)


@pytest.mark.parametrize("values", ["late", ["late", "late"]], ids=["row", "table"])
def test_a_class_in_the_place_of_a_number_is_told_where_it_belongs(values: Any) -> None:
    with pytest.raises(EventError, match=r"actual_value.* came .*'late'; a class goes into actual_label"):
        limits.actual(values, None) if isinstance(values, str) else outcome_table("d", ["a", "b"], values, *[None] * 3)


@pytest.mark.parametrize(
    "of_library", [list, np.array, pd.Series, pa.array], ids=["list", "numpy", "pandas", "pyarrow"]
)
def test_intervals_of_every_library_are_read(of_library: Any) -> None:
    low, high = of_library([0.5, math.nan, 2.0]), of_library([0.5, math.nan, 1e300])
    columns = table({"a": [1, 2, 3]}, prediction_low=low, prediction_high=high)
    np.testing.assert_array_equal(columns.prediction_low, [0.5, math.nan, 2.0])
    np.testing.assert_array_equal(columns.prediction_high, [0.5, math.nan, 1e300])


@given(st.lists(FEATURES, min_size=2, max_size=30), st.data())
def test_a_part_of_a_batch_says_what_the_rows_said(features: list[dict[str, Any]], data: st.DataObject) -> None:
    rows = [
        row(
            f,
            f"p{i}",
            segments={"s": str(i % 3)},
            error=[None, "late"][i % 2],
            vectors={"v": np.full(2, i, "<f4")},
            prediction_low=float(i),
            prediction_high=i + 1.0,
        )
        for i, f in enumerate(features)
    ]
    (whole,) = prediction_columns(rows, "d", None)
    start = data.draw(st.integers(0, len(features) - 1))
    stop = data.draw(st.integers(start + 1, len(features)))
    part = between(whole, start, stop)
    assert part.prediction_ids == whole.prediction_ids[start:stop]
    for name in {*whole.numeric, *whole.categorical}:
        assert [value_at(part, name, i) for i in range(part.rows)] == [
            value_at(whole, name, i) for i in range(start, stop)
        ]
    assert part.vectors["v"].tolist() == [[i, i] for i in range(start, stop)]
    np.testing.assert_array_equal(part.prediction_low, np.arange(start, stop))
    np.testing.assert_array_equal(part.prediction_high, np.arange(start, stop) + 1)
    assert whole.error is not None and part.error is not None
    assert part.error.values() == whole.error.values()[start:stop]
    for column in (*part.categorical.values(), *part.segments.values(), part.error):
        if part.rows < whole.rows:
            assert set(column.categories) == {value for value in column.values() if value is not None}


@pytest.mark.parametrize("rows", [1, 10, 333])
def test_a_batch_beyond_the_limit_is_split_and_keeps_its_rows_in_order(rows: int) -> None:
    columns = table({f"n{i}": np.arange(rows) for i in range(100)}, prediction_ids=list(range(rows)))
    parts = [PredictionColumns.from_record(decode(data)[1]) for data, _ in encoded(columns, 20_000, no_refusal)]
    assert [key for part in parts for key in part.prediction_ids] == [str(i) for i in range(rows)]
    assert np.array_equal(np.concatenate([part.numeric["n99"] for part in parts]), np.arange(rows))
    assert all(len(data) <= 20_000 for data, _ in encoded(columns, 20_000, no_refusal))


def test_a_batch_of_long_vectors_is_split_before_it_is_too_large() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 768)).astype(np.float32)
    columns = table({"v": vectors})
    sent = list(encoded(columns, 20_000, no_refusal))
    assert all(len(data) <= 20_000 for data, _ in sent)
    parts = [PredictionColumns.from_record(decode(data)[1]) for data, _ in sent]
    assert np.array_equal(np.concatenate([part.vectors["v"] for part in parts]), vectors)


def test_rows_that_cannot_be_encoded_cost_only_themselves() -> None:
    rows = [row({"text": "fine", "n": i}, f"p{i}") for i in range(50)]
    rows[13] = row({"text": "half a character: \ud800"}, "p13")
    rows[31] = row({"text": "x" * 50_000}, "p31")
    (columns,) = prediction_columns(rows, "d", None)
    refused: list[str] = []
    sent = [
        key
        for data, _ in encoded(columns, 20_000, lambda count, kind, reason: refused.append(reason))
        for key in decode(data)[1]["prediction_ids"]
    ]
    assert sent == [f"p{i}" for i in range(50) if i not in (13, 31)]
    assert len(refused) == 2
    assert "p13" in refused[0]
    assert "p31" in refused[1] and "max_message_bytes=20000" in refused[1]


def test_disjoint_feature_sets_do_not_explode() -> None:
    rows = [row({f"f{i}-{j}": 1.0 for j in range(20)}, f"p{i}") for i in range(500)]
    (columns,) = prediction_columns(rows, "d", None)
    parts = list(encoded(columns, 900_000, no_refusal))
    assert sum(count for _, count in parts) == 500
    assert all(len(data) <= 900_000 for data, _ in parts)


def test_ids_are_unique_and_cloud_event_headers_are_complete() -> None:
    assert len(set(random_ids(10_000))) == 10_000
    headers = dict(cloud_event_headers("PredictionBatch", "a b/ü"))
    assert headers.pop("ce_id") != dict(cloud_event_headers("PredictionBatch", "a"))["ce_id"]
    assert dt.datetime.fromisoformat(headers.pop("ce_time")).tzinfo == dt.UTC
    assert headers == {
        "ce_specversion": "1.0",
        "ce_type": "driftline.PredictionBatch",
        "ce_source": "driftline/sdk/a%20b%2F%C3%BC",
        "content-type": "application/avro",
    }


def test_categories_that_only_differ_as_numbers_stay_whole() -> None:
    """A pandas categorical of 1 and 1.0-like values must not give two categories of one text."""
    column = read.feature_column(pd.Series([1, 2, 1], dtype="category"), "a")[1]
    assert isinstance(column, CategoricalColumn)
    assert column.values() == ["1", "2", "1"]
