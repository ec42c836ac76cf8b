"""Messages in order, each arriving once or known to be in doubt, whatever fails and whenever the service is killed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from services.alerting.database import tables as t
from services.alerting.incidents.actions import ActionRefusedError, Actor
from services.alerting.notify.kinds import Kind
from services.alerting.notify.listing import enqueue_direct, list_notifications, redrive
from services.alerting.policy.model import Pace, PagerDutyReceiver, Policy, SlackReceiver

MINUTE = 60_000
ADA = Actor("ada", "cli")


@pytest.fixture
def pager() -> PagerDutyReceiver:
    return PagerDutyReceiver(name="pager", pace=Pace(1000, 1000), routing_key=SecretStr("k"), fallback="chat")


@pytest.fixture
def chat() -> SlackReceiver:
    return SlackReceiver(name="chat", pace=Pace(1000, 1000), token=SecretStr("x"), channel="C1")


@pytest.fixture
def office(open_office: Any, make_policy: Any, make_route: Any, pager: Any, chat: Any) -> Any:
    return open_office(make_policy(pager, chat, route=make_route("pager", "chat", group_interval_ms=0)))


def test_the_first_message_of_an_incident_goes_to_everybody_and_its_end_too(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    assert office.kinds("pager") == office.kinds("chat") == ["trigger"]
    office.take(make_apart(1, "resolved"))
    assert office.kinds("pager") == office.kinds("chat") == ["resolve"]
    assert office.look() is None
    actions = [event["action"] for event in office.audited()]
    assert actions.count("notification.decided") == actions.count("notification.sent") == 4


def test_what_opens_and_ends_within_one_batch_is_told_both_where_nobody_wants_to_wait(
    office: Any, make_apart: Any
) -> None:
    office.take(make_apart(1), make_apart(1, "resolved"))
    assert office.kinds("pager") == ["trigger", "resolve"]


def test_a_lane_goes_on_only_when_its_oldest_message_is_settled(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    office.look()
    first = office.claim("pager")
    office.take(make_apart(1, "resolved"), make_apart(2))
    office.look()
    office.outbox.retry(first, "HTTP 500", office.clock.now_ms() + 5000)
    second = office.claim("pager")
    assert second.delivery.incidents[0].deployment_id == "model-2", "the end of 1 waits for its beginning; 2 does not"
    office.outbox.sent(second, {})
    assert office.outbox.claim("pager") is None
    assert office.outbox.next_due_ms("pager") == office.clock.now_ms() + 5000
    office.clock.move(5000)
    trigger = office.claim("pager")
    assert (trigger.delivery.kind, trigger.delivery.key, trigger.delivery.attempt) == (
        Kind.TRIGGER,
        first.delivery.key,
        2,
    )
    office.outbox.sent(trigger, {"ts": "1"})
    resolve = office.claim("pager")
    assert (resolve.delivery.kind, resolve.delivery.receipt) == (Kind.RESOLVE, {"ts": "1"})
    assert resolve.delivery.thread_key == trigger.delivery.thread_key
    office.outbox.sent(resolve, {})
    assert office.outbox.next_due_ms("pager") is None
    assert office.outbox.next_due_ms("chat") is not None, "the other receiver has a life of its own"


def test_the_most_urgent_goes_first(office: Any, make_apart: Any) -> None:
    for number, severity in enumerate(("info", "warning", "critical", "error", "critical"), start=1):
        office.take(make_apart(number, severity=severity))
    office.look()
    order = [claim.delivery.incidents[0].deployment_id for claim in office.send_all("chat")]
    assert order == ["model-3", "model-5", "model-4", "model-2", "model-1"]


def test_what_was_being_sent_at_a_kill_is_sent_again_under_the_same_key_and_put_on_record(
    office: Any, open_office: Any, make_apart: Any
) -> None:
    office.take(make_apart(1))
    office.look()
    claimed = office.claim("pager")
    office.claim("chat")
    office.close()
    again = open_office(office.holder.current)
    assert again.outbox.recover() == {"pager": 1, "chat": 1}
    repeat = again.claim("pager")
    assert (repeat.delivery.key, repeat.delivery.attempt, repeat.delivery.doubtful) == (claimed.delivery.key, 2, True)
    assert not claimed.delivery.doubtful
    assert again.outbox.recover() == {"pager": 1}
    retried = [event for event in again.audited() if event["action"] == "notification.retried"]
    assert len({event["id"] for event in retried}) == 3
    assert again.all(sa.select(t.notifications.c.doubts).where(t.notifications.c.receiver == "pager"))[0].doubts == 2


def test_an_attempt_without_an_answer_leaves_a_doubt_that_a_later_failure_does_not_take_away(
    office: Any, make_apart: Any
) -> None:
    office.take(make_apart(1))
    office.look()
    office.outbox.retry(office.claim("chat"), "no answer in time", office.clock.now_ms(), doubtful=True)
    second = office.claim("chat")
    assert second.delivery.doubtful
    office.outbox.retry(second, "HTTP 500", office.clock.now_ms())
    assert office.claim("chat").delivery.doubtful


def test_an_attempt_that_half_arrived_keeps_what_it_did(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    office.look()
    office.outbox.retry(office.claim("chat"), "451", office.clock.now_ms(), receipt={"got": ["a@example.org"]})
    assert office.claim("chat").delivery.receipt == {"got": ["a@example.org"]}


def test_an_end_whose_beginning_was_given_up_is_not_sent_and_its_incident_goes_to_the_fallback(
    open_office: Any, make_policy: Any, make_route: Any, pager: Any, chat: Any, make_apart: Any
) -> None:
    office = open_office(make_policy(pager, chat, route=make_route("pager", group_interval_ms=0)))
    office.take(make_apart(1))
    office.look()
    [incident_id] = office.incident_ids()
    assert office.outbox.give_up(office.claim("pager"), "HTTP 400") == [incident_id]
    office.look()
    told = office.claim("chat").delivery
    assert told.kind == Kind.TRIGGER
    assert "in place of pager" in told.because and "HTTP 400" in told.because
    office.outbox.sent(office.claim("chat"), {}) if office.outbox.next_due_ms("chat") else None
    office.take(make_apart(1, "resolved"))
    office.look()
    assert office.outbox.claim("pager") is None
    assert office.statuses("pager") == [("trigger", "dead"), ("resolve", "merged")]
    merged = [event for event in office.audited() if event["action"] == "notification.merged"]
    assert "nobody saw the beginning" in merged[0]["reason"]


def test_a_fallback_that_has_the_incident_already_is_not_told_twice(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    assert office.kinds("chat") == ["trigger"]
    assert office.outbox.give_up(office.claim("pager"), "HTTP 400") == []
    assert office.kinds("chat") == []


def test_changes_that_a_later_message_tells_too_are_merged_into_it(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    assert office.kinds("pager") == ["trigger"]
    [incident_id] = office.incident_ids()
    for _ in range(3):
        office.clock.move(1)
        office.change(incident_id, "incident.noted")
        office.look()
    office.acknowledge(incident_id)
    office.look()
    office.change(incident_id, "incident.noted")
    office.look()
    assert [claim.delivery.kind.value for claim in office.send_all("pager")] == ["acknowledge", "update"]
    office.change(incident_id, "incident.noted")
    office.look()
    office.take(make_apart(1, "resolved"))
    assert office.kinds("pager") == ["resolve"]
    merged = [kind for kind, status in office.statuses("pager") if status == "merged"]
    assert merged == ["update"] * 4


def test_an_update_in_doubt_is_not_merged_since_it_may_have_arrived(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    office.kinds("chat")
    [incident_id] = office.incident_ids()
    office.change(incident_id, "incident.noted")
    office.look()
    office.outbox.retry(office.claim("chat"), "no answer", office.clock.now_ms(), doubtful=True)
    office.take(make_apart(1, "resolved"))
    assert office.kinds("chat") == ["update", "resolve"]


def backlog(open_office: Any, make_policy: Any, make_route: Any, *receivers: Any, most: int = 5) -> Any:
    route = make_route(*(receiver.name for receiver in receivers), group_interval_ms=0)
    return open_office(make_policy(*receivers, route=route, backlog_digest=most))


def test_too_many_waiting_messages_become_one_and_criticals_go_by_themselves(
    open_office: Any, make_policy: Any, make_route: Any, pager: Any, chat: Any, make_apart: Any
) -> None:
    office = backlog(open_office, make_policy, make_route, pager, chat)
    for number in range(1, 9):
        office.take(make_apart(number, severity="critical" if number == 4 else "warning"))
    office.look()
    sent = office.send_all("chat")
    assert [claim.delivery.kind.value for claim in sent] == ["trigger", "digest"]
    assert sent[0].delivery.incidents[0].severity == "critical"
    assert len(sent[1].delivery.incidents) == 7
    assert {incident.id for claim in sent for incident in claim.delivery.incidents} == set(office.incident_ids())
    assert [status for _, status in office.statuses("chat")].count("merged") == 7
    assert [claim.delivery.kind.value for claim in office.send_all("pager")] == ["trigger"] * 8, "a pager gets each"
    office.take(make_apart(1, "resolved"))
    assert office.kinds("chat") == office.kinds("pager") == ["resolve"]


def test_the_end_of_what_a_digest_carries_waits_for_the_digest(
    open_office: Any, make_policy: Any, make_route: Any, chat: Any, make_apart: Any
) -> None:
    office = backlog(open_office, make_policy, make_route, chat)
    for number in range(1, 8):
        office.take(make_apart(number))
    office.look()
    digest = office.claim("chat")
    assert digest.delivery.kind == Kind.DIGEST
    office.take(make_apart(1, "resolved"))
    office.look()
    assert office.outbox.claim("chat") is None, "an end before its beginning"
    office.outbox.retry(digest, "HTTP 500", office.clock.now_ms() + 1000)
    assert office.outbox.claim("chat") is None
    office.clock.move(1000)
    again = office.claim("chat")
    assert again.delivery.key == digest.delivery.key
    office.outbox.sent(again, {})
    assert [claim.delivery.kind.value for claim in office.send_all("chat")] == ["resolve"]


def test_what_a_dead_digest_carried_is_dead_and_can_be_sent_again_one_by_one(
    open_office: Any, make_policy: Any, make_route: Any, chat: Any, make_apart: Any
) -> None:
    office = backlog(open_office, make_policy, make_route, chat)
    for number in range(1, 8):
        office.take(make_apart(number))
    office.look()
    office.outbox.give_up(office.claim("chat"), "HTTP 400")
    assert [status for _, status in office.statuses("chat")] == ["dead"] * 8
    numbers = office.all(sa.select(t.notifications.c.id).where(t.notifications.c.kind == "trigger"), scalars=True)
    redrive(office.database, office.topics, numbers[:2], ADA, office.clock.now_ms())
    assert [claim.delivery.kind.value for claim in office.send_all("chat")] == ["trigger"] * 2
    assert len(redrive(office.database, office.topics, "chat", ADA, office.clock.now_ms() + 1)) == 5
    office.clock.move(1)
    assert [claim.delivery.kind.value for claim in office.send_all("chat")] == ["trigger"] * 5, "not in the digest too"


def test_what_was_given_up_is_listed_and_sent_again_under_the_same_key_with_the_end_that_was_left_out(
    office: Any, make_apart: Any
) -> None:
    office.take(make_apart(1))
    office.look()
    dead = office.claim("pager")
    office.outbox.give_up(dead, "HTTP 400")
    office.take(make_apart(1, "resolved"))
    assert office.kinds("pager") == []
    with office.database.transaction() as connection:
        [listed] = list_notifications(connection, status="dead")
        assert (listed.key, listed.last_error, listed.attempts) == (dead.delivery.key, "HTTP 400", 1)
        assert list_notifications(connection, status="dead", before=listed.id) == []
    office.clock.move(1000)
    assert redrive(office.database, office.topics, "pager", ADA, office.clock.now_ms()) == [listed.id]
    sent = office.send_all("pager")
    assert [(claim.delivery.kind, claim.delivery.attempt) for claim in sent] == [(Kind.TRIGGER, 1), (Kind.RESOLVE, 1)]
    assert sent[0].delivery.key == dead.delivery.key
    redriven = [event for event in office.audited() if event["action"] == "notification.redriven"]
    assert {(event["actor"], event["actor_kind"]) for event in redriven} == {("ada", "human")}
    with pytest.raises(ActionRefusedError, match="no message of 'pager' was given up"):
        redrive(office.database, office.topics, "pager", ADA, office.clock.now_ms())


def test_when_a_receiver_is_back_what_waited_for_it_goes_at_once_and_the_next_comes_along(
    office: Any, make_apart: Any
) -> None:
    office.take(*(make_apart(number) for number in range(1, 5)))
    office.look()
    for _ in range(3):
        office.outbox.retry(office.claim("pager"), "HTTP 503", office.clock.now_ms() + 10 * MINUTE)
    first = office.claim("pager")
    following = office.outbox.sent(first, {}, go_on=True)
    assert following is None, "one success after one failure says nothing about the others"
    office.take(make_apart(5))
    office.look()
    following = office.outbox.sent(office.claim("pager"), {}, go_on=True, is_back=True)
    assert following is not None and following.delivery.attempt == 2
    assert office.statuses("pager").count(("trigger", "sending")) == 1
    office.outbox.sent(following, {})
    assert len(office.send_all("pager")) == 2


def test_a_beginning_that_is_sent_again_after_its_end_was_told_is_not_sent(office: Any, make_apart: Any) -> None:
    office.take(make_apart(1))
    office.look()
    office.outbox.give_up(office.claim("pager"), "HTTP 400")
    office.clock.move(5 * 60 * MINUTE)
    assert office.kinds("pager") == ["repeat"], "a reminder tells of it after all"
    office.take(make_apart(1, "resolved"))
    assert office.kinds("pager") == ["resolve"]
    office.clock.move(1)
    redrive(office.database, office.topics, "pager", ADA, office.clock.now_ms())
    assert office.kinds("pager") == [], "it would open the pager's incident again, for ever"
    assert office.statuses("pager")[0] == ("trigger", "merged")


def test_messages_for_a_receiver_that_is_gone_are_given_up_in_time(
    office: Any, make_policy: Any, make_route: Any, make_apart: Any, chat: Any
) -> None:
    office.take(make_apart(1))
    office.look()
    office.holder.current = make_policy(chat, route=make_route("chat"))
    assert office.outbox.give_up_orphans() == 0
    office.clock.move(25 * 60 * MINUTE)
    assert office.outbox.give_up_orphans() == 1
    assert office.statuses("pager") == [("trigger", "dead")]


def test_of_signs_of_life_only_one_waits_and_tests_are_their_own(office: Any) -> None:
    with office.database.transaction() as connection:
        now_ms = office.clock.now_ms()
        first = enqueue_direct(connection, "chat", Kind.HEARTBEAT, "daily", now_ms)
        assert enqueue_direct(connection, "chat", Kind.HEARTBEAT, "daily", now_ms + MINUTE) == first
        assert enqueue_direct(connection, "chat", Kind.TEST, "ada asked", now_ms) != first
        with pytest.raises(ValueError, match="expected a heartbeat or a test"):
            enqueue_direct(connection, "chat", Kind.TRIGGER, "", now_ms)
    sent = office.send_all("chat")
    assert [claim.delivery.kind.value for claim in sent] == ["test", "heartbeat"]
    assert sent[0].delivery.incidents == ()
    actions = [event["action"] for event in office.audited()]
    assert actions.count("heartbeat.sent") == 1 and actions.count("notification.sent") == 1


def test_the_next_message_is_found_without_looking_at_finished_ones(office: Any) -> None:
    from services.alerting.notify.outbox import Outbox

    asked: list[str] = []
    with office.database.transaction() as connection:
        sa.event.listen(
            connection, "before_cursor_execute", lambda c, cursor, statement, parameters, *_: asked.append(statement)
        )
        Outbox._next(connection, "chat", 0)
        statement = asked[-1]
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN " + statement, tuple("x" for _ in range(statement.count("?")))
        )
        steps = [row[-1] for row in plan]
    assert all("SEARCH" in step or "CORRELATED" in step or "SUBQUERY" in step for step in steps), steps
    assert any("notifications_by_receiver (receiver=? AND status=?)" in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), "the order comes from the index"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_either_database_keeps_messages_from_the_first_to_the_last(
    request: pytest.FixtureRequest,
    office_at: Any,
    make_policy: Any,
    make_route: Any,
    pager: Any,
    chat: Any,
    make_apart: Any,
    database: str,
) -> None:
    url = request.getfixturevalue(database)
    policy = make_policy(pager, chat, route=make_route("pager", "chat", group_interval_ms=0), backlog_digest=3)
    office = office_at(url, policy)
    try:
        for number in range(1, 7):
            office.take(make_apart(number))
        office.look()
        office.outbox.retry(office.claim("pager"), "HTTP 500", office.clock.now_ms(), hold_until_ms=7, doubtful=True)
        assert office.outbox.holds() == {"pager": 7}
        assert [c.delivery.kind.value for c in office.send_all("pager")] == ["trigger"] * 6
        assert [c.delivery.kind.value for c in office.send_all("chat")] == ["digest"]
        office.acknowledge(office.incident_ids()[0])
        assert office.kinds("pager") == ["acknowledge"]
        office.take(*(make_apart(number, "resolved") for number in range(1, 7)))
        assert office.kinds("pager") == office.kinds("chat") == ["resolve"] * 6
        assert office.look() is None
        assert set(office.outbox.backlog()) == {("pager", "sent"), ("chat", "sent"), ("chat", "merged")}
        assert office.outbox.unpublished() == len(office.audited())
    finally:
        office.close()


_steps = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["firing", "resolved"])), max_size=12)


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(steps=_steps, chance=st.randoms(use_true_random=False))
def test_whatever_comes_in_whatever_order_no_end_goes_before_its_beginning_and_nothing_is_lost(
    make_apart: Any, fresh_office: Callable[[], Any], steps: list[tuple[int, str]], chance: Any
) -> None:
    """Any sequence of alerts, with sends that succeed, fail, are interrupted, and are given up and sent again."""
    office = fresh_office()
    sent: list[tuple[str, str]] = []
    for number, status in [*steps, (0, "")]:
        if number:
            office.take(make_apart(number, status))
        for _ in range(chance.randint(0, 4) if number else 200):
            if chance.random() < 0.5 or not number:
                office.look()
            claim = office.outbox.claim("pager")
            if claim is None:
                break
            fate = chance.choice(["sent", "sent", "again", "killed", "dead"]) if number else "sent"
            if fate == "sent":
                office.outbox.sent(claim, {})
                sent.append((claim.delivery.kind.value, claim.delivery.thread_key))
            elif fate == "again":
                office.outbox.retry(claim, "x", office.clock.now_ms(), doubtful=chance.random() < 0.5)
            elif fate == "killed":
                office.outbox.recover()
            else:
                office.outbox.give_up(claim, "x")
                office.clock.move(1)
                if chance.random() < 0.7:
                    redrive(office.database, office.topics, "pager", ADA, office.clock.now_ms())
    if any(status == "dead" for _, status in office.statuses("pager")):
        office.clock.move(1)
        redrive(office.database, office.topics, "pager", ADA, office.clock.now_ms())
        for claim in office.send_all("pager"):
            sent.append((claim.delivery.kind.value, claim.delivery.thread_key))
    for key in {key for _, key in sent}:
        kinds = [kind for kind, other in sent if other == key]
        assert kinds[0] == "trigger" and kinds.count("trigger") == 1, kinds
        assert "resolve" not in kinds[:-1], kinds
    first = dict(reversed(steps))
    assert len({key for _, key in sent}) == sum(status == "firing" for status in first.values()), "lost, or told twice"
    over = {n for n, s in first.items() if s == "firing" and (n, "resolved") in steps}
    assert [kind for kind, _ in sent].count("resolve") == len(over)
    assert {status for _, status in office.statuses("pager")} <= {"sent", "merged"}


@pytest.fixture
def fresh_office(
    tmp_path_factory: pytest.TempPathFactory, office_at: Any, make_policy: Any, make_route: Any, pager: Any
) -> Any:
    folder: Path = tmp_path_factory.mktemp("outbox")
    policy: Policy = make_policy(pager, route=make_route("pager", group_interval_ms=0))
    office_at(f"sqlite:///{folder / 'empty.db'}", policy).close()
    made: list[Any] = []

    def make() -> Any:
        for office in made:
            office.close()
        path = folder / f"{len(made)}.db"
        shutil.copy(folder / "empty.db", path)
        made.append(office_at(f"sqlite:///{path}", policy))
        return made[-1]

    return make
