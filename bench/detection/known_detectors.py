"""Our detector and those of the literature on the same streams, with one that never fires and one that always does.

No score of a single number can rank detectors: one that always fires finds every change at once, one that never fires
raises no false alarm. Three columns tell them apart: false alarms per million unchanged events, the share of changes
found, and the mean delay of those found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.detection.simulation import alarm_events, autoregressive
from bench.report import Figure, figure, print_table
from streams.detectors import BITS, DETECTORS, UNIT, build_detector, signals, takes
from streams.specification import DetectorSpec
from streams.statistics.arrays import Floats
from streams.statistics.dependence import tempering
from streams.statistics.evidence import make_bets
from streams.statistics.layouts import CATEGORICAL, NUMERIC, bin_numeric, count_codes, fit_numeric
from streams.statistics.margins import effective_margins
from streams.statistics.tilts import CATEGORICAL_TILTS, NUMERIC_TILTS

START_EVERY = 100
PROMISE = 1.0
"""False alarms per million events that ours promises: c = 1e6 / 100 starts / 1."""

THRESHOLD = float(np.log(1e6 / START_EVERY / PROMISE))
MARGIN = 0.05
"""The default. Ours is shown with it, and with none but what the reference's size asks for."""

REFERENCE = 20_000
UNCHANGED, CHANGED = 10_000, 5_000
BIT_QUANTILE = 0.9
"""Detectors that take bits get whether a value exceeds the reference's 90 % quantile."""

SLOW = "kswin"
SLOW_PART = 50
"""KSWIN takes 0.2 ms per event: it gets one stream of so many."""

Alarms = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Kind:
    """Streams of one kind: ``values(rng, streams, events, changed)`` draws float64[S, N]."""

    name: str
    description: str
    bits: bool
    values: Callable[[np.random.Generator, int, int, bool], Floats]


def _normal(rng: np.random.Generator, streams: int, events: int, changed: bool) -> Floats:
    return rng.normal(0.5 * changed, size=(streams, events))


def _autoregressive(rng: np.random.Generator, streams: int, events: int, changed: bool) -> Floats:
    return autoregressive(rng, streams, events, 0.9) + 1.0 * changed


def _errors(rng: np.random.Generator, streams: int, events: int, changed: bool) -> Floats:
    return (rng.random((streams, events)) < (0.2 if changed else 0.1)).astype(np.float64)


KINDS = (
    Kind("normal", "i.i.d. normal, then + 0.5 sd", False, _normal),
    Kind("AR(1)", "AR(1) with 0.9, then + 1 sd", False, _autoregressive),
    Kind("errors", "10 % errors, then 20 %", True, _errors),
)


def measure(seed: int, quick: bool) -> list[Figure]:
    """Every detector on every kind of stream."""
    streams = 20 if quick else 100
    cells: dict[str, list[str]] = {}
    figures: list[Figure] = []
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng([seed, number])
        reference = kind.values(rng, streams, REFERENCE, False)
        values = np.hstack([kind.values(rng, streams, UNCHANGED, False), kind.values(rng, streams, CHANGED, True)])
        for name, detector in _detectors(kind, reference).items():
            used = values[: max(1, streams // SLOW_PART)] if name == SLOW else values
            score = _score(detector(used))
            figures += score.figures(f"{name}, {kind.name}", ours=name in OURS)
            cells.setdefault(name, []).extend(score.cells())
    print_table(
        f"False alarms per million unchanged events, share of changes found within {CHANGED:,} events, mean delay.\n"
        + "; ".join(f"{kind.name}: {kind.description}" for kind in KINDS),
        ("detector", *(column for kind in KINDS for column in (f"{kind.name}: false", "found", "delay"))),
        ((name, *row) for name, row in cells.items()),
    )
    return figures


OURS = {
    f"ours, margin {MARGIN}": MARGIN,
    "ours, no margin but the reference's": 0.0,
}


def _detectors(kind: Kind, reference: Floats) -> dict[str, Callable[[Floats], Alarms]]:
    """By name, what gives the events at which streams float64[S, N] alarm."""
    known: dict[str, Callable[[Floats], Alarms]] = {
        "never fires": lambda values: [np.zeros(0, np.int64) for _ in values],
        "always fires": lambda values: [np.arange(values.shape[1]) for _ in values],
    }
    for name, margin in OURS.items():
        known[name] = partial(_ours, kind, reference, margin)
    bars = np.zeros(len(reference)) if kind.bits else np.quantile(reference, BIT_QUANTILE, axis=1)
    for name in DETECTORS:
        known[name] = partial(_known, name, bars)
    return known


def _known(name: str, bars: Floats, values: Floats) -> Alarms:
    as_bits = takes(name) in (BITS, UNIT)
    return [
        np.array(
            signals(build_detector(DetectorSpec(name, "x")), (column > bar).astype(np.float64) if as_bits else column),
            np.int64,
        )
        for column, bar in zip(values, bars[: len(values)], strict=True)
    ]


def _ours(kind: Kind, reference: Floats, margin: float, values: Floats) -> Alarms:
    """The engine as it is armed from a reference: cuts, margin and tempering are all learnt from it."""
    if kind.bits:
        layout, tilts = CATEGORICAL, CATEGORICAL_TILTS
        learnt, live = reference.astype(np.uint8), values.astype(np.uint8)
    else:
        layout, tilts = NUMERIC, NUMERIC_TILTS
        cuts = [fit_numeric(column) for column in reference]
        learnt, live = (
            np.stack([bin_numeric(cut, column) for cut, column in zip(cuts, sample, strict=True)])
            for sample in (reference, values)
        )
    counts = np.array([count_codes(codes, layout) for codes in learnt])
    margins = effective_margins(margin, counts, 1e-3, layout)
    gamma = np.array([tempering(codes, tilts) for codes in learnt])
    return alarm_events(make_bets(tilts, counts, margins, gamma), live, START_EVERY, THRESHOLD)


@dataclass(frozen=True)
class Score:
    """``false_alarms`` per million unchanged events; ``found``: share of the changes; ``delay``: mean number of events
    of those found, None if none was.
    """

    streams: int
    false_alarms: float
    found: float
    delay: float | None

    def figures(self, name: str, *, ours: bool) -> list[Figure]:
        """False alarms, and what they buy; ours is held to its promise and to finding every change."""
        bought = f"{self.found:.0%} of the changes found" + (f" after {self.delay:,.0f} events" if self.delay else "")
        streams = f"{self.streams} streams"
        figures = [
            figure(
                f"false alarms, {name}",
                self.false_alarms,
                "per 1e6 events",
                at_most=PROMISE if ours else None,
                note=f"{streams}; {bought}",
            )
        ]
        if ours:
            figures.append(figure(f"changes found, {name}", self.found, "share", at_least=1.0, note=streams))
        return figures

    def cells(self) -> tuple[str, str, str]:
        """For the table."""
        return f"{self.false_alarms:,.4g}", f"{self.found:.0%}", f"{self.delay:,.0f}" if self.delay else "–"


def _score(alarms: Alarms) -> Score:
    false = sum(int((events < UNCHANGED).sum()) for events in alarms)
    delays = [int(events[events >= UNCHANGED][0]) - UNCHANGED + 1 for events in alarms if (events >= UNCHANGED).any()]
    return Score(
        streams=len(alarms),
        false_alarms=false / (len(alarms) * UNCHANGED) * 1e6,
        found=len(delays) / len(alarms),
        delay=float(np.mean(delays)) if delays else None,
    )
