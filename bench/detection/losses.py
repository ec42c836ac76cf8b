"""What the engine bets on when the stream is a loss, for instance a squared residual: that it grew.

Ten bins of equal mass say nothing about *how far* beyond the reference a value lies, and for losses that is what
tells a broken region of the input space: one event in sixty with a residual of ten standard deviations. So the bins of
a loss lie in its tail.

**Tail.** Beyond the 95 % quantile u the reference's tail is taken to be at most exponential, P(X > u + y) =
0.05 exp(-y / b), with b the mean excess over u (peaks over threshold: Pickands, "Statistical inference using extreme
order statistics", Annals of Statistics 3, 1975; squares of normal residuals have such a tail). This is an assumption
about values that no reference has seen; ``MARGIN_RATE`` and ``MARGIN_SCALE`` are its margin: a tenth more exceedances,
a quarter larger ones, are no change.

**Alternatives.** A share w of the events comes from elsewhere: (1 - w) P0 + w G (the gross-error model of Huber,
"Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964), G spread evenly over the
tail's bins or over the outer half of them. Their log-likelihood ratios do not decrease from bin to bin, so the e-values
hold for every distribution that is stochastically no larger than P0, not for P0 alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.statistics.arrays import NATS_PER_UNIT, Floats
from streams.statistics.evidence import Bets, make_bets
from streams.statistics.layouts import ABOVE_MAX, BELOW_MIN, NUMERIC, NumericBins
from streams.statistics.tilts import Tilts

THRESHOLD_QUANTILE = 0.95
MARGIN_RATE, MARGIN_SCALE = 1.1, 1.25
DECADE = 1.3
"""From one tail bin to the next the probability falls by exp(1.3); beyond the last edge it is 1e-8."""

SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""w: one event in 300 to one in three."""

_TAIL_BINS = ABOVE_MAX - BELOW_MIN


def loss_bins(reference: Floats) -> NumericBins:
    """The cuts of a loss from its reference float64[m]: all up to u is one bin, then thirteen of the tail."""
    threshold = float(np.quantile(reference, THRESHOLD_QUANTILE))
    excess = float((reference[reference > threshold] - threshold).mean()) * MARGIN_SCALE
    edges = threshold + excess * DECADE * np.arange(_TAIL_BINS, dtype=np.float64)
    return NumericBins(edges, np.arange(14, dtype=np.uint8))


def loss_probabilities() -> Floats:
    """P0 float64[K], the same for every loss: the cuts carry what differs."""
    beyond = MARGIN_RATE * (1 - THRESHOLD_QUANTILE) * np.exp(-DECADE * np.arange(_TAIL_BINS))
    p = np.zeros(NUMERIC.size)
    p[BELOW_MIN] = 1 - beyond[0]
    p[BELOW_MIN + 1 : ABOVE_MAX + 1] = beyond - np.append(beyond[1:], 0.0)
    return p


def _loss_tilts() -> Tilts:
    p0 = loss_probabilities()
    shapes: list[NDArray[np.float64]] = []
    for first in (BELOW_MIN + 1, BELOW_MIN + 1 + _TAIL_BINS // 2):
        elsewhere = np.zeros(NUMERIC.size)
        elsewhere[first : ABOVE_MAX + 1] = 1 / (ABOVE_MAX + 1 - first)
        ratio = np.divide(elsewhere, p0, out=np.zeros_like(p0), where=p0 > 0)
        shapes += [np.log1p(share * (ratio - 1)) for share in SHARES]
    on_grid = np.floor(np.array(shapes) / NATS_PER_UNIT) * NATS_PER_UNIT
    count = len(shapes)
    return Tilts(NUMERIC, on_grid, ("contamination",) * count, np.full(count, -1), {"contamination": 1.0})


LOSS_TILTS = _loss_tilts()


def loss_bets(streams: int) -> Bets:
    """The bets of S losses that are cut by :func:`loss_bins`."""
    return make_bets(LOSS_TILTS, np.tile(loss_probabilities(), (streams, 1)), 0.0)
