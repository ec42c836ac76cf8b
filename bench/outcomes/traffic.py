"""Predictions of a binary classifier and what turned out, as serving applications publish them.

Row ``i`` of a deployment is determined by ``i`` alone: its id, its score and its outcome; so the outcomes of rows that
were published long ago need no memory. Rows are ``STEP_US`` apart, and every delay lies between two numbers of rows:
where as many rows are published as the shorter one, all outcomes that come meanwhile are of rows from before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import BINARY, CATEGORICAL, NUMERIC, DeploymentSpec, FeatureSpec, OutcomeSpec

VERSION = "1"
NUMERIC_FEATURES, CATEGORICAL_FEATURES = 8, 4
BATCH_ROWS = 500
START_US = 1_700_000_000_000_000
STEP_US = 100_000
DAY_MS = 86_400_000
REFERENCE_ROWS = 100_000
CATEGORIES = tuple(f"category-{letter}" for letter in "abcdefgh")
LABELS = ("no", "yes")
PREDICTION_CHUNK_ROWS = 100_000

Integers = NDArray[np.int64]
Numbers = NDArray[np.uint64]
Floats = NDArray[np.float64]


def mixed(numbers: Numbers, stream: int) -> Numbers:
    """As good as random bits of each number, uint64[n] (SplitMix64; Steele, Lea and Flood 2014)."""
    bits = (numbers * np.uint64(16) + np.uint64(stream)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(numbers: Numbers, stream: int) -> Floats:
    """A number in [0, 1) of each number, float64[n]."""
    return np.asarray((mixed(numbers, stream) >> np.uint64(11)) * 2.0**-53)


def ids(numbers: Numbers) -> list[str]:
    """A UUID as text of each number."""
    text = np.stack([mixed(numbers, 1), mixed(numbers, 2)], axis=1).astype(">u8").tobytes().hex()
    parts = (text[at : at + 32] for at in range(0, len(text), 32))
    return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in parts]


def scores(numbers: Numbers) -> Floats:
    """The score of each row, float64[n], calibrated."""
    return uniform(numbers, 3) ** 1.5


def outcomes_of(numbers: Numbers) -> NDArray[np.int32]:
    """Whether each row turned out positive, int32[n]."""
    return (uniform(numbers, 4) < scores(numbers)).astype(np.int32)


@dataclass(frozen=True)
class Delays:
    """Outcomes follow between ``least`` and ``most`` rows after their predictions."""

    least: int
    most: int

    def rows(self, numbers: Numbers) -> Integers:
        """How many rows later each is known: many soon, some late, int64[n]."""
        return self.least + ((self.most - self.least) * uniform(numbers, 5) ** 2).astype(np.int64)

    def known_between(self, begin: int, end: int) -> Numbers:
        """The rows whose outcomes become known while rows from ``begin`` to ``end`` are published, in that order."""
        numbers = np.arange(max(begin - self.most, 0), max(end - self.least, 0), dtype=np.uint64)
        at = numbers.view(np.int64) + self.rows(numbers)
        order = np.argsort(at, kind="stable")
        inside = (at[order] >= begin) & (at[order] < end)
        return numbers[order][inside]


class OutcomeTraffic:
    """The predictions of deployments that are all alike, and their outcomes.

    Args:
        delays: When outcomes come.
        seed: Of the features.
    """

    def __init__(self, delays: Delays, seed: int = 0) -> None:
        self.delays = delays
        self.numeric = [f"numeric_{i:02}" for i in range(NUMERIC_FEATURES)]
        self.categorical = [f"categorical_{i:02}" for i in range(CATEGORICAL_FEATURES)]
        self._rng = np.random.default_rng(seed)

    def deployments(self, names: Sequence[str]) -> list[tuple[DeploymentSpec, Baseline]]:
        """Specifications and baselines, learnt once."""
        features = [FeatureSpec(name, NUMERIC) for name in self.numeric]
        features += [FeatureSpec(name, CATEGORICAL) for name in self.categorical]
        horizon_ms = (self.delays.most * STEP_US // 1000 // DAY_MS + 1) * DAY_MS
        first = DeploymentSpec(
            names[0],
            "model",
            BINARY,
            tuple(features),
            positive_class=LABELS[1],
            outcomes=OutcomeSpec(horizon_ms=horizon_ms),
        )
        rows = np.arange(1 << 40, (1 << 40) + REFERENCE_ROWS, dtype=np.uint64)
        reference = [
            self.predictions(names[0], rows[at : at + PREDICTION_CHUNK_ROWS])
            for at in range(0, REFERENCE_ROWS, PREDICTION_CHUNK_ROWS)
        ]
        known = self.outcomes(names[0], rows)
        until_us = START_US + horizon_ms * 1000
        learnt = build_baseline(first, VERSION, reference, source="bench", outcomes=[known], outcomes_until_us=until_us)
        found = []
        for name in names:
            baseline = dataclasses.replace(learnt, deployment_id=name, digest="")
            baseline = dataclasses.replace(baseline, digest=baseline.content_digest())
            found.append((dataclasses.replace(first, deployment_id=name), baseline))
        return found

    def predictions(self, deployment: str, numbers: Numbers) -> PredictionColumns:
        """A batch of predictions."""
        rng, rows = self._rng, len(numbers)
        score = scores(numbers)
        codes = rng.integers(0, len(CATEGORIES), size=(CATEGORICAL_FEATURES, rows), dtype=np.int32)
        return PredictionColumns(
            deployment_id=deployment,
            model_version=VERSION,
            prediction_ids=ids(numbers),
            timestamps_us=times_us(numbers),
            numeric=dict(zip(self.numeric, rng.normal(size=(NUMERIC_FEATURES, rows)), strict=True)),
            categorical={
                name: CategoricalColumn(list(CATEGORIES), column)
                for name, column in zip(self.categorical, codes, strict=True)
            },
            prediction=score,
        )

    def outcomes(self, deployment: str, numbers: Numbers) -> OutcomeColumns:
        """A batch of outcomes."""
        return OutcomeColumns(
            deployment_id=deployment,
            prediction_ids=ids(numbers),
            actual_timestamps_us=times_us(numbers) + self.delays.rows(numbers) * STEP_US,
            actual_label=CategoricalColumn(list(LABELS), outcomes_of(numbers)),
        )

    def prediction_batches(self, deployment: str, begin: int, end: int) -> Iterator[PredictionColumns]:
        """Rows ``begin`` to ``end`` in batches."""
        for at in range(begin, end, BATCH_ROWS):
            yield self.predictions(deployment, np.arange(at, min(at + BATCH_ROWS, end), dtype=np.uint64))

    def outcome_batches(self, deployment: str, begin: int, end: int) -> Iterator[OutcomeColumns]:
        """What becomes known meanwhile, in batches."""
        known = self.delays.known_between(begin, end)
        for at in range(0, len(known), BATCH_ROWS):
            yield self.outcomes(deployment, known[at : at + BATCH_ROWS])


def times_us(numbers: Numbers) -> Integers:
    """Event time of each row, int64[n]; the rows of the reference, numbered from 2**40, end where row 0 begins."""
    reference = numbers >= np.uint64(1 << 40)
    place = np.where(reference, numbers.astype(np.int64) - (1 << 40) - REFERENCE_ROWS, numbers.astype(np.int64))
    return START_US + place * STEP_US
