"""Who is to be told of an incident, and in which group: by the routes, and for what Driftline says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.alerting.incidents.views import Incident, Signal
from services.alerting.policy.model import (
    INCIDENT,
    OpsgenieReceiver,
    PagerDutyReceiver,
    Policy,
    Receiver,
    Route,
)
from services.alerting.policy.roles import resolve, takes
from services.alerting.policy.routing import Assignment, assignments, route_at, taken

WATCH = "watch"
"""The origin of what Driftline says of itself."""

CHANNEL_FAILING = "system:channel-failing"
DIGEST_PREFIX = "digest:"
_KEY_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Place:
    """Where a receiver is told of an incident.

    Attributes:
        receiver: Its name.
        route: That sends it there.
        group_key: Of the thread.
        group_labels: That the group has in common.
        because: Why, where the routes do not say so; empty where they do.
    """

    receiver: str
    route: Route
    group_key: str
    group_labels: tuple[tuple[str, str], ...]
    because: str = ""


def dedups(receiver: Receiver | None) -> bool:
    """Whether a receiver keeps a state of its own for every thread, so that every thread must reach it."""
    return isinstance(receiver, PagerDutyReceiver | OpsgenieReceiver)


def gathers(route: Route, receiver: Receiver | None) -> bool:
    """Whether what a route sends to a receiver is gathered into digests."""
    return route.digest is not None and not dedups(receiver)


def audience(
    policy: Policy, incident: Incident, signals: Sequence[Signal]
) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Where an incident is told of, one place for each receiver, and the escalation chains that its routes start.

    Args:
        policy: In force.
        incident: As it is now.
        signals: Of it, by which it is routed.
    """
    best: dict[str, Place] = {}
    chains: dict[str, None] = {}
    for signal in signals:
        if signal.origin != WATCH or not policy.watch.notify:
            chains.update((route.escalate, None) for route in taken(policy.route, signal.labels) if route.escalate)
        for assignment in _assigned(policy, incident, signal):
            route = route_at(policy, assignment.route)
            receiver = policy.receivers.get(assignment.receiver)
            if receiver is None or not takes(receiver, signal.severity):
                continue
            place = _place(policy, route, assignment, incident)
            known = best.get(receiver.name)
            if known is None or _promptness(policy, place) < _promptness(policy, known):
                best[receiver.name] = place
    return tuple(best.values()), tuple(chains)


def place_of(receiver: str, route: Route, incident: Incident, because: str) -> Place:
    """Where a receiver is told of an incident whatever the routes say."""
    return Place(receiver, route, f"incident:{incident.id}", (), because)


def _assigned(policy: Policy, incident: Incident, signal: Signal) -> Iterator[Assignment]:
    if signal.origin != WATCH:
        yield from assignments(policy, signal.labels)
        return
    failing = signal.labels.get("receiver", "") if signal.labels.get("monitor") == CHANNEL_FAILING else ""
    root = policy.route.path
    if policy.watch.notify:
        named = resolve(policy, policy.watch.notify, incident.owner)
        found = [Assignment(name, root, (), f"watch: {because}") for name, because in named]
    else:
        found = list(assignments(policy, signal.labels))
    heard = _without(found, failing)
    # Whoever watches the watchers must be heard: where the file names nobody else, everybody else is told.
    yield from heard or _without(
        (Assignment(name, root, (), "watch: nobody is named for it") for name in policy.receivers), failing
    )


def _without(assigned: Iterable[Assignment], receiver: str) -> list[Assignment]:
    return [assignment for assignment in assigned if assignment.receiver != receiver]


def _place(policy: Policy, route: Route, assignment: Assignment, incident: Incident) -> Place:
    if gathers(route, policy.receivers.get(assignment.receiver)):
        return Place(assignment.receiver, route, f"{DIGEST_PREFIX}{route.path}", ())
    labels = assignment.group_labels if INCIDENT not in route.group_by else ()
    key = assignment.group_key(incident.id) if labels else f"incident:{incident.id}"
    if len(key) > _KEY_CHARACTERS:
        # Values come from events and may be as long as they like; the key goes into indexes and audit events.
        key = f"{route.path}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    return Place(assignment.receiver, route, key, labels)


def _promptness(policy: Policy, place: Place) -> tuple[bool, int]:
    return gathers(place.route, policy.receivers.get(place.receiver)), place.route.group_wait_ms
