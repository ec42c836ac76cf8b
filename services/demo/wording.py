"""Times, delays and causes as people write them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any


def cause_label(cause: Mapping[str, Any]) -> str:
    """A cause's stream and segment, as the baseline's label names them."""
    return f"{cause['stream']} [{cause['segment']}]" if cause["segment"] else str(cause["stream"])


def when(time_us: int) -> str:
    """Event time for people: ``2013-04-10 17:15``, UTC."""
    return dt.datetime.fromtimestamp(time_us / 1e6, dt.UTC).strftime("%Y-%m-%d %H:%M")


def delay_text(days: float | None) -> str:
    """How long a shift of the mean goes unnoticed; None for one within the margin."""
    if days is None:
        return "never"
    return f"{days / 365:,.0f} years" if days >= 730 else f"{days:,.0f} days" if days >= 2 else f"{24 * days:,.0f} h"
