"""Which predictions were seen: a repeated one is counted once.

A publisher's retry, a replayed file or a broker that repeats a record must not look like evidence: delivering every
event twice raises the false alarms 19-fold. The ids of the last ``generation_rows`` to twice as many rows of a
partition are kept, in two generations; when the younger is full, or reaches over as many messages, the older is
forgotten.

Only the offsets at which the generations begin belong to the state. A generation holds every id that came between its
two offsets, repeated or not: it is a pure function of that part of the log, and is read from it again after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GENERATION_ROWS = 131_072


class Identities:
    """The ids a partition remembers, by deployment.

    Args:
        generation_rows: Rows per generation.
    """

    def __init__(self, generation_rows: int = GENERATION_ROWS) -> None:
        self._generation_rows = generation_rows
        self._older: dict[str, set[str]] = {}
        self._younger: dict[str, set[str]] = {}
        self._younger_rows = 0
        self.older_offset = 0
        self.younger_offset = 0

    def advance(self, offset: int) -> None:
        """Begin a generation with the message at ``offset`` if the younger one is full; before that message's ids."""
        # the second condition bounds what is read again where nothing but refused messages arrives
        if self._younger_rows >= self._generation_rows or offset - self.younger_offset >= self._generation_rows:
            self._older, self._younger, self._younger_rows = self._younger, {}, 0
            self.older_offset, self.younger_offset = self.younger_offset, offset

    def unseen(self, deployment_id: str, ids: Sequence[str]) -> NDArray[np.bool_] | None:
        """Remember a message's ids.

        Args:
            deployment_id: Ids are unique within a deployment.
            ids: One per row.

        Returns:
            True for each row whose id is new, shape ``(rows,)``; None if all of them are.
        """
        younger = self._younger.setdefault(deployment_id, set())
        older = self._older.get(deployment_id, set())
        before = len(younger)
        new = None
        if younger.isdisjoint(ids) and older.isdisjoint(ids):
            younger.update(ids)
            if len(younger) - before < len(ids):
                new = _first_occurrences(ids)
        else:
            new = np.zeros(len(ids), dtype=bool)
            for row, prediction_id in enumerate(ids):
                new[row] = prediction_id not in younger and prediction_id not in older
                younger.add(prediction_id)
        self._younger_rows += len(younger) - before
        return new

    def restore(self, older_offset: int, younger_offset: int) -> None:
        """Begin again where the state says; the caller then feeds the log from ``older_offset`` to the position."""
        self._older, self._younger, self._younger_rows = {}, {}, 0
        self.older_offset, self.younger_offset = older_offset, younger_offset

    def replay(self, deployment_id: str, ids: Sequence[str], offset: int) -> None:
        """Feed one message of the log again, after :meth:`restore`."""
        if offset < self.younger_offset:
            self._older.setdefault(deployment_id, set()).update(ids)
            return
        younger = self._younger.setdefault(deployment_id, set())
        before = len(younger)
        younger.update(ids)
        self._younger_rows += len(younger) - before


def _first_occurrences(ids: Sequence[str]) -> NDArray[np.bool_]:
    first = np.zeros(len(ids), dtype=bool)
    seen: set[str] = set()
    for row, prediction_id in enumerate(ids):
        first[row] = prediction_id not in seen
        seen.add(prediction_id)
    return first
