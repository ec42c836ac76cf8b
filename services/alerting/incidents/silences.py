"""Silences: how they begin and end, and which incidents that is about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from services.alerting.database import tables as db
from services.alerting.incidents.changes import Changes, Deed
from services.alerting.incidents.muting import Silence
from services.alerting.incidents.quieting import firing_signals, silence_of
from services.alerting.policy.matching import parse_match
from services.alerting.records import whole


@dataclass(frozen=True, slots=True)
class NewSilence:
    """A silence as its row has it; see the table ``silences``."""

    id: str
    match: Mapping[str, Any]
    incident_id: str | None
    author: str
    reason: str
    via: str
    created_ms: int
    starts_ms: int
    ends_ms: int

    def as_silence(self) -> Silence:
        """As muting knows it."""
        match = None if self.incident_id is not None else parse_match(self.match, "silence")
        return Silence(self.id, match, self.incident_id, self.author, self.reason, self.starts_ms, self.ends_ms)


def silence_id_of(identity: Sequence[object]) -> str:
    """The id of a silence, from what makes it this one: twelve hexadecimal digits."""
    return hashlib.sha256("\0".join(map(str, identity)).encode(errors="surrogatepass")).hexdigest()[:12]


def begin_silence(changes: Changes, silence: NewSilence, deed: Deed) -> bool:
    """Keep a silence, and tell the audit; returns False where it is kept already."""
    s = db.silences.c
    if changes.connection.execute(sa.select(s.id).where(s.id == silence.id)).first() is not None:
        return False
    changes.connection.execute(sa.insert(db.silences).values(**asdict(silence)))
    about = {"incident": silence.incident_id} if silence.incident_id else {"match": whole(dict(silence.match))}
    times = {"starts_ms": silence.starts_ms, "ends_ms": silence.ends_ms, "until_ms": silence.ends_ms}
    said = replace(deed, detail={"silence": silence.id, **about, **times})
    changes.tell("silence.created", f"silence:{silence.id}", said)
    return True


def close_silence(changes: Changes, row: sa.RowMapping, deed: Deed) -> set[str]:
    """End a silence before its time; returns the incidents of which people may have to be told now."""
    was_on = row["starts_ms"] <= changes.now_ms
    s = db.silences.c
    ended = {"ends_ms": changes.now_ms, "ended_by": deed.actor, "told_end": True}
    changes.connection.execute(sa.update(db.silences).where(s.id == row["id"]).values(**ended))
    about = {"incident": row["incident_id"]} if row["incident_id"] else {}
    said = replace(deed, detail={"silence": row["id"], **about})
    changes.tell("silence.ended", f"silence:{row['id']}", said, row["incident_id"])
    return muted_by(changes.connection, [silence_of(row)]) if was_on else set()


def muted_by(connection: sa.Connection, silences: Iterable[Silence]) -> set[str]:
    """Incidents that are not over, with a signal that fires and that one of some silences is about."""
    asked = list(silences)
    if not asked:
        return set()
    of_one = {silence.incident_id for silence in asked if silence.match is None}
    i = db.incidents.c
    found = set(connection.execute(sa.select(i.id).where(i.id.in_(of_one), i.status != "resolved")).scalars())
    matches = [silence.match for silence in asked if silence.match is not None]
    if matches:
        for signal in firing_signals(connection).values():
            if signal.incident_id not in found and any(match(signal.labels) for match in matches):
                found.add(signal.incident_id)
    return found
