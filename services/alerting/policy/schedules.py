"""Days, times of day, moments and time zones as the routing file writes them."""

from __future__ import annotations

import datetime as dt
import functools
import re
from zoneinfo import ZoneInfo, available_timezones

from services.alerting.policy.document import Node
from services.alerting.policy.fields import Fields
from services.alerting.policy.model import Digest, Period
from services.alerting.policy.problems import Problems, offer
from services.alerting.policy.times import DAY_MINUTES

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SETS = {
    "daily": frozenset(range(7)),
    "weekdays": frozenset(range(5)),
    "weekend": frozenset({5, 6}),
}
_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00)")
_EXPECTED_DAYS = "days such as mon, mon-fri, 'sat,sun', daily, weekdays or weekend"


def parse_zone(text: str) -> ZoneInfo:
    """A time zone of the IANA database.

    Raises:
        ValueError: There is none of that name.
    """
    # By the list, not by trying: the name would become a path.
    known = _zones()
    if text not in known:
        close = offer(text, known)
        hint = close if close.startswith("did") else "names are such as Europe/Zurich or UTC"
        raise ValueError(f"there is no such time zone ({hint})")
    return ZoneInfo(text)


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def parse_days(text: str) -> frozenset[int]:
    """Days of the week, 0 for Monday.

    Raises:
        ValueError: They are none.
    """
    found: set[int] = set()
    for part in text.lower().split(","):
        word = part.strip()
        first, dash, last = (end.strip() for end in word.partition("-"))
        if word in _SETS:
            found |= _SETS[word]
        elif dash:
            start, end = _day(first), _day(last)
            found |= {(start + step) % 7 for step in range((end - start) % 7 + 1)}
        else:
            found.add(_day(word))
    return frozenset(found)


def _day(word: str) -> int:
    if word in DAYS or word in _LONG:
        return DAYS.index(word[:3])
    raise ValueError(f"expected {_EXPECTED_DAYS}")


def parse_time(text: str) -> int:
    """Minutes of the day; 24:00 is its end.

    Raises:
        ValueError: It is no time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected a time of day such as 08:00")
    return int(found[1] or found[3]) * 60 + int(found[2] or found[4])


def parse_span(text: str) -> tuple[int, int]:
    """From and until, minutes of the day; until is not after from where it goes over midnight.

    Raises:
        ValueError: It is none, or empty.
    """
    first, dash, last = text.partition("-")
    if not dash:
        raise ValueError("expected times such as '08:00-18:00'")
    start, end = parse_time(first), parse_time(last)
    if start in (end, DAY_MINUTES):
        raise ValueError("expected times of some length, such as '08:00-18:00'; leave the field out for the whole day")
    return start, end


def parse_moment(text: str, zone: ZoneInfo) -> int:
    """Milliseconds since 1970 UTC of ``2026-12-01T22:00``, in ``zone`` unless it says another offset.

    A time that the clocks show twice is its first; one that they leave out is as far after the change as it says.

    Raises:
        ValueError: It is no moment between 1970 and 9000.
    """
    try:
        found = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("expected a moment such as 2026-12-01T22:00") from None
    if not 1970 <= found.year < 9000:
        raise ValueError("expected a moment such as 2026-12-01T22:00")
    aware = found if found.tzinfo is not None else found.replace(tzinfo=zone)
    return round(aware.timestamp() * 1000)


def zone_of(fields: Fields, default: ZoneInfo) -> ZoneInfo:
    """The field ``time_zone``."""
    return fields.parsed("time_zone", default, parse_zone)


def days_of(fields: Fields) -> frozenset[int]:
    """The field ``days``; every day where it is not there."""
    nodes = fields.texts("days", _EXPECTED_DAYS)
    if not nodes:
        return _SETS["daily"]
    return frozenset().union(*(fields.parse(node, frozenset(), parse_days) for node in nodes))


def read_periods(nodes: tuple[Node, ...], problems: Problems, zone: ZoneInfo) -> tuple[Period, ...]:
    """Periods from a list of ``{days, times, time_zone}``; one that goes over midnight becomes two."""
    periods: list[Period] = []
    for node in nodes:
        fields = Fields(node, problems)
        own_zone = zone_of(fields, zone)
        days = days_of(fields)
        times = fields.texts("times", "times such as '08:00-18:00'")
        if "days" not in fields and "times" not in fields:
            fields.wrong(node, "expected days, times or both")
        fields.end()
        spans = [fields.parse(time, None, parse_span) for time in times] if times else [(0, DAY_MINUTES)]
        for span in spans:
            if span is None or not days:
                continue
            start, end = span
            if start < end:
                periods.append(Period(days, start, end, own_zone))
                continue
            periods.append(Period(days, start, DAY_MINUTES, own_zone))
            if end > 0:
                periods.append(Period(frozenset((day + 1) % 7 for day in days), 0, end, own_zone))
    return tuple(periods)


def read_digest(node: Node, problems: Problems, zone: ZoneInfo) -> Digest | None:
    """``{at: "09:00", days: mon-fri}`` or ``{every: 1d}``."""
    fields = Fields(node, problems)
    every_ms = fields.duration_ms("every", None, least_ms=60_000, most_ms=7 * 86_400_000)
    minute = fields.parsed("at", None, parse_time)
    days = days_of(fields)
    own_zone = zone_of(fields, zone)
    fields.end()
    if ("every" in fields) == ("at" in fields):
        fields.wrong(node, 'expected either {at: "09:00"}, with days, or {every: 1d}')
        return None
    if "every" in fields and ("days" in fields or "time_zone" in fields):
        fields.wrong(node, "'every' has no days and no time zone: use 'at'")
    if minute == DAY_MINUTES:
        fields.wrong(node, "expected a time before 24:00: midnight is 00:00")
    if every_ms is None and minute is None:
        return None
    return Digest(every_ms, days, minute or 0, own_zone)


def moment(fields: Fields, name: str, zone: ZoneInfo) -> int | None:
    """A field that is a moment."""
    return fields.parsed(name, None, lambda text: parse_moment(text, zone))
