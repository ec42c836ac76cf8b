"""Endpoints about the routing file: the tree, who is told of what, and loading it anew."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from pydantic import SecretStr

from services.alerting.api import models as m
from services.alerting.api.endpoints import Call
from services.alerting.api.finding import seen_incident
from services.alerting.api.problems import ProblemError
from services.alerting.api.silences import silences_in_force
from services.alerting.policy.explaining import KnownSilence, explain
from services.alerting.policy.model import Route


async def show_routes(call: Call) -> m.Routing:
    """The tree in force."""
    policy = call.services.policy.current
    return m.Routing(
        origin=policy.origin,
        digest=policy.digest,
        warnings=list(policy.warnings),
        trouble=list(call.services.health().troubles),
        route=_node(policy.route),
        roles=sorted(policy.roles),
        escalations=sorted(policy.escalations),
        intervals=sorted(policy.intervals),
        inhibitions=[each.name for each in policy.inhibitions],
        maintenance=[each.name for each in policy.maintenance],
    )


def _node(route: Route) -> m.RouteNode:
    return m.RouteNode(
        path=route.path,
        line=route.line,
        match=[f"{test.label}: {test.source}" for test in route.match.tests],
        notify=list(route.notify),
        group_by=list(route.group_by),
        group_wait_seconds=route.group_wait_ms / 1000,
        group_interval_seconds=route.group_interval_ms / 1000,
        repeat_interval_seconds=route.repeat_interval_ms / 1000,
        active=list(route.active),
        escalate=route.escalate,
        digest=route.digest is not None,
        go_on=route.go_on,
        routes=[_node(child) for child in route.routes],
    )


async def explain_route(call: Call) -> m.Explained:
    """Who would be told, and why: of labels, or of each signal of an incident."""
    services, body = call.services, call.body
    policy, now_ms = services.policy.current, services.now_ms()

    def read(connection: sa.Connection) -> tuple[list[Mapping[str, str]], list[KnownSilence]]:
        known = silences_in_force(connection, call.who, now_ms)
        if body.labels is not None:
            return [body.labels], known
        what = seen_incident(connection, policy, body.incident, call.who, now_ms)
        return [signal.labels for signal in what.incident.signals], known

    asked, known = await call.read(read)
    found = await call.thread(lambda: [plain(explain(policy, labels, now_ms, known)) for labels in asked])
    return m.Explained(explanations=found)


def plain(value: Any) -> Any:
    """A record as JSON; secrets are not shown, whatever holds them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, ZoneInfo):
        return value.key
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


async def reload(call: Call) -> m.Reloaded:
    """Load the routing file anew; if it is refused, the one before stays in force."""
    if call.who.limited:
        raise ProblemError(
            "deployments", "the routing file is everybody's", do="Ask somebody whose token is not limited."
        )
    services, actor = call.services, call.actor()
    refused = await call.thread(lambda: services.reload(actor))
    services.metrics.reloaded(good=not refused)
    if refused:
        raise ProblemError(
            "refused",
            f"the routing file was refused, and the one before stays in force: {refused}",
            do="Mend the file (driftline route check FILE tells every line that is wrong), then reload again.",
        )
    policy = services.policy.current
    return m.Reloaded(origin=policy.origin, digest=policy.digest, warnings=list(policy.warnings))
