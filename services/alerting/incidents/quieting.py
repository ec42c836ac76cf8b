"""What mutes, read from the database for the signals at hand; and whose muting a change of others may change."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from services.alerting.database import tables as db
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.muting import Firing, Inhibited, Quiet, Silence, equal_values
from services.alerting.incidents.views import FIRING, RESOLVED
from services.alerting.policy.labels import Labels
from services.alerting.policy.matching import parse_match
from services.alerting.policy.model import Inhibition, Match, Policy
from services.alerting.policy.times import is_on

_DEPLOYMENT, _MONITOR = "deployment", "monitor"


def read_quiet(connection: sa.Connection, policy: Policy, signals: Sequence[tuple[Labels, str]], now_ms: int) -> Quiet:
    """What mutes any of some signals that fire, each given by its labels and its incident.

    Sources of inhibitions are read only where a signal at hand could be inhibited by them.
    """
    silences: list[Silence] = []
    by_incident: dict[str, list[Silence]] = defaultdict(list)
    if signals:
        for silence in active_silences(connection, now_ms):
            if silence.match is None:
                by_incident[str(silence.incident_id)].append(silence)
            else:
                silences.append(silence)
    sources: dict[int, Firing] = {}
    for inhibition in policy.inhibitions:
        targets = [labels for labels, _ in signals if inhibition.target(labels)]
        if targets:
            sources |= _sources(connection, inhibition, targets)
    maintenance = [m for m in policy.maintenance if is_on(m, now_ms)] if signals else []
    return Quiet(silences, by_incident, maintenance, Inhibited(policy.inhibitions, sources.values()), now_ms)


def active_silences(connection: sa.Connection, now_ms: int) -> list[Silence]:
    """Silences that are on."""
    s = db.silences.c
    on = (s.ends_ms > now_ms) & (s.starts_ms <= now_ms)
    return [silence_of(row) for row in connection.execute(sa.select(db.silences).where(on)).mappings()]


def silence_of(row: sa.RowMapping) -> Silence:
    """A silence from its row."""
    return Silence(
        id=row["id"],
        match=None if row["incident_id"] is not None else _compiled(json.dumps(row["match"])),
        incident_id=row["incident_id"],
        author=row["author"],
        reason=row["reason"],
        starts_ms=row["starts_ms"],
        ends_ms=row["ends_ms"],
    )


@functools.lru_cache(maxsize=1000)
def _compiled(match: str) -> Match:
    return parse_match(json.loads(match), "silence")


def firing_signals(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> dict[int, Firing]:
    """Signals that fire in incidents that are not over, by row id."""
    s = db.signals.c
    query = (
        sa.select(s.id, s.incident_id, s.labels)
        .join(db.incidents, db.incidents.c.id == s.incident_id)
        .where(s.status == FIRING, db.incidents.c.status != RESOLVED, *where)
    )
    return {row.id: Firing(row.incident_id, row.labels) for row in connection.execute(query)}


def _sources(connection: sa.Connection, inhibition: Inhibition, targets: Iterable[Labels]) -> dict[int, Firing]:
    """Firing signals that an inhibition's source matches, of the deployments of its targets if that must be equal."""
    s, found = db.signals.c, dict[int, Firing]()
    wheres: list[tuple[sa.ColumnElement[bool], ...]] = [()]
    if _DEPLOYMENT in inhibition.equal:
        wheres = [(s.deployment_id.in_(some),) for some in chunks({t.get(_DEPLOYMENT, "") for t in targets})]
    tests = [test for test in inhibition.source.tests if test.label == _MONITOR]
    for where in wheres:
        # Ten thousand alarms of a deployment have a handful of monitors: labels are read of those alone that matter.
        query = sa.select(s.monitor).where(s.status == FIRING, *where).distinct()
        monitors = [m for m in connection.execute(query).scalars() if all(test({_MONITOR: m}) for test in tests)]
        if monitors:
            signals = firing_signals(connection, s.monitor.in_(monitors), *where)
            found |= {i: signal for i, signal in signals.items() if inhibition.source(signal.labels)}
    return found


def inhibited_by(connection: sa.Connection, policy: Policy, changed: Iterable[Labels]) -> set[str]:
    """Incidents with signals that signals with these labels inhibit, or inhibited until they ended just now."""
    s, found = db.signals.c, set[str]()
    labels = list(changed)
    for inhibition in policy.inhibitions:
        sources = {equal_values(inhibition, of_one): of_one for of_one in labels if inhibition.source(of_one)}
        if not sources:
            continue
        wheres: list[tuple[sa.ColumnElement[bool], ...]] = [()]
        if _DEPLOYMENT in inhibition.equal:
            names = {of_one.get(_DEPLOYMENT, "") for of_one in sources.values()}
            wheres = [(s.deployment_id.in_(some),) for some in chunks(names)]
        for where in wheres:
            for signal in firing_signals(connection, *where).values():
                is_target = signal.incident_id not in found and inhibition.target(signal.labels)
                if is_target and equal_values(inhibition, signal.labels) in sources:
                    found.add(signal.incident_id)
    return found
