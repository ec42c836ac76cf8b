"""What the condition of a humility rule cannot say: features that are not there, ranges that hold nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from driftline.humility.rules import (
    ALL_OF,
    ANY_OF,
    CERTIFIED,
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
)
from services.deployments.document import Path
from services.deployments.errors import Flaw
from services.deployments.fields import Section
from services.deployments.form import Form
from services.deployments.humility_conditions import (
    Bounds,
    ChallengerDisagreement,
    LowObservationRegion,
    MissingInput,
    OutlyingInput,
    UncertainPrediction,
    When,
    named_features,
)
from services.deployments.humility_logic import Meaning
from services.deployments.impossible_outcomes import repeated
from services.deployments.regions import Search
from services.deployments.specification import Specification
from services.deployments.wording import did_you_mean, either, shown
from streams.specification import (
    BINARY,
    BOOLEAN,
    CATEGORICAL,
    CONCEPT_DRIFT,
    FAIRNESS,
    KINDS,
    LABELS,
    MULTICLASS,
    NUMERIC,
    OTHER_TASK,
    REGRESSION,
)

DEEPEST = 8
"""Conditions inside of conditions; what lies deeper nobody understands."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    OUTLYING_INPUT: (NUMERIC,),
    STALE_INPUT: (NUMERIC,),
    LOW_OBSERVATION_REGION: (CATEGORICAL, BOOLEAN),
    MISSING_INPUT: KINDS,
}
_INSTEAD = {
    OUTLYING_INPUT: "take low_observation_region for values that are rare",
    STALE_INPUT: "it has to hold a time as a number of its unit since 1970",
    LOW_OBSERVATION_REGION: "take outlying_input for numbers outside of bounds",
}
_TYPED_IN = "type low or high in"
_TASKS = {
    SCORE: (BINARY, REGRESSION, OTHER_TASK),
    CONFIDENCE: (BINARY, MULTICLASS),
    MARGIN: (BINARY, MULTICLASS),
    INTERVAL_WIDTH: (REGRESSION,),
    SET_SIZE: (BINARY, MULTICLASS),
    CERTIFIED: (BINARY, MULTICLASS, REGRESSION),
}
"""The tasks whose predictions have a measure."""


def not_declared(what: str, name: str, known: Sequence[str], where: str) -> str:
    """Why a name is refused that the specification does not know."""
    there = f"declared are {', '.join(repr(each[:40]) for each in known[:8])}" if known else "none is declared"
    hint = did_you_mean(name, known)
    return f"there is no {what} {shown(name)}{hint}: name one under {where}; {there}"


class Conditions:
    """Finds what is wrong with conditions.

    Args:
        form: Where everything stands.
        specification: What they are about.
        meaning: What they say.
        search: Decides whether they can hold.
    """

    def __init__(self, form: Form, specification: Specification, meaning: Meaning, search: Search) -> None:
        self._form, self._specification, self._meaning, self._search = form, specification, meaning, search
        self._kinds = {feature.name: feature.kind for feature in specification.features}

    def flaws(self, path: Path, when: When, depth: int = 1) -> list[Flaw]:
        """All that is wrong with a condition; only where its parts are right, what is wrong with the whole."""
        here: Path = (*path, when.trigger)
        if depth > DEEPEST:
            message = f"conditions lie at most {DEEPEST} deep inside of each other: split it into several rules"
            return [self._flaw(here, message, of_key=True)]
        if when.trigger == NOT:
            assert when.negated is not None
            found = self.flaws(here, when.negated, depth + 1)
        elif when.trigger in (ALL_OF, ANY_OF):
            parts = when.all_of if when.all_of is not None else when.any_of or []
            found = [f for index, each in enumerate(parts) for f in self.flaws((*here, index), each, depth + 1)]
            if not parts:
                found = [self._flaw(here, "combines nothing: list its conditions, or leave it out")]
        else:
            found = list(self._leaf(here, when))
        return found or list(self._constant(here, when.to_spec()))

    def _flaw(self, path: Path, message: str, *, of_key: bool = False) -> Flaw:
        place = self._form.as_written(path)
        return self._form.flaw(place, message, of_key=of_key and place == path)

    def _constant(self, path: Path, condition: Condition) -> Iterator[Flaw]:
        """What holds never, or always."""
        formula = self._meaning.formula(condition)
        if not self._search.can_hold(formula):
            why = self._why(condition, ALL_OF, "exclude each other") or self._range(condition)
            yield self._flaw(path, f"can never hold{why}: change it, or leave it out", of_key=True)
        elif not self._search.can_hold(self._meaning.formula(condition, holds=False)):
            why = self._why(condition, ANY_OF, "leave nothing out") or self._range(condition)
            yield self._flaw(path, f"holds for every prediction{why}: change it, or leave it out", of_key=True)

    def _why(self, condition: Condition, combination: str, words: str) -> str:
        """Which two conditions are to blame, where it is two."""
        if condition.trigger != combination:
            return ""
        formulas = [self._meaning.formula(each, holds=combination == ALL_OF) for each in condition.conditions]
        for (i, one), (j, other) in itertools.combinations(enumerate(formulas, 1), 2):
            if not self._search.can_hold(one, other):
                return f", its conditions {i} and {j} {words}"
        return ""

    def _range(self, condition: Condition) -> str:
        """What the values can be at all."""
        if condition.trigger not in (UNCERTAIN_PREDICTION, PREDICTION_OUT_OF_RANGE):
            return ""
        measure = condition.measure or SCORE
        if measure == INTERVAL_WIDTH:
            return ", no interval is narrower than 0"
        least = "0.5" if measure == CONFIDENCE and self._specification.task == BINARY else "0"
        return f", a {measure} lies from {least} to 1"

    def _leaf(self, path: Path, when: When) -> Iterator[Flaw]:
        fields: object = when.fields

        if isinstance(fields, Section) and when.trigger in _KINDS:
            yield from self._features(path, when.trigger, fields)
        match fields:
            case UncertainPrediction():
                yield from self._uncertain(path, fields)
            case OutlyingInput():
                yield from self._outlying(path, fields)
            case LowObservationRegion():
                yield from self._low_observation(path, fields)
            case MissingInput():
                there = len(named_features(fields)) or len(self._kinds)
                if (fields.least or 1) > there:
                    message = f"of {there} feature(s) never {fields.least} are missing: expected at most {there}"
                    yield self._flaw((*path, "least"), message)
            case Bounds():
                yield from self._out_of_range(path, fields)
            case ChallengerDisagreement():
                yield from self._disagreement(path, fields)
        if when.trigger == NOVEL_INPUT:
            yield from self._without_guarantee(path, "novelty", "0.01", "how novel an input may be")
        if when.trigger == IN_ALARM:
            yield from self._unwatched(path, when.in_alarm or [])

    def _features(self, path: Path, trigger: str, fields: Section) -> Iterator[Flaw]:
        one, lists = getattr(fields, "feature", None), getattr(fields, "features", None) is not None
        several: list[str] = getattr(fields, "features", None) or []
        if one is not None and lists:
            yield self._flaw((*path, "feature"), "give feature or features, not both: list all under features")
        if lists and not several:
            yield self._flaw((*path, "features"), "names no feature: name one at least, or leave it out")
        places: list[tuple[Path, str]] = [] if one is None else [((*path, "feature"), one)]
        places += [((*path, "features", index), name) for index, name in enumerate(several)]
        for place, name in places:
            kind = self._kinds.get(name)
            if kind is None:
                yield self._flaw(place, not_declared("feature", name, list(self._kinds), "features:"))
            elif kind not in _KINDS[trigger]:
                message = f"{trigger} looks at {either(_KINDS[trigger])} features, and {shown(name)} is {kind}"
                yield self._flaw(place, f"{message}: {_INSTEAD[trigger]}")
        for index in repeated(several):
            yield self._flaw((*path, "features", index), f"the feature {shown(several[index])} is given twice")

    def _uncertain(self, path: Path, fields: UncertainPrediction) -> Iterator[Flaw]:
        (measure,) = fields.given
        task, place = self._specification.task, (*path, measure)
        if task not in _TASKS[measure]:
            others = [name for name, tasks in _TASKS.items() if task in tasks]
            message = f"predictions of the task {task} have no {measure}: take {either(others)}"
            yield self._flaw(place, message, of_key=True)
            return
        if fields.score is not None:
            if fields.score.low is None and fields.score.high is None:
                message = "which scores are uncertain? Give low, high or both, as in {low: 0.4, high: 0.6}"
                yield self._flaw(place, message)
            yield from self._ordered(place, fields.score)
            yield from self._beyond_scores(place, fields.score, "no score lies there")
        bound = fields.confidence or fields.margin
        least = 0.5 if measure == CONFIDENCE and task == BINARY else 0.0
        if bound is not None and bound.low <= least:
            message = f"no {measure} is below {bound.low:g}: of {task} it lies from {least:g} to 1"
            yield self._flaw((*place, "low"), f"{message}; give more than {least:g}")
        if measure == CERTIFIED:
            yield from self._without_guarantee(place, "max_error", "0.1", "which confidence is enough")
        if measure == SET_SIZE:
            yield from self._without_guarantee(place, "coverage", "0.9", "which classes a prediction set holds")

    def _outlying(self, path: Path, fields: OutlyingInput) -> Iterator[Flaw]:
        yield from self._ordered(path, fields)
        if fields.low is None and fields.high is None:
            if not named_features(fields) and NUMERIC not in self._kinds.values():
                yield self._flaw(path, "can never hold, there is no numeric feature: leave it out", of_key=True)
            yield from self._without_guarantee(path, "novelty", "0.01", "which bounds are fitted", _TYPED_IN)
        elif not named_features(fields):
            end = "low" if fields.low is not None else "high"
            message = "a bound of which feature? Name it, as in {feature: NAME, low: 2}"
            yield self._flaw((*path, end), message, of_key=True)

    def _low_observation(self, path: Path, fields: LowObservationRegion) -> Iterator[Flaw]:
        named = named_features(fields)
        if len(named) not in (1, 2) and fields.features != []:
            message = f"a region is of one feature or of two together, came {len(named)}: name one or two"
            yield self._flaw(path if fields.features is None else (*path, "features"), message)
        if fields.values is None:
            return
        if not fields.values:
            yield self._flaw((*path, "values"), "lists nothing: list the values, or leave it out for rare ones")
        if len(named) == 2:
            yield self._flaw((*path, "values"), "values are of one feature, came two: name one, or leave values out")
        if fields.least is not None:
            message = "values are listed or counted, not both: leave least out, or the values"
            yield self._flaw((*path, "least"), message, of_key=True)
        for index in repeated(fields.values):
            yield self._flaw((*path, "values", index), f"the value {shown(fields.values[index])} is given twice")

    def _out_of_range(self, path: Path, fields: Bounds) -> Iterator[Flaw]:
        if self._specification.task == MULTICLASS:
            message = "a class has no range, the task is multiclass_classification: take uncertain_prediction"
            yield self._flaw(path, message, of_key=True)
            return
        yield from self._ordered(path, fields)
        yield from self._beyond_scores(path, fields, "every score lies outside")
        if fields.low is None and fields.high is None:
            yield from self._without_guarantee(path, "novelty", "0.01", "which range is fitted", _TYPED_IN)

    def _disagreement(self, path: Path, fields: ChallengerDisagreement) -> Iterator[Flaw]:
        known, several = self._specification.challengers, fields.versions or []
        if fields.version is not None and fields.versions is not None:
            yield self._flaw((*path, "version"), "give version or versions, not both: list all under versions")
        if fields.versions == []:
            yield self._flaw((*path, "versions"), "names no version: name one, or leave it out for any challenger")
        places: list[tuple[Path, str]] = [] if fields.version is None else [((*path, "version"), fields.version)]
        places += [((*path, "versions", index), name) for index, name in enumerate(several)]
        for place, version in places:
            if version not in known:
                yield self._flaw(place, not_declared("challenger", version, known, "challengers:"))
        for index in repeated(several):
            yield self._flaw((*path, "versions", index), f"the version {shown(several[index])} is given twice")
        if not places and not known and fields.versions is None:
            message = "can never hold, there is no challenger: name them, as in challengers: [v2]"
            yield self._flaw(path, message, of_key=True)
        if fields.by is None and self._specification.task == REGRESSION:
            message = "a regression predicts no class that could be another: say by how much its numbers may differ"
            yield self._flaw(path, f"{message}, as in {{by: 10}}")

    def _unwatched(self, path: Path, monitors: Sequence[str]) -> Iterator[Flaw]:
        for index in repeated(monitors):
            yield self._flaw((*path, index), f"the monitor {monitors[index]} is given twice")
        for index, monitor in enumerate(monitors):
            if why := self._why_unwatched(monitor):
                yield self._flaw((*path, index), f"{monitor} never is in alarm, {why}")

    def _why_unwatched(self, monitor: str) -> str:
        outcomes = self._specification.outcomes
        if monitor in [name for name, switch in self._specification.monitors.items() if switch == "off"]:
            return "it is switched off: switch it on under monitors:, or leave it out here"
        if monitor in (CONCEPT_DRIFT, LABELS, FAIRNESS) and outcomes is None:
            return "it is about outcomes, and none are expected: say how long they may take, as in outcomes: 30d"
        if monitor == FAIRNESS and outcomes is not None and not outcomes.fairness:
            return "no groups are compared: name their segmentation under outcomes.fairness"
        return ""

    def _ordered(self, path: Path, bounds: Bounds) -> Iterator[Flaw]:
        if bounds.low is not None and bounds.high is not None and bounds.low > bounds.high:
            message = f"expected a number from low, {bounds.low:g}, on, came {bounds.high:g}"
            yield self._flaw((*path, "high"), message)

    def _beyond_scores(self, path: Path, bounds: Bounds, what: str) -> Iterator[Flaw]:
        """Bounds of a binary classification that all of its scores lie on one side of."""
        if self._specification.task != BINARY:
            return
        if bounds.low is not None and bounds.low > 1:
            yield self._flaw((*path, "low"), f"{what}: expected a number from 0 to 1, came {bounds.low:g}")
        if bounds.high is not None and bounds.high < 0:
            yield self._flaw((*path, "high"), f"{what}: expected a number from 0 to 1, came {bounds.high:g}")

    def _without_guarantee(self, path: Path, name: str, example: str, what: str, other: str = "") -> Iterator[Flaw]:
        humility = self._specification.humility
        if humility is not None and getattr(humility.guarantees, name) is None:
            message = (
                f"guarantees.{name} decides {what}, and there is none: give it, as in guarantees: {{{name}: {example}}}"
            )
            yield self._flaw(path, message + (f", or {other}" if other else ""), of_key=True)
