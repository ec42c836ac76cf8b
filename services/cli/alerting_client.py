"""Asks the running alerting service, for the commands that do.

How it is found, the first that is there: ``--url`` and ``--token-file``; DRIFTLINE_ALERTING_URL with
DRIFTLINE_ALERTING_TOKEN or DRIFTLINE_ALERTING_TOKEN_FILE; the connection file of the service on this machine
(DRIFTLINE_ALERTING_CONNECTION_FILE, or .driftline/alerting.json), which ``driftline up`` writes.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from services.access.tokens import TokensError
from services.alerting.api.connection import FILE_NAME, Connection, read_connection
from services.errors import ServicesError

URL, TOKEN, TOKEN_FILE = "DRIFTLINE_ALERTING_URL", "DRIFTLINE_ALERTING_TOKEN", "DRIFTLINE_ALERTING_TOKEN_FILE"
CONNECTION_FILE, CA_FILE = "DRIFTLINE_ALERTING_CONNECTION_FILE", "DRIFTLINE_ALERTING_CA_FILE"
DEFAULT_CONNECTION_FILE = Path(".driftline") / FILE_NAME

REACHING = (
    "The running service is asked: the one whose connection file is .driftline/alerting.json (driftline up writes it),"
    " or that of DRIFTLINE_ALERTING_URL with DRIFTLINE_ALERTING_TOKEN or DRIFTLINE_ALERTING_TOKEN_FILE."
)
"""For the help of every command that asks."""

_SECONDS = 20.0
_MOST_BYTES = 64 << 20
_AGENT = "driftline-cli/1"


class ServiceAwayError(ServicesError):
    """The alerting service does not answer."""


class RefusedError(ServicesError):
    """The service refused; the message is its own: expected, came, what to do."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.exit_code = 2 if status in (400, 404, 413, 415, 422) else 1


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # the token would go along


@dataclass(frozen=True, slots=True)
class AlertingClient:
    """Asks the service at an address."""

    connection: Connection

    def get(self, *path: str, **query: Any) -> Any:
        """What is there. Parts of the path come as they are; query fields that are None are left out."""
        asked = urlencode({name: _text(value) for name, value in query.items() if value is not None})
        return self._ask("GET", _path(path) + (f"?{asked}" if asked else ""), None)

    def post(self, *path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Do something."""
        return self._ask("POST", _path(path), json.dumps(dict(body or {})).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        """Ask, once more with the same id where the connection broke: a repeat changes nothing.

        Raises:
            ServiceAwayError: No answer.
            RefusedError: Another than was hoped for.
        """
        headers = {
            "Authorization": f"Bearer {self.connection.token}",
            "Accept": "application/json",
            "User-Agent": _AGENT,
            "X-Request-Id": str(uuid.uuid4()),
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.connection.url.rstrip("/") + path, body, headers, method=method)  # noqa: S310  # checked by _checked
        try:
            return self._answer(request)
        except (ConnectionError, http.client.HTTPException):
            return self._answer_or_away(request)
        except (urllib.error.URLError, OSError) as error:
            self._away(error)

    def _answer_or_away(self, request: urllib.request.Request) -> Any:
        try:
            return self._answer(request)
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            self._away(error)

    def _answer(self, request: urllib.request.Request) -> Any:
        # No proxy: the service is on this machine, or inside the network.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if request.full_url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_tls(self.connection.ca_file)))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=_SECONDS) as answer:
                return json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(_words(error.code, error.read(1 << 20)), error.code) from None
        except ValueError as error:
            raise ServiceAwayError(
                f"{self.connection.url} answers, and not as the alerting service does: expected JSON. Is the address "
                "right?"
            ) from error

    def _away(self, error: BaseException) -> NoReturn:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or getattr(reason, "verify_message", None) or type(reason).__name__
        raise ServiceAwayError(
            f"the alerting service does not answer at {self.connection.url}: {why}.\n"
            "Does it run? Start it with driftline up (everything), or driftline alerting; driftline status says more."
        ) from error


def alerting_client(environment: Mapping[str, str] | None = None) -> AlertingClient:
    """The client for the service of this shell.

    Raises:
        ServiceAwayError: Nothing says where it is.
        RefusedError: What says so cannot be used.
    """
    env = os.environ if environment is None else environment
    if url := env.get(URL, "").strip():
        return AlertingClient(Connection(_checked(url), _token(env), env.get(CA_FILE, "")))
    path = Path(env.get(CONNECTION_FILE) or DEFAULT_CONNECTION_FILE)
    try:
        found = read_connection(path)
    except TokensError as error:
        raise RefusedError(str(error), 422) from error
    if found is None:
        raise ServiceAwayError(
            f"no alerting service is known here: there is no {path}, and {URL} is not set.\n"
            f"Start it with driftline up in this directory, set {CONNECTION_FILE} to the file in its --data-dir, or "
            f"set {URL} and {TOKEN_FILE} to ask one elsewhere."
        )
    return AlertingClient(Connection(_checked(found.url), found.token, env.get(CA_FILE, "") or found.ca_file))


def _checked(url: str) -> str:
    """An address that a token may be sent to.

    Raises:
        RefusedError: It is none.
    """
    try:
        parts = urlsplit(url)
        named = parts.hostname
        _ = parts.port
    except ValueError:
        named = None
    if not named or parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.username:
        raise RefusedError(f"{URL}: expected http://HOST:PORT or https://HOST, came {url!r}", 422)
    return url


def _token(env: Mapping[str, str]) -> str:
    token = env.get(TOKEN, "").strip()
    if not token and (path := env.get(TOKEN_FILE, "").strip()):
        try:
            token = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise RefusedError(f"{TOKEN_FILE}: {path} cannot be read: {why}", 422) from error
    if not token:
        raise RefusedError(f"{URL} is set and no token is: set {TOKEN_FILE} (or {TOKEN}) too", 422)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise RefusedError(f"expected one token of letters, digits, - and _ in {TOKEN} or {TOKEN_FILE}", 422)
    return token


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise RefusedError(f"{CA_FILE}: {ca_file} cannot be used: expected certificates in PEM", 422) from error


def _path(parts: tuple[str, ...]) -> str:
    return "/api/v1/" + "/".join(quote(part, safe="") for part in parts)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(status: int, body: bytes) -> str:
    """What a refusal says."""
    try:
        problem = json.loads(body)
        lines = [str(problem["detail"])]
    except (ValueError, KeyError, TypeError):
        return f"the alerting service answered HTTP {status}, without saying why"
    for name, word in (("expected", "expected"), ("came", "came"), ("do", "do")):
        if problem.get(name) and (name == "came" or str(problem[name]) not in lines[0]):
            lines.append(f"  {word}: {problem[name]}")
    return "\n".join(lines)


def short_time(text: str | None) -> str:
    """A time of an answer for a table, in UTC."""
    if not text:
        return ""
    try:
        return f"{dt.datetime.fromisoformat(text).astimezone(dt.UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError):
        return text
