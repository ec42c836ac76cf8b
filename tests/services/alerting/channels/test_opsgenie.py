"""Opsgenie: one alert for a thread, known by its alias."""

import dataclasses
from typing import Any

import pytest
from pydantic import SecretStr

from services.alerting.channels.base import Again, Failed, Redactor, Sent, http_session
from services.alerting.channels.opsgenie import OpsgenieChannel
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import OpsgenieReceiver, Pace
from services.demo.hooks import OPSGENIE, OPSGENIE_KEY
from services.demo.receivers import Answer, too_many


@pytest.fixture
def send(hooks: Any, at_once: Any) -> Any:
    """Sends messages of one thread one after the other, each with the receipts of those before."""

    async def run(*deliveries: Any, key: str = OPSGENIE_KEY) -> Any:
        receiver = OpsgenieReceiver(
            name="og",
            pace=Pace(1000.0, 1000),
            timeout_seconds=15.0,
            api_key=SecretStr(key),
            api_url=hooks.opsgenie_url,
        )
        receipt: dict[str, Any] = {}
        outcome: Any = None
        async with http_session(15.0) as session:
            channel = OpsgenieChannel(receiver, session, Redactor(receiver.secrets()))
            for delivery in deliveries:
                outcome = await channel.send(dataclasses.replace(delivery, receipt=receipt), at_once)
                if isinstance(outcome, Sent):
                    receipt = {**receipt, **outcome.receipt}
        return outcome

    return run


@pytest.fixture
def incident(make_incident: Any, make_signal: Any, make_alert: Any) -> Any:
    return make_incident(make_signal(1, make_alert(1)))


def paths(hooks: Any) -> list[str]:
    return [arrived.body["path"].rpartition("/")[2] for arrived in hooks.received(OPSGENIE)]


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_kind_is_taken(hooks: Any, send: Any, incident: Any, make_delivery: Any, kind: Kind) -> None:
    incidents = () if kind in (Kind.HEARTBEAT, Kind.TEST) else (incident,)
    assert isinstance(await send(make_delivery(kind, *incidents)), Sent)
    assert hooks.received(OPSGENIE)
    assert not [problem for arrived in hooks.received(OPSGENIE) for problem in arrived.problems]


async def test_a_thread_is_one_alert_from_its_trigger_to_its_end(
    hooks: Any, send: Any, incident: Any, make_delivery: Any, make_entry: Any
) -> None:
    taken = dataclasses.replace(
        incident,
        status="acknowledged",
        acknowledged_by="ada",
        entries=(make_entry("incident.acknowledged", actor="ada", reason="looking at the feed"),),
    )
    worse = dataclasses.replace(incident, severity="critical")
    over = dataclasses.replace(incident, status="resolved")
    await send(
        make_delivery(Kind.TRIGGER, incident),
        make_delivery(Kind.ACKNOWLEDGE, taken, number=2),
        make_delivery(Kind.ACKNOWLEDGE, incident, number=3),
        make_delivery(Kind.UPDATE, worse, number=4),
        make_delivery(Kind.RESOLVE, over, number=5),
    )
    assert paths(hooks) == ["alerts", "acknowledge", "unacknowledge", "priority", "notes", "close"]
    (alert,) = hooks.opsgenie_alerts
    assert alert.message == "Data drift in credit, version 1"
    assert alert.priority == "P1"
    assert not alert.open
    assert any("looking at the feed" in note for note in alert.notes)
    acknowledged = hooks.received(OPSGENIE)[1].body
    assert acknowledged["user"] == "ada"


@pytest.mark.parametrize(
    ("severity", "priority"), [("critical", "P1"), ("error", "P2"), ("warning", "P3"), ("info", "P4")]
)
async def test_severities_are_priorities(
    hooks: Any, send: Any, incident: Any, make_delivery: Any, severity: str, priority: str
) -> None:
    await send(make_delivery(Kind.TRIGGER, dataclasses.replace(incident, severity=severity)))
    assert hooks.opsgenie_alerts[0].priority == priority


async def test_a_trigger_sent_twice_is_one_alert(hooks: Any, send: Any, incident: Any, make_delivery: Any) -> None:
    hooks.script(OPSGENIE, Answer(0))
    delivery = make_delivery(Kind.TRIGGER, incident)
    outcome = await send(delivery)
    assert isinstance(outcome, Again)
    assert outcome.doubtful
    for attempt in (2, 3):
        assert isinstance(await send(dataclasses.replace(delivery, attempt=attempt, doubtful=True)), Sent)
    assert len(hooks.opsgenie_alerts) == 1


@pytest.mark.parametrize("kind", [Kind.TRIGGER, Kind.REPEAT])
async def test_what_is_to_be_noticed_after_somebody_took_it_takes_the_acknowledgement_back(
    hooks: Any, send: Any, incident: Any, make_delivery: Any, kind: Kind
) -> None:
    taken = dataclasses.replace(incident, status="acknowledged", acknowledged_by="ada")
    worse = dataclasses.replace(incident, severity="critical")
    await send(
        make_delivery(Kind.TRIGGER, incident),
        make_delivery(Kind.ACKNOWLEDGE, taken, number=2),
        make_delivery(Kind.UPDATE, taken, worse, number=3),
        make_delivery(kind, worse, number=4),
    )
    (alert,) = hooks.opsgenie_alerts
    assert (alert.acknowledged, alert.priority, alert.count) == (False, "P1", 2)


async def test_a_reminder_leaves_alone_what_people_took_in_opsgenie(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    await send(make_delivery(Kind.TRIGGER, incident), make_delivery(Kind.REPEAT, incident, number=2))
    assert paths(hooks) == ["alerts", "alerts"]


@pytest.mark.parametrize(("kind", "asked"), [(Kind.TRIGGER, ["alerts"]), (Kind.DIGEST, ["alerts", "close"])])
async def test_what_is_over_before_it_is_told_is_told_and_left_open_only_if_its_end_will_come(
    hooks: Any, send: Any, incident: Any, make_delivery: Any, kind: Kind, asked: list[str]
) -> None:
    await send(make_delivery(kind, dataclasses.replace(incident, status="resolved")))
    assert paths(hooks) == asked


async def test_a_receipt_of_another_thread_changes_nothing(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    anew = make_delivery(
        Kind.TRIGGER, dataclasses.replace(incident, severity="critical"), number=2, thread_key="another"
    )
    await send(make_delivery(Kind.TRIGGER, incident), anew)
    assert paths(hooks) == ["alerts", "alerts"]
    assert [alert.priority for alert in hooks.opsgenie_alerts] == ["P2", "P1"]


async def test_some_of_several_taken_is_a_note_not_an_acknowledgement(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    taken = dataclasses.replace(incident, id="0" * 12, status="acknowledged", acknowledged_by="ada")
    await send(make_delivery(Kind.TRIGGER, incident, taken), make_delivery(Kind.ACKNOWLEDGE, incident, taken, number=2))
    assert paths(hooks) == ["alerts", "notes"]
    both = (taken, dataclasses.replace(incident, status="resolved"))
    await send(make_delivery(Kind.ACKNOWLEDGE, *both, number=3))
    assert paths(hooks)[-1] == "acknowledge"


@pytest.mark.parametrize("kind", [Kind.HEARTBEAT, Kind.TEST])
async def test_a_sign_of_life_leaves_nothing_open(hooks: Any, send: Any, make_delivery: Any, kind: Kind) -> None:
    await send(make_delivery(kind))
    assert [(alert.priority, alert.open) for alert in hooks.opsgenie_alerts] == [("P5", False)]


async def test_answers_are_read_and_the_key_is_not_shown(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    delivery = make_delivery(Kind.TRIGGER, incident)
    hooks.script(OPSGENIE, too_many(3), Answer(503), Answer(422, body=f'{{"message": "bad {OPSGENIE_KEY}"}}'))
    first, second, third = [await send(delivery) for _ in range(3)]
    assert first == Again("HTTP 429: rate_limited", 3.0, too_fast=True)
    assert isinstance(second, Again)
    assert isinstance(third, Failed) and OPSGENIE_KEY not in third.error
    assert isinstance(await send(delivery, key="another-key"), Failed)


async def test_an_attempt_that_failed_half_way_is_made_again_without_a_trace(
    hooks: Any, send: Any, incident: Any, make_delivery: Any
) -> None:
    worse = dataclasses.replace(incident, severity="critical")
    update = make_delivery(Kind.UPDATE, worse, number=2)
    hooks.script(OPSGENIE, Answer(202, body="{}"), Answer(202, body="{}"), Answer(503))
    outcome = await send(make_delivery(Kind.TRIGGER, incident), update)
    assert isinstance(outcome, Again)
    assert paths(hooks) == ["alerts", "priority", "notes"]
