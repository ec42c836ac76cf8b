"""How long an alert takes from the topic to the people: record on ``alerts`` to request at the receiver.

    python -m bench.alerting [--alerts 300] [--bootstrap-servers HOST:PORT]

Starts a broker (unless one is named), the service as a process of its own and local receivers, and publishes alerts at
random moments. Prints a table and writes build/bench/alerting.json. Exits with status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from bench.report import broken, figure, write
from driftline.codec import encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.broker.embedded import EmbeddedBroker
from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK, RecordingReceiver
from services.topics import ensure_topics

BOUND_SECONDS = 1.0


def alert(number: int) -> dict[str, Any]:
    """A firing alert with four causes."""
    effects = dict.fromkeys(("psi", "jensen_shannon", "total_variation", "hellinger", "kl"), 0.3)
    cause = {
        "stream": "income",
        "role": "feature",
        "evidence_share": 0.25,
        "log_evidence_nats": 20.0,
        "change_time_us": 1_700_000_000_000_000,
        "rows": 5000,
        "effects": effects,
        "tv_low": 0.25,
        "tv_high": 0.35,
        "bins": [f"{i} – {i + 1}" for i in range(15)],
        "expected": [1 / 15] * 15,
        "observed": [200] * 14 + [2200],
    }
    return {
        "id": str(uuid.uuid4()),
        "incident_key": f"bench-{number}",
        "deployment_id": "bench",
        "model_id": "model",
        "model_version": "1",
        "monitor": "data_drift",
        "severity": "error",
        "status": "firing",
        "episode": number,
        "change_time_us": 1_700_000_000_000_000,
        "detection_time_us": 1_700_003_600_000_000,
        "trigger_time_ms": time.time_ns() // 1_000_000,
        "log_evidence_nats": 21.0,
        "threshold_nats": 17.0,
        "rows_since_change": 5000,
        "causes": [{**cause, "stream": name} for name in ("income", "age", "region", "balance")],
        "evidence_offsets": [],
        "baseline_digest": "0" * 64,
        "spec_revision": 1,
        "runbook_url": "https://wiki.example.org/drift",
    }


def measure(bootstrap_servers: str, alerts: int, mean_pause_seconds: float, folder: Path) -> dict[str, list[float]]:
    """Seconds from just before the record is produced until each receiver has the request, by destination."""
    settings = KafkaSettings(bootstrap_servers, Topics(f"bench-{uuid.uuid4().hex[:8]}."))
    ensure_topics(settings, partitions=1)
    chance = random.Random(7)
    with RecordingReceiver() as receiver:
        config = folder / "destinations.yaml"
        # The vendors' own paces would be measured otherwise: one message a second for Slack.
        config.write_text(
            "destinations:\n"
            "  - {name: pagerduty, type: pagerduty, rate_per_second: 1000, burst: 1000}\n"
            "  - {name: slack, type: slack, rate_per_second: 1000, burst: 1000}\n"
        )
        environment = os.environ | {
            "DRIFTLINE_BOOTSTRAP_SERVERS": bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": settings.topics.prefix,
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{folder / 'alerting.db'}",
            "DRIFTLINE_ALERTING_CONFIG": str(config),
            "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY": "R" * 32,
            "DRIFTLINE_SLACK_WEBHOOK_URL": receiver.slack_webhook_url,
        }
        with (folder / "alerting.log").open("w") as log:
            command = [sys.executable, "-m", "services.cli.main", "alerting", "--json"]
            service = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert service.stdout is not None
            service.stdout.readline()  # the first line of the document that says it is ready
            producer = Producer(settings.client(linger_ms=0))
            published: list[float] = []
            for number in range(alerts):
                record = alert(number)
                published.append(time.monotonic())
                producer.produce(settings.topics.alerts, encode("Alert", record), b"bench")
                producer.flush()
                time.sleep(chance.expovariate(1 / mean_pause_seconds))
            receiver.wait_for(2 * alerts, timeout_seconds=60)
            return {
                service_name: _delays(receiver, service_name, published) for service_name in (PAGERDUTY, SLACK_WEBHOOK)
            }
        finally:
            service.terminate()
            service.wait(60)


def _delays(receiver: RecordingReceiver, service: str, published: list[float]) -> list[float]:
    arrived = [request.monotonic_seconds for request in receiver.accepted(service)]
    if len(arrived) != len(published):
        raise SystemExit(f"{service}: {len(published)} alerts were published, {len(arrived)} messages came")
    # One destination sends in the order of the topic, so the n-th message is that of the n-th alert.
    return [at - since for at, since in zip(arrived, published, strict=True)]


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", help="a broker that is there already")
    parser.add_argument("--alerts", type=int, default=300)
    parser.add_argument("--mean-pause-seconds", type=float, default=0.05)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = arguments.bootstrap_servers
        if servers is None:
            servers = stack.enter_context(EmbeddedBroker(folder / "broker")).bootstrap_servers
        delays = measure(servers, arguments.alerts, arguments.mean_pause_seconds, folder)
    pause = f"one every {arguments.mean_pause_seconds:g} s on average"
    note = f"{arguments.alerts} alerts, {pause}; vendors' pace limits lifted"
    figures = []
    for name, seconds in delays.items():
        p50, p99 = (float(q) for q in np.quantile(seconds, [0.5, 0.99]))
        figures.append(figure(f"alert on topic to request at {name}, p50", p50, "s", note=note))
        figures.append(figure(f"alert on topic to request at {name}, p99", p99, "s", at_most=BOUND_SECONDS, note=note))
    write("alerting", figures)
    sys.exit(1 if broken(figures) else 0)


if __name__ == "__main__":
    main()
