"""Plots of characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

VALUE, REFERENCE, SPAN, DIAGONAL = "●", "│", "─", "·"


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


def _cell(number: float, scale: tuple[float, float], width: int) -> int:
    low, high = scale
    share = (number - low) / (high - low) if high > low else 0.5
    return min(max(round(share * (width - 1)), 0), width - 1) if math.isfinite(share) else width - 1
