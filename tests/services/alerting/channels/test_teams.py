"""Microsoft Teams: a card of every kind, within its limits."""

import dataclasses
import json
from typing import Any

import pytest
from pydantic import SecretStr

from services.alerting.channels.base import Again, Failed, Redactor, Sent, http_session
from services.alerting.channels.teams import MAX_BYTES, TeamsChannel, teams_body, teams_card
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import Pace, TeamsReceiver
from services.demo.hooks import TEAMS, teams_problems
from services.demo.receivers import Answer, too_many


@pytest.fixture
def send(hooks: Any, at_once: Any) -> Any:
    async def run(delivery: Any, timeout_seconds: float = 15.0) -> Any:
        url = SecretStr(hooks.teams_url)
        receiver = TeamsReceiver(
            name="teams", pace=Pace(1000.0, 1000), timeout_seconds=timeout_seconds, webhook_url=url
        )
        async with http_session(15.0) as session:
            return await TeamsChannel(receiver, session, Redactor(receiver.secrets())).send(delivery, at_once)

    return run


@pytest.fixture
def incident(make_incident: Any, make_signal: Any, make_alert: Any) -> Any:
    return make_incident(make_signal(1, make_alert(1)), make_signal(2))


def texts(element: Any) -> list[str]:
    """Every text of a card, in order; a block's runs as one."""
    if isinstance(element, list):
        return [text for item in element for text in texts(item)]
    if element.get("type") == "RichTextBlock":
        return ["".join(run["text"] for run in element["inlines"])]
    return [text for name in ("body", "items") for text in texts(element.get(name, []))]


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_kind_is_a_card_that_teams_takes(
    hooks: Any, send: Any, incident: Any, make_delivery: Any, kind: Kind
) -> None:
    incidents = () if kind in (Kind.HEARTBEAT, Kind.TEST) else (incident,)
    assert await send(make_delivery(kind, *incidents)) == Sent()
    (arrived,) = hooks.received(TEAMS)
    assert arrived.problems == ()


def test_a_card_says_what_the_words_say(incident: Any, make_delivery: Any) -> None:
    card = teams_card(make_delivery(Kind.TRIGGER, incident))
    said = texts(card)
    assert said[0].startswith("🟠 Data drift and ")
    assert any("temperature" in text for text in said)
    assert any(text.startswith("Severity: error") for text in said)
    assert any(f"driftline incidents show {incident.id}" in text for text in said)
    assert card["actions"][0]["title"] == "Incident"
    assert card["body"][0]["style"] == "attention"


def test_an_end_looks_like_one(incident: Any, make_delivery: Any) -> None:
    over = dataclasses.replace(incident, status="resolved")
    card = teams_card(make_delivery(Kind.RESOLVE, over))
    assert card["body"][0]["style"] == "good"
    assert texts(card)[0].startswith("✅ Resolved: ")


def test_values_are_set_apart_from_our_words(incident: Any, make_delivery: Any) -> None:
    card = teams_card(make_delivery(Kind.TRIGGER, incident))
    runs = [run for block in card["body"] for run in block.get("inlines", [])]
    assert {run["text"] for run in runs if run.get("fontType") == "Monospace"} >= {"credit"}


def test_what_does_not_fit_is_left_out_and_said(
    make_incident: Any, make_signal: Any, make_alert: Any, make_numeric_cause: Any, make_entry: Any, make_delivery: Any
) -> None:
    causes = [make_numeric_cause("漢" * 80 + str(n)) for n in range(5)]
    signals = [make_signal(n, make_alert(n, causes=causes, diagnosis_reason="因" * 600)) for n in range(40)]
    entries = tuple(make_entry(actor="人" * 60, reason="故" * 500) for _ in range(20))
    incidents = [make_incident(*signals, id=f"{n:012x}", entries=entries) for n in range(30)]
    for chosen in (incidents[:1], incidents):
        for kind in (Kind.TRIGGER, Kind.UPDATE, Kind.DIGEST):
            delivery = make_delivery(kind, *chosen)
            assert len(teams_body(delivery)) <= MAX_BYTES
            said = texts(teams_card(delivery))
            assert any("command line" in text for text in said)
    assert any("More than fits" in text for text in texts(teams_card(make_delivery(Kind.UPDATE, incidents[0]))))


def test_pictures_are_shown_by_address_where_teams_can_fetch_them(incident: Any, make_delivery: Any) -> None:
    def address(incident_id: str, rank: int) -> str:
        return f"https://driftline.example.org/alerting/plots/{incident_id}/{rank}?signature=x"

    def pictures(**changes: Any) -> list[Any]:
        card = teams_card(make_delivery(Kind.TRIGGER, incident, **changes), address)
        return [element for element in card["body"] if element["type"] == "Image"]

    found = pictures()
    assert found[0]["url"] == address(incident.id, 1)
    assert "temperature" in found[0]["altText"]
    assert teams_problems(json.loads(teams_body(make_delivery(Kind.TRIGGER, incident), address)), 1) == []
    assert pictures(public_url="http://driftline.example.org") == []
    assert pictures(public_url="") == []


async def test_answers_are_read(hooks: Any, send: Any, incident: Any, make_delivery: Any) -> None:
    delivery = make_delivery(Kind.TRIGGER, incident)
    failed = "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429"
    hooks.script(TEAMS, too_many(9), Answer(502), Answer(404), Answer(200, body=failed), Answer(0))
    outcomes = [await send(delivery) for _ in range(5)]
    assert outcomes[0] == Again("HTTP 429: rate_limited", 9.0, too_fast=True)
    assert isinstance(outcomes[1], Again) and not outcomes[1].doubtful
    assert isinstance(outcomes[2], Failed)
    assert isinstance(outcomes[3], Again) and outcomes[3].too_fast
    assert isinstance(outcomes[4], Again) and outcomes[4].doubtful
    assert await send(delivery) == Sent()


async def test_the_address_is_shown_nowhere(hooks: Any, send: Any, incident: Any, make_delivery: Any) -> None:
    hooks.script(TEAMS, Answer(400, body=f"no flow at {hooks.teams_url}"), Answer(0))
    for _ in range(2):
        outcome = await send(make_delivery(Kind.TRIGGER, incident))
        assert "local-teams" not in outcome.error and "0123456789abcdef" not in outcome.error


def test_a_body_is_json_whatever_is_in_it(incident: Any, make_delivery: Any) -> None:
    delivery = make_delivery(Kind.TRIGGER, dataclasses.replace(incident, owner="\ud800 half a character"))
    json.loads(teams_body(delivery).decode("utf-8"))
