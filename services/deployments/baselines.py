"""The baselines in force: the compacted topic ``baselines``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from driftline.codec import decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from driftline.topics import baseline_key
from services.deployments.changes import Change, changing
from services.deployments.errors import DeploymentError
from services.kafka import broker_time_ms, latest_by_key
from streams.baseline import Baseline
from streams.errors import BaselineError

BUILT = "baseline.built"


@dataclass(frozen=True, slots=True)
class StoredBaseline:
    """A baseline in force, and since when (broker's time, milliseconds since 1970 UTC)."""

    baseline: Baseline
    built_ms: int | None


def load_baselines(settings: KafkaSettings, deployment_id: str | None = None) -> list[StoredBaseline]:
    """The baselines in force, of one deployment or all, the latest last.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
        DeploymentError: A record on the topic cannot be read.
    """
    topic = settings.topics.baselines
    found = []
    for key, message in latest_by_key(settings, topic).items():
        if deployment_id is not None and not key.startswith(f"{deployment_id}@".encode()):
            continue
        try:
            baseline = Baseline.from_record(decode(message.value())[1])
        except (CodecError, BaselineError, TypeError, KeyError, ValueError) as error:
            raise DeploymentError(
                f"{topic!r} has a record that is no baseline (key {key[:80]!r}, offset {message.offset()}): {error}. "
                "Build it again."
            ) from error
        found.append(StoredBaseline(baseline, broker_time_ms(message)))
    return found


def get_baseline(settings: KafkaSettings, deployment_id: str, version: str | None = None) -> StoredBaseline:
    """One baseline in force: that of a version, or the latest of the deployment.

    Raises:
        DeploymentError: There is none.
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    found = {item.baseline.model_version: item for item in load_baselines(settings, deployment_id)}
    if version is None and found:
        return list(found.values())[-1]
    if version is None or version not in found:
        named = f"{deployment_id}@{version}" if version else deployment_id
        if found:
            close = difflib.get_close_matches(version or "", found, 3) or list(found)
            hint = f"there is one for {', '.join(map(repr, close))}"
        else:
            hint = "build one: driftline baseline build DEPLOYMENT FILE --version V"
        raise DeploymentError(f"there is no baseline for {named!r}: {hint}")
    return found[version]


def publish_baseline(settings: KafkaSettings, baseline: Baseline, *, actor: str, reason: str = "") -> bool:
    """Put a baseline in force, audited; the same one again changes nothing.

    Returns:
        Whether anything changed.

    Raises:
        ClusterError: Kafka does not answer, or somebody else changed baselines at the same moment.
        DeploymentError: The baseline is larger than a message may be.
    """
    deployment, version = baseline.deployment_id, baseline.model_version
    with changing(settings, "baselines", actor=actor, reason=reason) as changes:
        before = {item.baseline.model_version: item.baseline.digest for item in load_baselines(settings, deployment)}
        if before.get(version) == baseline.digest:
            return False
        changes.add(
            Change(
                topic=settings.topics.baselines,
                key=baseline_key(deployment, version),
                name="Baseline",
                record=baseline.to_record(),
                action=BUILT,
                subject=f"baseline:{deployment}@{version}",
                before_digest=before.get(version),
                after_digest=baseline.digest,
                detail={"rows": str(baseline.rows), "source": baseline.source},
            )
        )
    return True
