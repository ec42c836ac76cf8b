"""Up to which event time all outcomes are known.

Two things tell: outcomes themselves, which come about in the order in which they became known; and the worker, which
knows at some time that it has read everything that was published. Both only as far as what is published is published
soon. Whoever publishes a night's predictions in one go publishes their outcomes in one go after them: so nothing is
held to be known that lies within the *lag*, the time that rows of late have taken to be published. And of a deployment
that is being fed history, outcomes alone tell, a horizon later, because files are sorted in many ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIVE_MS = 86_400_000
"""Rows that take longer to be published are history."""

FORGOTTEN_MS = 8 * 3_600_000
"""A lag is forgotten in this time by e-folds while messages come, and as a whole where none does."""

LATE_PART = 0.1
"""So many of a message's rows may be later than its lag: a few stragglers do not stop the clock of a deployment."""


class OutcomeClock:
    """Of one deployment on one partition.

    Attributes:
        outcome_us: The largest time at which an outcome became known.
        read_us: Everything was read up to here, as far as the worker told.
    """

    def __init__(self) -> None:
        self.outcome_us = self.read_us = 0
        self._lag_ms = self._seen_ms = 0

    def see_predictions(self, log_ms: int, times_us: NDArray[np.int64]) -> None:
        """Predictions of these event times, int64[n], were published at a time, milliseconds since 1970 UTC."""
        last = len(times_us) - 1
        early_us = int(np.partition(times_us, int(last * LATE_PART))[int(last * LATE_PART)])
        self._lag_ms = max(log_ms - early_us // 1000, self.lag_ms(log_ms), 0)
        self._seen_ms = log_ms

    def see_outcomes(self, log_ms: int, known_us: NDArray[np.int64], lateness_ms: int) -> None:
        """Outcomes that became known at these times, int64[n], were published; how late they may be was promised."""
        self.outcome_us = max(self.outcome_us, int(known_us.max()))
        self.see_predictions(log_ms, known_us + lateness_ms * 1000)

    def lag_ms(self, time_ms: int) -> int:
        """How long rows have taken to be published of late."""
        passed_ms = min(max(time_ms - self._seen_ms, 0), FORGOTTEN_MS)
        return self._lag_ms * (FORGOTTEN_MS - passed_ms) // FORGOTTEN_MS

    def is_live(self, time_ms: int) -> bool:
        """Whether rows are published as they happen, and no history is being fed."""
        return self.lag_ms(time_ms) <= LIVE_MS

    def readable_us(self, clock_us: int, time_ms: int) -> int:
        """Up to where outcomes are known once everything is read that was published until a time; 0 for nowhere.

        Args:
            clock_us: The deployment's event time.
            time_ms: Milliseconds since 1970 UTC.
        """
        return clock_us - self.lag_ms(time_ms) * 1000 if self.is_live(time_ms) else 0

    def read(self, clock_us: int, time_ms: int) -> None:
        """Everything that was published until a time has been read."""
        self.read_us = max(self.read_us, self.readable_us(clock_us, time_ms))

    def known_us(self, clock_us: int, time_ms: int, horizon_ms: int) -> int:
        """The event time up to which all outcomes are known."""
        behind_ms = self.lag_ms(time_ms) if self.is_live(time_ms) else max(horizon_ms, LIVE_MS)
        return min(clock_us, max(self.outcome_us - behind_ms * 1000, self.read_us))

    def to_fields(self) -> dict[str, Any]:
        """What the journal keeps."""
        return {"clock": [self.outcome_us, self.read_us, self._lag_ms, self._seen_ms]}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        self.outcome_us, self.read_us, self._lag_ms, self._seen_ms = fields["clock"]
