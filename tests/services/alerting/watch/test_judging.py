"""When an alarm of the monitor of the monitor is raised, and when it ends."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.policy.model import Watch
from services.alerting.watch.judging import (
    CLEAR_MS,
    FREE_BYTES,
    HOUR_MS,
    KafkaSeen,
    Memory,
    Place,
    ReceiverSeen,
    Seen,
    judge,
)

MINUTE = 60_000
START = 1_700_000_000_000
SETTINGS = Watch(lag_ms=5 * MINUTE, silent_topics={"predictions": HOUR_MS}, dead_letters_per_hour=100)


def seen(
    *,
    places: Mapping[str, Place] | None = None,
    ends: Mapping[str, int] | None = None,
    letters: int = 0,
    kafka: bool = True,
    **changes: Any,
) -> Seen:
    found = KafkaSeen(places or {}, ends or {"predictions": 0}, letters) if kafka else None
    usual = {"kafka": found, "kafka_silent_ms": 0, "receivers": (), "database_seconds": 0.0, "free_bytes": None}
    return Seen(**{**usual, **changes})


class Run:
    """Rounds one after the other; the memory goes through JSON, as through the database."""

    def __init__(self, settings: Watch = SETTINGS) -> None:
        self.settings = settings
        self.memory = Memory()

    def at(self, minute: float, what: Seen) -> tuple[list[str], list[str]]:
        verdict = judge(self.settings, self.memory, what, START + round(minute * MINUTE))
        self.memory = Memory.of(json.loads(json.dumps(verdict.memory.document())))
        assert self.memory == verdict.memory
        return [alarm.name for alarm in verdict.raised], list(verdict.ended)


def test_streams_that_stand_while_messages_wait_are_an_alarm_and_those_that_go_on_are_none() -> None:
    run = Run()
    standing = seen(places={"predictions/0": Place(7, 10), "predictions/1": Place(3, 1)})
    for minute in range(5):
        assert run.at(minute, standing) == ([], [])
    assert run.at(5, standing) == (["streams-lag"], [])
    assert run.at(6, standing) == ([], []), "once"
    going = Run()
    for minute in range(60):
        assert going.at(minute, seen(places={"predictions/0": Place(minute, 1000)})) == ([], []), "slow, but it goes on"
    idle = Run()
    for minute in range(60):
        assert idle.at(minute, seen()) == ([], [])


def test_an_alarm_ends_when_its_condition_has_been_gone_for_a_minute() -> None:
    run = Run()
    standing = seen(places={"predictions/0": Place(7, 10)})
    for minute in range(6):
        run.at(minute, standing)
    assert run.at(6, seen()) == ([], [])
    assert run.at(6.5, seen()) == ([], [])
    assert run.at(6.9, standing) == ([], []), "it was not over long enough; as one alarm it goes on, or ends later"
    assert run.at(8.0, seen()) in (([], []), ([], ["streams-lag"]))
    run.at(9.0, seen())
    assert run.memory.raised == {}


def test_what_kafka_did_not_tell_neither_raises_nor_ends() -> None:
    run = Run()
    standing = seen(places={"predictions/0": Place(7, 10)})
    for minute in range(6):
        run.at(minute, standing)
    for minute in range(6, 60):
        assert run.at(minute, seen(kafka=False)) == ([], [])
    assert run.at(60, seen()) == ([], [])
    assert run.at(61, seen()) == ([], ["streams-lag"])


def test_a_topic_on_which_nothing_comes_is_an_alarm_until_something_comes() -> None:
    run = Run()
    for minute in range(60):
        assert run.at(minute, seen(ends={"predictions": 42})) == ([], [])
    assert run.at(60, seen(ends={"predictions": 42})) == (["topic-silent:predictions"], [])
    assert run.at(61, seen(ends={"predictions": 43})) == ([], [])
    assert run.at(62, seen(ends={"predictions": 44})) == ([], ["topic-silent:predictions"])
    busy = Run()
    for minute in range(0, 600, 30):
        assert busy.at(minute, seen(ends={"predictions": minute})) == ([], [])


def test_time_in_which_kafka_was_away_is_no_silence_of_a_topic() -> None:
    run = Run()
    run.at(0, seen(ends={"predictions": 42}))
    for minute in range(1, 600):
        assert run.at(minute, seen(kafka=False)) == ([], [])
    for minute in range(600, 657):
        assert run.at(minute, seen(ends={"predictions": 42})) == ([], [])
    assert run.at(659, seen(ends={"predictions": 42})) == (["topic-silent:predictions"], [])


def test_dead_letters_are_counted_over_an_hour_and_the_alarm_ends_below_half() -> None:
    run = Run(Watch(dead_letters_per_hour=100))
    assert run.at(0, seen(letters=5_000)) == ([], []), "those from before count in no hour"
    assert run.at(30, seen(letters=5_100)) == ([], []), "not more than the limit"
    assert run.at(40, seen(letters=5_101)) == (["dead-letters"], [])
    assert run.at(85, seen(letters=5_160)) == ([], []), "101 - 100 + 59 within the hour: above half"
    assert run.at(101, seen(letters=5_160)) == ([], [])
    assert run.at(150, seen(letters=5_160)) == ([], [])
    assert run.at(151, seen(letters=5_160)) == ([], ["dead-letters"])
    slow = Run(Watch(dead_letters_per_hour=100))
    for minute in range(600):
        assert slow.at(minute, seen(letters=minute)) == ([], []), "a letter a minute is 60 an hour"


def test_a_receiver_that_fails_for_long_is_an_alarm_about_it_alone() -> None:
    run = Run()

    def of(*receivers: ReceiverSeen) -> Seen:
        return seen(receivers=receivers)

    failing = ReceiverSeen("chat", START, 3)
    fine = ReceiverSeen("mail", None, 0)
    assert run.at(4, of(failing, fine)) == ([], [])
    assert run.at(5, of(failing, fine)) == (["channel-failing:chat"], [])
    assert run.at(20, of(ReceiverSeen("chat", None, 0), fine)) == ([], [])
    assert run.at(21, of(ReceiverSeen("chat", None, 0), fine)) == ([], ["channel-failing:chat"])


def test_an_alarm_about_what_a_reload_took_away_ends_at_once() -> None:
    run = Run()
    for minute in range(11):
        run.at(minute, seen(receivers=(ReceiverSeen("chat", START, 3),), places={"predictions/0": Place(0, 1)}))
    assert set(run.memory.raised) == {"channel-failing:chat", "streams-lag"}
    run.settings = Watch(lag_ms=0)
    raised, ended = run.at(10, seen(kafka=False))
    assert (raised, set(ended)) == ([], {"channel-failing:chat", "streams-lag"})


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (seen(kafka=False, kafka_silent_ms=MINUTE), "kafka"),
        (seen(free_bytes=FREE_BYTES - 1), "database"),
        (seen(database_seconds=11.0), "database"),
    ],
)
def test_kafka_away_a_full_disk_and_a_database_that_waits_are_alarms(wrong: Seen, name: str) -> None:
    run = Run()
    assert run.at(1, seen(free_bytes=FREE_BYTES, database_seconds=10.0, kafka_silent_ms=MINUTE - 1)) == ([], [])
    assert run.at(2, wrong) == ([name], [])
    assert run.at(3, seen()) == ([], [])
    assert run.at(4, seen()) == ([], [name])


OFF = Watch(lag_ms=0, silent_topics={}, dead_letters_per_hour=0, channel_failing_ms=0)


def test_a_check_that_is_off_raises_nothing() -> None:
    run = Run(OFF)
    for minute in range(600):
        places = {"predictions/0": Place(0, 99)}
        receivers = (ReceiverSeen("chat", START, 99),)
        assert run.at(minute, seen(places=places, receivers=receivers, letters=minute * 1000)) == ([], [])


STEPS = st.lists(
    st.tuples(st.integers(1_000, 20 * MINUTE), st.booleans(), st.booleans(), st.integers(0, 200)), max_size=60
)


@given(STEPS)
def test_whatever_comes_an_alarm_is_raised_once_before_it_ends_once(
    steps: Sequence[tuple[int, bool, bool, int]],
) -> None:
    run, now, letters = Run(), 0, 0
    standing: set[str] = set()
    ended_at: dict[str, int] = {}
    for pause, stands, kafka, more in steps:
        now, letters = now + pause, letters + more
        places = {"predictions/0": Place(1, 5)} if stands else {}
        receivers = (ReceiverSeen("chat", START if stands else None, int(stands)),)
        what = seen(places=places, letters=letters, kafka=kafka, receivers=receivers)
        raised, ended = run.at(now / MINUTE, what)
        assert not set(raised) & standing
        assert set(ended) <= standing
        standing = (standing | set(raised)) - set(ended)
        assert standing == set(run.memory.raised)
        for name in ended:
            ended_at[name] = now
        for name in raised:
            assert now > ended_at.get(name, -1)
        if stands:
            assert "channel-failing:chat" not in ended
    assert CLEAR_MS > 0
