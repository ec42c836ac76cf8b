"""What a specification cannot say of humility, given its task, features, segments, outcomes and challengers."""

from __future__ import annotations

from collections.abc import Iterator

from driftline.humility.rules import BY_CLIP, BY_LABEL, BY_VALUE, BY_VERSION, RECORD, Rule
from driftline.humility.wording import describe_action
from services.deployments.document import Path
from services.deployments.errors import Flaw
from services.deployments.form import Form
from services.deployments.humility import Humility, HumilityGuarantees, HumilityRule
from services.deployments.humility_logic import Meaning, needs_of
from services.deployments.impossible_conditions import Conditions, not_declared
from services.deployments.regions import Search
from services.deployments.specification import Specification
from services.deployments.wording import did_you_mean, shown
from streams.outcomes.decided import DECISION, rule_of
from streams.specification import BINARY, MULTICLASS, OTHER_TASK, REGRESSION

STREAM_PREFIX = "humility:"
"""Names of the streams that count decisions begin so."""

_WITH_OUTCOMES = ("max_error", "coverage")


def impossible_humility(form: Form, specification: Specification) -> Iterator[Flaw]:
    """What the fields of ``humility`` allow and the whole specification does not."""
    humility = specification.humility
    if humility is None:
        return
    if not humility.rules and not _asked(humility.guarantees):
        message = "gives neither rules nor a guarantee (novelty, max_error or coverage): give one, or leave it out"
        yield form.flaw(("humility",), message, of_key=True)
    yield from _taken_names(form, specification)
    yield from _impossible_guarantees(form, specification, humility.guarantees)
    yield from _repeated_names(form, humility)
    meaning = Meaning(specification.to_spec())
    search = Search(meaning.domain)
    conditions = Conditions(form, specification, meaning, search)
    sound: dict[int, Rule] = {}
    for index, rule in enumerate(humility.rules):
        path: Path = ("humility", "rules", index)
        found = [*conditions.flaws((*path, "when"), rule.when), *_impossible_action(form, specification, path, rule)]
        yield from found
        if not found:
            sound[index] = rule.to_spec()
    yield from _in_vain(form, sound, meaning, search)


def _asked(guarantees: HumilityGuarantees) -> bool:
    """Whether anything is to be guaranteed."""
    return any(wanted is not None for wanted in (guarantees.novelty, guarantees.max_error, guarantees.coverage))


def _impossible_guarantees(form: Form, specification: Specification, given: HumilityGuarantees) -> Iterator[Flaw]:
    path: Path = ("humility", "guarantees")
    for name in _WITH_OUTCOMES:
        if getattr(given, name) is None:
            continue
        if specification.task == OTHER_TASK:
            message = "of the task other nothing tells right from wrong: leave it out, or give the task"
            yield form.flaw((*path, name), message, of_key=True)
        elif specification.outcomes is None:
            message = "it is learnt from outcomes, and none are expected: say how long they may take"
            yield form.flaw((*path, name), f"{message}, as in outcomes: 30d", of_key=True)
    if specification.task == REGRESSION and given.max_error is not None and given.tolerance is None:
        message = (
            "of a regression it has to be said from where on a prediction is an error: give guarantees.tolerance, the "
            "largest distance from the actual value that is none"
        )
        yield form.flaw((*path, "max_error"), message, of_key=True)
    if given.tolerance is not None and specification.task != REGRESSION:
        message = f"it says when a predicted number is an error, the task is {specification.task}: leave it out"
        yield form.flaw((*path, "tolerance"), message, of_key=True)
    elif given.tolerance is not None and given.max_error is None:
        message = "it says what max_error counts, and there is none: give max_error, or leave it out"
        yield form.flaw((*path, "tolerance"), message, of_key=True)
    if given.segment is not None and given.segment not in specification.segments:
        message = not_declared("segmentation", given.segment, list(specification.segments), "segments:")
        yield form.flaw((*path, "segment"), message)
    elif given.segment is not None and not _asked(given):
        message = "it says for which parts guarantees hold, and there is none: give novelty, max_error or coverage"
        yield form.flaw((*path, "segment"), message)


def _taken_names(form: Form, specification: Specification) -> Iterator[Flaw]:
    """Features and segmentations that are called like what is counted of decisions."""
    for index, feature in enumerate(specification.features):
        if feature.name.startswith(STREAM_PREFIX):
            message = (
                f"with humility, names that begin with {STREAM_PREFIX!r} are those of Driftline's own streams: rename "
                f"{shown(feature.name)}, and give this name as its column"
            )
            yield form.flaw(("features", index, "name"), message)
    for name in specification.segments:
        if name == DECISION or rule_of(f"{name}=fired") is not None:
            message = f"with humility, {shown(name)} names parts of the traffic by what was decided: rename it"
            yield form.flaw(("segments", name), message, of_key=True)


def _repeated_names(form: Form, humility: Humility) -> Iterator[Flaw]:
    first: dict[str, int] = {}
    for index, rule in enumerate(humility.rules):
        if first.setdefault(rule.name, index) != index:
            line = form.document.mark(("humility", "rules", first[rule.name], "name")).line
            message = f"the rule {shown(rule.name)} is given twice, first on line {line}: give each a name of its own"
            yield form.flaw(("humility", "rules", index, "name"), message)


def _impossible_action(form: Form, specification: Specification, rule: Path, given: HumilityRule) -> Iterator[Flaw]:
    instead = given.action.override
    if instead is None:
        return
    task, path = specification.task, (*rule, "action", "override")
    (kind,) = instead.given
    place = form.as_written((*path, kind))
    if kind == BY_VALUE and task in (BINARY, MULTICLASS):
        message = (
            f"a model of {task} answers with a class, came the number {instead.value:g}: override it with one, as in "
            "{label: NAME}, with prior or with {version: NAME}"
        )
        yield form.flaw(place, message)
    elif kind == BY_LABEL and task == REGRESSION:
        message = (
            f"a regression answers with a number, came the class {shown(instead.label)}: override it with one, as in "
            "{value: 0.5}, with clip, prior or {version: NAME}"
        )
        yield form.flaw(place, message)
    elif kind == BY_LABEL and instead.label is not None:
        known = _classes(specification)
        if known and instead.label not in known:
            message = f"expected one of the classes {_listed(known)}, came {shown(instead.label)}"
            yield form.flaw(place, message + did_you_mean(instead.label, known))
    elif kind == BY_CLIP and task in (BINARY, MULTICLASS):
        message = f"a class cannot be pulled into a range, the task is {task}: take label, prior or version"
        yield form.flaw(place, message)
    elif kind == BY_CLIP and instead.clip is not None:
        low, high = instead.clip.low, instead.clip.high
        if low is not None and high is not None and low > high:
            yield form.flaw((*path, kind, "high"), f"expected a number from low, {low:g}, on, came {high:g}")
    elif kind == BY_VERSION and instead.version not in specification.challengers:
        message = not_declared("challenger", instead.version or "", specification.challengers, "challengers:")
        yield form.flaw(place, message)
    fitted = instead.clip is not None and instead.clip.low is None and instead.clip.high is None
    novelty = None if specification.humility is None else specification.humility.guarantees.novelty
    if fitted and task not in (BINARY, MULTICLASS) and novelty is None:
        message = (
            "the range of predictions is fitted under guarantees.novelty, and there is none: give it, as in novelty: "
            "0.01, or type the range in, as in {clip: {low: 0, high: 100}}"
        )
        yield form.flaw(place, message)


def _classes(specification: Specification) -> list[str]:
    """The classes as far as the specification says them all; empty where it does not."""
    if specification.outcomes is not None and specification.outcomes.classes:
        return list(specification.outcomes.classes)
    named = list(specification.columns.class_probabilities)
    return named if len(named) > 1 else []


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:8]) + (" …" if len(names) > 8 else "")


def _in_vain(form: Form, rules: dict[int, Rule], meaning: Meaning, search: Search) -> Iterator[Flaw]:
    """Rules that can never act, because another acts before them whenever they fire.

    Not those that another one shadows only while its own part of the fit is there: they act when it is not.
    """
    acting = [index for index, rule in rules.items() if rule.action != RECORD and not rule.dry_run]
    order = sorted(acting, key=lambda index: (rules[index].priority, index))
    for position, index in enumerate(order):
        rule = rules[index]
        for earlier in order[:position]:
            other = rules[earlier]
            if needs_of(other) <= needs_of(rule) and _follows(other, rule, meaning, search):
                equal = _follows(rule, other, meaning, search)
                line = form.document.mark(("humility", "rules", earlier, "name")).line
                message = _why_in_vain(rule, other, line, equal=equal)
                yield form.flaw(("humility", "rules", index, "when"), message)
                break


def _follows(rule: Rule, other: Rule, meaning: Meaning, search: Search) -> bool:
    """Whether a rule is certain to fire where the other one does."""
    return not search.can_hold(meaning.formula(other.when), meaning.formula(rule.when, holds=False))


def _why_in_vain(rule: Rule, other: Rule, line: int, *, equal: bool) -> str:
    named = f"the rule {shown(other.name)} on line {line}"
    acts, does = describe_action(rule), describe_action(other)
    if equal and acts == does:
        return f"says again what {named} says, which acts before it: leave one of them out, or let one record"
    if equal and rule.priority == other.priority:
        return (
            f"contradicts {named}: both fire on the same predictions at priority {rule.priority}, this one is to "
            f"{acts}, that one to {does}. Change a condition, leave one out, or let one record"
        )
    return (
        f"can never act: {named} fires whenever this one does, and acts first (priority {other.priority}, this one "
        f"{rule.priority}) to {does}. Give this one a lower number than {other.priority}, narrow that one, or let this "
        "one record"
    )
