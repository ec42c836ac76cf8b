"""Durations as people write them: ``30d``, ``1h``, ``10m``, ``1h30m``."""

from __future__ import annotations

import re

_UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(ms|[wdhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern}\s*)+")


def duration_ms(value: object) -> int:
    """Milliseconds of a duration.

    Raises:
        ValueError: Not a duration with its unit.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a duration such as 10m, 1h or 30d, came {value!r}")
    text = str(value).strip()
    if not isinstance(value, str):
        raise ValueError(
            f"expected a duration with its unit (w, d, h, m, s, ms), came {text}: write {text}m or {text}h"
        )
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"expected a duration such as 10m, 1h or 30d, came {text[:40]!r}")
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text)))


def duration_text(milliseconds: int) -> str:
    """A duration in the fewest units that say it exactly; :func:`duration_ms` reads it back."""
    parts, left = [], milliseconds
    for unit, size in _UNITS_MS.items():
        if unit == "w":
            continue  # 30d is read more easily than 4w2d
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
