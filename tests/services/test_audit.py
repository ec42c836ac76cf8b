"""The audit trail on a real broker: what is confirmed is there."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # public by its documentation

from driftline.codec import decode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.audit import AuditError, AuditTrail
from services.kafka import read_to_end


@pytest.fixture
def kafka_settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    """An installation with its audit topic."""
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topics=Topics(topic_prefix))
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(kafka.topics.audit, 1, 1)]).values():
        future.result(30)
    return kafka


def messages(kafka: KafkaSettings) -> list[Message]:
    return list(read_to_end(kafka, kafka.topics.audit))


def test_a_record_is_on_the_topic_when_it_is_confirmed(kafka_settings: KafkaSettings) -> None:
    before_us = time.time_ns() // 1000
    with AuditTrail(kafka_settings, "cli") as trail:
        event_id = trail.record(
            "deployment.applied",
            "deployment:a",
            actor="ada",
            actor_kind="human",
            reason="because",
            before_digest="b",
            after_digest="c",
            evidence=["audit/0/1"],
            detail={"rows": "3"},
        )
        (message,) = messages(kafka_settings)
    name, event = decode(message.value())
    assert name == "AuditEvent"
    assert before_us <= event.pop("time_us") <= time.time_ns() // 1000
    assert event == {
        "id": event_id,
        "source": "cli",
        "actor_kind": "human",
        "actor": "ada",
        "action": "deployment.applied",
        "subject": "deployment:a",
        "before_digest": "b",
        "after_digest": "c",
        "reason": "because",
        "evidence": ["audit/0/1"],
        "detail": {"rows": "3"},
    }
    headers: dict[str, Any] = dict(message.headers() or [])
    assert headers["ce_id"] == event_id.encode()
    assert headers["ce_type"] == b"driftline.AuditEvent"
    assert message.key() == b"deployment:a"


def test_an_action_said_again_keeps_its_id_and_its_bytes(kafka_settings: KafkaSettings) -> None:
    with AuditTrail(kafka_settings, "alerting") as trail:
        for _ in range(2):
            assert trail.record("a.b", "c", actor="d", event_id="cause-1", time_us=1_700_000_000_000_000) == "cause-1"
    first, second = messages(kafka_settings)
    assert first.value() == second.value()


def test_threads_share_one_trail(kafka_settings: KafkaSettings) -> None:
    ids: list[str] = []
    with AuditTrail(kafka_settings, "cli") as trail:

        def write() -> None:
            ids.extend(trail.record("a.b", "c", actor="d") for _ in range(25))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [decode(message.value())[1]["id"] for message in messages(kafka_settings)]
    assert len(ids) == 100 and sorted(found) == sorted(ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"actor_kind": "robot"},
        {"actor": ""},
        {"action": ""},
        {"subject": ""},
        {"reason": "\ud800"},
        {"detail": {"rows": 3}},
        {"evidence": [None]},
        {"time_us": 1 << 70},
        {"time_us": "now"},
        {"event_id": "\ud800"},
        {"reason": "x" * 20_000_000},
    ],
)
def test_an_event_that_cannot_be_is_refused_and_nothing_is_written(
    kafka_settings: KafkaSettings, fields: dict[str, Any]
) -> None:
    with AuditTrail(kafka_settings, "cli") as trail, pytest.raises(AuditError):
        trail.record(**{"action": "a.b", "subject": "c", "actor": "d", **fields})
    assert messages(kafka_settings) == []


def test_an_event_before_1970_or_far_ahead_is_kept(kafka_settings: KafkaSettings) -> None:
    with AuditTrail(kafka_settings, "cli") as trail:
        for time_us in (-(10**15), 0, 10**15 * 30):
            trail.record("a.b", "c", actor="d", time_us=time_us)
    assert [decode(m.value())[1]["time_us"] for m in messages(kafka_settings)] == [-(10**15), 0, 10**15 * 30]


def test_without_an_answer_the_action_is_not_confirmed() -> None:
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    with AuditTrail(kafka, "cli", timeout_seconds=1.0) as trail:
        started = time.monotonic()
        with pytest.raises(AuditError, match="counts as not done"):
            trail.record("a.b", "c", actor="d")
        assert time.monotonic() - started < 10


def test_a_topic_that_is_missing_is_an_error(bootstrap_servers: str, topic_prefix: str) -> None:
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topics=Topics(topic_prefix))
    with AuditTrail(kafka, "cli", timeout_seconds=3.0) as trail, pytest.raises(AuditError):
        trail.record("a.b", "c", actor="d")


def test_settings_that_make_no_client_are_a_clear_error() -> None:
    with pytest.raises(AuditError, match="cannot be written"):
        AuditTrail(KafkaSettings(librdkafka={"no.such.property": "1"}), "cli")
