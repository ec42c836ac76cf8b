"""Opening the database, SQLite or PostgreSQL, and holding it.

1. :func:`sole_owner` takes the lock that only one service can have: a file's beside SQLite, a session's in PostgreSQL.
2. :func:`open_database` brings the tables to this release's layout, in one transaction and inside a lock.
3. Every transaction is begun under a lock of this process and, in PostgreSQL, only while the session that holds the
   owner's lock still has it: a service that lost the database to another writes nothing more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import sqlalchemy as sa

from services.alerting.database.tables import metadata
from services.alerting.errors import DatabaseError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0001"
"""The newest revision in ``migrations/versions``."""

VERSION_TABLE = "driftline_alerting_version"
"""Alembic's usual name would be another application's, where PostgreSQL's schema is shared."""

MIGRATIONS = Path(__file__).with_name("migrations")

_SETTING = "DRIFTLINE_ALERTING_DATABASE_URL"
_EXPECTED = f"{_SETTING}: expected sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
# Who holds the file longer is said to; everything that needs it waits and tries again.
_SQLITE_WAIT_SECONDS = 5
_POSTGRES_CONNECT_SECONDS = 10
_POSTGRES_STATEMENT_MS = 60_000
# Any number will do that no other program takes: the first eight bytes of SHA-256("driftline.alerting"), less the sign.
_OWNER_LOCK = 0x1D6F_22C9_4A70_B3E5
_UPGRADE_LOCK = _OWNER_LOCK + 1


class DatabaseAwayError(DatabaseError):
    """The database cannot be used at the moment: its server does not answer, the file is locked, the disk is full."""


class Owner:
    """The lock of the one service that may work on a database."""

    def check(self) -> None:
        """Make sure that it is still held.

        Raises:
            DatabaseError: It is not: another service may have the database, or it was taken away from under this one.
        """
        raise NotImplementedError


class Database:
    """An open database. Thread-safe: one transaction at a time."""

    def __init__(self, engine: sa.Engine, owner: Owner | None = None) -> None:
        self._engine = engine
        self._owner = owner
        # SQLite takes one writer at a time; waiting here is fair and quick, waiting there is a sleep of growing length.
        self._lock = threading.Lock()
        self._busy_since: float | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self._engine.dialect.name == "sqlite"

    @property
    def path(self) -> Path | None:
        """The file; None of PostgreSQL."""
        return Path(str(self._engine.url.database)) if self.is_sqlite else None

    @property
    def busy_seconds(self) -> float:
        """For how long the transaction at hand has been under way; 0 when there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction: all of the block, or nothing.

        Raises:
            DatabaseError: In PostgreSQL, the owner's lock is lost.
        """
        with self._lock:
            self._busy_since = time.monotonic()
            try:
                with self._engine.begin() as connection:
                    if isinstance(self._owner, _PostgresOwner):
                        self._owner.check_in(connection)
                    yield connection
            finally:
                self._busy_since = None

    def close(self) -> None:
        """Release the file or the connections."""
        self._engine.dispose()


def open_database(url: str, owner: Owner | None = None) -> Database:
    """Open the database, creating or upgrading its tables.

    SQLite in WAL mode with ``synchronous=FULL``, PostgreSQL with ``synchronous_commit=on``: what a transaction wrote
    is on the disk when it ends.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://…``.
        owner: The lock, as :func:`sole_owner` gives it; None where nobody else can come.

    Raises:
        DatabaseError: The URL is neither's, the database cannot be used, or another release wrote it.
    """
    parsed = _parsed(url)
    name = database_name(url)
    engine = _engine(parsed)
    try:
        if path := sqlite_path(url):
            path.parent.mkdir(parents=True, exist_ok=True)
        with engine.begin() as connection:
            _upgrade(connection, name)
    except OSError as error:
        raise DatabaseError(f"{Path(str(parsed.database)).parent}: cannot be created: {error.strerror}") from error
    except sa.exc.DBAPIError as error:
        engine.dispose()
        raise _unusable(error, name, parsed) from error
    except BaseException:
        engine.dispose()
        raise
    return Database(engine, owner)


@contextlib.contextmanager
def sole_owner(url: str) -> Iterator[Owner]:
    """Hold the database for one service: two would send everything twice. The lock ends with the process.

    Raises:
        DatabaseError: Another service holds it, or it cannot be reached.
    """
    if path := sqlite_path(url):
        with _hold_file(path) as file:
            yield file
        return
    with _hold_session(url) as session:
        yield session


def sqlite_path(url: str) -> Path | None:
    """The file behind a SQLite URL; None of PostgreSQL.

    Raises:
        DatabaseError: It is neither's.
    """
    parsed = _parsed(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def database_name(url: str) -> str:
    """What to call it in messages: without a password.

    Raises:
        DatabaseError: The URL is none.
    """
    path = sqlite_path(url)
    if path:
        return str(path)
    parsed = _parsed(url)
    named = sa.URL.create(
        parsed.drivername, username=parsed.username, host=parsed.host, port=parsed.port, database=parsed.database
    )
    return named.render_as_string()


def database_secrets(url: str) -> list[str]:
    """What of the URL must not be shown."""
    password = _parsed(url).password
    return [password] if password else []


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise DatabaseError(f"{_EXPECTED}; what came is no URL") from error
    if parsed.drivername in ("postgresql", "postgresql+psycopg") and parsed.database:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database and ":memory:" not in parsed.database:
        return parsed
    raise DatabaseError(
        f"{_EXPECTED}, came {parsed.drivername!r} {'with' if parsed.database else 'without'} a name; what is not yet "
        "sent must outlive the process, so it cannot be kept in memory"
    )


def _engine(parsed: sa.URL) -> sa.Engine:
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": _SQLITE_WAIT_SECONDS})
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine
    engine = sa.create_engine(parsed, pool_size=2, max_overflow=2, connect_args=_postgres_arguments())
    sa.event.listen(engine, "connect", _configure_postgres)
    return engine


def _postgres_arguments() -> dict[str, Any]:
    # A host that vanished is noticed within a minute, not within the two hours of the kernel's defaults.
    keepalive = {"keepalives": 1, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}
    return {"connect_timeout": _POSTGRES_CONNECT_SECONDS, "application_name": "driftline-alerting", **keepalive}


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, not where the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _configure_postgres(connection: Any, _record: Any) -> None:
    from services.alerting.database.postgres_text import CleanTextDumper

    connection.adapters.register_dumper(str, CleanTextDumper)
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")  # a server may be set up to answer before the disk has it
        cursor.execute(f"SET statement_timeout = {_POSTGRES_STATEMENT_MS}")
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


# The layout


def _upgrade(connection: sa.Connection, name: str) -> None:
    """Bring the tables to :data:`HEAD`. SQLite's transaction keeps everybody else out already."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    there = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE not in there:
        _require_fresh(connection, there, name)
    else:
        version = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()
        if version == HEAD:
            return
        if version is not None and version not in _revisions():
            raise DatabaseError(
                f"{name} was written by a later release (layout {version}, this release knows up to {HEAD}): upgrade "
                "Driftline, or give another database"
            )
    from alembic import command

    command.upgrade(alembic_config(connection), "head")


def _require_fresh(connection: sa.Connection, there: set[str], name: str) -> None:
    """Nothing is written into a database that is somebody else's."""
    known = sorted(there & set(metadata.tables))
    earlier = connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if earlier:
        raise DatabaseError(
            f"{name} was written by an earlier release (layout {earlier}): move it away, or give another database with "
            f"{_SETTING}. Incidents, and who was told of them, are rebuilt from the topics alerts and audit; wait "
            "until the earlier release has sent what it had to send"
        )
    if known:
        raise DatabaseError(
            f"{name} has tables of other programs that alerting would need itself ({', '.join(known[:5])}): give it a "
            f"database or a schema of its own with {_SETTING}"
        )


def alembic_config(connection: sa.Connection) -> Config:
    """Alembic's settings, for this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _revisions() -> set[str]:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def _unusable(error: sa.exc.DBAPIError, name: str, parsed: sa.URL) -> DatabaseError:
    """What an error at the start means: wait, or mend something."""
    said = _said(error, parsed)
    kind = DatabaseAwayError if _passes(error, said, parsed.get_backend_name()) else DatabaseError
    return kind(f"{name} cannot be used as the alerting database: {said}")


def _passes(error: sa.exc.DBAPIError, said: str, backend: str) -> bool:
    if not isinstance(error, sa.exc.OperationalError):
        return False
    if backend == "sqlite":
        return "locked" in said or "disk is full" in said
    # Of a connection that fails, libpq says why only in words.
    return not any(words in said for words in ("authentication", "does not exist", "permission denied"))


def _said(error: sa.exc.DBAPIError, parsed: sa.URL) -> str:
    """What the driver said, in one line, without the password."""
    text = " ".join(str(error.orig).split())
    return text.replace(parsed.password, "***") if parsed.password else text


# The owner


class _FileOwner(Owner):
    def __init__(self, path: Path, lock_path: Path, lock: TextIO) -> None:
        self._path, self._lock_path, self._lock = path, lock_path, lock
        self._inode: int | None = None

    def check(self) -> None:
        """See :meth:`Owner.check`. A file that was deleted goes on taking writes, which nobody will find again."""
        try:
            if self._lock_path.stat().st_ino != os.fstat(self._lock.fileno()).st_ino:
                raise DatabaseError(f"{self._lock_path} was replaced: another service may run on {self._path}")
            inode = self._path.stat().st_ino
        except FileNotFoundError as error:
            raise DatabaseError(f"{error.filename} was deleted while the service ran") from error
        except OSError as error:
            raise DatabaseError(f"{error.filename} cannot be reached any more: {error.strerror}") from error
        if self._inode is None:
            self._inode = inode
        if inode != self._inode:
            raise DatabaseError(f"{self._path} was replaced while the service ran")


@contextlib.contextmanager
def _hold_file(path: Path) -> Iterator[Owner]:
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
            raise DatabaseError(_taken(str(path))) from error
        yield _FileOwner(path, lock_path, lock)


def _taken(name: str) -> str:
    return f"another alerting service runs on {name}: stop it, or set {_SETTING} to a database of its own"


class _PostgresOwner(Owner):
    """An advisory lock of a session that does nothing else. The server releases it when that session ends."""

    # The lock's key is shown in two halves of 32 bits.
    _HELD = sa.text(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid AND objsubid = 1 "
        "AND classid::bigint = :high AND objid::bigint = :low "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )

    def __init__(self, session: sa.Connection, name: str) -> None:
        self._session = session
        self._name = name
        self._pid = int(session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
        self._lock = threading.Lock()

    def check(self) -> None:
        """See :meth:`Owner.check`."""
        try:
            with self._lock:
                self.check_in(self._session)
        except sa.exc.DBAPIError as error:
            raise DatabaseError(f"the session that holds {self._name} is lost: {type(error.orig).__name__}") from error

    def check_in(self, connection: sa.Connection) -> None:
        """The same, in another session's transaction."""
        held = connection.execute(
            self._HELD, {"pid": self._pid, "high": _OWNER_LOCK >> 32, "low": _OWNER_LOCK & 0xFFFF_FFFF}
        ).scalar_one_or_none()
        if held is None:
            raise DatabaseError(
                f"the session that holds {self._name} for this service is lost: another service may have taken it. "
                "(A pooler between them must pool sessions, not transactions.)"
            )


@contextlib.contextmanager
def _hold_session(url: str) -> Iterator[Owner]:
    parsed = _parsed(url)
    name = database_name(url)
    engine = sa.create_engine(
        parsed, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", connect_args=_postgres_arguments()
    )
    try:
        session = engine.connect()
        taken = session.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _OWNER_LOCK}).scalar_one()
    except sa.exc.DBAPIError as error:
        engine.dispose()
        raise _unusable(error, name, parsed) from error
    try:
        if not taken:
            raise DatabaseError(_taken(name))
        yield _PostgresOwner(session, name)
    finally:
        with contextlib.suppress(sa.exc.DBAPIError):
            session.close()
        engine.dispose()
