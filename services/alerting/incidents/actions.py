"""What people (and PagerDuty, for them) do to incidents: one way in for command line, HTTP, chat and pager.

Each action is one transaction: the incident's change, its entry, the audit event with who and why, and what every
receiver is to be told (:func:`services.alerting.notify.threads.concern`). It then wakes the sender.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from driftline.topics import Topics
from services.alerting.database.opening import Database
from services.alerting.errors import AlertingError
from services.alerting.incidents.views import Incident
from services.alerting.policy.model import PolicyHolder


class ActionRefusedError(AlertingError):
    """An action that cannot be done: the message says why and what to do. ``status`` is the HTTP status for it."""

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status


class Do(enum.StrEnum):
    """What can be done to an incident."""

    ACKNOWLEDGE = "acknowledge"
    UNACKNOWLEDGE = "unacknowledge"
    RESOLVE = "resolve"
    REOPEN = "reopen"
    NOTE = "note"
    ASSIGN = "assign"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and by which way: ``cli``, ``api``, ``slack``, ``pagerduty``, ``clock``.

    ``request`` identifies the request where the sender may repeat it (PagerDuty's webhook id, Slack's trigger): a
    repeat changes nothing. ``receiver``: the receiver by which it came, which need not be told of its own answer.
    """

    name: str
    via: str
    kind: str = "human"
    request: str = ""
    receiver: str = ""


class Desk:
    """Where actions are done. Thread-safe.

    Args:
        database: Of the service.
        policy: In force.
        topics: For the audit events.
        now_ms: Clock.
        acted: Called after each, in the caller's thread: somebody may have to be told.
    """

    def __init__(
        self,
        database: Database,
        policy: PolicyHolder,
        topics: Topics,
        now_ms: Callable[[], int],
        acted: Callable[[], None],
    ) -> None:
        self._database = database
        self._policy = policy
        self._topics = topics
        self._now_ms = now_ms
        self._acted = acted

    def act(self, incident_id: str, do: Do, actor: Actor, reason: str, **detail: Any) -> Incident:
        """Do something to an incident; ``assign`` takes ``to``, ``silence`` takes ``for_ms``.

        ``incident_id`` may be the beginning of one, of at least four digits. What is so already (acknowledging twice)
        is no error and changes nothing.

        Raises:
            ActionRefusedError: There is no such incident, or it is over, or the reason is missing where it must be
                given (silence, resolve).
        """
        raise NotImplementedError

    def silence(
        self, match: Mapping[str, Any], actor: Actor, reason: str, *, starts_ms: int | None, ends_ms: int
    ) -> str:
        """Silence everything that matches, as in the routing file; returns the silence's id.

        Raises:
            ActionRefusedError: The match is empty or wrong, the reason is missing, or the time is none.
        """
        raise NotImplementedError

    def end_silence(self, silence_id: str, actor: Actor, reason: str) -> None:
        """End a silence before its time.

        Raises:
            ActionRefusedError: There is no such silence, or it is over.
        """
        raise NotImplementedError
