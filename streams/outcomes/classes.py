"""The classes that a reference shows, where the specification does not name them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns, category_text
from streams.errors import BaselineError
from streams.specification import BINARY, MULTICLASS, DeploymentSpec

Mask = NDArray[np.bool_]

MOST_CLASSES = 256
"""A confusion matrix per age bucket is kept of all classes: of more, a baseline would no longer be one message."""

DEFAULT_POSITIVE = "1"
_LISTED = 8


def learn_classes(
    spec: DeploymentSpec,
    predictions: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    members: Sequence[Mask],
) -> tuple[str, ...]:
    """Class names in the order of every array; binary: negative, positive; none where outcomes are no classes.

    Those of the specification, else those that the reference's predictions and their outcomes have. ``members``: per
    batch of outcomes bool[m], the rows that belong to predictions of the reference.

    Raises:
        BaselineError: Fewer than two classes; binary: more than two, or the positive one is not among them.
    """
    if spec.task not in (BINARY, MULTICLASS) or spec.outcomes is None:
        return ()
    given = spec.outcomes.classes
    actual = set().union(*(_labels(each.actual_label, of) for each, of in zip(outcomes, members, strict=True)))
    predicted = set().union(*(_labels(each.prediction_label) for each in predictions))
    predicted |= {name for each in predictions for name in each.class_probabilities}
    numbered = set().union(*(_numbers(each, of) for each, of in zip(outcomes, members, strict=True)))
    if spec.task == BINARY:
        return _binary(spec, set(given) or actual | predicted, numbered, is_given=bool(given))
    names = given or tuple(sorted(actual | predicted | numbered))
    if len(names) < 2:
        raise BaselineError(
            f"expected at least two classes among the reference's outcomes and predictions, came {_listed(names)}: "
            "name them in the specification (outcomes: classes:), or give a reference that has them"
        )
    if len(names) > MOST_CLASSES:
        raise BaselineError(
            f"expected at most {MOST_CLASSES} classes, the reference's outcomes and predictions have {len(names):,} "
            f"({_listed(names)}): are these classes? If so, join the rare ones before they are published"
        )
    return names


def _binary(spec: DeploymentSpec, names: set[str], numbered: set[str], *, is_given: bool) -> tuple[str, ...]:
    positive = spec.positive_class or DEFAULT_POSITIVE
    if not is_given and ({positive} | names) & {"0", "1"}:
        names = names | numbered  # the classes are called by their numbers
        numbered = set()
    if positive not in names and (not numbered or spec.positive_class is None):
        asked = "positive_class" if spec.positive_class else "positive_class, which is '1' where it is not given,"
        raise BaselineError(
            f"the reference has the classes {_listed(sorted(names))}, and none is {positive!r}: {asked} in the "
            "specification must name one of them"
        )
    negative = sorted(names - {positive})
    if len(negative) > 1:
        raise BaselineError(
            f"expected one class besides {positive!r}, as the task is {spec.task}, came {_listed(negative)}: say task: "
            f"{MULTICLASS}, or name the two classes in the specification (outcomes: classes:), and outcomes of others "
            "are refused"
        )
    if not negative and numbered:
        negative = [f"not {positive}"]  # outcomes are 0 and 1, and nothing says what 0 is called
    if not negative:
        raise BaselineError(
            f"expected two classes, the reference's outcomes and predictions have only {positive!r}: an outcome is "
            "published for every prediction, whatever it was"
        )
    return (negative[0], positive)


def _labels(column: CategoricalColumn | None, rows: Mask | None = None) -> set[str]:
    if column is None:
        return set()
    codes = column.codes if rows is None else column.codes[rows]
    return {column.categories[code] for code in np.unique(codes[codes >= 0]).tolist()}


def _numbers(outcomes: OutcomeColumns, rows: Mask) -> set[str]:
    """The names of classes that come as numbers, in rows without a label."""
    if outcomes.actual_value is None:
        return set()
    without = rows & np.isfinite(outcomes.actual_value)
    if outcomes.actual_label is not None:
        without &= outcomes.actual_label.codes < 0
    values = np.unique(outcomes.actual_value[without])
    return {text for text in map(category_text, values[: MOST_CLASSES + 1].tolist()) if text is not None}


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(repr(name[:80]) for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")
