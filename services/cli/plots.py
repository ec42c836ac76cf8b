"""Plots of characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

VALUE, REFERENCE, SPAN, DIAGONAL = "●", "│", "─", "·"
ESTIMATE, DOUBTED, UPRIGHT, LEVEL = "○", "?", "┃", "─"
LEGEND = (
    f"{VALUE} value, {UPRIGHT} its 95 % interval, {LEVEL} the reference at the same age, {ESTIMATE} estimate, "
    f"{DOUBTED} one that is doubted or disproved"
)

_WIDEST_STEP = 7
_AXIS = 9
"""Characters that the axis of a timeline takes, with most numbers."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a period has: a value, its interval, a reference and an estimate, perhaps a doubted one."""

    value: float | None
    ends: tuple[float, float] | None = None
    reference: float | None = None
    estimate: float | None = None
    doubted: bool = False


def interval_line(
    value: float | None,
    ends: tuple[float, float] | None,
    reference: float | None,
    scale: tuple[float, float],
    width: int,
) -> str:
    """A value with its interval and a reference on a scale, ``width`` characters; what lies beyond is at the end."""
    cells = [" "] * width
    if ends is not None:
        for at in range(_cell(ends[0], scale, width), _cell(ends[1], scale, width) + 1):
            cells[at] = SPAN
    if reference is not None:
        cells[_cell(reference, scale, width)] = REFERENCE
    if value is not None:
        cells[_cell(value, scale, width)] = VALUE
    return "".join(cells).rstrip()


def scale_of(numbers: Iterable[float | None]) -> tuple[float, float] | None:
    """The lowest and highest finite number; None without any."""
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    return (min(known), max(known)) if known else None


def square(points: Sequence[tuple[float, float]], *, width: int = 49, height: int = 17) -> list[str]:
    """Points in the unit square as lines, the highest first, with the diagonal on which x equals y.

    The square is cut at the largest coordinate, rounded up to a tenth.
    """
    top = max([0.1, *(math.ceil(10 * max(point) - 1e-9) / 10 for point in points)])
    grid = [[" "] * width for _ in range(height)]
    for column in range(width):
        grid[_cell(column / (width - 1), (0, 1), height)][column] = DIAGONAL
    for x, y in points:
        grid[_cell(y, (0, top), height)][_cell(x, (0, top), width)] = VALUE
    labels = {0: f"{0:.1f}", height - 1: f"{top:.1f}", (height - 1) // 2: f"{top / 2:.2f}"}
    lines = [f"{labels.get(row, ''):>5} ┤{''.join(grid[row]).rstrip()}" for row in reversed(range(height))]
    axis = f"0.0{f'{top:.1f}':>{width - 3}}"
    return [*lines, f"{'':>5} └{'─' * width}", f"{'':>7}{axis}"]


def timeline(
    points: Sequence[Point], text: Callable[[float], str], ends: tuple[str, str], width: int, *, height: int = 11
) -> list[str]:
    """Points from left to right as lines, the highest first.

    Args:
        points: One per period; of more than there is room for, the last.
        text: How a number is written.
        ends: What stands below the first and the last.
        width: Characters of a line.
        height: Lines between the axes.
    """
    shown = points[-max(width - _AXIS, 1) :]
    scale = _scale(shown)
    if scale is None:
        return []
    rows = {0: text(scale[0]), (height - 1) // 2: text(sum(scale) / 2), height - 1: text(scale[1])}
    margin = max(map(len, rows.values()))
    room = max(width - margin - 3, 1)
    shown = shown[-room:]
    step = max(1, min(_WIDEST_STEP, room // len(shown)))
    grid = [[" "] * (step * len(shown)) for _ in range(height)]
    for at, point in enumerate(shown):
        middle = at * step + step // 2
        if point.reference is not None:
            grid[_cell(point.reference, scale, height)][at * step : (at + 1) * step] = LEVEL * step
        if point.ends is not None:
            for row in range(_cell(point.ends[0], scale, height), _cell(point.ends[1], scale, height) + 1):
                grid[row][middle] = UPRIGHT
        for number, mark in ((point.estimate, DOUBTED if point.doubted else ESTIMATE), (point.value, VALUE)):
            if number is not None:
                grid[_cell(number, scale, height)][middle] = mark
    lines = [f"{rows.get(row, ''):>{margin}} ┤{''.join(grid[row]).rstrip()}" for row in reversed(range(height))]
    across = step * len(shown)
    first, last = ends if len(shown) == len(points) else ("…", ends[1])
    below = f"{first}{last:>{max(across - len(first), len(last) + 1)}}" if len(shown) > 1 else first
    return [*lines, f"{'':>{margin}} └{'─' * across}", f"{'':>{margin}}  {below}"]


def _scale(points: Iterable[Point]) -> tuple[float, float] | None:
    return scale_of(
        number for point in points for number in (point.value, *(point.ends or ()), point.reference, point.estimate)
    )


def _cell(number: float, scale: tuple[float, float], width: int) -> int:
    low, high = scale
    share = (number - low) / (high - low) if high > low else 0.5
    return min(max(round(share * (width - 1)), 0), width - 1) if math.isfinite(share) else width - 1
