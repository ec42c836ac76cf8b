"""What changed among humility rules, what they say in words, and which of them wait for a fit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from driftline.codec import Record
from driftline.humility.policy import Policy
from driftline.humility.rules import Guarantees, HumilitySpec
from driftline.humility.wording import describe, printable
from services.deployments.humility import rule_document
from streams.specification import DeploymentSpec

ADDED, REMOVED, CHANGED = "added", "removed", "changed"

_MOST_CHARACTERS = 1_000
"""Of the rules that changed in an audit record."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that was added, removed or changed.

    Attributes:
        name: The rule.
        what: ``added``, ``removed`` or ``changed``.
        before: Fields that differ as they were, as people write them; all of them of a rule that was removed.
        after: As they are.
    """

    name: str
    what: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that differ."""
        return (*self.before, *(name for name in self.after if name not in self.before))


def rule_changes(before: HumilitySpec | None, after: HumilitySpec | None) -> Iterator[RuleChange]:
    """Rules that were changed or removed, in the order of before, and then those that were added."""
    old = {} if before is None else {rule.name: rule_document(rule) for rule in before.rules}
    new = {} if after is None else {rule.name: rule_document(rule) for rule in after.rules}
    for name, document in old.items():
        if name not in new:
            yield RuleChange(name, REMOVED, document, {})
        elif document != new[name]:
            differing = [field for field in {**document, **new[name]} if document.get(field) != new[name].get(field)]
            was = {field: document[field] for field in differing if field in document}
            yield RuleChange(name, CHANGED, was, {field: new[name][field] for field in differing if field in new[name]})
    for name, document in new.items():
        if name not in old:
            yield RuleChange(name, ADDED, {}, document)


def rule_order(before: HumilitySpec | None, after: HumilitySpec | None) -> tuple[str, str] | None:
    """The order of the rules that stayed, before and after, where it differs: of equal priorities the first acts."""
    if before is None or after is None:
        return None
    old, new = [rule.name for rule in before.rules], [rule.name for rule in after.rules]
    stayed = set(old) & set(new)
    was, now = [name for name in old if name in stayed], [name for name in new if name in stayed]
    return None if was == now else (_quoted(was), _quoted(now))


def audit_text(before: HumilitySpec | None, after: HumilitySpec | None) -> str:
    """The rules that changed, for the audit record: ``added 'storm'; changed 'unsure' (when, action)``; empty where
    none did.
    """
    told = [
        f"{change.what} {change.name!r}" + (f" ({', '.join(change.fields)})" if change.what == CHANGED else "")
        for change in rule_changes(before, after)
    ]
    order = rule_order(before, after)
    told += [] if order is None else [f"order: {order[1]}"]
    text = printable("; ".join(told))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def field_text(value: Any) -> Any:
    """A field of a rule on one line, exactly: a condition is told whole, not shortened as in words."""
    return json.dumps(value, ensure_ascii=True) if isinstance(value, (dict, list)) else value


def in_words(humility: HumilitySpec | None) -> list[str]:
    """What is to be guaranteed, and the rules in order, a sentence each."""
    return [] if humility is None else [*guarantee_words(humility.guarantees), *map(describe, humility.rules)]


def guarantee_words(given: Guarantees) -> list[str]:
    """What ``driftline humility fit`` is to guarantee, a sentence each; whether it can, only the rows say."""
    sure, told = f"with confidence {_percent(given.confidence)}", []
    if given.novelty_rate is not None:
        told.append(f"asked for: novel inputs are at most {_percent(given.novelty_rate)} of unchanged traffic, {sure}")
    if given.max_error is not None:
        beyond = "" if given.tolerance is None else f" (further off than {given.tolerance:g})"
        told.append(
            f"asked for: at most {_percent(given.max_error)} of what is certified is wrong{beyond} while nothing "
            f"changes, {sure}"
        )
    if given.coverage is not None:
        told.append(
            f"asked for: adaptive intervals and prediction sets hold {_percent(given.coverage)} of the actual values "
            "in the long run, whatever changes"
        )
    if told and given.segment is not None:
        told.append(f"each of them for every part of {given.segment!r} that has the rows for it")
    return [printable(sentence) for sentence in told]


def fit_warnings(spec: DeploymentSpec, baseline: Record | None) -> list[str]:
    """What does not work before ``driftline humility fit`` has run, or run again.

    Args:
        spec: The deployment.
        baseline: Avro record of the baseline of its latest version; None where there is none.
    """
    if spec.humility is None:
        return []
    policy = Policy.of(spec.to_record(), baseline)
    unarmed: Sequence[str] = () if policy is None else policy.unarmed
    fit = None if baseline is None else baseline["humility"]
    told = list(unarmed)
    if fit is not None and fit["spec_digest"] != spec.humility.digest():
        told.append("what was fitted is of other rules or guarantees: how often rules fire is not watched")
    elif fit is None and not unarmed:
        told.append("nothing has been fitted: how often rules fire is not watched")
    version = None if baseline is None else baseline["model_version"]
    return [*told, f"run {fit_command(spec.deployment_id, version)}"] if told else []


def fit_command(deployment_id: str, version: str | None) -> str:
    """How to fit the rules to a version that has a baseline, or to one that has none yet. Arguments are quoted, so that
    none becomes a command of its own.
    """
    if version is None:
        return printable(f"`driftline baseline build {shlex.quote(deployment_id)}`, which fits the rules as well")
    return printable(f"`driftline humility fit {shlex.quote(deployment_id)} --version {shlex.quote(version)}`")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
