"""What is to be said on Kafka is said, at least once, in order, also when the database fails in between."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from services.alerting import publications as publishing
from services.alerting.notify.publishing import publish
from services.alerting.publications import PublicationLoop
from services.alerting.records import audit_event

pytestmark = pytest.mark.timeout(120)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_database_that_fails_for_a_while_is_said_and_nothing_is_lost(
    cluster: Any, open_office: Any, make_policy: Any, receivers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_WAIT_SECONDS", 0.05)
    office = open_office(make_policy(receivers.pagerduty(url="http://127.0.0.1:9/")))

    def say(first: int, last: int) -> None:
        events = [
            audit_event(
                cluster.settings.topics.audit,
                action="test.said",
                subject=f"s:{n}",
                identity=(n,),
                time_ms=n,
                reason="r",
            )
            for n in range(first, last)
        ]
        with office.database.transaction() as connection:
            publish(connection, events)

    loop = PublicationLoop(cluster.settings, office.outbox)
    say(0, 10)
    task = asyncio.create_task(loop.run())
    await until(lambda: office.outbox.unpublished() == 0)
    say(10, 20)
    with office.database.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE publications RENAME TO away"))
    loop.wake()
    await until(lambda: "the database failed" in loop.trouble)
    assert not task.done()
    with office.database.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO publications"))
    await until(lambda: office.outbox.unpublished() == 0)
    await until(lambda: loop.trouble == "")
    loop.stop()
    await task
    said = [event["subject"] for event in cluster.audit("test.said")]
    assert said == [f"s:{n}" for n in range(20)]
