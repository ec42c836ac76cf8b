"""Outcomes: how fast they are joined, what waiting for them costs, and how good estimates are before they come.

    python -m bench.outcomes [PART…] [--seed 0] [--quick]

Prints tables and writes build/bench/outcomes.json, a list of {metric, value, unit, bound, holds, note}. Exits with
status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.outcomes import estimates, invariance, machine, store, worker
from bench.parts import Parts, run

PARTS: Parts = {
    "invariance": invariance.measure,
    "estimates": estimates.measure,
    "store": store.measure,
    "machine": machine.measure,
    "worker": worker.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run("outcomes", __doc__.splitlines()[0], "a tenth of the rows: two minutes instead of ten", PARTS, arguments)


if __name__ == "__main__":
    sys.exit(main())
