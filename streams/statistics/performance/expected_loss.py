"""The loss that a model of numbers is expected to have on a row, from what is known when it predicts.

Direct loss estimation (NannyML's documentation, "Direct Loss Estimation"): a second model learns the absolute and the
squared error from the reference, with the prediction and the numeric columns as its inputs. This one is additive: the
logarithm of the expected loss is a constant plus one number for each column, read off a table by the bin that the
column's value is in (a generalised additive model; Hastie and Tibshirani, "Generalized additive models", Statistical
Science 1, 1986). So it is small enough for a baseline, fast, never negative, and needs no library.

It sees what single columns tell of the size of errors, not what only several together tell, and no categorical columns.
It is valid as long as the relation of inputs and errors is that of the reference. Inputs outside of what the reference
held count as its outermost bins, and no row is expected to have a loss beyond those that the reference's rows were
expected to have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from streams.statistics.arrays import Floats

Model = Mapping[str, Floats]
"""Flat arrays by name: ``scale`` (2,), ``bounds`` (4,), and for each column its edges and two tables of logarithms."""

SCALE, BOUNDS = "scale", "bounds"

QUANTILE_BINS = 10
_TABLE = QUANTILE_BINS + 1
"""A column's quantile bins, and one for values that are missing."""

_COLUMN = QUANTILE_BINS - 1 + 2 * _TABLE

_FOLDS = 5
_MOST_ROWS = 50_000
_MOST_FOLDED_ROWS = 20_000
"""Of more reference rows every so-many-th is used: the tables have a few hundred numbers, their penalty is one."""

_PENALTIES = (3.0, 30.0, 300.0, 3_000.0)
"""Strengths of the penalty that are tried, in rows; and none of the columns at all."""

_RIDGE = 0.1
"""Of the penalty on the numbers themselves, against that on their differences between neighbouring bins."""

_STEPS = 12
_CLOSE = 1e-7
"""Steps that gain less deviance than this for each row end the fit."""

_FAR = 30.0
"""Logarithms of losses over their mean beyond this are cut: no loss differs by a factor of 10^13."""

_ROWS_AT_ONCE = 8192
_LARGEST = float(np.finfo(np.float64).max)
_ROOT = math.sqrt(_LARGEST)


def fit_expected_loss(values: Floats, names: Sequence[str], errors: Floats) -> dict[str, Floats]:
    """Learn the loss that is expected of a row.

    The tables are those of most penalised quasi-likelihood, variance in proportion to the mean (McCullagh and Nelder,
    "Generalized linear models", 1989, chapter 9), so that the mean expected loss of the reference is its mean loss. How
    strong the penalty is, or whether the columns tell nothing at all, is decided by the deviance on rows that a fit has
    not seen (every fifth row in turn): a column that tells nothing gets a table of about zeros.

    The same rows in another order give another choice of folds, and may give another model: fix the order.

    Args:
        values: float64[S, m], the columns, the prediction first; NaN: missing.
        names: Of the S columns.
        errors: float64[m], predicted less actual, finite.

    Returns:
        The model, flat float64 arrays by name; its columns are told by :func:`columns_of`.

    Raises:
        ValueError: The arrays do not belong together, there are no rows, or an error is not finite.
    """
    values, errors = np.asarray(values, np.float64), np.asarray(errors, np.float64)
    if values.ndim != 2 or values.shape != (len(names), len(errors)) or not len(errors):
        raise ValueError(f"expected values of {len(names)} columns by {len(errors)} rows, got {values.shape}")
    if not np.isfinite(errors).all():
        raise ValueError("expected finite errors: leave out rows without a prediction or an outcome")
    step = -(-len(errors) // _MOST_ROWS)
    values, absolute = values[:, ::step], np.abs(errors[::step])
    edges = np.stack([_edges(column) for column in values]) if len(values) else np.zeros((0, QUANTILE_BINS - 1))
    design = _design(values, edges)
    penalty = _penalty(len(values))
    # in units of the largest error: a squared one may be more than float64 allows
    unit = float(absolute.max()) or 1.0
    tables, bounds, scale = [], [], []
    for power in (1, 2):
        loss = (absolute / unit) ** power
        mean = float(loss.mean())
        table, low, high = _fit(design, loss / mean if mean else np.ones_like(loss), penalty)
        tables.append(table.reshape(-1, _TABLE))
        bounds += [low, high]
        scale.append(mean * unit if power == 1 else min(mean * min(unit, _ROOT) ** 2, _LARGEST))
    found = {SCALE: np.array(scale), BOUNDS: np.array(bounds)}
    width = len(str(len(names)))
    for at, name in enumerate(names):
        found[f"{at:0{width}}:{name}"] = np.concatenate([edges[at], tables[0][at], tables[1][at]])
    return found


def columns_of(model: Model) -> list[str]:
    """The names of a model's columns, in the order of ``values``."""
    return [key.partition(":")[2] for key in _keys(model)]


def expected_loss(model: Model, values: Floats) -> Floats:
    """The absolute and the squared error that are expected of each row, float64[n, 2]: finite, never negative.

    The second is never below the square of the first (Jensen).

    Args:
        model: Of :func:`fit_expected_loss`.
        values: float64[S, n], the columns of the model in its order, fastest with rows that lie side by side in memory;
            NaN: missing.

    Raises:
        ValueError: There are more or fewer columns than the model has.
    """
    keys = _keys(model)
    if len(values) != len(keys):
        raise ValueError(f"expected the {len(keys)} columns {columns_of(model)}, got {len(values)}")
    n = values.shape[1]
    tables = [model[key] for key in keys]
    edges = [table[: QUANTILE_BINS - 1] for table in tables]
    # both logarithms of a bin side by side, so that one look-up reads them
    pairs = [np.ascontiguousarray(table[QUANTILE_BINS - 1 :].reshape(2, _TABLE).T) for table in tables]
    logs = np.zeros((n, 2))
    for start in range(0, n, _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, n)
        for column, cuts, pair in zip(values, edges, pairs, strict=True):
            logs[start:end] += pair.take(_bins(column[start:end], cuts), axis=0)
    low, high = model[BOUNDS][0::2], model[BOUNDS][1::2]
    found = np.exp(np.clip(logs, low, high)) * model[SCALE]
    with np.errstate(over="ignore"):
        np.minimum(np.maximum(found[:, 1], found[:, 0] ** 2), _LARGEST, out=found[:, 1])
    return np.asarray(found)


def _keys(model: Model) -> list[str]:
    return sorted(key for key in model if ":" in key)


def _edges(column: Floats) -> Floats:
    """Inner edges of bins of about equal mass, float64[9]; ties and few values leave bins empty."""
    known = column[~np.isnan(column)]
    if not len(known):
        return np.zeros(QUANTILE_BINS - 1)
    shares = np.arange(1, QUANTILE_BINS) / QUANTILE_BINS
    # infinite ends stay as they are: a value belongs to the bin whose edges it reaches
    return np.asarray(np.quantile(known, shares, method="inverted_cdf"))


def _bins(column: Floats, edges: Floats) -> NDArray[np.intp]:
    """The bin of each value: how many edges it reaches; the last bin for those that are missing.

    Nine comparisons of neighbouring numbers are faster than a binary search.
    """
    count = np.zeros(len(column), np.uint8)
    reached = np.empty(len(column), np.bool_)
    for edge in edges:
        np.greater_equal(column, edge, out=reached)
        count += reached.view(np.uint8)
    np.isnan(column, out=reached)
    count += reached.view(np.uint8) * np.uint8(QUANTILE_BINS)
    return count.astype(np.intp)


def _design(values: Floats, edges: Floats) -> csr_array:
    """One-hot bins of all columns, behind a column of ones: csr[m, 1 + 11 S]."""
    m, size = values.shape[1], 1 + _TABLE * len(values)
    bins = [1 + at * _TABLE + _bins(column, edges[at]) for at, column in enumerate(values)]
    indices = np.stack([np.zeros(m, np.intp), *bins], axis=1)
    return csr_array((np.ones(indices.size), indices.ravel(), np.arange(m + 1) * indices.shape[1]), shape=(m, size))


def _penalty(columns: int) -> Floats:
    """Squared differences of neighbouring bins, and a little of the numbers themselves; none on the constant."""
    neighbours = np.diff(np.eye(_TABLE)[:QUANTILE_BINS], axis=0)
    one = neighbours.T @ neighbours + _RIDGE * np.eye(_TABLE)
    whole = np.zeros((1 + _TABLE * columns, 1 + _TABLE * columns))
    for at in range(columns):
        where = slice(1 + at * _TABLE, 1 + (at + 1) * _TABLE)
        whole[where, where] = one
    return whole


def _fit(design: csr_array, relative: Floats, penalty: Floats) -> tuple[Floats, float, float]:
    """Tables float64[11 S] of one loss over its mean, and the lowest and highest sum of them.

    The constant is in the first column's table. The tables are rounded: what the order of additions in a library does
    to the last digits is no part of a model.
    """
    step = -(-len(relative) // _MOST_FOLDED_ROWS)
    best = _strength(design[::step], relative[::step], penalty / step)
    coefficients = _constant(relative, design.shape[1])
    for strength in [strength for strength in reversed(_PENALTIES) if strength >= best]:
        coefficients = _solve(design, relative, penalty * strength, coefficients)
    coefficients = np.round(coefficients, 6)
    logs = design @ coefficients
    tables = coefficients[1:]
    tables[:_TABLE] += coefficients[0]
    return tables, float(logs.min()), float(logs.max())


def _strength(design: csr_array, relative: Floats, penalty: Floats) -> float:
    """The penalty whose fits do best on rows that they have not seen; infinite where a constant does."""
    m, size = design.shape
    if size == 1 or m < 2 * _FOLDS:
        return math.inf
    fold = np.arange(m) % _FOLDS
    losses = dict.fromkeys((math.inf, *_PENALTIES), 0.0)
    for held in range(_FOLDS):
        seen, known = design[fold != held], relative[fold != held]
        unseen, truth = design[fold == held], relative[fold == held]
        coefficients = _constant(known, size)
        for strength in reversed(losses):
            if math.isfinite(strength):
                coefficients = _solve(seen, known, penalty * strength * (1 - 1 / _FOLDS), coefficients)
            losses[strength] += _deviance(truth, unseen @ coefficients)
    return min(losses, key=lambda strength: losses[strength])


def _constant(relative: Floats, size: int) -> Floats:
    found = np.zeros(size)
    found[0] = np.log(max(float(relative.mean()), 1e-12))
    return found


def _solve(design: csr_array, relative: Floats, penalty: Floats, start: Floats) -> Floats:
    """Most penalised quasi-likelihood: Newton's steps with the curvature at the start, each halved until it gains."""
    weights = np.exp(np.clip(design @ start, -_FAR, _FAR))
    curvature = (design.T @ design.multiply(weights[:, None]).tocsr()).toarray() + penalty
    factor = cho_factor(curvature + 1e-9 * len(relative) * np.eye(len(start)))
    coefficients, logs = start, design @ start
    reached = _deviance(relative, logs) + start @ penalty @ start / 2
    for _ in range(_STEPS):
        gradient = design.T @ (relative - np.exp(np.clip(logs, -_FAR, _FAR))) - penalty @ coefficients
        step = cho_solve(factor, gradient)
        for _ in range(10):
            tried = coefficients + step
            logs = design @ tried
            objective = _deviance(relative, logs) + tried @ penalty @ tried / 2
            if objective <= reached:
                break
            step = step / 2
        else:
            return coefficients
        gained, coefficients, reached = reached - objective, tried, objective
        if gained <= _CLOSE * len(relative):
            break
    return coefficients


def _deviance(truth: Floats, logs: Floats) -> float:
    """Half of it, of a quasi-likelihood with variance in proportion to the mean, up to what the truth alone gives."""
    logs = np.clip(logs, -_FAR, _FAR)
    return float((np.exp(logs) - truth * logs).sum())
