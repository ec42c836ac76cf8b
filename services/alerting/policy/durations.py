"""Durations as people write them: ``30s``, ``5m``, ``1h30m``, ``1d``."""

from __future__ import annotations

import re

_UNITS = {"w": 7 * 86_400_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PATTERN = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit in _UNITS))
LONGEST_MS = 10 * 366 * 86_400_000
"""Ten years: whoever writes more has mistaken the unit."""

EXPECTED = "a duration such as 0s, 30s, 5m, 1h30m, 1d or 1w"


def parse_duration(text: str) -> int:
    """Milliseconds.

    Raises:
        ValueError: It is no duration, or one of more than ten years; the message says what was expected.
    """
    found = _PATTERN.fullmatch(text.strip())
    if found is None or not found.group(0):
        if text.strip() == "0":
            return 0
        raise ValueError(f"expected {EXPECTED}")
    total = sum(int(count) * size for count, size in zip(found.groups(), _UNITS.values(), strict=True) if count)
    if total > LONGEST_MS:
        raise ValueError(f"expected {EXPECTED}, of at most ten years")
    return total


def format_duration(duration_ms: int) -> str:
    """The shortest text that :func:`parse_duration` reads back."""
    if duration_ms <= 0:
        return "0s"
    parts = []
    for unit, size in _UNITS.items():
        # A fortnight is 14d to people, and 2w only where it is whole.
        if unit == "w" and duration_ms % size:
            continue
        count, duration_ms = divmod(duration_ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
