"""A serving application that asks before it answers: predictions are decided by the humility rules, then published."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from driftline import Client
from driftline.events import PredictionColumns
from driftline.humility.rules import ACTIONS
from driftline.settings import KafkaSettings
from services.demo.commands import DemonstrationError

_RULES_SECONDS = 30.0
_CLOSE_SECONDS = 60.0


class ServingApplication:
    """Serves one version of a deployment; the client follows the rules in the background.

    Args:
        settings: How to reach Kafka.
        deployment_id: The deployment.
        version: The model version that answers.
        spool_dir: Where the client keeps the rules for a time without Kafka.

    Raises:
        DemonstrationError: No rules came.
    """

    def __init__(self, settings: KafkaSettings, deployment_id: str, version: str, spool_dir: Path) -> None:
        self._client = Client(
            deployment_id,
            version,
            settings=settings,
            when_unavailable="block",
            spool_dir=spool_dir,
            strict=True,
            follow_humility=True,
        )
        self._actions = np.zeros(len(ACTIONS), np.int64)
        if not self._client.wait_for_humility(_RULES_SECONDS):
            trouble = self._client.humility_status().trouble or "no answer"
            self._client.close(0.0)
            raise DemonstrationError(
                f"expected the humility rules of {deployment_id!r} from Kafka, came none: {trouble}"
            )

    def publish(self, columns: PredictionColumns) -> None:
        """Decide predictions and log them with their decisions.

        Raises:
            DemonstrationError: There are no rules to decide by.
        """
        features: dict[str, Any] = dict(columns.numeric)
        features |= {name: column.values() for name, column in columns.categorical.items()}
        labels = None if columns.prediction_label is None else columns.prediction_label.values()
        decisions = self._client.decide_many(
            features, columns.prediction, prediction_label=labels, timestamps=columns.timestamps_us
        )
        if decisions.policy is None:
            raise DemonstrationError("expected humility rules to decide by, came none: is the specification applied?")
        self._client.log_predictions(
            features,
            columns.prediction,
            prediction_ids=list(columns.prediction_ids),
            prediction_label=labels,
            timestamps=columns.timestamps_us,
            decisions=decisions,
        )
        self._actions += np.bincount(decisions.actions, minlength=len(ACTIONS))

    @property
    def decided(self) -> dict[str, int]:
        """Predictions by what was decided about them."""
        return dict(zip(ACTIONS, self._actions.tolist(), strict=True))

    @property
    def delivered(self) -> int:
        """Rows that Kafka has acknowledged."""
        return self._client.counters().delivered

    def flush(self) -> None:
        """Wait until what was handed over is acknowledged."""
        self._client.flush(_CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close(_CLOSE_SECONDS if kind is None else 1.0)
