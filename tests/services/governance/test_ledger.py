"""The ledger in its database: append-only, durable, one writer, one root for one size."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.codec import encode
from services.governance.errors import LedgerBusyError, LedgerError, LedgerMismatchError
from services.governance.ledger import Ledger
from services.governance.merkle import CompactRange, MerkleTree, leaf_hash
from services.governance.topic import LogRecord

EVENT = encode(
    "AuditEvent",
    {
        "id": "event-1",
        "time_us": 1,
        "source": "cli",
        "actor_kind": "human",
        "actor": "ada",
        "action": "a.b",
        "subject": "c",
    },
)


def database(path: Path) -> Path:
    return path / "ledger.db"


def opened(path: Path, *, origin: str = "example.com/audit", topic: str = "audit") -> Ledger:
    return Ledger(f"sqlite:///{database(path)}", origin=origin, topic=topic)


def records(start: int, stop: int) -> list[LogRecord]:
    return [LogRecord(2 * i, 1000 + i, b"value %d" % i) for i in range(start, stop)]


def root_of(values: list[bytes]) -> bytes:
    return MerkleTree(map(leaf_hash, values)).root()


def test_leaves_are_the_exact_bytes_in_order_whatever_they_are(tmp_path: Path) -> None:
    values = [EVENT, EVENT, b"", b"\xc3\x01nothing", b"\x00" * 1000]
    with opened(tmp_path) as ledger:
        ledger.append([LogRecord(10 + i, 5, value) for i, value in enumerate(values)])
        leaves = list(ledger.leaves())
        assert [leaf.value for leaf in leaves] == values
        assert [leaf.index for leaf in leaves] == [0, 1, 2, 3, 4]
        assert [leaf.offset for leaf in leaves] == [10, 11, 12, 13, 14]
        assert [leaf.event_id for leaf in leaves] == ["event-1", "event-1", None, None, None]
        assert ledger.leaf_hashes(0, 5) == b"".join(map(leaf_hash, values))
        assert ledger.root() == root_of(values)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=8))
def test_closing_and_opening_at_any_moment_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, bool]]
) -> None:
    path = tmp_path_factory.mktemp("ledger")
    tree, ledger, size, sizes = CompactRange(), opened(path), 0, []
    for count, seal, reopen in steps:
        batch = records(size, size + count)
        ledger.append(batch)
        tree.extend(leaf_hash(record.value) for record in batch)
        size += count
        if seal and (head := ledger.close_head()):
            sizes.append(head.size)
            assert head.root == tree.root()
        if reopen:
            ledger.close()
            ledger = opened(path)
        assert (ledger.size, ledger.root()) == (size, tree.root())
        assert ledger.next_offset == (2 * size - 1 if size else None)
    assert [head.size for head in ledger.heads()] == sizes == sorted(set(sizes))
    firsts = [head.first_index for head in ledger.heads()]
    assert firsts == [0, *sizes][: len(firsts)]
    ledger.close()


def test_an_offset_that_was_taken_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.append(records(0, 3))
        for wrong in (records(2, 3), records(0, 1), [*records(3, 4), *records(3, 4)]):
            with pytest.raises(LedgerMismatchError, match="in order, once"):
                ledger.append(wrong)
        assert ledger.size == 3


def test_a_head_exists_once_per_size_and_only_for_new_leaves(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        assert ledger.close_head() is None
        ledger.append(records(0, 3))
        head = ledger.close_head()
        assert head is not None and (head.size, head.first_index, head.last_offset) == (3, 0, 4)
        assert ledger.close_head() is None
    with sqlite3.connect(database(tmp_path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO ledger_heads SELECT size, x'00', subtrees, 0, 0, 0 FROM ledger_heads")


def test_heads_stay_unpublished_until_they_are_marked(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for size in (2, 5, 6):
            ledger.append(records(ledger.size, size))
            ledger.close_head()
        ledger.mark_published(2)
    with opened(tmp_path) as ledger:
        assert [(head.size, head.first_index) for head in ledger.unpublished()] == [(5, 2), (6, 5)]
        ledger.mark_published(6)
        ledger.mark_published(5)
        assert ledger.unpublished() == []


def test_a_head_published_before_is_adopted_when_it_fits(tmp_path: Path) -> None:
    values = [record.value for record in records(0, 7)]
    with opened(tmp_path) as ledger:
        ledger.append(records(0, 7))
        ledger.adopt_head(5, root_of(values[:5]))
        assert ledger.unpublished() == []
        head = ledger.close_head()
        assert head is not None and (head.size, head.first_index) == (7, 5)
        ledger.adopt_head(5, root_of(values[:5]))
        assert [h.size for h in ledger.unpublished()] == [7]


def test_a_head_with_another_root_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.append(records(0, 7))
        for size in (5, 7):
            with pytest.raises(LedgerMismatchError, match="was signed and published"):
                ledger.adopt_head(size, b"\x00" * 32)
        with pytest.raises(LedgerMismatchError, match="7 leaves"):
            ledger.adopt_head(8, b"\x00" * 32)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(LedgerBusyError, match=f"process {os.getpid()}"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_the_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from services.governance.ledger import Ledger\n"
        f"ledger = Ledger('sqlite:///{database(tmp_path)}', origin='example.com/audit', topic='audit')\n"
        "print('open', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    with pytest.raises(LedgerBusyError, match=f"process {process.pid}"):
        opened(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    opened(tmp_path).close()


def test_a_commit_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger, ledger._connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_batch_that_the_database_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.append(records(0, 3))
        with sqlite3.connect(database(tmp_path)) as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON ledger_leaves WHEN NEW.leaf_index = 5 "
                "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
        with pytest.raises(LedgerError, match="disk is full"):
            ledger.append(records(3, 8))
        assert (ledger.size, ledger.next_offset) == (3, 5)
        with sqlite3.connect(database(tmp_path)) as connection:
            connection.execute("DROP TRIGGER full")
        ledger.append(records(3, 8))
        assert ledger.root() == root_of([record.value for record in records(0, 8)])


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM ledger_leaves WHERE leaf_index = 1",
        "DELETE FROM ledger_leaves WHERE leaf_index = 5",
        "DELETE FROM ledger_leaves WHERE leaf_index >= 3",
        "DELETE FROM ledger_leaves",
        "UPDATE ledger_heads SET root = x'00'",
        "UPDATE ledger_heads SET subtrees = x'00'",
        "UPDATE ledger_heads SET size = 3",
    ],
)
def test_a_damaged_ledger_is_not_opened(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as ledger:
        ledger.append(records(0, 4))
        ledger.close_head()
        ledger.append(records(4, 7))
    with sqlite3.connect(database(tmp_path)) as connection:
        connection.execute(damage)
    with pytest.raises(LedgerMismatchError, match="damaged"):
        opened(tmp_path)


def test_a_ledger_keeps_its_topic_and_its_origin(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(LedgerError, match="topic 'audit', now it is 'other'"):
        opened(tmp_path, topic="other")
    with pytest.raises(LedgerError, match="origin"):
        opened(tmp_path, origin="example.com/other")
    opened(tmp_path).close()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://user:hunter2@host/database"]
)
def test_a_database_that_is_no_local_file_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(LedgerError, match="sqlite:///PATH") as caught:
        Ledger(url, origin="a", topic="b")
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    database(tmp_path).write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match="cannot be used"):
        opened(tmp_path)


def test_facts_are_remembered(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        assert ledger.fact("public_key") is None
        ledger.set_fact("public_key", "a")
        ledger.set_fact("public_key", "b")
    with opened(tmp_path) as ledger:
        assert ledger.fact("public_key") == "b"
