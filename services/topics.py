"""The topics Driftline needs: what they are for, how they are kept, and creating those that are missing."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public by its documentation, not by its types
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from driftline.settings import KafkaSettings
from services.errors import ServicesError
from services.kafka import MAX_MESSAGE_BYTES, REACH_SECONDS, ClusterError, admin_client, answer

DEFAULT_PARTITIONS = 4
CLUSTER_DEFAULT_REPLICATION = -1
"""Asks the cluster for its own ``default.replication.factor``."""

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_FOREVER = "-1"
_VISIBLE_SECONDS = 30.0


class TopicsError(ServicesError):
    """Topics that are there but cannot be worked with."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """One topic as it should be.

    Attributes:
        name: Name on the cluster, prefix included.
        records: What it carries, for people.
        partitions: How many it is created with.
        config: Kafka topic configuration it is created with.
        exact: The number of partitions has to be this one; otherwise any will do.
    """

    name: str
    records: str
    partitions: int
    config: Mapping[str, str]
    exact: bool = False


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as it is: ``partitions`` and ``replication`` are None where it is missing."""

    plan: TopicPlan
    partitions: int | None
    replication: int | None
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """What :func:`ensure_topics` found and did."""

    created: Sequence[str]
    existing: Sequence[str]
    partitions: int


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How topics are created.

    Attributes:
        partitions: Of the topics that share their number; None takes what is there, or the default.
        replication: Copies of each partition; -1 leaves it to the cluster.
        retention_ms: How long predictions, outcomes and their order are kept: at least until all outcomes are there.
        history_retention_ms: How long windows, alerts and dead letters are kept.
    """

    partitions: int | None = None
    replication: int = CLUSTER_DEFAULT_REPLICATION
    retention_ms: int = 90 * _DAY_MS
    history_retention_ms: int = 730 * _DAY_MS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> TopicSettings:
        """Read ``DRIFTLINE_PARTITIONS``, ``_REPLICATION``, ``_RETENTION_DAYS`` and ``_HISTORY_RETENTION_DAYS``.

        Raises:
            TopicsError: A value is not a number that makes sense.
        """
        env = os.environ if environment is None else environment
        partitions = _whole_number(env, "DRIFTLINE_PARTITIONS", 1, 10_000)
        replication = _whole_number(env, "DRIFTLINE_REPLICATION", 1, 32)
        retention = _whole_number(env, "DRIFTLINE_RETENTION_DAYS", 1, 36_500)
        history = _whole_number(env, "DRIFTLINE_HISTORY_RETENTION_DAYS", 1, 36_500)
        defaults = cls()
        return cls(
            partitions,
            defaults.replication if replication is None else replication,
            defaults.retention_ms if retention is None else retention * _DAY_MS,
            defaults.history_retention_ms if history is None else history * _DAY_MS,
        )


def _whole_number(env: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not low <= int(text) <= high:
        raise TopicsError(f"{name}: expected a whole number from {low} to {high}, came {text[:40]!r}")
    return int(text)


def topic_plans(settings: KafkaSettings, topics: TopicSettings | None = None, *, partitions: int) -> list[TopicPlan]:
    """All topics as they should be.

    Args:
        settings: Whose topic names.
        topics: Retention.
        partitions: Number of partitions of predictions, outcomes and the streams' two topics. An outcome finds its
            prediction, and the state its partition, by number: the four must agree.
    """
    given = topics or TopicSettings()
    names = settings.topics
    events = {
        "cleanup.policy": "delete",
        "retention.ms": str(given.retention_ms),
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        # A day of replay must not be one segment that is deleted, or kept, whole.
        "segment.ms": str(_DAY_MS),
    }
    history = {"cleanup.policy": "delete", "retention.ms": str(given.history_retention_ms)}
    large_history = history | {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    compact = {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(_HOUR_MS),
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
    }
    # Small segments: only closed ones are compacted, and a partition's state is read whole before it opens.
    journal = compact | {"segment.bytes": str(64 * 1024 * 1024), "min.cleanable.dirty.ratio": "0.3"}
    forever = {"cleanup.policy": "delete", "retention.ms": _FOREVER, "retention.bytes": _FOREVER}
    return [
        TopicPlan(names.predictions, "PredictionBatch, PredictionEvent", partitions, events, exact=True),
        TopicPlan(names.outcomes, "OutcomeBatch, OutcomeEvent", partitions, events, exact=True),
        TopicPlan(names.deployments, "DeploymentSpec", 1, compact, exact=True),
        TopicPlan(names.baselines, "Baseline", 1, compact, exact=True),
        TopicPlan(names.windows, "WindowSummary, PerformanceWindow, HumilityWindow", partitions, large_history),
        TopicPlan(names.humility, "HumilityState", 1, compact),
        TopicPlan(names.alerts, "Alert", 1, history),
        TopicPlan(names.audit, "AuditEvent", 1, forever, exact=True),
        TopicPlan(names.audit_checkpoints, "LedgerCheckpoint", 1, forever, exact=True),
        TopicPlan(names.dead_letters, "DeadLetter", partitions, large_history),
        TopicPlan(names.streams_state, "JournalRecord", partitions, journal, exact=True),
        TopicPlan(names.streams_order, "OrderRecord", partitions, events, exact=True),
    ]


def topic_states(settings: KafkaSettings, partitions: int | None = None) -> list[TopicState]:
    """All topics as they are, with what is wrong with each.

    Raises:
        ClusterError: The cluster does not answer.
        TopicsError: A setting cannot be used.
    """
    given = TopicSettings.from_environment()
    return _states(settings, admin_client(settings), given, partitions)


def _states(
    settings: KafkaSettings, admin: AdminClient, given: TopicSettings, partitions: int | None
) -> list[TopicState]:
    found = {
        name: (len(topic.partitions), max((len(p.replicas) for p in topic.partitions.values()), default=0))
        for name, topic in admin.list_topics(timeout=REACH_SECONDS).topics.items()
        if topic.error is None
    }
    asked = partitions or given.partitions
    there = found.get(settings.topics.predictions)
    count = asked or (there[0] if there else DEFAULT_PARTITIONS)
    plans = topic_plans(settings, given, partitions=count)
    policies = _cleanup_policies(admin, [plan.name for plan in plans if plan.name in found])
    return [_state(plan, found.get(plan.name), policies.get(plan.name)) for plan in plans]


def _state(plan: TopicPlan, found: tuple[int, int] | None, policy: str | None) -> TopicState:
    if found is None:
        return TopicState(plan, None, None)
    partitions, replication = found
    problems = []
    if plan.exact and partitions != plan.partitions:
        problems.append(f"has {partitions} partition(s), expected {plan.partitions}")
    expected = plan.config["cleanup.policy"]
    if policy is not None and policy != expected:
        problems.append(f"has cleanup.policy={policy}, expected {expected}")
    return TopicState(plan, partitions, replication, problems)


def _cleanup_policies(admin: AdminClient, names: Collection[str]) -> dict[str, str]:
    """What each topic does with old records; without the right to ask, nothing is known and nothing is wrong."""
    if not names:
        return {}
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    policies = {}
    for resource, future in asked.items():
        try:
            policies[resource.name] = str(answer(future)["cleanup.policy"].value)
        except (KafkaException, KeyError):
            continue
    return policies


def ensure_topics(
    settings: KafkaSettings, partitions: int | None = None, replication: int | None = None
) -> TopicsReport:
    """Create the topics that are missing; those that are there are checked and left as they are.

    Args:
        settings: How to reach Kafka.
        partitions: Number of partitions of predictions, outcomes, streams-state and streams-order; None takes
            ``DRIFTLINE_PARTITIONS``, or what predictions has already, or 4.
        replication: Copies of each partition; None takes ``DRIFTLINE_REPLICATION`` or the cluster's default.

    Raises:
        ClusterError: The cluster does not answer, or refuses.
        TopicsError: A topic is there with another number of partitions or another cleanup policy.
    """
    given = TopicSettings.from_environment()
    admin = admin_client(settings)
    states = _states(settings, admin, given, partitions)
    _require_fit(settings, states)
    missing = [state.plan for state in states if state.partitions is None]
    created = _create(admin, missing, given.replication if replication is None else replication)
    if missing:
        # A broker learns of a topic after the controller has created it, and another process may have been quicker with
        # another number of partitions: what is there then is looked at again.
        count = states[0].plan.partitions
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while any(state.partitions is None for state in states):
            if time.monotonic() > deadline:
                raise ClusterError(f"topics were created, and are not to be seen after {_VISIBLE_SECONDS:.0f} s")
            time.sleep(0.05)
            states = _states(settings, admin, given, count)
        _require_fit(settings, states)
    existing = [state.plan.name for state in states if state.plan.name not in created]
    return TopicsReport(created, existing, states[0].plan.partitions)


def _require_fit(settings: KafkaSettings, states: Sequence[TopicState]) -> None:
    wrong = [f"{state.plan.name!r} {problem}" for state in states for problem in state.problems]
    if wrong:
        raise TopicsError(_mismatch(settings, wrong))


def _mismatch(settings: KafkaSettings, wrong: Sequence[str]) -> str:
    return (
        f"topics on {settings.bootstrap_servers} do not fit: {'; '.join(wrong)}. Set DRIFTLINE_PARTITIONS to the "
        "number that is there, keep this installation apart with DRIFTLINE_TOPIC_PREFIX, or delete these topics. "
        "Partitions are never added under running streams: keys would move away from their state."
    )


def _create(admin: AdminClient, plans: Sequence[TopicPlan], replication: int) -> list[str]:
    if not plans:
        return []
    new = [NewTopic(plan.name, plan.partitions, replication, config=dict(plan.config)) for plan in plans]
    created = []
    for name, future in admin.create_topics(new, operation_timeout=REACH_SECONDS).items():
        try:
            answer(future)
        except KafkaException as error:
            cause = error.args[0]
            if cause.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was quicker
            raise ClusterError(f"the topic {name!r} cannot be created: {cause.str()}") from error
        created.append(name)
    return created


def delete_topics(settings: KafkaSettings) -> list[str]:
    """Delete every topic of this installation, with all that is in them; returns the names.

    Raises:
        ClusterError: The cluster does not answer, or refuses.
    """
    admin = admin_client(settings)
    there = admin.list_topics(timeout=REACH_SECONDS).topics
    names = [plan.name for plan in topic_plans(settings, partitions=1) if plan.name in there]
    if not names:
        return []
    for name, future in admin.delete_topics(names, operation_timeout=REACH_SECONDS).items():
        try:
            answer(future)
        except KafkaException as error:
            raise ClusterError(f"the topic {name!r} cannot be deleted: {error.args[0].str()}") from error
    return names
