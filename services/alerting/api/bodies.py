"""Reads what was sent, and no more of it than it may be: bytes, time, depth of JSON, and characters that no database
takes.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from services.alerting.api.problems import ProblemError, invalid

_Model = TypeVar("_Model", bound=BaseModel)

# A string that is not closed runs to the end: every quote begins one match, so the time is linear whatever comes.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


async def read_body(request: web.Request, limit: int, seconds: float) -> bytes:
    """The body.

    Raises:
        ProblemError: It is larger than ``limit`` bytes, packed, or does not come within ``seconds``.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError(
            "media-type", "the body is packed", expected="a body that is not packed", do="Leave out Content-Encoding."
        )
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise ProblemError(
            "slow", f"the body did not arrive within {seconds:g} s", headers={"Connection": "close"}
        ) from error
    return bytes(body)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        "size",
        f"the body has more than {limit:,} bytes",
        expected=f"at most {limit:,} bytes",
        do="Say it in fewer words.",
        headers={"Connection": "close"},  # what is still to come is not waited for
    )


def parse_json(body: bytes, depth: int) -> Any:
    """A JSON document.

    Raises:
        ProblemError: It is none, is nested deeper than ``depth``, names a field twice, or holds what is no JSON (NaN)
            or no text (NUL, half of a surrogate pair).
    """
    if _depth(body) > depth:
        raise ProblemError("json", f"the body is nested deeper than {depth} levels", expected=f"at most {depth} levels")
    try:
        text = body.decode()
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ProblemError("json", "the body is no UTF-8", expected="JSON in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ProblemError(
            "json",
            f"the body is no JSON: line {error.lineno}, column {error.colno}: {error.msg.lower()}",
            expected="a JSON object",
            came=text[max(error.pos - 10, 0) : error.pos + 20] or "nothing",
        ) from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise ProblemError("json", "the body has a number that is too long") from error
    _check_texts(document)
    return document


def _depth(body: bytes) -> int:
    deepest = level = 0
    for character in _STRINGS.sub(b"", body):
        if character in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif character in b"]}":
            level -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ProblemError("json", "the body names a field twice", expected="each field once", came=double)
    return found


def _no_constant(name: str) -> Any:
    raise ProblemError("json", f"the body has {name}, which is no JSON", expected="a finite number", came=name)


def _check_texts(document: Any) -> None:
    if isinstance(document, str):
        check_text(document)
    elif isinstance(document, list):
        for item in document:
            _check_texts(item)
    elif isinstance(document, dict):
        for name, item in document.items():
            check_text(name)
            _check_texts(item)


def check_text(text: str) -> None:
    """Refuse text that no database can keep.

    Raises:
        ProblemError: It has a NUL or half of a surrogate pair.
    """
    if found := _UNUSABLE.search(text):
        raise ProblemError(
            "json",
            "a text has a character that cannot be kept",
            expected="text without NUL and surrogates",
            came=f"U+{ord(found[0]):04X}",
        )


def validated(model: type[_Model], document: Any, what: str) -> _Model:
    """A document as its model.

    Raises:
        ProblemError: It is wrong; says each field that is.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid(error, what, list(model.model_fields)) from error
