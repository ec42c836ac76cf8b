"""The statistics of humility's three guarantees: novelty, selective risk, long-run coverage.

**What holds, and when.** The first two rest on exchangeability: calibration rows and later ones are as good as drawn in
any order from one source. They end with the first change of that source, which the ``humility`` monitor looks for.
Dependence between neighbouring rows breaks it, too: m rows that come in clusters are worth fewer, the rate given the
calibration rows varies more than the beta distribution says, and the stated confidence is then too high. The third
holds for every sequence whatever, on average over time.

**Novelty.** With m calibration scores the row with rank k from the top is the threshold, and rows that score *more*
fire. For scores without ties the probability of that, given the calibration rows, is the mass above an order statistic,
which has the law Beta(k, m + 1 - k) whatever the distribution of the scores (Vovk, "Conditional validity of inductive
conformal predictors", Machine Learning 92, 2013, section 3). Averaged over calibration sets it is k / (m + 1), the
marginal guarantee of a conformal p-value. k is the largest one for which

    P(Beta(k, m + 1 - k) > a) = P(Binomial(m, a) < k) <= delta.                                                      (1)

*Ties* only make it safer. Scores are those of few bins, and many are equal. Give every row, of the calibration and
later, a uniform number U of its own and order pairs (score, U): there are no ties, and (1) holds for the k-th largest
pair (t, u). A later row that fires has a score above t, so its pair is above (t, u): the rate of the rule is at most
the one of (1), row by row. Where much mass is tied at t the rate is well below a, and nothing may be done about that
without deciding equal rows differently.

**Selective risk.** Thresholds are fixed before the calibration rows' outcomes and confidences are looked at
(:func:`certificate_thresholds` takes them from other rows), from strict to lax. For each the hypothesis "the error
among answered predictions exceeds r" is tested at level delta by the upper limit of Clopper and Pearson, and the first
that is not rejected ends the sequence. To answer from a threshold with too many errors, the *first* such threshold in
the sequence must have passed, and which one that is does not depend on the calibration rows: the probability is at most
delta, without a correction for how many were tried (fixed-sequence testing; Angelopoulos, Bates, Candes, Jordan, Lei,
"Learn then Test: calibrating predictive algorithms to achieve risk control", 2021, arXiv 2110.01052). Geifman and
El-Yaniv ("Selective classification for deep neural networks", NeurIPS 2017, algorithm 1) search by bisection and pay a
union bound for it. Given how many rows are answered at a fixed threshold, their errors are binomial, so the limit is
exact for random numbers of answered rows.

**Groups** (Mondrian; Vovk, Lindsay, Nouretdinov, Gammerman, "Mondrian confidence machine", 2003). Within the rows of a
group all of it holds for the group alone, at its own confidence: each statement has confidence 1 - delta, one by one.

**Tracker.** :func:`tracker_quantile` and :func:`tracker_bound`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv

from streams.statistics.arrays import Floats

Mask = NDArray[np.bool_]

THRESHOLDS = 100
"""Thresholds of the fixed sequence. More cost nothing but chances to stop early, fewer leave answers unused."""

BLOCKS = 32
"""Blocks of neighbouring rows that learn or calibrate together."""

RANGE_QUANTILE = 0.99
"""Scores beyond it do not make the range: one wild residual must not set the step of all others."""

MOST_GAIN = 0.25
"""Of the tracker's loop. An integral controller with a delay oscillates from 1/e on, and ever wider from pi/2 on."""

_MOST_ROWS = 10**12


@dataclass(frozen=True, slots=True)
class RowsNeeded:
    """Why a guarantee cannot be given: ``rows`` there are, ``needed`` it takes at least; 0 where no number would do."""

    rows: int
    needed: int


@dataclass(frozen=True, slots=True)
class ConformalThreshold:
    """Rows with a larger ``score`` fire; ``rank`` of the score among the calibration rows, from the top.

    ``rate_bound``: with the confidence asked for, unchanged rows fire at most so often.
    """

    score: float
    rank: int
    rate_bound: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a fixed sequence of tests certified. Predictions with at least the confidence ``threshold`` are answered.

    Attributes:
        threshold: The laxest one that passed.
        answered: Calibration rows that are answered at it.
        errors: Of these, errors.
        error_bound: With the confidence asked for, the error among answered predictions is at most this.
        answered_bound: With the same confidence at least this share of predictions is answered.
    """

    threshold: float
    answered: int
    errors: int
    error_bound: float
    answered_bound: float


@dataclass(frozen=True, slots=True)
class Uncertified:
    """No threshold passed, though there were rows enough.

    ``answered`` and ``errors`` are those at the strictest one; ``needed``: calibration rows it takes if their shares
    stay, 0 where no number would do.
    """

    answered: int
    errors: int
    needed: int


def calibrating(rows: int) -> Mask:
    """Which of so many rows, in order of time, calibrate; bool[rows]. The others learn: half of them each.

    Neighbouring rows go together, in 32 blocks: where they are alike they know of each other, and a row whose neighbour
    taught the bins is less surprising than a later one will be. Blocks are shared out like the sequence of Thue and
    Morse: whatever comes and goes with a period of 1, 2, 4, … blocks (day and night, where the rows are 16 days) is in
    both halves alike. The choice does not look at the rows, so that those of an exchangeable source stay exchangeable.
    """
    block = np.arange(rows, dtype=np.int64) * BLOCKS // max(rows, 1)
    return np.asarray(np.array([bin(number).count("1") % 2 for number in range(BLOCKS)], bool)[block])


def marginal_rank(rows: int, rate: float) -> int:
    """Largest rank k whose rate is at most ``rate`` on average over calibration sets of so many rows; 0 for none."""
    return min(math.floor(rate * (rows + 1) + 1e-9), rows)


def conditional_rank(rows: int, rate: float, confidence: float) -> int:
    """Largest rank k with (1): its rate given the calibration rows is at most ``rate``, so surely; 0 for none."""
    _check("rate", rate)
    _check("confidence", confidence)
    low, high = 0, rows + 1  # low holds, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(middle - 1, rows, rate) <= 1 - confidence else (low, middle)
    return low


def rows_for_rank(rank: int, rate: float, confidence: float) -> int:
    """Fewest calibration rows for which :func:`conditional_rank` is at least ``rank``."""
    return _first(rank, lambda rows: conditional_rank(rows, rate, confidence) >= rank)


def conformal_threshold(scores: ArrayLike, rate: float, confidence: float) -> ConformalThreshold | RowsNeeded:
    """The score above which at most a share ``rate`` of unchanged rows lies, with this confidence.

    Args:
        scores: float64[m], of the calibration rows; in any order, ties allowed.
        rate: a, between 0 and 1.
        confidence: 1 - delta, over the choice of the calibration rows.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    rows = len(ordered)
    rank = conditional_rank(rows, rate, confidence)
    if not rank:
        return RowsNeeded(rows, rows_for_rank(1, rate, confidence))
    bound = float(betaincinv(rank, rows + 1 - rank, confidence))
    return ConformalThreshold(float(ordered[rows - rank]), rank, min(bound, rate))


def tolerance_bounds(values: ArrayLike, rate: float, confidence: float) -> tuple[float, float] | RowsNeeded:
    """Two bounds outside of which at most a share ``rate`` of unchanged values lies, with this confidence.

    Order statistics: with rank k of (1) shared out evenly, the mass below the (k/2)-th smallest and above the (k/2)-th
    largest value together has the law Beta(k, m + 1 - k) (Wilks, "Determination of sample sizes for setting tolerance
    limits", Annals of Mathematical Statistics 12, 1941). Values on the bounds are inside, which is safe with ties.

    Args:
        values: float64[m], without NaN.
        rate: Between 0 and 1.
        confidence: Over the choice of the values.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    rows = len(ordered)
    each = conditional_rank(rows, rate, confidence) // 2
    if not each:
        return RowsNeeded(rows, rows_for_rank(2, rate, confidence))
    return float(ordered[each - 1]), float(ordered[rows - each])


def clopper_pearson_upper(errors: ArrayLike, rows: ArrayLike, confidence: float) -> Floats:
    """Upper limit float64[...] of a probability of which ``errors`` of ``rows`` trials were seen; 1 without trials.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
    26, 1934: the probability at which so few errors still have a chance of 1 - ``confidence``.
    """
    e, n = np.asarray(errors, np.float64), np.asarray(rows, np.float64)
    inside = e < n
    return np.asarray(
        np.where(inside, betaincinv(np.where(inside, e, 0) + 1, np.where(inside, n - e, 1), confidence), 1)
    )


def rows_to_certify(error: float, max_error: float, confidence: float) -> int:
    """Fewest answered rows that pass if a share ``error`` of them is wrong; 0 where no number would do."""
    if error >= max_error:
        return 0
    return _first(1, lambda n: betaincinv(error * n + 1, n * (1 - error), confidence) <= max_error)


def certificate_thresholds(confidences: ArrayLike, rows: int, max_error: float, confidence: float) -> Floats:
    """The fixed sequence of thresholds, float64[J] strictly descending.

    They answer evenly spaced shares of ``confidences``, which belong to rows that do not calibrate. A strict threshold
    answers few rows, and often ends the sequence by bad luck. So the first answers so many of ``rows`` calibration rows
    that half the error allowed would pass, but at most half of them; and where there are many rows, so many that three
    quarters of it would, but at most a tenth of them.

    Args:
        confidences: float64[l], of learning rows; NaN where there is none.
        rows: Calibration rows.
        max_error: Error allowed among answered predictions.
        confidence: Of the tests.
    """
    known = np.sort(np.asarray(confidences, np.float64))
    known = known[np.isfinite(known)]
    if not len(known):
        return np.zeros(0)
    least = rows_to_certify(0.0, max_error, confidence)
    half = min(rows_to_certify(max_error / 2, max_error, confidence), rows // 2)
    more = min(rows_to_certify(0.75 * max_error, max_error, confidence), rows // 10)
    shares = np.linspace(min(max(least, half, more) / max(rows, 1), 1.0), 1.0, THRESHOLDS)
    answered = np.clip(np.ceil(shares * len(known) - 1e-9).astype(np.int64), 1, len(known))
    return np.unique(known[len(known) - answered])[::-1]


def certify(
    confidences: ArrayLike, errors: ArrayLike, thresholds: ArrayLike, max_error: float, confidence: float
) -> Certificate | Uncertified | RowsNeeded:
    """Find from which confidence on predictions may be answered.

    The statement is "error among answered predictions at most ``max_error``", with this confidence. Observed errors may
    be far fewer; a smaller bound would hold for a threshold that was fixed, not for one that was found.

    Args:
        confidences: float64[m], of the calibration rows; NaN where there is none: those are not answered.
        errors: bool[m], which of them were wrong.
        thresholds: float64[J], descending, fixed without looking at the calibration rows.
        max_error: r, between 0 and 1.
        confidence: 1 - delta.

    Returns:
        The laxest threshold that passed. ``answered_bound`` holds for all thresholds at once, as one of them was
        chosen: the share less sqrt(log(1/delta) / 2m) (Massart, "The tight constant in the
        Dvoretzky-Kiefer-Wolfowitz inequality", Annals of Probability 18, 1990).
    """
    _check("max_error", max_error)
    _check("confidence", confidence)
    known = np.nan_to_num(np.asarray(confidences, np.float64), nan=-np.inf)
    wrong = np.asarray(errors, bool)
    rows, marks = len(known), np.asarray(thresholds, np.float64)
    least = rows_to_certify(0.0, max_error, confidence)
    if rows < least:
        return RowsNeeded(rows, least)
    if not len(marks):
        return Uncertified(0, 0, 0)
    order = np.argsort(-known, kind="stable")
    answered = np.searchsorted(-known[order], -marks, "right")
    failed = np.concatenate(([0], np.cumsum(wrong[order])))[answered]
    passed = clopper_pearson_upper(failed, answered, confidence) <= max_error
    last = int(np.argmin(passed)) - 1 if not passed.all() else len(marks) - 1
    if last < 0:
        tried, wrong_ones = int(answered[0]), int(failed[0])
        return Uncertified(tried, wrong_ones, _rows_to_pass(rows, tried, wrong_ones, max_error, confidence))
    count = int(answered[last])
    # the distribution-free band of all shares is one-sided, which asks for delta of at most a half
    slack = math.sqrt(math.log(1 / min(1 - confidence, 0.5)) / (2 * rows))
    return Certificate(float(marks[last]), count, int(failed[last]), max_error, max(count / rows - slack, 0.0))


def _rows_to_pass(rows: int, answered: int, errors: int, max_error: float, confidence: float) -> int:
    """Calibration rows it takes where a strictest threshold failed, if its shares of answers and errors stay."""
    if not answered:
        return 2 * rows
    needed = rows_to_certify(errors / answered, max_error, confidence)
    return math.ceil(needed * rows / answered)


def split_conformal_quantile(scores: ArrayLike, coverage: float) -> float | RowsNeeded:
    """The ceil((m + 1) coverage)-th smallest of m scores: a later row scores at most that with this probability.

    Over calibration sets, under exchangeability; ties make it more (Papadopoulos, Proedrou, Vovk, Gammerman, "Inductive
    confidence machines for regression", ECML 2002).

    Args:
        scores: float64[m], without NaN.
        coverage: Between 0 and 1.
    """
    _check("coverage", coverage)
    ordered = np.sort(np.asarray(scores, np.float64))
    rank = _coverage_rank(len(ordered), coverage)
    if rank > len(ordered):
        return RowsNeeded(len(ordered), _first(1, lambda rows: _coverage_rank(rows, coverage) <= rows))
    return float(ordered[rank - 1])


def _coverage_rank(rows: int, coverage: float) -> int:
    return max(math.ceil((rows + 1) * coverage - 1e-9), 1)


def tracker_quantile(start: float, step: float, coverage: float, known: int, missed: int) -> float:
    """Where the tracker stands: start + step (missed - alpha known), alpha = 1 - coverage.

    This is q <- q + step (missed - alpha) once per outcome (Gibbs and Candes, "Adaptive conformal inference under
    distribution shift", NeurIPS 2021, equation 2, on the quantile itself), written with counts: outcomes may come in
    any order and any number at a time, and nothing is rounded twice. An outcome is missed if its score exceeds the
    quantile *its own prediction was issued with*.

    Args:
        start: First quantile, in the unit of the scores.
        step: In the same unit.
        coverage: Between 0 and 1.
        known: Outcomes so far.
        missed: Of these, not covered.
    """
    return start + step * (missed - (1.0 - coverage) * known)


def tracker_bound(score_range: float, step: float, known: int, pending: int = 0) -> float:
    """How far the share of missed outcomes is from alpha at most, after so many are known: for every sequence.

        |missed / known - alpha| <= (range + step (1 + pending)) / (step known)                                      (2)

    *Proof.* Let all scores and the start lie in [lo, hi], range = hi - lo, and let q be the tracker. Let ``pending`` be
    the most outcomes that, at any moment, are still to come of predictions that were issued with an older quantile than
    the one of that moment: those whose outcome is late, and those that were issued since the quantile was last
    published. While q stays at or above hi, every prediction issued with it is covered; so of the outcomes that come
    only pending ones are missed, and q exceeds hi by at most (1 - alpha) step for the one that crossed and as much for
    each of the pending: q <= hi + (1 - alpha) step (1 + pending). While q stays below lo every prediction issued with
    it is missed, so that likewise q >= lo - alpha step (1 + pending). By the definition of q,
    missed - alpha known = (q - start) / step, and both distances of q from its start are at most
    range + step (1 + pending). Without pending outcomes this is proposition 4.1 of Gibbs and Candes (arXiv
    2106.00170).

    A score beyond the range of the calibration widens ``range`` to what came. The bound is on averages over time: no
    single day and no group is promised anything, so each group has a tracker of its own.

    Args:
        score_range: hi - lo, in the unit of the scores.
        step: In the same unit.
        known: Outcomes so far.
        pending: As above.
    """
    if not known:
        return math.inf
    return (score_range + step * (1 + pending)) / (step * known)


def range_of_scores(scores: ArrayLike) -> float:
    """From the smallest of the scores, float64[m], to their 99 % quantile: the range that the step is a part of.

    Where they are all one value it is the size of that, or one: a tracker without a step could never leave its start.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    if not len(ordered):
        return 0.0
    low, high = float(ordered[0]), float(ordered[math.ceil(RANGE_QUANTILE * len(ordered)) - 1])
    return (high - low) or (float(ordered[-1]) - low) or abs(low) or 1.0


def tracker_step(scores: ArrayLike, score_range: float, part: float, coverage: float, pending: float) -> float:
    """The tracker's step, in the unit of the scores: ``part`` of their range, or less where outcomes come late.

    With f the density of the scores at the quantile, an outcome moves the miscoverage of the next prediction by step f,
    and ``pending`` others are on their way that know nothing of it: the gain of the loop is step f pending. A hundredth
    of the range is right where outcomes come at once: coverage then wanders by sqrt(step f alpha (1 - alpha) / 2), one
    to two points, and the whole range is crossed in a hundred misses. With thousands of outcomes pending it would throw
    the intervals from one end to the other and back: the bound (2) holds, and nobody is served. So the step is at most
    that of a gain of 0.25.

    Args:
        scores: float64[m], of the calibration rows; without NaN.
        score_range: Their range.
        part: Of the range.
        coverage: Between 0 and 1.
        pending: Outcomes that typically come between the publication of a quantile and the first that tells of it.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    wanted = part * score_range
    if len(ordered) < 2 or pending <= 0:
        return wanted
    half = (1 - coverage) / 2
    low, high = np.quantile(ordered, [max(coverage - half, 0.0), min(coverage + half, 1.0)]).tolist()
    if high <= low:
        return wanted  # most scores are one and the same: there is no density
    density = (min(coverage + half, 1.0) - max(coverage - half, 0.0)) / (high - low)
    return float(min(wanted, MOST_GAIN / (density * pending)))


def _check(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")


def _first(low: int, holds: Callable[[int], bool]) -> int:
    """Smallest integer from ``low`` on for which something holds that goes on holding; 0 for none."""
    if holds(low):
        return low
    high = 2 * low
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST_ROWS:
            return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
