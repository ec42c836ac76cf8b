"""What a receiver is to be told next about a group of incidents, and why: pure decisions, no clock, no database.

A *thread* is what one receiver is told about one group. :func:`plan` compares what was told with what is:

=============================== ============ ==================================================================
reason                          kind         when
=============================== ============ ==================================================================
first                           trigger      the group's wait is over
new, opened again               update       ``group_interval`` after the last message
more or less severe, changed    update       higher: at once; otherwise after ``group_interval``
noted, assigned, silenced       update       at once
taken, given back               acknowledge  at once
taken, but more severe now      repeat       at once: whoever took it took something smaller
silence over, still firing      repeat       at once
some are over                   update       ``group_interval`` after the last message
all are over                    resolve      the same; at once where a person ended it; it ends the thread
nobody has it                   repeat       ``repeat_interval`` after the last message
gathered                        digest       at the digest's moment
nothing                         none
=============================== ============ ==================================================================

What attracts attention (trigger, repeat, digest) waits for the route's active times. An incident that comes and goes
(*flapping*) is told of at ``repeat_interval`` only. One that was over before its group's wait was is told to nobody,
unless the route has no wait: who wants to know at once wants to know of everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from services.alerting.incidents.views import ACKNOWLEDGED, FIRING, RESOLVED, SILENCED, Incident, most_urgent
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import SEVERITIES

WAITING, OPEN, CLOSED = "waiting", "open", "closed"
"""What becomes of a thread."""

UNTOLD = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What a receiver was last told of one incident; see the table ``thread_incidents``."""

    incident_id: str
    status: str = UNTOLD
    revision: int = 0
    severity: str = ""
    episode: int = 0
    because: str = ""


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread, as planning sees it.

    Attributes:
        status: ``waiting``, ``open`` or ``closed``.
        due_ms: Nothing is said before this moment if it is waiting or gathers.
        last_told_ms: When the last message was decided on.
        told: For each incident.
    """

    status: str
    due_ms: int
    last_told_ms: int | None
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the route and the receiver say, at this moment.

    Attributes:
        group_wait_ms: See :class:`services.alerting.policy.model.Route`, also for the next two.
        group_interval_ms: As said.
        repeat_interval_ms: As said; 0 for never.
        active_ms: From when on attention may be asked for: now or earlier while the route is active.
        gathers: Whether the thread is a digest.
        send_resolved: Whether the receiver wants to hear of ends.
        dedups: Whether the receiver keeps a state of its own (a pager), so that having been taken is another message.
    """

    group_wait_ms: int
    group_interval_ms: int
    repeat_interval_ms: int
    active_ms: int = 0
    gathers: bool = False
    send_resolved: bool = True
    dedups: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about a thread.

    Attributes:
        kind: Of the message; None for none.
        reason: Why it is sent, or why nothing is.
        about: The incidents that the message tells of, the most urgent first.
        thread: How the thread stands then.
        next_ms: When to look again; None when nothing will come of itself.
    """

    kind: Kind | None
    reason: str
    about: tuple[str, ...]
    thread: Thread
    next_ms: int | None


def plan(thread: Thread, incidents: Mapping[str, Incident], rules: Rules, now_ms: int) -> Plan:
    """Decide.

    Args:
        thread: What was told.
        incidents: Those of the thread as they are, with the entries since the last message.
        rules: That hold now.
        now_ms: The service's clock.
    """
    decided = _decide(thread, incidents, rules, now_ms)
    if decided.kind is None:
        return decided
    # Told what is to be told now, the thread says itself when it has to be looked at next.
    after = _decide(decided.thread, incidents, rules, now_ms)
    return replace(decided, next_ms=after.next_ms if after.kind is None else now_ms)


def _decide(thread: Thread, incidents: Mapping[str, Incident], rules: Rules, now_ms: int) -> Plan:
    if thread.status == CLOSED:
        return Plan(None, "the thread is over", (), thread, None)
    if rules.gathers:
        return _digest(thread, incidents, rules, now_ms)
    if thread.status == WAITING:
        return _first(thread, incidents, rules, now_ms)
    return _next(thread, incidents, rules, now_ms)


def status_of(incident: Incident) -> str:
    """What a receiver is told that an incident is."""
    if incident.status == RESOLVED:
        return RESOLVED
    if incident.state == SILENCED:
        return SILENCED
    return ACKNOWLEDGED if incident.status == ACKNOWLEDGED else FIRING


def _first(thread: Thread, incidents: Mapping[str, Incident], rules: Rules, now_ms: int) -> Plan:
    if now_ms < thread.due_ms:
        return Plan(None, "the group's wait is not over", (), thread, thread.due_ms)
    present = [(told, incidents[told.incident_id]) for told in thread.told if told.incident_id in incidents]
    at_once = rules.group_wait_ms == 0
    shown = [(t, i) for t, i in present if status_of(i) in (FIRING, ACKNOWLEDGED)]
    shown += [(t, i) for t, i in present if status_of(i) == RESOLVED and at_once and t.because == ""]
    if not shown:
        if all(status_of(i) == RESOLVED for _, i in present):
            return Plan(None, "over before anybody was told: nobody is told", (), replace(thread, status=CLOSED), None)
        return Plan(None, "silenced", (), thread, None)
    if now_ms < rules.active_ms and not any(told.because for told, _ in shown):
        return Plan(None, "outside the route's active times", (), thread, rules.active_ms)
    # A pager must hear of it before it hears that somebody has it; where it ended already, its end is told next.
    as_firing = {RESOLVED, ACKNOWLEDGED} if rules.dedups else {RESOLVED}
    now_told = {
        told.incident_id: _told(told, incident, FIRING if status_of(incident) in as_firing else status_of(incident))
        for told, incident in shown
    }
    others = f" of {len(shown)} incidents" if len(shown) > 1 else ""
    because = next((told.because for told, _ in shown if told.because), "")
    reason = f"the first message{others}" + (f": {because}" if because else "")
    return Plan(Kind.TRIGGER, reason, _ordered(now_told, incidents), _after(thread, now_told, OPEN, now_ms), None)


@dataclass(frozen=True, slots=True)
class _Change:
    """Something about an incident that its receiver does not know.

    Attributes:
        told: What the receiver knows.
        incident: What is.
        reason: What it is, in words.
        from_ms: Not told by itself before this moment.
        page: Whether attention is asked for anew.
        taken: Whether it is about who has it.
    """

    told: Told
    incident: Incident
    reason: str
    from_ms: int
    page: bool = False
    taken: bool = False


def _next(thread: Thread, incidents: Mapping[str, Incident], rules: Rules, now_ms: int) -> Plan:
    """An open thread: changes, its end, or a reminder."""
    since = thread.last_told_ms or 0
    present = [(told, incidents[told.incident_id]) for told in thread.told if told.incident_id in incidents]
    changes = [c for told, incident in present if (c := _change(told, incident, rules, since)) is not None]
    seen = [(told, incident) for told, incident in present if told.status != UNTOLD]
    new = [change for change in changes if status_of(change.incident) != RESOLVED]
    if all(status_of(incident) == RESOLVED for _, incident in seen) and not new:
        return _end(thread, [t for t, _ in seen], changes, incidents, rules, now_ms)
    if not rules.send_resolved:
        changes = new
    if any(change.from_ms <= now_ms for change in changes):
        return _tell(thread, changes, incidents, rules, now_ms)
    repeat_ms = _repeat_ms(seen, rules, since)
    if repeat_ms is not None and repeat_ms <= now_ms:
        # A reminder shows everything as it is, so what was still waiting to be told is told.
        shown = {t.incident_id: _told(t, i, status_of(i)) for t, i in seen if status_of(i) != RESOLVED}
        after = _after(thread, shown, OPEN, now_ms)
        why = "nobody has taken it: a reminder"
        return Plan(Kind.REPEAT, why, _ordered(shown, incidents), after, None)
    moments = [change.from_ms for change in changes] + ([] if repeat_ms is None else [repeat_ms])
    return Plan(None, "nothing new to tell now", (), thread, min(moments, default=None))


def _end(
    thread: Thread,
    seen: Sequence[Told],
    changes: Sequence[_Change],
    incidents: Mapping[str, Incident],
    rules: Rules,
    now_ms: int,
) -> Plan:
    """Everything the receiver knows of is over, and there is nothing else to tell it of."""
    known = {told.incident_id: _told(told, incidents[told.incident_id], RESOLVED) for told in seen}
    if not rules.send_resolved or not changes:
        why = "everything is over" if not changes else "all are over; the receiver does not ask to hear of it"
        return Plan(
            None, why, (), replace(_after(thread, known, CLOSED, now_ms), last_told_ms=thread.last_told_ms), None
        )
    due_ms = min(change.from_ms for change in changes)
    if now_ms < due_ms:
        return Plan(None, "all are over; the group's interval is not", (), thread, due_ms)
    after = _after(thread, known, CLOSED, now_ms)
    reason = "all are over" if len(known) > 1 else changes[0].reason
    return Plan(Kind.RESOLVE, reason, _ordered(known, incidents), after, None)


def _tell(
    thread: Thread, changes: Sequence[_Change], incidents: Mapping[str, Incident], rules: Rules, now_ms: int
) -> Plan:
    """What changed, all of it: the message shows the incidents as they are."""
    now_told = {c.told.incident_id: _told(c.told, c.incident, status_of(c.incident)) for c in changes}
    after = _after(thread, now_told, OPEN, now_ms)
    about = [t.incident_id for t in after.told if t.status not in (UNTOLD, RESOLVED) or t.incident_id in now_told]
    open_now = [i for t in after.told if t.status not in (UNTOLD, RESOLVED) and (i := incidents.get(t.incident_id))]
    taken = any(change.taken for change in changes)
    kind = Kind.UPDATE
    if any(change.page for change in changes) and now_ms >= rules.active_ms:
        kind = Kind.REPEAT
    elif taken and len({incident.status for incident in open_now}) == 1:
        kind = Kind.ACKNOWLEDGE
    reason = "; ".join(dict.fromkeys(change.reason for change in changes))
    return Plan(kind, reason, _ordered(about, incidents), after, None)


def _change(told: Told, incident: Incident, rules: Rules, since_ms: int) -> _Change | None:
    """What of an incident the receiver does not know; None if it knows all there is to say."""
    is_now = status_of(incident)
    later_ms = since_ms + max(rules.group_interval_ms, rules.repeat_interval_ms if incident.flapping else 0)
    at_once = since_ms
    if told.status in (UNTOLD, RESOLVED):
        if is_now in (SILENCED, RESOLVED):
            return None
        if told.because and told.status == UNTOLD:
            return _Change(told, incident, told.because, at_once)
        return _Change(told, incident, "opened again" if told.status == RESOLVED else "a new incident", later_ms)
    if is_now == RESOLVED:
        by = _person(incident, "incident.resolved", since_ms)
        # What was over when its beginning was told is not left standing for an interval.
        was_over = incident.resolved_ms is not None and incident.resolved_ms <= since_ms
        why = f"resolved by {by}" if by else "over"
        return _Change(told, incident, why, at_once if by or was_over else later_ms)
    rose = SEVERITIES.index(incident.severity) < SEVERITIES.index(told.severity or SEVERITIES[-1])
    if is_now == SILENCED:
        return None if told.status == SILENCED else _Change(told, incident, "silenced", at_once)
    severity = f"severity rose from {told.severity} to {incident.severity}"
    if told.status == SILENCED:
        return _Change(told, incident, "the silence is over and it still fires", at_once, page=is_now == FIRING)
    if told.status == FIRING and is_now == ACKNOWLEDGED:
        return _Change(told, incident, f"taken by {incident.acknowledged_by}", at_once, taken=True)
    if told.status == ACKNOWLEDGED and is_now == FIRING:
        if rose:
            return _Change(told, incident, f"{severity} after it was taken", at_once, page=True)
        return _Change(told, incident, "nobody has it any more", at_once, taken=True)
    if rose:
        return _Change(told, incident, severity, at_once)
    if incident.episode != told.episode:
        return _Change(told, incident, "was over and fires again", later_ms)
    if incident.revision <= told.revision:
        return None
    return _other_change(told, incident, since_ms, later_ms)


def _other_change(told: Told, incident: Incident, since_ms: int, later_ms: int) -> _Change:
    """The revision rose and neither status nor severity did: the entries say what happened."""
    happened = [entry for entry in incident.entries if entry.time_ms >= since_ms]
    for entry in reversed(happened):
        if entry.actor_kind == "human" and entry.action in _PEOPLE:
            return _Change(told, incident, f"{_PEOPLE[entry.action]} by {entry.actor}", since_ms)
    if any(entry.action == "incident.joined" for entry in happened):
        return _Change(told, incident, "a new signal joined it", later_ms)
    return _Change(told, incident, "it changed", later_ms)


_PEOPLE = {
    "incident.noted": "noted",
    "incident.assigned": "assigned",
    "incident.silenced": "silenced",
    "incident.acknowledged": "taken",
    "incident.unacknowledged": "given back",
    "incident.reopened": "opened again",
    "silence.created": "silenced",
    "silence.ended": "silence ended",
}


def _person(incident: Incident, action: str, since_ms: int) -> str:
    """Who did something since; empty if it happened of itself."""
    for entry in reversed(incident.entries):
        if entry.action == action and entry.time_ms >= since_ms:
            return entry.actor if entry.actor_kind == "human" else ""
    return ""


def _repeat_ms(seen: Sequence[tuple[Told, Incident]], rules: Rules, since_ms: int) -> int | None:
    """When a reminder is due; None while there is nothing to remind of."""
    untaken = [told for told, incident in seen if status_of(incident) == FIRING and told.status != RESOLVED]
    if not untaken or not rules.repeat_interval_ms:
        return None
    due_ms = since_ms + rules.repeat_interval_ms
    return due_ms if any(told.because for told in untaken) else max(due_ms, rules.active_ms)


def _digest(thread: Thread, incidents: Mapping[str, Incident], rules: Rules, now_ms: int) -> Plan:
    """What was gathered: what opened and what ended since the last digest, also what did both."""
    changed = {
        told.incident_id: _told(told, incident, status_of(incident))
        for told in thread.told
        if (incident := incidents.get(told.incident_id)) and _gathered(told, incident)
    }
    if not rules.send_resolved:
        changed = {key: told for key, told in changed.items() if told.status != RESOLVED}
    if not changed:
        over = all(
            status_of(i) == RESOLVED or t.status == RESOLVED
            for t in thread.told
            if (i := incidents.get(t.incident_id)) is not None
        )
        after = replace(thread, status=CLOSED) if over else thread
        return Plan(None, "nothing was gathered", (), after, None)
    if now_ms < (due_ms := max(thread.due_ms, rules.active_ms)):
        return Plan(None, "gathering for the digest", (), thread, due_ms)
    after = _after(thread, changed, OPEN, now_ms)
    if all(told.status == RESOLVED for told in after.told):
        after = replace(after, status=CLOSED)
    many = f"{len(changed)} incidents" if len(changed) > 1 else "one incident"
    return Plan(Kind.DIGEST, f"a digest of {many}", _ordered(changed, incidents), after, None)


def _gathered(told: Told, incident: Incident) -> bool:
    is_now = status_of(incident)
    if told.status in (UNTOLD, RESOLVED):
        return is_now in (FIRING, ACKNOWLEDGED) or (is_now == RESOLVED and told.status == UNTOLD)
    rose = SEVERITIES.index(incident.severity) < SEVERITIES.index(told.severity or SEVERITIES[-1])
    return is_now == RESOLVED or incident.episode != told.episode or (rose and is_now != SILENCED)


def _told(told: Told, incident: Incident, status: str) -> Told:
    return replace(
        told, status=status, revision=incident.revision, severity=incident.severity, episode=incident.episode
    )


def _after(thread: Thread, now_told: Mapping[str, Told], status: str, now_ms: int) -> Thread:
    told = tuple(now_told.get(old.incident_id, old) for old in thread.told)
    return replace(thread, status=status, last_told_ms=now_ms, told=told)


def _ordered(
    ids: Iterator[str] | Mapping[str, Told] | Sequence[str], incidents: Mapping[str, Incident]
) -> tuple[str, ...]:
    """The most urgent first; those that are over last."""

    def urgency(incident_id: str) -> tuple[bool, int, int, str]:
        incident = incidents[incident_id]
        return (
            incident.status == RESOLVED,
            SEVERITIES.index(incident.severity),
            incident.opened_ms,
            incident_id,
        )

    return tuple(sorted(ids, key=urgency))


def urgency_of(incidents: Sequence[Incident]) -> int:
    """0 for critical to 3 for info: of the most urgent."""
    return SEVERITIES.index(most_urgent([incident.severity for incident in incidents]))
