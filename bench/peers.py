"""The peers on the same rows: Evidently and whylogs in an environment of their own, and a consumer that only decodes.

Evidently's drift preset and whylogs' profiles keep no state, commit nothing and raise no alarm: they are given rows
that lie in memory already, as DataFrames of the sizes below, and the best size counts.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from bench.cluster import PARTITIONS, Cluster
from bench.report import Figure, figure
from bench.traffic import Traffic
from driftline.codec import decode
from driftline.events import PredictionColumns
from services.kafka import consumer

PYTHON = Path(".venv-peers/bin/python")
REFERENCE_ROWS = 20_000
SIZES = (500, 50_000)
NAMES = ("whylogs", "evidently")


def plain_consumer(cluster: Cluster, rows_wanted: int) -> list[Figure]:
    """What fetching and decoding alone allow on this machine, with confluent-kafka's consumer."""
    topic = cluster.settings.topics.predictions
    # by default librdkafka pauses for a second when it is ahead
    reader = consumer(cluster.settings, enable_partition_eof=False, fetch_queue_backoff_ms=2)
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    messages = reader.consume(1, timeout=30)
    rows, begin, cpu = 0, time.monotonic(), time.process_time()
    while rows < rows_wanted:
        for message in messages:
            rows += PredictionColumns.from_record(decode(message.value())[1]).rows
        messages = reader.consume(50, timeout=1)
    seconds, cpu_seconds = time.monotonic() - begin, time.process_time() - cpu
    reader.close()
    note = "confluent-kafka: no state, no statistics, no commits"
    return [
        figure("plain consumer that decodes", rows / seconds, "rows/s", note=note),
        figure("plain consumer, rows per CPU second", rows / cpu_seconds, "rows/s", note=note),
    ]


def measure(traffic: Traffic, rows_per_second: float, rows_per_cpu_second: float) -> list[Figure]:
    """Rows per second of the peers, and how often the worker's rates contain theirs."""
    if not PYTHON.exists():
        return [figure("peers", 0, "", note=f"not measured: {PYTHON} is missing, 'make bench' installs it")]
    figures = []
    with tempfile.TemporaryDirectory(prefix="driftline-bench-peers-") as directory:
        rows = Path(directory) / "rows.npz"
        _write_rows(traffic, rows)
        for name in NAMES:
            found = _run(name, rows)
            if isinstance(found, str):
                figures.append(figure(name, 0, "", note=f"not measured: {found}"))
                continue
            version = found.pop("version")
            best = max(found, key=lambda size: found[size]["rows_per_second"])
            for size, speed in found.items():
                note = f"{name} {version}, DataFrames of {int(size):,} rows"
                figures.append(figure(name, speed["rows_per_second"], "rows/s", note=note))
            figures += [
                figure(
                    f"worker / {name}", rows_per_second / found[best]["rows_per_second"], "times", note="wall clock"
                ),
                figure(
                    f"worker / {name}, CPU",
                    rows_per_cpu_second / found[best]["rows_per_cpu_second"],
                    "times",
                    note="rows per CPU second",
                ),
            ]
    return figures


def _write_rows(traffic: Traffic, path: Path) -> None:
    """The reference and the largest batch as arrays: both numpy versions read them."""
    arrays: dict[str, Any] = {}
    for part, rows in (("reference", REFERENCE_ROWS), ("current", max(SIZES))):
        batch = traffic.batch("peers", rows, 0, 1)
        arrays |= {f"{part}/{name}": values for name, values in batch.numeric.items()}
        arrays |= {f"{part}/{name}": np.array(column.values()) for name, column in batch.categorical.items()}
        arrays[f"{part}/prediction"] = batch.prediction
    np.savez(path, **arrays)


def _run(name: str, rows: Path) -> dict[str, Any] | str:
    program = Path(__file__).with_name("peer_process.py")
    command = [str(PYTHON), "-W", "ignore", str(program), name, str(rows), *map(str, SIZES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
