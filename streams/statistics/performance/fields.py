"""The names and shapes of performance sums, and the algebra of their weights.

Weights: where every pair weighs 1, a weighted sum holds nothing that its unweighted twin does not, and is left out: the
absent ``weighted_X`` equals ``X`` times the number 1 on the grid (or ``X`` itself, where that is a sum of numbers). All
weighted sums are there, or none; they are dropped whenever they all equal their twins. So each value has exactly one
form, and addition and subtraction stay exact whatever is mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.grid import as_weights
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

Sums = dict[str, NDArray[Any]]
"""By name: counts int64, or sums of numbers, Python integers on the grid in arrays of dtype object."""

MAXIMUM_CLASSES_WITH_SCORES = 20
"""Up to so many classes each is compared with the rest by its scores."""

WEIGHTED = "weighted_"


@dataclass(frozen=True, slots=True)
class Field:
    """One array of the sums: its shape behind the groups, and whether it holds counts or sums of numbers."""

    shape: tuple[int, ...]
    counts: bool

    @property
    def dtype(self) -> type:
        """Of the array."""
        return np.int64 if self.counts else object


def class_count(layout: PerformanceLayout) -> int:
    """Number of classes, C."""
    return 2 if layout.task == BINARY else len(layout.classes)


def has_class_scores(layout: PerformanceLayout) -> bool:
    """Whether each class's scores are counted against the rest."""
    return layout.task == MULTICLASS and len(layout.classes) <= MAXIMUM_CLASSES_WITH_SCORES


def fields(layout: PerformanceLayout) -> Mapping[str, Field]:
    """What is kept for every layout, in a fixed order, without the weighted sums."""
    return _fields(
        layout.task,
        class_count(layout),
        layout.bins,
        layout.ages,
        layout.values is not None,
        layout.quantile is not None,
        bool(layout.coverage_score),
    )


def weighted_fields(layout: PerformanceLayout) -> Mapping[str, Field]:
    """The weighted sums that are there as soon as one pair weighs other than 1, in a fixed order."""
    return {
        WEIGHTED + name: Field(fields(layout)[name].shape, counts=False)
        for name in (*_TWINS.get(layout.task, ()), *COVERAGE_COUNTS)
        if name in fields(layout)
    }


_TWINS = {
    BINARY: ("scores", "score_sums", "confusion", "with_scores"),
    MULTICLASS: ("confusion", "with_scores", "confidence", "confidence_sums", "class_scores"),
    REGRESSION: ("with_prediction", "nonzero", "with_interval", "inside"),
}

_LOSSES = ("log_loss", "log_loss_squared", "brier", "brier_squared")

COVERAGE_COUNTS = ("with_quantile", "covered", "with_static", "covered_static")
"""Pairs by whether they have an adaptive quantile and a static one, and which are covered by it."""

COVERAGE_NUMBERS = ("quantile_sum", "adaptive_width", "adaptive_width_squared")
"""Sums over the pairs with an adaptive quantile; classes have no widths."""

REGRESSION_NUMBERS = (
    "error",
    "absolute_error",
    "squared_error",
    "error_fourth",
    "actual",
    "actual_squared",
    "actual_cubed",
    "actual_fourth",
    "actual_squared_error",
    "actual_squared_squared_error",
    "predicted",
    "symmetric_percentage_error",
    "symmetric_percentage_error_squared",
)
"""Sums over the pairs with a prediction."""


@lru_cache(maxsize=256)
def _fields(
    task: str, c: int, bins: int, ages: int, with_values: bool, with_quantile: bool, with_coverage: bool
) -> Mapping[str, Field]:
    counts: dict[str, tuple[int, ...]] = {"predictions": (), "resolved": (), "ages": (ages,), "acted": (3,)}
    numbers: dict[str, tuple[int, ...]] = {"weights": (), "weights_squared": ()}
    if task == BINARY:
        counts |= {"predicted_scores": (bins + 1, 2), "scores": (bins + 1, 2)}
        numbers |= {"score_sums": (bins,)}
    if task == MULTICLASS:
        counts |= {"confidence": (bins + 1, 2)}
        numbers |= {"confidence_sums": (bins,), "expected_confusion": (c, c)}
        if c <= MAXIMUM_CLASSES_WITH_SCORES:
            counts |= {"class_scores": (c, bins, 2)}
    if task in (BINARY, MULTICLASS):
        counts |= {"confusion": (c, c), "with_scores": ()}
        numbers |= dict.fromkeys(_LOSSES, ())
        if with_values:
            numbers |= {"value": (), "value_squared": ()}
    if task == REGRESSION:
        counts |= dict.fromkeys(("with_prediction", "nonzero", "with_interval", "inside", "expected_rows"), ())
        numbers |= dict.fromkeys(REGRESSION_NUMBERS, ())
        numbers |= dict.fromkeys(("absolute_percentage_error", "absolute_percentage_error_squared"), ())
        numbers |= dict.fromkeys(("interval_width", "interval_width_squared"), ())
        numbers |= dict.fromkeys(("expected_absolute_error", "expected_squared_error"), ())
        if with_quantile:
            numbers |= {"quantile_loss": (), "quantile_loss_squared": ()}
    if with_coverage:
        counts |= dict.fromkeys(COVERAGE_COUNTS, ())
        numbers |= dict.fromkeys(COVERAGE_NUMBERS if task == REGRESSION else COVERAGE_NUMBERS[:1], ())
    return {name: Field(shape, counts=True) for name, shape in counts.items()} | {
        name: Field(shape, counts=False) for name, shape in numbers.items()
    }


def zeros(layout: PerformanceLayout, groups: tuple[int, ...]) -> Sums:
    """Sums of nothing, for groups of any shape."""
    return {name: np.zeros((*groups, *field.shape), field.dtype) for name, field in fields(layout).items()}


def is_weighted(sums: Sums) -> bool:
    """Whether the weighted sums are there."""
    return any(name.startswith(WEIGHTED) for name in sums)


def weighted(sums: Sums, name: str) -> NDArray[Any]:
    """The sum of weights, on the grid, that belongs to the counts (or to the sum of numbers) ``name``."""
    found = sums.get(WEIGHTED + name)
    return as_weights(sums[name]) if found is None else found


def canonical(sums: Sums) -> Sums:
    """Without the weighted sums where they all equal their twins."""
    names = [name for name in sums if name.startswith(WEIGHTED)]
    if not names or not all(np.array_equal(sums[name], as_weights(sums[name[len(WEIGHTED) :]])) for name in names):
        return sums
    return {name: array for name, array in sums.items() if name not in names}
