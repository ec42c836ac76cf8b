"""Pressed in Slack, done at the desk: by Socket Mode and by signed requests, in time, once."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from services.alerting.channels.slack_desk import SlackDesk
from services.alerting.incidents.actions import ActionRefusedError, Actor, Do
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import PolicyHolder
from services.demo.receivers import SLACK_CALL, Answer, too_many

INCIDENT = "0123456789ab"
OPEN = f"{SLACK_CALL}apps.connections.open"


class Desk:
    """Notes what it is asked to do, each request once."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Do, Actor, str, dict[str, Any]]] = []
        self.asked = 0
        self.refusal: Exception | None = None
        self.wait = threading.Event()
        self.wait.set()

    def act(self, incident: str, do: Do, actor: Actor, reason: str, **detail: Any) -> None:
        self.asked += 1
        self.wait.wait(10)
        if self.refusal is not None:
            raise self.refusal
        if actor.request not in {done[2].request for done in self.done}:
            self.done.append((incident, do, actor, reason, detail))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def slack(receivers: Any) -> Any:
    """A receiver with Socket Mode."""
    return receivers.slack_token(app_token=SecretStr("xapp-an-app-token"))


@pytest.fixture
def holder(slack: Any, make_policy: Any) -> PolicyHolder:
    return PolicyHolder(make_policy(slack))


@pytest.fixture
async def running(desk: Desk, holder: PolicyHolder) -> AsyncIterator[SlackDesk]:
    """The desk's way to Slack, connected."""
    slack_desk = SlackDesk(holder, desk)  # type: ignore[arg-type]  # a desk that only notes
    task = asyncio.create_task(slack_desk.run())
    yield slack_desk
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await slack_desk.close()


@pytest.fixture
def press(receiver: Any) -> Callable[..., Any]:
    """Press something, while the event loop goes on."""

    async def run(*what: str, **more: Any) -> Any:
        return await asyncio.to_thread(receiver.press, *what, **more)

    return run


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("running")
async def test_what_is_pressed_is_done_and_answered_in_time(
    desk: Desk, slack: Any, send: Any, press: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    for what in (("Acknowledge",), ("Silence", "4 h"), ("Silence", "1 day"), ("Resolve",)):
        pressed = await press(*what)
        assert pressed.status == 200 and pressed.seconds < 3
    assert [(incident, do, detail) for incident, do, _, _, detail in desk.done] == [
        (INCIDENT, Do.ACKNOWLEDGE, {}),
        (INCIDENT, Do.SILENCE, {"for_ms": 4 * 3_600_000}),
        (INCIDENT, Do.SILENCE, {"for_ms": 24 * 3_600_000}),
        (INCIDENT, Do.RESOLVE, {}),
    ]
    assert {actor.name for _, _, actor, _, _ in desk.done} == {"slack:U024BE7LH (ada)"}
    assert all(reason for _, _, _, reason, _ in desk.done), "the desk asks for a reason"


@pytest.mark.usefixtures("running")
async def test_one_incident_of_several_has_a_menu_of_its_own(
    desk: Desk, slack: Any, send: Any, press: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.DIGEST, make_incident(), make_incident(id="b" * 12)))
    await press("Silence", "1 h", incident="b" * 12)
    await press("Acknowledge all")
    assert [(incident, do) for incident, do, *_ in desk.done] == [
        ("b" * 12, Do.SILENCE),
        (INCIDENT, Do.ACKNOWLEDGE),
        ("b" * 12, Do.ACKNOWLEDGE),
    ]


@pytest.mark.usefixtures("running")
async def test_a_press_that_is_told_twice_is_done_once(
    desk: Desk, slack: Any, send: Any, press: Any, receiver: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    pressed = await press("Acknowledge")
    again = await asyncio.to_thread(receiver.tell, pressed.payload)
    assert again.status == 200 and desk.asked == 2 and len(desk.done) == 1


@pytest.mark.usefixtures("running")
async def test_a_note_is_written_in_a_form(
    desk: Desk, slack: Any, send: Any, press: Any, receiver: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    await press("Note")
    await until(lambda: bool(receiver.slack.views))
    desk.refusal = ActionRefusedError("the incident is gone")
    refused = await asyncio.to_thread(receiver.submit, "the feed is broken")
    assert "gone" in json.dumps(refused.answer), "the form stays open and says why"
    desk.refusal = None
    taken = await asyncio.to_thread(receiver.submit, "the feed is broken")
    assert taken.status == 200 and taken.answer is None and not receiver.slack.views
    assert [(do, reason) for _, do, _, reason, _ in desk.done] == [(Do.NOTE, "the feed is broken")]


@pytest.mark.usefixtures("running")
async def test_who_pressed_is_told_of_a_refusal_and_nobody_else(
    desk: Desk, slack: Any, send: Any, press: Any, receiver: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    desk.refusal = ActionRefusedError("the incident <!channel> is over")
    await press("Acknowledge", user="U1")
    await until(lambda: bool(receiver.slack.ephemeral))
    [told] = receiver.slack.ephemeral
    assert told["user"] == "U1" and told["text"] == "the incident &lt;!channel&gt; is over"
    desk.refusal = RuntimeError("password=canary")
    pressed = await press("Acknowledge", user="U1")
    await until(lambda: len(receiver.slack.ephemeral) == 2)
    assert pressed.status == 200 and "canary" not in receiver.slack.ephemeral[1]["text"]


@pytest.mark.usefixtures("running")
async def test_an_answer_that_takes_long_is_acknowledged_before_it_is_done(
    desk: Desk, slack: Any, send: Any, press: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    desk.wait.clear()
    pressed = await press("Acknowledge")
    assert pressed.status == 200 and 1.5 < pressed.seconds < 3 and not desk.done
    desk.wait.set()
    await until(lambda: len(desk.done) == 1)


@pytest.mark.usefixtures("running")
async def test_slack_may_change_connections_and_nothing_is_missed(
    desk: Desk, slack: Any, send: Any, press: Any, receiver: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    for number in range(3):
        await press("Silence", "1 h")
        await asyncio.to_thread(receiver.disconnect, "warning")
        await until(lambda opened=number + 2: len(receiver.accepted(OPEN)) >= opened)  # type: ignore[misc]
    await press("Acknowledge")
    assert len(desk.done) == 4


async def test_a_connection_is_tried_until_it_stands(
    desk: Desk,
    slack: Any,
    send: Any,
    press: Any,
    receiver: Any,
    make_delivery: Any,
    make_incident: Any,
    holder: PolicyHolder,
    caplog: Any,
) -> None:
    refused = Answer(200, {"Content-Type": "application/json"}, '{"ok": false, "error": "invalid_auth"}')
    dead = Answer(200, {"Content-Type": "application/json"}, '{"ok": true, "url": "ws://127.0.0.1:9/link"}')
    receiver.script(OPEN, too_many(0.1), refused, dead)
    slack_desk = SlackDesk(holder, desk)  # type: ignore[arg-type]
    task = asyncio.create_task(slack_desk.run())
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    await until(lambda: len(receiver.received(OPEN)) == 4, 60)
    assert (await press("Acknowledge")).status == 200
    assert caplog.text.count("buttons in Slack do not reach us") == 1, "said once, not each time"
    assert "xapp" not in caplog.text and "127.0.0.1:9" not in caplog.text
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await slack_desk.close()


@pytest.mark.usefixtures("running")
async def test_a_reload_opens_and_closes_connections(
    receiver: Any, receivers: Any, slack: Any, holder: PolicyHolder, make_policy: Any
) -> None:
    await until(lambda: len(receiver.accepted(OPEN)) == 1)
    same_app = receivers.slack_token(name="other-channel", channel="C9", app_token=slack.app_token)
    holder.current = make_policy(slack, same_app)
    await asyncio.sleep(1.5)
    assert len(receiver.accepted(OPEN)) == 1, "receivers of one app share a connection"
    holder.current = make_policy(receivers.slack_token(name="third", app_token=SecretStr("xapp-another")))
    await until(lambda: len(receiver.accepted(OPEN)) == 2)
    assert receiver.received(OPEN)[-1].headers["Authorization"] == "Bearer xapp-another"


@pytest.mark.usefixtures("running")
async def test_envelopes_that_are_not_understood_are_acknowledged_and_do_no_harm(
    desk: Desk, slack: Any, send: Any, press: Any, receiver: Any, make_delivery: Any, make_incident: Any
) -> None:
    for payload in ({"type": "block_actions"}, {"type": "shortcut"}, {"type": "view_submission", "view": 1}):
        assert (await asyncio.to_thread(receiver.tell, payload)).status == 200
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    await press("Acknowledge")
    assert len(desk.done) == 1
