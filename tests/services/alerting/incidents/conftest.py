"""A store and a desk on a database, with a clock that stands until it is moved."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from driftline.codec import Record, decode
from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.database.opening import Database, open_database
from services.alerting.incidents.actions import Actor, Desk, Do
from services.alerting.incidents.loading import find_incidents, load_incidents
from services.alerting.incidents.raising import end_signal, raise_signal
from services.alerting.incidents.remembering import NOTHING, Recollection, recollect
from services.alerting.incidents.store import Incoming, Place, Store
from services.alerting.incidents.ticking import tick
from services.alerting.incidents.views import Incident
from services.alerting.policy.model import Policy, PolicyHolder
from services.alerting.words.system import SystemWords

TOPICS = Topics("test-")
START_MS = 1_800_000_000_000

ADA = Actor("ada", "cli")


class Rig:
    """Everything that changes incidents, on one database."""

    topic = "test-alerts"

    def __init__(self, database: Database, policy: Policy, history: Any = "open", now_ms: int = START_MS) -> None:
        self.database = database
        self.holder = PolicyHolder(policy)
        self.now_ms = now_ms
        self.acted = 0
        self.store = Store(database, self.holder, TOPICS, lambda: self.now_ms, history=history)
        self.desk = Desk(database, self.holder, TOPICS, lambda: self.now_ms, self._act)
        self.offsets: dict[int, int] = {}

    def _act(self) -> None:
        self.acted += 1

    @property
    def policy(self) -> Policy:
        """In force."""
        return self.holder.current

    def place(self, *ends: int, recollection: Recollection = NOTHING) -> None:
        """First sight of the topic: so many alerts are on each partition already."""
        self.store.remember(recollection)
        self.store.place(self.topic, [Place(partition, 0, end) for partition, end in enumerate(ends)])

    def incoming(self, alert: Record | None, partition: int = 0, **changes: Any) -> Incoming:
        """An alert at the next offset of a partition."""
        offset = self.offsets.get(partition, 0)
        self.offsets[partition] = offset + 1
        return Incoming(self.topic, partition, offset, alert, **changes)

    def take(self, *alerts: Record, partition: int = 0) -> dict[str, int]:
        """Take alerts in one batch."""
        if not self.store.positions(self.topic):
            self.place(0, 0, 0)
        return dict(self.store.take([self.incoming(alert, partition) for alert in alerts]))

    def do(
        self, incident: Incident | str, do: Do, reason: str = "because", actor: Actor = ADA, **detail: Any
    ) -> Incident:
        """Somebody does something."""
        name = incident if isinstance(incident, str) else incident.id
        return self.desk.act(name, do, actor, reason, **detail)

    def incidents(self, **query: Any) -> list[Incident]:
        """Incidents, the latest first."""
        with self.database.transaction() as connection:
            found, _ = find_incidents(connection, self.policy, self.now_ms, **{"limit": 500, **query})
            loaded = load_incidents(connection, self.policy, [i.id for i in found], self.now_ms, entries=1000)
            return list(loaded.values())

    def one(self, **query: Any) -> Incident:
        """The only incident."""
        (found,) = self.incidents(**query)
        return found

    def tick(self, now_ms: int | None = None) -> int | None:
        """What the clock does."""
        self.now_ms = self.now_ms if now_ms is None else now_ms
        with self.database.transaction() as connection:
            return tick(connection, self.policy, TOPICS, self.now_ms)

    def raise_signal(self, name: str = "streams-lag", severity: str = "error", headline: str = "Slow") -> bool:
        """Driftline says something of itself."""
        words = SystemWords(headline, ("It is slow.",), "Look.", "streams-lag")
        with self.database.transaction() as connection:
            return raise_signal(
                connection,
                self.policy,
                TOPICS,
                name=name,
                severity=severity,
                labels={},
                words=words,
                now_ms=self.now_ms,
            )

    def end_signal(self, name: str = "streams-lag") -> bool:
        """It is over."""
        with self.database.transaction() as connection:
            return end_signal(connection, self.policy, TOPICS, name=name, now_ms=self.now_ms)

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """All of a table."""
        with self.database.transaction() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    def published(self) -> list[bytes]:
        """What was put on the audit, in order."""
        rows = sorted(self.rows(db.publications), key=lambda row: row["id"])
        return [row["value"] for row in rows if row["topic"] == TOPICS.audit]

    def audit(self, action: str | None = None) -> list[Record]:
        """Decoded, of one action if it is named."""
        events = [decode(value)[1] for value in self.published()]
        return [event for event in events if action is None or event["action"] == action]

    def recollection(self) -> Recollection:
        """What the audit remembers."""
        return recollect([self.published()])

    def concerned(self) -> set[str]:
        """Incidents that some receiver has in a thread."""
        return {row["incident_id"] for row in self.rows(db.thread_incidents)}

    def state(self) -> dict[str, list[Any]]:
        """All of incidents, signals and their stories that a rebuild must give again."""
        signals = [{k: v for k, v in row.items() if k != "id"} for row in self.rows(db.signals)]
        entries = [
            {k: v for k, v in row.items() if k != "id"}
            for row in self.rows(db.entries)
            if not row["action"].startswith("notification.")
        ]
        read = [{k: v for k, v in row.items() if k != "signal_id"} for row in self.rows(db.signal_upstreams)]
        tables = {
            "incidents": self.rows(db.incidents),
            "signals": signals,
            "entries": entries,
            "silences": self.rows(db.silences),
            "deployments": self.rows(db.incident_deployments),
            "upstreams": read,
        }
        return {name: sorted(rows, key=lambda row: json.dumps(row, sort_keys=True)) for name, rows in tables.items()}

    def digest(self) -> str:
        """Of the state."""
        return hashlib.sha256(json.dumps(self.state(), sort_keys=True).encode()).hexdigest()


MakeRig = Callable[..., Rig]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to copy: making the tables anew for every example takes most of the time."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def make_rig(tmp_path: Path, make_policy: Any, empty_database: Path) -> Iterator[MakeRig]:
    """Makes rigs, each on a SQLite database of its own unless one is given; without receivers unless they are given."""
    opened: list[Database] = []

    def make(*notified: Any, database: Database | None = None, history: str = "open", **policy: Any) -> Rig:
        if database is None:
            path = tmp_path / f"{len(opened)}.db"
            shutil.copy(empty_database, path)
            database = open_database(f"sqlite:///{path}")
            opened.append(database)
            with database.transaction() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout=50")
        return Rig(database, make_policy(*notified, **policy), history)

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig on SQLite that tells nobody."""
    return make_rig()


@pytest.fixture
def any_rig(make_rig: MakeRig, any_database: Database) -> Rig:
    """A rig, once on SQLite and once on PostgreSQL."""
    return make_rig(database=any_database)


@pytest.fixture(scope="session")
def partition_alerts() -> Callable[[Sequence[Record]], Mapping[str, list[Record]]]:
    """Alerts by deployment, in order: what is on one partition stays in order."""

    def split(alerts: Sequence[Record]) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for alert in alerts:
            found.setdefault(alert["deployment_id"], []).append(alert)
        return found

    return split
