"""A stand-in for services that are told of alerts: it listens on the loopback interface and records what arrives.

It can be told to answer 429 with ``Retry-After``, 5xx, late, or not at all. What it is a stand-in for is added by
subclasses (:class:`services.demo.receivers.RecordingReceiver`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

HOST = "127.0.0.1"

_MOST_BYTES = 2 << 20
_START_SECONDS = 10.0
_ACCEPT = -1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Received:
    """One request.

    Attributes:
        service: ``pagerduty``, ``slack-webhook``, ``slack-post``, ``slack-update`` …
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
        taken: It is taken all the same: its sender does not know that it arrived.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    delay_seconds: float = 0.0
    taken: bool = False


def too_many(retry_after_seconds: float) -> Answer:
    """The answer 429 with ``Retry-After``."""
    return Answer(429, {"Retry-After": f"{retry_after_seconds:g}"}, "rate_limited")


def late(delay_seconds: float) -> Answer:
    """The usual answer, after a while."""
    return Answer(_ACCEPT, delay_seconds=delay_seconds)


def lost() -> Answer:
    """It is taken, and the connection is closed without an answer: its sender is in doubt."""
    return Answer(0, taken=True)


class Recorder:
    """What listens and records, on one loopback port, in a thread of its own. Thread-safe.

    Args:
        record_file: Append each request to this file, one JSON object per line.
        port: To listen on; 0 for a free one.
    """

    side_services: frozenset[str] = frozenset()
    """Requests that carry no message: recorded, and returned only where they are asked for by name."""

    def __init__(self, record_file: Path | None = None, *, port: int = 0) -> None:
        self._record_file = record_file
        self._asked_port = port
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._received: list[Received] = []
        self._scripted: dict[str, deque[Answer]] = {}
        self._standing: dict[str, Answer] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receivers", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    # What arrived

    def received(self, *services: str) -> list[Received]:
        """Every message so far, in order; of these services only, if any are named."""
        with self._lock:
            return [r for r in self._received if self._is_asked_for(r, services)]

    def accepted(self, *services: str) -> list[Received]:
        """The messages whose sender was told that they arrived."""
        return [r for r in self.received(*services) if r.accepted]

    def wait_for(self, count: int, *services: str, timeout_seconds: float = 30.0) -> list[Received]:
        """Wait until so many messages are accepted; returns what is there when the time is over."""
        deadline = time.monotonic() + timeout_seconds
        with self._arrived:
            while True:
                found = [r for r in self._received if r.accepted and self._is_asked_for(r, services)]
                left = deadline - time.monotonic()
                if len(found) >= count or left <= 0:
                    return found
                self._arrived.wait(left)

    def _is_asked_for(self, received: Received, services: tuple[str, ...]) -> bool:
        return received.service in services if services else received.service not in self.side_services

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
        self.run(self._start())

    def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            self.run(self._stop())
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

    def run(self, work: Coroutine[Any, Any, T], timeout_seconds: float = _START_SECONDS) -> T:
        """Run something on the recorder's event loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_seconds)

    async def _start(self) -> None:
        app = web.Application(client_max_size=_MOST_BYTES)
        self._add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._asked_port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        late = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _add_routes(self, app: web.Application) -> None:
        """What is listened for; subclasses add theirs."""

    async def _answer(
        self,
        request: web.Request,
        service: str,
        body: Mapping[str, Any],
        problems: list[str],
        refusal: Answer,
        accepted: str | Callable[[], str],
        status: int,
    ) -> web.StreamResponse:
        """Record a request and answer it as told, or as the real service would.

        Args:
            request: It.
            service: Which it is for.
            body: What it says.
            problems: What the real service would refuse it for.
            refusal: And how.
            accepted: What it answers otherwise; a function is called when the request is taken, and only then.
            status: And with which status.
        """
        with self._lock:
            queue = self._scripted.get(service)
            told = queue.popleft() if queue else self._standing.get(service)
        arrived = time.monotonic()
        delay_seconds = told.delay_seconds if told is not None else 0.0
        if told is not None and told.status == _ACCEPT:
            told = None
        taken = not problems if told is None else told.taken or 200 <= told.status < 300
        text = (accepted() if callable(accepted) else accepted) if taken else ""
        answer = told or (refusal if problems else Answer(status, _content_type(text), text))
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
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


def json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(raw)
        if isinstance(document, dict):
            return document
    return {}


def _content_type(text: str) -> dict[str, str]:
    return {"Content-Type": "application/json" if text.startswith("{") else "text/html; charset=utf-8"}
