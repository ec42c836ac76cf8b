"""How long Kafka keeps predictions and outcomes, as it is configured there, and changing it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public by its documentation, not by its types
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from driftline.settings import KafkaSettings
from services.kafka import ClusterError, MissingTopicError, admin_client, answer

FOREVER = -1

_TIME, _SIZE = "retention.ms", "retention.bytes"
_TOLD_SECONDS, _ASK_AGAIN_SECONDS = 15.0, 0.1
_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic keeps its records.

    Attributes:
        topic: Its name on the cluster.
        time_ms: ``retention.ms``, counted from the time of publishing; -1 for ever, None where nobody may ask.
        partition_bytes: ``retention.bytes`` of each partition; -1 as many as there are, None where nobody may ask.
    """

    topic: str
    time_ms: int | None
    partition_bytes: int | None


def event_retentions(settings: KafkaSettings) -> list[Retention]:
    """Those of predictions and of outcomes.

    Raises:
        ClusterError: The cluster does not answer, or a topic is missing.
    """
    return [_retention(settings, topic, config) for topic, config in _configs(settings).items()]


def _configs(settings: KafkaSettings) -> dict[str, Mapping[str, str]]:
    """The configuration of both topics; empty where the cluster does not let this user ask."""
    admin, names = admin_client(settings), (settings.topics.predictions, settings.topics.outcomes)
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    found: dict[str, Mapping[str, str]] = {name: {} for name in names}
    for resource, future in asked.items():
        try:
            found[resource.name] = {name: str(entry.value) for name, entry in answer(future).items()}
        except KafkaException as error:
            if error.args[0].code() in _MISSING:
                raise MissingTopicError(resource.name, settings) from error
    return found


def _retention(settings: KafkaSettings, topic: str, config: Mapping[str, str]) -> Retention:
    try:
        values = [int(config[name]) if name in config else None for name in (_TIME, _SIZE)]
    except ValueError as error:
        raise ClusterError(
            f"{settings.bootstrap_servers} says of the topic {topic!r} {_TIME}={config[_TIME][:40]!r} and "
            f"{_SIZE}={config.get(_SIZE, '')[:40]!r}: expected whole numbers"
        ) from error
    return Retention(topic, *values)


def set_event_retention(settings: KafkaSettings, time_ms: int) -> list[str]:
    """Keep predictions, outcomes and their order for so long, -1 for ever; what else is configured stays.

    Returns:
        The topics.

    Raises:
        ClusterError: The cluster does not answer, or refuses; a topic is missing.
    """
    admin: AdminClient = admin_client(settings)
    names = [settings.topics.predictions, settings.topics.outcomes, settings.topics.streams_order]
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            name,
            incremental_configs=[ConfigEntry(_TIME, str(time_ms), incremental_operation=AlterConfigOpType.SET)],
        )
        for name in names
    ]
    for resource, future in admin.incremental_alter_configs(resources).items():
        try:
            answer(future)
        except KafkaException as error:
            cause = error.args[0]
            if cause.code() in _MISSING:
                raise MissingTopicError(resource.name, settings) from error
            raise ClusterError(f"the retention of {resource.name!r} cannot be changed: {cause.str()}") from error
    _wait_until_told(settings, time_ms)
    return names


def _wait_until_told(settings: KafkaSettings, time_ms: int) -> None:
    """A broker says what the controller has taken a moment later; whoever asks next must not hear what was before."""
    deadline = time.monotonic() + _TOLD_SECONDS
    while time.monotonic() < deadline:
        if all(each.time_ms in (time_ms, None) for each in event_retentions(settings)):
            return
        time.sleep(_ASK_AGAIN_SECONDS)
