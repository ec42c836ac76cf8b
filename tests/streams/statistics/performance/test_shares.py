"""Intervals of shares, differences and ratios: against scipy, by simulation, and at the ends of the scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from streams.statistics.performance.shares import difference, ratio, wilson

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.05, 0.01, 0.2]))
def test_a_share_has_the_score_interval(count: tuple[int, int], beta: float) -> None:
    hits, rows = count
    expected = binomtest(hits, rows).proportion_ci(1 - beta, method="wilson")
    assert wilson(hits / rows, rows, beta) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_nothing_may_be_anything() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_a_difference_is_that_of_the_paper() -> None:
    # Newcombe 1998, table II, method 10, 95 %: 56/70 - 48/80, and 9/10 - 3/10
    for (a, m), (b, n), expected in [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))]:
        found = difference(a / m, wilson(a / m, m), b / n, wilson(b / n, n))
        assert found == pytest.approx(expected, abs=1e-4)


@given(counts, counts)
def test_limits_hold_the_value_and_turn_with_the_order(first: tuple[int, int], second: tuple[int, int]) -> None:
    (a, of_a), (b, of_b) = ((hits / rows, wilson(hits / rows, rows)) for hits, rows in (first, second))
    low, high = difference(a, of_a, b, of_b)
    assert -1 <= low <= a - b <= high <= 1
    assert difference(b, of_b, a, of_a) == pytest.approx((-high, -low))
    low, high = ratio(a, of_a, b, of_b)
    assert 0 <= low <= high
    if a > 0 and b > 0:
        assert low <= a / b * (1 + 1e-12) and a / b <= high * (1 + 1e-12)
        assert ratio(b, of_b, a, of_a) == pytest.approx((1 / high, 1 / low))
    if b == 0:
        assert high == math.inf


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.5), (0.05, 0.08), (0.9, 0.6)])
def test_intervals_cover_what_they_claim(p: float, q: float) -> None:
    rng, rows, trials = np.random.default_rng(7), 120, 2_000
    firsts, seconds = rng.binomial(rows, p, trials) / rows, rng.binomial(rows, q, trials) / rows
    held = np.zeros(2)
    for a, b in zip(firsts.tolist(), seconds.tolist(), strict=True):
        ends = wilson(a, rows), wilson(b, rows)
        low, high = difference(a, ends[0], b, ends[1])
        held[0] += low <= p - q <= high
        low, high = ratio(a, ends[0], b, ends[1])
        held[1] += low <= p / q <= high
    assert held.min() / trials > 0.935
