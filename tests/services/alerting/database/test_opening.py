"""The database: its layout, who may hold it, and what it takes, in SQLite and in PostgreSQL."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from services.alerting.database import opening
from services.alerting.database.opening import (
    HEAD,
    VERSION_TABLE,
    DatabaseAwayError,
    alembic_config,
    database_name,
    open_database,
    sole_owner,
)
from services.alerting.database.tables import metadata, silences, watch
from services.alerting.errors import DatabaseError


def test_the_revisions_lead_to_the_tables(any_database: Any) -> None:
    with any_database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == HEAD
        assert ScriptDirectory.from_config(alembic_config(connection)).get_current_head() == HEAD


def test_what_was_written_is_there_after_it_is_opened_again(any_url: str) -> None:
    for expected in (None, {"a": [1, "ü"]}):
        with contextlib.closing(open_database(any_url)) as database, database.transaction() as connection:
            assert connection.execute(sa.select(watch.c.value)).scalar_one_or_none() == expected
            if expected is None:
                connection.execute(watch.insert().values(name="x", value={"a": [1, "ü"]}))


def test_a_transaction_that_fails_leaves_nothing(any_database: Any) -> None:
    def fail() -> None:
        with any_database.transaction() as connection:
            connection.execute(watch.insert().values(name="x", value=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with any_database.transaction() as connection:
        assert connection.execute(sa.select(watch)).all() == []


def test_any_text_that_an_event_can_carry_is_taken(any_database: Any) -> None:
    hostile = "a\x00b\x1b[31m\u202e<!channel>'; DROP TABLE silences; --\U0001f4a9"
    row = {"id": "s", "match": {"owner": hostile}, "author": hostile, "reason": "r", "via": "api"}
    times = {"created_ms": 1, "starts_ms": 1, "ends_ms": 2**62}
    with any_database.transaction() as connection:
        connection.execute(silences.insert().values(**row, **times))
        found = connection.execute(sa.select(silences)).one()
    assert found.match == {"owner": hostile}
    assert found.author.replace("\ufffd", "\x00") == hostile
    assert (found.ends_ms, found.ended_by, found.told_end) == (2**62, "", False)


def test_a_second_service_on_the_same_database_is_refused(any_url: str) -> None:
    def hold() -> None:
        with sole_owner(any_url):
            pass

    with sole_owner(any_url), pytest.raises(DatabaseError, match="another alerting service runs"):
        hold()
    with sole_owner(any_url) as owner, contextlib.closing(open_database(any_url, owner)) as database:
        owner.check()
        with database.transaction() as connection:
            connection.execute(sa.select(watch))


def test_who_lost_the_session_that_holds_postgresql_writes_nothing_more(postgres: str, postgres_server: Any) -> None:
    name = str(sa.make_url(postgres).database)
    with sole_owner(postgres) as owner, contextlib.closing(open_database(postgres, owner)) as database:
        with database.transaction() as connection:
            connection.execute(watch.insert().values(name="before", value=1))
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted", name
        )
        with pytest.raises(DatabaseError, match="is lost"), database.transaction() as connection:
            connection.execute(watch.insert().values(name="after", value=1))
        with pytest.raises(DatabaseError, match="is lost"):
            owner.check()
        with (
            sole_owner(postgres) as other,
            contextlib.closing(open_database(postgres, other)) as theirs,
            theirs.transaction() as connection,
        ):
            assert connection.execute(sa.select(watch.c.name)).scalars().all() == ["before"]


@pytest.mark.parametrize("gone", ["alerting.db", "alerting.db.lock"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_taken_away_while_the_service_runs_is_noticed(
    sqlite: str, tmp_path: Path, gone: str, replaced: bool
) -> None:
    with sole_owner(sqlite) as owner, contextlib.closing(open_database(sqlite, owner)):
        owner.check()
        kept = (tmp_path / gone).rename(tmp_path / "kept")
        assert kept.exists()
        if replaced:
            (tmp_path / gone).write_bytes(b"")
        with pytest.raises(DatabaseError, match="was replaced" if replaced else "was deleted"):
            owner.check()


def test_a_database_of_the_earlier_layout_is_refused_with_what_to_do(sqlite: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "alerting.db") as connection:
        connection.execute("CREATE TABLE incidents (incident_key TEXT)")
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(DatabaseError, match=r"earlier release.*rebuilt from the topics"):
        open_database(sqlite)
    with sqlite3.connect(tmp_path / "alerting.db") as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert tables == [("incidents",)], "it is left as it was"


def test_a_database_of_a_later_release_is_refused(any_url: str) -> None:
    with contextlib.closing(open_database(any_url)) as database, database.transaction() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"later release .*9999.*upgrade"):
        open_database(any_url)


def test_tables_of_another_program_are_left_alone(postgres: str, postgres_server: Any) -> None:
    name = str(sa.make_url(postgres).database)
    postgres_server.execute("CREATE TABLE alerts (theirs int)", name)
    with pytest.raises(DatabaseError, match=r"tables of other programs .*\(alerts\).*schema of its own"):
        open_database(postgres)
    with psycopg.connect(f"host={postgres_server.folder} user=postgres dbname={name}") as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert found == [("alerts",)]


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = alembic.command.upgrade

    def upgrade_and_fail(*arguments: Any) -> None:
        real(*arguments)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("alembic.command.upgrade", upgrade_and_fail)
        with pytest.raises(ZeroDivisionError):
            open_database(any_url)
    engine = sa.create_engine(any_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    open_database(any_url).close()


def test_what_is_no_database_is_refused(sqlite: str, tmp_path: Path) -> None:
    (tmp_path / "alerting.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(DatabaseError, match="cannot be used as the alerting database"):
        open_database(sqlite)


def test_what_passes_is_told_from_what_must_be_mended(
    postgres: str, postgres_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(url: str) -> None:
        with sole_owner(url):
            pass

    with pytest.raises(DatabaseAwayError):
        hold(f"postgresql+psycopg://ada@/alerts?host={tmp_path}")
    with pytest.raises(DatabaseError, match="does not exist") as caught:
        hold(postgres_server.url("nowhere"))
    assert not isinstance(caught.value, DatabaseAwayError)
    monkeypatch.setattr(opening, "_SQLITE_WAIT_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'locked.db'}"
    open_database(url).close()
    with sqlite3.connect(tmp_path / "locked.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseAwayError, match="locked"):
            open_database(url)


def test_a_server_that_is_away_is_named_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://ada:s3cr3t@/alerts?host={tmp_path}"
    with pytest.raises(DatabaseError, match="cannot be used as the alerting database") as caught:
        open_database(url)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(DatabaseError, match="cannot be used") as caught, sole_owner(url):
        pass
    assert "s3cr3t" not in str(caught.value)
    assert database_name(url) == "postgresql+psycopg://ada@/alerts"
    assert opening.database_secrets(url) == ["s3cr3t"]


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "mysql://h/db", "nonsense", ""]
)
def test_only_databases_that_outlive_the_process_are_taken(url: str) -> None:
    with pytest.raises(DatabaseError, match="expected sqlite:///FILE or postgresql"):
        open_database(url)
