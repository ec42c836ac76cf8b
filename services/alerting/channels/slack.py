"""Slack: Block Kit messages through slack-sdk, by an incoming webhook or a bot token.

With a token the message of a trigger is updated at the resolve, and answered in its thread; a webhook cannot update, so
the resolve is a message of its own. Slack knows no idempotency key: **delivery is at least once**, and a message
whose answer was lost, or whose sender was killed before it noted the answer, is posted a second time.

Limits: header 150 characters, section 3000, field 2000 and ten of them, 50 blocks.
Source: https://docs.slack.dev/reference/block-kit/blocks and https://docs.slack.dev/apis/web-api/rate-limits
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError, SlackObjectFormationError
from slack_sdk.models.blocks import (
    Block,
    ContextBlock,
    DividerBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)
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
from services.alerting.incidents import TRIGGER
from services.alerting.notify.outbox import Claim
from services.alerting.settings import SlackSettings
from services.alerting.words.message import AlertText, describe_alert
from services.alerting.words.text import Line, Value, clean, shorten

MAX_HEADER = 150
MAX_SECTION = 3000
MAX_FIELD = 2000
MAX_FIELDS = 10
MAX_BLOCKS = 50
MAX_CAUSES_TOTAL = 3000
"""Slack refuses a message of more than about 13,000 characters in all (msg_blocks_too_long), which is not
documented.
"""

_MARKS = {"critical": "🔴", "error": "🟠", "warning": "🟡", "info": "🔵"}
_RESOLVED_MARK = "✅"

# Errors of the Web API (they come with HTTP 200) that pass.
_PASSING_ERRORS = frozenset(
    {
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
        "rate_limited",
        "ratelimited",
        "timeout",
    }
)
# The message to update is gone or too old: what it would have said goes into a new one.
_NOT_UPDATABLE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})


def _silent_logger() -> logging.Logger:
    """slack-sdk logs the webhook's address, which is a secret, at DEBUG, and looks at the logger's own level only."""
    logger = logging.getLogger("driftline.alerting.slack_sdk")
    logger.setLevel(logging.WARNING)
    logger.disabled = True
    return logger


class SlackChannel:
    """Sends to one Slack channel."""

    def __init__(self, settings: SlackSettings, session: aiohttp.ClientSession, redact: Redactor) -> None:
        self._settings = settings
        self._redact = redact
        # Retries are ours: the handlers of slack-sdk sleep inside the request and keep nothing.
        shared: dict[str, Any] = {"session": session, "retry_handlers": [], "logger": _silent_logger()}
        self._webhook: AsyncWebhookClient | None = None
        self._web: AsyncWebClient | None = None
        if settings.webhook_url is not None:
            url = settings.webhook_url.get_secret_value()
            self._webhook = AsyncWebhookClient(url, **shared)
            self._webhook.proxy = proxy_for(url)  # slack-sdk would ignore NO_PROXY
        elif settings.token is not None:
            self._web = AsyncWebClient(settings.token.get_secret_value(), base_url=settings.api_url, **shared)
            self._web.proxy = proxy_for(settings.api_url)

    def __repr__(self) -> str:
        return f"SlackChannel({self._settings.name!r})"

    async def send(self, claim: Claim, pace: Pacer) -> Outcome:
        """Send a trigger or a resolve. See :class:`services.alerting.channels.base.Channel`."""
        try:
            if self._webhook is not None:
                return await self._post_webhook(self._webhook, claim, pace)
            assert self._web is not None
            if claim.kind != TRIGGER and claim.trigger_receipt.get("ts") and claim.firing is not None:
                return await self._update(self._web, claim, claim.firing, pace)
            return await self._post(self._web, claim.alert, pace)
        except SlackApiError as error:
            return self._api_error(error)
        except SlackObjectFormationError:
            return Failed("the message breaks a rule of Block Kit and was not sent; please report this")
        except (aiohttp.ClientError, SlackClientError, TimeoutError, OSError, ValueError) as error:
            return network_error(error)

    async def _post_webhook(self, client: AsyncWebhookClient, claim: Claim, pace: Pacer) -> Outcome:
        message = slack_message(claim.alert)
        await pace()
        response = await client.send(text=message.text, blocks=message.blocks, unfurl_links=False, unfurl_media=False)
        now = dt.datetime.now(dt.UTC)
        return outcome_of_status(response.status_code, response.headers, self._redact(response.body), now) or Sent()

    async def _post(self, client: AsyncWebClient, alert: Record, pace: Pacer, thread: str | None = None) -> Sent:
        message = slack_message(alert)
        await pace()
        response = await client.chat_postMessage(
            channel=self._settings.channel or "",
            text=message.text,
            blocks=message.blocks,
            thread_ts=thread,
            unfurl_links=False,
            unfurl_media=False,
        )
        return Sent({"channel": str(response.get("channel", "")), "ts": str(response.get("ts", ""))})

    async def _update(self, client: AsyncWebClient, claim: Claim, firing: Record, pace: Pacer) -> Sent:
        """Mark the trigger's message as resolved and say so in its thread; in a message of its own where the old one
        is gone.
        """
        receipt = claim.trigger_receipt
        message = slack_message(firing, resolution=claim.alert)
        await pace()
        try:
            await client.chat_update(
                channel=receipt["channel"], ts=receipt["ts"], text=message.text, blocks=message.blocks
            )
        except SlackApiError as error:
            if _error_code(error) not in _NOT_UPDATABLE:
                raise
            return await self._post(client, claim.alert, pace)
        return await self._post(client, claim.alert, pace, thread=receipt["ts"])

    def _api_error(self, error: SlackApiError) -> Outcome:
        """What an answer that is no ``ok`` means."""
        status, headers = _answer(error)
        code = _error_code(error)
        if not 200 <= status < 300:
            said = self._redact(code or "")
            return outcome_of_status(status, headers, said, dt.datetime.now(dt.UTC)) or Again("no HTTP status came")
        if code is None:
            return Again("the answer is not Slack's: something else answers at its address")
        what = f"Slack says {shorten(clean(self._redact(code)), 200)}"
        return Again(what, too_fast="limited" in code) if code in _PASSING_ERRORS else Failed(what)


def _answer(error: SlackApiError) -> tuple[int, Mapping[str, str]]:
    response: Any = error.response
    status = getattr(response, "status_code", None) or getattr(response, "status", None) or 0
    return int(status), getattr(response, "headers", {}) or {}


def _error_code(error: SlackApiError) -> str | None:
    """Slack's word for what is wrong; None where the answer is no JSON object with one."""
    response: Any = error.response
    data = getattr(response, "data", None)
    return str(data["error"]) if isinstance(data, Mapping) and data.get("error") else None


class SlackMessage:
    """What is posted: ``blocks``, and ``text`` for notifications and screen readers."""

    def __init__(self, text: str, blocks: Sequence[Block]) -> None:
        self.text = text
        self.blocks = list(blocks)


def slack_message(alert: Record, resolution: Record | None = None) -> SlackMessage:
    """The message for an alert.

    Args:
        alert: What is told.
        resolution: The record that ended it: then the message is that of ``alert``, marked as over.
    """
    text = describe_alert(alert)
    over = text.resolved or resolution is not None
    mark = _RESOLVED_MARK if over else _MARKS[alert["severity"]]
    headline = str(text.headline) if resolution is None else f"Resolved: {text.headline}"
    header = escape(f"{mark} {headline}", MAX_HEADER)
    blocks: list[Block] = [HeaderBlock(text=PlainTextObject(text=header, emoji=False))]
    if resolution is not None:
        blocks += _sections(describe_alert(resolution).sentences)
        blocks.append(DividerBlock())
    steps = () if text.steps is None or over else (text.steps,)
    blocks += _sections((*text.sentences, *steps))
    blocks += _causes(text.causes)
    fields = [f"*{name}*\n{_code(content)}" for name, content in text.facts[:MAX_FIELDS]]
    blocks.append(SectionBlock(fields=[_markdown(shorten(field, MAX_FIELD)) for field in fields]))
    blocks.append(ContextBlock(elements=[_markdown(_what_to_look_at(text))]))
    told = Line(("Resolved: ", *text.headline.parts)) if resolution is not None else text.summary
    return SlackMessage(shorten(f"{mark} {markup(told)}", MAX_SECTION), blocks[:MAX_BLOCKS])


def _what_to_look_at(text: AlertText) -> str:
    runbook = f"<{text.runbook_url.replace('|', '%7C').replace('&', '&amp;')}|Runbook> · " if text.runbook_url else ""
    return f"{runbook}{_code(Value(str(text.command)))}"


def _sections(lines: Sequence[Line]) -> list[Block]:
    """Lines below each other, in as few sections as they fit."""
    texts: list[str] = []
    for marked in map(markup, lines):
        if texts and len(texts[-1]) + 1 + len(marked) <= MAX_SECTION:
            texts[-1] += f"\n{marked}"
        else:
            texts.append(marked)
    return [_section(text) for text in texts]


def _causes(lines: Sequence[Line]) -> list[Block]:
    """One section per cause; those that would make the message too long for Slack are counted instead."""
    blocks: list[Block] = []
    used = 0
    for rank, marked in enumerate(map(markup, lines), start=1):
        used += len(marked)
        if used > MAX_CAUSES_TOTAL:
            blocks.append(_section(f"_{len(lines) - rank + 1} more, too long to show here_"))
            break
        blocks.append(_section(f"*{rank}.* {marked}"))
    return blocks


def _section(text: str) -> SectionBlock:
    return SectionBlock(text=_markdown(shorten(text, MAX_SECTION)))


def _markdown(text: str) -> MarkdownTextObject:
    return MarkdownTextObject(
        text=text, verbatim=True
    )  # verbatim: Slack makes no links and mentions out of plain words


def markup(text: Line) -> str:
    """A line in mrkdwn: our words escaped, values from data as code, inside which Slack reads no markup."""
    return "".join(_code(part) if isinstance(part, Value) else _entities(part) for part in text.parts)


def _code(content: str) -> str:
    return f"`{_entities(content.replace('`', 'ˋ'))}`"


def escape(text: str, limit: int) -> str:
    """Plain text with ``& < >`` as entities, at most ``limit`` characters as sent, no entity cut in two."""
    escaped = _entities(text)
    if len(escaped) <= limit:
        return escaped
    kept = len(text)
    while kept and len(escaped := _entities(shorten(text, kept))) > limit:
        kept -= max((len(escaped) - limit) // 5, 1)
    return escaped if kept else "…"


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
