"""Which signal of an incident most likely explains the others. Pure.

What fires comes before what is over; then what can cause the rest: Driftline itself, data that is missing or unusable,
the service in front of the model, missing labels; then changes of what the model reads, of how it hesitates, of what
it says, of how right it is, of for whom; then detectors outside the budget, which promise nothing. Among these the
more severe, the one with more evidence above its threshold, and the one that changed first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.alerting.incidents.views import FIRING, Signal
from services.alerting.policy.model import SEVERITIES

EXPLAINS = (
    "system",
    "data_quality",
    "service",
    "labels",
    "data_drift",
    "humility",
    "prediction_drift",
    "concept_drift",
    "fairness",
)
"""Monitors, what explains the others first; ``system`` is every ``system:NAME``."""

_DETECTOR = "detector"


@dataclass(frozen=True, slots=True)
class Strength:
    """What ranking asks of a signal, besides what a :class:`Signal` shows: ``evidence_nats`` above the threshold."""

    signal: Signal
    evidence_nats: float


def explanation(monitor: str) -> int:
    """The place of a monitor among those that explain the others; detectors come last."""
    family = monitor.partition(":")[0]
    if family in EXPLAINS:
        return EXPLAINS.index(family)
    return len(EXPLAINS) + (family == _DETECTOR)


def rank(strength: Strength) -> tuple[bool, int, int, float, int, str, int]:
    """Sorts the strongest cause first; the last two only make the order one."""
    signal = strength.signal
    severity = SEVERITIES.index(signal.severity) if signal.severity in SEVERITIES else len(SEVERITIES)
    return (
        signal.status != FIRING,
        explanation(signal.labels.get("monitor", "")),
        severity,
        -strength.evidence_nats,
        signal.change_time_us,
        signal.incident_key,
        signal.episode,
    )


def ranked(strengths: Iterable[Strength]) -> tuple[Signal, ...]:
    """The signals, the strongest cause first."""
    return tuple(strength.signal for strength in sorted(strengths, key=rank))
