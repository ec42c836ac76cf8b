"""Outgoing webhooks: signed, documented, bounded, and nothing of the answer is shown."""

import base64
import dataclasses
import hashlib
import hmac
import json
import math
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import SecretStr

from services.alerting.channels.base import Again, Failed, Sent
from services.alerting.channels.webhook import WebhookChannel, signature, signed_headers, signing_key
from services.alerting.channels.webhook_body import MAX_BYTES, webhook_body
from services.alerting.errors import AlertingSettingsError
from services.alerting.incidents.views import Mute
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import Pace, WebhookReceiver
from services.demo.hooks import WEBHOOK, WEBHOOK_SECRET
from services.demo.receivers import Answer, too_many

SCHEMA = json.loads((Path(__file__).parents[4] / "schemas/webhook-v1.schema.json").read_text("utf-8"))
OTHER_SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def receiver(url: str, *secrets: str, **changes: Any) -> WebhookReceiver:
    usual: dict[str, Any] = {
        "name": "siem",
        "pace": Pace(1000.0, 1000),
        "timeout_seconds": 15.0,
        "url": SecretStr(url),
        "signing_secrets": tuple(SecretStr(secret) for secret in secrets or (WEBHOOK_SECRET,)),
        "allow": ("127.0.0.0/8",),
    }
    return WebhookReceiver(**{**usual, **changes})


@pytest.fixture
def send(at_once: Any) -> Any:
    async def run(settings: WebhookReceiver, *deliveries: Any, **options: Any) -> Any:
        channel = WebhookChannel(settings, **options)
        try:
            return [await channel.send(delivery, at_once) for delivery in deliveries][-1]
        finally:
            await channel.close()

    return run


@pytest.fixture
def incident(make_incident: Any, make_signal: Any, make_alert: Any) -> Any:
    return make_incident(make_signal(1, make_alert(1)), make_signal(2))


def test_a_signature_is_that_of_the_specification() -> None:
    # The vector that libraries of Standard Webhooks test with.
    body = b'{"test": 2432232314}'
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, key)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_kind_arrives_signed_and_as_the_schema_says(
    hooks: Any, send: Any, incident: Any, make_delivery: Any, kind: Kind
) -> None:
    incidents = () if kind in (Kind.HEARTBEAT, Kind.TEST) else (incident,)
    delivery = make_delivery(kind, *incidents)
    assert await send(receiver(hooks.webhook_url), delivery) == Sent()
    (arrived,) = hooks.received(WEBHOOK)
    assert arrived.problems == ()
    assert arrived.headers["webhook-id"] == delivery.key
    jsonschema.validate(arrived.body, SCHEMA, format_checker=jsonschema.FormatChecker())
    assert arrived.body["type"] == f"{'incident' if incidents else 'driftline'}.{kind}"
    assert [told["id"] for told in arrived.body["data"]["incidents"]] == [i.id for i in incidents]


async def test_while_a_secret_changes_both_sign(hooks: Any, send: Any, incident: Any, make_delivery: Any) -> None:
    delivery = make_delivery(Kind.TRIGGER, incident)
    assert await send(receiver(hooks.webhook_url, OTHER_SECRET, WEBHOOK_SECRET), delivery) == Sent()
    assert len(hooks.received(WEBHOOK)[0].headers["webhook-signature"].split(" ")) == 2
    outcome = await send(receiver(hooks.webhook_url, OTHER_SECRET), delivery)
    assert isinstance(outcome, Failed)


async def test_it_is_signed_by_the_wall_clock_not_by_that_of_a_rehearsal(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    await send(receiver(hooks.webhook_url), make_delivery(Kind.TRIGGER, incident, sent_ms=1))
    assert abs(int(hooks.received(WEBHOOK)[0].headers["webhook-timestamp"]) - time.time()) < 60
    outcome = await send(
        receiver(hooks.webhook_url), make_delivery(Kind.TRIGGER, incident), now_seconds=lambda: 1_000_000
    )
    assert isinstance(outcome, Failed)


async def test_without_secrets_it_is_not_signed(incident: Any) -> None:
    assert "webhook-signature" not in signed_headers("id", 1, b"{}", ())


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "whsec_!!!", "whsec_" + "A" * 200, "plain words here"])
def test_a_secret_that_is_none_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(AlertingSettingsError, match="24 to 64 bytes") as raised:
        WebhookChannel(receiver("https://siem.example.org/x", secret))
    assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in str(raised.value)


async def test_an_answer_says_whether_to_try_again_and_is_not_shown(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    delivery = make_delivery(Kind.TRIGGER, incident)
    inner = "the password of the inner network"
    hooks.script(WEBHOOK, Answer(500, body=inner), too_many(7), Answer(410, body=inner), Answer(302, body=inner))
    outcomes = [await send(receiver(hooks.webhook_url), delivery) for _ in range(4)]
    assert outcomes[0] == Again("HTTP 500")
    assert outcomes[1] == Again("HTTP 429", 7.0, too_fast=True)
    assert outcomes[2] == Failed("HTTP 410")
    assert isinstance(outcomes[3], Again)
    assert not any(inner in outcome.error for outcome in outcomes)


async def test_no_answer_is_doubtful_and_the_next_attempt_has_the_same_id(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    delivery = make_delivery(Kind.TRIGGER, incident)
    hooks.script(WEBHOOK, Answer(0), Answer(200, delay_seconds=4.0))
    for timeout_seconds in (15.0, 1.0):
        outcome = await send(receiver(hooks.webhook_url, timeout_seconds=timeout_seconds), delivery)
        assert isinstance(outcome, Again)
        assert outcome.doubtful
    assert await send(receiver(hooks.webhook_url), dataclasses.replace(delivery, attempt=3, doubtful=True)) == Sent()
    assert len({arrived.headers["webhook-id"] for arrived in hooks.received(WEBHOOK)}) == 1


async def test_a_connection_that_is_refused_is_not_doubtful(send: Any, incident: Any, make_delivery: Any) -> None:
    outcome = await send(receiver("http://127.0.0.1:1/x"), make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Again)
    assert not outcome.doubtful


async def test_a_forbidden_address_has_failed_and_is_not_quoted(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    outcome = await send(receiver(hooks.webhook_url, allow=()), make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Failed)
    assert "allow" in outcome.error
    assert "127.0.0.1" not in outcome.error and "local-webhook" not in outcome.error
    assert hooks.received(WEBHOOK) == []


def test_a_body_stays_within_its_limit_and_says_what_it_left_out(
    make_incident: Any, make_signal: Any, make_alert: Any, make_numeric_cause: Any, make_delivery: Any
) -> None:
    causes = [make_numeric_cause("x" * 900) for _ in range(30)]
    signals = [make_signal(n, make_alert(n, causes=causes)) for n in range(120)]
    incidents = [make_incident(*signals, id=f"{n:012x}") for n in range(60)]
    body = webhook_body(make_delivery(Kind.DIGEST, *incidents))
    assert len(body) <= MAX_BYTES
    document = json.loads(body)
    jsonschema.validate(document, SCHEMA)
    data = document["data"]
    assert len(data["incidents"]) + data["incidents_left_out"] == 60
    first = data["incidents"][0]
    assert len(first["signals"]) + first["signals_left_out"] == 120
    alert = first["signals"][0]["alert"]
    assert len(alert["causes"]) + alert["causes_left_out"] == 30


def test_what_json_cannot_say_is_null(
    make_incident: Any, make_signal: Any, make_alert: Any, make_delivery: Any
) -> None:
    alert = make_alert(1, log_evidence_nats=math.nan, threshold_nats=-math.inf, change_time_us=2**62)
    incident = make_incident(make_signal(1, alert), started_us=-(2**62))
    document = json.loads(webhook_body(make_delivery(Kind.TRIGGER, incident)))
    jsonschema.validate(document, SCHEMA)
    told = document["data"]["incidents"][0]
    assert told["started"] is None
    assert told["signals"][0]["change"] is None
    assert told["signals"][0]["alert"]["log_evidence_nats"] is None


def test_a_mute_is_told(make_incident: Any, make_signal: Any, make_alert: Any, make_delivery: Any) -> None:
    mute = Mute("silence", "s-1", "ada: a release", 1_371_070_000_000)
    incident = make_incident(make_signal(1, make_alert(1), mute=mute))
    document = json.loads(webhook_body(make_delivery(Kind.UPDATE, incident)))
    jsonschema.validate(document, SCHEMA)
    told = document["data"]["incidents"][0]
    assert told["state"] == "silenced"
    assert told["signals"][0]["muted"]["until"] == "2013-06-12T20:46:40.000Z"


def test_the_documented_way_to_verify_works(incident: Any, make_delivery: Any) -> None:
    """The lines of docs/webhook.md, run."""
    page = (Path(__file__).parents[4] / "docs/webhook.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # the documentation's own code
    body = webhook_body(make_delivery(Kind.TRIGGER, incident))
    now = int(time.time())
    headers = signed_headers("an-id", now, body, [signing_key(OTHER_SECRET), signing_key(WEBHOOK_SECRET)])
    assert names["is_from_driftline"](headers, body, [WEBHOOK_SECRET])
    assert not names["is_from_driftline"](headers, body + b" ", [WEBHOOK_SECRET])
    old = signed_headers("an-id", now - 3600, body, [signing_key(WEBHOOK_SECRET)])
    assert not names["is_from_driftline"](old, body, [WEBHOOK_SECRET])
    independent = hmac.new(base64.b64decode(WEBHOOK_SECRET[6:]), b"an-id.%d." % now + body, hashlib.sha256).digest()
    assert base64.b64encode(independent).decode() in headers["webhook-signature"]
