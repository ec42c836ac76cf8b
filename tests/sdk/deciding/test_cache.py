"""The rules that were known last decide without Kafka; half a file, or a changed one, never does."""

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.humility import cache
from driftline.spool import folder_for


def move_to(world: Any, bootstrap_servers: str) -> Any:
    """As if the cluster had been known under another address all the time."""
    settings = dataclasses.replace(world.settings, bootstrap_servers=bootstrap_servers)
    folders = [
        folder_for(world.folder / "spool", each.bootstrap_servers, each.topics.prefix, "rents")
        for each in (world.settings, settings)
    ]
    folders[0].rename(folders[1])
    return settings


def learned(world: Any) -> None:
    """A process has followed the rules, and ended."""
    world.publish(world.spec(), world.baseline(), world.state(quantile=5.0))
    client = world.client()
    assert client.wait_for_humility(20)
    client.close()


def test_a_process_that_starts_without_kafka_decides_by_what_was_known_last(world: Any) -> None:
    learned(world)
    away = move_to(world, "127.0.0.1:1")
    started = time.monotonic()
    client = world.client(settings=away, humility_wait_seconds=30.0)
    assert client.decide({}, 400.0).refused
    assert client.decide({"size": 20.0}, 400.0).quantile == 5.0
    assert time.monotonic() - started < 5, "with rules at hand nobody waits"
    status = client.humility_status()
    assert (status.source, status.following, status.revision) == ("cache", False, 1)
    assert status.age_seconds is not None and 0 <= status.age_seconds < 60
    assert not client.wait_for_humility(0.2)


def test_what_was_deleted_meanwhile_does_not_come_back_from_the_file(
    world: Any, eventually: Callable[..., None]
) -> None:
    learned(world)
    world.publish(("deployments", b"rents"), ("baselines", b"rents@v1"))
    client = world.client()
    client.decide({}, 1.0)
    assert client.wait_for_humility(20)
    assert client.decide({}, 1.0).answered and client.humility_status().revision == 0
    client.close()
    other = world.client(settings=move_to(world, "127.0.0.1:1"))
    assert other.decide({}, 1.0).answered


def test_a_topic_that_is_missing_ends_no_rules(world: Any, eventually: Callable[..., None]) -> None:
    """A broker that has just started knows of no topics."""
    learned(world)
    world.delete("deployments", "baselines")
    client = world.client()
    assert client.decide({}, 1.0).refused
    eventually(lambda: "there is no topic" in client.humility_status().trouble, 20)
    status = client.humility_status()
    assert (status.revision, status.source, status.following) == (1, "cache", False)
    world.create()
    world.publish(world.spec(revision=2), world.baseline())
    eventually(lambda: client.humility_status().revision == 2, 20)
    assert client.humility_status().trouble == ""


@pytest.mark.parametrize("damage", [0, 9, 45, 200, -1, "cut", "empty", "directory"])
def test_a_damaged_file_counts_as_absent(world: Any, damage: int | str, caplog: pytest.LogCaptureFixture) -> None:
    learned(world)
    away = move_to(world, "127.0.0.1:1")
    (file,) = (world.folder / "spool").rglob(cache.FILE_NAME)
    data = bytearray(file.read_bytes())
    if damage == "directory":
        file.unlink()
        file.mkdir()
    elif isinstance(damage, int):
        data[damage] ^= 0x40
        file.write_bytes(data)
    else:
        file.write_bytes(data[:100] if damage == "cut" else b"")
    client = world.client(settings=away)
    assert client.decide({}, 1.0).answered
    status = client.humility_status()
    assert (status.source, status.revision, status.age_seconds) == ("", 0, None)
    assert "are not used" in caplog.text


def test_the_file_is_its_owners_alone_and_each_deployment_has_its_own(world: Any) -> None:
    world.publish(world.spec(), world.spec("loans", 7))
    for name in ("rents", "loans"):
        client = world.client(name)
        assert client.wait_for_humility(20)
        client.close()
    files = list((world.folder / "spool").rglob(cache.FILE_NAME))
    assert len(files) == 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert {file.parent.stat().st_mode & 0o777 for file in files} == {0o700}


def test_a_disk_that_takes_nothing_stops_nobody(world: Any, eventually: Callable[..., None]) -> None:
    (world.folder / "spool").write_text("a file where the folder should be")
    world.publish(world.spec(), world.baseline())
    client = world.client(when_unavailable="drop")
    assert client.wait_for_humility(20)
    assert client.decide({}, 1.0).refused
    eventually(lambda: "not kept" in client.humility_status().trouble, 10)


@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.binary(max_size=50), max_size=5))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, current_us: int, records: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "rules"
    cache.write(path, cache.Kept(current_us, records))
    assert cache.read(path) == cache.Kept(current_us, records)


def test_whoever_reads_while_many_write_sees_one_of_them_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, stop = tmp_path / "rules", threading.Event()
    cache.write(path, cache.Kept(0, [b"0" * 100_000]))

    def write(number: int) -> None:
        while not stop.is_set():
            cache.write(path, cache.Kept(number, [str(number).encode() * 100_000]))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(1, 4)]
    for writer in writers:
        writer.start()
    with caplog.at_level(logging.WARNING, "driftline"):
        for _ in range(200):
            kept = cache.read(path)
            assert kept is not None and kept.records == [str(kept.current_us).encode() * 100_000]
    stop.set()
    for writer in writers:
        writer.join()
    assert not caplog.records
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_swept_away_later(tmp_path: Path) -> None:
    old, fresh = tmp_path / "rules.1-aa.tmp", tmp_path / "rules.2-bb.tmp"
    for left in (old, fresh):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.write(tmp_path / "rules", cache.Kept(0, []))
    assert {left.name for left in tmp_path.iterdir()} == {"rules", "rules.2-bb.tmp"}
