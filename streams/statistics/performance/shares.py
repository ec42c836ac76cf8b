"""Confidence intervals of shares, and of differences and ratios of two independent numbers.

A number of rows may be effective: rows of unequal weight are worth fewer independent ones (Kish, "Survey Sampling",
1965, section 11.7), so it need not be whole.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

Interval = tuple[float, float]
"""Lower and upper limit."""


def wilson(share: float, rows: float, beta: float = 0.05) -> Interval:
    """The score interval of a share; 0 to 1 where there are no rows.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Args:
        share: Observed, 0 to 1.
        rows: Effective number of rows.
        beta: Error probability, half of it on each side.
    """
    if not rows > 0:
        return 0.0, 1.0
    z2 = float(ndtri(beta / 2)) ** 2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    radius = math.sqrt(z2 * (share * (1 - share) / rows + z2 / (4 * rows**2))) / (1 + z2 / rows)
    # at 0 and 1 the limit is the share itself; rounding must not put it on the other side of it
    return min(max(middle - radius, 0.0), share), max(min(middle + radius, 1.0), share)


def difference(first: float, of_first: Interval, second: float, of_second: Interval) -> Interval:
    """Interval of ``first - second`` from the interval of each.

    With :func:`wilson` intervals it is method 10 of Newcombe, "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, 1998; for other intervals the method of variance estimates
    recovery (Zou and Donner, "Construction of confidence limits about effect measures: a general approach",
    Statistics in Medicine 27, 2008).
    """
    value = first - second
    low = value - math.hypot(first - of_first[0], of_second[1] - second)
    return low, value + math.hypot(of_first[1] - first, second - of_second[0])


def ratio(first: float, of_first: Interval, second: float, of_second: Interval) -> Interval:
    """Interval of ``first / second`` of two numbers that are not negative; infinite above where the second may be 0.

    Source: Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation",
    Statistical Methods in Medical Research 21, 2012; its properties for shares with score intervals: Newcombe, "MOVER-R
    confidence intervals for ratios and products of two independently estimated quantities", ibid. 25, 2016. The lower
    limit is written with the root in the denominator, so that nothing cancels.
    """
    product = first * second

    def root(a: float, b: float) -> float:
        return math.sqrt(max(product**2 - a * (2 * first - a) * b * (2 * second - b), 0.0))

    below = product + root(of_first[0], of_second[1])
    low = of_first[0] * (2 * first - of_first[0]) / below if below > 0 else 0.0
    under = of_second[0] * (2 * second - of_second[0])
    return low, (product + root(of_first[1], of_second[0])) / under if under > 0 else math.inf
