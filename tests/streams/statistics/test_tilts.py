"""The table of alternatives and its normaliser over the total variation ball."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from streams.statistics.arrays import NATS_PER_UNIT
from streams.statistics.layouts import CATEGORICAL, LAYOUTS, NUMERIC, nominal_probabilities
from streams.statistics.tilts import (
    CATEGORICAL_TILTS,
    LEAST_RISE_NATS,
    LOSS_TILTS,
    NUMERIC_TILTS,
    TILTS,
    Tilts,
    log_normaliser,
    log_prior,
    normal_scores,
    tilts_of,
)

TABLES = tuple(TILTS.values())


def normaliser_by_linear_programming(shape: np.ndarray, p0: np.ndarray, margin: float) -> float:
    """The supremum (1) with p = p0 + u - v, u, v >= 0, v <= p0, sum u = sum v <= margin."""
    e = np.exp(shape)
    k = len(p0)
    solution = linprog(
        -np.concatenate([e, -e]),
        A_ub=[[1.0] * k + [0.0] * k],
        b_ub=[margin],
        A_eq=[[1.0] * k + [-1.0] * k],
        b_eq=[0.0],
        bounds=[(0, None)] * k + [(0, float(p)) for p in p0],
    )
    return float(p0 @ e - solution.fun)


@pytest.mark.parametrize("tilts", TABLES, ids=lambda t: t.layout.name)
@pytest.mark.parametrize("margin", [0.0, 0.003, 0.05, 0.4])
def test_the_normaliser_is_the_supremum_over_the_ball(tilts: Tilts, margin: float) -> None:
    rng = np.random.default_rng(7)
    p0 = np.stack([rng.dirichlet(np.full(tilts.layout.size, a)) for a in (0.1, 1.0)])
    p0[0, rng.integers(tilts.layout.size)] = 0
    p0 /= p0.sum(axis=1, keepdims=True)
    got = log_normaliser(tilts.shapes, p0, margin)
    for stream in range(2):
        for i in range(0, tilts.size, 3):
            expected = np.log(normaliser_by_linear_programming(tilts.shapes[i], p0[stream], margin))
            assert -1e-8 <= got[stream, i] - expected <= NATS_PER_UNIT + 1e-8


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5), st.sampled_from(TABLES))
def test_no_distribution_in_the_ball_has_an_expected_e_value_above_one(seed: int, margin: float, tilts: Tilts) -> None:
    rng = np.random.default_rng(seed)
    p0, target = rng.dirichlet(np.full(tilts.layout.size, 0.5), size=2)
    distance = 0.5 * np.abs(target - p0).sum()
    inside = p0 + (target - p0) * min(1.0, margin / distance)
    e = np.exp(tilts.shapes - log_normaliser(tilts.shapes, p0, margin)[0][:, None])
    assert (e @ inside <= 1 + 1e-12).all()


def test_margins_may_differ_by_stream_and_must_be_distances() -> None:
    p0 = np.tile(nominal_probabilities(), (2, 1))
    both = log_normaliser(NUMERIC_TILTS.shapes, p0, [0.0, 0.1])
    assert (both[0] == log_normaliser(NUMERIC_TILTS.shapes, p0[0], 0.0)).all()
    assert (both[1] == log_normaliser(NUMERIC_TILTS.shapes, p0[1], 0.1)).all()
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="margin"):
            log_normaliser(NUMERIC_TILTS.shapes, p0, wrong)


def test_a_margin_of_one_leaves_nothing_to_bet_on() -> None:
    """What a reference of a handful of events leads to: no event can then raise the evidence."""
    log_z = log_normaliser(NUMERIC_TILTS.shapes, nominal_probabilities(), 1.0)
    assert (NUMERIC_TILTS.shapes <= log_z[0][:, None]).all()


@pytest.mark.parametrize("tilts", TABLES, ids=lambda t: t.layout.name)
def test_log_e_values_live_on_the_grid(tilts: Tilts) -> None:
    p0 = np.random.default_rng(3).dirichlet(np.ones(tilts.layout.size), size=5)
    for values in (tilts.shapes, log_normaliser(tilts.shapes, p0, 0.05)):
        assert (values / NATS_PER_UNIT == np.round(values / NATS_PER_UNIT)).all()
        assert np.abs(values).max() < 16


@pytest.mark.parametrize("tilts", TABLES, ids=lambda t: t.layout.name)
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_prior_weights_add_up_and_skip_bins_that_cannot_occur(tilts: Tilts, margin: float) -> None:
    counts = np.zeros((2, tilts.layout.size), int)
    counts[0, 3:5] = 100
    counts[1] = 1
    weights = np.exp(log_prior(tilts, counts, margin))
    assert np.allclose(weights.sum(axis=1), 1)
    raised = tilts.shapes[np.arange(tilts.size), tilts.bins] > LEAST_RISE_NATS
    rare = np.isin(tilts.bins, tilts.layout.rare_bins) & raised
    offered = np.isfinite(log_prior(tilts, np.ones(tilts.layout.size), margin)[0])
    addressed = (tilts.bins >= 0) & ~rare & offered
    assert (weights[0][addressed] > 0).tolist() == np.isin(tilts.bins[addressed], [3, 4]).tolist()
    assert (weights[:, rare] > 0).all()
    assert ((tilts.bins >= 0) & offered).any() or tilts is LOSS_TILTS


def test_clipped_shapes_are_bet_on_with_a_margin_and_unclipped_ones_without() -> None:
    weights = np.exp(log_prior(NUMERIC_TILTS, np.ones((3, 15)), [0.0, 0.004, 0.05]))
    shift = np.array([family.startswith("shift") for family in NUMERIC_TILTS.families])
    clipped = np.array([family.startswith("clipped") for family in NUMERIC_TILTS.families])
    assert (weights[0] == weights[1]).all()
    assert (weights[0][shift] > 0).all() and weights[0][clipped].sum() < 0.05
    assert (weights[2][shift] == 0).all() and (weights[2][clipped] > 0).all()
    assert (np.exp(log_prior(NUMERIC_TILTS, np.ones(15), 0.05)[0]) == weights[2]).all()


def test_missing_values_do_not_speak_for_a_shift() -> None:
    shifts = NUMERIC_TILTS.bins < 0
    assert (NUMERIC_TILTS.shapes[shifts, 14] == 0).all()
    assert normal_scores()[14] == 0
    assert np.allclose(normal_scores()[1:13], -normal_scores()[12:0:-1])


def test_tables_belong_to_layouts() -> None:
    assert tilts_of(NUMERIC) is NUMERIC_TILTS
    assert tilts_of(CATEGORICAL) is CATEGORICAL_TILTS
    for tilts in TABLES:
        assert tilts_of(LAYOUTS[tilts.layout.name]) is tilts
        assert tilts.shapes.shape == (tilts.size, tilts.layout.size) == (len(tilts.bins), tilts.layout.size)
        for weights in (tilts.family_weights, tilts.margin_weights):
            assert weights is not None and sum(weights.values()) == pytest.approx(1)
