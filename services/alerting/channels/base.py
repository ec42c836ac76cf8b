"""What a channel is, what comes of a message, and how an HTTP answer is read.

Error texts are made here from status codes and kinds of exceptions, never from an exception's own text: those of HTTP
libraries quote addresses, and an address may be the secret.

A failure is *doubtful* where the request had begun to go out and no answer came: then nobody knows whether it arrived.
Each channel says what it does about that when the message comes to it again.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import os
import re
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

import aiohttp

from services.alerting.channels.delivery import Delivery
from services.alerting.words.text import clean, shorten

CONNECT_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 3600.0
"""A receiver may ask for patience, not for silence until next year."""

_ANSWER_BYTES = 4096
_ERROR_CHARACTERS = 300
# 408 and 425 are the client errors that say "again"; 429 is a matter of pace.
_RETRIED_STATUSES = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Sent:
    """It arrived.

    Attributes:
        receipt: What the channel wants to see again with later messages of the thread; added to what is there.
        repeated: It was found there already: an earlier attempt had arrived, and nothing was sent now.
    """

    receipt: Mapping[str, Any] = field(default_factory=dict)
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """It did not arrive, and may later.

    Attributes:
        error: Why, for people.
        doubtful: It may have arrived all the same: the request had gone out and no answer came.
        retry_after_seconds: What the receiver asked for.
        too_fast: The receiver is busy with us (429): the whole destination must wait.
        receipt: What is to be kept of this attempt all the same, as in :class:`Sent`: the message's next attempt finds
            it in :attr:`Delivery.receipt` (a mail that some of its readers have got already).
    """

    error: str
    retry_after_seconds: float | None = None
    too_fast: bool = False
    doubtful: bool = False
    receipt: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """It will never arrive."""

    error: str


Outcome = Sent | Again | Failed

Pacer = Callable[[], Awaitable[None]]
"""Waits until one more request may be sent. Called before each request."""


class Channel(Protocol):
    """A way to a receiver."""

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. Errors of the network come back as an :data:`Outcome`."""

    async def close(self) -> None:
        """Release what it holds."""


def outcome_of_status(status: int, headers: Mapping[str, str], body: str, now: dt.datetime) -> Again | Failed | None:
    """What an HTTP status that is no success means; None for 2xx.

    A redirect is not followed, since the secret would go along; it may be a gateway's and pass, so it is tried again.
    """
    if 200 <= status < 300:
        return None
    said = shorten(clean(body.strip()), _ERROR_CHARACTERS)
    error = f"HTTP {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        return Again(f"HTTP {status}: redirects are not followed, for they would take the secret elsewhere")
    if status >= 500 or status in _RETRIED_STATUSES:
        return Again(error, retry_after(headers.get("Retry-After"), now), too_fast=status == 429)
    return Failed(error)


def retry_after(value: str | None, now: dt.datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3): a number or a date; None if it has
    none.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text):
        seconds = float(text)
    else:
        try:
            moment = email.utils.parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def network_error(error: BaseException) -> Again:
    """What an exception of the HTTP client means, without quoting it.

    For a request of this task through :func:`http_session`: whether it is doubtful is known from how far it had got.
    """
    if isinstance(error, RedirectRefusedError):
        return Again("a redirect came; redirects are not followed, for they would take the secret elsewhere")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Again(f"no connection within {CONNECT_SECONDS:.0f} s")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Again("the receiver's TLS certificate is not valid")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Again("the receiver's name cannot be resolved")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Again(f"no connection: {system_words(error.os_error)}")
    doubtful = _gone_out.get()
    if isinstance(error, TimeoutError):
        return Again("no answer in time", doubtful=doubtful)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Again("the receiver closed the connection without an answer", doubtful=doubtful)
    return Again(f"the request failed: {type(error).__name__}", doubtful=doubtful)


def system_words(error: OSError) -> str:
    """What the system calls an error; the error's own text may quote where to."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__


class RedirectRefusedError(aiohttp.ClientError):
    """A receiver answered with a redirect."""


# Whether the latest request of this task has begun to go out. aiohttp calls its traces within the requesting task.
_gone_out: ContextVar[bool] = ContextVar("gone_out", default=False)


async def _refuse_redirect(*_: object) -> None:
    raise RedirectRefusedError


async def _note_start(*_: object) -> None:
    _gone_out.set(False)


async def _note_going_out(*_: object) -> None:
    _gone_out.set(True)


def http_session(timeout_seconds: float, connector: aiohttp.BaseConnector | None = None) -> aiohttp.ClientSession:
    """A session that never follows a redirect (whatever library uses it), keeps no cookies and has time-outs."""
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse_redirect)  # slack-sdk leaves aiohttp's default, which is to follow
    trace.on_request_start.append(_note_start)
    trace.on_request_headers_sent.append(_note_going_out)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=time_out(timeout_seconds),
        trace_configs=[trace],
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def time_out(seconds: float) -> aiohttp.ClientTimeout:
    """For a whole request; a connection must come sooner."""
    return aiohttp.ClientTimeout(total=seconds, connect=None, sock_connect=CONNECT_SECONDS)


async def ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    timeout_seconds: float,
    redact: Redactor,
    through_proxy: bool = True,
    show_answer: bool = True,
) -> tuple[str, Again | Failed | None]:
    """Make a request with a JSON body.

    Args:
        session: Of :func:`http_session`.
        method: ``POST``, ``PUT`` …
        url: Where to.
        body: JSON, UTF-8.
        headers: Besides the content's type.
        timeout_seconds: Of the whole request.
        redact: For the answer.
        through_proxy: Whether the environment's proxy is used.
        show_answer: Whether the answer's body is read at all.

    Returns:
        The beginning of the answer, redacted, and what is wrong; None where it was 2xx.
    """
    try:
        async with session.request(
            method,
            url,
            data=body,
            headers={"Content-Type": "application/json; charset=utf-8", **headers},
            proxy=proxy_for(url) if through_proxy else None,
            timeout=time_out(timeout_seconds),
            allow_redirects=False,
        ) as response:
            answer = redact(await _beginning(response)) if show_answer else ""
            failure = outcome_of_status(response.status, response.headers, answer, dt.datetime.now(dt.UTC))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return "", network_error(error)
    return answer, failure


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Of the answer. The status has come: whether it arrived does not hang on the rest."""
    try:
        return (await response.content.read(_ANSWER_BYTES)).decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return ""


def proxy_for(url: str) -> str | None:
    """The proxy that the environment sets for an address; ``NO_PROXY`` is heeded, and this machine needs none."""
    parts = urlsplit(url)
    if parts.hostname in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class Redactor:
    """Takes secrets out of texts. The last line of defence: no text should have one.

    Args:
        secrets: Those to take out, also as they look inside JSON or an address.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for s in secrets if s for form in (s, json.dumps(s)[1:-1], quote(s, safe=""), *_parts_of(s))}
        longest_first = sorted((form for form in forms if len(form) >= 4), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without the secrets."""
        return self._pattern.sub("***", text) if self._pattern else text


def _parts_of(secret: str) -> list[str]:
    """Of an address that is a secret, the path is the secret, and so are its ends (the last one most of all) and what
    is asked for after it (the signature of a Teams workflow), and a name and password before it.
    """
    if "://" not in secret:
        return []
    try:
        parts = urlsplit(secret)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return []
    segments = parts.path.strip("/").split("/")
    ends = ["/".join(segments[start:]) for start in range(len(segments))]
    asked = [parts.query, *(content for _, content in parse_qsl(parts.query)), user, password]
    return [end for end in (*ends, *(f"{end}?{parts.query}" for end in ends if parts.query), *asked) if len(end) >= 8]
