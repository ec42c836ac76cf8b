"""What an alarm of concept drift is taken for: other inputs, another rate of outcomes, or another relation of the two.

The joint law of a prediction u (bucket of scores, or predicted class) and an outcome v is P(u) P(v | u) =
P(v) P(u | v). Each explanation moves one factor and keeps another:

- *inputs*: P(u) moves, P(v | u) stays (covariate shift);
- *outcome_rate*: P(v) moves, P(u | v) stays (label shift: Lipton, Wang, Smola, "Detecting and correcting for label
  shift with black box predictors", ICML 2018);
- *relation*: P(v | u) moves, and P(u) stays, or moves too.

Each is a family of laws P0(u, v | age) w(u, v), normalised at each age, P0 being the reference's: at equal age, because
outcomes that come early are no fair sample. Laws of a factor that stays cancel, whatever the ages are. The counts since
the change are given to each family, and weigh it by the Bayesian information criterion (Schwarz, "Estimating the
dimension of a model", Annals of Statistics 6, 1978). The explanation of the largest weight is the diagnosis, and its
weight says how sure that is among the three. That is a reading of the evidence, and no promise: the promise is about
the alarm. Inputs and a relation that move to the same side together look like another rate of outcomes, and are called
that.

- inputs: w = exp(f(u)), f a polynomial of up to the third degree in the rank of the score, or of predicted classes any;
- outcome_rate: w = exp(g(v));
- relation: w = exp(h(u, v)) / sum_v P0(v | u) exp(h(u, v)). Two classes and a score: h = v (a + b rank + c rank^2), as
  in the recalibration of Cox, "Two further applications of a model for binary regression", Biometrika 45, 1958; else
  h = a where the prediction was right, g(v) besides, or any. With inputs moved as well, times exp(f(u)).

Numbers have no such table: what is known of their alarms is which streams caused them (:func:`diagnose`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from streams.outcomes.evidence import (
    INPUTS,
    LOSS,
    LOSS_TAIL,
    OUTCOME,
    OUTCOME_RATE,
    RELATION,
    RELATION_STREAMS,
)
from streams.outcomes.joint import LEAST_PAIRS, JointTable
from streams.statistics.arrays import log_sum_exp

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

ODDS = 5.0
"""For the inputs where they have an open alarm; against the relation where the streams that watch it, and nothing else,
have not shown it so far: the moment of an alarm is no fair one, it comes when chance adds to what caused it."""

LARGEST_WEIGHT = 12.0
"""Log weights are cut there: a class that no longer occurs would drive them to infinity."""

MOST_STEPS, MOST_HALVINGS = 60, 12
LEAST_GAIN = 1e-10
"""Nats per row: a step that gains less ends the fit."""


@dataclass(frozen=True)
class Diagnosis:
    """What moved.

    Attributes:
        kind: ``relation``, ``outcome_rate``, ``inputs``, or empty where that is not told.
        probability: How sure that is among the three, 0 to 1; None where only the causes tell.
        reason: In plain words, with figures.
    """

    kind: str
    probability: float | None = None
    reason: str = ""


def diagnose(
    causes: Collection[str],
    inputs_moved: bool,
    table: JointTable | None = None,
    counts: Counts | None = None,
    *,
    independence: float = 1.0,
    margin_tv: float = 0.0,
) -> Diagnosis:
    """What an alarm of concept drift says has moved.

    1. Where calibration or a residual is among the causes, the relation has moved, or the outcome's rate: at equal
       predictions outcomes are others, and other inputs alone do not do that. The table tells the two apart; without
       one it is called the relation, for an outcome's rate that moves by itself changes the relation too.
    2. Else the table tells all three apart. A relation that moved by less than the margin, beside inputs that moved by
       more, is none.
    3. Without a table: losses moved, and inputs have an open alarm: the model meets inputs on which it is worse (or
       better). Else the outcome's rate if that is among the causes. Else nothing is told.

    Args:
        causes: Names of the streams that caused it.
        inputs_moved: Whether a monitor of features or predictions has an alarm that is open.
        table: Of the baseline.
        counts: int64[A * U * V] since the change.
        independence: How many independent pairs a pair is worth, at most 1.
        margin_tv: What counts as no change.
    """
    names = set(causes)
    at_equal_predictions = bool(names & set(RELATION_STREAMS))
    if table is not None and counts is not None and counts.sum() >= LEAST_PAIRS:
        odds = {INPUTS: ODDS if inputs_moved else 1.0, RELATION: 1.0 if at_equal_predictions else 1 / ODDS}
        return _by_table(table, counts, at_equal_predictions, odds, independence, margin_tv)
    if at_equal_predictions:
        return Diagnosis(RELATION, None, "at equal predictions outcomes are no longer those of the reference")
    if names & {LOSS, LOSS_TAIL} and inputs_moved:
        return Diagnosis(INPUTS, None, "losses moved along with inputs, and equal predictions mean what they meant")
    if OUTCOME in names:
        return Diagnosis(OUTCOME_RATE, None, "outcomes moved, and no input that is watched explains it")
    return Diagnosis("")


@dataclass(frozen=True, eq=False)
class _Family:
    """Laws P0 w, by the derivatives of log w: ``inputs`` float64[P, U], ``rate`` float64[R, V], ``relation``
    float64[Q, U, V]; P, Q or R may be zero.
    """

    kind: str
    inputs: Floats
    rate: Floats
    relation: Floats

    @property
    def parameters(self) -> int:
        return len(self.inputs) + len(self.rate) + len(self.relation)

    def log_weights(self, theta: Floats, log_given: Floats) -> tuple[Floats, Floats]:
        """The logarithm of w, float64[U, V], and its derivatives, float64[P + R + Q, U, V].

        ``log_given``: float64[U, V], log P0(v | u).
        """
        shape = log_given.shape
        parts = [np.broadcast_to(part, (len(part), *shape)) for part in (self.inputs[:, :, None], self.rate[:, None])]
        f, g, h = np.split(theta, np.cumsum([len(part) for part in parts]))
        weights = _combined(f, parts[0]) + _combined(g, parts[1])
        if len(self.relation):
            tilted = log_given + _combined(h, self.relation)
            normaliser = log_sum_exp(tilted)[:, None]
            weights = weights + tilted - log_given - normaliser
            means = (np.exp(tilted - normaliser) * self.relation).sum(axis=2, keepdims=True)
            parts.append(self.relation - means)
        return weights, np.concatenate(parts)


def _combined(factors: Floats, arrays: Floats) -> Floats:
    """Sum of arrays float64[N, U, V], each times its factor. No matrix product: its sums depend on threads."""
    return np.asarray((factors[:, None, None] * arrays).sum(axis=0))


def _families(reference: Floats, scores: bool) -> list[_Family]:
    _, predictions, outcomes = reference.shape
    shares = reference.sum(axis=(0, 2)) / reference.sum()
    rank = 2 * (np.cumsum(shares) - shares / 2) - 1
    by_outcome = np.eye(outcomes)[1:]
    none_u, none_v = np.zeros((0, predictions)), np.zeros((0, outcomes))
    none_uv = np.zeros((0, predictions, outcomes))
    if scores:
        powers = np.stack([rank, rank**2, rank**3])[: max(predictions - 1, 1)]
        shapes = [powers[:k] for k in range(1, len(powers) + 1)]
        slopes = np.stack([np.ones_like(rank), rank, rank**2])[:predictions]
        relations = [slopes[:k, :, None] * by_outcome[0] for k in range(1, len(slopes) + 1)]
    else:
        shapes = [np.eye(predictions)[1:]]
        right = np.eye(predictions, outcomes)[None]
        of_rate = np.broadcast_to(by_outcome[:, None, :], (outcomes - 1, predictions, outcomes))
        free = np.stack([np.outer(u, v) for u in np.eye(predictions) for v in by_outcome])
        relations = [right, of_rate, np.concatenate([right, of_rate]), free]
    found = [_Family(INPUTS, shape, none_v, none_uv) for shape in shapes]
    found += [_Family(OUTCOME_RATE, none_u, by_outcome, none_uv)]
    for relation in relations:
        found += [_Family(RELATION, shape, none_v, relation) for shape in (none_u, *shapes)]
    return found


def _by_table(
    table: JointTable,
    counts: Counts,
    at_equal_predictions: bool,
    odds: Mapping[str, float],
    independence: float,
    margin_tv: float,
) -> Diagnosis:
    observed = counts.reshape(table.reference.shape).astype(np.float64)
    law, scores = _smoothed(table.reference), table.group_of is not None
    rows = observed.sum()
    # the reference is a sample, too: of a difference between n and m rows the variance is 1/n + 1/m
    worth = min(independence, 1.0) / (1 + rows / table.reference.sum())
    fits: dict[str, list[_Fit]] = {}
    for family in _families(table.reference, scores):
        if family.kind != INPUTS or not at_equal_predictions:
            fits.setdefault(family.kind, []).append(_fit(family, law, observed, worth))
    likeliest = max(fits[RELATION], key=lambda fit: fit.criterion)
    moved = _moved(likeliest.weights, law, observed)
    if moved < margin_tv and not at_equal_predictions:
        del fits[RELATION]
    # the families of a kind share its weight: that there are many is no reason to believe it
    criterion = {
        kind: float(log_sum_exp(np.array([fit.criterion for fit in own])))
        + float(np.log(odds.get(kind, 1.0) / len(own)))
        for kind, own in fits.items()
    }
    kind = max(criterion, key=lambda name: (criterion[name], name))
    probability = float(np.exp(criterion[kind] - log_sum_exp(np.array(list(criterion.values())))))
    return Diagnosis(kind, probability, _words(kind, law, observed, moved, probability, scores))


def _smoothed(reference: Floats) -> Floats:
    """P0(age, u, v): a reference in which something did not happen does not say that it never will.

    To each cell of an age half a row of what its margins lead to expect is added.
    """
    by_u, by_v = reference.sum(axis=(0, 2)) + 0.5, reference.sum(axis=(0, 1)) + 0.5
    expected = np.outer(by_u / by_u.sum(), by_v / by_v.sum())
    return np.asarray((reference + 0.5 * reference.shape[1] * expected) / reference.sum())


@dataclass(frozen=True, eq=False)
class _Fit:
    """The best law of a family: its ``criterion``, in nats over the reference's, and ``weights`` float64[U, V]."""

    criterion: float
    weights: Floats


def _fit(family: _Family, law: Floats, observed: Floats, worth: float) -> _Fit:
    """The likeliest law of a family, by Fisher scoring with halved steps; a row counts for ``worth`` of one."""
    by_age, by_cell = observed.sum(axis=(1, 2)), observed.sum(axis=0)
    rows = float(by_age.sum())
    log_law = np.log(law)
    log_age = log_sum_exp(log_law.reshape(len(law), -1))
    given = law.sum(axis=0)
    log_given = np.log(given / given.sum(axis=1, keepdims=True))

    def likelihood(theta: Floats) -> tuple[float, Floats, Floats, Floats]:
        """Mean log likelihood over the reference's, log w and its derivatives, and the law as float64[A, U, V]."""
        weights, derivatives = family.log_weights(theta, log_given)
        tilted = log_law + weights
        normalisers = log_sum_exp(tilted.reshape(len(law), -1))
        value = (by_cell * weights).sum() - (by_age * (normalisers - log_age)).sum()
        return float(value) / rows, weights, derivatives, np.exp(tilted - normalisers[:, None, None])

    theta = np.zeros(family.parameters)
    value, weights, derivatives, now = likelihood(theta)
    for _ in range(MOST_STEPS):
        step = _step(derivatives, now, by_age, by_cell)
        for _ in range(MOST_HALVINGS):
            tried = np.clip(theta + step, -LARGEST_WEIGHT, LARGEST_WEIGHT)
            found = likelihood(tried)
            if found[0] > value:
                break
            step = step / 2
        else:
            break
        gain, theta = found[0] - value, tried
        value, weights, derivatives, now = found
        if gain < LEAST_GAIN:
            break
    price = family.parameters / 2 * float(np.log(max(rows * worth, 2.0)))
    return _Fit(value * rows * worth - price, weights)


def _step(derivatives: Floats, law: Floats, by_age: Floats, by_cell: Floats) -> Floats:
    """Information^-1 times score, float64[P]. No matrix products of numpy: their sums depend on threads."""
    cells = _combined(by_age, law)
    score = (derivatives * (by_cell - cells)).sum(axis=(1, 2))
    means = (derivatives[:, None] * law[None]).sum(axis=(2, 3))
    products = (derivatives[:, None] * derivatives[None] * cells).sum(axis=(2, 3))
    information = products - (means[:, None] * means[None] * by_age).sum(axis=2)
    ridge = 1e-7 * float(by_age.sum())
    return np.asarray(solve(information + ridge * np.eye(len(score)), score, assume_a="sym"))


def _moved(weights: Floats, law: Floats, observed: Floats) -> float:
    """Mean total variation between a law's outcomes and the reference's, over the predictions that were observed.

    That of a fitted law: the observed outcomes themselves differ from any, by chance.
    """
    given = law.sum(axis=0)
    changed = given * np.exp(weights - weights.max())
    given, changed = (cells / cells.sum(axis=1, keepdims=True) for cells in (given, changed))
    by_prediction = observed.sum(axis=(0, 2))
    return float(by_prediction @ np.abs(changed - given).sum(axis=1) / 2 / by_prediction.sum())


def _words(kind: str, law: Floats, observed: Floats, moved: float, probability: float, scores: bool) -> str:
    """The diagnosis in plain words."""
    by_prediction, by_age = observed.sum(axis=2, keepdims=True), observed.sum(axis=(1, 2), keepdims=True)
    expected = by_prediction * law / law.sum(axis=2, keepdims=True)
    before = by_age * law / law.sum(axis=(1, 2), keepdims=True)
    now, of_such, then = (_true(cells.sum(axis=0), scores) for cells in (observed, expected, before))
    what = "were of the positive class" if scores else "were as predicted"
    opening = {
        RELATION: f"at equal predictions outcomes are others, in {_in_100(moved)} on average",
        OUTCOME_RATE: "outcomes of one class became more frequent, and each class is predicted as it was",
        INPUTS: "equal predictions mean what they meant, but predictions are others",
    }[kind]
    sure = f"{100 * probability:.0f} % sure" if probability < 0.995 else "more than 99 % sure"
    return (
        f"{opening}: of {int(observed.sum()):,} outcomes since the change {_in_100(now)} {what}; {_in_100(of_such)} "
        f"were to be expected of such predictions, and in the reference {_in_100(then)} at equal age; {sure}"
    )


def _true(cells: Floats, scores: bool) -> float:
    """Of a table float64[U, V]: the share of the positive class, or of the classes that were predicted."""
    return float((cells[:, 1].sum() if scores else np.trace(cells)) / cells.sum())


def _in_100(share: float) -> str:
    number = 100 * share
    return f"{number:.0f} in 100" if number >= 9.95 else f"{number:.1f} in 100"
