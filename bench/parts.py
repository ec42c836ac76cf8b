"""Benches of several parts: ``python -m bench.NAME [PART…] [--seed 0] [--quick]``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from bench.report import Figure, broken, figure, save

Parts = Mapping[str, Callable[[int, bool], list[Figure]]]
"""By name: seed and whether to be quick, to figures."""


def run(name: str, description: str, quick: str, parts: Parts, arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are asked for, and print and save their figures.

    Args:
        name: Of the bench.
        description: For its help.
        quick: What ``--quick`` does.
        parts: All there are.
        arguments: Of the command line.

    Returns:
        Status: 1 if a figure breaks its bound.
    """
    parser = argparse.ArgumentParser(prog=f"bench.{name}", description=description)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all if none is given")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is simulated")
    parser.add_argument("--quick", action="store_true", help=quick)
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    progress = Console(stderr=True)
    figures: list[Figure] = []
    for part in options.parts or parts:
        progress.rule(part)
        begin, others = time.monotonic(), os.getloadavg()[0]
        figures += parts[part](options.seed, options.quick)
        figures.append(figure(f"{part}: load of the machine before", others, "", note=f"{os.cpu_count()} cores"))
        progress.print(f"{part}: {time.monotonic() - begin:.0f} s", style="dim")
    save(name, figures)
    bounded = [row for row in figures if row["bound"] is not None]
    for row in bounded:
        holds = "holds" if row["holds"] else "[bold red]does not hold[/]"
        Console(width=160).print(f"{holds}: {row['metric']}: {row['value']:,} {row['unit']}, bound {row['bound']:,}")
    bad = broken(figures)
    Console().print(f"{len(bounded) - len(bad)} of {len(bounded)} bounds hold; all figures: build/bench/{name}.json")
    return 1 if bad else 0
