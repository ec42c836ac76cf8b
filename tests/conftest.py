"""Fixtures and profiles for all tests."""

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from services.broker.embedded import EmbeddedBroker

# The same examples in every run, and no deadline: other programs share the cores.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@dataclass(frozen=True)
class ExternalBroker:
    """A broker that somebody else runs."""

    bootstrap_servers: str


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker | ExternalBroker]:
    """A real Kafka broker for the whole session; only `bootstrap_servers` may be relied on.

    `DRIFTLINE_TEST_BOOTSTRAP_SERVERS` names one that is already there. Tests that stop, kill or fill a broker start
    their own.
    """
    if existing := os.environ.get("DRIFTLINE_TEST_BOOTSTRAP_SERVERS"):
        yield ExternalBroker(existing)
        return
    with EmbeddedBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def bootstrap_servers(kafka: EmbeddedBroker | ExternalBroker) -> str:
    """`host:port` of the session's broker."""
    return kafka.bootstrap_servers


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix for names on the broker that no other test has, with the test's name in it."""
    name = re.sub(r"[^a-zA-Z0-9]+", "-", str(request.node.name)).strip("-")[:60]
    return f"{name}-{uuid.uuid4().hex[:8]}."


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory for a broker of the test's own."""
    return tmp_path / "broker"
