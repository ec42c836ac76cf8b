"""Effect sizes: how far a stream is from its baseline. They are shown, never alarmed on.

Every function takes counts int[..., K] and the baseline p0 float64[..., K] (rows adding up to one) and works along
the last axis, vectorised over streams. Without events the distance is NaN. Unless said otherwise the empirical
distribution is n_k / n, without smoothing. A bin that neither side has any of counts as nothing: the distances that
divide by the baseline take it as it stands on :func:`baseline_of_used_bins`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, xlogy

from streams.statistics.arrays import Floats
from streams.statistics.layouts import reference_probabilities


def _empirical(counts: ArrayLike) -> Floats:
    observed = np.asarray(counts, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(observed / observed.sum(axis=-1, keepdims=True))


def _smoothed(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """The empirical distribution with one more event that is spread like the baseline: no bin is empty.

    Half an event for every bin, the usual remedy, would give a Boolean with its two dozen bins a PSI of 0.17 at 180
    events without any change.
    """
    observed = np.asarray(counts, np.float64)
    total = observed.sum(axis=-1, keepdims=True)
    smoothed = (observed + np.asarray(p0, np.float64)) / (total + 1.0)
    return np.where(total > 0, smoothed, np.nan)


def baseline_of_used_bins(counts: ArrayLike, reference_counts: ArrayLike) -> Floats:
    """The baseline float64[..., K] that effect sizes compare with: smoothed, but zero where nothing ever was.

    :func:`~streams.statistics.layouts.reference_probabilities` gives every bin a probability, so that its first
    occurrence is evidence and not an infinity. In a distance such bins are noise that is ours and not the data's: a
    Boolean fills two of its 23 bins. Bins that neither the reference nor the window filled are left out, and the rest
    is scaled to one.
    """
    reference = np.asarray(reference_counts)
    used = (reference > 0) | (np.asarray(counts) > 0)
    kept = np.where(used, reference_probabilities(reference), 0.0)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def population_stability_index(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """PSI = sum_k (p_k - p0_k) log(p_k / p0_k), in nats (the symmetric divergence of Jeffreys 1946).

    p_k = (n_k + p0_k) / (n + 1), because an empty bin would make PSI infinite. Without any change E[PSI] is about
    (K-1)(1/n + 1/m): below some hundred events a value above 0.1 means nothing (Yurdakul and Naranjo, "Statistical
    properties of the population stability index", 2020).
    """
    p, q = _smoothed(counts, p0), np.asarray(p0, np.float64)
    return np.asarray((rel_entr(p, q) + rel_entr(q, p)).sum(axis=-1))


def kl_divergence_nats(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """Kullback-Leibler divergence sum_k p_k log(p_k / p0_k) in nats, p_k smoothed as for PSI."""
    return np.asarray(rel_entr(_smoothed(counts, p0), np.asarray(p0, np.float64)).sum(axis=-1))


def chi_square_divergence(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """Pearson's chi-square per event, sum_k (p_k - p0_k)^2 / p0_k (phi squared): n times it is Pearson's statistic.

    The statistic itself grows with the number of events and is no effect size. A category that the reference hardly
    ever had weighs 1 / p0_k: of all distances this is the one that rare bins move most.
    """
    p, q = _empirical(counts), np.asarray(p0, np.float64)
    squares = (p - q) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(squares == 0, 0.0, squares / q).sum(axis=-1))


def jensen_shannon_divergence_bits(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """Jensen-Shannon divergence H((p + p0)/2) - (H(p) + H(p0))/2 in bits, from 0 to 1 (Lin 1991)."""
    p, q = _empirical(counts), np.asarray(p0, np.float64)
    middle = (p + q) / 2
    nats = (xlogy(p, p) + xlogy(q, q)).sum(axis=-1) / 2 - xlogy(middle, middle).sum(axis=-1)
    return np.asarray(np.maximum(nats, 0) / np.log(2))


def jensen_shannon_distance(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """Square root of the divergence in bits: a metric from 0 to 1, the same as
    ``scipy.spatial.distance.jensenshannon(p, p0, base=2)``.
    """
    return np.asarray(np.sqrt(jensen_shannon_divergence_bits(counts, p0)))


def total_variation(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """Total variation (1/2) sum_k |p_k - p0_k|, from 0 to 1: the share of events that would have to be another for
    the distributions to agree.
    """
    return np.asarray(0.5 * np.abs(_empirical(counts) - np.asarray(p0, np.float64)).sum(axis=-1))


def hellinger_distance(counts: ArrayLike, p0: ArrayLike) -> Floats:
    """Hellinger distance sqrt((1/2) sum_k (sqrt(p_k) - sqrt(p0_k))^2), from 0 to 1."""
    difference = np.sqrt(_empirical(counts)) - np.sqrt(np.asarray(p0, np.float64))
    return np.asarray(np.sqrt(0.5 * (difference**2).sum(axis=-1)))


def _fluctuation(n: ArrayLike, beta: float) -> Floats:
    if not 0 < beta < 1:
        raise ValueError(f"expected an error probability between 0 and 1, got {beta}")
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt(np.log(1 / beta) / (2 * np.asarray(n, np.float64))))


def tv_upper_limit(tv_observed: ArrayLike, n: ArrayLike, beta: float) -> Floats:
    """Upper confidence limit of the true total variation: holds with probability 1 - beta for n independent events.

    TV <= TV_observed + sqrt(log(1/beta) / (2n)), at most 1. The observed TV is convex in the empirical distribution,
    so its expectation is at least the true one (Jensen), and one event changes it by at most 1/n (McDiarmid, "On the
    method of bounded differences", 1989). For dependent events pass n / VIF.
    """
    return np.asarray(np.minimum(1.0, np.asarray(tv_observed) + _fluctuation(n, beta)))


def tv_lower_limit(tv_observed: ArrayLike, n: ArrayLike, bins: ArrayLike, beta: float) -> Floats:
    """Lower confidence limit of the true total variation: holds with probability 1 - beta for n independent events.

    TV >= TV_observed - (1/2) sqrt((K-1)/n) - sqrt(log(1/beta) / (2n)), at least 0. The middle term bounds the upward
    bias: it is (1/2) sum_k sqrt(p_k (1-p_k)/n), which is largest for the uniform distribution.
    """
    with np.errstate(divide="ignore"):
        bias = 0.5 * np.sqrt(np.maximum(np.asarray(bins) - 1, 0) / np.asarray(n, np.float64))
    return np.asarray(np.maximum(0.0, np.asarray(tv_observed) - bias - _fluctuation(n, beta)))


def rows_to_resolve(p0: ArrayLike, margin: ArrayLike, beta: float) -> Floats:
    """How many events float64[...] it takes until an unchanged stream's upper limit is typically at most 0.9 of the
    margin.

    Under no change E[TV_observed] is about sqrt(2/pi) (1/2) sum_k sqrt(p0_k (1-p0_k)/n) (the mean of |N(0, 1)|), so
    sqrt(n) = (sqrt(2/pi) (1/2) sum_k sqrt(p0_k (1-p0_k)) + sqrt(log(1/beta)/2)) / (0.9 margin).
    """
    p = np.asarray(p0, np.float64)
    expected = np.sqrt(2 / np.pi) * 0.5 * np.sqrt(p * (1 - p)).sum(axis=-1)
    root = (expected + _fluctuation(1, beta)) / (0.9 * np.asarray(margin, np.float64))
    return np.asarray(np.ceil(root**2))
