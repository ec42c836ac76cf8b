"""What is usual: how many rows each value has, and what mostly turns out. Rules take these where they name none."""

from __future__ import annotations

import numpy as np

from driftline.humility.fit import ObservedRegion
from driftline.humility.rules import LOW_OBSERVATION_REGION, HumilitySpec
from streams.humility.history import History, Resolved
from streams.specification import BINARY, MULTICLASS, REGRESSION

MOST_CELLS = 10_000
"""Cells of a region that are remembered, the most frequent ones; others count as never seen."""


def observed_regions(asked: HumilitySpec, history: History) -> tuple[ObservedRegion, ...]:
    """The columns, one or two together, of which some rule wants to know what the reference had."""
    named = dict.fromkeys(
        leaf.columns
        for rule in asked.rules
        for leaf in rule.when.leaves()
        if leaf.trigger == LOW_OBSERVATION_REGION and not leaf.values
    )
    return tuple(_region(columns, history) for columns in named)


def _region(columns: tuple[str, ...], history: History) -> ObservedRegion:
    """How many rows each value, or each cell, has; rows with a missing value are in none."""
    texts = [history.texts(name) for name in columns]
    cell = np.zeros(len(history.rows), np.int64)
    there = np.ones(len(cell), bool)
    for text in texts:
        there &= np.array([*map(bool, text.categories), False])[text.codes]
        cell = cell * (len(text.categories) + 1) + text.codes
    numbers, rows = np.unique(cell[there], return_counts=True)
    found = []
    for number, count in zip(numbers.tolist(), rows.tolist(), strict=True):
        names: tuple[str, ...] = ()
        for text in reversed(texts):
            number, code = divmod(number, len(text.categories) + 1)
            names = (text.categories[code], *names)
        found.append((-count, names))
    kept = sorted(found)[:MOST_CELLS]
    return ObservedRegion(columns, tuple(names for _, names in kept), tuple(-count for count, _ in kept))


def prior(history: History, resolved: Resolved | None) -> tuple[float | None, str | None]:
    """Mean value, or share of the positive class, and most frequent class; None where that means nothing.

    Of what turned out, where that is known; else of what was predicted.
    """
    if resolved is None or not len(resolved.rows) or resolved.layout.task not in (REGRESSION, BINARY, MULTICLASS):
        return _predicted(history)
    if resolved.layout.task == REGRESSION:
        return float(resolved.actual.mean()), None
    classes = resolved.layout.classes
    counts = np.bincount(resolved.actual.astype(np.int64), minlength=len(classes))
    share = float(counts[1] / counts.sum()) if resolved.layout.task == BINARY else None
    return share, classes[int(counts.argmax())] or None


def _predicted(history: History) -> tuple[float | None, str | None]:
    values = history.predictions()
    values = values[np.isfinite(values)]
    labels = history.labels()
    occurs = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.categories)).tolist()
    ranked = sorted(zip(labels.categories, occurs, strict=True), key=lambda each: (-each[1], each[0]))
    return (float(values.mean()) if len(values) else None, next((name for name, n in ranked if name and n), None))
