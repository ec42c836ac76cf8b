"""Detection: does the false-alarm bound hold, and how near to the limit are changes found?

    python -m bench.detection [PART…] [--seed 0] [--quick]

Prints tables and writes build/bench/detection.json, a list of {metric, value, unit, bound, holds, note}. Everything but
the timings is determined by the seed. Exits with status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from bench.detection import (
    costs,
    delays,
    false_alarms,
    fleet,
    flights,
    friedman,
    invariance,
    known_detectors,
    outcome_delays,
    outcomes,
    sequence,
)
from bench.report import Figure, broken, save

PARTS: dict[str, Callable[[int, bool], list[Figure]]] = {
    "false_alarms": false_alarms.measure,
    "delays": delays.measure,
    "fleet": fleet.measure,
    "known_detectors": known_detectors.measure,
    "friedman": friedman.measure,
    "outcomes": outcomes.measure,
    "outcome_delays": outcome_delays.measure,
    "sequence": sequence.measure,
    "flights": flights.measure,
    "invariance": invariance.measure,
    "costs": costs.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.detection", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is given")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is simulated")
    parser.add_argument("--quick", action="store_true", help="smaller simulations: a minute instead of five")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    progress = Console(stderr=True)
    figures: list[Figure] = []
    for name in options.parts or PARTS:
        progress.rule(name)
        begin = time.monotonic()
        figures += PARTS[name](options.seed, options.quick)
        progress.print(f"{name}: {time.monotonic() - begin:.0f} s", style="dim")
    save("detection", figures)
    bounded = [row for row in figures if row["bound"] is not None]
    bad = broken(figures)
    Console().print(f"{len(bounded) - len(bad)} of {len(bounded)} bounds hold; all figures: build/bench/detection.json")
    for row in bad:
        Console().print(f"[bold red]broken:[/] {row['metric']}: {row['value']:,} {row['unit']}, bound {row['bound']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
