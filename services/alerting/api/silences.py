"""Endpoints about silences."""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from services.access.tokens import Identity
from services.alerting.api import models as m
from services.alerting.api.endpoints import PARAMETERS, Call
from services.alerting.api.finding import owned, visible
from services.alerting.api.problems import ProblemError
from services.alerting.api.showing import moment
from services.alerting.database import tables as t
from services.alerting.incidents.actions import ActionRefusedError
from services.alerting.policy.explaining import KnownSilence
from services.alerting.policy.matching import parse_match

_ROUNDS = 40
_AMBIGUOUS = 50


async def list_silences(call: Call) -> m.Silences:
    """A page of silences, the latest first."""
    now_ms, query = call.services.now_ms(), call.query
    before = _cursor(query.before)

    def read(connection: sa.Connection) -> m.Silences:
        found: list[m.Silence] = []
        last = before
        for _ in range(_ROUNDS):
            rows = connection.execute(_page(now_ms, last, query.limit, everything=query.all)).all()
            mine = visible(connection, [row.incident_id for row in rows if row.incident_id], call.who)
            for row in rows:
                last = (row.created_ms, row.id)
                if _shown(row, call.who, mine):
                    found.append(_silence(row, now_ms))
                if len(found) == query.limit:
                    break
            else:
                if len(rows) == query.limit:
                    continue
                return m.Silences(silences=found, next=None)
            break
        return m.Silences(silences=found, next=None if last is None else f"{last[0]}-{last[1]}")

    return await call.read(read)


def _cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    created, _, silence = text.partition("-")
    if not (created.isdecimal() and len(created) < 18 and silence):
        raise ProblemError("invalid", "before is no cursor", expected="`next` of the page before", came=text)
    return int(created), silence


def _page(now_ms: int, before: tuple[int, str] | None, limit: int, *, everything: bool) -> sa.Select[Any]:
    s = t.silences.c
    query = sa.select(t.silences).order_by(s.created_ms.desc(), s.id.desc()).limit(limit)
    if not everything:
        query = query.where(s.ends_ms > now_ms)
    if before is not None:
        query = query.where(sa.or_(s.created_ms < before[0], sa.and_(s.created_ms == before[0], s.id < before[1])))
    return query


async def show_silence(call: Call) -> m.Silence:
    """One silence."""
    return await call.read(lambda connection: _silence(_found(connection, call), call.services.now_ms()))


def _found(connection: sa.Connection, call: Call) -> Any:
    """The silence of the path, if the token may see it."""
    named, s = call.path["silence"], t.silences.c
    # No range: where "~" stands among letters is another thing in each collation.
    beginning = sa.select(t.silences).where(s.id.startswith(named, autoescape=True)).order_by(s.id).limit(_AMBIGUOUS)
    rows = connection.execute(beginning).all()
    mine = visible(connection, [row.incident_id for row in rows if row.incident_id], call.who)
    found = [row for row in rows if _shown(row, call.who, mine)]
    if len(found) == 1 or (found and found[0].id == named):
        return found[0]
    if found:
        raise ProblemError(
            "refused",
            f"{len(found)} silences begin like this",
            expected="enough of the id to tell them apart",
            came=named,
            do="Give more of the id: " + ", ".join(row.id for row in found[:5]),
        )
    raise ProblemError(
        "not-found",
        "there is no such silence",
        expected=PARAMETERS["silence"][1],
        came=named,
        do=PARAMETERS["silence"][2],
        denied="" if not rows else "a silence of deployments that the token does not see",
    )


def _shown(row: Any, who: Identity, mine: set[str]) -> bool:
    if row.incident_id:
        return row.incident_id in mine
    return not who.limited or _within(row.match, who)


def _within(match: Mapping[str, Any], who: Identity) -> bool:
    """Whether a silence can only ever match deployments that the token sees."""
    if not who.limited:
        return True
    asked = match.get("deployment")
    values = asked if isinstance(asked, list) else [asked]
    return bool(values) and all(isinstance(value, str) and _covers(who.deployments, value) for value in values)


def _covers(patterns: tuple[str, ...], value: str) -> bool:
    """Whether a deployment's name, or a pattern of one, lies within one of the token's patterns."""
    if value in patterns or "*" in patterns:
        return True
    if not any(mark in value for mark in "*?["):
        return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)
    # "credit-eu-*" lies within "credit-*": a pattern that is a beginning and a star takes all that begins so.
    return any(
        pattern.endswith("*") and not any(mark in pattern[:-1] for mark in "*?[") and value.startswith(pattern[:-1])
        for pattern in patterns
    )


def silences_in_force(connection: sa.Connection, who: Identity, now_ms: int) -> list[KnownSilence]:
    """Silences by labels that hold now, of those that a token sees."""
    s = t.silences.c
    query = sa.select(t.silences).where(s.incident_id.is_(None), s.starts_ms <= now_ms, s.ends_ms > now_ms)
    return [
        KnownSilence(row.id, parse_match(row.match, "match"), row.author, row.reason, row.starts_ms, row.ends_ms)
        for row in connection.execute(query)
        if _shown(row, who, set())
    ]


async def create_silence(call: Call) -> m.Silence:
    """Silence everything that matches."""
    services, body, actor = call.services, call.body, call.actor()
    if not _within(body.match, call.who):
        raise ProblemError(
            "deployments",
            "the silence would reach deployments that this token does not see",
            expected="deployment: a name, pattern or list within " + ", ".join(call.who.deployments),
            came=str(body.match.get("deployment", "nothing")),
            do="Name the deployment in match.",
        )
    now_ms = services.now_ms()
    starts = None if body.starts is None else _milliseconds(body.starts, "starts")
    ends = (
        _milliseconds(body.ends, "ends")
        if body.ends is not None
        else (now_ms if starts is None else starts) + m.duration_ms(body.duration)
    )
    try:
        made = await call.thread(
            lambda: services.desk.silence(body.match, actor, body.reason, starts_ms=starts, ends_ms=ends)
        )
    except ActionRefusedError:
        services.metrics.action("silence", actor.via, "refused")
        raise
    services.metrics.action("silence", actor.via, "done")
    return await call.read(lambda connection: _silence(_row(connection, made), services.now_ms()))


def _milliseconds(when: dt.datetime, name: str) -> int:
    try:
        return int(when.timestamp() * 1000)
    except (OverflowError, ValueError) as error:
        raise ProblemError("invalid", f"{name} is no time that can be used", came=str(when)) from error


def _row(connection: sa.Connection, silence: str) -> Any:
    return connection.execute(sa.select(t.silences).where(t.silences.c.id == silence)).one()


async def end_silence(call: Call) -> m.Silence:
    """End a silence before its time."""
    services, actor = call.services, call.actor()

    def check(connection: sa.Connection) -> tuple[str, bool]:
        row = _found(connection, call)
        mine = owned(connection, [row.incident_id] if row.incident_id else [], call.who)
        if not (row.incident_id in mine if row.incident_id else _within(row.match, call.who)):
            raise ProblemError(
                "deployments",
                "the silence also holds for deployments that this token does not see",
                do="Ask somebody whose token is not limited.",
            )
        # A repeat of the request that ended it: its answer was lost.
        done = bool(call.request_id) and row.ends_ms <= services.now_ms() and row.ended_by == actor.name
        return str(row.id), done

    silence, done = await call.read(check)
    if not done:
        await call.thread(lambda: services.desk.end_silence(silence, actor, call.body.reason))
        services.metrics.action("end_silence", actor.via, "done")
    return await call.read(lambda connection: _silence(_row(connection, silence), services.now_ms()))


def _silence(row: Any, now_ms: int) -> m.Silence:
    state = "expired" if row.ends_ms <= now_ms else "pending" if row.starts_ms > now_ms else "active"
    return m.Silence(
        id=row.id,
        match=dict(row.match or {}),
        incident=row.incident_id,
        author=row.author,
        reason=row.reason,
        via=row.via,
        created=moment(row.created_ms),
        starts=moment(row.starts_ms),
        ends=moment(row.ends_ms),
        ended_by=row.ended_by,
        state=state,  # type: ignore[arg-type]  # one of the three
    )
