"""How long after an event is on its topic the alert it raises is on the alerts topic, for all to see.

    python -m bench.latency

Deployments publish at a steady rate, as they happen; then one after another shifts. The clock starts at the log's time
stamp of the message that raised the alarm and stops when a reader of committed messages is given the alert.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from bench.cluster import Cluster, WorkerProcess, cluster
from bench.report import Figure, figure, write
from bench.traffic import Traffic
from driftline.codec import decode, encode
from driftline.topics import record_key
from services.kafka import consumer, topic_partitions

BOUND_SECONDS = 2.0
LEAST_ALERTS = 60
DEPLOYMENTS = 40
BATCH_ROWS, BATCH_SECONDS = 100, 0.5
QUIET_SECONDS, SHIFT_EVERY_SECONDS, AFTER_SECONDS = 12.0, 0.5, 6.0
SHIFT = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An alert: when its cause was written, when it was, when a reader was given it; milliseconds since 1970."""

    trigger_ms: int
    log_ms: int
    visible_ms: float


class AlertReader(threading.Thread):
    """Reads committed alerts as they come."""

    def __init__(self, cluster_: Cluster) -> None:
        super().__init__(daemon=True)
        self._settings = cluster_.settings
        self._stop_asked = threading.Event()
        self.seen: list[Seen] = []

    def run(self) -> None:
        topic = self._settings.topics.alerts
        reader = consumer(self._settings, enable_partition_eof=False)
        partitions = topic_partitions(self._settings, topic)
        reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        while not self._stop_asked.is_set():
            message = reader.poll(0.1)
            if message is None:
                continue
            now_ms = time.time() * 1000
            alert = decode(message.value())[1]
            if alert["status"] == "firing":
                self.seen.append(Seen(alert["trigger_time_ms"], message.timestamp()[1], now_ms))
        reader.close()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def publish_as_it_happens(cluster_: Cluster, traffic: Traffic, names: list[str], worker: WorkerProcess) -> float:
    """Publish every deployment's batches at their times; returns the rows per second that were reached."""
    producer, topic = cluster_.producer(), cluster_.settings.topics.predictions
    between = BATCH_SECONDS / len(names)
    begin = time.monotonic()
    seconds = QUIET_SECONDS + SHIFT_EVERY_SECONDS * len(names) + AFTER_SECONDS
    sent = 0
    while (due := sent * between) < seconds:
        time.sleep(max(0.0, begin + due - time.monotonic()))
        number = sent % len(names)
        shifted = due > QUIET_SECONDS + SHIFT_EVERY_SECONDS * number
        start_us = int((time.time() - BATCH_SECONDS) * 1e6)
        step_us = int(BATCH_SECONDS * 1e6 / BATCH_ROWS)
        columns = traffic.batch(names[number], BATCH_ROWS, start_us, step_us, SHIFT if shifted else 0.0)
        producer.produce(topic, key=record_key(names[number]), value=encode("PredictionBatch", columns.to_record()))
        producer.poll(0)
        sent += 1
        if number == 0:
            worker.require_alive()
    producer.flush(30)
    return sent * BATCH_ROWS / (time.monotonic() - begin)


def measure() -> list[Figure]:
    traffic = Traffic(16, 4)
    names = [f"deployment-{number}" for number in range(DEPLOYMENTS)]
    with cluster("latency") as running:
        running.publish_deployments(traffic.deployments(names, int(BATCH_SECONDS * 1e6 / BATCH_ROWS)))
        reader = AlertReader(running)
        reader.start()
        with WorkerProcess(running) as worker:
            rate = publish_as_it_happens(running, traffic, names, worker)
            time.sleep(2)
        reader.stop()
    visible = np.array([alert.visible_ms - alert.trigger_ms for alert in reader.seen]) / 1000
    logged = np.array([alert.log_ms - alert.trigger_ms for alert in reader.seen]) / 1000
    if not visible.size:
        raise RuntimeError("no alert came")
    note = f"{DEPLOYMENTS} deployments, 16+4 features, {rate:,.0f} rows/s"
    return [
        figure("alerts", len(visible), "alerts", at_least=LEAST_ALERTS, note=f"shift of {SHIFT:g} sd, one by one"),
        figure("event to visible alert, p50", float(np.quantile(visible, 0.5)), "s", note=note),
        figure("event to visible alert, p99", float(np.quantile(visible, 0.99)), "s", at_most=BOUND_SECONDS, note=note),
        figure("event to visible alert, longest", float(visible.max()), "s"),
        figure("event to alert in the log, p50", float(np.quantile(logged, 0.5)), "s", note="log time stamps only"),
        figure("event to alert in the log, p99", float(np.quantile(logged, 0.99)), "s", note="log time stamps only"),
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    write("latency", measure())


if __name__ == "__main__":
    main()
