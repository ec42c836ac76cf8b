"""Local stand-ins for Microsoft Teams, Opsgenie and a receiver of signed webhooks, beside those of Slack and PagerDuty.

They record what arrives and refuse what the real ones would refuse: a Teams message above 28 KB or with an element that
Adaptive Cards 1.5 do not have; an Opsgenie request above its limits or without its key; a webhook whose signature, time
or body is wrong. Opsgenie's alerts are kept by alias, as there: created once while open, closed, acknowledged, noted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from services.demo.receivers import HOST, Answer, RecordingReceiver

TEAMS = "teams"
OPSGENIE = "opsgenie"
WEBHOOK = "webhook"

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OPSGENIE_KEY = "eb243592-faa2-4ba2-a551-1afdf565c889"

_TEAMS_BYTES = 28 * 1024
_WEBHOOK_BYTES = 256 * 1024
_WEBHOOK_SECONDS = 300
_ELEMENTS = frozenset({"TextBlock", "RichTextBlock", "TextRun", "Container", "ColumnSet", "Column", "FactSet", "Image"})
_STYLES = frozenset({"default", "emphasis", "good", "attention", "warning", "accent"})
_OPSGENIE_LIMITS = {"message": 130, "alias": 512, "description": 15_000, "entity": 512, "source": 100, "user": 100}
_NOTE = 25_000


@dataclass(slots=True)
class OpsgenieAlert:
    """An alert as Opsgenie keeps it.

    Attributes:
        alias: By which it is known.
        message: What it says.
        priority: P1 to P5.
        count: How many times it was created while it was open.
        open: Whether it is.
        acknowledged: Whether somebody has it.
        notes: In order.
    """

    alias: str
    message: str
    priority: str
    count: int = 1
    open: bool = True
    acknowledged: bool = False
    notes: list[str] = field(default_factory=list)


class RecordingHooks(RecordingReceiver):
    """All the receivers that speak HTTP, on one loopback port.

    Args:
        record_file: Append each request to this file, one JSON object per line.
        port: To listen on; 0 for a free one.
        webhook_secrets: Any of which a webhook may be signed by.
    """

    def __init__(
        self, record_file: Path | None = None, *, port: int = 0, webhook_secrets: Sequence[str] = (WEBHOOK_SECRET,)
    ) -> None:
        super().__init__(record_file, port=port)
        self._webhook_secrets = tuple(webhook_secrets)
        self._hooks_lock = threading.Lock()
        self._alerts: list[OpsgenieAlert] = []
        self._webhook_ids: set[str] = set()
        self._repeated_webhooks = 0

    # Addresses

    @property
    def teams_url(self) -> str:
        """Of a Workflows webhook."""
        return f"http://{HOST}:{self.port}/workflows/0123456789abcdef/triggers/manual/paths/invoke?sig=local-teams"

    @property
    def opsgenie_url(self) -> str:
        """Of the API."""
        return f"http://{HOST}:{self.port}/opsgenie/"

    @property
    def webhook_url(self) -> str:
        """Of a receiver of signed webhooks."""
        return f"http://{HOST}:{self.port}/hook/local-webhook"

    # What came of it

    @property
    def opsgenie_alerts(self) -> list[OpsgenieAlert]:
        """Every alert that was ever created, in order."""
        with self._hooks_lock:
            return list(self._alerts)

    @property
    def repeated_webhooks(self) -> int:
        """How many webhooks came under an id that had come before and been accepted."""
        with self._hooks_lock:
            return self._repeated_webhooks

    def _add_routes(self, app: web.Application) -> None:
        super()._add_routes(app)
        app.router.add_post("/workflows/{path:.*}", self._teams)
        app.router.add_post("/hook/{path:.*}", self._webhook)
        app.router.add_post("/opsgenie/v2/alerts", self._opsgenie_create)
        app.router.add_post("/opsgenie/v2/alerts/{alias}/{what}", self._opsgenie_change)
        app.router.add_put("/opsgenie/v2/alerts/{alias}/{what}", self._opsgenie_change)

    # The services

    async def _teams(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = _document(raw)
        problems = teams_problems(body, len(raw))
        if "charset=utf-8" not in request.headers.get("Content-Type", "").lower():
            problems.append("without its character set Teams counts two bytes for each character")
        refusal = Answer(
            413 if len(raw) > _TEAMS_BYTES else 400, body="Bad payload received by generic incoming webhook."
        )
        return await self._answer(request, TEAMS, body, problems, refusal, "", 202)

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        problems = webhook_problems(request.headers, raw, self._webhook_secrets, time.time())
        refusal = Answer(401 if any("signature" in problem for problem in problems) else 400, body="refused")
        answer = await self._answer(request, WEBHOOK, _document(raw), problems, refusal, "{}", 200)
        if answer.status == 200:
            webhook_id = request.headers.get("webhook-id", "")
            with self._hooks_lock:
                self._repeated_webhooks += webhook_id in self._webhook_ids
                self._webhook_ids.add(webhook_id)
        return answer

    async def _opsgenie_create(self, request: web.Request) -> web.StreamResponse:
        body = _document(await request.read())
        problems = opsgenie_problems(body)
        if not body.get("message"):
            problems.append("message is missing")
        answer = await self._opsgenie(request, {**body, "path": request.path}, problems)
        if answer.status == 202:
            with self._hooks_lock:
                known = self._open_alert(str(body.get("alias")))
                if known is None:
                    self._alerts.append(OpsgenieAlert(body["alias"], body["message"], body.get("priority", "P3")))
                else:
                    known.count += 1
        return answer

    async def _opsgenie_change(self, request: web.Request) -> web.StreamResponse:
        body = _document(await request.read())
        what = request.match_info["what"]
        problems = opsgenie_problems(body)
        ways = {"PUT": ("priority",), "POST": ("close", "acknowledge", "unacknowledge", "notes")}
        if what not in ways[request.method]:
            problems.append(f"{request.method} of {what!r} is not known")
        if request.query.get("identifierType") != "alias":
            problems.append("identifierType=alias is missing")
        if what == "notes" and not body.get("note"):
            problems.append("note is missing")
        answer = await self._opsgenie(request, {**body, "path": request.path}, problems)
        if answer.status == 202:
            with self._hooks_lock:
                self._change(self._open_alert(request.match_info["alias"]), what, body)
        return answer

    def _open_alert(self, alias: str) -> OpsgenieAlert | None:
        return next((alert for alert in reversed(self._alerts) if alert.alias == alias and alert.open), None)

    @staticmethod
    def _change(alert: OpsgenieAlert | None, what: str, body: Mapping[str, Any]) -> None:
        """Opsgenie takes requests about alerts that are not there, and nothing comes of them."""
        if alert is None:
            return
        if what == "priority":
            alert.priority = str(body["priority"])
        elif what == "close":
            alert.open = False
        elif what in ("acknowledge", "unacknowledge"):
            alert.acknowledged = what == "acknowledge"
        if body.get("note"):
            alert.notes.append(str(body["note"]))

    async def _opsgenie(self, request: web.Request, body: Mapping[str, Any], problems: list[str]) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"GenieKey {OPSGENIE_KEY}":
            problems.append("not authorised")
        refusal = {"message": "Request body is not processable. Please check the errors.", "errors": problems}
        accepted = {
            "result": "Request will be processed",
            "took": 0.1,
            "requestId": "43a29c5c-3dbf-4fa4-9c26-f4f71023e120",
        }
        return await self._answer(
            request, OPSGENIE, body, problems, Answer(422, body=json.dumps(refusal)), json.dumps(accepted), 202
        )


def teams_problems(body: Mapping[str, Any], size: int) -> list[str]:
    """What Teams would refuse a message for, or show as something it is not."""
    if size > _TEAMS_BYTES:
        return [f"{size} bytes, at most {_TEAMS_BYTES}"]
    attachments = body.get("attachments")
    if body.get("type") != "message" or not isinstance(attachments, list) or len(attachments) != 1:
        return ["a message with one attachment is wanted"]
    if attachments[0].get("contentType") != "application/vnd.microsoft.card.adaptive":
        return ["the attachment is no Adaptive Card"]
    card = attachments[0].get("content") or {}
    problems = []
    if card.get("type") != "AdaptiveCard" or card.get("version") != "1.5":
        problems.append("an AdaptiveCard of version 1.5 is wanted")
    if (card.get("msteams") or {}).get("entities"):
        problems.append("it mentions somebody")
    actions = card.get("actions", [])
    if len(actions) > 6:
        problems.append(f"{len(actions)} actions, at most 6")
    for action in actions:
        if action.get("type") != "Action.OpenUrl" or not str(action.get("url", "")).startswith(("http://", "https://")):
            problems.append("an action that opens no address")
    if not card.get("body"):
        problems.append("the card is empty")
    return problems + [problem for element in card.get("body", []) for problem in _element_problems(element)]


def _element_problems(element: Mapping[str, Any]) -> list[str]:
    kind = element.get("type")
    if kind not in _ELEMENTS:
        return [f"unknown element {kind!r}"]
    problems = []
    text = element.get("text")
    if kind in ("TextRun", "TextBlock"):
        if not isinstance(text, str) or not text:
            problems.append(f"{kind} without text")
        else:
            problems += [f"{found!r} in a text" for found in ("<at>", "{{DATE", "{{TIME", "\n", "\r") if found in text]
    if kind == "Image":
        problems += [] if str(element.get("url", "")).startswith("https://") else ["a picture that is not at https"]
        problems += [] if element.get("altText") else ["a picture without words"]
    if element.get("style", "default") not in _STYLES:
        problems.append(f"style {element['style']!r}")
    below = [*element.get("inlines", []), *element.get("items", []), *element.get("columns", [])]
    if kind == "RichTextBlock" and not element.get("inlines"):
        problems.append("RichTextBlock without inlines")
    return problems + [problem for item in below for problem in _element_problems(item)]


def opsgenie_problems(body: Mapping[str, Any]) -> list[str]:
    """What Opsgenie would refuse a request for."""
    problems = [
        f"{name} of {len(str(body[name]))} characters, at most {most}"
        for name, most in _OPSGENIE_LIMITS.items()
        if len(str(body.get(name) or "")) > most
    ]
    if len(str(body.get("note") or "")) > _NOTE:
        problems.append("note is too long")
    if body.get("priority", "P3") not in ("P1", "P2", "P3", "P4", "P5"):
        problems.append(f"priority {body['priority']!r}")
    tags = body.get("tags", [])
    if len(tags) > 20 or any(not 0 < len(str(tag)) <= 50 for tag in tags):
        problems.append("at most 20 tags of 1 to 50 characters")
    details = body.get("details", {})
    if not isinstance(details, dict) or not all(isinstance(content, str) for content in details.values()):
        problems.append("details must be texts by name")
    elif sum(len(name) + len(content) for name, content in details.items()) > 8000:
        problems.append("details of more than 8,000 characters")
    return problems


def webhook_problems(headers: Mapping[str, str], raw: bytes, secrets: Sequence[str], now_seconds: float) -> list[str]:
    """What a receiver that keeps to Standard Webhooks would refuse a webhook for; written apart from what signs."""
    problems = []
    webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not webhook_id or "." in webhook_id:
        problems.append("webhook-id is missing or has a dot")
    if not timestamp.isdecimal() or abs(now_seconds - int(timestamp)) > _WEBHOOK_SECONDS:
        problems.append("webhook-timestamp is missing or too far away")
    signed = b".".join((webhook_id.encode(), timestamp.encode(), raw))
    given = [pair.partition(",") for pair in headers.get("webhook-signature", "").split(" ")]
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    wanted = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    if not any(
        version == "v1" and hmac.compare_digest(signature, good) for version, _, signature in given for good in wanted
    ):
        problems.append("no signature is right")
    if len(raw) > _WEBHOOK_BYTES:
        problems.append(f"{len(raw)} bytes, at most {_WEBHOOK_BYTES}")
    body = _document(raw)
    if not isinstance(body.get("type"), str) or "timestamp" not in body or not isinstance(body.get("data"), dict):
        problems.append("type, timestamp and data are wanted")
    return problems


def _document(raw: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        document = json.loads(raw)
        if isinstance(document, dict):
            return document
    return {}
