"""What a partition knows of a deployment and its versions, and how it stands in the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams import state as state_records
from streams.baseline import FEATURE, RULE_PART, Baseline
from streams.counting import RowCounter
from streams.followers import Followers
from streams.humility.state import VersionHumility
from streams.humility.windows import HumilityTally
from streams.limits import Limits
from streams.monitor import Monitors
from streams.outcomes.evidence import OutcomeCounter
from streams.outcomes.join import Join
from streams.outcomes.windows import PerformanceWindow
from streams.specification import DeploymentSpec
from streams.statistics.layouts import NUMERIC
from streams.statistics.performance.pairs import Pairs
from streams.windows import Window

NO_SLOT = -1

LIVE_MS = 86_400_000
"""A deployment whose rows come this late at most is live: its silence counts. One that is being fed history is not."""

MOST_COMPARABLE = 16
"""So many earlier fits of a version's humility rules are remembered, while predictions wait for their outcomes."""

COUNTERS = ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows")


@dataclass(frozen=True, slots=True)
class NumericFeatures:
    """The features that a baseline counts as numbers, from an offset on; kept for the same reason as limits."""

    offset: int
    names: tuple[str, ...]


@dataclass(eq=False)
class Version:
    """A deployment version on this partition.

    Attributes:
        baseline: The baseline in force.
        monitors: Its detectors.
        counter: Counts its rows.
        followers: Detectors from the literature that were asked for.
        first_offset: From which offset on its rows count.
        numeric: What its baselines counted as numbers, oldest first.
        slot: Its latest start slot.
        lone_rows: Rows since alarms were last looked for.
        last_step_us: The clock then.
        windows: Open windows by start.
        humility: What is known of its humility rules; None where there never were any.
        comparable: Digests of earlier baselines that differ from this one in nothing but what the rules were fitted to:
            what was predicted under them is evidence all the same.
    """

    baseline: Baseline
    monitors: Monitors
    counter: RowCounter
    followers: Followers
    first_offset: int
    numeric: list[NumericFeatures]
    slot: int = NO_SLOT
    lone_rows: int = 0
    last_step_us: int = 0
    windows: dict[int, Window] = field(default_factory=dict)
    humility: VersionHumility | None = None
    comparable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._pairs: tuple[DeploymentSpec, OutcomeCounter] | None = None

    def is_comparable(self, baseline_digest: str) -> bool:
        """Whether what was predicted under a baseline is evidence under the one in force."""
        return baseline_digest == self.baseline.digest or baseline_digest in self.comparable

    def go_on_from(self, earlier: Version) -> None:
        """Go on in the start slot of the same version under an earlier fit of its humility rules."""
        self.slot, self.lone_rows, self.last_step_us = earlier.slot, earlier.lone_rows, earlier.last_step_us
        self.comparable = (*earlier.comparable, earlier.baseline.digest)[-MOST_COMPARABLE:]

    def count_pairs(self, spec: DeploymentSpec, pairs: Pairs) -> None:
        """Let the detectors see predictions whose first outcome came, in order of arrival."""
        if self._pairs is None or self._pairs[0] is not spec:
            self._pairs = spec, OutcomeCounter(spec, self.baseline)
        self.monitors.count_blocks(self._pairs[1].count(pairs))


@dataclass(eq=False)
class Deployment:
    """A deployment on this partition.

    Attributes:
        spec: The specification in force.
        clock_us: The largest event time seen; None before the first.
        latest_version: The version that answered last.
        seen_ms: The log's time of its latest rows.
        delay_ms: How late rows have been of late: the largest difference between the log's time and theirs, which is
            forgotten by a sixty-fourth with every message.
        slot_versions: Versions in order of their starts in the current start slot; each costs half of the one before.
        slot: The current start slot.
        counters: rows, late_rows, duplicate_rows, rejected_rows, outcome_rows.
        limits: What specifications asked of messages, oldest first.
        join: Its predictions that wait for their outcomes; None where none are expected.
    """

    spec: DeploymentSpec
    clock_us: int | None = None
    slot: int = NO_SLOT
    latest_version: str = ""
    seen_ms: int = 0
    delay_ms: int = 0
    slot_versions: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    limits: list[Limits] = field(default_factory=list)
    versions: dict[str, Version] = field(default_factory=dict)
    join: Join | None = None

    @property
    def live(self) -> bool:
        """Whether its rows come as they happen, and it is not being fed history."""
        return self.delay_ms <= LIVE_MS

    def see(self, log_ms: int, earliest_ms: int) -> None:
        """Take note of when rows came, the earliest of which is of ``earliest_ms`` (milliseconds since 1970 UTC)."""
        self.seen_ms = log_ms
        self.delay_ms = max(log_ms - earliest_ms, self.delay_ms - (self.delay_ms >> 6), 0)

    def silent_interval(self, time_ms: int) -> int | None:
        """The interval that a live deployment's rows would be in by now, if it has got none since an earlier one.

        Event time is taken to go on as the log's does. Rows may be as late as they have been of late, for publishers
        may collect them for an hour, and as the specification allows on top.
        """
        version = self.versions.get(self.latest_version)
        if version is None or version.monitors.rate is None or self.clock_us is None or not self.live:
            return None
        waiting_ms = time_ms - self.seen_ms - self.spec.lateness_ms - self.delay_ms
        interval = (self.clock_us + waiting_ms * 1000) // version.monitors.rate.interval_us
        return interval if interval > version.monitors.rate.interval >= 0 else None

    def clock_by_slot(self, times_us: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """The clock at each of the next rows that count, by start slot."""
        clock = np.maximum(np.maximum.accumulate(times_us), self.clock_us or 0)
        slot_us = self.spec.start_slot_ms * 1000
        first, last = int(clock[0]) // slot_us, int(clock[-1]) // slot_us
        if first == last:
            return {first: clock}
        slots, starts = np.unique(clock // slot_us, return_index=True)
        return dict(zip(slots.tolist(), np.split(clock, starts[1:]), strict=True))


def numeric_features(baseline: Baseline, offset: int) -> NumericFeatures:
    """The numeric features of a baseline that comes into force before ``offset``."""
    derived = {column for d in baseline.derived for column in d.columns}
    names = {
        stream.name
        for stream in baseline.streams
        if stream.role == FEATURE and stream.layout is NUMERIC and stream.name not in derived
    }
    names |= {segment.column for segment in baseline.segments if segment.values == (RULE_PART,)}
    return NumericFeatures(offset, tuple(sorted(names)))


def at_offset(history: Sequence[Any], offset: int) -> Any:
    """The entry that was in force at an offset; the oldest one if that is earlier than all."""
    return next((entry for entry in reversed(history) if entry.offset <= offset), history[0])


def extended(history: Sequence[Any], entry: Any, forget_before: int) -> list[Any]:
    """A history with a new entry, without those that ended before ``forget_before``."""
    if history and replace(history[-1], offset=entry.offset) == entry:
        return list(history)
    entries = [*history, entry]
    return [e for e, after in pairwise(entries) if after.offset > forget_before] + [entry]


def deployment_fields(deployment: Deployment) -> dict[str, Any]:
    """The record of a deployment."""
    limits = [astuple(entry) for entry in deployment.limits]
    return {
        "clock_us": deployment.clock_us,
        "slot": deployment.slot,
        "latest_version": deployment.latest_version,
        "seen_ms": deployment.seen_ms,
        "delay_ms": deployment.delay_ms,
        "slot_versions": "\n".join(deployment.slot_versions),
        "limits": state_records.pack(np.array(limits, dtype=np.int64).reshape(-1, 5)),
        **deployment.counters,
    }


def restore_deployment(deployment: Deployment, fields: Mapping[str, Any]) -> None:
    """Take a deployment as it was written."""
    deployment.clock_us = fields["clock_us"]
    deployment.slot = fields["slot"]
    deployment.latest_version = fields["latest_version"]
    deployment.seen_ms, deployment.delay_ms = fields["seen_ms"], fields["delay_ms"]
    deployment.slot_versions = fields["slot_versions"].split("\n") if fields["slot_versions"] else []
    deployment.counters = {name: fields[name] for name in COUNTERS}
    deployment.limits = [Limits(*row) for row in state_records.unpack(fields["limits"]).tolist()]


def baseline_fields(version: Version) -> dict[str, Any]:
    """The record of a version's baseline, and of which offsets it applies to."""
    return {
        **state_records.baseline_fields(version.baseline),
        "first_offset": version.first_offset,
        "numeric": json.dumps([[entry.offset, entry.names] for entry in version.numeric], separators=(",", ":")),
        "comparable": "\n".join(version.comparable),
    }


def slot_fields(version: Version) -> dict[str, Any]:
    """The record of what changes with every message of a version."""
    return {
        **state_records.slot_fields(version.monitors),
        "slot": version.slot,
        "lone_rows": version.lone_rows,
        "last_step_us": version.last_step_us,
    }


def restore_version(
    spec: DeploymentSpec,
    fields: Mapping[str, Any],
    evidence: Mapping[str, Any],
    slot: Mapping[str, Any],
    followers: Followers,
) -> Version:
    """A version as it was written."""
    baseline = state_records.restore_baseline(fields)
    return Version(
        baseline,
        state_records.restore_monitors(spec, baseline, evidence, slot),
        RowCounter(baseline),
        followers,
        fields["first_offset"],
        [NumericFeatures(offset, tuple(names)) for offset, names in json.loads(fields["numeric"])],
        slot["slot"],
        slot["lone_rows"],
        slot["last_step_us"],
        comparable=tuple(fields.get("comparable", "").split()),
    )


def key_of(kind: str, *names: object) -> bytes:
    """The key of a journal record."""
    return f"{kind}/{'@'.join(map(str, names))}".encode()


def fields_of(key: bytes, dirty: Any) -> dict[str, Any] | None:
    """The record of whatever changed under a key; None where it is gone."""
    if isinstance(dirty, Followers):
        return {"state": dirty.to_bytes()}
    if isinstance(dirty, Window):
        return state_records.window_fields(dirty)
    if isinstance(dirty, VersionHumility):
        return dirty.policies_fields() if key.startswith(b"policies/") else dirty.facts_fields()
    if isinstance(dirty, (Join, PerformanceWindow, HumilityTally)):
        return dirty.to_fields()
    if isinstance(dirty, Deployment):
        return deployment_fields(dirty)
    if isinstance(dirty, Version):
        if key.startswith(b"evidence/"):
            return state_records.evidence_fields(dirty.monitors)
        return slot_fields(dirty)
    fields: dict[str, Any] | None = dirty
    return fields
