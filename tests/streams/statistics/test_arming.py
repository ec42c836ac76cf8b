"""Arming: what breaks its bound on data like the reference is widened, and only that."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from streams.statistics import arming
from streams.statistics.arming import FACTORS, Armed, ReplayBlock, arm, steps_of, upper_limit
from streams.statistics.dependence import tempering
from streams.statistics.evidence import make_bets
from streams.statistics.layouts import CATEGORICAL, NUMERIC, bin_numeric, count_codes, fit_numeric
from streams.statistics.margins import effective_margins
from streams.statistics.replay import replay, step_counts
from streams.statistics.tilts import CATEGORICAL_TILTS, NUMERIC_TILTS

Floats = NDArray[np.float64]
ROWS = 10_000


def autoregressive(phi: float, rows: int, seed: int) -> Floats:
    noise = np.random.default_rng(seed).normal(size=rows + 500)
    return np.asarray(signal.lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise)[500:])


def replay_block(columns: list[Floats], margin: float, exponent: float | None = None) -> ReplayBlock:
    """The reference of a monitor over these columns; ``exponent`` replaces the measured tempering."""
    rows, streams = len(columns[0]), len(columns)
    steps = steps_of(rows, streams)
    step = np.arange(rows) * steps // rows
    codes = [bin_numeric(fit_numeric(column), column) for column in columns]
    counts = np.stack([np.bincount(step * 15 + c, minlength=steps * 15).reshape(steps, 15) for c in codes], axis=1)
    measured = np.array([tempering(c, NUMERIC_TILTS) for c in codes])
    return ReplayBlock(
        tilts=NUMERIC_TILTS,
        counts=counts,
        margin=effective_margins(margin, counts.sum(axis=0), 1e-3, NUMERIC),
        tempering=measured if exponent is None else np.full_like(measured, exponent),
        log_weights=np.full(streams, -np.log(streams)),
    )


def on_fresh_data(columns: list[Floats], block: ReplayBlock, armed: Armed, *, widened: bool) -> float:
    """Alarms over bound of the streams' own detectors on ten times as many new rows of AR(1), phi = 0.9."""
    factors = armed.factors[0] if widened else np.ones(len(columns))
    bets = make_bets(NUMERIC_TILTS, block.counts.sum(axis=0), block.margin, block.tempering * factors[:, None])
    codes = [
        bin_numeric(fit_numeric(column), autoregressive(0.9, 10 * ROWS, 900 + i)) for i, column in enumerate(columns)
    ]
    steps = step_counts(np.array(codes), ROWS // 512, NUMERIC.size)
    return replay(bets, steps, 1, armed.threshold_nats).alarms_over_bound(armed.threshold_nats)


def test_independent_events_hold_and_their_alarms_can_be_counted() -> None:
    rng = np.random.default_rng(1)
    block = replay_block([rng.normal(size=ROWS) for _ in range(10)], 0.05)
    armed = arm([block], seed=1)
    assert armed.widened == 1
    assert armed.alarms == armed.first_alarms <= 2, "the margin of the reference's size leaves nearly none"
    armed = arm([dataclasses.replace(block, margin=np.zeros(10))], seed=1)
    assert armed.widened == 1
    assert 10 < armed.alarms < armed.bound, "without a margin there are about half as many as allowed"
    assert armed.bound == pytest.approx(armed.starts / np.exp(armed.threshold_nats))


def test_dependence_that_nobody_tempered_is_widened_until_new_data_keep_the_bound() -> None:
    columns = [autoregressive(0.9, ROWS, seed) for seed in range(6)]
    block = replay_block(columns, 0.05, exponent=1.0)
    armed = arm([block], seed=1)
    assert armed.first_alarms > 10 * armed.bound
    assert armed.alarms <= armed.bound
    assert armed.widened in FACTORS
    assert on_fresh_data(columns, block, armed, widened=False) > 5
    assert on_fresh_data(columns, block, armed, widened=True) <= 1


def test_measured_tempering_holds() -> None:
    columns = [autoregressive(0.9, ROWS, seed) for seed in range(6)]
    assert arm([replay_block(columns, 0.05)], seed=1).widened == 1


def test_a_daily_cycle_with_measured_tempering_holds() -> None:
    rng = np.random.default_rng(3)
    cycle = 2 * np.sin(2 * np.pi * np.arange(ROWS) / (ROWS / 28))
    columns = [cycle + rng.normal(size=ROWS) for _ in range(4)]
    assert arm([replay_block(columns, 0.05)], seed=1).widened == 1
    assert arm([replay_block(columns, 0.05, exponent=1.0)], seed=1).widened < 0.5


def test_only_the_streams_that_break_the_bound_are_widened() -> None:
    rng = np.random.default_rng(4)
    columns = [rng.normal(size=ROWS) for _ in range(5)]
    columns.insert(2, autoregressive(0.9, ROWS, 4))
    factors = arm([replay_block(columns, 0.05, exponent=1.0)], seed=1).factors[0]
    assert factors[2] < 0.5
    assert (np.delete(factors, 2) == 1).all()


def test_a_stream_that_nothing_helps_is_refused_and_the_others_stay() -> None:
    rng = np.random.default_rng(5)
    columns = [rng.normal(size=ROWS) for _ in range(3)]
    columns.append(rng.normal(size=ROWS) + 30.0 * (np.arange(ROWS) > ROWS / 2))
    armed = arm([replay_block(columns, 0.05, exponent=1.0)], seed=1)
    assert armed.factors[0].tolist() == [1, 1, 1, 0]
    assert armed.widened == 1
    alone = arm([replay_block(columns[3:], 0.05, exponent=1.0)], seed=1)
    assert alone.widened == 0
    assert alone.alarms == 0


def test_layouts_are_replayed_together() -> None:
    rng = np.random.default_rng(6)
    numeric = replay_block([rng.normal(size=ROWS)], 0.05)
    codes = np.repeat(rng.choice(2, size=ROWS // 500, p=[0.5, 0.5]), 500)
    steps = len(numeric.counts)
    step = np.arange(ROWS) * steps // ROWS
    width = CATEGORICAL.size
    counts = np.bincount(step * width + codes, minlength=steps * width).reshape(steps, 1, width)
    categorical = ReplayBlock(
        CATEGORICAL_TILTS, counts, np.array([0.05]), np.ones((1, CATEGORICAL_TILTS.size)), np.log([0.5])
    )
    numeric = dataclasses.replace(numeric, log_weights=np.log([0.5]))
    armed = arm([numeric, categorical], seed=1)
    assert armed.factors[0] == 1
    assert armed.factors[1] < 0.5


def test_a_replay_agrees_with_the_detector_in_logarithms() -> None:
    columns = [autoregressive(0.6, 3000, seed) for seed in range(3)]
    block = replay_block(columns, 0.01, exponent=0.8)
    factors = np.array([1.0, 0.7, 0.5])
    paths = arming._Paths.draw([block], 7)
    alone = paths.alarms_alone(block, factors)
    for number in range(len(paths.order)):
        reference = np.einsum("t,tsk->sk", paths.multiplicity[number], block.counts)
        bets = make_bets(NUMERIC_TILTS, reference, block.margin, block.tempering * factors[:, None])
        path = block.counts[paths.order[number]].transpose(1, 0, 2)
        assert np.array_equal(alone[number], replay(bets, path, 1, paths.threshold_nats).alarms)
    one = ReplayBlock(block.tilts, block.counts[:, :1], block.margin[:1], block.tempering[:1], np.zeros(1))
    assert np.array_equal(paths.alarms([one], [factors[:1]]), alone[:, 0]), "a monitor over one stream is that stream"


def test_paths_are_moving_blocks_of_the_reference() -> None:
    rng = np.random.default_rng(8)
    order = arming._moving_blocks(rng, 50, 160)
    assert order.shape == (50, 160)
    jumps = np.diff(order, axis=1) % 160 != 1
    assert set(np.flatnonzero(jumps.any(axis=0)) % 10) == {9}, "a path jumps after every sixteenth, and only there"
    occurrences = count_codes(order, NUMERIC)
    assert occurrences.min() > 0


def test_the_same_seed_gives_the_same_result() -> None:
    block = replay_block([autoregressive(0.9, 3000, 9)], 0.02, exponent=0.3)
    first, again = arm([block], seed=11), arm([block], seed=11)
    assert (first.alarms, first.first_alarms, first.starts) == (again.alarms, again.first_alarms, again.starts)
    assert np.array_equal(first.factors[0], again.factors[0])


@pytest.mark.parametrize("rows", [1, 24, 200])
def test_a_small_reference_can_be_replayed(rows: int) -> None:
    armed = arm([replay_block([np.random.default_rng(10).normal(size=rows)], 0.0)], seed=1)
    assert armed.widened == 1


def test_the_upper_limit_is_the_exact_one_of_a_poisson_variable() -> None:
    steady = np.array([[5, 0], [5, 0], [5, 0], [5, 0]])
    assert upper_limit(steady) == pytest.approx([stats.chi2.ppf(0.95, 2 * 21) / 2, -np.log(0.05)])


def test_the_upper_limit_is_wider_for_alarms_in_clusters_and_covers() -> None:
    rng = np.random.default_rng(12)
    missed = 0
    for _ in range(400):
        clusters = rng.poisson(2.0, size=16)
        alarms = np.array([rng.poisson(3.0, size=k).sum() for k in clusters])
        missed += bool(upper_limit(alarms[:, None])[0] < 16 * 6.0)
    assert missed / 400 < 0.12


def test_mismatched_shapes_are_refused() -> None:
    block = replay_block([autoregressive(0.0, 500, 13)], 0.05)
    with pytest.raises(ValueError, match="margin"):
        dataclasses.replace(block, margin=np.zeros(2))
    with pytest.raises(ValueError, match="counts"):
        dataclasses.replace(block, counts=block.counts[:, :, :5])
