"""What comes from Slack: who signed it, and what it asks for."""

import datetime as dt
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import Clock, SignatureVerifier

from services.alerting.channels.slack_answers import (
    Answer,
    AnswerError,
    Form,
    interaction,
    payload_of,
    signature,
    verify,
)
from services.alerting.incidents.actions import Do

NOW = dt.datetime(2026, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
STAMP = str(int(NOW.timestamp()))
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
INCIDENT = "0123456789ab"


def headers(body: bytes, secret: str = SECRET, stamp: str = STAMP) -> dict[str, str]:
    return {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": signature(secret, stamp, body)}


def test_the_signature_is_the_one_in_slacks_own_documentation() -> None:
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&"
        b"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&"
        b"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&"
        b"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    assert (
        signature("8f742231b10e8888abcd99yyyzzz85a5", "1531420618", body)
        == "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    )


@given(text=st.text(max_size=100), age=st.integers(-400, 400))
def test_a_signature_is_good_where_slack_sdk_says_so(text: str, age: int) -> None:
    stamp, body = str(int(NOW.timestamp()) - age), text.encode()

    class Then(Clock):
        def now(self) -> float:
            return NOW.timestamp()

    ours = verify(SECRET, headers(body, stamp=stamp), body, NOW)
    assert ours == SignatureVerifier(SECRET, Then()).is_valid_request(body, headers(body, stamp=stamp))
    assert ours == (abs(age) <= 300)


@pytest.mark.parametrize(
    "change",
    [
        {"X-Slack-Signature": ""},
        {"X-Slack-Signature": "v0="},
        {"X-Slack-Signature": "v0=" + "0" * 64},
        {"X-Slack-Signature": "v1=" + signature(SECRET, STAMP, b"body")[3:]},
        {"X-Slack-Signature": "\udcff\u00e9"},
        {"X-Slack-Request-Timestamp": ""},
        {"X-Slack-Request-Timestamp": str(int(STAMP) + 1)},
        {"X-Slack-Request-Timestamp": f" {STAMP}"},
        {"X-Slack-Request-Timestamp": "nan"},
        headers(b"body", secret="another"),
    ],
)
def test_what_slack_did_not_sign_is_refused(change: dict[str, str]) -> None:
    assert verify(SECRET, headers(b"body"), b"body", NOW)
    assert not verify(SECRET, {**headers(b"body"), **change}, b"body", NOW)
    assert not verify(SECRET, headers(b"body"), b"another body", NOW)
    assert not verify(SECRET, {}, b"body", NOW)


@pytest.mark.parametrize("stamp", [" 1777636800", "+1777636800", "१७७७६३६८००", "1_777_636_800", "", "9" * 400])
def test_a_time_that_is_not_plain_digits_is_refused_even_if_it_is_signed(stamp: str) -> None:
    assert not verify(SECRET, headers(b"body", stamp=stamp), b"body", NOW)


def press(value: str, *, menu: bool = False, **changes: Any) -> dict[str, Any]:
    action: dict[str, Any] = {"action_id": "driftline:x", "type": "button", "value": value}
    if menu:
        action = {"action_id": "driftline:x", "type": "overflow", "selected_option": {"value": value}}
    user = {"id": "U024BE7LH", "username": "ada", "name": "ada"}
    return {"type": "block_actions", "user": user, "trigger_id": "12.34.abc", "actions": [action], **changes}


def test_a_press_says_who_does_what() -> None:
    [answer] = interaction(press(f"acknowledge:{INCIDENT}"))
    assert isinstance(answer, Answer)
    assert (answer.incident_id, answer.do, answer.detail) == (INCIDENT, Do.ACKNOWLEDGE, {})
    assert (answer.actor.name, answer.actor.via, answer.actor.kind) == ("slack:U024BE7LH (ada)", "slack", "human")
    assert answer.actor.receiver == "", "the message it was pressed in has to be updated too"


def test_a_silence_has_its_length_and_a_reason() -> None:
    [answer] = interaction(press(f"silence/14400000:{INCIDENT}", menu=True))
    assert isinstance(answer, Answer)
    assert answer.do is Do.SILENCE and answer.detail == {"for_ms": 14_400_000} and "for 4 h" in answer.reason


def test_a_press_for_several_incidents_is_an_answer_for_each_with_a_request_of_its_own() -> None:
    answers = interaction(press(f"resolve:{INCIDENT},{'b' * 12}"))
    assert [a.incident_id for a in answers] == [INCIDENT, "b" * 12]
    again = interaction(press(f"resolve:{INCIDENT},{'b' * 12}"))
    requests = [a.actor.request for a in answers if isinstance(a, Answer)]
    assert len(set(requests)) == 2 and requests == [a.actor.request for a in again if isinstance(a, Answer)]
    other = interaction(press(f"resolve:{INCIDENT}", trigger_id="another"))[0]
    assert isinstance(other, Answer) and other.actor.request not in requests


def test_a_note_opens_a_form_and_the_form_is_the_note() -> None:
    assert interaction(press(f"note:{INCIDENT}")) == (Form(INCIDENT, "12.34.abc"),)
    typed = {"note": {"text": {"type": "plain_text_input", "value": " one\r\n\u202etwo\n\n"}}}
    form = {"callback_id": "driftline:note", "private_metadata": f"note:{INCIDENT}"}
    view = {"id": "V1", **form, "state": {"values": typed}}
    [answer] = interaction({"type": "view_submission", "user": {"id": "U1", "name": "ada"}, "view": view})
    assert isinstance(answer, Answer)
    assert answer.do is Do.NOTE and answer.reason == "one / \N{REPLACEMENT CHARACTER}two"


def test_hostile_names_of_people_are_short_and_visible() -> None:
    user = {"id": "U1", "name": "<!channel>\r\n\u202e" + "x" * 10_000}
    [answer] = interaction(press(f"acknowledge:{INCIDENT}", user=user, trigger_id="t" * 5000))
    assert isinstance(answer, Answer)
    assert len(answer.actor.name) < 120 and not set(answer.actor.name) & set("\r\n\u202e")
    assert len(answer.actor.request) <= 200


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "block_actions", "actions": []},
        {"type": "block_actions", "actions": [{"action_id": "another", "value": "x"}]},
        {"type": "view_closed"},
        {"type": "view_submission", "view": {"callback_id": "another"}},
        {},
    ],
)
def test_what_is_none_of_ours_is_left_alone(payload: dict[str, Any]) -> None:
    assert interaction(payload) == ()


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "block_actions"},
        {"type": "block_actions", "actions": "x"},
        {"type": "block_actions", "actions": [None]},
        press("acknowledge:"),
        press("acknowledge:0123"),
        press("explode:0123456789ab"),
        press("assign:0123456789ab"),
        press("reopen:0123456789ab"),
        press("silence:0123456789ab"),
        press("silence/5:0123456789ab"),
        press("acknowledge/5:0123456789ab"),
        press("' OR 1=1 --"),
        press(f"acknowledge:{INCIDENT}", user={}),
        press(f"acknowledge:{INCIDENT}", user={"id": ""}),
        {k: v for k, v in press(f"acknowledge:{INCIDENT}").items() if k != "trigger_id"},
        {"type": "view_submission"},
        {"type": "view_submission", "view": {"callback_id": "driftline:note"}, "user": {"id": "U1"}},
    ],
)
def test_what_should_be_ours_and_is_not_well_formed_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(AnswerError, match="expected"):
        interaction(payload)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)
_names = st.sampled_from(["type", "actions", "action_id", "value", "user", "id", "view", "state", "selected_option"])


@given(st.dictionaries(_names, _json | st.dictionaries(_names, _json, max_size=4), max_size=8), st.booleans())
def test_any_document_is_read_or_refused(payload: dict[str, Any], pressed: bool) -> None:
    payload["type"] = "block_actions" if pressed else "view_submission"
    try:
        interaction(payload)
    except AnswerError:
        pass


@given(st.binary(max_size=200))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        payload_of(body)
    except AnswerError:
        pass


def test_the_payload_of_a_form_is_read() -> None:
    assert payload_of(urlencode({"payload": json.dumps({"type": "é"})}).encode()) == {"type": "é"}
    for body in (b"", b"payload=", b"payload=[]", b"payload=" + b"[" * 100_000, b"other=1", b"\xff"):
        with pytest.raises(AnswerError, match="expected"):
            payload_of(body)
