"""Who is told of what, when: groups, escalations, reminders, digests and active times, on a clock moved by hand."""

import itertools
import shutil
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from services.alerting.database import tables as t
from services.alerting.incidents.raising import end_signal, raise_signal
from services.alerting.notify.kinds import Kind
from services.alerting.notify.scheduler import Scheduler
from services.alerting.policy.model import Pace, PagerDutyReceiver, SlackReceiver, Watch
from services.alerting.words.system import SystemWords

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def pager(name: str = "pager", **changes: Any) -> PagerDutyReceiver:
    return PagerDutyReceiver(**{"name": name, "pace": Pace(1000, 1000), "routing_key": SecretStr("k"), **changes})


def chat(name: str = "chat", **changes: Any) -> SlackReceiver:
    usual = {"name": name, "pace": Pace(1000, 1000), "token": SecretStr("x"), "channel": "C1"}
    return SlackReceiver(**{**usual, **changes})


@pytest.fixture
def office(open_office: Any, make_policy: Any, make_route: Any) -> Any:
    """``office(pager(), chat(), notify=("pager",), group_wait_ms=…, policy={…})``."""

    def make(*receivers: Any, notify: tuple[str, ...] | None = None, policy: Any = None, **route: Any) -> Any:
        names = notify if notify is not None else tuple(receiver.name for receiver in receivers)
        return open_office(make_policy(*receivers, route=make_route(*names, **route), **(policy or {})))

    return make


def first_ms(office: Any, receiver: str) -> int:
    """When the first message of a receiver was decided."""
    n = t.notifications.c
    moment: int = office.all(sa.select(sa.func.min(n.created_ms)).where(n.receiver == receiver), scalars=True)[0]
    return moment


def play(office: Any, receiver: str, until_ms: int) -> list[tuple[float, str]]:
    """Let time pass from one due moment to the next; what the receiver is sent, and at which minute from now."""
    began = office.clock.now_ms()
    told: list[tuple[float, str]] = []
    while True:
        due_ms = office.look()
        told += [
            ((office.clock.now_ms() - began) / MINUTE, claim.delivery.kind.value) for claim in office.send_all(receiver)
        ]
        if due_ms is None or due_ms > began + until_ms:
            office.clock.move(began + until_ms - office.clock.now_ms())
            return told
        assert due_ms > office.clock.now_ms(), "it asks to be looked at again at once"
        office.clock.move(due_ms - office.clock.now_ms())


def test_the_first_message_waits_for_the_group_and_one_message_names_all_of_it(office: Any, make_apart: Any) -> None:
    opened = office(chat(), group_by=("owner",), group_wait_ms=30 * SECOND, group_interval_ms=5 * MINUTE)
    opened.take(make_apart(1))
    opened.clock.move(10 * SECOND)
    opened.take(make_apart(2))
    opened.take(make_apart(3, owner="other-team"))
    opened.look()
    assert opened.outbox.next_due_ms("chat") is None
    opened.clock.move(20 * SECOND)
    opened.look()
    first = opened.claim("chat")
    assert {incident.deployment_id for incident in first.delivery.incidents} == {"model-1", "model-2"}
    assert first.delivery.group_labels == (("owner", "risk-team"),)
    opened.outbox.sent(first, {})
    assert opened.outbox.claim("chat") is None, "the other owner's group waits for its own time"
    opened.clock.move(10 * SECOND)
    assert opened.kinds("chat") == ["trigger"]


def test_reminders_come_on_time_and_stop_when_somebody_takes_it_and_start_anew_when_it_is_given_back(
    office: Any, make_apart: Any
) -> None:
    opened = office(pager(), repeat_interval_ms=HOUR)
    opened.take(make_apart(1))
    assert play(opened, "pager", 150 * MINUTE) == [(0, "trigger"), (60, "repeat"), (120, "repeat")]
    [incident] = opened.incident_ids()
    opened.acknowledge(incident)
    assert play(opened, "pager", 5 * HOUR) == [(0, "acknowledge")]
    opened.give_back(incident)
    assert play(opened, "pager", 90 * MINUTE) == [(0, "acknowledge"), (60, "repeat")]


def test_a_pager_that_took_the_answer_is_not_told_of_it_and_a_chat_is(office: Any, make_apart: Any) -> None:
    opened = office(pager(), chat())
    opened.take(make_apart(1))
    opened.look()
    opened.send_all("pager"), opened.send_all("chat")
    [incident] = opened.incident_ids()
    opened.acknowledge(incident, except_receiver="pager")
    assert (opened.kinds("pager"), opened.kinds("chat")) == ([], ["acknowledge"])
    opened.take(make_apart(1, "resolved"))
    opened.clock.move(MINUTE)
    assert (opened.kinds("pager"), opened.kinds("chat")) == (["resolve"], ["resolve"])


@pytest.fixture
def chain() -> Any:
    from services.alerting.policy.model import Escalation, Step

    steps = (Step(15 * MINUTE, ("chat",)), Step(HOUR, ("lead", "chat")))
    return {"escalations": {"standard": Escalation(name="standard", steps=steps, repeat=1, line=0)}}


def test_while_nobody_takes_it_one_after_the_other_is_told_and_then_all_again(
    office: Any, make_apart: Any, chain: Any
) -> None:
    opened = office(
        pager(), chat(), pager("lead"), notify=("pager",), escalate="standard", repeat_interval_ms=0, policy=chain
    )
    opened.take(make_apart(1))
    started = opened.clock.now_ms()
    chat_told = play(opened, "chat", 5 * HOUR)
    assert chat_told == [(15, "trigger"), (60, "repeat"), (75, "repeat"), (120, "repeat")]
    assert (first_ms(opened, "lead") - started) / MINUTE == 60
    kinds = [(claim.delivery.kind.value, claim.delivery.because) for claim in opened.send_all("lead")]
    assert [kind for kind, _ in kinds] == ["trigger", "repeat"]
    assert kinds[0][1] == "escalation standard, step 2 of 2"
    escalated = [event for event in opened.audited() if event["action"] == "incident.escalated"]
    assert [event["detail"]["step"] for event in escalated] == ["1", "2", "1", "2"]
    assert [event["detail"]["round"] for event in escalated] == ["1", "1", "2", "2"]
    opened.take(make_apart(1, "resolved"))
    opened.clock.move(HOUR)
    assert opened.kinds("lead") == opened.kinds("chat") == ["resolve"], "who was called hears of the end"


def test_a_reminder_of_an_escalation_wakes_whoever_sends_it(office: Any, make_apart: Any, chain: Any) -> None:
    opened = office(chat(), pager("lead"), notify=("chat",), escalate="standard", policy=chain)
    scheduler = Scheduler(opened.database, opened.holder, opened.topics, opened.clock, lambda receivers: None)
    opened.take(make_apart(1))
    scheduler.look()
    opened.send_all("chat")
    opened.clock.move(15 * MINUTE)
    woken: list[str] = []
    scheduler.look(woken.extend)
    assert woken == ["chat"]
    assert opened.kinds("chat") == ["repeat"]


def test_whoever_takes_it_ends_the_escalation_and_giving_it_back_begins_it_anew(
    office: Any, make_apart: Any, chain: Any
) -> None:
    opened = office(pager(), chat(), pager("lead"), notify=("pager",), escalate="standard", policy=chain)
    opened.take(make_apart(1))
    [incident] = opened.incident_ids()
    opened.clock.move(10 * MINUTE)
    opened.acknowledge(incident)
    assert play(opened, "chat", 3 * HOUR) == []
    opened.give_back(incident)
    assert play(opened, "chat", 20 * MINUTE) == [(15, "trigger")]
    opened.take(make_apart(1, "resolved"))
    opened.clock.move(HOUR)
    opened.look()
    assert opened.statuses("lead") == [], "what is over is escalated no further"


def test_an_escalation_tells_a_receiver_only_of_what_is_severe_enough_for_it(
    office: Any, make_apart: Any, chain: Any
) -> None:
    picky = chat(minimum_severity="critical")
    opened = office(pager(), picky, pager("lead"), notify=("pager",), escalate="standard", policy=chain)
    opened.take(make_apart(1, severity="warning"))
    assert play(opened, "chat", 3 * HOUR) == []
    assert opened.statuses("lead")[0] == ("trigger", "pending")


def test_a_digest_comes_at_its_moment_with_all_that_was_gathered_and_a_pager_gets_each_by_itself(
    office: Any, make_apart: Any
) -> None:
    digest = parse_digest_of({"every": "1d"})
    opened = office(chat(), pager(), digest=digest)
    for number in range(1, 4):
        opened.take(make_apart(number, severity="info"))
    opened.take(make_apart(2, "resolved", severity="info"))
    assert sorted(opened.kinds("pager")) == ["resolve", *["trigger"] * 3]
    due_ms = opened.look()
    assert opened.outbox.claim("chat") is None
    opened.clock.move(DAY)
    opened.look()
    message = opened.claim("chat")
    assert message.delivery.kind == Kind.DIGEST
    assert [i.status for i in message.delivery.incidents] == ["open", "open", "resolved"]
    opened.outbox.sent(message, {})
    opened.clock.move(DAY)
    opened.look()
    assert opened.outbox.claim("chat") is None, "nothing happened, nothing is said"
    opened.take(make_apart(1, "resolved"), make_apart(3, "resolved"))
    opened.clock.move(DAY)
    opened.look()
    last = opened.claim("chat")
    assert (last.delivery.kind, len(last.delivery.incidents), last.delivery.over) == (Kind.DIGEST, 2, True)
    assert due_ms is not None


def parse_digest_of(document: dict[str, Any]) -> Any:
    from zoneinfo import ZoneInfo

    from services.alerting.policy.model import Digest

    assert document == {"every": "1d"}
    return Digest(every_ms=DAY, days=frozenset(range(7)), minute=0, zone=ZoneInfo("UTC"))


def test_what_is_gathered_and_gets_worse_is_told_at_once_by_the_route_that_does_not_gather(
    open_office: Any, make_policy: Any, make_route: Any, make_apart: Any
) -> None:
    import re

    from services.alerting.policy.model import Match, Test

    info = Match((Test("severity", (re.compile("info"),), False, "info"),))
    inner = make_route(
        "chat", path="route/infos", match=info, digest=parse_digest_of({"every": "1d"}), group_wait_ms=30 * SECOND
    )
    opened = open_office(make_policy(chat(), route=make_route("chat", routes=(inner,))))
    opened.take(make_apart(1, severity="info"))
    assert opened.kinds("chat") == []
    opened.take(make_apart(1, severity="critical", id="another record"))
    assert opened.kinds("chat") == ["trigger"]
    opened.clock.move(DAY)
    assert opened.kinds("chat") == ["repeat"], "the digest has nothing left to say of it"


def test_outside_active_times_the_first_message_waits_for_the_morning(office: Any, make_apart: Any) -> None:
    from zoneinfo import ZoneInfo

    from services.alerting.policy.model import Period

    hours = {"office": (Period(frozenset(range(7)), 8 * 60, 18 * 60, ZoneInfo("UTC")),)}
    opened = office(chat(), active=("office",), policy={"intervals": hours})
    midnight = -(-opened.clock.now_ms() // DAY) * DAY
    opened.clock.move(midnight + 2 * HOUR - opened.clock.now_ms())
    opened.take(make_apart(1))
    assert play(opened, "chat", 7 * HOUR) == [(360, "trigger")]
    opened.clock.move(midnight + DAY + HOUR - opened.clock.now_ms())
    opened.take(make_apart(1, "resolved"))
    assert play(opened, "chat", HOUR) == [(0, "resolve")], "an end does not wait for anybody's hours"


@pytest.mark.parametrize("group_by", [("incident",), ("owner",)])
def test_a_warning_of_the_night_that_becomes_critical_does_not_wait_for_the_morning(
    open_office: Any, make_policy: Any, make_route: Any, make_apart: Any, group_by: tuple[str, ...]
) -> None:
    import re
    from zoneinfo import ZoneInfo

    from services.alerting.policy.model import Match, Period, Test

    hours = {"office": (Period(frozenset(range(7)), 8 * 60, 18 * 60, ZoneInfo("UTC")),)}
    critical = Match((Test("severity", (re.compile("critical"),), False, "critical"),))
    inner = make_route("chat", path="route/criticals", match=critical, group_by=group_by, repeat_interval_ms=HOUR)
    tree = make_route("chat", group_by=group_by, active=("office",), routes=(inner,))
    opened = open_office(make_policy(chat(), route=tree, intervals=hours))
    midnight = -(-opened.clock.now_ms() // DAY) * DAY
    opened.clock.move(midnight + 2 * HOUR - opened.clock.now_ms())
    opened.take(make_apart(1, severity="warning"))
    assert play(opened, "chat", HOUR) == []
    opened.take(make_apart(1, severity="critical", id="worse"))
    assert play(opened, "chat", 90 * MINUTE) == [(0, "trigger"), (60, "repeat")], "and by that route's reminders"


def test_what_comes_back_begins_a_thread_of_its_own_that_knows_the_last_one(office: Any, make_apart: Any) -> None:
    opened = office(chat(), group_interval_ms=0)
    opened.take(make_apart(1))
    opened.look()
    first = opened.claim("chat")
    opened.outbox.sent(first, {"ts": "17"})
    opened.take(make_apart(1, "resolved"))
    opened.kinds("chat")
    again = {"incident_key": make_apart(1)["incident_key"], "detection_time_us": 1_371_057_660_000_000 + 86_400_000_000}
    opened.take(make_apart(1, episode=2, id="again", change_time_us=1_371_057_600_000_000 + 86_400_000_000, **again))
    opened.look()
    second = opened.claim("chat")
    assert [i.episode for i in second.delivery.incidents] == [2]
    assert second.delivery.kind == Kind.TRIGGER
    assert second.delivery.thread_key != first.delivery.thread_key
    assert second.delivery.receipt == {"ts": "17"}


def test_a_reload_tells_whoever_it_names_newly_and_forgets_nobody_who_was_told(
    open_office: Any, make_policy: Any, make_route: Any, make_apart: Any
) -> None:
    opened = open_office(make_policy(chat(), pager(), route=make_route("chat"), digest="one"))
    scheduler = Scheduler(opened.database, opened.holder, opened.topics, opened.clock, lambda receivers: None)
    opened.take(make_apart(1))
    scheduler.look()
    assert [c.delivery.kind.value for c in opened.send_all("chat")] == ["trigger"]
    opened.holder.current = make_policy(chat(), pager(), route=make_route("pager"), digest="two")
    scheduler.look()
    assert [c.delivery.kind.value for c in opened.send_all("pager")] == ["trigger"]
    opened.take(make_apart(1, "resolved"))
    opened.clock.move(MINUTE)
    scheduler.look()
    for name in ("chat", "pager"):
        assert [c.delivery.kind.value for c in opened.send_all(name)] == ["resolve"]


def test_a_receiver_that_a_reload_removes_is_left_alone_and_told_again_when_it_is_back(
    open_office: Any, make_policy: Any, make_route: Any, make_apart: Any
) -> None:
    both = make_policy(chat(), pager(), route=make_route("chat", "pager", repeat_interval_ms=HOUR), digest="both")
    opened = open_office(both)
    scheduler = Scheduler(opened.database, opened.holder, opened.topics, opened.clock, lambda receivers: None)
    opened.take(make_apart(1))
    scheduler.look()
    opened.send_all("chat"), opened.send_all("pager")
    opened.holder.current = make_policy(chat(), route=make_route("chat"), digest="one")
    opened.clock.move(2 * HOUR)
    scheduler.look()
    assert opened.statuses("pager") == [("trigger", "sent")]
    opened.holder.current = both
    opened.clock.move(MINUTE)
    scheduler.look()
    assert [c.delivery.kind.value for c in opened.send_all("pager")] == ["repeat"]


WORDS = SystemWords("A receiver fails", ("It has failed for 6 minutes.",), "Look at it.", "channel-failing")


@pytest.mark.parametrize(
    ("watch", "told"),
    [
        (Watch(), {"chat", "lead"}),
        (Watch(notify=("chat",)), {"chat"}),
        (Watch(notify=("pager",)), {"chat", "lead"}),
    ],
)
def test_that_a_receiver_fails_is_told_to_others_never_to_it(office: Any, watch: Watch, told: set[str]) -> None:
    opened = office(pager(), chat(), pager("lead"), notify=("pager",), policy={"watch": watch})
    with opened.database.transaction() as connection:
        raise_signal(
            connection,
            opened.holder.current,
            opened.topics,
            name="channel-failing:pager",
            severity="error",
            labels={"receiver": "pager"},
            words=WORDS,
            now_ms=opened.clock.now_ms(),
        )
    opened.look()
    assert {name for name in ("pager", "chat", "lead") if opened.statuses(name)} == told
    with opened.database.transaction() as connection:
        end_signal(
            connection, opened.holder.current, opened.topics, name="channel-failing:pager", now_ms=opened.clock.now_ms()
        )
    opened.clock.move(MINUTE)
    opened.look()
    assert all([kind for kind, _ in opened.statuses(name)] == ["trigger", "resolve"] for name in told)


def test_a_fallback_takes_over_while_the_incident_lasts_and_hears_of_its_end(office: Any, make_apart: Any) -> None:
    opened = office(pager(fallback="chat"), chat(), notify=("pager",), group_wait_ms=0)
    opened.take(make_apart(1))
    opened.look()
    opened.outbox.give_up(opened.claim("pager"), "HTTP 400: invalid routing key")
    told = play(opened, "chat", MINUTE)
    assert told == [(0, "trigger")]
    opened.take(make_apart(1, "resolved"))
    assert play(opened, "chat", MINUTE) == [(0, "resolve")]


def test_ten_thousand_characters_in_a_label_make_no_key_of_that_length(office: Any, make_apart: Any) -> None:
    opened = office(chat(), group_by=("owner",), group_interval_ms=0)
    opened.take(make_apart(1, owner="o" * 10_000))
    assert opened.kinds("chat") == ["trigger"]
    [key] = opened.all(sa.select(t.threads.c.group_key), scalars=True)
    assert len(key) < 300


def test_ten_thousand_incidents_are_decided_on_in_batches_and_each_once(office: Any, make_apart: Any) -> None:
    opened = office(chat(), policy={"backlog_digest": 0})
    count = 450
    for start in range(0, count, 150):
        opened.take(*(make_apart(number) for number in range(start, start + 150)))
    commits: list[int] = []
    sa.event.listen(opened.database._engine, "commit", lambda connection: commits.append(1))
    opened.look()
    assert len(commits) <= 6, "many threads share a transaction"
    assert opened.statuses("chat") == [("trigger", "pending")] * count


_DEEDS = ("fire", "end", "worse", "take", "give back", "wait")
_histories = st.lists(st.tuples(st.sampled_from(_DEEDS), st.integers(1, 3), st.integers(1, 90)), max_size=14)


@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(history=_histories, wait_s=st.sampled_from([0, 30]), interval_m=st.sampled_from([0, 5]))
def test_whatever_happens_everybody_who_is_to_be_told_is_told_in_order_and_reminded_on_time(
    templated: Any, make_policy: Any, make_route: Any, make_apart: Any, history: Any, wait_s: int, interval_m: int
) -> None:
    """Alerts, people and time on the real store; severities decide who is told."""
    times = {"group_wait_ms": wait_s * SECOND, "group_interval_ms": interval_m * MINUTE, "repeat_interval_ms": HOUR}
    picky = pager("picky", minimum_severity="error")
    opened = templated(make_policy(chat(), pager(), picky, route=make_route("chat", "pager", "picky", **times)))
    names = ("chat", "pager", "picky")
    severity: dict[int, str] = {}
    ended: set[int] = set()
    told: dict[str, list[tuple[int, str, str]]] = {name: [] for name in names}

    def until(end_ms: int) -> None:
        while True:
            due_ms = opened.look()
            for name in names:
                for claim in opened.send_all(name):
                    delivery = claim.delivery
                    told[name].append((opened.clock.now_ms(), delivery.kind.value, delivery.thread_key))
            if due_ms is None or due_ms > end_ms:
                opened.clock.move(end_ms - opened.clock.now_ms())
                return
            opened.clock.move(due_ms - opened.clock.now_ms())

    def known(number: int) -> Any:
        return opened.all(
            sa.select(t.incidents.c.id, t.incidents.c.status).where(t.incidents.c.deployment_id == f"model-{number}")
        )

    for deed, number, minutes in history:
        if deed == "fire" and number not in severity:
            severity[number] = "warning"
            opened.take(make_apart(number, severity="warning"))
        elif deed == "end" and number in severity and number not in ended:
            ended.add(number)
            opened.take(make_apart(number, "resolved"))
        elif deed == "worse" and severity.get(number) == "warning" and number not in ended:
            severity[number] = "critical"
            opened.take(make_apart(number, severity="critical", id=f"worse-{number}"))
        elif deed == "take" and (rows := known(number)) and rows[0].status == "open":
            opened.acknowledge(rows[0].id)
        elif deed == "give back" and (rows := known(number)) and rows[0].status == "acknowledged":
            opened.give_back(rows[0].id)
        elif deed == "wait":
            until(opened.clock.now_ms() + minutes * MINUTE)
    until(opened.clock.now_ms() + 3 * HOUR)

    for number, worst in severity.items():
        [incident] = known(number)
        for name in names:
            n = t.notifications.c
            about = [
                row
                for row in opened.all(sa.select(t.notifications).where(n.receiver == name).order_by(n.id))
                if row.incidents[0]["incident"] == incident.id and row.status == "sent"
            ]
            kinds = [row.kind for row in about]
            if name == "picky" and worst == "warning":
                assert kinds == [], "not severe enough"
            elif number not in ended:
                assert kinds[:1] == ["trigger"] and "resolve" not in kinds, "it is open, so it was told"
                if incident.status == "open":
                    gaps = [b.created_ms - a.created_ms for a, b in itertools.pairwise(about)]
                    assert opened.clock.now_ms() - about[-1].created_ms < HOUR, "reminded of on time"
                    assert all(gap <= HOUR or row.kind != "repeat" for gap, row in zip(gaps, about[1:], strict=True))
            elif kinds:
                assert kinds[0] == "trigger" and kinds[-1] == "resolve" and kinds.count("resolve") == 1
            else:
                assert wait_s, "who waits for nothing hears of everything"
    for messages in told.values():
        assert len({(at, kind, key) for at, kind, key in messages}) == len(messages), "told twice at one moment"


@pytest.fixture
def templated(tmp_path_factory: pytest.TempPathFactory, office_at: Any, make_policy: Any) -> Any:
    """Opens offices on copies of an empty database, which is quicker than making each."""
    folder = tmp_path_factory.mktemp("threads")
    office_at(f"sqlite:///{folder / 'empty.db'}", make_policy(chat())).close()
    made: list[Any] = []

    def make(policy: Any) -> Any:
        for office in made:
            office.close()
        path = folder / f"{len(made)}.db"
        shutil.copy(folder / "empty.db", path)
        made.append(office_at(f"sqlite:///{path}", policy))
        return made[-1]

    return make
