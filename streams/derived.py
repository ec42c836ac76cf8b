"""Columns that are computed from an event's columns, so that everything that is watched is a number or a category.

A text is watched through its length, the characters it is made of and the words it has that the reference had not; an
embedding through its distance from the reference's mean and a few random projections; the numeric features together
through one distance of the whole row, which sees a change of correlation that no single column shows.

What a computation needs is learnt from the reference and stored in the baseline. Every value depends on its own row
only, and is computed by exact or elementwise arithmetic in a fixed order: it has the same bits in any batch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from driftline import joint
from driftline.codec import Record
from driftline.events import CategoricalColumn, Floats

TEXT, EMBEDDING, JOINT, RATE, ASSOCIATION = "text", "embedding", "joint", "rate", "association"

JOINT_DISTANCE = "joint.distance"
MOST_JOINT_FEATURES = 32
"""The whole-row distance costs the square of its columns: the most important ones take part."""

PROJECTIONS = 4
MOST_WORDS = 5_000
"""The vocabulary of a text: the words that most reference rows have. A word of fewer than two rows is not in it."""

_WORD = re.compile(r"\w+")
_MOST_CHARACTERS = 10_000
"""Of a longer text the beginning is looked at; its length counts in full."""


@dataclass(frozen=True, eq=False, slots=True)
class Derived:
    """One computation. Field by field the record ``DerivedColumns`` of the contract.

    Attributes:
        kind: ``text``, ``embedding``, ``joint``, ``association`` or ``rate``.
        name: The feature, or the kind where there is one only.
        inputs: The columns it is computed from.
        arrays: What was learnt from the reference, float64, by name.
        words: For a text the vocabulary.
    """

    kind: str
    name: str
    inputs: tuple[str, ...] = ()
    arrays: Mapping[str, Floats] = field(default_factory=dict)
    words: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        """The numeric columns it computes."""
        if self.kind == TEXT:
            return tuple(f"{self.name}.{what}" for what in TEXT_COLUMNS)
        if self.kind == EMBEDDING:
            return (f"{self.name}.distance", *(f"{self.name}.projection_{i + 1}" for i in range(PROJECTIONS)))
        return (JOINT_DISTANCE,) if self.kind == JOINT else ()

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return {
            "kind": self.kind,
            "name": self.name,
            "inputs": list(self.inputs),
            "arrays": {name: values.tolist() for name, values in sorted(self.arrays.items())},
            "words": sorted(self.words),
        }

    @classmethod
    def from_record(cls, record: Record) -> Derived:
        """Read the fields of the Avro record."""
        return cls(
            kind=record["kind"],
            name=record["name"],
            inputs=tuple(record["inputs"]),
            arrays={name: np.array(values, np.float64) for name, values in record["arrays"].items()},
            words=frozenset(record["words"]),
        )


TEXT_COLUMNS = ("length", "letters", "digits", "unknown_words")


def fit_text(name: str, parts: Sequence[CategoricalColumn], least_rows: int = 2) -> Derived:
    """Learn the vocabulary of a text from the reference: the words that so many rows have."""
    rows_with: Counter[str] = Counter()
    for part in parts:
        occurrences = np.bincount(part.codes[part.codes >= 0], minlength=len(part.categories)).tolist()
        for text, occurs in zip(part.categories, occurrences, strict=True):
            for word in _words(text):
                rows_with[word] += occurs
    known = sorted((w for w, n in rows_with.items() if n >= least_rows), key=lambda word: (-rows_with[word], word))
    return Derived(TEXT, name, (name,), words=frozenset(known[:MOST_WORDS]))


def text_columns(derived: Derived, texts: CategoricalColumn) -> NDArray[np.float64]:
    """Profile of a text, float64[4, n] in the order of ``TEXT_COLUMNS``; NaN where it is missing.

    Length in characters; share of letters and of digits among them; share of words that are not in the vocabulary.
    Shares of an empty text are 0.
    """
    profiles = np.full((len(TEXT_COLUMNS), len(texts.categories) + 1), np.nan)
    for i, text in enumerate(texts.categories):
        seen = text[:_MOST_CHARACTERS]
        size = max(len(seen), 1)
        words = _words(seen)
        profiles[:, i] = (
            len(text),
            sum(map(str.isalpha, seen)) / size,
            sum(map(str.isdigit, seen)) / size,
            sum(word not in derived.words for word in words) / max(len(words), 1),
        )
    return np.asarray(profiles[:, texts.codes])


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text[:_MOST_CHARACTERS].casefold()))


def fit_embedding(name: str, vectors: NDArray[np.float32]) -> Derived:
    """Learn mean and spread of an embedding, float32[m, d], and draw the directions it is looked at from."""
    present = vectors[np.isfinite(vectors).all(axis=1)].astype(np.float64)
    dimension = vectors.shape[1]
    mean = present.mean(axis=0) if len(present) else np.zeros(dimension)
    spread = present.std(axis=0) if len(present) else np.ones(dimension)
    spread = np.where(spread > 0, spread, spread[spread > 0].min() if (spread > 0).any() else 1.0)
    directions = np.random.default_rng(dimension).standard_normal((PROJECTIONS, dimension))
    directions /= np.sqrt((directions**2).sum(axis=1, keepdims=True))
    return Derived(EMBEDDING, name, (name,), {"mean": mean, "spread": spread, "directions": directions.ravel()})


def embedding_columns(derived: Derived, vectors: NDArray[np.float32] | None, rows: int) -> NDArray[np.float64]:
    """Distance from the reference's mean and projections, float64[1 + PROJECTIONS, n].

    NaN where the vector is missing or has another dimension than the reference's: that is a matter of data quality.
    The distance is the root mean square of the standardised components, about 1 for a vector like the reference's.
    """
    mean, spread = derived.arrays["mean"], derived.arrays["spread"]
    found = np.full((1 + PROJECTIONS, rows), np.nan)
    if vectors is None or vectors.shape[1] != len(mean):
        return found
    standardised = (vectors.astype(np.float64) - mean) / spread
    found[0] = np.sqrt(np.add.reduce(standardised**2, axis=1) / len(mean))
    with np.errstate(invalid="ignore"):  # infinities may cancel: the row is missing then
        for i, direction in enumerate(derived.arrays["directions"].reshape(PROJECTIONS, -1)):
            found[1 + i] = np.add.reduce(standardised * direction, axis=1)
    found[:, ~np.isfinite(found[0])] = np.nan
    return found


def fit_joint(names: Sequence[str], columns: Floats, importances: Sequence[float]) -> Derived | None:
    """Learn the joint distribution of numeric features, float64[S, m], as far as means and correlations tell it.

    Values are standardised by median and median absolute deviation and clipped at four of them; missing values count
    as the median. Returns None with fewer than two features that vary.
    """
    centre, scale = np.zeros(len(names)), np.zeros(len(names))
    for i, column in enumerate(columns):
        finite = column[np.isfinite(column)]
        if finite.size:
            centre[i] = np.median(finite)
            scale[i] = 1.4826 * np.median(np.abs(finite - centre[i])) or finite.std()
    varies = [i for i in np.argsort(-np.asarray(importances), kind="stable").tolist() if scale[i] > 0]
    chosen = sorted(varies[:MOST_JOINT_FEATURES])
    if len(chosen) < 2:
        return None
    arrays = {"centre": centre[chosen], "scale": scale[chosen]}
    scores = joint.standardised(arrays, columns[chosen])
    mean = np.rint(scores.mean(axis=1)) * joint.SCORE_GRID
    covariance = np.cov(scores * joint.SCORE_GRID)
    # a ridge of a hundredth keeps columns that are functions of others from deciding by their rounding
    ridge = covariance + 0.01 * np.diag(np.diag(covariance) + 1e-6)
    whitening = np.linalg.inv(np.linalg.cholesky(ridge))
    grid = 2.0 ** (np.ceil(np.log2(np.abs(whitening).max())) - joint.WHITENING_BITS)
    whitening = np.rint(whitening / grid) * grid
    return Derived(JOINT, JOINT, tuple(names[i] for i in chosen), arrays | {"mean": mean, "whiten": whitening.ravel()})


def joint_distance(derived: Derived, columns: Floats) -> Floats:
    """Distance float64[n] of whole rows, ``columns`` float64[S, n]; see :func:`driftline.joint.joint_distance`."""
    return joint.joint_distance(derived.arrays, columns)
