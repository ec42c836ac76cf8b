"""Slack: by a bot's token one message per thread that shows how things are, or by an incoming webhook one per change.

With a token:

1. A thread's first message is posted, with our key in its metadata.
2. Each change updates it in place and is told in its thread. A reminder, and a severity that rose, are shown in the
   channel too: somebody has to notice.
3. Slack knows no idempotency key. A message whose answer was lost, or whose sender was killed before it noted the
   answer, is looked for by our key (``conversations.history``, ``conversations.replies``) before it is posted again.
   Where the token may not look, it is posted again: **at least once**.

A webhook can neither update nor look: every change is a message of its own, and one in doubt is posted again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError, SlackObjectFormationError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from driftline.codec import Record
from services.alerting.channels.base import (
    Again,
    Failed,
    Outcome,
    Pacer,
    Redactor,
    Sent,
    network_error,
    outcome_of_status,
    proxy_for,
)
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.slack_blocks import SlackMessage, reopened_message, reply_message, root_message
from services.alerting.channels.slack_web import (
    NETWORK_ERRORS,
    api_error,
    error_code,
    passes,
    silent_logger,
    web_client,
)
from services.alerting.clock import Clock
from services.alerting.incidents.views import RESOLVED
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import SEVERITIES, SlackReceiver
from services.alerting.words.incident import Text, describe
from services.alerting.words.plots import plot_alternative, plot_png
from services.alerting.words.text import shorten

log = logging.getLogger("driftline.alerting")

METADATA_EVENT = "driftline_notification"

_FIRST = (Kind.TRIGGER, Kind.DIGEST, Kind.HEARTBEAT, Kind.TEST)
"""Kinds that are a message of their own, whatever was posted before."""

# The message to update is gone or too old: what it would have said goes into a new one.
_NOT_UPDATABLE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})

_LOOK_PAGES = 10
_PAGE = 200
_CLOCKS_APART_SECONDS = 300.0
_ALTERNATIVE_CHARACTERS = 1000
_MOST_UPLOADS = 5
_CLOSE_SECONDS = 5.0

# Drawing is not known to be safe in several threads at once, and there may be several Slack channels.
_drawing = threading.Lock()


class SlackChannel:
    """Sends to one Slack channel.

    Args:
        receiver: Where to.
        session: Of :func:`services.alerting.channels.base.http_session`.
        redact: Takes secrets out of what Slack says.
        clock: Of the service.
    """

    def __init__(
        self, receiver: SlackReceiver, session: aiohttp.ClientSession, redact: Redactor, clock: Clock | None = None
    ) -> None:
        self._receiver = receiver
        self._session = session
        self._redact = redact
        self._clock = clock or Clock()
        self._answers = receiver.app_token is not None or receiver.signing_secret is not None
        self._may_upload = True
        self._uploads: set[asyncio.Task[None]] = set()
        self._said_blind = False
        # Only posting takes a channel's name; everything else needs the id, which the first answer tells.
        self._channel = receiver.channel
        self._web = web_client(receiver, session)
        self._webhook: AsyncWebhookClient | None = None
        if self._web is None and receiver.webhook_url is not None:
            url = receiver.webhook_url.get_secret_value()
            self._webhook = AsyncWebhookClient(url, session=session, retry_handlers=[], logger=silent_logger())
            self._webhook.proxy = proxy_for(url)  # slack-sdk would ignore NO_PROXY

    def __repr__(self) -> str:
        return f"SlackChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """Let pictures that are on their way arrive, for a moment. The session is the caller's."""
        if self._uploads:
            _, late = await asyncio.wait(self._uploads, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. See :class:`services.alerting.channels.base.Channel`."""
        text = describe(delivery)
        try:
            if self._web is not None:
                outcome = await self._tell(self._web, delivery, text, pace)
            elif self._webhook is not None:
                outcome = await self._post_webhook(self._webhook, delivery, text, pace)
            else:
                return Failed("the receiver has neither a token nor a webhook")
        except SlackApiError as error:
            outcome = api_error(error, self._redact)
        except SlackObjectFormationError:
            outcome = Failed("the message breaks a rule of Block Kit and was not sent; please report this")
        except NETWORK_ERRORS as error:
            outcome = network_error(error)
        if isinstance(outcome, Again) and delivery.doubtful:
            # Nobody has looked whether the earlier attempt arrived, or it could not be found out.
            return dataclasses.replace(outcome, doubtful=True)
        return outcome

    async def _post_webhook(self, client: AsyncWebhookClient, delivery: Delivery, text: Text, pace: Pacer) -> Outcome:
        message = root_message(text, delivery, answers=False)
        await pace()
        response = await client.send(text=message.text, blocks=message.blocks, unfurl_links=False, unfurl_media=False)
        said = self._redact(response.body)
        return outcome_of_status(response.status_code, response.headers, said, dt.datetime.now(dt.UTC)) or Sent()

    async def _tell(self, client: AsyncWebClient, delivery: Delivery, text: Text, pace: Pacer) -> Outcome:
        """By a token: post the thread's message, or change it and say in its thread what changed."""
        receipt = delivery.receipt
        channel, root = str(receipt.get("channel", "")), str(receipt.get("ts", ""))
        if delivery.kind in _FIRST or not channel or not root:
            return await self._begin(client, delivery, text, pace)
        message = root_message(text, delivery, answers=self._answers)
        await pace()
        try:
            await client.chat_update(channel=channel, ts=root, text=message.text, blocks=message.blocks)
        except SlackApiError as error:
            if error_code(error) not in _NOT_UPDATABLE:
                raise
            return await self._begin(client, delivery, text, pace)
        return await self._reply(client, delivery, text, (channel, root), pace)

    async def _begin(self, client: AsyncWebClient, delivery: Delivery, text: Text, pace: Pacer) -> Sent:
        """Post a message of its own, unless an earlier attempt did."""
        state = {"severity": _severity(delivery)}
        if delivery.doubtful and (found := await self._find(client, delivery, self._channel, "", pace)):
            return Sent({"channel": self._channel, "ts": found, **state}, repeated=True)
        fresh = dataclasses.replace(delivery, receipt={})  # it stands alone: what is new is in it
        message = root_message(text, fresh, answers=self._answers)
        answer = await self._post(client, delivery, message, pace, channel=self._receiver.channel)
        channel, root = str(answer.get("channel", "")), str(answer.get("ts", ""))
        self._channel = channel or self._channel
        if delivery.kind is Kind.TRIGGER and delivery.receipt.get("ts"):
            await self._refer(client, delivery, pace)
        if delivery.kind in (Kind.TRIGGER, Kind.DIGEST) and text.plots:
            self._upload_soon(client, text.plots, channel, root, pace)
        return Sent({"channel": channel, "ts": root, **state})

    async def _refer(self, client: AsyncWebClient, delivery: Delivery, pace: Pacer) -> None:
        """Say in the thread of the earlier message that there is a new one, which is sent whatever becomes of this."""
        try:
            message, old = reopened_message(), delivery.receipt
            await pace()
            await client.chat_postMessage(
                channel=str(old.get("channel", "")), thread_ts=str(old["ts"]), text=message.text, blocks=message.blocks
            )
        except (SlackApiError, *NETWORK_ERRORS) as error:
            log.debug("%s: the earlier thread was not told: %s", self._receiver.name, type(error).__name__)

    async def _reply(
        self, client: AsyncWebClient, delivery: Delivery, text: Text, root: tuple[str, str], pace: Pacer
    ) -> Sent:
        """Say what changed in the thread, and in the channel too where somebody has to notice."""
        receipt = {"severity": _severity(delivery)}
        if delivery.doubtful and await self._find(client, delivery, *root, pace):
            return Sent(receipt, repeated=True)
        rose = _rank(receipt["severity"]) < _rank(str(delivery.receipt.get("severity", "")))
        loud = delivery.kind is Kind.REPEAT or (delivery.kind is Kind.UPDATE and rose)
        message = reply_message(text, delivery, loud=loud)
        await self._post(
            client, delivery, message, pace, channel=root[0], thread_ts=root[1], reply_broadcast=True if loud else None
        )
        return Sent(receipt)

    async def _post(
        self, client: AsyncWebClient, delivery: Delivery, message: SlackMessage, pace: Pacer, **where: Any
    ) -> Mapping[str, Any]:
        await pace()
        payload = {"key": delivery.key, "thread": delivery.thread_key}
        response = await client.chat_postMessage(
            text=message.text,
            blocks=message.blocks,
            metadata={"event_type": METADATA_EVENT, "event_payload": payload},
            unfurl_links=False,
            unfurl_media=False,
            **where,
        )
        return response.data if isinstance(response.data, dict) else {}

    async def _find(
        self, client: AsyncWebClient, delivery: Delivery, channel: str, root: str, pace: Pacer
    ) -> str | None:
        """The ``ts`` of the message that an earlier attempt posted; None where there is none, or where nobody may look.

        Args:
            client: With the token.
            delivery: Whose key is looked for.
            channel: Where.
            root: In the thread of this message; empty for the channel itself.
            pace: Before each request.
        """
        since = self._clock.real_seconds((delivery.sent_ms - delivery.created_ms) / 1000)
        asked: dict[str, Any] = {
            "channel": channel,
            "oldest": f"{time.time() - since - _CLOCKS_APART_SECONDS:.6f}",
            "limit": _PAGE,
            "include_all_metadata": True,
        }
        try:
            for _ in range(_LOOK_PAGES):
                await pace()
                if root:
                    answer = await client.conversations_replies(ts=root, **asked)
                else:
                    answer = await client.conversations_history(**asked)
                if found := _message_with(answer.get("messages") or [], delivery.key):
                    return found
                cursor = (answer.get("response_metadata") or {}).get("next_cursor")
                if not cursor:
                    return None
                asked["cursor"] = cursor
        except SlackApiError as error:
            status = int(getattr(error.response, "status_code", 0) or 0)
            if passes(code := error_code(error)) or not 200 <= status < 300:
                raise
            if not self._said_blind:
                self._said_blind = True
                log.warning(
                    "%s: Slack does not let us look for messages (%s); one in doubt is posted again. Give the "
                    "token the scope channels:history (groups:history for a private channel) and the channel by its id",
                    self._receiver.name,
                    shorten(self._redact(str(code)), 100),
                )
        return None

    def _upload_soon(
        self, client: AsyncWebClient, causes: Sequence[Record], channel: str, root: str, pace: Pacer
    ) -> None:
        """Pictures go beside what is sent next: nobody should wait for them. In a storm there are none."""
        if self._may_upload and len(self._uploads) < _MOST_UPLOADS:
            task = asyncio.create_task(self._upload(client, causes, channel, root, pace))
            self._uploads.add(task)
            task.add_done_callback(self._uploads.discard)

    async def _upload(
        self, client: AsyncWebClient, causes: Sequence[Record], channel: str, root: str, pace: Pacer
    ) -> None:
        """Put pictures into the thread. Without the scope ``files:write``, and whatever else fails, there are none:
        the message is sent.
        """
        try:
            files: list[dict[str, str | None]] = [
                {"id": await self._put(client, number, cause), "title": "Expected against observed"}
                for number, cause in enumerate(causes[:2], start=1)
            ]
            await pace()
            await client.files_completeUploadExternal(files=files, channel_id=channel, thread_ts=root)
        except SlackApiError as error:
            self._may_upload = passes(error_code(error))
            log.debug("%s: no picture: %s", self._receiver.name, self._redact(str(error_code(error))))
        except Exception as error:  # a picture that cannot be drawn must not make the message fail
            log.debug("%s: no picture: %s", self._receiver.name, type(error).__name__)

    async def _put(self, client: AsyncWebClient, number: int, cause: Record) -> str:
        picture = await asyncio.to_thread(_draw, cause)
        answer = await client.files_getUploadURLExternal(
            filename=f"expected-and-observed-{number}.png",
            length=len(picture),
            alt_txt=shorten(plot_alternative(cause), _ALTERNATIVE_CHARACTERS),
        )
        url = str(answer["upload_url"])
        if urlsplit(url).scheme not in {"https", urlsplit(self._receiver.api_url).scheme}:
            raise ValueError("the address for the picture is not https")
        async with self._session.post(
            url, data=picture, headers={"Content-Type": "image/png"}, proxy=proxy_for(url), allow_redirects=False
        ) as response:
            response.raise_for_status()
        return str(answer["file_id"])


def _draw(cause: Record) -> bytes:
    with _drawing:
        return plot_png(cause)


def _message_with(messages: Sequence[Mapping[str, Any]], key: str) -> str | None:
    for message in messages:
        metadata = message.get("metadata") or {}
        payload = metadata.get("event_payload") or {}
        if metadata.get("event_type") == METADATA_EVENT and payload.get("key") == key:
            return str(message.get("ts", ""))
    return None


def _severity(delivery: Delivery) -> str:
    """The most urgent of what is not over; empty when everything is."""
    left = [incident.severity for incident in delivery.incidents if incident.status != RESOLVED]
    return min(left, key=_rank, default="")


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
