"""Outgoing webhooks: JSON by POST, signed as Standard Webhooks say, to addresses that the guard lets pass.

``webhook-id`` is the message's key, the same for every attempt: receivers drop what they have. In doubt the message is
sent again under it. ``webhook-signature`` has one signature for each secret, so that one can take over from another
while both are known.

What the receiver answers is not read beyond its status: an answer shown to people would make this service a window into
networks that only it can see.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

import aiohttp

from services.alerting.channels.base import Failed, Outcome, Pacer, Redactor, Sent, ask, http_session
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.guard import ForbiddenAddressError, Guard, GuardedConnector
from services.alerting.channels.webhook_body import webhook_body
from services.alerting.errors import AlertingSettingsError
from services.alerting.policy.model import WebhookReceiver

SECRET_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
_NOTHING = Redactor(())


def _wall_seconds() -> int:
    return int(time.time())


class WebhookChannel:
    """Sends to one webhook.

    Args:
        receiver: Its settings.
        now_seconds: Wall clock: receivers refuse what was signed five minutes ago, whatever clock rehearsals have.

    Raises:
        AlertingSettingsError: A secret is none, or ``allow`` holds something that is no network.
    """

    def __init__(self, receiver: WebhookReceiver, now_seconds: Callable[[], int] = _wall_seconds) -> None:
        self._receiver = receiver
        self._now_seconds = now_seconds
        self._keys = tuple(signing_key(secret.get_secret_value(), receiver.name) for secret in receiver.signing_secrets)
        self._guard = Guard(receiver.allow)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"WebhookChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """Close its own connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. See :class:`services.alerting.channels.base.Channel`."""
        body = await asyncio.to_thread(webhook_body, delivery)
        url = self._receiver.url.get_secret_value()
        if self._session is None:
            self._session = http_session(self._receiver.timeout_seconds, GuardedConnector(self._guard))
        await pace()
        try:
            self._guard.check_url(url)
            _, failure = await ask(
                self._session,
                "POST",
                url,
                body,
                headers=signed_headers(delivery.key, self._now_seconds(), body, self._keys),
                timeout_seconds=self._receiver.timeout_seconds,
                redact=_NOTHING,
                through_proxy=False,
                show_answer=False,
            )
        except ForbiddenAddressError as error:
            return Failed(f"the webhook must not go there: {error}")
        return failure or Sent()


def signing_key(secret: str, receiver: str = "") -> bytes:
    """The key that a secret such as ``whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`` stands for.

    Raises:
        AlertingSettingsError: It is none.
    """
    try:
        key = base64.b64decode(secret.strip().removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in _KEY_BYTES:
        raise AlertingSettingsError(
            f"receiver {receiver}: a signing secret of a webhook is {SECRET_PREFIX} and base64 of 24 to 64 bytes; "
            f"make one by: echo {SECRET_PREFIX}$(openssl rand -base64 32)"
        )
    return key


def signed_headers(webhook_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of Standard Webhooks; no signature where there is no key."""
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp), "User-Agent": "Driftline-Webhook/1"}
    if keys:
        headers["webhook-signature"] = " ".join(signature(webhook_id, timestamp, body, key) for key in keys)
    return headers


def signature(webhook_id: str, timestamp: int, body: bytes, key: bytes) -> str:
    """``v1,`` and base64 of HMAC-SHA256 over id, time and body."""
    signed = hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"
