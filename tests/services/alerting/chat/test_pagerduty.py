"""PagerDuty: what is sent, and what becomes of it there."""

import logging
from typing import Any

import pytest

from services.alerting.channels.base import Again, Failed, Sent
from services.alerting.notify.kinds import Kind
from services.demo.receivers import PAGERDUTY, PAGERDUTY_CHANGE, Answer, late, lost, too_many

KEY = "22222222-2222-4222-8222-222222222222"


async def test_a_thread_is_one_incident_there_from_trigger_to_resolve(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, make_over: Any
) -> None:
    pager = receivers.pagerduty()
    steps = (
        (Kind.TRIGGER, make_incident(), "triggered"),
        (Kind.UPDATE, make_incident(severity="critical"), "triggered"),
        (Kind.ACKNOWLEDGE, make_incident(status="acknowledged", acknowledged_by="ada"), "acknowledged"),
        (Kind.REPEAT, make_incident(severity="critical"), "acknowledged"),
        (Kind.RESOLVE, make_over(), "resolved"),
    )
    for kind, incident, status in steps:
        assert isinstance(await send(pager, make_delivery(kind, incident)), Sent)
        assert receiver.pagerduty.known_as(KEY).status == status
    assert len(receiver.pagerduty.incidents) == 1 and not receiver.pagerduty.dropped
    assert receiver.pagerduty.known_as(KEY).severity == "critical", "an update changes the open incident"


async def test_an_acknowledgement_that_was_given_back_changes_the_details(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(receivers.pagerduty(), make_delivery(Kind.ACKNOWLEDGE, make_incident()))
    assert receiver.received()[-1].body["event_action"] == "trigger"


async def test_who_let_go_or_took_a_lesser_thing_is_paged_again(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, make_over: Any
) -> None:
    pager = receivers.pagerduty()
    receipt: dict[str, Any] = {}
    worse = make_incident(severity="critical")
    for kind, incident, statuses in (
        (Kind.TRIGGER, make_incident(), ["triggered"]),
        (Kind.ACKNOWLEDGE, make_incident(status="acknowledged"), ["acknowledged"]),
        (Kind.UPDATE, make_incident(status="acknowledged"), ["acknowledged"]),
        (Kind.ACKNOWLEDGE, make_incident(), ["acknowledged"]),  # given back: there is no way to say so
        (Kind.REPEAT, worse, ["resolved", "triggered"]),
        (Kind.REPEAT, worse, ["resolved", "triggered"]),
        (Kind.RESOLVE, make_over(), ["resolved", "resolved"]),
    ):
        outcome = await send(pager, make_delivery(kind, incident, receipt=receipt))
        assert isinstance(outcome, Sent)
        receipt = {**receipt, **outcome.receipt}
        assert [known.status for known in receiver.pagerduty.incidents] == statuses


async def test_an_alert_that_was_closed_to_page_anew_is_opened_whatever_happens_in_between(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    pager = receivers.pagerduty()
    await send(pager, make_delivery(Kind.TRIGGER, make_incident()))
    receipt = (await send(pager, make_delivery(Kind.ACKNOWLEDGE, make_incident(status="acknowledged")))).receipt
    receiver.script(PAGERDUTY, late(0), Answer(503))
    repeat = make_delivery(Kind.REPEAT, make_incident(severity="critical"), key="2", receipt=receipt)
    assert isinstance(await send(pager, repeat), Again)
    assert isinstance(await send(pager, repeat), Sent)
    assert [known.status for known in receiver.pagerduty.incidents] == ["resolved", "triggered"]
    assert receiver.pagerduty.known_as(KEY).severity == "critical"


async def test_the_first_message_of_a_thread_closes_nothing_whatever_the_thread_before_it_left(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    left = {"dedup_key": "earlier", "acknowledged": True}
    outcome = await send(receivers.pagerduty(), make_delivery(Kind.TRIGGER, make_incident(), receipt=left))
    assert outcome == Sent({"dedup_key": KEY, "acknowledged": False})
    assert [r.body["event_action"] for r in receiver.received()] == ["trigger"]


async def test_several_incidents_are_acknowledged_and_resolved_when_all_of_them_are(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, make_over: Any
) -> None:
    taken, other = make_incident(status="acknowledged"), make_incident(id="b" * 12, severity="critical")
    pager = receivers.pagerduty()
    for kind, incidents, action in (
        (Kind.TRIGGER, (taken, other), "trigger"),
        (Kind.ACKNOWLEDGE, (taken, other), "trigger"),
        (Kind.ACKNOWLEDGE, (taken, make_over(id="b" * 12)), "acknowledge"),
        (Kind.UPDATE, (make_incident(severity="warning"), make_over(id="b" * 12, severity="critical")), "trigger"),
        (Kind.RESOLVE, (make_over(), make_over(id="b" * 12)), "resolve"),
    ):
        await send(pager, make_delivery(kind, *incidents))
        body = receiver.received()[-1].body
        assert body["event_action"] == action
        if kind is Kind.UPDATE:
            assert body["payload"]["severity"] == "warning", "what is over is not urgent any more"


async def test_a_sign_of_life_pages_nobody(receiver: Any, receivers: Any, send: Any, make_delivery: Any) -> None:
    assert await send(receivers.pagerduty(), make_delivery(Kind.HEARTBEAT)) == Sent()
    assert len(receiver.accepted(PAGERDUTY_CHANGE)) == 1
    assert not receiver.pagerduty.incidents


async def test_a_test_opens_an_incident_of_its_own_and_closes_it(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    await send(receivers.pagerduty(), make_delivery(Kind.TRIGGER, make_incident()))
    assert await send(receivers.pagerduty(), make_delivery(Kind.TEST)) == Sent()
    assert [incident.status for incident in receiver.pagerduty.incidents] == ["triggered", "resolved"]


async def test_an_event_whose_answer_was_lost_is_sent_again_and_merged(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    receiver.script(PAGERDUTY, lost())
    outcome = await send(receivers.pagerduty(), make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, Again) and outcome.doubtful
    outcome = await send(receivers.pagerduty(), make_delivery(Kind.TRIGGER, make_incident(), doubtful=True, attempt=2))
    assert outcome == Sent({"dedup_key": KEY, "acknowledged": False}) and len(receiver.pagerduty.incidents) == 1


async def test_what_pagerduty_answers_is_read(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> None:
    delivery = make_delivery(Kind.TRIGGER, make_incident())
    for answer, expected in (
        (Answer(400, body="{}"), Failed),
        (too_many(12), Again),
        (Answer(503), Again),
        (Answer(307, {"Location": receiver.slack_webhook_url}), Again),
    ):
        receiver.script(PAGERDUTY, answer)
        outcome = await send(receivers.pagerduty(), delivery)
        assert isinstance(outcome, expected)
        assert getattr(outcome, "retry_after_seconds", None) == (12 if answer.status == 429 else None)
    assert len(receiver.received()) == 4, "a redirect is not followed"
    receiver.script(PAGERDUTY, late(1.0))
    assert (await send(receivers.pagerduty(timeout_seconds=0.2), delivery)).doubtful


async def test_the_routing_key_is_nowhere_but_in_the_request(
    receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.script(PAGERDUTY, Answer(400, body=f"no such key {'R' * 32}"))
    outcome = await send(receivers.pagerduty(), make_delivery(Kind.TRIGGER, make_incident()))
    assert isinstance(outcome, Failed) and "R" * 32 not in outcome.error + caplog.text
