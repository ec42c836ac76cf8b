"""The names that can be asked for are those that there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.performance.edges import depends_on_edges
from services.performance.names import METRICS, every_name, more_is_better, names_for
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

LAYOUTS = {
    BINARY: PerformanceLayout(BINARY, ("a", "b"), values=np.eye(2)),
    MULTICLASS: PerformanceLayout(MULTICLASS, ("a", "b", "c"), values=np.eye(3)),
    REGRESSION: PerformanceLayout(REGRESSION, quantile=0.5),
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
