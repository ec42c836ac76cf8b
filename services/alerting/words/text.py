"""Text that came from data, made harmless and short enough before anybody reads it."""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

NAME_CHARACTERS = 80
"""Room for a name or an identifier inside a sentence."""

# Control characters, formatting (right-to-left marks, zero-width, tags), line and paragraph separators, surrogates,
# private use.
_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


def clean(text: object) -> str:
    """The text with every character that is invisible, or steers a terminal or a line, shown as U+FFFD."""
    return "".join(REPLACEMENT if unicodedata.category(c) in _INVISIBLE else c for c in str(text))


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` characters; what was cut is said.

    >>> shorten("a" * 100, 30)
    'aaaaaaaaaaaaa… (100 characters)'
    """
    if len(text) <= limit:
        return text
    note = f"… ({len(text):,} characters)"
    if limit <= len(note):
        return text[: max(limit - 1, 0)] + "…"[:limit]
    return text[: limit - len(note)] + note


class Value(str):
    """A piece of a line that came from data, cleaned and shortened. Channels set it apart from the words around it."""

    __slots__ = ()


def value(text: object, limit: int = NAME_CHARACTERS) -> Value:
    """A :class:`Value` of at most ``limit`` characters; an empty one is shown as a dash."""
    raw = str(text)
    # Ten thousand characters need no cleaning to show eighty; the length in the note stays the true one.
    return Value(shorten(clean(raw[: limit + 1]) + raw[limit + 1 :], limit) or "–")


_LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", "`": "ˋ"})


def prose(text: object, limit: int) -> str:
    """A sentence of ours that quotes settings (the name of a receiver, of a topic): words, not a :class:`Value`, but
    with nothing in it that a channel could take for an order.
    """
    raw = str(text)
    return shorten(clean(raw[: limit + 1]) + raw[limit + 1 :], limit).translate(_LOOK_ALIKES)


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence made of our words (``str``) and of :class:`Value` parts; ``str(line)`` is its plain text."""

    parts: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(self.parts)


def line(*parts: str) -> Line:
    """Put a line together."""
    return Line(parts)


def command(name: str, *arguments: str) -> Value:
    """A command to copy. Arguments come from data: they are quoted, so that none becomes a command of its own."""
    return Value(" ".join([f"driftline {name}", *(shlex.quote(value(argument)) for argument in arguments)]))


def web_link(url: str | None) -> str | None:
    """The address if it is a plain http(s) link, with every character encoded that could end it; None otherwise."""
    if not url or len(url) > 2000:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    return quote(url, safe="!#$%&'()*+,-./:;=?@[]_~")
