"""Endpoints about messages and those who receive them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from services.alerting.api import models as m
from services.alerting.api.endpoints import PARAMETERS, Call
from services.alerting.api.finding import about, owned
from services.alerting.api.problems import ProblemError
from services.alerting.api.showing import moment
from services.alerting.channels.base import Redactor
from services.alerting.database import tables as t
from services.alerting.notify.kinds import Kind
from services.alerting.notify.listing import enqueue_direct, list_notifications, redrive
from services.alerting.policy.model import Receiver

_ROUNDS = 40


async def list_messages(call: Call) -> m.Notifications:
    """A page of messages, the latest first. A limited token sees those of its own incidents alone."""
    query, redact = call.query, Redactor(call.services.policy.current.secrets())

    def read(connection: sa.Connection) -> m.Notifications:
        found: list[m.Notification] = []
        last = None if query.before is None else _number(query.before)
        for _ in range(_ROUNDS):
            rows = list_notifications(
                connection, status=query.status, receiver=query.receiver, before=last, limit=query.limit
            )
            mine = _own(connection, rows, call) if call.who.limited else rows
            shown = {row.id for row in mine}
            for row in rows:
                last = row.id
                if row.id in shown:
                    found.append(_message(row, redact))
                if len(found) == query.limit:
                    return m.Notifications(notifications=found, next=str(last))
            if len(rows) < query.limit:
                return m.Notifications(notifications=found, next=None)
        return m.Notifications(notifications=found, next=str(last))

    return await call.read(read)


def _number(before: str) -> int:
    if not (before.isascii() and before.isdecimal() and len(before) < 19):
        raise ProblemError("invalid", "before is no cursor", expected="`next` of the page before", came=before)
    return int(before)


def _own(connection: sa.Connection, rows: Sequence[Any], call: Call) -> list[Any]:
    """Rows that tell of nothing but what is entirely the token's."""
    mine = owned(connection, [each for row in rows for each in about(row.incidents)], call.who)
    return [row for row in rows if (ids := about(row.incidents)) and mine.issuperset(ids)]


def _message(row: Any, redact: Redactor) -> m.Notification:
    return m.Notification(
        id=row.id,
        key=row.key,
        receiver=row.receiver,
        kind=row.kind,
        status=row.status,
        reason=row.reason,
        incidents=about(row.incidents),
        attempts=row.attempts,
        doubts=row.doubts,
        created=moment(row.created_ms),
        next_attempt=moment(row.next_attempt_ms) if row.status == "pending" else None,
        finished=moment(row.finished_ms),
        last_error=redact(row.last_error),
    )


async def redrive_messages(call: Call) -> m.Redriven:
    """Try dead messages again: under the same key, with as many attempts as a new one."""
    services, body, actor = call.services, call.body, call.actor()
    if body.receiver is not None:
        _whole(call, "a receiver's messages are of every deployment")
        _known(call, body.receiver)
        what: Any = body.receiver
    else:
        what = list(dict.fromkeys(body.ids))
        await call.read(lambda connection: _check(connection, what, call))
    sent = await call.thread(lambda: redrive(services.database, services.topics, what, actor, services.now_ms()))
    services.acted()
    return m.Redriven(redriven=len(sent), ids=sent)


def _check(connection: sa.Connection, ids: list[int], call: Call) -> None:
    """All of them are there, dead, and the token's."""
    n = t.notifications.c
    rows = {
        row.id: row
        for row in connection.execute(sa.select(n.id, n.status, n.incidents, n.receiver).where(n.id.in_(ids)))
    }
    if call.who.limited:
        own = _own(connection, list(rows.values()), call)
        rows = {row.id: row for row in own}
    if missing := [each for each in ids if each not in rows]:
        raise ProblemError(
            "not-found",
            "there is no such message",
            expected="ids of dead messages",
            came=", ".join(map(str, missing[:10])),
            do="driftline notifications list --status dead lists them.",
        )
    if others := [f"{each} is {rows[each].status}" for each in ids if rows[each].status != "dead"]:
        raise ProblemError(
            "refused",
            "only dead messages can be tried again; others are on their way or have arrived",
            expected="ids of dead messages",
            came=", ".join(others[:10]),
        )


async def list_receivers(call: Call) -> m.Receivers:
    """Every receiver with its health, and those that messages wait for although the file has them no more."""
    services = call.services
    policy, now_ms = services.policy.current, services.now_ms()
    redact = Redactor(policy.secrets())

    def read(connection: sa.Connection) -> m.Receivers:
        states = {row.name: row for row in connection.execute(sa.select(t.receivers))}
        n = t.notifications.c
        counts: dict[str, dict[str, int]] = {}
        grouped = sa.select(n.receiver, n.status, sa.func.count()).group_by(n.receiver, n.status)
        for name, status, count in connection.execute(grouped):
            counts.setdefault(name, {})[status] = count
        waited = [name for name, each in counts.items() if each.keys() & {"pending", "sending"}]
        names = [*policy.receivers, *sorted(set(waited) - set(policy.receivers))]
        return m.Receivers(
            receivers=[
                _receiver(name, policy.receivers.get(name), states.get(name), counts.get(name, {}), now_ms, redact)
                for name in names
            ]
        )

    return await call.read(read)


def _receiver(
    name: str, configured: Receiver | None, state: Any, counts: dict[str, int], now_ms: int, redact: Redactor
) -> m.Receiver:
    held = state is not None and state.hold_until_ms > now_ms
    return m.Receiver(
        name=name,
        type=type(configured).__name__.removesuffix("Receiver").lower() if configured else "",
        minimum_severity=configured.minimum_severity if configured else "",
        send_resolved=configured is not None and configured.send_resolved,
        fallback=configured.fallback if configured else "",
        healthy=configured is not None and (state is None or state.failing_since_ms is None),
        failing_since=moment(state.failing_since_ms) if state else None,
        failures=state.failures if state else 0,
        held_until=moment(state.hold_until_ms) if held else None,
        last_sent=moment(state.last_sent_ms) if state else None,
        last_error=redact(state.last_error) if state else "",
        messages=counts,
        configured=configured is not None,
    )


async def test_receiver(call: Call) -> m.Testing:
    """Send a test message, by the same way as every other message."""
    _whole(call, "a test goes to everybody who reads the receiver")
    services, name = call.services, call.path["receiver"]
    _known(call, name)
    reason = f"asked for by {call.who.name}"

    def write(connection: sa.Connection) -> None:
        enqueue_direct(connection, name, Kind.TEST, reason, services.now_ms())

    await call.read(write)
    services.acted()
    return m.Testing(receiver=name, queued=True)


def _known(call: Call, name: str) -> None:
    known = call.services.policy.current.receivers
    if name not in known:
        raise ProblemError(
            "not-found",
            "there is no such receiver in the routing file in force",
            expected=", ".join(known) or "a routing file with receivers",
            came=name,
            do=PARAMETERS["receiver"][2],
        )


def _whole(call: Call, why: str) -> None:
    if call.who.limited:
        raise ProblemError(
            "deployments",
            why,
            expected="a token that is not limited to deployments",
            do="Ask somebody whose token is not limited.",
        )
