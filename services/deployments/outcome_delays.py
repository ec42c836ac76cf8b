"""How long a change among outcomes goes unnoticed: a model that is wrong more often, labels that stay out, groups that
are treated otherwise.

What changes is put in the terms of the streams' ranks (:mod:`streams.statistics.conditional`), in which the reference
is uniform whatever the age of an outcome, so that no condition has to be known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from streams.baseline import FAIRNESS_ROLE, LABELS_ROLE, OUTCOME_ROLE, Baseline, BaselineStream, OutcomeReference
from streams.monitor import Monitors
from streams.outcomes.cohorts import KNOWN, OPEN
from streams.outcomes.evidence import LOSS
from streams.specification import CONCEPT_DRIFT, FAIRNESS, LABELS
from streams.statistics.budget import expected_delay_events, start_mass_log
from streams.statistics.distances import total_variation
from streams.statistics.evidence import rounded_down
from streams.statistics.layouts import NUMERIC, NUMERIC_MISSING

Floats = NDArray[np.float64]

DROPS = (0.02, 0.05, 0.1)
"""Falls of accuracy, and moves of a group's rate, that delays are stated for; 0.01 is a point."""

ERROR_FACTORS = (1.1, 1.25, 1.5)
"""Growths of all errors of predicted numbers."""

STAY_OUT = (0.1, 0.5, 1.0)
"""Shares of the outcomes that stay out."""

_HARDEST_RATE = 0.5
"""A move of a rate by some points is hardest to tell from a rate of one half."""


@dataclass(frozen=True, slots=True)
class OutcomeDelay:
    """The expected delay until one change among outcomes, seen in one stream alone, raises its monitor's alarm.

    Attributes:
        change: What changes, in words: 'accuracy falls by 5 points'.
        stream: The stream; of several the one in the middle, the slower of two.
        streams: How many it was chosen from.
        events: Its expected number of events; infinite where the change is not looked for, or cannot be told from the
            margin.
        inside_margin: Whether the change is smaller than the margin: not looked for, by design.
        per_prediction: Events of the stream per prediction, as in the reference.
        per_outcome: Events per outcome; None where they do not come with outcomes.
        wait_us: What passes before the first of them can tell.
    """

    change: str
    stream: str
    streams: int
    events: float
    inside_margin: bool
    per_prediction: float
    per_outcome: float | None = None
    wait_us: int = 0

    @property
    def counted(self) -> str:
        """What its events are."""
        return "predictions" if self.per_outcome is None else "outcomes"


def worse(p: Floats, error_rate: float, drop: float) -> Floats:
    """Losses of a classifier whose accuracy falls, float64[15], from their distribution in ranks before, float64[15].

    Of n outcomes e n were wrong and had the largest losses; now (e + d) n are, and have losses as the wrong ones had,
    the others as the right ones: with the rank u of a loss, P1(u) = u (1 - e - d) / (1 - e) up to u = 1 - e, and from
    there on (1 - e - d) + (u - 1 + e) (e + d) / e. Of the rest of the losses, missing ones, there are as many.
    """
    right, wrong = 1 - error_rate, error_rate

    def after(u: Floats) -> Floats:
        below = np.minimum(u, right) * ((right - drop) / right)
        return np.asarray(below + np.maximum(u - right, 0.0) * ((wrong + drop) / wrong if wrong > 0 else 0.0))

    return _moved(p, after)


def larger(p: Floats, factor: float) -> Floats:
    """Losses of a regression whose errors all grow by a factor, float64[15].

    Errors are taken to be normal: a loss of rank u, absolute or squared, is that of an error of Phi^-1((1 + u) / 2)
    standard deviations.
    """
    return _moved(p, lambda u: np.asarray(2 * ndtr(ndtri((1 + u) / 2) / factor) - 1))


def moved_rate(p: Floats, rate: float, move: float) -> Floats:
    """A rate that moves, float64[15]: its ones have the upper ranks, see :func:`worse`."""
    return worse(p, rate, move)


def _moved(p: Floats, after: Callable[[Floats], Floats]) -> Floats:
    """A distribution in ranks after its cumulative probabilities moved; the share of missing values stays."""
    present = p.copy()
    present[NUMERIC_MISSING] = 0.0
    total = float(present.sum())
    upper = np.minimum(np.cumsum(present) / (total or 1.0), 1.0)
    cumulative = after(upper)
    cumulative[upper >= 1.0] = 1.0
    moved = np.diff(cumulative, prepend=0.0) * total
    moved[NUMERIC_MISSING] = p[NUMERIC_MISSING]
    return np.asarray(moved)


def outcome_delays(monitors: Monitors, baseline: Baseline, monitor: str) -> list[OutcomeDelay]:
    """Expected delays of a monitor of outcomes, one entry per change; empty for other monitors, and where the baseline
    knows no outcomes.

    First order, see :func:`streams.statistics.budget.expected_delay_events`, for the first version that is served and
    of one stream alone: what several tell together is found sooner.
    """
    reference, compiled = baseline.outcomes, monitors.monitors.get(monitor)
    if reference is None or compiled is None:
        return []
    if monitor == CONCEPT_DRIFT:
        return _concept_drift(Watched(monitors, monitor), reference)
    if monitor == LABELS:
        return _labels(Watched(monitors, monitor), baseline, reference)
    return _fairness(Watched(monitors, monitor), reference) if monitor == FAIRNESS else []


class Watched:
    """The streams that a monitor bets on."""

    def __init__(self, monitors: Monitors, name: str) -> None:
        self._blocks, self._monitor = monitors.blocks, monitors.monitors[name]

    def streams(self, role: str, name: str | None = None) -> list[tuple[int, int, BaselineStream]]:
        """Block, index and stream of those of a role that have a weight."""
        return [
            (b, s, stream)
            for b, (block, weights) in enumerate(zip(self._blocks, self._monitor.log_weights, strict=True))
            for s, stream in enumerate(block.streams)
            if stream.role == role and np.isfinite(weights[s]) and (name is None or stream.name == name)
        ]

    def delay(self, b: int, index: int, after: Callable[[Floats], Floats]) -> tuple[float, bool]:
        """Expected events until one stream, whose distribution becomes ``after`` of what it was, raises the alarm; and
        whether that is within its margin.
        """
        block, stream = self._blocks[b], self._blocks[b].streams[index]
        before = stream.counts / stream.counts.sum()
        changed = after(before)
        weights = self._monitor.log_weights[b][:, None]
        bets = dataclasses.replace(block.bets, log_weights=rounded_down(block.bets.log_weights + weights))
        events = expected_delay_events(bets, changed, self._monitor.threshold_nats, start_log_mass=start_mass_log(0))
        return float(events[index]), bool(total_variation(changed, before) <= stream.margin_tv)


def _concept_drift(watched: Watched, reference: OutcomeReference) -> list[OutcomeDelay]:
    changes: list[tuple[str, Callable[[Floats], Floats]]] = []
    if reference.classes:
        errors = _error_rate(reference)
        if errors is None:
            return []
        changes = [
            (f"accuracy falls by {points(drop)}", partial(worse, error_rate=errors, drop=drop))
            for drop in DROPS
            if errors + drop <= 1
        ]
    else:
        changes = _error_growths("errors")
    losses = [found for found in watched.streams(OUTCOME_ROLE, LOSS) if found[2].layout is NUMERIC]
    return _delays(watched, losses, reference, changes)


def _fairness(watched: Watched, reference: OutcomeReference) -> list[OutcomeDelay]:
    groups = [found for found in watched.streams(FAIRNESS_ROLE) if found[2].layout is NUMERIC]
    if not reference.classes:
        return _delays(watched, groups, reference, _error_growths("a group's errors"))
    changes = [
        (f"a group's rate moves by {points(move)}", partial(moved_rate, rate=_HARDEST_RATE, move=move))
        for move in DROPS
    ]
    return _delays(watched, groups, reference, changes)


def _error_growths(whose: str) -> list[tuple[str, Callable[[Floats], Floats]]]:
    return [(f"{whose} grow by {100 * (factor - 1):.0f} %", partial(larger, factor=factor)) for factor in ERROR_FACTORS]


def _delays(
    watched: Watched,
    streams: Sequence[tuple[int, int, BaselineStream]],
    reference: OutcomeReference,
    changes: Sequence[tuple[str, Callable[[Floats], Floats]]],
) -> list[OutcomeDelay]:
    """Per change the delay of the stream in the middle, by how many outcomes of all pass until its alarm."""
    found = []
    for change, after in changes:
        delays = []
        for b, index, stream in streams:
            events, inside = watched.delay(b, index, after)
            of_all = float(stream.counts.sum()) / max(reference.resolved, 1)
            delays.append((events / of_all, stream.label, events, inside, of_all))
        if delays:
            _, name, events, inside, of_all = sorted(delays)[len(delays) // 2]
            coverage = reference.resolved / max(reference.rows, 1)
            found.append(OutcomeDelay(change, name, len(delays), events, inside, of_all * coverage, of_all))
    return found


def _labels(watched: Watched, baseline: Baseline, reference: OutcomeReference) -> list[OutcomeDelay]:
    """Per change the delay at the age that tells it soonest, predictions coming as in the reference."""
    ages_us: list[float] = next((d.arrays["ages_us"].tolist() for d in baseline.derived if d.kind == LABELS_ROLE), [])
    streams = [
        found for j, _ in enumerate(ages_us, start=1) for found in watched.streams(LABELS_ROLE, f"{LABELS_ROLE}:{j}")
    ]
    if len(streams) != len(ages_us):
        return []  # an age that is not watched breaks the chain of shares
    spacing_us = (baseline.last_event_us - baseline.first_event_us) / max(baseline.rows, 1)
    known = np.array([stream.counts[KNOWN] / stream.counts.sum() for _, _, stream in streams])
    found = []
    for share in STAY_OUT:
        change = "no outcomes come" if share >= 1 else f"{100 * share:.0f} % of the outcomes stay out"
        delays = []
        for (b, index, stream), age_us, after in zip(streams, ages_us, known_after(known, share), strict=True):
            events, inside = watched.delay(b, index, partial(with_known, known=float(after)))
            of_all = min(float(stream.counts.sum()) / max(reference.rows, 1), 1.0)
            wait_us = int(age_us)
            delays.append((wait_us + events / of_all * spacing_us, events, stream.label, inside, of_all, wait_us))
        if delays:
            _, events, name, inside, of_all, wait_us = min(delays)
            found.append(OutcomeDelay(change, name, 1, events, inside, of_all, None, wait_us))
    return found


def known_after(known: Floats, share: float) -> Floats:
    """Shares float64[J] of those open at one age that are known at the next, where a share of all outcomes stays out.

    With K_j known by age j before, (1 - s) K_j are after, and q_j = (K_j - K_(j-1)) / (1 - K_(j-1)).
    """
    by_age = np.concatenate(([0.0], 1 - np.cumprod(1 - known))) * (1 - share)
    return np.asarray(np.diff(by_age) / np.maximum(1 - by_age[:-1], np.finfo(np.float64).tiny))


def with_known(p: Floats, known: float) -> Floats:
    """The categories of labels, float64[23], with another share of those that are known."""
    after = p.copy()
    after[OPEN] += p[KNOWN] - known
    after[KNOWN] = known
    return after


def _error_rate(reference: OutcomeReference) -> float | None:
    """Share of the reference's outcomes of which the predicted class was another; None where no class was predicted."""
    counts = reference.counts.get("confusion")
    if counts is None or not counts.sum():
        return None
    size = len(reference.classes)
    confusion = counts.sum(axis=0).reshape(size, size)
    return float(1 - np.trace(confusion) / confusion.sum())


def points(share: float) -> str:
    """A difference of shares, in words."""
    return f"{100 * share:.0f} points"
