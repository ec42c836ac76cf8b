"""A whole fleet without change: alarms, time and memory.

Every event is simulated: the counts of each stream and hour are a fresh multinomial draw. Only the engine's own work
is timed, hour by hour for the whole fleet: begin the slot, add the counts, look for alarms.
"""

from __future__ import annotations

import time

import numpy as np

from bench.detection.simulation import FLEET_THRESHOLD, P0, known_bets
from bench.report import Figure, figure, print_table, within
from streams.statistics.evidence import empty_base, empty_counts, start_slot, stream_log_evidence

EVENTS_PER_SLOT = 100
BLOCK = 500
"""Streams side by side, as one deployment's: larger blocks are no faster and need more memory."""


def measure(seed: int, quick: bool) -> list[Figure]:
    """50,000 streams, 720 hourly slots of 100 events; a tenth of both in a quick run."""
    streams, slots = (5_000, 72) if quick else (50_000, 720)
    rng = np.random.default_rng([seed, 1])
    blocks = []
    for _ in range(streams // BLOCK):
        bets = known_bets(BLOCK)  # each block has bets of its own, as deployments have
        blocks.append((bets, empty_base(bets), empty_counts(bets)))
    held = sum(base.nbytes for _, base, _ in blocks)
    bet = sum(
        array.nbytes for bets, _, _ in blocks for array in (bets.log_normaliser, bets.tempering, bets.log_weights)
    )
    alarms, seconds, drawing = 0, 0.0, 0.0
    for _ in range(slots):
        begin = time.process_time()
        live = rng.multinomial(EVENTS_PER_SLOT, P0, size=(len(blocks), BLOCK))
        drawn = time.process_time()
        for b, (bets, base, counts) in enumerate(blocks):
            base, counts = start_slot(bets, base, counts)
            counts += live[b]
            alarming = stream_log_evidence(bets, base, counts) >= FLEET_THRESHOLD
            if alarming.any():
                alarms += int(alarming.sum())
                base[alarming], counts[alarming] = -np.inf, 0
            blocks[b] = bets, base, counts
        drawing += drawn - begin
        seconds += time.process_time() - drawn
    scale = 50_000 / streams
    budget = streams * slots * np.exp(-FLEET_THRESHOLD)
    figures = [
        figure(
            "fleet without change: alarms",
            alarms,
            "alarms",
            at_most=1.0,
            note=f"{streams:,} streams, {slots} slots of {EVENTS_PER_SLOT} events; expected at most {budget:.2g}",
        ),
        figure(
            "fleet without change: time of one core per slot",
            seconds / slots * scale,
            "s",
            at_most=0.1,
            note=f"for 50,000 streams; drawing the events took another {drawing / slots * scale:.3f} s",
        ),
        figure(
            "fleet without change: memory of the evidence",
            held * scale / 1e6,
            "MB",
            at_most=16.0,
            note=f"for 50,000 streams of {bets.shapes.shape[0]} tilts, {base.dtype}; "
            f"their bets take {bet * scale / 1e6:.0f} MB",
        ),
    ]
    print_table(
        f"A fleet of {streams:,} streams, {slots} hourly slots, {EVENTS_PER_SLOT} events each, without change",
        ("", "value", "unit", "at most", ""),
        (
            (row["metric"].split(": ")[1], within(row, f"{row['value']:,}"), row["unit"], row["bound"], row["note"])
            for row in figures
        ),
    )
    return figures
