"""Simple statements about where rows are, and how their shares are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_NEXT_TO_NONE = 1e-4
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Statement:
    """``words``: what holds for the rows ("lie above …"); shares 0 to 1 of all rows."""

    words: tuple[str, ...]
    observed: float
    expected: float

    @property
    def divergence_nats(self) -> float:
        """How much the statement sets observed and expected apart."""
        o = min(max(self.observed, 0.0), 1.0)
        e = min(max(self.expected, _LEAST_SHARE), 1 - _LEAST_SHARE)
        return (o * math.log(o / e) if o > 0 else 0.0) + ((1 - o) * math.log((1 - o) / (1 - e)) if o < 1 else 0.0)


def statement(
    observed: Sequence[float], expected: Sequence[float], words: tuple[str, ...], bins: Sequence[int]
) -> Statement:
    """What holds for the rows in some of the bins."""
    return Statement(words, sum(observed[i] for i in bins), sum(expected[i] for i in bins))


def percent(share: float) -> str:
    """A share 0 to 1 as people write it: '62 %', '0.4 %', 'under 0.01 %'."""
    if not math.isfinite(share):
        return "an unknown share"
    p = 100 * share
    if p == 0 or p >= 9.95:
        return f"{p:.0f} %"
    if p < 0.01:
        return "under 0.01 %"
    return f"{p:.1f} %" if p >= 0.1 else f"{p:.2g} %"


def expected_share(share: float) -> str:
    """The share that the reference leads to expect; its bins are never quite empty."""
    return "next to none" if 0 < share < _NEXT_TO_NONE else percent(share)
