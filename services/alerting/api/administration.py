"""Endpoints about the interface itself: who asks, what there is, and how the service is."""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from services.access.roles import PERMISSIONS
from services.alerting.api import models as m
from services.alerting.api.endpoints import Call
from services.alerting.api.health import read_state, troubles
from services.alerting.errors import DatabaseError


async def whoami(call: Call) -> m.WhoAmI:
    """Whose token it is."""
    who = call.who
    return m.WhoAmI(
        name=who.name,
        role=who.role.value,
        permissions=sorted(PERMISSIONS.get(who.role, frozenset())),
        deployments=list(who.deployments) if who.limited else None,
    )


async def openapi(call: Call) -> web.Response:
    """The description of this interface."""
    from services.alerting.api.openapi import document

    return web.Response(
        body=await call.thread(lambda: json.dumps(document()).encode()), content_type="application/json"
    )


async def healthz(call: Call) -> web.Response:
    """Whether the process does its work; 503 tells a supervisor, or a person, what is wrong."""
    return _health(call, need_ready=False)


async def readyz(call: Call) -> web.Response:
    """Whether it has read what it must before it can be asked."""
    return _health(call, need_ready=True)


def _health(call: Call, *, need_ready: bool) -> web.Response:
    health = call.services.health()
    found = troubles(call.services, health)
    good = health.ready if need_ready else not found
    answer = m.HealthAnswer(ok=good, ready=health.ready, trouble="; ".join(found), troubles=found)
    return web.Response(text=answer.model_dump_json(), status=200 if good else 503, content_type="application/json")


async def metrics(call: Call) -> web.Response:
    """For Prometheus."""
    services = call.services
    state = None
    # A database that does not answer must not hide what the process counts: that is when it is looked at most.
    with contextlib.suppress(TimeoutError, SQLAlchemyError, DatabaseError):
        async with asyncio.timeout(5.0):
            state = await call.read(lambda connection: read_state(connection, services.now_ms()))
    body = await call.thread(lambda: services.metrics.text(state))
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
