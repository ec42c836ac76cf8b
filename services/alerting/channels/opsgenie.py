"""Opsgenie, Alert API v2.

A thread is one alert there, known by the thread's key as its ``alias``: creating it again while it is open changes
nothing but a count, so a request in doubt is made again. Changes become notes, and a severity that changed becomes the
alert's priority. A sign of life and a test are alerts of the lowest priority that are closed at once.

Opsgenie takes requests with 202 and works on them later. Limits: message 130 characters, alias 512, description 15,000,
note 25,000, 20 tags of 50, details 8,000 in all. The message and the description are shown as HTML: what HTML reads is
shown by look-alikes in values from data.

Source: https://docs.opsgenie.com/docs/alert-api
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from services.alerting.channels.base import Again, Failed, Outcome, Pacer, Redactor, Sent, ask
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.harmless import ended, inert, plain
from services.alerting.incidents.views import ACKNOWLEDGED, RESOLVED
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import SEVERITIES, OpsgenieReceiver
from services.alerting.words.incident import Text, describe
from services.alerting.words.text import Line, clean, shorten

MAX_MESSAGE = 130
MAX_ALIAS = 512
MAX_DESCRIPTION = 15_000
MAX_NOTE = 25_000
MAX_TAGS = 20
MAX_TAG = 50
MAX_DETAILS = 8_000
MAX_SOURCE = 100
MAX_USER = 100
MAX_ENTITY = 512

ALIAS, PRIORITY, HELD = "alias", "priority", "acknowledged"
"""In a receipt: the alert's alias, its priority as it was last set, and whether we have acknowledged it."""

_PRIORITIES = {"critical": "P1", "error": "P2", "warning": "P3", "info": "P4"}
_LOWEST = "P5"
_NOTICED = (Kind.TRIGGER, Kind.DIGEST, Kind.REPEAT)
"""Kinds by which the alert is created, or counted once more where it is open."""
_SOURCE = "Driftline"
_NOTE_CHARACTERS = 4_000
_DETAIL_CHARACTERS = 500

Request = tuple[str, str, dict[str, Any]]
"""Method, path below ``/v2/alerts`` and body."""


class OpsgenieChannel:
    """Sends to one Opsgenie integration.

    Args:
        receiver: Its settings.
        session: Of :func:`services.alerting.channels.base.http_session`.
        redact: Takes secrets out of what Opsgenie says.
    """

    def __init__(self, receiver: OpsgenieReceiver, session: aiohttp.ClientSession, redact: Redactor) -> None:
        self._receiver = receiver
        self._session = session
        self._redact = redact

    def __repr__(self) -> str:
        return f"OpsgenieChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """Nothing is held besides the session, which is the caller's."""

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. See :class:`services.alerting.channels.base.Channel`."""
        for request in requests_for(delivery):
            await pace()
            if failure := await self._ask(request):
                return failure
        return Sent(receipt_of(delivery))

    async def _ask(self, request: Request) -> Again | Failed | None:
        method, path, body = request
        url = f"{self._receiver.api_url.rstrip('/')}/v2/alerts{path}"
        headers = {"Authorization": f"GenieKey {self._receiver.api_key.get_secret_value()}"}
        _, failure = await ask(
            self._session,
            method,
            url,
            json.dumps(body, separators=(",", ":")).encode(),
            headers=headers,
            timeout_seconds=self._receiver.timeout_seconds,
            redact=self._redact,
        )
        return failure


def alias_of(delivery: Delivery) -> str:
    """By which Opsgenie knows the alert."""
    if delivery.kind in (Kind.HEARTBEAT, Kind.TEST):
        return f"{delivery.kind}-{delivery.key}"[:MAX_ALIAS]
    return delivery.thread_key[:MAX_ALIAS]


def receipt_of(delivery: Delivery) -> dict[str, Any]:
    """How the alert is there once a message has been taken."""
    if not delivery.incidents or delivery.over:
        return {ALIAS: alias_of(delivery), HELD: False}
    held, taken = _is_held(delivery), _all_taken(delivery)
    if delivery.kind is Kind.ACKNOWLEDGE:
        held = taken or (held and any(incident.status == ACKNOWLEDGED for incident in delivery.incidents))
    elif delivery.kind in _NOTICED:
        held = held and taken
    return {ALIAS: alias_of(delivery), PRIORITY: priority_of(delivery), HELD: held}


def requests_for(delivery: Delivery) -> list[Request]:
    """What is asked for a message. Those that may be made twice without a trace come first: an attempt that fails
    between them is made again from its beginning.
    """
    text = describe(delivery)
    alias = alias_of(delivery)
    note = _note(delivery, text)
    close = _about(alias, "close", note)
    if delivery.kind in (Kind.HEARTBEAT, Kind.TEST):
        return [("POST", "", alert(delivery, text)), close]
    if delivery.kind is Kind.DIGEST and delivery.over:
        return [("POST", "", alert(delivery, text)), close]
    # What begins and is over meanwhile is told both, in that order: its end is a message of its own.
    if delivery.kind is Kind.RESOLVE or (delivery.over and delivery.kind is not Kind.TRIGGER):
        return [close]
    if delivery.kind in _NOTICED:
        requests: list[Request] = [*_new_priority(delivery, alias), ("POST", "", alert(delivery, text))]
        if _is_held(delivery) and not _all_taken(delivery):
            # What somebody had taken is to be taken anew: creating it again would wake nobody.
            requests.append(_about(alias, "unacknowledge", note))
        return requests
    if delivery.kind is Kind.ACKNOWLEDGE:
        if _all_taken(delivery):
            who = next((i.acknowledged_by for i in delivery.incidents if i.status == ACKNOWLEDGED), "")
            return [_about(alias, "acknowledge", note, who)]
        if not any(incident.status == ACKNOWLEDGED for incident in delivery.incidents):
            return [*_new_priority(delivery, alias), _about(alias, "unacknowledge", note)]
    return [*_new_priority(delivery, alias), _about(alias, "notes", note)]


def _is_held(delivery: Delivery) -> bool:
    """Whether we have told Opsgenie that somebody has it."""
    return bool(delivery.receipt.get(HELD)) and delivery.receipt.get(ALIAS) == alias_of(delivery)


def _all_taken(delivery: Delivery) -> bool:
    return all(incident.status in (ACKNOWLEDGED, RESOLVED) for incident in delivery.incidents)


def alert(delivery: Delivery, text: Text) -> dict[str, Any]:
    """The body that creates the alert."""
    first = delivery.incidents[0] if delivery.incidents else None
    tags = ["driftline", str(delivery.kind)]
    if first is not None:
        monitors = (signal.labels.get("monitor", "") for signal in first.signals)
        tags = ["driftline", first.severity, *(d for d in first.deployments if d), *(m for m in monitors if m)]
    body = {
        "message": _bounded(plain(text.headline), MAX_MESSAGE),
        "alias": alias_of(delivery),
        "description": _description(text),
        "tags": [_tag(tag) for tag in dict.fromkeys(tags)][:MAX_TAGS],
        "details": _details(delivery, text),
        "source": _SOURCE,
        "priority": priority_of(delivery),
    }
    if first is not None and first.deployment_id:
        body["entity"] = _bounded(inert(clean(first.deployment_id[: MAX_ENTITY + 1])), MAX_ENTITY)
    return body


def priority_of(delivery: Delivery) -> str:
    """P1 to P4 for what runs, by the most urgent; P5 for what is no alarm."""
    running = [incident.severity for incident in delivery.incidents if incident.status != RESOLVED]
    known = [severity for severity in SEVERITIES if severity in running]
    return _PRIORITIES[known[0]] if known else _LOWEST


def _new_priority(delivery: Delivery, alias: str) -> list[Request]:
    """A change of priority, where the alert was made with another."""
    before, now = delivery.receipt.get(PRIORITY), priority_of(delivery)
    if before is None or before == now or delivery.receipt.get(ALIAS) != alias:
        return []
    return [("PUT", f"/{quote(alias, safe='')}/priority?identifierType=alias", {"priority": now})]


def _about(alias: str, what: str, note: str, user: str = "") -> Request:
    body = {"source": _SOURCE, "note": note}
    if user:
        body["user"] = _bounded(inert(clean(user[: MAX_USER + 1])), MAX_USER)
    return "POST", f"/{quote(alias, safe='')}/{what}?identifierType=alias", body


def _note(delivery: Delivery, text: Text) -> str:
    lines = [plain(text.headline), *map(plain, text.news)]
    if not text.news and delivery.reason:
        lines.append(inert(clean(delivery.reason[: _NOTE_CHARACTERS + 1])))
    return _bounded("\n".join(lines), _NOTE_CHARACTERS)


def _description(text: Text) -> str:
    said: list[Line] = [*text.news]
    for part in text.parts:
        said += [Line((*part.headline.parts, " (", *part.status.parts, ")")), *part.sentences]
        said += [Line((f"{rank}. ", *cause.parts)) for rank, cause in enumerate(part.causes, start=1)]
    said += [line for line in (text.more, text.steps) if line is not None]
    links = [f"{name}: {address}" for name, address in text.links]
    links.append(f"On the command line: {plain(text.command)}")
    return ended("\n".join(map(plain, (*said, *text.story))), "\n".join(links), MAX_DESCRIPTION)


def _details(delivery: Delivery, text: Text) -> Mapping[str, str]:
    """Names and values; as many as the limit takes."""
    facts = [(inert(name), inert(value)) for name, value in text.facts]
    pairs = [*facts, ("Incidents", ", ".join(incident.id for incident in delivery.incidents[:20]))]
    details: dict[str, str] = {}
    room = MAX_DETAILS
    for name, value in pairs:
        key, content = _bounded(name, 100), _bounded(value, _DETAIL_CHARACTERS)
        room -= len(key) + len(content)
        if room < 0:
            break
        if content:
            details[key] = content
    return details


def _tag(text: str) -> str:
    """A tag; commas and spaces would make several of one."""
    return _bounded("_".join(inert(clean(text[: MAX_TAG + 1])).replace(",", "_").split()) or "_", MAX_TAG)


def _bounded(text: str, limit: int) -> str:
    return shorten(text, limit)
