"""When: intervals, digests and maintenance by the clock on the wall, whatever it does to the time zone.

A period is the minutes that a clock in its zone shows. Where clocks go forward, what they leave out does not happen:
a period 02:00-04:00 begins at 03:00 that day. Where they go back, what they show twice happens twice. Only a digest
happens once each day: at the first of two times, and at the moment of the change if its time is left out.

Every function is pure; times are milliseconds since 1970 UTC.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from zoneinfo import ZoneInfo

from services.alerting.policy.labels import Labels
from services.alerting.policy.model import Digest, Maintenance, Period, Policy, Route

DAY_MINUTES = 24 * 60
_DAY_MS = 86_400_000
_MONDAY_MS = 4 * _DAY_MS
"""The first Monday after the epoch: ``every`` counts from there, so that a week begins as weeks do."""

_DAYS_AHEAD = 16
"""A period comes at least once a week; a change of the clocks can swallow one, never two in a row."""

_LAST_MS = 8000 * 365 * _DAY_MS


def is_active(policy: Policy, route: Route, now_ms: int) -> bool:
    """Whether a route's messages may go out now."""
    return not route.active or in_periods(_periods(policy, route), now_ms)


def next_active_ms(policy: Policy, route: Route, now_ms: int) -> int:
    """The first moment from now on when they may; now, if they may."""
    if is_active(policy, route, now_ms):
        return now_ms
    periods = _periods(policy, route)
    found = _first_change(periods, now_ms, to_active=True)
    # Periods that never come do not get past the reader of the file; rather tell people than never.
    return now_ms if found is None else found


def next_digest_ms(digest: Digest, after_ms: int) -> int:
    """The first of the digest's moments after a moment."""
    if digest.every_ms is not None:
        return after_ms + digest.every_ms - (after_ms - _MONDAY_MS) % digest.every_ms
    moments = (
        _instants(day, digest.minute, digest.zone)[0]
        for day in _days(after_ms, digest.zone)
        if day.weekday() in digest.days
    )
    return min(moment for moment in moments if moment > after_ms)


def maintenance_of(policy: Policy, labels: Labels, now_ms: int) -> Maintenance | None:
    """The first maintenance of the file that is on now and concerns an alert with these labels."""
    return next((m for m in policy.maintenance if is_on(m, now_ms) and m.match(labels)), None)


def is_on(maintenance: Maintenance, now_ms: int) -> bool:
    """Whether a maintenance is on now."""
    if not maintenance.starts_ms <= now_ms < maintenance.ends_ms:
        return False
    return not maintenance.periods or in_periods(maintenance.periods, now_ms)


def maintenance_end_ms(maintenance: Maintenance, now_ms: int) -> int:
    """When a maintenance that is on now ends, for this time; now, if it is not on."""
    if not is_on(maintenance, now_ms):
        return now_ms
    if not maintenance.periods:
        return maintenance.ends_ms
    end_ms = _first_change(maintenance.periods, now_ms, to_active=False)
    return maintenance.ends_ms if end_ms is None else min(end_ms, maintenance.ends_ms)


def next_maintenance_edge_ms(policy: Policy, now_ms: int) -> int | None:
    """The first moment after now when any maintenance begins or ends; None if none ever will."""
    edges = [edge for m in policy.maintenance if (edge := next_edge_ms(m, now_ms)) is not None]
    return min(edges, default=None)


def next_edge_ms(maintenance: Maintenance, now_ms: int) -> int | None:
    """The same of one maintenance."""
    if now_ms >= maintenance.ends_ms:
        return None
    if is_on(maintenance, now_ms):
        return maintenance_end_ms(maintenance, now_ms)
    start_ms = max(now_ms, maintenance.starts_ms)
    if maintenance.periods and not in_periods(maintenance.periods, start_ms):
        found = _first_change(maintenance.periods, start_ms, to_active=True)
        return found if found is not None and found < maintenance.ends_ms else None
    return start_ms


def in_periods(periods: Sequence[Period], now_ms: int) -> bool:
    """Whether a moment is within any of some periods."""
    return any(_in_period(period, now_ms) for period in periods)


def local(time_ms: int, zone: ZoneInfo) -> dt.datetime:
    """A moment as a clock in a zone shows it."""
    return dt.datetime.fromtimestamp(min(time_ms, _LAST_MS) // 1000, zone)


def _periods(policy: Policy, route: Route) -> tuple[Period, ...]:
    return tuple(period for name in route.active for period in policy.intervals.get(name, ()))


def _in_period(period: Period, now_ms: int) -> bool:
    shown = local(now_ms, period.zone)
    minute = shown.hour * 60 + shown.minute
    return shown.weekday() in period.days and period.start_minute <= minute < period.end_minute


def _first_change(periods: Sequence[Period], now_ms: int, *, to_active: bool) -> int | None:
    """The first moment after now when it is within the periods, or is not.

    Whether it is can change only where a period begins or ends and where clocks change, so those moments are looked at.
    """
    moments = sorted({moment for period in periods for moment in _moments(period, now_ms) if moment > now_ms})
    return next((moment for moment in moments if in_periods(periods, moment) == to_active), None)


def _moments(period: Period, now_ms: int) -> Iterator[int]:
    for day in _days(now_ms, period.zone):
        change_ms = _change_ms(day, period.zone)
        if change_ms is not None:
            yield change_ms
        yield from _instants(day, period.start_minute, period.zone)
        yield from _instants(day, period.end_minute, period.zone)


def _days(from_ms: int, zone: ZoneInfo) -> Iterable[dt.date]:
    first = local(from_ms, zone).date() - dt.timedelta(days=1)
    return (first + dt.timedelta(days=ahead) for ahead in range(_DAYS_AHEAD))


def _instants(day: dt.date, minute: int, zone: ZoneInfo) -> list[int]:
    """When clocks show a minute of a day: once, twice, or, as they leave it out, when they do so."""
    naive = dt.datetime.combine(day, dt.time()) + dt.timedelta(minutes=minute)
    found = []
    for fold in (0, 1):
        aware = naive.replace(tzinfo=zone, fold=fold)
        moment = round(aware.timestamp() * 1000)
        if moment not in found and local(moment, zone).replace(tzinfo=None) == naive:
            found.append(moment)
    if found:
        return found
    left_out = int(naive.replace(tzinfo=zone).timestamp())
    change_ms = _change_between(left_out - 12 * 3600, left_out + 12 * 3600, zone)
    return [left_out * 1000 if change_ms is None else change_ms]


def _change_ms(day: dt.date, zone: ZoneInfo) -> int | None:
    """When on a day clocks change; None if they do not."""
    midnight = dt.datetime.combine(day, dt.time(), zone)
    return _change_between(int(midnight.timestamp()), int((midnight + dt.timedelta(days=1)).timestamp()), zone)


def _change_between(low: int, high: int, zone: ZoneInfo) -> int | None:
    """When clocks change between two moments in seconds. By halving: zoneinfo does not tell."""
    before = local(low * 1000, zone).utcoffset()
    if before == local(high * 1000, zone).utcoffset():
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if local(middle * 1000, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high * 1000
