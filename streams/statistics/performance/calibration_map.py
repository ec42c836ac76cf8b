"""What scores mean: the probability of the positive class in each score bin, learnt from counts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from streams.statistics.arrays import Floats

_STRENGTHS = np.logspace(-2.5, 1, 15)
"""Standard deviations of the walk of logits over all bins that are tried; the smallest is none."""

_NEAREST = 1e-4
"""Bins are at least so far apart."""

_STEEPEST = 1e-6
"""Probabilities closer to 0 or 1 than this are taken for it where logits are needed."""


def fit_calibration(positives: ArrayLike, totals: ArrayLike, scores: ArrayLike | None = None) -> Floats:
    """The probability of the positive class in each score bin, float64[B], not decreasing, strictly between 0 and 1.

    Without ``scores`` it is the isotonic regression of the bins' shares (Zadrozny and Elkan, "Transforming classifier
    scores into accurate multiclass probability estimates", KDD 2002), each level drawn towards the overall share by one
    row's weight, so that a few rows of one class are no certainty; empty bins lie on the line between their neighbours.

    With ``scores`` few rows go further. The logits are those of the scores, recalibrated (Cox, "Two further
    applications of a model for binary regression", Biometrika 45, 1958) as far as the likelihood ratio speaks for it
    (shrunk as by James and Stein 1961), plus a random walk over the bins: neighbours deviate alike. How far it strays
    is learnt from the bins, by the evidence in Laplace's approximation (Rasmussen and Williams, "Gaussian processes for
    machine learning", 2006, equation 3.32). So scores that are calibrated already are hardly touched, and with many
    rows the bins' own shares win whatever their form. Isotonic regression then makes the result monotone.

    Args:
        positives: float64[B], rows (or weights) of the positive class, ``0 <= positives <= totals``.
        totals: float64[B], all rows; with weights, scaled to the effective number of rows.
        scores: float64[B], the mean score of each bin, its centre where it is empty; ascending, in [0, 1].

    Raises:
        ValueError: The arrays do not belong together.
    """
    y, n = checked_bins(positives, totals)
    share = (y.sum() + 0.5) / (n.sum() + 1)
    if scores is not None:
        return _shrunk_calibration(y, n, np.asarray(scores, np.float64))
    seen = n > 0
    if not seen.any():
        return np.full(len(n), share)
    levels = isotonic_regression(y[seen] / n[seen], weights=n[seen])
    pooled = np.add.reduceat(n[seen], levels.blocks[:-1])
    shrunk = (levels.x[levels.blocks[:-1]] * pooled + share) / (pooled + 1)
    rows = np.diff(levels.blocks)
    found = np.repeat(isotonic_regression(shrunk, weights=pooled).x, rows)
    return np.asarray(np.interp(np.arange(len(n)), np.flatnonzero(seen), found))


def _shrunk_calibration(y: Floats, n: Floats, scores: Floats) -> Floats:
    if scores.shape != n.shape or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"expected one score in [0, 1] for each of {len(n)} bins, got {scores.shape}")
    logits = logit(np.clip(scores, _STEEPEST, 1 - _STEEPEST))
    smooth = _recalibration(y, n, logits)
    # steps of the walk: as far as bins are apart, in rows and in scores
    ranks = (np.cumsum(n) - n / 2) / max(float(n.sum()), 1.0)
    apart = np.diff(ranks) + np.abs(np.diff(scores))
    walk = _walk(y, n, smooth, np.concatenate([[1.0], np.maximum(apart, _NEAREST)]))
    levels = isotonic_regression(expit(smooth + walk), weights=n + 1).x
    return np.asarray(np.clip(levels, _STEEPEST, 1 - _STEEPEST))


def _recalibration(y: Floats, n: Floats, logits: Floats) -> Floats:
    """The logits of the smooth map: a + c * logit, shrunk towards the logits themselves; c is never negative."""
    design = np.stack([np.ones_like(logits), logits])
    coefficients = np.array([0.0, 1.0])
    for _ in range(30):
        p = expit(coefficients @ design)
        # half a row's weight on the scores as they are: the fit exists even where the classes are separated
        weight = n * p * (1 - p)
        hessian = (design * weight) @ design.T + 0.5 * np.eye(2)
        gradient = design @ (y - n * p) - 0.5 * (coefficients - [0.0, 1.0])
        step = np.linalg.solve(hessian, gradient)
        coefficients = coefficients + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    coefficients[1] = max(coefficients[1], 0.0)
    moved = coefficients @ design
    ratio = 2 * float(y @ (moved - logits) - n @ (np.logaddexp(0, moved) - np.logaddexp(0, logits)))
    keep = max(0.0, 1 - 2 / ratio) if ratio > 0 else 0.0
    return np.asarray(logits + keep * (moved - logits))


def _walk(y: Floats, n: Floats, base: Floats, variances: Floats) -> Floats:
    """What the bins' logits most likely deviate by, float64[B]: Gaussian steps, ``variances`` up to a common factor."""
    size = len(n)
    # the walk's precision is tridiagonal: the diagonal and what lies beside it, as LAPACK keeps them
    steps = 1 / variances
    precision = np.stack([steps + np.append(steps[1:], 0.0), np.append(-steps[1:], 0.0)])
    deviation, best, found = np.zeros(size), -math.inf, np.zeros(size)
    for strength in _STRENGTHS:
        prior = precision / strength**2
        for _ in range(20):
            factor = _factor(prior, n, base + deviation)
            step = cho_solve_banded((factor, True), y - n * expit(base + deviation) - _times(prior, deviation))
            deviation = deviation + step / max(1.0, float(np.abs(step).max()))
            if np.abs(step).max() < 1e-6:
                break
        logits = base + deviation
        likelihood = float(y @ logits - n @ np.logaddexp(0, logits)) - float(deviation @ _times(prior, deviation)) / 2
        # half the logarithms of the determinants: of the curvature, and of the prior, which is that of its steps
        volume = float(np.log(_factor(prior, n, logits)[0]).sum()) + size * math.log(strength)
        evidence = likelihood - volume - float(np.log(variances).sum()) / 2
        if evidence > best:
            best, found = evidence, deviation
    return found


def _factor(prior: Floats, n: Floats, logits: Floats) -> Floats:
    """Cholesky's factor of the curvature at these logits, float64[2, B] by diagonal."""
    p = expit(logits)
    return np.asarray(cholesky_banded(np.stack([prior[0] + n * p * (1 - p), prior[1]]), lower=True))


def _times(banded: Floats, vector: Floats) -> Floats:
    beside = banded[1, :-1]
    return np.asarray(banded[0] * vector + np.append(0.0, beside * vector[:-1]) + np.append(beside * vector[1:], 0.0))


def checked_bins(positives: ArrayLike, totals: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64[B]. Raises ``ValueError`` unless 0 <= positives <= totals everywhere."""
    y, n = np.asarray(positives, np.float64), np.asarray(totals, np.float64)
    if y.ndim != 1 or y.shape != n.shape or not ((y >= 0) & (y <= n) & np.isfinite(n)).all():
        raise ValueError(f"expected 0 <= positives <= totals in each bin, got arrays {y.shape} and {n.shape}")
    return y, n
