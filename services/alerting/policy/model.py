"""The routing file as the service uses it: checked, with secrets read and every name resolved.

Durations are milliseconds. A policy is immutable; a reload makes a new one, or changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import SecretStr

from services.alerting.policy.labels import Labels

SEVERITIES = ("critical", "error", "warning", "info")
"""Most urgent first."""

Severity = Literal["critical", "error", "warning", "info"]

INCIDENT = "incident"
"""In ``group_by``: every incident is a group of its own."""

ROLE_PREFIX = "role:"
"""In ``notify``: not a receiver but a role."""

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
SLACK_API_URL = "https://slack.com/api/"
OPSGENIE_API_URL = "https://api.opsgenie.com/"
GIVE_UP_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Pace:
    """What a receiver is sent at most: ``per_second`` in the long run, ``burst`` at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """What every receiver has.

    Attributes:
        name: As routes call it.
        pace: How fast it may be sent to.
        timeout_seconds: Of one request.
        fallback: Who is told in its place when a message to it failed for good; empty for nobody.
        minimum_severity: It takes nothing less urgent.
        send_resolved: Whether it is told that an incident is over.
        line: Of the routing file; 0 where it comes from the environment.
    """

    name: str
    pace: Pace
    timeout_seconds: float = 15.0
    fallback: str = ""
    minimum_severity: Severity = "info"
    send_resolved: bool = True
    line: int = 0

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        held = [getattr(self, name) for name in self.__dataclass_fields__]
        flat = [item for value in held for item in (value if isinstance(value, tuple) else (value,))]
        return tuple(item.get_secret_value() for item in flat if isinstance(item, SecretStr))


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerDutyReceiver(Receiver):
    """A PagerDuty service: Events API v2, and webhooks v3 back where ``webhook_secrets`` are given."""

    routing_key: SecretStr
    url: str = PAGERDUTY_URL
    webhook_secrets: tuple[SecretStr, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackReceiver(Receiver):
    """A Slack channel: by an incoming webhook, or by a bot's token, which can update, thread and take answers.

    ``app_token`` opens Socket Mode; ``signing_secret`` checks buttons that come by HTTP.
    """

    webhook_url: SecretStr | None = None
    token: SecretStr | None = None
    channel: str = ""
    app_token: SecretStr | None = None
    signing_secret: SecretStr | None = None
    api_url: str = SLACK_API_URL


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailReceiver(Receiver):
    """Mail by SMTP. ``security``: ``starttls`` (required, never dropped), ``tls`` or, on this machine, ``none``."""

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: SecretStr | None = None
    ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceiver(Receiver):
    """JSON by POST, signed as Standard Webhooks say. ``allow``: networks that it may reach beyond the public ones.

    Several ``secrets`` sign side by side while one takes over from another.
    """

    url: SecretStr
    signing_secrets: tuple[SecretStr, ...] = ()
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamsReceiver(Receiver):
    """A Microsoft Teams channel: an Adaptive Card to a Workflows webhook."""

    webhook_url: SecretStr


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsgenieReceiver(Receiver):
    """Opsgenie's Alert API."""

    api_key: SecretStr
    api_url: str = OPSGENIE_API_URL


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseReceiver(Receiver):
    """Any of the services that the optional package ``apprise`` knows, by its URL."""

    url: SecretStr


@dataclass(frozen=True, slots=True)
class Test:
    """One label's condition: any of ``patterns`` matches the whole value, or, ``negated``, none does.

    Attributes:
        label: Which.
        patterns: Compiled from texts, globs or regular expressions.
        negated: As said.
        source: As the file has it, for people.
        values: The texts, where there are no patterns among them; None otherwise.
    """

    label: str
    patterns: tuple[re.Pattern[str], ...]
    negated: bool
    source: str
    values: tuple[str, ...] | None = None

    def __call__(self, labels: Labels) -> bool:
        """Whether it holds."""
        value = labels.get(self.label, "")
        return any(pattern.fullmatch(value) for pattern in self.patterns) != self.negated


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold; without any it holds for everything."""

    tests: tuple[Test, ...] = ()

    def __call__(self, labels: Labels) -> bool:
        """Whether all hold."""
        return all(test(labels) for test in self.tests)


@dataclass(frozen=True, slots=True)
class Period:
    """Times of the week. ``days``: 0 Monday to 6 Sunday; minutes of the day, the end exclusive, 1440 for midnight."""

    days: frozenset[int]
    start_minute: int
    end_minute: int
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Digest:
    """Messages that are gathered: every ``every_ms``, or at a ``minute`` of the day on ``days``."""

    every_ms: int | None
    days: frozenset[int]
    minute: int
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the tree, with what it inherits filled in.

    Attributes:
        path: Where it stands: ``route``, ``route/2``, ``route/2/1``, or its name in place of the number.
        match: Whose alerts it takes.
        notify: Receivers and ``role:NAME``.
        group_by: Labels, or :data:`INCIDENT`.
        group_wait_ms: From the first alert of a group to the first message.
        group_interval_ms: At least so long between two messages of one group that tell of changes.
        repeat_interval_ms: A reminder after so long without change; 0 for none.
        active: Names of intervals outside which its messages wait; empty for always.
        escalate: Name of the chain; empty for none.
        digest: How messages are gathered; None for each by itself.
        go_on: Whether routes after it are tried also when it took the alert.
        routes: Below it; the first that takes the alert, and those after it as far as they ``go_on``.
        line: Of the file.
    """

    path: str
    match: Match
    notify: tuple[str, ...]
    group_by: tuple[str, ...]
    group_wait_ms: int
    group_interval_ms: int
    repeat_interval_ms: int
    active: tuple[str, ...]
    escalate: str
    digest: Digest | None
    go_on: bool
    routes: tuple[Route, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Role:
    """Who fills a role: ``always``, and by owner (``*`` for owners that are not named)."""

    name: str
    always: tuple[str, ...]
    by_owner: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Step:
    """Of an escalation: who (receivers and roles) is told so long after the incident opened, if nobody took it."""

    after_ms: int
    notify: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Escalation:
    """A chain. ``repeat``: how many times it begins anew after its last step. ``onward``: another whose steps are the
    last of its own.
    """

    name: str
    steps: tuple[Step, ...]
    repeat: int
    line: int
    onward: str = ""


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While a signal that ``source`` matches fires, those that ``target`` matches and whose ``equal`` labels are the
    same are muted.
    """

    name: str
    source: Match
    target: Match
    equal: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A silence that the file declares: between two moments, or at ``periods`` of each week until ``ends_ms``."""

    name: str
    match: Match
    starts_ms: int
    ends_ms: int
    periods: tuple[Period, ...]
    author: str
    reason: str
    line: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where features come from: what of ``features`` (patterns) of ``deployments`` (patterns) changes together."""

    name: str
    features: tuple[re.Pattern[str], ...]
    deployments: tuple[re.Pattern[str], ...]


@dataclass(frozen=True, slots=True)
class Correlation:
    """Which signals are one incident.

    Attributes:
        join_within_ms: A signal of the same deployment joins its open incident if its change began at most so long
            after the latest that the incident knows. Event time.
        across: What deployments must share for one incident: a ``feature`` of the same name, a declared ``source``
            only, or ``none``: no incident has two deployments.
        across_within_ms: And their changes began, or were noticed, within so long. Event time.
        reopen_within_ms: A signal that would have joined an incident resolved no longer than that ago opens it again.
            Event time.
        flapping_reopenings: So many times opened again within a day, and it is called flapping: told of only at
            repeat intervals.
    """

    join_within_ms: int = 3_600_000
    across: Literal["feature", "source", "none"] = "feature"
    across_within_ms: int = 60_000
    reopen_within_ms: int = 1_800_000
    flapping_reopenings: int = 3


@dataclass(frozen=True, slots=True)
class Watch:
    """What the monitor of the monitor looks at; a None or 0 switches the check off.

    Attributes:
        heartbeat_every_ms: Each of ``heartbeat_receivers`` gets a sign of life this often.
        heartbeat_receivers: Names.
        dead_man_url: Called this often while all is well; somebody outside pages when it stops.
        dead_man_every_ms: As said.
        lag_ms: The streams have not applied a message for so long although messages wait.
        silent_topics: Topic (``predictions``, ``outcomes``) to how long without any message is an alarm.
        dead_letters_per_hour: More than so many.
        channel_failing_ms: A receiver has failed for so long.
        notify: Who is told (receivers and roles); empty: as the tree says, and if it says nothing, every receiver.
    """

    heartbeat_every_ms: int = 0
    heartbeat_receivers: tuple[str, ...] = ()
    dead_man_url: SecretStr | None = None
    dead_man_every_ms: int = 60_000
    lag_ms: int = 300_000
    silent_topics: Mapping[str, int] = field(default_factory=dict)
    dead_letters_per_hour: int = 1000
    channel_failing_ms: int = 300_000
    notify: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the file says.

    Attributes:
        receivers: By name.
        route: The root, which takes everything.
        roles: By name.
        escalations: By name.
        intervals: Name to periods.
        inhibitions: In the order of the file.
        maintenance: In the order of the file.
        sources: In the order of the file.
        correlation: Which signals are one incident.
        watch: The monitor of the monitor.
        give_up_ms: Age at which an undelivered message is given up.
        backlog_digest: More unsent messages to one receiver than this, and all but criticals go as one; 0 for never.
        public_url: Where people reach the HTTP interface; empty: links are left out.
        digest: SHA-256 of the file; of the environment's settings without secrets where there is none.
        origin: The file's path, or "environment".
        warnings: What is legal and probably not meant.
    """

    receivers: Mapping[str, Receiver]
    route: Route
    roles: Mapping[str, Role] = field(default_factory=dict)
    escalations: Mapping[str, Escalation] = field(default_factory=dict)
    intervals: Mapping[str, tuple[Period, ...]] = field(default_factory=dict)
    inhibitions: tuple[Inhibition, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    sources: tuple[Source, ...] = ()
    correlation: Correlation = Correlation()
    watch: Watch = Watch()
    give_up_ms: int = GIVE_UP_MS
    backlog_digest: int = 50
    public_url: str = ""
    digest: str = ""
    origin: str = "environment"
    warnings: tuple[str, ...] = ()

    def secrets(self) -> list[str]:
        """Every secret, for what must keep them out of its output."""
        own = [self.watch.dead_man_url.get_secret_value()] if self.watch.dead_man_url else []
        return [secret for receiver in self.receivers.values() for secret in receiver.secrets()] + own


class PolicyHolder:
    """The policy in force. Read it anew for each decision; a reload replaces it whole."""

    def __init__(self, policy: Policy) -> None:
        self.current = policy
