"""The reference as if its rows were new: what a row was learnt from does not surprise by that row.

A dictionary has every category of the reference, a vocabulary its words, a covariance is the smallest for its own
rows. New rows of the very same source know less of that: among categories with a long tail one row in three may have
one that the reference never had, while of the reference's own rows none has. Judged by itself, a reference promises
what no later row keeps. Here each of its rows is therefore counted as if it had been left out (Lachenbruch and Mickey,
"Estimation of error rates in discriminant analysis", Technometrics 10, 1968).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from driftline.events import CategoricalColumn, Floats
from streams.derived import (
    TEXT_COLUMNS,
    Derived,
    embedding_columns,
    fit_embedding,
    fit_joint,
    fit_text,
    joint_distance,
    text_columns,
)
from streams.statistics.layouts import UNSEEN, CategoricalBins, dictionary_lookup

FOLDS = 10
"""Neighbouring rows are left out together: where they are alike they know of each other."""

MOST_EMBEDDING_ROWS = 10_000
"""With more rows an embedding's spread is hardly known better by its own rows than by new ones."""

ROWS_PER_FEATURE = 1_000
"""With more rows the distances of a reference's own rows are less than a thousandth too small."""


def codes_held_out(
    bins: CategoricalBins, column: CategoricalColumn, occurrences: Mapping[str, int]
) -> NDArray[np.uint8]:
    """Bins uint8[n] in ``CATEGORICAL`` of reference rows, by what the other rows know.

    A category that has one row would be unseen without it. The share of such rows is the estimate of Good and Turing of
    the probability that the next row's category is new (Good, "The population frequencies of species and the
    estimation of population parameters", Biometrika 40, 1953, equation 9). Top categories keep their bins: they have
    one row only where there are fewer than twenty others.
    """
    lookup = dictionary_lookup(bins, column.categories)
    known = set(bins.known)
    once = [occurrences.get(category) == 1 and category in known for category in column.categories]
    lookup[:-1][np.array(once, bool)] = UNSEEN
    return lookup[column.codes].astype(np.uint8)


def rows_of_pairs(column: CategoricalColumn, occurrences: Mapping[str, int]) -> NDArray[np.bool_]:
    """Which rows, bool[n], have a category that occurs twice in the reference; see :func:`new_value_radius`."""
    twice = np.array([*(occurrences.get(category) == 2 for category in column.categories), False], bool)
    return twice[column.codes]


def new_value_radius(pairs: int, rows: int, beta: float) -> float:
    """What the margin of a column of categories needs on top of that of its counts.

    The Good-Turing estimate errs with variance (N1 (1 - N1/m) + 2 N2) / m^2, N1 categories having one row and N2 two
    (Esty, "A normal limit law for a nonparametric estimator of the coverage of a random sample", Annals of Statistics
    11, 1983). The first term is that of any share of N1/m and is in the margin of the counts already; as
    sqrt(a + b) <= sqrt(a) + sqrt(b), the second adds at most sqrt(2 N2)/m standard deviations.

    Args:
        pairs: Rows whose category occurs twice, 2 N2.
        rows: Rows of the reference, m.
        beta: Error probability.
    """
    return float(-ndtri(beta / 2) * np.sqrt(pairs) / max(rows, 1))


def text_columns_held_out(derived: Derived, parts: Sequence[CategoricalColumn]) -> list[Floats]:
    """The profiles float64[4, n] of reference texts, in which words count as known if other rows know them."""
    others = fit_text(derived.name, parts, least_rows=3)
    at = TEXT_COLUMNS.index("unknown_words")
    found = []
    for part in parts:
        profile = text_columns(derived, part)
        profile[at] = text_columns(others, part)[at]
        found.append(profile)
    return found


def embedding_columns_held_out(derived: Derived, vectors: NDArray[np.float32]) -> Floats:
    """Distances and projections float64[C, m] of reference vectors, float32[m, d] in event order, NaN where missing, by
    the mean and spread of the other rows.

    A wild component widens its own spread and so hides itself: among m rows it is at most sqrt(m) of them away.
    """
    rows = len(vectors)
    found = embedding_columns(derived, vectors, rows)
    if rows > MOST_EMBEDDING_ROWS:
        return found
    fold = _folds(rows)
    for number in range(FOLDS):
        left_out = fold == number
        others = fit_embedding(derived.name, vectors[~left_out])
        found[:, left_out] = embedding_columns(others, vectors[left_out], int(left_out.sum()))
    return found


def joint_distance_held_out(derived: Derived, columns: Floats) -> Floats:
    """Distance float64[m] of the reference's rows, ``columns`` float64[S, m] in event order, by the other rows' mean
    and correlations.

    In sample a squared distance of S features is too small by a factor of about 1 - S/m, and that of a new row too
    large by as much: with 32 features and 200 rows all new rows are far away.
    """
    distance = joint_distance(derived, columns)
    size, rows = columns.shape
    if rows > ROWS_PER_FEATURE * size:
        return distance
    fold = _folds(rows)
    for number in range(FOLDS):
        left_out = fold == number
        others = fit_joint(derived.inputs, columns[:, ~left_out], np.ones(size).tolist())
        # a feature may vary in the left-out rows alone
        if others is not None and others.inputs == derived.inputs:
            distance[left_out] = joint_distance(others, columns[:, left_out])
    return distance


def _folds(rows: int) -> NDArray[np.int64]:
    return np.arange(rows) * FOLDS // rows
