"""Endpoints about incidents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from services.alerting.api import models as m
from services.alerting.api import showing
from services.alerting.api.endpoints import Call
from services.alerting.api.finding import about, incident_id, seen_incident, seen_incidents
from services.alerting.api.plots import PLOT_SECONDS, plot_path
from services.alerting.database import tables as t
from services.alerting.incidents.actions import ActionRefusedError, Do
from services.alerting.incidents.views import Incident

_TOLD = 50


async def list_incidents(call: Call) -> m.Incidents:
    """A page of incidents."""

    def read(connection: sa.Connection) -> m.Incidents:
        s = call.services
        found, cursor = seen_incidents(connection, s.policy.current, call.query, call.who, s.now_ms())
        return m.Incidents(incidents=list(map(showing.summary, found)), next=cursor)

    return await call.read(read)


async def show_incident(call: Call) -> m.IncidentStory:
    """Everything about an incident."""

    def read(connection: sa.Connection) -> tuple[showing.Seen, list[m.Told]]:
        s = call.services
        what = seen_incident(
            connection, s.policy.current, call.path["incident"], call.who, s.now_ms(), entries=call.query.entries
        )
        told = _told(connection, what.incident.id)
        if what.withheld:  # the reason may name what is hidden
            told = [one.model_copy(update={"reason": ""}) for one in told]
        return what, told

    what, told = await call.read(read)
    return await call.thread(lambda: _story(call, what, told))


def _story(call: Call, what: showing.Seen, told: list[m.Told]) -> m.IncidentStory:
    s, incident = call.services, what.incident
    text = showing.text_of(incident, s.now_ms(), s.policy.current.public_url)
    # The same address for a day, so that whoever shows it may keep the picture.
    expires = (int(s.wall().timestamp()) // 86_400 + 1) * 86_400 + PLOT_SECONDS
    return m.IncidentStory(
        incident=showing.summary(what),
        words=showing.words(text),
        signals=list(map(showing.signal, incident.signals[: call.query.signals])),
        story=list(map(showing.entry, incident.entries)),
        notifications=told,
        plots=[]
        if what.withheld  # pictures are numbered by the whole incident's causes
        else [plot_path(s.plot_key, incident.id, rank, expires) for rank in range(1, len(text.plots) + 1)],
    )


def _told(connection: sa.Connection, incident: str) -> list[m.Told]:
    """The latest messages about an incident."""
    n = t.notifications.c
    threads = sa.select(t.thread_incidents.c.thread_id).where(t.thread_incidents.c.incident_id == incident)
    rows = connection.execute(
        sa.select(t.notifications).where(n.thread_id.in_(threads)).order_by(n.id.desc()).limit(_TOLD)
    )
    return [
        m.Told(
            id=row.id,
            receiver=row.receiver,
            kind=row.kind,
            status=row.status,
            reason=row.reason,
            created=showing.moment(row.created_ms),
            finished=showing.moment(row.finished_ms),
        )
        for row in rows
        if incident in about(row.incidents)
    ]


async def _act(call: Call, do: Do, reason: str, detail: Mapping[str, Any] | None = None) -> m.Incident:
    """Do something to the incident of the path; answers how it is then."""
    services, actor = call.services, call.actor()
    whole = await call.read(lambda c: incident_id(c, call.path["incident"], call.who, to_act=True))
    try:
        incident = await call.thread(lambda: services.desk.act(whole, do, actor, reason, **(detail or {})))
    except ActionRefusedError:
        services.metrics.action(do.value, actor.via, "refused")
        raise
    services.metrics.action(do.value, actor.via, "done")
    return _answer(incident)


def _answer(incident: Incident) -> m.Incident:
    return showing.summary(showing.Seen(incident, 0))


def _plain(do: Do) -> Callable[[Call], Any]:
    """An action that takes a reason and nothing else."""

    async def handler(call: Call) -> m.Incident:
        return await _act(call, do, call.body.reason)

    return handler


acknowledge = _plain(Do.ACKNOWLEDGE)
unacknowledge = _plain(Do.UNACKNOWLEDGE)
resolve = _plain(Do.RESOLVE)
reopen = _plain(Do.REOPEN)
note = _plain(Do.NOTE)


async def assign(call: Call) -> m.Incident:
    """Say who looks after an incident."""
    return await _act(call, Do.ASSIGN, call.body.reason, {"to": call.body.to})


async def silence(call: Call) -> m.Incident:
    """Tell nobody of an incident for a while."""
    return await _act(call, Do.SILENCE, call.body.reason, {"for_ms": m.duration_ms(call.body.duration)})
