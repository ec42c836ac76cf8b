"""A local stand-in for Slack and PagerDuty that records what arrives and refuses what the real ones would refuse.

It checks the shape of each request against the documented limits (PagerDuty Events API v2: body 512 KB, summary 1024,
dedup_key 255; Slack Block Kit: header 150, section 3000, ten fields of 2000, 50 blocks), and can be told to answer
429 with ``Retry-After``, 5xx, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

HOST = "127.0.0.1"

PAGERDUTY = "pagerduty"
SLACK_WEBHOOK = "slack-webhook"
SLACK_POST = "slack-post"
SLACK_UPDATE = "slack-update"

_MAX_BODY = 512 * 1024
_SEVERITIES = {"critical", "error", "warning", "info"}
_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request.

    Attributes:
        service: ``pagerduty``, ``slack-webhook``, ``slack-post`` or ``slack-update``.
        body: The JSON document; empty if it was none.
        headers: Request headers.
        status: What was answered; 0 for nothing.
        problems: What the real service would refuse it for.
        monotonic_seconds: When it arrived, by ``time.monotonic()``.
    """

    service: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    status: int
    problems: tuple[str, ...]
    monotonic_seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the sender was told that it arrived."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Answer:
    """How to answer a request instead of accepting it.

    Attributes:
        status: HTTP status; 0 to close the connection without an answer.
        headers: Such as ``Retry-After``.
        body: What comes with it.
        delay_seconds: Wait before answering.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    delay_seconds: float = 0.0


def too_many(retry_after_seconds: float) -> Answer:
    """The answer 429 with ``Retry-After``."""
    return Answer(429, {"Retry-After": f"{retry_after_seconds:g}"}, "rate_limited")


class RecordingReceiver:
    """The receivers, on one loopback port, in a thread of their own. Thread-safe.

    Args:
        record_file: Append each request to this file, one JSON object per line.
        port: To listen on; 0 for a free one.
    """

    def __init__(self, record_file: Path | None = None, *, port: int = 0) -> None:
        self._record_file = record_file
        self._asked_port = port
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._received: list[Received] = []
        self._scripted: dict[str, deque[Answer]] = {}
        self._standing: dict[str, Answer] = {}
        self._posted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receivers", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    # Addresses

    @property
    def pagerduty_url(self) -> str:
        """For ``DRIFTLINE_PAGERDUTY_URL``."""
        return f"http://{HOST}:{self.port}/v2/enqueue"

    @property
    def slack_webhook_url(self) -> str:
        """For ``DRIFTLINE_SLACK_WEBHOOK_URL``."""
        return f"http://{HOST}:{self.port}/services/T000/B000/local-receiver"

    @property
    def slack_api_url(self) -> str:
        """For ``DRIFTLINE_SLACK_API_URL``."""
        return f"http://{HOST}:{self.port}/api/"

    # What arrived

    def received(self, *services: str) -> list[Received]:
        """Every request so far, in order; of these services only, if any are named."""
        with self._lock:
            return [r for r in self._received if not services or r.service in services]

    def accepted(self, *services: str) -> list[Received]:
        """The requests whose sender was told that they arrived."""
        return [r for r in self.received(*services) if r.accepted]

    def wait_for(self, count: int, *services: str, timeout_seconds: float = 30.0) -> list[Received]:
        """Wait until so many requests are accepted; returns what is there when the time is over."""
        deadline = time.monotonic() + timeout_seconds
        with self._arrived:
            while True:
                found = [r for r in self._received if r.accepted and (not services or r.service in services)]
                left = deadline - time.monotonic()
                if len(found) >= count or left <= 0:
                    return found
                self._arrived.wait(left)

    # How to answer

    def script(self, service: str, *answers: Answer) -> None:
        """Answer the next requests to a service like this, one each; later ones are accepted again."""
        with self._lock:
            self._scripted.setdefault(service, deque()).extend(answers)

    def answer_always(self, service: str, answer: Answer | None) -> None:
        """Answer every request to a service like this until told otherwise; None accepts again."""
        with self._lock:
            self._standing.pop(service, None)
            if answer is not None:
                self._standing[service] = answer

    # Life

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_SECONDS)

    def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(_START_SECONDS)
            self._runner = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def _start(self) -> None:
        app = web.Application(client_max_size=4 * _MAX_BODY)
        self._add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._asked_port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def _add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v2/enqueue", self._pagerduty)
        app.router.add_post("/services/{path:.*}", self._slack_webhook)
        app.router.add_post("/api/chat.postMessage", self._slack_post)
        app.router.add_post("/api/chat.update", self._slack_update)

    # The services

    async def _pagerduty(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = _json(raw)
        problems = pagerduty_problems(body, len(raw))
        refusal = json.dumps({"status": "invalid event", "message": "Event object is invalid", "errors": problems})
        accepted = {"status": "success", "message": "Event processed", "dedup_key": body.get("dedup_key")}
        return await self._answer(
            request, PAGERDUTY, body, problems, Answer(400, body=refusal), json.dumps(accepted), 202
        )

    async def _slack_webhook(self, request: web.Request) -> web.StreamResponse:
        body = _json(await request.read())
        problems = slack_problems(body)
        return await self._answer(request, SLACK_WEBHOOK, body, problems, Answer(400, body="invalid_blocks"), "ok", 200)

    async def _slack_post(self, request: web.Request) -> web.StreamResponse:
        body = await _slack_body(request)
        problems = slack_problems(body)
        if not body.get("channel"):
            problems.append("channel is missing")
        self._posted += 1
        accepted = {"ok": True, "channel": body.get("channel"), "ts": f"1700000000.{self._posted:06d}"}
        return await self._api(request, SLACK_POST, body, problems, accepted)

    async def _slack_update(self, request: web.Request) -> web.StreamResponse:
        body = await _slack_body(request)
        problems = slack_problems(body)
        if not body.get("channel") or not body.get("ts"):
            problems.append("channel or ts is missing")
        accepted = {"ok": True, "channel": body.get("channel"), "ts": body.get("ts")}
        return await self._api(request, SLACK_UPDATE, body, problems, accepted)

    async def _api(
        self, request: web.Request, service: str, body: dict[str, Any], problems: list[str], accepted: dict[str, Any]
    ) -> web.StreamResponse:
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            problems.append("not_authed")
        refusal = Answer(
            200, {"Content-Type": "application/json"}, json.dumps({"ok": False, "error": "invalid_blocks"})
        )
        return await self._answer(request, service, body, problems, refusal, json.dumps(accepted), 200)

    async def _answer(
        self,
        request: web.Request,
        service: str,
        body: Mapping[str, Any],
        problems: list[str],
        refusal: Answer,
        accepted: str,
        status: int,
    ) -> web.StreamResponse:
        with self._lock:
            queue = self._scripted.get(service)
            told = queue.popleft() if queue else self._standing.get(service)
        answer = told or (refusal if problems else Answer(status, _content_type(accepted), accepted))
        arrived = time.monotonic()
        if answer.delay_seconds:
            await asyncio.sleep(answer.delay_seconds)
        refused = bool(problems) and told is None
        noted = 0 if refused and answer.status == 200 else answer.status
        self._note(Received(service, body, dict(request.headers), noted, tuple(problems), arrived))
        if answer.status == 0:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return web.Response(status=answer.status, text=answer.body, headers=answer.headers)

    def _note(self, received: Received) -> None:
        with self._arrived:
            self._received.append(received)
            self._arrived.notify_all()
            if self._record_file is not None:
                line = {
                    "service": received.service,
                    "status": received.status,
                    "problems": received.problems,
                    "body": received.body,
                }
                with self._record_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def pagerduty_problems(body: Mapping[str, Any], size: int) -> list[str]:
    """What PagerDuty would refuse an event for."""
    problems = []
    if size > _MAX_BODY:
        problems.append(f"body of {size} bytes, at most {_MAX_BODY}")
    if not isinstance(body.get("routing_key"), str) or not body["routing_key"]:
        problems.append("routing_key is missing")
    action = body.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        problems.append(f"event_action {action!r}")
    key = body.get("dedup_key")
    if (action != "trigger" and not key) or (key is not None and not 0 < len(str(key)) <= 255):
        problems.append("dedup_key must have 1 to 255 characters")
    if action == "trigger":
        problems += _payload_problems(body.get("payload"))
    for link in body.get("links", []):
        if not str(link.get("href", "")).startswith(("http://", "https://")):
            problems.append("link is no address")
    return problems


def _payload_problems(payload: object) -> list[str]:
    if not isinstance(payload, dict):
        return ["payload is missing"]
    problems = []
    if not 0 < len(str(payload.get("summary") or "")) <= 1024:
        problems.append("summary must have 1 to 1024 characters")
    if not payload.get("source"):
        problems.append("source is missing")
    if payload.get("severity") not in _SEVERITIES:
        problems.append(f"severity {payload.get('severity')!r}")
    return problems


def slack_problems(body: Mapping[str, Any]) -> list[str]:
    """What Slack would refuse a message for."""
    blocks = body.get("blocks") or []
    problems = [] if body.get("text") or blocks else ["no_text"]
    if len(blocks) > 50:
        problems.append(f"{len(blocks)} blocks, at most 50")
    for block in blocks:
        problems += _block_problems(block)
    if sum(len(json.dumps(block, ensure_ascii=False)) for block in blocks) > 13_200:
        problems.append("msg_blocks_too_long")
    return problems


def _block_problems(block: Mapping[str, Any]) -> list[str]:
    kind = block.get("type")
    text = (block.get("text") or {}).get("text", "")
    if kind == "header":
        return _length("header", text, 150)
    if kind == "section":
        fields = block.get("fields") or []
        problems = _length("section", text, 3000) if "text" in block else []
        problems += [] if len(fields) <= 10 else [f"{len(fields)} fields, at most 10"]
        return problems + [p for f in fields for p in _length("field", f["text"], 2000)]
    if kind == "context":
        elements = block.get("elements") or []
        return [] if 1 <= len(elements) <= 10 else [f"{len(elements)} elements in a context"]
    return [] if kind in ("divider", "actions", "image", "rich_text") else [f"unknown block {kind!r}"]


def _length(what: str, text: str, most: int) -> list[str]:
    return [] if 0 < len(text) <= most else [f"{what} of {len(text)} characters, 1 to {most}"]


def _content_type(text: str) -> dict[str, str]:
    return {"Content-Type": "application/json" if text.startswith("{") else "text/html; charset=utf-8"}


def _json(raw: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        document = json.loads(raw)
        if isinstance(document, dict):
            return document
    return {}


async def _slack_body(request: web.Request) -> dict[str, Any]:
    """A Web API call comes as JSON, or as a form whose blocks are JSON."""
    if request.content_type == "application/json":
        return _json(await request.read())
    form = {name: str(content) for name, content in (await request.post()).items()}
    return {**form, "blocks": json.loads(form.get("blocks", "[]"))}
