"""Which alarm of an incident probably explains another: the cause is told first, and what follows from it says so."""

from __future__ import annotations

from services.alerting.incidents.views import FIRING, Incident, Signal
from streams.specification import CONCEPT_DRIFT, FAIRNESS, HUMILITY, LABELS

SYSTEM_PREFIX = "system:"

TOLERANCE_US = 3_600_000_000
"""Change times are estimates: a cause may seem to begin this much after what it explains."""

_DRIFT, _PREDICTIONS, _QUALITY, _SERVICE = "data_drift", "prediction_drift", "data_quality", "service"
_EXPLAINS = {
    _QUALITY: {_DRIFT, _PREDICTIONS, HUMILITY, CONCEPT_DRIFT, FAIRNESS},
    _SERVICE: {_QUALITY, _DRIFT, _PREDICTIONS, HUMILITY},
    LABELS: {CONCEPT_DRIFT, FAIRNESS},
    _DRIFT: {_PREDICTIONS, HUMILITY, FAIRNESS},
}


_STRONGEST = 20
"""So many of the strongest signals may explain others: an incident can have thousands."""


def explanation(incident: Incident, signal: Signal) -> Signal | None:
    """The signal that probably explains this one: the strongest that fires before it in the ranking, of the same
    deployment or of an upstream that the incident shares, began no later, and whose kind of alarm has such
    consequences. None where nothing does.
    """
    for other in incident.signals[:_STRONGEST]:
        if other.id == signal.id:
            return None
        if _explains(incident, other, signal):
            return other
    return None


def _explains(incident: Incident, cause: Signal, effect: Signal) -> bool:
    monitor, consequence = cause.labels.get("monitor", ""), effect.labels.get("monitor", "")
    if consequence not in _EXPLAINS.get(monitor, ()):
        return False
    # What is over explains only what is over: signals that fire stand first.
    if cause.status != FIRING and incident.signals[0].status == FIRING:
        return False
    if cause.change_time_us > effect.change_time_us + TOLERANCE_US:
        return False
    return bool(incident.upstream) or cause.labels.get("deployment", "") == effect.labels.get("deployment", "")
