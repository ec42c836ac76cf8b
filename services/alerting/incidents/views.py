"""An incident as everything outside the database sees it: messages, the HTTP interface, the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from driftline.codec import Record
from services.alerting.policy.model import SEVERITIES

OPEN, ACKNOWLEDGED, RESOLVED = "open", "acknowledged", "resolved"
FIRING = "firing"

SILENCED = "silenced"
"""What an incident is called, whatever its status, while every signal of it that fires is silenced."""


@dataclass(frozen=True, slots=True)
class Mute:
    """Why a signal is not told of.

    Attributes:
        kind: ``silence``, ``maintenance`` or ``inhibition``.
        name: The silence's id, the maintenance's or the inhibition's name.
        reason: In words, with who said so.
        until_ms: When it ends of itself; None where that depends on another signal.
    """

    kind: str
    name: str
    reason: str
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Signal:
    """One episode of one alarm.

    Attributes:
        id: Row.
        incident_key: Of the alarm.
        episode: Of the alarm.
        origin: ``alerts`` or ``watch``.
        status: ``firing`` or ``resolved``.
        severity: Of its last record.
        labels: See :mod:`services.alerting.policy.labels`.
        change_time_us: Estimated start of the change.
        opened_us: When it was noticed; None if that record was never seen.
        resolved_us: When it was over; None while it fires.
        firing: The record that opened it, and ``resolved`` the one that ended it; None where never seen, of the monitor
            of the monitor, and of all but the strongest signals of an incident (see
            :func:`services.alerting.incidents.loading.load_incidents`).
        words: Of the monitor of the monitor: what it says (:class:`services.alerting.words.system.SystemWords`).
        mute: Why it is not told of; None if it is.
    """

    id: int
    incident_key: str
    episode: int
    origin: str
    status: str
    severity: str
    labels: Mapping[str, str]
    change_time_us: int
    opened_us: int | None
    resolved_us: int | None
    firing: Record | None
    resolved: Record | None
    words: Mapping[str, Any] | None
    mute: Mute | None = None

    @property
    def record(self) -> Record | None:
        """The record that says most."""
        return self.firing or self.resolved


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened to an incident; see the table ``entries``."""

    time_ms: int
    action: str
    actor_kind: str
    actor: str
    via: str
    reason: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident with its signals, the strongest cause first, and its story.

    Attributes:
        id: Twelve hexadecimal digits.
        status: ``open``, ``acknowledged`` or ``resolved``.
        episode: 1, and one more each time it was opened again.
        severity: The highest among its firing signals.
        deployment_id: Of the signal that opened it.
        owner: Of that deployment.
        upstream: What several deployments have in common; empty while it is one deployment's.
        started_us: Earliest estimated change.
        last_us: Latest detection or resolution.
        opened_ms: Of this episode.
        updated_ms: Last change.
        resolved_ms: None while it is not.
        acknowledged_ms: None while it is not.
        acknowledged_by: Who.
        assigned_to: Who; empty for nobody.
        flapping: Whether it comes and goes.
        title: The headline.
        revision: One more with each change that people may be told of.
        signals: Ranked: :func:`services.alerting.incidents.ranking.ranked`.
        entries: What happened, the oldest first; only as many of the latest as were asked for.
    """

    id: str
    status: str
    episode: int
    severity: str
    deployment_id: str
    owner: str
    upstream: str
    started_us: int
    last_us: int
    opened_ms: int
    updated_ms: int
    resolved_ms: int | None
    acknowledged_ms: int | None
    acknowledged_by: str
    assigned_to: str
    flapping: bool
    title: str
    revision: int
    signals: tuple[Signal, ...]
    entries: tuple[Entry, ...] = ()

    @property
    def firing(self) -> tuple[Signal, ...]:
        """Signals that fire."""
        return tuple(signal for signal in self.signals if signal.status == FIRING)

    @property
    def told(self) -> tuple[Signal, ...]:
        """Signals that fire and are not muted."""
        return tuple(signal for signal in self.firing if signal.mute is None)

    @property
    def state(self) -> str:
        """The status, or ``silenced`` where nothing of it that fires is told of."""
        silenced = self.status != RESOLVED and bool(self.firing) and not self.told
        return SILENCED if silenced else self.status

    @property
    def deployments(self) -> tuple[str, ...]:
        """Deployments it touches, that of the strongest signal first."""
        return tuple(dict.fromkeys(s.labels.get("deployment", "") for s in self.signals))


def most_urgent(severities: Sequence[str]) -> str:
    """The most urgent of some severities."""
    return min(severities, key=SEVERITIES.index)
