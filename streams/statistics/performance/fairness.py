"""How a model treats groups of people: rates per group, and differences and ratios between groups.

**Rates** per group are named as in scikit-learn and fairlearn: ``selection_rate`` (predicted positive, of all
predictions, resolved or not), ``true_positive_rate``, ``false_positive_rate``, ``false_negative_rate``,
``positive_predictive_value``, ``accuracy``, ``base_rate`` (actual positives); of several classes only ``accuracy``; of
numbers ``mae``, ``bias``, ``mean_actual``.

**Measures** compare groups; each asks for another kind of equality, and unless base rates are equal or predictions
perfect they cannot all hold at once (Chouldechova, "Fair prediction with disparate impact", Big Data 5, 2017;
Kleinberg, Mullainathan and Raghavan, "Inherent trade-offs in the fair determination of risk scores", ITCS 2017):

- demographic parity: selection rates, as difference and as ratio (disparate impact);
- equal opportunity: true-positive rates; equalized odds: true- and false-positive rates (Hardt, Price and Srebro,
  "Equality of opportunity in supervised learning", NIPS 2016);
- predictive parity: positive predictive values (Chouldechova 2017);
- accuracy, mean absolute error, bias.

The intervals of one measure hold together for all of its groups with 95 % (Bonferroni): over the comparisons with a
group that was named beforehand, else over all pairs of groups, since the best group is known only from the same rows.
They are not simultaneous over measures or windows. Rows count as independent; people who come back make the intervals
too narrow. A difference of two rates has Newcombe's interval, a ratio that of Donner and Zou (:mod:`.shares`).

The rates of outcomes are those of resolved pairs: where only the selected ones are ever labelled, or outcomes follow
from decisions, they are not those of all (selective labels: Lakkaraju et al., KDD 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.special import stdtrit

from streams.statistics.performance import shares
from streams.statistics.performance.fields import Sums, weighted
from streams.statistics.performance.intervals import design_effect
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout
from streams.statistics.performance.shares import Interval

MINIMUM_ROWS = 30
"""A group whose rate is of fewer rows is shown and not judged: its interval would span most of what is possible."""

FOUR_FIFTHS = 0.8
"""Selection at less than four fifths of the rate of the group selected most is "generally regarded" as evidence of
adverse impact by the agencies that enforce US employment law (29 CFR 1607.4 D, 1978). It is a rule of thumb about
favourable decisions, neither a test of significance nor a finding of law."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate or mean of one group.

    Attributes:
        value: None where there are no rows.
        low: Lower 95 % limit, for this group alone.
        high: Upper limit.
        rows: Rows it is a share or mean of.
        effective: Independent rows that they are worth with their weights.
        deviation: Standard deviation of one row; None for a share.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int
    effective: float
    deviation: float | None = None

    def interval(self, beta: float) -> Interval:
        """Limits with error probability ``beta``: Wilson's for a share, Student's for a mean."""
        if self.value is None:
            return -math.inf, math.inf
        if self.deviation is None:
            return shares.wilson(self.value, self.effective, beta)
        if self.effective <= 1:
            return -math.inf, math.inf
        radius = -stdtrit(self.effective - 1, beta / 2) * self.deviation / math.sqrt(self.effective)
        return self.value - radius, self.value + radius


@dataclass(frozen=True, slots=True)
class Measure:
    """A way to compare groups: by ``rates``, the largest of several differences; by ``ratio`` or difference.

    ``best`` turns a rate into what is larger for a better treated group.
    """

    name: str
    title: str
    rates: tuple[str, ...]
    best: tuple[Callable[[float], float], ...]
    ratio: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """One group beside the reference group.

    Attributes:
        measure: Name of the measure.
        group: The group.
        reference: The group it is compared with; of equalized odds against the best of each rate, empty.
        value: Group less reference, or their ratio; equalized odds: the larger of the two absolute differences. None
            where there is nothing to divide.
        low: Lower limit, simultaneous for all groups.
        high: Upper limit; infinite where the reference's rate may be 0.
        rows: Of the group, the fewest of its rates.
        judged: Whether both groups have enough rows.
        differs: Whether equality lies outside the interval; never where it is not judged.
    """

    measure: str
    group: str
    reference: str
    value: float | None
    low: float | None
    high: float | None
    rows: int
    judged: bool
    differs: bool


@dataclass(frozen=True, slots=True)
class Disparity:
    """How far the judged groups are apart at most: fairlearn's measures ``between_groups``.

    ``value`` is the largest difference of two groups or the smallest ratio; ``lowest`` and ``highest`` are the groups
    with that; None and empty where fewer than two groups can be judged.
    """

    measure: str
    value: float | None
    low: float | None
    high: float | None
    lowest: str
    highest: str
    groups: int


def _more(rate: float) -> float:
    return rate


def _less(rate: float) -> float:
    return -rate


def _nearer(mean: float) -> float:
    return -abs(mean)


_ACCURACY = Measure("accuracy_difference", "accuracy", ("accuracy",), (_more,))

MEASURES: Mapping[str, tuple[Measure, ...]] = {
    BINARY: (
        Measure("demographic_parity_difference", "demographic parity", ("selection_rate",), (_more,)),
        Measure("demographic_parity_ratio", "disparate impact", ("selection_rate",), (_more,), ratio=True),
        Measure("equal_opportunity_difference", "equal opportunity", ("true_positive_rate",), (_more,)),
        Measure("false_positive_rate_difference", "false-positive rate", ("false_positive_rate",), (_less,)),
        Measure(
            "equalized_odds_difference",
            "equalised odds",
            ("true_positive_rate", "false_positive_rate"),
            (_more, _less),
        ),
        Measure("predictive_parity_difference", "predictive parity", ("positive_predictive_value",), (_more,)),
        _ACCURACY,
    ),
    MULTICLASS: (_ACCURACY,),
    REGRESSION: (
        Measure("mae_difference", "mean absolute error", ("mae",), (_less,)),
        Measure("bias_difference", "bias", ("bias",), (_nearer,)),
    ),
}
"""By task."""


def group_rates(layout: PerformanceLayout, groups: Mapping[str, Sums]) -> dict[str, dict[str, Rate]]:
    """The rates of each group by name, in the order of ``groups``.

    Args:
        layout: What is kept; the positive class is the second one.
        groups: Sums (no group axis) by the group's name.
    """
    kinds = {BINARY: _binary, MULTICLASS: _classes, REGRESSION: _numbers}
    if layout.task not in kinds:
        return {name: {} for name in groups}
    return {name: kinds[layout.task](sums) for name, sums in groups.items()}


def compare_groups(
    layout: PerformanceLayout,
    rates: Mapping[str, Mapping[str, Rate]],
    *,
    reference: str | None = None,
    minimum_rows: int = MINIMUM_ROWS,
    beta: float = 0.05,
) -> list[Comparison]:
    """Every group beside one, for every measure of the task: a named one, or the one that is treated best.

    Best is the highest selection, true-positive and accuracy rate and predictive value, the lowest false-positive rate
    and error, the bias nearest to zero; among those with enough rows, the first of equals.

    Args:
        layout: What is kept.
        rates: As :func:`group_rates` gives them.
        reference: The group to compare with.
        minimum_rows: Groups with fewer rows are shown and not judged.
        beta: Error probability of all intervals of one measure together.

    Raises:
        KeyError: There is no such reference group.
    """
    if reference is not None and reference not in rates:
        raise KeyError(reference)
    found: list[Comparison] = []
    for measure in MEASURES.get(layout.task, ()):
        judged = _judged(measure, rates, minimum_rows)
        if reference is None and not judged:
            continue
        known = len(judged) - (reference in judged)
        each = beta / max(known if reference is not None else math.comb(len(judged), 2), 1) / len(measure.rates)
        beside = [
            reference if reference is not None else _best(judged, rates, rate, best)
            for rate, best in zip(measure.rates, measure.best, strict=True)
        ]
        for group in rates:
            if set(beside) != {group}:
                found.append(_comparison(measure, rates, group, beside, judged, each))
    return found


def disparities(
    layout: PerformanceLayout,
    rates: Mapping[str, Mapping[str, Rate]],
    *,
    minimum_rows: int = MINIMUM_ROWS,
    beta: float = 0.05,
) -> list[Disparity]:
    """How far the groups with enough rows are apart at most, for every measure of the task.

    Where the intervals of all pairs hold, the largest difference is at least the largest of their lower limits and at
    most the largest of their upper ones; so no correction for having looked for the extreme pair is missing.
    """
    found = []
    for measure in MEASURES.get(layout.task, ()):
        judged = _judged(measure, rates, minimum_rows)
        if len(judged) < 2:
            found.append(Disparity(measure.name, None, None, None, "", "", len(judged)))
            continue
        each = beta / math.comb(len(judged), 2) / len(measure.rates)
        pairs = [(first, second, rate) for rate in measure.rates for first, second in permutations(judged, 2)]
        values = [_compared(measure, rates[a][rate], rates[b][rate], each) for a, b, rate in pairs]
        told = [(v, pair) for v, pair in zip(values, pairs, strict=True) if v is not None]
        if not told:
            found.append(Disparity(measure.name, None, None, None, "", "", len(judged)))
            continue
        pick = min if measure.ratio else max
        value, (first, second, _) = pick(told, key=lambda one: one[0][0])
        low, high = pick(v[1] for v, _ in told), pick(v[2] for v, _ in told)
        if not measure.ratio:
            low = max(low, 0.0)
        ends = (first, second) if measure.ratio else (second, first)
        found.append(Disparity(measure.name, value[0], low, high, *ends, len(judged)))
    return found


def four_fifths(ratio: Comparison) -> str:
    """What the four-fifths rule says of a disparate impact: ``below``, ``below, within the error``, ``not below``, or
    nothing where it is not judged.
    """
    if not ratio.judged or ratio.value is None or ratio.high is None:
        return ""
    if ratio.value >= FOUR_FIFTHS:
        return "not below"
    return "below" if ratio.high < FOUR_FIFTHS else "below, within the error"


def _judged(measure: Measure, rates: Mapping[str, Mapping[str, Rate]], minimum_rows: int) -> list[str]:
    return [group for group, found in rates.items() if _rows(measure, found) >= minimum_rows]


def _rows(measure: Measure, found: Mapping[str, Rate]) -> int:
    return min(found[rate].rows if found[rate].value is not None else 0 for rate in measure.rates)


def _best(
    judged: Sequence[str], rates: Mapping[str, Mapping[str, Rate]], rate: str, best: Callable[[float], float]
) -> str:
    return max(judged, key=lambda group: best(rates[group][rate].value or 0.0))


def _comparison(
    measure: Measure,
    rates: Mapping[str, Mapping[str, Rate]],
    group: str,
    beside: Sequence[str],
    judged: Sequence[str],
    beta: float,
) -> Comparison:
    """``beside``: per rate of the measure, the group to compare with."""
    sides = [
        _compared(measure, rates[group][rate], rates[other][rate], beta)
        for rate, other in zip(measure.rates, beside, strict=True)
    ]
    told = [side for side in sides if side is not None]
    value = low = high = None
    if len(told) == len(sides) == 1:
        value, low, high = told[0]
    elif len(told) == len(sides):
        spans = [_absolute(low, high) for _, low, high in told]
        value = max(abs(one) for one, _, _ in told)
        low, high = max(low for low, _ in spans), max(high for _, high in spans)
    enough = group in judged and all(other in judged for other in beside)
    equal = 1.0 if measure.ratio else 0.0
    return Comparison(
        measure=measure.name,
        group=group,
        reference=beside[0] if len(set(beside)) == 1 else "",
        value=value,
        low=low,
        high=high,
        rows=_rows(measure, rates[group]),
        judged=enough,
        differs=enough and low is not None and high is not None and not low <= equal <= high,
    )


def _compared(measure: Measure, first: Rate, second: Rate, beta: float) -> tuple[float, float, float] | None:
    """Value and limits of two groups' difference or ratio; None where there is none."""
    if first.value is None or second.value is None:
        return None
    ends = first.interval(beta), second.interval(beta)
    if not measure.ratio:
        return first.value - second.value, *shares.difference(first.value, ends[0], second.value, ends[1])
    if second.value == 0:
        return None
    return first.value / second.value, *shares.ratio(first.value, ends[0], second.value, ends[1])


def _absolute(low: float, high: float) -> Interval:
    """Limits of the absolute value of a number between two limits."""
    return max(low, -high, 0.0), max(-low, high)


def _binary(sums: Sums) -> dict[str, Rate]:
    rows, weights, effect = sums["confusion"], weighted(sums, "confusion"), design_effect(sums)
    (true_negative, false_negative), (false_positive, true_positive) = weights.tolist()
    positive, negative = true_positive + false_negative, true_negative + false_positive
    actual, every = rows.sum(axis=0).tolist(), int(rows.sum())
    said = sums["predicted_scores"].sum(axis=0).tolist()
    return {
        "selection_rate": _share(said[1], sum(said), sum(said), 1.0),
        "true_positive_rate": _share(true_positive, positive, actual[1], effect),
        "false_positive_rate": _share(false_positive, negative, actual[0], effect),
        "false_negative_rate": _share(false_negative, positive, actual[1], effect),
        "positive_predictive_value": _share(true_positive, true_positive + false_positive, int(rows[1].sum()), effect),
        "accuracy": _share(true_positive + true_negative, positive + negative, every, effect),
        "base_rate": _share(positive, positive + negative, every, effect),
    }


def _classes(sums: Sums) -> dict[str, Rate]:
    weights = weighted(sums, "confusion")
    return {"accuracy": _share(np.trace(weights), weights.sum(), int(sums["confusion"].sum()), design_effect(sums))}


def _numbers(sums: Sums) -> dict[str, Rate]:
    weight, rows, effect = int(weighted(sums, "with_prediction")), int(sums["with_prediction"]), design_effect(sums)
    means = {
        "mae": ("absolute_error", "squared_error"),
        "bias": ("error", "squared_error"),
        "mean_actual": ("actual", "actual_squared"),
    }
    return {
        rate: _mean(int(sums[total]), int(sums[squares]), weight, rows, effect)
        for rate, (total, squares) in means.items()
    }


def _share(part: int, whole: int, rows: int, effect: float) -> Rate:
    if not whole:
        return Rate(None, None, None, rows, 0.0)
    value, effective = part / whole, rows * effect
    return Rate(value, *shares.wilson(value, effective), rows, effective)


def _mean(total: int, squares: int, weight: int, rows: int, effect: float) -> Rate:
    if not weight or not rows:
        return Rate(None, None, None, rows, 0.0)
    value = total / weight
    effective = rows * effect
    bessel = effective / (effective - 1) if effective > 1 else 1.0
    deviation = math.sqrt(max(squares / weight - value**2, 0.0) * bessel)
    low, high = Rate(value, None, None, rows, effective, deviation).interval(0.05)
    told = math.isfinite(low)
    return Rate(value, low if told else None, high if told else None, rows, effective, deviation)
