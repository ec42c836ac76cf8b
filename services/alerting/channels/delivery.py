"""What a channel is given to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.alerting.incidents.views import RESOLVED, Incident
from services.alerting.notify.kinds import Kind


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one receiver.

    Attributes:
        key: A uuid; the same for every attempt, another for every message.
        kind: What it is for.
        receiver: The receiver's name.
        thread_key: A uuid; the same for every message of a thread: PagerDuty's ``dedup_key``, Opsgenie's alias, the
            first mail's ``Message-ID``.
        incidents: What it is about, as they are now, the most urgent first; empty for a heartbeat or a test.
        attempt: 1, 2, …
        doubtful: An earlier attempt may have arrived: its sender was killed, or its answer was lost.
        receipt: What the channel returned for earlier messages of the thread, merged; a channel adds to it with
            :class:`services.alerting.channels.base.Sent`.
        reason: Why it is sent, in words.
        created_ms: When it was decided.
        sent_ms: The clock's time of this attempt.
        public_url: Where people reach the HTTP interface; empty for nowhere.
        group_labels: What the thread groups by.
        because: It is sent whatever the routes say: by an escalation, or in place of a receiver that failed.
    """

    key: str
    kind: Kind
    receiver: str
    thread_key: str
    incidents: tuple[Incident, ...]
    attempt: int
    doubtful: bool
    receipt: Mapping[str, Any]
    reason: str
    created_ms: int
    sent_ms: int
    public_url: str = ""
    group_labels: tuple[tuple[str, str], ...] = ()
    because: str = ""

    @property
    def over(self) -> bool:
        """Whether everything it is about is over."""
        return bool(self.incidents) and all(incident.status == RESOLVED for incident in self.incidents)
