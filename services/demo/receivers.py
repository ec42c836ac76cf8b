"""Local stand-ins for Slack and PagerDuty that record what arrives and refuse what the real ones would refuse.

Each request is checked against the documented limits (PagerDuty Events API v2: body 512 KB, summary 1024, dedup_key
255; Slack: Block Kit). PagerDuty merges by ``dedup_key`` and tells of it by signed webhooks; Slack keeps messages,
threads and files, is asked for its history, and tells what people press by Socket Mode or by signed requests. Both can
be told to answer 429 with ``Retry-After``, 5xx, late, or not at all (:mod:`services.demo.recording`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from services.demo.pagerduty_account import (
    PagerDutyAccount,
    Webhook,
    change_problems,
    pagerduty_problems,
    signed_webhook,
)
from services.demo.recording import HOST, Answer, Received, Recorder, json_object, late, lost, too_many
from services.demo.slack_limits import slack_problems
from services.demo.slack_workspace import SlackRefusalError, SlackWorkspace

__all__ = (
    "HOST",
    "PAGERDUTY",
    "PAGERDUTY_CHANGE",
    "SLACK_CALL",
    "SLACK_POST",
    "SLACK_UPDATE",
    "SLACK_UPLOAD",
    "SLACK_WEBHOOK",
    "Answer",
    "Pressed",
    "Received",
    "RecordingReceiver",
    "late",
    "lost",
    "pagerduty_problems",
    "slack_problems",
    "too_many",
)

PAGERDUTY = "pagerduty"
PAGERDUTY_CHANGE = "pagerduty-change"
SLACK_WEBHOOK = "slack-webhook"
SLACK_POST = "slack-post"
SLACK_UPDATE = "slack-update"
SLACK_UPLOAD = "slack-upload"

SLACK_CALL = "slack-call:"
"""Before the method's name, of every other call of Slack's Web API: ``slack-call:conversations.history``."""

_OTHER_METHODS = (
    "chat.postEphemeral",
    "conversations.history",
    "conversations.replies",
    "files.getUploadURLExternal",
    "files.completeUploadExternal",
    "views.open",
    "apps.connections.open",
    "auth.test",
)
_ACKNOWLEDGED_SECONDS = 3.0
_CONNECTED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pressed:
    """What came of a press.

    Attributes:
        payload: What the app was told.
        answer: What it answered; None for nothing, or nothing in time.
        status: HTTP status; 200 for an acknowledged envelope, 0 where no answer came within three seconds.
        seconds: Until the answer.
    """

    payload: Mapping[str, Any]
    answer: Any
    status: int
    seconds: float


class RecordingReceiver(Recorder):
    """Slack and PagerDuty. Thread-safe.

    Attributes:
        slack: The workspace.
        pagerduty: The account.
        webhook_answers: HTTP statuses that PagerDuty's webhooks were answered with; 0 for no answer.
    """

    side_services = frozenset({PAGERDUTY_CHANGE, SLACK_UPLOAD, *(SLACK_CALL + method for method in _OTHER_METHODS)})

    def __init__(self, record_file: Path | None = None, *, port: int = 0) -> None:
        super().__init__(record_file, port=port)
        self.slack = SlackWorkspace()
        self.pagerduty = PagerDutyAccount()
        self.webhook_answers: list[int] = []
        self._sockets: list[web.WebSocketResponse] = []
        self._acknowledgements: dict[str, asyncio.Future[Any]] = {}
        self._sending: set[asyncio.Task[Any]] = set()

    # Addresses

    @property
    def pagerduty_url(self) -> str:
        """For ``DRIFTLINE_PAGERDUTY_URL``."""
        return f"{self.url}/v2/enqueue"

    @property
    def slack_webhook_url(self) -> str:
        """For ``DRIFTLINE_SLACK_WEBHOOK_URL``."""
        return f"{self.url}/services/T000/B000/local-receiver"

    @property
    def slack_api_url(self) -> str:
        """For ``DRIFTLINE_SLACK_API_URL``."""
        return f"{self.url}/api/"

    # What people do

    def press(
        self,
        what: str,
        choice: str = "",
        *,
        incident: str = "",
        ts: str = "",
        channel: str = "",
        user: str = "U024BE7LH",
        name: str = "ada",
        url: str = "",
        secret: str = "",
    ) -> Pressed:
        """Press something in the latest Slack message that shows it: ``press("Acknowledge")``,
        ``press("Silence", "4 h")``.

        Args:
            what: The beginning of the button's label.
            choice: Of a menu, the beginning of the option's label.
            incident: Only one that is about this incident.
            ts: Only in this message.
            channel: Only in this channel.
            user: Who.
            name: Who is called so.
            url: Tell the app by a signed request to this address; otherwise by Socket Mode.
            secret: Signs the request.

        Raises:
            LookupError: Nothing of the kind can be pressed.
            TimeoutError: No app is connected by Socket Mode.
        """
        asked = {"choice": choice, "incident": incident, "ts": ts, "user": user, "name": name, "channel": channel}
        return self.tell(self.slack.pressed(what, **asked), url=url, secret=secret)

    def submit(
        self, text: str, *, user: str = "U024BE7LH", name: str = "ada", url: str = "", secret: str = ""
    ) -> Pressed:
        """Fill in and submit the form that was opened last. It stays open where the app finds an error in it."""
        payload = self.slack.submitted(text, user=user, name=name)
        pressed = self.tell(payload, url=url, secret=secret)
        if pressed.status == 200 and not (isinstance(pressed.answer, dict) and pressed.answer.get("errors")):
            self.slack.close_view(payload["view"]["id"])
        return pressed

    def tell(self, payload: Mapping[str, Any], *, url: str = "", secret: str = "", age_seconds: float = 0) -> Pressed:
        """Tell the app of a press; again, if it was told before. ``age_seconds`` dates a signed request back."""
        work = self._request(payload, url, secret, age_seconds) if url else self._envelope(payload)
        return self.run(work, _CONNECTED_SECONDS + 2 * _ACKNOWLEDGED_SECONDS)

    def disconnect(self, reason: str = "refresh_requested") -> None:
        """Slack asks for another connection, and ends the present ones."""

        async def end() -> None:
            for socket in list(self._sockets):
                await socket.send_json({"type": "disconnect", "reason": reason})

        self.run(end())

    def in_pagerduty(self, kind: str, dedup_key: str, *, person: str | None = "Ada Lovelace", text: str = "") -> None:
        """Somebody does something there: ``incident.acknowledged``, ``incident.annotated`` …; subscribers are told, and
        this returns when they have answered. ``person=None``: PagerDuty does it by itself.
        """
        for webhook in self.pagerduty.does(kind, dedup_key, person=person, text=text):
            self.deliver(webhook)

    def deliver(self, webhook: Webhook) -> int:
        """Deliver a webhook of PagerDuty's, again if it was delivered before; the status it was answered with."""
        return self.run(self._deliver(webhook))

    def send_webhook(self, url: str, event: Mapping[str, Any], *secrets: str) -> int:
        """Sign a document as PagerDuty does and deliver it; the status it was answered with."""
        return self.deliver(signed_webhook(url, event, *secrets))

    # The services

    def _add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v2/enqueue", self._pagerduty)
        app.router.add_post("/v2/change/enqueue", self._pagerduty_change)
        app.router.add_post("/services/{path:.*}", self._slack_webhook)
        app.router.add_post("/api/chat.postMessage", self._slack_post)
        app.router.add_post("/api/chat.update", self._slack_update)
        app.router.add_route("*", "/api/{method}", self._slack_call)
        app.router.add_post("/upload/v1/{file}", self._slack_upload)
        app.router.add_get("/link/", self._socket)

    async def _stop(self) -> None:
        for task in list(self._sending):
            task.cancel()
        for socket in list(self._sockets):
            with contextlib.suppress(Exception):
                await socket.close()
        await super()._stop()

    async def _pagerduty(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json_object(raw)

        def take() -> str:
            key, webhooks = self.pagerduty.take(body)
            for webhook in webhooks:
                task = asyncio.get_running_loop().create_task(self._deliver(webhook))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            return json.dumps({"status": "success", "message": "Event processed", "dedup_key": key})

        problems = pagerduty_problems(body, len(raw))
        return await self._answer(request, PAGERDUTY, body, problems, _invalid_event(problems), take, 202)

    async def _pagerduty_change(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json_object(raw)
        problems = change_problems(body, len(raw))
        accepted = json.dumps({"status": "success", "message": "Change event processed"})
        return await self._answer(request, PAGERDUTY_CHANGE, body, problems, _invalid_event(problems), accepted, 202)

    async def _slack_webhook(self, request: web.Request) -> web.StreamResponse:
        body = json_object(await request.read())
        problems = slack_problems(body)
        return await self._answer(request, SLACK_WEBHOOK, body, problems, Answer(400, body="invalid_blocks"), "ok", 200)

    async def _slack_post(self, request: web.Request) -> web.StreamResponse:
        return await self._api(request, SLACK_POST, "chat.postMessage")

    async def _slack_update(self, request: web.Request) -> web.StreamResponse:
        return await self._api(request, SLACK_UPDATE, "chat.update")

    async def _slack_call(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        return await self._api(request, SLACK_CALL + method, method)

    async def _api(self, request: web.Request, service: str, method: str) -> web.StreamResponse:
        args = await _slack_arguments(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        problems: list[str] = []
        error, do = "", None
        try:
            do = self.slack.call(method, token, args)
        except SlackRefusalError as refusal:
            problems, error = list(refusal.problems), refusal.code

        def take() -> str:
            return json.dumps(self._absolute(do())) if do is not None else "{}"

        refused = Answer(200, {"Content-Type": "application/json"}, json.dumps({"ok": False, "error": error}))
        return await self._answer(request, service, args, problems, refused, take, 200)

    def _absolute(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Addresses in an answer are ours."""
        if "upload_url" in answer:
            answer["upload_url"] = f"{self.url}/{answer['upload_url']}"
        if str(answer.get("url", "")).startswith("link/"):
            answer["url"] = f"ws://{HOST}:{self.port}/{answer['url']}"
        return answer

    async def _slack_upload(self, request: web.Request) -> web.StreamResponse:
        content, file = await request.read(), request.match_info["file"]
        body = {"file": file, "bytes": len(content), "type": request.content_type}
        problems = [] if content.startswith(b"\x89PNG") else ["no PNG"]

        def take() -> str:
            return "OK" if self.slack.put(file, content) else "not what was announced"

        return await self._answer(request, SLACK_UPLOAD, body, problems, Answer(400, body="invalid"), take, 200)

    # Socket Mode and signed requests

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not self.slack.redeem(request.query.get("ticket", "")):
            return web.Response(status=401)
        socket = web.WebSocketResponse(heartbeat=30)
        await socket.prepare(request)
        self._sockets.append(socket)
        await socket.send_json({"type": "hello", "num_connections": len(self._sockets), "debug_info": {"host": HOST}})
        try:
            async for message in socket:
                document = json_object(str(message.data).encode())
                waiting = self._acknowledgements.pop(str(document.get("envelope_id")), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(document.get("payload"))
        finally:
            self._sockets.remove(socket)
        return socket

    async def _envelope(self, payload: Mapping[str, Any]) -> Pressed:
        deadline = time.monotonic() + _CONNECTED_SECONDS
        while not self._sockets:
            if time.monotonic() > deadline:
                raise TimeoutError("no app is connected by Socket Mode")
            await asyncio.sleep(0.02)
        envelope = str(uuid.uuid4())
        waiting = self._acknowledgements[envelope] = asyncio.get_running_loop().create_future()
        form = payload["type"] == "view_submission"
        began = time.monotonic()
        document = {"type": "interactive", "envelope_id": envelope, "accepts_response_payload": form}
        await self._sockets[-1].send_json({**document, "payload": payload})
        try:
            answer = await asyncio.wait_for(waiting, _ACKNOWLEDGED_SECONDS)
        except TimeoutError:
            return Pressed(payload, None, 0, time.monotonic() - began)
        return Pressed(payload, answer, 200, time.monotonic() - began)

    async def _request(self, payload: Mapping[str, Any], url: str, secret: str, age_seconds: float) -> Pressed:
        body = urlencode({"payload": json.dumps(payload)}).encode()
        stamp = str(int(time.time() - age_seconds))
        signed = hmac.new(secret.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={signed}",
        }
        began = time.monotonic()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_ACKNOWLEDGED_SECONDS)) as session,
                session.post(url, data=body, headers=headers) as response,
            ):
                raw = await response.read()
                return Pressed(payload, json_object(raw) or None, response.status, time.monotonic() - began)
        except (aiohttp.ClientError, TimeoutError):
            return Pressed(payload, None, 0, time.monotonic() - began)

    async def _deliver(self, webhook: Webhook) -> int:
        """PagerDuty waits five seconds."""
        status = 0
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5.0)) as session,
                session.post(webhook.url, data=webhook.body, headers=webhook.headers) as response,
            ):
                status = response.status
        self.webhook_answers.append(status)
        return status


def _invalid_event(problems: list[str]) -> Answer:
    refusal = {"status": "invalid event", "message": "Event object is invalid", "errors": problems}
    return Answer(400, body=json.dumps(refusal))


async def _slack_arguments(request: web.Request) -> dict[str, Any]:
    """Of a call of the Web API, which come as JSON, as a form whose blocks are JSON, or in the address."""
    asked = dict(request.query)
    if request.content_type == "application/json":
        return {**asked, **json_object(await request.read())}
    form = {name: str(content) for name, content in (await request.post()).items()}
    blocks = {"blocks": json.loads(form["blocks"])} if "blocks" in form else {}
    return {**asked, **form, **blocks}
