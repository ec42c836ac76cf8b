"""One partition's state machine: messages in, emissions and state records out.

Everything here is a function of the log and the recorded order: no clock, no randomness, no I/O. The worker feeds it
and commits what it says (see :mod:`streams.journal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.codec import SchemaRegistry, decode
from driftline.errors import CodecError, EventError
from driftline.events import (
    OutcomeColumns,
    PredictionColumns,
    outcome_from_event,
    prediction_from_event,
)
from driftline.topics import Topics, record_key
from streams import state as state_records
from streams.alerts import alert_fired, alert_resolved, dead_letter, window_summary
from streams.baseline import Baseline
from streams.counting import Watched, count_watched, watched_columns
from streams.identities import Identities
from streams.messages import Emission, Message
from streams.monitor import Monitors
from streams.specification import DeploymentSpec
from streams.statistics.budget import start_mass_log
from streams.windows import Group, Window, closed, group_rows

LONE_ROWS_STEP = 64
"""Alarms are looked for at every message of at least this many rows, and every so many lone rows …"""

LONE_STEP_US = 1_000_000
"""… or after this much event time, whichever comes first."""

_NO_SLOT = -1

COUNTERS = ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows")


@dataclass(eq=False)
class Version:
    """A deployment version on this partition. ``first_offset``: from which offset on its rows count."""

    baseline: Baseline
    monitors: Monitors
    first_offset: int
    slot: int = _NO_SLOT
    windows: dict[int, Window] = field(default_factory=dict)


@dataclass(eq=False)
class Deployment:
    """A deployment on this partition.

    Attributes:
        spec: The specification in force.
        clock_us: The largest event time seen; None before the first.
        slot_versions: Versions in order of their first event in the current start slot.
        slot: The current start slot.
        counters: rows, late_rows, duplicate_rows, rejected_rows, outcome_rows.
        time_limits: Offset from which on, earliest event time and clock skew in force: for replaying identities.
    """

    spec: DeploymentSpec
    clock_us: int | None = None
    slot: int = _NO_SLOT
    slot_versions: list[str] = field(default_factory=list)
    lone_rows: int = 0
    last_step_us: int = 0
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    time_limits: list[tuple[int, int, int]] = field(default_factory=list)
    versions: dict[str, Version] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A message and what it says; or why it says nothing (reason, error)."""

    message: Message
    columns: PredictionColumns | OutcomeColumns | None
    refusal: tuple[str, str] | None = None


def decode_message(message: Message, topics: Topics, registry: SchemaRegistry | None = None) -> Decoded:
    """Decode and check a message of the predictions or outcomes topic; never raises for what the bytes say."""
    is_prediction = message.topic == topics.predictions
    try:
        lone = "PredictionEvent" if is_prediction else "OutcomeEvent"
        name, record = decode(message.value, json_record=lone, registry=registry)
        columns: PredictionColumns | OutcomeColumns
        if is_prediction and name == "PredictionBatch":
            columns = PredictionColumns.from_record(record)
        elif is_prediction and name == "PredictionEvent":
            columns = prediction_from_event(record)
        elif not is_prediction and name == "OutcomeBatch":
            columns = OutcomeColumns.from_record(record)
        elif not is_prediction and name == "OutcomeEvent":
            columns = outcome_from_event(record)
        else:
            raise EventError(f"{name} does not belong on the topic {message.topic}")
    except (CodecError, EventError) as error:
        return Decoded(message, None, (error.reason, str(error)))
    return Decoded(message, columns)


class Partition:
    """The state machine of one partition.

    Args:
        number: The partition.
        topics: Topic names.
    """

    def __init__(self, number: int, topics: Topics) -> None:
        self.number = number
        self._topics = topics
        self._deployments: dict[str, Deployment] = {}
        self._identities = Identities()
        self._emissions: list[Emission] = []
        self._order: list[dict[str, Any]] = []
        self._dirty: dict[bytes, Any] = {}
        self.position = {topics.predictions: 0, topics.outcomes: 0}
        self.messages = 0
        self.dead_letters = 0
        self._log_time_ms = 0

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
        """A specification comes into force between two messages; the order remembers it."""
        deployment = self._deployments.get(spec.deployment_id)
        offset = self.position[self._topics.predictions]
        if deployment is None:
            deployment = self._deployments[spec.deployment_id] = Deployment(spec)
        else:
            self._close_windows(deployment, everything=deployment.spec.window_ms != spec.window_ms)
            new_slots = deployment.spec.start_slot_ms != spec.start_slot_ms
            deployment.spec = spec
            if new_slots:  # slots are numbered by their length
                deployment.slot, deployment.slot_versions = _NO_SLOT, []
            for name, version in deployment.versions.items():
                version.slot = _NO_SLOT if new_slots else version.slot
                version.monitors.put_in_force(spec)
                self._touch_version(spec.deployment_id, name, evidence=True)
        limits = (offset, spec.earliest_event_time_us, spec.clock_skew_ms)
        if not deployment.time_limits or deployment.time_limits[-1][1:] != limits[1:]:
            deployment.time_limits.append(limits)
        self._dirty[_key("spec", spec.deployment_id)] = state_records.spec_fields(spec)
        self._touch_deployment(spec.deployment_id)
        self._order_control(spec.digest())

    def put_baseline_in_force(self, baseline: Baseline) -> None:
        """A baseline comes into force; what was counted against an earlier one is closed."""
        deployment = self._deployments[baseline.deployment_id]
        known = deployment.versions.get(baseline.model_version)
        if known is not None:
            self._close_windows(deployment, everything=True, only=baseline.model_version)
            self._close_alarms(deployment, known)
        offset = self.position[self._topics.predictions]
        version = Version(
            baseline,
            Monitors(deployment.spec, baseline, deployment.clock_us or 0, offset),
            known.first_offset if known is not None else offset,
        )
        deployment.versions[baseline.model_version] = version
        if baseline.model_version in deployment.slot_versions:
            deployment.slot_versions.remove(baseline.model_version)
        key = _key("baseline", baseline.deployment_id, baseline.model_version)
        self._dirty[key] = state_records.baseline_fields(baseline, version.first_offset)
        self._touch_version(baseline.deployment_id, baseline.model_version, evidence=True)
        self._touch_deployment(baseline.deployment_id)
        self._order_control(baseline.digest)

    def apply(self, decoded: Decoded) -> None:
        """Apply the next message of a source topic. Its offset must not lie below the position."""
        message = decoded.message
        self._order_message(message)
        self.position[message.topic] = message.offset + 1
        self.messages += 1
        self._log_time_ms = message.timestamp_ms
        if decoded.refusal is not None:
            self._refuse(message, *decoded.refusal)
        elif isinstance(decoded.columns, PredictionColumns):
            self._apply_predictions(decoded.columns, message)
        elif isinstance(decoded.columns, OutcomeColumns):
            self._apply_outcomes(decoded.columns, message)

    def _apply_outcomes(self, columns: OutcomeColumns, message: Message) -> None:
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            self._refuse_unknown(columns.deployment_id, message)
        elif not _key_fits(columns.deployment_id, deployment.spec.shards, message.key):
            self._refuse_key(columns.deployment_id, deployment.spec.shards, message)
        else:
            deployment.counters["outcome_rows"] += columns.rows
            self._touch_deployment(columns.deployment_id)

    def _apply_predictions(self, columns: PredictionColumns, message: Message) -> None:
        deployment = self._deployments.get(columns.deployment_id)
        if deployment is None:
            self._refuse_unknown(columns.deployment_id, message)
            return
        if not _key_fits(columns.deployment_id, deployment.spec.shards, message.key):
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
        spec = deployment.spec
        on_time = _within_limits(
            columns.timestamps_us, message.timestamp_ms, spec.earliest_event_time_us, spec.clock_skew_ms
        )
        try:
            watched = watched_columns(version.monitors.blocks, columns)
        except EventError as error:
            self._refuse(message, error.reason, str(error))
            return
        counted = self._count_rows(deployment, columns, message, on_time)
        self._apply_rows(deployment, version, columns, watched, message, counted)
        self._touch_deployment(columns.deployment_id)

    def _count_rows(
        self, deployment: Deployment, columns: PredictionColumns, message: Message, on_time: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_] | None:
        """Which rows count: on time and not seen before; None for all of them."""
        counters = deployment.counters
        ids = columns.prediction_ids
        if on_time is not None:
            bad = np.flatnonzero(~on_time).tolist()
            counters["rejected_rows"] += len(bad)
            self.dead_letters += 1
            self._emissions.append(dead_letter(message, "event_time", _time_error(columns, message, bad), bad))
            ids = [ids[row] for row in np.flatnonzero(on_time).tolist()]
        new = self._identities.unseen(columns.deployment_id, ids, message.offset)
        counters["rows"] += len(ids)
        if new is None:
            return on_time
        counters["duplicate_rows"] += int((~new).sum())
        counters["rows"] -= int((~new).sum())
        if on_time is None:
            return new
        counted = on_time.copy()
        counted[on_time] = new
        return counted

    def _apply_rows(
        self,
        deployment: Deployment,
        version: Version,
        columns: PredictionColumns,
        watched: Sequence[Watched],
        message: Message,
        counted: NDArray[np.bool_] | None,
    ) -> None:
        spec, monitors = deployment.spec, version.monitors
        grouping = group_rows(columns.timestamps_us, counted, deployment.clock_us, spec)
        if not grouping.groups:
            return
        counts = count_watched(monitors.blocks, watched, grouping.index, len(grouping.groups))
        started = False
        for g, group in enumerate(grouping.groups):
            started |= self._start_slot(deployment, version, columns.model_version, group, message)
            group_counts = [block_counts[g] for block_counts in counts]
            monitors.count(group_counts)
            self._count_window(deployment, version, columns.model_version, group, group_counts)
        deployment.clock_us = grouping.clock_us
        step = self._step_due(deployment, columns.rows, grouping.clock_us)
        changed = started
        if step:
            changed |= self._look_for_alarms(deployment, version, columns, message)
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
    ) -> None:
        if group.window_start_us is None:
            deployment.counters["late_rows"] += group.rows
            return
        window = version.windows.get(group.window_start_us)
        if window is None:
            window = version.windows[group.window_start_us] = Window([np.zeros_like(c) for c in counts])
        window.add(counts, group.rows)
        key = _key("window", deployment.spec.deployment_id, model_version, group.window_start_us)
        self._dirty[key] = window

    def _step_due(self, deployment: Deployment, rows: int, clock_us: int) -> bool:
        deployment.lone_rows += rows
        if deployment.lone_rows < LONE_ROWS_STEP and clock_us < deployment.last_step_us + LONE_STEP_US:
            return False
        deployment.lone_rows, deployment.last_step_us = 0, clock_us
        return True

    def _look_for_alarms(
        self, deployment: Deployment, version: Version, columns: PredictionColumns, message: Message
    ) -> bool:
        spec, monitors = deployment.spec, version.monitors
        now_us = deployment.clock_us or 0
        alarms = monitors.alarms(now_us)
        for alarm in alarms:
            self._emissions += alert_fired(spec, monitors, alarm, message, columns.model_id)
        resolutions = monitors.resolutions()
        for monitor, episode in resolutions:
            self._emissions += alert_resolved(spec, monitors, monitor, episode, message, now_us, columns.model_id)
        return bool(alarms or resolutions)

    def _revise_windows(self, deployment: Deployment, version: Version, model_version: str) -> None:
        for start_us, window in version.windows.items():
            if window.due():
                window.revision += 1
                self._emit_window(deployment, version, start_us, window, final=False)
                self._dirty[_key("window", deployment.spec.deployment_id, model_version, start_us)] = window

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
                self._dirty[_key("window", spec.deployment_id, name, start_us)] = None

    def _close_alarms(self, deployment: Deployment, version: Version) -> None:
        """Resolve every open alarm of a version whose baseline is being replaced."""
        offset = self.position[self._topics.predictions] - 1
        message = Message(self._topics.predictions, self.number, offset, self._log_time_ms, None, None)
        for monitor, episode in version.monitors.give_up():
            self._emissions += alert_resolved(
                deployment.spec,
                version.monitors,
                monitor,
                episode,
                message,
                deployment.clock_us or 0,
                None,
                "a new baseline came into force",
            )

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
        self._dirty[_key("deployment", deployment_id)] = self._deployments[deployment_id]

    def _touch_version(self, deployment_id: str, model_version: str, *, evidence: bool) -> None:
        version = self._deployments[deployment_id].versions[model_version]
        self._dirty[_key("slot", deployment_id, model_version)] = version
        if evidence:
            self._dirty[_key("evidence", deployment_id, model_version)] = version

    def take(self) -> tuple[dict[bytes, dict[str, Any] | None], list[Emission], list[dict[str, Any]]]:
        """What to commit: state records that changed (None to delete), emissions, order. Forgets all three."""
        records: dict[bytes, dict[str, Any] | None] = {key: _fields(key, dirty) for key, dirty in self._dirty.items()}
        emissions, order = self._emissions, self._order
        if order:
            records[b"position"] = self._position_fields()
        self._dirty, self._emissions, self._order = {}, [], []
        return records, emissions, order

    def _position_fields(self) -> dict[str, Any]:
        return {
            "predictions": self.position[self._topics.predictions],
            "outcomes": self.position[self._topics.outcomes],
            "older_ids_offset": self._identities.older_offset,
            "younger_ids_offset": self._identities.younger_offset,
            "messages": self.messages,
            "dead_letters": self.dead_letters,
            "log_time_ms": self._log_time_ms,
        }

    def restore(self, records: Mapping[bytes, Mapping[str, Any]]) -> range:
        """Take the state from journal records.

        Returns:
            Offsets of the predictions topic whose messages must be given to :meth:`remember`, in order.
        """
        by_kind: dict[str, list[tuple[list[str], dict[str, Any]]]] = {}
        for key, fields in records.items():
            kind, *names = key.decode().split("/", 1)
            by_kind.setdefault(kind, []).append((names, dict(fields)))
        for (name,), fields in by_kind.get("spec", ()):
            self._deployments[name] = Deployment(state_records.restore_spec(fields))
        for (name,), fields in by_kind.get("deployment", ()):
            _restore_deployment(self._deployments[name], fields)
        slots = {name: fields for (name,), fields in by_kind.get("slot", ())}
        evidence = {name: fields for (name,), fields in by_kind.get("evidence", ())}
        for (name,), fields in by_kind.get("baseline", ()):
            baseline = state_records.restore_baseline(fields)
            deployment = self._deployments[baseline.deployment_id]
            monitors = state_records.restore_monitors(deployment.spec, baseline, evidence[name], slots[name])
            deployment.versions[baseline.model_version] = Version(
                baseline, monitors, fields["first_offset"], slots[name]["slot"]
            )
        for (name,), fields in by_kind.get("window", ()):
            owner, start_us = name.rsplit("@", 1)
            deployment_id, model_version = owner.split("@", 1)
            version = self._deployments[deployment_id].versions[model_version]
            version.windows[int(start_us)] = state_records.restore_window(fields)
        position = records.get(b"position")
        if position is None:
            return range(0)
        self.position = {
            self._topics.predictions: position["predictions"],
            self._topics.outcomes: position["outcomes"],
        }
        self.messages, self.dead_letters = position["messages"], position["dead_letters"]
        self._log_time_ms = position["log_time_ms"]
        self._identities.restore(position["older_ids_offset"], position["younger_ids_offset"])
        return range(position["older_ids_offset"], position["predictions"])

    def remember(self, messages: Iterable[Message]) -> None:
        """Remember the prediction ids of messages that were applied before; see :mod:`streams.identities`."""
        for message in messages:
            columns = decode_message(message, self._topics).columns
            if not isinstance(columns, PredictionColumns):
                continue
            deployment = self._deployments.get(columns.deployment_id)
            version = None if deployment is None else deployment.versions.get(columns.model_version)
            if deployment is None or version is None or message.offset < version.first_offset:
                continue
            if not _key_fits(columns.deployment_id, deployment.spec.shards, message.key):
                continue
            try:
                watched_columns(version.monitors.blocks, columns)
            except EventError:
                continue
            _, earliest_us, skew_ms = next(
                limits for limits in reversed(deployment.time_limits) if limits[0] <= message.offset
            )
            on_time = _within_limits(columns.timestamps_us, message.timestamp_ms, earliest_us, skew_ms)
            ids = columns.prediction_ids
            if on_time is not None:
                ids = [ids[row] for row in np.flatnonzero(on_time).tolist()]
            self._identities.replay(columns.deployment_id, ids, message.offset)


def _key(kind: str, *names: object) -> bytes:
    return f"{kind}/{'@'.join(map(str, names))}".encode()


def _key_fits(deployment_id: str, shards: int, key: bytes | None) -> bool:
    """Whether the key is the deployment's: an outcome must find its prediction, and each shard pays for its starts."""
    if shards == 1:
        return key == record_key(deployment_id)
    return any(key == record_key(deployment_id, shard) for shard in range(shards))


def _within_limits(
    times_us: NDArray[np.int64], log_time_ms: int, earliest_us: int, skew_ms: int
) -> NDArray[np.bool_] | None:
    """Rows whose event time can be believed; None if all can."""
    latest_us = (log_time_ms + skew_ms) * 1000
    if times_us.min() >= earliest_us and times_us.max() <= latest_us:
        return None
    return np.asarray((times_us >= earliest_us) & (times_us <= latest_us))


def _time_error(columns: PredictionColumns, message: Message, bad: list[int]) -> str:
    first = int(columns.timestamps_us[bad[0]])
    when = np.datetime64(first, "us")
    return (
        f"{len(bad)} of {columns.rows} rows: event times must lie between the specification's earliest_event_time and "
        f"the log's time {np.datetime64(message.timestamp_ms, 'ms')} plus clock_skew; row {bad[0]} says {when} "
        f"({first} microseconds since 1970: is the unit right?)"
    )


def _fields(key: bytes, dirty: Any) -> dict[str, Any] | None:
    if isinstance(dirty, Window):
        return state_records.window_fields(dirty)
    if isinstance(dirty, Deployment):
        return _deployment_fields(dirty)
    if isinstance(dirty, Version):
        if key.startswith(b"evidence/"):
            return state_records.evidence_fields(dirty.monitors)
        return state_records.slot_fields(dirty.monitors, dirty.slot)
    fields: dict[str, Any] | None = dirty
    return fields


def _deployment_fields(deployment: Deployment) -> dict[str, Any]:
    return {
        "clock_us": deployment.clock_us,
        "slot": deployment.slot,
        "slot_versions": "\n".join(deployment.slot_versions),
        "lone_rows": deployment.lone_rows,
        "last_step_us": deployment.last_step_us,
        "time_limits": state_records.pack(np.array(deployment.time_limits, dtype=np.int64).reshape(-1, 3)),
        **deployment.counters,
    }


def _restore_deployment(deployment: Deployment, fields: Mapping[str, Any]) -> None:
    deployment.clock_us = fields["clock_us"]
    deployment.slot = fields["slot"]
    deployment.slot_versions = fields["slot_versions"].split("\n") if fields["slot_versions"] else []
    deployment.lone_rows, deployment.last_step_us = fields["lone_rows"], fields["last_step_us"]
    deployment.counters = {name: fields[name] for name in COUNTERS}
    deployment.time_limits = [(int(a), int(b), int(c)) for a, b, c in state_records.unpack(fields["time_limits"])]
