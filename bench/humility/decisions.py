"""Do the serving application and the streams decide the same, on a million random rows?

Each thousand rows has a random policy of its own, with all kinds of rules and fits. A row is decided alone, as an
application asks; in the batch that the client packs it into; out of that batch, encoded and decoded as on Kafka and cut
anew, as the streams do; and in a table. Actions, rules that fired, what is served instead, quantile, group and interval
are compared by their bits (:mod:`bench.humility.agreement`).
"""

from __future__ import annotations

import itertools
import time

import numpy as np

from bench.humility.agreement import disagreements
from bench.report import Figure, figure, print_table, within

MOST_KEPT = 1_000
"""After so many rows that differ it is clear."""

MOST_SHOWN = 300


def measure(seed: int, quick: bool) -> list[Figure]:
    """Decide random rows in all ways."""
    rows = 20_000 if quick else 1_000_000
    begin = time.monotonic()
    found = list(itertools.islice(disagreements(np.random.default_rng([seed, 10]), rows), MOST_KEPT))
    seconds = time.monotonic() - begin
    row = figure(
        "agreement: rows decided otherwise alone, packed, travelled or in a table",
        len(found),
        "rows",
        at_most=0,
        note=ascii(found[0])[:MOST_SHOWN] if found else f"{rows:,} random rows, {rows // 1_000:,} random policies",
    )
    print_table(
        "Random rows, each decided alone, packed, travelled and in a table",
        ("rows", "policies", "differ", "seconds"),
        [(f"{rows:,}", f"{rows // 1_000:,}", within(row, f"{len(found):,}"), f"{seconds:.0f}")],
        left=0,
    )
    return [row]
