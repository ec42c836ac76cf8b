"""The baselines in force: the compacted topic ``baselines``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from driftline.topics import baseline_key
from services.deployments.changes import Change, changing
from services.deployments.errors import DeploymentError
from services.kafka import broker_time_ms, latest_by_key, read_to_end
from streams.baseline import Baseline
from streams.errors import BaselineError

BUILT = "baseline.built"

SHORTEST_DIGEST = 8
"""So many characters of a digest name a baseline."""

IN_FORCE, REPLACED, COMPACTED = "in force", "replaced", "compacted"


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


def latest_baselines(settings: KafkaSettings, deployments: Collection[str]) -> Iterator[Baseline]:
    """The latest baseline of each of these deployments that has one; one in memory at a time.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    latest = {}
    for key, message in latest_by_key(settings, settings.topics.baselines).items():
        name = key.decode("utf-8", "replace").partition("@")[0]  # versions may have an @, deployments not
        if name in deployments:
            latest[name] = message
    for message in latest.values():
        try:
            yield Baseline.from_record(decode(message.value())[1])
        except (CodecError, BaselineError, TypeError, KeyError, ValueError):
            continue  # `driftline baseline show` names what is wrong with it


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
            hint = f"build one: driftline baseline build {deployment_id} FILE --version {version or 'V'}"
        raise DeploymentError(f"there is no baseline for {named!r}: {hint}")
    return found[version]


def publish_baseline(
    settings: KafkaSettings, baseline: Baseline, *, actor: str, reason: str = "", replacing: Baseline | None = None
) -> bool:
    """Put a baseline in force, audited; the same one again changes nothing.

    Args:
        settings: How to reach Kafka.
        baseline: The baseline.
        actor: Who built it.
        reason: Why, in words.
        replacing: The one it was made from: if another one is in force by now, that is not lost. None: whatever is.

    Returns:
        Whether anything changed.

    Raises:
        ClusterError: Kafka does not answer, or somebody else changed baselines at the same moment.
        DeploymentError: The baseline is larger than a message may be, or it would replace another one than
            ``replacing``.
    """
    deployment, version = baseline.deployment_id, baseline.model_version
    with changing(settings, "baselines", actor=actor, reason=reason) as changes:
        before = {item.baseline.model_version: item.baseline.digest for item in load_baselines(settings, deployment)}
        if before.get(version) == baseline.digest:
            return False
        if replacing is not None and before.get(version) != replacing.digest:
            raise DeploymentError(
                f"another baseline of {deployment}@{version} was put in force meanwhile: expected "
                f"{replacing.digest[:12]}, there is {(before.get(version) or 'none')[:12]}; run the command again"
            )
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
                detail={"rows": str(baseline.rows), "source": baseline.source, **_humility_detail(baseline)},
            )
        )
    return True


def _humility_detail(baseline: Baseline) -> dict[str, str]:
    """What its humility rules were fitted to, for the audit."""
    fit = baseline.humility
    return {} if fit is None else {"humility": fit.source, "humility_rules": fit.spec_digest}


@dataclass(frozen=True, slots=True)
class BaselineVersion:
    """A baseline that is or was in force.

    Attributes:
        model_version: The version it is or was for.
        digest: Its digest.
        state: ``in force``; ``replaced`` by a later one; ``compacted``: replaced, and no longer on its topic.
        built_ms: When it was put in force, milliseconds since 1970 UTC, where that is known.
        actor: By whom, from the audit record; empty where that is not known.
        reason: Why, from the audit record.
        rows: Reference rows; None where neither topic nor audit record know.
        source: Where the reference came from.
    """

    model_version: str
    digest: str
    state: str
    built_ms: int | None
    actor: str = ""
    reason: str = ""
    rows: int | None = None
    source: str = ""


def list_baselines(settings: KafkaSettings, deployment_id: str) -> list[BaselineVersion]:
    """Every baseline a deployment has or had, as often as it was put in force, oldest first.

    The topic ``baselines`` is compacted: what was replaced stays there for a while only. The audit record remembers
    who put what in force.

    Raises:
        ClusterError: Kafka does not answer, or a topic is missing.
    """
    in_force = {item.baseline.digest for item in load_baselines(settings, deployment_id)}
    kept = read_baselines(settings, deployment_id)
    found: list[BaselineVersion] = []
    for event in _audited(settings, deployment_id):
        digest, detail = event["after_digest"] or "", event["detail"]
        version = str(event["subject"]).removeprefix(f"baseline:{deployment_id}@")
        rows = str(detail.get("rows", ""))
        state = COMPACTED if digest not in kept else REPLACED
        found.append(
            BaselineVersion(
                version,
                digest,
                state,
                event["time_us"] // 1000,
                event["actor"],
                event["reason"],
                int(rows) if rows.isdigit() else None,
                detail.get("source", ""),
            )
        )
    told = {item.digest for item in found}
    found += [
        BaselineVersion(b.model_version, digest, REPLACED, item.built_ms, rows=b.rows, source=b.source)
        for digest, item in kept.items()
        if digest not in told
        for b in [item.baseline]
    ]
    found.sort(key=lambda item: item.built_ms or 0)
    last = {(item.model_version, item.digest): at for at, item in enumerate(found)}
    return [
        dataclasses.replace(item, state=IN_FORCE)
        if item.digest in in_force and last[item.model_version, item.digest] == at
        else item
        for at, item in enumerate(found)
    ]


def _audited(settings: KafkaSettings, deployment_id: str) -> Iterator[Record]:
    """The audit's records of baselines of a deployment."""
    prefix = f"baseline:{deployment_id}@".encode()
    for message in read_to_end(settings, settings.topics.audit):
        if not (message.key() or b"").startswith(prefix) or message.value() is None:
            continue
        try:
            event = decode(message.value())[1]
        except CodecError:
            continue  # whether the audit record is whole is for `driftline audit verify` to say
        if event.get("action") == BUILT:
            yield event


def read_baselines(settings: KafkaSettings, deployment_id: str) -> dict[str, StoredBaseline]:
    """Every baseline of a deployment that is still on the topic, by digest, replaced ones included, oldest first.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    prefix = f"{deployment_id}@".encode()
    found: dict[str, StoredBaseline] = {}
    for message in read_to_end(settings, settings.topics.baselines):
        if message.value() is None or not (message.key() or b"").startswith(prefix):
            continue
        try:
            baseline = Baseline.from_record(decode(message.value())[1])
        except (CodecError, BaselineError, TypeError, KeyError, ValueError):
            continue  # what is in force is read by load_baselines, which complains
        found[baseline.digest] = StoredBaseline(baseline, broker_time_ms(message))
    return found


def find_baseline(settings: KafkaSettings, name: str) -> StoredBaseline:
    """The baseline that ``DEPLOYMENT``, ``DEPLOYMENT@VERSION`` or ``DEPLOYMENT@DIGEST`` names.

    The latest in force without a version; of a digest its first eight characters or more, replaced ones included.

    Raises:
        DeploymentError: There is none, or the digest's beginning fits several.
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    deployment_id, _, version = name.partition("@")
    if len(version) >= SHORTEST_DIGEST and set(version.lower()) <= set("0123456789abcdef"):
        kept = read_baselines(settings, deployment_id)
        if not any(item.baseline.model_version == version for item in kept.values()):
            matching = [item for digest, item in kept.items() if digest.startswith(version.lower())]
            if len(matching) == 1:
                return matching[0]
            if matching:
                raise DeploymentError(
                    f"{len(matching)} baselines of {deployment_id!r} have a digest beginning with {version!r}: give "
                    f"more of it (see `driftline baseline list {deployment_id}`)"
                )
    return get_baseline(settings, deployment_id, version or None)
