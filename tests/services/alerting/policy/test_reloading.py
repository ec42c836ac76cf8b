"""A reload takes over whole or changes nothing, and both are in the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from driftline.codec import decode
from driftline.topics import Topics
from services.alerting.database.opening import Database
from services.alerting.database.tables import publications
from services.alerting.incidents.actions import Actor
from services.alerting.policy import reloading
from services.alerting.policy.loading import load_policy
from services.alerting.policy.model import PolicyHolder
from services.alerting.policy.reloading import Reloader

GOOD = "receivers: [{name: a, type: teams, webhook_url_file: url}]\nroute: {notify: [a]}\n"
BETTER = GOOD.replace("{notify: [a]}", "{notify: [a], group_wait: 1m}")
BAD = GOOD.replace("[a]", "[key-canary-no, b]")
ADA = Actor("ada", "api")


class Watched:
    """A reloader of a file, and what it told."""

    def __init__(self, path: Path, database: Database) -> None:
        self.path = path
        self.holder = PolicyHolder(load_policy(path, {}))
        self.acted = 0
        self.adopted = 0
        self.counted: list[bool] = []
        self.database = database
        self.reloader = Reloader(
            path, self.holder, database, Topics(), lambda: 1_000, self._act, environment={}, counted=self.counted.append
        )

    def _act(self) -> None:
        self.acted += 1

    def adopt(self) -> None:
        self.adopted += 1

    def audit(self) -> list[Any]:
        with self.database.transaction() as connection:
            rows = connection.execute(sa.select(publications).order_by(publications.c.id)).all()
        return [decode(row.value)[1] for row in rows]


@pytest.fixture
def watched(write: Callable[[str], Path], database: Database) -> Watched:
    return Watched(write(GOOD), database)


def test_a_good_file_takes_over(watched: Watched) -> None:
    before = watched.holder.current
    watched.path.write_text(BETTER)
    assert watched.reloader.reload(ADA) == ""
    assert watched.holder.current.route.group_wait_ms == 60_000 and watched.reloader.trouble == ""
    (event,) = watched.audit()
    assert (event["action"], event["actor"], event["actor_kind"], event["subject"]) == (
        "policy.loaded",
        "ada",
        "human",
        "policy",
    )
    assert (event["before_digest"], event["after_digest"]) == (before.digest, watched.holder.current.digest)
    assert event["detail"]["receivers"] == "a" and watched.acted == 1


def test_a_bad_file_leaves_the_old_one_in_force_and_says_so(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    before = watched.holder.current
    watched.path.write_text(BAD)
    refused = watched.reloader.reload(ADA)
    assert watched.holder.current is before
    assert "2 problems" in refused and "line 2: route.notify[1]" in refused
    assert "stays in force" in watched.reloader.trouble and "line 2" in watched.reloader.trouble
    (event,) = watched.audit()
    assert (event["action"], event["before_digest"], event["after_digest"]) == ("policy.refused", before.digest, None)
    assert "line 2" in event["reason"] and "stays in force" in caplog.text
    watched.path.write_text(GOOD)
    assert watched.reloader.reload(ADA) == "" and watched.reloader.trouble == ""


def test_a_file_that_breaks_its_reader_is_refused_too(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RecursionError("canary")

    monkeypatch.setattr(reloading, "load_policy", broken)
    assert "unforeseen RecursionError" in watched.reloader.reload(ADA)
    assert "stays in force" in watched.reloader.trouble and "canary" not in watched.reloader.trouble


def test_nothing_changes_if_it_cannot_be_written_down(watched: Watched) -> None:
    before = watched.holder.current
    with watched.database.transaction() as connection:
        connection.execute(sa.text("DROP TABLE publications"))
    watched.path.write_text(BETTER)
    with pytest.raises(sa.exc.DBAPIError):
        watched.reloader.reload(ADA)
    assert watched.holder.current is before


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_change_of_the_file_and_a_signal_are_followed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.02)
    following = asyncio.create_task(watched.reloader.run(watched.adopt))
    try:
        await _until(lambda: len(watched.audit()) == 1)
        watched.path.write_text(BETTER)
        await _until(lambda: watched.adopted == 1)
        assert watched.holder.current.route.group_wait_ms == 60_000
        watched.path.write_text(BAD)
        await _until(lambda: bool(watched.reloader.trouble))
        watched.path.unlink()
        await _until(lambda: "No such file" in watched.reloader.trouble)
        assert watched.adopted == 1 and watched.holder.current.route.group_wait_ms == 60_000
        # By a link that now leads elsewhere, as mounted configurations change.
        (watched.path.parent / "new.yaml").write_text(GOOD)
        watched.path.symlink_to("new.yaml")
        await _until(lambda: watched.adopted == 2)
        assert watched.reloader.trouble == ""
        watched.reloader.wake()
        await _until(lambda: watched.adopted == 3)
    finally:
        following.cancel()
    events = watched.audit()
    assert [(e["action"], e["detail"]["via"]) for e in events] == [
        ("policy.loaded", "start"),
        ("policy.loaded", "file"),
        ("policy.refused", "file"),
        ("policy.refused", "file"),
        ("policy.loaded", "file"),
        ("policy.loaded", "signal"),
    ]
    assert watched.counted == [True, False, False, True, True]
    assert len({e["id"] for e in events}) == 6, "every reading is an event of its own, also within a millisecond"


async def test_a_file_that_does_not_change_is_left_alone(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.005)
    following = asyncio.create_task(watched.reloader.run(watched.adopt))
    await asyncio.sleep(0.3)
    following.cancel()
    assert len(watched.audit()) == 1 and watched.adopted == 0


async def test_a_change_between_the_first_reading_and_the_start_is_followed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    watched.path.write_text(BETTER)
    following = asyncio.create_task(watched.reloader.run(watched.adopt))
    await _until(lambda: watched.adopted == 1)
    following.cancel()
    assert watched.holder.current.route.group_wait_ms == 60_000


async def test_a_refused_file_is_told_of_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.005)
    following = asyncio.create_task(watched.reloader.run(watched.adopt))
    watched.path.write_text(BAD)
    await _until(lambda: bool(watched.counted))
    await asyncio.sleep(0.2)
    following.cancel()
    assert watched.counted == [False]


async def test_a_database_that_does_not_take_it_is_tried_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    following = asyncio.create_task(watched.reloader.run(watched.adopt))
    try:
        await _until(lambda: len(watched.audit()) == 1)
        with watched.database.transaction() as connection:
            connection.execute(sa.text("ALTER TABLE publications RENAME TO away"))
        watched.path.write_text(BETTER)
        await _until(lambda: "database" in watched.reloader.trouble)
        with watched.database.transaction() as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO publications"))
        await _until(lambda: watched.adopted == 1)
        assert watched.reloader.trouble == ""
    finally:
        following.cancel()


def test_without_a_file_the_environment_is_read_again(database: Database, tmp_path: Path) -> None:
    environment = {"DRIFTLINE_SLACK_TOKEN": "xoxb-1", "DRIFTLINE_SLACK_CHANNEL": "C1"}
    holder = PolicyHolder(load_policy(None, environment))
    reloader = Reloader(None, holder, database, Topics(), lambda: 1, lambda: None, environment=environment)
    environment["DRIFTLINE_ALERTING_GROUP_WAIT"] = "5m"
    assert reloader.reload(ADA) == "" and holder.current.route.group_wait_ms == 300_000
    environment["DRIFTLINE_ALERTING_GROUP_WAIT"] = "5"
    assert "GROUP_WAIT" in reloader.reload(ADA) and holder.current.route.group_wait_ms == 300_000
