"""What a specification says of humility: when a prediction is not to be trusted, and what is done then.

Example::

    humility:
      guarantees: {novelty: 0.01, max_error: 0.15, coverage: 0.9, confidence: 0.95, segment: by_carrier}
      rules:
      - name: storm
        when:
          any:
          - outlying_input: {feature: visibility, low: 2}
          - all: [novel_input, {not: {low_observation_region: {feature: dest, least: 30}}}]
        action: {route: dispatch desk}
        message: Weather outside what the model has seen.
        priority: 10
      - {name: unsure, when: {uncertain_prediction: certified}, action: refuse}
      - {name: between, when: {uncertain_prediction: {score: {low: 0.4, high: 0.6}}}, action: record, dry_run: true}
      - {name: new route, when: {low_observation_region: {features: [origin, dest]}}, action: {override: prior}}
      - name: stale weather
        when: {stale_input: {feature: observed_at, unit: s, older_than: 2h}}
        action: {override: {version: 2026-04}}
      - {name: second opinion, when: {challenger_disagreement: {version: 2026-04, by: 0.2}}, action: record}
      - {name: alarm, when: {in_alarm: [concept_drift]}, action: refuse}

What can stand under ``when`` is in :mod:`services.deployments.humility_conditions`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from driftline.humility.rules import (
    BY_CLIP,
    BY_PRIOR,
    BY_VALUE,
    MOST_RULES,
    NOVEL_INPUT,
    OVERRIDE,
    RECORD,
    ROUTE,
    Condition,
    Guarantees,
    HumilitySpec,
    Override,
    Rule,
)
from services.deployments.fields import Label, Section, Segmentation, Share, Version
from services.deployments.humility_conditions import (
    ACondition,
    Bounds,
    NoFields,
    OneOf,
    condition_document,
    is_number,
    number_or_none,
    optional_fields,
    range_document,
    word_to_fields,
)

MOST_CHARACTERS = 500
"""Of what the caller of a refused prediction is told."""

_DEFAULTS = Guarantees()
_DEFAULT_RULE = Rule("", Condition(NOVEL_INPUT), RECORD)


def _told(text: str) -> str:
    stripped = text.strip()
    if not stripped or not stripped.isprintable() or len(stripped) > MOST_CHARACTERS:
        raise ValueError(
            f"expected 1 to {MOST_CHARACTERS} printable characters that people can read, came {text[:60]!r}: leave it "
            "out where there is nothing to tell"
        )
    return stripped


def _action(value: Any) -> Any:
    if value == ROUTE:
        raise ValueError("route to whom? Say it, as in action: {route: dispatch desk}")
    if value == OVERRIDE:
        raise ValueError("override with what? Say it, as in action: {override: prior}")
    return word_to_fields(value)


def _override(value: Any) -> Any:
    return {BY_VALUE: value} if is_number(value) else word_to_fields(value)


Told = Annotated[str, AfterValidator(_told)]


class Clip(Bounds):
    """The range that the prediction is pulled into; without either end the fitted one."""


class Instead(OneOf):
    """What is served instead."""

    noun: ClassVar[str] = "override"

    value: float | None = None
    label: Label | None = None
    clip: Annotated[Clip | None, BeforeValidator(optional_fields, json_schema_input_type=Clip | None)] = None
    version: Version | None = None
    prior: NoFields = None

    def to_spec(self) -> Override:
        """What the streams see."""
        (kind,) = self.given
        clip = self.clip or Clip()
        return Override(
            kind=kind,
            value=number_or_none(self.value),
            label=self.label,
            low=number_or_none(clip.low),
            high=number_or_none(clip.high),
            version=self.version,
        )


class Action(OneOf):
    """What a rule does."""

    noun: ClassVar[str] = "action"
    advice: ClassVar[str] = "write a rule for each"

    record: NoFields = None
    refuse: NoFields = None
    route: Told | None = None
    override: Annotated[
        Instead | None, BeforeValidator(_override, json_schema_input_type=Literal["prior", "clip"] | float | Instead)
    ] = None

    @property
    def kind(self) -> str:
        """One of ``RULE_ACTIONS``."""
        (name,) = self.given
        return name


class HumilityRule(Section):
    """A trigger and what is done when it fires; of several rules that fire the one with the lowest ``priority`` acts,
    of equal ones the first. ``dry_run``: counted, and never acted on.
    """

    name: Segmentation
    when: ACondition
    action: Annotated[Action, BeforeValidator(_action, json_schema_input_type=Literal["record", "refuse"] | Action)]
    message: Told | None = None
    priority: Annotated[int, Field(ge=0, le=1_000_000)] = _DEFAULT_RULE.priority
    dry_run: bool = False

    def to_spec(self) -> Rule:
        """What the streams see."""
        instead = self.action.override
        return Rule(
            name=self.name,
            when=self.when.to_spec(),
            action=self.action.kind,
            override=None if instead is None else instead.to_spec(),
            message=self.message or "",
            route_to=self.action.route or "",
            priority=self.priority,
            dry_run=self.dry_run,
        )


class HumilityGuarantees(Section):
    """What ``driftline humility fit`` is to guarantee, and how surely."""

    novelty: Share | None = None
    max_error: Share | None = None
    tolerance: Annotated[float, Field(gt=0)] | None = None
    coverage: Share | None = None
    confidence: Share = _DEFAULTS.confidence
    segment: Segmentation | None = None
    step: Annotated[float, Field(gt=0, le=1)] = _DEFAULTS.step

    def to_spec(self) -> Guarantees:
        """What the streams see."""
        return Guarantees(
            novelty_rate=number_or_none(self.novelty),
            max_error=number_or_none(self.max_error),
            tolerance=number_or_none(self.tolerance),
            coverage=number_or_none(self.coverage),
            confidence=float(self.confidence),
            segment=self.segment,
            step=float(self.step),
        )


class Humility(Section):
    """Rules, in order, and the guarantees that they rest on."""

    guarantees: HumilityGuarantees = HumilityGuarantees()
    rules: Annotated[list[HumilityRule], Field(max_length=MOST_RULES)] = Field(default_factory=list)

    def to_spec(self) -> HumilitySpec:
        """What the streams see."""
        return HumilitySpec(tuple(rule.to_spec() for rule in self.rules), self.guarantees.to_spec())


def humility_document(spec: HumilitySpec | None) -> dict[str, Any]:
    """The section as a person would write it; empty where there is none."""
    if spec is None:
        return {}
    given = spec.guarantees
    guarantees = {
        "novelty": given.novelty_rate,
        "max_error": given.max_error,
        "tolerance": given.tolerance,
        "coverage": given.coverage,
        "confidence": given.confidence,
        "segment": given.segment,
        "step": given.step,
    }
    document: dict[str, Any] = {"guarantees": {name: value for name, value in guarantees.items() if value is not None}}
    return document | ({"rules": [rule_document(rule) for rule in spec.rules]} if spec.rules else {})


def rule_document(rule: Rule) -> dict[str, Any]:
    """A rule as a person would write it."""
    document = {
        "name": rule.name,
        "when": condition_document(rule.when),
        "action": _action_document(rule),
        "message": rule.message,
        "priority": rule.priority,
        "dry_run": rule.dry_run,
    }
    return {name: value for name, value in document.items() if value != ""}


def _action_document(rule: Rule) -> str | dict[str, Any]:
    if rule.action == ROUTE:
        return {ROUTE: rule.route_to}
    if rule.override is None:
        return rule.action
    instead = rule.override
    if instead.kind == BY_CLIP:
        ends = range_document(instead.low, instead.high)
        return {OVERRIDE: {BY_CLIP: ends} if ends else BY_CLIP}
    return {OVERRIDE: BY_PRIOR if instead.kind == BY_PRIOR else {instead.kind: getattr(instead, instead.kind)}}
