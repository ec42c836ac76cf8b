"""What a model said and what turned out, out of batches, as the numbers that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, OutcomeColumns, PredictionColumns, category_text
from driftline.limits import no_interval, no_probability
from streams.baseline import OutcomeReference
from streams.specification import BINARY, MULTICLASS, OTHER_TASK, REGRESSION, DeploymentSpec, OutcomeSpec
from streams.statistics.performance.pairs import PerformanceLayout, Predicted

ANY_OTHER = ""
"""Name of the negative class where only the positive one is known: any other class is negative."""

MOST_PROBABILITIES = 64
"""Of more classes the probabilities are not kept while predictions wait: only which class was predicted."""

SCORE_BINS = 100


def performance_layout(spec: DeploymentSpec, reference: OutcomeReference | None) -> PerformanceLayout | None:
    """What is kept of a deployment's outcomes; None where none are expected.

    Classes are those of the specification, else those of the reference. A classification without either is only
    counted.
    """
    if spec.outcomes is None:
        return None
    edges = _score_edges(spec.outcomes.threshold) if reference is None else reference.score_edges
    ages = np.zeros(0, np.int64) if reference is None else reference.age_edges_us
    classes = _classes(spec, spec.outcomes.classes or (() if reference is None else reference.classes))
    task = spec.task
    if task not in (BINARY, REGRESSION) and not (task == MULTICLASS and len(classes) > 1):
        task = OTHER_TASK
    return PerformanceLayout(
        task=task,
        classes=() if task in (REGRESSION, OTHER_TASK) else classes,
        score_edges=edges,
        age_edges_us=ages,
        threshold=spec.outcomes.threshold,
        values=_values(spec.outcomes, classes),
        quantile=spec.outcomes.quantile if task == REGRESSION else None,
    )


def _classes(spec: DeploymentSpec, names: Sequence[str]) -> tuple[str, ...]:
    if spec.task != BINARY:
        return tuple(names)
    positive = spec.positive_class or "1"
    return (next((name for name in names if name != positive), ANY_OTHER), positive)


def _score_edges(threshold: float) -> Floats:
    return np.unique([*np.linspace(0.0, 1.0, SCORE_BINS + 1)[1:-1], threshold])


def _values(outcomes: OutcomeSpec, classes: Sequence[str]) -> Floats | None:
    if not outcomes.values or not classes:
        return None
    found = np.zeros((len(classes), len(classes)))
    index = {name: code for code, name in enumerate(classes)}
    for each in outcomes.values:
        if each.predicted in index and each.actual in index:
            found[index[each.predicted], index[each.actual]] = each.value
    return found


def read_predicted(layout: PerformanceLayout, columns: PredictionColumns) -> Predicted:
    """What the model said, n rows; NaN and -1 where it did not."""
    if layout.task == BINARY:
        positive = layout.classes[1]
        values = columns.class_probabilities.get(positive, columns.prediction)
        score = np.full(columns.rows, np.nan) if values is None else values
        with np.errstate(invalid="ignore"):
            score = np.where((score >= 0) & (score <= 1), score, np.nan)
            by_score = np.where(np.isnan(score), -1, score >= layout.threshold)
        labels = class_codes(layout.classes, columns.prediction_label, columns.rows)
        return Predicted(score[:, None], np.where(labels < 0, by_score, labels).astype(np.int64))
    if layout.task == MULTICLASS:
        return _read_classes(layout, columns)
    parts = (columns.prediction, columns.prediction_low, columns.prediction_high)
    width = 3 if layout.task == REGRESSION else 0
    scores = np.full((columns.rows, width), np.nan)
    for at, values in enumerate(parts[:width]):
        if values is not None:
            scores[:, at] = np.where(np.isfinite(values), values, np.nan)
    wrong = no_interval(columns.prediction_low, columns.prediction_high, columns.rows) if width else None
    if wrong is not None:
        scores[wrong, 1:] = np.nan
    return Predicted(scores, np.full(columns.rows, -1, np.int64))


def _read_classes(layout: PerformanceLayout, columns: PredictionColumns) -> Predicted:
    labels = class_codes(layout.classes, columns.prediction_label, columns.rows)
    if len(layout.classes) > MOST_PROBABILITIES:
        return Predicted(np.zeros((columns.rows, 0)), labels)
    absent = np.full(columns.rows, np.nan)
    scores = np.stack([columns.class_probabilities.get(name, absent) for name in layout.classes], axis=1)
    with np.errstate(invalid="ignore"):
        whole: NDArray[np.bool_] = np.asarray(((scores >= 0) & (scores <= 1)).all(axis=1))
    scores = np.where(whole[:, None], scores, np.nan)
    likeliest = np.where(whole, np.where(np.isnan(scores), -1.0, scores).argmax(axis=1), -1)
    return Predicted(scores, np.where(labels < 0, likeliest, labels).astype(np.int64))


def class_codes(classes: Sequence[str], column: CategoricalColumn | None, rows: int) -> NDArray[np.int64]:
    """Index of each row's class among ``classes``, int64[n]; -1 where there is none or it is not known."""
    if column is None:
        return np.full(rows, -1, np.int64)
    return _lookup(classes, column.categories)[column.codes]


def _lookup(classes: Sequence[str], categories: Sequence[str]) -> NDArray[np.int64]:
    """Index of the class of each category, int64[m + 1]; the last is that of missing values, -1."""
    index: dict[str, int] = {name: code for code, name in enumerate(classes) if name != ANY_OTHER}
    unknown = 0 if ANY_OTHER in classes else -1
    return np.array([*(index.get(category, unknown) for category in categories), -1], np.int64)


@dataclass(frozen=True, eq=False)
class Actual:
    """What turned out, n rows.

    Attributes:
        values: float64[n], the actual value or the index of the actual class; NaN where it cannot be used.
        refusals: Row to what was expected and what came, of those.
    """

    values: Floats
    refusals: Mapping[int, str] = field(default_factory=dict)


def read_actual(layout: PerformanceLayout, columns: OutcomeColumns) -> Actual:
    """What turned out, n rows, with a reason for each that cannot be used."""
    values, expected, todo = _actual_values(layout, columns)
    bad = np.flatnonzero(np.isnan(values)).tolist()
    refusals = {row: f"expected {expected}, came {_came(columns, row)}: {todo}" for row in bad}
    chances = columns.labelling_probability
    if chances is not None and (wrong := no_probability(chances)).any():
        values[wrong] = np.nan
        refusals |= {
            row: f"expected a labelling_probability above 0 and at most 1, came {chances[row]}"
            for row in np.flatnonzero(wrong).tolist()
        }
    return Actual(values, refusals)


def _actual_values(layout: PerformanceLayout, columns: OutcomeColumns) -> tuple[Floats, str, str]:
    """The values float64[n], NaN where there is none that fits; what was expected, and what to do."""
    if layout.task == OTHER_TASK:
        return np.zeros(columns.rows), "", ""
    if layout.task == REGRESSION:
        numbers = np.full(columns.rows, np.nan) if columns.actual_value is None else columns.actual_value
        values = np.where(np.isfinite(numbers), numbers, np.nan)
        return values, "a finite number in actual_value", "publish what turned out as a number"
    values = class_codes(layout.classes, columns.actual_label, columns.rows).astype(np.float64)
    if columns.actual_value is not None:
        texts = CategoricalColumn.from_values([category_text(value) for value in columns.actual_value.tolist()])
        from_values = class_codes(_numbered(layout), texts, columns.rows)
        labels = columns.actual_label
        without_label = np.full(columns.rows, True) if labels is None else labels.codes < 0
        values = np.where(without_label, from_values, values)
    values[values < 0] = np.nan
    names = ", ".join(repr(name) for name in layout.classes if name != ANY_OTHER)
    todo = "publish it under one of these names, or list all classes under outcomes.classes in the specification"
    return values, f"one of the classes {names[:400]} in actual_label", todo


def _numbered(layout: PerformanceLayout) -> tuple[str, ...]:
    """The names by which a class may come as a number: of two classes 0 and 1, unless these are names of others."""
    if layout.task == BINARY and not {"0", "1"} & set(layout.classes):
        return ("0", "1")
    return layout.classes


def _came(columns: OutcomeColumns, row: int) -> str:
    value, label = columns.actual_value, columns.actual_label
    if label is not None and label.codes[row] >= 0:
        return repr(label.categories[label.codes[row]][:80])
    return "nothing" if value is None else f"the number {value[row]}"


def jitter(checks: NDArray[np.uint64]) -> Floats:
    """A number in [0, 1) for each id, float64[n], out of the second half of its key: fixed, and as good as random."""
    return np.asarray((checks >> np.uint64(11)) * 2.0**-53)
