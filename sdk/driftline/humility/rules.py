"""Humility rules as the contract has them: triggers, actions and the guarantees that are asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from driftline.codec import Record
from driftline.events import ACTIONS as ACTIONS
from driftline.events import ALARM_MONITORS as ALARM_MONITORS
from driftline.events import MOST_RULES as MOST_RULES
from driftline.events import NOT_DECIDED as NOT_DECIDED

ALL_OF, ANY_OF, NOT = "all", "any", "not"
COMBINATIONS = (ALL_OF, ANY_OF, NOT)
"""What combines conditions."""

UNCERTAIN_PREDICTION = "uncertain_prediction"
OUTLYING_INPUT = "outlying_input"
NOVEL_INPUT = "novel_input"
LOW_OBSERVATION_REGION = "low_observation_region"
MISSING_INPUT = "missing_input"
STALE_INPUT = "stale_input"
PREDICTION_OUT_OF_RANGE = "prediction_out_of_range"
CHALLENGER_DISAGREEMENT = "challenger_disagreement"
IN_ALARM = "in_alarm"
TRIGGERS = (
    UNCERTAIN_PREDICTION,
    OUTLYING_INPUT,
    NOVEL_INPUT,
    LOW_OBSERVATION_REGION,
    MISSING_INPUT,
    STALE_INPUT,
    PREDICTION_OUT_OF_RANGE,
    CHALLENGER_DISAGREEMENT,
    IN_ALARM,
)
"""What a single condition looks at."""

SCORE, CONFIDENCE, MARGIN, INTERVAL_WIDTH, SET_SIZE, CERTIFIED = (
    "score",
    "confidence",
    "margin",
    "interval_width",
    "set_size",
    "certified",
)
MEASURES = (SCORE, CONFIDENCE, MARGIN, INTERVAL_WIDTH, SET_SIZE, CERTIFIED)
"""How uncertain a prediction is: its score lies between two bounds; its largest probability, or the difference of the
two largest, lies below one; its interval is wider than a bound; its prediction set has more than one class; its
confidence lies below the one that was certified."""

RECORD, OVERRIDE, REFUSE, ROUTE = "record", "override", "refuse", "route"
RULE_ACTIONS = (RECORD, OVERRIDE, REFUSE, ROUTE)
"""What a rule does."""

BY_VALUE, BY_LABEL, BY_CLIP, BY_VERSION, BY_PRIOR = "value", "label", "clip", "version", "prior"
OVERRIDES = (BY_VALUE, BY_LABEL, BY_CLIP, BY_VERSION, BY_PRIOR)
"""What is served instead: a number, a class, the prediction pulled into a range, another version's answer, or what is
usual."""

ANSWERED, OVERRIDDEN, REFUSED, ROUTED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Condition:
    """When a rule fires. Field by field the record ``HumilityCondition`` of the contract."""

    trigger: str
    conditions: tuple[Condition, ...] = ()
    columns: tuple[str, ...] = ()
    measure: str = ""
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    least: int = 1
    older_than_ms: int | None = None

    def leaves(self) -> Iterator[Condition]:
        """All conditions in it that combine no others."""
        if self.trigger in COMBINATIONS:
            for condition in self.conditions:
                yield from condition.leaves()
        else:
            yield self

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Condition:
        """Read the fields of the Avro record."""
        lists = {"columns": tuple(record["columns"]), "values": tuple(record["values"])}
        return cls(**{**record, **lists, "conditions": tuple(map(cls.from_record, record["conditions"]))})


@dataclass(frozen=True, slots=True)
class Override:
    """What is served instead. Field by field the record ``HumilityOverride`` of the contract."""

    kind: str
    value: float | None = None
    label: str | None = None
    low: float | None = None
    high: float | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A trigger and what is done when it fires. Field by field the record ``HumilityRule`` of the contract."""

    name: str
    when: Condition
    action: str
    override: Override | None = None
    message: str = ""
    route_to: str = ""
    priority: int = 100
    dry_run: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Rule:
        """Read the fields of the Avro record."""
        override = None if record["override"] is None else Override(**record["override"])
        return cls(**{**record, "when": Condition.from_record(record["when"]), "override": override})


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What is to be guaranteed, and how surely. Field by field the record ``HumilityGuarantees`` of the contract."""

    novelty_rate: float | None = None
    max_error: float | None = None
    tolerance: float | None = None
    coverage: float | None = None
    confidence: float = 0.95
    segment: str | None = None
    step: float = 0.01


@dataclass(frozen=True, slots=True)
class HumilitySpec:
    """A deployment's humility rules. Field by field the record ``HumilitySpec`` of the contract."""

    rules: tuple[Rule, ...] = ()
    guarantees: Guarantees = field(default_factory=Guarantees)

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> HumilitySpec:
        """Read the fields of the Avro record."""
        return cls(tuple(map(Rule.from_record, record["rules"])), Guarantees(**record["guarantees"]))

    def digest(self) -> str:
        """SHA-256, hexadecimal, of the record as JSON with sorted names, no spaces, and every number as a float."""
        return digest_of(self.to_record())


def digest_of(record: Any) -> str:
    """SHA-256, hexadecimal, of a record as JSON with sorted names, no spaces, and every number as a float."""
    text = json.dumps(_with_floats(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _with_floats(node: Any) -> Any:
    """The same with integers as floats: a record that was encoded and decoded has the digest it had before."""
    if isinstance(node, Mapping):
        return {name: _with_floats(value) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_with_floats(value) for value in node]
    return float(node) if type(node) is int else node
