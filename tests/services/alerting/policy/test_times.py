"""Intervals, digests and maintenance follow the clock on the wall through every change of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alerting.policy import times
from services.alerting.policy.model import Digest, Maintenance, Match, Period, Policy, Route
from services.alerting.policy.schedules import parse_moment

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
ZURICH = ZoneInfo("Europe/Zurich")
# Changes by an hour at 2 and at midnight, by half an hour, and at different seasons; one zone without.
ZONES = [
    ZoneInfo(n) for n in ("Europe/Zurich", "America/Santiago", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kolkata")
]
CHANGES = [
    "2026-03-29T01:00+00:00", "2026-10-25T01:00+00:00", "2026-04-05T04:00+00:00", "2026-09-06T04:00+00:00",
    "2026-04-04T15:00+00:00", "2026-10-03T15:30+00:00", "2026-04-23T22:00+00:00", "2026-10-29T21:00+00:00",
]  # fmt: skip


def ms(text: str, zone: ZoneInfo = ZURICH) -> int:
    moment = dt.datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp() * 1000)


def policy_of(*periods: Period, **changes: object) -> tuple[Policy, Route]:
    route = Route("route", Match(), (), ("incident",), 0, 0, 0, ("x",) if periods else (), "", None, False, (), 1)
    return Policy(receivers={}, route=route, intervals={"x": periods}, **changes), route  # type: ignore[arg-type]


def shown(now_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """Day of the week and minute of the day that a clock shows."""
    local = dt.datetime.fromtimestamp(now_ms / 1000, zone)
    return local.weekday(), local.hour * 60 + local.minute


def slow_active(periods: list[Period], now_ms: int) -> bool:
    """What the clock shows, looked at."""
    return any(
        day in p.days and p.start_minute <= minute < p.end_minute
        for p in periods
        for day, minute in [shown(now_ms, p.zone)]
    )


days = st.frozensets(st.integers(0, 6), min_size=1)
zones = st.sampled_from(ZONES)
quarter = st.integers(0, 95).map(lambda n: n * 15)


@st.composite
def period(draw: st.DrawFn) -> Period:
    start = draw(quarter)
    return Period(draw(days), start, draw(st.integers(start // 15 + 1, 96)) * 15, draw(zones))


@st.composite
def moment(draw: st.DrawFn) -> int:
    """Mostly near where clocks change."""
    near = ms(draw(st.sampled_from(CHANGES)))
    return near + draw(st.integers(-3 * 96, 3 * 96)) * 15 * MINUTE + draw(st.sampled_from([0, 1, 7 * MINUTE]))


def slow_next(holds: Callable[[int], bool], now_ms: int) -> int:
    """The first quarter of an hour from which it holds, walked to; everything here changes at whole quarters."""
    at = now_ms
    while not holds(at):
        at = at - at % (15 * MINUTE) + 15 * MINUTE
        assert at < now_ms + 16 * DAY
    return at


@settings(max_examples=200, deadline=None)
@given(st.lists(period(), min_size=1, max_size=3), moment())
def test_a_route_wakes_at_the_first_moment_that_a_clock_shows_one_of_its_times(periods: list[Period], now: int) -> None:
    policy, route = policy_of(*periods)
    assert times.is_active(policy, route, now) == slow_active(periods, now)
    found = times.next_active_ms(policy, route, now)
    if all(p.end_minute - p.start_minute > 60 for p in periods):  # no change of clocks can swallow it
        assert found == slow_next(lambda at: slow_active(periods, at), now)
    else:
        assert found >= now and slow_active(periods, found)
        if found > now:
            assert not slow_active(periods, found - 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(period(), min_size=1, max_size=3), moment(), st.integers(-10, 40))
def test_a_weekly_maintenance_begins_and_ends_as_clocks_show(periods: list[Period], now: int, until: int) -> None:
    ends = now + until * HOUR
    maintenance = Maintenance("m", Match(), 0, ends, tuple(periods), "ada", "why", 1)
    policy, _ = policy_of(maintenance=(maintenance,))

    def on(at: int) -> bool:
        return at < ends and slow_active(periods, at)

    found = times.maintenance_of(policy, {}, now)
    assert (found is maintenance) == on(now)
    over = times.maintenance_end_ms(maintenance, now)
    edge = times.next_maintenance_edge_ms(policy, now)
    if on(now):
        if ends - now < 15 * DAY and not all(on(at) for at in range(now, ends, 15 * MINUTE)):
            walked = slow_next(lambda at: not on(at), now)
            assert over == min(walked, ends)
        assert edge == over > now and not on(over) and on(over - 1)
    else:
        assert over == now
        if edge is None:
            assert not any(on(at) for at in range(now - now % (15 * MINUTE), ends, 15 * MINUTE) if at > now)
        else:
            assert edge == slow_next(on, now)


@pytest.mark.parametrize(
    ("now", "begins"),
    [
        ("2026-11-20T17:59:59", "2026-11-20T17:59:59"),  # a Friday
        ("2026-11-20T18:00", "2026-11-23T08:00"),
        ("2026-11-21T12:00", "2026-11-23T08:00"),
        ("2026-03-27T19:00", "2026-03-30T08:00"),  # over the change to summer time
        ("2026-10-23T19:00", "2026-10-26T08:00"),
    ],
)
def test_office_hours_are_those_of_the_wall_clock(now: str, begins: str) -> None:
    policy, route = policy_of(Period(frozenset(range(5)), 8 * 60, 18 * 60, ZURICH))
    assert times.next_active_ms(policy, route, ms(now)) == ms(begins)


def test_a_period_that_the_clock_leaves_out_begins_at_the_change_or_waits_for_the_next_week() -> None:
    policy, route = policy_of(Period(frozenset({6}), 150, 240, ZURICH))  # Sunday 02:30 to 04:00
    assert times.next_active_ms(policy, route, ms("2026-03-29T00:00")) == ms("2026-03-29T01:00+00:00")
    policy, route = policy_of(Period(frozenset({6}), 135, 165, ZURICH))  # 02:15 to 02:45
    assert times.next_active_ms(policy, route, ms("2026-03-29T00:00")) == ms("2026-04-05T02:15")


def test_what_the_clock_shows_twice_happens_twice() -> None:
    policy, route = policy_of(Period(frozenset({6}), 135, 165, ZURICH))
    first = ms("2026-10-25T00:15+00:00")
    assert times.next_active_ms(policy, route, ms("2026-10-25T00:00")) == first
    assert times.next_active_ms(policy, route, first + 45 * MINUTE) == first + HOUR


def test_a_route_without_intervals_is_always_awake() -> None:
    policy, route = policy_of()
    assert times.is_active(policy, route, 5) and times.next_active_ms(policy, route, 5) == 5


@settings(max_examples=100, deadline=None)
@given(days, st.integers(0, 1439), zones, moment())
def test_a_digest_comes_once_on_each_of_its_days(on: frozenset[int], minute: int, zone: ZoneInfo, now: int) -> None:
    digest = Digest(None, on, minute, zone)
    found = []
    at = now
    for _ in range(10):
        later = times.next_digest_ms(digest, at)
        assert later > at
        at = later
        found.append(later)
    seen = [dt.datetime.fromtimestamp(at / 1000, zone) for at in found]
    dates = [moment.date() for moment in seen]
    assert dates == sorted(set(dates)) and all(date.weekday() in on for date in dates)
    whole = [dates[0] + dt.timedelta(days=n) for n in range((dates[-1] - dates[0]).days + 1)]
    assert dates == [date for date in whole if date.weekday() in on]
    for moment in seen:
        shown_minute = moment.hour * 60 + moment.minute
        # Later than its time only where the clock leaves that out, then by at most what it leaves out.
        assert minute <= shown_minute <= minute + 60
        assert moment.fold == 0
        if shown_minute != minute:
            naive = dt.datetime.combine(moment.date(), dt.time(minute // 60, minute % 60))
            back = dt.datetime.fromtimestamp(naive.replace(tzinfo=zone).timestamp(), zone)
            assert back.replace(tzinfo=None) != naive


def test_a_digest_every_so_often_begins_with_the_week() -> None:
    daily = Digest(DAY, frozenset(range(7)), 0, ZURICH)
    assert times.next_digest_ms(daily, ms("2026-11-21T13:00+00:00")) == ms("2026-11-22T00:00+00:00")
    assert times.next_digest_ms(daily, ms("2026-11-22T00:00+00:00")) == ms("2026-11-23T00:00+00:00")
    weekly = Digest(7 * DAY, frozenset(range(7)), 0, ZURICH)
    assert times.next_digest_ms(weekly, ms("2026-11-21T13:00+00:00")) == ms("2026-11-23T00:00+00:00")  # a Monday


def test_a_maintenance_between_two_moments(read: Callable[[str], Policy], whole: str) -> None:
    policy = read(whole)
    labels = {"deployment": "credit"}
    start, end = ms("2026-12-01T22:00"), ms("2026-12-02T02:00")
    assert times.maintenance_of(policy, labels, start - 1) is None
    found = times.maintenance_of(policy, labels, start)
    assert found is not None and found.name == "release" and times.maintenance_end_ms(found, start) == end
    assert times.maintenance_of(policy, {"deployment": "other"}, start) is None
    assert times.maintenance_of(policy, labels, end) is None
    assert times.next_maintenance_edge_ms(policy, start - 1) == start
    assert times.next_maintenance_edge_ms(policy, start) == end
    assert times.next_maintenance_edge_ms(policy, ms("2027-07-01")) is None


def test_times_over_midnight_go_on_the_next_day(read: Callable[[str], Policy], whole: str) -> None:
    utc = ZoneInfo("UTC")
    weekend = frozenset({4, 5, 6})
    assert read(whole).intervals["nights"] == (
        Period(weekend, 22 * 60, 1440, utc),
        Period(frozenset({5, 6, 0}), 0, 6 * 60, utc),
        Period(weekend, 12 * 60, 13 * 60, utc),
    )


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-12-01T22:00", "2026-12-01T21:00+00:00"),
        ("2026-07-01", "2026-06-30T22:00+00:00"),
        ("2026-12-01T22:00+05:00", "2026-12-01T17:00+00:00"),
        ("2026-10-25T02:30", "2026-10-25T00:30+00:00"),  # shown twice: the first
        ("2026-03-29T02:30", "2026-03-29T01:30+00:00"),  # left out: as far after the change
    ],
)
def test_a_moment_is_what_the_clock_of_its_zone_shows(text: str, utc: str) -> None:
    assert parse_moment(text, ZURICH) == ms(utc)
