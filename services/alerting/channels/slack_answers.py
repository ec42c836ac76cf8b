"""What people press in Slack: the check of who sends it, and what it asks for.

Slack tells of it by Socket Mode (:mod:`services.alerting.channels.slack_socket`) or by a signed request. Either way the
same document comes, possibly more than once; each answer carries the identity of its request, so that a repeat
changes nothing (:class:`services.alerting.incidents.actions.Actor`).

A pressed button changes nothing in Slack by itself: the answer names no receiver, so that the receiver it came by is
told like all others, by an update of its message. Slack does not tell us of our own updates, so nothing goes in
circles.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from services.alerting.channels.slack_buttons import (
    ACTION_PREFIX,
    DURATIONS,
    NOTE_BLOCK,
    NOTE_FIELD,
    NOTE_VIEW,
    parse_value,
)
from services.alerting.errors import AlertingError
from services.alerting.incidents.actions import Actor, Do
from services.alerting.words.text import clean, shorten

MOST_SECONDS_OLD = 300
"""A signed request may be so old; Slack's own recommendation."""

VIA = "slack"

_NAME_CHARACTERS = 80
_NOTE_CHARACTERS = 2000
_REQUEST_CHARACTERS = 200


class AnswerError(AlertingError):
    """What came is nothing that Slack sends of our messages."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody asks for.

    Attributes:
        incident_id: To which incident.
        do: What.
        actor: Who.
        reason: Why, in words.
        detail: As :meth:`services.alerting.incidents.actions.Desk.act` takes it.
    """

    incident_id: str
    do: Do
    actor: Actor
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Form:
    """Somebody wants to write a note: a form has to be opened within 3 s of the press."""

    incident_id: str
    trigger_id: str


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> bool:
    """Whether Slack signed a request, at most five minutes ago. In constant time.

    Source: https://docs.slack.dev/authentication/verifying-requests-from-slack
    """
    named = {name.lower(): content for name, content in headers.items()}
    stamp = named.get("x-slack-request-timestamp", "")
    given = named.get("x-slack-signature", "")
    expected = signature(secret, stamp, body)
    genuine = hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))
    # Digits only: int() takes spaces, signs and other scripts, and the signature is over what was sent.
    if not genuine or not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        return False
    return abs(now.timestamp() - int(stamp)) <= MOST_SECONDS_OLD


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The signature of a body: ``v0=`` and the HMAC-SHA256 of version, timestamp and body."""
    said = b":".join([b"v0", timestamp.encode("utf-8", "replace"), body])
    return "v0=" + hmac.new(secret.encode(), said, hashlib.sha256).hexdigest()


def payload_of(body: bytes) -> dict[str, Any]:
    """The document inside a request of Slack's interactivity: a form with one field of JSON.

    Raises:
        AnswerError: It is none.
    """
    try:
        fields = parse_qs(body.decode("utf-8"), strict_parsing=True, max_num_fields=10)
        document = json.loads(fields["payload"][0])
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise AnswerError("expected a form with the field payload, which holds JSON") from error
    if not isinstance(document, dict):
        raise AnswerError("expected a JSON object in the field payload")
    return document


def interaction(payload: Mapping[str, Any]) -> tuple[Answer | Form, ...]:
    """What was asked for; nothing where the press is none of ours.

    Raises:
        AnswerError: It should be one of ours, and is not well formed.
    """
    try:
        if payload.get("type") == "block_actions":
            return tuple(
                answer
                for action in payload["actions"]
                if str(action.get("action_id", "")).startswith(ACTION_PREFIX)
                for answer in _pressed(payload, action)
            )
        if payload.get("type") == "view_submission" and payload["view"]["callback_id"] == NOTE_VIEW:
            return (_noted(payload),)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AnswerError("expected a pressed button or a submitted form of a message of ours") from error
    return ()


def _pressed(payload: Mapping[str, Any], action: Mapping[str, Any]) -> list[Answer | Form]:
    chosen = action.get("selected_option") or {}
    do, incidents, for_ms = parse_value(str(action.get("value") or chosen.get("value") or ""))
    if do is Do.NOTE:
        return [Form(incidents[0], str(payload["trigger_id"]))]
    if do not in _REASONS:
        raise ValueError("there is no button for this")
    reason = _REASONS[do]
    detail: dict[str, Any] = {}
    if for_ms is not None:
        names = {ms: name for name, ms in DURATIONS}
        detail, reason = {"for_ms": for_ms}, f"for {names[for_ms]}, {reason}"
    request = str(payload["trigger_id"])
    return [
        Answer(incident, do, _actor(payload, f"{request}/{do.value}/{incident}"), reason, detail)
        for incident in incidents
    ]


_REASONS = {
    Do.ACKNOWLEDGE: "pressed in Slack",
    Do.UNACKNOWLEDGE: "given back in Slack",
    Do.RESOLVE: "resolved in Slack",
    Do.SILENCE: "chosen in Slack",
}


def _noted(payload: Mapping[str, Any]) -> Answer:
    view = payload["view"]
    do, incidents, _ = parse_value(str(view["private_metadata"]))
    if do is not Do.NOTE:
        raise ValueError("the form is none for a note")
    text = str(view["state"]["values"][NOTE_BLOCK][NOTE_FIELD]["value"] or "")
    # A form that was refused is sent again as the same view: the press that counts is the first that is taken.
    actor = _actor(payload, f"{view['id']}/{do.value}/{incidents[0]}")
    # Lines of a note stay apart; whatever else is invisible does not.
    lines = " / ".join(clean(line.strip()) for line in text.splitlines() if line.strip())
    return Answer(incidents[0], do, actor, shorten(lines, _NOTE_CHARACTERS))


def _actor(payload: Mapping[str, Any], request: str) -> Actor:
    user = payload["user"]
    who = _name(user["id"])
    if not who:
        raise ValueError("nobody pressed it")
    called = _name(user.get("name") or user.get("username") or "")
    name = f"slack:{who} ({called})" if called else f"slack:{who}"
    request = f"slack/{request}"
    if len(request) > _REQUEST_CHARACTERS:
        request = f"slack/{hashlib.sha256(request.encode()).hexdigest()}"
    return Actor(name, VIA, request=request)


def _name(text: object) -> str:
    return shorten(clean(str(text)[:1000]), _NAME_CHARACTERS)
