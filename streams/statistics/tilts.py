"""What the detectors bet on: a fixed table of alternatives, normalised against everything that counts as "no change".

A *tilt* i turns the baseline p0 into the alternative p0_k exp(H_ik) / Z_i. Its e-value for one event in bin k is
exp(H_ik - log Z_i), and with

    Z_i = sup { sum_k p_k exp(H_ik) : TV(p, p0) <= eps }                                                             (1)

the expectation of that e-value is at most one for *every* distribution within total variation eps of the baseline: the
composite null hypothesis "nothing changed that matters" (Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and
safe anytime-valid inference", Statistical Science 2023, section 2, for e-values of composite nulls). One number eps
absorbs both the differences nobody cares about and the error of a finite reference.

**Shapes.** Against a TV ball the growth-optimal e-value is a clipped likelihood ratio (Huber, "A robust version of the
probability ratio test", Annals of Mathematical Statistics 36, 1965). Clipping is therefore built into the shapes: with
eps = 0.05 and a mean shift of 0.3 standard deviations, the unclipped normal score grows by 0.0014 nats per event, the
score clipped at 0.7 by 0.0109, and no e-value by more than 0.0112 (the divergence between the shifted distribution and
the ball). Without a margin it is the other way round: the tails carry information, and clipping throws it away. So a
table has both, and the margin decides which of them get prior weight (:func:`log_prior`).

**Losses.** What is bet on a loss is only that it grew: a share w of the events comes from elsewhere, (1 - w) P0 + w G
(the gross-error model of Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35,
1964), with G spread evenly over the bins of the tail or over the outer half of them. These likelihood ratios do not
decrease from bin to bin, so the e-values hold for every distribution that is stochastically no larger than P0, not for
P0 alone.

**Weights.** A nat of prior weight costs 1/KL events of delay: 200 at a shift of 0.1 standard deviations, 2 at 1. The
smaller the shift a tilt looks for, the larger is its weight.

**Exact sums.** H is rounded down and log Z rounded up to multiples of 2^-20 nats. Every sum of counts times H is then
an integer multiple of 2^-20 below 2^53 in magnitude (up to 10^9 events between two starts), so float64 adds it
without rounding: the evidence of a stream is the same to the last bit however its rows were split into batches or
ordered. The rounding costs less than 2 10^-6 nats per event and only ever lowers the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from streams.statistics.arrays import NATS_PER_UNIT
from streams.statistics.layouts import (
    ASSOCIATION,
    ASSOCIATION_MISSING,
    CATEGORICAL,
    CORE_BINS,
    FIRST_CORE,
    HIGH_TAIL,
    LOSS,
    LOSS_FIRST_TAIL,
    LOSS_LAST_TAIL,
    LOW_TAIL,
    NUMERIC,
    NUMERIC_MISSING,
    OTHER,
    QUALITY,
    QUALITY_VALID,
    THIRDS,
    Layout,
    loss_probabilities,
    nominal_probabilities,
)

CLIPPING_MARGIN = 0.005
"""From this margin on clipped shapes find changes sooner than unclipped ones (measured over shifts, changes of scale,
of both, skewed distributions, lumps and single bins; between 0.003 and 0.01 the two are equally good).
"""

LEAST_RISE_NATS = float(np.log(1.75))
"""A rare bin that the reference never filled is only bet on to rise by more than this ratio. Without a margin the
largest ratio finds any rise soonest; with one, a lesser rise hardly exceeds it.
"""

CONTAMINATIONS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Shares w of losses that come from elsewhere: one event in 300 to one in three."""

Shape = NDArray[np.float64]
Members = list[tuple[int, Shape]]
"""Shapes of a family, each with the bin it favours, or -1."""


@dataclass(frozen=True, eq=False)
class Tilts:
    """The table of alternatives of one layout, shared by all streams.

    ``shapes``: float64[I, K], H of equation (1), multiples of 2^-20. ``families``: the family of each tilt, a key of
    ``family_weights``. ``bins``: int64[I], the bin that a single-bin tilt favours or -1. ``family_weights``: prior
    probability of each family without a margin, adding up to one; ``margin_weights``: the same for streams whose
    margin is at least ``CLIPPING_MARGIN``. Without them the weights do not depend on the margin.
    """

    layout: Layout
    shapes: NDArray[np.float64]
    families: tuple[str, ...]
    bins: NDArray[np.int64]
    family_weights: dict[str, float]
    margin_weights: dict[str, float] | None = None

    @property
    def size(self) -> int:
        """Number of tilts, I."""
        return len(self.families)


def normal_scores() -> NDArray[np.float64]:
    """Score z float64[15] of each ``NUMERIC`` bin: the normal quantile of its nominal mid-probability.

    Values beyond the reference's range score like the tail on their side; missing scores zero.
    """
    p = nominal_probabilities()
    middle = np.cumsum(p) - p / 2
    z = ndtri(middle.clip(middle[LOW_TAIL], middle[HIGH_TAIL]))
    z[-1] = 0.0
    return np.asarray(z)


def _centred(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the nominal mean, so that a missing value, H = 0, speaks neither for nor against a change of scale."""
    centred = shape - nominal_probabilities() @ shape
    centred[NUMERIC_MISSING] = 0.0
    return np.asarray(centred)


def huber_score(z: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """Scores clipped to ``[-limit, limit]`` (Huber's psi)."""
    return np.clip(z, -limit, limit)


def _single_bins(bins: range | tuple[int, ...], ratios: tuple[float, ...], size: int) -> Members:
    return [(k, np.log(ratio) * (np.arange(size) == k)) for k in bins for ratio in ratios]


def _both_ways(score: Shape, thetas: tuple[float, ...]) -> Members:
    return [(-1, sign * theta * score) for theta in thetas for sign in (1, -1)]


def _table(layout: Layout, families: dict[str, tuple[float, float, Members]]) -> Tilts:
    """``families``: weight without a margin, weight with one, and the members of each family."""
    rows = [(name, bin_, shape) for name, (_, _, members) in families.items() for bin_, shape in members]
    shapes = np.floor(np.array([shape for _, _, shape in rows]) / NATS_PER_UNIT) * NATS_PER_UNIT
    return Tilts(
        layout,
        shapes,
        tuple(name for name, _, _ in rows),
        np.array([bin_ for _, bin_, _ in rows], np.int64),
        {name: weight for name, (weight, _, _) in families.items()},
        {name: weight for name, (_, weight, _) in families.items()},
    )


def _numeric_tilts() -> Tilts:
    z = normal_scores()
    narrow, middle, wide = huber_score(z, 0.7), huber_score(z, 1.0), huber_score(z, 1.7)
    outer = huber_score(z, 1.28)

    def shift_and_scale(score: Shape, square: Shape, *pairs: tuple[float, float]) -> Members:
        return [(-1, _centred(sign * theta * score + eta * square)) for theta, eta in pairs for sign in (1, -1)]

    def bent(score: Shape, *pairs: tuple[float, float]) -> Members:
        """The log-likelihood ratio of a shift, clipped. A normal one rises further on one side than it falls on the
        other (eta > 0); that of a skewed column may fall further (eta < 0).
        """
        return shift_and_scale(score, score**2, *pairs)

    def scale(square: Shape, *etas: float) -> Members:
        return [(-1, _centred(eta * square)) for eta in etas]

    core = range(FIRST_CORE, FIRST_CORE + CORE_BINS)
    size = NUMERIC.size
    return _table(
        NUMERIC,
        {
            "shift by 0.1 sd": (0.20, 0.0, _both_ways(z, (0.1,))),
            "shift by 0.2 sd": (0.36, 0.0, _both_ways(z, (0.2,))),
            "shift by 0.35 sd": (0.12, 0.0, _both_ways(z, (0.35,))),
            "shift by 0.65 sd": (0.06, 0.0, _both_ways(z, (0.65,))),
            "shift by 1.2 sd": (0.03, 0.0, _both_ways(z, (1.2,))),
            "shift by 2.4 sd": (0.01, 0.0, _both_ways(z, (2.4,))),
            "scale": (0.08, 0.0, scale(z**2, -0.8, -0.3, -0.12, 0.1, 0.2, 0.33)),
            "shift and scale": (
                0.05,
                0.0,
                shift_and_scale(z, z**2, (0.2, 0.07), (0.6, 0.1), (0.2, -0.2), (0.6, -0.25)),
            ),
            "clipped small shift": (0.02, 0.25, bent(narrow, (0.07, 0.0), (0.15, 0.1), (0.3, 0.15))),
            "clipped large shift": (
                0.0,
                0.26,
                [
                    *bent(narrow, (0.6, 0.25)),
                    *bent(middle, (0.3, 0.07), (0.6, 0.15)),
                    *bent(outer, (1.0, 0.15), (1.6, 0.2)),
                ],
            ),
            "clipped skewed shift": (0.0, 0.07, [*bent(narrow, (0.2, -0.1)), *bent(middle, (0.4, -0.15))]),
            "clipped scale": (
                0.0,
                0.16,
                [
                    *scale(wide**2, -1.0, -0.45, -0.2, 0.13, 0.22),
                    *scale(huber_score(z, 2.2) ** 2, 0.3),
                    *scale(huber_score(z, 0.8) ** 2, 0.2),
                ],
            ),
            "clipped shift and scale": (0.0, 0.10, shift_and_scale(outer, wide**2, (0.5, -0.4), (0.3, 0.3))),
            "core bin": (0.03, 0.07, _single_bins(core, (1.5, 3.0), size)),
            "tail bin": (0.0, 0.02, _single_bins((LOW_TAIL, HIGH_TAIL), (2.0, 6.0), size)),
            "rare bin": (0.04, 0.07, _single_bins(NUMERIC.rare_bins, (2.5, 10.0, 100.0), size)),
        },
    )


def _categorical_tilts() -> Tilts:
    size, frequent = CATEGORICAL.size, 4
    # a frequent category changes by a small ratio, or the change would be too large to need evidence
    single = [
        *_single_bins(range(frequent), (0.2, 0.5, 0.8, 1.25, 1.8, 4.0), size),
        *_single_bins(range(frequent, OTHER + 1), (0.3, 0.65, 1.4, 3.0), size),
    ]
    # log rank, clipped: the frequent become more frequent still, or the distribution flattens
    rank = np.zeros(size)
    rank[: OTHER + 1] = huber_score(np.log(np.arange(1, OTHER + 2) / 2.5), 0.9)
    return _table(
        CATEGORICAL,
        {
            "category": (0.70, 0.70, single),
            "steepness": (0.15, 0.15, _both_ways(rank, (0.2, 0.5))),
            "rare bin": (0.15, 0.15, _single_bins(CATEGORICAL.rare_bins, (2.5, 10.0, 100.0), size)),
        },
    )


def _quality_tilts() -> Tilts:
    size, bad = QUALITY.size, QUALITY.rare_bins
    unusable = (np.arange(size) != QUALITY_VALID).astype(np.float64)
    rise = (2.0, 4.0, 10.0, 30.0, 100.0, 1_000.0)
    return _table(
        QUALITY,
        {
            "one kind more often": (0.5, 0.5, _single_bins(bad, rise, size)),
            "any kind more often": (0.2, 0.2, [(-1, np.log(ratio) * unusable) for ratio in rise]),
            "one kind somewhat more often": (0.1, 0.1, _single_bins(bad, (1.2, 1.5), size)),
            "one kind less often": (0.2, 0.2, _single_bins(bad, (0.8, 0.5, 0.2, 0.05), size)),
        },
    )


def _association_tilts() -> Tilts:
    """With u and v the thirds of feature and prediction as -1, 0, 1; u^2 - 2/3 is orthogonal to both 1 and u."""
    third = np.array([-1.0, 0.0, 1.0])
    middle = np.array([1.0, -2.0, 1.0]) / 3

    def cells(by_feature: NDArray[np.float64], by_prediction: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(np.outer(by_feature, by_prediction).ravel(), 0.0)

    bent = (0.3, 0.9)
    diagonal = np.append(np.eye(len(THIRDS)).ravel(), 0.0)
    antidiagonal = np.append(np.fliplr(np.eye(len(THIRDS))).ravel(), 0.0)
    return _table(
        ASSOCIATION,
        {
            "concordance": (0.45, 0.45, _both_ways(cells(third, third), (0.1, 0.25, 0.5, 1.0))),
            "bent": (
                0.15,
                0.15,
                [
                    *_both_ways(cells(middle, third), bent),
                    *_both_ways(cells(third, middle), bent),
                    *_both_ways(cells(middle, middle), bent),
                ],
            ),
            "diagonal": (0.12, 0.12, [*_both_ways(diagonal, (0.25, 0.7)), *_both_ways(antidiagonal, (0.25, 0.7))]),
            "cell": (0.18, 0.18, _single_bins(range(ASSOCIATION_MISSING), (0.4, 2.0), ASSOCIATION.size)),
            "rare bin": (0.1, 0.1, _single_bins(ASSOCIATION.rare_bins, (2.5, 10.0, 100.0), ASSOCIATION.size)),
        },
    )


def _loss_tilts() -> Tilts:
    p0 = loss_probabilities()
    members: Members = []
    for first in (LOSS_FIRST_TAIL, (LOSS_FIRST_TAIL + LOSS_LAST_TAIL) // 2):
        elsewhere = np.zeros(LOSS.size)
        elsewhere[first : LOSS_LAST_TAIL + 1] = 1 / (LOSS_LAST_TAIL + 1 - first)
        ratio = np.divide(elsewhere, p0, out=np.zeros_like(p0), where=p0 > 0)
        members += [(-1, np.log1p(share * (ratio - 1))) for share in CONTAMINATIONS]
    return _table(LOSS, {"contamination": (1.0, 1.0, members)})


NUMERIC_TILTS = _numeric_tilts()
CATEGORICAL_TILTS = _categorical_tilts()
QUALITY_TILTS = _quality_tilts()
ASSOCIATION_TILTS = _association_tilts()
LOSS_TILTS = _loss_tilts()

TILTS = {
    tilts.layout.name: tilts
    for tilts in (NUMERIC_TILTS, CATEGORICAL_TILTS, QUALITY_TILTS, ASSOCIATION_TILTS, LOSS_TILTS)
}
"""The table of every layout, by the layout's name."""


def tilts_of(layout: Layout) -> Tilts:
    """The table of a layout."""
    return TILTS[layout.name]


def log_normaliser(shapes: NDArray[np.float64], p0: ArrayLike, margin: ArrayLike) -> NDArray[np.float64]:
    """The log Z of equation (1), rounded up to the grid.

    ``shapes``: float64[I, K]; ``p0``: float64[S, K], rows that add up to one; ``margin``: eps in [0, 1], a number or
    float64[S]. Returns float64[S, I].

    The supremum is attained by water-filling: the objective is linear in p, and the ball allows eps of mass to move,
    so it leaves the bins with the smallest e-values, emptying them one after the other, for the bin with the largest.
    """
    baseline = np.atleast_2d(np.asarray(p0, np.float64))
    eps = np.broadcast_to(np.asarray(margin, np.float64), (len(baseline),))
    if not ((eps >= 0) & (eps <= 1)).all():
        raise ValueError(f"a margin is a total variation distance in [0, 1], got {eps.min()} to {eps.max()}")
    order = np.argsort(shapes, axis=1, kind="stable")
    values = np.exp(np.take_along_axis(shapes, order, axis=1))
    mass = baseline[:, order]
    before = np.cumsum(mass, axis=2) - mass
    moved = np.clip(eps[:, None, None] - before, 0.0, mass)
    z = ((mass - moved) * values).sum(axis=2) + moved.sum(axis=2) * values[:, -1]
    # the added 1e-12 covers the rounding of this very computation
    return np.asarray(np.ceil((np.log(z) + 1e-12) / NATS_PER_UNIT) * NATS_PER_UNIT)


def log_prior(tilts: Tilts, reference_counts: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Log weights float64[S, I] of the mixture over tilts, from reference counts int[S, K] and margins eps, a number or
    float64[S]; -inf for tilts that a stream does not bet on.

    A family's weight is shared equally among its members; single-bin tilts of core, tail or category bins that the
    reference never filled (ties, fewer than twenty categories) get none, so that a Boolean does not pay for nineteen
    categories it does not have; nor do bets that an empty rare bin becomes rarer or hardly fuller. Weights must be
    fixed before the stream begins; fixed by the baseline they are.
    """
    counts = np.atleast_2d(np.asarray(reference_counts))
    clipped = np.broadcast_to(np.asarray(margin, np.float64) >= CLIPPING_MARGIN, (len(counts),))
    raises = np.take_along_axis(tilts.shapes, tilts.bins[:, None], axis=1)[:, 0] > LEAST_RISE_NATS
    rare = np.isin(tilts.bins, tilts.layout.rare_bins) & raises
    possible = (tilts.bins < 0) | rare | (counts[:, tilts.bins] > 0)
    weights = np.zeros(possible.shape)
    families = np.array(tilts.families)
    for family, weight in tilts.family_weights.items():
        with_margin = weight if tilts.margin_weights is None else tilts.margin_weights[family]
        members = families == family
        share = possible[:, members] * np.where(clipped, with_margin, weight)[:, None]
        weights[:, members] = share / np.maximum(possible[:, members].sum(axis=1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights / weights.sum(axis=1, keepdims=True)))
