"""Deployments and their predictions, as simulated serving applications publish them. A seed determines all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from driftline.events import CategoricalColumn, PredictionColumns
from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import CATEGORICAL, NUMERIC, DeploymentSpec, FeatureSpec

VERSION = "1"
CATEGORIES = tuple(f"category-{letter}" for letter in "abcdefgh")
START_US = 1_700_000_000_000_000


class Traffic:
    """Predictions of deployments that all have the same features.

    Args:
        numeric: Number of numeric features, standard normal.
        categorical: Number of categorical features, eight values.
        seed: Of everything.
    """

    def __init__(self, numeric: int, categorical: int, seed: int = 0) -> None:
        self.numeric = [f"numeric_{i:02}" for i in range(numeric)]
        self.categorical = [f"categorical_{i:02}" for i in range(categorical)]
        self._rng = np.random.default_rng(seed)

    def deployments(
        self, names: Sequence[str], step_us: int, reference_rows: int = 20_000
    ) -> list[tuple[DeploymentSpec, Baseline]]:
        """Specifications and baselines; the baseline is learnt once, as all have the same reference.

        ``step_us``: from one row of the reference to the next. Rows that come faster or slower raise an alarm.
        """
        features = tuple(
            [FeatureSpec(name, NUMERIC) for name in self.numeric]
            + [FeatureSpec(name, CATEGORICAL) for name in self.categorical]
        )
        first = DeploymentSpec(names[0], "model", "regression", features)
        reference = self.batch(names[0], reference_rows, START_US - reference_rows * step_us, step_us)
        learnt = build_baseline(first, VERSION, [reference], source="bench")
        found = []
        for name in names:
            baseline = dataclasses.replace(learnt, deployment_id=name, digest="")
            baseline = dataclasses.replace(baseline, digest=baseline.content_digest())
            found.append((dataclasses.replace(first, deployment_id=name), baseline))
        return found

    def batch(self, deployment: str, rows: int, start_us: int, step_us: int, shift: float = 0.0) -> PredictionColumns:
        """Rows whose event times are ``step_us`` apart; ``shift`` moves the numeric features and the prediction."""
        rng = self._rng
        numeric = rng.normal(shift, size=(len(self.numeric), rows))
        codes = rng.integers(0, len(CATEGORIES), size=(len(self.categorical), rows), dtype=np.int32)
        return PredictionColumns(
            deployment_id=deployment,
            model_version=VERSION,
            prediction_ids=self._ids(rows),
            timestamps_us=start_us + np.arange(rows, dtype=np.int64) * step_us,
            numeric=dict(zip(self.numeric, numeric, strict=True)),
            categorical={
                name: CategoricalColumn([CATEGORIES[i] for i in rng.permutation(len(CATEGORIES))], column)
                for name, column in zip(self.categorical, codes, strict=True)
            },
            prediction=rng.normal(shift, size=rows),
        )

    def _ids(self, rows: int) -> list[str]:
        """Random UUIDs as text, as most serving applications use."""
        text = self._rng.bytes(16 * rows).hex()
        parts = (text[i : i + 32] for i in range(0, 32 * rows, 32))
        return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in parts]
