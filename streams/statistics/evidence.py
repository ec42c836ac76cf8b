"""The evidence engine: a mixture Shiryaev-Roberts e-detector on bin counts.

For one stream with tilts i (see :mod:`streams.statistics.tilts`), prior weights w_i and tempering gamma_i <= 1,

    M_i(t) = (M_i(t-1) + b_t) exp{ gamma_i (H_i,k(t) - log Z_i) },      M(t) = sum_i w_i M_i(t),                     (1)

where k(t) is the bin of event t and b_t the *start mass*: positive at the first event of a start slot (one per hour,
say), otherwise zero (Shiryaev 1963; Roberts 1966; for e-values: Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric
framework for sequential change detection", New England Journal of Statistics in Data Science 2024). A *monitor*
averages its streams, M(t) = sum_s v_s M_s(t) with sum v_s <= 1, raises an alarm when M >= c, and sets M = 0.

**The bound.** Let E[exp{...} | past] <= 1 under "no change", N_T the number of alarms and B_T = sum_{t<=T} b_t. The
process Z_t = M_t + c N_t - B_t is a supermartingale: before the alarm test E[M_t | past] <= M_{t-1} + b_t, and an
alarm replaces a value of at least c by zero while adding c. Hence E[Z_T] <= 0, and as M_T >= 0

    c E[N_T] <= E[B_T].                                                                                              (2)

No independence between streams, no asymptotics, any stopping rule, streams that come and go. It stays true when an
alarm is looked for only at some events, and when some streams are muted (then a smaller number than M is compared
with c; unmuting needs no reset). It also stays true for tempered e-values, E[e^gamma] <= (E[e])^gamma. Weights may
only change when M is reset.

**State.** Between two starts the exponent in (1) depends on the counts only, so a stream keeps

- ``base``: float32[S, I], log M_i at the last start, that start included; -inf before the first;
- ``slot_counts``: int64[S, K], counts since.

Sums of counts are exact (see ``tilts``) and gamma multiplies the exact sum, so evidence does not depend on batches.
At a start the base is rounded down to a grid of 2^-15 nats and to at most 511 nats: multiples that float32 holds
exactly, so that a stream of 60 tilts needs 240 bytes. Rounding down only ever lowers evidence. It costs at most 2^-14
nats for every start between a change and its alarm, 0.044 nats in 720 starts (of the 17.4 that a fleet needs), and it
keeps the last-bit differences between mathematical libraries from accumulating.

Streams are worked on in blocks that fit the cache of one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from streams.statistics.arrays import Base, Counts, Floats, log_sum_exp
from streams.statistics.tilts import Tilts, log_normaliser, log_prior

BASE_UNITS_PER_NAT = 2.0**15
"""The grid on which the base lives: coarse enough for float32."""

HIGHEST_UNITS = 2.0**24 - 2.0**15
"""Evidence beyond 511 nats is an alarm whatever the threshold; a start on top of it stays below 2^24 units."""

EXACT_NORMALISER = 16
"""Below it float32 holds the multiples of 2^-20."""

STRICTLY_BELOW = 1 - 2.0**-20
"""Makes up for the last bits that exp and log1p may be too large in float32."""

BLOCK_STREAMS = 512


@dataclass(frozen=True, eq=False)
class Bets:
    """What S streams of one layout bet on; fixed by baseline and specification.

    ``shapes``: float64[I, K]; ``log_normaliser``, ``tempering`` (gamma, in (0, 1]), ``log_weights`` (log w):
    float32[S, I]. A normaliser is a multiple of 2^-20 below 16, which float32 holds exactly; the two others are rounded
    down, which only ever lowers evidence.
    """

    shapes: Floats
    log_normaliser: Base
    tempering: Base
    log_weights: Base

    @property
    def streams(self) -> int:
        """Number of streams, S."""
        return len(self.log_normaliser)


def make_bets(tilts: Tilts, reference_counts: ArrayLike, margin: ArrayLike, tempering: ArrayLike = 1.0) -> Bets:
    """Normalise the tilts of a layout for S streams.

    ``reference_counts``: [S, K], counts of the reference (or a distribution known exactly); ``margin``: eps, a number
    or float64[S]; ``tempering``: a number or float64[S, I] (see :mod:`streams.statistics.dependence`).

    The ball is centred at the plain frequencies, without smoothing: a tilt's e-values are bounded whatever the
    baseline, and the concentration inequality behind :func:`~streams.statistics.margins.effective_margins` is about
    the plain frequencies.
    """
    counts = np.atleast_2d(np.asarray(reference_counts, np.float64))
    total = counts.sum(axis=1, keepdims=True)
    if counts.shape[1] != tilts.layout.size or not (total > 0).all():
        raise ValueError(f"expected reference counts of {tilts.layout.size} bins with at least one event per stream")
    normaliser = log_normaliser(tilts.shapes, counts / total, margin)
    gamma = np.array(np.broadcast_to(np.asarray(tempering, np.float64), normaliser.shape))
    if not ((gamma > 0) & (gamma <= 1)).all():
        raise ValueError("tempering exponents must lie in (0, 1]; more than 1 would break the bound")
    if normaliser.max() >= EXACT_NORMALISER:
        raise ValueError(
            f"a normaliser must stay below {EXACT_NORMALISER} nats; the tilts of {tilts.layout.name} do not"
        )
    weights = log_prior(tilts, counts, margin)
    return Bets(tilts.shapes, normaliser.astype(np.float32), rounded_down(gamma), rounded_down(weights))


def rounded_down(values: Floats) -> Base:
    """The largest float32 that is not above each value."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def without_idle_tilts(bets: Bets) -> Bets:
    """The same bets without the tilts that none of the streams bets on: the same evidence for less memory and time."""
    used = np.isfinite(bets.log_weights).any(axis=0)
    per_stream = (bets.log_normaliser, bets.tempering, bets.log_weights)
    return Bets(_shapes_in_use(bets.shapes.tobytes(), used.tobytes()), *(_stored(v[:, used]) for v in per_stream))


@lru_cache(maxsize=64)
def _shapes_in_use(shapes: bytes, used: bytes) -> Floats:
    """One array for all deployments that bet on the same tilts."""
    in_use = np.frombuffer(used, np.bool_)
    return np.frombuffer(shapes, np.float64).reshape(len(in_use), -1)[in_use]


def _stored(values: Base) -> Base:
    """The same array [S, I]; a single row in memory where all rows are the same, as those of weights mostly are."""
    if (values == values[:1]).all():
        return np.broadcast_to(values[:1].copy(), values.shape)
    return np.ascontiguousarray(values)


def empty_base(bets: Bets) -> Base:
    """The base of streams that have not started, or whose evidence an alarm has reset: M = 0."""
    return np.full(bets.log_normaliser.shape, -np.inf, np.float32)


def empty_counts(bets: Bets) -> Counts:
    """Counts of streams without events."""
    return np.zeros((bets.streams, bets.shapes.shape[1]), np.int64)


def log_e_values(bets: Bets, counts: Counts) -> Floats:
    """Log e-value float64[S, I] of counts int64[S, K] for every tilt: gamma (sum_k n_k H_k - n log Z)."""
    n = counts.astype(np.float64)
    # both products and their difference are exact: integers times 2^-20
    exact: Floats = n @ bets.shapes.T
    exact -= np.add.reduce(n, axis=1, keepdims=True) * bets.log_normaliser
    exact *= bets.tempering
    return exact


def _blocks(streams: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK_STREAMS) for first in range(0, streams, BLOCK_STREAMS))


def _rows(bets: Bets, rows: slice) -> Bets:
    return Bets(bets.shapes, bets.log_normaliser[rows], bets.tempering[rows], bets.log_weights[rows])


def tilt_log_evidence(bets: Bets, base: Base, slot_counts: Counts) -> Floats:
    """Log w_i M_i float64[S, I] of each stream and tilt now, in nats; -inf before the first start."""
    evidence = log_e_values(bets, slot_counts)
    evidence += base
    evidence += bets.log_weights
    return evidence


def stream_log_evidence(bets: Bets, base: Base, slot_counts: Counts) -> Floats:
    """Log M float64[S] of each stream now, in nats; -inf before its first start."""
    evidence = np.empty(bets.streams)
    for rows in _blocks(bets.streams):
        evidence[rows] = log_sum_exp(tilt_log_evidence(_rows(bets, rows), base[rows], slot_counts[rows]))
    return evidence


def start_slot(bets: Bets, base: Base, slot_counts: Counts, log_start_mass: float = 0.0) -> tuple[Base, Counts]:
    """Begin a start slot: returns the new base and counts of zero.

    To be called before the first event of the slot is counted. ``log_start_mass``: log b of equation (1), zero for a
    whole start; see :func:`streams.statistics.budget.start_mass_log` where several versions share one.
    """
    started = np.empty_like(base)
    for rows in _blocks(bets.streams):
        log_evidence = log_e_values(_rows(bets, rows), slot_counts[rows])
        log_evidence += base[rows]
        started[rows] = _add_start(log_evidence, log_start_mass)
    return started, np.zeros_like(slot_counts)


def _add_start(log_evidence: Floats, log_start_mass: float) -> Base:
    """log(exp(x) + b) on the grid, never above the truth; overwrites ``log_evidence``.

    In units of the grid, max(x, log b) and the difference d between the two are integers that float32 holds exactly;
    log1p(exp(-d)) is at most log 2, where float32 is accurate to 10^-7.
    """
    log_evidence *= BASE_UNITS_PER_NAT
    np.floor(log_evidence, out=log_evidence)
    np.minimum(log_evidence, HIGHEST_UNITS, out=log_evidence)
    np.maximum(log_evidence, -HIGHEST_UNITS, out=log_evidence)
    larger = log_evidence.astype(np.float32)
    start = np.float32(np.floor(max(log_start_mass * BASE_UNITS_PER_NAT, -HIGHEST_UNITS)))
    gain = larger - start
    np.maximum(larger, start, out=larger)
    np.abs(gain, out=gain)
    gain *= np.float32(-1 / BASE_UNITS_PER_NAT)
    np.exp(gain, out=gain)
    np.log1p(gain, out=gain)
    gain *= np.float32(BASE_UNITS_PER_NAT * STRICTLY_BELOW)
    np.floor(gain, out=gain)
    larger += gain
    larger *= np.float32(1 / BASE_UNITS_PER_NAT)
    return larger


def since_log_evidence(bets: Bets, since_counts: Counts) -> Floats:
    """The log of sum_i w_i e_i float64[S]: evidence of each stream against "no change since these counts began"."""
    return log_sum_exp(log_e_values(bets, since_counts) + bets.log_weights)
