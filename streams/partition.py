"""One partition's state machine: messages in, emissions and state records out.

Everything here is a function of the log and the recorded order: no clock, no randomness, no I/O. The worker feeds it
and commits what it says (see :mod:`streams.journal`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.codec import SchemaRegistry
from driftline.errors import EventError
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.topics import Topics
from streams import state as state_records
from streams.alerts import alert_fired, alert_resolved, dead_letter, window_summary
from streams.baseline import Baseline
from streams.columns import Watched, numeric_column
from streams.counting import LABELS_BLOCK, RowCounter
from streams.decoding import Decoded, decode_message
from streams.deployment import (
    NO_SLOT,
    Deployment,
    Version,
    at_offset,
    baseline_fields,
    extended,
    fields_of,
    key_of,
    numeric_features,
    restore_deployment,
    restore_version,
)
from streams.detectors import check_detectors, outcome_streams
from streams.followers import Followers, Turn, detector_alert, followed_values
from streams.identities import Identities
from streams.limits import limits_of, time_error
from streams.messages import Emission, Message
from streams.monitor import Episode, Monitor, Monitors
from streams.outcomes.arrivals import Refusal
from streams.outcomes.expected import expected_of
from streams.outcomes.followed import followed_pairs
from streams.outcomes.frames import Frame
from streams.outcomes.join import Join
from streams.outcomes.marks import Marks
from streams.outcomes.reading import Keys, id_keys
from streams.outcomes.store import PendingStore
from streams.outcomes.windows import PerformanceWindow, performance_summary
from streams.specification import DeploymentSpec
from streams.statistics.budget import start_mass_log
from streams.statistics.performance.pairs import Pairs
from streams.unusable import Unusable, unusable_intervals, unusable_outcomes, usable_rows
from streams.windows import Group, Window, closed, group_rows

LONE_ROWS_STEP = 64
"""Alarms are looked for at every message of at least this many rows, and every so many lone rows of a version …"""

LONE_STEP_US = 1_000_000
"""… or after this much event time, whichever comes first."""

CHECKPOINT_ROWS = 131_072
"""The store is written when so many predictions have come: what it lacks after a crash is read from the topics."""

END_PREFIX = "end:"
"""What the order says, with the deployment's name, where one was retired; otherwise it names a digest."""


class Partition:
    """The state machine of one partition.

    Args:
        number: The partition.
        topics: Topic names.
        store: Where predictions wait for their outcomes; in memory if not given.

    ``urgent`` says that an alarm was raised or resolved since :meth:`take`: somebody waits for it. ``notices`` has what
    there is to be said about the state that was restored.
    """

    def __init__(self, number: int, topics: Topics, store: PendingStore | None = None) -> None:
        self.number = number
        self._store = PendingStore(None) if store is None else store
        self._stored = 0
        self._marks = Marks()
        self._recover_from = self._recover_outcomes_from = 0
        self._topics = topics
        self._deployments: dict[str, Deployment] = {}
        self._identities = Identities()
        self._emissions: list[Emission] = []
        self._order: list[dict[str, Any]] = []
        self._dirty: dict[bytes, Any] = {}
        self.position = {topics.predictions: 0, topics.outcomes: 0}
        self.messages = 0
        self.dead_letters = 0
        self.urgent = False
        self.notices: list[str] = []
        self._log_time_ms = 0
        self._time_ms = 0

    def needs(self, columns: PredictionColumns | OutcomeColumns) -> bool:
        """Whether a specification or baseline has to be looked up before these columns can be applied."""
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            return True
        return isinstance(columns, PredictionColumns) and columns.model_version not in deployment.versions

    def in_force(self) -> tuple[dict[str, DeploymentSpec], dict[tuple[str, str], Baseline]]:
        """Specifications and baselines in force here."""
        specs = {name: deployment.spec for name, deployment in self._deployments.items()}
        baselines = {
            (name, version): known.baseline
            for name, deployment in self._deployments.items()
            for version, known in deployment.versions.items()
        }
        return specs, baselines

    def put_spec_in_force(self, spec: DeploymentSpec) -> None:
        """A specification comes into force between two messages; the order remembers it.

        Evidence goes on, unless it was bet with other weights; open alarms stay open.

        Raises:
            StreamsError: The specification says something impossible. Nothing has changed.
        """
        spec.check()
        check_detectors(spec.detectors)
        deployment = self._deployments.get(spec.deployment_id)
        offset = self.position[self._topics.predictions]
        if deployment is None:
            deployment = self._deployments[spec.deployment_id] = Deployment(spec)
        else:
            self._close_windows(deployment, everything=deployment.spec.window_ms != spec.window_ms)
            new_slots = deployment.spec.start_slot_ms != spec.start_slot_ms
            deployment.spec = spec
            if new_slots:  # slots are numbered by their length
                deployment.slot, deployment.slot_versions = NO_SLOT, []
            for name, version in deployment.versions.items():
                begin_anew, closed_alarms = version.monitors.put_in_force(spec)
                if begin_anew or new_slots:
                    version.slot = NO_SLOT  # its next row is a start, paid for as one more in this slot
                self._resolve(deployment, version, closed_alarms, "the monitor was switched off")
                turns = version.followers.put_in_force(spec.detectors, deployment.clock_us or 0)
                self._emit_turns(deployment, version, turns, self._latest_message(), None)
                self._touch_followers(deployment, version)
                self._touch_version(spec.deployment_id, name, evidence=True)
            if new_slots and deployment.join is not None:
                deployment.join.forget_cohorts()
        self._expect_outcomes(deployment)
        limits = limits_of(spec, offset)
        deployment.limits = extended(deployment.limits, limits, self._remembered_from())
        self._dirty[key_of("spec", spec.deployment_id)] = state_records.spec_fields(spec)
        self._touch_deployment(spec.deployment_id)
        self._order_control(spec.digest())

    def put_baseline_in_force(self, baseline: Baseline) -> None:
        """A baseline comes into force; what was counted against an earlier one is closed.

        Raises:
            StreamsError: The baseline cannot be compared with anything. Nothing has changed.
        """
        baseline.check()
        deployment = self._deployments[baseline.deployment_id]
        known = deployment.versions.get(baseline.model_version)
        offset = self.position[self._topics.predictions]
        features = numeric_features(baseline, offset)
        monitors = Monitors(deployment.spec, baseline, deployment.clock_us or 0, offset)
        followers = Followers(deployment.spec.detectors) if known is None else known.followers
        version = Version(baseline, monitors, RowCounter(baseline), followers, offset, [features])
        if known is not None:
            self._close_windows(deployment, everything=True, only=baseline.model_version)
            self._resolve(deployment, known, known.monitors.give_up(), "a new baseline came into force")
            version.first_offset = known.first_offset
            version.numeric = extended(known.numeric, features, self._remembered_from())
            version.monitors.continue_episodes(known.monitors)
        deployment.versions[baseline.model_version] = version
        if deployment.join is not None:
            deployment.join.begin(deployment.spec, baseline, offset)
        self._dirty[key_of("baseline", baseline.deployment_id, baseline.model_version)] = baseline_fields(version)
        self._touch_version(baseline.deployment_id, baseline.model_version, evidence=True)
        self._touch_deployment(baseline.deployment_id)
        self._order_control(baseline.digest)

    def end(self, deployment_id: str) -> None:
        """A deployment is retired between two messages; the order remembers it.

        Its windows and alarms are closed and its part of the budget is free: whoever takes it must find nobody left
        who spends it.
        """
        deployment = self._deployments[deployment_id]
        self._close_windows(deployment, everything=True)
        self._end_join(deployment)
        self._dirty[key_of("spec", deployment_id)] = self._dirty[key_of("deployment", deployment_id)] = None
        for name, version in deployment.versions.items():
            self._resolve(deployment, version, version.monitors.give_up(), "the deployment was retired")
            turns = version.followers.put_in_force((), deployment.clock_us or 0)
            self._emit_turns(deployment, version, turns, self._latest_message(), None)
            for kind in ("baseline", "slot", "evidence", "detectors"):
                self._dirty[key_of(kind, deployment_id, name)] = None
        del self._deployments[deployment_id]
        self._order_control(END_PREFIX + deployment_id)

    def apply(self, decoded: Decoded) -> None:
        """Apply the next message of a source topic. Its offset must not lie below the position."""
        message = decoded.message
        self._order_message(message)
        self.position[message.topic] = message.offset + 1
        self.messages += 1
        self._log_time_ms = message.timestamp_ms
        if message.topic == self._topics.predictions:
            self._identities.advance(message.offset)
        if decoded.refusal is not None:
            self._refuse(message, *decoded.refusal)
        elif isinstance(decoded.columns, PredictionColumns):
            self._apply_predictions(decoded.columns, message)
        elif isinstance(decoded.columns, OutcomeColumns):
            self._apply_outcomes(decoded.columns, message)

    def awaits_time(self, time_ms: int) -> bool:
        """Whether the time, milliseconds since 1970 UTC, would end an interval of a deployment that is silent."""
        return time_ms > self._time_ms and any(
            deployment.silent_interval(time_ms) is not None or self._awaits_outcomes(deployment)
            for deployment in self._deployments.values()
        )

    @staticmethod
    def _awaits_outcomes(deployment: Deployment) -> bool:
        join, clock_us = deployment.join, deployment.clock_us
        return join is not None and clock_us is not None and deployment.live and join.awaits_reading(clock_us)

    def pass_time(self, time_ms: int) -> None:
        """Time passes between two messages, as far as the worker knows that there is none; the order remembers it.

        A state machine reads no clock: that nothing came until ``time_ms`` is an event like the others. The time stamps
        of messages tell of it as well, but publishers write them, and one whose clock is a year ahead would make all
        others silent.
        """
        if not self.awaits_time(time_ms):
            return
        self._order.append({"source": "clock", "first_offset": time_ms, "last_offset": time_ms, "digest": None})
        self._time_ms = time_ms
        for deployment_id, deployment in self._deployments.items():
            if self._awaits_outcomes(deployment):
                self._pass_outcome_time(deployment, self._latest_message(), read=True)
            interval = deployment.silent_interval(time_ms)
            version = deployment.versions.get(deployment.latest_version)
            if interval is None or version is None or version.monitors.rate is None:
                continue
            changed = version.monitors.pass_over(interval)
            message = dataclasses.replace(self._latest_message(), timestamp_ms=time_ms)
            now_us = interval * version.monitors.rate.interval_us
            changed |= self._look_for_alarms(deployment, version, message, now_us, None)
            self._touch_version(deployment_id, deployment.latest_version, evidence=changed)

    def _apply_outcomes(self, columns: OutcomeColumns, message: Message) -> None:
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            self._refuse_unknown(columns.deployment_id, message)
        elif not deployment.limits[-1].key_fits(columns.deployment_id, message.key):
            self._refuse_key(columns.deployment_id, deployment.spec.shards, message)
        else:
            deployment.counters["outcome_rows"] += columns.rows
            if deployment.join is not None:
                self._join_outcomes(deployment, deployment.join, columns, message)
            self._touch_deployment(columns.deployment_id)

    def _join_outcomes(self, deployment: Deployment, join: Join, columns: OutcomeColumns, message: Message) -> None:
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
            self._refuse_rows(message, each.reason, each.error, each.rows)
        joined, refusals = join.add_outcomes(deployment.spec, columns, usable, message.offset)
        self._refuse_outcomes(refusals, message)
        self._take_pairs(deployment, joined, message)
        self._pass_outcome_time(deployment, message)

    def _take_pairs(self, deployment: Deployment, joined: Sequence[tuple[Frame, Pairs]], message: Message) -> None:
        """Let the detectors of versions see predictions whose first outcome came, in order of arrival."""
        self._follow_pairs(deployment, joined, message)
        for frame, pairs in joined:
            version = deployment.versions.get(frame.model_version)
            if version is None or frame.baseline_digest != version.baseline.digest:
                continue  # what was predicted under another baseline is not compared with this one
            version.count_pairs(deployment.spec, pairs)
            if self._step_due(version, pairs.rows, deployment.clock_us or 0):
                self._look_after_outcomes(deployment, version, message)
            self._touch_version(deployment.spec.deployment_id, frame.model_version, evidence=False)

    def _follow_pairs(self, deployment: Deployment, joined: Sequence[tuple[Frame, Pairs]], message: Message) -> None:
        """Let the detectors from the literature see them, whatever baseline they were predicted under."""
        streams = outcome_streams(deployment.spec)
        for name, version in deployment.versions.items():
            mine = [each for each in joined if each[0].model_version == name]
            if not mine or not set(streams) & set(version.followers.streams):
                continue
            values, known_us = followed_pairs(mine)
            turns = version.followers.update(values, known_us, message.offset, message.topic)
            self._emit_turns(deployment, version, turns, message, None)
            self._touch_followers(deployment, version)

    def _look_after_outcomes(self, deployment: Deployment, version: Version, message: Message) -> None:
        """Look for alarms; their evidence is named by the predictions topic, up to its position."""
        at = dataclasses.replace(self._latest_message(), timestamp_ms=message.timestamp_ms)
        assert deployment.join is not None
        now_us = max(deployment.clock_us or 0, deployment.join.outcome_clock_us)
        changed = self._look_for_alarms(deployment, version, at, now_us, None)
        self._touch_version(deployment.spec.deployment_id, version.baseline.model_version, evidence=changed)

    def _pass_outcome_time(self, deployment: Deployment, message: Message, *, read: bool = False) -> None:
        """Write the performance windows and count the cohorts that have come due."""
        join, spec = deployment.join, deployment.spec
        if join is None or spec.outcomes is None:
            return
        self._dirty[key_of("join", spec.deployment_id)] = join
        if deployment.clock_us is None:
            return
        due = join.pass_time(spec, deployment.clock_us, live=deployment.live, read=read)
        if due is None:
            return
        for window, final in due.windows:
            self._emit_performance(deployment, window, final=final)
        self._refuse_outcomes(due.unknown, message)
        for name, counts in due.labels.items():
            version = deployment.versions.get(name)
            if version is not None:
                version.monitors.count_blocks({LABELS_BLOCK: counts})
                self._look_after_outcomes(deployment, version, message)

    def _emit_performance(self, deployment: Deployment, window: PerformanceWindow, *, final: bool) -> None:
        spec, join = deployment.spec, deployment.join
        if join is not None:
            self._emissions.append(performance_summary(spec, window, self.number, join.known_us, final=final))

    def _expect_outcomes(self, deployment: Deployment) -> None:
        """Begin or end to wait for outcomes, as the specification says."""
        spec = deployment.spec
        if spec.outcomes is None:
            self._end_join(deployment)
            return
        offset = self.position[self._topics.predictions]
        if deployment.join is None:
            deployment.join = Join(spec.deployment_id, self._store, offset)
        for version in deployment.versions.values():
            deployment.join.begin(spec, version.baseline, offset)
        self._dirty[key_of("join", spec.deployment_id)] = deployment.join

    def _end_join(self, deployment: Deployment) -> None:
        join = deployment.join
        if join is None:
            return
        for window in join.close_all():
            self._emit_performance(deployment, window, final=True)
        self._write_performance(deployment.spec.deployment_id, join)
        self._dirty[key_of("join", deployment.spec.deployment_id)] = None
        deployment.join = None

    def _write_performance(self, deployment_id: str, join: Join) -> None:
        """Let the journal know of what changed of performance windows and early outcomes."""
        for (kind, *name), changed in join.take_changes().items():
            self._dirty[key_of(str(kind), deployment_id, *name)] = changed

    def _remembered_from(self) -> int:
        """The first message of the predictions topic that may have to be read again."""
        needed = [needs[0] for d in self._deployments.values() if d.join is not None and (needs := d.join.needs_from())]
        return min([self._identities.older_offset, *needed])

    def _refuse_outcomes(self, refusals: Sequence[Refusal], message: Message) -> None:
        """Refuse rows of the outcomes topic, of this message or an earlier one."""
        for refusal in refusals:
            source = message
            if (message.topic, message.offset) != (self._topics.outcomes, refusal.offset):
                source = Message(self._topics.outcomes, self.number, refusal.offset, message.timestamp_ms, None, None)
            self._refuse_rows(source, refusal.reason, refusal.error, refusal.rows)

    def _refuse_rows(self, message: Message, reason: str, error: str, rows: Sequence[int]) -> None:
        self.dead_letters += 1
        self._emissions.append(dead_letter(message, reason, error, rows))

    def _apply_predictions(self, columns: PredictionColumns, message: Message) -> None:
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            self._refuse_unknown(columns.deployment_id, message)
            return
        if not deployment.limits[-1].key_fits(columns.deployment_id, message.key):
            self._refuse_key(columns.deployment_id, deployment.spec.shards, message)
            return
        version = deployment.versions.get(columns.model_version)
        if version is None:
            self._refuse(
                message,
                "missing_baseline",
                f"{columns.deployment_id}@{columns.model_version} has no baseline: build one with "
                f"'driftline baseline build {columns.deployment_id} FILE --version {columns.model_version}', "
                "then publish again",
            )
            return
        on_time = deployment.limits[-1].on_time(columns.timestamps_us, message.timestamp_ms)
        try:
            watched = version.counter.read(columns)
        except EventError as error:
            self._refuse(message, error.reason, str(error))
            self._count_refused(deployment, version, columns, message, columns.rows)
            return
        if on_time is not None:
            self._count_refused(deployment, version, columns, message, int((~on_time).sum()))
        for each in unusable_intervals(columns):
            self._refuse_rows(message, each.reason, each.error, each.rows)
        counted, keys = self._count_rows(deployment, columns, message, on_time)
        self._apply_rows(deployment, version, columns, watched, message, counted)
        if deployment.join is not None:
            self._wait_for_outcomes(deployment, deployment.join, version, columns, keys, message, counted)
        self._touch_deployment(columns.deployment_id)

    def _wait_for_outcomes(
        self,
        deployment: Deployment,
        join: Join,
        version: Version,
        columns: PredictionColumns,
        keys: Keys,
        message: Message,
        counted: NDArray[np.bool_] | None,
    ) -> None:
        if len(keys):
            expected = _expected_loss(version.baseline, columns)
            outcome_offset = self.position[self._topics.outcomes]
            early, refusals = join.add_predictions(
                deployment.spec, columns, keys, counted, expected, message.offset, outcome_offset
            )
            self._stored += len(keys)
            for waited in join.take_met():
                self._marks.meet(waited)
            self._refuse_outcomes(refusals, message)
            self._take_pairs(deployment, early, message)
        self._pass_outcome_time(deployment, message)

    def _count_refused(
        self, deployment: Deployment, version: Version, columns: PredictionColumns, message: Message, rows: int
    ) -> None:
        """Rows that could not be used are evidence as well. They tell no time: the clock stays where it is."""
        version.monitors.count_refused(rows)
        now_us = deployment.clock_us or 0
        changed = self._look_for_alarms(deployment, version, message, now_us, columns.model_id)
        self._touch_version(columns.deployment_id, columns.model_version, evidence=changed)

    def _count_rows(
        self, deployment: Deployment, columns: PredictionColumns, message: Message, on_time: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.bool_] | None, Keys]:
        """Which rows count: on time and not seen before; None for all of them. And their keys, if outcomes come."""
        counters = deployment.counters
        ids = columns.prediction_ids
        if on_time is not None:
            bad = np.flatnonzero(~on_time).tolist()
            counters["rejected_rows"] += len(bad)
            self.dead_letters += 1
            self._emissions.append(
                dead_letter(message, "event_time", time_error(columns.timestamps_us, message, bad), bad)
            )
            ids = [ids[row] for row in np.flatnonzero(on_time).tolist()]
        new = self._identities.unseen(columns.deployment_id, ids)
        keys = id_keys(() if deployment.join is None else ids)
        if deployment.join is not None:
            # what waits for its outcome is known for longer than ids are remembered
            waits_not = deployment.join.new_to_it(keys)
            if waits_not is not None:
                new = waits_not if new is None else new & waits_not
        counters["rows"] += len(ids)
        if new is None:
            return on_time, keys
        keys = keys[new] if len(keys) else keys
        counters["duplicate_rows"] += int((~new).sum())
        counters["rows"] -= int((~new).sum())
        if on_time is None:
            return new, keys
        counted = on_time.copy()
        counted[on_time] = new
        return counted, keys

    def _apply_rows(
        self,
        deployment: Deployment,
        version: Version,
        columns: PredictionColumns,
        watched: Watched,
        message: Message,
        counted: NDArray[np.bool_] | None,
    ) -> None:
        spec, monitors = deployment.spec, version.monitors
        grouping = group_rows(columns.timestamps_us, counted, deployment.clock_us, spec)
        if not grouping.groups:
            return
        counts = version.counter.count(watched, grouping.index, len(grouping.groups))
        started = False
        clocks = deployment.clock_by_slot(columns.timestamps_us if counted is None else columns.timestamps_us[counted])
        unbroken = deployment.latest_version in ("", columns.model_version)
        deployment.latest_version = columns.model_version
        for g, group in enumerate(grouping.groups):
            started |= self._start_slot(deployment, version, columns.model_version, group, message)
            if group.slot in clocks:
                started |= monitors.take_time(clocks.pop(group.slot), unbroken=unbroken)
            group_counts = [block_counts[g] for block_counts in counts]
            monitors.count(group_counts)
            self._count_window(deployment, version, columns.model_version, group, group_counts, message.offset)
        self._follow(deployment, version, columns, message, counted)
        deployment.clock_us = grouping.clock_us
        deployment.see(message.timestamp_ms, int(columns.timestamps_us.min()) // 1000)
        changed = started
        if self._step_due(version, columns.rows, grouping.clock_us):
            changed |= self._look_for_alarms(deployment, version, message, grouping.clock_us, columns.model_id)
            self._revise_windows(deployment, version, columns.model_version)
        self._close_windows(deployment)
        self._touch_version(columns.deployment_id, columns.model_version, evidence=changed)

    def _start_slot(
        self, deployment: Deployment, version: Version, model_version: str, group: Group, message: Message
    ) -> bool:
        if group.slot <= version.slot:
            return False
        if group.slot > deployment.slot:
            deployment.slot, deployment.slot_versions = group.slot, []
        rank = len(deployment.slot_versions)
        deployment.slot_versions.append(model_version)
        version.slot = group.slot
        version.monitors.start(group.slot_time_us, message.offset, start_mass_log(rank))
        return True

    def _count_window(
        self,
        deployment: Deployment,
        version: Version,
        model_version: str,
        group: Group,
        counts: list[NDArray[np.int64]],
        offset: int,
    ) -> None:
        if group.window_start_us is None:
            deployment.counters["late_rows"] += group.rows
            return
        counts = [counts[b] for b in version.monitors.described]
        window = version.windows.get(group.window_start_us)
        if window is None:
            window = version.windows[group.window_start_us] = Window([np.zeros_like(c) for c in counts], offset)
        window.add(counts, group.rows)
        key = key_of("window", deployment.spec.deployment_id, model_version, group.window_start_us)
        self._dirty[key] = window

    @staticmethod
    def _step_due(version: Version, rows: int, clock_us: int) -> bool:
        version.lone_rows += rows
        if version.lone_rows < LONE_ROWS_STEP and clock_us < version.last_step_us + LONE_STEP_US:
            return False
        version.lone_rows, version.last_step_us = 0, clock_us
        return True

    def _look_for_alarms(
        self, deployment: Deployment, version: Version, message: Message, now_us: int, model_id: str | None
    ) -> bool:
        """Raise and resolve alarms; whether the evidence record changed."""
        spec, monitors = deployment.spec, version.monitors
        quiet = len(self._emissions)
        alarms = monitors.alarms(now_us)
        for alarm in alarms:
            self._emissions += alert_fired(spec, monitors, alarm, message, model_id)
        muted = monitors.muted_streams()
        for monitor, episode in monitors.resolutions():
            self._emissions += alert_resolved(spec, monitors, monitor, episode, message, now_us, model_id)
        self.urgent |= len(self._emissions) > quiet
        # a cause that is back to normal changes the record even if its alarm stays open
        return bool(alarms) or monitors.muted_streams() != muted

    def _revise_windows(self, deployment: Deployment, version: Version, model_version: str) -> None:
        for start_us, window in version.windows.items():
            if window.due():
                window.revision += 1
                self._emit_window(deployment, version, start_us, window, final=False)
                self._dirty[key_of("window", deployment.spec.deployment_id, model_version, start_us)] = window

    def _close_windows(self, deployment: Deployment, *, everything: bool = False, only: str | None = None) -> None:
        """Write the final summary of every window that takes no more rows, and forget it."""
        clock_us, spec = deployment.clock_us, deployment.spec
        if clock_us is None:
            return
        for name, version in deployment.versions.items():
            if only is not None and name != only:
                continue
            for start_us in sorted(version.windows):
                if not everything and not closed(start_us, clock_us, spec):
                    continue
                window = version.windows.pop(start_us)
                window.revision += 1
                self._emit_window(deployment, version, start_us, window, final=True)
                self._dirty[key_of("window", spec.deployment_id, name, start_us)] = None

    def _resolve(
        self, deployment: Deployment, version: Version, alarms: Sequence[tuple[Monitor, Episode]], reason: str
    ) -> None:
        """Resolve alarms between two messages, because what they were raised under has changed."""
        message, now_us = self._latest_message(), deployment.clock_us or 0
        for monitor, episode in alarms:
            self._emissions += alert_resolved(
                deployment.spec, version.monitors, monitor, episode, message, now_us, None, reason
            )

    def _latest_message(self) -> Message:
        """Stands for the message after which something happened that no message caused."""
        offset = self.position[self._topics.predictions] - 1
        return Message(self._topics.predictions, self.number, offset, self._log_time_ms, None, None)

    def _follow(
        self,
        deployment: Deployment,
        version: Version,
        columns: PredictionColumns,
        message: Message,
        counted: NDArray[np.bool_] | None,
    ) -> None:
        """Let the detectors from the literature see the rows that count."""
        streams = [name for name in version.followers.streams if name not in outcome_streams(deployment.spec)]
        if not streams:
            return
        values = {name: followed_values(name, columns) for name in streams}
        if counted is not None:
            values = {name: np.where(counted, column, np.nan) for name, column in values.items()}
        turns = version.followers.update(values, columns.timestamps_us, message.offset)
        self._emit_turns(deployment, version, turns, message, columns.model_id)
        self._touch_followers(deployment, version)

    def _emit_turns(
        self, deployment: Deployment, version: Version, turns: Sequence[Turn], message: Message, model_id: str | None
    ) -> None:
        for turn in turns:
            self._emissions += detector_alert(deployment.spec, version.baseline, turn, message, model_id)
            self.urgent = True

    def _touch_followers(self, deployment: Deployment, version: Version) -> None:
        key = key_of("detectors", deployment.spec.deployment_id, version.baseline.model_version)
        if version.followers.streams:
            self._dirty[key] = version.followers
        else:
            self._dirty[key] = None

    def _emit_window(
        self, deployment: Deployment, version: Version, start_us: int, window: Window, *, final: bool
    ) -> None:
        self._emissions.append(
            window_summary(deployment.spec, version.monitors, self.number, start_us, window, final=final)
        )

    def _refuse_unknown(self, deployment_id: str, message: Message) -> None:
        self._refuse(
            message,
            "unknown_deployment",
            f"deployment {deployment_id!r} is not known: apply its specification with "
            "'driftline deployment apply FILE', then publish again",
        )

    def _refuse_key(self, deployment_id: str, shards: int, message: Message) -> None:
        expected = repr(deployment_id) if shards == 1 else f"'{deployment_id}#0' to '{deployment_id}#{shards - 1}'"
        came = "no key" if message.key is None else repr(message.key[:80].decode("utf-8", "replace"))
        self._refuse(message, "wrong_key", f"expected the Kafka key {expected}, came {came}")

    def _refuse(self, message: Message, reason: str, error: str) -> None:
        self.dead_letters += 1
        self._emissions.append(dead_letter(message, reason, error))

    def _order_message(self, message: Message) -> None:
        last = self._order[-1] if self._order else None
        if last is not None and last["source"] == message.topic and last["last_offset"] == message.offset - 1:
            last["last_offset"] = message.offset
            return
        self._order.append(
            {"source": message.topic, "first_offset": message.offset, "last_offset": message.offset, "digest": None}
        )

    def _order_control(self, digest: str) -> None:
        self._order.append({"source": "control", "first_offset": 0, "last_offset": 0, "digest": digest})

    def _touch_deployment(self, deployment_id: str) -> None:
        self._dirty[key_of("deployment", deployment_id)] = self._deployments[deployment_id]

    def _touch_version(self, deployment_id: str, model_version: str, *, evidence: bool) -> None:
        version = self._deployments[deployment_id].versions[model_version]
        self._dirty[key_of("slot", deployment_id, model_version)] = version
        if evidence:
            self._dirty[key_of("evidence", deployment_id, model_version)] = version

    def take(self) -> tuple[dict[bytes, dict[str, Any] | None], list[Emission], list[dict[str, Any]]]:
        """What to commit: state records that changed (None to delete), emissions, order. Forgets all three."""
        for deployment_id, deployment in self._deployments.items():
            if deployment.join is not None and key_of("join", deployment_id) in self._dirty:
                self._write_performance(deployment_id, deployment.join)
        records: dict[bytes, dict[str, Any] | None] = {key: fields_of(key, dirty) for key, dirty in self._dirty.items()}
        emissions, order = self._emissions, self._order
        if order:
            if self._stored >= CHECKPOINT_ROWS:
                self._store.prepare(self.position)
                self._marks.checkpoint(self.position[self._topics.predictions])
                self._stored = 0
            records[b"position"] = self._position_fields() | self._marks.to_fields()
        self._dirty, self._emissions, self._order = {}, [], []
        self.urgent = False
        return records, emissions, order

    def committed(self) -> None:
        """What was taken last is in the journal: an index that is opened again may begin with it."""
        self._store.confirm()

    @property
    def uncommitted(self) -> bool:
        """Whether anything was applied since the last :meth:`take`."""
        return bool(self._order)

    def _position_fields(self) -> dict[str, Any]:
        return {
            "predictions": self.position[self._topics.predictions],
            "outcomes": self.position[self._topics.outcomes],
            "older_ids_offset": self._identities.older_offset,
            "younger_ids_offset": self._identities.younger_offset,
            "messages": self.messages,
            "dead_letters": self.dead_letters,
            "log_time_ms": self._log_time_ms,
            "time_ms": self._time_ms,
        }

    def restore(self, records: MutableMapping[bytes, dict[str, Any]]) -> range:
        """Take the state from journal records, which are taken out as they are used.

        Returns:
            Offsets of the predictions topic whose messages must be given to :meth:`remember`, in order.
        """
        names: dict[str, list[str]] = {}
        for key in sorted(records):
            kind, _, name = key.decode().partition("/")
            names.setdefault(kind, []).append(name)
        for name in names.get("spec", ()):
            deployment = Deployment(state_records.restore_spec(records.pop(key_of("spec", name))))
            restore_deployment(deployment, records.pop(key_of("deployment", name)))
            self._deployments[name] = deployment
        for name in names.get("baseline", ()):
            deployment_id, model_version = name.split("@")
            deployment = self._deployments[deployment_id]
            followers = Followers(deployment.spec.detectors)
            if (written := records.pop(key_of("detectors", name), None)) is not None:
                followers, notices = Followers.from_bytes(written["state"])
                self.notices += notices
            baseline, evidence, slot = (records.pop(key_of(kind, name)) for kind in ("baseline", "evidence", "slot"))
            deployment.versions[model_version] = restore_version(deployment.spec, baseline, evidence, slot, followers)
        for name in names.get("window", ()):
            deployment_id, model_version, start_us = name.split("@")
            version = self._deployments[deployment_id].versions[model_version]
            version.windows[int(start_us)] = state_records.restore_window(records.pop(key_of("window", name)))
        for name in names.get("join", ()):
            deployment = self._deployments[name]
            deployment.join = Join(name, self._store, 0)
            deployment.join.restore(records.pop(key_of("join", name)))
            for version in deployment.versions.values():
                deployment.join.attach(version.baseline)
        for name in names.get("performance", ()):
            deployment_id, frame, start_us = name.split("@")
            join = self._deployments[deployment_id].join
            if join is not None:
                join.restore_window(int(frame), int(start_us), records.pop(key_of("performance", name)))
        for name in names.get("early", ()):
            deployment_id, offset = name.split("@")
            join = self._deployments[deployment_id].join
            if join is not None:
                join.early.restore_rows(int(offset), records.pop(key_of("early", name)))
        position = records.get(b"position")
        if position is None:
            self._store.reset()
            return range(0)
        self.position = {
            self._topics.predictions: position["predictions"],
            self._topics.outcomes: position["outcomes"],
        }
        self.messages, self.dead_letters = position["messages"], position["dead_letters"]
        self._log_time_ms, self._time_ms = position["log_time_ms"], position["time_ms"]
        self._identities.restore(position["older_ids_offset"], position["younger_ids_offset"])
        self._marks.restore(position)
        self._open_store()
        return range(min(position["older_ids_offset"], self._recover_from), position["predictions"])

    def _open_store(self) -> None:
        """Find out what the store lacks: it is an index of the topics, up to some position, which ours must contain."""
        joins = [d.join for d in self._deployments.values() if d.join is not None]
        stored = self._store.position
        if any(offset > self.position.get(topic, 0) for topic, offset in stored.items()):
            self._store.reset()
            stored = {}
        used = {name for join in joins for name in join.table_names()}
        for name in self._store.names():
            if name not in used:
                self._store.drop(name)
        needed = [needs for join in joins if (needs := join.needs_from()) is not None]
        ends = self.position[self._topics.predictions], self.position[self._topics.outcomes]
        begins = [min(offsets) for offsets in zip(*needed, ends, strict=True)]
        self._recover_from = max(begins[0], stored.get(self._topics.predictions, 0))
        self._recover_outcomes_from = max(begins[1], stored.get(self._topics.outcomes, 0))
        waited = self._marks.first_outcome(stored.get(self._topics.predictions, 0))
        if waited is not None:
            self._recover_outcomes_from = max(begins[1], min(self._recover_outcomes_from, waited))

    @property
    def to_recover(self) -> dict[str, range]:
        """Per topic the offsets of the messages that the store lacks."""
        predictions = range(self._recover_from, self.position[self._topics.predictions])
        return {self._topics.predictions: predictions, self._topics.outcomes: self.outcomes_to_recover}

    def joins(self) -> dict[str, Join]:
        """What waits for outcomes, by deployment."""
        return {name: d.join for name, d in self._deployments.items() if d.join is not None}

    @property
    def outcomes_to_recover(self) -> range:
        """Offsets of the outcomes topic that must be given to :meth:`recover_outcomes`, after :meth:`remember`."""
        return range(self._recover_outcomes_from, self.position[self._topics.outcomes])

    def recover_outcomes(self, messages: Iterable[Message], registry: SchemaRegistry | None = None) -> None:
        """Put in force again what became known of predictions that wait, as far as the store lacks it."""
        for message in messages:
            columns = decode_message(message, self._topics, registry).columns
            deployment = self._deployments.get(columns.deployment_id) if columns is not None else None
            if not isinstance(columns, OutcomeColumns) or deployment is None or deployment.join is None:
                continue
            limits = at_offset(deployment.limits, self._recover_from)
            if limits.key_fits(columns.deployment_id, message.key):
                on_time = limits.on_time(columns.actual_timestamps_us, message.timestamp_ms)
                usable = usable_rows(columns.rows, on_time, unusable_outcomes(columns))
                deployment.join.recover_outcomes(columns, usable, message.offset)

    def remember(self, messages: Iterable[Message], registry: SchemaRegistry | None = None) -> None:
        """Remember the prediction ids of messages that were applied before; see :mod:`streams.identities`."""
        for message in messages:
            columns = decode_message(message, self._topics, registry).columns
            if not isinstance(columns, PredictionColumns) or not self._was_applied(columns, message):
                continue
            limits = at_offset(self._deployments[columns.deployment_id].limits, message.offset)
            on_time = limits.on_time(columns.timestamps_us, message.timestamp_ms)
            if message.offset >= self._identities.older_offset:
                ids = _chosen(columns.prediction_ids, on_time)
                self._identities.replay(columns.deployment_id, ids, message.offset)
            join = self._deployments[columns.deployment_id].join
            if join is not None and message.offset >= self._recover_from:
                join.recover_predictions(columns, on_time, message.offset)

    def _was_applied(self, columns: PredictionColumns, message: Message) -> bool:
        """Whether a message was counted, or known, when it was applied; else it was refused."""
        deployment = self._deployments.get(columns.deployment_id)
        version = None if deployment is None else deployment.versions.get(columns.model_version)
        if deployment is None or version is None or message.offset < version.first_offset:
            return False
        limits = at_offset(deployment.limits, message.offset)
        if not limits.key_fits(columns.deployment_id, message.key):
            return False
        try:
            for name in at_offset(version.numeric, message.offset).names:
                numeric_column(columns, name)
        except EventError:
            return False
        return True


def _expected_loss(baseline: Baseline, columns: PredictionColumns) -> NDArray[np.float64] | None:
    """The loss that is expected of each row, float64[n, 2]; None where the baseline has no model of it."""
    if baseline.outcomes is None:
        return None
    return expected_of(baseline.outcomes.expected_loss, [columns], np.arange(columns.rows))


def _chosen(ids: Sequence[str], rows: NDArray[np.bool_] | None) -> Sequence[str]:
    """The ids of some rows, bool[n]; None for all."""
    return ids if rows is None else [ids[row] for row in np.flatnonzero(rows).tolist()]
