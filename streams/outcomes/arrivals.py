"""Outcomes as they came, with their places in the log, and which of several is in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import UNKNOWN_ACTED_ON, Floats, OutcomeColumns
from streams.outcomes.frames import Frame, Rows, take_outcomes

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of a message of the outcomes topic that could not be used, and why.

    Attributes:
        reason: A dead letter's.
        error: What was expected, what came and what to do.
        rows: The rows of the message.
        offset: The message.
    """

    reason: str
    error: str
    rows: Sequence[int]
    offset: int


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Outcomes as they came, n rows.

    Attributes:
        columns: What they say.
        offsets: int64[n], the message of the outcomes topic in which each came.
        rows: int64[n], its row there.
    """

    columns: OutcomeColumns
    offsets: Integers
    rows: Integers

    def take(self, at: Integers) -> Arrivals:
        """Some of them, by index."""
        if len(at) == len(self.rows):
            return self
        return Arrivals(take_outcomes(self.columns, at), self.offsets[at], self.rows[at])

    def refusals(self, reason: str, which: Mask, text: Callable[[int, int], str]) -> list[Refusal]:
        """Refuse some of them, bool[n], message by message.

        Args:
            reason: A dead letter's.
            which: bool[n].
            text: What is to be said of so many rows, the first of which has this index.
        """
        found = []
        for offset in np.unique(self.offsets[which]).tolist():
            at = np.flatnonzero(which & (self.offsets == offset))
            found.append(Refusal(reason, text(len(at), int(at[0])), self.rows[at].tolist(), offset))
        return found


@dataclass(frozen=True, eq=False)
class Matched:
    """Outcomes that found their prediction and are in force now, n rows in order of arrival.

    Attributes:
        frame: Where the predictions wait.
        rows: The predictions with their outcomes.
        earlier: The same with what was known before.
        again: bool[n], whether something was known before.
        superseded_us: int64[m], event times of the predictions of outcomes that say nothing new.
    """

    frame: Frame
    rows: Rows
    earlier: Rows
    again: Mask
    superseded_us: Integers


def latest_of_each(rows: Rows, known_us: Integers, rank: NDArray[np.int64] | Floats) -> NDArray[np.intp]:
    """Of each id the row that was known last, of those the one of the highest rank; by index in the order of rows."""
    if len(rows) < 2 or len(np.unique(rows["key"])) == len(rows):
        return np.arange(len(rows))
    place = -np.arange(len(rows))  # of those that say the same the first
    order = np.lexsort((place, rank, known_us, rows["check"], rows["key"]))
    key, check = rows["key"][order], rows["check"][order]
    last = np.append((key[1:] != key[:-1]) | (check[1:] != check[:-1]), True)
    return np.sort(order[last])


def first_of_each(rows: Rows) -> Mask:
    """The first row of each id, bool[n]."""
    ids = np.stack([rows["key"], rows["check"]], axis=1)
    first = np.zeros(len(rows), np.bool_)
    first[np.unique(ids, axis=0, return_index=True)[1]] = True
    return first


def labelling_probability(columns: OutcomeColumns) -> Floats:
    """With which probability each row was to be labelled, float64[n]; 1 where that was not given."""
    return np.ones(columns.rows) if columns.labelling_probability is None else columns.labelling_probability


def acted_on(columns: OutcomeColumns) -> NDArray[np.uint8]:
    """Whether somebody acted on each prediction, uint8[n]: 0, 1, or ``UNKNOWN_ACTED_ON``."""
    if columns.was_acted_on is None:
        return np.full(columns.rows, UNKNOWN_ACTED_ON, np.uint8)
    return columns.was_acted_on
