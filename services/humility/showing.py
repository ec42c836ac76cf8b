"""Rules as they stand: armed or not, what is guaranteed, what applications were told, and who decides by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from driftline.codec import Record
from driftline.humility.policy import Policy
from driftline.humility.wording import describe
from driftline.settings import KafkaSettings
from services.deployments.baselines import load_baselines
from services.deployments.humility_changes import guarantee_words
from services.humility.counts import Counts, humility_windows, total
from services.humility.errors import HumilityError
from services.humility.guarantees import fit_document, in_order_of_priority, why_unarmed
from services.humility.standing import Standing, standings
from streams.baseline import Baseline
from streams.humility.judge import policy_of
from streams.specification import DeploymentSpec


@dataclass(frozen=True, eq=False, slots=True)
class Lately:
    """What was decided lately.

    Attributes:
        start_us: Start of the first window, microseconds since 1970 UTC.
        end_us: End of the last.
        counts: What was counted in them.
        policy: Digest of the rules and the fit that the streams judged by in the last of them.
    """

    start_us: int
    end_us: int
    counts: Counts
    policy: str


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """One version.

    Attributes:
        model_version: The version; empty where no version has a baseline.
        baseline: In force; None for none.
        policy: What its predictions are decided by.
        standings: What applications were told last, by partition.
        lately: None where nothing was decided yet.
    """

    model_version: str
    baseline: Baseline | None
    policy: Policy | None
    standings: tuple[Standing, ...]
    lately: Lately | None


def versions_shown(
    settings: KafkaSettings, spec: DeploymentSpec, *, version: str | None = None, last: int = 24
) -> list[Shown]:
    """Every version with a baseline, the latest last; one without baseline where none has one.

    Args:
        settings: How to reach Kafka.
        spec: The deployment.
        version: This one only.
        last: So many windows of event time are lately.

    Raises:
        HumilityError: The version has no baseline.
        ClusterError: Kafka does not answer, or a topic is missing.
    """
    baselines = {each.baseline.model_version: each.baseline for each in load_baselines(settings, spec.deployment_id)}
    if version is not None and version not in baselines:
        named = f"there is one for {', '.join(map(repr, baselines))}" if baselines else "there is none at all"
        raise HumilityError(f"there is no baseline for {spec.deployment_id}@{version}: {named}")
    told = standings(settings, spec.deployment_id)
    windows = humility_windows(settings, spec.deployment_id, version=version)
    chosen = list(baselines) if version is None else [version]
    return [
        Shown(
            name,
            baselines[name],
            policy_of(spec, baselines[name]),
            tuple(each for each in told if each.model_version == name),
            lately([each for each in windows if each["model_version"] == name], last),
        )
        for name in chosen
    ] or [Shown("", None, Policy.of(spec.to_record(), None), (), None)]


def lately(windows: Sequence[Record], last: int) -> Lately | None:
    """The last windows of one version added up, in order of their start."""
    starts = sorted({each["window_start_us"] for each in windows})[-last:]
    chosen = [each for each in windows if each["window_start_us"] in set(starts)]
    if not chosen:
        return None
    latest = max(chosen, key=lambda each: (each["window_start_us"], each["clock_us"], each["spec_revision"]))
    end = max(each["window_end_us"] for each in chosen)
    return Lately(starts[0], end, total(chosen), latest["policy"])


def show_document(spec: DeploymentSpec, shown: Sequence[Shown]) -> Mapping[str, Any]:
    """Rules as they stand, for machines."""
    assert spec.humility is not None
    return {
        "deployment": spec.deployment_id,
        "revision": spec.revision,
        "asked": [words.removeprefix("asked for: ") for words in guarantee_words(spec.humility.guarantees)],
        "rules": [
            {
                "rule": rule.name,
                "priority": rule.priority,
                "action": rule.action,
                "dry_run": rule.dry_run,
                "message": rule.message,
                "words": describe(rule),
            }
            for rule in in_order_of_priority(spec.humility.rules)
        ],
        "versions": [_version_document(spec, each) for each in shown],
    }


def _version_document(spec: DeploymentSpec, shown: Shown) -> Mapping[str, Any]:
    rules = spec.humility.rules if spec.humility else ()
    fitted = {"fit": None} if shown.baseline is None else fit_document(spec, shown.baseline, shown.policy)
    lately = shown.lately
    return {
        "version": shown.model_version,
        "baseline_digest": None if shown.baseline is None else shown.baseline.digest,
        "policy": None if shown.policy is None else shown.policy.digest,
        "unarmed": {rule.name: why for rule in rules if (why := why_unarmed(shown.policy, rule))},
        **fitted,
        "told": [dataclasses.asdict(each) for each in shown.standings],
        "lately": None
        if lately is None
        else {
            "start_us": lately.start_us,
            "end_us": lately.end_us,
            "policy": lately.policy,
            **counts_document(lately.counts),
        },
    }


def counts_document(counts: Counts) -> dict[str, Any]:
    """What rules did, for machines."""
    from driftline.humility.rules import ACTIONS

    return {
        "rows": counts.rows,
        "decided_by_publishers": counts.decided,
        "stale": counts.stale,
        "disagreeing": counts.disagreeing,
        **dict(zip(ACTIONS, counts.actions, strict=True)),
        "fired": dict(counts.fired),
        "acted": dict(counts.acted),
    }
