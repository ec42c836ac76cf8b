"""How large an accuracy window becomes: it is one record, and must fit into its topic whatever it counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from streams.baseline import BaselineSegment
from streams.errors import BaselineError
from streams.statistics.performance.fields import Field, fields, weighted_fields
from streams.statistics.performance.pairs import PerformanceLayout

MOST_WINDOW_BYTES = 10 << 20
"""A record that is larger than its topic allows would stop the partition for good."""

_COUNT_BYTES = 3
"""Of a count in Avro: up to half a million. Larger ones are few, for most cells are those of rare events."""

_NUMBER_BYTES = 8
_FEW_CLASSES = 2
_PART_BYTES = 2_000
"""Of names and single numbers."""


def part_bytes(layout: PerformanceLayout) -> int:
    """What all traffic, or one part of it, takes in the record of a window, bytes; about the same in memory."""
    found = [*fields(layout).values(), *weighted_fields(layout).values()]
    return _PART_BYTES + sum(map(_field_bytes, found))


def _field_bytes(field: Field) -> int:
    return prod(field.shape) * (_COUNT_BYTES if field.counts else _NUMBER_BYTES)


def most_parts(layout: PerformanceLayout) -> int:
    """How many parts of the traffic fit into a record besides all of it."""
    return MOST_WINDOW_BYTES // part_bytes(layout) - 1


def too_many_parts(layout: PerformanceLayout, parts: int) -> str:
    """Why a window with so many parts besides all traffic cannot be kept; empty if it can."""
    if parts <= most_parts(layout):
        return ""
    each = part_bytes(layout)
    of_classes = f"of {len(layout.classes)} classes " if len(layout.classes) > _FEW_CLASSES else ""
    return (
        f"an accuracy window {of_classes}takes {each:,} bytes for each part of the traffic, and of {parts:,} parts and "
        f"all traffic more than the {MOST_WINDOW_BYTES:,} of a record: at most {max(most_parts(layout), 0)} parts fit. "
        "Watch fewer segments, or fewer values of them, or join rare classes"
    )


def check_parts(layout: PerformanceLayout, segments: Sequence[BaselineSegment]) -> None:
    """Refuse a baseline whose accuracy windows would not fit into a record.

    Raises:
        BaselineError: Says what fits.
    """
    why = too_many_parts(layout, sum(len(segment.parts) for segment in segments))
    if why:
        raise BaselineError(why)


def fitting(layout: PerformanceLayout, segments: Sequence[BaselineSegment]) -> tuple[BaselineSegment, ...]:
    """The segmentations whose parts fit into the record of a window, in their order; the others are not counted in it.

    A specification and a baseline that ask for more are refused; a specification that names other classes than those
    its baseline was learnt with may still come to more.
    """
    left, found = most_parts(layout), []
    for segment in segments:
        if len(segment.parts) <= left:
            left -= len(segment.parts)
            found.append(segment)
    return tuple(found)
