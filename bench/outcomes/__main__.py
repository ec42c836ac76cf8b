"""Outcomes: how fast they are joined, what waiting for them costs, and how good estimates are before they come.

    python -m bench.outcomes [PART…] [--seed 0] [--quick]

Prints tables and writes build/bench/outcomes.json, a list of {metric, value, unit, bound, holds, note}. Exits with
status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from bench.outcomes import estimates, invariance, machine, store, worker
from bench.report import Figure, broken, figure, save

PARTS: dict[str, Callable[[int, bool], list[Figure]]] = {
    "invariance": invariance.measure,
    "estimates": estimates.measure,
    "store": store.measure,
    "machine": machine.measure,
    "worker": worker.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.outcomes", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is given")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is simulated")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: two minutes instead of ten")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    progress = Console(stderr=True)
    figures: list[Figure] = []
    for name in options.parts or PARTS:
        progress.rule(name)
        begin, others = time.monotonic(), os.getloadavg()[0]
        figures += PARTS[name](options.seed, options.quick)
        figures.append(figure(f"{name}: load of the machine before", others, "", note=f"{os.cpu_count()} cores"))
        progress.print(f"{name}: {time.monotonic() - begin:.0f} s", style="dim")
    save("outcomes", figures)
    bounded = [row for row in figures if row["bound"] is not None]
    for row in bounded:
        holds = "holds" if row["holds"] else "[bold red]does not hold[/]"
        Console(width=160).print(f"{holds}: {row['metric']}: {row['value']:,} {row['unit']}, bound {row['bound']:,}")
    bad = broken(figures)
    Console().print(f"{len(bounded) - len(bad)} of {len(bounded)} bounds hold; all figures: build/bench/outcomes.json")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
