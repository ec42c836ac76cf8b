"""Alerting: how soon people are told, and what is lost or told twice when receivers refuse and processes are killed.

    python -m bench.alerting [PART…] [--seed 0] [--quick]

Prometheus Alertmanager goes through the same storm and the same kills in the same run, where a Go compiler is there
to build it. Prints tables and writes build/bench/alerting.json, a list of {metric, value, unit, bound, holds, note}.
Exits with status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.alerting import burst, faults, kills, latency, storm
from bench.parts import Parts, run

PARTS: Parts = {
    "latency": latency.measure,
    "burst": burst.measure,
    "faults": faults.measure,
    "kills": kills.measure,
    "storm": storm.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run("alerting", __doc__.splitlines()[0], "fewer alerts and kills, a storm of one minute", PARTS, arguments)


if __name__ == "__main__":
    sys.exit(main())
