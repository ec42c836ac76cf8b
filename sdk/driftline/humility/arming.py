"""Rules to conditions that decide: what a rule asks for beside what was fitted.

A condition whose fit is not there is unarmed: it is taken for whatever keeps its rule from firing, which is false, and
true below a ``not``. So a rule never fires on what nobody has measured. Each such case is told in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from driftline.humility import conditions as nodes
from driftline.humility.bounds import bound, no_bounds
from driftline.humility.certainty import Certainty
from driftline.humility.fit import ONE_MINUS_PROBABILITY, HumilityFit
from driftline.humility.layout import EMBEDDING_KIND, NUMERIC_KIND, Layout
from driftline.humility.logic import AllOf, AnyOf, Node, NotOf
from driftline.humility.novelty import Novelty
from driftline.humility.rules import (
    ALARM_MONITORS,
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
    OVERRIDE,
    PREDICTION_OUT_OF_RANGE,
    SCORE,
    SET_SIZE,
    STALE_INPUT,
    UNCERTAIN_PREDICTION,
    Condition,
    HumilitySpec,
    Rule,
)
from driftline.humility.wording import printable
from driftline.reading import PREDICTION

NOVELTY, RISK, COVERAGE = "novelty", "risk", "coverage"
"""Guarantees, as shortfalls name them."""

_OTHER_GUARANTEES = "it was fitted for other guarantees"
_EVERY_MONITOR = (1 << len(ALARM_MONITORS)) - 1


@dataclass(frozen=True, slots=True)
class Armed:
    """Which guarantees a policy can use; each None, or why it cannot.

    Attributes:
        fit: What was fitted.
        why_not: Guarantee to the reason why it is not there; those that are there are left out.
    """

    fit: HumilityFit | None
    why_not: Mapping[str, str]

    @classmethod
    def of(cls, asked: HumilitySpec, fit: HumilityFit | None) -> Armed:
        """What a fit is good for, under a specification that may not be the one it was made for."""
        if fit is None:
            return cls(None, dict.fromkeys((NOVELTY, RISK, COVERAGE), "nothing has been fitted yet"))
        guarantees = asked.guarantees
        why_not = {}
        for name, same, found in (
            (NOVELTY, fit.novelty_rate == guarantees.novelty_rate, fit.novelty_thresholds),
            (RISK, (fit.max_error, fit.tolerance) == (guarantees.max_error, guarantees.tolerance), fit.certificates),
            (COVERAGE, fit.coverage == guarantees.coverage, fit.coverage_starts),
        ):
            if not (same and fit.confidence == guarantees.confidence and _same_groups(asked, fit)):
                why_not[name] = _OTHER_GUARANTEES
            elif not found:
                why_not[name] = _shortfall(fit, name)
        return cls(fit, why_not)


def _same_groups(asked: HumilitySpec, fit: HumilityFit) -> bool:
    """Whether a fit has the groups that are asked for."""
    if fit.spec_digest == asked.digest():
        return True
    groups = [each.segment for each in fit.novelty_thresholds] + [each.segment for each in fit.certificates]
    groups += [each.segment for each in fit.coverage_starts] + [each.segment for each in fit.shortfalls]
    found = {group.partition("=")[0] for group in groups if group}
    return found == (set() if asked.guarantees.segment is None else {asked.guarantees.segment})


def _shortfall(fit: HumilityFit, guarantee: str) -> str:
    of = [each for each in fit.shortfalls if each.guarantee == guarantee]
    pooled = next((each for each in of if not each.segment), of[0] if of else None)
    return "it was not asked for" if pooled is None else printable(pooled.reason)


class Compiler:
    """Compiles the rules of one policy.

    Args:
        asked: The rules.
        armed: What was fitted.
        features: Name to kind.
        layout: Gets the columns that are looked at.
        certainty: How sure predictions are.
    """

    def __init__(
        self, asked: HumilitySpec, armed: Armed, features: Mapping[str, str], layout: Layout, certainty: Certainty
    ) -> None:
        self.unarmed: list[str] = []
        self._armed, self._fit = armed, armed.fit
        self._features, self._layout, self._certainty = features, layout, certainty
        self._troubles: list[str] = []
        self._novelty: Novelty | None = None
        looked_at = {leaf.trigger for rule in asked.rules for leaf in rule.when.leaves()}
        if NOVEL_INPUT in looked_at and self._fit is not None and NOVELTY not in armed.why_not:
            self._novelty = Novelty(self._fit, layout)

    def compile(self, rule: Rule) -> Node | None:
        """When a rule fires; None where it never does."""
        self._troubles = []
        node = self._node(rule.when, False)
        lacking = self._lacking_answer(rule)
        if lacking is not None:
            self._troubles.append(lacking)
        elif node is True:
            self._troubles.append("it looks at nothing")
        fires = None if lacking is not None or isinstance(node, bool) else node
        if self._troubles:
            so = "never fires" if fires is None else "fires only in part"
            self.unarmed.append(printable(f"rule {rule.name!r} {so}: {'; '.join(dict.fromkeys(self._troubles))}"))
        return fires

    def _lacking_answer(self, rule: Rule) -> str | None:
        override = rule.override
        if rule.action != OVERRIDE or override is None:
            return None
        if override.kind == BY_CLIP and no_bounds(override.low, override.high):
            return None if self.range_of(PREDICTION) else "clip needs the fitted range of predictions"
        if override.kind == BY_PRIOR and (
            self._fit is None or (self._fit.prior is None and self._fit.prior_label is None)
        ):
            return "the prior has not been fitted"
        return None

    def range_of(self, name: str) -> tuple[float, float] | None:
        """Fitted bounds of a feature or of the prediction; None where there are none that hold what is asked for."""
        fit = self._fit
        return None if fit is None or self._bounds_stale() else fit.bounds.get(name)

    def _bounds_stale(self) -> bool:
        return self._armed.why_not.get(NOVELTY) == _OTHER_GUARANTEES

    def _node(self, condition: Condition, negated: bool) -> Node | bool:
        if condition.trigger == NOT:
            return _negation([self._node(each, not negated) for each in condition.conditions])
        if condition.trigger in (ALL_OF, ANY_OF):
            parts = [self._node(each, negated) for each in condition.conditions]
            return _combination(parts, condition.trigger == ALL_OF)
        found = self._leaf(condition, negated)
        if isinstance(found, str):
            self._troubles.append(f"{condition.trigger}: {found}")
            return negated
        return found

    def _leaf(self, condition: Condition, negated: bool) -> Node | str:
        """A single condition, or why it is unarmed."""
        compile_one = _LEAVES.get(condition.trigger)
        return "this release does not know it" if compile_one is None else compile_one(self, condition, negated)

    def _uncertain(self, condition: Condition, negated: bool) -> Node | str:
        measure, low, high = condition.measure, condition.low, condition.high
        if measure == CERTIFIED:
            if RISK in self._armed.why_not:
                return self._armed.why_not[RISK]
            assert self._fit is not None
            by_group = {each.segment: each.threshold for each in self._fit.certificates}
            return nodes.Uncertified(self._certainty, self._by_part(by_group, condition.trigger), negated)
        if measure == SET_SIZE:
            if COVERAGE in self._armed.why_not:
                return self._armed.why_not[COVERAGE]
            assert self._fit is not None
            if self._fit.coverage_score != ONE_MINUS_PROBABILITY:
                return "there are prediction sets of classes only"
            self._by_part({each.segment: each.quantile for each in self._fit.coverage_starts}, condition.trigger)
            return nodes.NotOneClass(self._certainty, negated)
        if measure == SCORE and not no_bounds(low, high):
            return nodes.ScoreBetween(bound(low, -math.inf), bound(high, math.inf))
        if measure == CONFIDENCE and low is not None:
            return nodes.ConfidenceBelow(self._certainty, low)
        if measure == MARGIN and low is not None:
            return nodes.MarginBelow(self._certainty, low)
        if measure == INTERVAL_WIDTH and high is not None:
            return nodes.WiderThan(self._certainty, high)
        return f"{measure or 'its measure'} has no bound"

    def _outlying(self, condition: Condition, negated: bool) -> Node | str:
        names = condition.columns or tuple(name for name, kind in self._features.items() if kind == NUMERIC_KIND)
        fitted = no_bounds(condition.low, condition.high)
        given = bound(condition.low, -math.inf), bound(condition.high, math.inf)
        ends = {name: self.range_of(name) if fitted else given for name in names}
        bounds = [(self._layout.number(name), *each) for name, each in ends.items() if each is not None]
        if bounds:
            return nodes.Outlying(bounds)
        return self._no_bounds()

    def _no_bounds(self) -> str:
        return self._armed.why_not.get(NOVELTY, "no bounds have been fitted")

    def _novel(self, condition: Condition, negated: bool) -> Node | str:
        if self._novelty is None:
            return self._armed.why_not[NOVELTY]
        assert self._fit is not None
        by_group = {each.segment: each.score for each in self._fit.novelty_thresholds}
        thresholds = self._by_part(by_group, condition.trigger)
        return nodes.NovelInput(
            self._novelty.above([math.inf if each != each else each for each in thresholds]),
            tuple(each == each for each in thresholds),
            negated,
        )

    def _rare(self, condition: Condition, negated: bool) -> Node | str:
        if condition.values:
            places = tuple(map(self._layout.category, condition.columns))
            return nodes.AmongValues(places, frozenset(condition.values))
        regions = () if self._fit is None else self._fit.regions
        region = next((each for each in regions if each.columns == condition.columns), None)
        if region is None or len(region.columns) not in (1, 2):
            return "the values of its columns have not been counted" if self._fit else self._armed.why_not[NOVELTY]
        enough = [cell for cell, rows in zip(region.cells, region.rows, strict=True) if rows >= condition.least]
        if len(region.columns) == 1:
            return nodes.RareValue(self._layout.category(region.columns[0]), frozenset(cell[0] for cell in enough))
        first, second = map(self._layout.category, region.columns)
        return nodes.RareCell((first, second), frozenset((cell[0], cell[1]) for cell in enough))

    def _missing(self, condition: Condition, negated: bool) -> Node | str:
        numeric, text, vectors = [], [], []
        for name in condition.columns or self._features:
            kind = self._features.get(name)
            if kind == NUMERIC_KIND:
                numeric.append(self._layout.number(name))
            elif kind == EMBEDDING_KIND:
                vectors.append(name)
            else:
                text.append(self._layout.category(name))
        return nodes.Missing(numeric, text, vectors, condition.least)

    def _stale(self, condition: Condition, negated: bool) -> Node | str:
        unit_us = nodes.MICROSECONDS.get(condition.measure)
        if unit_us is None or condition.older_than_ms is None or not condition.columns:
            return "it needs columns, their unit (s, ms or us) and an age"
        places = tuple(map(self._layout.number, condition.columns))
        return nodes.StaleInput(places, unit_us, condition.older_than_ms * 1000.0)

    def _out_of_range(self, condition: Condition, negated: bool) -> Node | str:
        if not no_bounds(condition.low, condition.high):
            return nodes.OutOfRange(bound(condition.low, -math.inf), bound(condition.high, math.inf))
        ends = self.range_of(PREDICTION)
        return self._no_bounds() if ends is None else nodes.OutOfRange(*ends)

    def _disagreement(self, condition: Condition, negated: bool) -> Node | str:
        return nodes.Disagreement(condition.values, bound(condition.high, math.inf))

    def _in_alarm(self, condition: Condition, negated: bool) -> Node | str:
        named = [1 << ALARM_MONITORS.index(name) for name in set(condition.values) if name in ALARM_MONITORS]
        return nodes.InAlarm(sum(named) if condition.values else _EVERY_MONITOR)

    def _by_part(self, by_group: Mapping[str, float], trigger: str) -> list[float]:
        """The value of each part's group; NaN, which is told, for parts that have none."""
        found = by_part(self._layout, by_group, math.nan)
        if "" not in by_group:
            self._troubles.append(f"{trigger}: fitted for {', '.join(sorted(by_group))} only")
        return found


_LEAVES: Mapping[str, Callable[[Compiler, Condition, bool], Node | str]] = {
    UNCERTAIN_PREDICTION: Compiler._uncertain,
    OUTLYING_INPUT: Compiler._outlying,
    NOVEL_INPUT: Compiler._novel,
    LOW_OBSERVATION_REGION: Compiler._rare,
    MISSING_INPUT: Compiler._missing,
    STALE_INPUT: Compiler._stale,
    PREDICTION_OUT_OF_RANGE: Compiler._out_of_range,
    CHALLENGER_DISAGREEMENT: Compiler._disagreement,
    IN_ALARM: Compiler._in_alarm,
}


def by_part(layout: Layout, by_group: Mapping[str, float], otherwise: float) -> list[float]:
    """The value of each part's group, that of the pooled group ``""`` for parts without one; last, of rows of none."""
    pooled = by_group.get("", otherwise)
    parts = () if layout.segment is None else layout.segment.parts
    return [*(by_group.get(part, pooled) for part in parts), pooled]


def _negation(parts: Sequence[Node | bool]) -> Node | bool:
    """None of several, which usually is one."""
    any_of = _combination(parts, False)
    return not any_of if isinstance(any_of, bool) else NotOf(any_of)


def _combination(parts: Sequence[Node | bool], of_all: bool) -> Node | bool:
    """All or any of several; what is constant is left out, or decides."""
    if (not of_all) in [part for part in parts if isinstance(part, bool)]:
        return not of_all
    left = tuple(part for part in parts if not isinstance(part, bool))
    if not left:
        return of_all
    if len(left) == 1:
        return left[0]
    return AllOf(left) if of_all else AnyOf(left)
