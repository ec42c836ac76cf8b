"""The ledger: an append-only Merkle tree over the audit topic, in a database.

The ledger covers the topic as it is. Every committed record, in offset order, is a leaf: a repeated event and bytes
that nobody can decode too (what reads events back leaves repeats out and shows the rest). The leaf is the exact bytes
of the record's value; nothing else of a record (key, headers, time stamp) is covered, and nothing else is shown as
fact.

1. Leaves and the offset they came from are committed together: the next offset to read is the last leaf's plus one,
   so every record is a leaf exactly once, whatever crashes.
2. A tree head (size and root) is committed before anybody signs it, and never replaced: one root for one size.
3. A head is published, then marked as published. A crash in between publishes the same bytes again.

One process writes: the file next to the database is locked as long as the ledger is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from driftline.codec import decode
from driftline.errors import CodecError
from services.governance.errors import LedgerBusyError, LedgerError, LedgerMismatchError, MerkleError
from services.governance.merkle import HASH_BYTES, CompactRange, leaf_hash
from services.governance.topic import LogRecord

_FORMAT = "1"
_PAGE = 10_000

_metadata = MetaData()

_leaves = Table(
    "ledger_leaves",
    _metadata,
    Column("leaf_index", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("topic_offset", BigInteger, nullable=False, unique=True),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("event_id", String, index=True),  # null: the record does not decode
    Column("leaf_hash", LargeBinary(HASH_BYTES), nullable=False),
    Column("value", LargeBinary, nullable=False),
)
_heads = Table(
    "ledger_heads",
    _metadata,
    Column("size", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("root", LargeBinary(HASH_BYTES), nullable=False),
    Column("subtrees", LargeBinary, nullable=False),
    Column("first_index", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("published", Boolean, nullable=False),
)
_facts = Table(
    "ledger_facts",
    _metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One record of the ledger; ``event_id`` is None where the record does not decode."""

    index: int
    offset: int
    timestamp_ms: int
    event_id: str | None
    leaf_hash: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A tree head.

    Attributes:
        size: Number of leaves.
        root: 32 bytes.
        first_index: Index of the first leaf that no published head before this one covers.
        last_offset: Offset of the last leaf's record.
    """

    size: int
    root: bytes
    first_index: int
    last_offset: int


class Ledger:
    """The ledger of one audit topic. For one thread."""

    def __init__(self, database_url: str, *, origin: str, topic: str) -> None:
        """Open the ledger, and create it if there is none.

        Args:
            database_url: ``sqlite:///PATH``.
            origin: The name it signs under; never changes.
            topic: The audit topic; never changes.

        Raises:
            LedgerBusyError: Another process has it open.
            LedgerError: The database cannot be used, or belongs to another topic or origin.
            LedgerMismatchError: What is in it does not fit together.
        """
        path = _database_path(database_url)
        self._where = str(path)
        self._lock = _lock(path)
        self._engine: Engine | None = None
        try:
            self._engine = _engine(database_url)
            with self._errors(), self._engine.begin() as connection:
                _metadata.create_all(connection)
                self._require_facts(connection, {"format": _FORMAT, "origin": origin, "topic": topic})
            with self._errors(), self._engine.connect() as connection:
                self._tree, self._next_offset = self._load(connection)
                self._published_size = connection.scalar(select(func.max(_heads.c.size)).where(_heads.c.published)) or 0
                self._head_size = connection.scalar(select(func.max(_heads.c.size))) or 0
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._tree.size

    @property
    def next_offset(self) -> int | None:
        """The topic's offset to read on from; None while there is no leaf."""
        return self._next_offset

    @property
    def head_size(self) -> int:
        """Number of leaves that a durable head covers."""
        return self._head_size

    def root(self) -> bytes:
        """The root over all leaves."""
        return self._tree.root()

    def append(self, records: Sequence[LogRecord]) -> None:
        """Add records in the topic's order; they are durable when this returns.

        Raises:
            LedgerMismatchError: A record's offset does not come after the last leaf's.
            LedgerError: The database refused; the ledger has to be opened again.
        """
        if not records:
            return
        tree, rows, last = self._tree.copy(), [], -1 if self._next_offset is None else self._next_offset - 1
        for record in records:
            if record.offset <= last:
                raise LedgerMismatchError(
                    f"the audit topic gave offset {record.offset} after offset {last}: records come in order, once"
                )
            last, hashed = record.offset, leaf_hash(record.value)
            rows.append(
                {
                    "leaf_index": tree.size,
                    "topic_offset": record.offset,
                    "timestamp_ms": record.timestamp_ms,
                    "event_id": _event_id(record.value),
                    "leaf_hash": hashed,
                    "value": record.value,
                }
            )
            tree.append(hashed)
        with self._errors(), self._begin() as connection:
            connection.execute(insert(_leaves), rows)
        self._tree, self._next_offset = tree, last + 1

    def close_head(self) -> Head | None:
        """Make the present size and root durable, so that they may be signed; None without leaves since the last."""
        if self.size == self._head_size:
            return None
        head = Head(self.size, self._tree.root(), self._head_size, self._require_offset(self.size - 1))
        self._add_head(head, self._tree.to_bytes(), published=False)
        return head

    def adopt_head(self, size: int, root: bytes) -> None:
        """Take over a head that was published before, of which this database knows nothing (it was lost, or is old).

        Raises:
            LedgerMismatchError: The leaves give another root: what was signed and what the topic holds differ.
        """
        if size > self.size:
            raise LedgerMismatchError(f"the ledger has {self.size} leaves, a head of {size} was published")
        with self._errors(), self._connect() as connection:
            known = connection.scalar(select(_heads.c.root).where(_heads.c.size == size))
        tree = self._tree if size == self.size else self._tree_of(size)
        if tree.root() != root or (known is not None and known != root):
            raise LedgerMismatchError(
                f"the first {size} records of the audit topic give the root {tree.root().hex()}, but a checkpoint over "
                f"{size} records with the root {root.hex()} was signed and published. Records were altered, removed "
                "or put in since. Nothing more is signed: run `driftline audit verify` to find the first of them."
            )
        if known is None:
            self._add_head(
                Head(size, root, self._published_size, self._require_offset(size - 1)), tree.to_bytes(), True
            )
        self.mark_published(size)

    def unpublished(self) -> list[Head]:
        """Heads that are durable and not known to be published, smallest first."""
        columns = (_heads.c.size, _heads.c.root, _heads.c.first_index, _heads.c.last_offset)
        wanted = select(*columns).where(_heads.c.size > self._published_size).order_by(_heads.c.size)
        with self._errors(), self._connect() as connection:
            return [Head(*row) for row in connection.execute(wanted)]

    def mark_published(self, size: int) -> None:
        """Remember that this head, and with it all before it, is on the checkpoint topic."""
        if size <= self._published_size:
            return
        with self._errors(), self._begin() as connection:
            connection.execute(update(_heads).where(_heads.c.size <= size, ~_heads.c.published).values(published=True))
        self._published_size = size

    def heads(self) -> list[Head]:
        """All heads, smallest first."""
        columns = (_heads.c.size, _heads.c.root, _heads.c.first_index, _heads.c.last_offset)
        with self._errors(), self._connect() as connection:
            return [Head(*row) for row in connection.execute(select(*columns).order_by(_heads.c.size))]

    def leaf_hashes(self, start: int, stop: int) -> bytes:
        """The leaf hashes of indices start to stop, 32 bytes each."""
        wanted = (
            select(_leaves.c.leaf_hash)
            .where(_leaves.c.leaf_index >= start, _leaves.c.leaf_index < stop)
            .order_by(_leaves.c.leaf_index)
        )
        with self._errors(), self._connect() as connection:
            return b"".join(connection.scalars(wanted))

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[Leaf]:
        """The leaves of indices start to stop, in order, read in pages."""
        end = self.size if stop is None else min(stop, self.size)
        while start < end:
            wanted = (
                select(_leaves)
                .where(_leaves.c.leaf_index >= start, _leaves.c.leaf_index < min(start + _PAGE, end))
                .order_by(_leaves.c.leaf_index)
            )
            with self._errors(), self._connect() as connection:
                page = [Leaf(*row) for row in connection.execute(wanted)]
            if not page:
                raise LedgerMismatchError(f"the ledger {self._where} has no leaf {start}, although it has {self.size}")
            yield from page
            start += len(page)

    def positions(self, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
        """Index, topic offset and leaf hash of the leaves from ``start`` on, in order, read in pages."""
        columns = (_leaves.c.leaf_index, _leaves.c.topic_offset, _leaves.c.leaf_hash)
        while start < self.size:
            wanted = select(*columns).where(_leaves.c.leaf_index >= start).order_by(_leaves.c.leaf_index).limit(_PAGE)
            with self._errors(), self._connect() as connection:
                page = [(int(row[0]), int(row[1]), bytes(row[2])) for row in connection.execute(wanted)]
            if not page:
                raise LedgerMismatchError(f"the ledger {self._where} has no leaf {start}, although it has {self.size}")
            yield from page
            start += len(page)

    def fact(self, name: str) -> str | None:
        """A remembered fact about the topic."""
        with self._errors(), self._connect() as connection:
            return connection.scalar(select(_facts.c.value).where(_facts.c.name == name))

    def set_fact(self, name: str, value: str) -> None:
        """Remember a fact about the topic."""
        with self._errors(), self._begin() as connection:
            if not connection.execute(update(_facts).where(_facts.c.name == name).values(value=value)).rowcount:
                connection.execute(insert(_facts), {"name": name, "value": value})

    def close(self) -> None:
        """Close the database and let another process write."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _require_facts(self, connection: Connection, facts: dict[str, str]) -> None:
        known: dict[str, str] = {row.name: row.value for row in connection.execute(select(_facts))}
        for name, value in facts.items():
            if known.setdefault(name, value) != value:
                raise LedgerError(
                    f"the ledger {self._where} was begun with {name} {known[name]!r}, now it is {value!r}. A ledger "
                    "keeps its topic and its origin: set them back, or begin another one with another "
                    "DRIFTLINE_GOVERNANCE_DATABASE_URL."
                )
        if not connection.scalar(select(func.count()).select_from(_facts)):
            connection.execute(insert(_facts), [{"name": n, "value": v} for n, v in facts.items()])

    def _load(self, connection: Connection) -> tuple[CompactRange, int | None]:
        """The tree from the last head's subtrees and the leaves after it, and the offset to read next."""
        head = connection.execute(select(_heads).order_by(_heads.c.size.desc()).limit(1)).one_or_none()
        try:
            tree = CompactRange() if head is None else CompactRange.from_bytes(head.size, head.subtrees)
        except MerkleError as error:
            raise LedgerMismatchError(f"the ledger {self._where} is damaged: {error}") from error
        if head is not None and tree.root() != head.root:
            raise LedgerMismatchError(
                f"the ledger {self._where} is damaged: its head of {head.size} leaves does not fit"
            )
        after = (
            select(_leaves.c.leaf_index, _leaves.c.leaf_hash)
            .where(_leaves.c.leaf_index >= tree.size)
            .order_by(_leaves.c.leaf_index)
        )
        for index, hashed in connection.execute(after):
            if index != tree.size:
                raise LedgerMismatchError(f"the ledger {self._where} is damaged: leaf {tree.size} is missing")
            tree.append(hashed)
        count, highest = connection.execute(
            select(func.count(), func.max(_leaves.c.topic_offset)).select_from(_leaves)
        ).one()
        if count != tree.size:
            raise LedgerMismatchError(f"the ledger {self._where} is damaged: {tree.size} leaves signed, {count} there")
        return tree, None if highest is None else highest + 1

    def _tree_of(self, size: int) -> CompactRange:
        tree = CompactRange()
        for start in range(0, size, _PAGE):
            hashes = self.leaf_hashes(start, min(start + _PAGE, size))
            tree.extend(hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES))
        return tree

    def _add_head(self, head: Head, subtrees: bytes, published: bool) -> None:
        row: dict[str, Any] = {
            "size": head.size,
            "root": head.root,
            "subtrees": subtrees,
            "first_index": head.first_index,
            "last_offset": head.last_offset,
            "published": published,
        }
        with self._errors(), self._begin() as connection:
            connection.execute(insert(_heads), row)  # the primary key refuses a second root for one size
        self._head_size = max(self._head_size, head.size)

    def _require_offset(self, index: int) -> int:
        with self._errors(), self._connect() as connection:
            offset = connection.scalar(select(_leaves.c.topic_offset).where(_leaves.c.leaf_index == index))
        if offset is None:
            raise LedgerMismatchError(f"the ledger {self._where} is damaged: leaf {index} is missing")
        return int(offset)

    def _open(self) -> Engine:
        if self._engine is None:
            raise LedgerError("the ledger is closed")
        return self._engine

    def _begin(self) -> contextlib.AbstractContextManager[Connection]:
        return self._open().begin()

    def _connect(self) -> contextlib.AbstractContextManager[Connection]:
        return self._open().connect()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise LedgerError(f"the ledger {self._where} cannot be used: {cause}") from error


def _database_path(database_url: str) -> Path:
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise LedgerError("DRIFTLINE_GOVERNANCE_DATABASE_URL: expected sqlite:///PATH") from error
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise LedgerError(
            "DRIFTLINE_GOVERNANCE_DATABASE_URL: expected sqlite:///PATH, came "
            f"{url.render_as_string(hide_password=True)!r}. The ledger has to be a file on a local disk."
        )
    return Path(url.database)


def _lock(path: Path) -> IO[str] | None:
    """Lock the file next to the database; the system lets go of it when the process ends, however it ends."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_path.open("a+")
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        other = file.read(20).strip()
        file.close()
        who = f" (process {other})" if other.isdecimal() else ""
        raise LedgerBusyError(
            f"another governance service{who} writes the ledger {path}. There is one writer only: stop that one, or "
            "leave it alone."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _engine(database_url: str) -> Engine:
    engine = create_engine(database_url)

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        # FULL: a commit is on the disk when it returns. With NORMAL, WAL loses the last commits at a power cut.
        for statement in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {statement}").close()

    return engine


def _event_id(value: bytes) -> str | None:
    try:
        name, record = decode(value)
    except CodecError:
        return None
    return record["id"] if name == "AuditEvent" else None
