"""What known detectors can follow of outcomes: errors, losses and residuals, pair by pair.

The literature's detectors were made for the errors of a model, in the order in which its outcomes come:

============ ============== ============================================================================
stream       task           value of a pair
============ ============== ============================================================================
``error``    classification 1 if the predicted class is wrong, else 0: what DDM, EDDM and HDDM take
``loss``     classification -log of the probability given to the actual class, at most 13.8; missing
                            without probabilities
``loss``     regression     absolute error
``residual`` regression     actual less predicted
============ ============== ============================================================================

They are the raw values: what the evidence engine judges among outcomes of equal age
(:mod:`streams.outcomes.evidence`), a known detector takes as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.detectors import ERROR, LOSS, RESIDUAL
from streams.outcomes.evidence import LEAST_PROBABILITY
from streams.outcomes.frames import Frame
from streams.specification import BINARY, MULTICLASS, REGRESSION
from streams.statistics.performance.pairs import Floats, Integers, Pairs, PerformanceLayout


def followed_pairs(joined: Sequence[tuple[Frame, Pairs]]) -> tuple[dict[str, Floats], Integers]:
    """The streams of n pairs of one version, in the order they are given.

    Args:
        joined: Pairs, and how their predictions were read.

    Returns:
        float64[n] per stream, NaN where a pair has no such value; and int64[n], when each outcome became known.
    """
    found = [_streams(frame.layout, pairs) for frame, pairs in joined]
    names = dict.fromkeys(name for streams in found for name in streams)
    values = {
        name: np.concatenate(
            [streams.get(name, np.full(pairs.rows, np.nan)) for streams, (_, pairs) in zip(found, joined, strict=True)]
        )
        for name in names
    }
    return values, np.concatenate([pairs.times_us + pairs.ages_us for _, pairs in joined])


def _streams(layout: PerformanceLayout, pairs: Pairs) -> dict[str, Floats]:
    if layout.task == REGRESSION:
        residual = pairs.actual - pairs.predicted.scores[:, 0]
        return {LOSS: np.abs(residual), RESIDUAL: residual}
    if layout.task not in (BINARY, MULTICLASS):
        return {}
    labels = pairs.predicted.labels
    return {ERROR: np.where(labels < 0, np.nan, labels != pairs.actual), LOSS: _log_loss(layout, pairs)}


def _log_loss(layout: PerformanceLayout, pairs: Pairs) -> Floats:
    scores = pairs.predicted.scores
    if not scores.shape[1]:
        return np.full(pairs.rows, np.nan)
    if layout.task == BINARY:
        given = np.where(pairs.actual == 1, scores[:, 0], 1 - scores[:, 0])
    else:
        given = scores[np.arange(pairs.rows), pairs.actual.astype(np.intp)]
    return np.asarray(-np.log(np.clip(given, LEAST_PROBABILITY, 1.0)))
