"""Which predictions were seen: a repeated one is counted once.

A publisher's retry, a replayed file or a broker that repeats a record must not look like evidence: delivering every
event twice raises the false alarms 19-fold. The ids of the last ``generation_rows`` to twice as many rows of a
partition are kept, in two generations; when the younger is full, the older is forgotten.

Only the offsets at which the generations begin belong to the state. The ids themselves are a pure function of the log
between there and the position, and are read from it again after a restart.
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

    def unseen(self, deployment_id: str, ids: Sequence[str], offset: int) -> NDArray[np.bool_] | None:
        """Remember a message's ids.

        Args:
            deployment_id: Ids are unique within a deployment.
            ids: One per row.
            offset: The message's offset.

        Returns:
            True for each row whose id is new, shape ``(rows,)``; None if all of them are.
        """
        if self._younger_rows >= self._generation_rows:
            self._older, self._younger, self._younger_rows = self._younger, {}, 0
            self.older_offset, self.younger_offset = self.younger_offset, offset
        younger = self._younger.setdefault(deployment_id, set())
        older = self._older.get(deployment_id, set())
        before = len(younger)
        new = None
        if not younger.isdisjoint(ids) or not older.isdisjoint(ids) or len(set(ids)) != len(ids):
            new = np.zeros(len(ids), dtype=bool)
            for row, prediction_id in enumerate(ids):
                if prediction_id not in younger and prediction_id not in older:
                    younger.add(prediction_id)
                    new[row] = True
        else:
            younger.update(ids)
        self._younger_rows += len(younger) - before
        return new

    def restore(self, older_offset: int, younger_offset: int) -> None:
        """Begin again where the state says; the caller then feeds the log from ``older_offset`` to the position."""
        self._older, self._younger, self._younger_rows = {}, {}, 0
        self.older_offset = self.younger_offset = older_offset
        self._restore_younger_at = younger_offset

    def replay(self, deployment_id: str, ids: Sequence[str], offset: int) -> None:
        """Feed one message of the log again, after :meth:`restore`."""
        if offset >= self._restore_younger_at > self.younger_offset:
            self._older, self._younger, self._younger_rows = self._younger, {}, 0
            self.younger_offset = self._restore_younger_at
        generation = self._younger.setdefault(deployment_id, set())
        before = len(generation)
        older = self._older.get(deployment_id, set())
        generation.update(i for i in ids if i not in older)
        self._younger_rows += len(generation) - before
