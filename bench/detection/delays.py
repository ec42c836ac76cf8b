"""How long it takes to find a change, against what information theory allows.

A detector whose false alarms are bounded by starts / c needs at least log(c) / KL events on average, with KL the
divergence of the changed distribution from the baseline (Lorden, "Procedures for reacting to a change in
distribution", Annals of Mathematical Statistics 42, 1971). c = 3.6e7 is the threshold of the fleet of
:mod:`bench.detection.fleet`: 50,000 streams that start anew every hour, 100 events each. The delays held to a bound are
those of a change that begins with such an hour; beside them stand those of a change at any moment of a stream that has
run for a day, and of one after which no start follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.detection.simulation import FLEET_THRESHOLD, P0, bin_probabilities, known_bets
from bench.report import Figure, figure, print_table, within
from streams.statistics.arrays import Counts, Floats
from streams.statistics.budget import best_growth_nats
from streams.statistics.replay import replay

EVENTS_PER_SLOT = 100
WARM_SLOTS = 24
NEVER = 10**9

SHIFT_BOUNDS = {0.1: 1.10, 0.2: 1.15, 0.3: 1.25, 0.5: 1.35, 1.0: 1.55}
"""By shift of the mean in standard deviations: at most so many times the limit."""

SCALES = (1.3, 0.75)
SCALE_BOUND = 2.0
RAMPS = (2_000, 10_000, 50_000)
"""Events over which the mean rises to half a standard deviation."""

RAMP_TOP = 0.5
MARGINS = (0.02, 0.05, 0.1)
MARGIN_BOUND = 1.75
PLAIN_LIMIT = 10_000
"""Changes that take longer even at the limit lie at the edge of the margin: measured, but not held to a bound."""


@dataclass(frozen=True)
class Delay:
    """``mean``: mean number of events until the alarm, a lower limit of it if some streams had none; ``error``: its
    standard error; ``found``: share of the streams that had one.
    """

    mean: float
    error: float
    found: float


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on delay."""
    streams = 400 if quick else 1_000
    return [
        *sudden(np.random.default_rng([seed, 1]), streams),
        *ramps(np.random.default_rng([seed, 2]), streams),
        *margins(np.random.default_rng([seed, 3]), streams),
    ]


def normal_divergence(shift: float, scale: float) -> float:
    """KL(N(shift, scale^2) || N(0, 1)) in nats per event."""
    return (scale**2 - 1 + shift**2) / 2 - float(np.log(scale))


def delay(counts: Counts, events_per_step: int, margin: float = 0.0, start_every: int = EVENTS_PER_SLOT) -> Delay:
    """The delay of streams with these counts int64[S, T, K] since the change, checked at each step.

    ``start_every``: events from one start slot to the next, of which the first begins with the change.
    """
    result = _first_alarms(counts, events_per_step, margin, start_every)
    found = result >= 0
    events = np.where(found, result + 1, counts.shape[1]) * events_per_step
    return Delay(float(events.mean()), float(events.std() / np.sqrt(len(events))), float(found.mean()))


def _first_alarms(counts: Counts, events_per_step: int, margin: float, start_every: int) -> Counts:
    steps = max(1, round(start_every / events_per_step))
    bets = known_bets(len(counts), margin)
    return replay(bets, counts, steps, FLEET_THRESHOLD, until_first_alarm=True).first_alarm_step


def delay_at_any_moment(rng: np.random.Generator, p1: Floats, streams: int, events_per_step: int) -> float:
    """Mean delay, in events, of a change at a random step of an hour of streams that were unchanged for a day."""
    steps_per_slot = EVENTS_PER_SLOT // events_per_step
    change = WARM_SLOTS * steps_per_slot + rng.integers(0, steps_per_slot, streams)
    steps = change.max() + 700
    counts = rng.multinomial(events_per_step, p1, size=(streams, steps))
    unchanged = np.arange(steps) < change[:, None]
    counts[unchanged] = rng.multinomial(events_per_step, P0, size=int(unchanged.sum()))
    first = _first_alarms(counts, events_per_step, 0.0, EVENTS_PER_SLOT)
    later = first >= change
    return float((first - change + 1)[later].mean() * events_per_step)


def sudden(rng: np.random.Generator, streams: int) -> list[Figure]:
    """Shifts of the mean and changes of the scale, without a margin."""
    figures, table = [], []
    changes = [(shift, 1.0, bound) for shift, bound in SHIFT_BOUNDS.items()]
    changes += [(0.0, scale, SCALE_BOUND) for scale in SCALES]
    for shift, scale, bound in changes:
        p1 = bin_probabilities(shift, scale)
        limit = FLEET_THRESHOLD / normal_divergence(shift, scale)
        binned_limit = FLEET_THRESHOLD / best_growth_nats(p1, P0, 0.0)
        per_step = max(step for step in (1, 2, 4, 5, 10, 20) if step <= max(1.0, limit / 150))
        counts = rng.multinomial(per_step, p1, size=(streams, 700))
        measured = delay(counts, per_step)
        alone = delay(counts, per_step, start_every=NEVER)
        any_moment = delay_at_any_moment(rng, p1, streams // 4, per_step)
        row = figure(
            f"delay over the limit, {_name(shift, scale)}",
            measured.mean / limit,
            "ratio",
            at_most=bound,
            note=f"{measured.mean:.0f} ± {1.96 * measured.error:.0f} events, log(c)/KL = {limit:.0f}, of the bins "
            f"{binned_limit:.0f}; at any moment {any_moment / limit:.2f}, without a further start "
            f"{alone.mean / limit:.2f}",
        )
        figures.append(row)
        table.append(
            (
                _name(shift, scale),
                f"{measured.mean:,.0f}",
                f"{limit:,.0f}",
                within(row, f"{row['value']:.2f}"),
                f"{bound:.2f}",
                f"{measured.mean / binned_limit:.2f}",
                f"{any_moment / limit:.2f}",
                f"{alone.mean / limit:.2f}",
            )
        )
    print_table(
        f"Delay in events until c = 3.6e7 ({FLEET_THRESHOLD:.1f} nats), {streams} streams each, no margin",
        (
            "change",
            "mean delay",
            "log(c)/KL",
            "ratio",
            "at most",
            "to the bins' limit",
            "at any moment",
            "no further start",
        ),
        table,
    )
    return figures


def ramps(rng: np.random.Generator, streams: int) -> list[Figure]:
    """A mean that rises slowly. The limit is the event at which the divergence summed so far reaches log c."""
    figures, table = [], []
    for length in RAMPS:
        events = np.arange(length)
        limit = int(np.searchsorted(np.cumsum((RAMP_TOP * events / length) ** 2 / 2), FLEET_THRESHOLD)) + 1
        per_step = max(1, limit // 250)
        steps = np.arange(2 * limit // per_step)
        shift: Floats = np.minimum(RAMP_TOP * (steps + 0.5) * per_step / length, RAMP_TOP)
        measured = delay(rng.multinomial(per_step, bin_probabilities(shift), size=(streams, len(steps))), per_step)
        reached = min(RAMP_TOP, RAMP_TOP * measured.mean / length)
        row = figure(
            f"delay over the limit, ramp to {RAMP_TOP} sd over {length:,} events",
            measured.mean / limit,
            "ratio",
            note=f"{measured.mean:,.0f} events, limit {limit:,}, found at a shift of {reached:.2f} sd",
        )
        figures.append(row)
        table.append((f"over {length:,}", f"{measured.mean:,.0f}", f"{limit:,}", row["value"], f"{reached:.2f} sd"))
    print_table(
        f"A mean that rises to {RAMP_TOP} sd, delay in events since the rise began",
        ("ramp", "mean delay", "limit", "ratio", "shift when found"),
        table,
    )
    return figures


def margins(rng: np.random.Generator, streams: int) -> list[Figure]:
    """The price of a margin: the limit is log(c) over the least divergence from all that counts as no change."""
    figures, table = [], []
    for shift in SHIFT_BOUNDS:
        cells: list[str] = []
        for margin in MARGINS:
            p1 = bin_probabilities(shift)
            growth = best_growth_nats(p1, P0, margin)
            if growth == 0.0:
                cells.append("within the margin")
                continue
            limit = FLEET_THRESHOLD / growth
            per_step = max(1, round(limit / 100))
            measured = delay(rng.multinomial(per_step, p1, size=(streams // 2, 400)), per_step, margin)
            row = figure(
                f"delay over the limit, shift {shift} sd, margin {margin}",
                measured.mean / limit,
                "ratio",
                at_most=MARGIN_BOUND if limit <= PLAIN_LIMIT else None,
                note=f"{measured.mean:.0f} events, log(c) over the best growth beyond the margin: {limit:.0f}; "
                f"found in {measured.found:.0%} of the streams",
            )
            figures.append(row)
            cells.append(within(row, f"{measured.mean:,.0f} / {limit:,.0f} = {row['value']:.2f}"))
        table.append((f"{shift} sd", *cells))
    print_table(
        "With a margin: mean delay over log(c) / best growth beyond the margin",
        ("shift", *(f"margin {margin}" for margin in MARGINS)),
        table,
    )
    return figures


def _name(shift: float, scale: float) -> str:
    return f"shift {shift} sd" if shift else f"scale × {scale}"
