"""What a message says in a table: names and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import ACKNOWLEDGED, RESOLVED, SILENCED, Incident
from services.alerting.policy.model import SEVERITIES
from services.alerting.words.message import format_time
from services.alerting.words.readings import unit
from services.alerting.words.story import moment, span
from services.alerting.words.text import Value, value
from services.alerting.words.titles import upstream_words
from streams.detectors import MONITOR_PREFIX

_SHOWN_NAMES = 6
_NAME_CHARACTERS = 40
_SHOWN_TAGS = 6


def incident_facts(incident: Incident, now_ms: int) -> Iterator[tuple[str, Value]]:
    """Of one incident. Those that people look for first come first: some channels show ten at most."""
    record = next((signal.record for signal in incident.signals if signal.record is not None), None)
    deployments = [name for name in incident.deployments if name]
    if len(deployments) > 1:
        yield "Touches", _listed(deployments)
    elif deployments:
        yield "Deployment", value(deployments[0])
    versions = list(dict.fromkeys(v for signal in incident.signals if (v := signal.labels.get("version", ""))))
    if versions:
        yield "Version" if len(versions) == 1 else "Versions", _listed(versions)
    yield "Severity", value(incident.severity)
    yield "Status", _status(incident, now_ms)
    if incident.owner:
        yield "Owner", value(incident.owner)
    if incident.assigned_to:
        yield "Assigned to", value(incident.assigned_to)
    if incident.upstream and len(deployments) > 1:
        yield "Shared", value(upstream_words(incident.upstream))
    if parts := _segments(incident):
        yield "Parts of the traffic", _listed(parts)
    if record is not None:
        first = incident.signals[0].firing
        if incident.status != RESOLVED and first is not None and not first["monitor"].startswith(MONITOR_PREFIX):
            what = unit(first["causes"][0]) if first["causes"] else "rows"
            yield f"{what.capitalize()} since the change", Value(f"{first['rows_since_change']:,}")
        yield "Model", value(record["model_id"])
        if record["tags"]:
            yield "Tags", _tags(record["tags"])
    yield "Since", Value(f"about {format_time(incident.started_us)}")
    yield "Incident", value(incident.id)


def many_facts(delivery: Delivery) -> Iterator[tuple[str, Value]]:
    """Of a group or a digest."""
    incidents = delivery.incidents
    for name, content in delivery.group_labels[:_SHOWN_NAMES]:
        yield f"Group: {value(name, _NAME_CHARACTERS)}", value(content)
    deployments = list(dict.fromkeys(name for incident in incidents for name in incident.deployments if name))
    if deployments:
        yield "Touches", _listed(deployments)
    severities = Counter(incident.severity for incident in incidents if incident.status != RESOLVED)
    if severities:
        ordered = [name for name in SEVERITIES if severities[name]]
        yield "Severities", Value(", ".join(f"{severities[name]:,} {name}" for name in ordered))
    owners = list(dict.fromkeys(incident.owner for incident in incidents if incident.owner))
    if owners:
        yield "Owner" if len(owners) == 1 else "Owners", _listed(owners)
    yield "Incidents", _listed([incident.id for incident in incidents])


def _status(incident: Incident, now_ms: int) -> Value:
    times = f"; opened {incident.episode} times" if incident.episode > 1 else ""
    flapping = ", comes and goes" if incident.flapping else ""
    if incident.status == RESOLVED:
        ended = "" if incident.resolved_ms is None else f" at {moment(incident.resolved_ms)}"
        return Value(f"resolved{ended}{times}{flapping}")
    for_ = span(now_ms - incident.opened_ms)
    if incident.state == SILENCED:
        return Value(f"silenced, open for {for_}{times}{flapping}")
    if incident.status == ACKNOWLEDGED:
        by = f" by {value(incident.acknowledged_by, _NAME_CHARACTERS)}" if incident.acknowledged_by else ""
        return Value(f"acknowledged{by}, open for {for_}{times}{flapping}")
    return Value(f"open for {for_}{times}{flapping}")


def _segments(incident: Incident) -> list[str]:
    return list(dict.fromkeys(s for signal in incident.firing if (s := signal.labels.get("segment", ""))))


def _listed(names: Sequence[str]) -> Value:
    shown = ", ".join(value(name, _NAME_CHARACTERS) for name in names[:_SHOWN_NAMES])
    return Value(shown + (f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""))


def _tags(tags: dict[str, str]) -> Value:
    shown = ", ".join(
        f"{value(k, _NAME_CHARACTERS)}={value(v, _NAME_CHARACTERS)}" for k, v in list(tags.items())[:_SHOWN_TAGS]
    )
    return Value(shown + (f" and {len(tags) - _SHOWN_TAGS} more" if len(tags) > _SHOWN_TAGS else ""))
