"""Arming the monitors of outcomes: they are tried on the outcomes of the reference, in the order in which these came.

See :mod:`streams.arming`. The cohorts of ``labels:j`` are replayed by event time, as production looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streams.arming import arm_streams
from streams.baseline import LABELS_ROLE, Baseline, BaselineStream
from streams.counting import blocks_of
from streams.outcomes.ages import LabelAges, label_codes
from streams.outcomes.evidence import OutcomeCounter
from streams.specification import DeploymentSpec
from streams.statistics.arming import steps_of
from streams.statistics.layouts import CATEGORICAL
from streams.statistics.performance.pairs import Pairs

Counts = NDArray[np.int64]


def arm_outcomes(spec: DeploymentSpec, baseline: Baseline, pairs: Pairs, known_us: Counts) -> Baseline:
    """Replay the streams of outcomes and labels of a baseline.

    Args:
        spec: Gives the weights of the streams.
        baseline: With what was learnt from its outcomes, and with the arming of its other streams.
        pairs: The reference's predictions beside their outcomes, in order of arrival.
        known_us: int64[n], per prediction by event time, the age at which its outcome was first known; beyond every
            age where it never was.

    Returns:
        The same with the arming of these monitors too, and its digest.
    """
    armed = arm_streams(spec, baseline, *_outcomes_in_steps(spec, baseline, pairs))
    labels = [stream for stream in armed.streams if stream.role == LABELS_ROLE]
    if not labels:
        return armed
    return arm_streams(spec, armed, [labels], [_labels_in_steps(armed, known_us, len(labels))])


def _outcomes_in_steps(
    spec: DeploymentSpec, baseline: Baseline, pairs: Pairs
) -> tuple[list[Sequence[BaselineStream]], list[Counts]]:
    """The blocks that pairs are counted in, and per block int64[T, S, K]."""
    counter = OutcomeCounter(spec, baseline)
    steps = steps_of(pairs.rows, len(baseline.streams))
    cuts = (np.arange(steps + 1) * pairs.rows // steps).tolist()
    found = [counter.count(pairs.take(np.arange(first, after))) for first, after in pairwise(cuts)]
    blocks = {name: streams for name, streams in blocks_of(baseline.streams).items() if name in found[0]}
    return list(blocks.values()), [np.stack([step[name] for step in found]) for name in blocks]


def _labels_in_steps(baseline: Baseline, known_us: Counts, streams: int) -> Counts:
    """int64[T, J, 23], the predictions of the reference in T steps of equally many."""
    ages = LabelAges.from_derived(next(d for d in baseline.derived if d.kind == LABELS_ROLE))
    steps = steps_of(len(known_us), len(baseline.streams))
    counts = np.zeros((steps, streams, CATEGORICAL.size), np.int64)
    for j in range(streams):
        waiting, codes = label_codes(known_us, ages.ages_us, j)
        cells = waiting * steps // len(known_us) * CATEGORICAL.size + codes
        counts[:, j] = np.bincount(cells, minlength=steps * CATEGORICAL.size).reshape(steps, -1)
    return counts
