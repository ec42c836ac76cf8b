"""Alarms by their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.monitor import Monitors
from streams.specification import FalseAlarmBudget
from streams.statistics.arrays import log_sum_exp
from streams.statistics.evidence import stream_log_evidence


@given(rows=st.integers(0, 400), strength=st.floats(0, 1), muted=st.integers(0, 7), seed=st.integers(0, 50))
def test_a_monitor_alarms_exactly_when_its_average_reaches_the_threshold(
    samples: Any, rows: int, strength: float, muted: int, seed: int
) -> None:
    monitors = Monitors(samples.spec(), samples.baseline(), 0, 0)
    monitors.start(0, 0, 0.0)
    rng = np.random.default_rng(seed)
    for block, state in zip(monitors.blocks, monitors.states, strict=True):
        p = (1 - strength) * block.p0 + strength * np.eye(block.layout.size)[3]
        state.slot_counts += np.array([rng.multinomial(rows, row / row.sum()) for row in p])
    numeric = monitors.states[0]
    numeric.muted[:] = [bool(muted >> i & 1) for i in range(len(numeric.muted))]
    monitors.hush()
    due = []
    for monitor in monitors.monitors.values():
        parts = [
            np.where(state.silent, -np.inf, stream_log_evidence(block.bets, state.base, state.slot_counts) + weights)
            for block, state, weights in zip(monitors.blocks, monitors.states, monitor.log_weights, strict=True)
        ]
        if log_sum_exp(np.concatenate(parts)) >= monitor.threshold_nats:
            due.append(monitor.name)
    assert [alarm.monitor.name for alarm in monitors.alarms(0)] == due


def test_start_slots_without_events_are_evidence_of_nothing(samples: Any) -> None:
    budget = FalseAlarmBudget(100, 3_600_000, "deployment")
    monitors = Monitors(samples.spec(false_alarms=budget), samples.baseline(), 0, 0)
    most_nats = max(monitor.threshold_nats for monitor in monitors.monitors.values())
    slots = 4 * int(np.exp(most_nats))
    for slot in range(slots):
        monitors.start(slot * 60_000_000, slot, 0.0)
        assert monitors.alarms(slot * 60_000_000) == []


def test_where_some_streams_are_silent_the_others_have_a_start_in_every_slot(samples: Any) -> None:
    with_silence = Monitors(samples.spec(), samples.baseline(), 0, 0)
    busy = Monitors(samples.spec(), samples.baseline(), 0, 0)
    rng = np.random.default_rng(3)
    block = busy.blocks[0]
    for slot in range(20):
        for monitors in (with_silence, busy):
            monitors.start(slot, slot, 0.0)
        counts = np.array([rng.multinomial(50, row / row.sum()) for row in block.p0])
        busy.states[0].slot_counts += counts
        with_silence.states[0].slot_counts[1:] += counts[1:]
    silent, all_busy = with_silence.states[0].base, busy.states[0].base
    np.testing.assert_array_equal(silent[1:], all_busy[1:])
    used = np.isfinite(block.bets.log_weights[0])
    np.testing.assert_array_equal(silent[0][used], np.zeros(used.sum()))  # one whole start, and nothing since
