"""Taking alerts in.

One transaction (:meth:`Store.take`) holds the dedup rows, the signals' and incidents' changes, their entries, the audit
events, what every receiver is to be told, and the topic's next offset: all or nothing. The consumer is placed from that
offset, never from a group's commit: an alert that was taken is never read again in vain, and one that was not taken is
read again.

What was on the topic before the database was is *history*. It is kept, partition by partition, as it is read; when the
last partition's end is reached, all of it is applied in one transaction, with what the audit remembers of it
(:mod:`services.alerting.incidents.rebuilding`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from driftline.codec import Record, encode
from driftline.topics import Topics
from services.alerting.crash import crash_point
from services.alerting.database import tables as db
from services.alerting.database.opening import Database
from services.alerting.incidents.changes import Changes, Deed, tell
from services.alerting.incidents.concerning import concern_changed, concern_each
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.loading import firing_incidents
from services.alerting.incidents.rebuilding import rebuild
from services.alerting.incidents.remembering import NOTHING, Recollection
from services.alerting.incidents.taking import Taken, Taking
from services.alerting.incidents.views import RESOLVED
from services.alerting.notify.publishing import publish
from services.alerting.policy.model import PolicyHolder
from services.alerting.records import Publication

DUPLICATE = "duplicate"
REFUSED = "refused"
HISTORY = "history"
"""Results of :meth:`Store.take`, besides those of :class:`services.alerting.incidents.taking.Change`."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message of the topic ``alerts``: an alert, or what is published because it is none, and why it is none."""

    topic: str
    partition: int
    offset: int
    alert: Record | None
    refusal: tuple[Publication, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition goes on. See :data:`services.alerting.database.tables.positions`."""

    next_offset: int
    history_end: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition is to go on.

    Attributes:
        partition: Which.
        next_offset: There.
        history_end: At first sight, what is before this offset is history.
        gap: Why the stored offset could not be kept to; empty where it could.
    """

    partition: int
    next_offset: int
    history_end: int
    gap: str = ""


class Store:
    """Where alerts go. Thread-safe.

    Args:
        database: Of the service.
        policy: In force.
        topics: For the audit events.
        now_ms: The clock.
        history: See :class:`services.alerting.settings.AlertingSettings`.
    """

    def __init__(
        self,
        database: Database,
        policy: PolicyHolder,
        topics: Topics,
        now_ms: Callable[[], int],
        *,
        history: Literal["open", "all", "none"] = "open",
    ) -> None:
        self._database = database
        self._policy = policy
        self._topics = topics
        self._now_ms = now_ms
        self._history = history
        self._recollection = NOTHING

    def positions(self, topic: str) -> dict[int, Position]:
        """Where each known partition goes on."""
        with self._database.transaction() as connection:
            rows = connection.execute(sa.select(db.positions).where(db.positions.c.topic == topic))
            return {row.partition: Position(row.next_offset, row.history_end) for row in rows}

    def wants_recollection(self, topic: str) -> bool:
        """Whether the database is new, or was killed before history was applied: the audit must be read first."""
        p = db.positions.c
        with self._database.transaction() as connection:
            told = connection.execute(sa.select(p.history_told).where(p.topic == topic)).scalars().all()
            return not told or not all(told)

    def remember(self, recollection: Recollection) -> None:
        """What the audit says, for when history is applied.

        Where all of history is to be told, it is taken as if it came now: of what the audit says, silences alone hold.
        """
        events = recollection.events
        if self._history == "all":
            events = tuple(event for event in events if event.action.startswith("silence."))
        self._recollection = Recollection(events, recollection.malformed)

    def place(self, topic: str, places: Sequence[Place]) -> None:
        """Set where partitions go on, all at once.

        What is on partitions at the first sight of the topic is history. A partition that is added later has none: what
        is on it was told by nobody.
        """
        with self._database.transaction() as connection:
            p = db.positions.c
            query = sa.select(p.partition, p.next_offset).where(p.topic == topic)
            known = {row.partition: row.next_offset for row in connection.execute(query)}
            for place in places:
                where = (p.topic == topic) & (p.partition == place.partition)
                if place.partition in known:
                    connection.execute(sa.update(db.positions).where(where).values(next_offset=place.next_offset))
                else:
                    history_end = 0 if known or self._history == "all" else place.history_end
                    values = {"topic": topic, "partition": place.partition, "next_offset": place.next_offset}
                    told = {"history_end": history_end, "history_told": bool(known)}
                    connection.execute(sa.insert(db.positions).values(**values, **told))
                if place.gap:
                    self._skipped(connection, topic, place, known.get(place.partition))
            self._end_history(connection, topic)

    def _skipped(self, connection: sa.Connection, topic: str, place: Place, known: int | None) -> None:
        deed = Deed(
            identity=(topic, place.partition, known, place.next_offset),
            reason=place.gap,
            detail={"stored_offset": known, "next_offset": place.next_offset},
        )
        tell(connection, self._topics, "alerts.skipped", f"topic:{topic}/{place.partition}", deed, self._now_ms())

    def take(self, batch: Sequence[Incoming]) -> Counter[str]:
        """Take messages in, in one transaction; returns how many did what.

        1. Those that are no alerts: their dead letters. Those that were taken before: nothing.
        2. Signals and incidents, with their entries and audit events.
        3. For each incident that changed, and each that what changed mutes or no longer mutes: who is told.
        4. The next offsets.
        """
        results: Counter[str] = Counter()
        with self._database.transaction() as connection:
            new: dict[str, Incoming] = {}
            seen = _seen(connection, [m.alert["id"] for m in batch if m.alert is not None])
            for message in batch:
                if message.alert is None:
                    publish(connection, message.refusal)
                    results[REFUSED] += 1
                elif message.alert["id"] in seen or message.alert["id"] in new:
                    results[DUPLICATE] += 1
                else:
                    new[message.alert["id"]] = message
            taken = [
                Taken(_alert(m), encode("Alert", _alert(m)), (m.topic, m.partition, m.offset)) for m in new.values()
            ]
            now_ms = self._now_ms()
            _keep(connection, taken, now_ms)
            topics = {message.topic for message in batch}
            if any(self._in_history(connection, topic) for topic in topics):
                results[HISTORY] += len(taken)
            else:
                results += self._apply(connection, taken, now_ms)
            ends = {(message.topic, message.partition): message.offset + 1 for message in batch}
            for (topic, partition), next_offset in ends.items():
                _advance(connection, topic, partition, next_offset)
            for topic in topics:
                self._end_history(connection, topic)
            crash_point("intake.before_commit")
        crash_point("intake.after_commit")
        return results

    def _apply(self, connection: sa.Connection, taken: Sequence[Taken], now_ms: int) -> Counter[str]:
        policy = self._policy.current
        changes = Changes(connection, policy, self._topics, now_ms)
        taking = Taking(changes)
        taking.prepare([one.alert for one in taken])
        results = Counter(taking.take(one).value for one in taken)
        concern_changed(connection, policy, changes, now_ms)
        return results

    def advance(self, topic: str, partition: int, next_offset: int) -> None:
        """Move a position over offsets that hold no message (transaction markers, aborted records)."""
        with self._database.transaction() as connection:
            _advance(connection, topic, partition, next_offset)
            self._end_history(connection, topic)

    @staticmethod
    def _in_history(connection: sa.Connection, topic: str) -> bool:
        p = db.positions.c
        query = sa.select(p.partition).where(p.topic == topic, p.history_told == sa.false()).limit(1)
        return connection.execute(query).first() is not None

    def _end_history(self, connection: sa.Connection, topic: str) -> None:
        """Once, when every partition's history is read: apply it, and tell of what is still open."""
        p = db.positions.c
        pending = sa.select(p.next_offset, p.history_end).where(p.topic == topic, p.history_told == sa.false())
        rows = connection.execute(pending).all()
        if not rows or any(row.next_offset < row.history_end for row in rows):
            return
        policy, now_ms = self._policy.current, self._now_ms()
        told = rebuild(connection, policy, self._topics, self._recollection, now_ms)
        connection.execute(sa.update(db.positions).where(p.topic == topic).values(history_told=True))
        still_open = firing_incidents(connection) if self._history != "none" else []
        concern_each(connection, policy, dict.fromkeys([*still_open, *sorted(told)]), now_ms)
        self._recollection = NOTHING

    def firing(self) -> int:
        """How many incidents are not over."""
        query = sa.select(sa.func.count()).select_from(db.incidents).where(db.incidents.c.status != RESOLVED)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())


def _alert(message: Incoming) -> Record:
    assert message.alert is not None
    return message.alert


def _seen(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for some in chunks(ids):
        found |= set(connection.execute(sa.select(db.alerts.c.id).where(db.alerts.c.id.in_(some))).scalars())
    return found


def _keep(connection: sa.Connection, taken: Sequence[Taken], now_ms: int) -> None:
    rows: list[Mapping[str, object]] = [
        {
            "id": one.alert["id"],
            "record": one.record,
            "topic": one.position[0],
            "partition": one.position[1],
            "offset": one.position[2],
            "seen_ms": now_ms,
        }
        for one in taken
    ]
    if rows:
        connection.execute(sa.insert(db.alerts), rows)


def _advance(connection: sa.Connection, topic: str, partition: int, next_offset: int) -> None:
    p = db.positions.c
    where = (p.topic == topic) & (p.partition == partition)
    connection.execute(sa.update(db.positions).where(where).values(next_offset=next_offset))
