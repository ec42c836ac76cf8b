"""Confidence intervals of the effect sizes, from counts alone.

Each is about the distance between the baseline as it stands and the distribution the counts were drawn from, in the
same bins; the baseline's own error is the business of the margin (:func:`~.margins.reference_radius`), and what
bins hide of an ordered distance is stated apart (:mod:`~streams.statistics.ordered`). ``independent`` is the number
of independent events the counts are worth: their number, divided by the variance inflation where events depend on
each other (the design effect of Rao and Scott, "The analysis of categorical data from complex sample surveys: chi-
squared tests for goodness of fit and independence in two-way tables", JASA 76, 1981, equation 3.2).

**Total variation, Kolmogorov-Smirnov, Wasserstein.** Their limits hold for every n: they are metrics, so the distance
between the observed and the true distribution bounds the error, and that distance has exact bounds (McDiarmid;
Dvoretzky-Kiefer-Wolfowitz with Massart's constant; Clopper-Pearson at each edge).

**PSI, KL, chi-square, Jensen-Shannon, Hellinger** are sums D = sum_k q_k phi(p_k / q_k) with phi convex, phi(1) = 0
(Csiszar 1967; Ali and Silvey 1966). Their limits are asymptotic. Near the baseline 2 n D / phi''(1) follows a
noncentral chi-square (Read and Cressie, "Goodness-of-fit statistics for discrete multivariate data", 1988, theorem
A4.1); far from it D is normal (the delta method). One family holds both: n D_observed = kappa X, where X is noncentral
chi-square with nu degrees of freedom and noncentrality lambda = n D / kappa, and kappa and nu are such that mean and
variance are right,

    n E[D_observed - D] = b = kappa nu,      n^2 Var[D_observed] = v = kappa (2 b + 4 n D),                          (1)

so that kappa -> phi''(1) / 2, nu -> K - 1 at the baseline, and kappa -> n Var / (4 D), the delta method for the root of
D, far from it. The limits are those lambda at which X lies at its quantiles beta/2 and 1 - beta/2.

The moments b and v are those of a multinomial sample at the observed shares. Events per bin N_k are as independent
Poisson numbers given their sum n; with g_k(N) = n q_k phi(N / (n q_k)),

    b = sum_k (1 - p_k) (E g_k - g_k(E N_k)),      v = sum_k Var g_k - (sum_k Cov(g_k, N_k))^2 / n                   (2)

(Holst, "Asymptotic normality and efficiency for certain goodness-of-fit tests", Biometrika 59, 1972). Bins with few
events are summed exactly over N: there Taylor's expansion is wrong, and such bins (tails, new categories) are common.

The lower limit is corrected for all of the bias, the upper one for what is certain of it: an empty bin may truly be
empty and then adds none; and where events depend on each other, the variance inflation of the distance is that of its
most dependent direction, while the bias has the mean over all directions, which may be as little as 1.

Measured coverage at a nominal 95 % is in ``tests/streams/statistics/test_intervals.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, gammaln, ndtri, xlogy

from streams.statistics import distances
from streams.statistics.arrays import Floats
from streams.statistics.ordered import cumulated_shares, kolmogorov_smirnov, wasserstein

MINIMUM_INDEPENDENT = 30.0
"""Below so many independent events the asymptotic intervals cover less than they claim; none is given."""

_EXACT_BELOW = 12.0
"""Bins with fewer expected events are summed over all numbers of events they may have, the others expanded."""

_POISSON_NUMBERS = np.arange(37.0)
"""A Poisson number with mean 12 is larger once in 10^8 times."""

_NOTHING = 1e-12
_STEPS = 8

_LOG_FACTORIALS = gammaln(_POISSON_NUMBERS + 1)


@dataclass(frozen=True, slots=True)
class Divergence:
    """A phi-divergence of ratios u = p / q.

    ``phi``, ``slope`` and ``curvature``: the function and its first two derivatives. ``smoothed``: whether one event
    that is spread like the baseline is added to the counts. ``shown``: from the divergence to what is shown.
    """

    phi: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    curvature: Callable[[Floats], Floats]
    smoothed: bool
    shown: Callable[[Floats], Floats]


def _itself(divergence: Floats) -> Floats:
    return divergence


DIVERGENCES: Mapping[str, Divergence] = {
    "psi": Divergence(
        phi=lambda u: (u - 1) * np.log(u),
        slope=lambda u: np.log(u) + 1 - 1 / u,
        curvature=lambda u: (1 + 1 / u) / u,
        smoothed=True,
        shown=_itself,
    ),
    "kl": Divergence(
        phi=lambda u: xlogy(u, u),
        slope=lambda u: np.log(u) + 1,
        curvature=lambda u: 1 / u,
        smoothed=True,
        shown=_itself,
    ),
    "chi_square": Divergence(
        phi=lambda u: (u - 1) ** 2,
        slope=lambda u: 2 * (u - 1),
        curvature=lambda u: np.full_like(u, 2.0),
        smoothed=False,
        shown=_itself,
    ),
    "jensen_shannon": Divergence(
        phi=lambda u: (xlogy(u, 2 * u / (1 + u)) + np.log(2 / (1 + u))) / 2,
        slope=lambda u: np.log(2 * u / (1 + u)) / 2,
        curvature=lambda u: 1 / (2 * u * (1 + u)),
        smoothed=False,
        shown=lambda nats: np.minimum(np.sqrt(nats / np.log(2)), 1.0),
    ),
    "hellinger": Divergence(
        phi=lambda u: (np.sqrt(u) - 1) ** 2 / 2,
        slope=lambda u: (1 - 1 / np.sqrt(u)) / 2,
        curvature=lambda u: u**-1.5 / 4,
        smoothed=False,
        shown=lambda squared: np.minimum(np.sqrt(squared), 1.0),
    ),
}
"""By the name of the effect size. The Jensen-Shannon divergence is in nats, Hellinger's distance squared."""


def divergence_interval(
    kind: Divergence, counts: ArrayLike, p0: ArrayLike, independent: ArrayLike, beta: float
) -> tuple[Floats, Floats]:
    """Limits float64[S] of a divergence as it is shown, with probability 1 - beta between them.

    Args:
        kind: The divergence.
        counts: int[S, K].
        p0: float64[S, K], the baseline on the bins in use.
        independent: float64[S], independent events among them; NaN comes back where they are fewer than
            ``MINIMUM_INDEPENDENT``.
        beta: Error probability, half of it on each side.
    """
    observed, q = np.atleast_2d(np.asarray(counts, np.float64)), np.atleast_2d(np.asarray(p0, np.float64))
    effective = np.broadcast_to(np.asarray(independent, np.float64), observed.shape[:1])
    low, high = np.full(len(observed), np.nan), np.full(len(observed), np.nan)
    told = np.flatnonzero((effective >= MINIMUM_INDEPENDENT) & (observed.sum(axis=-1) > 0))
    if told.size:
        n, events = effective[told, None], observed[told]
        share = n / events.sum(axis=-1, keepdims=True)
        low[told], high[told] = _limits(kind, events, q[told], share, beta)
    return kind.shown(low), kind.shown(high)


def _limits(kind: Divergence, counts: Floats, q: Floats, share: Floats, beta: float) -> tuple[Floats, Floats]:
    """Limits of a divergence from counts float64[S, K], of which float64[S, 1] are independent."""
    events, extra = counts * share, share * kind.smoothed
    n = events.sum(axis=-1, keepdims=True)
    used = q > 0
    ratio = np.divide(events + extra * q, (n + extra) * q, out=np.ones_like(events), where=used)
    divergence = (q * kind.phi(ratio)).sum(axis=-1)
    # the shares the moments are taken at: one event more in each bin, or what the baseline expects where that is less
    mean = np.where(used, events + np.minimum(1.0, n * q), 0.0)
    mean *= n / mean.sum(axis=-1, keepdims=True)
    bias, variance = _moments(kind, mean, q, n, extra)
    plug_in = np.divide(mean, n * q, out=np.ones_like(mean), where=used)
    signal = n[:, 0] * (q * kind.phi(plug_in)).sum(axis=-1)
    # one bin in use, or no bin in common: nothing varies, and both sides are rounding errors
    kappa = np.maximum(variance, _NOTHING) / np.maximum(2 * bias.sum(axis=-1) + 4 * signal, _NOTHING)
    z = -float(ndtri(beta / 2))
    observed = n[:, 0] * divergence / kappa
    low = _noncentrality(observed, bias.sum(axis=-1) / kappa, z)
    high = _noncentrality(observed, (np.where(events > 0, bias, 0.0) * share).sum(axis=-1) / kappa, -z)
    return low * kappa / n[:, 0], high * kappa / n[:, 0]


def _moments(kind: Divergence, mean: Floats, q: Floats, n: Floats, extra: Floats) -> tuple[Floats, Floats]:
    """Per bin b float64[S, K] and together v float64[S] of equation (2), at ``mean`` events per bin."""
    used = mean > 0
    ratio = np.divide(mean, n * q, out=np.ones_like(mean), where=used)
    slope = kind.slope(ratio)
    bend = np.where(used, kind.curvature(ratio) * ratio / 2, 0.0)
    spread = 1 - mean / n
    bias = bend.copy()
    variance = mean * slope**2 + 2 * bend**2 * spread
    covariance = mean * slope
    few = np.nonzero(used & (mean < _EXACT_BELOW))
    if few[0].size:
        bias[few], variance[few], covariance[few] = _poisson_moments(
            kind, mean[few], q[few], n[few[0], 0], extra[few[0], 0]
        )
    constraint = covariance.sum(axis=-1) ** 2 / n[:, 0]
    return bias * spread, variance.sum(axis=-1) - constraint


def _poisson_moments(
    kind: Divergence, mean: Floats, q: Floats, n: Floats, extra: Floats
) -> tuple[Floats, Floats, Floats]:
    """E g(N) - g(E N), Var g(N) and Cov(g(N), N) of bins with a Poisson number N of events; all float64[J]."""

    def g(events: Floats) -> Floats:
        expected = ((n + extra) * q)[:, None]
        return np.asarray((n * q)[:, None] * kind.phi((events + (extra * q)[:, None]) / expected))

    mu = mean[:, None]
    weight = np.exp(xlogy(_POISSON_NUMBERS, mu) - mu - _LOG_FACTORIALS)
    values = g(_POISSON_NUMBERS[None, :])
    expectation = (weight * values).sum(axis=1, keepdims=True)
    deviation = weight * (values - expectation)
    bias = expectation[:, 0] - g(mu)[:, 0]
    return bias, (deviation * (values - expectation)).sum(axis=1), (deviation * (_POISSON_NUMBERS - mu)).sum(axis=1)


def _noncentrality(observed: Floats, degrees: Floats, z: float) -> Floats:
    """The noncentrality lambda >= 0 at which a noncentral chi-square number is at most ``observed`` with the
    probability of a normal number being at most ``z``; zero where there is none.

    ``scipy.special.chndtrinc`` is exact and takes 30 us for each number, 1 ms at a noncentrality of 10^6; this is
    within a twentieth of the standard deviation of it.
    """
    nu = np.maximum(degrees, 0.1)
    noncentrality = np.maximum(observed - nu - z * np.sqrt(2 * nu + 4 * observed), 0.0)
    for _ in range(_STEPS):
        # the score falls by one for each standard deviation that the noncentrality rises by, nearly
        step = (_normal_score(observed, nu, noncentrality) - z) * np.sqrt(2 * nu + 4 * noncentrality)
        noncentrality = np.maximum(noncentrality + step, 0.0)
    return noncentrality


def _normal_score(x: Floats, nu: Floats, noncentrality: Floats) -> Floats:
    """The normal number that has the same probability below it as x has for the noncentral chi-square (Sankaran, "On
    the non-central chi-square distribution", Biometrika 46, 1959): (x / (nu + lambda))^h is about normal.
    """
    mean, linear = nu + noncentrality, nu + 2 * noncentrality
    h = 1 - 2 / 3 * mean * (nu + 3 * noncentrality) / linear**2
    p = linear / mean**2
    m = (h - 1) * (1 - 3 * h)
    centre = 1 + h * p * (h - 1 - (2 - h) * m * p / 2)
    return np.asarray(((x / mean) ** h - centre) / (h * np.sqrt(2 * p) * (1 + m * p / 2)))


def total_variation_interval(
    counts: ArrayLike, p0: ArrayLike, reference_counts: ArrayLike, independent: ArrayLike, beta: float
) -> tuple[Floats, Floats]:
    """Limits float64[S] of the total variation, for any number of events (McDiarmid; see :mod:`~.distances`).

    The lower limit is that of the bins the reference filled, and of all others together: merging bins never makes a
    total variation larger, which ones are merged is fixed before the events come, and fewer bins have less bias.
    """
    events, q = np.asarray(counts, np.float64), np.asarray(p0, np.float64)
    filled = np.asarray(reference_counts) > 0
    with np.errstate(invalid="ignore"):
        difference = events / events.sum(axis=-1, keepdims=True) - q
    others = np.where(filled, 0.0, difference).sum(axis=-1)
    merged = (np.abs(np.where(filled, difference, 0.0)).sum(axis=-1) + np.abs(others)) / 2
    low = distances.tv_lower_limit(merged, independent, filled.sum(axis=-1) + 1, beta / 2)
    return low, distances.tv_upper_limit(distances.total_variation(events, q), independent, beta / 2)


def kolmogorov_smirnov_interval(
    cdf: Floats, cdf0: Floats, independent: ArrayLike, beta: float
) -> tuple[Floats, Floats]:
    """Limits float64[S] of the Kolmogorov-Smirnov distance at the edges, for any number of present values.

    P(sup |F_n - F| > e) <= 2 exp(-2 n e^2) (Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz
    inequality", Annals of Probability 18, 1990), and the distances from G differ by no more than that supremum.
    """
    observed = kolmogorov_smirnov(cdf, cdf0)
    with np.errstate(divide="ignore"):
        radius = np.sqrt(np.log(2 / beta) / (2 * np.asarray(independent, np.float64)))
    return np.maximum(observed - radius, 0.0), np.minimum(observed + radius, 1.0)


def wasserstein_interval(
    cdf: Floats, cdf0: Floats, widths: Floats, independent: ArrayLike, beta: float
) -> tuple[Floats, Floats]:
    """Limits float64[S] of the Wasserstein distance of the bins, for any number of present values.

    The distances from G differ by no more than the integral of |F_n - F|. F is bounded at all edges at once by Clopper
    and Pearson's limits ("The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
    26, 1934) at beta over the number of edges: unlike one band of equal width they are narrow in the tails, whose bins
    are wide.
    """
    observed = wasserstein(cdf, cdf0, widths)
    n = np.asarray(independent, np.float64)[..., None]
    share, each = cdf[..., :-1], beta / (cdf.shape[-1] - 1)
    below, above = np.maximum(n * share, 0.0), np.maximum(n * (1 - share), 0.0)
    with np.errstate(invalid="ignore"):
        low = np.where(below > 0, betaincinv(below, above + 1, each / 2), 0.0)
        high = np.where(above > 0, betaincinv(below + 1, above, 1 - each / 2), 1.0)
        error = np.maximum(share - low, high - share)
        # the error at a bin's lower and upper edge; none at the ends of the scale
        lower = np.concatenate((np.zeros_like(error[..., :1]), error), axis=-1)
        upper = np.concatenate((error, np.zeros_like(error[..., :1])), axis=-1)
        radius = (widths * (lower + upper) / 2).sum(axis=-1)
    return np.asarray(np.maximum(observed - radius, 0.0)), np.asarray(observed + radius)


def confidence_intervals(
    counts: ArrayLike,
    reference_counts: ArrayLike,
    independence: ArrayLike,
    beta: float,
    widths: Floats | None = None,
) -> dict[str, tuple[Floats, Floats]]:
    """Every interval of S streams of one layout, by name; NaN where none can be given.

    Args:
        counts: int[S, K].
        reference_counts: int[S, K].
        independence: float64[S], independent events per event, at most 1.
        beta: Error probability of each interval.
        widths: float64[S, 14] for the numeric layout (see :func:`~.ordered.bin_widths`); None for categories, which
            have no order.
    """
    events = np.asarray(counts)
    p0 = distances.baseline_of_used_bins(events, reference_counts)
    share = np.asarray(independence, np.float64)
    independent = events.sum(axis=-1) * share
    found = {name: divergence_interval(kind, events, p0, independent, beta) for name, kind in DIVERGENCES.items()}
    found["total_variation"] = total_variation_interval(events, p0, reference_counts, independent, beta)
    if widths is not None:
        cdf, cdf0 = cumulated_shares(events), cumulated_shares(reference_counts)
        present = events[..., : cdf.shape[-1]].sum(axis=-1) * share
        found["kolmogorov_smirnov"] = kolmogorov_smirnov_interval(cdf, cdf0, present, beta)
        found["wasserstein"] = wasserstein_interval(cdf, cdf0, widths, present, beta)
    return found
