"""The same events in other batches, on other shards, delivered again, or replayed: is everything the same?

What must not depend on batches is compared in the journal's records, bit by bit: the evidence at the last start slot,
the counts since, and the counts of the window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from bench.detection.machine import Machine, batches
from bench.report import Figure, figure, print_table, within
from bench.traffic import START_US, Traffic
from driftline.events import PredictionColumns
from services.publish.reading import take
from streams.baseline import Baseline
from streams.specification import DeploymentSpec

SHARDS = 4
STEP_US = 20_000_000
"""An event every 20 seconds: 180 in a start slot of an hour."""

COMPARED = ("base_", "slot_counts_", "counts_")


def measure(seed: int, quick: bool) -> list[Figure]:
    """Each property on one seeded stream: the number of bytes that differ, which has to be zero."""
    rng = np.random.default_rng([seed, 1])
    rows = 4_000 if quick else 20_000
    traffic = Traffic(numeric=4, categorical=2, seed=seed)
    ((spec, baseline),) = traffic.deployments(["invariance"], 1_000_000, reference_rows=5_000)
    # one window for all, so that it is still open at the end
    spec = dataclasses.replace(spec, window_ms=365 * 86_400_000, start_slot_ms=3_600_000)
    columns = traffic.batch("invariance", rows, START_US, STEP_US)
    shards = [take(columns, np.flatnonzero(np.arange(rows) % SHARDS == shard)) for shard in range(SHARDS)]

    def run(part: PredictionColumns, sizes: Iterable[int], times: int = 1) -> Machine:
        return _run(spec, baseline, batches(part, sizes), times)

    def some() -> list[int]:
        return [int(size) for size in rng.integers(1, 1_000, size=rows)]

    whole = run(columns, [500] * rows)
    split = [run(columns, some()) for _ in range(2)]
    alone = run(columns, [1] * rows)
    sharded = [(run(shard, [500] * rows), run(shard, some())) for shard in shards]
    twice = run(columns, [500] * rows, times=2)
    again = run(columns, [500] * rows)
    checks = {
        "random batches": sum(_differing([_bits(whole)], [_bits(machine)]) for machine in split),
        "every row a message": _differing([_bits(whole)], [_bits(alone)]),
        f"{SHARDS} shards, in random batches": sum(_differing([_bits(a)], [_bits(b)]) for a, b in sharded),
        "every message delivered twice": _differing([_bits(whole)], [_bits(twice)]),
        "replay of the same log, every record": int(
            repr(sorted(whole.state.items())) != repr(sorted(again.state.items()))
        ),
        f"counts of {SHARDS} shards, added up": _differing(
            _window_counts([whole]), _window_counts([machine for machine, _ in sharded])
        ),
    }
    figures = [
        figure(f"bytes that differ: {name}", differing, "bytes", at_most=0, note=f"{rows:,} rows, 6 features")
        for name, differing in checks.items()
    ]
    print_table(
        f"The same {rows:,} events, treated otherwise: bytes of evidence and counts that differ",
        ("", "differ"),
        ((row["metric"].split(": ")[1], within(row, f"{row['value']:,.0f}")) for row in figures),
    )
    return figures


def _run(spec: DeploymentSpec, baseline: Baseline, messages: Iterable[PredictionColumns], times: int) -> Machine:
    machine = Machine(spec, baseline)
    for message in messages:
        for _ in range(times):
            machine.apply(message)
    return machine


def _bits(machine: Machine) -> dict[str, bytes]:
    """The arrays that must not depend on batches."""
    return {
        f"{key.decode()} {name}": value["data"]
        for key, fields in machine.state.items()
        for name, value in (fields or {}).items()
        if name.startswith(COMPARED)
    }


def _window_counts(machines: Sequence[Machine]) -> list[dict[str, bytes]]:
    """The window's counts, added up over shards."""
    sums: dict[str, np.ndarray] = {}
    for machine in machines:
        for name, data in _bits(machine).items():
            if name.startswith("window/"):
                counts = np.frombuffer(data, np.int64)
                sums[name] = sums.get(name, np.zeros_like(counts)) + counts
    return [{name: counts.tobytes() for name, counts in sums.items()}]


def _differing(one: list[dict[str, bytes]], other: list[dict[str, bytes]]) -> int:
    assert one[0], "there is something to compare"
    if one[0].keys() != other[0].keys():
        return len(one[0].keys() ^ other[0].keys())
    return sum(a != b for name in one[0] for a, b in zip(one[0][name], other[0][name], strict=True))
