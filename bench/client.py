"""What a prediction costs the application that logs it, and how fast the client delivers.

    python -m bench.client [--rows 20000] [--bootstrap-servers HOST:PORT]

Starts a broker (unless one is named) and logs rows of 20 features (16 numbers, 4 texts) to it: at a pace, as a serving
application does, and as fast as it goes. Prints a table and writes build/bench/client.json. Exits with status 1 if a
figure breaks its bound.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.report import Figure, broken, figure, write
from driftline import Client, KafkaSettings, Topics
from services.broker.embedded import EmbeddedBroker
from services.topics import ensure_topics

ROW = {f"number_{i}": i * 1.25 for i in range(16)} | {f"text_{i}": f"value {i}" for i in range(4)}
PACE_SECONDS = 0.0005
# Two shared cores without other work measure 7 µs, 47 µs and 505,000 rows/s; beside six busy programs it was
# 24 µs, 66 µs and 166,000 rows/s.
BOUND_P50_US = 25.0
BOUND_P99_US = 250.0
BOUND_TABLE_ROWS_PER_SECOND = 300_000


def call_us(call: Callable[[], Any], count: int, pause_seconds: float = 0.0) -> np.ndarray:
    """Microseconds of each of ``count`` calls, the timer's own time included."""
    times = np.empty(count)
    for i in range(count):
        if pause_seconds:
            time.sleep(pause_seconds)
        started = time.perf_counter_ns()
        call()
        times[i] = time.perf_counter_ns() - started
    return times / 1000


def single_rows(settings: KafkaSettings, folder: Path, count: int) -> list[Figure]:
    """Cost of ``log_prediction``, beside that of things everybody knows the price of."""
    kept: list[dict[str, Any]] = []
    append = float(np.median(call_us(lambda: kept.append(dict(ROW)), count)))
    dumps = float(np.median(call_us(lambda: orjson.dumps(ROW), count)))
    figures = [
        figure("list.append(dict(row))", append, "µs", note="median; the yardstick"),
        figure("orjson.dumps(row)", dumps, "µs", note="median; the other yardstick"),
    ]
    with Client("bench", "v1", settings=settings, spool_dir=folder, strict=True) as client:
        client.log_prediction(ROW, 0.5)
        client.flush()
        paced = call_us(lambda: client.log_prediction(ROW, 0.5), min(count, 10_000), PACE_SECONDS)
        flat_out = call_us(lambda: client.log_prediction(ROW, 0.5), count)
        if client.flush(60) or client.counters().dropped:
            raise SystemExit(f"not everything was delivered: {client}")
    note = f"20 features, {1 / PACE_SECONDS:,.0f} a second at most, while the client delivers to a real broker"
    p50, p99 = (float(q) for q in np.quantile(paced, [0.5, 0.99]))
    figures += [
        figure("log_prediction, p50", p50, "µs", at_most=BOUND_P50_US, note=note),
        figure("log_prediction, p99", p99, "µs", at_most=BOUND_P99_US, note=note),
    ]
    note = "20 features, back to back: the callers and the client's thread share one interpreter"
    p50, p99 = (float(q) for q in np.quantile(flat_out, [0.5, 0.99]))
    return [
        *figures,
        figure("log_prediction back to back, p50", p50, "µs", at_most=BOUND_P50_US, note=note),
        figure("log_prediction back to back, p99", p99, "µs", note=note),
        figure("log_prediction / list.append(dict(row))", p50 / append, "times", note="medians"),
        figure("log_prediction / orjson.dumps(row)", p50 / dumps, "times", note="medians"),
    ]


def tables(settings: KafkaSettings, folder: Path, rows: int) -> list[Figure]:
    """Rows per second of ``log_predictions``, to hand-over and to acknowledgement by Kafka."""
    table: dict[str, Any] = {f"number_{i}": np.random.default_rng(i).normal(size=rows) for i in range(16)}
    texts = [f"value {i % 50}" for i in range(rows)]
    table |= {f"text_{i}": texts for i in range(4)}
    with Client("bench", "v1", settings=settings, spool_dir=folder, strict=True, when_unavailable="block") as client:
        client.log_predictions({name: column[:1000] for name, column in table.items()})
        client.flush()
        started = time.perf_counter()
        client.log_predictions(table, table["number_0"])
        handed_over = time.perf_counter() - started
        if client.flush(120) or client.counters().delivered != rows + 1000:
            raise SystemExit(f"not everything was delivered: {client}")
        delivered = time.perf_counter() - started
    note = f"{rows:,} rows, 16 numpy columns and 4 lists of text"
    return [
        figure("log_predictions, handed over", rows / handed_over, "rows/s", note=note),
        figure(
            "log_predictions, acknowledged",
            rows / delivered,
            "rows/s",
            at_least=BOUND_TABLE_ROWS_PER_SECOND,
            note=f"{note}; acks=all, lz4",
        ),
    ]


def spooling(folder: Path, rows: int) -> list[Figure]:
    """Rows per second onto the disk while no broker is there, fsync after every batch."""
    table = {f"number_{i}": np.random.default_rng(i).normal(size=rows) for i in range(20)}
    with Client("bench", "v1", settings=KafkaSettings("127.0.0.1:1"), spool_dir=folder, strict=True) as client:
        client.log_prediction(ROW)
        while not client.counters().spooled:
            time.sleep(0.01)
        started = time.perf_counter()
        client.log_predictions(table)
        if client.flush(120) or client.counters().spooled != rows + 1:
            raise SystemExit(f"not everything was spooled: {client}")
        seconds = time.perf_counter() - started
    note = f"{rows:,} rows of 20 numbers, fsync after every batch"
    return [figure("spooled while Kafka is away", rows / seconds, "rows/s", note=note)]


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", help="a broker that is there already")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--table-rows", type=int, default=500_000)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = arguments.bootstrap_servers
        if servers is None:
            servers = stack.enter_context(EmbeddedBroker(folder / "broker")).bootstrap_servers
        settings = KafkaSettings(servers, Topics(f"bench-{uuid.uuid4().hex[:8]}."))
        ensure_topics(settings)
        figures = [
            *single_rows(settings, folder / "spool", arguments.rows),
            *tables(settings, folder / "spool", arguments.table_rows),
            *spooling(folder / "spool", arguments.table_rows // 5),
        ]
    write("client", figures)
    sys.exit(1 if broken(figures) else 0)


if __name__ == "__main__":
    main()
