"""How long topics keep their records, asked and told on a real broker."""

import pytest
from confluent_kafka import admin as kafka_admin

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.kafka import MissingTopicError
from services.retention import FOREVER, event_retentions, set_event_retention
from services.topics import ensure_topics

DAY_MS = 86_400_000


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers, Topics(topic_prefix))


def config(settings: KafkaSettings, topic: str) -> dict[str, str]:
    admin = kafka_admin.AdminClient(settings.client())
    ((_, future),) = admin.describe_configs([kafka_admin.ConfigResource(kafka_admin.ResourceType.TOPIC, topic)]).items()
    return {name: entry.value for name, entry in future.result(10).items()}


def test_what_is_set_is_what_is_found_and_nothing_else_changes(settings: KafkaSettings) -> None:
    ensure_topics(settings, partitions=1)
    names = settings.topics
    before = config(settings, names.predictions)
    assert [(r.topic, r.time_ms) for r in event_retentions(settings)] == [
        (names.predictions, 90 * DAY_MS),
        (names.outcomes, 90 * DAY_MS),
    ]
    assert set_event_retention(settings, 120 * DAY_MS) == [names.predictions, names.outcomes, names.streams_order]
    assert {r.time_ms for r in event_retentions(settings)} == {120 * DAY_MS}
    assert {r.partition_bytes for r in event_retentions(settings)} == {FOREVER}
    assert config(settings, names.predictions) == before | {"retention.ms": str(120 * DAY_MS)}
    assert config(settings, names.streams_order)["retention.ms"] == str(120 * DAY_MS)
    assert config(settings, names.windows)["retention.ms"] == str(730 * DAY_MS)
    set_event_retention(settings, FOREVER)
    assert {r.time_ms for r in event_retentions(settings)} == {FOREVER}


def test_topics_that_are_not_there_are_named_with_the_command_that_creates_them(settings: KafkaSettings) -> None:
    for ask in (event_retentions, lambda settings: set_event_retention(settings, DAY_MS)):
        with pytest.raises(MissingTopicError, match="driftline topics create"):
            ask(settings)
