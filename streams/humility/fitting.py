"""The steps of a fit: what each guarantee needs, and what is said where it lacks it; see :mod:`.fit`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from driftline.events import Floats
from driftline.humility.arming import COVERAGE, NOVELTY, RISK
from driftline.humility.batch import Batch
from driftline.humility.certainty import Certainty
from driftline.humility.fit import (
    ABSOLUTE_RESIDUAL,
    INTERVAL_EXCESS,
    ONE_MINUS_PROBABILITY,
    CoverageStart,
    HumilityFit,
    NoveltyThreshold,
    RiskCertificate,
    Shortfall,
)
from driftline.humility.layout import Layout
from driftline.humility.novelty import novelty_scores
from driftline.humility.rules import Guarantees, HumilitySpec
from driftline.reading import PREDICTION
from streams.baseline import Baseline
from streams.humility.bounds import columns_together, fit_bounds
from streams.humility.groups import POOLED, Grouped, Groups, by_group
from streams.humility.history import History, Integers, Mask, Resolved
from streams.humility.surprise import learn_novelty
from streams.humility.usual import observed_regions, prior
from streams.parts import MINIMUM_PART_ROWS
from streams.specification import BINARY, MULTICLASS, NUMERIC, REGRESSION, DeploymentSpec
from streams.statistics.humility import (
    Certificate,
    RowsNeeded,
    Uncertified,
    certificate_thresholds,
    certify,
    conformal_threshold,
    range_of_scores,
    rows_to_certify,
    split_conformal_quantile,
    tracker_step,
)
from streams.statistics.performance.coverage import coverage_scores
from streams.weights import importances

MOST_TOLD = 5
"""Of longer lists of columns the beginning is told."""


@dataclass
class Fitting:
    """A fit while it is made."""

    spec: DeploymentSpec
    asked: HumilitySpec
    baseline: Baseline
    history: History
    resolved: Resolved | None
    shortfalls: list[Shortfall] = field(default_factory=list)
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    """float64[m], the scores of coverage of the resolved rows, NaN where there is none."""

    def __post_init__(self) -> None:
        self.groups = self._groups()

    @property
    def wanted(self) -> Guarantees:
        """What is to be guaranteed."""
        return self.asked.guarantees

    def run(self, source: str) -> HumilityFit:
        """All of it."""
        history, wanted = self.history, self.wanted
        fit = HumilityFit(
            spec_digest=self.asked.digest(),
            source=source,
            rows=len(history.rows),
            learning_rows=int((~history.calibrates).sum()),
            first_event_us=int(history.times_us[0]),
            last_event_us=int(history.times_us[-1]),
            confidence=wanted.confidence,
            novelty_rate=wanted.novelty_rate,
            max_error=wanted.max_error,
            coverage=wanted.coverage,
            tolerance=wanted.tolerance,
        )
        for step in (self._novelty, self._risk, self._coverage, self._bounds, self._usual):
            fit = step(fit)
        return replace(fit, shortfalls=tuple(self.shortfalls))

    def missed(self, fit: HumilityFit) -> Mask:
        """Of the calibration rows with a score, in the order of their outcomes: which are not covered, bool[k]."""
        rows = self._calibrating()
        scores = self.scores[rows] if len(self.scores) else np.zeros(0)
        known = np.flatnonzero(~np.isnan(scores))
        starts = {start.segment: start.quantile for start in fit.coverage_starts}
        if POOLED not in starts:
            return np.zeros(0, bool)
        by_part = np.array([*(starts.get(name, starts[POOLED]) for name in self.groups.names), starts[POOLED]])
        assert self.resolved is not None
        return np.asarray(scores[known] > by_part[self.groups.codes[self.resolved.rows[rows[known]]]])

    # Groups

    def _groups(self) -> Groups:
        name, history = self.wanted.segment, self.history
        segment = next((each for each in self.baseline.segments if each.name == name), None)
        if name is not None and segment is None:
            for guarantee, asked in ((NOVELTY, self.wanted.novelty_rate), (RISK, self.wanted.max_error),
                                     (COVERAGE, self.wanted.coverage)):  # fmt: skip
                if asked is not None:
                    reason = f"no part of {name!r} has the {MINIMUM_PART_ROWS:,} reference rows that a part needs"
                    self._lacks(guarantee, name, RowsNeeded(0, MINIMUM_PART_ROWS), reason)
        return Groups.of(segment, history.batches, history.rows)

    def _lacks(self, guarantee: str, segment: str, needed: RowsNeeded, reason: str) -> None:
        self.shortfalls.append(Shortfall(guarantee, segment, needed.rows, needed.needed, reason))

    def _tell(self, guarantee: str, grouped: Grouped[object], what: str) -> None:
        """Shortfalls of groups with too few rows; those in the pooled group's place say what becomes of them."""
        has_pooled = any(name == POOLED for name, _, _ in grouped.found)
        for name, lacking in grouped.short:
            reason = f"{what} takes {lacking.needed:,} calibration rows, which are half of all, and there are "
            reason += f"{lacking.rows:,}{self._thinned(guarantee)}"
            if name == POOLED and has_pooled:
                reason += " in parts that have no group of their own: what holds for all rows together is used for them"
            elif name != POOLED:
                reason += ": its rows join those of all parts that have none of their own"
            self._lacks(guarantee, name, lacking, reason)

    def _thinned(self, guarantee: str) -> str:
        """What became of labelled rows, where a fair sample had to be drawn of them."""
        if guarantee == NOVELTY or self.resolved is None or self.resolved.labelled == len(self.resolved.rows):
            return ""
        return (
            f" (of {self.resolved.labelled:,} labelled rows {len(self.resolved.rows):,} are a fair sample, as some had "
            "a larger labelling_probability than others)"
        )

    # Novelty

    def _novelty(self, fit: HumilityFit) -> HumilityFit:
        rate = self.wanted.novelty_rate
        if rate is None:
            return fit
        columns, joint = learn_novelty(self.spec, importances(self.spec, self.baseline), self.history)
        learnt = replace(fit, novelty=columns)
        if joint is not None:
            arrays = {name: tuple(array.tolist()) for name, array in sorted(joint.arrays.items())}
            learnt = replace(learnt, joint=arrays, joint_columns=joint.inputs)
        if not learnt.novelty:
            self._lacks(NOVELTY, POOLED, RowsNeeded(0, 0), "no numeric or categorical feature is watched")
            return learnt
        scores = np.concatenate([novelty_scores(learnt, batch) for batch in self.history.batches])[self.history.rows]
        rows = np.flatnonzero(self.history.calibrates)
        grouped = by_group(
            self.groups, rows, lambda chosen: conformal_threshold(scores[chosen], rate, self.wanted.confidence)
        )
        self._tell(NOVELTY, grouped, f"a rate of {rate:g} with confidence {self.wanted.confidence:g}")
        thresholds = tuple(
            NoveltyThreshold(name, count, threshold.score, threshold.rate_bound)
            for name, count, threshold in grouped.found
        )
        return replace(learnt, novelty_thresholds=thresholds)

    # Risk

    def _risk(self, fit: HumilityFit) -> HumilityFit:
        most = self.wanted.max_error
        if most is None:
            return fit
        least = rows_to_certify(0.0, most, self.wanted.confidence)
        resolved = self._with_outcomes(RISK, least)
        if resolved is None:
            return fit
        errors, judged = self._errors(resolved)
        confidences = self._confidences()
        if judged is None or not np.isfinite(confidences[resolved.rows]).any():
            self._lacks(RISK, POOLED, RowsNeeded(0, 0), self._why_no_risk(judged is not None))
            return fit
        wrong = np.zeros(len(self.history.rows), bool)
        wrong[resolved.rows[errors]] = True
        rows = np.sort(resolved.rows[judged & self.history.calibrates[resolved.rows]])
        learns = np.flatnonzero(~self.history.calibrates)

        def compute(chosen: Integers) -> Certificate | Uncertified | RowsNeeded:
            # a group's own thresholds: the strictest of a surer one would answer too few of its rows to pass
            like = learns[np.isin(self.groups.codes[learns], self.groups.codes[chosen])]
            own = like if np.isfinite(confidences[like]).any() else learns
            thresholds = certificate_thresholds(confidences[own], len(chosen), most, self.wanted.confidence)
            return certify(confidences[chosen], wrong[chosen], thresholds, most, self.wanted.confidence)

        grouped = by_group(self.groups, rows, compute)
        for name, count, found in grouped.found:
            if isinstance(found, Uncertified):
                self._lacks(RISK, name, RowsNeeded(count, found.needed), _why_uncertified(found, most))
        # after what was tried: a rule that is not armed is told the first of them
        self._tell(RISK, grouped, f"an error of at most {most:g} with confidence {self.wanted.confidence:g}")
        if all(isinstance(found, Uncertified) for _, _, found in grouped.found):
            return fit  # a rule that would refuse everything is not armed
        certificates = tuple(
            RiskCertificate(
                name, count, found.threshold, found.errors, found.answered, found.error_bound, found.answered_bound
            )
            if isinstance(found, Certificate)
            else RiskCertificate(name, count, math.inf, 0, 0, 1.0, 0.0)
            for name, count, found in grouped.found
        )
        return replace(fit, certificates=certificates)

    def _errors(self, resolved: Resolved) -> tuple[Mask, Mask | None]:
        """Which predictions were wrong, bool[m], and of which that is known; None if it never can be."""
        nothing = np.zeros(len(resolved.rows), bool)
        if resolved.layout.task == REGRESSION:
            if self.wanted.tolerance is None:
                return nothing, None
            predicted = resolved.predicted.scores[:, 0]
            known = np.isfinite(predicted)
            with np.errstate(over="ignore", invalid="ignore"):
                return known & (np.abs(resolved.actual - predicted) > self.wanted.tolerance), known
        if resolved.layout.task not in (BINARY, MULTICLASS):
            return nothing, None
        known = resolved.predicted.labels >= 0
        return known & (resolved.predicted.labels != resolved.actual), known

    def _why_no_risk(self, judged: bool) -> str:
        if judged and self.spec.task == REGRESSION:
            return "the model gives no intervals of its own, so nothing says how sure it is of a prediction"
        if judged:
            return "predictions with an outcome have neither a score nor class probabilities"
        if self.spec.task == REGRESSION:
            return "which error is one is not said: give guarantees a tolerance"
        return f"what an error is cannot be told: the task is {self.spec.task}, or its classes are not known"

    def _confidences(self) -> Floats:
        """How sure each prediction of the history is of itself, float64[n]; NaN where that is not known."""
        layout = Layout(self.spec.task, self.spec.positive_class, None)
        certainty = Certainty(self.spec.task, self.spec.positive_class)
        found = []
        for batch in self.history.batches:
            with np.errstate(all="ignore"):
                found.append(certainty.confidence(Batch(layout, batch, np.zeros(batch.rows, np.uint8))))
        return np.concatenate(found)[self.history.rows]

    # Coverage

    def _coverage(self, fit: HumilityFit) -> HumilityFit:
        coverage = self.wanted.coverage
        if coverage is None:
            return fit
        none = split_conformal_quantile([], coverage)
        resolved = self._with_outcomes(COVERAGE, none.needed if isinstance(none, RowsNeeded) else 0)
        if resolved is None:
            return fit
        score = _score_of(resolved)
        self.scores = coverage_scores(score, resolved.layout.task, resolved.predicted, resolved.actual)
        known = self._calibrating()
        known = known[np.isfinite(self.scores[known])]
        if not len(known):
            self._lacks(COVERAGE, POOLED, RowsNeeded(0, 0), self._why_no_scores())
            return fit
        of_row = np.full(len(self.history.rows), np.nan)
        of_row[resolved.rows[known]] = self.scores[known]
        rows = np.sort(resolved.rows[known])
        grouped = by_group(self.groups, rows, lambda chosen: split_conformal_quantile(of_row[chosen], coverage))
        self._tell(COVERAGE, grouped, f"a coverage of {coverage:g}")
        calibration = of_row[rows]
        score_range = 1.0 if score == ONE_MINUS_PROBABILITY else range_of_scores(calibration)
        step = tracker_step(calibration, score_range, self.wanted.step, coverage, self._pending(resolved))
        starts = tuple(CoverageStart(name, count, quantile) for name, count, quantile in grouped.found)
        if not starts:
            return fit
        return replace(fit, coverage_score=score, score_range=score_range, step=step, coverage_starts=starts)

    def _pending(self, resolved: Resolved) -> float:
        """Outcomes of a partition that come between the publication of a quantile and the first that tells of it.

        By Little's law the rate of outcomes times how long it takes: the age of an outcome, and the slot for which a
        quantile is published.
        """
        times = self.history.times_us[resolved.rows]
        span_us = int(times.max() - times.min())
        if not span_us:
            return 0.0
        delay_us = float(resolved.ages_us.mean()) + self.spec.start_slot_ms * 1000
        return len(times) / span_us * delay_us / self.spec.shards

    def _why_no_scores(self) -> str:
        if self.spec.task == REGRESSION:
            return "no prediction with an outcome has a value"
        return f"no prediction with an outcome has class probabilities or a score (task: {self.spec.task})"

    # Outcomes

    def _with_outcomes(self, guarantee: str, least: int) -> Resolved | None:
        """The resolved rows, if there are any; else it is told why there are none."""
        if self.resolved is not None and len(self.resolved.rows):
            return self.resolved
        if self.resolved is None:
            reason = "the specification expects no outcomes: add outcomes: with their horizon"
        else:
            reason = "no prediction whose horizon has passed has an outcome: give outcomes, or a longer range"
        self._lacks(guarantee, POOLED, RowsNeeded(0, least), reason)
        return None

    def _calibrating(self) -> Integers:
        """The resolved rows that calibrate, int64[k], indices into the resolved rows."""
        if self.resolved is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.history.calibrates[self.resolved.rows])

    # What rules take besides

    def _bounds(self, fit: HumilityFit) -> HumilityFit:
        numeric = [feature.name for feature in self.spec.features if feature.kind == NUMERIC]
        together = columns_together(self.asked, numeric)
        rate = self.wanted.novelty_rate
        if rate is None:
            if together:
                reason = "rules take fitted bounds, and how often these may fire is not said: give novelty_rate"
                self._lacks(NOVELTY, POOLED, RowsNeeded(0, 0), reason)
            return fit
        names = dict.fromkeys([*numeric, *(name for names in together for name in names)])
        values = {name: self.history.predictions() if name == PREDICTION else self.history.numbers(name)
                  for name in (*names, PREDICTION)}  # fmt: skip
        found = fit_bounds(values, together, self.history.calibrates, rate, self.wanted.confidence)
        wanted = {name for names in together for name in names}
        short = [(name, lacking) for name, lacking in found.short if name in wanted]
        if short:
            lacking = max((each for _, each in short), key=lambda each: each.needed)
            told = ", ".join(repr(name[:80]) for name, _ in short[:MOST_TOLD])
            more = f" and {len(short) - MOST_TOLD} more" if len(short) > MOST_TOLD else ""
            reason = f"bounds of {told}{more} at a rate of {rate:g} take {lacking.needed:,} rows with a value, and "
            self._lacks(NOVELTY, POOLED, lacking, reason + f"there are {lacking.rows:,}")
        return replace(fit, bounds=dict(sorted(found.bounds.items())))

    def _usual(self, fit: HumilityFit) -> HumilityFit:
        value, label = prior(self.history, self.resolved)
        return replace(fit, regions=observed_regions(self.asked, self.history), prior=value, prior_label=label)


def _score_of(resolved: Resolved) -> str:
    """The score of coverage: by the model's own intervals where most of its predictions have one."""
    if resolved.layout.task != REGRESSION:
        return ONE_MINUS_PROBABILITY
    scores = resolved.predicted.scores
    with_value, with_interval = np.isfinite(scores[:, 0]), np.isfinite(scores[:, 1:]).all(axis=1)
    return INTERVAL_EXCESS if 2 * int(with_interval.sum()) > int(with_value.sum()) else ABSOLUTE_RESIDUAL


def _why_uncertified(found: Uncertified, most: float) -> str:
    seen = f"{found.errors:,} of the {found.answered:,} surest calibration rows are errors"
    if found.needed:
        return f"{seen}: too many to promise at most {most:g}; if that is their share, {found.needed:,} rows would do"
    return f"{seen}: more than {most:g} however many rows there are; a better model, or a larger max_error, is needed"
