"""Slack: what is posted, what is updated, what is told in the thread, and what is done about doubt."""

import dataclasses
import logging
import time
from typing import Any

import pytest

from services.alerting.channels.base import Again, Failed, Redactor, Sent, http_session
from services.alerting.channels.slack import SlackChannel
from services.alerting.clock import Clock
from services.alerting.notify.kinds import Kind
from services.demo.receivers import (
    SLACK_CALL,
    SLACK_POST,
    SLACK_UPDATE,
    SLACK_WEBHOOK,
    Answer,
    late,
    lost,
    too_many,
)

HISTORY, REPLIES = f"{SLACK_CALL}conversations.history", f"{SLACK_CALL}conversations.replies"


def shown(message: Any) -> str:
    """Every text in a message."""
    return str(message["text"]) + str(message.get("blocks"))


def told(receiver: Any, ts: str) -> list[Any]:
    """What was said in a thread; pictures are not words."""
    return [answer for answer in receiver.slack.replies(ts) if not answer.get("files")]


async def test_a_thread_is_one_message_that_is_updated_and_answered(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, make_over: Any
) -> None:
    slack = receivers.slack_token()
    first = await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    taken = make_incident(status="acknowledged", acknowledged_by="ada")
    second = await send(slack, make_delivery(Kind.ACKNOWLEDGE, taken, key="2", receipt=first.receipt))
    third = await send(slack, make_delivery(Kind.RESOLVE, make_over(), key="3", receipt={**first.receipt}))
    assert isinstance(first, Sent) and isinstance(second, Sent) and isinstance(third, Sent)
    assert [r.service for r in receiver.accepted()] == [
        SLACK_POST,
        SLACK_UPDATE,
        SLACK_POST,
        SLACK_UPDATE,
        SLACK_POST,
    ]
    [root] = receiver.slack.roots()
    assert root["ts"] == first.receipt["ts"] and root["text"].startswith("✅ Resolved: Data drift in `credit`")
    answers = told(receiver, root["ts"])
    assert "`ada` has taken it" in shown(answers[0]) and "Over: " in shown(answers[1])
    assert not any(answer.get("reply_broadcast") for answer in answers)


@pytest.mark.parametrize(
    ("kind", "severity", "loud"),
    [
        ("repeat", "error", True),
        ("update", "critical", True),
        ("update", "error", False),
        ("update", "warning", False),
        ("acknowledge", "critical", False),
    ],
)
async def test_reminders_and_risen_severities_are_shown_in_the_channel_too(
    receiver: Any,
    receivers: Any,
    send: Any,
    make_delivery: Any,
    make_incident: Any,
    kind: str,
    severity: str,
    loud: bool,
) -> None:
    slack = receivers.slack_token()
    first = await send(slack, make_delivery(Kind.TRIGGER, make_incident(severity="error")))
    await send(slack, make_delivery(Kind(kind), make_incident(severity=severity), key="2", receipt=first.receipt))
    [answer] = told(receiver, first.receipt["ts"])
    assert bool(answer.get("reply_broadcast")) == loud
    assert ("Data drift in" in str(answer["blocks"][0])) >= loud, "what is shown in the channel says what it is about"


async def test_a_severity_that_rose_is_loud_once(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    slack = receivers.slack_token()
    receipt = dict((await send(slack, make_delivery(Kind.TRIGGER, make_incident(severity="error")))).receipt)
    for key in ("2", "3"):
        delivery = make_delivery(Kind.UPDATE, make_incident(severity="critical"), key=key, receipt=receipt)
        receipt |= (await send(slack, delivery)).receipt
    assert [bool(r.get("reply_broadcast")) for r in told(receiver, receipt["ts"])] == [True, False]


@pytest.mark.parametrize("error", ["message_not_found", "cant_update_message", "edit_window_closed"])
async def test_what_can_no_longer_be_updated_is_told_in_a_new_message(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_over: Any, make_incident: Any, error: str
) -> None:
    slack = receivers.slack_token()
    first = await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    receiver.script(
        SLACK_UPDATE, Answer(200, {"Content-Type": "application/json"}, f'{{"ok":false,"error":"{error}"}}')
    )
    last = await send(slack, make_delivery(Kind.RESOLVE, make_over(), key="2", receipt=first.receipt))
    assert isinstance(last, Sent) and last.receipt["ts"] != first.receipt["ts"]
    assert "Over: " in shown(receiver.slack.roots()[-1]), "the new message says what is new"


async def test_an_incident_that_is_opened_again_is_posted_anew(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    slack = receivers.slack_token()
    first = await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    again = make_delivery(Kind.TRIGGER, make_incident(episode=2), key="2", receipt=first.receipt)
    second = await send(slack, again)
    assert second.receipt["ts"] != first.receipt["ts"] and len(receiver.slack.roots()) == 2
    [followers] = told(receiver, first.receipt["ts"])
    assert "opened again" in followers["text"], "who followed the old thread hears of it"
    gone = make_delivery(Kind.TRIGGER, make_incident(episode=3), key="3", receipt={"channel": "C1", "ts": "1.2"})
    assert isinstance(await send(slack, gone), Sent)


@pytest.mark.parametrize("kind", [Kind.HEARTBEAT, Kind.TEST])
async def test_signs_of_life_are_messages_of_their_own(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, kind: Kind
) -> None:
    for slack in (receivers.slack_token(), receivers.slack_webhook()):
        assert isinstance(await send(slack, make_delivery(kind)), Sent)
    assert len(receiver.accepted(SLACK_POST)) == len(receiver.accepted(SLACK_WEBHOOK)) == 1


async def test_a_webhook_gets_every_change_as_a_message_without_buttons(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, make_over: Any
) -> None:
    slack = receivers.slack_webhook(signing_secret=receivers.slack_token().token)
    kinds = (Kind.TRIGGER, make_incident()), (Kind.REPEAT, make_incident()), (Kind.RESOLVE, make_over())
    for kind, incident in kinds:
        assert await send(slack, make_delivery(kind, incident)) == Sent()
    bodies = [r.body for r in receiver.accepted()]
    assert len(bodies) == 3 and not any(block["type"] == "actions" for b in bodies for block in b["blocks"])
    assert "Over: " in str(bodies[2])


# Doubt


async def test_a_message_whose_answer_was_lost_is_found_and_not_posted_again(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, make_over: Any
) -> None:
    slack = receivers.slack_token()
    receiver.script(SLACK_POST, lost())
    delivery = make_delivery(Kind.TRIGGER, make_incident())
    outcome = await send(slack, delivery)
    assert isinstance(outcome, Again) and outcome.doubtful
    found = await send(slack, make_delivery(Kind.TRIGGER, make_incident(), doubtful=True, attempt=2))
    assert isinstance(found, Sent) and found.repeated and len(receiver.slack.roots()) == 1
    # and the thread goes on as if the answer had come
    receiver.script(SLACK_POST, lost())
    over = make_delivery(Kind.RESOLVE, make_over(), key="2", receipt=found.receipt)
    assert (await send(slack, over)).doubtful
    over = make_delivery(Kind.RESOLVE, make_over(), key="2", receipt=found.receipt, doubtful=True, attempt=2)
    assert (await send(slack, over)).repeated
    assert len(receiver.slack.roots()) == 1 and len(told(receiver, found.receipt["ts"])) == 1


async def test_a_message_in_doubt_that_never_arrived_is_posted(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    slack = receivers.slack_token()
    other = make_delivery(Kind.TRIGGER, make_incident(), key="other")
    await send(slack, other)
    receiver.script(SLACK_POST, Answer(0))
    assert (await send(slack, make_delivery(Kind.TRIGGER, make_incident()))).doubtful
    outcome = await send(slack, make_delivery(Kind.TRIGGER, make_incident(), doubtful=True, attempt=2))
    assert isinstance(outcome, Sent) and not outcome.repeated and len(receiver.slack.roots()) == 2


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 86_400), (1440.0, 60)])
async def test_the_look_goes_back_to_when_the_message_was_decided_by_the_clock_of_slack(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, speed: float, seconds: float
) -> None:
    delivery = make_delivery(Kind.TRIGGER, make_incident(), doubtful=True)
    delivery = dataclasses.replace(delivery, sent_ms=delivery.created_ms + 86_400_000)
    await send(receivers.slack_token(), delivery, clock=Clock(speed=speed))
    [asked] = receiver.received(HISTORY)
    assert float(asked.body["oldest"]) == pytest.approx(time.time() - seconds - 300, abs=30)


async def test_a_channel_that_is_called_by_name_is_known_by_its_id_once_slack_told_it(
    receiver: Any, receivers: Any, make_delivery: Any, make_incident: Any
) -> None:
    async def at_once() -> None:
        pass

    slack = receivers.slack_token(channel="#alerts")
    async with http_session(2.0) as session:
        channel = SlackChannel(slack, session, Redactor([]))
        first = await channel.send(make_delivery(Kind.TRIGGER, make_incident(), key="1"), at_once)
        assert isinstance(first, Sent) and first.receipt["channel"].startswith("C")
        receiver.script(SLACK_POST, lost())
        await channel.send(make_delivery(Kind.TRIGGER, make_incident()), at_once)
        found = await channel.send(make_delivery(Kind.TRIGGER, make_incident(), doubtful=True), at_once)
    assert isinstance(found, Sent) and found.repeated and found.receipt["channel"] == first.receipt["channel"]


async def test_without_the_scope_to_look_a_message_in_doubt_is_posted_again(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, caplog: Any
) -> None:
    receiver.slack.scopes.discard("channels:history")
    receiver.script(SLACK_POST, lost())
    await send(receivers.slack_token(), make_delivery(Kind.TRIGGER, make_incident()))
    delivery = make_delivery(Kind.TRIGGER, make_incident(), doubtful=True, attempt=2)
    outcome = await send(receivers.slack_token(), delivery)
    assert isinstance(outcome, Sent) and not outcome.repeated and len(receiver.slack.roots()) == 2
    assert "channels:history" in caplog.text, "and it is said what would mend it"


async def test_a_look_that_fails_for_now_leaves_the_doubt(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    receiver.script(HISTORY, too_many(7))
    outcome = await send(receivers.slack_token(), make_delivery(Kind.TRIGGER, make_incident(), doubtful=True))
    assert isinstance(outcome, Again) and outcome.doubtful and outcome.too_fast and outcome.retry_after_seconds == 7
    assert not receiver.slack.messages()


async def test_the_look_goes_through_the_pages_of_a_busy_channel(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    slack = receivers.slack_token()
    receiver.script(SLACK_POST, lost())
    await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    for _ in range(450):
        receiver.slack.call("chat.postMessage", "xoxb-other", {"channel": "C123", "text": "chatter"})()
    found = await send(slack, make_delivery(Kind.TRIGGER, make_incident(), doubtful=True, attempt=2))
    assert isinstance(found, Sent) and found.repeated
    assert len(receiver.received(HISTORY)) == 3


async def test_an_answer_that_comes_too_late_is_doubtful_and_one_that_was_never_asked_for_is_not(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    receiver.script(SLACK_POST, late(1.0))
    outcome = await send(receivers.slack_token(timeout_seconds=0.2), make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, Again) and outcome.doubtful
    nobody = receivers.slack_token(api_url="http://127.0.0.1:9/api/")
    outcome = await send(nobody, make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, Again) and not outcome.doubtful


# What Slack says


@pytest.mark.parametrize(
    ("error", "kind", "doubtful"),
    [
        ("internal_error", Again, True),
        ("fatal_error", Again, True),
        ("ratelimited", Again, False),
        ("service_unavailable", Again, True),
        ("channel_not_found", Failed, False),
        ("invalid_auth", Failed, False),
        ("invalid_blocks", Failed, False),
        ("<!channel> \u202e", Failed, False),
    ],
)
async def test_an_error_of_slacks_api_is_read_from_its_body(
    receiver: Any,
    receivers: Any,
    send: Any,
    make_delivery: Any,
    make_incident: Any,
    error: str,
    kind: Any,
    doubtful: bool,
) -> None:
    body = f'{{"ok": false, "error": "{error}"}}'
    receiver.script(SLACK_POST, Answer(200, {"Content-Type": "application/json"}, body))
    outcome = await send(receivers.slack_token(), make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, kind)
    assert "\u202e" not in outcome.error
    assert getattr(outcome, "doubtful", False) == doubtful


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"Content-Type": "text/html"}, "<html>a gateway</html>"),
        Answer(200, {"Content-Type": "application/json"}, "{"),
        Answer(200, {"Content-Type": "application/json"}, "[]"),
        Answer(502, {"Content-Type": "text/html"}, "bad gateway"),
        Answer(429, {"Retry-After": "3"}, "slow down"),
    ],
)
async def test_an_answer_that_is_not_slacks_is_tried_again(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, answer: Answer
) -> None:
    for slack, service in ((receivers.slack_token(), SLACK_POST), (receivers.slack_webhook(), SLACK_WEBHOOK)):
        if service == SLACK_WEBHOOK and answer.status == 200:
            continue  # a webhook's answer has no form
        receiver.script(service, answer)
        outcome = await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
        assert isinstance(outcome, Again)
        assert outcome.retry_after_seconds == (3 if answer.status == 429 else None)


async def test_slack_sdk_logs_nothing_not_even_when_everything_is_logged(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "slack_sdk")
    for slack in (receivers.slack_webhook(), receivers.slack_token()):
        receiver.script(SLACK_WEBHOOK, Answer(500), Answer(0))
        for _ in range(3):
            await send(slack, make_delivery(Kind.TRIGGER, make_incident()))
    assert "local-receiver" not in caplog.text
    assert "xoxb" not in caplog.text
    assert not [record for record in caplog.records if "slack_sdk" in record.name]


async def test_a_redirect_is_not_followed_by_slack_sdk(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    for service, slack in ((SLACK_WEBHOOK, receivers.slack_webhook()), (SLACK_POST, receivers.slack_token())):
        receiver.script(service, Answer(307, {"Location": receiver.pagerduty_url}))
        assert isinstance(await send(slack, make_delivery(Kind.TRIGGER, make_incident())), Again)
    assert [r.service for r in receiver.received()] == [SLACK_WEBHOOK, SLACK_POST]


# Pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A picture, whatever draws them."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(1000)
    monkeypatch.setattr("services.alerting.channels.slack.plot_png", lambda cause: picture)
    monkeypatch.setattr("services.alerting.channels.slack.plot_alternative", lambda cause: "in words " * 300)
    return picture


async def test_pictures_are_put_into_the_thread(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, drawn: bytes
) -> None:
    outcome = await send(receivers.slack_token(), make_delivery(Kind.TRIGGER, make_incident()))
    [answer] = receiver.slack.replies(outcome.receipt["ts"])
    assert [file["bytes"] for file in answer["files"]] == [drawn, drawn]


@pytest.mark.parametrize("method", ["files.getUploadURLExternal", "files.completeUploadExternal"])
@pytest.mark.parametrize("trouble", ["scope", "gateway", "nobody"])
async def test_without_pictures_the_message_is_sent_all_the_same(
    receiver: Any,
    receivers: Any,
    send: Any,
    make_delivery: Any,
    make_incident: Any,
    drawn: bytes,
    method: str,
    trouble: str,
) -> None:
    if trouble == "scope":
        receiver.slack.scopes.discard("files:write")
    else:
        receiver.script(f"{SLACK_CALL}{method}", Answer(502) if trouble == "gateway" else Answer(0))
    outcome = await send(receivers.slack_token(), make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, Sent) and len(receiver.slack.roots()) == 1
    assert not receiver.slack.replies(outcome.receipt["ts"])


async def test_a_picture_that_cannot_be_drawn_is_left_out(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cause: Any) -> bytes:
        raise RuntimeError("no ink")

    monkeypatch.setattr("services.alerting.channels.slack.plot_png", fail)
    outcome = await send(receivers.slack_token(), make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, Sent) and receiver.slack.messages()
