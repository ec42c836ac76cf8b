"""What a worker counts, for Prometheus: what became of predictions under humility rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from driftline.humility.rules import ACTIONS

Totals = Iterable[tuple[int, str, str, Mapping[str, int]]]
"""Partition, deployment, version, and rows by what happened to them (:data:`streams.humility.state.TOTALS`)."""

_PLACE = ("deployment", "version", "partition")


class HumilityCollector(Collector):
    """Totals of the partitions that a worker owns at this moment.

    They are part of the partitions' state: they go on where a partition moves to another worker, and no row is counted
    twice after a crash.

    Args:
        totals: Where they come from; asked with every scrape, by another thread than the one that counts.
    """

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The families of a scrape."""
        decisions = CounterMetricFamily(
            "driftline_humility_decisions", "Predictions by what became of them.", labels=(*_PLACE, "action")
        )
        of_publishers = {
            name: CounterMetricFamily(f"driftline_humility_{name}", text, labels=_PLACE)
            for name, text in (
                ("decided", "Predictions that came with a decision of their publisher."),
                ("stale", "Of these, decided by rules that were not in force any more."),
                ("disagreeing", "Of these, decided otherwise than the same rules say."),
            )
        }
        for partition, deployment, version, totals in self._totals():
            place = deployment, version, str(partition)
            for action in ACTIONS:
                decisions.add_metric((*place, action), totals[action])
            for name, family in of_publishers.items():
                family.add_metric(place, totals[name])
        yield decisions
        yield from of_publishers.values()


def serve_metrics(port: int, totals: Callable[[], Totals]) -> WSGIServer:
    """Answer ``/metrics`` on a port of this host, in a thread of its own; 0 for any free port.

    Raises:
        OSError: The port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(HumilityCollector(totals))
    server, _ = start_http_server(port, "127.0.0.1", registry)
    return server
