"""What the tests of Slack and PagerDuty share: incidents, deliveries, and channels at the local stand-ins."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.alerting.channels.base import Outcome, Redactor, http_session
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.pagerduty import PagerDutyChannel
from services.alerting.channels.slack import SlackChannel
from services.alerting.incidents.views import Entry, Incident, Mute, Signal
from services.alerting.notify.kinds import Kind
from services.alerting.policy.labels import labels_of
from services.alerting.policy.model import SlackReceiver

OPENED_MS = 1_371_060_000_000


@pytest.fixture(scope="session")
def make_signal(make_alert: Any) -> Callable[..., Signal]:
    """A signal whose record is alert ``number``; ``ended`` adds the record of its end."""

    def build(number: int = 1, *, ended: bool = False, mute: Mute | None = None, **changes: Any) -> Signal:
        firing = make_alert(number, **changes)
        resolved = make_alert(number, "resolved", **changes) if ended else None
        return Signal(
            id=number,
            incident_key=firing["incident_key"],
            episode=number,
            origin="alerts",
            status="resolved" if ended else "firing",
            severity=firing["severity"],
            labels=labels_of(firing),
            change_time_us=firing["change_time_us"],
            opened_us=firing["detection_time_us"],
            resolved_us=None if resolved is None else resolved["detection_time_us"],
            firing=firing,
            resolved=resolved,
            words=None,
            mute=mute,
        )

    return build


@pytest.fixture(scope="session")
def make_incident(make_signal: Any) -> Callable[..., Incident]:
    """An incident; of one firing signal unless others are given."""

    def build(signals: Sequence[Signal] | None = None, **changes: Any) -> Incident:
        signals = [make_signal()] if signals is None else signals
        first = signals[0].labels if signals else {}
        made = {
            "id": "0123456789ab",
            "status": "open",
            "episode": 1,
            "severity": signals[0].severity if signals else "error",
            "deployment_id": first.get("deployment", ""),
            "owner": first.get("owner", ""),
            "upstream": "",
            "started_us": min((s.change_time_us for s in signals), default=0),
            "last_us": max((s.opened_us or 0 for s in signals), default=0),
            "opened_ms": OPENED_MS,
            "updated_ms": OPENED_MS,
            "resolved_ms": None,
            "acknowledged_ms": None,
            "acknowledged_by": "",
            "assigned_to": "",
            "flapping": False,
            "title": "Data drift in credit, version 1",
            "revision": 1,
            "signals": tuple(signals),
        }
        return Incident(**{**made, **changes})

    return build


@pytest.fixture(scope="session")
def make_over(make_signal: Any, make_incident: Any) -> Callable[..., Incident]:
    """An incident that is over."""

    def build(**changes: Any) -> Incident:
        over = {"status": "resolved", "resolved_ms": OPENED_MS + 3_600_000}
        made: Incident = make_incident([make_signal(ended=True)], **{**over, **changes})
        return made

    return build


@pytest.fixture(scope="session")
def make_entry() -> Callable[..., Entry]:
    """An entry of an incident's story, by a person."""

    def build(action: str, by: str, via: str = "slack", reason: str = "", **detail: Any) -> Entry:
        return Entry(OPENED_MS + 60_000, action, "human", by, via, reason, detail)

    return build


@pytest.fixture(scope="session")
def make_delivery() -> Callable[..., Delivery]:
    """A message of a kind about these incidents, an hour after they opened."""

    def build(kind: Kind, *incidents: Incident, **changes: Any) -> Delivery:
        made = {
            "key": "11111111-1111-4111-8111-111111111111",
            "kind": kind,
            "receiver": "chat",
            "thread_key": "22222222-2222-4222-8222-222222222222",
            "incidents": incidents,
            "attempt": 1,
            "doubtful": False,
            "receipt": {},
            "reason": "",
            "created_ms": OPENED_MS + 3_600_000,
            "sent_ms": OPENED_MS + 3_600_000,
            "public_url": "https://driftline.example.org/alerting",
        }
        return Delivery(**{**made, **changes})

    return build


async def _at_once() -> None:
    pass


@pytest.fixture(scope="session")
def send() -> Callable[..., Any]:
    """Sends a delivery to a receiver; the outcome."""

    async def run(receiver: Any, delivery: Delivery, **more: Any) -> Outcome:
        kind: Any = SlackChannel if isinstance(receiver, SlackReceiver) else PagerDutyChannel
        async with http_session(receiver.timeout_seconds) as session:
            channel = kind(receiver, session, Redactor(receiver.secrets()), **more)
            outcome: Outcome = await channel.send(delivery, _at_once)
            await channel.close()
            return outcome

    return run
