"""How long it goes unnoticed that humility rules act otherwise than they were fitted to.

Their streams count yes and no: a change is another share of yes, see :mod:`streams.humility.evidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.deployments.outcome_delays import OutcomeDelay, Watched, points
from streams.baseline import HUMILITY_ROLE, Baseline, BaselineStream
from streams.counting import MISCOVERAGE
from streams.humility.evidence import DISAGREEMENT
from streams.monitor import Monitors
from streams.specification import HUMILITY

Floats = NDArray[np.float64]

RISES = (0.02, 0.05, 0.1)
"""Rises of a share, of all predictions or of all actual values, that delays are stated for; 0.01 is a point."""

_YES, _NO = 0, 1


def humility_delays(monitors: Monitors, baseline: Baseline, monitor: str) -> list[OutcomeDelay]:
    """Expected delays of the monitor of humility, one entry per change; empty for others, and without a fit.

    First order and of one stream alone, as :func:`services.deployments.outcome_delays.outcome_delays`.
    """
    if monitor != HUMILITY or monitor not in monitors.monitors:
        return []
    watched = Watched(monitors, monitor)
    streams = watched.streams(HUMILITY_ROLE)
    rules = [found for found in streams if found[2].name not in (DISAGREEMENT, MISCOVERAGE)]
    publishers = [found for found in streams if found[2].name == DISAGREEMENT]
    intervals = [found for found in streams if found[2].name == MISCOVERAGE]
    outcomes = 0.0
    if baseline.outcomes is not None and baseline.outcomes.rows:
        outcomes = baseline.outcomes.resolved / baseline.outcomes.rows
    return [
        *_delays(watched, rules, "a rule's or an action's share of predictions"),
        *_delays(watched, publishers, "the share of decisions that are not those in force"),
        *_delays(watched, intervals, "the share of actual values that are not covered", outcomes),
    ]


def with_yes(p: Floats, more: float) -> Floats:
    """The categories of yes and no, float64[23], with a larger share of yes."""
    after = p.copy()
    moved = min(more, float(p[_NO]))
    after[_YES] += moved
    after[_NO] -= moved
    return after


def _delays(
    watched: Watched,
    streams: Sequence[tuple[int, int, BaselineStream]],
    what: str,
    per_prediction: float | None = None,
) -> list[OutcomeDelay]:
    """Per rise the delay of the stream in the middle; ``per_prediction``: outcomes, where those are counted."""
    found = []
    for rise in RISES:
        delays = []
        for b, index, stream in streams:
            events, inside = watched.delay(b, index, partial(with_yes, more=rise))
            delays.append((events, stream.label, inside))
        if delays:
            events, name, inside = sorted(delays)[len(delays) // 2]
            per_outcome = None if per_prediction is None else 1.0
            of_all = 1.0 if per_prediction is None else per_prediction
            change = f"{what} rises by {points(rise)}"
            found.append(OutcomeDelay(change, name, len(delays), events, inside, of_all, per_outcome))
    return found
