"""Humility: do its guarantees hold over many calibration sets, is their end noticed, and what does a decision cost?

    python -m bench.humility [PART…] [--seed 0] [--quick]

Prints tables and writes build/bench/humility.json, a list of {metric, value, unit, bound, holds, note}. Everything but
the timings is determined by the seed. Exits with status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.humility import alarms, costs, decisions, flights, novelty, risk, tracking
from bench.parts import Parts, run

PARTS: Parts = {
    "novelty": novelty.measure,
    "risk": risk.measure,
    "tracking": tracking.measure,
    "alarms": alarms.measure,
    "agreement": decisions.measure,
    "costs": costs.measure,
    "flights": flights.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run("humility", __doc__.splitlines()[0], "fewer sets and rows: within two minutes", PARTS, arguments)


if __name__ == "__main__":
    sys.exit(main())
