"""The topics: created once, checked always."""

import pytest
from confluent_kafka import admin as kafka_admin

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.kafka import ClusterError
from services.topics import (
    TopicsError,
    TopicSettings,
    delete_topics,
    ensure_topics,
    topic_plans,
    topic_states,
)


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers, Topics(topic_prefix))


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARTITIONS", "REPLICATION", "RETENTION_DAYS", "HISTORY_RETENTION_DAYS"):
        monkeypatch.delenv(f"DRIFTLINE_{name}", raising=False)


def test_a_second_run_creates_nothing_and_changes_nothing(settings: KafkaSettings) -> None:
    first = ensure_topics(settings, partitions=3)
    second = ensure_topics(settings)
    assert len(first.created) == 12 and not first.existing
    assert not second.created and sorted(second.existing) == sorted(first.created)
    assert second.partitions == 3  # what is there wins over the default where nothing was asked for


def test_the_four_topics_of_the_journal_have_the_same_number_of_partitions(settings: KafkaSettings) -> None:
    ensure_topics(settings, partitions=5)
    by_name = {state.plan.name: state for state in topic_states(settings)}
    names = settings.topics
    assert {
        by_name[n].partitions for n in (names.predictions, names.outcomes, names.streams_state, names.streams_order)
    } == {5}
    assert by_name[names.audit].partitions == by_name[names.audit_checkpoints].partitions == 1
    assert not any(state.problems for state in by_name.values())


def test_another_number_of_partitions_is_refused_with_both_numbers(settings: KafkaSettings) -> None:
    ensure_topics(settings, partitions=2)
    with pytest.raises(TopicsError, match=r"predictions' has 2 partition\(s\), expected 4.*DRIFTLINE_PARTITIONS"):
        ensure_topics(settings, partitions=4)


def test_topics_that_would_part_outcomes_from_predictions_are_refused(settings: KafkaSettings) -> None:
    admin = kafka_admin.AdminClient(settings.client())
    for future in admin.create_topics([kafka_admin.NewTopic(settings.topics.outcomes, 7)]).values():
        future.result(10)
    with pytest.raises(TopicsError, match="outcomes' has 7 partition"):
        ensure_topics(settings)


def test_a_compacted_audit_topic_is_refused(settings: KafkaSettings) -> None:
    admin = kafka_admin.AdminClient(settings.client())
    topic = kafka_admin.NewTopic(settings.topics.audit, 1, config={"cleanup.policy": "compact"})
    for future in admin.create_topics([topic]).values():
        future.result(10)
    with pytest.raises(TopicsError, match=r"audit' has cleanup\.policy=compact, expected delete"):
        ensure_topics(settings)


def test_a_configuration_the_broker_would_not_take_has_no_place_in_the_table(settings: KafkaSettings) -> None:
    ensure_topics(settings)
    admin = kafka_admin.AdminClient(settings.client())
    plans = {plan.name: plan for plan in topic_plans(settings, partitions=4)}
    asked = admin.describe_configs([kafka_admin.ConfigResource(kafka_admin.ResourceType.TOPIC, name) for name in plans])
    for resource, future in asked.items():
        actual = future.result(10)
        assert {name: actual[name].value for name in plans[resource.name].config} == plans[resource.name].config


def test_deleting_takes_this_installation_s_topics_only(settings: KafkaSettings, topic_prefix: str) -> None:
    other = KafkaSettings(settings.bootstrap_servers, Topics(topic_prefix + "other."))
    ensure_topics(settings, partitions=1)
    ensure_topics(other, partitions=1)
    assert len(delete_topics(settings)) == 12
    assert all(state.partitions == 1 for state in topic_states(other))


def test_partitions_come_from_the_environment(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_PARTITIONS", "2")
    assert ensure_topics(settings).partitions == 2


@pytest.mark.parametrize("value", ["0", "-1", "four", "1.5", "99999"])
def test_a_number_of_partitions_that_makes_no_sense_is_named(value: str) -> None:
    with pytest.raises(TopicsError, match="DRIFTLINE_PARTITIONS: expected a whole number from 1 to 10000"):
        TopicSettings.from_environment({"DRIFTLINE_PARTITIONS": value})


def test_a_cluster_that_is_not_there_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CONNECT_SECONDS", "1")
    with pytest.raises(ClusterError, match=r"no Kafka cluster answers at 127\.0\.0\.1:1 .*driftline up"):
        ensure_topics(KafkaSettings("127.0.0.1:1", librdkafka={"socket.timeout.ms": "1000"}))


def test_the_topic_that_applications_follow_is_compacted_and_of_one_partition() -> None:
    settings = KafkaSettings("127.0.0.1:1", Topics("a."))
    (plan,) = [plan for plan in topic_plans(settings, partitions=7) if plan.records == "HumilityState"]
    assert (plan.name, plan.partitions, plan.config["cleanup.policy"]) == ("a.humility", 1, "compact")
