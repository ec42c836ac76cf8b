"""Ages of outcomes: their buckets, when a cohort is final, and who still waits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.outcomes.ages import (
    LEAST_BUCKET_PAIRS,
    LEAST_OPEN,
    READABLE_STEPS_US,
    LabelAges,
    age_bucket,
    age_edges,
    age_text,
    final_age,
    label_codes,
    learn_label_ages,
)
from streams.outcomes.cohorts import KNOWN, OPEN

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000


def flights(rows: int, seed: int = 1) -> np.ndarray:
    """Delays like those of flights: a median of 2.3 hours, 99 % within seven."""
    return (np.random.default_rng(seed).gamma(6.0, 0.41, rows) * HOUR).astype(np.int64)


def test_six_buckets_of_about_equal_mass_with_edges_that_can_be_read() -> None:
    ages = flights(20_000)
    edges = age_edges(ages)
    assert len(edges) == 5
    share = np.bincount(age_bucket(edges, ages)) / len(ages)
    assert share.min() > 0.6 / 6 and share.max() < 1.4 / 6
    assert not (edges % (5 * MINUTE)).any(), [age_text(edge) for edge in edges.tolist()]


@given(
    st.lists(st.integers(0, 10**13), min_size=0, max_size=40),
    st.lists(st.integers(0, 400), min_size=0, max_size=40),
)
def test_no_bucket_has_fewer_than_three_hundred_pairs(values: list[int], repeats: list[int]) -> None:
    pairs = list(zip(values, repeats, strict=False))
    ages = np.repeat(np.array([v for v, _ in pairs], np.int64), [n for _, n in pairs])
    edges = age_edges(ages)
    assert (np.diff(edges) > 0).all() and len(edges) <= 5
    sizes = np.bincount(age_bucket(edges, ages), minlength=len(edges) + 1)
    if len(edges):
        assert sizes.min() >= LEAST_BUCKET_PAIRS
        assert len(edges) < len(ages) // LEAST_BUCKET_PAIRS


def test_an_age_on_an_edge_is_below_it() -> None:
    assert age_bucket(np.array([HOUR]), np.array([HOUR - 1, HOUR, HOUR + 1])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("age", [0, 24 * HOUR])
def test_outcomes_that_all_come_at_one_age_have_one_bucket(age: int) -> None:
    assert len(age_edges(np.full(5_000, age))) == 0


def test_outcomes_published_once_a_day_are_parted_between_the_days() -> None:
    ages = np.repeat(np.arange(1, 4) * DAY, 1_000)
    assert age_edges(ages).tolist() == [DAY, 2 * DAY]


def test_the_final_age_is_that_of_99_percent_rounded_up() -> None:
    ages = flights(50_000)
    final = final_age(ages, 2 * DAY)
    exact = np.quantile(ages, 0.99)
    assert exact <= final <= 1.05 * exact and final % (15 * MINUTE) == 0
    assert final_age(ages, 3 * HOUR) == 3 * HOUR, "never beyond the horizon"
    assert final_age(np.zeros(10, np.int64), DAY) == 0
    assert final_age(np.zeros(0, np.int64), DAY) == DAY


@given(st.integers(0, 10**14))
def test_a_final_age_is_never_below_an_exact_one(age: int) -> None:
    assert age <= final_age(np.full(3, age), 10**15) <= 1.05 * age + 1


def naive_hazards(known: list[int], ages: list[int]) -> list[tuple[int, int]]:
    """Of those that were open at the age before: how many known at this, how many not."""
    found = []
    before = -1
    for age in ages:
        waiting = [k for k in known if k < 0 or k > before]
        found.append((sum(0 <= k <= age for k in waiting), sum(k < 0 or k > age for k in waiting)))
        before = age
    return found


@given(st.lists(st.integers(-1, 60), max_size=200), st.sets(st.integers(0, 50), min_size=1, max_size=5))
def test_the_streams_of_labels_against_a_naive_count(known: list[int], ages: set[int]) -> None:
    asked = np.array(sorted(ages), np.int64)
    found = []
    for j in range(len(asked)):
        waiting, codes = label_codes(np.array(known, np.int64), asked, j)
        assert len(waiting) == len(codes)
        found.append((int((codes == KNOWN).sum()), int((codes == OPEN).sum())))
    assert found == naive_hazards(known, asked.tolist())


def test_labels_are_asked_for_at_ages_that_tell_and_at_the_final_one() -> None:
    known = flights(20_000)
    known[np.random.default_rng(3).random(20_000) < 0.03] = -1  # cancelled: no outcome ever
    edges = age_edges(known[known >= 0])
    final = final_age(known[known >= 0], 2 * DAY)
    found = learn_label_ages(known, edges, final, 2 * DAY)
    assert found.ages_us.tolist() == [*edges[[0, 2, 4]].tolist(), final]
    assert np.interp(final, found.curve_ages_us, found.curve_known) == pytest.approx(0.97 * 0.99, abs=0.01)
    assert found.curve_ages_us[-1] == 2 * DAY and found.curve_known[-1] == pytest.approx(0.97, abs=0.005)
    assert (np.diff(found.curve_known) >= 0).all()


def test_the_horizon_is_an_age_of_its_own_where_outcomes_enough_come_that_late() -> None:
    known = flights(60_000)
    known[:400] = 40 * HOUR  # below one in a hundred: the final age is far before them
    final = final_age(known, 2 * DAY)
    assert final < 10 * HOUR
    assert learn_label_ages(known, age_edges(known), final, 2 * DAY).ages_us[-1] == 2 * DAY


def test_an_age_at_which_hardly_anyone_still_waits_is_not_asked_at() -> None:
    known = np.full(5_000, HOUR)
    known[: LEAST_OPEN - 1] = 5 * HOUR
    assert learn_label_ages(known, np.array([HOUR]), 5 * HOUR, DAY).ages_us.tolist() == [HOUR]
    known[:LEAST_OPEN] = 5 * HOUR
    assert learn_label_ages(known, np.array([HOUR]), 5 * HOUR, DAY).ages_us.tolist() == [HOUR, 5 * HOUR]


def test_the_ages_of_labels_survive_being_stored() -> None:
    found = learn_label_ages(flights(2_000), np.array([HOUR]), 7 * HOUR, DAY)
    again = LabelAges.from_derived(found.to_derived())
    for name in ("ages_us", "curve_ages_us", "curve_known"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (0, "0 ms"),
        (1_500, "2 ms"),
        (250_000, "250 ms"),
        (59_999_999, "1 min"),
        (150 * MINUTE, "2 h 30 min"),
        (DAY - 1, "1 d"),
        (27 * HOUR + 1, "1 d 3 h"),
        (60 * DAY, "60 d"),
    ],
)
def test_ages_for_people(age: int, text: str) -> None:
    assert age_text(age) == text


def test_steps_go_from_coarse_to_fine() -> None:
    assert list(READABLE_STEPS_US) == sorted(READABLE_STEPS_US, reverse=True)
