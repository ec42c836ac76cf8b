"""Plots of characters stay in their room and put numbers where they belong."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.plots import (
    DOUBTED,
    ESTIMATE,
    LEVEL,
    UPRIGHT,
    VALUE,
    Point,
    interval_line,
    scale_of,
    square,
    timeline,
)

NUMBERS = st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0, math.inf, -math.inf])
MAYBE = st.none() | NUMBERS
POINTS = st.builds(
    Point, NUMBERS | st.none(), st.none() | st.tuples(NUMBERS, NUMBERS).map(sorted).map(tuple), MAYBE, MAYBE,
    st.booleans(),
)  # fmt: skip


def text(number: float) -> str:
    return f"{number:.3g}"


@given(st.lists(POINTS, min_size=1, max_size=60), st.integers(40, 120))
def test_a_timeline_is_as_wide_as_its_room_and_shows_every_value(points: list[Point], width: int) -> None:
    lines = timeline(points, text, ("2024-01", "2024-12"), width)
    last = points[-(width - 9) :]
    known = scale_of(n for p in last for n in (p.value, *(p.ends or ()), p.reference, p.estimate))
    assert bool(lines) == (known is not None)
    if lines:
        assert len(lines) == 13 and max(map(len, lines)) <= width
        room = width - lines[-2].index("└") - 2
        assert "\n".join(lines).count(VALUE) == sum(p.value is not None for p in last[-room:])


def test_a_timeline_puts_high_numbers_high_and_marks_what_is_doubted() -> None:
    points = [Point(1.0, (0.5, 1.5), 1.0, 2.0), Point(0.0, None, 1.0, 2.0, doubted=True)]
    lines = timeline(points, text, ("a", "b"), 40, height=5)
    top, upper, middle, _, bottom = lines[:5]
    assert top.startswith("2 ┤") and middle.startswith("1 ┤") and bottom.startswith("0 ┤")
    assert top.count(ESTIMATE) == top.count(DOUBTED) == 1 and bottom.count(VALUE) == 1
    assert middle.count(VALUE) == 1 and LEVEL in middle and UPRIGHT in upper
    assert lines[-1].split() == ["a", "b"]
    assert timeline([Point(None)], text, ("a", "b"), 40) == []
    many = timeline([Point(float(n)) for n in range(100)], text, ("a", "b"), 40)
    assert many[-1].split() == ["…", "b"] and "".join(many).count(VALUE) == 31 and "69 ┤" in many[10]


@given(MAYBE, st.none() | st.tuples(NUMBERS, NUMBERS).map(sorted).map(tuple), MAYBE, st.integers(10, 40))
def test_an_interval_never_leaves_its_line(
    value: float | None, ends: tuple[float, float] | None, reference: float | None, width: int
) -> None:
    line = interval_line(value, ends, reference, (-1.0, 1.0), width)
    assert len(line) <= width and line.count(VALUE) == (value is not None)


@pytest.mark.parametrize(("top", "label"), [(0.04, "0.1"), (0.31, "0.4"), (1.0, "1.0")])
def test_a_square_ends_at_the_largest_point_and_has_its_diagonal(top: float, label: str) -> None:
    lines = square([(0.0, 0.0), (top, top)])
    assert lines[0].split()[0] == label and lines[-1].split() == ["0.0", label]
    assert sum(line.count(VALUE) for line in lines) == 2 and sum("·" in line for line in lines) >= 15
