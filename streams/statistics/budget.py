"""From the number of false alarms the operator accepts to a threshold, and what that threshold costs in delay.

All evidence is in nats. The count bound of :mod:`streams.statistics.evidence`, c E[N_T] <= B_T, is read backwards:
with B_T starts in the period and A false alarms allowed, c = B_T / A.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from streams.statistics.arrays import Floats
from streams.statistics.evidence import Bets


def alarm_threshold_nats(false_alarms: float, per_ms: int, slot_ms: int, share: float = 1.0, shards: int = 1) -> float:
    """Threshold log c at which a monitor's expected number of false alarms stays within its budget.

    ``false_alarms``: A, expected false alarms accepted per ``per_ms`` for everything that shares the budget;
    ``share``: this monitor's part of it, in (0, 1]; ``slot_ms``: length of a start slot, each of which adds a start
    mass of at most one; ``shards``: how many partitions run a detector of this monitor, each with starts of its own.

    log( ceil(per_ms / slot_ms) shards / (A share) ). Ten times fewer false alarms cost 2.3 nats. Never below zero.
    """
    if not (false_alarms > 0 and math.isfinite(false_alarms)):
        raise ValueError(f"the accepted number of false alarms must be a positive number, got {false_alarms}")
    if per_ms <= 0 or slot_ms <= 0:
        raise ValueError(f"period and start slot must be positive, got {per_ms} ms and {slot_ms} ms")
    if not 0 < share <= 1 or shards < 1:
        raise ValueError(f"expected a share in (0, 1] and at least one shard, got {share} and {shards}")
    starts = -(-per_ms // slot_ms) * shards
    return max(0.0, math.log(starts / (false_alarms * share)))


def start_mass_log(rank: int) -> float:
    """Log start mass of the version that is the ``rank``-th (from 0) to be seen in a start slot: -(rank + 1) log 2.

    The masses 1/2, 1/4, ... add up to at most one start per slot, so the bound holds for any number of concurrent
    versions without knowing it beforehand. The first version pays log 2 for it.
    """
    if rank < 0:
        raise ValueError(f"ranks count from 0, got {rank}")
    return -(rank + 1) * math.log(2)


def expected_delay_events(
    bets: Bets, p1: ArrayLike, threshold_nats: float, stream_log_weight: float = 0.0, start_log_mass: float = 0.0
) -> Floats:
    """Approximate number of events, float64[S], until streams that now follow ``p1`` (float64[S, K] or [K]) raise an
    alarm.

    min over tilts of (threshold - log w_i - log v - log b) / g_i, where g_i = gamma_i (sum_k p1_k H_ik - log Z_i) is
    the growth of log M_i per event; infinite where no tilt grows, that is where the change lies within the margin.
    First-order (Lorden, "Procedures for reacting to a change in distribution", Annals of Mathematical Statistics 42,
    1971); overshoot and earlier evidence are ignored.
    """
    changed = np.broadcast_to(np.atleast_2d(np.asarray(p1, np.float64)), (bets.streams, bets.shapes.shape[1]))
    growth = bets.tempering * (changed @ bets.shapes.T - bets.log_normaliser)
    needed = threshold_nats - bets.log_weights - stream_log_weight - start_log_mass
    with np.errstate(divide="ignore", invalid="ignore"):
        events = np.where(growth > 0, needed / growth, np.inf)
    return np.asarray(events.min(axis=1))


def best_growth_nats(p1: ArrayLike, p0: ArrayLike, margin: float) -> float:
    """The growth per event that no e-value for "within ``margin`` of p0" can exceed when the truth is ``p1``.

    min { KL(p1 || p) : TV(p, p0) <= margin } in nats, zero inside the ball (Grünwald, de Heide, Koolen, "Safe
    testing", JRSS B 2024, theorem 1: the growth-rate optimal e-value and its reverse information projection). ``p1``,
    ``p0``: float64[K]. The projection raises p0 to p1/b where the ratio p1/p0 exceeds b and lowers it to p1/a where
    it is below a, each side by ``margin`` (Huber 1965).
    """
    q, p = np.asarray(p1, np.float64), np.asarray(p0, np.float64)
    if 0.5 * np.abs(q - p).sum() <= margin:
        return 0.0
    projected = p.copy()
    if margin > 0:
        upper = _level(q, p, margin, above=True)
        lower = _level(q, p, margin, above=False)
        projected = np.where(q > upper * p, q / upper, projected)
        if lower > 0:  # at zero the mass comes from bins that p1 never fills: they do not count
            projected = np.where(q < lower * p, q / lower, projected)
    positive = q > 0
    return float((q[positive] * np.log(q[positive] / projected[positive])).sum())


def _level(q: Floats, p: Floats, margin: float, *, above: bool) -> float:
    """The ratio r at which max(q / r - p, 0) (``above``) or max(p - q / r, 0) adds up to ``margin``.

    Both sums are linear in 1/r between the ratios q_k/p_k, so the level is found exactly by walking through them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((q == 0) & (p == 0), 0.0 if above else np.inf, q / p)
    order = np.argsort(-ratio if above else ratio, kind="stable")
    mass_q, mass_p = np.cumsum(q[order]), np.cumsum(p[order])
    for k, _ in enumerate(order):
        excess = mass_p[k] + margin if above else mass_p[k] - margin
        if excess <= 0:
            continue
        level = mass_q[k] / excess
        beyond = ratio[order[k + 1]] if k + 1 < len(order) else (0.0 if above else np.inf)
        if (level >= beyond) if above else (level <= beyond):
            return float(level)
    raise AssertionError("a level exists because the total variation exceeds the margin")
