"""What became of the demonstration's alarms: incidents, what people were told of them, and what somebody answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

INHIBITED = ("data_drift", "prediction_drift")
"""Monitors that data quality mutes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an acknowledgement by command line.

    Attributes:
        incident: Its id.
        title: What it is about.
        reason: Why, as somebody said.
        slack: Slack's message says so.
        pagerduty: PagerDuty was told.
        audit: The audit record has it, with who and why.
    """

    incident: str
    title: str
    reason: str
    slack: bool = False
    pagerduty: bool = False
    audit: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether it reached them all."""
        return self.slack and self.pagerduty and self.audit

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Notified:
    """What became of alarms.

    Attributes:
        incidents: As ``driftline incidents list --all`` lists them; with their ``monitors``, and whether anybody was
            ``told`` of them.
        taken: The one that somebody took; None where none was open.
        slack: Bodies of messages that Slack took, first ones and changes, in order.
        pagerduty: Bodies of events that PagerDuty took.
    """

    incidents: Sequence[Mapping[str, Any]]
    taken: Taken | None
    slack: Sequence[Mapping[str, Any]]
    pagerduty: Sequence[Mapping[str, Any]]

    @property
    def told(self) -> list[Mapping[str, Any]]:
        """Incidents that somebody was told of."""
        return [incident for incident in self.incidents if incident["told"]]

    @property
    def untold(self) -> list[Mapping[str, Any]]:
        """Those that nobody was told of."""
        return [incident for incident in self.incidents if not incident["told"]]

    @property
    def unexplained(self) -> list[Mapping[str, Any]]:
        """Of these, those that a broken pipeline does not explain: under bad quality drift is to be expected, which is
        the inhibition that is built in.
        """
        return [incident for incident in self.untold if not set(incident["monitors"]) <= set(INHIBITED)]

    @property
    def signals(self) -> int:
        """Alarms that the incidents have."""
        return sum(int(incident["signals"]) for incident in self.incidents)

    @property
    def begun(self) -> int:
        """Messages on Slack that stand by themselves: not changes, not answers in a thread."""
        return sum("ts" not in body and not body.get("thread_ts") for body in self.slack)

    @property
    def paged(self) -> int:
        """Incidents that PagerDuty was told of."""
        return len({event["dedup_key"] for event in self.pagerduty})

    def of_kind(self, action: str) -> int:
        """How many events of PagerDuty's did this."""
        return sum(event.get("event_action") == action for event in self.pagerduty)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "incidents": [dict(incident) for incident in self.incidents],
            "acknowledgement": None if self.taken is None else self.taken.to_json(),
            "slack_messages": self.begun,
            "slack_requests": len(self.slack),
            "pagerduty_events": len(self.pagerduty),
        }
