"""How much the events of a stream depend on each other, and the tempering that pays for it.

The bound of :mod:`streams.statistics.evidence` asks for E[e-value | past] <= 1. Events that come in clusters
(autocorrelation, bursts, hours of the day) violate it: an AR(1) stream with phi = 0.9 raises hundreds of times as
many false alarms as promised. The remedy is to raise the e-values to a power gamma < 1. Write S_n for the log e-value
of n events, normalised for the reference itself. Tempered evidence stays an e-process at the scale of whole clusters
if the scaled cumulant generating function

    Lambda(gamma) = lim (1/n) log E exp(gamma S_n)                                                                   (1)

is not positive, so gamma is its positive root (Dembo and Zeitouni, "Large Deviations Techniques and Applications",
section 3.1). Two measurements on the reference give it.

1. *Shape.* Treat the bins as a Markov chain; then exp Lambda(gamma) is the largest eigenvalue of
   P diag(exp(gamma (H - log Z))).
2. *Length.* Real dependence outlasts one step. The variance inflation factor (VIF) of block sums measures by how
   much; slowing a process down by a factor of l divides its root by l, so
   gamma = gamma_Markov / max(1, VIF / VIF_Markov).

For sums that are nearly normal this is gamma = 1/VIF. For tilts whose score sits in few bins it is less, and must be:
a tail bin that comes in clusters breaks the bound at gamma = 1/VIF, because the mean of the tempered e-value is made
by the rare long cluster, of which a variance says little.

This is an asymptotic argument, not a theorem, and it needs a reference that shows the dependence; replaying the
reference is the check. A column that cycles by itself (hour of day, weekday) gets an exponent of about a
hundredth and becomes quiet, which is right: within a day its distribution is never the baseline's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

from streams.statistics.arrays import Floats
from streams.statistics.layouts import ABOVE_MAX, BELOW_MIN, FIRST_CORE, HIGH_TAIL, LOW_TAIL, NUMERIC, Layout
from streams.statistics.tilts import Tilts

MINIMUM_BLOCKS = 24
"""The longest blocks measured are 1/24 of the reference: fewer blocks do not tell a variance."""

MAXIMUM_BLOCKS = 65_536
"""Bounds time and memory: on longer references the shortest blocks are skipped. Dependence that ends within a block
shows in it.
"""

SIGNIFICANCE = 0.999
"""A block variance counts as inflated when independent events would stay below it with this probability."""

LIMIT = 0.75
"""Of an inflated variance the upper confidence limit at this level counts. With point estimates the streams that were
estimated too low dominate: from references of 5,000 events at phi = 0.9 they raised 1.1 to 2 times the bound, with
the limit 0.5 to 0.8.
"""

PRIOR_EVENTS = 50.0
"""How many transitions out of each bin the prior of :func:`markov_chain` counts for."""

OUTER_BINS = (
    (BELOW_MIN, FIRST_CORE),
    (LOW_TAIL, FIRST_CORE),
    (HIGH_TAIL, HIGH_TAIL - 1),
    (ABOVE_MAX, HIGH_TAIL - 1),
)
"""A tail holds one event in two hundred, out of range lies none: too few to show their clusters. Their tilts are
tempered at least as much as those of the outermost core bin on their side, because a column that lingers there lingers
beyond as well: an hour that is warmer than any of the reference is one observation, not one per event of that hour.
"""

SMALLEST_TEMPERING = 1e-6


def tempering(codes: ArrayLike, tilts: Tilts) -> Floats:
    """Exponent gamma float64[I] in (0, 1] of every tilt, from the reference's bin codes uint8[N] in event order.

    Independent events give a value close to one. Fewer than 24 events give one: they cannot tell.
    """
    series = np.asarray(codes, np.int64)
    if len(series) < MINIMUM_BLOCKS:
        return np.ones(tilts.size)
    transitions, stationary = markov_chain(series, tilts.layout)
    stretch = variance_inflation(series, tilts) / markov_variance_inflation(transitions, stationary, tilts.shapes)
    gamma = markov_tempering(transitions, stationary, tilts.shapes) / np.maximum(stretch, 1.0)
    for outer, neighbour in OUTER_BINS if tilts.layout == NUMERIC else ():
        sparse = tilts.bins == outer
        gamma[sparse] = np.minimum(gamma[sparse], gamma[tilts.bins == neighbour].min())
    return np.asarray(np.clip(gamma, SMALLEST_TEMPERING, 1.0))


def variance_inflation(codes: ArrayLike, tilts: Tilts) -> Floats:
    """Variance inflation factor float64[I] >= 1 of every tilt's score, from bin codes uint8[N] in event order.

    For block lengths L = 1, 2, 4, ... up to N/24 the variance of the score summed over a block is compared with L
    times the variance of a single score (batch means: Glynn and Whitt, "Estimating the asymptotic variance with batch
    means", Operations Research Letters 10, 1991). The answer is the largest upper limit among the lengths at which
    the ratio r is significantly above one, r > chi2_0.999(nu)/nu, namely r nu / chi2_0.25(nu), with nu from
    :func:`variance_degrees_of_freedom`. The test keeps the noise of 24 blocks from slowing down a stream without
    dependence; where there is dependence the limit counts, because too small a factor breaks the bound and too large
    a one only costs delay. A score that never varies has a VIF of one.
    """
    series = np.asarray(codes, np.int64)
    inflation = np.ones(tilts.size)
    length = 1 << max(0, (len(series) - 1).bit_length() - MAXIMUM_BLOCKS.bit_length() + 1)
    counts = _block_counts(series, length, tilts.layout.size)
    p = np.bincount(series, minlength=tilts.layout.size) / max(len(series), 1)
    deviation = tilts.shapes - (tilts.shapes @ p)[:, None]
    variance = deviation**2 @ p
    # a score that is constant but for rounding does not vary
    varies = variance > 1e-12
    kurtosis = (deviation[varies] ** 4 @ p) / variance[varies] ** 2 - 3
    while len(counts) >= MINIMUM_BLOCKS:
        centred = counts - counts.mean(axis=0)
        covariance = centred.T @ centred / (len(counts) - 1)
        block_variance = ((deviation[varies] @ covariance) * deviation[varies]).sum(axis=1)
        ratio = block_variance / (length * variance[varies])
        freedom = variance_degrees_of_freedom(len(counts), kurtosis / length)
        significant = ratio > _chi_square_quantile(SIGNIFICANCE, freedom) / freedom
        inflation[varies] = np.maximum(
            inflation[varies], np.where(significant, ratio * freedom / _chi_square_quantile(1 - LIMIT, freedom), 1.0)
        )
        pairs = len(counts) // 2
        counts = counts[: 2 * pairs].reshape(pairs, 2, -1).sum(axis=1)
        length *= 2
    return inflation


def _chi_square_quantile(probability: float, freedom: Floats) -> Floats:
    """Quantile of the chi-square distribution; ``scipy.stats`` would cost every command most of a second to import."""
    return np.asarray(2 * gammaincinv(freedom / 2, probability))


def _block_counts(series: NDArray[np.int64], length: int, bins: int) -> Floats:
    """Counts float64[B, K] of consecutive blocks; a last incomplete block is left out."""
    number = len(series) // length
    block = np.repeat(np.arange(number) * bins, length)
    counts = np.bincount(block + series[: number * length], minlength=number * bins)
    return counts.reshape(number, bins).astype(np.float64)


def variance_degrees_of_freedom(blocks: int, excess_kurtosis: ArrayLike) -> Floats:
    """Degrees of freedom nu of the chi-square that the variance of ``blocks`` independent sums approximately follows.

    Var(s^2) = sigma^4 (2/(B-1) + kappa/B); equating it with 2 sigma^4 / nu gives nu = 2 / (2/(B-1) + kappa/B) (Box,
    "Non-normality and tests on variances", Biometrika 40, 1953). kappa is the excess kurtosis of a block sum: that of
    one event divided by the block's length. A bin seen three times in 30,000 events has some five degrees of freedom
    whatever the number of blocks, so that three neighbours by chance do not silence its tilt.
    """
    kappa = np.maximum(np.asarray(excess_kurtosis, np.float64), -1.0)
    return np.asarray(2 / (2 / (blocks - 1) + kappa / blocks))


def markov_chain(series: NDArray[np.int64], layout: Layout) -> tuple[Floats, Floats]:
    """Transition matrix float64[K, K] and stationary distribution float64[K] of a series of bin codes.

    Each row is shrunk towards what the series does on the whole: to stay where it is with probability a and else to
    start afresh, with a the excess agreement of successive bins, (sum_j n_jj - sum_j n_j p_j) / (n - sum_j n_j p_j)
    (Cohen's kappa). Tail bins are too seldom visited to tell how long the stream stays there, and clusters of them
    are what breaks the bound. Rare bins are shrunk towards independence instead: that the hour stays the same does
    not make missing values come in runs.
    """
    bins = layout.size
    pairs = np.bincount(series[:-1] * bins + series[1:], minlength=bins * bins).reshape(bins, bins)
    marginal = np.bincount(series, minlength=bins) / len(series)
    by_chance = float(pairs.sum(axis=1) @ marginal)
    spread = pairs.sum() - by_chance
    staying = np.full(bins, max(0.0, (np.trace(pairs) - by_chance) / spread) if spread > 0 else 0.0)
    staying[list(layout.rare_bins)] = 0.0
    prior = np.diag(staying) + (1 - staying[:, None]) * marginal
    weighted = pairs + PRIOR_EVENTS * prior
    transitions = weighted / weighted.sum(axis=1, keepdims=True)
    # rho (I - P + 1 1') = 1' picks the solution of rho P = rho that adds up to one
    system = np.eye(bins) - transitions + 1.0
    return transitions, np.asarray(np.linalg.solve(system.T, np.ones(bins)))


def markov_variance_inflation(transitions: Floats, stationary: Floats, shapes: Floats) -> Floats:
    """VIF float64[I] that a Markov chain gives to long sums of each tilt's score.

    With f the centred score and g solving Poisson's equation (I - P) g = f, the asymptotic variance is
    2 <f, g> - <f, f>
    under the stationary distribution (Asmussen and Glynn, "Stochastic Simulation", 2007, chapter IV).
    """
    centred = shapes - (shapes @ stationary)[:, None]
    potential = np.linalg.solve(np.eye(len(stationary)) - transitions + stationary, centred.T).T
    variance = centred**2 @ stationary
    asymptotic = 2 * (centred * potential) @ stationary - variance
    ratio = np.ones(len(shapes))
    varies = variance > 1e-12
    ratio[varies] = np.maximum(asymptotic[varies] / variance[varies], 1e-3)
    return ratio


def markov_tempering(transitions: Floats, stationary: Floats, shapes: Floats) -> Floats:
    """Largest gamma float64[I] in (0, 1] at which (1) is not positive for a Markov chain, by bisection of log gamma."""
    scores = shapes - np.log(np.exp(shapes) @ stationary)[:, None]
    low, high = np.full(len(shapes), np.log(SMALLEST_TEMPERING)), np.zeros(len(shapes))
    safe = log_growth(transitions, scores) <= 1e-9
    for _ in range(16):
        middle = (low + high) / 2
        holds = log_growth(transitions, np.exp(middle)[:, None] * scores) <= 0
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return np.where(safe, 1.0, np.exp(low))


def log_growth(transitions: Floats, scores: Floats) -> Floats:
    """Log of the largest eigenvalue, float64[I], of P diag(exp(scores_i)) for every row of ``scores`` float64[I, K].

    Perron's eigenvector by 2^12 power steps, done as twelve squarings of the matrix, then one Rayleigh quotient.
    """
    matrix = transitions * np.exp(scores)[:, None, :]
    power = matrix
    for _ in range(12):
        power = power / power.max(axis=(1, 2), keepdims=True)
        power = power @ power
    vector = power.sum(axis=2)
    return np.asarray(np.log((matrix @ vector[:, :, None]).sum(axis=(1, 2)) / vector.sum(axis=1)))
