"""The index of pending predictions: what a row costs in time, memory and disk, with ten million of them waiting."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Figure, figure, print_table, within
from streams.outcomes.frames import ID_FIELDS, OUTCOME_FIELDS
from streams.outcomes.store import PendingStore, PendingTable

ROW = np.dtype([*ID_FIELDS, ("label", "<i2"), ("scores", "<f8", (1,)), *OUTCOME_FIELDS])
"""As a binary classifier's predictions wait."""

BATCH = 500
ROWS_PER_CHECKPOINT = 120_000
ROWS_PER_COMMIT = 30_000
"""So many rows come until what was prepared is committed."""
LOOKUPS = 200_000
ROCKS_BATCH = 20_000
ROCKS_CACHE_BYTES = 64 << 20


@dataclass
class Costs:
    """Seconds of one thread, of all, and of the clock, in all; and of each call in one thread and by the clock."""

    thread: float = 0.0
    process: float = 0.0
    calls: list[tuple[float, float]] = field(default_factory=list)

    def add(self, action: Callable[[], object]) -> None:
        thread, process, clock = time.thread_time(), time.process_time(), time.perf_counter()
        action()
        spent = time.thread_time() - thread
        self.calls.append((spent, time.perf_counter() - clock))
        self.thread += spent
        self.process += time.process_time() - process


def ids(seed: int, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """As good as digests of the numbered predictions, uint64[n] and uint64[n] (SplitMix64; Steele et al. 2014)."""
    halves = []
    for stream in (1, 2):
        mixed = (numbers * np.uint64(2) + np.uint64(stream + (seed << 32))) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        halves.append(mixed ^ (mixed >> np.uint64(31)))
    return halves[0], halves[1]


def batch(seed: int, first: int, count: int) -> NDArray[np.void]:
    rows = np.zeros(count, ROW)
    numbers = np.arange(first, first + count, dtype=np.uint64)
    rows["key"], rows["check"] = ids(seed, numbers)
    rows["time_us"] = numbers
    rows["scores"][:, 0] = numbers
    return rows


def memory_mib(line: str) -> float:
    """A line of what the kernel knows of this process's memory."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line + ":"):
            return int(text.split()[1]) / 1024
    return float("nan")


def lookups(table: PendingTable, seed: int, numbers: NDArray[np.uint64], found: bool) -> float:
    """Microseconds of a thread per row looked up, in batches, each looked up before."""
    for warm in range(0, len(numbers), BATCH):
        table.get(*ids(seed, numbers[warm : warm + BATCH]))
    costs = Costs()
    for begin in range(0, len(numbers), BATCH):
        keys, checks = ids(seed, numbers[begin : begin + BATCH])
        costs.add(lambda keys=keys, checks=checks: table.get(keys, checks))  # type: ignore[misc] # a lambda's defaults
        hit, rows = table.get(keys, checks)
        if hit.all() != found or (found and (rows["time_us"] != numbers[begin : begin + BATCH].view(np.int64)).any()):
            raise AssertionError("the index does not hold what was put")
    return costs.thread / len(numbers) * 1e6


def store_figures(seed: int, rows: int) -> tuple[list[Figure], dict[str, float]]:
    """Put rows at full speed, with a checkpoint every ``ROWS_PER_CHECKPOINT``; look some up; open again."""
    rng = np.random.default_rng([seed, 2])
    note = f"{rows:,} rows of {ROW.itemsize} bytes"
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as path:
        gc.collect()
        before = memory_mib("RssAnon")
        store = PendingStore(Path(path))
        table = store.table("rows", ROW)
        costs, anonymous, total, disk, begin_clock = Costs(), 0.0, 0.0, 0.0, time.perf_counter()
        for first in range(0, rows, BATCH):
            put = batch(seed, first, BATCH)
            costs.add(lambda put=put: table.put(put))  # type: ignore[misc] # a lambda's defaults
            if (first + BATCH) % ROWS_PER_CHECKPOINT == 0:
                costs.add(lambda: store.prepare({"predictions": first}))  # noqa: B023 - called at once
            if first % ROWS_PER_CHECKPOINT == ROWS_PER_COMMIT:
                costs.add(store.confirm)
                anonymous = max(anonymous, memory_mib("RssAnon") - before)
                total = max(total, memory_mib("VmRSS"))
                disk = max(disk, store.disk_bytes / 2**20)
        seconds = time.perf_counter() - begin_clock
        store.checkpoint({"predictions": rows})
        random = lookups(table, seed, rng.integers(0, rows, LOOKUPS, np.uint64), True)
        recent = lookups(table, seed, np.arange(rows - min(LOOKUPS, rows), rows, dtype=np.uint64), True)
        missing = lookups(table, seed, np.arange(rows, rows + LOOKUPS, dtype=np.uint64), False)
        store.close()
        begin = time.perf_counter()
        store = PendingStore(Path(path))
        opened = time.perf_counter() - begin
        if store.table("rows", ROW).rows != rows:
            raise AssertionError(f"{store.table('rows', ROW).rows:,} of {rows:,} rows are there after opening")
        store.close()
    put_us = costs.thread / rows * 1e6
    stall = np.array(costs.calls) * 1e3
    figures = [
        figure("put a row, in the caller's thread", put_us, "µs", at_most=0.5, note=note),
        figure("put a row, with checkpoints and merging", costs.process / rows * 1e6, "µs", note="all threads"),
        figure("rows put in a second, by the clock", rows / seconds, "rows/s", at_least=200_000),
        figure("look up a random row", random, "µs", at_most=1.5, note=f"batches of {BATCH}, warm"),
        figure("look up a recent row", recent, "µs", note=f"batches of {BATCH}, warm"),
        figure("look up a row that is not there", missing, "µs", note=f"batches of {BATCH}, warm"),
        figure("longest call of put or checkpoint", stall[:, 0].max(), "ms", at_most=100, note="time of its thread"),
        figure(
            "longest call of put or checkpoint, by the clock", stall[:, 1].max(), "ms", note="other processes count"
        ),
        figure("disk", disk, "MiB", at_most=2048, note="at most, after a checkpoint; " + note),
        figure("anonymous memory", anonymous, "MiB", at_most=500, note="grown by at most; " + note),
        figure("memory with the files' pages", total, "MiB", note="of the process, at most"),
        figure("open and compare with the checksums", opened, "s", note=note),
    ]
    return figures, {"put": put_us, "random": random}


def rocks_figures(seed: int, rows: int, ours: dict[str, float]) -> list[Figure]:
    """The same rows in RocksDB, one key a row, if rocksdict is there."""
    try:
        import rocksdict  # type: ignore[import-not-found]  # not a dependency
    except ImportError:
        return [
            figure("RocksDB beside it", 0, "", note="not measured: rocksdict is not installed (pip install rocksdict)")
        ]
    options = rocksdict.Options(raw_mode=True)
    block = rocksdict.BlockBasedOptions()
    block.set_bloom_filter(10, False)
    block.set_block_cache(rocksdict.Cache(ROCKS_CACHE_BYTES))
    options.set_block_based_table_factory(block)
    put, get = Costs(), Costs()
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as path:
        database = rocksdict.Rdict(path, options)
        for first in range(0, rows, ROCKS_BATCH):
            data = batch(seed, first, ROCKS_BATCH).tobytes()
            put.add(lambda data=data: _write(rocksdict, database, data))  # type: ignore[misc] # a lambda's defaults
        numbers = np.random.default_rng([seed, 2]).integers(0, rows, LOOKUPS // 4, np.uint64)
        for _ in range(2):
            get = Costs()
            for begin in range(0, len(numbers), BATCH):
                keys = np.stack(ids(seed, numbers[begin : begin + BATCH]), axis=1).tobytes()
                wanted = [keys[at : at + 16] for at in range(0, len(keys), 16)]
                get.add(lambda wanted=wanted: database.get(wanted))  # type: ignore[misc] # a lambda's defaults
        database.close()
    put_us, get_us = put.thread / rows * 1e6, get.thread / len(numbers) * 1e6
    note = f"rocksdict {version('rocksdict')}, {rows:,} rows"
    return [
        figure("RocksDB: put a row", put_us, "µs", note=f"{note}, {ROCKS_BATCH:,} at a time"),
        figure("RocksDB: put a row, with compaction", put.process / rows * 1e6, "µs", note="all threads"),
        figure("RocksDB: look up a random row", get_us, "µs", note=f"{note}, {BATCH} at a time, warm"),
        figure("times as long to put in RocksDB", put_us / ours["put"], ""),
        figure("times as long to look up in RocksDB", get_us / ours["random"], ""),
    ]


def _write(rocksdict: Any, database: Any, data: bytes) -> None:
    changes = rocksdict.WriteBatch(raw_mode=True)
    for at in range(0, len(data), ROW.itemsize):
        changes.put(data[at : at + 16], data[at + 16 : at + ROW.itemsize])
    database.write(changes)


def measure(seed: int, quick: bool) -> list[Figure]:
    """Ten million rows; a million if it is to be quick."""
    rows = 1_200_000 if quick else 10_200_000
    figures, ours = store_figures(seed, rows)
    figures += rocks_figures(seed, rows, ours)
    print_table(
        "Pending rows, in time of one core",
        ("", "value", "unit", "bound", ""),
        ((r["metric"], within(r, f"{r['value']:,}"), r["unit"], r["bound"] or "", r["note"]) for r in figures),
    )
    return figures
