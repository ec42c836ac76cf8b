"""The watch's loop on a real database: what it raises, whom that reaches, heartbeats, and the address outside."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from driftline.topics import Topics
from services.alerting.clock import Clock
from services.alerting.database import tables as t
from services.alerting.metrics import Metrics
from services.alerting.notify.flushing import flush_due
from services.alerting.policy.model import PolicyHolder
from services.alerting.policy.model import Watch as Settings
from services.alerting.watch.judging import KafkaSeen, Place
from services.alerting.watch.observing import look_at_kafka
from services.alerting.watch.watching import Watch
from services.kafka import ClusterError, Publisher

pytestmark = pytest.mark.timeout(120)

MINUTE = 60_000
START_MS = 1_700_000_000_000


class FakeClock(Clock):
    """Moved by hand."""

    def __init__(self) -> None:
        super().__init__(1.0)
        object.__setattr__(self, "at_ms", START_MS)

    def now_ms(self) -> int:
        at_ms: int = self.at_ms  # type: ignore[attr-defined]  # set above: the clock is frozen
        return at_ms

    def move(self, minutes: float) -> None:
        object.__setattr__(self, "at_ms", self.now_ms() + round(minutes * MINUTE))


class Rig:
    """A watch, its database, and a Kafka that says what it is told to."""

    def __init__(self, database: Any, policy: Any, look: Callable[..., KafkaSeen] | None = None) -> None:
        self.database = database
        self.holder = PolicyHolder(policy)
        self.clock = FakeClock()
        self.seen = KafkaSeen({}, {}, 0)
        self.away = False
        self.kafka_silent = 0.0
        self.troubles: tuple[str, ...] = ()
        self.acted = 0
        self.metrics = Metrics()
        self.real_look = look
        self.watch = self.start()

    def start(self) -> Watch:
        """A watch of a service that has just been started."""
        return Watch(
            self.database,
            self.holder,
            Topics(),
            self.clock,
            self.metrics,
            look=self._look,
            kafka_silent_seconds=lambda: self.kafka_silent,
            troubles=lambda: self.troubles,
            acted=self._acted,
        )

    def _look(self, topics: Any, stuck_at: Any) -> KafkaSeen:
        if self.away:
            raise ClusterError("no Kafka cluster answers")
        return self.real_look(topics, stuck_at) if self.real_look is not None else self.seen

    def _acted(self) -> None:
        self.acted += 1

    def round(self, minutes: float = 1.0) -> None:
        """Time passes, and it is looked."""
        self.clock.move(minutes)
        if not self.away:
            self.watch.look()
        self.watch.round()

    def rows(self, query: Any) -> list[Any]:
        with self.database.transaction() as connection:
            return list(connection.execute(query).all())

    def firing(self) -> list[str]:
        s = t.signals.c
        return [r.incident_key for r in self.rows(sa.select(s.incident_key).where(s.status == "firing"))]

    def told(self) -> list[tuple[str, str]]:
        """Receivers and kinds of messages, once everything due is decided."""
        for _ in range(10):
            flush_due(self.database, self.holder, Topics(), self.clock.now_ms() + 1000)
        n = t.notifications.c
        return [(r.receiver, r.kind) for r in self.rows(sa.select(n.receiver, n.kind).order_by(n.id))]


@pytest.fixture
def make_rig(any_database: Any, receivers: Any, make_policy: Any) -> Callable[..., Rig]:
    def make(look: Any = None, **settings: Any) -> Rig:
        both = receivers.pagerduty(), receivers.slack_webhook()
        return Rig(any_database, make_policy(*both, watch=Settings(**settings)), look)

    return make


def test_streams_that_stand_are_an_incident_that_everybody_is_told_of_and_its_end(make_rig: Any) -> None:
    rig = make_rig()
    rig.seen = KafkaSeen({"predictions/0": Place(5, 100)}, {}, 0)
    for _ in range(5):
        rig.round()
        assert rig.firing() == []
    rig.round()
    assert rig.firing() == ["system:streams-lag"]
    assert sorted(rig.told()) == [("pagerduty", "trigger"), ("slack", "trigger")]
    rig.seen = KafkaSeen({}, {}, 0)
    rig.round()
    rig.round()
    assert rig.firing() == []
    assert rig.rows(sa.select(t.incidents.c.status)) == [("resolved",)]


def test_what_was_seen_outlives_a_restart(make_rig: Any) -> None:
    rig = make_rig()
    rig.seen = KafkaSeen({"predictions/0": Place(5, 100)}, {}, 0)
    for _ in range(4):
        rig.round()
    rig.watch = rig.start()
    rig.round()
    rig.round()
    assert rig.firing() == ["system:streams-lag"]
    rig.watch = rig.start()
    rig.round()
    assert rig.firing() == ["system:streams-lag"], "raised once, and not anew"
    assert len(rig.rows(sa.select(t.signals))) == 1


def test_an_alarm_that_a_database_made_anew_has_and_the_watch_never_saw_ends_all_the_same(make_rig: Any) -> None:
    rig = make_rig()
    rig.seen = KafkaSeen({"predictions/0": Place(5, 100)}, {}, 0)
    for _ in range(6):
        rig.round()
    assert rig.firing() == ["system:streams-lag"]
    with rig.database.transaction() as connection:
        connection.execute(t.watch.delete())
    rig.watch = rig.start()
    rig.seen = KafkaSeen({}, {}, 0)
    rig.round()
    rig.round()
    assert rig.firing() == []


def test_a_receiver_that_fails_is_told_of_to_the_others_only(make_rig: Any) -> None:
    rig = make_rig()
    with rig.database.transaction() as connection:
        row = {
            "name": "slack",
            "hold_until_ms": 0,
            "failing_since_ms": START_MS,
            "failures": 9,
            "last_error": "HTTP 500",
        }
        connection.execute(t.receivers.insert().values(**row))
    rig.round(4)
    assert rig.firing() == []
    rig.round(1)
    assert rig.firing() == ["system:channel-failing:slack"]
    assert rig.told() == [("pagerduty", "trigger")]
    with rig.database.transaction() as connection:
        connection.execute(t.receivers.update().values(failing_since_ms=None, failures=0))
    rig.round()
    rig.round()
    assert rig.firing() == []


def test_kafka_away_is_told_without_kafka(make_rig: Any) -> None:
    rig = make_rig()
    rig.round()
    rig.away, rig.kafka_silent = True, 61.0
    rig.round()
    assert rig.firing() == ["system:kafka"]
    assert sorted(rig.told()) == [("pagerduty", "trigger"), ("slack", "trigger")]


def test_a_check_that_a_reload_switches_off_ends_its_alarm(make_rig: Any) -> None:
    rig = make_rig(silent_topics={"predictions": MINUTE})
    rig.seen = KafkaSeen({}, {"predictions": 7}, 0)
    rig.round()
    rig.round()
    assert rig.firing() == ["system:topic-silent:predictions"]
    rig.holder.current = dataclasses.replace(rig.holder.current, watch=Settings())
    rig.round()
    assert rig.firing() == []


def test_a_heartbeat_goes_through_each_channel_once_in_its_time_also_over_restarts(make_rig: Any) -> None:
    rig = make_rig(heartbeat_every_ms=60 * MINUTE, heartbeat_receivers=("slack", "gone"))

    def beats() -> int:
        n = t.notifications.c
        with rig.database.transaction() as connection:
            found = connection.execute(sa.select(n.id).where(n.kind == "heartbeat", n.receiver == "slack")).all()
            connection.execute(t.notifications.update().values(status="sent"))
        return len(found)

    rig.round()
    assert beats() == 1
    for _ in range(5):
        rig.round(10)
        rig.watch = rig.start()
        rig.round(0)
    assert beats() == 1
    rig.round(10)
    assert beats() == 2
    rig.round(600)
    assert beats() == 3, "those missed are not made up for"
    rig.round(59)
    assert beats() == 3
    rig.round(1)
    assert beats() == 4


class Outside(ThreadingHTTPServer):
    calls = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        outside: Any = self.server
        outside.calls += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[Outside]:
    server = Outside(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


async def test_outside_is_told_in_its_time_only_while_all_is_well(make_rig: Any, outside: Outside) -> None:
    url = SecretStr(f"http://127.0.0.1:{outside.server_address[1]}/ping")
    rig = make_rig(dead_man_url=url, dead_man_every_ms=MINUTE)

    async def tell() -> int:
        await asyncio.to_thread(rig.round, 0)
        await rig.watch._tell_dead_man()
        return outside.calls

    assert not rig.watch.well, "nothing was looked at yet"
    assert await tell() == 1
    rig.clock.move(0.5)
    assert await tell() == 1
    rig.clock.move(0.5)
    assert await tell() == 2
    rig.kafka_silent = 100.0
    rig.clock.move(5)
    assert await tell() == 2, "Kafka is away"
    rig.kafka_silent = 0.0
    for _ in range(2):
        rig.clock.move(1)
        await asyncio.to_thread(rig.round, 0)
    assert await tell() == 3
    rig.troubles = ("the database failed",)
    rig.clock.move(5)
    assert await tell() == 3


def test_a_real_kafka_whose_streams_nobody_runs_is_noticed(cluster: Any, make_rig: Any) -> None:
    rig = make_rig(
        look=lambda topics, stuck: look_at_kafka(cluster.settings, topics, stuck),
        silent_topics={"outcomes": 30 * MINUTE},
        dead_letters_per_hour=2,
    )
    rig.round()
    with Publisher(cluster.settings) as publisher:
        for _ in range(3):
            publisher.send(cluster.settings.topics.predictions, None, b"x")
            publisher.send(cluster.settings.topics.dead_letters, None, b"x")
    for _ in range(7):
        rig.round()
    assert sorted(rig.firing()) == ["system:dead-letters", "system:streams-lag"]
    for _ in range(25):
        rig.round()
    assert "system:topic-silent:outcomes" in rig.firing()


async def test_a_database_that_fails_is_borne_and_told_when_it_is_back(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    assert await rig.watch._look_round()

    def fail() -> None:
        raise sa.exc.OperationalError("insert", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(rig.watch, "round", fail)
        assert not await rig.watch._look_round()
        assert "database is locked" in rig.watch.trouble
        assert not rig.watch.well
    rig.watch._waited_seconds = 11.0
    assert await rig.watch._look_round()
    assert rig.watch.trouble == ""
    assert rig.firing() == ["system:database"]
