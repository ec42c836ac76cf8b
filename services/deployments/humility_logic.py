"""What humility conditions mean, as far as it decides whether one can hold, always holds, or follows from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from driftline.humility.rules import (
    ALL_OF,
    ANY_OF,
    BY_CLIP,
    BY_PRIOR,
    CERTIFIED,
    CHALLENGER_DISAGREEMENT,
    CONFIDENCE,
    IN_ALARM,
    INTERVAL_WIDTH,
    LOW_OBSERVATION_REGION,
    MARGIN,
    MISSING_INPUT,
    NOT,
    NOVEL_INPUT,
    OUTLYING_INPUT,
    PREDICTION_OUT_OF_RANGE,
    SCORE,
    SET_SIZE,
    STALE_INPUT,
    UNCERTAIN_PREDICTION,
    Condition,
    Rule,
)
from services.deployments.regions import (
    EVERYTHING,
    MISSING,
    PRESENT,
    Both,
    Column,
    Either,
    Formula,
    Lies,
    Region,
    above,
    below,
    between,
    negation,
    points,
)
from streams.specification import BINARY, MONITORS, NUMERIC, DeploymentSpec

NOVELTY, CERTIFICATE, COVERAGE, COUNTS, PRIOR = "novelty", "certificate", "coverage", "counts", "prior"
"""Parts of a fit that a rule may rest on: without its part it never fires."""

_TRUE = points([1.0])
_PREDICTION = "prediction"


def needs_of(rule: Rule) -> frozenset[str]:
    """The parts of a fit that a rule rests on; none for one that works without."""
    found = {need for leaf in rule.when.leaves() for need in _needs(leaf)}
    instead = rule.override
    if instead is not None and instead.kind == BY_PRIOR:
        found.add(PRIOR)
    if instead is not None and instead.kind == BY_CLIP and instead.low is None and instead.high is None:
        found.add(NOVELTY)
    return frozenset(found)


def _needs(leaf: Condition) -> Iterator[str]:
    open_bounds = leaf.low is None and leaf.high is None
    if leaf.trigger == NOVEL_INPUT or (leaf.trigger in (OUTLYING_INPUT, PREDICTION_OUT_OF_RANGE) and open_bounds):
        yield NOVELTY
    if leaf.trigger == UNCERTAIN_PREDICTION and leaf.measure in (CERTIFIED, SET_SIZE):
        yield CERTIFICATE if leaf.measure == CERTIFIED else COVERAGE
    if leaf.trigger == LOW_OBSERVATION_REGION and not leaf.values:
        yield COUNTS


class Meaning:
    """Conditions of one deployment as formulas.

    A column is a feature, the prediction, or a fact that conditions of one kind look at: how old a time is, how many
    reference rows a region has, whether a monitor is in alarm. Facts that the rows do not tell are true or not,
    whatever the rest is.
    """

    def __init__(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        self._numeric = [feature.name for feature in spec.features if feature.kind == NUMERIC]
        self._all = [feature.name for feature in spec.features]
        self._codes: dict[str, dict[str, float]] = {}
        self._known: dict[tuple[Condition, bool], Formula] = {}
        self._leaves: Mapping[str, Callable[[Condition], Formula]] = {
            UNCERTAIN_PREDICTION: self._uncertain,
            OUTLYING_INPUT: self._outlying,
            NOVEL_INPUT: lambda _: Lies(NOVEL_INPUT, _TRUE),
            LOW_OBSERVATION_REGION: self._low_observation,
            MISSING_INPUT: self._missing,
            STALE_INPUT: self._stale,
            PREDICTION_OUT_OF_RANGE: self._out_of_range,
            CHALLENGER_DISAGREEMENT: self._disagreement,
            IN_ALARM: self._in_alarm,
        }
        certain = between(0.5 if spec.task == BINARY else 0.0, 1.0, missing=True)
        self._domains: Mapping[Column, Region] = {
            _PREDICTION: between(0.0, 1.0, missing=True) if spec.task == BINARY else EVERYTHING,
            CONFIDENCE: certain,
            MARGIN: between(0.0, 1.0, missing=True),
            INTERVAL_WIDTH: between(0.0, None, missing=True),
        }

    def domain(self, column: Column) -> Region:
        """The values that a column can have."""
        return self._domains.get(column, EVERYTHING)

    def formula(self, condition: Condition, *, holds: bool = True) -> Formula:
        """What a condition says, or what is so exactly where it does not hold."""
        if condition.trigger == NOT:
            return self.formula(condition.conditions[0], holds=not holds)
        if condition.trigger in (ALL_OF, ANY_OF):
            parts = tuple(self.formula(each, holds=holds) for each in condition.conditions)
            return Both(parts) if (condition.trigger == ALL_OF) == holds else Either(parts)
        if (condition, holds) not in self._known:  # one that looks at all features is large
            found = self._leaves[condition.trigger](condition)
            self._known[condition, holds] = found if holds else negation(found)
        return self._known[condition, holds]

    def _uncertain(self, leaf: Condition) -> Formula:
        """What is not known is uncertain."""
        if leaf.measure == SCORE:
            return Lies(_PREDICTION, between(leaf.low, leaf.high, missing=True))
        if leaf.measure in (CONFIDENCE, MARGIN) and leaf.low is not None:
            return Lies(leaf.measure, below(leaf.low, missing=True))
        if leaf.measure == INTERVAL_WIDTH and leaf.high is not None:
            return Lies(leaf.measure, above(leaf.high, missing=True))
        return Lies(leaf.measure, _TRUE)

    def _outlying(self, leaf: Condition) -> Formula:
        if leaf.low is None and leaf.high is None:
            columns = leaf.columns or self._numeric
            return Either(tuple(_known_and((name,), ("bounds", name), _TRUE) for name in columns))
        outside = _outside(leaf.low, leaf.high)
        return Either(tuple(Lies(("feature", name), outside) for name in leaf.columns))

    def _low_observation(self, leaf: Condition) -> Formula:
        if leaf.values:
            codes = self._codes.setdefault(leaf.columns[0], {})
            return Lies(("feature", leaf.columns[0]), points([codes.setdefault(v, len(codes)) for v in leaf.values]))
        rows: Column = ("rows", *sorted(leaf.columns))
        return _known_and(leaf.columns, rows, below(float(leaf.least)))

    def _missing(self, leaf: Condition) -> Formula:
        columns = leaf.columns or self._all
        each = tuple(Lies(("feature", name), MISSING) for name in columns)
        if leaf.least in (1, len(columns)):
            return Either(each) if leaf.least == 1 else Both(each)
        return Lies(("missing", leaf.least, *sorted(columns)), _TRUE)

    def _stale(self, leaf: Condition) -> Formula:
        older = above(float(leaf.older_than_ms or 0))
        return _known_and(leaf.columns, ("age", leaf.measure, *leaf.columns), older)

    def _out_of_range(self, leaf: Condition) -> Formula:
        if leaf.low is None and leaf.high is None:
            return Both((Lies(_PREDICTION, PRESENT), Lies(("bounds",), _TRUE)))
        return Lies(_PREDICTION, _outside(leaf.low, leaf.high))

    def _disagreement(self, leaf: Condition) -> Formula:
        """By how much it differs; of another class infinitely."""
        by = points([math.inf]) if leaf.high is None else above(leaf.high)
        versions = leaf.values or self._spec.challengers
        return Either(tuple(Lies(("challenger", version), by) for version in versions))

    def _in_alarm(self, leaf: Condition) -> Formula:
        return Either(tuple(Lies(("alarm", monitor), _TRUE) for monitor in leaf.values or MONITORS))


def _known_and(features: Sequence[str], column: Column, region: Region) -> Formula:
    """What is asked only where features are not missing."""
    return Both((*(Lies(("feature", name), PRESENT) for name in features), Lies(column, region)))


def _outside(low: float | None, high: float | None) -> Region:
    """Numbers below the one or above the other."""
    return between(low, high, missing=True).complement()
