"""The join of a reference: its predictions and their outcomes, all at hand, in whatever order they came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import UNKNOWN_ACTED_ON

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

NEVER = np.iinfo(np.int64).max
"""Age of an outcome that did not come within the horizon."""

_FAR_US = 1 << 61
"""Times beyond it are as far away as that: a difference of two cannot overflow."""


@dataclass(frozen=True, eq=False, slots=True)
class Outcomes:
    """What turned out, m rows that can be used.

    Attributes:
        keys: uint64[m, 2], of the prediction ids (:func:`streams.outcomes.reading.id_keys`).
        times_us: int64[m], when each became known.
        values: float64[m], the actual value or the index of the actual class.
        acted: uint8[m], whether somebody acted on the prediction: 0, 1 or 255 for unknown.
        weights: float64[m], 1 / labelling probability.
    """

    keys: Keys
    times_us: Integers
    values: Floats
    acted: NDArray[np.uint8]
    weights: Floats


@dataclass(frozen=True, eq=False, slots=True)
class Matched:
    """The outcomes of n predictions.

    Attributes:
        row: int64[n], the row of the outcome that counts, the last one within the horizon; -1 for none.
        known_us: int64[n], age at which a first outcome was known; ``NEVER`` for none within the horizon.
        replaced: Outcomes within the horizon that a later one took the place of, repeated ones among them.
        late: Outcomes that came after the horizon.
        unknown: Outcomes of predictions that are not in the reference.
    """

    row: Integers
    known_us: Integers
    replaced: int
    late: int
    unknown: int


def match(keys: Keys, times_us: Integers, outcomes: Outcomes, horizon_us: int) -> Matched:
    """Find each prediction's outcome.

    The last one by the time it was known counts, if that is within the horizon; of several at one time the largest
    value, then the one that says whether somebody acted, then the largest weight: so the order of the rows never
    matters. An outcome that claims to have been known before its prediction has age 0.

    Args:
        keys: uint64[n, 2], of the predictions' ids, all different.
        times_us: int64[n], their event times.
        outcomes: The outcomes.
        horizon_us: The horizon.
    """
    predictions, rows = len(keys), len(outcomes.keys)
    number = _numbers(np.concatenate([keys, outcomes.keys]))
    place = np.full(int(number.max(initial=-1)) + 1, -1, np.int64)
    place[number[:predictions]] = np.arange(predictions)
    of = place[number[predictions:]]
    known = of >= 0
    moments = np.clip(outcomes.times_us, -_FAR_US, _FAR_US)
    ages = np.maximum(moments - times_us[of], 0) if predictions else np.zeros(rows, np.int64)
    inside = known & (ages <= horizon_us)
    chosen = np.flatnonzero(inside)
    acted = np.where(outcomes.acted == UNKNOWN_ACTED_ON, -1, outcomes.acted.astype(np.int64))
    order = chosen[
        np.lexsort((outcomes.weights[chosen], acted[chosen], outcomes.values[chosen], outcomes.times_us[chosen]))
    ]
    row = np.full(predictions, -1, np.int64)
    row[of[order]] = order  # of several the last stays
    known_us = np.full(predictions, NEVER, np.int64)
    np.minimum.at(known_us, of[chosen], ages[chosen])
    return Matched(
        row=row,
        known_us=known_us,
        replaced=len(chosen) - int((row >= 0).sum()),
        late=int((known & ~inside).sum()),
        unknown=int((~known).sum()),
    )


def first_of_each(keys: Keys, times_us: Integers, *ties: NDArray[np.generic]) -> Integers:
    """Rows of the predictions that count, int64[n], ascending: of each id the earliest one by event time.

    ``ties``: columns that decide between rows of one id and time, the first of them first, smallest value first.
    """
    number = _numbers(keys)
    order = np.lexsort((*reversed(ties), times_us, number))
    first = np.ones(len(order), bool)
    first[1:] = number[order][1:] != number[order][:-1]
    return np.sort(order[first])


def members(keys: Keys, wanted: Keys) -> NDArray[np.bool_]:
    """Which of ``wanted``, uint64[m, 2], are among ``keys``, uint64[n, 2]."""
    number = _numbers(np.concatenate([keys, wanted]))
    there = np.zeros(int(number.max(initial=-1)) + 1, bool)
    there[number[: len(keys)]] = True
    return np.asarray(there[number[len(keys) :]])


def _numbers(keys: Keys) -> Integers:
    """Equal numbers for equal keys, int64[n], from 0."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    changes = np.zeros(len(keys), np.int64)
    changes[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.empty(len(keys), np.int64)
    number[order] = np.cumsum(changes)
    return number
