"""The deployments in force: the compacted topic ``deployments``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from driftline.codec import decode
from driftline.errors import CodecError
from driftline.humility.rules import HumilitySpec
from driftline.humility.wording import describe
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.deployments.baselines import latest_baselines
from services.deployments.budget import shared
from services.deployments.changes import Change, changing
from services.deployments.errors import DeploymentError
from services.deployments.humility_changes import (
    CHANGED,
    audit_text,
    field_text,
    fit_warnings,
    rule_changes,
    rule_order,
)
from services.deployments.retention import check_retention
from services.deployments.specification import to_document
from services.kafka import broker_time_ms, latest_by_key
from services.retention import event_retentions
from streams.specification import DeploymentSpec

APPLIED = "deployment.applied"
RESHARED = "deployment.budget_shared"
RETIRED = "deployment.retired"

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Deployment:
    """A specification in force, and since when (broker's time, milliseconds since 1970 UTC)."""

    spec: DeploymentSpec
    applied_ms: int | None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a specification that differs; None where it is not given."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Applied:
    """What happened to one deployment.

    Attributes:
        spec: As it is in force now.
        result: ``created``, ``changed``, ``unchanged``, or ``shared`` where only its part of the budget changed.
        changes: What differs from before.
        warnings: What may go wrong with it, in words.
    """

    spec: DeploymentSpec
    result: str
    changes: Sequence[FieldChange] = ()
    warnings: Sequence[str] = ()


def load_deployments(settings: KafkaSettings) -> dict[str, Deployment]:
    """All deployments in force, by id, sorted.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
        DeploymentError: A record on the topic cannot be read.
    """
    topic = settings.topics.deployments
    found = {}
    for key, message in latest_by_key(settings, topic).items():
        try:
            spec = DeploymentSpec.from_record(decode(message.value())[1])
        except (CodecError, TypeError, KeyError) as error:
            raise DeploymentError(
                f"{topic!r} has a record that is no deployment (key {key[:80]!r}, offset {message.offset()}): {error}. "
                "Apply the deployment again."
            ) from error
        found[spec.deployment_id] = Deployment(spec, broker_time_ms(message))
    return dict(sorted(found.items()))


def get_deployment(settings: KafkaSettings, deployment_id: str) -> Deployment:
    """One deployment in force.

    Raises:
        DeploymentError: There is none of this name; the closest names are given.
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    found = load_deployments(settings)
    if deployment_id not in found:
        close = difflib.get_close_matches(deployment_id, found, 3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see `driftline deployment list`"
        raise DeploymentError(f"there is no deployment {deployment_id!r}: {hint}")
    return found[deployment_id]


def apply(
    settings: KafkaSettings,
    specs: Sequence[DeploymentSpec],
    *,
    actor: str,
    reason: str = "",
    dry_run: bool = False,
) -> list[Applied]:
    """Put specifications in force, all or none, each audited.

    1. Refuse what waits longer for outcomes than the topics keep (:mod:`services.deployments.retention`).
    2. Read what is in force; from here on a second person's apply refuses this one.
    3. Share the fleet's budget anew (:func:`services.deployments.budget.shared`).
    4. Publish what differs with the next revision, smaller shares first, with its audit record, in one transaction.

    Args:
        settings: How to reach Kafka.
        specs: As :meth:`Specification.to_spec` gives them; revision and share are filled in here.
        actor: Who applies them.
        reason: Why, in words.
        dry_run: Say what would happen, publish nothing.

    Raises:
        ClusterError: Kafka does not answer, topics are missing, or somebody else applied at the same moment.
        DeploymentError: The same deployment twice, fleet deployments that promise different budgets, or outcomes that
            are waited for longer than the topics keep their predictions.
    """
    _require_distinct(specs)
    doubts = _doubts(settings, specs)
    if dry_run:
        return _with_warnings(_planned(_in_force(settings), specs), doubts)
    with changing(settings, "deployments", actor=actor, reason=reason) as changes:
        current = _in_force(settings)
        planned = list(_planned(current, specs))
        for applied in planned:
            if applied.result != "unchanged":
                changes.add(_change(settings, current.get(applied.spec.deployment_id), applied))
    return _with_warnings(planned, doubts)


def _doubts(settings: KafkaSettings, specs: Sequence[DeploymentSpec]) -> dict[str, list[str]]:
    """By deployment, what may go wrong with it."""
    kept = any(spec.outcomes is not None for spec in specs)
    doubts = check_retention(specs, event_retentions(settings)) if kept else {}
    humble = {spec.deployment_id: spec for spec in specs if spec.humility is not None}
    warnings = {name: fit_warnings(spec, None) for name, spec in humble.items()}
    for baseline in latest_baselines(settings, humble) if humble else ():
        warnings[baseline.deployment_id] = fit_warnings(humble[baseline.deployment_id], baseline.to_record())
    return {name: [*doubts.get(name, []), *warnings.get(name, [])] for name in {**doubts, **warnings}}


def _with_warnings(planned: Iterable[Applied], warnings: Mapping[str, Sequence[str]]) -> list[Applied]:
    return [dataclasses.replace(each, warnings=warnings.get(each.spec.deployment_id, ())) for each in planned]


def retire(settings: KafkaSettings, deployment_id: str, *, actor: str, reason: str) -> DeploymentSpec:
    """Take a deployment out of force, audited. Its baselines, windows, alerts and audit record stay.

    Its part of the fleet's budget is free for deployments that join or rise; the shares of the others do not grow by
    it (:func:`services.deployments.budget.shared` says why).

    Returns:
        What was in force.

    Raises:
        ClusterError: Kafka does not answer, topics are missing, or somebody else applied at the same moment.
        DeploymentError: There is none of this name.
    """
    with changing(settings, "deployments", actor=actor, reason=reason) as changes:
        spec = get_deployment(settings, deployment_id).spec
        changes.add(
            Change(
                topic=settings.topics.deployments,
                key=record_key(deployment_id),
                name="DeploymentSpec",
                record=None,
                action=RETIRED,
                subject=f"deployment:{deployment_id}",
                before_digest=spec.digest(),
                after_digest=None,
                detail={"revision": str(spec.revision), "share": f"{spec.false_alarms.share:g}"},
            )
        )
    return spec


def _in_force(settings: KafkaSettings) -> dict[str, DeploymentSpec]:
    return {name: deployment.spec for name, deployment in load_deployments(settings).items()}


def _require_distinct(specs: Sequence[DeploymentSpec]) -> None:
    names = [spec.deployment_id for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DeploymentError(f"the deployment {twice!r} is given by two of the files: apply one of them")


def _planned(current: Mapping[str, DeploymentSpec], specs: Sequence[DeploymentSpec]) -> Iterator[Applied]:
    named = {spec.deployment_id for spec in specs}
    for spec in shared(current, specs):
        before = current.get(spec.deployment_id)
        if before is None:
            yield Applied(dataclasses.replace(spec, revision=1), "created")
            continue
        if dataclasses.replace(spec, revision=before.revision) == before:
            yield Applied(before, "unchanged")
            continue
        after = dataclasses.replace(spec, revision=before.revision + 1)
        changes = list(differences(before, after))
        only_share = changes and all(change.field == "false_alarms.share" for change in changes)
        result = "shared" if only_share or spec.deployment_id not in named else "changed"
        yield Applied(after, result, changes)


def _change(settings: KafkaSettings, before: DeploymentSpec | None, applied: Applied) -> Change:
    spec = applied.spec
    detail = {"revision": str(spec.revision), "share": f"{spec.false_alarms.share:g}"}
    if applied.changes:
        detail["changed"] = ", ".join(change.field for change in applied.changes)[:1000]
    rules = audit_text(None if before is None else before.humility, spec.humility)
    if rules:
        detail["rules"] = rules
    return Change(
        topic=settings.topics.deployments,
        key=record_key(spec.deployment_id),
        name="DeploymentSpec",
        record=spec.to_record(),
        action=RESHARED if applied.result == "shared" else APPLIED,
        subject=f"deployment:{spec.deployment_id}",
        before_digest=None if before is None else before.digest(),
        after_digest=spec.digest(),
        detail=detail,
    )


def differences(before: DeploymentSpec, after: DeploymentSpec) -> Iterator[FieldChange]:
    """The fields that differ, named as in the YAML."""
    old, new = _flat(before), _flat(after)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name, _ABSENT) != new.get(name, _ABSENT):
            yield FieldChange(name, old.get(name), new.get(name))
    yield from _rule_differences(before.humility, after.humility)


def _rule_differences(before: HumilitySpec | None, after: HumilitySpec | None) -> Iterator[FieldChange]:
    """Rules by their names; whole ones in words."""
    was = {} if before is None else {rule.name: describe(rule) for rule in before.rules}
    now = {} if after is None else {rule.name: describe(rule) for rule in after.rules}
    for change in rule_changes(before, after):
        name = f"humility.rules.{change.name}"
        if change.what != CHANGED:
            yield FieldChange(name, was.get(change.name), now.get(change.name))
            continue
        for field in change.fields:
            old, new = field_text(change.before.get(field)), field_text(change.after.get(field))
            yield FieldChange(f"{name}.{field}", old, new)
    order = rule_order(before, after)
    if order is not None:
        yield FieldChange("humility.rules", *order)


def _flat(spec: DeploymentSpec) -> dict[str, Any]:
    document = to_document(spec)
    document["features"] = {
        feature["name"]: {name: value for name, value in feature.items() if name != "name"}
        for feature in document["features"]
    }
    if spec.detectors:
        document["detectors"] = {
            f"{detector.detector} on {detector.stream}": dict(detector.parameters) or "as in the literature"
            for detector in spec.detectors
        }
    if spec.outcomes is not None and spec.outcomes.values:
        document["outcomes"]["values"] = {
            f"{each.predicted} for {each.actual}": each.value for each in spec.outcomes.values
        }
    document.get("humility", {}).pop("rules", None)
    document["false_alarms"]["share"] = spec.false_alarms.share
    return dict(_leaves(document, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for name, item in value.items():
        yield from _leaves(item, f"{path}.{name}" if path else name)
