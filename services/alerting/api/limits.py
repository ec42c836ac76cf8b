"""How often somebody may ask: a token bucket for each caller, of whom only so many are remembered."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_REMEMBERED = 10_000


class Buckets:
    """A bucket for each caller: ``burst`` at once, ``per_second`` in the long run.

    Remembers the callers that asked last; one that was forgotten begins with a full bucket, as it would have had after
    so long. Not thread-safe: for the event loop.

    Args:
        per_second: Refill.
        burst: Size.
        monotonic: Seconds of a clock that only goes forward.
        remembered: Callers.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        monotonic: Callable[[], float] = time.monotonic,
        remembered: int = _REMEMBERED,
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._monotonic = monotonic
        self._remembered = remembered
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, caller: Hashable) -> float:
        """Take one; returns 0, or after how many seconds to ask again."""
        now = self._monotonic()
        left, since = self._left.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        wait = 0.0 if left >= 1 else (1 - left) / self._per_second
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > self._remembered:
            self._left.popitem(last=False)
        return wait


class Sparingly:
    """Lets one of many like events through in so many seconds, and counts the others: so that a caller who is refused
    a thousand times in a minute does not fill the audit.
    """

    def __init__(
        self,
        every_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        remembered: int = _REMEMBERED,
    ) -> None:
        self._every_seconds = every_seconds
        self._monotonic = monotonic
        self._remembered = remembered
        self._last: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def ask(self, event: Hashable) -> int | None:
        """None to keep quiet; otherwise how many were kept quiet since the last one."""
        now = self._monotonic()
        at, quiet = self._last.get(event, (-self._every_seconds, 0))
        if event in self._last and now - at < self._every_seconds:
            self._last[event] = (at, quiet + 1)
            return None
        self._last[event] = (now, 0)
        self._last.move_to_end(event)
        if len(self._last) > self._remembered:
            self._last.popitem(last=False)
        return quiet
