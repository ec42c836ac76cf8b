"""From the topic ``alerts`` to real HTTP servers, through the whole service."""

import time
from typing import Any

import pytest

from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK

pytestmark = pytest.mark.timeout(120)


def actions(received: list[Any]) -> list[tuple[str, str]]:
    return [(r.body["event_action"], r.body["dedup_key"]) for r in received]


def header(received: Any) -> str:
    return str(received.body["blocks"][0]["text"]["text"])


def eventually(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def test_a_trigger_and_its_resolve_reach_pagerduty_and_slack_and_the_audit(
    cluster: Any, receiver: Any, destinations: Any, start_service: Any, make_alert: Any
) -> None:
    service = start_service(destinations.pagerduty(), destinations.slack_webhook())
    firing, resolved = make_alert(), make_alert(status="resolved")
    cluster.publish(firing)
    assert len(receiver.wait_for(2)) == 2
    cluster.publish(resolved)
    assert len(receiver.wait_for(4)) == 4
    service.stop()

    key = firing["incident_key"]
    assert actions(receiver.accepted(PAGERDUTY)) == [("trigger", key), ("resolve", key)]
    opened, closed = receiver.accepted(SLACK_WEBHOOK)
    assert header(opened) == "🟠 Data drift in credit, version 1"
    assert header(closed) == "✅ Resolved: Data drift in credit, version 1"
    assert not [r.problems for r in receiver.received() if r.problems]
    told = [(e["action"], e["detail"].get("destination"), e["detail"].get("kind")) for e in cluster.audit()]
    assert sorted(told, key=str) == sorted(
        [
            ("incident.opened", None, None),
            ("incident.resolved", None, None),
            ("notification.sent", "pagerduty", "trigger"),
            ("notification.sent", "pagerduty", "resolve"),
            ("notification.sent", "slack", "trigger"),
            ("notification.sent", "slack", "resolve"),
        ],
        key=str,
    )
    assert {e["subject"] for e in cluster.audit()} == {f"incident:{key}"}
    assert f"alert:{firing['id']}" in cluster.audit("incident.opened")[0]["evidence"]
