"""What the statistics cost, in time of one core."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from bench.detection.simulation import P0
from bench.report import Figure, figure, print_table, within
from streams.statistics.counting import count_numeric_block, stack_numeric
from streams.statistics.dependence import tempering
from streams.statistics.evidence import empty_base, empty_counts, make_bets, start_slot, stream_log_evidence
from streams.statistics.layouts import NUMERIC, fit_numeric
from streams.statistics.tilts import NUMERIC_TILTS


def best_of(action: Callable[[], object], repeats: int, calls: int) -> float:
    """CPU seconds per call, the best of several repeats: other processes on the machine are not what is measured."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        for _ in range(calls):
            action()
        best = min(best, (time.process_time() - begin) / calls)
    return best


def measure(seed: int, quick: bool) -> list[Figure]:
    """The hot path, and the slowest step of building a baseline."""
    del quick  # it takes a second
    rng = np.random.default_rng([seed, 1])
    columns, rows = 16, 500
    block = stack_numeric([fit_numeric(column) for column in rng.normal(size=(columns, 5_000))])
    values = rng.normal(size=(columns, rows))
    bets = make_bets(NUMERIC_TILTS, rng.multinomial(5_000, P0, size=20), 0.05)
    base, _ = start_slot(bets, empty_base(bets), empty_counts(bets))
    counts = rng.multinomial(500, P0, size=20)
    codes = rng.choice(NUMERIC.size, p=P0, size=30_000).astype(np.uint8)
    tilts = f"{NUMERIC_TILTS.size} tilts"
    per_row = best_of(lambda: count_numeric_block(block, values), 10, 100) / rows
    evidence = best_of(lambda: stream_log_evidence(bets, base, counts), 10, 100)
    start = best_of(lambda: start_slot(bets, base, counts), 10, 100)
    temper = best_of(lambda: tempering(codes, NUMERIC_TILTS), 3, 1)
    figures = [
        figure(
            "bin and count a row of 16 numeric features", per_row * 1e6, "µs", at_most=0.35, note="500 rows at a time"
        ),
        figure("evidence of 20 streams", evidence * 1e6, "µs", at_most=100, note=tilts),
        figure("start slot of 20 streams", start * 1e6, "µs", at_most=150, note=tilts),
        figure("tempering of 16 features", temper * 16, "s", at_most=1.0, note="reference of 30,000 rows"),
    ]
    print_table(
        "What it costs, in time of one core",
        ("", "value", "unit", "at most", ""),
        ((r["metric"], within(r, f"{r['value']:,}"), r["unit"], r["bound"], r["note"]) for r in figures),
    )
    return figures
