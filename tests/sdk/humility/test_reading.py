"""Columns and parts of the traffic, as the SDK and the streams read them."""

import math
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftline.columns import by_kind, plain
from driftline.errors import EventError
from driftline.events import CategoricalColumn, PredictionColumns
from driftline.humility.layout import Segment
from driftline.humility.row import category_of, lacks_vector, number_of, probabilities_of, text_of
from driftline.reading import categorical_column, dividing_column, number_in, numeric_column, part_codes
from streams.baseline import BaselineSegment


class Hostile:
    """Raises whenever it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __float__(self) -> float:
        raise RuntimeError("float")


class Colour(StrEnum):
    RED = "red"


VALUES: list[Any] = [
    *(1, 1.0, 2.5, -0.0, 10**400, 2**63, True, False, None, math.nan, math.inf, -math.inf),
    *("", " ", "a", "1", " 1.50 ", "1e3", "true", "True", "NA", "None", "nan", "inf", "1_000", "0x10", "١٢"),
    *(np.float32(0.1), np.float16(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.str_("b"), np.str_("2")),
    *(Decimal("0.1"), Colour.RED, np.array(2.0), np.array("c"), pd.NA, pd.NaT, np.float64(math.nan)),
]


def as_column(value: Any) -> PredictionColumns:
    """What publishing makes of a value."""
    numbers, texts = by_kind([plain(value, "")])
    return PredictionColumns(
        "d",
        "1",
        ["r"],
        np.zeros(1, np.int64),
        {} if numbers is None else {"x": numbers},
        {} if texts is None else {"x": texts},
    )


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_read_alone_as_it_is_after_publishing(value: Any) -> None:
    columns = as_column(value)
    number, text = number_of(value), text_of(value)
    assert np.array_equal(numeric_column(columns, "x", lenient=True), [number], equal_nan=True)
    assert categorical_column(columns, "x").values() == [text]
    infinite = bool(columns.numeric) and math.isinf(number)
    assert category_of(value) == (None if infinite or text == "" else text)


@pytest.mark.parametrize(
    "value", [[1.0], (), np.array([1.0]), np.ones((2, 2)), 1j, b"1", object(), {"a": 1}, pd.Series([1.0])]
)
def test_what_cannot_be_published_as_a_value_is_missing(value: Any) -> None:
    assert math.isnan(number_of(value))
    assert text_of(value) is category_of(value) is None


@pytest.mark.parametrize("make", [Hostile, lambda: np.ma.masked], ids=["hostile", "masked"])
def test_what_cannot_even_be_looked_at_is_missing(make: Any) -> None:
    value = make()
    assert math.isnan(number_of(value))
    assert text_of(value) is category_of(value) is None
    assert lacks_vector(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1.0, 2], False),
        ((1, 2), False),
        (np.array([1, 2]), False),
        ([1.0, None], True),
        ([math.inf], True),
        ([1e39], True),
        ([], True),
        (["a"], True),
        (np.ones((2, 2)), True),
        (1.0, True),
        (None, True),
        ("text", True),
    ],
)
def test_a_vector_has_finite_numbers_and_at_least_one(value: Any, expected: bool) -> None:
    assert lacks_vector(value) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"a": 0.5, "b": np.float64(0.25)}, {"a": 0.5, "b": 0.25}),
        ({"a": math.nan, "b": None, "c": math.inf, "d": "much"}, {}),
        ({True: 1, 2.0: 0.5, None: 0.5}, {"true": 1.0, "2": 0.5}),
        ([0.1, 0.9], {}),
        (np.array([0.1, 0.9]), {}),
    ],
)
def test_probabilities_are_the_finite_numbers_of_classes_with_a_name(given: Any, expected: dict[str, float]) -> None:
    assert probabilities_of(given) == expected


@pytest.mark.parametrize(("text", "number"), [("true", 1.0), (" 2 ", 2.0), ("na", math.nan), ("twelve", None)])
def test_the_number_in_a_text(text: str, number: float | None) -> None:
    assert number_in(text) == number or (number is not None and math.isnan(number) and math.isnan(number_in(text) or 0))


def columns(segments: dict[str, list[Any]], features: dict[str, list[Any]], rows: int = 4) -> PredictionColumns:
    numbers, texts = {}, {}
    for name, values in features.items():
        as_numbers, as_texts = by_kind(values)
        numbers |= {} if as_numbers is None else {name: as_numbers}
        texts |= {} if as_texts is None else {name: as_texts}
    attributes = {name: CategoricalColumn.from_values(values) for name, values in segments.items()}
    return PredictionColumns("d", "1", ["r"] * rows, np.zeros(rows, np.int64), numbers, texts, segments=attributes)


def test_a_row_without_the_attribute_is_divided_by_the_feature_whatever_its_batch_has() -> None:
    mixed = columns({"site": ["A", None, None, ""]}, {"site": ["B", "A", None, "B"]})
    assert dividing_column(mixed, "site").values() == ["A", "A", None, ""]
    alone = columns({}, {"site": ["A"]}, rows=1)
    assert dividing_column(alone, "site").values() == ["A"]


@pytest.mark.parametrize("kind", [Segment, BaselineSegment])
def test_parts_are_the_same_whoever_describes_them(kind: Any) -> None:
    table = columns({"site": ["A", "B", None, "(other)"]}, {"x": [1.0, 5, "4", math.nan]})
    assert part_codes(kind("s", "site", ("A", "B"), None, None), table).tolist() == [0, 1, -1, -1]
    assert part_codes(kind("s", "site", ("B", "(other)"), None, None), table).tolist() == [1, 0, 1, 1]
    assert part_codes(kind("s", "x", ("in",), 1.0, 5.0), table).tolist() == [0, -1, 0, -1]
    assert part_codes(kind("s", "x", ("in",), None, 2.0), table).tolist() == [0, -1, -1, -1]


def test_unreadable_numbers_are_refused_by_the_streams_and_missing_for_rules() -> None:
    table = columns({}, {"x": ["1", "many", None, "2"]})
    segment = Segment("s", "x", ("in",), 0.0, None)
    with pytest.raises(EventError, match="'many' is not a number"):
        part_codes(segment, table)
    assert part_codes(segment, table, lenient=True).tolist() == [0, -1, -1, 0]
    assert np.array_equal(numeric_column(table, "x", lenient=True), [1.0, np.nan, np.nan, 2.0], equal_nan=True)
