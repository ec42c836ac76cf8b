"""How messages about a specification say what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

SHOWN = 60


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A hint for a message, empty where nothing is close."""
    close = difflib.get_close_matches(word, known, 1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def either(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shown(value: Any) -> str:
    """A value as it came, not too long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def kind_text(value: Any) -> str:
    """What came, in words a person uses."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {shown(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"
