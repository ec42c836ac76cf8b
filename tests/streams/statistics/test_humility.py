"""The three guarantees, against exact computations, slow searches and simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from streams.statistics.humility import (
    Certificate,
    ConformalThreshold,
    RowsNeeded,
    Uncertified,
    calibrating,
    certificate_thresholds,
    certify,
    clopper_pearson_upper,
    conditional_rank,
    conformal_threshold,
    marginal_rank,
    range_of_scores,
    rows_for_rank,
    rows_to_certify,
    split_conformal_quantile,
    tolerance_bounds,
    tracker_bound,
    tracker_quantile,
    tracker_step,
)

RATES = st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.3])
CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def binomial_below(rank: int, rows: int, rate: Fraction) -> Fraction:
    """P(Binomial(rows, rate) < rank), exactly."""
    return sum(
        (math.comb(rows, i) * rate**i * (1 - rate) ** (rows - i) for i in range(rank)), start=Fraction(0)
    )  # fmt: skip


# ------------------------------------------------------------------ novelty


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.sampled_from([Fraction(1, 100), Fraction(1, 20), Fraction(3, 10)]), CONFIDENCES)
def test_the_rank_is_the_largest_that_the_exact_binomial_allows(rows: int, rate: Fraction, confidence: float) -> None:
    allowed = Fraction(1) - Fraction(confidence)
    slow = max(k for k in range(rows + 1) if k == 0 or binomial_below(k, rows, rate) <= allowed)
    assert conditional_rank(rows, float(rate), confidence) == slow


@pytest.mark.parametrize(("rows", "rate", "confidence"), [(5_000, 0.01, 0.95), (299, 0.01, 0.95), (800, 0.1, 0.99)])
def test_the_rank_keeps_the_beta_law_below_the_rate(rows: int, rate: float, confidence: float) -> None:
    rank = conditional_rank(rows, rate, confidence)
    assert beta.sf(rate, rank, rows + 1 - rank) <= 1 - confidence < beta.sf(rate, rank + 1, rows - rank)


def test_a_threshold_is_the_score_of_its_rank_and_tells_its_bound() -> None:
    scores = np.random.default_rng(0).permutation(5_000).astype(float)
    found = conformal_threshold(scores, 0.01, 0.95)
    assert isinstance(found, ConformalThreshold)
    assert found.score == np.sort(scores)[-found.rank]
    assert (scores > found.score).sum() == found.rank - 1
    assert found.rate_bound == pytest.approx(beta.ppf(0.95, found.rank, 5_001 - found.rank), rel=1e-9)
    assert 0.009 < found.rate_bound <= 0.01


def test_one_row_too_few_is_refused_with_the_number_that_it_takes() -> None:
    needed = math.ceil(math.log(0.05) / math.log(0.99))
    assert conformal_threshold(np.arange(needed - 1.0), 0.01, 0.95) == RowsNeeded(needed - 1, needed)
    assert isinstance(conformal_threshold(np.arange(float(needed)), 0.01, 0.95), ConformalThreshold)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), RATES, CONFIDENCES)
def test_rows_for_a_rank_are_the_fewest(rank: int, rate: float, confidence: float) -> None:
    rows = rows_for_rank(rank, rate, confidence)
    assert conditional_rank(rows, rate, confidence) >= rank
    assert rows == rank or conditional_rank(rows - 1, rate, confidence) < rank


@pytest.mark.parametrize("levels", [0, 3, 30])
def test_the_rate_exceeds_what_was_asked_in_no_more_sets_than_allowed_with_and_without_ties(levels: int) -> None:
    """``levels``: how many values scores have; 0 for no ties. The true rate is known, as the source is."""
    rng = np.random.default_rng(levels)
    rate, confidence, sets = 0.05, 0.9, 2_000
    true_rates = []
    for _ in range(sets):
        u = rng.random(400)
        scores = np.floor(u * levels) / levels if levels else u
        found = conformal_threshold(scores, rate, confidence)
        assert isinstance(found, ConformalThreshold)
        # P(score > t): of uniform scores 1 - t, of levels those above t
        true_rates.append(1 - (math.floor(found.score * levels + 0.5) + 1) / levels if levels else 1 - found.score)
    exceeded = int((np.array(true_rates) > rate + 1e-12).sum())
    assert exceeded <= binom.ppf(0.999, sets, 1 - confidence)
    if not levels:
        assert exceeded >= binom.ppf(0.001, sets, 0.05)  # and the threshold is no stricter than it must be


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 30), RATES)
def test_a_marginal_rank_fires_where_the_p_value_is_small(calibration: list[int], score: int, rate: float) -> None:
    rank = marginal_rank(len(calibration), rate)
    fires = rank > 0 and score > sorted(calibration)[-rank]
    p_value = (1 + sum(each >= score for each in calibration)) / (len(calibration) + 1)
    assert fires == (p_value <= rate + 1e-9)


@settings(max_examples=60)
@given(st.lists(st.integers(-20, 20), min_size=60, max_size=200))
def test_bounds_leave_out_no_more_values_than_their_rank(values: list[int]) -> None:
    found = tolerance_bounds(np.array(values, float), 0.1, 0.9)
    assert isinstance(found, tuple)
    low, high = found
    rank = conditional_rank(len(values), 0.1, 0.9)
    assert low <= high
    assert sum(v < low or v > high for v in values) <= rank - 2 + rank % 2
    assert {low, high} <= set(values)


def test_bounds_need_the_rows_of_wilks() -> None:
    """93 values are the classical sample size for 95 % of the mass with 95 % confidence."""
    assert rows_for_rank(2, 0.05, 0.95) == 93
    assert tolerance_bounds(np.arange(92.0), 0.05, 0.95) == RowsNeeded(92, 93)
    assert tolerance_bounds(np.arange(93.0), 0.05, 0.95) == (0.0, 92.0)


# ------------------------------------------------------------------ selective risk


@given(st.integers(0, 200), st.integers(0, 200), CONFIDENCES)
def test_the_upper_limit_is_where_so_few_errors_are_improbable(errors: int, others: int, confidence: float) -> None:
    rows = errors + others
    limit = float(clopper_pearson_upper(errors, rows, confidence))
    if not others:
        assert limit == 1
    else:
        assert binom.cdf(errors, rows, limit) == pytest.approx(1 - confidence, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0.0, 0.01, 0.03, 0.05]), st.sampled_from([0.06, 0.1, 0.2]), CONFIDENCES)
def test_rows_to_certify_are_the_fewest(error: float, most: float, confidence: float) -> None:
    rows = rows_to_certify(error, most, confidence)
    limits = beta.ppf(confidence, error * np.arange(1, rows + 1) + 1, (1 - error) * np.arange(1, rows + 1))
    assert np.flatnonzero(limits <= most)[0] + 1 == rows


def test_no_number_of_rows_certifies_less_than_the_error() -> None:
    assert rows_to_certify(0.1, 0.1, 0.95) == 0


def naive_certificate(
    confidences: np.ndarray, errors: np.ndarray, thresholds: np.ndarray, most: float, confidence: float
) -> tuple[float, int, int] | None:
    passed = None
    for threshold in thresholds:
        answered = [bool(wrong) for c, wrong in zip(confidences, errors, strict=True) if c >= threshold]
        e, n = sum(answered), len(answered)
        limit = 1.0 if e == n else beta.ppf(confidence, e + 1, n - e)
        if limit > most:
            break
        passed = (float(threshold), n, e)
    return passed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 400), st.sampled_from([0.1, 0.2]), CONFIDENCES)
def test_a_certificate_is_that_of_a_naive_loop(seed: int, rows: int, most: float, confidence: float) -> None:
    rng = np.random.default_rng(seed)
    confidences = np.round(rng.random(rows), 2)
    confidences[rng.random(rows) < 0.05] = np.nan
    errors = rng.random(rows) < (1 - np.nan_to_num(confidences)) ** rng.uniform(1, 4)
    thresholds = certificate_thresholds(rng.random(rows), rows, most, confidence)
    found = certify(confidences, errors, thresholds, most, confidence)
    slow = naive_certificate(confidences, errors, thresholds, most, confidence)
    least = math.ceil(math.log(1 - confidence) / math.log(1 - most))
    if rows < least:
        assert found == RowsNeeded(rows, least)
    elif slow is None:
        assert isinstance(found, Uncertified)
    else:
        assert isinstance(found, Certificate)
        assert (found.threshold, found.answered, found.errors) == slow
        assert found.error_bound == most
        assert 0 <= found.answered_bound < found.answered / rows


def test_a_sequence_ends_at_its_first_failure_whatever_comes_after() -> None:
    confidences = np.repeat([3.0, 2.0, 1.0], [100, 10, 1_000])
    errors = np.repeat([False, True, False], [100, 10, 1_000])
    found = certify(confidences, errors, [3.0, 2.0, 1.0], 0.1, 0.95)
    assert isinstance(found, Certificate)
    assert found.threshold == 3.0  # at 1.0 ten errors of 1,110 would have passed


def test_a_model_that_is_wrong_too_often_is_told_that_no_rows_would_do_and_another_how_many() -> None:
    confidences, thresholds = np.ones(400), [1.0]
    assert certify(confidences, np.arange(400) % 5 == 0, thresholds, 0.1, 0.95) == Uncertified(400, 80, 0)
    near = certify(confidences, np.arange(400) % 11 == 0, thresholds, 0.1, 0.95)
    assert isinstance(near, Uncertified)
    more = near.needed
    assert more > 400
    assert clopper_pearson_upper(near.errors / 400 * more, more, 0.95) <= 0.1


def test_thresholds_look_at_learning_rows_only_and_go_from_strict_to_lax() -> None:
    learning = np.random.default_rng(0).random(3_000)
    thresholds = certificate_thresholds(learning, 3_000, 0.1, 0.95)
    assert (np.diff(thresholds) < 0).all()
    assert set(thresholds.tolist()) <= set(learning.tolist())
    assert thresholds[-1] == learning.min()
    assert (learning >= thresholds[0]).sum() == 300  # a tenth, as 414 rows would pass with three quarters of the error
    assert rows_to_certify(0.05, 0.1, 0.95) < 300 < rows_to_certify(0.075, 0.1, 0.95)
    few = certificate_thresholds(learning[:600], 600, 0.1, 0.95)
    assert (learning[:600] >= few[0]).sum() == rows_to_certify(0.05, 0.1, 0.95)


def test_few_rows_begin_with_as_many_as_pass_without_an_error() -> None:
    learning = np.linspace(0, 1, 40)
    thresholds = certificate_thresholds(learning, 40, 0.1, 0.95)
    assert (learning >= thresholds[0]).sum() == rows_to_certify(0.0, 0.1, 0.95) == 29


def test_the_error_among_answered_exceeds_what_was_asked_in_no_more_sets_than_allowed() -> None:
    """Confidence u is uniform, and the error at u is 0.3 (1 - u): among those above t it is 0.15 (1 - t)."""
    rng = np.random.default_rng(3)
    most, confidence, sets = 0.08, 0.9, 2_000
    exceeded, certified = 0, 0
    for _ in range(sets):
        u = rng.random(800)
        errors = rng.random(800) < 0.3 * (1 - u)
        thresholds = certificate_thresholds(rng.random(800), 800, most, confidence)
        found = certify(u, errors, thresholds, most, confidence)
        if isinstance(found, Certificate):
            certified += 1
            exceeded += 0.15 * (1 - found.threshold) > most
            assert found.answered_bound > 0
    assert certified > 0.9 * sets
    assert exceeded <= binom.ppf(0.999, sets, 1 - confidence)


# ------------------------------------------------------------------ coverage and the tracker


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_static_quantile_is_the_order_statistic_of_the_textbook(scores: list[int], coverage: float) -> None:
    rows = len(scores)
    rank = math.ceil(Fraction(coverage).limit_denominator(100) * (rows + 1))
    expected = sorted(scores)[rank - 1] if rank <= rows else None
    found = split_conformal_quantile(np.array(scores, float), coverage)
    if expected is None:
        assert isinstance(found, RowsNeeded)
        assert found.needed == next(
            m for m in range(1, 100) if math.ceil(Fraction(coverage).limit_denominator(100) * (m + 1)) <= m
        )
    else:
        assert found == expected


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[float], list[int], int]:
    """Scores in [0, 1], after how many rows each outcome comes, and every how many rows a quantile is published."""
    rows = draw(st.integers(1, 120))
    kind = draw(st.sampled_from(["any", "high", "low", "alternating"]))
    any_score = st.floats(0, 1, allow_nan=False)
    scores = {
        "any": st.lists(any_score, min_size=rows, max_size=rows),
        "high": st.just([1.0] * rows),
        "low": st.just([0.0] * rows),
        "alternating": st.just([float(i // 17 % 2) for i in range(rows)]),
    }[kind]
    delays = st.lists(st.integers(0, 15), min_size=rows, max_size=rows)
    return draw(scores), draw(delays), draw(st.integers(1, 12))


@settings(max_examples=300, deadline=None)
@given(sequences(), st.floats(0, 1), st.floats(0.005, 0.5), st.sampled_from([0.5, 0.8, 0.9]))
def test_every_sequence_keeps_the_bound(
    sequence: tuple[list[float], list[int], int], start: float, step: float, coverage: float
) -> None:
    """Outcomes come late and in any order, and quantiles are published now and then; pending is counted, slowly."""
    scores, delays, every = sequence
    rows = len(scores)
    published = start
    issued: list[tuple[float, int]] = []  # quantile, number of its publication
    publications, pending, known, missed = 0, 0, 0, 0
    arrivals = sorted((row + 1 + delay, row) for row, delay in enumerate(delays))
    waiting = list(arrivals)
    for time in range(rows + max(delays) + 2):
        while waiting and waiting[0][0] <= time:
            row = waiting.pop(0)[1]
            known += 1
            missed += scores[row] > issued[row][0]
            current = tracker_quantile(start, step, coverage, known, missed)
            # whatever is still to come was issued with an older quantile than this one
            pending = max(pending, sum(arrival[1] < len(issued) for arrival in waiting) + every)
            bound = tracker_bound(1.0, step, known, pending)
            assert abs(missed / known - (1 - coverage)) <= bound + 1e-9
            slack = step * (1 + pending)
            assert -slack - 1e-9 <= current <= 1 + slack + 1e-9
        if time < rows:
            if time % every == 0:
                published = tracker_quantile(start, step, coverage, known, missed)
                publications += 1
            issued.append((published, publications))
    assert known == rows


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_the_tracker_is_the_recursion_of_gibbs_and_candes(missed: int, covered: int) -> None:
    q = 2.0
    for miss in [True] * missed + [False] * covered:
        q += 0.125 * (miss - 0.25)
    assert tracker_quantile(2.0, 0.125, 0.75, missed + covered, missed) == pytest.approx(q, abs=1e-9)


def test_nothing_is_bounded_before_an_outcome_is_known() -> None:
    assert tracker_bound(1.0, 0.01, 0) == math.inf
    assert tracker_bound(1.0, 0.01, 10_100) == pytest.approx(0.01)
    assert tracker_bound(1.0, 0.01, 10_100, 101) == pytest.approx(0.02)


def test_a_wild_score_does_not_make_the_range() -> None:
    scores = np.concatenate([np.linspace(0, 100, 999), [1e9]])
    assert range_of_scores(scores) == pytest.approx(99, abs=0.5)
    assert range_of_scores([]) == 0


def test_a_range_is_never_nothing_so_that_a_tracker_can_move() -> None:
    assert range_of_scores([0.0] * 500 + [3.0]) == 3.0
    assert range_of_scores([-2.0] * 50) == 2.0
    assert range_of_scores([0.0] * 50) == 1.0


def test_the_step_is_a_part_of_the_range_until_outcomes_come_late() -> None:
    scores = np.random.default_rng(0).random(20_000)
    assert tracker_step(scores, 1.0, 0.01, 0.9, 0) == 0.01
    assert tracker_step(scores, 1.0, 0.01, 0.9, 10) == 0.01
    assert tracker_step(scores, 1.0, 0.01, 0.9, 1_000) == pytest.approx(0.25 / 1_000, rel=0.1)  # density 1
    assert tracker_step(np.zeros(500), 1.0, 0.01, 0.9, 1_000) == 0.01


# ------------------------------------------------------------------ halves


@given(st.integers(0, 3_000))
def test_halves_are_blocks_of_neighbours_and_equally_large(rows: int) -> None:
    chosen = calibrating(rows)
    assert abs(2 * int(chosen.sum()) - rows) <= 32
    assert np.count_nonzero(np.diff(chosen)) < 32


@pytest.mark.parametrize("period", [2, 4, 8])
def test_halves_have_as_much_of_whatever_comes_and_goes(period: int) -> None:
    """Periods of 2, 4 and 8 blocks, like day and night of a reference of 16 days."""
    chosen = calibrating(32_000)
    phase = np.arange(32_000) // 1_000 % period
    for each in range(period):
        assert chosen[phase == each].mean() == 0.5


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 1.5])
def test_rates_and_confidences_are_between_zero_and_one(wrong: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_threshold([1.0], wrong, 0.95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        certify([1.0], [False], [1.0], 0.1, wrong)
