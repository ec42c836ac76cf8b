"""What the tests of channels share: signals, incidents and deliveries."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import Entry, Incident, Signal, most_urgent
from services.alerting.notify.kinds import Kind
from services.alerting.policy.labels import labels_of
from services.alerting.words.system import SystemWords
from services.demo.hooks import RecordingHooks

NOW_MS = 1_371_060_000_000


def build_signal(number: int = 1, alert: Any = None, **changes: Any) -> Signal:
    """The signal that an alert opened or ended; ``words`` make it one of the monitor of the monitor."""
    if alert is None:
        usual: dict[str, Any] = {
            "incident_key": f"system/{number}",
            "episode": 1,
            "severity": "error",
            "labels": {"monitor": "system:streams-lag", "severity": "error", "deployment": ""},
            "change_time_us": NOW_MS * 1000,
            "words": SystemWords("The streams do not keep up", ("They lag.",), "Look.", "streams-lag").document(),
        }
        seen = {"opened_us": NOW_MS * 1000, "resolved_us": None, "firing": None, "resolved": None}
    else:
        firing = alert["status"] == "firing"
        usual = {
            "incident_key": alert["incident_key"],
            "episode": alert["episode"],
            "severity": alert["severity"],
            "labels": labels_of(alert),
            "change_time_us": alert["change_time_us"],
            "words": None,
        }
        seen = {
            "opened_us": alert["detection_time_us"] if firing else None,
            "resolved_us": None if firing else alert["detection_time_us"],
            "firing": alert if firing else None,
            "resolved": None if firing else alert,
        }
    origin = "watch" if alert is None else "alerts"
    status = "firing" if alert is None else alert["status"]
    return Signal(**{"id": number, "origin": origin, "status": status, **usual, **seen, **changes})


def build_incident(*signals: Signal, **changes: Any) -> Incident:
    """An open incident with these signals."""
    first = signals[0]
    firing = [s for s in signals if s.status == "firing"] or list(signals)
    usual: dict[str, Any] = {
        "id": uuid.uuid5(uuid.NAMESPACE_OID, ascii(first.incident_key)).hex[:12],
        "status": "open" if any(s.status == "firing" for s in signals) else "resolved",
        "episode": 1,
        "severity": most_urgent([s.severity for s in firing]),
        "deployment_id": first.labels.get("deployment", ""),
        "owner": first.labels.get("owner", ""),
        "upstream": "",
        "started_us": min(s.change_time_us for s in signals),
        "last_us": NOW_MS * 1000,
        "opened_ms": NOW_MS - 60_000,
        "updated_ms": NOW_MS,
        "resolved_ms": None,
        "acknowledged_ms": None,
        "acknowledged_by": "",
        "assigned_to": "",
        "flapping": False,
        "title": "A title",
        "revision": 1,
        "signals": signals,
        "entries": (),
    }
    return Incident(**{**usual, **changes})


def build_entry(action: str = "incident.noted", **changes: Any) -> Entry:
    """Something a person did."""
    usual = {"time_ms": NOW_MS, "actor_kind": "human", "actor": "ada", "via": "cli", "reason": "", "detail": {}}
    return Entry(**{"action": action, **usual, **changes})


def build_delivery(kind: Kind = Kind.TRIGGER, *incidents: Incident, number: int = 1, **changes: Any) -> Delivery:
    """Message ``number`` of a thread."""
    usual: dict[str, Any] = {
        "key": str(uuid.uuid5(uuid.NAMESPACE_OID, f"key/{kind}/{number}")),
        "kind": kind,
        "receiver": "a-receiver",
        "thread_key": str(uuid.uuid5(uuid.NAMESPACE_OID, "thread")),
        "incidents": incidents,
        "attempt": 1,
        "doubtful": False,
        "receipt": {},
        "reason": "first message of its group",
        "created_ms": NOW_MS,
        "sent_ms": NOW_MS,
        "public_url": "https://driftline.example.org/alerting",
    }
    return Delivery(**{**usual, **changes})


@pytest.fixture(scope="session")
def make_signal() -> Callable[..., Signal]:
    """``make_signal(1, make_alert(1))``, ``make_signal(2)`` of Driftline itself."""
    return build_signal


@pytest.fixture(scope="session")
def make_incident() -> Callable[..., Incident]:
    """``make_incident(make_signal(1, make_alert(1)), status="acknowledged", acknowledged_by="ada")``."""
    return build_incident


@pytest.fixture(scope="session")
def make_entry() -> Callable[..., Entry]:
    """``make_entry("incident.acknowledged", actor="ada")``."""
    return build_entry


@pytest.fixture(scope="session")
def make_delivery() -> Callable[..., Delivery]:
    """``make_delivery(Kind.UPDATE, incident, number=2, receipt={…})``."""
    return build_delivery


@pytest.fixture(scope="session")
def at_once() -> Callable[[], Any]:
    """A pacer that never waits."""

    async def pace() -> None:
        pass

    return pace


@pytest.fixture
def hooks() -> Iterator[RecordingHooks]:
    """Teams, Opsgenie and a receiver of webhooks, beside Slack and PagerDuty."""
    with RecordingHooks() as running:
        yield running
