"""What people do in PagerDuty, told by its webhooks v3: who signed it, which incident it is about, what to do.

Nothing is fetched from PagerDuty. An event names the alert's ``dedup_key`` (``incident_key``), which is the thread's; a
note names PagerDuty's own id only, which is kept from earlier events of the thread.

What our own messages cause comes back too, with an integration for its author: only what a person did counts. It says
by which receiver it came, and that one is not told of it: it shows it already.

PagerDuty delivers at least once and signs no time of its request. The identity of a request is that of the event, which
is inside the signature; ``X-Webhook-Id`` is not. So is the time of the event: one older than PagerDuty would repeat it
is a replay.
Source: https://developer.pagerduty.com/docs/webhooks-overview and the pages "Verifying webhook signatures", "Webhook
payload".
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.alerting.channels.pagerduty import HELD
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.errors import AlertingError
from services.alerting.incidents.actions import ActionRefusedError, Actor, Desk, Do
from services.alerting.incidents.views import RESOLVED
from services.alerting.notify.outbox import thread_key
from services.alerting.words.text import clean, shorten

log = logging.getLogger("driftline.alerting")

VIA = "pagerduty"
PING = "pagey.ping"

_DO = {
    "incident.acknowledged": Do.ACKNOWLEDGE,
    "incident.unacknowledged": Do.UNACKNOWLEDGE,
    "incident.resolved": Do.RESOLVE,
    "incident.reopened": Do.REOPEN,
    "incident.annotated": Do.NOTE,
}
_SAID = {
    Do.ACKNOWLEDGE: "acknowledged in PagerDuty",
    Do.UNACKNOWLEDGE: "given back in PagerDuty",
    Do.RESOLVE: "resolved in PagerDuty",
    Do.REOPEN: "opened again in PagerDuty",
    Do.NOTE: "noted in PagerDuty",
}
_HELD = {
    "incident.triggered": False,
    "incident.acknowledged": True,
    "incident.unacknowledged": False,
    "incident.resolved": False,
    "incident.reopened": False,
}
_PERSON = "user_reference"
_NAME_CHARACTERS = 80
_NOTE_CHARACTERS = 2000
_MOST_SIGNATURES = 10
_ID_CHARACTERS = 255
_MOST_SECONDS_OLD = 3 * 86_400
"""PagerDuty repeats a delivery for two days."""

_LATEST_THREADS = 2000
_INCIDENT = "pagerduty_incident"


class WebhookError(AlertingError):
    """What came is no event of PagerDuty's."""


@dataclass(frozen=True, slots=True)
class PagerDutyEvent:
    """An event.

    Attributes:
        id: Of the event; the same in every delivery of it.
        kind: ``incident.acknowledged`` …
        dedup_key: Of the alert; empty where the event does not say.
        incident: PagerDuty's id of its incident.
        person: Who did it; empty for what no person did.
        text: A note, or the reason that was given.
        occurred_s: When, seconds since 1970 UTC; None where it does not say.
    """

    id: str
    kind: str
    dedup_key: str
    incident: str
    person: str
    text: str
    occurred_s: float | None


@dataclass(frozen=True, slots=True)
class Thread:
    """What a receiver is told under one key."""

    id: int
    status: str
    incidents: tuple[str, ...]


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> bool:
    """Whether PagerDuty signed a body with one of the secrets, in constant time.

    During a rotation it sends several signatures, and several secrets are good.
    """
    named = {name.lower(): content for name, content in headers.items()}
    given = [one.strip() for one in named.get("x-pagerduty-signature", "").split(",")[:_MOST_SIGNATURES]]
    genuine = False
    for secret in secrets:
        expected = signature(secret, body).encode()
        for one in given:
            genuine |= hmac.compare_digest(expected, one.encode("utf-8", "replace"))
    return genuine


def signature(secret: str, body: bytes) -> str:
    """The signature of a body: ``v1=`` and its HMAC-SHA256."""
    return "v1=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def event_of_body(body: bytes) -> PagerDutyEvent:
    """Read a webhook.

    Raises:
        WebhookError: It is none.
    """
    try:
        event = json.loads(body)["event"]
        data = event["data"]
        agent = event.get("agent") or {}
        person = str(agent.get("summary") or agent.get("id") or "?") if agent.get("type") == _PERSON else ""
        # A note is about an incident; every other event is the incident.
        incident = data.get("incident") or {} if str(event["event_type"]) == "incident.annotated" else data
        text = data.get("content") or data.get("resolve_reason") or ""
        return PagerDutyEvent(
            id=str(event["id"])[:_ID_CHARACTERS],
            kind=str(event["event_type"]),
            dedup_key=str(incident.get("incident_key") or "")[:_ID_CHARACTERS],
            incident=str(incident.get("id") or "")[:_ID_CHARACTERS],
            person=shorten(clean(person[:1000]), _NAME_CHARACTERS),
            text=_words(text),
            occurred_s=_seconds(event.get("occurred_at")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WebhookError("expected a webhook v3 of PagerDuty: a JSON object with event.id, event.data …") from error


def _words(text: object) -> str:
    """Lines stay apart; whatever else is invisible does not. PagerDuty's reasons may be objects."""
    if isinstance(text, Mapping):
        text = text.get("summary") or text.get("type") or ""
    lines = str(text)[: 4 * _NOTE_CHARACTERS].splitlines()
    return shorten(" / ".join(clean(line.strip()) for line in lines if line.strip()), _NOTE_CHARACTERS)


def _seconds(moment_text: object) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(str(moment_text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def take(database: Database, desk: Desk, receiver: str, body: bytes) -> int:
    """Do what an event asks for, in transactions that have ended when this returns; how many incidents it was about.

    Whatever it raises besides is for PagerDuty to repeat: it goes on for 48 h, and a repeat changes nothing.

    Args:
        database: Of the service.
        desk: Where actions are done.
        receiver: By which receiver it came; its signature was checked.
        body: Of the request.

    Raises:
        WebhookError: It is no event of PagerDuty's.
    """
    event = event_of_body(body)
    if event.kind == PING or time.time() - (event.occurred_s or math.inf) > _MOST_SECONDS_OLD:
        return 0
    with database.transaction() as connection:
        thread = find_thread(connection, receiver, event.dedup_key, event.incident)
        if thread is not None and event.dedup_key:
            _keep(connection, thread.id, event)
    do = _DO.get(event.kind)
    if do is None or thread is None:
        return 0
    # An acknowledgement that PagerDuty itself takes back ran out: nobody has it any more, whoever's doing that is.
    if not event.person and do is not Do.UNACKNOWLEDGE:
        return 0
    # A thread that is over is another episode's: what is said of it late must not close what came after. Opening it
    # again is what can only be said of one that is over.
    if thread.status == "closed" and do not in (Do.REOPEN, Do.NOTE):
        return 0
    acted = 0
    for incident in thread.incidents:
        acted += _act(desk, receiver, event, do, incident)
    return acted


def _act(desk: Desk, receiver: str, event: PagerDutyEvent, do: Do, incident: str) -> bool:
    name = f"pagerduty:{event.person}" if event.person else "pagerduty"
    actor = Actor(
        name,
        VIA,
        kind="human" if event.person else "service",
        request=f"pagerduty/{hashlib.sha256(f'{event.id}/{do.value}/{incident}'.encode()).hexdigest()}",
        # A thread that was closed is not opened again under its key: the receiver gets a new trigger, whose end it
        # will be told of.
        receiver="" if do is Do.REOPEN else receiver,
    )
    reason = event.text or (_SAID[do] if event.person else "its acknowledgement ran out in PagerDuty")
    try:
        desk.act(incident, do, actor, reason)
    except ActionRefusedError as error:
        log.info("%s: %s of incident %s from PagerDuty: %s", receiver, do.value, incident, clean(str(error)))
        return False
    return True


def find_thread(connection: sa.Connection, receiver: str, dedup_key: str, incident: str = "") -> Thread | None:
    """The thread that a receiver knows under a key, or under PagerDuty's id of its incident; the latest of them.

    Looked for by what the channel noted when the thread was told, and, where the answer to that is not kept yet, by
    working out the keys of this receiver's threads anew.
    """
    receipt = t.threads.c.receipt
    of_receiver = sa.select(t.threads).where(t.threads.c.receiver == receiver).order_by(t.threads.c.id.desc())
    row = None
    if dedup_key:
        noted = connection.execute(of_receiver.where(receipt["dedup_key"].as_string() == dedup_key)).all()
        # A later thread of the group begins with the receipt of the one before it, until it is told itself.
        row = next((one for one in noted if _key_of(one) == dedup_key), noted[-1] if noted else None)
        row = row or _by_key(connection, of_receiver, dedup_key)
    elif incident:
        row = connection.execute(of_receiver.where(receipt[_INCIDENT].as_string() == incident)).first()
    if row is None:
        return None
    told = sa.select(t.thread_incidents.c.incident_id).where(t.thread_incidents.c.thread_id == row.id)
    told = told.where(t.thread_incidents.c.told_status.not_in(("", RESOLVED)) | (row.status == "closed"))
    found = connection.execute(told.order_by(t.thread_incidents.c.incident_id)).scalars()
    return Thread(row.id, row.status, tuple(found))


def _by_key(connection: sa.Connection, of_receiver: sa.Select[Any], dedup_key: str) -> sa.Row[Any] | None:
    for row in connection.execute(of_receiver.limit(_LATEST_THREADS)):
        if _key_of(row) == dedup_key:
            return row
    return None


def _key_of(row: sa.Row[Any]) -> str:
    return thread_key(row.receiver, row.group_key, row.episode, "")


def _keep(connection: sa.Connection, thread_id: int, event: PagerDutyEvent) -> None:
    """PagerDuty's own id, by which notes name the thread, and whether it holds the alert acknowledged."""
    where = t.threads.c.id == thread_id
    receipt = connection.execute(sa.select(t.threads.c.receipt).where(where)).scalar_one()
    known: dict[str, object] = {_INCIDENT: event.incident} if event.incident else {}
    if event.kind in _HELD:
        known[HELD] = _HELD[event.kind]
    if any(receipt.get(name) != content for name, content in known.items()):
        connection.execute(sa.update(t.threads).where(where).values(receipt={**receipt, **known}))
