"""Metrics with intervals, by name, from sums of any task."""

from __future__ import annotations

from streams.statistics.performance.classification import binary_metrics, multiclass_metrics
from streams.statistics.performance.coverage import coverage_metrics
from streams.statistics.performance.fields import Sums
from streams.statistics.performance.intervals import Metric, design_effect
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout
from streams.statistics.performance.regression import regression_metrics

__all__ = ["Metric", "metrics"]

_METRICS = {BINARY: binary_metrics, MULTICLASS: multiclass_metrics, REGRESSION: regression_metrics}


def metrics(layout: PerformanceLayout, sums: Sums) -> dict[str, Metric]:
    """All metrics of sums without groups, by name as in scikit-learn; empty for a task that is only counted.

    A metric that the sums do not tell has the value None; see :class:`Metric`.

    - binary: ``accuracy``, ``precision``, ``recall``, ``f1``, ``balanced_accuracy``, ``matthews_corrcoef``,
      ``prevalence``, ``predicted_positive_rate``, ``log_loss``, ``brier``, ``value``, ``roc_auc``,
      ``average_precision``, ``lift``, ``expected_calibration_error``, ``smooth_calibration_error``;
    - multi-class: ``accuracy``, ``balanced_accuracy``, ``matthews_corrcoef``, ``precision``, ``recall`` and ``f1`` with
      ``_macro`` and ``_weighted``, ``log_loss``, ``brier``, ``value``, the calibration errors of the most probable
      class, and for up to 20 classes ``roc_auc_macro``, ``roc_auc_weighted``, ``average_precision_macro``;
    - regression: ``mae``, ``rmse``, ``mape``, ``smape``, ``r2``, ``bias``, ``quantile_loss``, ``interval_coverage``,
      ``interval_width``;
    - with humility: ``adaptive_coverage``, ``static_coverage`` (:mod:`.coverage`), and of a regression
      ``adaptive_width``.
    """
    compute = _METRICS.get(layout.task)
    if compute is None:
        return {}
    found = compute(layout, sums)
    if layout.coverage_score:
        found |= coverage_metrics(layout, sums, design_effect(sums))
    return found
