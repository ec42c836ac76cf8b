"""A thousand deployments on one worker: its memory, its state, and how soon it is back after a kill.

    python -m bench.fleet [--deployments 1000]

Every deployment publishes a few batches over some hours of event time, so that each has evidence, a history and open
windows. Then the worker is killed, and a new one reads its state again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from bench.cluster import Cluster, Positions, WorkerProcess, cluster
from bench.report import Figure, figure, write
from bench.traffic import START_US, Traffic
from driftline.events import PredictionColumns
from services.kafka import latest_by_key

BOUND_BYTES = 1 << 30
NUMERIC, CATEGORICAL = 40, 10
BATCHES, BATCH_ROWS, BATCH_HOURS = 4, 100, 3
SESSION_SECONDS = 11
"""Until then the group waits for the worker that was killed; what is measured is how long the state takes."""

HOUR_US = 3_600_000_000
DEADLINE_SECONDS = 600


def batches(traffic: Traffic, names: list[str], numbers: range) -> Iterator[tuple[PredictionColumns, int]]:
    step_us = BATCH_HOURS * HOUR_US // BATCH_ROWS
    for number in numbers:
        for name in names:
            yield traffic.batch(name, BATCH_ROWS, START_US + number * BATCH_HOURS * HOUR_US, step_us), -1


def wait_for(positions: Positions, worker: WorkerProcess, messages: int) -> float:
    """Seconds until so many messages are applied and committed."""
    begin = time.monotonic()
    while (done := positions.read()) < messages:
        worker.require_alive()
        if time.monotonic() - begin > DEADLINE_SECONDS:
            raise RuntimeError(f"{done} of {messages} messages after {DEADLINE_SECONDS} s")
        time.sleep(0.1)
    return time.monotonic() - begin


def measure(count: int) -> list[Figure]:
    traffic = Traffic(NUMERIC, CATEGORICAL)
    names = [f"deployment-{number:04}" for number in range(count)]
    with cluster("fleet") as running:
        running.publish_deployments(traffic.deployments(names, BATCH_HOURS * HOUR_US // BATCH_ROWS))
        positions = Positions(running)
        running.fill(batches(traffic, names, range(BATCHES)))
        with WorkerProcess(running) as worker:
            first_seconds = wait_for(positions, worker, count * BATCHES)
            peak = worker.memory_bytes()
            worker.kill()
        state = state_bytes(running)
        running.fill(batches(traffic, names, range(BATCHES, BATCHES + 1)))
        time.sleep(SESSION_SECONDS)
        with WorkerProcess(running) as worker:
            back_seconds = wait_for(positions, worker, count * BATCHES + 1)
            wait_for(positions, worker, count * (BATCHES + 1))
            peak_after = worker.memory_bytes()
            resident = worker.memory_bytes("VmRSS")
        positions.close()
    features = NUMERIC + CATEGORICAL
    note = f"{count:,} deployments, {features} features, all active"
    return [
        figure("peak memory", peak / 2**20, "MiB", at_most=BOUND_BYTES / 2**20, note=note),
        figure(
            "peak memory after a kill and restart", peak_after / 2**20, "MiB", at_most=BOUND_BYTES / 2**20, note=note
        ),
        figure("memory in use after it", resident / 2**20, "MiB"),
        figure("first start to everything applied", first_seconds, "s", note=f"{BATCHES} batches each"),
        figure("start with the state of all deployments to the next commit", back_seconds, "s", note="after a kill"),
        figure("state of a deployment", state / count / 1024, "KiB", note="live records on streams-state"),
    ]


def state_bytes(running: Cluster) -> int:
    """Bytes of the live state records."""
    live = latest_by_key(running.settings, running.settings.topics.streams_state)
    return sum(len(message.value() or b"") for message in live.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deployments", type=int, default=1000)
    write("fleet", measure(parser.parse_args().deployments))


if __name__ == "__main__":
    main()
