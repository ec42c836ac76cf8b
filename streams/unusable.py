"""Rows that say something impossible by themselves, whatever is known of their deployment.

Whoever publishes without the client can write them. They cost themselves only: the other rows of their message count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import MAX_ID_LENGTH, OutcomeColumns, PredictionColumns
from driftline.limits import INTERVAL, no_actual, no_interval, no_probability

PREDICTION_ID = "prediction_id"
LABELLING_PROBABILITY = "labelling_probability"
OUTCOME_VALUE = "outcome_value"
PREDICTION_INTERVAL = "prediction_interval"

MOST_CLASS_CHARACTERS = 256
"""As in a specification. What outcomes say that wait for their prediction is kept: free text would fill the journal."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """Rows of a message that cannot be used.

    Attributes:
        reason: A dead letter's.
        error: What was expected, what came and what to do.
        rows: The rows of the message, ascending.
    """

    reason: str
    error: str
    rows: list[int]


def unusable_outcomes(columns: OutcomeColumns) -> list[Unusable]:
    """Outcomes without an id, a value or class, or with an impossible labelling probability; each row once."""
    left = np.ones(columns.rows, np.bool_)
    found: list[Unusable] = []
    sizes = set(map(len, columns.prediction_ids))
    if min(sizes) < 1 or max(sizes) > MAX_ID_LENGTH:
        lengths = np.array([len(name) for name in columns.prediction_ids])
        found += _found(
            left,
            (lengths < 1) | (lengths > MAX_ID_LENGTH),
            PREDICTION_ID,
            lambda row: f"expected a prediction_id of 1 to {MAX_ID_LENGTH} characters, came {lengths[row]} characters",
            "publish them with the ids of their predictions",
        )
    found += _found(
        left,
        no_actual(columns.actual_value, columns.actual_label, columns.rows),
        OUTCOME_VALUE,
        lambda row: "expected a number in actual_value or a class in actual_label, came neither (NaN is no outcome)",
        "publish an outcome once it is known",
    )
    labels = columns.actual_label
    if labels is not None and max(map(len, labels.categories), default=0) > MOST_CLASS_CHARACTERS:
        sizes_of = np.array([*map(len, labels.categories), 0])[labels.codes]
        found += _found(
            left,
            sizes_of > MOST_CLASS_CHARACTERS,
            OUTCOME_VALUE,
            lambda row: (
                f"expected a class of at most {MOST_CLASS_CHARACTERS} characters in actual_label, came "
                f"{sizes_of[row]:,} characters"
            ),
            "publish the class, not a text about it",
        )
    chances = columns.labelling_probability
    if chances is not None:
        found += _found(
            left,
            no_probability(chances),
            LABELLING_PROBABILITY,
            lambda row: f"expected a labelling_probability above 0 and at most 1, came {chances[row]}",
            "a row that was certain to be labelled has 1; publish them again",
        )
    return found


def unusable_intervals(columns: PredictionColumns) -> list[Unusable]:
    """Predictions with ends that make no interval. They count all the same, as predictions without an interval."""
    wrong = no_interval(columns.prediction_low, columns.prediction_high, columns.rows)
    if wrong is None:
        return []

    def came(row: int) -> str:
        low, high = (_end(end, row) for end in (columns.prediction_low, columns.prediction_high))
        return f"expected {INTERVAL}, came {low} to {high}"

    todo = "the predictions count without it; put the ends right for those to come"
    return _found(np.ones(columns.rows, np.bool_), wrong, PREDICTION_INTERVAL, came, todo)


def usable_rows(rows: int, on_time: NDArray[np.bool_] | None, unusable: Sequence[Unusable]) -> NDArray[np.bool_] | None:
    """The rows bool[n] of those whose time can be believed, None for all, that can be used; None for all."""
    if not unusable:
        return on_time
    usable = np.ones(rows, np.bool_) if on_time is None else on_time.copy()
    for each in unusable:
        usable[each.rows] = False
    return usable


def _found(
    left: NDArray[np.bool_], wrong: NDArray[np.bool_], reason: str, came: Callable[[int], str], todo: str
) -> list[Unusable]:
    """Those of the rows that are left, bool[n], that are wrong; they are left no more."""
    if not wrong.any():
        return []
    rows = np.flatnonzero(wrong & left).tolist()
    if not rows:
        return []
    left[rows] = False
    return [Unusable(reason, f"{len(rows)} of {len(left)} rows: row {rows[0]}: {came(rows[0])}: {todo}", rows)]


def _end(values: NDArray[np.float64] | None, row: int) -> str:
    return "nothing" if values is None or np.isnan(values[row]) else f"{values[row]}"
