"""What people (and PagerDuty, for them) do to incidents: one way in for command line, HTTP, chat and pager.

Each action is one transaction: the incident's change, its entry, the audit event with who and why, and what every
receiver is to be told (:func:`services.alerting.notify.threads.concern`). It then wakes the sender.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.crash import crash_point
from services.alerting.database import tables as db
from services.alerting.database.opening import Database
from services.alerting.errors import AlertingError
from services.alerting.incidents.changes import Changes, Deed
from services.alerting.incidents.concerning import concern_changed, concern_each
from services.alerting.incidents.drafts import IncidentDraft
from services.alerting.incidents.loading import load_incidents, resolve_id
from services.alerting.incidents.silences import (
    NewSilence,
    begin_silence,
    close_silence,
    muted_by,
    silence_id_of,
)
from services.alerting.incidents.views import ACKNOWLEDGED, OPEN, Incident
from services.alerting.policy.matching import parse_match
from services.alerting.policy.model import PolicyHolder
from services.alerting.policy.problems import PolicyError
from services.alerting.records import event_id, whole
from services.alerting.words.text import clean, shorten

_ENTRIES = 20
_FEWEST_DIGITS = 4
_MOST_ACTOR_CHARACTERS = 200
_MOST_REASON_CHARACTERS = 4000
_MOST_SILENCE_MS = 366 * 86_400_000


class ActionRefusedError(AlertingError):
    """An action that cannot be done: the message says why and what to do. ``status`` is the HTTP status for it."""

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status


class Do(enum.StrEnum):
    """What can be done to an incident."""

    ACKNOWLEDGE = "acknowledge"
    UNACKNOWLEDGE = "unacknowledge"
    RESOLVE = "resolve"
    REOPEN = "reopen"
    NOTE = "note"
    ASSIGN = "assign"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and by which way: ``cli``, ``api``, ``slack``, ``pagerduty``, ``clock``.

    ``request`` identifies the request where the sender may repeat it (PagerDuty's webhook id, Slack's trigger): a
    repeat changes nothing. ``receiver``: the receiver by which it came, which need not be told of its own answer.
    """

    name: str
    via: str
    kind: str = "human"
    request: str = ""
    receiver: str = ""


_ENTRY_OF = {
    Do.ACKNOWLEDGE: "incident.acknowledged",
    Do.UNACKNOWLEDGE: "incident.unacknowledged",
    Do.RESOLVE: "incident.resolved",
    Do.REOPEN: "incident.reopened",
    Do.NOTE: "incident.noted",
    Do.ASSIGN: "incident.assigned",
    Do.SILENCE: "incident.silenced",
}

_NEEDS_REASON = {
    Do.RESOLVE: "say why it is over: the monitor's alarms may go on",
    Do.SILENCE: "say why nobody is to hear of it",
    Do.NOTE: "say what the note is to say",
}


class Desk:
    """Where actions are done. Thread-safe.

    Args:
        database: Of the service.
        policy: In force.
        topics: For the audit events.
        now_ms: Clock.
        acted: Called after each, in the caller's thread: somebody may have to be told.
    """

    def __init__(
        self,
        database: Database,
        policy: PolicyHolder,
        topics: Topics,
        now_ms: Callable[[], int],
        acted: Callable[[], None],
    ) -> None:
        self._database = database
        self._policy = policy
        self._topics = topics
        self._now_ms = now_ms
        self._acted = acted

    def act(self, incident_id: str, do: Do, actor: Actor, reason: str, **detail: Any) -> Incident:
        """Do something to an incident; ``assign`` takes ``to``, ``silence`` takes ``for_ms``.

        ``incident_id`` may be the beginning of one, of at least four digits. What is so already (acknowledging twice)
        is no error and changes nothing.

        Raises:
            ActionRefusedError: There is no such incident, or it is over, or the reason is missing where it must be
                given (silence, resolve).
        """
        reason = _text(reason)
        if do in _NEEDS_REASON and not reason:
            raise ActionRefusedError(f"{do.value}: a reason is missing: {_NEEDS_REASON[do]}", 400)
        with self._database.transaction() as connection:
            policy, now_ms = self._policy.current, self._now_ms()
            whole_id = _found(connection, incident_id)
            changes = Changes(connection, policy, self._topics, now_ms)
            changes.drafts.load_incidents([whole_id])
            draft = changes.drafts.incidents[whole_id]
            deed = _deed(draft, do, actor, reason, now_ms)
            key = event_id(_ENTRY_OF[do], deed.identity)
            is_repeat = connection.execute(sa.select(db.entries.c.id).where(db.entries.c.key == key)).first()
            did = is_repeat is None and self._do(changes, draft, do, deed, actor, detail)
            if did:
                # What fires in an incident that is over inhibits nothing, and does again once it is opened again.
                own = firing_of(connection, whole_id) if do in (Do.RESOLVE, Do.REOPEN) else []
                concern_changed(connection, policy, changes, now_ms, except_receiver=actor.receiver, also=own)
            incident = load_incidents(connection, policy, [whole_id], now_ms, entries=_ENTRIES)[whole_id]
        if did:
            self._done()
        return incident

    def _do(
        self, changes: Changes, draft: IncidentDraft, do: Do, deed: Deed, actor: Actor, detail: Mapping[str, Any]
    ) -> bool:
        """Do it; returns whether that changes anything."""
        if do is Do.ASSIGN:
            to = shorten(clean(_text(str(detail.get("to") or ""))), _MOST_ACTOR_CHARACTERS)
            return apply_action(changes, draft, do, _with(deed, to=to), to=to)
        if do is Do.SILENCE:
            for_ms = detail.get("for_ms")
            if not isinstance(for_ms, int) or not 0 < for_ms <= _MOST_SILENCE_MS:
                raise ActionRefusedError(
                    f"silence: expected for_ms of 1 to {_MOST_SILENCE_MS} milliseconds (a year), came {for_ms!r}", 400
                )
            _refuse_if_over(draft, do)
            silence = NewSilence(
                id=silence_id_of(deed.identity),
                match={},
                incident_id=draft.id,
                author=_name(actor),
                reason=deed.reason,
                via=actor.via,
                created_ms=changes.now_ms,
                starts_ms=changes.now_ms,
                ends_ms=changes.now_ms + for_ms,
            )
            begin_silence(changes, silence, deed)
            return apply_action(changes, draft, do, _with(deed, silence=silence.id, until_ms=silence.ends_ms))
        return apply_action(changes, draft, do, deed)

    def silence(
        self, match: Mapping[str, Any], actor: Actor, reason: str, *, starts_ms: int | None, ends_ms: int
    ) -> str:
        """Silence everything that matches, as in the routing file; returns the silence's id.

        Raises:
            ActionRefusedError: The match is empty or wrong, the reason is missing, or the time is none.
        """
        reason = _text(reason)
        if not reason:
            raise ActionRefusedError(f"silence: a reason is missing: {_NEEDS_REASON[Do.SILENCE]}", 400)
        if not match:
            raise ActionRefusedError("silence: expected at least one label, for example deployment: credit", 400)
        try:
            parse_match(match, "match")
            kept = whole(dict(match))
        except (PolicyError, ValueError, TypeError) as error:
            # On one line: whoever asks is answered in a line.
            told = "; ".join(error.problems) if isinstance(error, PolicyError) else error
            raise ActionRefusedError(f"silence: {told}", 400) from error
        with self._database.transaction() as connection:
            policy, now_ms = self._policy.current, self._now_ms()
            starts = now_ms if starts_ms is None else starts_ms
            if not max(now_ms, starts) < ends_ms <= max(now_ms, starts) + _MOST_SILENCE_MS:
                raise ActionRefusedError(
                    f"silence: expected an end after its start and after now ({now_ms}), at most a year later; came "
                    f"{starts} to {ends_ms}",
                    400,
                )
            who = (actor.via, actor.request) if actor.request else (actor.via, actor.name, now_ms, kept, ends_ms)
            deed = Deed(
                identity=("silence", *who), reason=reason, actor=_name(actor), actor_kind=actor.kind, via=actor.via
            )
            silence = NewSilence(
                id=silence_id_of(deed.identity),
                match=dict(match),
                incident_id=None,
                author=_name(actor),
                reason=reason,
                via=actor.via,
                created_ms=now_ms,
                starts_ms=starts,
                ends_ms=ends_ms,
            )
            changes = Changes(connection, policy, self._topics, now_ms)
            did = begin_silence(changes, silence, deed)
            if did:
                changes.write()
                affected = muted_by(connection, [silence.as_silence()]) if starts <= now_ms else set()
                concern_each(connection, policy, sorted(affected), now_ms)
        if did:
            self._done()
        return silence.id

    def end_silence(self, silence_id: str, actor: Actor, reason: str) -> None:
        """End a silence before its time.

        Raises:
            ActionRefusedError: There is no such silence, or it is over.
        """
        with self._database.transaction() as connection:
            policy, now_ms = self._policy.current, self._now_ms()
            changes = Changes(connection, policy, self._topics, now_ms)
            row = connection.execute(sa.select(db.silences).where(db.silences.c.id == silence_id)).mappings().first()
            if row is None:
                raise ActionRefusedError(f"there is no silence {shorten(clean(silence_id), 40)!r}", 404)
            if row["ends_ms"] <= now_ms:
                raise ActionRefusedError(f"the silence {silence_id} is over already")
            deed = Deed(
                identity=("silence", silence_id, "end"),
                reason=_text(reason),
                actor=_name(actor),
                actor_kind=actor.kind,
                via=actor.via,
            )
            affected = close_silence(changes, row, deed)
            changes.write()
            concern_each(connection, policy, sorted(affected), now_ms)
        self._done()

    def _done(self) -> None:
        crash_point("action.after_commit")
        self._acted()


def apply_action(changes: Changes, draft: IncidentDraft, do: Do, deed: Deed, *, to: str = "") -> bool:
    """Change an incident as somebody asked; returns False where it is so already. A rebuild does the same.

    Raises:
        ActionRefusedError: It cannot be done to an incident in this state.
    """
    if do is Do.NOTE:
        changes.noted(draft, deed)
    elif do is Do.RESOLVE:
        if draft.is_resolved:
            return False
        changes.resolved(draft, deed)
    elif do is Do.REOPEN:
        if not draft.is_resolved:
            return False
        changes.reopened(draft, deed)
    else:
        _refuse_if_over(draft, do)
        if do is Do.ACKNOWLEDGE:
            if draft.status == ACKNOWLEDGED:
                return False
            changes.acknowledged(draft, deed)
        elif do is Do.UNACKNOWLEDGE:
            if draft.status == OPEN:
                return False
            changes.unacknowledged(draft, deed)
        elif do is Do.ASSIGN:
            if draft.values["assigned_to"] == to:
                return False
            changes.assigned(draft, to, deed)
        else:
            changes.silenced(draft, deed)
    return True


def firing_of(connection: sa.Connection, incident_id: str) -> list[Mapping[str, str]]:
    """Labels of an incident's signals that fire, whether or not it is over."""
    s = db.signals.c
    query = sa.select(s.labels).where(s.incident_id == incident_id, s.status == "firing")
    return list(connection.execute(query).scalars())


def _refuse_if_over(draft: IncidentDraft, do: Do) -> None:
    if draft.is_resolved:
        raise ActionRefusedError(f"{do.value}: the incident {draft.id} is over; reopen it first, if it is not")


def _found(connection: sa.Connection, beginning: str) -> str:
    shown = shorten(clean(beginning), 40)
    if len(beginning.strip()) < _FEWEST_DIGITS:
        raise ActionRefusedError(f"expected an incident's id, or at least its first four digits; came {shown!r}", 404)
    ids = resolve_id(connection, beginning)
    if not ids:
        raise ActionRefusedError(f"there is no incident {shown!r}; driftline incidents list shows those there are", 404)
    if len(ids) > 1:
        raise ActionRefusedError(f"several incidents begin with {shown!r} ({', '.join(ids)}): give more digits")
    return ids[0]


def _deed(draft: IncidentDraft, do: Do, actor: Actor, reason: str, now_ms: int) -> Deed:
    again = (actor.via, actor.request) if actor.request else (actor.via, actor.name, draft.values["revision"], now_ms)
    return Deed(
        identity=(draft.id, do.value, *again),
        reason=reason,
        actor=_name(actor),
        actor_kind=actor.kind,
        via=actor.via,
        detail={"receiver": actor.receiver} if actor.receiver else {},
    )


def _with(deed: Deed, **detail: object) -> Deed:
    return dataclasses.replace(deed, detail={**deed.detail, **detail})


def _name(actor: Actor) -> str:
    return shorten(clean(_text(actor.name)), _MOST_ACTOR_CHARACTERS) or "somebody"


def _text(text: str) -> str:
    """What somebody wrote, on one line."""
    joined = " ".join(text.split())
    if len(joined) > _MOST_REASON_CHARACTERS:
        raise ActionRefusedError(
            f"expected at most {_MOST_REASON_CHARACTERS:,} characters of text, came {len(joined):,}", 400
        )
    return joined
