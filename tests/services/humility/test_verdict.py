"""Verdicts on rules: the stated test, and nothing else, says what is to be done."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from services.humility.verdict import DROP, FEWEST, KEEP, TIGHTEN, TOO_FEW, Standard, judge, rule_words, surely_worse
from streams.statistics.performance.metrics import Metric
from streams.statistics.performance.shares import wilson

MARGIN = Standard(0.02)


def share(wrong: int, rows: int) -> Metric:
    return Metric(wrong / rows, *wilson(wrong / rows, rows), rows)


def mean(value: float, radius: float, rows: int = 1000) -> Metric:
    return Metric(value, value - radius, value + radius, rows)


def test_a_rule_that_finds_errors_is_kept_and_one_that_finds_none_is_dropped() -> None:
    kept = judge(share(300, 600), share(400, 4000), MARGIN)
    assert kept.kind == KEEP and kept.difference is not None and kept.difference[1] > 0
    assert kept.lift is not None and kept.lift[0] == pytest.approx(5)
    assert judge(share(200, 2000), share(400, 4000), MARGIN).kind == DROP
    assert judge(share(20, 2000), share(400, 4000), MARGIN).kind == DROP


def test_few_outcomes_and_wide_intervals_say_nothing() -> None:
    assert judge(share(FEWEST - 1, FEWEST - 1), share(0, 4000), MARGIN).kind == TOO_FEW
    assert judge(share(2000, 4000), share(0, FEWEST - 1), MARGIN).kind == TOO_FEW
    assert judge(share(12, 80), share(400, 4000), MARGIN).kind == TOO_FEW
    assert judge(None, share(1, 50), MARGIN).kind == TOO_FEW
    assert judge(Metric(None, None, None, 0), share(1, 50), MARGIN).kind == TOO_FEW
    assert judge(Metric(0.5, None, None, 50), share(1, 50), MARGIN).kind == TOO_FEW


def test_a_rule_that_stops_what_is_good_enough_is_tightened_by_values_by_what_is_accepted_or_by_lift() -> None:
    little_worse = share(800, 4000), share(1200, 8000)  # 20 % against 15 %
    assert judge(*little_worse, MARGIN).kind == TIGHTEN
    assert judge(*little_worse, Standard(0.02, acceptable=0.25)).kind == TIGHTEN
    assert judge(*little_worse, Standard(0.02, acceptable=0.2)).kind == KEEP  # not surely below it
    assert judge(*little_worse, Standard(0.02, acceptable=0.25), mean(-1, 0.5)).kind == KEEP
    assert judge(*little_worse, MARGIN, mean(0.1, 0.2)).kind == KEEP
    assert judge(*little_worse, MARGIN, mean(1, 0.5)).kind == TIGHTEN


def test_errors_of_numbers_have_a_margin_relative_to_those_elsewhere() -> None:
    standard = Standard(0.1, relative=True)
    assert judge(mean(54, 0.5), mean(50, 0.5), standard).kind == DROP
    assert judge(mean(54, 0.5), mean(50, 0.5), Standard(0.1)).kind == TIGHTEN
    assert judge(mean(120, 5), mean(50, 1), standard).kind == KEEP


def test_an_override_that_serves_worse_than_the_model_is_dropped_whatever_it_finds() -> None:
    finds = share(300, 600), share(400, 4000)
    assert judge(*finds, MARGIN, replaced=(share(500, 600), share(300, 600))).kind == DROP
    assert judge(*finds, MARGIN, replaced=(share(100, 600), share(300, 600))).kind == KEEP
    assert surely_worse(share(20, 20), share(0, 600)) is None  # too few
    assert surely_worse(Metric(None, None, None, 50), share(0, 600)) is None
    assert surely_worse(Metric(0.9, None, None, 50), share(0, 600)) is None


@given(st.integers(FEWEST, 5000), st.integers(FEWEST, 5000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.3))
def test_the_difference_is_that_of_newcombe_and_one_verdict_follows(
    n: int, m: int, p: float, q: float, margin: float
) -> None:
    wrong, other = round(n * p), round(m * q)
    found = judge(share(wrong, n), share(other, m), Standard(margin))
    one, two = (binomtest(k, of).proportion_ci(method="wilson") for k, of in ((wrong, n), (other, m)))
    low = wrong / n - other / m - np.hypot(wrong / n - one.low, two.high - other / m)
    high = wrong / n - other / m + np.hypot(one.high - wrong / n, other / m - two.low)
    assert found.difference is not None
    np.testing.assert_allclose(found.difference[1:], (low, high), atol=1e-9)
    if abs(high - margin) > 1e-9 and abs(low) > 1e-9:
        expected = {DROP} if high <= margin else {TOO_FEW} if low <= 0 else {KEEP, TIGHTEN}
        assert found.kind in expected


@pytest.mark.parametrize("standard", [MARGIN, Standard(0.02, acceptable=0.2), Standard(0.1, relative=True)])
def test_the_test_is_stated(standard: Standard) -> None:
    for with_values in (False, True):
        text = rule_words(standard, with_values=with_values)
        assert "95 %" in text and f"fewer than {FEWEST}" in text and DROP in text and TIGHTEN in text
    assert ("10 % of the error elsewhere" in text) == standard.relative
