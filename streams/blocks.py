"""Blocks of streams as arrays: what their detectors bet on, and what they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.baseline import (
    HUMILITY_ROLE,
    RATE_ROLE,
    BaselineStream,
)
from streams.statistics import distances
from streams.statistics.arrays import Base
from streams.statistics.evidence import (
    Bets,
    empty_base,
    empty_counts,
    make_bets,
    since_log_evidence,
    without_idle_tilts,
)
from streams.statistics.layouts import (
    LOSS,
    QUALITY,
    Layout,
    reference_probabilities,
)
from streams.statistics.margins import reference_radius
from streams.statistics.tilts import tilts_of

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

CONFIDENCE_ERROR = 0.05
"""Confidence limits are given at 95 %."""

RATE_BACK_MARGIN = 0.4
"""The rate of events is called back to normal within this total variation, wider than its margin: nobody should wait
for thousands of intervals to be told that traffic has returned."""

ROWS_BACK_PER_MARGIN = 10.0
"""An unchanged quality stream, with next to no unusable values, is looked at after this many rows over its margin."""

RATE_DEVIATIONS = 3.0
"""A rate that is back is looked at when its margin is so many of its standard deviations: two for the limits, one for
chance."""

YES_BIN = 0
"""Of a stream that says yes or no; everything else says no."""

LOSS_ROWS_BACK = 2_000.0
"""Losses as small as the reference's lower the evidence of one loss in 300 from elsewhere by 0.0022 nats each, or three
nats, which makes odds of 1 to 20, in 1,400."""


@dataclass(frozen=True, eq=False)
class Block:
    """Streams of one layout, side by side.

    Attributes:
        layout: Their layout, K bins.
        streams: S baseline streams.
        p0: float64[S, K], baseline distribution.
        bets: What the detectors bet on.
        independence: float64[S], independent events per event: the median tempering of the tilts that can be bet on;
            of quality, whose kinds of unusable values come in runs of their own, the least.
        rows_to_resolve: int64[S], events after which an unchanged stream can be told to be back within its margin.
    """

    layout: Layout
    streams: tuple[BaselineStream, ...]
    p0: Floats
    bets: Bets
    independence: Floats
    rows_to_resolve: Counts


def compile_block(streams: Sequence[BaselineStream]) -> Block:
    """Lay out the streams of one block, which share a layout, for betting."""
    layout = streams[0].layout
    counts = np.array([stream.counts for stream in streams])
    margin = np.array([stream.margin_tv for stream in streams])
    tempering = np.array([stream.tempering for stream in streams])
    p0 = reference_probabilities(counts)
    bets = without_idle_tilts(make_bets(tilts_of(layout), counts, margin, tempering))
    in_use = np.where(np.isfinite(bets.log_weights), bets.tempering, np.nan)
    independence = np.nanmin(in_use, axis=1) if layout is QUALITY else np.nanmedian(in_use, axis=1)
    back = np.array([back_margin(stream) for stream in streams])
    if layout is QUALITY:
        resolve = ROWS_BACK_PER_MARGIN / np.maximum(back, 1e-4) / independence
    elif layout is LOSS:
        resolve = LOSS_ROWS_BACK / independence
    elif streams[0].role == HUMILITY_ROLE:
        yes, least = p0[:, YES_BIN], np.maximum(back, 1e-4)
        resolve = np.maximum(ROWS_BACK_PER_MARGIN / least, yes * (1 - yes) * (RATE_DEVIATIONS / least) ** 2)
        resolve = resolve / independence
    else:
        resolve = distances.rows_to_resolve(p0, back, CONFIDENCE_ERROR) / independence
    return Block(
        layout=layout,
        streams=tuple(streams),
        p0=p0,
        bets=bets,
        independence=independence,
        rows_to_resolve=np.ceil(resolve).astype(np.int64),
    )


def back_margin(stream: BaselineStream) -> float:
    """The total variation within which a stream that has alarmed counts as back to normal."""
    return max(stream.margin_tv, RATE_BACK_MARGIN) if stream.role == RATE_ROLE else stream.margin_tv


def is_back(block: Block, index: int, counts: Counts) -> bool:
    """Whether a stream of a block is back within its margin, with 95 % confidence, by counts int64[K] since it alarmed.

    A loss has no margin but that of its cuts, and may be as small as it likes: it is back when these counts speak
    against all that is bet on it, at odds of 20 to 1.
    """
    if block.layout is LOSS:
        every = np.zeros((block.bets.streams, block.layout.size), np.int64)
        every[index] = counts
        return float(since_log_evidence(block.bets, every)[index]) <= float(np.log(CONFIDENCE_ERROR))
    events = counts.sum() * block.independence[index]
    observed = distances.total_variation(counts, block.p0[index])
    upper = float(distances.tv_upper_limit(observed, events, CONFIDENCE_ERROR))
    is_rate = block.streams[index].role == HUMILITY_ROLE
    if block.layout is QUALITY or is_rate:
        # exact limits for events that are rare: a few unusable values, or refusals, among thousands
        independent = np.floor(counts * block.independence[index]).astype(np.int64)
        if is_rate:
            independent = np.array([independent[YES_BIN], independent.sum() - independent[YES_BIN]])
        upper = min(upper, float(observed + reference_radius(independent[None], CONFIDENCE_ERROR)[0]))
    return upper <= back_margin(block.streams[index])


@dataclass(eq=False)
class BlockState:
    """What is known of a block's streams; see :mod:`streams.statistics.evidence` for the arrays.

    ``muted``: bool[S], causes of an open alarm. ``resolve_counts``: int64[S, K], counts of a muted stream since the
    last look at whether it is back within its margin. ``silent``: bool[S], the muted streams and those that change with
    them; it follows from ``muted`` (see :meth:`Monitors.hush`).
    """

    base: Base
    slot_counts: Counts
    muted: NDArray[np.bool_]
    resolve_counts: Counts
    silent: NDArray[np.bool_]

    @classmethod
    def new(cls, block: Block) -> BlockState:
        """The state before the first event."""
        return cls(
            base=empty_base(block.bets),
            slot_counts=empty_counts(block.bets),
            muted=np.zeros(block.bets.streams, dtype=bool),
            resolve_counts=empty_counts(block.bets),
            silent=np.zeros(block.bets.streams, dtype=bool),
        )
