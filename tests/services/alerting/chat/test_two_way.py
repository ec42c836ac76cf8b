"""The whole service with Slack and PagerDuty: what people do in one is seen in the other, once, and does not circle."""

import time
from typing import Any

import pytest
from pydantic import SecretStr

from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_UPDATE, lost

SIGNING, WEBHOOK = "8f742231b10e8888abcd99yyyzzz85a5", "a-webhook-secret"


@pytest.fixture
def pager(receivers: Any) -> Any:
    return receivers.pagerduty(webhook_secrets=(SecretStr(WEBHOOK),))


@pytest.fixture
def chat(receivers: Any) -> Any:
    return receivers.slack_token(app_token=SecretStr("xapp-an-app"), signing_secret=SecretStr(SIGNING))


@pytest.fixture
def service(start_service: Any, pager: Any, chat: Any, receiver: Any) -> Any:
    """The service, with PagerDuty telling it what happens there."""
    running = start_service(pager, chat, port=0)
    receiver.pagerduty.subscribe(f"http://127.0.0.1:{running.port}/hooks/pagerduty/{pager.name}", WEBHOOK)
    return running


def settled(receiver: Any) -> int:
    """How many messages there are when none has come for a while."""
    count = -1
    while count != len(receiver.received()):
        count = len(receiver.received())
        time.sleep(1.0)
    return count


def root(receiver: Any) -> Any:
    [message] = receiver.slack.roots()
    return message


def test_what_people_do_in_one_is_seen_in_the_other_and_does_not_go_round(
    service: Any, cluster: Any, receiver: Any, make_alert: Any, eventually: Any
) -> None:
    cluster.publish(make_alert())
    eventually(lambda: len(receiver.pagerduty.incidents) == 1 and receiver.slack.roots())
    [incident] = receiver.pagerduty.incidents

    receiver.press("Acknowledge")
    eventually(lambda: incident.status == "acknowledged")
    eventually(lambda: "Give back" in str(root(receiver)["blocks"]))
    eventually(lambda: "`slack:U024BE7LH (ada)`" in str(receiver.slack.replies(root(receiver)["ts"])))

    receiver.in_pagerduty("incident.annotated", incident.dedup_key, text="the feed is broken")
    eventually(lambda: "the feed is broken" in str(receiver.slack.replies(root(receiver)["ts"])))

    url = f"http://127.0.0.1:{service.port}/hooks/slack/slack"
    assert receiver.press("Give back", url=url, secret="forged").status == 401
    pressed = receiver.press("Give back", url=url, secret=SIGNING)
    assert pressed.status == 200 and pressed.seconds < 3
    eventually(lambda: "Acknowledge" in str(root(receiver)["blocks"][-1]))
    assert receiver.tell(pressed.payload, url=url, secret=SIGNING, age_seconds=400).status == 401

    receiver.in_pagerduty("incident.resolved", incident.dedup_key, person="Grace Hopper")
    eventually(lambda: root(receiver)["text"].startswith("✅"))
    count = settled(receiver)
    assert "`pagerduty:Grace Hopper`" in str(receiver.slack.replies(root(receiver)["ts"]))
    assert [r.body["event_action"] for r in receiver.accepted(PAGERDUTY)][-1] != "resolve", "it knows already"
    assert not receiver.pagerduty.dropped and len(receiver.pagerduty.incidents) == 1

    # Everything again, as it may come twice: nothing changes, nobody is told.
    receiver.tell(pressed.payload)
    assert settled(receiver) == count
    eventually(lambda: len(cluster.audit("incident.resolved")) == 1)
    people = [e for e in cluster.audit() if e["actor_kind"] == "human" and e["action"].startswith("incident.")]
    assert [(event["action"], event["actor"]) for event in people] == [
        ("incident.acknowledged", "slack:U024BE7LH (ada)"),
        ("incident.noted", "pagerduty:Ada Lovelace"),
        ("incident.unacknowledged", "slack:U024BE7LH (ada)"),
        ("incident.resolved", "pagerduty:Grace Hopper"),
    ]
    assert all(event["reason"] for event in people)
    assert set(receiver.webhook_answers) == {200}


def test_a_silence_from_slack_is_seen_there_and_its_resolve_passes(
    service: Any, cluster: Any, receiver: Any, make_alert: Any, eventually: Any
) -> None:
    cluster.publish(make_alert())
    eventually(lambda: receiver.slack.roots())
    receiver.press("Silence", "4 h")
    eventually(lambda: "Silence" not in str(root(receiver)["blocks"][-1]))
    eventually(lambda: cluster.audit("silence.created"))
    cluster.publish(make_alert(1, "resolved"))
    eventually(lambda: root(receiver)["text"].startswith("✅"))
    eventually(lambda: receiver.pagerduty.incidents[0].status == "resolved")


def test_a_slack_message_in_doubt_is_found_by_the_running_service(
    service: Any, cluster: Any, receiver: Any, make_alert: Any, eventually: Any
) -> None:
    receiver.script(SLACK_POST, lost())
    cluster.publish(make_alert())
    eventually(lambda: len(cluster.audit("notification.sent")) == 2)
    cluster.publish(make_alert(1, "resolved"))
    eventually(lambda: receiver.accepted(SLACK_UPDATE))
    assert root(receiver)["text"].startswith("✅")


def test_a_severity_that_rises_over_an_acknowledgement_pages_anew_everywhere(
    service: Any, cluster: Any, receiver: Any, make_alert: Any, eventually: Any
) -> None:
    cluster.publish(make_alert(severity="warning"))
    eventually(lambda: len(receiver.pagerduty.incidents) == 1 and receiver.slack.roots())
    key = receiver.pagerduty.incidents[0].dedup_key
    receiver.in_pagerduty("incident.acknowledged", key)
    eventually(lambda: "Give back" in str(root(receiver)["blocks"]))
    cluster.publish(make_alert(2, severity="critical", monitor="concept_drift"))
    eventually(lambda: [i.status for i in receiver.pagerduty.incidents] == ["resolved", "triggered"])
    assert receiver.pagerduty.known_as(key).severity == "critical"
    eventually(lambda: any(answer.get("reply_broadcast") for answer in receiver.slack.replies(root(receiver)["ts"])))
    settled(receiver)
    # That we closed the alert there comes back to us, and is not taken for an end of the incident.
    assert not cluster.audit("incident.resolved") and root(receiver)["text"].startswith("🔴")
    assert [i.status for i in receiver.pagerduty.incidents] == ["resolved", "triggered"]
