"""Somebody on call in the demonstration: the routing file, and an incident that they take by command line."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from driftline.codec import decode
from services.cli.alerting_client import AlertingClient, alerting_client
from services.demo.commands import Commands, DemonstrationError, wait_until
from services.demo.notified import Notified, Taken
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_UPDATE, RecordingReceiver

ROUTING_FILE = "routing.yaml"
REASON = "the weather of spring: March is no measure any more"

# Waits are for people; here nobody reads along, and a year takes minutes.
ROUTING = """\
# Who is told of what in the demonstration. See docs/routing.md.
version: 1
defaults: {group_wait: 0s, group_interval: 1s, repeat_interval: 4h}
receivers:
  - name: pagerduty
    type: pagerduty
    routing_key_env: DRIFTLINE_PAGERDUTY_ROUTING_KEY
    rate_per_second: 100
    burst: 100
  - name: slack
    type: slack
    token_env: DEMONSTRATION_SLACK_TOKEN
    channel: C0DEMO
    rate_per_second: 100
    burst: 100
route:
  notify: [pagerduty, slack]
"""

_OPEN_SECONDS = 30.0
_QUIET_SECONDS = 1.3  # longer than group_interval
_SETTLED_SECONDS = 90.0
_ARRIVE_SECONDS = 20.0
_MOST = 200


def write_routing(folder: Path) -> Path:
    """Write the routing file into a folder; returns where it is."""
    file = folder / ROUTING_FILE
    file.write_text(ROUTING, "utf-8")
    return file


class OnCall:
    """Somebody on call.

    Args:
        commands: What they type.
        receiver: What stands in for their Slack and PagerDuty.
        connection_file: By which the alerting service is found.
    """

    def __init__(self, commands: Commands, receiver: RecordingReceiver, connection_file: Path) -> None:
        self._commands = commands
        self._receiver = receiver
        self._connection_file = connection_file
        self._taken: Taken | None = None

    def take_one(self) -> None:
        """Acknowledge the incident that opened last, and see it arrive.

        Raises:
            DemonstrationError: None is open, or alerting does not answer.
        """
        if not wait_until(self._something_is_open, _OPEN_SECONDS):
            raise DemonstrationError("no incident is open at the end of May: is alerting well?")
        first = self._commands.run("incidents", "list", "--status", "open")[0]
        number = first["id"]
        # Nobody takes what they were not told of.
        wait_until(lambda: self._sent(number), _ARRIVE_SECONDS)
        self._commands.run("incidents", "ack", number, "--reason", REASON)
        arrived = {
            "slack": wait_until(lambda: any(REASON in json.dumps(body) for body in self._slack()), _ARRIVE_SECONDS),
            "pagerduty": wait_until(self._acknowledged, _ARRIVE_SECONDS),
        }
        self._taken = Taken(number, first["title"], REASON, **arrived)

    def settle(self, alarms: int) -> Sequence[Mapping[str, Any]]:
        """Wait until so many alarms are in incidents and nothing is left to be sent; returns the incidents.

        Raises:
            DemonstrationError: That takes too long.
        """
        deadline = time.monotonic() + _SETTLED_SECONDS
        quiet_since = None
        while time.monotonic() < deadline:
            quiet = self._signals() >= alarms and not self._unsent()
            quiet_since = (quiet_since or time.monotonic()) if quiet else None
            if quiet_since is not None and time.monotonic() - quiet_since >= _QUIET_SECONDS:
                found: Sequence[Mapping[str, Any]] = self._commands.run("incidents", "list", "--all", "--limit", "1000")
                return [self._with_what_was_told(incident) for incident in found]
            time.sleep(0.5)
        raise DemonstrationError(f"{self._unsent()} messages were not sent within {_SETTLED_SECONDS:.0f} s")

    def _with_what_was_told(self, incident: Mapping[str, Any]) -> Mapping[str, Any]:
        story = self._client().get("incidents", incident["id"])
        monitors = sorted({signal["monitor"] for signal in story["signals"]})
        return {**incident, "told": bool(story["notifications"]), "monitors": monitors}

    def notified(self, incidents: Sequence[Mapping[str, Any]], audit: Path) -> Notified:
        """What became of alarms; ``audit`` is the exported record."""
        taken = self._taken
        if taken is not None:
            taken = Taken(**{**asdict(taken), "audit": _is_on_record(audit, taken)})
        return Notified(
            incidents,
            taken,
            self._slack(),
            [received.body for received in self._receiver.accepted(PAGERDUTY)],
        )

    def _client(self) -> AlertingClient:
        return alerting_client({"DRIFTLINE_ALERTING_CONNECTION_FILE": str(self._connection_file)})

    def _slack(self) -> list[Mapping[str, Any]]:
        return [received.body for received in self._receiver.accepted(SLACK_POST, SLACK_UPDATE)]

    def _something_is_open(self) -> bool:
        return bool(self._client().get("incidents", status="open", limit=1)["incidents"])

    def _acknowledged(self) -> bool:
        return any(r.body.get("event_action") == "acknowledge" for r in self._receiver.accepted(PAGERDUTY))

    def _sent(self, incident: str) -> bool:
        told = self._client().get("incidents", incident)["notifications"]
        return bool(told) and all(message["status"] == "sent" for message in told)

    def _unsent(self) -> int:
        client = self._client()
        return sum(
            len(client.get("notifications", status=status, limit=_MOST)["notifications"])
            for status in ("pending", "sending")
        )

    def _signals(self) -> int:
        return sum(incident["signals"] for incident in _pages(self._client().get))


def _pages(get: Callable[..., Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before = None
    while True:
        page = get("incidents", limit=_MOST, before=before)
        found += page["incidents"]
        before = page["next"]
        if before is None:
            return found


def _is_on_record(audit: Path, taken: Taken) -> bool:
    """Whether the exported record has the acknowledgement, by a person, with the reason."""
    with audit.open(encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            if "record" not in document:
                continue
            _, event = decode(base64.b64decode(document["value"]))
            about = (event["action"], event["subject"], event["actor_kind"], event["reason"])
            if about == ("incident.acknowledged", f"incident:{taken.incident}", "human", taken.reason):
                return True
    return False
