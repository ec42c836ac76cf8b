"""What is not told of: by a silence, by maintenance, or because what causes it fires. Pure.

A muted signal goes on being a signal: it is in its incident, it is seen by everybody who looks, and its end is told to
whoever was told of its beginning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.alerting.incidents.views import Mute
from services.alerting.policy.labels import Labels
from services.alerting.policy.model import Inhibition, Maintenance, Match
from services.alerting.policy.times import maintenance_end_ms

SILENCE, MAINTENANCE, INHIBITION = "silence", "maintenance", "inhibition"


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence that is on: of everything that ``match`` takes, or of one incident."""

    id: str
    match: Match | None
    incident_id: str | None
    author: str
    reason: str
    starts_ms: int
    ends_ms: int

    def mutes(self, labels: Labels, incident_id: str) -> bool:
        """Whether it is about a signal."""
        if self.match is None:
            return self.incident_id == incident_id
        return self.match(labels)


@dataclass(frozen=True, slots=True)
class Firing:
    """A signal that fires, in an incident that is not over."""

    incident_id: str
    labels: Labels


class Inhibited:
    """What the signals that fire inhibit.

    A signal is inhibited by one of another incident only: within an incident, ranking puts the cause first. One that
    an inhibition's source and target both match is inhibited only by what its target does not match, or two such would
    mute each other.
    """

    def __init__(self, inhibitions: Sequence[Inhibition], firing: Iterable[Firing]) -> None:
        self._inhibitions = inhibitions
        # By inhibition and values of its equal labels: sources, with whether its target matches them too.
        self._sources: dict[tuple[int, tuple[str, ...]], list[tuple[Firing, bool]]] = defaultdict(list)
        for signal in firing:
            for number, inhibition in enumerate(inhibitions):
                if inhibition.source(signal.labels):
                    found = self._sources[number, equal_values(inhibition, signal.labels)]
                    is_target = inhibition.target(signal.labels)
                    # One of each incident and kind says as much as all of them.
                    if all((s.incident_id, t) != (signal.incident_id, is_target) for s, t in found[-3:]):
                        found.append((signal, is_target))

    def mute(self, labels: Labels, incident_id: str) -> Mute | None:
        """Why a signal is inhibited; None if it is not."""
        for number, inhibition in enumerate(self._inhibitions):
            if not self._sources or not inhibition.target(labels):
                continue
            is_source = inhibition.source(labels)
            for source, is_target in self._sources.get((number, equal_values(inhibition, labels)), ()):
                if source.incident_id != incident_id and not (is_source and is_target):
                    return Mute(INHIBITION, inhibition.name, _because(inhibition, source), None)
        return None


def equal_values(inhibition: Inhibition, labels: Labels) -> tuple[str, ...]:
    """What an inhibition's source and target must have in common."""
    return tuple(labels.get(name, "") for name in inhibition.equal)


def _because(inhibition: Inhibition, source: Firing) -> str:
    monitor, deployment = source.labels.get("monitor", ""), source.labels.get("deployment", "")
    where = f" of {deployment}" if deployment else ""
    return f"{monitor}{where} fires (incident {source.incident_id}), which may be its cause ({inhibition.name})"


@dataclass(frozen=True, slots=True)
class Quiet:
    """Everything that mutes, at one moment.

    Attributes:
        silences: Those that are on and have a match.
        by_incident: Those that are on and are about one incident.
        maintenance: Those of the routing file that are on.
        inhibited: What what fires inhibits.
        now_ms: The moment.
    """

    silences: Sequence[Silence]
    by_incident: Mapping[str, Sequence[Silence]]
    maintenance: Sequence[Maintenance]
    inhibited: Inhibited
    now_ms: int

    def mute(self, labels: Labels, incident_id: str) -> Mute | None:
        """Why a signal that fires is not told of; None if it is. Of several silences, the one that ends last."""
        own = self.by_incident.get(incident_id, ())
        found = [silence for silence in (*own, *self.silences) if silence.mutes(labels, incident_id)]
        if found:
            last = max(found, key=lambda silence: (silence.ends_ms, silence.id))
            return Mute(SILENCE, last.id, f"silenced by {last.author}: {last.reason}", last.ends_ms)
        for maintenance in self.maintenance:
            if maintenance.match(labels):
                why = f"maintenance {maintenance.name}, by {maintenance.author}: {maintenance.reason}"
                return Mute(MAINTENANCE, maintenance.name, why, maintenance_end_ms(maintenance, self.now_ms))
        return self.inhibited.mute(labels, incident_id)
