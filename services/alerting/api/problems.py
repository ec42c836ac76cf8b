"""What a request that cannot be done is answered: problem details (RFC 9457), with what was expected, what came and
what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from services.alerting.words.text import clean, shorten

CONTENT_TYPE = "application/problem+json"
_TYPE = "urn:driftline:problem:"
_CAME_CHARACTERS = 120
_MOST_ERRORS = 20

TITLES: Mapping[str, tuple[int, str]] = {
    "not-found": (404, "There is nothing here"),
    "method": (405, "This cannot be done here"),
    "token": (401, "No token, or none that is known"),
    "permission": (403, "The token's role does not allow this"),
    "deployments": (403, "The token is limited to other deployments"),
    "signature": (401, "The signature is missing, wrong or too old"),
    "expired": (410, "The address has expired"),
    "rate": (429, "Too many requests"),
    "size": (413, "The request is too large"),
    "slow": (408, "The request did not arrive in time"),
    "media-type": (415, "The body is of another kind"),
    "json": (400, "The body is no JSON that can be used"),
    "invalid": (422, "The request is wrong"),
    "refused": (409, "This cannot be done now"),
    "unavailable": (503, "Not now"),
    "internal": (500, "The service failed"),
    "other": (400, "The request is wrong"),
}
"""Kind of a problem: its usual status, and its title."""


@dataclass
class ProblemError(Exception):
    """A request is refused.

    Attributes:
        kind: Of :data:`TITLES`.
        detail: What is wrong, in a sentence, without secrets.
        expected: What would have been right; empty where that says nothing.
        came: What came instead; cleaned and shortened here.
        do: What to do.
        errors: Each field that is wrong: where, expected, came.
        status: Another than the kind's.
        headers: To answer with, such as ``Retry-After``.
        denied: What the audit is told: somebody reached for what their token does not cover. Never in the answer.
    """

    kind: str
    detail: str
    expected: str = ""
    came: str = ""
    do: str = ""
    errors: Sequence[Mapping[str, str]] = ()
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    denied: str = ""

    def __post_init__(self) -> None:
        if self.kind == "deployments" and not self.denied:
            self.denied = "the token is limited to other deployments"

    def document(self, instance: str = "") -> dict[str, Any]:
        """The body."""
        status, title = TITLES[self.kind]
        document: dict[str, Any] = {
            "type": _TYPE + self.kind,
            "title": title,
            "status": self.status or status,
            "detail": harmless(self.detail, 2000),
        }
        if instance:
            document["instance"] = harmless(instance, 300)
        for name, text in (("expected", self.expected), ("came", self.came), ("do", self.do)):
            if text:
                document[name] = harmless(text, _CAME_CHARACTERS if name == "came" else 1000)
        if self.errors:
            document["errors"] = [dict(error) for error in self.errors]
        return document

    def response(self, instance: str = "") -> web.Response:
        """The answer."""
        document = self.document(instance)
        return web.Response(
            body=json.dumps(document).encode(),
            status=document["status"],
            content_type=CONTENT_TYPE,
            headers=dict(self.headers),
        )


def harmless(text: object, limit: int = _CAME_CHARACTERS) -> str:
    """Text that came, to be shown back: short, and without what steers a terminal."""
    raw = str(text)
    return shorten(clean(raw[: limit + 1]) + raw[limit + 1 :], limit)


def invalid(error: ValidationError, what: str, names: Sequence[str]) -> ProblemError:
    """What pydantic found wrong, in our words.

    Args:
        error: Of pydantic.
        what: Body, query or path.
        names: Fields that there are.
    """
    found = []
    for each in error.errors(include_url=False, include_context=False)[:_MOST_ERRORS]:
        where = ".".join(map(str, each["loc"])) or what
        entry = {"where": harmless(where), "expected": harmless(_expectation(each["type"], each["msg"], names), 300)}
        if each["type"] != "missing":
            entry["came"] = harmless(_shown(each["input"]))
        found.append(entry)
    first = found[0]
    return ProblemError(
        "invalid",
        f"{what}: {first['where']}: expected {first['expected']}",
        expected=first["expected"],
        came=first.get("came", "nothing"),
        do="See /api/v1/openapi.json for every field.",
        errors=found,
    )


def _expectation(kind: str, message: str, names: Sequence[str]) -> str:
    if kind == "missing":
        return "a value: it is required"
    if kind == "extra_forbidden":
        return "no such field; there are: " + (", ".join(names) or "none")
    if kind == "too_short":
        return "at least one of them"
    if kind == "model_type":
        return "an object of JSON"
    for start in ("Value error, ", "Input should be ", "Assertion failed, ", "expected "):
        message = message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple | set):
        return f"{'a list' if not isinstance(value, dict) else 'an object'} of {len(value)}"
    return repr(value)
