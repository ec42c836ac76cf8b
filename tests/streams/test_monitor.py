"""Alarms by their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.monitor import Monitors
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
