"""What the outcomes of two baselines show, side by side: coverage, delay, outcome rate and how good the model was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.deployments.outcome_summary import OutcomeSummary, metric_text, summarise_outcomes
from streams.baseline import Baseline
from streams.outcomes.ages import age_text
from streams.statistics.performance.metrics import Metric
from streams.statistics.performance.shares import difference, wilson

COVERAGE, HORIZON, FINAL_AGE, MEDIAN_AGE = "coverage", "horizon", "final age", "median age"
AGES = (HORIZON, FINAL_AGE, MEDIAN_AGE)

CHANGED, SAME, UNKNOWN = "changed", "", "not comparable"


@dataclass(frozen=True, slots=True)
class OutcomeDifference:
    """One figure of two baselines.

    Attributes:
        name: A metric, ``coverage``, or one of :data:`AGES`.
        first: Its value in the first, for people; empty where it has none.
        second: In the second.
        change: Second less first, of ages in microseconds; None where one of them has none.
        low: Lower 95 % limit of the change; None where it is not known.
        high: Upper limit.
        verdict: ``changed`` where the limits leave 0 out; ``not comparable`` where classes or tasks differ, or one
            horizon ended before the other's outcomes were known.
    """

    name: str
    first: str
    second: str
    change: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = SAME


def compare_outcomes(first: Baseline, second: Baseline) -> list[OutcomeDifference]:
    """Every figure that one of two baselines has of its outcomes; empty where neither has any.

    Metrics are those when all was known, so that both are of one maturity; unless one of them did not wait so long.
    """
    before, after = summarise_outcomes(first), summarise_outcomes(second)
    if before is None and after is None:
        return []
    return [_coverage(before, after), *_ages(before, after), *_metrics(before, after)]


def _coverage(before: OutcomeSummary | None, after: OutcomeSummary | None) -> OutcomeDifference:
    alike = before is None or after is None or before.reference.horizon_ms == after.reference.horizon_ms
    return _metric_difference(COVERAGE, _coverage_of(before), _coverage_of(after), comparable=alike)


def _coverage_of(found: OutcomeSummary | None) -> Metric | None:
    if found is None:
        return None
    rows = found.reference.rows
    return Metric(found.coverage, *wilson(found.coverage, rows), rows)


def _ages(before: OutcomeSummary | None, after: OutcomeSummary | None) -> list[OutcomeDifference]:
    both: list[tuple[str, int | None, int | None]] = [
        (HORIZON, _horizon(before), _horizon(after)),
        (FINAL_AGE, _final_age(before), _final_age(after)),
        (MEDIAN_AGE, _median_age(before), _median_age(after)),
    ]
    return [
        OutcomeDifference(
            name,
            "" if a is None else age_text(a),
            "" if b is None else age_text(b),
            None if a is None or b is None else float(b - a),
        )
        for name, a, b in both
    ]


def _horizon(found: OutcomeSummary | None) -> int | None:
    return None if found is None else found.reference.horizon_ms * 1000


def _final_age(found: OutcomeSummary | None) -> int | None:
    return None if found is None else found.reference.final_age_us


def _median_age(found: OutcomeSummary | None) -> int | None:
    """The age by which half of the outcomes that ever came were known."""
    if found is None:
        return None
    known, ages = found.curve.known, found.curve.ages_us
    at = int(np.searchsorted(known, known[-1] / 2, "left"))
    if at == 0:
        return int(ages[0])
    return int(np.interp(known[-1] / 2, known[at - 1 : at + 1], ages[at - 1 : at + 1]))


def _metrics(before: OutcomeSummary | None, after: OutcomeSummary | None) -> list[OutcomeDifference]:
    names = [*(() if after is None else after.metrics), *(() if before is None else before.metrics)]
    alike = before is None or after is None or _alike(before, after)
    found = [
        _metric_difference(
            name,
            None if before is None else before.metrics.get(name),
            None if after is None else after.metrics.get(name),
            comparable=alike,
        )
        for name in dict.fromkeys(names)
    ]
    return [each for each in found if each.first or each.second]


def _alike(before: OutcomeSummary, after: OutcomeSummary) -> bool:
    one, other = before.reference, after.reference
    waited = min(one.horizon_ms, other.horizon_ms) * 1000
    matured = one.horizon_ms == other.horizon_ms or max(one.final_age_us, other.final_age_us) <= waited
    return before.task == after.task and one.classes == other.classes and matured


def _metric_difference(
    name: str, first: Metric | None, second: Metric | None, *, comparable: bool
) -> OutcomeDifference:
    first_text, second_text = _text(first), _text(second)
    if first is None or second is None or first.value is None or second.value is None:
        return OutcomeDifference(name, first_text, second_text)
    if not comparable:
        return OutcomeDifference(name, first_text, second_text, verdict=UNKNOWN)
    change = second.value - first.value
    before, after = _limits(first), _limits(second)
    if before is None or after is None:
        return OutcomeDifference(name, first_text, second_text, change)
    low, high = difference(second.value, after, first.value, before)
    return OutcomeDifference(name, first_text, second_text, change, low, high, CHANGED if low > 0 or high < 0 else SAME)


def _text(metric: Metric | None) -> str:
    return "" if metric is None or metric.value is None else metric_text(metric)


def _limits(metric: Metric | None) -> tuple[float, float] | None:
    if metric is None or metric.low is None or metric.high is None:
        return None
    return metric.low, metric.high
