"""The join of a reference, against a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.outcomes.keys import id_keys
from streams.outcomes.matching import NEVER, Outcomes, first_of_each, match, members

HORIZON = 20

outcome_rows = st.lists(
    st.tuples(
        st.integers(0, 12),  # the prediction
        st.integers(-5, 60),  # when it was known
        st.sampled_from([0.0, 1.0, 2.5]),
        st.sampled_from([0, 1, 255]),
        st.sampled_from([1.0, 4.0]),
    ),
    max_size=40,
)
Row = tuple[int, int, float, int, float]


def keys_of(numbers: list[int]) -> np.ndarray:
    return id_keys([f"p{number}" for number in numbers]).reshape(-1, 2)


def outcomes_of(rows: list[Row]) -> Outcomes:
    return Outcomes(
        keys_of([row[0] for row in rows]),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.uint8),
        np.array([row[4] for row in rows], np.float64),
    )


def naive(times: dict[int, int], rows: list[Row]) -> tuple[dict[int, Row], dict[int, int], list[int]]:
    """The outcome that counts of each prediction, when a first one was known; how many were replaced, late, unknown."""
    best: dict[int, Row] = {}
    first: dict[int, int] = {}
    replaced = late = unknown = 0
    for row in rows:
        number, known = row[:2]
        if number not in times:
            unknown += 1
            continue
        age = max(known - times[number], 0)
        if age > HORIZON:
            late += 1
            continue
        first[number] = min(first.get(number, age), age)

        def rank(r: Row) -> tuple[int, float, int, float]:
            return (r[1], r[2], -1 if r[3] == 255 else r[3], r[4])

        if number in best:
            replaced += 1
        if number not in best or rank(row) > rank(best[number]):
            best[number] = row
    return best, first, [replaced, late, unknown]


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 40)), outcome_rows)
def test_the_join_is_that_of_a_dictionary(times: dict[int, int], rows: list[Row]) -> None:
    numbers = list(times)
    found = match(keys_of(numbers), np.array([times[n] for n in numbers], np.int64), outcomes_of(rows), HORIZON)
    best, first, counts = naive(times, rows)
    assert [None if row < 0 else rows[row] for row in found.row.tolist()] == [best.get(n) for n in numbers]
    assert found.known_us.tolist() == [first.get(n, NEVER) for n in numbers]
    assert [found.replaced, found.late, found.unknown] == counts


@given(outcome_rows, st.randoms())
def test_the_order_of_outcomes_never_matters(rows: list[Row], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    keys, times = keys_of(list(range(10))), np.arange(10) * 4

    def values(of: list[Row]) -> list[Row | None]:
        found = match(keys, times, outcomes_of(of), HORIZON)
        return [None if row < 0 else of[row] for row in found.row.tolist()]

    assert values(rows) == values(shuffled)


def test_an_absurd_time_is_late_and_nothing_else() -> None:
    rows: list[Row] = [(0, 2**63 - 1, 1.0, 0, 1.0), (1, -(2**63), 1.0, 0, 1.0)]
    found = match(keys_of([0, 1]), np.array([1_700_000_000_000_000] * 2), outcomes_of(rows), HORIZON)
    assert found.row.tolist() == [-1, 1], "known before its prediction is known at once"
    assert found.late == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from([0.0, 1.0])), max_size=20))
def test_of_an_id_the_earliest_prediction_counts(rows: list[tuple[int, int, float]]) -> None:
    chosen = first_of_each(
        keys_of([row[0] for row in rows]),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows]),
    )
    assert sorted(rows[at] for at in chosen.tolist()) == sorted(
        min((r for r in rows if r[0] == number), key=lambda r: r[1:]) for number in {row[0] for row in rows}
    )
    assert (np.diff(chosen) > 0).all()


@given(st.sets(st.integers(0, 9)), st.lists(st.integers(0, 12)))
def test_members(have: set[int], wanted: list[int]) -> None:
    assert members(keys_of(sorted(have)), keys_of(wanted)).tolist() == [number in have for number in wanted]
