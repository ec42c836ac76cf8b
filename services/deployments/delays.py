"""How long a change of a given size goes unnoticed: what a promise on false alarms costs, per monitor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from streams.baseline import FEATURE, PREDICTION_ROLE, SERVICE_ROLE, BaselineStream
from streams.blocks import Block
from streams.monitor import Monitors
from streams.statistics.budget import expected_delay_events, start_mass_log
from streams.statistics.distances import total_variation
from streams.statistics.evidence import rounded_down
from streams.statistics.layouts import NUMERIC, NUMERIC_MISSING

Floats = NDArray[np.float64]

SHIFTS_SD = (0.1, 0.2, 0.3, 0.5, 1.0)
"""Shifts of the mean that delays are stated for, in standard deviations."""

_VALUES = (FEATURE, PREDICTION_ROLE, SERVICE_ROLE)
"""Roles of streams whose values are what the model saw or said: a shift of them has a meaning of its own."""


def shifted(p: ArrayLike, shift_sd: float) -> Floats:
    """The distribution of streams of the ``NUMERIC`` layout after their values moved, float64[S, 15].

    ``p``: float64[S, 15], before. The move is one of ``shift_sd`` standard deviations on the scale of normal scores, on
    which every continuous distribution is the standard normal: with bin k between the normal quantiles a and b of its
    cumulative probabilities, P1(k) = Phi(b - d) - Phi(a - d). For a normal feature that is a shift of the mean by d
    standard deviations. The share of missing values stays; nothing leaves the reference's range, which makes the change
    a little harder to find than it is.
    """
    before = np.atleast_2d(np.asarray(p, np.float64))
    present = before.copy()
    present[:, NUMERIC_MISSING] = 0.0
    total = present.sum(axis=1, keepdims=True)
    upper = np.cumsum(present, axis=1) / np.where(total > 0, total, 1.0)
    moved = ndtr(ndtri(np.minimum(upper, 1.0)) - shift_sd)
    after = np.diff(moved, axis=1, prepend=0.0) * total
    after[:, NUMERIC_MISSING] = before[:, NUMERIC_MISSING]
    return np.asarray(after)


@dataclass(frozen=True, slots=True)
class StreamDelay:
    """The expected number of its own events until a shift of one stream alone raises its monitor's alarm.

    Attributes:
        stream: The stream.
        events: The number of events; infinite where the shift is not looked for, or cannot be told from the margin.
        inside_margin: Whether the shift is smaller than the margin: not looked for, by design.
    """

    stream: str
    events: float
    inside_margin: bool


@dataclass(frozen=True, slots=True)
class MonitorDelay:
    """Delays of one monitor's numeric streams for one shift.

    Attributes:
        shift_sd: The shift of the mean, in standard deviations.
        streams: How many streams it is about.
        median: The stream in the middle, the slower one of two.
        worst: The slowest stream.
    """

    shift_sd: float
    streams: int
    median: StreamDelay
    worst: StreamDelay


def monitor_delays(monitors: Monitors, name: str, shifts_sd: Sequence[float] = SHIFTS_SD) -> list[MonitorDelay]:
    """Expected delays of one monitor, one entry per shift; empty where it has no numeric stream of whole traffic.

    First order, see :func:`streams.statistics.budget.expected_delay_events`: with the margin, tempering and weight of
    each stream, for the first version that is served. The change affects one stream only (more streams are noticed
    sooner), in the direction in which it is found later.
    """
    monitor = monitors.monitors.get(name)
    if monitor is None:
        return []
    found = []
    for shift in shifts_sd:
        delays = [
            delay
            for block, weights in zip(monitors.blocks, monitor.log_weights, strict=True)
            if block.layout is NUMERIC
            for delay in _block_delays(block, weights, monitor.threshold_nats, shift)
        ]
        if delays:
            delays.sort(key=lambda delay: (delay.events, delay.inside_margin, delay.stream))
            found.append(MonitorDelay(shift, len(delays), delays[len(delays) // 2], delays[-1]))
    return found


def _block_delays(block: Block, log_weights: Floats, threshold_nats: float, shift_sd: float) -> list[StreamDelay]:
    bets = dataclasses.replace(block.bets, log_weights=rounded_down(block.bets.log_weights + log_weights[:, None]))
    counts = np.array([stream.counts for stream in block.streams], np.float64)
    p = counts / counts.sum(axis=1, keepdims=True)
    events, distance = np.zeros(len(p)), np.full(len(p), np.inf)
    for direction in (1, -1):
        after = shifted(p, direction * shift_sd)
        events = np.maximum(
            events, expected_delay_events(bets, after, threshold_nats, start_log_mass=start_mass_log(0))
        )
        distance = np.minimum(distance, total_variation(after, p))
    return [
        StreamDelay(stream.name, float(events[s]), bool(distance[s] <= stream.margin_tv))
        for s, stream in enumerate(block.streams)
        if np.isfinite(log_weights[s]) and _is_value(stream)
    ]


def _is_value(stream: BaselineStream) -> bool:
    return stream.role in _VALUES and not stream.segment
