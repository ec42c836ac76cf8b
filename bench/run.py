"""Run the benches one after another and show all their figures in one table.

    python -m bench.run [NAME…] [--json]

Figures that do not hold their bound are said so in red; the exit status is 0 all the same, unless a bench could not
be run at all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.report import OUTPUT, Figure, broken, show

_PARTS = {"__init__", "cluster", "parts", "peer_process", "peers", "report", "run", "stages", "traffic"}

_ARGUMENTS = {name: ["--quick"] for name in ("alerting", "detection", "outcomes", "humility")}
"""`make bench-alerting`, `make bench-detection`, `make bench-outcomes` and `make bench-humility` run them whole."""


def names() -> list[str]:
    """The benches there are: modules and packages of this folder with figures of their own."""
    here = Path(__file__).parent
    modules = {path.stem for path in here.glob("*.py")} - _PARTS
    return sorted(modules | {path.parent.name for path in here.glob("*/__main__.py")})


def run(name: str, console: Console) -> list[Figure] | None:
    """Run a bench in a process of its own; None if it failed without figures."""
    output = OUTPUT / f"{name}.json"
    output.unlink(missing_ok=True)
    console.rule(f"bench {name}")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *_ARGUMENTS.get(name, [])], stdout=sys.stderr, check=False
    )
    console.print(f"{name}: {time.monotonic() - begin:.0f} s")
    if not output.exists():
        console.print(f"[bold red]{name} wrote no figures[/] (status {done.returncode})")
        return None
    figures: list[Figure] = json.loads(output.read_text())
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all if none is given")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    progress = Console(stderr=True)
    found: dict[str, list[Figure]] = {}
    failed = []
    for name in options.names or names():
        figures = run(name, progress)
        if figures is None:
            failed.append(name)
        else:
            found[name] = figures
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found)
    bad = [f"{name}: {row['metric']}" for name, figures in found.items() for row in broken(figures)]
    if bad:
        progress.print("[bold red]Bounds that do not hold:[/] " + "; ".join(bad))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
