"""How many alarms streams without change raise, against the count bound: E[alarms] <= starts / c.

Independent and autocorrelated events, deliveries that repeat, and baselines learnt from a finite reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from bench.detection.simulation import FLEET_THRESHOLD, P0, autoregressive, binned, known_bets, repeated
from bench.report import Figure, figure, print_table, within
from streams.identities import Identities
from streams.statistics.arrays import Counts, Floats
from streams.statistics.dependence import tempering
from streams.statistics.evidence import Bets, make_bets
from streams.statistics.layouts import NUMERIC, NumericBins, bin_numeric, count_codes, fit_numeric
from streams.statistics.margins import effective_margins
from streams.statistics.replay import replay, step_counts
from streams.statistics.tilts import NUMERIC_TILTS

CELLS = tuple((c, every) for c in (100, 1_000) for every in (1, 20))
"""Thresholds c, and every how many steps a start slot begins."""

EVENTS_PER_STEP = 20
REFERENCES = (5_000, 30_000)


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    streams: int
    steps: int


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on false alarms."""
    size = Size(100, 1_500) if quick else Size(120, 4_000)
    return [
        *dependence(np.random.default_rng([seed, 1]), size),
        *duplicates(np.random.default_rng([seed, 2]), 30 if quick else 100, 500 if quick else 1_000),
        *finite_reference(np.random.default_rng([seed, 3]), 20 if quick else 60),
    ]


def dependence(rng: np.random.Generator, size: Size) -> list[Figure]:
    """Independent and AR(1) events: without tempering; tempered as measured on references of two sizes, with the true
    distribution as baseline; and with cuts, baseline, margin and tempering all learnt from one reference.
    """
    figures: list[Figure] = []
    table = []
    for phi in (0.0, 0.3, 0.6, 0.9):
        name = f"AR(1) {phi}" if phi else "i.i.d."
        values = autoregressive(rng, size.streams, size.steps * EVENTS_PER_STEP, phi)
        live = step_counts(binned(values), EVENTS_PER_STEP, NUMERIC.size)
        cells = {"not tempered": _cells(f"{name}, not tempered", known_bets(size.streams), live, phi == 0)}
        for m in REFERENCES:
            label = f"tempered, reference of {m:,}"
            references = binned(autoregressive(rng, size.streams, m, phi))
            gamma = np.array([tempering(column, NUMERIC_TILTS) for column in references])
            cells[label] = _cells(f"{name}, {label}", known_bets(size.streams, 0.0, gamma), live, True)
        label = f"all learnt from {REFERENCES[0]:,}"
        bets, cuts = _learnt(autoregressive(rng, size.streams, REFERENCES[0], phi))
        codes = np.stack([bin_numeric(cut, column) for cut, column in zip(cuts, values, strict=True)])
        live = step_counts(codes, EVENTS_PER_STEP, NUMERIC.size)
        cells[label] = _cells(f"{name}, {label}", bets, live, True)
        for label, row in cells.items():
            figures += row
            table.append((name, label, *(within(cell, f"{cell['value']:.2f}") for cell in row)))
    print_table(
        f"False alarms over the bound: {size.streams} streams, {EVENTS_PER_STEP} events a step, no change",
        ("events", "", *(f"c = {c:,}, start every {_steps(every)}" for c, every in CELLS)),
        table,
        left=2,
    )
    return figures


def _learnt(references: Floats) -> tuple[Bets, list[NumericBins]]:
    """What streams float64[S, m] teach, with the default margin or what the reference's size asks for."""
    cuts = [fit_numeric(column) for column in references]
    codes = [bin_numeric(cut, column) for cut, column in zip(cuts, references, strict=True)]
    counts = np.array([count_codes(column, NUMERIC) for column in codes])
    gamma = np.array([tempering(column, NUMERIC_TILTS) for column in codes])
    return make_bets(NUMERIC_TILTS, counts, effective_margins(0.05, counts, 1e-3, NUMERIC), gamma), cuts


def _cells(name: str, bets: Bets, live: Counts, promised: bool) -> list[Figure]:
    """One figure for each threshold and distance of starts; a small c needs fewer steps to be as exact."""
    cells = []
    for c, every in CELLS:
        steps = live.shape[1] if c == 1_000 else live.shape[1] // 4
        result = replay(bets, live[:, :steps], every, float(np.log(c)))
        cells.append(
            figure(
                f"false alarms over the bound, {name}, c = {c:,}, a start every {_steps(every)}",
                result.alarms_over_bound(float(np.log(c))),
                "ratio",
                at_most=1.0 if promised else None,
                note=f"{result.alarms.sum():,} alarms, the bound allows {bets.streams * result.starts / c:,.0f}",
            )
        )
    return cells


def _steps(number: int) -> str:
    return "step" if number == 1 else f"{number} steps"


def duplicates(rng: np.random.Generator, streams: int, steps: int) -> list[Figure]:
    """Every message delivered a second time, a step later; counted with the worker's de-duplication and without."""
    once = rng.multinomial(10, P0, size=(streams, steps))
    threshold = float(np.log(100))
    figures = []
    for name, counts, promised in (
        ("delivered once", once, True),
        ("delivered twice, de-duplicated", deduplicated(once), True),
        ("delivered twice, counted twice", repeated(once), False),
    ):
        result = replay(known_bets(streams), counts, 1, threshold)
        figures.append(
            figure(
                f"false alarms over the bound, {name}",
                result.alarms_over_bound(threshold),
                "ratio",
                at_most=1.0 if promised else None,
                note=f"c = 100, {result.alarms.sum():,} alarms of {counts.sum():,} events counted",
            )
        )
    columns = ("delivery", "over the bound", "alarms and events")
    return _printed("Every event delivered twice, c = 100, a start every step", columns, figures)


def deduplicated(counts: Counts) -> Counts:
    """What is counted of counts int64[S, T, K] when each message (a stream's step) comes again a step later.

    The ids of its rows go through the worker's own memory of ids; all streams share one, as on a partition.
    """
    identities = Identities()
    kept = np.zeros_like(counts)
    streams, steps, bins = counts.shape
    codes = np.arange(bins)
    offset = 0
    for step in range(steps):
        for stream in range(streams):
            for sent in (step, step - 1) if step else (step,):
                rows = np.repeat(codes, counts[stream, sent])
                identities.advance(offset)
                offset += 1
                new = identities.unseen(str(stream), [f"{sent}-{row}" for row in range(len(rows))])
                counted = rows if new is None else rows[new]
                kept[stream, step] += np.bincount(counted, minlength=bins)
    return kept


def finite_reference(rng: np.random.Generator, streams: int) -> list[Figure]:
    """Unchanged streams whose baselines are learnt from m events, with and without the margin that m asks for."""
    figures = []
    events, steps = 1_000, 1_000
    for m, margin in ((1_000, 0.0), (1_000, None), (5_000, 0.0), (5_000, 0.05)):
        reference, truth = np.zeros((streams, NUMERIC.size), np.int64), np.zeros((streams, NUMERIC.size))
        for s, column in enumerate(rng.normal(size=(streams, m))):
            bins = fit_numeric(column)
            reference[s] = count_codes(bin_numeric(bins, column), NUMERIC)
            truth[s, :14] = np.diff(np.concatenate([[0.0], norm.cdf(bins.edges), [1.0]]))
        eps = float(effective_margins(0.05, reference, 1e-6, NUMERIC).max()) if margin is None else margin
        live = rng.multinomial(events, truth[:, None, :], size=(streams, steps))
        result = replay(make_bets(NUMERIC_TILTS, reference, eps), live, 24, FLEET_THRESHOLD)
        figures.append(
            figure(
                f"unchanged streams with a false alarm, reference of {m:,}, margin {eps:.3f}",
                float((result.alarms > 0).mean()),
                "share",
                at_most=0.0 if eps else None,
                note=f"{streams} streams of {events * steps:,} events, c = 3.6e7",
            )
        )
    title = "A baseline is only as good as its reference: unchanged streams with a false alarm"
    return _printed(title, ("reference and margin", "share", ""), figures)


def _printed(title: str, columns: tuple[str, str, str], figures: list[Figure]) -> list[Figure]:
    """The figures, printed each under the end of its name."""
    rows = ((row["metric"].split(", ", 1)[1], within(row, f"{row['value']:.2f}"), row["note"]) for row in figures)
    print_table(title, columns, rows)
    return figures
