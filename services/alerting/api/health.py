"""How the service is: what it says of itself, and what its database holds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from services.alerting.api.services import ApiServices, Health
from services.alerting.database import tables as t
from services.alerting.incidents.views import FIRING
from services.alerting.metrics import State

_UNSENT = ("pending", "sending")


def troubles(services: ApiServices, health: Health) -> list[str]:
    """What is wrong, one sentence each."""
    own = [services.tokens.trouble] if services.tokens.trouble else []
    return [*health.troubles, *own]


def read_state(connection: sa.Connection, now_ms: int) -> State:
    """What the database holds now."""
    n, i, g = t.notifications.c, t.incidents.c, t.signals.c
    oldest = sa.select(n.receiver, sa.func.min(n.created_ms)).where(n.status.in_(_UNSENT)).group_by(n.receiver)
    receivers = connection.execute(sa.select(t.receivers)).all()
    in_force = sa.select(sa.func.count()).select_from(t.silences)
    return State(
        messages=_counts(connection, n.receiver, n.status),
        oldest_seconds={name: max(now_ms - since, 0) / 1000 for name, since in connection.execute(oldest)},
        incidents=_counts(connection, i.status, i.severity),
        firing=_by(connection, g.origin, g.status == FIRING),
        threads=_by(connection, t.threads.c.status),
        silences=_number(connection, in_force.where(t.silences.c.starts_ms <= now_ms, t.silences.c.ends_ms > now_ms)),
        escalations=_number(
            connection,
            sa.select(sa.func.count()).select_from(t.escalations).where(t.escalations.c.next_ms.is_not(None)),
        ),
        unpublished=_number(connection, sa.select(sa.func.count()).select_from(t.publications)),
        failing_seconds={
            row.name: 0.0 if row.failing_since_ms is None else max(now_ms - row.failing_since_ms, 0) / 1000
            for row in receivers
        },
        held_seconds={row.name: max(row.hold_until_ms - now_ms, 0) / 1000 for row in receivers},
        system=_by(connection, g.monitor, g.origin == "watch", g.status == FIRING),
    )


def _counts(connection: sa.Connection, first: Any, second: Any) -> dict[tuple[str, str], int]:
    query = sa.select(first, second, sa.func.count()).group_by(first, second)
    return {(a, b): count for a, b, count in connection.execute(query)}


def _by(connection: sa.Connection, column: Any, *where: Any) -> dict[str, int]:
    query = sa.select(column, sa.func.count()).where(*where).group_by(column)
    return {name: count for name, count in connection.execute(query)}  # noqa: C416  # rows are no pairs to mypy


def _number(connection: sa.Connection, query: sa.Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())
