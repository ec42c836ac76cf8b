"""Whether predicted probabilities mean what they say, from sums by score bin.

All functions take the B score bins of :mod:`streams.statistics.performance.sums`, float64[B]: ``positives`` (rows whose
outcome was the positive class; of a multi-class model: whose most probable class was right), ``totals`` (rows) and
``score_sums`` (sums of their probabilities), counted or weighted. Nothing else of the rows is needed: Murphy's
decomposition and the expected calibration error are exact; the smooth calibration error states what the bins hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct
from scipy.special import ndtr, ndtri

from streams.statistics.arrays import Floats
from streams.statistics.performance.calibration_map import checked_bins

EQUAL_MASS_GROUPS = 10
"""Groups of the expected calibration error and the reliability curve."""

_Z = float(ndtri(0.975))
_FOLDED = math.sqrt(2 / math.pi)
"""The mean of |N| where N is standard normal."""


@dataclass(frozen=True, slots=True)
class BrierDecomposition:
    """The parts of a mean Brier score: ``brier = reliability - resolution + uncertainty + within_bins``.

    Attributes:
        brier: Mean of (p - y)^2 over the rows themselves.
        reliability: Mean squared distance of the bins' mean probability from their share of positives; 0 is best.
        resolution: Mean squared distance of the bins' shares of positives from that of all rows; more is better.
        uncertainty: Variance of the outcome.
        within_bins: The within-bin variance less the within-bin covariance, what bins alone would leave out.
        reliability_debiased: Reliability less what chance adds to it; may be negative.
        resolution_debiased: Resolution less what chance adds to it; may be negative.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float
    reliability_debiased: float
    resolution_debiased: float


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """A calibration error: ``value``, limits ``low`` and ``high`` between which the true one lies with 95 %.

    Attributes:
        value: As published; biased upwards, since chance alone makes groups differ from their probabilities.
        debiased: Less the bias by chance, see the function; None where that is not known.
        low: Lower limit; None together with ``high`` where there are too few rows.
        high: Upper limit.
        error: How far ``value`` may lie from that of the rows themselves, because of the bins.
    """

    value: float
    debiased: float | None
    low: float | None
    high: float | None
    error: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class ReliabilityCurve:
    """Groups of about equal mass, ascending by score: float64[M] each.

    ``rows`` (weights, where weighted), mean ``predicted`` probability, share ``observed``.
    """

    rows: Floats
    predicted: Floats
    observed: Floats


# ---- how far scores are from it --------------------------------------------------------------------------------------


def brier_decomposition(
    brier: float, positives: ArrayLike, totals: ArrayLike, score_sums: ArrayLike
) -> BrierDecomposition | None:
    """Murphy's decomposition of a Brier score, with the within-bin terms that make it exact; None without rows.

    Sources: Murphy, "A new vector partition of the probability score", Journal of Applied Meteorology 12, 1973;
    the within-bin terms: Stephenson, Coelho and Jolliffe, "Two extra components in the Brier score
    decomposition", Weather and Forecasting 23, 2008, of which the sums hold the difference; what chance
    adds: Ferro and Fricker, "A bias-corrected decomposition of the Brier score", Quarterly Journal of the Royal
    Meteorological Society 138, 2012 (bins of one row, whose variance is not known, are left as they
    are); Bröcker, "Estimating reliability and resolution of probability forecasts through decomposition of the
    empirical score", Climate Dynamics 39, 2012, shows why.

    Args:
        brier: Mean of (p - y)^2 over the same rows, with the same weights.
        positives: float64[B].
        totals: float64[B].
        score_sums: float64[B].
    """
    y, n = checked_bins(positives, totals)
    seen = n > 0
    if not seen.any():
        return None
    y, n, sums = y[seen], n[seen], np.asarray(score_sums, np.float64)[seen]
    rows = float(n.sum())
    shares, share = y / n, float(y.sum()) / rows
    reliability = float(n @ (sums / n - shares) ** 2) / rows
    resolution = float(n @ (shares - share) ** 2) / rows
    uncertainty = share * (1 - share)
    several = n > 1
    chance = float((n * shares * (1 - shares))[several] @ (1 / (n[several] - 1))) / rows
    all_rows = uncertainty / (rows - 1) if rows > 1 else 0.0
    return BrierDecomposition(
        brier=brier,
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within_bins=brier - (reliability - resolution + uncertainty),
        reliability_debiased=reliability - chance,
        resolution_debiased=resolution - chance + all_rows,
    )


def reliability_curve(
    positives: ArrayLike, totals: ArrayLike, score_sums: ArrayLike, groups: int = EQUAL_MASS_GROUPS
) -> ReliabilityCurve:
    """The bins merged to at most ``groups`` groups of about equal mass, cut at bins' edges; empty ones are left out."""
    y, n = checked_bins(positives, totals)
    sums = np.asarray(score_sums, np.float64)
    seen = n > 0
    y, n, sums = y[seen], n[seen], sums[seen]
    if not len(n):
        return ReliabilityCurve(n, n, n)
    middle = np.cumsum(n) - n / 2
    group = np.minimum((middle * groups / n.sum()).astype(np.int64), groups - 1)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rows = np.add.reduceat(n, starts)
    return ReliabilityCurve(rows, np.add.reduceat(sums, starts) / rows, np.add.reduceat(y, starts) / rows)


def expected_calibration_error(
    positives: ArrayLike, totals: ArrayLike, score_sums: ArrayLike, *, effective: float | None = None
) -> CalibrationError | None:
    """Mean distance of predicted probability and share of positives over groups of equal mass; None without rows.

    Source: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    It is biased upwards: of a calibrated model it is about ``0.8 * sqrt(M / n) * sqrt(p (1 - p))``, not 0. ``debiased``
    subtracts, group by group, what a normal error adds to the distance observed (Kumar, Liang and Ma, "Verified
    uncertainty calibration", NeurIPS 2019, for the l1 error; their resampled mean is in closed form here); it
    is at least 0 and hardly biased, but not unbiased. And it is blind to errors that cancel within a group: a group's
    mean distance is never more than that of its rows.

    The interval is for the same groups with all rows there could be. Chance only adds to a mean distance, and adds at
    most the mean of its own size, so the true one lies between ``E value - E |noise|`` and ``E value``; 1.96 standard
    deviations are added on either side. It covers at least 95 %, apart from the normal approximation.

    Args:
        positives: float64[B].
        totals: float64[B].
        score_sums: float64[B].
        effective: Effective number of rows; None: as many as there are.
    """
    curve = reliability_curve(positives, totals, score_sums)
    if not len(curve.rows):
        return None
    weights = curve.rows / curve.rows.sum()
    distance = curve.predicted - curve.observed
    rows = curve.rows * _scale(curve.rows, effective)
    # a group of one class only has some chance of the other
    share = (rows * curve.observed + 0.5) / (rows + 1)
    deviation = np.sqrt(share * (1 - share) / rows)
    value = float(weights @ np.abs(distance))
    debiased = float(weights @ (2 * np.abs(distance) - _mean_absolute_normal(distance, deviation)))
    spread = _Z * float(np.linalg.norm(weights * deviation))
    low = max(0.0, value - _FOLDED * float(weights @ deviation) - spread)
    return CalibrationError(value, max(0.0, debiased), low, min(1.0, value + spread))


def _mean_absolute_normal(mean: Floats, deviation: Floats) -> Floats:
    """E |N| of a normal number (Leone, Nelson, Nottingham, "The folded normal distribution", Technometrics 3, 1961)."""
    z = mean / deviation
    return np.asarray(deviation * _FOLDED * np.exp(-(z**2) / 2) + mean * (1 - 2 * ndtr(-z)))


def _scale(rows: Floats, effective: float | None) -> float:
    """Independent rows per unit of weight."""
    return 1.0 if effective is None else effective / float(rows.sum())


# ---- without groups --------------------------------------------------------------------------------------------------

_MODES = 1024
_NARROWEST = 4.3 / (math.pi * _MODES)
"""The narrowest kernel that so many cosines resolve to 10^-4: 0.0013."""


def smooth_calibration_error(
    positives: ArrayLike,
    totals: ArrayLike,
    score_sums: ArrayLike,
    score_edges: ArrayLike,
    *,
    effective: float | None = None,
) -> CalibrationError | None:
    """The smooth calibration error smECE, which needs no groups; None without rows.

    Source: Błasiok and Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing", ICLR 2024 (arXiv
    2309.12236): the residuals y - p are smoothed over p with a Gaussian kernel of width sigma that is reflected at 0
    and 1, and smECE is the integral of their absolute mean at the width that equals it; it
    falls as the width grows, so there is one such width. The reflected kernel is the heat kernel of the interval,
    ``1 + 2 sum_k exp(-(k pi sigma)^2 / 2) cos(k pi t) cos(k pi p)``, which a cosine transform sums.

    A bin's rows count as if all had its mean probability. Let eps be the change of the integral by that at the width
    found; smECE changes by at most eps, because the integral falls with the width. ``error`` is eps for rows whose
    outcomes, within their bin, depend on where in it they are no more than their probabilities do: twice the root mean
    square of its random part, for the widest spread that the bin's mean and edges allow, plus the curvature's part. It
    is no bound for outcomes arranged within bins by malice, and grows as the error comes near the bins' width.

    The interval is that of :func:`expected_calibration_error`, with the integral in place of the groups. There is no
    debiased value: chance alone makes it about ``(0.17 / sqrt(n)) ** (2 / 3)`` at p = 1/2. Widths below 0.0013 are not
    resolved: below, the value is the integral at that width.

    Args:
        positives: float64[B].
        totals: float64[B].
        score_sums: float64[B].
        score_edges: float64[B - 1], inner edges of the bins.
        effective: Effective number of rows; None: as many as there are.
    """
    y, n = checked_bins(positives, totals)
    seen = n > 0
    if not seen.any():
        return None
    edges = np.concatenate([[0.0], np.clip(np.asarray(score_edges, np.float64), 0, 1), [1.0]])
    below, above = edges[:-1][seen], edges[1:][seen]
    y, n = y[seen], n[seen]
    rows = float(n.sum())
    means = np.clip(np.asarray(score_sums, np.float64)[seen] / n, below, above)
    residuals = (y - means * n) / rows
    modes = np.arange(_MODES, dtype=np.float64) * np.float64(math.pi)
    spectrum = residuals @ np.cos(np.outer(means, modes))

    def integral(width: float) -> float:
        return float(np.abs(_cosines(spectrum * np.exp(-((modes * width) ** 2) / 2))).mean())

    width = _fixpoint(integral)
    value = integral(width)
    scale = _scale(n, effective)
    share = (y * scale + 0.5) / (n * scale + 1)
    # variance of each bin's part of the mean residual
    variance = n * share * (1 - share) / (rows**2 * scale)
    spread = _Z * math.sqrt(float(variance.sum()))
    # wide kernels need few cosines, and these sums no more than two places
    modes = modes[: min(_MODES, max(64, 1 << math.ceil(math.log2(2 * _NARROWEST * _MODES / width))))]
    kernels = _kernels(means, modes, width)
    noise = _FOLDED * float(np.sqrt(variance @ kernels**2).mean())
    radius = np.sqrt((above - means) * (means - below))
    moved = [(_kernels(means + side * radius, modes, width) - kernels) ** 2 for side in (-1.0, 1.0)]
    random = float(np.sqrt((variance * scale) @ (moved[0] + moved[1]) / 2).mean())
    # the integral of |K''| / 2 is 2 phi(1) / width^2
    curved = 0.484 * float(np.abs(residuals) @ np.minimum(radius / width, 2.0) ** 2)
    low = max(0.0, value - noise - spread)
    return CalibrationError(value, None, low, min(1.0, value + spread), 2 * random + curved + abs(width - value))


def _fixpoint(integral: Callable[[float], float]) -> float:
    """The width that equals the integral at it; the narrowest one, where that is more."""
    narrow, wide = _NARROWEST, 1.0
    if integral(narrow) <= narrow:
        return narrow
    for _ in range(40):
        middle = (narrow + wide) / 2
        narrow, wide = (middle, wide) if integral(middle) > middle else (narrow, middle)
    return narrow


def _cosines(spectrum: Floats) -> Floats:
    """``s_0 + 2 sum_k s_k cos(k pi t)`` at the midpoints of as many equal parts of [0, 1], over the last axis."""
    return np.asarray(dct(spectrum, type=3, axis=-1))


def _kernels(centres: Floats, modes: Floats, width: float) -> Floats:
    """The reflected kernel around each centre, float64[B, modes]."""
    return _cosines(np.cos(np.outer(centres, modes)) * np.exp(-((modes * width) ** 2) / 2))
