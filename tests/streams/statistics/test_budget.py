"""Thresholds from the operator's number, and what they cost in delay."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from streams.statistics.budget import alarm_threshold_nats, best_growth_nats, expected_delay_events, start_mass_log
from streams.statistics.evidence import make_bets
from streams.statistics.layouts import nominal_probabilities
from streams.statistics.tilts import NUMERIC_TILTS

HOUR_MS, MONTH_MS = 3_600_000, 30 * 24 * 3_600_000


def test_the_threshold_is_starts_over_accepted_false_alarms() -> None:
    assert alarm_threshold_nats(1, MONTH_MS, HOUR_MS) == pytest.approx(math.log(720))
    assert alarm_threshold_nats(0.1, MONTH_MS, HOUR_MS, share=0.5, shards=4) == pytest.approx(math.log(720 * 4 / 0.05))
    assert alarm_threshold_nats(1, HOUR_MS + 1, HOUR_MS) == pytest.approx(math.log(2))
    assert alarm_threshold_nats(1e6, MONTH_MS, HOUR_MS) == 0


def test_impossible_budgets_are_refused() -> None:
    for arguments in ((0, 1, 1), (-1, 1, 1), (math.inf, 1, 1), (math.nan, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="positive"):
            alarm_threshold_nats(*arguments)
    with pytest.raises(ValueError, match="share"):
        alarm_threshold_nats(1, 1, 1, share=1.5)
    with pytest.raises(ValueError, match="shard"):
        alarm_threshold_nats(1, 1, 1, shards=0)


def test_any_number_of_versions_shares_one_start() -> None:
    assert sum(math.exp(start_mass_log(rank)) for rank in range(40)) <= 1
    assert math.exp(start_mass_log(0)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="rank"):
        start_mass_log(-1)


def best_growth_by_search(q: np.ndarray, p0: np.ndarray, margin: float) -> float:
    """min KL(q || p) over the ball, with p = p0 + u - v, by a general optimiser."""
    k = len(q)

    def divergence(x: np.ndarray) -> float:
        return float((q * np.log(q / (p0 + x[:k] - x[k:]))).sum())

    result = minimize(
        divergence,
        np.concatenate([margin * q, margin * p0]) / 2,
        method="SLSQP",
        bounds=[(0, None)] * k + [(0, 0.999 * float(p)) for p in p0],
        constraints=[
            {"type": "eq", "fun": lambda x: x[:k].sum() - x[k:].sum()},
            {"type": "ineq", "fun": lambda x: margin - x[:k].sum()},
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return float(result.fun)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_the_best_growth_is_the_divergence_from_the_ball(seed: int, margin: float) -> None:
    p0, q = np.random.default_rng(seed).dirichlet(np.ones(8), size=2)
    assert best_growth_nats(q, p0, margin) == pytest.approx(best_growth_by_search(q, p0, margin), abs=1e-5)


def test_best_growth_is_zero_inside_the_ball_and_a_plain_divergence_without_margin() -> None:
    p0, q = np.array([0.5, 0.5]), np.array([0.53, 0.47])
    assert best_growth_nats(q, p0, 0.05) == 0
    assert best_growth_nats(q, p0, 0.0) == pytest.approx((q * np.log(q / p0)).sum())
    assert best_growth_nats(np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.0]), 0.1) == pytest.approx(-math.log(0.1))


@pytest.mark.parametrize(("steps", "least"), [(2, 0.7), (4, 0.75)])
@pytest.mark.parametrize("margin", [0.0, 0.02, 0.05])
def test_some_tilt_grows_nearly_as_fast_as_any_e_value_can(steps: int, least: float, margin: float) -> None:
    p0 = nominal_probabilities()
    q = np.zeros(15)
    q[1:13] = p0[1:13] * np.exp(0.2 * steps * np.linspace(-1.5, 1.5, 12))
    q /= q.sum()
    bets = make_bets(NUMERIC_TILTS, p0, margin)
    growth = (bets.shapes @ q - bets.log_normaliser[0]).max()
    best = best_growth_nats(q, p0, margin)
    assert least * best <= growth <= best


def test_the_expected_delay_is_infinite_inside_the_margin_and_falls_with_weight_and_threshold() -> None:
    p0 = nominal_probabilities()
    bets = make_bets(NUMERIC_TILTS, np.stack([p0, p0]), [0.0, 0.3])
    q = np.roll(p0, 1)
    q[1] += q[0]
    q[0] = 0
    delay = expected_delay_events(bets, q, 17.4)
    assert 5 < delay[0] < 500 and delay[1] == np.inf
    assert expected_delay_events(bets, q, 13.5)[0] < delay[0] < expected_delay_events(bets, q, 17.4, math.log(0.1))[0]
