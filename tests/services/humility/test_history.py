"""History goes by batch by batch: outcomes find their predictions, and each prediction counts once."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftline.batches import take
from driftline.events import OutcomeColumns, PredictionColumns
from services.humility.history import Once, OutcomeIndex
from streams.outcomes.keys import id_keys
from streams.outcomes.matching import Outcomes, match
from streams.statistics.performance.pairs import REGRESSION, PerformanceLayout

LAYOUT = PerformanceLayout(REGRESSION)


def outcomes_of(rows: list[tuple[int, int, float]]) -> OutcomeColumns:
    ids, times, values = ([row[at] for row in rows] for at in range(3))
    return OutcomeColumns(
        "d", [str(each) for each in ids], np.array(times, np.int64), actual_value=np.array(values, np.float64)
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 12), st.sampled_from([1.0, 2.0, 3.0, np.nan])),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_the_outcomes_found_are_those_of_a_reference(
    rows: list[tuple[int, int, float]], horizon_us: int, random: Any
) -> None:
    keys, times = id_keys([str(number) for number in range(10)]), np.arange(10, dtype=np.int64)
    usable = [row for row in rows if not np.isnan(row[2])]
    table = Outcomes(
        id_keys([str(row[0]) for row in usable]) if usable else np.zeros((0, 2), np.uint64),
        np.array([row[1] for row in usable], np.int64),
        np.array([row[2] for row in usable], np.float64),
        np.zeros(len(usable), np.uint8),
        np.ones(len(usable)),
    )
    expected = match(keys, times, table, horizon_us)
    random.shuffle(rows)
    cut = random.randint(0, len(rows))
    index = OutcomeIndex(LAYOUT, [outcomes_of(part) for part in (rows[:cut], rows[cut:]) if part])
    found = index.join(keys, times, horizon_us)
    assert index.rows == len(usable)
    assert found.known.tolist() == (expected.row >= 0).tolist()
    chosen = expected.row[expected.row >= 0]
    assert found.values.tolist() == table.values[chosen].tolist()
    assert found.ages_us.tolist() == np.maximum(table.times_us[chosen] - times[found.known], 0).tolist()


def test_an_outcome_of_a_sample_weighs_as_many_rows_as_it_stands_for() -> None:
    batch = OutcomeColumns(
        "d", ["a", "b", "c"], np.ones(3, np.int64), actual_value=np.ones(3),
        labelling_probability=np.array([0.5, 1.0, 2.0]),
    )  # fmt: skip
    found = OutcomeIndex(LAYOUT, [batch]).join(id_keys(["a", "b", "c"]), np.zeros(3, np.int64), 10)
    assert found.known.tolist() == [True, True, False] and found.weights.tolist() == [2.0, 1.0]
    assert not OutcomeIndex(LAYOUT, []).join(id_keys(["a"]), np.zeros(1, np.int64), 10).known.any()


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=20), max_size=20))
def test_of_an_id_that_comes_again_the_first_row_counts(batches: list[list[int]]) -> None:
    once, seen, kept = Once(), set(), []
    for batch in batches:
        ids = [str(number) for number in batch]
        columns = PredictionColumns("d", "1", ids, np.arange(len(ids), dtype=np.int64), {})
        new, keys = once.new(columns, id_keys(ids))
        expected = []
        for row, name in enumerate(ids):
            if name not in seen:
                seen.add(name)
                expected.append(row)
        assert list(new.prediction_ids) == [ids[row] for row in expected] and len(keys) == len(expected)
        assert new.timestamps_us.tolist() == take(columns, np.array(expected, np.intp)).timestamps_us.tolist()
        kept += expected
    assert once.repeated == sum(map(len, batches)) - len(kept)
