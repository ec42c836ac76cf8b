"""How a signal and an incident are called, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.alerting.incidents.views import Incident, Signal
from services.alerting.words.explaining import SYSTEM_PREFIX
from services.alerting.words.message import alert_title, monitor_title
from services.alerting.words.readings import stream_name
from services.alerting.words.text import Line, Value, line, prose, shorten, value

HEADLINE_CHARACTERS = 147
"""Slack's header takes 150, and a mark stands before it."""

_SYSTEM_CHARACTERS = 90


def signal_title(signal: Signal) -> Line:
    """What a signal is called: 'Data quality change'; what Driftline says of itself is called by its own headline."""
    monitor = signal.labels.get("monitor", "")
    if signal.words is not None or monitor.startswith(SYSTEM_PREFIX):
        said = str((signal.words or {}).get("headline", "")) or f"Driftline: {monitor.removeprefix(SYSTEM_PREFIX)}"
        return line(prose(said, _SYSTEM_CHARACTERS))
    return alert_title(monitor)


def signal_headline(signal: Signal, limit: int = HEADLINE_CHARACTERS) -> Line:
    """What and where: 'Data drift in credit, version 3'."""
    return _fitting(lambda names: _titled(signal_title(signal), (signal,), "", names), limit)


def because_words(signal: Signal) -> Line:
    """A signal as an explanation: 'data quality of temperature'."""
    record = signal.record
    monitor = signal.labels.get("monitor", "")
    if record is None or monitor.startswith(SYSTEM_PREFIX):
        return lowered(signal_title(signal))
    title = lowered(monitor_title(monitor))
    if not record["causes"]:
        return title
    return line(*title.parts, " (", *stream_name(record["causes"][0]).parts, ")")


def incident_headline(incident: Incident, limit: int = HEADLINE_CHARACTERS) -> Line:
    """What and where, of everything that fires (of everything it was, once nothing does)."""
    signals = incident.firing or incident.signals
    if not signals:
        where = (" in ", value(incident.deployment_id, 56)) if incident.deployment_id else ()
        return line("Incident", *where)
    title = _several(signals)
    return _fitting(lambda names: _titled(title, signals, incident.upstream, names), limit)


def upstream_words(upstream: str) -> str:
    """'feature:NAME' and 'source:NAME' without the mark between: 'feature NAME'."""
    kind, _, name = upstream.partition(":")
    return f"{kind} {name}" if name else upstream


def lowered(title: Line) -> Line:
    """A title inside a sentence."""
    first = title.parts[0]
    if isinstance(first, Value) or first[:2].isupper():
        return title
    return line(first[:1].lower() + first[1:], *title.parts[1:])


def _several(signals: Sequence[Signal]) -> Line:
    titles = list({str(title): title for title in map(signal_title, signals)}.values())
    first = titles[0]
    if len(titles) == 1:
        return first
    if len(titles) == 2:
        both = line(*first.parts, " and ", *lowered(titles[1]).parts)
        if len(str(both)) <= HEADLINE_CHARACTERS // 2:
            return both
    return line(*first.parts, f" and {len(signals) - 1:,} more alarms")


def _titled(title: Line, signals: Sequence[Signal], upstream: str, names: int) -> Line:
    """The title with where; names take at most ``names`` characters."""
    deployments = [name for name in dict.fromkeys(s.labels.get("deployment", "") for s in signals) if name]
    parts = list(title.parts)
    if deployments:
        parts += [" in ", value(deployments[0], names)]
    if len(deployments) == 1:
        versions = set(_versions(signals))
        if len(versions) == 1 and (version := versions.pop()):
            parts += [", version ", value(version, min(names, 24))]
    elif len(deployments) == 2:
        parts += [" and ", value(deployments[1], names)]
    elif deployments:
        parts += [", ", value(deployments[1], names), f" and {len(deployments) - 2:,} more"]
    if len(deployments) > 1 and upstream:
        parts += [" (shared: ", value(upstream_words(upstream), names), ")"]
    return Line(tuple(parts))


def _versions(signals: Sequence[Signal]) -> list[str]:
    return [s.labels.get("version", "") for s in signals]


def _fitting(build: Callable[[int], Line], limit: int) -> Line:
    """The line with names as long as they can be for it to fit."""
    built = build(56)
    for names in (56, 44, 34, 26, 20, 14, 8, 4):
        built = build(names)
        if len(str(built)) <= limit:
            return built
    return line(shorten(str(built), limit))
