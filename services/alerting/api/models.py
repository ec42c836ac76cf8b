"""What requests and answers look like: the models of the OpenAPI document, and what bodies are checked by.

Times are RFC 3339 in UTC. Durations are texts such as ``30m``, ``4h``, ``1h30m``.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.alerting.policy.durations import parse_duration
from services.alerting.policy.model import SEVERITIES

MAX_REASON = 2000
_MAX_NAME = 256
MAX_DURATION_MS = 366 * 86_400_000


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as ``4h``.

    Raises:
        ValueError: It is none, is nothing or more than a year.
    """
    found = parse_duration(text)
    if not 0 < found <= MAX_DURATION_MS:
        raise ValueError("expected a duration of more than nothing and at most 366d")
    return found


def _checked_duration(text: str) -> str:
    duration_ms(text)
    return text.strip()


Severity = Literal["critical", "error", "warning", "info"]
assert set(Severity.__args__) == set(SEVERITIES)  # type: ignore[attr-defined]  # a Literal has its values there
Status = Literal["open", "acknowledged", "resolved"]
FindableStatus = Literal["open", "acknowledged", "resolved", "silenced", "unresolved"]
NotificationStatus = Literal["pending", "sending", "gathered", "sent", "dead", "merged"]

Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_REASON)]
NeededReason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_REASON)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_NAME)]
Duration = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_checked_duration),
    Field(description="Such as 30m, 4h, 1h30m; units s, m, h, d, w; at most 366d.", examples=["4h"]),
]
Page = Annotated[int, Field(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[
    str, StringConstraints(min_length=1, max_length=200), Field(description="`next` of the page before.")
]


class Asked(BaseModel):
    """Of everything that is sent to us: unknown fields are refused, for they were meant to do something."""

    model_config = ConfigDict(extra="forbid")


class Nothing(Asked):
    """No field."""


class IncidentQuery(Asked):
    """Which incidents."""

    status: FindableStatus | None = None
    deployment: Name | None = None
    severity: Severity | None = None
    owner: Name | None = None
    text: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    before: Cursor | None = None
    limit: Page = 50


class StoryQuery(Asked):
    """How much of an incident."""

    entries: Annotated[int, Field(ge=0, le=500, description="How many of the latest entries of the story.")] = 100
    signals: Annotated[int, Field(ge=0, le=1000, description="How many of the strongest signals.")] = 100


class NoteBody(Asked):
    """Why, or what was found."""

    reason: NeededReason


class AcknowledgeBody(Asked):
    """Why, if there is something to say."""

    reason: Reason = ""


class AssignBody(Asked):
    """Who is to look after it."""

    to: Name
    reason: Reason = ""


class IncidentSilenceBody(Asked):
    """For how long nobody is told of it, and why."""

    duration: Duration
    reason: NeededReason


class SilenceBody(Asked):
    """Which signals nobody is told of, for how long, and why. Ends are told all the same."""

    match: Annotated[
        dict[str, Any],
        Field(
            min_length=1,
            max_length=20,
            description="As in the routing file: label to text, glob, list, {not: …} or {regex: …}.",
            examples=[{"deployment": "credit-*", "monitor": ["data_drift", "prediction_drift"]}],
        ),
    ]
    reason: NeededReason
    starts: AwareDatetime | None = None
    ends: AwareDatetime | None = None
    duration: Duration | None = None

    @model_validator(mode="after")
    def _one_end(self) -> SilenceBody:
        if (self.ends is None) == (self.duration is None):
            raise ValueError("expected either ends or duration")
        return self


class SilenceQuery(Asked):
    """Which silences."""

    all: Annotated[bool, Field(description="Those that are over too.")] = False
    limit: Page = 50
    before: Cursor | None = None


class ExplainBody(Asked):
    """Of what to say who is told: labels, or an incident that there is."""

    labels: Annotated[dict[Name, Annotated[str, StringConstraints(max_length=1000)]], Field(max_length=100)] | None = (
        None
    )
    incident: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4,12}$")] | None = None

    @model_validator(mode="after")
    def _one_question(self) -> ExplainBody:
        if (self.labels is None) == (self.incident is None):
            raise ValueError("expected either labels or incident")
        return self


class NotificationQuery(Asked):
    """Which messages."""

    status: NotificationStatus | None = None
    receiver: Name | None = None
    before: Cursor | None = None
    limit: Page = 50


class RedriveBody(Asked):
    """Which dead messages to try again: some, or all of a receiver."""

    ids: Annotated[list[Annotated[int, Field(ge=1, lt=1 << 63)]], Field(min_length=1, max_length=500)] | None = None
    receiver: Name | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> RedriveBody:
        if (self.ids is None) == (self.receiver is None):
            raise ValueError("expected either ids or receiver")
        return self


class PlotQuery(Asked):
    """A signed address."""

    expires: Annotated[int, Field(ge=0, lt=1 << 40)]
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Mute(BaseModel):
    """Why nobody is told of a signal."""

    kind: str
    name: str
    reason: str
    until: dt.datetime | None


class Signal(BaseModel):
    """One alarm of an incident, in words."""

    deployment: str
    monitor: str
    severity: str
    status: str
    labels: dict[str, str]
    incident_key: str
    episode: int
    alert_ids: list[str]
    change_time: dt.datetime | None
    opened: dt.datetime | None
    resolved: dt.datetime | None
    mute: Mute | None
    headline: str = ""
    sentences: list[str] = []
    causes: list[str] = []


class Entry(BaseModel):
    """Something that happened."""

    time: dt.datetime | None
    action: str
    actor_kind: str
    actor: str
    via: str
    reason: str
    detail: dict[str, Any]


class Acknowledged(BaseModel):
    """By whom it was taken, and when."""

    by: str
    time: dt.datetime | None


class Incident(BaseModel):
    """An incident in a list."""

    id: str
    title: str
    status: Status
    state: Annotated[str, Field(description="The status, or `silenced` while nobody is told of what fires.")]
    severity: str
    episode: int
    deployments: list[str]
    owner: str
    upstream: str
    started: Annotated[dt.datetime | None, Field(description="Estimated start of the earliest change; event time.")]
    opened: dt.datetime | None
    updated: dt.datetime | None
    resolved: dt.datetime | None
    acknowledged: Acknowledged | None
    assigned_to: str
    flapping: bool
    revision: int
    firing: Annotated[int, Field(description="How many of its signals fire.")]
    signals: Annotated[int, Field(description="How many signals it has.")]
    withheld: Annotated[int, Field(description="Signals of deployments that the token does not see.")] = 0


class Incidents(BaseModel):
    """A page of incidents, those opened last first."""

    incidents: list[Incident]
    next: Annotated[str | None, Field(description="For `before` of the next page; null on the last.")]


class Told(BaseModel):
    """A message about an incident."""

    id: int
    receiver: str
    kind: str
    status: str
    reason: str
    created: dt.datetime | None
    finished: dt.datetime | None


class Link(BaseModel):
    """Where to go."""

    text: str
    url: str


class Words(BaseModel):
    """The incident as messages say it."""

    headline: str
    summary: str
    steps: str | None
    facts: dict[str, str]
    links: list[Link]


class IncidentStory(BaseModel):
    """An incident with everything about it."""

    incident: Incident
    words: Words
    signals: Annotated[
        list[Signal], Field(description="The strongest first; `incident.signals` says how many there are.")
    ]
    story: list[Entry]
    notifications: list[Told]
    plots: Annotated[list[str], Field(description="Signed addresses of pictures that expire; relative to this host.")]


class Silence(BaseModel):
    """A silence."""

    id: str
    match: dict[str, Any]
    incident: str | None
    author: str
    reason: str
    via: str
    created: dt.datetime | None
    starts: dt.datetime | None
    ends: dt.datetime | None
    ended_by: str
    state: Literal["pending", "active", "expired"]


class Silences(BaseModel):
    """A page of silences, the latest first."""

    silences: list[Silence]
    next: str | None


class RouteNode(BaseModel):
    """A route and those below it."""

    path: str
    line: int
    match: list[str]
    notify: list[str]
    group_by: list[str]
    group_wait_seconds: float
    group_interval_seconds: float
    repeat_interval_seconds: float
    active: list[str]
    escalate: str
    digest: bool
    go_on: bool
    routes: list[RouteNode]


class Routing(BaseModel):
    """The routing file in force."""

    origin: str
    digest: str
    warnings: list[str]
    trouble: list[str]
    route: RouteNode
    roles: list[str]
    escalations: list[str]
    intervals: list[str]
    inhibitions: list[str]
    maintenance: list[str]


class Explained(BaseModel):
    """Who is told, and why."""

    explanations: list[dict[str, Any]]


class Notification(BaseModel):
    """A message to one receiver."""

    id: int
    key: str
    receiver: str
    kind: str
    status: str
    reason: str
    incidents: list[str]
    attempts: int
    doubts: int
    created: dt.datetime | None
    next_attempt: dt.datetime | None
    finished: dt.datetime | None
    last_error: str


class Notifications(BaseModel):
    """A page of messages, the latest first."""

    notifications: list[Notification]
    next: str | None


class Redriven(BaseModel):
    """How many messages are tried again."""

    redriven: int
    ids: list[int]


class Receiver(BaseModel):
    """A receiver and how it is. Its addresses and secrets are never shown."""

    name: str
    type: str
    minimum_severity: str
    send_resolved: bool
    fallback: str
    healthy: bool
    failing_since: dt.datetime | None
    failures: int
    held_until: dt.datetime | None
    last_sent: dt.datetime | None
    last_error: str
    messages: dict[str, int]
    configured: Annotated[bool, Field(description="False: messages wait for it, and the routing file has it no more.")]


class Receivers(BaseModel):
    """Every receiver."""

    receivers: list[Receiver]


class Testing(BaseModel):
    """A test message is on its way."""

    receiver: str
    queued: bool


class Reloaded(BaseModel):
    """The routing file in force now."""

    origin: str
    digest: str
    warnings: list[str]


class WhoAmI(BaseModel):
    """Whose token it is, and what it may do."""

    name: str
    role: str
    permissions: list[str]
    deployments: Annotated[list[str] | None, Field(description="Patterns of what it sees; null for everything.")]


class HealthAnswer(BaseModel):
    """How the service is."""

    ok: bool
    ready: bool
    trouble: str
    troubles: list[str]


class Problem(BaseModel):
    """Problem details, RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    expected: str = ""
    came: str = ""
    do: str = ""
    errors: list[dict[str, str]] = []
