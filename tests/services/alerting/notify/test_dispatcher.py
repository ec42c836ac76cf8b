"""How fast, how patiently and in which order is sent: to real HTTP servers, with a disk that really is full."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.channels.base import Redactor, http_session
from services.alerting.channels.making import make_channel
from services.alerting.clock import Clock
from services.alerting.metrics import Metrics
from services.alerting.notify import dispatcher as dispatching
from services.alerting.notify.dispatcher import BACK_OFF_MOST_SECONDS, Dispatcher, TokenBucket, back_off_seconds
from services.alerting.notify.outbox import Outbox
from services.alerting.notify.scheduler import Scheduler
from services.alerting.policy.model import Pace
from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK, Answer, too_many

pytestmark = pytest.mark.timeout(60)


@given(
    pace=st.builds(Pace, st.floats(0.1, 100), st.integers(1, 50)),
    steps=st.lists(st.floats(0, 5), max_size=50),
)
def test_the_bucket_never_lets_more_through_than_its_pace(pace: Pace, steps: list[float]) -> None:
    now = 0.0
    bucket = TokenBucket(pace, lambda: now)
    taken = 0
    for step in steps:
        now += step
        while bucket.wait_seconds() == 0.0:
            bucket._tokens -= 1
            taken += 1
        assert taken <= pace.burst + now * pace.per_second + 1e-6
        wait = bucket.wait_seconds()
        now += wait
        assert bucket.wait_seconds() == pytest.approx(0, abs=1e-6), "what it says to wait is enough"


@given(st.integers(1, 1000), st.integers())
def test_the_back_off_doubles_up_to_ten_minutes(attempts: int, seed: int) -> None:
    wait = back_off_seconds(attempts, random.Random(seed))
    most = min(2.0 ** min(attempts - 1, 30), BACK_OFF_MOST_SECONDS)
    assert most / 2 <= wait <= most


class Sending:
    """Dispatchers on an office's outbox."""

    def __init__(self, office: Any, clock: Clock) -> None:
        self.office = office
        self.clock = clock
        self.metrics = Metrics()
        self.outbox = Outbox(office.database, office.holder, office.topics, clock.now_ms)
        self.dispatchers: dict[str, Dispatcher] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Sending"]:
        """Send to every receiver of the policy."""
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for receiver in self.office.holder.current.receivers.values():
                session = await stack.enter_async_context(http_session(receiver.timeout_seconds))
                channel = make_channel(receiver, session, Redactor([]), self.clock)
                dispatcher = Dispatcher(
                    receiver,
                    channel,
                    self.outbox,
                    self.office.holder,
                    self.metrics,
                    lambda passed_on: None,
                    clock=self.clock,
                    chance=random.Random(1),
                )
                self.dispatchers[receiver.name] = dispatcher
                tasks.append(asyncio.create_task(dispatcher.run()))
            try:
                yield self
            finally:
                for dispatcher in self.dispatchers.values():
                    dispatcher.stop()
                await asyncio.gather(*tasks)

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until something is so, flushing what is due and waking everybody."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.office.all(
                sa.text("select receiver, kind, status, attempts, last_error from notifications where status != 'sent'")
            )
            await asyncio.to_thread(self.office.look)
            for dispatcher in self.dispatchers.values():
                dispatcher.wake()
            await asyncio.sleep(0.02)

    def sent(self) -> int:
        """How many messages arrived."""
        return sum(count for (_, status), count in self.outbox.backlog().items() if status == "sent")


@pytest.fixture
def sending(open_office: Any, make_policy: Any, make_route: Any) -> Callable[..., Sending]:
    def make(*receivers: Any, clock: Clock | None = None, **options: Any) -> Sending:
        names = [receiver.name for receiver in receivers]
        policy = make_policy(*receivers, route=make_route(*names, group_interval_ms=0), **options)
        office = open_office(policy, clock=clock or Clock())
        return Sending(office, office.clock)

    return make


async def test_a_storm_of_troubles_delivers_everything_in_order(
    sending: Any, receiver: Any, receivers: Any, make_apart: Any
) -> None:
    """429, 5xx and closed connections, on a clock that makes minutes of back-off pass in moments."""
    chance = random.Random(20260)
    office = sending(receivers.pagerduty(), receivers.slack_webhook(), clock=Clock(speed=600.0), backlog_digest=0)
    troubles = [Answer(200), Answer(500), Answer(503), Answer(0), too_many(0.02)]
    for service in (PAGERDUTY, SLACK_WEBHOOK):
        good = Answer(202 if service == PAGERDUTY else 200)
        receiver.script(service, *[a if a.status != 200 else good for a in chance.choices(troubles, k=120)])
    count = 30
    async with office.running():
        for number in range(1, count + 1):
            office.office.take(make_apart(number))
            if number % 3 == 0:
                office.office.take(make_apart(number - 1, "resolved"))
            await asyncio.sleep(0.005)
        office.office.take(*(make_apart(number, "resolved") for number in range(1, count + 1)))
        await office.until(lambda: office.sent() == 4 * count, 40)
    events = [(r.body["event_action"], r.body["dedup_key"]) for r in receiver.accepted(PAGERDUTY)]
    for key in {key for _, key in events}:
        actions = [action for action, other in events if other == key]
        assert actions.index("resolve") > max(n for n, action in enumerate(actions) if action == "trigger"), actions
    assert len({key for _, key in events}) == count
    assert len(receiver.accepted(SLACK_WEBHOOK)) >= 2 * count
    assert len(receiver.received()) > len(receiver.accepted()), "there was no storm"


async def test_what_a_receiver_asks_for_is_honoured_exactly_and_holds_everything_back(
    sending: Any, receiver: Any, receivers: Any, make_apart: Any
) -> None:
    office = sending(receivers.pagerduty(), clock=Clock(speed=100.0))
    receiver.script(PAGERDUTY, too_many(0.7))
    office.office.take(make_apart(1), make_apart(2))
    async with office.running():
        await office.until(lambda: office.sent() == 2)
    first, second, third = receiver.received(PAGERDUTY)
    assert (first.status, second.status, third.status) == (429, 202, 202)
    assert 0.69 <= second.monotonic_seconds - first.monotonic_seconds <= 2.0, "by the receiver's clock, not by ours"


async def test_a_message_that_never_arrives_is_given_up_in_time_and_goes_to_the_fallback(
    sending: Any, receiver: Any, receivers: Any, make_apart: Any, make_policy: Any, make_route: Any
) -> None:
    clock = Clock(speed=3600.0)
    office = sending(receivers.pagerduty(fallback="slack"), receivers.slack_webhook(), clock=clock)
    policy = make_policy(
        *office.office.holder.current.receivers.values(), route=make_route("pagerduty"), give_up_ms=600_000
    )
    office.office.holder.current = policy
    receiver.answer_always(PAGERDUTY, Answer(503))
    office.office.take(make_apart(1))
    async with office.running():
        await office.until(lambda: receiver.accepted(SLACK_WEBHOOK))
    [(kind, status), *_] = office.office.statuses("pagerduty")
    assert (kind, status) == ("trigger", "dead")
    assert "in place of pagerduty" in str(receiver.accepted(SLACK_WEBHOOK)[0].body)


async def test_one_that_cannot_be_sent_does_not_keep_the_others(
    sending: Any, receiver: Any, receivers: Any, make_apart: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = sending(receivers.pagerduty())
    office.office.take(make_apart(1), make_apart(2))
    from services.alerting.channels.pagerduty import PagerDutyChannel

    real = PagerDutyChannel.send

    async def send(self: Any, delivery: Any, pace: Any) -> Any:
        if delivery.incidents[0].deployment_id == "model-1":
            raise RuntimeError("secret")
        return await real(self, delivery, pace)

    monkeypatch.setattr(PagerDutyChannel, "send", send)
    async with office.running():
        await office.until(lambda: receiver.accepted(PAGERDUTY))
    errors = office.office.all(sa.text("select last_error from notifications where status = 'pending'"), scalars=True)
    assert errors == ["unforeseen RuntimeError"]


class Disk:
    """The file may grow no further: SQLite says that the disk is full."""

    def __init__(self, database: Any) -> None:
        self._pages: int | None = None
        sa.event.listen(database._engine, "begin", self._limit)

    def _limit(self, connection: Any) -> None:
        if self._pages is not None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {self._pages}")
        else:
            connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")

    def fill(self, database: Any) -> None:
        """Leave no space."""
        with database.transaction() as connection:
            for _ in range(3):  # what is free inside the file is taken too
                connection.exec_driver_sql("create table if not exists ballast (b)")
                free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
                connection.exec_driver_sql("insert into ballast values (zeroblob(?))", (free * 4096,))
            self._pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def empty(self) -> None:
        """There is space again."""
        self._pages = None


async def test_what_arrived_while_the_disk_was_full_is_noted_later_and_not_sent_again(
    sending: Any, receiver: Any, receivers: Any, make_apart: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "DATABASE_WAIT_SECONDS", 0.05)
    office = sending(receivers.pagerduty())
    disk = Disk(office.office.database)
    receiver.answer_always(PAGERDUTY, Answer(202, delay_seconds=0.3))
    count = 40
    office.office.take(*(make_apart(number) for number in range(1, count + 1)))
    office.office.look()
    async with office.running():
        dispatcher = office.dispatchers["pagerduty"]
        while not office.office.all(sa.text("select 1 from notifications where status = 'sending'")):
            await asyncio.sleep(0.005)
        disk.fill(office.office.database)
        receiver.answer_always(PAGERDUTY, Answer(202))
        deadline = time.monotonic() + 20
        while "disk is full" not in dispatcher.trouble:
            # Rows that are changed in place need no space; entries and audit events do, sooner or later.
            assert time.monotonic() < deadline, dispatcher.trouble
            await asyncio.sleep(0.01)
        arrived = len(receiver.accepted(PAGERDUTY))
        await asyncio.sleep(0.3)
        assert len(receiver.received(PAGERDUTY)) == arrived, "what cannot be noted is not sent"
        disk.empty()
        await office.until(lambda: office.sent() == count)
        assert dispatcher.trouble == ""
    keys = [r.body["dedup_key"] for r in receiver.received(PAGERDUTY)]
    assert len(keys) == len(set(keys)) == count, "sent again although it had arrived"


async def test_the_scheduler_says_that_the_disk_is_full_and_goes_on_when_it_is_not(
    sending: Any, receivers: Any, make_apart: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from services.alerting.notify import scheduler as scheduling

    monkeypatch.setattr(scheduling, "DATABASE_WAIT_SECONDS", 0.05)
    office = sending(receivers.pagerduty()).office
    disk = Disk(office.database)
    office.take(*(make_apart(number) for number in range(1, 30)))
    disk.fill(office.database)
    woken: list[str] = []
    scheduler = Scheduler(office.database, office.holder, office.topics, office.clock, woken.extend)
    task = asyncio.create_task(scheduler.run())
    deadline = time.monotonic() + 20
    while not scheduler.trouble:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert "nobody can be told of anything new: database or disk is full" in scheduler.trouble
    assert not task.done()
    assert woken == []
    disk.empty()
    while "pagerduty" not in woken:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert scheduler.trouble == ""
    scheduler.stop()
    await task
    assert caplog.text.count("disk is full") == 1, "said once, not every second"


async def test_the_scheduler_wakes_at_the_next_moment_by_itself(
    open_office: Any, make_policy: Any, make_route: Any, receivers: Any, make_apart: Any
) -> None:
    clock = Clock(speed=60.0)
    pager = receivers.pagerduty(url="http://127.0.0.1:9/")
    office = open_office(make_policy(pager, route=make_route("pagerduty", group_wait_ms=30_000)), clock=clock)
    told: list[str] = []
    scheduler = Scheduler(office.database, office.holder, office.topics, clock, told.extend, Metrics(), office.outbox)
    task = asyncio.create_task(scheduler.run())
    await asyncio.sleep(0.1)
    office.take(make_apart(1))
    scheduler.wake()
    began = time.monotonic()
    while "pagerduty" not in told:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.005)
    assert 0.4 <= time.monotonic() - began <= 3.0, "thirty seconds of a clock that is sixty times as fast"
    scheduler.stop()
    await task
