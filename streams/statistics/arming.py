"""Arming: would these monitors keep their bound on data like the reference?

Two things stand between the bound c E[N] <= B of :mod:`streams.statistics.evidence` and a real stream, and neither is
a theorem: the tempering, an estimate of how much events depend on each other, and the margin, which must cover the
error of a finite reference. Before a monitor is put in force both are tried by bootstrap.

1. The reference, in event order, is cut into T steps of equal size. Paths are drawn from it in moving blocks of T/16
   steps, end joined to beginning, of all streams together (Künsch, "The jackknife and the bootstrap for general
   stationary observations", Annals of Statistics 17, 1989; Politis and Romano, "A circular block-resampling procedure
   for stationary data", 1992). A block is longer than the longest over which dependence was measured.
2. For each path a second one is drawn that plays the reference: its counts are the baseline that the path is judged
   by, with the margin and the tempering that are to be in force. It lies as far from the path's own law, which is that
   of the reference, as the reference lies from the truth. Judging a path by the counts it was drawn from would leave
   the error of the reference out, and judging one half of the reference by the other would double it. The baseline of
   losses is nominal: what the reference tells of them, with the margin for its error, lies in their cuts.
3. The monitor's detector runs over each path, with a start at every step. As the bound holds for every c, one is
   chosen that allows ``ALLOWED`` alarms, enough to be counted. What may raise or lower the number by chance is
   estimated from how much it differs between paths.
4. A monitor with more alarms than allowed, chance included, is *widened*: the exponents of the streams that break the
   bound by themselves are lowered, or, where none does, of all its streams. A stream that breaks it even at the
   smallest factor is refused.

What it cannot show: dependence that outlasts a sixteenth of the reference, a cycle of which the reference has one
turn, thresholds far above the one that was tried, and that the exponents were estimated on the very rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

from streams.statistics.arrays import Counts, Floats
from streams.statistics.dependence import SMALLEST_TEMPERING
from streams.statistics.evidence import Bets, log_e_values, make_bets
from streams.statistics.layouts import LOSS
from streams.statistics.losses import loss_counts
from streams.statistics.tilts import Tilts

ALLOWED = 80.0
"""Alarms that the bound allows in a replay. Without any margin independent events raise half to two thirds of that,
give or take seven, with the margin of the reference's size next to none; a monitor at twice the bound is found."""

SMALLEST_C = 20.0

CONFIDENCE = 0.95
"""The upper confidence limit of the number of alarms at this level must keep the bound."""

FACTORS = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
"""By which tempering is lowered, one after the other. A stream to which a twentieth is not enough is refused."""

MOST_STEPS = 512
BLOCKS_PER_PATH = 16
MOST_STARTS = 8_192
FEWEST_STARTS = 1_024

MOST_WORK = 150_000_000
"""Starts times streams times tilts of one replay: one to two seconds."""

_STREAMS_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class ReplayBlock:
    """The S streams of one layout that a monitor averages over, and their reference.

    ``counts``: int[T, S, K], the reference in T steps, in event order. ``margin``: float64[S]. ``tempering``:
    float64[S, I]. ``log_weights``: float64[S], log v of each stream in the monitor.
    """

    tilts: Tilts
    counts: NDArray[np.integer]
    margin: Floats
    tempering: Floats
    log_weights: Floats

    def __post_init__(self) -> None:
        steps, streams, bins = self.counts.shape
        expected = {
            "margin": (streams,),
            "tempering": (streams, self.tilts.size),
            "log_weights": (streams,),
        }
        if bins != self.tilts.layout.size or not steps:
            raise ValueError(f"expected counts of shape (steps, streams, {self.tilts.layout.size}), got {steps, bins}")
        for name, shape in expected.items():
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {np.shape(getattr(self, name))}")


@dataclass(frozen=True, eq=False)
class Armed:
    """What the replay of one monitor showed, after it was widened.

    ``starts``, ``alarms``: replayed, and raised. ``bound``: alarms that the starts allow, starts / c.
    ``threshold_nats``: log c. ``first_alarms``: alarms before anything was widened. ``factors``: per block
    float64[S], by which the tempering of each stream has to be multiplied; 0 marks a stream that is refused.
    """

    starts: int
    alarms: int
    bound: float
    threshold_nats: float
    first_alarms: int
    factors: tuple[Floats, ...]

    @property
    def widened(self) -> float:
        """The smallest factor of a stream that was not refused; 1 if nothing had to be done, 0 if all are refused."""
        factors = np.concatenate(self.factors)
        return float(factors[factors > 0].min()) if (factors > 0).any() else 0.0


def steps_of(rows: int, streams: int) -> int:
    """Into how many steps T a reference of so many rows is cut for the replay of so many streams."""
    fewer = MOST_STEPS if streams <= 400 else MOST_STEPS // 4
    return min(fewer, rows)


def arm(blocks: Sequence[ReplayBlock], seed: int) -> Armed:
    """Replay the reference of a monitor and widen it until its bound holds.

    ``blocks``: its streams, by layout, all with the same steps. The same ``seed`` gives the same result. Costs about
    half a second for 60 streams, more where streams have to be widened.
    """
    paths = _Paths.draw(blocks, seed)
    factors = [np.ones(len(block.margin)) for block in blocks]
    counted = paths.alarms(blocks, factors)
    first = int(counted.sum())
    while not _holds(counted[:, None], paths.bound)[0] and any(f.any() for f in factors):
        if not _widen_the_worst(paths, blocks, factors):
            for block_factors in factors:
                block_factors[:] = _next(block_factors)
        counted = paths.alarms(blocks, factors)
    return Armed(paths.starts, int(counted.sum()), paths.bound, paths.threshold_nats, first, tuple(factors))


def _widen_the_worst(paths: _Paths, blocks: Sequence[ReplayBlock], factors: list[Floats]) -> bool:
    """Lower the factors of the streams that break the bound by themselves until they no longer do.

    Returns whether there was any.
    """
    found = False
    for at, block in enumerate(blocks):
        left = np.flatnonzero(factors[at] > 0)
        while left.size:
            alone = paths.alarms_alone(_part(block, left), factors[at][left])
            left = left[~_holds(alone, paths.bound)]
            factors[at][left] = _next(factors[at][left])
            found |= bool(left.size)
            left = left[factors[at][left] > 0]
    return found


def _next(factors: Floats) -> Floats:
    """The next smaller factor of each stream; 0, refused, after the smallest."""
    steps = np.array([1.0, *FACTORS, 0.0, 0.0])
    return steps[np.searchsorted(-steps[:-1], -factors) + 1]


def _part(block: ReplayBlock, chosen: NDArray[np.intp]) -> ReplayBlock:
    return ReplayBlock(
        block.tilts, block.counts[:, chosen], block.margin[chosen], block.tempering[chosen], block.log_weights[chosen]
    )


def upper_limit(alarms: ArrayLike, confidence: float = CONFIDENCE) -> Floats:
    """Upper confidence limit float64[S] of the expected number of alarms, from those of P paths, int[P, S].

    Alarms come in clusters, so their number varies more than a Poisson variable: by phi, the ratio of variance to
    mean over the paths. The total over phi is treated as Poisson (quasi-likelihood: Wedderburn, Biometrika 61, 1974),
    with the exact limit of Garwood (Biometrika 28, 1936): phi gamma^-1(confidence; k / phi + 1).
    """
    counted = np.asarray(alarms, np.float64)
    total = counted.sum(axis=0)
    mean = np.maximum(total / len(counted), 1e-9)
    phi = np.maximum(counted.var(axis=0, ddof=1) / mean, 1.0) if len(counted) > 1 else np.ones_like(total)
    return np.asarray(phi * gammaincinv(total / phi + 1, confidence))


def _holds(alarms: Counts, bound: float) -> NDArray[np.bool_]:
    """Whether the alarms int64[P, S] of each stream keep the bound."""
    return np.asarray(upper_limit(alarms) <= bound)


@dataclass(frozen=True, eq=False)
class _Paths:
    """P paths of T steps and what each is judged by.

    ``order``: int64[P, T], the step of the reference at each step of a path. ``multiplicity``: float64[P, T], how
    often each step is in the replicate of the reference.
    """

    order: Counts
    multiplicity: Floats

    @classmethod
    def draw(cls, blocks: Sequence[ReplayBlock], seed: int) -> _Paths:
        """Draw as many paths as the work allows."""
        steps = len(blocks[0].counts)
        width = sum(block.tempering.size for block in blocks)
        starts = min(max(MOST_WORK // max(width, 1), FEWEST_STARTS), MOST_STARTS)
        number = max(starts // steps, 4)
        rng = np.random.default_rng(seed)
        replicas = _moving_blocks(rng, number, steps)
        multiplicity = np.zeros((number, steps))
        np.add.at(multiplicity, (np.arange(number)[:, None], replicas), 1.0)
        return cls(_moving_blocks(rng, number, steps), multiplicity)

    @property
    def starts(self) -> int:
        """Starts in a replay: one per step."""
        return int(self.order.size)

    @property
    def c(self) -> float:
        """The threshold, as odds."""
        return max(SMALLEST_C, self.starts / ALLOWED)

    @property
    def bound(self) -> float:
        """Alarms that the starts allow."""
        return self.starts / self.c

    @property
    def threshold_nats(self) -> float:
        """The threshold, log c."""
        return float(np.log(self.c))

    def alarms(self, blocks: Sequence[ReplayBlock], factors: Sequence[Floats]) -> Counts:
        """Alarms int64[P] of the monitor in each path; streams with factor 0 do not take part."""
        used = [
            (_part(block, np.flatnonzero(f > 0)), f[f > 0])
            for block, f in zip(blocks, factors, strict=True)
            if (f > 0).any()
        ]
        runs = [_Run(self, block, f, np.exp(block.log_weights)) for block, f in used]
        counted = np.zeros(len(self.order), np.int64)
        for step in range(self.order.shape[1]):
            evidence = np.zeros(len(counted))
            for run in runs:
                evidence += run.advance(self.order[:, step]).sum(axis=1)
            alarming = evidence >= self.c
            if alarming.any():
                counted += alarming
                for run in runs:
                    run.evidence[alarming] = 0.0
        return counted

    def alarms_alone(self, block: ReplayBlock, factors: Floats) -> Counts:
        """Alarms int64[P, S] of each stream with a detector of its own."""
        run = _Run(self, block, factors, np.ones(len(factors)))
        counted = np.zeros((len(self.order), len(factors)), np.int64)
        for step in range(self.order.shape[1]):
            alarming = run.advance(self.order[:, step]) >= self.c
            if alarming.any():
                counted += alarming
                run.evidence[alarming] = 0.0
        return counted


def _moving_blocks(rng: np.random.Generator, paths: int, steps: int) -> Counts:
    """Steps int64[P, T] in blocks of T/16 that begin anywhere, the last joined to the first."""
    length = max(1, steps // BLOCKS_PER_PATH)
    first = rng.integers(0, steps, size=(paths, -(-steps // length)))
    order = (first[:, :, None] + np.arange(length)) % steps
    return order.reshape(paths, -1)[:, :steps]


class _Run:
    """The evidence of S streams in P paths. Thresholds are low here, so M itself is kept and not its logarithm."""

    def __init__(self, paths: _Paths, block: ReplayBlock, factors: Floats, weights: Floats) -> None:
        number, streams, bins = len(paths.order), len(factors), block.tilts.layout.size
        self.counts = block.counts
        baseline = (paths.multiplicity @ block.counts.reshape(len(block.counts), -1)).reshape(number, streams, bins)
        # a part of the traffic that one replicate left out is judged by the whole reference
        baseline = np.where(baseline.sum(axis=2, keepdims=True) > 0, baseline, block.counts.sum(axis=0))
        if block.tilts.layout is LOSS:
            baseline = np.tile(loss_counts(), (number, streams, 1))
        gamma = np.maximum(block.tempering * factors[:, None], SMALLEST_TEMPERING)
        self.bets = _bets(block, baseline, gamma)
        self.weights = (np.exp(self.bets.log_weights).reshape(number, streams, -1) * weights[:, None]).copy()
        self.possible = self.weights > 0
        self.evidence = np.zeros(self.weights.shape)

    def advance(self, steps: Counts) -> Floats:
        """Begin a start slot and take in one step of each path: weighted evidence float64[P, S]."""
        counts = self.counts[steps].reshape(-1, self.counts.shape[2])
        log_e = log_e_values(self.bets, np.asarray(counts, np.int64)).reshape(self.evidence.shape)
        self.evidence += 1.0
        # beyond e^600 it is an alarm whatever the weights, and infinity times a weight of zero would be none
        self.evidence *= np.exp(np.minimum(log_e, 600.0))
        return np.asarray((np.minimum(self.evidence, 1e300) * self.weights).sum(axis=2))


def _bets(block: ReplayBlock, baseline: Floats, gamma: Floats) -> Bets:
    """Bets of P times S streams, each path with a baseline of its own, float64[P, S, K]."""
    number, streams, bins = baseline.shape
    flat = baseline.reshape(-1, bins)
    margin, tempering = np.tile(block.margin, number), np.tile(gamma, (number, 1))
    parts = [
        make_bets(block.tilts, flat[i : i + _STREAMS_AT_A_TIME], margin[i : i + _STREAMS_AT_A_TIME],
                  tempering[i : i + _STREAMS_AT_A_TIME])
        for i in range(0, number * streams, _STREAMS_AT_A_TIME)
    ]  # fmt: skip
    return Bets(
        block.tilts.shapes,
        np.concatenate([part.log_normaliser for part in parts]),
        np.concatenate([part.tempering for part in parts]),
        np.concatenate([part.log_weights for part in parts]),
    )
