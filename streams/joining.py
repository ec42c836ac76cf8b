"""Outcomes in the state machine: predictions wait for them, pairs reach the detectors, windows are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import OutcomeColumns, PredictionColumns
from streams.alarming import is_step_due, look_for_alarms, tell_turns
from streams.baseline import Baseline
from streams.counting import LABELS_BLOCK, MISCOVERAGE_BLOCK
from streams.deployment import Deployment, Version
from streams.detectors import outcome_streams
from streams.limits import time_error
from streams.messages import Message
from streams.outcomes.arrivals import Refusal
from streams.outcomes.expected import expected_of
from streams.outcomes.followed import followed_pairs
from streams.outcomes.frames import Frame
from streams.outcomes.humility import count_missed
from streams.outcomes.join import Join
from streams.outcomes.keys import Keys
from streams.outcomes.rulebook import Issued
from streams.outcomes.store import PendingStore
from streams.outcomes.windows import PerformanceWindow, performance_summary
from streams.output import Output
from streams.statistics.performance.pairs import Pairs
from streams.unusable import Unusable, unusable_outcomes, usable_rows

CHECKPOINT_ROWS = 131_072
"""The store is written when so many predictions have come: what it lacks after a crash is read from the topics."""


class Joining:
    """What a partition does with outcomes.

    Args:
        number: The partition.
        outcomes_topic: The name of the topic.
        output: What it has to say.
        store: Where predictions wait.
    """

    def __init__(self, number: int, outcomes_topic: str, output: Output, store: PendingStore) -> None:
        self._number, self._outcomes_topic = number, outcomes_topic
        self._output, self._store = output, store
        self._rows_since_checkpoint = 0

    def expect(self, deployment: Deployment, offset: int) -> None:
        """Begin or end to wait for outcomes, as the specification says, before a message of the predictions topic."""
        spec = deployment.spec
        if spec.outcomes is None:
            self.end(deployment)
            return
        if deployment.join is None:
            deployment.join = Join(spec.deployment_id, self._store, offset)
        for version in deployment.versions.values():
            deployment.join.begin(spec, version.baseline, offset)
        self._output.touch("join", spec.deployment_id, what=deployment.join)

    def end(self, deployment: Deployment) -> None:
        """Wait no more, if outcomes were expected."""
        join = deployment.join
        if join is None:
            return
        for window in join.close_all():
            self._emit_window(deployment, join, window, final=True)
        self._write(deployment.spec.deployment_id, join)
        self._output.touch("join", deployment.spec.deployment_id, what=None)
        deployment.join = None

    def wait_for_outcomes(
        self,
        deployment: Deployment,
        version: Version,
        columns: PredictionColumns,
        counted: NDArray[np.bool_] | None,
        keys: Keys,
        message: Message,
        outcome_offset: int,
        decided: Issued | None = None,
        alarms: int = 0,
    ) -> None:
        """Predictions that count begin to wait.

        Args:
            deployment: Their deployment.
            version: Their version.
            columns: Their batch.
            counted: bool[n], those that count; None for all.
            keys: Of those that count.
            message: Their message.
            outcome_offset: The position in the outcomes topic.
            decided: What was decided of the rows of the batch; None where humility is off.
            alarms: The alarms, as bits of ``ALARM_MONITORS``, with which that was decided where no publisher did.
        """
        join = deployment.join
        if join is None:
            return
        if len(keys):
            join.humility.note(columns.model_version, message.offset, alarms)
            expected = _expected_loss(version.baseline, columns)
            early, refusals = join.add_predictions(
                deployment.spec,
                columns,
                keys,
                counted,
                expected,
                message.offset,
                outcome_offset,
                message.timestamp_ms,
                decided,
            )
            self._rows_since_checkpoint += len(keys)
            self._refuse(refusals, message)
            self._take_pairs(deployment, early, message, message)
        self.pass_time(deployment, message, message)

    def apply(self, deployment: Deployment, columns: OutcomeColumns, message: Message, latest: Message) -> None:
        """Outcomes came.

        Args:
            deployment: Their deployment.
            columns: Their batch.
            message: Their message.
            latest: Stands for the latest message of the predictions topic.
        """
        join = deployment.join
        if join is None:
            return
        unusable = unusable_outcomes(columns)
        on_time = deployment.limits[-1].on_time(columns.actual_timestamps_us, message.timestamp_ms)
        usable = usable_rows(columns.rows, on_time, unusable)
        if on_time is not None:
            left = usable_rows(columns.rows, None, unusable)
            bad = np.flatnonzero(~on_time if left is None else left & ~on_time).tolist()
            if bad:
                error = time_error(columns.actual_timestamps_us, message, bad)
                unusable.append(Unusable("outcome_time", error, bad))
        for each in unusable:
            join.counters["refused_outcomes"] += len(each.rows)
            self._output.refuse(message, each.reason, each.error, each.rows)
        joined, refusals = join.add_outcomes(deployment.spec, columns, usable, message.offset, message.timestamp_ms)
        self._refuse(refusals, message)
        self._take_pairs(deployment, joined, message, latest)
        self.pass_time(deployment, message, latest)

    def pass_time(self, deployment: Deployment, message: Message, latest: Message, *, read: bool = False) -> None:
        """Write the performance windows and count the cohorts that have come due.

        Args:
            deployment: The deployment.
            message: After which message.
            latest: Stands for the latest message of the predictions topic.
            read: Whether all outcomes that were published have been read.
        """
        join, spec = deployment.join, deployment.spec
        if join is None or spec.outcomes is None:
            return
        self._output.touch("join", spec.deployment_id, what=join)
        if deployment.clock_us is None:
            return
        slot = max(deployment.clock_us, join.clock.outcome_us) // (spec.start_slot_ms * 1000)
        join.humility.publish(slot, latest.offset + 1)
        due = join.pass_time(spec, deployment.clock_us, message.timestamp_ms, read=read)
        if due is None:
            return
        for window, final in due.windows:
            self._emit_window(deployment, join, window, final=final)
        self._refuse(due.unknown, message)
        for name, counts in due.labels.items():
            version = deployment.versions.get(name)
            if version is not None:
                version.monitors.count_blocks({LABELS_BLOCK: counts})
                self._look(deployment, join, version, message, latest)

    def _take_pairs(
        self, deployment: Deployment, joined: Sequence[tuple[Frame, Pairs]], message: Message, latest: Message
    ) -> None:
        """Let the detectors of versions see predictions whose first outcome came, in order of arrival."""
        self._follow(deployment, joined, message)
        for frame, pairs in joined:
            if deployment.join is not None:
                deployment.join.humility.count(frame, pairs)
            version = deployment.versions.get(frame.model_version)
            if version is None or not version.is_comparable(frame.baseline_digest):
                continue  # what was predicted under another baseline is not compared with this one
            version.count_pairs(deployment.spec, pairs)
            # intervals of an earlier fit have no part in the reference of this one
            missed = count_missed(frame, pairs) if frame.baseline_digest == version.baseline.digest else None
            if missed is not None:
                version.monitors.count_blocks({MISCOVERAGE_BLOCK: missed})
            if deployment.join is not None and is_step_due(version, pairs.rows, deployment.clock_us or 0):
                self._look(deployment, deployment.join, version, message, latest)
            self._output.touch_version(deployment, version, evidence=False)

    def _follow(self, deployment: Deployment, joined: Sequence[tuple[Frame, Pairs]], message: Message) -> None:
        """Let the detectors from the literature see them, whatever baseline they were predicted under."""
        streams = outcome_streams(deployment.spec)
        for name, version in deployment.versions.items():
            mine = [each for each in joined if each[0].model_version == name]
            if not mine or not set(streams) & set(version.followers.streams):
                continue
            values, known_us = followed_pairs(mine)
            turns = version.followers.update(values, known_us, message.offset, message.topic)
            tell_turns(self._output, deployment, version, turns, message)

    def _look(self, deployment: Deployment, join: Join, version: Version, message: Message, latest: Message) -> None:
        """Look for alarms; their evidence is named by the predictions topic, up to its position."""
        at = dataclasses.replace(latest, timestamp_ms=message.timestamp_ms)
        now_us = max(deployment.clock_us or 0, join.clock.outcome_us)
        changed = look_for_alarms(self._output, deployment, version, at, now_us)
        self._output.touch_version(deployment, version, evidence=changed)

    def _emit_window(self, deployment: Deployment, join: Join, window: PerformanceWindow, *, final: bool) -> None:
        self._output.emit(performance_summary(deployment.spec, window, self._number, join.known_us, final=final))

    def _refuse(self, refusals: Sequence[Refusal], message: Message) -> None:
        """Refuse rows of the outcomes topic, of this message or an earlier one."""
        for refusal in refusals:
            source = message
            if (message.topic, message.offset) != (self._outcomes_topic, refusal.offset):
                source = Message(self._outcomes_topic, self._number, refusal.offset, message.timestamp_ms, None, None)
            self._output.refuse(source, refusal.reason, refusal.error, refusal.rows)

    def write(self, deployments: Mapping[str, Deployment]) -> None:
        """Let the journal know of what has changed."""
        for deployment_id, deployment in deployments.items():
            if deployment.join is not None and self._output.is_touched("join", deployment_id):
                self._write(deployment_id, deployment.join)

    def _write(self, deployment_id: str, join: Join) -> None:
        for (kind, *name), changed in join.take_changes().items():
            self._output.touch(str(kind), deployment_id, *name, what=changed)

    def prepare_checkpoint(self, position: Mapping[str, int]) -> None:
        """Write the store, if that is due; it is in force once the position is in the journal."""
        if self._rows_since_checkpoint >= CHECKPOINT_ROWS:
            self._store.prepare(position)
            self._rows_since_checkpoint = 0


def _expected_loss(baseline: Baseline, columns: PredictionColumns) -> NDArray[np.float64] | None:
    """The loss that is expected of each row, float64[n, 2]; None where the baseline has no model of it."""
    if baseline.outcomes is None:
        return None
    return expected_of(baseline.outcomes.expected_loss, [columns], np.arange(columns.rows))
