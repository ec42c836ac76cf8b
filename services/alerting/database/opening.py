"""Opening the database, and holding it."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services.alerting.database.tables import metadata
from services.alerting.errors import DatabaseError

SCHEMA_VERSION = 2


class Database:
    """An open database. Thread-safe: one transaction at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        # SQLite takes one writer at a time; waiting here is fair and quick, waiting there is a sleep of growing length.
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction: all of the block, or nothing."""
        with self._lock, self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open the database, creating it where it is missing.

    SQLite in WAL mode with ``synchronous=FULL``: what a transaction wrote is on the disk when it ends.

    Raises:
        DatabaseError: The URL is none of SQLite's, the file cannot be used, or a later release wrote it.
    """
    path = database_path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": 30})
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            if version > SCHEMA_VERSION:
                raise DatabaseError(
                    f"{path} was written by a later release (layout {version}, this release reads {SCHEMA_VERSION}): "
                    "upgrade, or give another database"
                )
            metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except OSError as error:
        raise DatabaseError(f"{path.parent}: cannot be created: {error.strerror}") from error
    except sa.exc.DBAPIError as error:
        raise DatabaseError(f"{path} cannot be used as the alerting database: {error.orig}") from error
    return Database(engine)


def database_path(url: str) -> Path:
    """The file behind a SQLite URL.

    Raises:
        DatabaseError: It is none.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise DatabaseError("DRIFTLINE_ALERTING_DATABASE_URL: expected sqlite:///FILE") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise DatabaseError(
            f"DRIFTLINE_ALERTING_DATABASE_URL: expected sqlite:///FILE, came {parsed.get_backend_name()!r}; what is "
            "not yet sent must outlive the process, so it cannot be kept in memory"
        )
    return Path(parsed.database)


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, not where the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


@contextlib.contextmanager
def sole_owner(url: str) -> Iterator[None]:
    """Hold the database for one service: two would send everything twice. The lock ends with the process.

    Raises:
        DatabaseError: Another service holds it.
    """
    path = database_path(url)
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("a")
    except OSError as error:
        raise DatabaseError(f"{lock_path}: cannot be created: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatabaseError(
                f"another alerting service runs on {path}: stop it, or set DRIFTLINE_ALERTING_DATABASE_URL to a "
                "database of its own"
            ) from error
        yield
