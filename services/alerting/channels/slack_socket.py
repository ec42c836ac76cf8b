"""Socket Mode: Slack tells of pressed buttons through a connection that we open, so nobody has to reach us.

1. ``apps.connections.open`` gives an address that is good for one connection.
2. Slack says ``hello``; then each ``interactive`` envelope is handed on and acknowledged by its id within 3 s.
3. Before Slack ends a connection it says ``disconnect``: the next one is opened at once, and the old one is read until
   Slack closes it.

slack-sdk has a client for this; it keeps the address of a connection that failed, which is good only once, and so never
comes back from a network that was away for a moment. Its Web API client is used here, the rest is aiohttp's.
Source: https://docs.slack.dev/apis/events-api/using-socket-mode
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from services.alerting.channels.base import Redactor, network_error, proxy_for, retry_after
from services.alerting.channels.slack_web import NETWORK_ERRORS, api_error, silent_logger
from services.alerting.policy.model import SlackReceiver

log = logging.getLogger("driftline.alerting")

HEARTBEAT_SECONDS = 20.0
BACK_OFF_MOST_SECONDS = 60.0
_HELLO_SECONDS = 15.0
_OLD_SECONDS = 30.0
_SHORT_SECONDS = 5.0
_MOST_BYTES = 1 << 20

Take = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Does what a payload asks for, within 3 s; what to answer with."""


class _NoHelloError(Exception):
    pass


class SlackSocket:
    """One app's connection.

    Args:
        receiver: With an app token.
        session: For requests and the connection.
        take: What to do with each payload.
        chance: For the jitter between attempts.

    Attributes:
        connected: Whether what is pressed reaches us.
        trouble: Why not; empty while it does, or was not tried yet.
    """

    def __init__(
        self, receiver: SlackReceiver, session: aiohttp.ClientSession, take: Take, chance: random.Random | None = None
    ) -> None:
        self._receiver = receiver
        self._redact = Redactor(receiver.secrets())
        self._session = session
        self._take = take
        self._chance = chance or random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self.connected = False
        self.trouble = ""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        try:
            while True:
                wait_seconds: float | None = None
                began = asyncio.get_running_loop().time()
                try:
                    await self._connect()
                except SlackApiError as error:
                    headers = getattr(error.response, "headers", None) or {}
                    wait_seconds = retry_after(headers.get("Retry-After"), dt.datetime.now(dt.UTC))
                    self._failed(str(getattr(api_error(error, self._redact), "error", "")))
                except _NoHelloError:
                    self._failed("Slack did not say hello")
                except NETWORK_ERRORS as error:
                    self._failed(network_error(error).error)
                if wait_seconds is None:
                    wait_seconds = self._pause(asyncio.get_running_loop().time() - began)
                await asyncio.sleep(wait_seconds)
        finally:
            self.connected = False
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pause(self, lasted_seconds: float) -> float:
        """How long to wait: not at all after a connection that was a good one, a while after each that was not."""
        if not self._failures and lasted_seconds > _SHORT_SECONDS:
            return 0.0
        most = min(2.0 ** min(max(self._failures - 1, 0), 10), BACK_OFF_MOST_SECONDS)
        return most * self._chance.uniform(0.5, 1.0)

    async def _connect(self) -> None:
        """One connection, until Slack says that it will end, or it has."""
        assert self._receiver.app_token is not None
        client = AsyncWebClient(
            base_url=self._receiver.api_url, session=self._session, retry_handlers=[], logger=silent_logger()
        )
        client.proxy = proxy_for(self._receiver.api_url)
        answer = await client.apps_connections_open(app_token=self._receiver.app_token.get_secret_value())
        url = str(answer["url"])
        parts = urlsplit(url)
        if parts.scheme != "wss" and urlsplit(self._receiver.api_url).scheme == "https":
            raise ValueError("Slack gave an address that is not wss")
        socket = await self._session.ws_connect(
            url, heartbeat=HEARTBEAT_SECONDS, max_msg_size=_MOST_BYTES, proxy=proxy_for(url.replace("ws", "http", 1))
        )
        kept = False
        try:
            kept = await self._listen(socket)
        finally:
            self.connected = False
            if kept:
                self._start(self._finish(socket))
            else:
                await socket.close()

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> bool:
        """Hand on what comes; whether Slack asked for a new connection while this one goes on for a moment."""
        hello = False
        while True:
            message = await socket.receive(timeout=None if hello else _HELLO_SECONDS)
            document = _document(message)
            if document is None:
                if not hello:
                    raise _NoHelloError
                return False
            kind = document.get("type")
            if kind == "hello":
                hello = True
                self._came()
            elif kind == "disconnect":
                return hello and document.get("reason") != "link_disabled"
            else:
                self._envelope(socket, document)

    async def _finish(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Read an old connection to its end: what was on its way must not be lost."""
        try:
            async with asyncio.timeout(_OLD_SECONDS):
                while (document := _document(await socket.receive())) is not None:
                    if document.get("type") not in ("hello", "disconnect"):
                        self._envelope(socket, document)
        except NETWORK_ERRORS:
            pass
        finally:
            await socket.close()

    def _envelope(self, socket: aiohttp.ClientWebSocketResponse, document: Mapping[str, Any]) -> None:
        if document.get("envelope_id"):
            self._start(self._answer(socket, document))

    async def _answer(self, socket: aiohttp.ClientWebSocketResponse, document: Mapping[str, Any]) -> None:
        answer: dict[str, Any] = {"envelope_id": document["envelope_id"]}
        payload = document.get("payload")
        try:
            if document.get("type") == "interactive" and isinstance(payload, dict):
                said = await self._take(payload)
                if said and document.get("accepts_response_payload"):
                    answer["payload"] = said
            await socket.send_str(json.dumps(answer))
        except NETWORK_ERRORS:
            # Slack shows who pressed that it did not get through; pressing again changes nothing twice.
            log.info("%s: an answer of Slack's could not be acknowledged", self._receiver.name)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _came(self) -> None:
        self.connected = True
        if self._failures:
            log.info("%s: Slack is connected again: buttons work", self._receiver.name)
        self._failures = 0
        self.trouble = ""

    def _failed(self, why: str) -> None:
        self._failures += 1
        self.trouble = f"{self._receiver.name}: buttons in Slack do not reach us: {why}"
        if self._failures == 1:
            log.warning("%s", self.trouble)


def _document(message: aiohttp.WSMessage) -> Mapping[str, Any] | None:
    """What a message holds, empty where it is nothing of Slack's; None at the connection's end."""
    if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
        return None
    if message.type is aiohttp.WSMsgType.ERROR:
        return None
    try:
        document = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else None
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {}
