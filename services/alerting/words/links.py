"""Where a message leads: the incident's page, the deployment's runbook, and the runbook of this documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from services.alerting.incidents.views import Incident, Signal
from services.alerting.words.explaining import SYSTEM_PREFIX
from services.alerting.words.text import web_link
from streams.detectors import MONITOR_PREFIX

_MOST_RUNBOOKS = 3
_DOCUMENTED = (
    "data_drift",
    "prediction_drift",
    "data_quality",
    "service",
    "concept_drift",
    "labels",
    "fairness",
    "humility",
)


def links(public_url: str, incidents: Sequence[Incident]) -> tuple[tuple[str, str], ...]:
    """Text and address; only plain http(s)."""
    found = dict.fromkeys(_links(public_url, incidents))
    return tuple(found)


def incident_url(public_url: str, incident_id: str) -> str | None:
    """The address of an incident's page; None where the interface has no public address."""
    return web_link(f"{public_url.rstrip('/')}/incidents/{incident_id}") if public_url else None


def runbook_anchor(signal: Signal) -> str:
    """The section of docs/runbook.md about a signal's alarm; empty where there is none."""
    if signal.words is not None:
        return str(signal.words.get("runbook", ""))
    monitor = signal.labels.get("monitor", "")
    if monitor.startswith(SYSTEM_PREFIX):
        return f"system-{monitor.removeprefix(SYSTEM_PREFIX).partition(':')[0]}"
    if monitor.startswith(MONITOR_PREFIX):
        return "detector"
    return monitor if monitor in _DOCUMENTED else ""


def _links(public_url: str, incidents: Sequence[Incident]) -> Iterator[tuple[str, str]]:
    if len(incidents) == 1:
        if page := incident_url(public_url, incidents[0].id):
            yield "Incident", page
    elif incidents and (page := web_link(f"{public_url.rstrip('/')}/incidents")):
        yield "Incidents", page
    named = dict.fromkeys(s.record["runbook_url"] for i in incidents for s in i.signals if s.record is not None)
    addresses = list(islice((address for url in named if (address := web_link(url))), _MOST_RUNBOOKS))
    for number, address in enumerate(addresses, start=1):
        yield "Runbook" if len(addresses) == 1 else f"Runbook {number}", address
    if public_url and len(incidents) == 1 and incidents[0].signals:
        anchor = runbook_anchor(incidents[0].signals[0])
        if anchor and (page := web_link(f"{public_url.rstrip('/')}/runbook#{anchor}")):
            yield "What this alarm means", page
