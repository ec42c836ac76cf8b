"""Performance sums: what is added up of predictions and of their outcomes, exactly, in any order.

``Sums`` hold, by name, arrays whose first axis is the group (windows, parts of the traffic): *counts* int64, and *sums
of numbers*, Python integers in arrays of dtype object, in units of ``GRID`` (:mod:`.grid`). All sums of a layout have
the same names (:mod:`.fields`), but for the weighted ones, which are there only where a pair weighs other than 1.
Arrays are never changed: every function gives new ones.

Shapes behind the groups; A age buckets, B score bins, C classes:

- all tasks: ``predictions``, ``resolved`` () predictions, and pairs; ``ages`` (A,) and ``acted`` (3,) pairs by age
  bucket and by whether somebody acted on them: no, yes, unknown; ``weights``, ``weights_squared`` () numbers.
- classes: ``confusion`` (C, C) pairs with a predicted class, predicted by actual; ``with_scores`` () pairs with scores,
  and numbers () of them: ``log_loss``, ``log_loss_squared``, ``brier``, ``brier_squared``; with values ``value``,
  ``value_squared`` () numbers of the pairs in ``confusion``.
- binary: ``predicted_scores`` (B + 1, 2) predictions by score bin (last: no score) and predicted class; ``scores``
  (B + 1, 2) pairs by score bin and actual class; ``score_sums`` (B,) numbers.
- multi-class: ``confidence`` (B + 1, 2) pairs with a predicted class by bin of the largest probability (last: no
  scores) and wrong or right; ``confidence_sums`` (B,) numbers; ``class_scores`` (C, B, 2) up to 20 classes, pairs by
  bin of each class's probability and whether it was the actual one; ``expected_confusion`` (C, C) numbers, all
  predictions with scores, predicted class by calibrated probability of each.
- regression: counts ``with_prediction``, ``nonzero`` (of these, the actual value), ``with_interval``, ``inside``,
  ``expected_rows``; numbers, e = predicted - actual: ``error``, ``absolute_error``, ``squared_error``,
  ``error_fourth`` (e^4), ``actual``, ``actual_squared``, ``actual_cubed``, ``actual_fourth``,
  ``actual_squared_error`` (a e^2), ``actual_squared_squared_error`` (a^2 e^2), ``predicted``,
  ``symmetric_percentage_error``, ``absolute_percentage_error``, ``quantile_loss``, ``interval_width``, the
  ``_squared`` of these four, and ``expected_absolute_error``, ``expected_squared_error`` of all predictions.
- with humility: counts ``with_quantile`` (pairs issued with an adaptive quantile, whose score is known), ``covered``
  (of these, score at most that quantile), ``with_static``, ``covered_static`` (the same of the fitted quantile), and
  numbers ``quantile_sum``, of regressions also ``adaptive_width`` and ``adaptive_width_squared``, of the pairs in
  ``with_quantile``.

Numbers of pairs are weighted; ``score_sums`` and ``confidence_sums`` have a weighted twin like the counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.class_sums import (
    binary_pairs,
    binary_predictions,
    multiclass_pairs,
    multiclass_predictions,
)
from streams.statistics.performance.coverage import coverage_pairs
from streams.statistics.performance.fields import (
    WEIGHTED,
    Field,
    Sums,
    canonical,
    fields,
    is_weighted,
    weighted,
    weighted_fields,
    zeros,
)
from streams.statistics.performance.grid import GRID, ONE, from_grid, grouped_sums, to_grid
from streams.statistics.performance.packing import pack_integers, unpack_integers
from streams.statistics.performance.pairs import (
    BINARY,
    MULTICLASS,
    REGRESSION,
    Floats,
    Integers,
    Pairs,
    PerformanceLayout,
    Predicted,
)
from streams.statistics.performance.regression_sums import regression_pairs, regression_predictions

__all__ = [
    "GRID",
    "LARGEST_WEIGHT",
    "ONE",
    "Sums",
    "add",
    "count_pairs",
    "count_predictions",
    "empty",
    "fields",
    "from_fields",
    "merge",
    "pack",
    "subtract",
    "take_group",
    "to_fields",
    "unpack",
    "weighted",
    "weighted_fields",
]

LARGEST_WEIGHT = 2.0**64
"""Larger weights count as this one: a labelling probability below 1e-19 is a slip, and must not hide all other rows."""

_UNKNOWN_ACTED = 2


def empty(layout: PerformanceLayout, groups: int) -> Sums:
    """Sums of nothing."""
    return zeros(layout, (groups,))


def count_pairs(layout: PerformanceLayout, pairs: Pairs, index: Integers, groups: int) -> Sums:
    """Sums of pairs in each of G groups; those of predictions are zero.

    ``index``: int64[n], the group of each row, -1 leaves it out. Raises ``ValueError`` for a group that is not there.
    """
    cells, kept = _cells(index, groups)
    if kept is not None:
        pairs = pairs.take(kept)
    found: Sums = {"resolved": _rows_per_group(pairs.rows, cells, groups)}
    buckets = layout.age_edges_us.searchsorted(pairs.ages_us, "left")
    found["ages"] = _counts_of(buckets, layout.ages, cells, groups)
    found["acted"] = _counts_of(np.minimum(pairs.acted, _UNKNOWN_ACTED), _UNKNOWN_ACTED + 1, cells, groups)
    weighs = not bool((pairs.weights == 1).all())
    if weighs:
        weights = np.minimum(pairs.weights, LARGEST_WEIGHT)
        pairs = _weighing(pairs, weights)
        found["weights"], found["weights_squared"] = grouped_sums(np.stack((weights, weights * weights)), cells, groups)
    else:
        found["weights"] = found["resolved"].astype(object) * ONE
        found["weights_squared"] = found["weights"].copy()
    count = _PAIRS.get(layout.task)
    if count is not None:
        found |= count(layout, pairs, cells, groups, weighs)
    if layout.coverage_score:
        found |= coverage_pairs(layout, pairs, cells, groups, weighs)
    return canonical(empty(layout, groups) | found)


def count_predictions(
    layout: PerformanceLayout,
    predicted: Predicted,
    index: Integers,
    groups: int,
    *,
    calibration: Floats | None = None,
    expected: Floats | None = None,
) -> Sums:
    """Sums of predictions, resolved or not, in each of G groups; those of pairs are zero.

    Args:
        layout: Of the sums.
        predicted: n rows.
        index: int64[n], the group of each row, -1 leaves it out.
        groups: G.
        calibration: Multi-class: float64[C, B] or [C * B], probability of each class by the bin of its score;
            without it nothing is expected.
        expected: Regression: float64[n, 2], the absolute and the squared error to be expected; NaN: not known.
    """
    cells, kept = _cells(index, groups)
    if kept is not None:
        predicted = Predicted(predicted.scores[kept], predicted.labels[kept])
        expected = None if expected is None else expected[kept]
    found: Sums = {"predictions": _rows_per_group(predicted.rows, cells, groups)}
    if layout.task == BINARY:
        found |= binary_predictions(layout, predicted, cells, groups)
    elif layout.task == MULTICLASS:
        found |= multiclass_predictions(layout, predicted, cells, groups, calibration)
    elif layout.task == REGRESSION:
        found |= regression_predictions(expected, cells, groups)
    return empty(layout, groups) | found


_PAIRS: Mapping[str, Callable[[PerformanceLayout, Pairs, Integers | None, int, bool], Sums]] = {
    BINARY: binary_pairs,
    MULTICLASS: multiclass_pairs,
    REGRESSION: regression_pairs,
}


def _cells(index: Integers, groups: int) -> tuple[Integers | None, NDArray[np.bool_] | None]:
    """The group of each row that is kept, None if all are in the only one; and which are kept, None for all."""
    if not len(index):
        return (None if groups == 1 else index), None
    lowest, highest = int(index.min()), int(index.max())
    if lowest < -1 or highest >= groups:
        raise ValueError(f"expected groups from -1 to {groups - 1}, got {lowest} to {highest}")
    kept = None if lowest >= 0 else index >= 0
    if groups == 1:
        return None, kept
    return (index if kept is None else index[kept]), kept


def _rows_per_group(rows: int, cells: Integers | None, groups: int) -> Integers:
    return np.array([rows]) if cells is None else np.bincount(cells, minlength=groups)


def _counts_of(codes: NDArray[np.integer], size: int, cells: Integers | None, groups: int) -> Integers:
    at = codes if cells is None else cells * size + codes
    return np.bincount(at, minlength=groups * size).reshape(groups, size)


def _weighing(pairs: Pairs, weights: Floats) -> Pairs:
    return dataclasses.replace(pairs, weights=weights)


def add(a: Sums, b: Sums) -> Sums:
    """The sums of both, of one layout and as many groups."""
    return _combined(a, b, np.add)


def subtract(a: Sums, b: Sums) -> Sums:
    """What is left of ``a`` without ``b``: ``subtract(add(a, b), b)`` is ``a``, to the bit."""
    return _combined(a, b, np.subtract)


def _combined(a: Sums, b: Sums, operation: np.ufunc) -> Sums:
    weighs = is_weighted(a) or is_weighted(b)
    found = {
        name: np.asarray(operation(array, b[name]), array.dtype)
        for name, array in a.items()
        if not name.startswith(WEIGHTED)
    }
    if not weighs:
        return found
    names = [name for name in (a if is_weighted(a) else b) if name.startswith(WEIGHTED)]
    for name in names:
        base = name[len(WEIGHTED) :]
        found[name] = np.asarray(operation(weighted(a, base), weighted(b, base)), object)
    return canonical(found)


def take_group(sums: Sums, group: int) -> Sums:
    """The sums of one group, without the axis of groups."""
    return canonical({name: array[group, ...].copy() for name, array in sums.items()})


def merge(parts: Iterable[Sums]) -> Sums:
    """The sums of all parts, at least one of them. Raises ``ValueError`` for none: their layout is not known."""
    remaining = iter(parts)
    total = next(remaining, None)
    if total is None:
        raise ValueError("expected at least one part to merge; use empty(layout, groups) for sums of nothing")
    for part in remaining:
        total = add(total, part)
    return total


def to_fields(sums: Sums) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """Counts, and sums of numbers as float64, flattened in C order, of sums without groups: for ``PerformancePart``.

    A sum beyond the largest float64 becomes that.
    """
    counts = {name: array.ravel().tolist() for name, array in sums.items() if array.dtype != object}
    numbers = {
        name: [from_grid(units) for units in array.ravel().tolist()]
        for name, array in sums.items()
        if array.dtype == object
    }
    return counts, numbers


def from_fields(
    layout: PerformanceLayout, counts: Mapping[str, Sequence[int]], sums: Mapping[str, Sequence[float]]
) -> Sums:
    """Sums without groups from what :func:`to_fields` gave: numbers are back on the grid, exactly up to 2^53 units.

    What is absent is zero; names of no field are left out. Raises ``ValueError`` for lengths that are not the layout's,
    and for numbers that are not finite.
    """
    found = zeros(layout, ())
    wanted = dict(fields(layout))
    if any(name in sums for name in weighted_fields(layout)):
        wanted |= weighted_fields(layout)
    for name, field in wanted.items():
        values = counts.get(name) if field.counts else sums.get(name)
        if values is not None:
            found[name] = _of_values(name, field, values)
        elif name not in found:
            found[name] = weighted(found, name[len(WEIGHTED) :])
    return canonical(found)


def _of_values(name: str, field: Field, values: Sequence[Any]) -> NDArray[Any]:
    size = int(np.prod(field.shape, dtype=np.int64))
    if len(values) != size:
        raise ValueError(
            f"{name}: expected {size} numbers, as the layout has, got {len(values)}; was another one used?"
        )
    if field.counts:
        return np.array(values, np.int64).reshape(field.shape)
    array = np.empty(size, object)
    array[:] = [to_grid(float(value)) for value in values]
    return array.reshape(field.shape)


def pack(sums: Sums) -> bytes:
    """Sums without groups as few bytes, exactly."""
    names = sorted(sums)
    flat: list[int] = []
    for name in names:
        flat += sums[name].ravel().tolist()
    return bytes([is_weighted(sums)]) + pack_integers(flat)


def unpack(layout: PerformanceLayout, data: bytes) -> Sums:
    """What :func:`pack` packed. Raises ``ValueError`` for bytes that are not of this layout."""
    if data[:1] not in (b"\0", b"\1"):
        raise ValueError("expected packed performance sums, which begin with 0 or 1")
    wanted = dict(fields(layout)) | (dict(weighted_fields(layout)) if data[0] else {})
    sizes = {name: int(np.prod(wanted[name].shape, dtype=np.int64)) for name in sorted(wanted)}
    flat = unpack_integers(data[1:], sum(sizes.values()))
    found, start = {}, 0
    for name, size in sizes.items():
        array: NDArray[Any] = np.empty(size, wanted[name].dtype)
        array[:] = flat[start : start + size]
        found[name] = array.reshape(wanted[name].shape)
        start += size
    return {name: found[name] for name in wanted}
