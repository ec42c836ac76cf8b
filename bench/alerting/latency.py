"""How long an alert takes to people: from just before the record is produced to the request at the receiver."""

from __future__ import annotations

import random
import time

import numpy as np

from bench.alerting.machine import Installation, alert, broker
from bench.report import Figure, figure
from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK, RecordingReceiver

BOUND_SECONDS = 1.0
_MEAN_PAUSE_SECONDS = 0.05

# The vendors' own paces would be measured otherwise: one message a second for Slack.
POLICY = """\
version: 1
defaults: {group_wait: 0s}
correlation: {across: none}
receivers:
  - {name: pagerduty, type: pagerduty, routing_key_env: KEY, rate_per_second: 1000, burst: 1000}
  - {name: slack, type: slack, webhook_url_env: HOOK, rate_per_second: 1000, burst: 1000}
route: {notify: [pagerduty, slack]}
"""


def measure(seed: int, quick: bool) -> list[Figure]:
    """Alerts at random moments, one incident each."""
    count = 100 if quick else 400
    chance = random.Random(seed)
    published: list[float] = []
    with broker() as (servers, folder), RecordingReceiver() as receiver:
        environment = {
            "KEY": "R" * 32,
            "HOOK": receiver.slack_webhook_url,
            "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
        }
        service = Installation(servers, folder / "latency", POLICY, environment)
        service.start()
        try:
            for number in range(count):
                record = alert(number)
                published.append(time.monotonic())
                service.publish([record])
                time.sleep(chance.expovariate(1 / _MEAN_PAUSE_SECONDS))
            receiver.wait_for(2 * count, timeout_seconds=60)
        finally:
            service.end()
        note = f"{count} incidents, one every {_MEAN_PAUSE_SECONDS:g} s on average; no grouping wait, no vendor's pace"
        figures = []
        for name in (PAGERDUTY, SLACK_WEBHOOK):
            arrived = [request.monotonic_seconds for request in receiver.accepted(name)]
            if len(arrived) != count:
                raise SystemExit(f"{name}: {count} alerts were published, {len(arrived)} messages came")
            # One receiver is sent to in the order of the topic, so the n-th message is that of the n-th alert.
            delays = [at - since for at, since in zip(arrived, published, strict=True)]
            p50, p99 = (float(q) for q in np.quantile(delays, [0.5, 0.99]))
            figures.append(figure(f"alert on the topic to request at {name}, p50", p50, "s", note=note))
            figures.append(
                figure(f"alert on the topic to request at {name}, p99", p99, "s", at_most=BOUND_SECONDS, note=note)
            )
    return figures
