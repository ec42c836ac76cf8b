"""The whole way, with a real broker: an alert on the topic, the command line, the receiver, and the audit."""

import datetime as dt
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.access.roles import Role
from services.access.tokens import create_token
from services.cli.alerting_client import AlertingClient, RefusedError, alerting_client


@pytest.fixture
def running(start_service: Any, receivers: Any, cluster: Any, make_alert: Any, tmp_path: Path) -> Any:
    """A service that tells a stand-in of PagerDuty, with one incident."""
    service = start_service(
        receivers.pagerduty(),
        port=0,
        tokens_file=tmp_path / "tokens.yaml",
        connection_file=tmp_path / "alerting.json",
    )
    cluster.publish(make_alert())
    return service


@pytest.fixture
def client(running: Any, tmp_path: Path) -> AlertingClient:
    """As a command on this machine asks."""
    return alerting_client({"DRIFTLINE_ALERTING_CONNECTION_FILE": str(tmp_path / "alerting.json")})


def test_an_answer_from_the_command_line_reaches_the_receiver_and_the_audit(
    client: AlertingClient, cluster: Any, receiver: Any, eventually: Callable[..., None], tmp_path: Path
) -> None:
    eventually(lambda: client.get("incidents")["incidents"])
    (incident,) = client.get("incidents")["incidents"]
    eventually(lambda: client.get("notifications", status="sent")["notifications"])
    client.post("incidents", incident["id"], "acknowledge", body={"reason": "on it"})
    eventually(lambda: cluster.audit("incident.acknowledged"))
    (event,) = cluster.audit("incident.acknowledged")
    me = client.get("whoami")["name"]
    assert (event["actor"], event["actor_kind"], event["reason"]) == (me, "human", "on it")
    kinds = lambda: [n["kind"] for n in client.get("notifications", status="sent")["notifications"]]  # noqa: E731
    eventually(lambda: kinds() == ["acknowledge", "trigger"])

    viewer = create_token(tmp_path / "tokens.yaml", "eve", Role.VIEWER, now=dt.datetime.now(dt.UTC))
    other = alerting_client({"DRIFTLINE_ALERTING_URL": client.connection.url, "DRIFTLINE_ALERTING_TOKEN": viewer})
    with pytest.raises(RefusedError, match="incidents:act"):
        other.post("incidents", incident["id"], "unacknowledge")
    eventually(lambda: cluster.audit("access.denied"))
    assert cluster.audit("access.denied")[0]["actor"] == "eve"
    everything = json.dumps(cluster.audit(), default=str)
    assert viewer not in everything and client.connection.token not in everything


def test_the_service_says_how_it_is(running: Any, client: AlertingClient, eventually: Callable[..., None]) -> None:
    url = client.connection.url
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(url + path, timeout=20) as answer:
            assert json.load(answer)["ok"] is True
    eventually(lambda: client.get("notifications", status="sent")["notifications"])
    with urllib.request.urlopen(url + "/metrics", timeout=20) as answer:
        text = answer.read().decode()
    assert 'driftline_alerting_alerts_total{result="opened"} 1.0' in text
    assert 'driftline_alerting_attempts_total{kind="trigger",receiver="pagerduty",result="sent"} 1.0' in text
    assert "driftline_alerting_delivery_seconds_count" in text


def test_pictures_that_a_message_links_to_are_shown(
    client: AlertingClient, receiver: Any, eventually: Callable[..., None]
) -> None:
    eventually(lambda: client.get("incidents")["incidents"])
    (incident,) = client.get("incidents")["incidents"]
    for address in client.get("incidents", incident["id"])["plots"]:
        with urllib.request.urlopen(client.connection.url + address, timeout=30) as answer:
            assert answer.read().startswith(b"\x89PNG")
