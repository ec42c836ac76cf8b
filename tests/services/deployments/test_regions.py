"""What cannot hold is found, and nothing that can is said to be impossible."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from services.deployments.regions import (
    EVERYTHING,
    MISSING,
    Both,
    Either,
    Formula,
    Lies,
    Region,
    Search,
    above,
    below,
    between,
    negation,
    points,
)

CANDIDATES = [None, -math.inf, math.inf, *(n / 2 for n in range(-3, 12))]
"""With ends at whole numbers, every region is told from every other by one of these."""

ends = st.integers(0, 4).map(float)
regions = st.one_of(
    st.builds(between, ends, ends, missing=st.booleans()),
    st.builds(below, ends, missing=st.booleans()),
    st.builds(above, ends),
    st.lists(ends, max_size=3).map(points),
    st.just(MISSING),
    st.just(EVERYTHING),
)
lies = st.builds(Lies, st.sampled_from("ab"), regions)
formulas = st.recursive(
    lies,
    lambda inner: (
        st.builds(Both, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Either, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


def has(region: Region, value: float | None) -> bool:
    if value is None:
        return region.missing
    return any(low <= (value, 0) <= high for low, high in region.intervals)


def holds(formula: Formula, row: dict[str, float | None]) -> bool:
    if isinstance(formula, Lies):
        return has(formula.region, row[str(formula.column)])
    parts = [holds(part, row) for part in formula.parts]
    return all(parts) if isinstance(formula, Both) else any(parts)


@given(regions, regions)
def test_regions_are_sets(one: Region, other: Region) -> None:
    for value in CANDIDATES:
        assert has(one.intersection(other), value) == (has(one, value) and has(other, value))
        assert has(one.complement(), value) == (not has(one, value))
    assert one.complement().complement() == one
    assert one.is_empty == (not any(has(one, value) for value in CANDIDATES))


@given(formulas)
def test_a_formula_can_hold_exactly_where_some_row_meets_it(formula: Formula) -> None:
    rows = [dict(zip("ab", values, strict=True)) for values in itertools.product(CANDIDATES, repeat=2)]
    search = Search(lambda column: EVERYTHING)
    assert search.can_hold(formula) == any(holds(formula, row) for row in rows)
    assert search.can_hold(negation(formula)) == any(not holds(formula, row) for row in rows)
    assert not search.can_hold(formula, negation(formula))


@given(formulas, formulas)
def test_one_follows_from_another_where_all_its_rows_meet_it(one: Formula, other: Formula) -> None:
    rows = [dict(zip("ab", values, strict=True)) for values in itertools.product(CANDIDATES, repeat=2)]
    followed = all(holds(other, row) for row in rows if holds(one, row))
    assert Search(lambda column: EVERYTHING).can_hold(one, negation(other)) == (not followed)


def test_what_a_column_can_be_at_all_counts() -> None:
    search = Search(lambda column: between(0, 1, missing=True))
    assert not search.can_hold(Lies("a", above(1)))
    assert not search.can_hold(negation(Lies("a", between(0, 1, missing=True))))


def test_what_is_not_decided_in_time_is_taken_to_be_possible() -> None:
    never = Both((Lies("a", below(1)), Lies("a", above(1))))
    assert not Search(lambda column: EVERYTHING).can_hold(never)
    assert Search(lambda column: EVERYTHING, steps=1).can_hold(never)
    deep = Both(tuple(Either((Lies(n, below(0)), Lies(n, above(1)))) for n in range(5000)))
    assert Search(lambda column: EVERYTHING).can_hold(deep)
