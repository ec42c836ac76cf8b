"""What was decided about predictions while they wait: by which rules, and how it is read, kept and found again.

A prediction keeps its decision as it was when it came: what the rules say now is of no interest to it. Decisions that
its publisher made are in the topic for good. Those that the streams made are not: where the index is lost they are
made again, by the same rules and with the facts of then. So the rules are in the journal as long as a frame needs them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats
from driftline.humility.policy import Policy
from driftline.humility.rules import OVERRIDDEN
from streams.baseline import Baseline
from streams.humility.tracker import fit_digest
from streams.outcomes.reading import class_codes
from streams.statistics.performance.coverage import LARGEST_QUANTILE
from streams.statistics.performance.pairs import BINARY, REGRESSION, Decisions, PerformanceLayout, Predicted

Rows = NDArray[np.void]

DECISION_FIELDS: list[Any] = [
    ("action", "u1"),
    ("fired", "<u8"),
    ("quantile", "<f8"),
    ("group", "<i2"),
    ("answer", "<f8"),
]
"""What a row of the store has besides where there are rules."""


class Issued(Protocol):
    """What was decided of n rows, as :class:`streams.humility.judge.Judged` has it."""

    @property
    def actions(self) -> NDArray[np.uint8]:
        """uint8[n], a code of :mod:`driftline.humility.rules`."""

    @property
    def fired(self) -> NDArray[np.uint64]:
        """uint64[n], bit r is set where rule r fired."""

    @property
    def quantiles(self) -> Floats:
        """float64[n], NaN for none."""

    @property
    def groups(self) -> NDArray[np.int16]:
        """int16[n], index of the group."""

    @property
    def answers(self) -> Floats:
        """float64[n], what was served instead, NaN where nothing was."""

    @property
    def answer_labels(self) -> CategoricalColumn | None:
        """The same of the predicted class."""


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The rules and the fit by which predictions were decided, as far as their outcomes need them.

    Attributes:
        policy: Digest of the rules and the fit.
        fit: Digest of the fit; empty for none.
        rules: Names of the rules; bit r of what fired is rule r.
        groups: Names of the groups that rows belong to.
        static: First quantile of each; NaN for none.
        score: What quantiles are compared with; empty where none were fitted.
    """

    policy: str
    fit: str
    rules: tuple[str, ...]
    groups: tuple[str, ...]
    static: tuple[float, ...]
    score: str

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        static = [None if math.isnan(quantile) else quantile for quantile in self.static]
        return dataclasses.asdict(self) | {"static": static}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Rulebook:
        """Read :meth:`to_json`."""
        return cls(
            fields["policy"],
            fields["fit"],
            tuple(fields["rules"]),
            tuple(fields["groups"]),
            tuple(math.nan if quantile is None else quantile for quantile in fields["static"]),
            fields["score"],
        )

    def read(self, rows: Rows, layout: PerformanceLayout, issued: Issued, mask: Any) -> None:
        """Write the decisions of the rows of a batch that count into those that will wait, n rows."""
        rows["action"], rows["fired"] = issued.actions[mask], issued.fired[mask]
        quantiles = issued.quantiles[mask]
        with np.errstate(invalid="ignore"):
            usable = np.abs(quantiles) <= LARGEST_QUANTILE
        rows["quantile"] = np.where(usable, quantiles, np.nan)
        rows["group"] = issued.groups[mask]
        rows["answer"] = served_answers(layout, issued)[mask]

    def decisions(self, rows: Rows) -> Decisions:
        """The decisions of rows that wait."""
        groups = rows["group"].astype(np.int64)
        return Decisions(
            actions=rows["action"].copy(),
            fired=rows["fired"].copy(),
            quantiles=rows["quantile"].copy(),
            static=np.array([*self.static, np.nan])[groups],
            groups=groups,
            answers=rows["answer"].copy(),
        )


def served_answers(layout: PerformanceLayout, issued: Issued) -> Floats:
    """What was served instead of each prediction, float64[n]: a value, or the index of a class; NaN for nothing.

    A binary answer that is a number is a score.
    """
    answers = np.where(np.isfinite(issued.answers), issued.answers, np.nan)
    if layout.task == REGRESSION or not layout.classes:
        return answers
    codes = class_codes(layout.classes, issued.answer_labels, len(answers)).astype(np.float64)
    by_score = np.full(len(answers), np.nan)
    if layout.task == BINARY:
        with np.errstate(invalid="ignore"):
            inside = (answers >= 0) & (answers <= 1)
            by_score = np.where(inside, answers >= layout.threshold, np.nan)
    return np.where(codes < 0, by_score, codes)


def rulebook_of(policy: Policy, baseline: Baseline) -> Rulebook:
    """The rulebook of a version whose predictions are decided by a policy."""
    fit, starts = baseline.humility, policy.start_quantiles
    return Rulebook(
        policy=policy.digest,
        fit=fit_digest(fit),
        rules=tuple(rule.name for rule in policy.rules),
        groups=policy.groups,
        static=tuple(starts.get(group, math.nan) for group in policy.groups),
        score=fit.coverage_score if fit is not None and starts else "",
    )


def served(layout: PerformanceLayout, predicted: Predicted, decisions: Decisions) -> Predicted:
    """What was served instead of predictions, n rows that were overridden: without scores or intervals of its own."""
    scores, labels = np.full_like(predicted.scores, np.nan), np.full(predicted.rows, -1, np.int64)
    there = ~np.isnan(decisions.answers)
    if layout.task == REGRESSION:
        scores[:, 0] = decisions.answers
    elif layout.classes:
        labels[there] = decisions.answers[there].astype(np.int64)
    return Predicted(scores, labels)


def is_served(decisions: Decisions) -> NDArray[np.bool_]:
    """Of which predictions something else was served that is known, bool[n]."""
    return np.asarray((decisions.actions == OVERRIDDEN) & ~np.isnan(decisions.answers))


def has_fired(decisions: Decisions, rule: int) -> NDArray[np.bool_]:
    """Where a rule fired, bool[n]."""
    one = np.uint64(1)
    return np.asarray((decisions.fired >> np.uint64(rule)) & one == one)
