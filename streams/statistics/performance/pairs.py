"""Predictions beside their outcomes, as columns; and what is counted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BINARY = "binary_classification"
MULTICLASS = "multiclass_classification"
REGRESSION = "regression"


@dataclass(frozen=True, eq=False)
class PerformanceLayout:
    """Which sums are kept: two sums of one layout may be added.

    Attributes:
        task: One of the constants above, or anything else: then only the numbers of rows are kept.
        classes: C class names in the order of every array; binary: negative, positive. Empty for numbers.
        score_edges: float64[B - 1], inner edges of the B score bins, ascending: a score s is in bin
            ``np.searchsorted(score_edges, s, "right")``. One of them is the threshold.
        age_edges_us: int64[A - 1], inner edges of the age buckets, see ``OutcomeReference``.
        threshold: Binary: the positive class is predicted from this score on.
        values: float64[C, C], what a row of a predicted (first index) and an actual class is worth; None: not asked.
        quantile: Regression: the prediction is this quantile; None: not asked.
        coverage_score: What adaptive quantiles are compared with, a score of :mod:`driftline.humility.fit`; empty: no
            predictions have any.
    """

    task: str
    classes: tuple[str, ...] = ()
    score_edges: Floats = field(default_factory=lambda: np.linspace(0.01, 0.99, 99))
    age_edges_us: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    threshold: float = 0.5
    values: Floats | None = None
    quantile: float | None = None
    coverage_score: str = ""

    @property
    def bins(self) -> int:
        """Number of score bins, B."""
        return len(self.score_edges) + 1

    @property
    def ages(self) -> int:
        """Number of age buckets, A."""
        return len(self.age_edges_us) + 1


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model said, n rows.

    Attributes:
        scores: float64[n, W]. Binary, W = 1: probability of the positive class. Multi-class, W = C: of each class.
            Regression, W = 3: prediction, lower and upper end of its interval. NaN where not given.
        labels: int64[n], index of the predicted class; -1 where not given, and for numbers. A binary prediction
            without a label has the one that its score and the threshold give.
    """

    scores: Floats
    labels: Integers

    @property
    def rows(self) -> int:
        """Number of rows, n."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Decisions:
    """What was decided about predictions by the humility rules, n rows.

    Attributes:
        actions: uint8[n], a code of :mod:`driftline.humility.rules`, or ``NOT_DECIDED``.
        fired: uint64[n], bit r is set where rule r fired.
        quantiles: float64[n], the adaptive quantile each was issued with; NaN for none.
        static: float64[n], the quantile that its group was fitted with; NaN for none.
        groups: int64[n], the group; -1 for none.
        answers: float64[n], what was served instead: a value or the index of a class; NaN for nothing.
    """

    actions: NDArray[np.uint8]
    fired: NDArray[np.uint64]
    quantiles: Floats
    static: Floats
    groups: Integers
    answers: Floats

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Decisions:
        """Some of the rows, by index or mask."""
        return Decisions(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, pieces: Sequence[Decisions]) -> Decisions:
        """Several as one."""
        return cls(*(np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in fields(cls)))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Predictions whose outcome is known, n rows.

    Attributes:
        predicted: What the model said.
        actual: float64[n], the actual value, or the index of the actual class. Always finite.
        times_us: int64[n], event times of the predictions, microseconds since 1970 UTC.
        ages_us: int64[n], time at which the outcome was known less that of the prediction; never negative.
        weights: float64[n], 1 / labelling probability; 1 where that was not given.
        acted: uint8[n], whether somebody acted on the prediction: 0, 1, or 255 for unknown.
        jitter: float64[n], uniform in [0, 1), a fixed function of each prediction's id: spreads values that are tied.
        parts: Per segmentation, by name: the index of each row's part, int64[n], -1 for none.
        decisions: What was decided about the predictions; None where humility is off.
    """

    predicted: Predicted
    actual: Floats
    times_us: Integers
    ages_us: Integers
    weights: Floats
    acted: NDArray[np.uint8]
    jitter: Floats
    parts: Mapping[str, Integers] = field(default_factory=dict)
    decisions: Decisions | None = None

    @property
    def rows(self) -> int:
        """Number of rows, n."""
        return len(self.actual)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Pairs:
        """Some of the rows, by index or mask."""
        return Pairs(
            Predicted(self.predicted.scores[rows], self.predicted.labels[rows]),
            self.actual[rows],
            self.times_us[rows],
            self.ages_us[rows],
            self.weights[rows],
            self.acted[rows],
            self.jitter[rows],
            {name: codes[rows] for name, codes in self.parts.items()},
            None if self.decisions is None else self.decisions.take(rows),
        )
