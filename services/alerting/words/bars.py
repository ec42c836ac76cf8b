"""What a picture of a cause shows: which bins, called what, with which shares. Drawn by
:mod:`services.alerting.words.plots`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.words.readings import is_numeric, shares
from services.alerting.words.text import clean
from streams.statistics.layouts import ABOVE_MAX, BELOW_MIN, LOSS, NUMERIC, NUMERIC_MISSING, QUALITY

ROWS = 8
"""Bins of categories that a picture has room for."""

_LABEL_CHARACTERS = 28
_TICK_CHARACTERS = 9
_NUMBER_CHARACTERS = 6
_RESERVED = {
    "(missing)": "no value",
    "(unseen)": "never seen before",
    "(other)": "rarer ones",
}
_QUALITY = ("usable", "out of range", "never seen before", "no value", "unreadable")
_NEXT_TO_NOTHING = 5e-4
_SIZES = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
_RANK = re.compile(r"(\d+) – \d+ % (.+)")


@dataclass(frozen=True, slots=True)
class Bars:
    """Bins with shares, 0 to 1.

    Attributes:
        labels: One for each bin; where ``upright``, below the bar, else beside it. May be empty.
        expected: In the reference.
        observed: Since the change.
        upright: Whether the bins have an order, as numbers do.
        caption: What the axis below upright bars counts; empty where that needs no words.
    """

    labels: tuple[str, ...]
    expected: tuple[float, ...]
    observed: tuple[float, ...]
    upright: bool
    caption: str = ""


def bars(cause: Record) -> Bars | None:
    """The bars of a cause; None without counts."""
    found = shares(cause)
    if found is None:
        return None
    observed, expected, _ = found
    labels = [str(label) for label in cause["bins"]]
    if is_numeric(labels):
        if labels[0] == "as usual" and len(labels) == LOSS.size:
            return _tail(observed, expected)
        return _ordered(labels, observed, expected)
    if len(labels) == QUALITY.size and labels[0] == "valid":
        labels = list(_QUALITY)
    return _categories(labels, observed, expected)


def _ordered(labels: Sequence[str], observed: Sequence[float], expected: Sequence[float]) -> Bars:
    """Of numbers: each bin is called by where it begins."""
    rank = _RANK.fullmatch(labels[NUMERIC.size // 2])
    called = [_begins(label) for label in labels]
    called[BELOW_MIN], called[ABOVE_MAX], called[NUMERIC_MISSING] = "below", "above", "none"
    if rank is None:
        return Bars(tuple(called), tuple(expected), tuple(observed), True, "each bin begins at its number")
    called[BELOW_MIN + 1], called[ABOVE_MAX - 1] = "low", "high"
    caption = f"per cent of the reference {_short(rank[2], 40)} that lie lower"
    return Bars(tuple(called), tuple(expected), tuple(observed), True, caption)


def _begins(label: str) -> str:
    words = label.strip("[( ≥<").replace(",", " ").split()
    if not words:
        return ""
    try:
        return _compact(float(words[0]))
    except ValueError:
        return _short(words[0], _TICK_CHARACTERS)


def _compact(number: float) -> str:
    """A number in six characters, or seven: 1230000 as 1.23M, 0.00123 as 0.0012."""
    if not math.isfinite(number):
        return str(number)
    for size, unit, letter in _SIZES:
        if size <= abs(number) < 1000 * size:
            return f"{number / unit:.3g}{letter}"
    written = [f"{number:.{digits}g}" for digits in (4, 3, 2)]
    return next((text for text in written if len(text) <= _NUMBER_CHARACTERS), written[-1])


def _tail(observed: Sequence[float], expected: Sequence[float]) -> Bars:
    """Of the largest losses: those as usual are nearly all, and beside them nothing could be seen of the others."""
    called = (*(str(step) for step in range(1, LOSS.size - 1)), "none")
    caption = f"steps beyond the usual; as usual: {observed[0]:.1%}, expected {expected[0]:.1%}"
    return Bars(called, tuple(expected[1:]), tuple(observed[1:]), True, caption.replace("%", " %"))


def _categories(labels: Sequence[str], observed: Sequence[float], expected: Sequence[float]) -> Bars:
    """The bins that differ most, in their order; the rest together."""
    filled = [i for i in range(len(labels)) if observed[i] > 0 or expected[i] > _NEXT_TO_NOTHING]
    ranked = sorted(filled, key=lambda i: (-abs(observed[i] - expected[i]), -max(observed[i], expected[i]), i))
    shown = sorted(ranked if len(filled) <= ROWS else ranked[: ROWS - 1])
    called = [_RESERVED.get(labels[i].lower(), _short(labels[i], _LABEL_CHARACTERS) or "–") for i in shown]
    now, before = [observed[i] for i in shown], [expected[i] for i in shown]
    if len(filled) > len(shown):
        rest = [i for i in filled if i not in shown]
        called.append(f"{len(rest):,} others")
        now.append(sum(observed[i] for i in rest))
        before.append(sum(expected[i] for i in rest))
    return Bars(tuple(called), tuple(before), tuple(now), upright=False)


def _short(text: str, limit: int) -> str:
    """Names are cut here without saying how much is missing: the sentence beside the picture has room for that."""
    return clean(text[:limit]) if len(text) <= limit else clean(text[: limit - 1]) + "…"
