"""Slack's Web API through slack-sdk: a client that tells no secrets, and what its errors mean."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from services.alerting.channels.base import (
    Again,
    Failed,
    Outcome,
    Redactor,
    outcome_of_status,
    proxy_for,
)
from services.alerting.policy.model import SlackReceiver
from services.alerting.words.text import clean, shorten

NETWORK_ERRORS = (aiohttp.ClientError, SlackClientError, TimeoutError, OSError, ValueError)
"""What a request can raise besides :class:`slack_sdk.errors.SlackApiError`."""

# Errors of the Web API (they come with HTTP 200) that pass.
_PASSING = frozenset(
    {
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "team_added_to_org",
        "request_timeout",
        "rate_limited",
        "ratelimited",
        "timeout",
    }
)
# "It's possible some aspect of the operation succeeded before the error was raised", as Slack says of them.
_DOUBTFUL = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout", "timeout"})


def silent_logger() -> logging.Logger:
    """slack-sdk logs the webhook's address, which is a secret, at DEBUG, and looks at the logger's own level only."""
    logger = logging.getLogger("driftline.alerting.slack_sdk")
    logger.setLevel(logging.WARNING)
    logger.disabled = True
    return logger


def web_client(receiver: SlackReceiver, session: aiohttp.ClientSession) -> AsyncWebClient | None:
    """A client with the bot's token; None for a receiver that has none. Retries are ours: the handlers of slack-sdk
    sleep inside the request and keep nothing.
    """
    if receiver.token is None:
        return None
    client = AsyncWebClient(
        receiver.token.get_secret_value(),
        base_url=receiver.api_url,
        session=session,
        retry_handlers=[],
        logger=silent_logger(),
    )
    client.proxy = proxy_for(receiver.api_url)  # slack-sdk would ignore NO_PROXY
    return client


def error_code(error: SlackApiError) -> str | None:
    """Slack's word for what is wrong; None where the answer is no JSON object with one."""
    data = getattr(error.response, "data", None)
    return str(data["error"]) if isinstance(data, Mapping) and data.get("error") else None


def passes(code: str | None) -> bool:
    """Whether an error is one of those that pass."""
    return code is None or code in _PASSING


def api_error(error: SlackApiError, redact: Redactor) -> Outcome:
    """What an answer that is no ``ok`` means."""
    status, headers = _answer(error)
    code = error_code(error)
    if not 200 <= status < 300:
        said = redact(code or "")
        outcome = outcome_of_status(status, headers, said, dt.datetime.now(dt.UTC)) or Again("no HTTP status came")
        return dataclasses.replace(outcome, doubtful=status >= 500) if isinstance(outcome, Again) else outcome
    if code is None:
        return Again("the answer is not Slack's: something else answers at its address", doubtful=True)
    what = f"Slack says {shorten(clean(redact(code)), 200)}"
    if code in _PASSING:
        return Again(what, too_fast="limited" in code, doubtful=code in _DOUBTFUL)
    return Failed(what)


def _answer(error: SlackApiError) -> tuple[int, Mapping[str, str]]:
    response: Any = error.response
    status = getattr(response, "status_code", None) or getattr(response, "status", None) or 0
    return int(status), getattr(response, "headers", {}) or {}
