"""Incidents and signals under change: read once, changed in memory, written once, within one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from services.alerting.database import tables as db
from services.alerting.incidents.grouping import SYSTEM_PREFIX
from services.alerting.incidents.views import FIRING, RESOLVED, most_urgent

_ASKED_AT_ONCE = 500
"""Of SQLite, which takes 32,766 parameters, and of older ones, which take 999."""

T = TypeVar("T")


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """So many as one statement asks for."""
    everything = list(items)
    for start in range(0, len(everything), _ASKED_AT_ONCE):
        yield everything[start : start + _ASKED_AT_ONCE]


@dataclass(slots=True, eq=False)
class IncidentDraft:
    """An incident under change.

    Attributes:
        values: The columns.
        firing: How many signals fire, by severity.
        deployments: Whose signals it has.
        incident_keys: Of its signals that are about Driftline itself.
        is_new: It has no row yet.
        is_changed: Its row is to be written.
        is_told: People may have to be told of what changed.
    """

    values: dict[str, Any]
    firing: Counter[str] = field(default_factory=Counter)
    deployments: set[str] = field(default_factory=set)
    incident_keys: set[str] = field(default_factory=set)
    is_new: bool = False
    is_changed: bool = False
    is_told: bool = False
    new_deployments: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.values["id"])

    @property
    def status(self) -> str:
        """Open, acknowledged or resolved."""
        return str(self.values["status"])

    @property
    def severity(self) -> str:
        """The highest among its firing signals, or the last."""
        return str(self.values["severity"])

    @property
    def is_resolved(self) -> bool:
        """Whether it is over."""
        return self.status == RESOLVED

    @property
    def is_system(self) -> bool:
        """Whether it is about Driftline itself."""
        return bool(self.incident_keys) or not self.values["deployment_id"]

    @property
    def last_us(self) -> int:
        """Latest detection or resolution."""
        return int(self.values["last_us"])

    @property
    def resolved_us(self) -> int | None:
        """When it was over."""
        moment = self.values["resolved_us"]
        return None if moment is None else int(moment)

    @property
    def fires(self) -> bool:
        """Whether a signal of it fires."""
        return any(count > 0 for count in self.firing.values())

    def set(self, **values: Any) -> None:
        """Change columns."""
        self.values.update(values)
        self.is_changed = True

    def count(self, severity: str, change: int) -> None:
        """So many more signals of a severity fire."""
        self.firing[severity] += change

    def firing_severity(self) -> str:
        """The highest among its firing signals; the one it had when none fires."""
        firing = [severity for severity, count in self.firing.items() if count > 0]
        return most_urgent(firing) if firing else self.severity

    def touches(self, deployment_id: str) -> None:
        """It has a signal of a deployment."""
        if deployment_id not in self.deployments:
            self.deployments.add(deployment_id)
            self.new_deployments.add(deployment_id)


@dataclass(slots=True, eq=False)
class SignalDraft:
    """A signal under change: its columns, and its row's id once it has one."""

    values: dict[str, Any]
    id: int | None = None
    is_changed: bool = False
    fired: bool = False
    ended: bool = False

    @property
    def status(self) -> str:
        """Firing or resolved."""
        return str(self.values["status"])

    @property
    def incident_id(self) -> str:
        """Whose it is."""
        return str(self.values["incident_id"])

    def set(self, **values: Any) -> None:
        """Change columns."""
        self.values.update(values)
        self.is_changed = True


class Drafts:
    """What one transaction reads and writes of incidents and signals."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.incidents: dict[str, IncidentDraft] = {}
        self.signals: dict[tuple[str, int], SignalDraft] = {}

    def load_incidents(self, ids: Iterable[str]) -> None:
        """Read incidents that are not read yet."""
        i, s, d = db.incidents.c, db.signals.c, db.incident_deployments.c
        for some in chunks(set(ids) - self.incidents.keys()):
            for row in self._connection.execute(sa.select(db.incidents).where(i.id.in_(some))).mappings():
                self.incidents[row["id"]] = IncidentDraft(dict(row))
            firing = (
                sa.select(s.incident_id, s.severity, sa.func.count().label("signals"))
                .where(s.incident_id.in_(some), s.status == FIRING)
                .group_by(s.incident_id, s.severity)
            )
            for incident_id, severity, signals in self._connection.execute(firing):
                self.incidents[incident_id].firing[severity] = signals
            touched = sa.select(d.incident_id, d.deployment_id).where(d.incident_id.in_(some))
            for incident_id, deployment_id in self._connection.execute(touched):
                self.incidents[incident_id].deployments.add(deployment_id)

    def load_signals(self, incident_keys: Iterable[str]) -> None:
        """Read every episode of some alarms, and their incidents."""
        found: list[SignalDraft] = []
        for some in chunks(set(incident_keys)):
            query = sa.select(db.signals).where(db.signals.c.incident_key.in_(some))
            for row in self._connection.execute(query).mappings():
                key = (row["incident_key"], row["episode"])
                if key not in self.signals:
                    values = dict(row)
                    self.signals[key] = SignalDraft(values, values.pop("id"))
                found.append(self.signals[key])
        self.load_incidents(signal.incident_id for signal in found)
        for signal in found:
            if signal.values["monitor"].startswith(SYSTEM_PREFIX):
                self.incidents[signal.incident_id].incident_keys.add(signal.values["incident_key"])

    def add_incident(self, values: Mapping[str, Any]) -> IncidentDraft:
        """A new incident."""
        draft = IncidentDraft(dict(values), is_new=True, is_changed=True)
        self.incidents[draft.id] = draft
        return draft

    def add_signal(self, values: Mapping[str, Any]) -> SignalDraft:
        """A new signal."""
        draft = SignalDraft(dict(values), is_changed=True, fired=values["status"] == FIRING)
        self.signals[draft.values["incident_key"], draft.values["episode"]] = draft
        return draft

    def write(self) -> list[IncidentDraft]:
        """Write what is new or changed; returns the incidents that are."""
        changed = [draft for draft in self.incidents.values() if draft.is_changed]
        self._insert(db.incidents, [draft.values for draft in changed if draft.is_new])
        self._update(db.incidents, [draft.values for draft in changed if not draft.is_new])
        pairs = [(draft, name) for draft in self.incidents.values() for name in sorted(draft.new_deployments)]
        self._insert(db.incident_deployments, [{"incident_id": d.id, "deployment_id": name} for d, name in pairs])
        signals = [draft for draft in self.signals.values() if draft.is_changed]
        self._update(db.signals, [{"id": draft.id, **draft.values} for draft in signals if draft.id is not None])
        self._insert_signals([draft for draft in signals if draft.id is None])
        for incident in changed:
            incident.is_new = incident.is_changed = False
            incident.new_deployments.clear()
        for signal in signals:
            signal.is_changed = False
        return changed

    def _insert_signals(self, drafts: Sequence[SignalDraft]) -> None:
        if not drafts:
            return
        self._insert(db.signals, [draft.values for draft in drafts])
        s = db.signals.c
        ids: dict[tuple[str, int], int] = {}
        for some in chunks({draft.values["incident_key"] for draft in drafts}):
            query = sa.select(s.id, s.incident_key, s.episode).where(s.incident_key.in_(some))
            ids |= {(key, episode): row_id for row_id, key, episode in self._connection.execute(query)}
        read: list[dict[str, Any]] = []
        for draft in drafts:
            draft.id = row_id = ids[draft.values["incident_key"], draft.values["episode"]]
            times = {
                "incident_id": draft.incident_id,
                "change_time_us": draft.values["change_time_us"],
                "opened_us": detected_us(draft.values),
            }
            read += [{"upstream": name, "signal_id": row_id, **times} for name in draft.values["upstreams"]]
        self._insert(db.signal_upstreams, read)

    def _insert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self._connection.execute(sa.insert(table), list(rows))

    def _update(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            columns = [column for column in table.columns if column.name != "id"]
            statement = sa.update(table).where(table.c.id == sa.bindparam("the_id"))
            statement = statement.values({column.name: sa.bindparam(f"new_{column.name}") for column in columns})
            bound = [
                {"the_id": row["id"], **{f"new_{column.name}": row[column.name] for column in columns}} for row in rows
            ]
            self._connection.execute(statement, bound)


def detected_us(signal: Mapping[str, Any]) -> int:
    """When a signal was noticed, or, where nobody saw that, when it was over; event time."""
    moment = signal["opened_us"] if signal["opened_us"] is not None else signal["resolved_us"]
    return int(moment if moment is not None else signal["change_time_us"])
