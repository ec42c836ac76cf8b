"""Slack and PagerDuty by HTTP, and pictures: nothing without a signature, and repeats change nothing."""

import datetime as dt
import hashlib
import hmac
import json
import struct
import urllib.parse
from typing import Any

import pytest
import sqlalchemy as sa

from services.alerting.api.plots import genuine, plot_key, plot_path, signature
from services.alerting.database import tables as t

SLACK_SECRET = "slack-signing-secret-canary"
PAGERDUTY_SECRETS = ("pagerduty-secret-canary-1", "pagerduty-secret-canary-2")


def press(
    api: Any, value: str, *, secret: str = SLACK_SECRET, age: int = 0, receiver: str = "chat", **more: Any
) -> Any:
    payload = {
        "type": "block_actions",
        "trigger_id": "123.456",
        "user": {"id": "U1", "name": "ada"},
        "channel": {"id": "C1"},
        "actions": [{"action_id": "driftline:acknowledge", "value": value}],
        **more,
    }
    body = urllib.parse.urlencode({"payload": json.dumps(payload)}).encode()
    stamp = str(int(api.wall.timestamp()) - age)
    mac = hmac.new(secret.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    return api.ask(
        "POST",
        f"/hooks/slack/{receiver}",
        token=None,
        raw=body,
        media="application/x-www-form-urlencoded",
        headers={"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={mac}"},
    )


def people(api: Any, incident: str) -> list[tuple[str, str, str]]:
    story = api.get(f"incidents/{incident}").json["story"]
    return [(e["action"], e["actor"], e["via"]) for e in story if e["via"] in ("slack", "pagerduty")]


def test_a_button_in_slack_acknowledges_once(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    for _ in range(3):  # Slack repeats what it gets no answer to
        answer = press(api, f"acknowledge:{incident}")
        assert answer.status == 200 and answer.body == b""
    assert api.get(f"incidents/{incident}").json["incident"]["status"] == "acknowledged"
    assert people(api, incident) == [("incident.acknowledged", "slack:U1 (ada)", "slack")]


@pytest.mark.parametrize(
    "wrong", [{"secret": "another"}, {"age": 301}, {"age": -301}, {"receiver": "pager"}, {"receiver": "nobody"}]
)
def test_a_button_that_slack_did_not_sign_does_nothing(api: Any, make_alert: Any, wrong: dict[str, Any]) -> None:
    (incident,) = api.take(make_alert())
    answer = press(api, f"acknowledge:{incident}", **wrong)
    assert answer.status == 401 and answer.json["type"].endswith(":signature")
    assert SLACK_SECRET not in answer.body.decode()
    assert api.get(f"incidents/{incident}").json["incident"]["status"] == "open"
    assert api.audit("access.denied")[0]["actor"] == "unknown"


@pytest.mark.parametrize("value", ["", "acknowledge:", "explode:0123456789ab", "acknowledge:../../x", "x" * 3000])
def test_a_signed_button_that_is_none_of_ours_does_nothing(api: Any, make_alert: Any, value: str) -> None:
    api.take(make_alert())
    assert press(api, value).status == 400
    assert press(api, "x", type="message_action").status == 200


@pytest.mark.parametrize(
    "raw", [b"", b"payload=", b"payload=%7B", b"payload=[]", b"x=1", b"\xff" * 100, b"payload=" + b"[" * 9000]
)
def test_a_signed_form_that_is_none_is_refused(api: Any, raw: bytes) -> None:
    stamp = str(int(api.wall.timestamp()))
    mac = hmac.new(SLACK_SECRET.encode(), b"v0:" + stamp.encode() + b":" + raw, hashlib.sha256).hexdigest()
    headers = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={mac}"}
    media = "application/x-www-form-urlencoded"
    assert api.ask("POST", "/hooks/slack/chat", token=None, raw=raw, media=media, headers=headers).status == 400


def pagerduty(
    api: Any, kind: str, *, secrets: tuple[str, ...] = PAGERDUTY_SECRETS[:1], body: bytes | None = None
) -> Any:
    event = {
        "id": "01EVENT",
        "event_type": kind,
        "agent": {"id": "P1", "type": "user_reference", "summary": "Ada"},
        "data": {"id": "PINC", "type": "incident", "incident_key": "the-key"},
    }
    raw = json.dumps({"event": event}).encode() if body is None else body
    given = ",".join("v1=" + hmac.new(s.encode(), raw, hashlib.sha256).hexdigest() for s in secrets)
    return api.ask(
        "POST",
        "/hooks/pagerduty/pager",
        token=None,
        raw=raw,
        headers={"X-PagerDuty-Signature": given, "X-Webhook-Id": "1"},
    )


@pytest.fixture
def told(api: Any, make_alert: Any) -> str:
    """An incident that PagerDuty was told of under ``the-key``."""
    (incident,) = api.take(make_alert())
    with api.database.transaction() as connection:
        thread = t.threads.c.receiver == "pager"
        connection.execute(sa.update(t.threads).where(thread).values(receipt={"dedup_key": "the-key"}, status="open"))
        connection.execute(sa.update(t.thread_incidents).values(told_status="firing"))
    return str(incident)


def test_an_acknowledgement_in_pagerduty_reaches_the_incident_once(api: Any, told: str) -> None:
    for _ in range(2):
        answer = pagerduty(api, "incident.acknowledged")
        assert answer.status == 200
    assert people(api, told) == [("incident.acknowledged", "pagerduty:Ada", "pagerduty")]


@pytest.mark.parametrize("secrets", [PAGERDUTY_SECRETS[1:], ("wrong", PAGERDUTY_SECRETS[0]), PAGERDUTY_SECRETS])
def test_either_secret_signs_during_a_rotation(api: Any, told: str, secrets: tuple[str, ...]) -> None:
    assert pagerduty(api, "incident.acknowledged", secrets=secrets).status == 200
    assert len(people(api, told)) == 1


@pytest.mark.parametrize("secrets", [(), ("wrong",), ("",)])
def test_what_pagerduty_did_not_sign_does_nothing(api: Any, told: str, secrets: tuple[str, ...]) -> None:
    assert pagerduty(api, "incident.acknowledged", secrets=secrets).status == 401
    assert people(api, told) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"event": 1}', b"[" * 9000, b"\xff"])
def test_a_signed_webhook_that_is_none_is_refused(api: Any, body: bytes) -> None:
    assert pagerduty(api, "x", body=body).status == 400


def test_a_database_that_fails_makes_pagerduty_send_again(api: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise sa.exc.OperationalError("x", {}, Exception("locked"))

    with monkeypatch.context() as patched:
        patched.setattr(api.database, "transaction", broken)
        assert pagerduty(api, "incident.acknowledged").status == 503
    assert pagerduty(api, "incident.acknowledged").status == 200
    assert len(people(api, told)) == 1


# Pictures


def test_a_picture_is_shown_to_whoever_has_its_address(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    addresses = api.get(f"incidents/{incident}").json["plots"]
    assert len(addresses) == 2
    for address in addresses:
        picture = api.ask("GET", address, token=None)
        assert picture.status == 200 and picture.headers["Content-Type"] == "image/png"
        assert picture.body.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">I", picture.body[16:20])[0] > 100
        assert picture.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert picture.headers["Cache-Control"].startswith("private")
    assert addresses == api.get(f"incidents/{incident}").json["plots"]


def test_an_address_that_was_changed_shows_nothing(api: Any, make_apart: Any) -> None:
    first, second = api.take(make_apart(1), make_apart(2))
    (address,) = api.get(f"incidents/{first}").json["plots"]
    for changed in (
        address.replace(first, second),
        address.replace("/1.png", "/2.png"),
        address.replace("expires=", "expires=1"),
        address[:-1] + ("0" if address[-1] != "0" else "1"),
    ):
        assert changed != address
        answer = api.ask("GET", changed, token=None)
        assert answer.status == 401 and answer.json["do"]
    for missing in (address.partition("?")[0], address.partition("&")[0]):
        assert api.ask("GET", missing, token=None).status == 422
    assert api.ask("GET", address.partition("?")[0], token="operator").status == 422


def test_an_address_ends(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    expires = int(api.wall.timestamp()) + 60
    address = plot_path(b"k" * 32, incident, 1, expires)
    assert api.ask("GET", address, token=None).status == 200
    api.wall += dt.timedelta(seconds=60)
    answer = api.ask("GET", address, token=None)
    assert answer.status == 410 and answer.json["do"]


def test_a_picture_that_there_is_not_is_not_found(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    expires = int(api.wall.timestamp()) + 60
    for named, rank in ((incident, 9), ("0" * 12, 1)):
        assert api.ask("GET", plot_path(b"k" * 32, named, rank, expires), token=None).status == 404


def test_the_key_of_pictures_outlives_the_process_and_differs_between_databases(database: Any) -> None:
    with database.transaction() as connection:
        first = plot_key(connection)
    with database.transaction() as connection:
        assert plot_key(connection) == first and len(first) == 32


def test_a_signature_is_of_one_picture_and_one_end() -> None:
    key = b"k" * 32
    given = {
        signature(key, incident, rank, expires)
        for incident in ("a" * 12, "b" * 12, "a" * 11)
        for rank in (1, 2, 11)
        for expires in (1, 11, 111)
    }
    assert len(given) == 27
    assert genuine(key, "a" * 12, 1, 1, signature(key, "a" * 12, 1, 1))
    assert not genuine(b"j" * 32, "a" * 12, 1, 1, signature(key, "a" * 12, 1, 1))
    assert not genuine(key, "a" * 12, 1, 1, "é" * 64)
