"""Detection: does the false-alarm bound hold, and how near to the limit are changes found?

    python -m bench.detection [PART…] [--seed 0] [--quick]

Prints tables and writes build/bench/detection.json, a list of {metric, value, unit, bound, holds, note}. Everything but
the timings is determined by the seed. Exits with status 1 if a figure breaks its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
from bench.parts import Parts, run

PARTS: Parts = {
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
    return run("detection", __doc__.splitlines()[0], "smaller simulations: a minute instead of five", PARTS, arguments)


if __name__ == "__main__":
    sys.exit(main())
