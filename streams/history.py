"""Counts of the past, fine for yesterday and coarse for last month: when did the change begin?

Closed start slots are kept as blocks of counts whose lengths grow geometrically with age (the exponential histogram of
Datar, Gionis, Indyk and Motwani, "Maintaining stream statistics over sliding windows", SIAM Journal on Computing 31,
2002): a few dozen blocks hold the whole past of a stream. At an alarm the likelihood of "the change began here" is
computed for every boundary; the most likely one dates the change, and the counts since then give the effect sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

BLOCKS_PER_LENGTH = 3
"""Blocks of 1, 2, 4, 8 … slots: when there is a fourth of a length, the two oldest become one of the next."""

LONGEST_BLOCK_SLOTS = 256
"""Blocks are not merged beyond this; with hourly slots ten days."""

MOST_BLOCKS = 32
"""The oldest blocks are forgotten beyond this many: with hourly slots after some three months."""


@dataclass(eq=False, slots=True)
class PastBlock:
    """Some consecutive start slots.

    Attributes:
        start_us: Event time at which the first of them began.
        offset: Offset of the message with which it began.
        slots: How many there are.
        counts: Per block of streams int[S, K], in the smallest type that holds them.
    """

    start_us: int
    offset: int
    slots: int
    counts: list[NDArray[np.integer]]


@dataclass(eq=False, slots=True)
class History:
    """The past of one deployment version, oldest block first."""

    blocks: list[PastBlock] = field(default_factory=list)

    def append(self, start_us: int, offset: int, counts: Sequence[Counts]) -> None:
        """Take in a slot that ended: where it began, and its counts per layout int64[S, K]."""
        self.blocks.append(PastBlock(start_us, offset, 1, [smallest(c) for c in counts]))
        length = 1
        while length < LONGEST_BLOCK_SLOTS:
            same = [i for i, block in enumerate(self.blocks) if block.slots == length]
            if len(same) <= BLOCKS_PER_LENGTH:
                break
            older, younger = self.blocks[same[0]], self.blocks[same[0] + 1]
            merged = [smallest(a.astype(np.int64) + b) for a, b in zip(older.counts, younger.counts, strict=True)]
            self.blocks[same[0] : same[0] + 2] = [PastBlock(older.start_us, older.offset, 2 * length, merged)]
            length *= 2
        if len(self.blocks) > MOST_BLOCKS:
            del self.blocks[0]

    def forget(self, layout: int, stream: int) -> None:
        """Forget one stream's past: what changes in it from now on is another change."""
        for block in self.blocks:
            block.counts[layout][stream] = 0

    def since(self, layout: int, present: Counts) -> Counts:
        """Counts int64[B + 1, S, K] from each boundary until now, the latest boundary (``present`` alone) first."""
        parts = [present, *(block.counts[layout].astype(np.int64) for block in reversed(self.blocks))]
        return np.cumsum(np.stack(parts), axis=0)


def smallest(counts: Counts) -> NDArray[np.integer]:
    """The same counts in the smallest type that holds them: a thousand quiet deployments are most of the memory."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
