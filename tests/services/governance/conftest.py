"""A prefix of its own on the real broker for every test, and settings that go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # public by its documentation

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.governance.settings import GovernanceSettings


@pytest.fixture
def create_topics() -> Callable[..., None]:
    """Create the two topics of an installation."""

    def create(kafka: KafkaSettings, *names: str, partitions: int = 1) -> None:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        wanted = names or (kafka.topics.audit, kafka.topics.audit_checkpoints)
        new = [NewTopic(name, partitions, 1, config={"retention.ms": "-1"}) for name in wanted]
        for future in admin.create_topics(new).values():
            future.result(30)

    return create


@pytest.fixture
def kafka_settings(bootstrap_servers: str, topic_prefix: str, create_topics: Callable[..., None]) -> KafkaSettings:
    """An installation with its audit topics."""
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topics=Topics(topic_prefix))
    create_topics(kafka)
    return kafka


@pytest.fixture
def governance_settings(tmp_path: Path) -> GovernanceSettings:
    """A ledger and a key in the test's own directory; seals quickly."""
    return GovernanceSettings(
        database_url=f"sqlite:///{tmp_path / 'governance.db'}",
        key_file=tmp_path / "audit-key",
        origin="example.com/audit",
        seal_seconds=0.2,
    )
