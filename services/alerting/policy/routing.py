"""Who is told of an alert: the tree of routes, roles resolved, with the reason for each answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.alerting.policy.labels import Labels
from services.alerting.policy.model import INCIDENT, Policy, Route
from services.alerting.policy.roles import resolve, takes


@dataclass(frozen=True, slots=True)
class Assignment:
    """A receiver that is told of an alert, by a route.

    Attributes:
        receiver: Its name.
        route: The route's path; ``Policy`` finds it again (:func:`route_at`).
        group_labels: The labels that the route groups by, with their values; empty where it groups by incident.
        because: In words: which route took it, and through which role.
    """

    receiver: str
    route: str
    group_labels: tuple[tuple[str, str], ...]
    because: str

    def group_key(self, incident_id: str) -> str:
        """What identifies the group of an incident at this receiver."""
        if not self.group_labels:
            return f"incident:{incident_id}"
        return self.route + ":" + ",".join(f"{name}={value!r}" for name, value in self.group_labels)


def assignments(policy: Policy, labels: Labels) -> tuple[Assignment, ...]:
    """Everybody who is told of an alert with these labels, each receiver once, in the order of the tree.

    1. From the root down, the first route whose match holds takes the alert, and those after it as far as each says
       ``continue``.
    2. A route that took it and of whose own routes none did tells those in its ``notify``, roles resolved by the
       alert's owner.
    3. A receiver whose ``minimum_severity`` is more urgent than the alert is left out; one that two routes name is told
       by the first.
    """
    found: dict[str, Assignment] = {}
    for route in taken(policy.route, labels):
        group = () if INCIDENT in route.group_by else tuple((name, labels.get(name, "")) for name in route.group_by)
        for receiver, because in resolve(policy, route.notify, labels.get("owner", "")):
            if receiver not in found and takes(policy.receivers[receiver], labels.get("severity", "")):
                why = f"{route.path}, {because}" if because else route.path
                found[receiver] = Assignment(receiver, route.path, group, why)
    return tuple(found.values())


def taken(route: Route, labels: Labels) -> Iterator[Route]:
    """The routes at or below one whose ``notify`` an alert comes to, given that the route itself takes it."""
    none = True
    for inner in route.routes:
        if inner.match(labels):
            none = False
            yield from taken(inner, labels)
            if not inner.go_on:
                break
    if none:
        yield route


def route_at(policy: Policy, path: str) -> Route:
    """The route with a path; the root where a reload has removed it."""
    return next((route for route in walk(policy.route) if route.path == path), policy.route)


def walk(route: Route) -> Iterator[Route]:
    """A route and all below it, in the order of the file."""
    yield route
    for inner in route.routes:
        yield from walk(inner)
