"""The stand-ins are as strict as what they stand in for; what uses them would prove nothing otherwise."""

import json
import time
import urllib.request
from typing import Any

import pytest

from services.demo.pagerduty_account import change_problems, pagerduty_problems
from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK, Answer, late, lost, slack_problems
from services.demo.slack_limits import view_problems
from services.demo.slack_workspace import SlackRefusalError

BOT = "xoxb-1"


def post(url: str, body: Any) -> tuple[int, str]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def event(action: str, key: str | None = "k", **changes: Any) -> dict[str, Any]:
    payload = {"summary": "s", "source": "x", "severity": "error"}
    made = {"routing_key": "R" * 32, "event_action": action, "payload": payload, **changes}
    return made if key is None else {**made, "dedup_key": key}


def section(text: str = "x") -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


# PagerDuty


def test_events_of_one_key_are_one_incident_until_it_is_resolved(receiver: Any) -> None:
    for action in ("acknowledge", "trigger", "trigger", "acknowledge", "resolve", "resolve", "trigger"):
        assert post(receiver.pagerduty_url, event(action))[0] == 202
    assert [incident.status for incident in receiver.pagerduty.incidents] == ["resolved", "triggered"]
    assert [len(incident.events) for incident in receiver.pagerduty.incidents] == [4, 1]
    assert [dropped["event_action"] for dropped in receiver.pagerduty.dropped] == ["acknowledge", "resolve"]


def test_a_trigger_without_a_key_is_always_a_new_incident(receiver: Any) -> None:
    answers = [json.loads(post(receiver.pagerduty_url, event("trigger", None))[1])["dedup_key"] for _ in range(2)]
    assert len(set(answers)) == 2 and len(receiver.pagerduty.incidents) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"routing_key": "short"},
        {"routing_key": None},
        {"event_action": "open"},
        {"dedup_key": "k" * 256},
        {"payload": None},
        {"payload": {"summary": "x" * 1025, "source": "x", "severity": "error"}},
        {"payload": {"summary": "", "source": "x", "severity": "error"}},
        {"payload": {"summary": "s", "source": "", "severity": "error"}},
        {"payload": {"summary": "s", "source": "x", "severity": "fatal"}},
        {"payload": {"summary": "s", "source": "x", "severity": "error", "timestamp": "yesterday"}},
        {"links": [{"href": "javascript:1"}]},
        {"images": [{"src": "http://plain.example.org/x.png"}]},
    ],
)
def test_an_event_that_pagerduty_would_refuse_is_refused(receiver: Any, change: dict[str, Any]) -> None:
    status, answer = post(receiver.pagerduty_url, event("trigger") | change)
    assert status == 400 and "invalid event" in answer
    assert not receiver.pagerduty.incidents and not receiver.accepted()


def test_a_body_of_more_than_512_kb_is_refused() -> None:
    assert pagerduty_problems(event("trigger"), 512 * 1024) == []
    assert pagerduty_problems(event("trigger"), 512 * 1024 + 1)
    assert change_problems({"routing_key": "R" * 32, "payload": {"summary": "alive"}}, 100) == []
    assert change_problems({"routing_key": "R" * 32, "payload": {}}, 100)


def test_what_was_taken_without_an_answer_is_there_and_what_was_refused_is_not(receiver: Any) -> None:
    receiver.script(PAGERDUTY, lost(), Answer(0), Answer(503), late(0.1))
    began = time.monotonic()
    statuses = [post(receiver.pagerduty_url, event("trigger", key))[0] for key in "abcd"]
    assert statuses == [0, 0, 503, 202] and time.monotonic() - began >= 0.1
    assert [incident.dedup_key for incident in receiver.pagerduty.incidents] == ["a", "d"]
    assert [r.status for r in receiver.received(PAGERDUTY)] == [0, 0, 503, 202]


# Slack


def call(receiver: Any, method: str, token: str = BOT, **args: Any) -> dict[str, Any]:
    answer: dict[str, Any] = receiver.slack.call(method, token, args)()
    return answer


def refused(receiver: Any, method: str, token: str = BOT, **args: Any) -> str:
    with pytest.raises(SlackRefusalError) as refusal:
        receiver.slack.call(method, token, args)
    return refusal.value.code


def test_slack_refuses_what_it_would_refuse(receiver: Any) -> None:
    assert refused(receiver, "chat.postMessage", "", channel="C1", text="x") == "not_authed"
    assert refused(receiver, "chat.postMessage", "xapp-1", channel="C1", text="x") == "not_allowed_token_type"
    assert refused(receiver, "apps.connections.open") == "not_allowed_token_type"
    assert refused(receiver, "chat.postMessage", channel="C1") == "no_text"
    assert refused(receiver, "chat.postMessage", channel="", text="x") == "channel_not_found"
    assert refused(receiver, "chat.postMessage", channel="C1", text="x", thread_ts="1.1") == "thread_not_found"
    assert refused(receiver, "chat.postMessage", channel="C1", blocks=[section("x" * 3001)]) == "invalid_blocks"
    assert refused(receiver, "chat.update", channel="C1", ts="1.1", text="x") == "message_not_found"
    assert refused(receiver, "conversations.history", channel="#alerts") == "channel_not_found"
    assert refused(receiver, "views.open", trigger_id="guessed", view={}) == "expired_trigger_id"
    assert refused(receiver, "files.completeUploadExternal", files=[{"id": "F1"}]) == "file_not_found"
    assert refused(receiver, "admin.users.list") == "unknown_method"
    receiver.slack.scopes.clear()
    assert refused(receiver, "chat.postMessage", channel="C1", text="x") == "missing_scope"


def test_history_has_roots_and_broadcasts_newest_first_and_metadata_on_demand(receiver: Any) -> None:
    metadata = {"event_type": "e", "event_payload": {"key": "1"}}
    ts = call(receiver, "chat.postMessage", channel="C1", text="root", metadata=metadata)["ts"]
    for loud in (True, False):
        call(receiver, "chat.postMessage", channel="C1", text=f"reply {loud}", thread_ts=ts, reply_broadcast=loud)
    call(receiver, "chat.update", channel="C1", ts=ts, text="changed")
    history = call(receiver, "conversations.history", channel="C1")["messages"]
    assert [message["text"] for message in history] == ["reply True", "changed"]
    assert history[1]["metadata"] == {"event_type": "e"}, "kept by the update, its payload only told when asked for"
    asked = call(receiver, "conversations.replies", channel="C1", ts=ts, include_all_metadata="1", limit="2")
    assert asked["messages"][0]["metadata"] == metadata and asked["has_more"]
    rest = call(
        receiver, "conversations.replies", channel="C1", ts=ts, cursor=asked["response_metadata"]["next_cursor"]
    )
    assert [message["text"] for message in rest["messages"]] == ["reply False"]
    assert not call(receiver, "conversations.history", channel="C1", oldest=str(time.time() + 1))["messages"]


def test_only_what_is_shown_can_be_pressed(receiver: Any) -> None:
    with pytest.raises(LookupError):
        receiver.press("Acknowledge")
    with pytest.raises(LookupError):
        receiver.submit("a note")


def button(**changes: Any) -> dict[str, Any]:
    return {"type": "button", "action_id": "a", "text": {"type": "plain_text", "text": "x"}, "value": "v", **changes}


def option(text: str = "x", value: str = "v") -> dict[str, Any]:
    return {"text": {"type": "plain_text", "text": text}, "value": value}


@pytest.mark.parametrize(
    "blocks",
    [
        [section()] * 51,
        [section("x" * 2900)] * 5,
        [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}],
        [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}],
        [{"type": "section"}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 2001}]}],
        [{"type": "context", "elements": []}],
        [{"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11}],
        [{**section(), "block_id": "b" * 256}],
        [{**section(), "block_id": "b"}, {**section(), "block_id": "b"}],
        [{"type": "actions", "elements": []}],
        [{"type": "actions", "elements": [button(), button()]}],
        [{"type": "actions", "elements": [button(text={"type": "plain_text", "text": "x" * 76})]}],
        [{"type": "actions", "elements": [button(value="v" * 2001)]}],
        [{"type": "actions", "elements": [button(style="loud")]}],
        [{"type": "actions", "elements": [button(confirm={"title": {"type": "plain_text", "text": "x" * 101}})]}],
        [{**section(), "accessory": {"type": "overflow", "options": [option()] * 6}}],
        [{**section(), "accessory": {"type": "overflow", "options": [option(value="v" * 151)]}}],
        [{"type": "marquee"}],
    ],
)
def test_a_message_beyond_block_kits_limits_is_refused(receiver: Any, blocks: list[dict[str, Any]]) -> None:
    assert slack_problems({"blocks": blocks})
    assert post(receiver.slack_webhook_url, {"blocks": blocks}) == (400, "invalid_blocks")
    assert not receiver.accepted(SLACK_WEBHOOK)


def test_a_form_beyond_its_limits_is_refused() -> None:
    title = {"type": "plain_text", "text": "x"}
    good = {"type": "modal", "title": title, "submit": title, "close": title, "blocks": [section()]}
    assert view_problems(good) == []
    long_title, long_data = {**title, "text": "x" * 25}, "x" * 3001
    changes: list[dict[str, Any]] = [
        {"type": "home"},
        {"title": long_title},
        {"blocks": []},
        {"private_metadata": long_data},
    ]
    for change in changes:
        assert view_problems(good | change)
