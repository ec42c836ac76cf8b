"""What a worker tells Prometheus."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest

from services.worker_metrics import HumilityCollector, Totals, serve_metrics
from streams.humility.state import TOTALS

SOME = dict(zip(TOTALS, (70, 3, 2, 60, 5, 4, 31), strict=True))


def text(totals: Totals) -> str:
    registry = CollectorRegistry()
    registry.register(HumilityCollector(lambda: totals))
    return generate_latest(registry).decode()


def test_decisions_are_told_by_action_and_strays_of_publishers_apart() -> None:
    found = text([(0, "storm", "1", SOME), (3, "storm", "2", dict.fromkeys(TOTALS, 0))])
    place = 'deployment="storm",partition="0",version="1"'
    for action, rows in (("answered", 60), ("overridden", 5), ("refused", 4), ("routed", 31)):
        line = f'driftline_humility_decisions_total{{action="{action}",{place}}} {rows}.0'
        assert line in found
    for name, rows in (("decided", 70), ("stale", 3), ("disagreeing", 2)):
        assert f"driftline_humility_{name}_total{{{place}}} {rows}.0" in found
    assert len(re.findall(r"^driftline_humility_decisions_total\{", found, re.MULTILINE)) == 8


def test_a_worker_without_rules_tells_of_none() -> None:
    assert not re.findall(r"^driftline", text([]), re.MULTILINE)


def test_hostile_names_stay_in_their_labels() -> None:
    found = text([(0, 'a"} 1\ndriftline_humility_stale_total 9', "1", SOME)])
    assert "\ndriftline_humility_stale_total 9" not in found


@contextmanager
def served(totals: list[tuple[int, str, str, dict[str, int]]]) -> Iterator[int]:
    server = serve_metrics(0, lambda: totals)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_a_scrape_is_answered_with_what_is_so_at_that_moment() -> None:
    totals = [(0, "storm", "1", dict(SOME))]
    with served(totals) as port:
        for stale in (3, 4):
            totals[0][3]["stale"] = stale
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                assert f'version="1"}} {stale}.0' in answer.read().decode()
