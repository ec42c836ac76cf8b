"""Who is told of an alert: the tree of routes, roles resolved, with the reason for each answer."""

from __future__ import annotations

from dataclasses import dataclass

from services.alerting.policy.labels import Labels
from services.alerting.policy.model import Policy, Route


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
    """Everybody who is told of an alert with these labels, each receiver once, in the order of the tree."""
    raise NotImplementedError


def route_at(policy: Policy, path: str) -> Route:
    """The route with a path; the root where a reload has removed it."""
    raise NotImplementedError
