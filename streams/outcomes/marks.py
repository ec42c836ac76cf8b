"""From where the outcomes topic must be read again for an index that was written at a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Marks:
    """Outcomes that came before a checkpoint of the index, and their predictions after it.

    What such an outcome says of its prediction is not in the index, though the position of the index lies behind it.
    """

    def __init__(self) -> None:
        # positions of checkpoints in the predictions topic, and the first message of outcomes that waited until after
        self._since: list[tuple[int, int | None]] = [(0, None)]

    def meet(self, offset: int) -> None:
        """An outcome that waited, of a message of the outcomes topic, has met its prediction."""
        at, first = self._since[-1]
        self._since[-1] = (at, offset if first is None else min(first, offset))

    def checkpoint(self, position: int) -> None:
        """A checkpoint begins at a position of the predictions topic; the last one is still in force."""
        self._since = [*self._since[-2:], (position, None)]

    def first_outcome(self, position: int) -> int | None:
        """For an index at a position of the predictions topic: from where to read outcomes, if before its own."""
        return min((first for at, first in self._since if first is not None and at >= position), default=None)

    def to_fields(self) -> dict[str, Any]:
        """The journal's record."""
        return {"since": json.dumps(self._since)}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        self._since = [(at, first) for at, first in json.loads(fields["since"])]
