"""Whole tables, as callers have them, to the columns of the contract."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from driftline import columns as read
from driftline import limits
from driftline.batches import random_ids
from driftline.errors import EventError
from driftline.events import (
    UNKNOWN_ACTED_ON,
    CategoricalColumn,
    HumilityColumns,
    OutcomeColumns,
    PredictionColumns,
    Times,
    checked_name,
)


def prediction_table(
    features: Any,
    prediction: Any,
    *,
    deployment_id: str,
    model_version: str,
    model_id: str | None,
    prediction_ids: Any,
    prediction_label: Any,
    class_probabilities: Any,
    timestamps: Any,
    segments: Any,
    latency_ms: Any,
    error: Any,
    prediction_low: Any = None,
    prediction_high: Any = None,
    challengers: Any = None,
    decisions: HumilityColumns | None = None,
) -> PredictionColumns:
    """Columns as :meth:`driftline.Client.log_predictions` takes them, copied and checked.

    Raises:
        EventError: A column cannot be read, or has another length than the rest.
    """
    numeric, categorical, vectors = {}, {}, {}
    for name, column in read.named_columns(features, "features").items():
        as_numbers, as_text, as_vectors = read.feature_column(column, f"feature {name[:80]!r}")
        if as_numbers is not None:
            numeric[name] = as_numbers
        if as_text is not None:
            categorical[name] = as_text
        if as_vectors is not None:
            vectors[name] = as_vectors
    rows = row_count(features, prediction_ids, prediction, timestamps)
    challenger_predictions, challenger_labels = read.challenger_columns(challengers)
    table = PredictionColumns(
        deployment_id=deployment_id,
        model_version=checked_name(model_version, "model_version"),
        prediction_ids=random_ids(rows) if prediction_ids is None else read.id_column(prediction_ids, "prediction_ids"),
        timestamps_us=_times(timestamps, rows, "timestamps"),
        numeric=numeric,
        categorical=categorical,
        prediction=None if prediction is None else read.number_column(prediction, "prediction"),
        prediction_label=None if prediction_label is None else read.label_column(prediction_label, "prediction_label"),
        class_probabilities={
            read.class_name(name, "class_probabilities"): read.number_column(column, f"class_probabilities[{name!r}]")
            for name, column in _columns(class_probabilities, "class_probabilities")
        },
        segments={
            read.feature_name(name, "segments"): read.label_column(column, f"segments[{name!r}]")
            for name, column in _columns(segments, "segments")
        },
        latency_ms=None if latency_ms is None else read.number_column(latency_ms, "latency_ms"),
        vectors=vectors,
        error=None if error is None else read.error_column(error, "error"),
        model_id=model_id,
        prediction_low=None if prediction_low is None else read.number_column(prediction_low, "prediction_low"),
        prediction_high=None if prediction_high is None else read.number_column(prediction_high, "prediction_high"),
        challenger_predictions=challenger_predictions,
        challenger_labels=challenger_labels,
        humility=decisions,
    )
    _check_lengths(table)
    limits.check_intervals(table.prediction_low, table.prediction_high)
    return table


def outcome_table(
    deployment_id: str,
    prediction_ids: Any,
    actual_value: Any,
    actual_label: Any,
    actual_timestamps: Any,
    was_acted_on: Any,
    labelling_probability: Any = None,
) -> OutcomeColumns:
    """Columns as :meth:`driftline.Client.log_outcomes` takes them, copied and checked.

    Raises:
        EventError: A column cannot be read, or has another length than the rest.
    """
    if actual_value is None and actual_label is None:
        raise EventError("an outcome needs actual_value or actual_label; both are missing: log it once it is known")
    ids = read.id_column(prediction_ids, "prediction_ids")
    acted = [] if was_acted_on is None else read.array_of(_of_all(was_acted_on, len(ids)), "was_acted_on").tolist()
    flags = [read.flag(value, f"was_acted_on, row {row}") for row, value in enumerate(acted)]
    table = OutcomeColumns(
        deployment_id=deployment_id,
        prediction_ids=ids,
        actual_timestamps_us=_times(actual_timestamps, len(ids), "actual_timestamps"),
        actual_value=None if actual_value is None else read.number_column(actual_value, "actual_value"),
        actual_label=None if actual_label is None else read.label_column(actual_label, "actual_label"),
        was_acted_on=None
        if was_acted_on is None
        else np.array([UNKNOWN_ACTED_ON if value is None else value for value in flags], dtype=np.uint8),
        labelling_probability=None
        if labelling_probability is None
        else limits.probability_column(_of_all(labelling_probability, len(ids)), "labelling_probability"),
    )
    _check_lengths(table)
    limits.check_actuals(table.actual_value, table.actual_label, table.rows)
    return table


def row_count(features: Any, *columns: Any) -> int:
    """How many rows a call speaks of: the length of the first column there is; 0 where nobody can tell."""
    try:
        if hasattr(features, "num_rows"):
            return int(features.num_rows)
        if hasattr(features, "items"):
            columns = (*columns, *(column for _, column in features.items()))
        elif hasattr(features, "height"):
            return int(features.height)
        return next(
            (len(column) for column in columns if hasattr(column, "__len__") and not isinstance(column, str)), 0
        )
    except Exception:  # asked about rejected input, too: it may be anything
        return 0


def _columns(table: Any, what: str) -> list[tuple[Any, Any]]:
    if isinstance(table, Mapping):
        return list(table.items())
    return [] if table is None else list(read.named_columns(table, what).items())


def _times(times: Any, rows: int, what: str) -> Times:
    if times is None:
        return np.full(rows, time.time_ns() // 1000, dtype=np.int64)
    if isinstance(times, (str, int, np.integer, dt.datetime)):
        return np.full(rows, read.time_us(times), dtype=np.int64)
    return read.time_column(times, what)


def _of_all(value: Any, rows: int) -> Any:
    """A column; a single number or boolean is that of all rows."""
    return [value] * rows if isinstance(value, (int, float, np.number, np.bool_)) else value


def _check_lengths(table: PredictionColumns | OutcomeColumns) -> None:
    if not table.rows:
        raise EventError("expected at least one row, came none", reason="empty_batch")
    wrong = _other_length(table, table.rows)
    if wrong is not None:
        raise EventError(
            f"{wrong[0]!r}: expected {table.rows} rows, one per prediction, came {wrong[1]}", reason="unequal_columns"
        )


def _other_length(part: Any, rows: int) -> tuple[str, int] | None:
    """Name and length of a column, in a table or in a part of one, that has another length; None if there is none."""
    for name in type(part).__dataclass_fields__:
        value = getattr(part, name)
        for inner, column in value.items() if isinstance(value, Mapping) else ((name, value),):
            if isinstance(column, HumilityColumns):
                wrong = _other_length(column, rows)
                if wrong is not None:
                    return f"decisions: {wrong[0]}", wrong[1]
            elif isinstance(column, (np.ndarray, CategoricalColumn)):
                length = len(column.codes if isinstance(column, CategoricalColumn) else column)
                if length != rows:
                    return inner, length
    return None
