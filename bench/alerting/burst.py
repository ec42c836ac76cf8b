"""Ten thousand alerts in a minute: one message per incident, nothing shed, everything taken in while they come."""

from __future__ import annotations

import json
import re
import time
from collections import Counter

from bench.alerting.machine import Installation, alert, broker, name_of, wait_for
from bench.report import Figure, figure
from services.demo.receivers import PAGERDUTY, RecordingReceiver

_MINUTE = 60.0

POLICY = """\
version: 1
defaults: {group_wait: 10s, group_interval: 5m}
receivers:
  - {name: pagerduty, type: pagerduty, routing_key_env: KEY, rate_per_second: 1000, burst: 1000}
route: {notify: [pagerduty]}
"""


def measure(seed: int, quick: bool) -> list[Figure]:
    """Three shapes of the same storm: one deployment, one upstream cause, no common cause."""
    count = 1_000 if quick else 10_000
    figures: list[Figure] = []
    with broker() as (servers, folder):
        for name, what, incidents in (
            ("one deployment", _one_deployment, 1),
            ("one feature of a hundred deployments", _one_upstream, 1),
            ("as many deployments as alerts, nothing in common", _apart, count),
        ):
            with RecordingReceiver() as receiver:
                environment = {"KEY": "R" * 32, "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url}
                service = Installation(servers, folder / name.replace(" ", "-")[:20], POLICY, environment)
                service.start()
                try:
                    figures += _storm(service, receiver, what(count), name, incidents, 6.0 if quick else _MINUTE)
                finally:
                    service.end()
    return figures


def _storm(
    service: Installation,
    receiver: RecordingReceiver,
    alerts: list[dict[str, object]],
    name: str,
    incidents: int,
    seconds: float,
) -> list[Figure]:
    begin = time.monotonic()
    for start in range(0, len(alerts), len(alerts) // 100):
        service.publish(alerts[start : start + len(alerts) // 100])
        time.sleep(max(begin + seconds * start / len(alerts) - time.monotonic(), 0))
    told = time.monotonic()
    wait_for(lambda: service.count("select count(*) from alerts") >= len(alerts), 300)
    behind = time.monotonic() - told
    wait_for(lambda: len(receiver.accepted(PAGERDUTY)) >= incidents and not service.unfinished, 600)
    done = time.monotonic() - told
    sent = receiver.accepted(PAGERDUTY)
    first = Counter(str(request.body["dedup_key"]) for request in sent)
    note = f"{len(alerts):,} alerts in {seconds:.0f} s"
    pages = len(first)
    figures = [
        figure(f"{name}: incidents at the pager", pages, "", at_most=incidents, note=note),
        figure(f"{name}: share of the incidents that arrived", pages / incidents, "", at_least=1.0, note=note),
        figure(f"{name}: the last alert is taken in after", behind, "s", note=note),
        figure(f"{name}: the last message is out after", done, "s", note=f"{note}; group wait 10 s"),
        figure(f"{name}: messages per incident", len(sent) / max(pages, 1), "", note="later ones update the first"),
    ]
    if incidents > 1:
        named = Counter(re.findall(r"bench-\d{5}-x", " ".join(json.dumps(request.body) for request in sent)))
        missing = sum(1 for number in range(incidents) if name_of(number) not in named)
        figures.append(figure(f"{name}: deployments that no message names", missing, "", at_most=0, note=note))
    return figures


def _one_deployment(count: int) -> list[dict[str, object]]:
    return [alert(n, deployment_id="bench-one") for n in range(count)]


def _one_upstream(count: int) -> list[dict[str, object]]:
    return [alert(n, deployment_id=f"bench-shared-{n % 100:03d}") for n in range(count)]


def _apart(count: int) -> list[dict[str, object]]:
    alerts = []
    for n in range(count):
        record = alert(n)
        record["causes"] = [{**cause, "stream": f"{cause['stream']}_{n}"} for cause in record["causes"]]
        alerts.append(record)
    return alerts
