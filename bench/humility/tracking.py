"""The tracker of coverage: does its bound hold on every sequence, however late the outcomes?

Scores come from sources that stay, drift, jump and cycle, and from two adversaries that know the quantile: one that is
always just beyond it, and one that waits until the tracker leans one way and then takes the other. Outcomes come at
once, after a fixed or a random time, or all together now and then; quantiles are published once per slot, by the same
code as in the streams. Pending outcomes are counted as they are, and the bound is asked for after every slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.report import Figure, figure, print_table, within
from streams.humility.tracker import Tracker
from streams.statistics.arrays import Floats
from streams.statistics.humility import tracker_bound, tracker_step

COVERAGE, STEP, START = 0.9, 0.02, 0.5
SLOT_ROWS = 50
POINT = "after a tenth of the rows"

Score = Callable[[np.random.Generator, int, int, float, float], Floats]
"""(random numbers, first row, rows in all, published quantile, quantile as it would be now) to the slot's scores."""

Delay = Callable[[np.random.Generator, int], np.ndarray]
"""(random numbers, first row) to the rows after which the slot's outcomes are known, int64[n]."""


def _steady(rng: np.random.Generator, first: int, rows: int, published: float, now: float) -> Floats:
    return rng.beta(2, 5, SLOT_ROWS)


def _drifting(rng: np.random.Generator, first: int, rows: int, published: float, now: float) -> Floats:
    return np.clip(rng.beta(2, 5, SLOT_ROWS) * (0.4 + 1.6 * first / rows), 0, 1)


def _jumping(rng: np.random.Generator, first: int, rows: int, published: float, now: float) -> Floats:
    return rng.beta(8, 2, SLOT_ROWS) if first * 5 // rows % 2 else rng.beta(2, 8, SLOT_ROWS)


def _cycling(rng: np.random.Generator, first: int, rows: int, published: float, now: float) -> Floats:
    return np.clip(rng.beta(2, 5, SLOT_ROWS) * (1.2 + np.sin(2 * np.pi * first / 2_400)), 0, 1)


def _beyond(rng: np.random.Generator, first: int, rows: int, published: float, now: float) -> Floats:
    return np.full(SLOT_ROWS, min(max(np.nextafter(published, 2), 0.0), 1.0))


def _against(rng: np.random.Generator, first: int, rows: int, published: float, now: float) -> Floats:
    return np.full(SLOT_ROWS, 1.0 if now < START else 0.0)


SOURCES: dict[str, Score] = {
    "stays": _steady,
    "drifts": _drifting,
    "jumps": _jumping,
    "cycles": _cycling,
    "always just beyond": _beyond,
    "against the tracker": _against,
}

DELAYS: dict[str, Delay] = {
    "at once": lambda rng, first: np.zeros(SLOT_ROWS, np.int64),
    "after 500 rows": lambda rng, first: np.full(SLOT_ROWS, 500),
    "after 500 rows on average": lambda rng, first: rng.exponential(500, SLOT_ROWS).astype(np.int64),
    "all together every 1,000 rows": lambda rng, first: 1_000 - (first + np.arange(SLOT_ROWS)) % 1_000,
}


@dataclass
class Run:
    """How one sequence went.

    Attributes:
        worst: Largest distance of the average from alpha over its bound, of all slots.
        early: The distance after a tenth of the rows, and its bound there.
        last: The same at the end.
        shares: Share of missed rows by thousand, by row.
    """

    worst: float = 0.0
    early: tuple[float, float] = (0.0, 0.0)
    last: tuple[float, float] = (0.0, 0.0)
    shares: list[float] = field(default_factory=list)


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on the tracker."""
    rows = 10_000 if quick else 50_000
    figures, table, worst = [], [], 0.0
    for number, (source, score) in enumerate(SOURCES.items()):
        for other, (name, delay) in enumerate(DELAYS.items()):
            found = _run(np.random.default_rng([seed, 5, number, other]), score, delay, rows, STEP)
            worst = max(worst, found.worst)
            figures.append(
                figure(
                    f"tracker: |average - alpha| at the end, {source}, outcomes {name}",
                    found.last[0],
                    "share",
                    at_most=found.last[1],
                    note=f"{rows:,} rows, quantile published every {SLOT_ROWS}",
                )
            )
            table.append(
                (
                    source,
                    name,
                    f"{found.early[0]:.4f}",
                    f"{found.early[1]:.4f}",
                    f"{found.last[0]:.4f}",
                    within(figures[-1], f"{found.last[1]:.4f}"),
                    f"{found.worst:.2f}",
                )
            )
    row = figure(
        "tracker: largest |average - alpha| over its bound, of all sequences and slots",
        worst,
        "ratio",
        at_most=1.0,
        note=f"{len(SOURCES) * len(DELAYS)} sequences of {rows:,} rows",
    )
    print_table(
        f"Average share of missed outcomes, coverage {COVERAGE:g}, step {STEP:g} of the range, {rows:,} rows",
        ("scores", "outcomes", POINT, "bound", "at the end", "bound", "worst of all slots, over the bound"),
        table,
        left=2,
    )
    return [*figures, row, *_steps(np.random.default_rng([seed, 6]), rows)]


def _run(rng: np.random.Generator, score: Score, delay: Delay, rows: int, step: float) -> Run:
    tracker = Tracker("bench", COVERAGE, step, {"": START})
    group = tracker.groups[""]
    due: list[list[bool]] = [[] for _ in range(rows + 1)]  # by the row they are known at: missed or not
    missed_rows: list[np.ndarray] = []
    waiting, pending, found = 0, 0, Run()
    for slot in range(rows // SLOT_ROWS):
        first = slot * SLOT_ROWS
        tracker.publish(slot)
        now = group.start + step * (group.missed - (1 - COVERAGE) * group.known)
        scores = score(rng, first, rows, group.published, now)
        missed = scores > group.published
        missed_rows.append(missed)
        # whatever waits was issued with an older quantile than any that an outcome now leads to
        waiting += SLOT_ROWS
        pending = max(pending, waiting)
        known_at = first + np.arange(SLOT_ROWS) + delay(rng, first)
        for at, miss in zip(known_at.tolist(), missed.tolist(), strict=True):
            if at < rows:
                due[at].append(miss)
        came = [miss for at in range(first, first + SLOT_ROWS) for miss in due[at]]
        waiting -= len(came)
        _count(tracker, came)
        if not group.known:
            continue
        distance = abs(group.missed / group.known - (1 - COVERAGE))
        bound = tracker_bound(1.0, step, group.known, pending)
        found.worst = max(found.worst, distance / bound)
        found.last = (distance, bound)
        if first <= rows // 10:
            found.early = (distance, bound)
    found.shares = np.concatenate(missed_rows).reshape(-1, 1_000).mean(axis=1).tolist()
    return found


def _count(tracker: Tracker, missed: Sequence[bool]) -> None:
    rows = len(missed)
    tracker.count([""], np.zeros(rows, np.int64), np.ones(rows, bool), np.array(missed, bool))


def _steps(rng: np.random.Generator, rows: int) -> list[Figure]:
    """What a step does where outcomes come late: a hundredth of the range beside the one that is fitted."""
    scores = rng.beta(2, 5, 5_000)
    figures, table = [], []
    for late in (0, 500, 2_000):
        plain = 0.01
        fitted = tracker_step(scores, 1.0, plain, COVERAGE, late + SLOT_ROWS)
        cells = [f"{late:,}"]
        for name, step in (("a hundredth", plain), ("as fitted", fitted)):
            run = _run(rng, _steady, lambda rng, first, late=late: np.full(SLOT_ROWS, late), rows, step)
            swing = float(np.std(run.shares[len(run.shares) // 5 :]))
            row = figure(
                f"tracker: swing of miscoverage by thousand rows, outcomes {late:,} rows late, step {name}",
                swing,
                "sd",
                at_most=0.03 if step is fitted else None,
                note=f"step {step:.2g}; a source that stays; of independent rows it would be "
                f"{np.sqrt(COVERAGE * (1 - COVERAGE) / 1_000):.4f}",
            )
            figures.append(row)
            cells += [f"{step:.4f}", within(row, f"{swing:.4f}")]
        table.append(cells)
    print_table(
        "A source that stays: how much the share of missed outcomes swings from one thousand rows to the next",
        ("rows until an outcome", "step", "swing, sd", "step as fitted", "swing, sd"),
        table,
    )
    return figures
