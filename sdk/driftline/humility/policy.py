"""Humility rules and what was fitted for them, compiled to decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats, PredictionColumns
from driftline.humility.decision import Answer as Answer
from driftline.humility.decision import Decided as Decided
from driftline.humility.decision import Decision as Decision
from driftline.humility.rules import Rule


class Policy:
    """What rows are decided by; made by :meth:`of`, never changed, safe in any number of threads.

    Attributes:
        digest: Policies of equal digest decide equally.
        revision: Revision of the specification.
        rules: The rules, in order.
        unarmed: A sentence for each rule, or part of one, that cannot fire, with the reason.
        groups: Groups of the adaptive quantile, ``""`` first.
        start_quantiles: Where the tracker of each group starts; empty without a fit of coverage.
    """

    digest: str
    revision: int
    rules: tuple[Rule, ...]
    unarmed: tuple[str, ...]
    groups: tuple[str, ...]
    start_quantiles: dict[str, float]

    @classmethod
    def of(cls, spec: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> Policy | None:
        """Compile the Avro records of a DeploymentSpec and a Baseline; None without rules or guarantees."""
        raise NotImplementedError

    def decide_row(
        self,
        features: Mapping[str, Any],
        prediction: Any = None,
        class_probabilities: Mapping[Any, Any] | None = None,
        *,
        prediction_label: Any = None,
        prediction_low: Any = None,
        prediction_high: Any = None,
        segments: Mapping[str, Any] | None = None,
        timestamp_us: int = 0,
        challengers: Mapping[str, Any] | None = None,
        quantiles: Mapping[str, float] | None = None,
        alarms: int = 0,
    ) -> Decision:
        """Decide one row, given as :meth:`driftline.Client.log_prediction` takes it.

        ``challengers``: version to an :class:`Answer`, a number (a value or score) or text (a class).
        """
        raise NotImplementedError

    def decide_columns(
        self,
        columns: PredictionColumns,
        *,
        quantiles: Mapping[str, float] | Floats | None = None,
        alarms: int | NDArray[np.uint8] = 0,
    ) -> Decided:
        """Decide a batch of n rows."""
        raise NotImplementedError
