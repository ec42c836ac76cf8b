"""Values from data, for places that read markup, mentions or links into plain text and cannot be told not to.

Slack, Block Kit and HTML have rules of their own and need none of this. Mail programs make a link of every address,
and what apprise or Opsgenie hand a text to may read Markdown, HTML or mentions. There, a character that would do
something is shown as its look-alike that does nothing: the text reads the same, and is not meant to be copied.
"""

from __future__ import annotations

import re

from services.alerting.words.text import Line, Value, shorten

_INERT = str.maketrans(
    {
        "<": "‹",
        ">": "›",
        "@": "＠",
        "&": "＆",
        "`": "ˋ",
        "*": "∗",
        "[": "［",
        "]": "］",
        "|": "ǀ",
        "~": "∼",
        "{": "｛",
        "}": "｝",
        "#": "＃",
    }
)
_LINKING = re.compile(r":(?=//|\\\\)|www\.|(?:mailto|javascript):", re.IGNORECASE)
_UNLINKED = str.maketrans({":": "∶", ".": "․"})


def unlinked(text: str) -> str:
    """The text without anything that a mail program makes a link of: ``https∶//…``, ``www․…``, ``mailto∶…``."""
    return _LINKING.sub(lambda found: found[0].translate(_UNLINKED), text)


def inert(text: str) -> str:
    """The text without anything that Markdown, HTML or a chat program would act upon."""
    return unlinked(text).translate(_INERT).replace("__", "＿＿")


def plain(line: Line) -> str:
    """A line whose values are :func:`inert`; our own words stay as they are."""
    return "".join(inert(part) if isinstance(part, Value) else part for part in line.parts)


def mail_text(line: Line) -> str:
    """A line whose values are :func:`unlinked`."""
    return "".join(unlinked(part) if isinstance(part, Value) else part for part in line.parts)


def ended(text: str, end: str, limit: int) -> str:
    """A text and the links at its end in at most ``limit`` characters: a text is cut, a link is whole or not there."""
    if len(text) + 1 + len(end) <= limit:
        return f"{text}\n{end}"
    if 2 * len(end) > limit:
        return shorten(text, limit)
    return f"{shorten(text, limit - len(end) - 1)}\n{end}"
