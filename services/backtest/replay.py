"""One partition's log once more, in the recorded order, through the workers' state machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftline.codec import SchemaRegistry
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.registry import Registry
from driftline.settings import KafkaSettings
from services.backtest.findings import UNKNOWN_PREDICTION, Applied, Findings, Heard, Range, Refusals
from services.backtest.log import Entries, Log, order_of, watermarks
from services.backtest.past import Past
from services.backtest.settings import WhatIf
from services.errors import ServicesError
from services.event_time import rfc3339
from streams.baseline import Baseline
from streams.decoding import Decoded, decode_message
from streams.humility.judge import policy_of
from streams.messages import Message
from streams.monitor import Monitors
from streams.outcomes.store import PendingStore
from streams.output import END_PREFIX
from streams.partition import Partition
from streams.specification import DeploymentSpec

Progress = Callable[[int, int | None, int], None]
"""Told how much of how much was read (None: nobody knows yet), and how many rows counted so far."""

TAKE_MESSAGES = 400
"""What the state machine would have committed is thrown away so often, alarms apart; as often as a worker commits."""

CONTROL, CLOCK = "control", "clock"


class BacktestError(ServicesError):
    """A back-test that cannot be made: nothing to apply, or not the means to."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The evidence at which a monitor alarms, nats."""

    model_version: str
    monitor: str
    nats: float


class Replay:
    """One partition of the deployment, from the first message on the topic to the last one that was applied.

    Where the range has an end, the predictions behind it are left out, and outcomes go on to be joined until those of
    the range's predictions cannot come any more: alarms are those that were noticed in the range, its accuracy windows
    are whole.

    Args:
        settings: How to reach Kafka.
        number: The partition.
        past: What was in force.
        what_if: What is put in its place.
        wanted: Which messages count.
        folder: Where predictions wait for their outcomes.

    ``baselines``: those that were in force, by digest.
    """

    def __init__(
        self, settings: KafkaSettings, number: int, past: Past, what_if: WhatIf, wanted: Range, folder: Path
    ) -> None:
        self.number = number
        self.findings = Findings(wanted)
        self.applied, self.outside = Applied(), Applied()
        self.waiting = 0
        self.first_offset = 0
        self.baselines: dict[str, Baseline] = {}
        self.thresholds: list[Threshold] = []
        self._store = PendingStore(folder)
        self._partition = Partition(number, settings.topics, self._store)
        self._heard = Heard()
        self._settings, self._topics, self._past = settings, settings.topics, past
        self._what_if, self._range, self._keys = what_if, wanted, past.keys
        self._recorded: dict[str, Baseline] = {}
        self._other_rules: set[str] = set()
        self._registry: SchemaRegistry | None = Registry.from_settings(settings)
        self._spec: tuple[DeploymentSpec, DeploymentSpec] | None = None
        self._notes: list[str] = []
        self._earliest_us: int | None = None
        self._unread: Message | None = None
        self._began_cold = False
        self._outcomes_gone = False
        self._first_known_us: int | None = None

    def run(self, progress: Progress) -> None:
        """Apply everything.

        Raises:
            ClusterError: Kafka does not answer, or a topic is missing.
            StreamsError: Kafka does not answer, or settings that no stream could follow.
            PendingError: The disk is full.
            BacktestError: The recorded order is of a later version.
        """
        try:
            self._run(progress)
        finally:
            self._store.close()
            del self._partition  # the ids it remembers are many megabytes, and there may be many partitions

    def _run(self, progress: Progress) -> None:
        lows, _ = watermarks(self._settings, self._topics.streams_order, self.number)
        order = order_of(self._settings, self.number)
        first = next(order, None)
        if first is None:
            return
        if lows > 0:
            self._assume(first[0])
        logs = {topic: Log(self._settings, topic, self.number) for topic in self._partition.position}
        total = sum(log.end - log.low for log in logs.values())
        applied = 0
        try:
            for entry in _chained(first[1], order):
                if entry["source"] == CONTROL:
                    self._put_in_force(entry["digest"])
                elif entry["source"] == CLOCK:
                    self._pass_time(entry["first_offset"])
                elif entry["source"] not in logs:
                    raise BacktestError(
                        f"the recorded order of partition {self.number} has an entry of the kind {entry['source']!r}, "
                        "which this version does not know: use the version that the workers have"
                    )
                else:
                    log = logs[entry["source"]]
                    self._note_loss(log, entry["first_offset"])
                    for message in log.run(entry["first_offset"], entry["last_offset"]):
                        self._apply(message)
                        applied += 1
                        if applied % TAKE_MESSAGES == 0:
                            self.findings.take(self._partition)
                            progress(sum(log.passed for log in logs.values()), total, self.applied.rows)
            self.waiting = sum(message.key in self._keys for message in logs[self._topics.predictions].rest())
            self._finish()
            progress(total, total, self.applied.rows)
        finally:
            for log in logs.values():
                log.close()

    def _finish(self) -> None:
        self.findings.take(self._partition)
        specs, baselines = self._partition.in_force()
        for (deployment_id, version), baseline in baselines.items():
            for name, monitor in Monitors(specs[deployment_id], baseline, 0, 0).monitors.items():
                self.thresholds.append(Threshold(version, name, monitor.threshold_nats))
        self._notes += self._unwatched(baselines.values())
        if self._spec is not None:
            spec = self._spec[1]
            waits_us = 0 if spec.outcomes is None else spec.outcomes.final_after_ms * 1000
            self.findings.finish(self._partition, spec, self._heard.known_us, waits_us=waits_us)
        self._look_at_unread()

    def _assume(self, sent_ms: int) -> None:
        """The beginning of the recorded order is gone: begin with what was in force when the rest of it begins."""
        spec, baselines = self._past.at(sent_ms)
        if spec is None:
            return
        self._put_spec(spec)
        for baseline in baselines:
            self._put_baseline(baseline)
        self._began_cold = True

    def _put_in_force(self, digest: str) -> None:
        """What a control entry names, if it is the deployment's; the oldest that is still there if it is gone."""
        if digest.startswith(END_PREFIX):
            self._end(digest.removeprefix(END_PREFIX))
        elif digest in self._past.specs:
            self._put_spec(self._past.specs[digest][0])
        elif digest in self._past.baselines:
            self._put_baseline(self._past.baselines[digest][0])
        elif (subject := self._past.subject_of(digest)) is not None:
            kind, _, name = subject.partition(":")
            self._put_substitute(kind, name.rpartition("@")[2], digest)

    def _end(self, deployment_id: str) -> None:
        """The deployment was retired, to be applied again later or never."""
        if self._spec is not None and deployment_id == self._spec[0].deployment_id:
            self._spec = None
            self._recorded.clear()
            self._partition.end(deployment_id)

    def _put_substitute(self, kind: str, version: str, digest: str) -> None:
        if kind == "deployment":
            spec, _ = next(iter(self._past.specs.values()))
            self._put_spec(spec)
            self._notes.append(
                f"the specification {digest[:12]} that was in force is no longer on its topic: revision "
                f"{spec.revision}, the oldest that is, stands in for it"
            )
            return
        baseline = self._past.oldest_baseline(version)
        gone = f"the baseline {digest[:12]} of version {version} that was in force is no longer on its topic"
        if baseline is None:
            self._notes.append(f"{gone}, and no other is: its rows are not counted")
            return
        self._put_baseline(baseline)
        self._notes.append(f"{gone}: {baseline.digest[:12]}, the oldest that is, stands in for it")

    def _put_spec(self, recorded: DeploymentSpec) -> None:
        spec = self._what_if.spec(recorded)
        if self._spec is not None and self._spec[1] == spec:
            return
        self._spec = recorded, spec
        self._heard.spec(spec)
        self._partition.put_spec_in_force(spec)
        self._compare_rules()

    def _put_baseline(self, recorded: Baseline) -> None:
        if self._spec is None:  # no deployment yet
            return
        self._recorded[recorded.model_version] = recorded
        baseline = self._what_if.reference(recorded, *self._spec)
        known = self._partition.in_force()[1].get((baseline.deployment_id, baseline.model_version))
        if known is None or known.digest != baseline.digest:
            self._partition.put_baseline_in_force(baseline)
            self.baselines[baseline.digest] = baseline
        self._compare_rules()

    def _compare_rules(self) -> None:
        """Find the versions whose publishers decided by other humility rules than those that are tried."""
        if self._spec is None or all(spec.humility is None for spec in self._spec):
            self._other_rules = set()
            return
        recorded, spec = self._spec
        tried = self._partition.in_force()[1]
        self._other_rules = {
            version
            for version, baseline in self._recorded.items()
            if _policy(recorded, baseline) != _policy(spec, tried[spec.deployment_id, version])
        }

    def _pass_time(self, time_ms: int) -> None:
        """Nothing came until then; of what other settings would have waited for, no more is known."""
        self._heard.everything(time_ms)
        if self._range.touches(time_ms * 1000, time_ms * 1000):
            self._partition.pass_time(time_ms)

    def _note_loss(self, log: Log, first_offset: int) -> None:
        """Whether messages of the deployment may be missing: it was there when they were applied."""
        if first_offset >= log.low or self._spec is None:
            return
        if log.topic == self._topics.predictions:
            self._began_cold = True
        else:
            self._outcomes_gone = self._spec[1].outcomes is not None

    def _apply(self, message: Message) -> None:
        """A message; one that is not the deployment's or not in the range only tells the time of the log."""
        decoded = None
        if message.key in self._keys and not self._certainly_earlier(message):
            decoded = decode_message(message, self._topics, self._registry)
            if not self._counts(decoded):
                decoded = None
        if decoded is not None or self._range.touches(message.timestamp_ms * 1000, message.timestamp_ms * 1000):
            self._partition.apply(self._undecided(decoded) or Decoded(message, None))

    def _undecided(self, decoded: Decoded | None) -> Decoded | None:
        """The same without what the publisher decided, where other humility rules are tried: by those it is decided."""
        columns = None if decoded is None else decoded.columns
        if not isinstance(columns, PredictionColumns) or columns.model_version not in self._other_rules:
            return decoded
        assert decoded is not None
        return dataclasses.replace(decoded, columns=dataclasses.replace(columns, humility=None))

    def _certainly_earlier(self, message: Message) -> bool:
        """Whether no event of a message can be in the range: later than the log's time and skew none is counted."""
        if self._range.from_us is None or self._spec is None or self._earliest_us is None:
            return False
        if (message.timestamp_ms + self._spec[1].clock_skew_ms) * 1000 >= self._range.from_us:
            return False
        if message.topic == self._topics.predictions:
            self._unread = message
        return True

    def _counts(self, decoded: Decoded) -> bool:
        columns = decoded.columns
        if columns is None:
            return True
        if columns.deployment_id != self._past.deployment_id:
            return False
        self._heard.hear(columns, decoded.message)
        if isinstance(columns, OutcomeColumns):
            return self._counts_outcomes(columns)
        first_us, last_us = int(columns.timestamps_us.min()), int(columns.timestamps_us.max())
        if self._earliest_us is None:
            self._earliest_us = first_us
        inside = self._range.touches(first_us, last_us)
        if inside and not self.applied.messages:
            self.first_offset = decoded.message.offset
        (self.applied if inside else self.outside).add(columns.rows, first_us, last_us)
        return inside

    def _counts_outcomes(self, columns: OutcomeColumns) -> bool:
        """Whether some of them became known in the range, or may be those of its predictions."""
        first_us, last_us = int(columns.actual_timestamps_us.min()), int(columns.actual_timestamps_us.max())
        if self._first_known_us is None:
            self._first_known_us = first_us
        if self._range.touches(first_us, last_us) or self._range.to_us is None:
            return self._range.touches(first_us, last_us)
        outcomes = None if self._spec is None else self._spec[1].outcomes
        last_event_us = max(self._range.to_us, self.applied.last_us or 0)
        return outcomes is not None and self._range.to_us <= first_us <= last_event_us + outcomes.horizon_ms * 1000

    def _look_at_unread(self) -> None:
        """So that an empty range can be told where the events are."""
        if self._unread is None or self.applied.messages:
            return
        columns = decode_message(self._unread, self._topics, self._registry).columns
        if isinstance(columns, PredictionColumns):
            self.outside.add(columns.rows, int(columns.timestamps_us.min()), int(columns.timestamps_us.max()))

    def _unwatched(self, baselines: Iterable[Baseline]) -> Iterator[str]:
        streams = {stream.name for baseline in baselines for stream in baseline.streams}
        features = () if self._spec is None else self._spec[1].features
        missing = [f.name for f in features if not _is_watched(f.name, streams)]
        if missing:
            yield f"not watched, because no baseline has them: {', '.join(missing)}"

    def notes(self) -> Iterator[str]:
        """What sets the result apart from what a worker would have found."""
        first_us = self.applied.first_us
        if first_us is not None and self._began_cold:
            yield (
                f"messages before {rfc3339(first_us)} are no longer on the topic: the detectors start empty there, so "
                "alarms soon after it may be missing or late"
            )
        elif first_us is not None and self._is_cut:
            yield (
                f"the detectors start empty at {rfc3339(first_us)}, so alarms soon after it may be missing or late; "
                f"without --from it begins at the first message, {rfc3339(self._earliest_us or 0)}, and is exact"
            )
        if self._outcomes_gone:
            since = "any" if self._first_known_us is None else f"those that became known before {self._first_text()}"
            yield (
                f"outcomes are no longer on the topic, {since}: accuracy windows before it lack some that were "
                "published, and the monitor labels may take them for outcomes that never came"
            )
        unknown = self.findings.refused.get(UNKNOWN_PREDICTION)
        if unknown is not None and (self._began_cold or self._is_cut):
            yield f"{unknown.parts:,} messages have outcomes of predictions before that, which are left out"
        if self.waiting:
            yield f"{self.waiting:,} messages with predictions are not applied yet, and left out: is a worker running?"
        yield from self._notes

    def _first_text(self) -> str:
        return rfc3339(self._first_known_us or 0)

    @property
    def _is_cut(self) -> bool:
        """Whether there are earlier messages than the range has."""
        first_us = self.applied.first_us
        return first_us is not None and self._earliest_us is not None and self._earliest_us < first_us

    @property
    def refused(self) -> Mapping[str, Refusals]:
        """What was refused, by reason; but for outcomes whose prediction was cut off."""
        expected = {UNKNOWN_PREDICTION} if self._began_cold or self._is_cut else set[str]()
        return {reason: found for reason, found in self.findings.refused.items() if reason not in expected}


def _is_watched(feature: str, streams: Iterable[str]) -> bool:
    return any(stream == feature or stream.startswith(f"{feature}.") for stream in streams)


def _policy(spec: DeploymentSpec, baseline: Baseline) -> str:
    """The digest of the humility rules; empty for none."""
    policy = policy_of(spec, baseline)
    return "" if policy is None else policy.digest


def _chained(first: Entries, rest: Iterator[tuple[int, Entries]]) -> Iterator[Mapping[str, Any]]:
    yield from first
    for _, entries in rest:
        yield from entries
