"""Outcomes that came before their prediction, and wait for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, OutcomeColumns
from streams.outcomes.arrivals import Arrivals, acted_on, first_of_each, labelling_probability
from streams.outcomes.frames import EARLY_ROW, Rows
from streams.outcomes.keys import Keys
from streams.outcomes.store import PendingTable

MOST_LABELS = 2_000
"""Distinct classes of outcomes that wait for their prediction: a record of the journal holds them, however long."""

MOST_OUTCOMES = 16
"""Different outcomes that wait for one prediction; nobody knows yet which of them came in time."""

FOREVER_US = 1 << 62

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


class EarlyOutcomes:
    """The outcomes of one deployment on one partition whose prediction has not come.

    What they say is kept in the store; which rows of the topic wait is kept in the journal as well, because nothing
    else tells an outcome that waits from one whose prediction came and is not waited for any more. Several of one
    prediction lie in *slots*: the first under its key, each other one under a check that is larger by one.

    Args:
        table: Where they wait: found anew after the store was emptied.

    Attributes:
        next_us: When the first of them has waited long enough, or earlier.
        changed: Messages of the outcomes topic of which other rows wait than the journal has.
    """

    def __init__(self, table: Callable[[], PendingTable]) -> None:
        self._table = table
        self._labels: dict[str, int] = {}
        self._waiting: dict[int, Mask] = {}  # by offset of the message
        self._slots = 0
        self.next_us = FOREVER_US
        self.changed: set[int] = set()

    def __len__(self) -> int:
        return sum(int(rows.sum()) for rows in self._waiting.values())

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def first_offset(self) -> int | None:
        """The message of the outcomes topic from which on they stand in the log; None if none waits."""
        return min(self._waiting, default=None)

    def expect(self, classes: Sequence[str]) -> None:
        """These are classes, however many texts come that are none."""
        for name in classes:
            self._labels.setdefault(name, len(self._labels))

    def add(self, arrivals: Arrivals, keys: Keys, final_after_us: int) -> tuple[int, NDArray[np.intp]]:
        """Outcomes begin to wait.

        Returns:
            repeated: How many say what another one says that waits.
            crowded: Those, by index, for whose prediction too many wait.
        """
        rows = self._rows(arrivals, keys)
        placed, crowded = self._place(rows)
        new = rows[placed]
        if len(new):
            self.next_us = min(self.next_us, int(new["time_us"].min()) + final_after_us)
        return len(rows) - len(new) - len(crowded), crowded

    def _place(self, rows: Rows) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Put rows into free slots: those that were, and those that found none, by index; the others are repeated."""
        table = self._table()
        left, placed = np.arange(len(rows)), []
        for slot in range(MOST_OUTCOMES):
            if not left.size:
                break
            mine = rows[left]
            mine["check"] += np.uint64(slot)
            taken, _ = self._get(mine)
            new = ~taken & first_of_each(mine)
            if new.any():
                table.put(mine[new])
                self._mark(mine[new], waits=True)
                placed.append(left[new])
                self._slots = max(self._slots, slot + 1)
            left, mine = left[~new], mine[~new]
            _, there = self._get(mine)
            left = left[~self._alike(mine, there)]
        return np.concatenate([left[:0], *placed]), left

    def _get(self, rows: Rows) -> tuple[Mask, Rows]:
        found, there = self._table().get(rows["key"], rows["check"])
        return found & self._wait(there), there

    @staticmethod
    def _alike(rows: Rows, others: Rows) -> Mask:
        """Whether two outcomes of a prediction say the same, bool[n]."""
        same_value = (rows["value"] == others["value"]) | (np.isnan(rows["value"]) & np.isnan(others["value"]))
        names = ("time_us", "label", "probability", "acted")
        return np.asarray(np.logical_and.reduce([same_value, *(rows[name] == others[name] for name in names)]))

    @property
    def _names(self) -> list[str]:
        return list(self._labels)

    def _rows(self, arrivals: Arrivals, keys: Keys) -> Rows:
        columns = arrivals.columns
        rows = np.zeros(columns.rows, EARLY_ROW)
        rows["key"], rows["check"], rows["time_us"] = keys[:, 0], keys[:, 1], columns.actual_timestamps_us
        rows["value"] = np.nan if columns.actual_value is None else columns.actual_value
        rows["probability"], rows["acted"] = labelling_probability(columns), acted_on(columns)
        rows["offset"], rows["row"], rows["label"] = arrivals.offsets, arrivals.rows, -1
        if columns.actual_label is not None:
            used = np.unique(columns.actual_label.codes)
            for code in used[used >= 0].tolist():
                text = columns.actual_label.categories[code]
                known = self._labels.get(text)
                if known is None and len(self._labels) < MOST_LABELS:
                    known = self._labels[text] = len(self._labels)
                rows["label"][columns.actual_label.codes == code] = -2 if known is None else known
        return rows

    def meet(self, deployment_id: str, rows: Rows, *, again: bool = False) -> tuple[NDArray[np.intp], Arrivals] | None:
        """Predictions have come, n rows: those for which outcomes waited, by index, and these; None if none did.

        Args:
            deployment_id: The deployment.
            rows: The predictions.
            again: They came before, after the index was written: what waited then is in it, and waits no more.
        """
        met = []
        for slot in range(self._slots):
            found, early = self._table().get(rows["key"], rows["check"] + np.uint64(slot))
            if not again:
                found &= self._wait(early)
            if found.any():
                met.append((np.flatnonzero(found), early[found]))
        if not met:
            return None
        at, early = (np.concatenate(each) for each in zip(*met, strict=True))
        if not again:
            self._mark(early, waits=False)
        names = self._names
        columns = OutcomeColumns(
            deployment_id,
            [""] * len(early),
            early["time_us"].copy(),
            early["value"].copy(),
            CategoricalColumn(names, np.maximum(early["label"], -1).astype(np.int32)) if names else None,
            early["acted"].copy(),
            early["probability"].copy(),
        )
        return at, Arrivals(columns, early["offset"].copy(), early["row"].astype(np.int64))

    def expire(self, known_us: int, final_after_us: int) -> dict[int, list[int]]:
        """Give up those whose time is over: offset in the outcomes topic to rows."""
        table = self._table()
        bound = known_us - final_after_us + 1
        expired = self._rows_between(-FOREVER_US, bound)
        self._mark(expired, waits=False)
        found: dict[int, list[int]] = {}
        for offset, row in sorted(zip(expired["offset"].tolist(), expired["row"].tolist(), strict=True)):
            found.setdefault(offset, []).append(row)
        table.forget_before(bound)
        left = self._rows_between(bound, FOREVER_US)
        self.next_us = int(left["time_us"].min()) + final_after_us if len(left) else FOREVER_US
        return found

    def recover(self, arrivals: Arrivals, keys: Keys) -> None:
        """Those of the outcomes that wait, as the journal says, are put into the store again."""
        places = np.zeros(len(keys), EARLY_ROW)
        places["offset"], places["row"] = arrivals.offsets, arrivals.rows
        # of the others not even the labels are of interest: they would become known
        waits = np.flatnonzero(self._wait(places))
        if waits.size:
            self._place(self._rows(arrivals.take(waits), keys[waits]))
            self.changed = set()  # the journal has them

    def _rows_between(self, first_us: int, after_us: int) -> Rows:
        rows = self._table().rows_between(first_us, after_us)
        return rows[self._wait(rows)]

    def _wait(self, rows: Rows) -> Mask:
        """Which rows wait, bool[n]."""
        found = np.zeros(len(rows), np.bool_)
        for offset, at in _by_message(rows):
            waiting = self._waiting.get(offset)
            if waiting is not None:
                numbers = rows["row"][at]
                inside = numbers < len(waiting)
                found[at[inside]] = waiting[numbers[inside]]
        return found

    def _mark(self, rows: Rows, *, waits: bool) -> None:
        for offset, at in _by_message(rows):
            numbers = rows["row"][at]
            waiting = self._waiting.get(offset, np.zeros(0, np.bool_))
            if len(waiting) <= numbers.max():
                waiting = np.append(waiting, np.zeros(int(numbers.max()) + 1 - len(waiting), np.bool_))
            waiting[numbers] = waits
            self._waiting[offset] = waiting
            self.changed.add(offset)
            if not waiting.any():
                del self._waiting[offset]
        if not self._waiting:
            self.next_us = FOREVER_US

    def give_up(self) -> None:
        """Wait for nothing any more."""
        self.changed |= set(self._waiting)
        self._waiting.clear()
        self.next_us, self._slots = FOREVER_US, 0

    def to_fields(self) -> dict[str, Any]:
        """What the journal keeps, but for the rows."""
        return {"early_next_us": self.next_us, "early_slots": self._slots, "labels": self._names}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        self.next_us, self._slots = fields["early_next_us"], fields["early_slots"]
        self._labels = {text: at for at, text in enumerate(fields["labels"])}

    def take_changes(self) -> dict[int, dict[str, Any] | None]:
        """The journal's records of messages of which other rows wait now, None to delete; forgets them."""
        found: dict[int, dict[str, Any] | None] = {}
        for offset in sorted(self.changed):
            rows = self._waiting.get(offset)
            found[offset] = None if rows is None else {"rows": len(rows), "waiting": np.packbits(rows).tobytes()}
        self.changed = set()
        return found

    def restore_rows(self, offset: int, fields: Mapping[str, Any]) -> None:
        """Take a record as it was written."""
        bits = np.unpackbits(np.frombuffer(fields["waiting"], np.uint8), count=fields["rows"])
        self._waiting[offset] = bits.astype(np.bool_)


def _by_message(rows: Rows) -> list[tuple[int, NDArray[np.intp]]]:
    """The rows of each message, by index."""
    if not len(rows):
        return []
    offsets, index = np.unique(rows["offset"], return_inverse=True)
    if len(offsets) == 1:
        return [(int(offsets[0]), np.arange(len(rows)))]
    order = np.argsort(index, kind="stable")
    return list(
        zip(offsets.tolist(), np.split(order, np.searchsorted(index[order], np.arange(1, len(offsets)))), strict=True)
    )
