"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from services.alerting.channels.base import Again, Outcome, Sent

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 86400)


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._alerts = Counter(
            "driftline_alerting_alerts", "Alert records taken in, by what they did.", ["result"], registry=r
        )
        self._attempts = Counter(
            "driftline_alerting_attempts",
            "Attempts to send a message, by what came of them.",
            ["destination", "kind", "result"],
            registry=r,
        )
        self._in_doubt = Counter(
            "driftline_alerting_in_doubt",
            "Messages that a killed process may have sent, and that were sent again.",
            registry=r,
        )
        self._delivery = Histogram(
            "driftline_alerting_delivery_seconds",
            "From the decision to tell a destination until it has accepted the message.",
            ["destination"],
            buckets=_SECONDS,
            registry=r,
        )
        self._messages = Gauge(
            "driftline_alerting_messages", "Messages by state.", ["destination", "status"], registry=r
        )
        self._firing = Gauge("driftline_alerting_incidents_firing", "Incidents that are open.", registry=r)
        self._unpublished = Gauge(
            "driftline_alerting_unpublished", "Audit events and dead letters not yet known to be on Kafka.", registry=r
        )
        self._lag = Gauge("driftline_alerting_lag", "Messages of the alerts topic not yet taken in.", registry=r)

    def alerts(self, results: Mapping[str, int]) -> None:
        """Count alert records by what they did."""
        for result, count in results.items():
            self._alerts.labels(result).inc(count)

    def attempt(self, destination: str, kind: str, outcome: Outcome) -> None:
        """Count an attempt."""
        result = "sent" if isinstance(outcome, Sent) else "again" if isinstance(outcome, Again) else "failed"
        self._attempts.labels(destination, kind, result).inc()

    def delivered(self, destination: str, seconds: float) -> None:
        """Count a delivery's time."""
        self._delivery.labels(destination).observe(max(seconds, 0.0))

    def in_doubt(self, count: int) -> None:
        """Count messages in doubt."""
        self._in_doubt.inc(count)

    def lag(self, messages: int) -> None:
        """Set how far behind the topic's end the service is."""
        self._lag.set(messages)

    def state(self, backlog: Mapping[tuple[str, str], int], firing: int, unpublished: int) -> None:
        """Set what the database holds now."""
        self._messages.clear()
        for (destination, status), count in backlog.items():
            self._messages.labels(destination, status).set(count)
        self._firing.set(firing)
        self._unpublished.set(unpublished)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
