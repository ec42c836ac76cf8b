"""A deployment's accuracy as it is shown: every window's metrics beside the reference at the same ages of outcomes, the
estimate without labels, and what is to be known of them.

The reference is of all traffic: parts have values and estimates, and no reference of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.performance.belief import ConceptAlarm, EstimatorError, doubt, estimator_error
from services.performance.edges import depends_on_edges
from services.performance.maturity import delay_curve, expected_coverage, fits, matched_reference
from services.performance.names import COVERAGE
from services.performance.windows import ALL, FINAL, Window
from streams.baseline import Baseline
from streams.statistics.performance import shares
from streams.statistics.performance.estimation import EstimateError, estimate, realised_error
from streams.statistics.performance.grid import ONE
from streams.statistics.performance.intervals import design_effect
from streams.statistics.performance.metrics import Metric, metrics
from streams.statistics.performance.sums import Sums

ABOVE, BELOW = "above", "below"


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric of one part of a window.

    Attributes:
        value: What the outcomes so far say.
        reference: What those of the reference said at the same ages; None where that is not known.
        estimate: What the scores alone promise of all predictions; None where nothing can be estimated.
    """

    value: Metric | None
    reference: Metric | None = None
    estimate: Metric | None = None

    @property
    def outside(self) -> str:
        """``above`` or ``below`` where the difference from the reference is more than chance and the bins' error.

        Each on its own with 95 %: of twenty windows without any change one is outside.
        """
        value, reference = _limits(self.value), _limits(self.reference)
        if value is None or reference is None:
            return ""
        low, high = shares.difference(value[0], value[1:], reference[0], reference[1:])
        return ABOVE if low > 0 else BELOW if high < 0 else ""

    @property
    def estimate_error(self) -> EstimateError | None:
        """How far the estimate is from what the outcomes so far say; None without one of them."""
        if self.value is None or self.estimate is None:
            return None
        return realised_error({"": self.estimate}, {"": self.value}).get("")


@dataclass(frozen=True, slots=True)
class PartReading:
    """One part of the traffic in one window.

    Attributes:
        part: ``SEGMENTATION=VALUE``; empty for all.
        predictions: Their number.
        resolved: How many of them have an outcome.
        acted: Of these, how many were not acted on, were, and not known.
        weighted: Whether outcomes stand for others: some came with a labelling probability below one.
        effective: How many outcomes of equal weight they are worth (Kish 1965).
        readings: By metric.
    """

    part: str
    predictions: int
    resolved: int
    acted: tuple[int, int, int]
    weighted: bool
    effective: float
    readings: Mapping[str, Reading]

    @property
    def coverage(self) -> float | None:
        """Share of predictions with an outcome."""
        return self.resolved / self.predictions if self.predictions else None


@dataclass(frozen=True, slots=True)
class WindowReading:
    """One window with what is known beside it.

    Attributes:
        window: The window.
        parts: Those that were asked for and have predictions.
        expected_coverage: Share of predictions that had an outcome in the reference when they were as old; None where
            the reference has none.
        mature_at_us: When 99 % of the outcomes that will come are known, by the reference; None where it has none.
        doubt: The alarm for which the estimates are not to be believed.
        has_reference: Whether the baseline has outcomes to compare with.
    """

    window: Window
    parts: tuple[PartReading, ...]
    expected_coverage: float | None = None
    mature_at_us: int | None = None
    doubt: ConceptAlarm | None = None
    has_reference: bool = False

    def disproved(self, reading: Reading) -> bool:
        """Whether an estimate was wrong: everything is known, and lies outside the estimate's interval."""
        error = reading.estimate_error
        return self.window.status == FINAL and error is not None and not error.inside

    @property
    def acted(self) -> int:
        """How many of all its predictions with an outcome were acted on."""
        return int(self.window.parts[ALL]["acted"][1]) if ALL in self.window.parts else 0

    @property
    def acted_unknown(self) -> int:
        """Of how many of them nobody said whether they were."""
        return int(self.window.parts[ALL]["acted"][2]) if ALL in self.window.parts else 0

    @property
    def resolved(self) -> int:
        """How many of all its predictions have an outcome."""
        return int(self.window.parts[ALL]["resolved"]) if ALL in self.window.parts else 0

    @property
    def weighted(self) -> bool:
        """Whether outcomes stand for others: some came with a labelling probability below one."""
        return ALL in self.window.parts and _is_weighted(self.window.parts[ALL])

    @property
    def effective(self) -> float:
        """How many outcomes of equal weight they are worth (Kish 1965)."""
        return self.resolved * design_effect(self.window.parts[ALL]) if ALL in self.window.parts else 0.0


def read_window(
    window: Window, parts: Iterable[str], baselines: Mapping[str, Baseline], alarms: Sequence[ConceptAlarm]
) -> WindowReading:
    """Everything there is to say of a window's metrics.

    Args:
        window: The window.
        parts: The parts that are asked for; empty for all of the traffic.
        baselines: By digest.
        alarms: Alarms for concept drift of the deployment.
    """
    baseline = baselines.get(window.baselines[0]) if len(window.baselines) == 1 else None
    curve = None if baseline is None else delay_curve(baseline)
    reference = None if baseline is None else baseline.outcomes
    expected = None if curve is None else expected_coverage(curve, window.spans)
    return WindowReading(
        window=window,
        parts=tuple(
            _part(window, part, window.parts[part], baseline, expected) for part in parts if part in window.parts
        ),
        expected_coverage=expected,
        mature_at_us=None if reference is None else max(span.end_us for span in window.spans) + reference.final_age_us,
        doubt=doubt(alarms, window.start_us, window.end_us, baseline),
        has_reference=reference is not None and fits(reference, window.layout),
    )


def estimator_errors(readings: Iterable[WindowReading], metric: str) -> dict[bool, EstimatorError | None]:
    """How far the estimates of a metric were from the truth over final windows: of those to be believed, and others."""
    found: dict[bool, list[EstimateError]] = {True: [], False: []}
    for each in readings:
        # parts are some of the rows of all: where both are shown, all tell
        parts = [part for part in each.parts if part.part == ALL] or each.parts
        for part in parts if each.window.status == FINAL else ():
            error = part.readings.get(metric, Reading(None)).estimate_error
            if error is not None:
                found[each.doubt is None].append(error)
    return {believed: estimator_error(errors) for believed, errors in found.items()}


def _part(window: Window, part: str, sums: Sums, baseline: Baseline | None, expected: float | None) -> PartReading:
    values = {
        name: metric
        for name, metric in metrics(window.layout, sums).items()
        if not (window.mixed_edges and depends_on_edges(name))
    }
    reference: Mapping[str, Metric] = {}
    estimates: Mapping[str, Metric] = {}
    outcomes = None if baseline is None else baseline.outcomes
    if outcomes is not None and fits(outcomes, window.layout):
        reference = matched_reference(outcomes, window.layout, sums) if part == ALL else {}
        estimates = estimate(window.layout, outcomes, sums)
    predictions, resolved = int(sums["predictions"]), int(sums["resolved"])
    readings = {name: Reading(value, reference.get(name), estimates.get(name)) for name, value in values.items()}
    share = resolved / predictions if predictions else None
    low, high = (None, None) if share is None else shares.wilson(share, predictions)
    readings[COVERAGE] = Reading(
        Metric(share, low, high, predictions), None if expected is None else Metric(expected, None, None, predictions)
    )
    not_acted, acted, unknown = (int(number) for number in sums["acted"])
    return PartReading(
        part=part,
        predictions=predictions,
        resolved=resolved,
        acted=(not_acted, acted, unknown),
        weighted=_is_weighted(sums),
        effective=resolved * design_effect(sums),
        readings=readings,
    )


def _is_weighted(sums: Sums) -> bool:
    return int(sums["weights"]) != int(sums["resolved"]) * ONE


def _limits(metric: Metric | None) -> tuple[float, float, float] | None:
    if metric is None or metric.value is None or metric.low is None or metric.high is None:
        return None
    return metric.value, metric.low - metric.error, metric.high + metric.error
