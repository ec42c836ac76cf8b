"""Rows come back in order of their time, whatever order they were in and however little fits into memory."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from services.backtest import arrivals
from services.backtest.arrivals import Arrivals, Cursor, in_order, joined
from services.publish.reading import take


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 50 rows and blocks of 7."""
    monkeypatch.setattr(arrivals, "RUN_ROWS", 50)
    monkeypatch.setattr(arrivals, "BLOCK_ROWS", 7)
    monkeypatch.setattr(arrivals, "BLOCK_BYTES", 1)


def outcomes(times: list[int], first: int = 0) -> OutcomeColumns:
    """Rows whose id, value, label and flag tell which they are."""
    number = np.arange(first, first + len(times))
    classes = [f"c{first}", "same", f"d{first}"]
    return OutcomeColumns(
        "d",
        [f"p{n}" for n in number.tolist()],
        np.array(times, np.int64),
        actual_value=number.astype(np.float64),
        actual_label=CategoricalColumn(classes, (number % 3).astype(np.int32) - (number % 7 == 0)),
        was_acted_on=(number % 2).astype(np.uint8),
        labelling_probability=1 / (1 + number),
    )


def rows_of(batches: Iterator[OutcomeColumns] | list[OutcomeColumns]) -> list[tuple[Any, ...]]:
    return [
        row
        for batch in batches
        if batch.actual_value is not None and batch.actual_label is not None and batch.was_acted_on is not None
        for row in zip(
            batch.actual_timestamps_us.tolist(),
            batch.prediction_ids,
            batch.actual_value.tolist(),
            batch.actual_label.values(),
            batch.was_acted_on.tolist(),
            strict=True,
        )
    ]


def sorted_by_time(batches: list[OutcomeColumns]) -> list[OutcomeColumns]:
    with tempfile.TemporaryFile() as file:
        found = Arrivals(file, "OutcomeBatch", OutcomeColumns.from_record)
        for batch in batches:
            found.add(batch)
        assert found.rows == sum(batch.rows for batch in batches)
        return list(found.blocks())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=40), max_size=12))
def test_every_row_comes_once_and_in_order(batches: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrivals, "RUN_ROWS", 50)
        patch.setattr(arrivals, "BLOCK_ROWS", 64)
        patch.setattr(arrivals, "BLOCK_BYTES", 1)
        given_rows, first = [], 0
        for times in batches:
            given_rows.append(outcomes(times, first))
            first += len(times)
        found = rows_of(sorted_by_time(given_rows))
        assert [row[0] for row in found] == sorted(row[0] for row in found)
        assert sorted(found, key=repr) == sorted(rows_of(given_rows), key=repr)


def test_a_file_that_is_sorted_is_one_run_and_stays_as_it_is(little_memory: None) -> None:
    batches = [outcomes(list(range(start, start + 40)), start) for start in range(0, 400, 40)]
    with tempfile.TemporaryFile() as file:
        found = Arrivals(file, "OutcomeBatch", OutcomeColumns.from_record)
        for batch in batches:
            found.add(batch)
        assert rows_of(found.blocks()) == rows_of(batches)
        assert len(found._runs) == 1


def test_rows_of_one_time_within_a_run_stay_in_their_order() -> None:
    found = rows_of(sorted_by_time([outcomes([5, 3, 5, 3, 3])]))
    assert [row[1] for row in found] == ["p1", "p3", "p4", "p0", "p2"]


def test_little_more_than_a_block_of_each_run_is_in_memory(little_memory: None) -> None:
    rng = np.random.default_rng(1)
    blocks = sorted_by_time([outcomes(rng.integers(0, 10_000, 100).tolist(), 100 * n) for n in range(50)])
    assert sum(block.rows for block in blocks) == 5_000
    assert max(block.rows for block in blocks) <= 64 * 50
    assert len(blocks) > 40


def predictions(vectors: np.ndarray[Any, Any], **more: Any) -> PredictionColumns:
    count = len(vectors)
    return PredictionColumns(
        "d",
        "1",
        [f"p{n}" for n in range(count)],
        np.arange(count, dtype=np.int64)[::-1].copy(),
        {"x": np.arange(count, dtype=np.float64)},
        {"c": CategoricalColumn(["a"], np.zeros(count, np.int32))},
        class_probabilities={"yes": np.linspace(0, 1, count)},
        vectors={"v": vectors.astype(np.float32)},
        **more,
    )


def test_predictions_keep_every_column() -> None:
    batch = predictions(np.arange(12).reshape(4, 3), latency_ms=np.arange(4.0), model_id="m")
    with tempfile.TemporaryFile() as file:
        found = Arrivals(file, "PredictionBatch", PredictionColumns.from_record)
        found.add(batch)
        (block,) = found.blocks()
    assert block.prediction_ids == ["p3", "p2", "p1", "p0"]
    assert block.numeric["x"].tolist() == [3, 2, 1, 0]
    assert block.vectors["v"].tolist() == np.arange(12).reshape(4, 3)[::-1].tolist()
    assert (block.model_id, block.error, block.latency_ms is not None) == ("m", None, True)
    assert block.class_probabilities["yes"].tolist() == np.linspace(0, 1, 4)[::-1].tolist()


def test_joined_batches_know_all_their_categories() -> None:
    whole = joined([outcomes([1, 2, 3], 0), outcomes([4, 5, 6], 7)])
    assert rows_of([whole]) == rows_of([outcomes([1, 2, 3], 0), outcomes([4, 5, 6], 7)])
    assert joined([whole]) is whole and in_order(whole) is whole


def test_a_cursor_goes_on_where_it_was(little_memory: None) -> None:
    times = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55] * 20
    cursor = Cursor(iter(sorted_by_time([outcomes(times)])))
    assert cursor.next_us == 1
    first = list(cursor.before(3, most_rows=25))
    assert [batch.rows for batch in first] == [25, 25, 10], "whatever the blocks are"
    assert cursor.next_us == 3 and (cursor.ahead_us(1), list(cursor.before(3, 10))) == (3, [])
    rest = list(cursor.before(1 << 60, most_rows=1_000))
    assert cursor.next_us is None and cursor.ahead_us(5) is None
    assert sorted(rows_of([*first, *rest]), key=repr) == sorted(rows_of([outcomes(times)]), key=repr)


def test_no_rows_are_no_blocks() -> None:
    assert sorted_by_time([]) == []
    assert Cursor(iter([])).next_us is None
    assert take(outcomes([1]), np.array([0])).rows == 1
