"""What the service counts, for Prometheus.

Labels are bounded: names that come from the routing file are taken up to :data:`_MOST` of a kind, further ones are
counted together as ``(other)``; nothing that comes from an event is ever a label.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from services.alerting.channels.base import Again, Outcome, Sent

OTHER = "(other)"
_MOST = 200
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 86400)
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)


@dataclass(frozen=True, slots=True)
class State:
    """What the database holds at one moment.

    Attributes:
        messages: Rows of the outbox, by (receiver, status).
        oldest_seconds: Age of the oldest message that is not yet sent, by receiver.
        incidents: By (state, severity); ``silenced`` is not a state here but a status that muting makes.
        firing: Signals that fire, by origin: ``alerts`` or ``watch``.
        threads: By status.
        silences: In force now.
        escalations: Chains that have a step to come.
        unpublished: Audit events and dead letters not yet known to be on Kafka.
        failing_seconds: By receiver; 0 where it does not fail.
        held_seconds: How much longer a receiver that asked for patience is left alone.
        system: Alarms of the monitor of the monitor that fire, by monitor.
    """

    messages: Mapping[tuple[str, str], int] = field(default_factory=dict)
    oldest_seconds: Mapping[str, float] = field(default_factory=dict)
    incidents: Mapping[tuple[str, str], int] = field(default_factory=dict)
    firing: Mapping[str, int] = field(default_factory=dict)
    threads: Mapping[str, int] = field(default_factory=dict)
    silences: int = 0
    escalations: int = 0
    unpublished: int = 0
    failing_seconds: Mapping[str, float] = field(default_factory=dict)
    held_seconds: Mapping[str, float] = field(default_factory=dict)
    system: Mapping[str, int] = field(default_factory=dict)


class _Names:
    """Values of one label: the first so many, and ``(other)`` for the rest. Thread-safe."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        with self._lock:
            if len(self._known) < _MOST:
                self._known.add(value)
            return value if value in self._known else OTHER


class Metrics:
    """The service's metrics, in a registry of their own. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._receivers = _Names()
        self._chains = _Names()
        self._monitors = _Names()
        self._endpoints = _Names()
        # A scrape sets the gauges anew and prints them; another at the same time would find them half set.
        self._state_lock = threading.Lock()
        self._make_counters()
        self._make_gauges()

    def _make_counters(self) -> None:
        r = self.registry
        self._alerts = Counter(
            "driftline_alerting_alerts", "Alert records taken in, by what they did.", ["result"], registry=r
        )
        self._decided = Counter(
            "driftline_alerting_decided", "Messages decided on, by what they are for.", ["receiver", "kind"], registry=r
        )
        self._merged = Counter(
            "driftline_alerting_merged", "Messages that a later one made superfluous.", ["receiver"], registry=r
        )
        self._attempts = Counter(
            "driftline_alerting_attempts",
            "Attempts to send a message, by what came of them.",
            ["receiver", "kind", "result"],
            registry=r,
        )
        self._in_doubt = Counter(
            "driftline_alerting_in_doubt",
            "Messages that an earlier attempt may have sent, by what became of them.",
            ["receiver", "result"],
            registry=r,
        )
        self._delivery = Histogram(
            "driftline_alerting_delivery_seconds",
            "From the decision to tell a receiver until it has accepted the message.",
            ["receiver"],
            buckets=_SECONDS,
            registry=r,
        )
        self._escalated = Counter(
            "driftline_alerting_escalations", "Steps of escalations that were taken.", ["chain"], registry=r
        )
        self._actions = Counter(
            "driftline_alerting_actions",
            "What people did to incidents and silences, by the way they came.",
            ["action", "via", "result"],
            registry=r,
        )
        self._reloads = Counter(
            "driftline_alerting_reloads", "Times the routing file was loaded anew.", ["result"], registry=r
        )
        self._rebuilt = Counter(
            "driftline_alerting_rebuilt", "Audit events that an empty database was built from.", ["result"], registry=r
        )
        self._dead_man = Counter(
            "driftline_alerting_dead_man", "Signs of life to the address outside.", ["result"], registry=r
        )
        self._requests = Histogram(
            "driftline_alerting_http_request_seconds",
            "Requests of the HTTP interface, by endpoint and status.",
            ["method", "endpoint", "status"],
            buckets=_REQUEST_SECONDS,
            registry=r,
        )
        self._denied = Counter(
            "driftline_alerting_http_denied", "Requests refused before they did anything.", ["reason"], registry=r
        )

    def _make_gauges(self) -> None:
        r = self.registry
        self._messages = Gauge("driftline_alerting_messages", "Messages by status.", ["receiver", "status"], registry=r)
        self._oldest = Gauge(
            "driftline_alerting_oldest_message_seconds", "Age of the oldest unsent message.", ["receiver"], registry=r
        )
        self._incidents = Gauge(
            "driftline_alerting_incidents", "Incidents by status and severity.", ["status", "severity"], registry=r
        )
        self._firing = Gauge("driftline_alerting_signals_firing", "Signals that fire.", ["origin"], registry=r)
        self._threads = Gauge("driftline_alerting_threads", "Threads by status.", ["status"], registry=r)
        self._silences = Gauge("driftline_alerting_silences", "Silences in force.", registry=r)
        self._escalating = Gauge("driftline_alerting_escalating", "Escalations with a step to come.", registry=r)
        self._unpublished = Gauge(
            "driftline_alerting_unpublished", "Audit events and dead letters not yet known to be on Kafka.", registry=r
        )
        self._failing = Gauge(
            "driftline_alerting_receiver_failing_seconds",
            "How long a receiver has failed; 0 where it does not.",
            ["receiver"],
            registry=r,
        )
        self._held = Gauge(
            "driftline_alerting_receiver_held_seconds",
            "How much longer a receiver that asked for patience is left alone.",
            ["receiver"],
            registry=r,
        )
        self._system = Gauge(
            "driftline_alerting_system_alarms", "Alarms that the service raised of itself.", ["monitor"], registry=r
        )
        self._lag = Gauge("driftline_alerting_lag", "Messages of the alerts topic not yet taken in.", registry=r)
        self._policy_time = Gauge(
            "driftline_alerting_policy_loaded_timestamp_seconds",
            "When the routing file in force was loaded, wall clock.",
            registry=r,
        )
        self._policy_good = Gauge(
            "driftline_alerting_policy_good", "1 unless the last reload of the routing file was refused.", registry=r
        )
        self._policy_good.set(1)
        self._policy_time.set(time.time())
        self._started = Gauge(
            "driftline_alerting_start_timestamp_seconds", "When this process began, wall clock.", registry=r
        )
        self._started.set(time.time())

    def alerts(self, results: Mapping[str, int]) -> None:
        """Count alert records by what they did."""
        for result, count in results.items():
            self._alerts.labels(result).inc(count)

    def decided(self, receiver: str, kind: str, count: int = 1) -> None:
        """Count messages that were decided on."""
        self._decided.labels(self._receivers(receiver), kind).inc(count)

    def merged(self, receiver: str, count: int = 1) -> None:
        """Count messages that went into a later one."""
        self._merged.labels(self._receivers(receiver)).inc(count)

    def attempt(self, receiver: str, kind: str, outcome: Outcome) -> None:
        """Count an attempt."""
        result = "sent" if isinstance(outcome, Sent) else "again" if isinstance(outcome, Again) else "failed"
        self._attempts.labels(self._receivers(receiver), kind, result).inc()

    def in_doubt(self, receiver: str, result: str, count: int = 1) -> None:
        """Count messages in doubt, by a short word for what became of them: found, repeated, possible_duplicate …"""
        self._in_doubt.labels(self._receivers(receiver), result).inc(count)

    def delivered(self, receiver: str, seconds: float) -> None:
        """Count a delivery's time."""
        self._delivery.labels(self._receivers(receiver)).observe(max(seconds, 0.0))

    def escalated(self, chain: str, count: int = 1) -> None:
        """Count steps of an escalation."""
        self._escalated.labels(self._chains(chain)).inc(count)

    def action(self, action: str, via: str, result: str) -> None:
        """Count what somebody did: ``result`` is done or refused."""
        self._actions.labels(action, via, result).inc()

    def reloaded(self, *, good: bool) -> None:
        """Count a reload of the routing file."""
        self._reloads.labels("loaded" if good else "refused").inc()
        self._policy_good.set(int(good))
        if good:
            self._policy_time.set(time.time())

    def rebuilt(self, *, used: int, malformed: int) -> None:
        """Count audit events that the database was built from, and messages that were none."""
        self._rebuilt.labels("used").inc(used)
        self._rebuilt.labels("malformed").inc(malformed)

    def dead_man(self, *, good: bool) -> None:
        """Count a sign of life to the address outside."""
        self._dead_man.labels("answered" if good else "failed").inc()

    def request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count a request. ``endpoint`` is the path of the table, never that of the request."""
        self._requests.labels(method, self._endpoints(endpoint), str(status)).observe(seconds)

    def denied(self, reason: str) -> None:
        """Count a request that was refused: token, permission, signature, rate, size …"""
        self._denied.labels(reason).inc()

    def lag(self, messages: int) -> None:
        """Set how far behind the topic's end the service is."""
        self._lag.set(messages)

    def _set_state(self, state: State) -> None:
        """Set what the database holds now; what is there no more is not shown any more."""
        for gauge in (self._messages, self._oldest, self._incidents, self._firing, self._threads, self._system):
            gauge.clear()
        for gauge in (self._failing, self._held):
            gauge.clear()
        for (receiver, status), count in state.messages.items():
            self._messages.labels(self._receivers(receiver), status).inc(count)
        for receiver, seconds in state.oldest_seconds.items():
            self._oldest.labels(self._receivers(receiver)).set(seconds)
        for (status, severity), count in state.incidents.items():
            self._incidents.labels(status, severity).set(count)
        for origin in ("alerts", "watch"):
            self._firing.labels(origin).set(state.firing.get(origin, 0))
        for status, count in state.threads.items():
            self._threads.labels(status).set(count)
        for monitor, count in state.system.items():
            self._system.labels(self._monitors(monitor)).inc(count)
        for receiver, seconds in state.failing_seconds.items():
            self._failing.labels(self._receivers(receiver)).set(seconds)
        for receiver, seconds in state.held_seconds.items():
            self._held.labels(self._receivers(receiver)).set(seconds)
        self._silences.set(state.silences)
        self._escalating.set(state.escalations)
        self._unpublished.set(state.unpublished)

    def text(self, state: State | None = None) -> bytes:
        """Prometheus' text format; with ``state``, of what the database holds now too."""
        with self._state_lock:
            if state is not None:
                self._set_state(state)
            return generate_latest(self.registry)
