"""Which receivers an incident concerns, kept in the database: a thread for each receiver and group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.quieting import read_quiet
from services.alerting.incidents.views import OPEN as INCIDENT_OPEN
from services.alerting.incidents.views import RESOLVED, SILENCED, Incident, Signal
from services.alerting.notify.audience import DIGEST_PREFIX, Place, audience, dedups, place_of
from services.alerting.notify.planning import CLOSED, OPEN, UNTOLD, WAITING, status_of
from services.alerting.policy.model import SEVERITIES, Policy, PolicyHolder, Route
from services.alerting.policy.routing import route_at
from services.alerting.policy.times import next_digest_ms

_TOGETHER = 100


def concern(
    connection: sa.Connection,
    policy: Policy,
    incident_id: str,
    now_ms: int,
    *,
    except_receiver: str = "",
    incident: Incident | None = None,
) -> None:
    """Something about an incident changed: bring it into the threads of everybody it concerns and set when each is
    looked at.

    Called within the transaction that changed it. Decides nothing about messages: that is done when a thread is due
    (:mod:`services.alerting.notify.planning`). A receiver that is told of the incident already stays in its thread,
    whatever the routes say now: who saw it open must see it end. Only from a digest is it taken out, where a route
    that does not gather sends it to the same receiver now.

    Args:
        connection: Of the transaction.
        policy: In force.
        incident_id: Which.
        now_ms: The clock.
        except_receiver: By which a person's answer came: a pager that shows it already is not told of it again.
        incident: As it is now, where it was read together with others; read if it is not given.
    """
    if incident is None:
        incident = load_incidents(connection, policy, [incident_id], now_ms, records=0).get(incident_id)
    if incident is None:
        return
    live = _live_threads(connection, incident_id)
    unseen = (
        incident.status == RESOLVED
        and incident.opened_ms == now_ms  # it opened within this very transaction
        and not live
        and not _ever_in_a_thread(connection, incident_id)
    )
    signals = _unmuted(connection, policy, incident, now_ms) if unseen else incident.told
    places, chains = audience(policy, incident, signals)
    if unseen:
        # Who waits before telling does not tell of what is over by then.
        places = tuple(place for place in places if place.route.group_wait_ms == 0 or place.route.digest is not None)
    for thread in live:
        _wake(connection, policy, thread, now_ms)
    for place in places:
        place_incident(connection, policy, place, incident, now_ms)
    _keep_chains(connection, policy, incident, chains, now_ms)
    if except_receiver and dedups(policy.receivers.get(except_receiver)):
        _note_known(connection, live, incident, except_receiver)


def concern_all(database: Database, policy: PolicyHolder, now_ms: int) -> int:
    """Bring every incident that is not over into the threads of everybody it concerns now: after the policy changed.

    Those that nobody was ever told of stay so: they were there before the service was. Returns how many there are.
    """
    i, ti = t.incidents.c, t.thread_incidents.c
    told = sa.select(i.id).where(i.status != RESOLVED, sa.exists().where(ti.incident_id == i.id)).order_by(i.id)
    with database.transaction() as connection:
        ids = connection.execute(told).scalars().all()
    for start in range(0, len(ids), _TOGETHER):
        with database.transaction() as connection:
            for incident_id in ids[start : start + _TOGETHER]:
                concern(connection, policy.current, incident_id, now_ms)
    return len(ids)


def place_incident(connection: sa.Connection, policy: Policy, place: Place, incident: Incident, now_ms: int) -> bool:
    """Have a receiver told of an incident; returns False where it has been told of it, or is about to be, already."""
    live = [row for row in _live_threads(connection, incident.id) if row.receiver == place.receiver]
    digest = place.group_key.startswith(DIGEST_PREFIX)
    ours = [row for row in live if digest or not row.group_key.startswith(DIGEST_PREFIX)]
    if not place.because:
        # What nobody was told yet goes where the routes send it now: what is critical by now does not wait for the
        # morning, because it was a warning in the evening.
        ours = [r for r in ours if r.told_status != UNTOLD or r.because or r.group_key == place.group_key]
    for row in ours:
        if row.group_key == place.group_key and row.route != place.route.path and not (place.because or row.because):
            values = {"route": place.route.path}
            connection.execute(sa.update(t.threads).where(t.threads.c.id == row.id).values(**values))
        if row.status == WAITING:
            _hasten(connection, row, _first_ms(place, incident, now_ms))
            if place.because:
                _give_reason(connection, row.id, incident.id, place.because)
        return row.status == WAITING and bool(place.because) and row.told_status == UNTOLD
    for row in live:
        if row.told_status == UNTOLD:
            _leave(connection, row.id, incident.id)
    thread = _thread_of(connection, place, incident, now_ms)
    connection.execute(
        sa.insert(t.thread_incidents).values(
            thread_id=thread,
            incident_id=incident.id,
            told_status=UNTOLD,
            told_revision=0,
            told_severity="",
            told_episode=0,
            because=place.because,
        )
    )
    return True


def fall_back(
    connection: sa.Connection, policy: Policy, receiver: str, incident_ids: Iterable[str], why: str, now_ms: int
) -> list[str]:
    """A message to a receiver failed for good: have its fallback told of the incidents that are not over.

    Returns the incidents that the fallback did not have.
    """
    failed = policy.receivers.get(receiver)
    if failed is None or failed.fallback not in policy.receivers or failed.fallback == receiver:
        return []
    incidents = load_incidents(connection, policy, list(incident_ids), now_ms, records=0)
    because = f"in place of {receiver}, where it could not be delivered: {why}"
    return [
        incident.id
        for incident in incidents.values()
        if incident.status != RESOLVED
        and place_incident(
            connection, policy, place_of(failed.fallback, policy.route, incident, because), incident, now_ms
        )
    ]


def _live_threads(connection: sa.Connection, incident_id: str) -> list[sa.Row[Any]]:
    th, ti = t.threads.c, t.thread_incidents.c
    query = (
        sa.select(t.threads, ti.told_status, ti.told_revision, ti.because)
        .join(t.thread_incidents, ti.thread_id == th.id)
        .where(ti.incident_id == incident_id, th.status != CLOSED)
        .order_by(th.id)
    )
    return list(connection.execute(query).all())


def _unmuted(connection: sa.Connection, policy: Policy, incident: Incident, now_ms: int) -> tuple[Signal, ...]:
    """Of an incident that ended within the transaction that opened it: what would have been told of, had it lasted."""
    began = [signal for signal in incident.signals if signal.opened_us is not None]
    quiet = read_quiet(connection, policy, [(signal.labels, incident.id) for signal in began], now_ms)
    return tuple(signal for signal in began if quiet.mute(signal.labels, incident.id) is None)


def _ever_in_a_thread(connection: sa.Connection, incident_id: str) -> bool:
    query = sa.select(t.thread_incidents.c.thread_id).where(t.thread_incidents.c.incident_id == incident_id).limit(1)
    return connection.execute(query).first() is not None


def _wake(connection: sa.Connection, policy: Policy, thread: sa.Row[Any], now_ms: int) -> None:
    """Have a thread looked at, as soon as it may have something to say."""
    if thread.group_key.startswith(DIGEST_PREFIX):
        _hasten(connection, thread, _digest_ms(route_at(policy, thread.route), now_ms))
    elif thread.status == OPEN or thread.next_flush_ms is None:
        _hasten(connection, thread, now_ms)


def _hasten(connection: sa.Connection, thread: sa.Row[Any], at_ms: int) -> None:
    if thread.next_flush_ms is None or thread.next_flush_ms > at_ms:
        connection.execute(sa.update(t.threads).where(t.threads.c.id == thread.id).values(next_flush_ms=at_ms))


def _give_reason(connection: sa.Connection, thread_id: int, incident_id: str, because: str) -> None:
    where = (t.thread_incidents.c.thread_id == thread_id) & (t.thread_incidents.c.incident_id == incident_id)
    connection.execute(sa.update(t.thread_incidents).where(where).values(because=because))


def _leave(connection: sa.Connection, thread_id: int, incident_id: str) -> None:
    where = (t.thread_incidents.c.thread_id == thread_id) & (t.thread_incidents.c.incident_id == incident_id)
    connection.execute(sa.delete(t.thread_incidents).where(where))


def _thread_of(connection: sa.Connection, place: Place, incident: Incident, now_ms: int) -> int:
    """The group's thread that is not over; a new one where there is none, which knows what the last one's channel
    returned.
    """
    th = t.threads.c
    of_group = sa.select(t.threads).where(th.receiver == place.receiver, th.group_key == place.group_key)
    last = connection.execute(of_group.order_by(th.episode.desc()).limit(1)).first()
    if last is not None and last.status != CLOSED:
        at_ms = now_ms if last.status == OPEN and place.route.digest is None else _first_ms(place, incident, now_ms)
        _hasten(connection, last, at_ms)
        return int(last.id)
    first_ms = _first_ms(place, incident, now_ms)
    if last is not None and incident.flapping and last.last_told_ms is not None and not place.because:
        rests = not _more_severe(connection, last.id, incident)
        first_ms = max(first_ms, last.last_told_ms + place.route.repeat_interval_ms) if rests else first_ms
    made = connection.execute(
        sa.insert(t.threads).values(
            receiver=place.receiver,
            group_key=place.group_key,
            episode=1 if last is None else last.episode + 1,
            status=WAITING,
            route=place.route.path,
            group_labels=[list(pair) for pair in place.group_labels],
            created_ms=now_ms,
            next_flush_ms=first_ms,
            receipt={} if last is None else last.receipt,
        )
    ).inserted_primary_key
    assert made is not None
    return int(made[0])


def _more_severe(connection: sa.Connection, thread_id: int, incident: Incident) -> bool:
    """Than a thread's receiver ever heard of."""
    told = sa.select(t.thread_incidents.c.told_severity).where(
        t.thread_incidents.c.thread_id == thread_id, t.thread_incidents.c.incident_id == incident.id
    )
    before = connection.execute(told).scalar() or SEVERITIES[-1]
    return SEVERITIES.index(incident.severity) < SEVERITIES.index(before)


def _first_ms(place: Place, incident: Incident, now_ms: int) -> int:
    """When a thread that begins with this incident has its first message."""
    if place.because:
        return now_ms
    if place.group_key.startswith(DIGEST_PREFIX):
        return _digest_ms(place.route, now_ms)
    return max(now_ms, incident.opened_ms + place.route.group_wait_ms)


def _digest_ms(route: Route, now_ms: int) -> int:
    return now_ms if route.digest is None else next_digest_ms(route.digest, now_ms)


def _keep_chains(
    connection: sa.Connection, policy: Policy, incident: Incident, chains: Iterable[str], now_ms: int
) -> None:
    """Start, halt or begin anew the escalations of an incident.

    A chain runs while nobody has the incident and it is not silenced. One that was halted begins anew: whoever gave
    the incident back, or let a silence end, starts from the first step.
    """
    e = t.escalations.c
    own = (e.incident_id == incident.id) & (e.episode == incident.episode)
    if incident.status != INCIDENT_OPEN or incident.state == SILENCED:
        connection.execute(
            sa.update(t.escalations).where(e.incident_id == incident.id, e.next_ms.is_not(None)).values(next_ms=None)
        )
        return
    rows = {row.chain: row for row in connection.execute(sa.select(t.escalations).where(own))}
    for name in dict.fromkeys([*chains, *rows]):
        chain = policy.escalations.get(name)
        if chain is None or not chain.steps:
            continue
        fresh = {"started_ms": now_ms, "next_step": 0, "next_ms": now_ms + chain.steps[0].after_ms}
        row = rows.get(name)
        if row is None:
            values = {"incident_id": incident.id, "chain": name, "episode": incident.episode, **fresh}
            connection.execute(sa.insert(t.escalations).values(**values))
        elif row.next_ms is None and row.next_step < len(chain.steps) * (chain.repeat + 1):
            connection.execute(sa.update(t.escalations).where(own, e.chain == name).values(**fresh))


def _note_known(connection: sa.Connection, live: Iterable[sa.Row[Any]], incident: Incident, receiver: str) -> None:
    """A receiver shows what somebody just did there; what else it has not heard, it is still told."""
    for row in live:
        if row.receiver != receiver or row.told_status == UNTOLD:
            continue
        ti = t.thread_incidents.c
        values: dict[str, Any] = {"told_status": status_of(incident)}
        if row.told_revision >= incident.revision - 1:
            values |= {"told_revision": incident.revision}
        where = (ti.thread_id == row.id) & (ti.incident_id == incident.id)
        connection.execute(sa.update(t.thread_incidents).where(where).values(**values))
