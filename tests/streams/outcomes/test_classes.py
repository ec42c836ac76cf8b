"""Which classes a reference has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from streams.errors import BaselineError
from streams.outcomes.classes import MOST_CLASSES, learn_classes
from streams.specification import BINARY, MULTICLASS, OTHER_TASK, REGRESSION, DeploymentSpec, OutcomeSpec


def spec(task: str, positive: str | None = None, classes: tuple[str, ...] = ()) -> DeploymentSpec:
    return DeploymentSpec("d", "m", task, (), positive_class=positive, outcomes=OutcomeSpec(1000, classes=classes))


def predictions(labels: list[str] | None = None, probabilities: tuple[str, ...] = ()) -> PredictionColumns:
    column = None if labels is None else CategoricalColumn.from_values(labels)
    rows = 1 if labels is None else len(labels)
    return PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(rows)],
        np.zeros(rows, np.int64),
        prediction_label=column,
        class_probabilities={name: np.zeros(rows) for name in probabilities},
    )


def outcomes(labels: list[Any] | None = None, values: list[float] | None = None) -> OutcomeColumns:
    rows = len(labels if labels is not None else values or [])
    return OutcomeColumns(
        "d",
        [str(i) for i in range(rows)],
        np.zeros(rows, np.int64),
        None if values is None else np.array(values),
        None if labels is None else CategoricalColumn.from_values(labels),
    )


def learn(
    asked: DeploymentSpec, outcome: OutcomeColumns, predicted: PredictionColumns | None = None, rows: Any = None
) -> tuple[str, ...]:
    ours = np.ones(outcome.rows, bool) if rows is None else np.array(rows)
    return learn_classes(asked, [predicted or predictions()], [outcome], [ours])


def test_of_two_classes_the_negative_one_comes_first() -> None:
    assert learn(spec(BINARY, "late"), outcomes(["late", "on time"])) == ("on time", "late")
    assert learn(spec(BINARY, "a"), outcomes(["a"]), predictions(["z"])) == ("z", "a")
    assert learn(spec(BINARY, "a"), outcomes(["a"]), predictions(probabilities=("a", "z"))) == ("z", "a")
    assert learn(spec(BINARY, "yes", ("yes", "no")), outcomes(["yes", "maybe"])) == ("no", "yes")


def test_classes_that_come_as_numbers() -> None:
    assert learn(spec(BINARY), outcomes(values=[0.0, 1.0])) == ("0", "1")
    assert learn(spec(BINARY, "0"), outcomes(values=[0.0, 1.0])) == ("1", "0")
    assert learn(spec(BINARY, "late"), outcomes(values=[0.0, 1.0])) == ("not late", "late")
    assert learn(spec(BINARY, "late"), outcomes(values=[0.0, 1.0]), predictions(["late", "no"])) == ("no", "late")
    assert learn(spec(MULTICLASS), outcomes(values=[3.0, 1.0, np.nan, 2.0])) == ("1", "2", "3")


def test_several_classes_are_sorted_by_name() -> None:
    assert learn(spec(MULTICLASS), outcomes(["c", "a"]), predictions(["b"])) == ("a", "b", "c")
    assert learn(spec(MULTICLASS, classes=("c", "a")), outcomes(["b"])) == ("c", "a")


def test_numbers_have_no_classes() -> None:
    for task in (REGRESSION, OTHER_TASK):
        assert learn(spec(task), outcomes(values=[0.0, 1.0])) == ()


def test_outcomes_of_other_predictions_name_no_class() -> None:
    assert learn(spec(BINARY, "a"), outcomes(["a", "b", "c"]), rows=[True, True, False]) == ("b", "a")


@pytest.mark.parametrize(
    ("asked", "outcome", "said"),
    [
        (spec(BINARY, "a"), outcomes(["a", "b", "c"]), "expected one class besides 'a'.* came 'b', 'c'"),
        (spec(BINARY, "a"), outcomes(["a", "a"]), "expected two classes.* only 'a'"),
        (spec(BINARY), outcomes(["late", "on time"]), "none is '1': positive_class"),
        (spec(BINARY, "LATE"), outcomes(["late", "on time"]), "'late', 'on time', and none is 'LATE'"),
        (spec(BINARY), outcomes(values=[0.0, 0.0]), "none is '1'"),
        (spec(MULTICLASS), outcomes(["a"]), "at least two classes.*came 'a'"),
        (spec(MULTICLASS), outcomes([f"id{i}" for i in range(MOST_CLASSES + 1)]), "at most 256 classes.* 257"),
    ],
)
def test_what_is_no_classification_is_refused(asked: DeploymentSpec, outcome: OutcomeColumns, said: str) -> None:
    with pytest.raises(BaselineError, match=said):
        learn(asked, outcome)
