"""The names of the metrics: which there are for a task, and which way each is better."""

from __future__ import annotations

from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION

_AVERAGED = ("precision", "recall", "f1")
_COVERED = ("adaptive_coverage", "static_coverage")

METRICS: dict[str, tuple[str, ...]] = {
    BINARY: (
        "accuracy",
        "balanced_accuracy",
        *_AVERAGED,
        "matthews_corrcoef",
        "log_loss",
        "brier",
        "roc_auc",
        "average_precision",
        "expected_calibration_error",
        "smooth_calibration_error",
        "lift",
        "value",
        "prevalence",
        "predicted_positive_rate",
        *_COVERED,
    ),
    MULTICLASS: (
        "accuracy",
        "balanced_accuracy",
        *(f"{name}_{how}" for name in _AVERAGED for how in ("macro", "weighted")),
        "matthews_corrcoef",
        "log_loss",
        "brier",
        "roc_auc_macro",
        "roc_auc_weighted",
        "average_precision_macro",
        "expected_calibration_error",
        "smooth_calibration_error",
        "value",
        *_COVERED,
    ),
    REGRESSION: (
        "mae",
        "rmse",
        "mape",
        "smape",
        "r2",
        "bias",
        "quantile_loss",
        "interval_coverage",
        "interval_width",
        *_COVERED,
        "adaptive_width",
    ),
}
"""What :func:`streams.statistics.performance.metrics.metrics` gives, by task, in the order they are listed in."""

COVERAGE = "coverage"
"""Of every task: the share of predictions with an outcome."""

CALIBRATION, CONFUSION, FAIRNESS = "calibration", "confusion", "fairness"
"""What is no number: a reliability curve, a confusion matrix, everything there is of groups."""

TABLES: dict[str, tuple[str, ...]] = {
    BINARY: (CALIBRATION, CONFUSION, FAIRNESS),
    MULTICLASS: (CALIBRATION, CONFUSION, FAIRNESS),
    REGRESSION: (FAIRNESS,),
}

RATES: dict[str, tuple[str, ...]] = {
    BINARY: (
        "selection_rate",
        "true_positive_rate",
        "false_positive_rate",
        "false_negative_rate",
        "positive_predictive_value",
        "base_rate",
    ),
    REGRESSION: ("mean_actual",),
}
"""Rates of each group, of those that are no metric of the same name."""

MEASURES: dict[str, tuple[str, ...]] = {
    BINARY: (
        "demographic_parity_difference",
        "demographic_parity_ratio",
        "equal_opportunity_difference",
        "false_positive_rate_difference",
        "equalized_odds_difference",
        "predictive_parity_difference",
        "accuracy_difference",
    ),
    MULTICLASS: ("accuracy_difference",),
    REGRESSION: ("mae_difference", "bias_difference"),
}
"""How groups compare, as :data:`streams.statistics.performance.fairness.MEASURES` has them."""

_ALSO_CALLED = {
    "demographic_parity": "demographic_parity_difference",
    "disparate_impact": "demographic_parity_ratio",
    "equal_opportunity": "equal_opportunity_difference",
    "equalized_odds": "equalized_odds_difference",
    "equalised_odds": "equalized_odds_difference",
    "predictive_parity": "predictive_parity_difference",
}

_LESS_IS_BETTER = {
    "log_loss",
    "brier",
    "expected_calibration_error",
    "smooth_calibration_error",
    "mae",
    "rmse",
    "mape",
    "smape",
    "quantile_loss",
}
_NEITHER = {
    COVERAGE,
    "prevalence",
    "predicted_positive_rate",
    "bias",
    "interval_coverage",
    "interval_width",
    *_COVERED,
    "adaptive_width",
}


def names_for(task: str) -> tuple[str, ...]:
    """Everything that can be shown of a task."""
    return (*METRICS.get(task, ()), COVERAGE, *TABLES.get(task, ()), *of_groups(task))


def of_groups(task: str) -> tuple[str, ...]:
    """The single rates and measures that compare groups."""
    return (*RATES.get(task, ()), *MEASURES.get(task, ()))


def full_name(name: str) -> str:
    """A name as it stands in :data:`MEASURES`, where it has a shorter one, or another."""
    return _ALSO_CALLED.get(name, name)


def every_name() -> list[str]:
    """What can be shown of any task, in alphabetical order."""
    return sorted({name for task in METRICS for name in names_for(task)} | set(_ALSO_CALLED))


def more_is_better(metric: str) -> bool | None:
    """Whether a larger value is better; None where neither direction is."""
    return None if metric in _NEITHER else metric not in _LESS_IS_BETTER
