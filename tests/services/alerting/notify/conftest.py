"""What the tests of deciding and sending share: a service without loops, on a clock that is moved by hand."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.clock import Clock
from services.alerting.database import tables as t
from services.alerting.database.opening import Database, open_database
from services.alerting.incidents.store import Incoming, Place, Store
from services.alerting.notify.escalating import escalate_due
from services.alerting.notify.flushing import flush_due
from services.alerting.notify.outbox import Claim, Outbox
from services.alerting.notify.threads import concern
from services.alerting.policy.model import Policy, PolicyHolder
from services.alerting.records import deterministic_id

SECOND = 1000
MINUTE = 60 * SECOND
START_MS = 1_800_000_000_000


class StandingClock(Clock):
    """A clock that is moved by hand."""

    def __init__(self, now_ms: int = START_MS) -> None:
        super().__init__()
        object.__setattr__(self, "at_ms", now_ms)

    def now_ms(self) -> int:
        at_ms: int = self.at_ms  # type: ignore[attr-defined]  # set around the dataclass, which is frozen
        return at_ms

    def move(self, ms: int) -> None:
        """Let time pass."""
        object.__setattr__(self, "at_ms", self.now_ms() + ms)


class Office:
    """Taking alerts, deciding and sending, on a real database, without a thread of its own."""

    def __init__(self, url: str, policy: Policy, history: Any = "all", clock: Any = None) -> None:
        self.clock = clock or StandingClock()
        self.holder = PolicyHolder(policy)
        self.topics = Topics()
        self.database: Database = open_database(url)
        self.store = Store(self.database, self.holder, self.topics, self.clock.now_ms, history=history)
        self.outbox = Outbox(self.database, self.holder, self.topics, self.clock.now_ms)
        self.offset = 0
        if 0 not in self.store.positions("alerts"):
            self.store.place("alerts", [Place(0, 0, 0)])

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def take(self, *alerts: dict[str, Any]) -> None:
        """Take alerts in, in one transaction."""
        batch = [Incoming("alerts", 0, self.offset + n, alert) for n, alert in enumerate(alerts)]
        self.offset += len(alerts)
        self.store.take(batch)

    def look(self) -> int | None:
        """Everything that the scheduler does in a round."""
        now_ms = self.clock.now_ms()
        steps = escalate_due(self.database, self.holder, self.topics, now_ms)
        flushed = flush_due(self.database, self.holder, self.topics, now_ms)
        return min((at for at in (steps, flushed) if at is not None), default=None)

    def claim(self, receiver: str) -> Claim:
        """The next message of a receiver, which there must be."""
        claim = self.outbox.claim(receiver)
        assert claim is not None, f"nothing is due at {receiver}"
        return claim

    def send_all(self, receiver: str) -> list[Claim]:
        """Send everything that is due at a receiver."""
        sent = []
        while (claim := self.outbox.claim(receiver)) is not None:
            self.outbox.sent(claim, {})
            sent.append(claim)
        return sent

    def kinds(self, receiver: str) -> list[str]:
        """Look, send everything that is due at a receiver, and say what it was."""
        self.look()
        return [claim.delivery.kind.value for claim in self.send_all(receiver)]

    def incident_ids(self) -> list[str]:
        """Of all incidents, the first one first."""
        i = t.incidents.c
        return list(self.all(sa.select(i.id).order_by(i.created_ms, i.id), scalars=True))

    def change(
        self, incident_id: str, action: str, actor: str = "ada", except_receiver: str = "", **values: Any
    ) -> None:
        """What a person does: the incident's row, its entry, and everybody it concerns."""
        with self.database.transaction() as connection:
            i = t.incidents.c
            where = i.id == incident_id
            connection.execute(sa.update(t.incidents).where(where).values(revision=i.revision + 1, **values))
            revision = connection.execute(sa.select(i.revision).where(where)).scalar()
            now_ms = self.clock.now_ms()
            connection.execute(
                sa.insert(t.entries).values(
                    key=deterministic_id(incident_id, revision),
                    incident_id=incident_id,
                    time_ms=now_ms,
                    action=action,
                    actor_kind="human",
                    actor=actor,
                    via="api",
                    reason="",
                    detail={},
                )
            )
            concern(connection, self.holder.current, incident_id, now_ms, except_receiver=except_receiver)

    def acknowledge(self, incident_id: str, **options: Any) -> None:
        """Somebody takes an incident."""
        values: dict[str, Any] = {
            "status": "acknowledged",
            "acknowledged_by": "ada",
            "acknowledged_ms": self.clock.now_ms(),
        }
        self.change(incident_id, "incident.acknowledged", **values, **options)

    def give_back(self, incident_id: str) -> None:
        """Somebody gives it back."""
        self.change(incident_id, "incident.unacknowledged", status="open", acknowledged_by="", acknowledged_ms=None)

    def all(self, query: Any, *, scalars: bool = False) -> list[Any]:
        """What a query finds."""
        with self.database.transaction() as connection:
            result = connection.execute(query)
            return list(result.scalars().all() if scalars else result.all())

    def statuses(self, receiver: str) -> list[tuple[str, str]]:
        """Kind and status of each message of a receiver, in order."""
        n = t.notifications.c
        query = sa.select(n.kind, n.status).where(n.receiver == receiver).order_by(n.id)
        return [(row.kind, row.status) for row in self.all(query)]

    def audited(self) -> list[dict[str, Any]]:
        """What is to be said to the audit, decoded."""
        from driftline.codec import decode

        values = self.all(sa.select(t.publications.c.value).order_by(t.publications.c.id), scalars=True)
        return [decode(value)[1] for value in values]


OpenOffice = Callable[..., Office]


@pytest.fixture
def open_office(tmp_path: Path) -> Iterator[OpenOffice]:
    """``open_office(policy)``: opened again with the same name, it finds what was there."""
    with contextlib.ExitStack() as stack:

        def make(policy: Policy, name: str = "alerting", **options: Any) -> Office:
            office = Office(f"sqlite:///{tmp_path / name}.db", policy, **options)
            stack.callback(office.close)
            return office

        yield make


@pytest.fixture
def standing_clock() -> StandingClock:
    """A clock that is moved by hand."""
    return StandingClock()


@pytest.fixture
def office_at(open_office: OpenOffice) -> Callable[..., Office]:
    """An office on a database that is given by its URL."""
    return lambda url, policy: Office(url, policy)
