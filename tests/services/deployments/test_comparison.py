"""Two references side by side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.stats import norm

from driftline.events import CategoricalColumn, PredictionColumns
from services.deployments.comparison import COARSE, EXACT, INCOMPARABLE, StreamComparison, compare, least_distance
from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, FeatureSpec
from streams.statistics.layouts import NumericBins

T0 = 1_704_067_200_000_000  # Monday, 2024-01-01, UTC
HOUR_US = 3_600_000_000
Floats = NDArray[np.float64]


def learnt(
    numbers: Floats | None = None, texts: list[str] | None = None, *, per_hour: int = 3600, kind: str = "numeric"
) -> Baseline:
    values: Floats = np.zeros(0) if numbers is None else numbers
    rows = len(texts) if texts is not None else len(values)
    columns = PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(rows)],
        T0 + np.arange(rows) * HOUR_US // per_hour,
        {} if texts is not None else {"x": values},
        {} if texts is None else {"x": CategoricalColumn.from_values(texts)},
    )
    spec = DeploymentSpec("d", "m", "other", (FeatureSpec("x", kind if texts is None else "categorical"),))
    return build_baseline(spec, "1", [columns], source="test")


def of_x(first: Baseline, second: Baseline) -> StreamComparison:
    (found,) = [item for item in compare(first, second) if item.label == "x"]
    return found


def normal(seed: int, shift: float = 0.0, rows: int = 8000) -> Floats:
    return np.random.default_rng(seed).normal(shift, size=rows)


def test_a_baseline_and_itself_do_not_differ() -> None:
    baseline = learnt(normal(1))
    for item in compare(baseline, baseline):
        assert item.kind == EXACT
        assert item.distance is not None
        assert item.distance.total_variation == 0
        assert item.distance.low == 0
        assert item.distance.psi == pytest.approx(0, abs=2e-2)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 1.0, 3.0])
def test_numbers_with_other_edges_are_compared_nearly_as_well(shift: float) -> None:
    found = of_x(learnt(normal(1)), learnt(normal(2, shift)))
    assert found.kind == COARSE
    assert found.distance is not None
    assert found.first is not None
    assert isinstance(found.first.bins, NumericBins)
    cuts = np.concatenate([[-np.inf], found.first.bins.edges, [np.inf]])
    true = 0.5 * np.abs(np.diff(norm.cdf(cuts)) - np.diff(norm.cdf(cuts - shift))).sum()
    assert found.distance.at_least <= true + 0.01
    assert found.distance.low <= true <= found.distance.high
    if 0 < shift <= 1:
        assert found.distance.total_variation == pytest.approx(true, abs=0.02)
        assert found.distance.psi == pytest.approx(shift**2, rel=0.25, abs=0.008)


def test_numbers_that_pile_up_are_compared() -> None:
    rng = np.random.default_rng(4)
    first = np.concatenate([np.zeros(6000), rng.exponential(size=2000)])
    second = np.concatenate([np.zeros(4000), rng.exponential(size=4000)])
    found = of_x(learnt(rng.permutation(first)), learnt(rng.permutation(second))).distance
    assert found is not None
    # three quarters of zeros and a half: the bin of the first that holds its zeros reaches to its 79.7 % quantile,
    # where the second has 0.5 + 0.5 (0.797 - 0.75) / 0.25 of its rows
    assert found.total_variation == pytest.approx(0.797 - 0.594, abs=0.02)
    assert found.at_least <= 0.25


@pytest.mark.parametrize("other", [np.full(500, np.nan), np.full(500, 3.0)], ids=["all missing", "constant"])
def test_degenerate_columns_can_be_compared(other: Floats) -> None:
    found = of_x(learnt(normal(1, rows=500)), learnt(other)).distance
    assert found is not None
    assert found.total_variation > 0.8
    assert of_x(learnt(other), learnt(normal(1, rows=500))).distance is not None


def test_categories_that_came_and_went_are_named() -> None:
    rng = np.random.default_rng(5)
    first = rng.choice(["a", "b", "c"], 2000, p=[0.5, 0.3, 0.2]).tolist()
    second = rng.choice(["a", "b", "d"], 2000, p=[0.5, 0.3, 0.2]).tolist()
    found = of_x(learnt(texts=first), learnt(texts=second))
    assert found.kind == EXACT
    assert (found.new_categories, found.lost_categories) == (["d"], ["c"])
    assert found.distance is not None
    assert found.distance.total_variation == pytest.approx(0.2, abs=0.04)
    assert found.distance.low > 0.1


def test_rare_categories_are_one_bin_and_it_is_said() -> None:
    rng = np.random.default_rng(6)
    names = [f"n{i:02d}" for i in range(40)]
    weights = np.linspace(2, 1, 40)
    first = rng.choice(names, 4000, p=weights / weights.sum()).tolist()
    second = rng.choice(names, 4000, p=weights[::-1] / weights.sum()).tolist()
    found = of_x(learnt(texts=first), learnt(texts=second))
    assert found.kind == COARSE
    assert "rarer categories" in found.note
    assert found.new_categories == []
    assert found.distance is not None
    true = 0.5 * np.abs(weights - weights[::-1]).sum() / weights.sum()
    assert found.distance.total_variation <= true + 0.03
    same = of_x(learnt(texts=first), learnt(texts=rng.permutation(first).tolist()))
    assert same.distance is not None
    assert same.distance.total_variation == pytest.approx(0, abs=0.01)


def test_dependence_widens_the_interval() -> None:
    def distance(values: Floats, other: Floats) -> float:
        found = of_x(learnt(values), learnt(other)).distance
        assert found is not None
        return found.high - found.total_variation

    slow, other = np.repeat(normal(7, rows=160), 50), np.repeat(normal(8, rows=160), 50)
    assert distance(slow, other) > 3 * distance(normal(7), normal(8))


def test_seasons_are_compared_season_by_season() -> None:
    def weeks(seed: int, shift: float) -> Baseline:
        hours = np.arange(4 * 168 * 60) // 60
        noise = np.random.default_rng(seed).normal(shift, size=len(hours))
        return learnt(3 * np.sin(2 * np.pi * hours / 24) + noise, per_hour=60)

    first, same, shifted = weeks(1, 0.0), weeks(2, 0.0), weeks(3, 1.0)
    found = of_x(first, shifted)
    assert found.kind == COARSE
    assert found.distance is not None
    assert found.distance.total_variation == pytest.approx(0.383, abs=0.04)
    assert found.distance.at_least <= 0.383
    near = of_x(first, same).distance
    assert near is not None
    assert near.total_variation < 0.12, "each season has 240 rows"
    assert near.low == 0
    assert of_x(first, learnt(normal(4))).kind == INCOMPARABLE


def test_streams_that_only_one_has_and_those_of_another_kind_are_named() -> None:
    numbers, texts = learnt(normal(1)), learnt(texts=["a", "b"] * 500)
    assert of_x(numbers, texts).kind == INCOMPARABLE
    without = dataclasses.replace(numbers, streams=numbers.streams[1:])
    gone, new = of_x(numbers, without), of_x(without, numbers)
    assert gone.second is None
    assert new.first is None


masses = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any)


@settings(max_examples=150)
@given(first=masses, second=masses, data=st.data())
def test_the_least_distance_is_that_of_the_linear_program(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    def cut(weights: list[int]) -> tuple[Floats, Floats]:
        places = data.draw(st.lists(st.integers(0, 9), min_size=len(weights) + 1, max_size=len(weights) + 1))
        edges = np.sort(np.array(places, float))
        return edges, np.array(weights) / sum(weights) * (np.diff(edges) > 0)

    (edges_a, mass_a), (edges_b, mass_b) = a, b = cut(first), cut(second)
    pairs = [
        (i, j)
        for i in range(len(mass_a))
        for j in range(len(mass_b))
        if max(edges_a[i], edges_b[j]) < min(edges_a[i + 1], edges_b[j + 1])
    ]
    expected = 1.0
    if pairs:
        rows = np.zeros((len(mass_a) + len(mass_b), len(pairs)))
        for k, (i, j) in enumerate(pairs):
            rows[i, k] = rows[len(mass_a) + j, k] = 1
        expected = 1 + linprog(-np.ones(len(pairs)), A_ub=rows, b_ub=np.concatenate([mass_a, mass_b])).fun
    assert least_distance(a, b) == pytest.approx(expected, abs=1e-9)
