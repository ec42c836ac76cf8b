"""Rows per second through one worker process, exactly-once on; where its time goes; the peers on the same rows.

    python -m bench.throughput [--rows 3000000] [--worker-only]

The topic is filled first, the worker started afterwards: what is measured is how fast it goes from the moment at which
every partition has a committed position to the last one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench import peers, stages
from bench.cluster import PARTITIONS, Cluster, Position, Positions, WorkerProcess, cluster
from bench.report import Figure, figure, write
from bench.traffic import START_US, Traffic
from driftline.events import PredictionColumns

NUMERIC, CATEGORICAL, BATCH_ROWS = 16, 4, 500
ROW_STEP_US = 100_000
REFERENCE_ROWS = 200_000
"""So long a reference lets the rate of rows be watched, too."""

BOUND_ROWS_PER_SECOND = 300_000
DEADLINE_SECONDS = 300


def batches(traffic: Traffic, names: list[str], rows: int) -> Iterator[tuple[PredictionColumns, int]]:
    """One deployment on each partition, in turn."""
    for number in range(rows // BATCH_ROWS):
        partition = number % PARTITIONS
        start_us = START_US + number // PARTITIONS * BATCH_ROWS * ROW_STEP_US
        yield traffic.batch(names[partition], BATCH_ROWS, start_us, ROW_STEP_US), partition


@dataclass(frozen=True)
class Run:
    """A worker's way through the topic, from the moment at which every partition has committed once."""

    rows: int
    seconds: float
    commits: int
    cpu_rows: int
    cpu_seconds: float
    main_seconds: float
    main_waiting_seconds: float
    cpu_wall_seconds: float
    peak_bytes: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def rows_per_cpu_second(self) -> float:
        return self.cpu_rows / self.cpu_seconds

    @property
    def messages_per_commit(self) -> int:
        return max(1, self.rows // BATCH_ROWS // self.commits)

    def figures(self) -> list[Figure]:
        wall = self.cpu_wall_seconds
        others = (self.cpu_seconds - self.main_seconds) / wall
        idle = 1 - (self.main_seconds + self.main_waiting_seconds) / wall
        return [
            figure(
                "rows through one worker",
                self.rows_per_second,
                "rows/s",
                at_least=BOUND_ROWS_PER_SECOND,
                note=f"{NUMERIC}+{CATEGORICAL} features and prediction, batches of {BATCH_ROWS}, exactly-once",
            ),
            figure("rows per CPU second of the worker", self.rows_per_cpu_second, "rows/s", note="all its threads"),
            figure("main thread: working", self.main_seconds / wall, "share"),
            figure("main thread: waiting for a core that others have", self.main_waiting_seconds / wall, "share"),
            figure("main thread: idle or waiting for another thread", idle, "share"),
            figure("other threads: working", others, "cores", note="fetching, journals, librdkafka"),
            figure("commits", self.commits / self.seconds, "1/s", note=f"transactions, {PARTITIONS} partitions"),
            figure("peak memory of the worker", self.peak_bytes / 2**20, "MiB"),
        ]


def run_worker(cluster_: Cluster, rows: int) -> Run:
    positions, begin, end = Positions(cluster_), None, None
    with WorkerProcess(cluster_) as worker:
        deadline = time.monotonic() + DEADLINE_SECONDS
        done = 0
        while done < rows:
            worker.require_alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{done} of {rows} rows after {DEADLINE_SECONDS} s")
            time.sleep(0.25)
            done, end = positions.read() * BATCH_ROWS, (time.monotonic(), worker.cpu_seconds(), *worker.main_thread())
            if begin is None and len(positions.latest) == PARTITIONS:
                begin, rows_at_begin = end, done
        peak = worker.memory_bytes()
    positions.close()
    if begin is None or end is None or done == rows_at_begin:
        raise RuntimeError(f"{rows} rows are too few: they were through before every partition had committed")
    in_time = sorted(positions.all, key=lambda position: position.time_ms)
    firsts: dict[int, Position] = {}
    for position in in_time:
        firsts.setdefault(position.partition, position)
    begin_ms = max(position.time_ms for position in firsts.values())
    before = {position.partition: position.predictions for position in in_time if position.time_ms <= begin_ms}
    wall, cpu, main, waiting = (after - earlier for after, earlier in zip(end, begin, strict=True))
    return Run(
        rows=rows - sum(before.values()) * BATCH_ROWS,
        seconds=(in_time[-1].time_ms - begin_ms) / 1000,
        commits=sum(position.time_ms > begin_ms for position in in_time),
        cpu_rows=rows - rows_at_begin,
        cpu_seconds=cpu,
        main_seconds=main,
        main_waiting_seconds=waiting,
        cpu_wall_seconds=wall,
        peak_bytes=peak,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--worker-only", action="store_true", help="neither stages nor peers")
    options = parser.parse_args()
    rows = options.rows // (BATCH_ROWS * PARTITIONS) * BATCH_ROWS * PARTITIONS
    traffic = Traffic(NUMERIC, CATEGORICAL)
    names = [f"deployment-{partition}" for partition in range(PARTITIONS)]
    deployments = traffic.deployments(names, ROW_STEP_US, REFERENCE_ROWS)
    with cluster("throughput") as running:
        running.publish_deployments(deployments)
        running.fill(batches(traffic, names, rows))
        run = run_worker(running, rows)
        figures = run.figures()
        if not options.worker_only:
            main_us = run.main_seconds / run.cpu_rows * 1e6
            others_us = (run.cpu_seconds - run.main_seconds) / run.cpu_rows * 1e6
            figures += stages.measure(running, deployments[0], run.messages_per_commit, main_us, others_us)
            figures += peers.plain_consumer(running, rows)
    if not options.worker_only:
        figures += peers.measure(traffic, run.rows_per_second, run.rows_per_cpu_second)
    write("throughput", figures)


if __name__ == "__main__":
    main()
