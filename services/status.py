"""Whether everything runs and keeps up: topics, streams, deployments, firing alarms, dead letters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.humility.policy import Policy
from driftline.settings import KafkaSettings
from services.deployments.baselines import load_baselines
from services.deployments.store import load_deployments
from services.kafka import REACH_SECONDS, admin_client, answer, read_to_end
from services.positions import StreamPosition, stream_positions
from services.topics import TopicState, topic_states
from streams.baseline import Baseline
from streams.specification import DeploymentSpec

_JOURNAL_RECORDS = 5_000
_DEAD_LETTERS = 1_000
_DEPLOYMENT_KIND, _JOIN_KIND = "deployment", "join"


@dataclass(frozen=True, slots=True)
class OutcomeStatus:
    """How far a deployment's predictions are joined to their outcomes.

    Attributes:
        pending: Predictions whose accuracy window is not final yet and whose outcome is not known.
        coverage: Share of the predictions of windows that are not final whose outcome is known; None without any.
        early: Outcomes that wait for their prediction.
        joined: Outcomes that met their prediction, one of each prediction.
        corrected: Those that were replaced by one that became known later.
        superseded: Outcomes that said nothing new.
        unknown: Outcomes whose prediction never came, or is known no more.
        late: Outcomes that came after the window was final.
        refused: Outcomes that could not be used; the dead letters say why.
        late_predictions: Predictions that came after their window was final.
    """

    pending: int
    coverage: float | None
    early: int
    joined: int
    corrected: int
    superseded: int
    unknown: int
    late: int
    refused: int
    late_predictions: int


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """What the streams have seen of a deployment.

    Attributes:
        deployment_id: The deployment.
        owner: Who answers for it.
        revision: Of its specification.
        baselines: Versions that have a baseline.
        counters: Rows counted, late, duplicate and rejected, outcomes; empty where the last records of the journal say
            nothing of it.
        last_event_us: Its latest event time, None where unknown.
        outcomes: How its outcomes stand; None where none are expected or the journal's last records say nothing.
        unarmed: A sentence for each humility rule of its latest version that cannot fire, with the reason.
        latest_version: That whose baseline is the latest; None without any.
    """

    deployment_id: str
    owner: str
    revision: int
    baselines: Sequence[str]
    counters: Mapping[str, int]
    last_event_us: int | None
    outcomes: OutcomeStatus | None = None
    unarmed: Sequence[str] = ()
    latest_version: str | None = None


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """Everything :func:`system_status` looks at."""

    bootstrap_servers: str
    topics: Sequence[TopicState]
    workers: int | None
    positions: Sequence[StreamPosition] = ()
    deployments: Sequence[DeploymentStatus] = ()
    firing: Sequence[Record] = ()
    dead_letters: int = 0
    dead_letter_reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def topics_complete(self) -> bool:
        """Whether every topic is there and fits."""
        return all(state.partitions is not None and not state.problems for state in self.topics)

    @property
    def lag(self) -> int:
        """Messages that are published and not applied yet."""
        return sum(position.lag for position in self.positions)

    @property
    def lag_by_topic(self) -> dict[str, int]:
        """The same by topic."""
        lags: Counter[str] = Counter()
        for position in self.positions:
            lags.update(position.lags)
        return dict(lags)

    @property
    def well(self) -> bool:
        """Whether the topics are complete and a worker runs."""
        return self.topics_complete and self.workers != 0


def system_status(settings: KafkaSettings) -> SystemStatus:
    """Look at everything; with topics missing, at no more than them.

    Raises:
        ClusterError: The cluster does not answer.
    """
    topics = topic_states(settings)
    workers = running_workers(settings)
    if any(state.partitions is None for state in topics):
        return SystemStatus(settings.bootstrap_servers, topics, workers)
    positions = stream_positions(settings)
    return SystemStatus(
        bootstrap_servers=settings.bootstrap_servers,
        topics=topics,
        workers=workers,
        positions=positions,
        deployments=_deployments(settings),
        firing=firing_incidents(settings),
        dead_letters=sum(int(position.facts.get("dead_letters", 0)) for position in positions),
        dead_letter_reasons=dead_letter_reasons(settings),
    )


def running_workers(settings: KafkaSettings) -> int | None:
    """Members of the streams' consumer group; None where the cluster does not let us ask."""
    group = settings.application_id
    admin = admin_client(settings)  # kept: its requests end with it
    try:
        return len(answer(admin.describe_consumer_groups([group], request_timeout=REACH_SECONDS)[group]).members)
    except KafkaException:
        return None


def firing_incidents(settings: KafkaSettings) -> list[Record]:
    """The latest alert of every incident that is not resolved, as records, in order of detection.

    Raises:
        ClusterError: Kafka does not answer.
    """
    latest: dict[str, Record] = {}
    for message in read_to_end(settings, settings.topics.alerts):
        try:
            alert = decode(message.value())[1]
        except CodecError:
            continue
        if latest.get(alert["incident_key"], {}).get("status") != "resolved":
            latest[alert["incident_key"]] = alert
    firing = [alert for alert in latest.values() if alert["status"] == "firing"]
    return sorted(firing, key=lambda alert: alert["detection_time_us"])


def dead_letter_reasons(settings: KafkaSettings) -> dict[str, int]:
    """Reasons of the last dead letters, the most frequent first.

    Raises:
        ClusterError: Kafka does not answer.
    """
    reasons: dict[str, str] = {}
    for message in read_to_end(settings, settings.topics.dead_letters, last=_DEAD_LETTERS):
        try:
            letter = decode(message.value())[1]
        except CodecError:
            continue
        reasons[letter["id"]] = letter["reason"]
    return dict(Counter(reasons.values()).most_common())


def _deployments(settings: KafkaSettings) -> list[DeploymentStatus]:
    versions: dict[str, list[str]] = {}
    latest: dict[str, Baseline] = {}
    for stored in load_baselines(settings):
        versions.setdefault(stored.baseline.deployment_id, []).append(stored.baseline.model_version)
        latest[stored.baseline.deployment_id] = stored.baseline
    records = _latest_records(settings)
    seen, joins = _by_name(records[_DEPLOYMENT_KIND]), _by_name(records[_JOIN_KIND])
    found = []
    for name, deployment in load_deployments(settings).items():
        parts = seen.get(name, [])
        clocks = [part["clock_us"] for part in parts if part.get("clock_us") is not None]
        counters: Counter[str] = Counter()
        for part in parts:
            counters.update({field: count for field, count in part.items() if field.endswith("rows")})
        found.append(
            DeploymentStatus(
                deployment_id=name,
                owner=deployment.spec.owner,
                revision=deployment.spec.revision,
                baselines=sorted(versions.get(name, [])),
                counters=dict(counters),
                last_event_us=max(clocks, default=None),
                outcomes=outcome_status(joins[name]) if name in joins else None,
                unarmed=unarmed_rules(deployment.spec, latest.get(name)),
                latest_version=latest[name].model_version if name in latest else None,
            )
        )
    return found


def unarmed_rules(spec: DeploymentSpec, baseline: Baseline | None) -> tuple[str, ...]:
    """A sentence for each humility rule that cannot fire, or only in part: what it rests on was not fitted."""
    if spec.humility is None:
        return ()
    policy = Policy.of(spec.to_record(), None if baseline is None else baseline.to_record())
    return () if policy is None else policy.unarmed


def outcome_status(joins: Iterable[Mapping[str, Any]]) -> OutcomeStatus:
    """What a deployment's journal records of kind ``join``, one for each partition, say."""
    counters: Counter[str] = Counter()
    for fields in joins:
        facts = json.loads(fields["join"])
        counters.update(facts["counters"])
        counters.update(facts["open"])
    predictions, pairs = counters["predictions"], counters["pairs"]
    return OutcomeStatus(
        pending=predictions - pairs,
        coverage=pairs / predictions if predictions else None,
        early=counters["early"],
        joined=counters["joined_outcomes"],
        corrected=counters["corrected_outcomes"],
        superseded=counters["superseded_outcomes"],
        unknown=counters["unknown_outcomes"],
        late=counters["late_outcomes"],
        refused=counters["refused_outcomes"],
        late_predictions=counters["late_predictions"],
    )


def deployment_states(settings: KafkaSettings) -> dict[str, list[dict[str, Any]]]:
    """Deployment to its latest journal record on each partition, as far as the last records of the journal tell."""
    return _by_name(_latest_records(settings)[_DEPLOYMENT_KIND])


def _latest_records(settings: KafkaSettings) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """By kind, name and partition the latest of the journal's last records of deployments and their outcomes."""
    latest: dict[str, dict[tuple[str, int], dict[str, Any]]] = {_DEPLOYMENT_KIND: {}, _JOIN_KIND: {}}
    for message in read_to_end(settings, settings.topics.streams_state, last=_JOURNAL_RECORDS):
        kind, _, name = (message.key() or b"").decode("utf-8", "replace").partition("/")
        if kind not in latest:
            continue
        at = name, message.partition() or 0
        if message.value() is None:
            latest[kind].pop(at, None)
            continue
        try:
            latest[kind][at] = decode(message.value())[1]["fields"]
        except CodecError:
            continue
    return latest


def _by_name(latest: Mapping[tuple[str, int], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    states: dict[str, list[dict[str, Any]]] = {}
    for (name, _), fields in latest.items():
        states.setdefault(name, []).append(fields)
    return states
