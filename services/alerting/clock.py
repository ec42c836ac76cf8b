"""The service's clock: the wall clock, or one that runs faster from its start on.

Everything that waits (grouping, repeats, escalation, back-off, silences) asks this clock, so that a rehearsal of a day
takes a minute: ``DRIFTLINE_ALERTING_CLOCK_SPEED=1440``. Time-outs of the network stay those of the real world.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Clock:
    """Milliseconds since 1970 UTC.

    Attributes:
        speed: How many seconds pass here in one of the wall clock's; 1 is the wall clock.
        started_ms: When it agreed with the wall clock.
    """

    speed: float = 1.0
    started_ms: int = field(default_factory=_wall_ms)

    @classmethod
    def running(cls, speed: float, started_ms: int | None) -> Self:
        """A clock that agreed with the wall clock at ``started_ms``; None for now."""
        return cls(speed) if started_ms is None else cls(speed, started_ms)

    def now_ms(self) -> int:
        """The time here."""
        wall = _wall_ms()
        return wall if self.speed == 1.0 else self.started_ms + int((wall - self.started_ms) * self.speed)

    def real_seconds(self, seconds: float) -> float:
        """How long to sleep for so many seconds to pass here."""
        return seconds / self.speed
