"""The names that can be asked for are those that there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from driftline.humility.fit import ABSOLUTE_RESIDUAL, ONE_MINUS_PROBABILITY
from services.performance.edges import depends_on_edges
from services.performance.names import (
    MEASURES,
    METRICS,
    RATES,
    every_name,
    full_name,
    more_is_better,
    names_for,
    of_groups,
)
from streams.statistics.performance import fairness
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

LAYOUTS = {
    BINARY: PerformanceLayout(BINARY, ("a", "b"), values=np.eye(2), coverage_score=ONE_MINUS_PROBABILITY),
    MULTICLASS: PerformanceLayout(MULTICLASS, ("a", "b", "c"), values=np.eye(3), coverage_score=ONE_MINUS_PROBABILITY),
    REGRESSION: PerformanceLayout(REGRESSION, quantile=0.5, coverage_score=ABSOLUTE_RESIDUAL),
}


@pytest.mark.parametrize("task", sorted(LAYOUTS))
def test_every_metric_has_its_name_and_no_name_is_of_none(task: str, make_sums: Callable[..., Any]) -> None:
    scores = np.full((4, 3), 1 / 3) if task == MULTICLASS else np.full(4, 0.6)
    found = metrics(LAYOUTS[task], make_sums(LAYOUTS[task], scores, [0, 1, 1, 0]))
    assert set(METRICS[task]) == set(found) and len(METRICS[task]) == len(found)
    assert set(names_for(task)) <= set(every_name())


def test_it_is_known_which_way_is_better_and_what_needs_bins() -> None:
    assert [more_is_better(name) for name in ("accuracy", "f1_macro", "brier", "mae", "bias")] == [
        True, True, False, False, None,
    ]  # fmt: skip
    needs = {name for name in every_name() if depends_on_edges(name)}
    assert {"roc_auc", "roc_auc_macro", "lift", "expected_calibration_error"} <= needs
    assert not needs & {"accuracy", "brier", "log_loss", "mae", "predicted_positive_rate"}


@pytest.mark.parametrize("task", sorted(LAYOUTS))
def test_every_rate_and_measure_of_groups_has_its_name(task: str, make_sums: Callable[..., Any]) -> None:
    scores = np.full((4, 3), 1 / 3) if task == MULTICLASS else np.full(4, 0.6)
    rates = fairness.group_rates(LAYOUTS[task], {"g": make_sums(LAYOUTS[task], scores, [0, 1, 1, 0])})["g"]
    assert set(RATES.get(task, ())) == set(rates) - set(METRICS[task])
    assert list(MEASURES[task]) == [measure.name for measure in fairness.MEASURES[task]]
    assert len(names_for(task)) == len(set(names_for(task)))


def test_measures_have_shorter_names() -> None:
    short = set(every_name()) - {name for task in METRICS for name in names_for(task)}
    assert {"demographic_parity", "disparate_impact", "equal_opportunity", "equalized_odds"} <= short
    assert {full_name(name) for name in short} <= set(of_groups(BINARY)) and full_name("accuracy") == "accuracy"
