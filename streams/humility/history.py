"""The rows that humility rules are fitted to: each prediction once, half of them to learn and half to calibrate.

Predictions are put in order of event time and shared out in blocks of neighbours
(:func:`streams.statistics.humility.calibrating`). What teaches the surprise of values, and the thresholds that are to
be tried, is the one half; what is guaranteed is computed from the other alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, OutcomeColumns, PredictionColumns
from driftline.limits import no_probability
from driftline.reading import finite_categorical_column, numeric_column
from streams.baseline import Baseline, OutcomeReference
from streams.errors import BaselineError
from streams.outcomes.keys import Keys, id_keys
from streams.outcomes.matching import Outcomes, first_of_each, match
from streams.outcomes.reading import jitter, performance_layout, read_actual, read_predicted
from streams.specification import DeploymentSpec
from streams.statistics.humility import calibrating
from streams.statistics.performance.pairs import PerformanceLayout, Predicted

LEAST_ROWS = 200
"""Of fewer rows, as of fewer rows of a baseline, nothing can be learnt."""

Mask = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class History:
    """n predictions, each id once, in order of event time.

    Attributes:
        batches: As they were given.
        rows: int64[n], the place of each in the batches, one after the other.
        keys: uint64[n, 2], of their ids.
        times_us: int64[n].
        calibrates: bool[n]; the others learn.
    """

    batches: Sequence[PredictionColumns]
    rows: Integers
    keys: Keys
    times_us: Integers
    calibrates: Mask

    @classmethod
    def of(cls, batches: Sequence[PredictionColumns]) -> History:
        """Of all rows; of an id the earliest one by event time, whatever the order of the batches."""
        keys = np.concatenate([id_keys(batch.prediction_ids) for batch in batches])
        times = np.concatenate([batch.timestamps_us for batch in batches])
        rows = first_of_each(keys, times)
        rows = rows[np.lexsort((keys[rows, 1], keys[rows, 0], times[rows]))]
        return cls(batches, rows, keys[rows], times[rows], calibrating(len(rows)))

    def numbers(self, name: str) -> Floats:
        """A numeric feature, float64[n]; NaN where it is missing, infinite or no number."""
        return self._finite([numeric_column(batch, name, lenient=True) for batch in self.batches])

    def predictions(self) -> Floats:
        """Predicted values or scores, float64[n]; NaN where there is none."""
        absent = [np.full(batch.rows, np.nan) for batch in self.batches]
        given = [batch.prediction for batch in self.batches]
        return self._finite([none if own is None else own for none, own in zip(absent, given, strict=True)])

    def texts(self, name: str) -> CategoricalColumn:
        """A categorical feature, n rows in one dictionary."""
        return self._in_one([finite_categorical_column(batch, name) for batch in self.batches])

    def labels(self) -> CategoricalColumn:
        """Predicted classes, n rows in one dictionary."""
        absent = [CategoricalColumn((), np.full(batch.rows, -1, np.int32)) for batch in self.batches]
        given = [batch.prediction_label for batch in self.batches]
        return self._in_one([none if own is None else own for none, own in zip(absent, given, strict=True)])

    def _finite(self, parts: Sequence[Floats]) -> Floats:
        values = np.concatenate(parts)[self.rows]
        return np.where(np.isfinite(values), values, np.nan)

    def _in_one(self, parts: Sequence[CategoricalColumn]) -> CategoricalColumn:
        names: dict[str, int] = {}
        codes = []
        for part in parts:
            lookup = np.array([*(names.setdefault(name, len(names)) for name in part.categories), -1], np.int32)
            codes.append(lookup[part.codes])
        return CategoricalColumn(list(names), np.concatenate(codes)[self.rows])


@dataclass(frozen=True, eq=False)
class Resolved:
    """The m predictions of a history whose outcome is known, in the order in which the outcomes became known.

    Attributes:
        layout: Of the performance sums.
        rows: int64[m], which predictions of the history.
        predicted: What the model said, m rows.
        actual: float64[m], the actual value, or the index of the actual class.
        ages_us: int64[m], time at which the outcome was known less that of the prediction.
        labelled: Predictions with an outcome, before a fair sample was drawn of them.
    """

    layout: PerformanceLayout
    rows: Integers
    predicted: Predicted
    actual: Floats
    ages_us: Integers
    labelled: int


def resolve(
    spec: DeploymentSpec,
    reference: OutcomeReference | None,
    history: History,
    outcomes: Sequence[OutcomeColumns],
    until_us: int | None,
) -> Resolved | None:
    """Join a history with its outcomes; None where nothing says which outcomes are expected.

    As in a baseline, the last outcome within the horizon counts, and predictions whose horizon had not passed when the
    outcomes end are left out: of these only the early ones are known. Where only a sample is ever labelled, and some
    rows with another probability than others, each stays with probability (smallest / its own), by its id: what is left
    is labelled evenly.
    """
    layout = performance_layout(spec, reference)
    if layout is None or spec.outcomes is None:
        return None
    horizon_us = spec.outcomes.horizon_ms * 1000
    table, outcome_times_us = _usable(layout, outcomes)
    matched = match(history.keys, history.times_us, table, horizon_us)
    last_us = int(history.times_us[-1])
    # as in a baseline: outcomes that claim a time more than a horizon later do not tell how far outcomes reach
    later_us = outcome_times_us[outcome_times_us <= last_us + horizon_us].max(initial=last_us)
    end_us = max(int(later_us), last_us if until_us is None else min(until_us, last_us + horizon_us))
    rows = np.flatnonzero((matched.row >= 0) & (history.times_us <= end_us - horizon_us))
    labelled = len(rows)
    weights = table.weights[matched.row[rows]]
    rows = rows[jitter(history.keys[rows, 1]) * weights.max(initial=1.0) < weights]
    known_us = table.times_us[matched.row[rows]]
    rows = rows[np.lexsort((rows, known_us))]
    chosen = matched.row[rows]
    scores, labels = _predicted(layout, history)
    return Resolved(
        layout=layout,
        rows=rows,
        predicted=Predicted(scores[rows], labels[rows]),
        actual=table.values[chosen],
        ages_us=np.maximum(table.times_us[chosen] - history.times_us[rows], 0),
        labelled=labelled,
    )


def _usable(layout: PerformanceLayout, outcomes: Sequence[OutcomeColumns]) -> tuple[Outcomes, Integers]:
    """The outcomes that can be used, and when any became known, int64[k]."""
    values = np.concatenate([np.zeros(0), *(read_actual(layout, batch).values for batch in outcomes)])
    times = np.concatenate([np.zeros(0, np.int64), *(batch.actual_timestamps_us for batch in outcomes)])
    keys = np.concatenate([np.zeros((0, 2), np.uint64), *(id_keys(batch.prediction_ids) for batch in outcomes)])
    weights = np.concatenate([np.zeros(0), *map(_weights, outcomes)])
    good = np.isfinite(values)
    acted = np.zeros(int(good.sum()), np.uint8)  # of several at one time the largest value counts
    return Outcomes(keys[good], times[good], values[good], acted, weights[good]), times


def _weights(batch: OutcomeColumns) -> Floats:
    chances = batch.labelling_probability
    if chances is None:
        return np.ones(batch.rows)
    return np.asarray(1 / np.where(no_probability(chances), 1.0, chances))  # those are not used


def _predicted(layout: PerformanceLayout, history: History) -> tuple[Floats, Integers]:
    read = [read_predicted(layout, batch) for batch in history.batches]
    return (
        np.concatenate([part.scores for part in read])[history.rows],
        np.concatenate([part.labels for part in read])[history.rows],
    )


def check_rows(
    spec: DeploymentSpec, baseline: Baseline, batches: Sequence[PredictionColumns], outcomes: Sequence[OutcomeColumns]
) -> None:
    """Refuse rows of another deployment or version, and too few of them.

    Raises:
        BaselineError: Says what was expected and what came.
    """
    expected = (spec.deployment_id, baseline.model_version)
    if baseline.deployment_id != spec.deployment_id:
        raise BaselineError(
            f"expected a baseline of {spec.deployment_id!r}, came one of {baseline.deployment_id!r}: give the baseline "
            "of the deployment that the rules belong to"
        )
    for batch in batches:
        came = (batch.deployment_id, batch.model_version)
        if came != expected:
            raise BaselineError(
                "expected predictions of {!r} version {!r}, as the baseline is, came predictions of {!r} version {!r}: "
                "give rows of that version, or the baseline of the other one".format(*expected, *came)
            )
    for known in outcomes:
        if known.deployment_id != spec.deployment_id:
            raise BaselineError(
                f"expected outcomes of {spec.deployment_id!r}, came outcomes of {known.deployment_id!r}: give those of "
                "the deployment that the rules belong to"
            )
    rows = sum(batch.rows for batch in batches)
    if rows < LEAST_ROWS:
        raise BaselineError(
            f"expected at least {LEAST_ROWS} predictions of {spec.deployment_id!r} version {baseline.model_version!r} "
            f"to fit the humility rules to, better 5,000, came {rows}: give a longer range or another file"
        )
