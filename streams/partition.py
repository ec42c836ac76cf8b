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
from streams.alarming import is_step_due, look_for_alarms, resolve_alarms, tell_turns
from streams.alerts import window_summary
from streams.baseline import Baseline
from streams.columns import Watched
from streams.counting import RowCounter
from streams.decoding import Decoded
from streams.deployment import NO_SLOT, Deployment, Version, baseline_fields, extended, numeric_features
from streams.detectors import check_detectors, outcome_streams
from streams.followers import Followers, followed_values
from streams.humility.judge import Judged, check_rules
from streams.humility.refit import REASON, continue_evidence, is_refit
from streams.humility.watch import HumilityWatch, totals_of
from streams.identities import Identities
from streams.joining import Joining
from streams.limits import limits_of, limits_of_outcomes, time_error
from streams.messages import Emission, Message
from streams.monitor import Episode, Monitor, Monitors
from streams.outcomes.join import Join
from streams.outcomes.keys import Keys, id_keys
from streams.outcomes.store import PendingStore
from streams.output import END_PREFIX, Output
from streams.recovery import Recovery
from streams.specification import DeploymentSpec
from streams.statistics.budget import start_mass_log
from streams.unusable import unusable_intervals
from streams.windows import Group, Window, closed, group_rows


class Partition:
    """The state machine of one partition.

    Args:
        number: The partition.
        topics: Topic names.
        store: Where predictions wait for their outcomes; in memory if not given.

    """

    def __init__(self, number: int, topics: Topics, store: PendingStore | None = None) -> None:
        self.number = number
        self._topics = topics
        self._store = PendingStore(None) if store is None else store
        self._deployments: dict[str, Deployment] = {}
        self._identities = Identities()
        self._output = Output()
        self._humility = HumilityWatch(number, self._output)
        self._joining = Joining(number, topics.outcomes, self._output, self._store)
        self._recovery = Recovery(topics, self._deployments, self._identities, self._store)
        self.position = {topics.predictions: 0, topics.outcomes: 0}
        self.messages = 0
        self._log_time_ms = 0
        self._time_ms = 0

    @property
    def dead_letters(self) -> int:
        """Refusals ever."""
        return self._output.dead_letters

    @property
    def urgent(self) -> bool:
        """Whether an alarm was raised or resolved since :meth:`take`: somebody waits for it."""
        return self._output.urgent

    @property
    def notices(self) -> list[str]:
        """What there is to be said about the state that was restored."""
        return self._recovery.notices

    def humility_totals(self) -> list[tuple[str, str, dict[str, int]]]:
        """Deployment, version, and what became of its rows so far; may be asked by any thread."""
        return totals_of(self._deployments)

    def needs(self, columns: PredictionColumns | OutcomeColumns) -> bool:
        """Whether a specification or baseline has to be looked up before these columns can be applied."""
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            return True
        if not isinstance(columns, PredictionColumns):
            return False
        version = deployment.versions.get(columns.model_version)
        return version is None or self._humility.needs(version, columns)

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
        check_rules(spec)
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
            for version in deployment.versions.values():
                begin_anew, closed_alarms = version.monitors.put_in_force(spec)
                if begin_anew or new_slots:
                    version.slot = NO_SLOT  # its next row is a start, paid for as one more in this slot
                self._resolve(deployment, version, closed_alarms, "the monitor was switched off")
                turns = version.followers.put_in_force(spec.detectors, deployment.clock_us or 0)
                tell_turns(self._output, deployment, version, turns, self._latest_message())
                self._humility.put_in_force(deployment, version)
                self._output.touch_version(deployment, version, evidence=True)
            if new_slots and deployment.join is not None:
                deployment.join.forget_cohorts()
        self._joining.expect(deployment, offset)
        self._humility.tell(deployment)
        limits = limits_of(spec, offset, self.position[self._topics.outcomes])
        deployment.limits = extended(deployment.limits, limits, self._limits_needed_from(deployment))
        self._output.touch("spec", spec.deployment_id, what=state_records.spec_fields(spec))
        self._output.touch_deployment(deployment)
        self._output.order_control(spec.digest())

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
            if is_refit(known.baseline, baseline):
                self._resolve(deployment, known, continue_evidence(known.monitors, monitors), REASON)
                version.go_on_from(known)
            else:
                self._resolve(deployment, known, known.monitors.give_up(), "a new baseline came into force")
                monitors.continue_episodes(known.monitors)
            version.first_offset = known.first_offset
            version.numeric = extended(known.numeric, features, self._remembered_from())
            version.humility = known.humility
        deployment.versions[baseline.model_version] = version
        self._humility.put_in_force(deployment, version)
        self._joining.expect(deployment, offset)
        self._humility.tell(deployment)
        names = baseline.deployment_id, baseline.model_version
        self._output.touch("baseline", *names, what=baseline_fields(version))
        self._output.touch_version(deployment, version, evidence=True)
        self._output.touch_deployment(deployment)
        self._output.order_control(baseline.digest)

    def end(self, deployment_id: str) -> None:
        """A deployment is retired between two messages; the order remembers it.

        Its windows and alarms are closed and its part of the budget is free: whoever takes it must find nobody left
        who spends it.
        """
        deployment = self._deployments[deployment_id]
        self._close_windows(deployment, everything=True)
        self._joining.end(deployment)
        self._output.touch("spec", deployment_id, what=None)
        self._output.touch("deployment", deployment_id, what=None)
        for name, version in deployment.versions.items():
            self._resolve(deployment, version, version.monitors.give_up(), "the deployment was retired")
            turns = version.followers.put_in_force((), deployment.clock_us or 0)
            tell_turns(self._output, deployment, version, turns, self._latest_message())
            self._humility.end(deployment, version)
            for kind in ("baseline", "slot", "evidence", "detectors"):
                self._output.touch(kind, deployment_id, name, what=None)
        del self._deployments[deployment_id]
        self._output.order_control(END_PREFIX + deployment_id)

    def apply(self, decoded: Decoded) -> None:
        """Apply the next message of a source topic. Its offset must not lie below the position."""
        message = decoded.message
        self._output.order_message(message)
        self.position[message.topic] = message.offset + 1
        self.messages += 1
        self._log_time_ms = message.timestamp_ms
        if message.topic == self._topics.predictions:
            self._identities.advance(message.offset)
        if decoded.refusal is not None:
            self._output.refuse(message, *decoded.refusal)
        elif isinstance(decoded.columns, PredictionColumns):
            self._apply_predictions(decoded.columns, message)
        elif isinstance(decoded.columns, OutcomeColumns):
            self._apply_outcomes(decoded.columns, message)
        if decoded.columns is not None and decoded.columns.deployment_id in self._deployments:
            self._humility.tell(self._deployments[decoded.columns.deployment_id])

    def awaits_time(self, time_ms: int) -> bool:
        """Whether the time, milliseconds since 1970 UTC, would end an interval of a deployment that is silent."""
        return time_ms > self._time_ms and any(
            deployment.silent_interval(time_ms) is not None or self._awaits_outcomes(deployment, time_ms)
            for deployment in self._deployments.values()
        )

    @staticmethod
    def _awaits_outcomes(deployment: Deployment, time_ms: int) -> bool:
        join, clock_us = deployment.join, deployment.clock_us
        return join is not None and clock_us is not None and join.awaits_reading(clock_us, time_ms)

    def pass_time(self, time_ms: int) -> None:
        """Time passes between two messages, as far as the worker knows that there is none; the order remembers it.

        A state machine reads no clock: that nothing came until ``time_ms`` is an event like the others. The time stamps
        of messages tell of it as well, but publishers write them, and one whose clock is a year ahead would make all
        others silent.
        """
        if not self.awaits_time(time_ms):
            return
        self._output.order_time(time_ms)
        self._time_ms = time_ms
        for deployment in self._deployments.values():
            if self._awaits_outcomes(deployment, time_ms):
                latest = dataclasses.replace(self._latest_message(), timestamp_ms=time_ms)
                self._joining.pass_time(deployment, latest, latest, read=True)
                self._humility.tell(deployment)
            interval = deployment.silent_interval(time_ms)
            version = deployment.versions.get(deployment.latest_version)
            if interval is None or version is None or version.monitors.rate is None:
                continue
            changed = version.monitors.pass_over(interval)
            message = dataclasses.replace(self._latest_message(), timestamp_ms=time_ms)
            now_us = interval * version.monitors.rate.interval_us
            changed |= look_for_alarms(self._output, deployment, version, message, now_us)
            self._output.touch_version(deployment, version, evidence=changed)
            self._humility.tell(deployment)

    def _apply_outcomes(self, columns: OutcomeColumns, message: Message) -> None:
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            self._output.refuse_unknown(columns.deployment_id, message)
        elif not deployment.limits[-1].key_fits(columns.deployment_id, message.key):
            self._output.refuse_key(columns.deployment_id, deployment.spec.shards, message)
        else:
            deployment.counters["outcome_rows"] += columns.rows
            self._joining.apply(deployment, columns, message, self._latest_message())
            self._output.touch_deployment(deployment)

    def _remembered_from(self) -> int:
        """The first message of the predictions topic that may have to be read again."""
        needed = [needs[0] for d in self._deployments.values() if d.join is not None and (needs := d.join.needs_from())]
        return min([self._identities.older_offset, *needed])

    def _limits_needed_from(self, deployment: Deployment) -> int:
        """The same for a deployment's limits, by which outcomes are read again as well."""
        needs = None if deployment.join is None else deployment.join.needs_from()
        if needs is None or not deployment.limits:
            return self._remembered_from()
        return min(self._remembered_from(), limits_of_outcomes(deployment.limits, needs[1]).offset - 1)

    def _apply_predictions(self, columns: PredictionColumns, message: Message) -> None:
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            self._output.refuse_unknown(columns.deployment_id, message)
            return
        if not deployment.limits[-1].key_fits(columns.deployment_id, message.key):
            self._output.refuse_key(columns.deployment_id, deployment.spec.shards, message)
            return
        version = deployment.versions.get(columns.model_version)
        if version is None:
            self._output.refuse(
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
            self._output.refuse(message, error.reason, str(error))
            self._count_refused(deployment, version, columns, message, columns.rows)
            return
        if on_time is not None:
            self._count_refused(deployment, version, columns, message, int((~on_time).sum()))
        for each in unusable_intervals(columns):
            self._output.refuse(message, each.reason, each.error, each.rows)
        counted, keys = self._count_rows(deployment, columns, message, on_time)
        alarms = self._humility.alarms(version)
        judged = self._humility.judge(deployment, version, columns, alarms)
        self._apply_rows(deployment, version, columns, watched, message, counted, judged)
        outcome_offset = self.position[self._topics.outcomes]
        self._joining.wait_for_outcomes(
            deployment, version, columns, counted, keys, message, outcome_offset, judged, alarms
        )
        self._output.touch_deployment(deployment)

    def _count_refused(
        self, deployment: Deployment, version: Version, columns: PredictionColumns, message: Message, rows: int
    ) -> None:
        """Rows that could not be used are evidence as well. They tell no time: the clock stays where it is."""
        version.monitors.count_refused(rows)
        now_us = deployment.clock_us or 0
        changed = look_for_alarms(self._output, deployment, version, message, now_us, columns.model_id)
        self._output.touch_version(deployment, version, evidence=changed)

    def _count_rows(
        self, deployment: Deployment, columns: PredictionColumns, message: Message, on_time: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.bool_] | None, Keys]:
        """Which rows count: on time and not seen before; None for all of them. And their keys, if outcomes come."""
        counters = deployment.counters
        ids = columns.prediction_ids
        if on_time is not None:
            bad = np.flatnonzero(~on_time).tolist()
            counters["rejected_rows"] += len(bad)
            self._output.refuse(message, "event_time", time_error(columns.timestamps_us, message, bad), bad)
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
        judged: Judged | None,
    ) -> None:
        spec, monitors = deployment.spec, version.monitors
        grouping = group_rows(columns.timestamps_us, counted, deployment.clock_us, spec)
        if not grouping.groups:
            return
        counts = version.counter.count(watched, grouping.index, len(grouping.groups))
        decisions = self._humility.count(version, judged, watched, grouping)
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
            if decisions is not None:
                self._humility.add(deployment, version, decisions, g, group, message.offset)
        self._follow(deployment, version, columns, message, counted)
        deployment.clock_us = grouping.clock_us
        deployment.see(message.timestamp_ms, int(columns.timestamps_us.min()) // 1000)
        changed = started
        if is_step_due(version, columns.rows, grouping.clock_us):
            changed |= look_for_alarms(self._output, deployment, version, message, grouping.clock_us, columns.model_id)
            self._revise_windows(deployment, version, columns.model_version)
        self._close_windows(deployment)
        self._output.touch_version(deployment, version, evidence=changed)

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
        self._humility.begin_slot(version)
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
        names = deployment.spec.deployment_id, model_version, group.window_start_us
        self._output.touch("window", *names, what=window)

    def _revise_windows(self, deployment: Deployment, version: Version, model_version: str) -> None:
        for start_us, window in version.windows.items():
            if window.due():
                window.revision += 1
                self._emit_window(deployment, version, start_us, window, final=False)
                self._output.touch("window", deployment.spec.deployment_id, model_version, start_us, what=window)

        self._humility.revise(deployment, version)

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
                self._output.touch("window", spec.deployment_id, name, start_us, what=None)
            self._humility.close(deployment, version, everything=everything)

    def _resolve(
        self, deployment: Deployment, version: Version, alarms: Sequence[tuple[Monitor, Episode]], reason: str
    ) -> None:
        resolve_alarms(self._output, deployment, version, alarms, self._latest_message(), reason)

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
        tell_turns(self._output, deployment, version, turns, message, columns.model_id)

    def _emit_window(
        self, deployment: Deployment, version: Version, start_us: int, window: Window, *, final: bool
    ) -> None:
        self._output.emit(window_summary(deployment.spec, version.monitors, self.number, start_us, window, final=final))

    def take(self) -> tuple[dict[bytes, dict[str, Any] | None], list[Emission], list[dict[str, Any]]]:
        """What to commit: state records that changed (None to delete), emissions, order. Forgets all three."""
        self._joining.write(self._deployments)
        records, emissions, order = self._output.take()
        if order:
            self._joining.prepare_checkpoint(self.position)
            records[b"position"] = self._position_fields()
        return records, emissions, order

    def committed(self) -> None:
        """What was taken last is in the journal: an index that is opened again may begin with it."""
        self._store.confirm()

    @property
    def uncommitted(self) -> bool:
        """Whether anything was applied since the last :meth:`take`."""
        return self._output.has_order

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
        to_remember = self._recovery.restore(records)
        position = records.get(b"position")
        if position is not None:
            self.position = {
                self._topics.predictions: position["predictions"],
                self._topics.outcomes: position["outcomes"],
            }
            self.messages, self._output.dead_letters = position["messages"], position["dead_letters"]
            self._log_time_ms, self._time_ms = position["log_time_ms"], position["time_ms"]
        return to_remember

    @property
    def to_recover(self) -> dict[str, range]:
        """Per topic the offsets of the messages that the index of pending predictions lacks.

        Those of the outcomes topic must be given to :meth:`recover_outcomes` after :meth:`remember`.
        """
        return self._recovery.to_recover

    def remember(self, messages: Iterable[Message], registry: SchemaRegistry | None = None) -> None:
        """Remember what is known of predictions that were applied before; see :mod:`streams.recovery`."""
        self._recovery.remember(messages, registry)

    def recover_outcomes(self, messages: Iterable[Message], registry: SchemaRegistry | None = None) -> None:
        """Remember what is known of outcomes that were applied before; see :mod:`streams.recovery`."""
        self._recovery.recover_outcomes(messages, registry)

    def joins(self) -> dict[str, Join]:
        """What waits for outcomes, by deployment."""
        return {name: d.join for name, d in self._deployments.items() if d.join is not None}
