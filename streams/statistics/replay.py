"""Run detectors over recorded counts: how often would they have alarmed, and when first?

The bound rests on assumptions (independence after tempering, a margin that covers the reference's error); replaying
data that is known to be unchanged is the evidence that they hold. The benches use the same function for what they
state about false alarms and delay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.statistics.arrays import Counts
from streams.statistics.evidence import Bets, empty_base, empty_counts, start_slot, stream_log_evidence


@dataclass(frozen=True, eq=False)
class Replay:
    """``alarms``: int64[S], alarms of each stream; ``first_alarm_step``: int64[S], -1 without one; ``starts``: per
    stream.
    """

    alarms: Counts
    first_alarm_step: Counts
    starts: int

    def alarms_over_bound(self, threshold_nats: float) -> float:
        """Observed alarms divided by what the count bound allows, starts / c; expected to be at most one without
        change.
        """
        return float(self.alarms.sum() / (len(self.alarms) * self.starts * np.exp(-threshold_nats)))


def replay(
    bets: Bets, counts: Counts, start_every: int, threshold_nats: float, *, until_first_alarm: bool = False
) -> Replay:
    """Replay S streams, each with a detector of its own that alarms at ``threshold_nats`` and is then reset.

    ``counts``: int64[S, T, K], one evidence step after the other; a start slot begins every ``start_every`` steps.
    ``until_first_alarm`` stops as soon as every stream has alarmed once.
    """
    streams, steps, _ = counts.shape
    base, slot_counts = empty_base(bets), empty_counts(bets)
    alarms = np.zeros(streams, np.int64)
    first = np.full(streams, -1, np.int64)
    starts = 0
    for step in range(steps):
        if step % start_every == 0:
            base, slot_counts = start_slot(bets, base, slot_counts)
            starts += 1
        slot_counts = slot_counts + counts[:, step]
        alarming: NDArray[np.bool_] = stream_log_evidence(bets, base, slot_counts) >= threshold_nats
        if alarming.any():
            alarms += alarming
            first[alarming & (first < 0)] = step
            base[alarming] = -np.inf
            slot_counts[alarming] = 0
            if until_first_alarm and (first >= 0).all():
                break
    return Replay(alarms, first, starts)


def step_counts(codes: NDArray[np.uint8], events_per_step: int, bins: int) -> Counts:
    """Counts int64[S, T, K] of bin codes uint8[S, N] in steps of equal size; a last incomplete step is left out."""
    streams = len(codes)
    steps = codes.shape[1] // events_per_step
    used = codes[:, : steps * events_per_step].reshape(streams * steps, events_per_step).astype(np.int64)
    used += np.arange(streams * steps)[:, None] * bins
    return np.bincount(used.ravel(), minlength=streams * steps * bins).reshape(streams, steps, bins)
