"""How surprising a value is: -log of the share of learning rows that are at least as unusual as it, in nats.

A row's novelty score is the largest surprise over its columns, so that columns of all kinds are compared by one
measure: how many rows of a hundred, thousand, million are as odd as this one. Whether a score is novel is another
matter: that is calibrated on other rows (:mod:`streams.statistics.humility`), whatever the surprises are.

- *Numbers* are unusual the farther out they lie. From edge to edge either tail loses three tenths of its rows, as far
  as twenty rows lie beyond; from there on it is continued as an exponential one with the mean excess of those rows
  (Balkema and de Haan, "Residual life time at great age", Annals of Probability 2, 1974). Were the learning rows'
  extremes the last edges, one row in twenty of fifty columns would lie beyond some of them, all equally surprising, and
  nothing rarer than that could be told apart. Nothing of the guarantee rests on the tail's form.
- *Categories* are unusual the rarer they are. What no row had is as likely as the categories together that one row had
  (Good, "The population frequencies of species and the estimation of population parameters", Biometrika 40, 1953):
  among identifiers, of which every row has its own, a new one surprises nobody.
- *Missing* is as surprising as it is rare, and so is being there.
- The *joint distance* is unusual where it is large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from driftline.events import CategoricalColumn
from driftline.humility.fit import CATEGORICAL, JOINT, NUMERIC, NoveltyColumn
from streams.derived import Derived, fit_joint
from streams.held_out import joint_distance_held_out
from streams.humility.history import History
from streams.specification import EMBEDDING, TEXT, DeploymentSpec
from streams.specification import NUMERIC as NUMERIC_KIND
from streams.statistics.arrays import Floats

TAIL_ROWS = 20
"""So many rows beyond the last edge tell how the tail goes on."""

STEP_NATS = math.log(2) / 2
"""From one edge to the next: finer bins would tie fewer scores, which costs a rule its rate, and cost more to keep."""

TAIL_STEPS = 40
"""Steps beyond the last edge: to a millionth of what lies beyond it. A value farther out is no more surprising."""

MOST_CATEGORIES = 10_000
"""Categories remembered by name; rarer ones count as unseen, in learning as in use."""


def learn_novelty(
    spec: DeploymentSpec, importance: Mapping[str, float], history: History
) -> tuple[tuple[NoveltyColumn, ...], Derived | None]:
    """Learn the columns of the novelty score from the learning rows of a history, and the joint distance among them.

    Args:
        spec: Says which features are watched, and in which kind. Texts and embeddings have no surprise.
        importance: By feature: which of many numeric features the joint distance looks at.
        history: The rows.

    Returns:
        The columns, and what the joint distance needs; None where there is none.
    """
    learns = ~history.calibrates
    columns = []
    for feature in spec.features:
        if feature.kind == NUMERIC_KIND:
            columns.append(numeric_surprise(feature.name, history.numbers(feature.name)[learns]))
        elif feature.kind not in (TEXT, EMBEDDING):
            texts = history.texts(feature.name)
            columns.append(categorical_surprise(feature.name, CategoricalColumn(texts.categories, texts.codes[learns])))
    names = [feature.name for feature in spec.features if feature.kind == NUMERIC_KIND]
    if len(names) < 2:
        return tuple(columns), None
    values = np.stack([history.numbers(name)[learns] for name in names])
    derived = fit_joint(names, values, [importance.get(name, 1.0) for name in names])
    if derived is None:
        return tuple(columns), None
    distances = joint_distance_held_out(derived, values[[names.index(name) for name in derived.inputs]])
    return (*columns, joint_surprise(distances)), derived


def numeric_surprise(name: str, values: Floats) -> NoveltyColumn:
    """The surprise of a numeric column from its learning values, float64[l]; NaN and infinities are missing."""
    finite = np.sort(values[np.isfinite(values)])
    upper, upper_mass = _upper_tail(finite)
    mirrored, lower_mass = _upper_tail(-finite[::-1])
    # a value v lies in the lower tail if -v >= mirrored, that is v <= -mirrored: below the next number
    lower = np.nextafter(-mirrored, np.inf)[::-1]
    # either tail is as unusual as the other
    inside = np.concatenate((2 * lower_mass[::-1], [1.0], 2 * upper_mass))
    there, missing = _presence(len(finite), len(values))
    surprise = (*(_nats(inside) + there).tolist(), missing)
    return NoveltyColumn(name, NUMERIC, tuple(np.concatenate((lower, upper)).tolist()), (), surprise)


def joint_surprise(distances: Floats) -> NoveltyColumn:
    """The surprise of joint distances, float64[l]; they are never missing."""
    edges, mass = _upper_tail(np.sort(distances))
    surprise = (*_nats(np.concatenate(([1.0], mass))).tolist(), 0.0)
    return NoveltyColumn("", JOINT, tuple(edges.tolist()), (), surprise)


def categorical_surprise(name: str, texts: CategoricalColumn) -> NoveltyColumn:
    """The surprise of a categorical column from its learning rows; missing values and empty texts are missing."""
    rows = len(texts.codes)
    occurs = np.bincount(texts.codes[texts.codes >= 0], minlength=len(texts.categories)).tolist()
    counts = {text: count for text, count in zip(texts.categories, occurs, strict=True) if text and count}
    present = sum(counts.values())
    ranked = sorted(counts, key=lambda category: (-counts[category], category))
    known, forgotten = ranked[:MOST_CATEGORIES], ranked[MOST_CATEGORIES:]
    once = sum(count == 1 for count in counts.values())
    new = min((once + sum(counts[category] for category in forgotten if counts[category] > 1) + 0.5) / (present + 1), 1)
    # of each count the share of rows whose category has at most so many rows, and of those that are new
    number = np.array([counts[category] for category in known], np.int64)
    rarer = np.concatenate(([0], np.cumsum(number[::-1])))
    as_rare = rarer[np.searchsorted(number[::-1], number, "right")] / max(present, 1)
    there, missing = _presence(present, rows)
    surprise = (*(_nats(as_rare + new) + there).tolist(), float(_nats(np.array(new))) + there, missing)
    return NoveltyColumn(name, CATEGORICAL, (), tuple(known), surprise)


def _upper_tail(ordered: Floats) -> tuple[Floats, Floats]:
    """Edges float64[e], ascending, of the upper tail of sorted finite values, float64[p], and the share of values at or
    above each; all of them less than a half.
    """
    rows = len(ordered)
    if not rows:
        return np.zeros(0), np.zeros(0)
    steps = np.arange(math.log(2), math.log(max(rows / TAIL_ROWS, 1.0)) + 1e-9, STEP_NATS)
    edges = np.unique(ordered[rows - np.ceil(rows * np.exp(-steps) - 1e-9).astype(np.int64)])
    mass = (rows - np.searchsorted(ordered, edges, "left")) / rows
    edges, mass = edges[mass < 0.5], mass[mass < 0.5]
    beyond, beyond_mass = _continued(ordered, edges, mass)
    return np.concatenate((edges, beyond)), np.concatenate((mass, beyond_mass))


def _continued(ordered: Floats, edges: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """Edges beyond the last, and the share of values there: an exponential tail, or what no row had."""
    with np.errstate(over="ignore"):
        above = np.nextafter(ordered[-1:], np.inf)
    above = above[np.isfinite(above)]
    unseen = above, np.full(len(above), 0.5 / (len(ordered) + 1))
    if not len(edges):
        return unseen
    with np.errstate(over="ignore", invalid="ignore"):
        excess = float((ordered[ordered >= edges[-1]] - edges[-1]).mean())
        steps = STEP_NATS * np.arange(1, TAIL_STEPS + 1)
        further = edges[-1] + excess * steps
    if not (excess > 0 and np.isfinite(further).all() and (np.diff(further, prepend=edges[-1]) > 0).all()):
        return unseen
    return further, mass[-1] * np.exp(-steps)


def _nats(share: Floats) -> Floats:
    return np.asarray(-np.log(np.minimum(share, 1.0))) + 0.0  # no negative zero


def _presence(present: int, rows: int) -> tuple[float, float]:
    """How surprising it is that a value is there, and that it is missing."""
    missing = (rows - present + 0.5) / (rows + 1)
    # what was always there, or never, tells no more than that
    return -math.log(min(1.0, (present + 0.5) / (rows + 0.5))), -math.log(missing)
