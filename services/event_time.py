"""Event times as people read and write them."""

from __future__ import annotations

import datetime as dt

from driftline.errors import EventError
from driftline.rows import timestamp_us
from services.errors import ServicesError

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def rfc3339(time_us: int) -> str:
    """Microseconds since 1970 UTC as RFC 3339 text, with as many decimals as it takes."""
    try:
        moment = _EPOCH + dt.timedelta(microseconds=time_us)
    except OverflowError:
        return f"{time_us} us"  # beyond the years 1 to 9999
    spec = "seconds" if time_us % 1_000_000 == 0 else "milliseconds" if time_us % 1_000 == 0 else "microseconds"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")


def parse_moment(text: str) -> int:
    """Microseconds since 1970 UTC of a date (``2013-03-01``, midnight UTC) or an RFC 3339 time.

    Raises:
        ServicesError: Neither, or a time without a zone.
    """
    stripped = text.strip()
    try:
        return timestamp_us(f"{stripped}T00:00:00Z" if len(stripped) == len("2013-03-01") else stripped)
    except EventError as error:
        raise ServicesError(f"expected a date (2013-03-01, UTC) or an RFC 3339 time: {error}") from error
