"""Fixtures and profiles for all tests."""

import contextlib
import os
import re
import select
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
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


class LateLeader:
    """Stands before a broker and refuses the first batch, as a leader does that has not yet heard that it is one.

    It refuses once something else is on its way behind that batch, or nothing has come for a while.
    """

    PRODUCE, NOT_LEADER = 0, 6

    def __init__(self, bootstrap_servers: str) -> None:
        host, port = bootstrap_servers.split(":")
        self._behind = host, int(port)
        self._listener = socket.create_server((host, 0))
        self.bootstrap_servers = f"{host}:{self._listener.getsockname()[1]}"
        self._theirs = host.encode() + struct.pack(">i", int(port))
        self._own = host.encode() + struct.pack(">i", self._listener.getsockname()[1])
        self._sending = threading.Lock()
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._behind)
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, broker), daemon=True).start()

    def _ask(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError), client, broker:
            for frame in self._frames(client):
                if not self.refused and struct.unpack_from(">h", frame)[0] == self.PRODUCE:
                    self.refused += 1
                    select.select([client], [], [], 0.5)
                    self._send(client, self._refusal(frame))
                else:
                    self._send(broker, frame)

    def _answer(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError), client, broker:
            for frame in self._frames(broker):
                self._send(client, frame.replace(self._theirs, self._own))

    def _refusal(self, request: bytes) -> bytes:
        """The answer to a produce request of one batch (versions 9 to 12)."""
        version, correlation, client_id = struct.unpack_from(">hih", request, 2)
        assert 9 <= version <= 12
        at = 10 + client_id + 1 + 1 + 2 + 4 + 1  # tags; transactional id, acks, time-out, number of topics
        topic = request[at : at + request[at]]
        (partition,) = struct.unpack_from(">i", request, at + len(topic) + 1)
        none = struct.pack(">qqqbbb", -1, -1, -1, 1, 0, 0)  # offset, times, record errors, message, tags
        answer = struct.pack(">ibb", correlation, 0, 2) + topic + struct.pack(">bih", 2, partition, self.NOT_LEADER)
        return answer + none + struct.pack(">bib", 0, 0, 0)

    @staticmethod
    def _frames(source: socket.socket) -> Iterator[bytes]:
        with source.makefile("rb") as stream:
            while size := stream.read(4):
                yield stream.read(*struct.unpack(">i", size))

    def _send(self, target: socket.socket, frame: bytes) -> None:
        with self._sending:
            target.sendall(struct.pack(">i", len(frame)) + frame)


@pytest.fixture
def late_leader() -> Iterator[Callable[[str], LateLeader]]:
    """Stand before an embedded broker and refuse the first batch: `late_leader(bootstrap_servers)`."""
    with contextlib.ExitStack() as stack:
        yield lambda bootstrap_servers: stack.enter_context(contextlib.closing(LateLeader(bootstrap_servers)))
