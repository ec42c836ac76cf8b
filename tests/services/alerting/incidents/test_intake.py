"""The reading thread: every alert once, whatever the database does meanwhile; what is no alert is put aside."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from driftline.codec import encode
from services.alerting.database import tables as db
from services.alerting.incidents.actions import Do
from services.alerting.incidents.store import Store
from services.alerting.intake import Intake, passes
from services.alerting.metrics import Metrics
from services.kafka import Publisher


class Reading:
    """An intake in a thread of its own."""

    def __init__(self, cluster: Any, rig: Any) -> None:
        store = Store(rig.database, rig.holder, cluster.settings.topics, lambda: rig.now_ms)
        self.taken = 0
        self.error: BaseException | None = None
        self.intake = Intake(
            cluster.settings, store, Metrics(), self._took, give_up_seconds=30, now_ms=lambda: rig.now_ms
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.intake.ready.wait(30)

    def _took(self) -> None:
        self.taken += 1

    def _run(self) -> None:
        try:
            self.intake.run()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """End it."""
        self.intake.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def read(cluster: Any) -> Iterator[Callable[[Any], Reading]]:
    """Starts readings."""
    started: list[Reading] = []

    def start(rig: Any) -> Reading:
        started.append(Reading(cluster, rig))
        return started[-1]

    yield start
    for reading in started:
        reading.stop()


def test_alerts_are_read_once_over_a_restart(cluster: Any, rig: Any, read: Any, make_apart: Any) -> None:
    first = read(rig)
    cluster.publish(make_apart(1), make_apart(2), make_apart(1))
    eventually(lambda: len(rig.rows(db.alerts)) == 2)
    first.stop()
    cluster.publish(make_apart(3))
    second = read(rig)
    eventually(lambda: len(rig.rows(db.alerts)) == 3)
    assert len(rig.incidents()) == 3 and second.taken == 1
    assert first.error is None and second.error is None


def test_what_is_no_alert_is_put_aside_and_the_rest_goes_on(
    cluster: Any, rig: Any, read: Any, make_apart: Any, caplog: pytest.LogCaptureFixture
) -> None:
    read(rig)
    nameless, long = make_apart(2, incident_key=""), make_apart(3, deployment_id="x" * 1025)
    cluster.publish_raw(b"nonsense", *(encode("Alert", alert) for alert in (nameless, long, make_apart(1))))
    eventually(lambda: len(rig.rows(db.alerts)) == 1)
    topics = [row["topic"] for row in rig.rows(db.publications)]
    assert topics.count(cluster.settings.topics.dead_letters) == 3
    eventually(lambda: "nobody is told of them; the first: " in caplog.text)
    (position,) = rig.rows(db.positions)
    assert position["next_offset"] == 4


def test_a_locked_database_is_said_and_waited_for(
    cluster: Any, rig: Any, read: Any, make_apart: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reading = read(rig)
    with sqlite3.connect(rig.database.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        cluster.publish(make_apart(1))
        eventually(lambda: reading.intake.trouble)
        assert "locked" in reading.intake.trouble and "alerts cannot be kept" in caplog.text
        assert reading.intake.trouble_seconds == 0, "it is not Kafka that is away"
        other.execute("ROLLBACK")
    eventually(lambda: len(rig.rows(db.alerts)) == 1)
    eventually(lambda: not reading.intake.trouble)
    assert len(rig.incidents()) == 1


def test_a_full_disk_is_said_and_caught_up_with(cluster: Any, rig: Any, read: Any, make_apart: Any) -> None:
    reading = read(rig)
    with rig.database.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    numbers = range(1, 40)
    cluster.publish(*(make_apart(number) for number in numbers))
    eventually(lambda: "full" in reading.intake.trouble)
    assert rig.rows(db.alerts) == rig.rows(db.entries) == [], "a batch is kept whole or not at all"
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    eventually(lambda: len(rig.rows(db.alerts)) == len(numbers))
    assert len(rig.incidents()) == len(numbers)


def test_a_stop_while_the_database_is_locked_is_no_error(cluster: Any, rig: Any, read: Any, make_apart: Any) -> None:
    reading = read(rig)
    with sqlite3.connect(rig.database.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        cluster.publish(make_apart(1))
        eventually(lambda: reading.intake.trouble)
        reading.stop()
        assert reading.error is None
        other.execute("ROLLBACK")


def test_trouble_that_no_waiting_mends_ends_the_reading(cluster: Any, rig: Any, read: Any, make_apart: Any) -> None:
    reading = read(rig)
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE signal_upstreams")
    cluster.publish(make_apart(1))
    eventually(lambda: reading.error is not None)
    assert isinstance(reading.error, sa.exc.OperationalError)


def test_a_lost_database_is_made_anew_from_the_topics(cluster: Any, make_rig: Any, read: Any, make_apart: Any) -> None:
    live = make_rig()
    first = read(live)
    cluster.publish(make_apart(1), make_apart(2))
    eventually(lambda: len(live.rows(db.alerts)) == 2)
    first.stop()
    live.do(live.one(deployment="model-1"), Do.ACKNOWLEDGE)
    with Publisher(cluster.settings) as publisher:
        for row in live.rows(db.publications):
            publisher.send(cluster.settings.topics.audit, row["key"], row["value"], [])
    again = make_rig()
    again.now_ms += 1_000_000
    read(again)
    eventually(lambda: len(again.incidents()) == 2)
    assert again.one(deployment="model-1").acknowledged_by == "ada"
    assert again.state()["incidents"] == live.state()["incidents"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.DeadlockDetected(), True),
        (psycopg.errors.LockNotAvailable(), True),
        (psycopg.OperationalError("connection refused"), True),
        (psycopg.errors.UndefinedTable(), False),
        (psycopg.errors.InvalidPassword(), False),
        (sqlite3.OperationalError("no such table: x"), False),
    ],
)
def test_which_trouble_passes(error: Exception, expected: bool) -> None:
    assert passes(sa.exc.OperationalError("SELECT 1", {}, error)) == expected
