"""What the HTTP interface needs of the service that it is the interface of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from driftline.topics import Topics
from services.access.tokens import Tokens
from services.alerting.database.opening import Database
from services.alerting.incidents.actions import Actor, Desk
from services.alerting.metrics import Metrics
from services.alerting.policy.model import PolicyHolder


@dataclass(frozen=True, slots=True)
class Health:
    """How the service is.

    Attributes:
        ready: Whether alerts are being read and messages sent; before that, callers wait.
        troubles: What is wrong, one sentence each, without secrets; empty when all is well.
    """

    ready: bool
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may ask for.

    Attributes:
        per_second: Requests of one token in the long run, and ``burst`` at once.
        address_per_second: Requests of one address, whoever asks; ``address_burst`` at once.
        denials_per_minute: Wrong tokens of one address; ``denials_burst`` at once. Right ones are let through all the
            same, so nobody can lock others out from behind the same proxy.
        body_bytes: Of a request; ``hook_bytes`` of one from Slack or PagerDuty.
        depth: Of JSON.
        body_seconds: For the whole body to arrive.
        quiet_seconds: A connection without a request for so long is closed.
    """

    per_second: float = 20.0
    burst: int = 100
    address_per_second: float = 50.0
    address_burst: int = 250
    denials_per_minute: float = 10.0
    denials_burst: int = 10
    body_bytes: int = 64 << 10
    hook_bytes: int = 512 << 10
    depth: int = 16
    body_seconds: float = 10.0
    quiet_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ApiServices:
    """The parts of the running service that requests reach.

    Attributes:
        database: Of the service; read in threads of their own, never on the event loop.
        policy: In force.
        desk: Where actions are done.
        topics: For the audit events of refusals.
        now_ms: The service's clock.
        metrics: What ``/metrics`` shows.
        tokens: Who may ask.
        health: How the service is now. Called on the event loop: no I/O.
        reload: Load the routing file anew, for whom; returns why it was refused, or the empty text. Called in a thread.
        acted: Something was written that somebody must send or publish. Called in any thread.
        plot_key: Signs the addresses of pictures; of 32 random bytes that outlive the process.
        slack_interaction: Does what somebody pressed in Slack: receiver's name and decoded payload; returns the JSON to
            answer with, or None for an empty answer. Its signature is checked before.
        limits: What one caller may ask for.
        wall: The wall clock, by which signatures and tokens expire; the service's may run faster.
    """

    database: Database
    policy: PolicyHolder
    desk: Desk
    topics: Topics
    now_ms: Callable[[], int]
    metrics: Metrics
    tokens: Tokens
    health: Callable[[], Health]
    reload: Callable[[Actor], str]
    acted: Callable[[], None]
    plot_key: bytes = field(repr=False)
    slack_interaction: Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]] | None = None
    limits: Limits = Limits()
    wall: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
