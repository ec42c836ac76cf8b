"""Streams whose distribution is known, so that "no change" is exact.

A stream is standard normal until it changes; its baseline is the distribution itself (or a sample of it, where a part
says so).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import norm

from streams.statistics.arrays import Counts, Floats
from streams.statistics.budget import alarm_threshold_nats
from streams.statistics.evidence import (
    Bets,
    empty_base,
    empty_counts,
    make_bets,
    start_slot,
    stream_log_evidence,
    without_idle_tilts,
)
from streams.statistics.layouts import NUMERIC, NumericBins, bin_numeric, nominal_probabilities
from streams.statistics.tilts import NUMERIC_TILTS

P0 = nominal_probabilities()
"""float64[K]: the probability of each bin of the numeric layout without change."""

EDGES = norm.ppf(np.cumsum(P0)[1:12])
"""The ten core bins and the two tails of a standard normal stream begin and end here."""

KNOWN_BINS = NumericBins(np.concatenate([[-9.0], EDGES, [9.0]]), np.arange(14, dtype=np.uint8))
"""The cuts of a standard normal stream; beyond nine standard deviations it is out of range."""

HOUR_MS = 3_600_000
MONTH_MS = 30 * 24 * HOUR_MS
FLEET_STREAMS = 50_000
FLEET_THRESHOLD = alarm_threshold_nats(1, MONTH_MS, HOUR_MS, shards=FLEET_STREAMS)
"""log 3.6e7, 17.4 nats: one false alarm in 30 days from 50,000 streams that start anew every hour."""


def bin_probabilities(shift: float | Floats = 0.0, scale: float = 1.0) -> Floats:
    """Probabilities float64[..., K] of the bins when the stream is normal with this mean and standard deviation."""
    marks = np.concatenate([[-np.inf], EDGES, [np.inf]])
    p = np.zeros((*np.shape(shift), NUMERIC.size))
    p[..., 1:13] = np.diff(norm.cdf((marks - np.expand_dims(shift, -1)) / scale), axis=-1)
    return p


def known_bets(streams: int, margin: float = 0.0, tempering: float | Floats = 1.0) -> Bets:
    """Bets of ``streams`` streams whose baseline is known exactly."""
    return without_idle_tilts(make_bets(NUMERIC_TILTS, np.tile(P0, (streams, 1)), margin, tempering))


def autoregressive(rng: np.random.Generator, streams: int, events: int, phi: float) -> Floats:
    """Stationary AR(1) streams float64[S, N], x_t = phi x_(t-1) + e_t, with unit variance."""
    noise = rng.normal(size=(streams, events)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1], [1, -phi], noise, axis=1))


def binned(values: Floats) -> NDArray[np.uint8]:
    """Bin codes uint8[S, N] of streams whose distribution is known."""
    return np.stack([bin_numeric(KNOWN_BINS, column) for column in values])


def repeated(counts: Counts) -> Counts:
    """Counts int64[S, T, K] when every step's events are delivered a second time, a step later."""
    twice = counts.copy()
    twice[:, 1:] += counts[:, :-1]
    return twice


def alarm_events(
    bets: Bets, codes: NDArray[np.uint8], start_every: int, threshold_nats: float
) -> list[NDArray[np.int64]]:
    """The events at which each stream alarms, checked after every event; an alarm resets its stream.

    ``codes``: uint8[S, N], bin codes; a start slot begins every ``start_every`` events.
    """
    streams, events = codes.shape
    base, counts = empty_base(bets), empty_counts(bets)
    rows = np.arange(streams)
    found: list[tuple[NDArray[np.int64], int]] = []
    for event in range(events):
        if event % start_every == 0:
            base, counts = start_slot(bets, base, counts)
        counts[rows, codes[:, event]] += 1
        alarming = np.flatnonzero(stream_log_evidence(bets, base, counts) >= threshold_nats)
        if alarming.size:
            found.append((alarming, event))
            base[alarming], counts[alarming] = -np.inf, 0
    return [np.array([event for alarming, event in found if s in alarming], np.int64) for s in range(streams)]
