"""Whether an incident can be kept of an alert, and the names in it as every database keeps them."""

from __future__ import annotations

from driftline.codec import Record
from driftline.errors import EventError

MOST_NAME_BYTES = 1024
"""An index of PostgreSQL takes 2,704 bytes."""

_FILED_UNDER = ("id", "incident_key", "deployment_id")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def check_alert(alert: Record) -> Record:
    """The record, if an incident can be kept of it; NUL in names, which PostgreSQL has no place for, is U+FFFD.

    Raises:
        EventError: A name that everything is filed under is missing or too long.
    """
    for field in _FILED_UNDER:
        length = len(alert[field].encode())
        if not 0 < length <= MOST_NAME_BYTES:
            raise EventError(f"an alert's {field} has 1 to {MOST_NAME_BYTES} bytes of UTF-8, came {length}")
    names = {field: kept(alert[field]) for field in (*_FILED_UNDER, "monitor", "owner")}
    return alert if all(alert[field] == name for field, name in names.items()) else {**alert, **names}


def kept(text: str) -> str:
    """A text as both databases keep it."""
    return text.replace("\0", _REPLACEMENT)
