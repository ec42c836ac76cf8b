"""Deciding inside the serving application: what is known, asked in microseconds; serving is never broken by it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from driftline import codec
from driftline import columns as read
from driftline.humility.decision import Decision
from driftline.humility.decisions import Decisions, decisions_of, undecided, undecided_table, unread_table
from driftline.humility.follow import Follower, HumilityStatus
from driftline.tables import prediction_table, row_count

log = logging.getLogger("driftline")


class Decider:
    """Decides predictions of one client by the rules that its follower knows.

    Args:
        follower: Knows the rules; started by the first call.
        deployment_id: Whose predictions these are.
        model_version: The version of calls that name none.
        wait_seconds: How long the first call may wait for the rules.
        strict: Raise where a decision fails.
    """

    def __init__(
        self, follower: Follower, deployment_id: str, model_version: str, *, wait_seconds: float, strict: bool
    ) -> None:
        self.follower = follower
        self._deployment_id = deployment_id
        self._model_version = model_version
        self._wait_seconds = wait_seconds
        self._strict = strict
        self._lock = threading.Lock()
        self._undecided = 0
        self._failed = 0

    def begin(self) -> None:
        """Start to follow the rules, and wait for the first ones where that is wanted."""
        self.follower.start()
        if self._wait_seconds and self.follower.started and not self.follower.known.revision:
            self.follower.wait(self._wait_seconds)

    def decide(
        self,
        features: Mapping[str, Any],
        prediction: Any,
        class_probabilities: Mapping[Any, Any] | None,
        prediction_label: Any,
        prediction_low: Any,
        prediction_high: Any,
        segments: Mapping[str, Any] | None,
        challengers: Mapping[str, Any] | None,
        timestamp: Any,
        model_version: str | None,
    ) -> Decision:
        """See :meth:`driftline.Client.decide`."""
        timestamp_us = 0
        try:
            timestamp_us = time.time_ns() // 1000 if timestamp is None else read.time_us(timestamp)
            follower = self.follower
            if not follower.started:
                self.begin()
            standing = follower.known.of(self._model_version if model_version is None else model_version)
            if standing is not None:
                return standing.policy.decide_row(
                    features,
                    prediction,
                    class_probabilities,
                    prediction_label=prediction_label,
                    prediction_low=prediction_low,
                    prediction_high=prediction_high,
                    segments=segments,
                    timestamp_us=timestamp_us,
                    challengers=challengers,
                    quantiles=standing.quantiles,
                    alarms=standing.alarms,
                )
            self._count(undecided=1)
        except Exception as trouble:  # whatever a caller's object does when it is looked at
            self._fail(trouble, 1)
        return undecided(prediction, prediction_label, timestamp_us)

    def decide_many(self, features: Any, prediction: Any, model_version: str | None, **columns: Any) -> Decisions:
        """See :meth:`driftline.Client.decide_many`."""
        rows = row_count(features, prediction, columns["prediction_label"]) or row_count(columns["class_probabilities"])
        try:
            if not self.follower.started:
                self.begin()
            version = self._model_version if model_version is None else model_version
            table = prediction_table(
                features,
                prediction,
                deployment_id=self._deployment_id,
                model_version=version,
                model_id=None,
                prediction_ids=["-"] * rows,
                latency_ms=None,
                error=None,
                **columns,
            )
            standing = self.follower.known.of(version)
            if standing is None:
                self._count(undecided=rows)
                return undecided_table(table)
            decided = standing.policy.decide_columns(table, quantiles=standing.quantiles, alarms=standing.alarms)
            return decisions_of(standing.policy, decided, table)
        except Exception as trouble:
            self._fail(trouble, rows)
        return unread_table(rows, prediction, columns["prediction_label"])

    def status(self) -> HumilityStatus:
        """See :meth:`driftline.Client.humility_status`."""
        with self._lock:
            undecided, failed = self._undecided, self._failed
        return self.follower.status(self._model_version, undecided=undecided, failed=failed)

    def forked(self, registry: codec.SchemaRegistry | None) -> Decider:
        """In a forked child: one that knows what the parent knew, with counts and a thread of its own."""
        return Decider(
            self.follower.forked(registry),
            self._deployment_id,
            self._model_version,
            wait_seconds=self._wait_seconds,
            strict=self._strict,
        )

    def _count(self, *, undecided: int = 0, failed: int = 0) -> int:
        with self._lock:
            self._undecided += undecided
            self._failed += failed
            return self._failed

    def _fail(self, trouble: Exception, rows: int) -> None:
        """Count rows that were not decided because of an error.

        Raises:
            Exception: The trouble itself, if the client is strict.
        """
        if self._strict:
            raise trouble
        failed = self._count(failed=rows)
        if failed == rows or len(str(failed)) != len(str(failed - rows)):
            log.warning("not decided, answered as it is (%d so far): %s: %s", failed, type(trouble).__name__, trouble)
