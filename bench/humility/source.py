"""Predictions of a binary classifier whose law is known: every rate that is promised has its true value beside it.

Four numeric features go together, one has heavy tails, and a category has a long tail of rare values. How often a
prediction of a given confidence is wrong depends on its region, so that one threshold cannot fit all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta, binom

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from streams.baseline import Baseline, BaselineSegment
from streams.specification import BINARY, DeploymentSpec, FeatureSpec, OutcomeSpec, SegmentSpec
from streams.statistics.arrays import Floats

REGIONS = ("north", "south", "isle")
SHARES = (0.55, 0.40, 0.05)
SKILL = (0.95, 0.80, 0.40)
"""By region: a prediction of confidence u is right with probability 1/2 + skill (u - 1/2)."""

KINDS = 40
SCORE = (0.6, 0.6)
"""Scores are distributed as Beta(0.6, 0.6)."""

START_US = 1_700_006_400_000_000
HOUR_US = 3_600_000_000
ROWS_AN_HOUR = 100

ONE_IN = 0.001
"""A share of sets may exceed delta by chance: by as much as happens to one bench in a thousand where it is delta."""

_KIND_SHARES = np.arange(1, KINDS + 1) ** -1.6
_CORRELATED = np.linalg.cholesky(0.6 * np.ones((4, 4)) + 0.4 * np.eye(4))


@dataclass(frozen=True)
class Change:
    """What is no longer as it was. By default nothing.

    Attributes:
        new_kinds: Share of rows with a category that was never seen.
        correlation: Of the four features; 0.6 before.
        scale: Of these features.
        less_sure: Share of the rows whose score is drawn anew, evenly from the middle.
        skill: Factor on the skill in all regions.
    """

    new_kinds: float = 0.0
    correlation: float = 0.6
    scale: float = 1.0
    less_sure: float = 0.0
    skill: float = 1.0


UNCHANGED = Change()


def draw(rng: np.random.Generator, rows: int, change: Change = UNCHANGED) -> tuple[PredictionColumns, np.ndarray]:
    """Independent rows: the predictions, and bool[n] what turned out."""
    factor = _CORRELATED
    if change.correlation != UNCHANGED.correlation:
        rest = 1 - change.correlation
        factor = np.linalg.cholesky(change.correlation * np.ones((4, 4)) + rest * np.eye(4))
    together = change.scale * factor @ rng.normal(size=(4, rows))
    score = rng.beta(*SCORE, rows)
    unsure = rng.random(rows) < change.less_sure
    score = np.where(unsure, rng.uniform(0.3, 0.7, rows), score)
    region = rng.choice(len(REGIONS), rows, p=SHARES)
    kind = rng.choice(KINDS, rows, p=_KIND_SHARES / _KIND_SHARES.sum())
    kind[rng.random(rows) < change.new_kinds] = KINDS
    amount = rng.standard_t(3, rows)
    amount[rng.random(rows) < 0.02] = np.nan
    sure = np.maximum(score, 1 - score)
    right = rng.random(rows) < 0.5 + change.skill * np.array(SKILL)[region] * (sure - 0.5)
    columns = PredictionColumns(
        "bench",
        "1",
        [f"p{row}" for row in range(rows)],
        START_US + np.arange(rows, dtype=np.int64) * (HOUR_US // ROWS_AN_HOUR),
        {**{f"x{i}": values for i, values in enumerate(together)}, "amount": amount},
        {
            "kind": CategoricalColumn([*(f"k{i}" for i in range(KINDS)), "new"], kind.astype(np.int32)),
            "region": CategoricalColumn(list(REGIONS), region.astype(np.int32)),
        },
        prediction=score,
    )
    return columns, (score >= 0.5) == right


def outcomes(columns: PredictionColumns, actual: np.ndarray) -> OutcomeColumns:
    """What turned out, an hour later each."""
    return OutcomeColumns(
        columns.deployment_id, columns.prediction_ids, columns.timestamps_us + HOUR_US, actual.astype(np.float64)
    )


NOVEL, UNSURE, OUTSIDE = 0, 1, 2
RULES = (
    Rule("novel", Condition("novel_input"), "refuse"),
    Rule("unsure", Condition("uncertain_prediction", measure="certified"), "route", route_to="people"),
    Rule("outside", Condition("outlying_input", columns=("x0", "x1", "amount")), "override", Override("prior")),
)


def specification(guarantees: Guarantees) -> DeploymentSpec:
    """A deployment of these rows, with the rules above."""
    numeric = [FeatureSpec(name, "numeric") for name in ("x0", "x1", "x2", "x3", "amount")]
    return DeploymentSpec(
        "bench",
        "classifier",
        BINARY,
        (*numeric, FeatureSpec("kind", "categorical"), FeatureSpec("region", "categorical")),
        positive_class="1",
        segments=(SegmentSpec("region", "region"),),
        outcomes=OutcomeSpec(horizon_ms=2 * HOUR_US // 1000, classes=("0", "1")),
        humility=HumilitySpec(RULES, guarantees),
    )


def bare_baseline() -> Baseline:
    """A baseline that knows the regions, and nothing else: all that a fit asks for."""
    return Baseline("bench", "1", 0, (), segments=(BaselineSegment("region", "region", REGIONS),))


def with_fit(baseline: Baseline, fit: object) -> Baseline:
    """The baseline with a fit."""
    return replace(baseline, humility=fit)  # type: ignore[arg-type]  # whatever learn_fit gave


class ConfidenceLaw:
    """The law of max(s, 1 - s), s the score, by midpoints of its quantiles."""

    def __init__(self, points: int = 1_000_000) -> None:
        score = beta.ppf((np.arange(points) + 0.5) / points, *SCORE)
        self._sure = np.sort(np.maximum(score, 1 - score))
        self._above = np.concatenate((np.cumsum(self._sure[::-1])[::-1], [0.0]))

    def answered(self, threshold: float) -> float:
        """Share of predictions with at least this confidence."""
        return 1 - float(np.searchsorted(self._sure, threshold)) / len(self._sure)

    def error(self, threshold: float, skill: float) -> float:
        """Error among them, where one of confidence u is right with probability 1/2 + skill (u - 1/2)."""
        first = int(np.searchsorted(self._sure, threshold))
        if first == len(self._sure):
            return 0.0
        return 0.5 - skill * (float(self._above[first]) / (len(self._sure) - first) - 0.5)


MEAN_SKILL = float(np.dot(SHARES, SKILL))
"""That of all regions together."""


def most_exceeding(sets: int, delta: float) -> float:
    """The share of sets that may exceed where the probability is ``delta``; see ``ONE_IN``."""
    return float(binom.ppf(1 - ONE_IN, sets, delta)) / sets


def quantile_text(values: Floats) -> str:
    """5 %, 50 % and 95 % quantile."""
    return " / ".join(f"{value:.4f}" for value in np.quantile(values, [0.05, 0.5, 0.95]))
