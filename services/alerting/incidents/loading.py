"""Incidents as everything outside the database sees them, and finding them."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from driftline.codec import Record, decode
from services.alerting.database import tables as db
from services.alerting.errors import AlertingError
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.quieting import read_quiet
from services.alerting.incidents.ranking import Strength, ranked
from services.alerting.incidents.views import FIRING, RESOLVED, SILENCED, Entry, Incident, Mute, Signal
from services.alerting.policy.model import SEVERITIES, Policy

RECORDS = 20
"""Of each incident, so many of the strongest signals come with their records; a message names fewer."""

UNRESOLVED = "unresolved"
"""As a status to find by: open, acknowledged or silenced."""

FINDABLE = ("open", "acknowledged", "resolved", SILENCED, UNRESOLVED)

_MOST_FOUND = 500
_LOOKED_AT = 200
_FIELDS = tuple(name for name in Incident.__dataclass_fields__ if name not in ("signals", "entries"))


class SearchError(AlertingError):
    """What was searched for makes no sense; the message says what was expected."""


def load_incidents(
    connection: sa.Connection,
    policy: Policy,
    ids: Iterable[str],
    now_ms: int,
    *,
    entries: int = 0,
    records: int = RECORDS,
    mutes: bool = True,
) -> dict[str, Incident]:
    """Incidents by id, in the order asked for; those that there are.

    Args:
        connection: Of a transaction.
        policy: In force: what is muted is asked of it.
        ids: Whole ids.
        now_ms: The clock.
        entries: So many of the latest entries of each; 0 for none.
        records: So many of the strongest signals of each come with their records, the others without.
        mutes: Whether what mutes signals is asked for; without, none is muted.
    """
    asked = list(dict.fromkeys(ids))
    rows: dict[str, sa.RowMapping] = {}
    signals: dict[str, list[sa.RowMapping]] = defaultdict(list)
    for some in chunks(asked):
        query = sa.select(db.incidents).where(db.incidents.c.id.in_(some))
        rows.update((row["id"], row) for row in connection.execute(query).mappings())
        of_these = sa.select(db.signals).where(db.signals.c.incident_id.in_(some))
        for row in connection.execute(of_these).mappings():
            signals[row["incident_id"]].append(row)
    # What is over is muted by nothing: whoever was told of it is told of its end.
    unresolved = {i for i, row in rows.items() if row["status"] != RESOLVED}
    firing = [(s["labels"], i) for i in unresolved for s in signals[i] if s["status"] == FIRING]
    quiet = read_quiet(connection, policy, firing if mutes else (), now_ms)

    def strength(row: sa.RowMapping, incident_id: str) -> Strength:
        fires = row["status"] == FIRING and incident_id in unresolved
        return Strength(_signal(row, quiet.mute(row["labels"], incident_id) if fires else None), row["evidence_nats"])

    order = {i: ranked(strength(row, i) for row in signals[i]) for i in rows}
    with_records = _with_records(connection, signals, order, records) if records else order
    stories = {i: _entries(connection, i, entries) for i in rows} if entries else {}
    return {
        i: Incident(**{name: rows[i][name] for name in _FIELDS}, signals=with_records[i], entries=stories.get(i, ()))
        for i in asked
        if i in rows
    }


def _signal(row: sa.RowMapping, mute: Mute | None) -> Signal:
    return Signal(
        id=row["id"],
        incident_key=row["incident_key"],
        episode=row["episode"],
        origin=row["origin"],
        status=row["status"],
        severity=row["severity"],
        labels=row["labels"],
        change_time_us=row["change_time_us"],
        opened_us=row["opened_us"],
        resolved_us=row["resolved_us"],
        firing=None,
        resolved=None,
        words=row["words"],
        mute=mute,
    )


def _with_records(
    connection: sa.Connection,
    signals: Mapping[str, Sequence[sa.RowMapping]],
    order: Mapping[str, tuple[Signal, ...]],
    records: int,
) -> dict[str, tuple[Signal, ...]]:
    """The signals with the records of the strongest: those are read by themselves, and no others are decoded."""
    shown = {signal.id for of_one in order.values() for signal in of_one[:records]}
    alerts = {
        row["id"]: (row["firing_alert_id"], row["resolved_alert_id"])
        for of_one in signals.values()
        for row in of_one
        if row["id"] in shown
    }
    wanted = {alert for pair in alerts.values() for alert in pair if alert is not None}
    decoded: dict[str | None, Record] = {}
    for some in chunks(wanted):
        query = sa.select(db.alerts.c.id, db.alerts.c.record).where(db.alerts.c.id.in_(some))
        decoded.update((row.id, decode(row.record)[1]) for row in connection.execute(query))

    def complete(signal: Signal) -> Signal:
        if signal.id not in alerts:
            return signal
        fired, ended = alerts[signal.id]
        return replace(signal, firing=decoded.get(fired), resolved=decoded.get(ended))

    return {i: tuple(complete(signal) for signal in of_one) for i, of_one in order.items()}


def _entries(connection: sa.Connection, incident_id: str, latest: int) -> tuple[Entry, ...]:
    e = db.entries.c
    query = sa.select(db.entries).where(e.incident_id == incident_id).order_by(e.id.desc()).limit(latest)
    rows = connection.execute(query).all()
    return tuple(
        Entry(row.time_ms, row.action, row.actor_kind, row.actor, row.via, row.reason, row.detail)
        for row in reversed(rows)
    )


def find_incidents(
    connection: sa.Connection,
    policy: Policy,
    now_ms: int,
    *,
    status: str | None = None,
    deployment: str | None = None,
    severity: str | None = None,
    owner: str | None = None,
    text: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> tuple[list[Incident], str | None]:
    """Incidents, the one that was opened first most lately first, and where the next page begins.

    The order is that of the first opening, which nothing changes later: whatever happens between two pages, no
    incident is left out and none comes twice.

    Args:
        connection: Of a transaction.
        policy: In force.
        now_ms: The clock.
        status: One of :data:`FINDABLE`.
        deployment: That it touches.
        severity: Its severity.
        owner: Its owner.
        text: In its title, its id or its deployment's name; upper and lower case alike.
        before: Where an earlier page ended.
        limit: At most so many, 1 to 500.

    Raises:
        SearchError: A status, severity or place that there is none of.
    """
    i, d = db.incidents.c, db.incident_deployments.c
    limit = max(1, min(limit, _MOST_FOUND))
    where: list[sa.ColumnElement[bool]] = []
    if status is not None:
        if status not in FINDABLE:
            raise SearchError(f"expected a status of {', '.join(FINDABLE)}, came {status[:40]!r}")
        stored = i.status != RESOLVED if status in (SILENCED, UNRESOLVED) else i.status == status
        where.append(stored)
    if severity is not None:
        if severity not in SEVERITIES:
            raise SearchError(f"expected a severity of {', '.join(SEVERITIES)}, came {severity[:40]!r}")
        where.append(i.severity == severity)
    if deployment is not None:
        where.append(i.id.in_(sa.select(d.incident_id).where(d.deployment_id == deployment)))
    if owner is not None:
        where.append(i.owner == owner)
    if text:
        pattern = "%" + _literally(text.lower()) + "%"
        columns = (i.title, i.id, i.deployment_id)
        where.append(sa.or_(*(sa.func.lower(column).like(pattern, escape="\\") for column in columns)))
    # Whether an incident is silenced is no column: the clock and the routing file change it.
    by_state = status in (SILENCED, "open", "acknowledged")
    page = max(limit, _LOOKED_AT) if by_state else limit
    found: list[Incident] = []
    place = None if before is None else _place(before)
    while True:
        query = sa.select(i.id, i.created_ms).where(*where).order_by(i.created_ms.desc(), i.id.desc())
        if place is not None:
            query = query.where(sa.or_(i.created_ms < place[0], sa.and_(i.created_ms == place[0], i.id < place[1])))
        rows = connection.execute(query.limit(page + 1)).all()
        loaded = load_incidents(connection, policy, [row.id for row in rows[:page]], now_ms, records=1)
        for number, row in enumerate(rows[:page]):
            incident = loaded[row.id]
            place = (row.created_ms, row.id)
            if by_state and incident.state != status:
                continue
            found.append(incident)
            if len(found) == limit:
                more = number + 1 < len(rows)
                return found, _cursor(place) if more else None
        if len(rows) <= page:
            return found, None


def resolve_id(connection: sa.Connection, beginning: str) -> list[str]:
    """Ids that begin so, at most two: one that is whole, or one, or an ambiguity."""
    i = db.incidents.c
    given = beginning.strip().lower()
    if not given or any(digit not in "0123456789abcdef" for digit in given):
        return []
    # A range and no LIKE: it uses the index in both databases.
    query = sa.select(i.id).where(i.id >= given, i.id < given + "g").order_by(i.id).limit(2)
    found = list(connection.execute(query).scalars())
    return [given] if given in found else found


def _literally(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _cursor(place: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(f"{place[0]}.{place[1]}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[int, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created, _, incident_id = text.partition(".")
        return int(created), incident_id
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise SearchError(f"expected a place as an earlier page gave it, came {cursor[:40]!r}") from error


def firing_incidents(connection: sa.Connection) -> list[str]:
    """Ids of incidents that are not over, the oldest first."""
    i = db.incidents.c
    query = sa.select(i.id).where(i.status != RESOLVED).order_by(i.created_ms, i.id)
    return list(connection.execute(query).scalars())
