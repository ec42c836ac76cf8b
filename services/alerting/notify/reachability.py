"""Whether receivers can be reached, kept in the database: for whoever watches them, and for the next start."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from services.alerting.database import tables as t


def note_success(connection: sa.Connection, receiver: str, now_ms: int) -> None:
    """A message arrived."""
    values = {"hold_until_ms": 0, "last_sent_ms": now_ms, "failing_since_ms": None, "failures": 0, "last_error": ""}
    r = t.receivers.c
    if not connection.execute(sa.update(t.receivers).where(r.name == receiver).values(**values)).rowcount:
        connection.execute(sa.insert(t.receivers).values(name=receiver, **values))


def note_failure(connection: sa.Connection, receiver: str, error: str, now_ms: int, hold_until_ms: int | None) -> None:
    """An attempt failed; ``hold_until_ms`` keeps the whole receiver back until then."""
    r = t.receivers.c
    values: dict[str, Any] = {
        "failing_since_ms": sa.func.coalesce(r.failing_since_ms, now_ms),
        "failures": r.failures + 1,
        "last_error": error,
    }
    if hold_until_ms is not None:
        values["hold_until_ms"] = hold_until_ms
    if not connection.execute(sa.update(t.receivers).where(r.name == receiver).values(**values)).rowcount:
        first = {"failing_since_ms": now_ms, "failures": 1, "last_error": error, "hold_until_ms": hold_until_ms or 0}
        connection.execute(sa.insert(t.receivers).values(name=receiver, last_sent_ms=None, **first))
