"""Numbers on the grid of sums."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.statistics.performance.grid import GRID, ONE, from_grid, to_grid


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.5 * GRID)
@example(1.5 * GRID)
@example(5e-324)
@example(-1.7976931348623157e308)
def test_a_float_goes_to_the_nearest_multiple_as_exact_arithmetic_says(number: float) -> None:
    assert to_grid(number) == round(Fraction(number) * ONE)


@given(st.integers(-(2**53), 2**53))
def test_what_is_on_the_grid_stays(units: int) -> None:
    assert to_grid(from_grid(units)) == units


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        to_grid(number)
