"""One partition's log once more, in the recorded order, through the workers' state machine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from driftline.codec import Record, SchemaRegistry, decode
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.registry import Registry
from driftline.settings import KafkaSettings
from services.backtest.past import Past
from services.backtest.settings import WhatIf
from services.errors import ServicesError
from services.event_time import rfc3339
from services.kafka import REACH_SECONDS, ClusterError, broker_time_ms, consumer, read_to_end
from streams.baseline import Baseline
from streams.clients import offset_range
from streams.decoding import Decoded, decode_message
from streams.messages import Message
from streams.monitor import Monitors
from streams.partition import END_PREFIX, Partition
from streams.specification import DeploymentSpec

Progress = Callable[[int, int, int], None]
"""Told how many messages of how many were read, and how many rows counted so far."""

TAKE_MESSAGES = 400
"""What the state machine would have committed is thrown away so often, alarms apart; as often as a worker commits."""

CONTROL, CLOCK = "control", "clock"


class BacktestError(ServicesError):
    """A back-test that cannot be made: nothing to apply, or not the means to."""


@dataclass(frozen=True, slots=True)
class Range:
    """Event times from (inclusive) and to (exclusive), microseconds since 1970 UTC; None for no end."""

    from_us: int | None = None
    to_us: int | None = None

    def touches(self, first_us: int, last_us: int) -> bool:
        """Whether events from first to last, both inclusive, have one in the range."""
        return (self.from_us is None or last_us >= self.from_us) and (self.to_us is None or first_us < self.to_us)

    def __str__(self) -> str:
        ends = [("from", self.from_us), ("before", self.to_us)]
        return " ".join(f"{word} {rfc3339(us)}" for word, us in ends if us is not None)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The evidence at which a monitor alarms, nats."""

    model_version: str
    monitor: str
    nats: float


@dataclass
class Applied:
    """What a replay has applied, and what it has passed over."""

    messages: int = 0
    rows: int = 0
    first_us: int | None = None
    last_us: int | None = None

    def add(self, rows: int, first_us: int, last_us: int) -> None:
        """Count a message."""
        self.messages += 1
        self.rows += rows
        self.first_us = first_us if self.first_us is None else min(self.first_us, first_us)
        self.last_us = last_us if self.last_us is None else max(self.last_us, last_us)

    @property
    def bounds(self) -> list[int]:
        """First and last event time; empty where nothing was counted."""
        return [us for us in (self.first_us, self.last_us) if us is not None]


class Replay:
    """One partition of the deployment, from the first message on the topic to the last one that was applied.

    Args:
        settings: How to reach Kafka.
        number: The partition.
        past: What was in force.
        what_if: What is put in its place.
        wanted: Which messages count.
    """

    def __init__(self, settings: KafkaSettings, number: int, past: Past, what_if: WhatIf, wanted: Range) -> None:
        self.number = number
        self.partition = Partition(number, settings.topics)
        self.alerts: list[Record] = []
        self.applied, self.outside = Applied(), Applied()
        self.waiting = 0
        self.first_offset = 0
        self._settings, self._topics, self._past = settings, settings.topics, past
        self._what_if, self._range, self._keys = what_if, wanted, past.keys
        self._registry: SchemaRegistry | None = Registry.from_settings(settings)
        self._spec: tuple[DeploymentSpec, DeploymentSpec] | None = None
        self._notes: list[str] = []
        self._earliest_us: int | None = None
        self._unread: Message | None = None
        self._began_cold = False

    def run(self, progress: Progress) -> None:
        """Apply everything.

        Raises:
            ClusterError: Kafka does not answer, or a topic is missing.
            StreamsError: Kafka does not answer, or settings that no stream could follow.
            BacktestError: The recorded order is of a later version.
        """
        lows, _ = _watermarks(self._settings, self._topics.streams_order, self.number)
        order = order_of(self._settings, self.number)
        first = next(order, None)
        if first is None:
            return
        if lows > 0:
            self._assume(first[0])
        logs = {topic: _Log(self._settings, topic, self.number) for topic in self.partition.position}
        total = sum(log.end - log.low for log in logs.values())
        done = 0
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
                        done += 1
                        if done % TAKE_MESSAGES == 0:
                            self._take()
                            progress(done, total, self.applied.rows)
            self._take()
            self.waiting = sum(message.key in self._keys for message in logs[self._topics.predictions].rest())
            self._look_at_unread()
        finally:
            for log in logs.values():
                log.close()

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
            self.partition.end(deployment_id)

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
        self.partition.put_spec_in_force(spec)

    def _put_baseline(self, recorded: Baseline) -> None:
        if self._spec is None:  # no deployment yet
            return
        baseline = self._what_if.reference(recorded, *self._spec)
        known = self.partition.in_force()[1].get((baseline.deployment_id, baseline.model_version))
        if known is None or known.digest != baseline.digest:
            self.partition.put_baseline_in_force(baseline)

    def _pass_time(self, time_ms: int) -> None:
        """Nothing came until then; of what other settings would have waited for, no more is known."""
        if self._range.touches(time_ms * 1000, time_ms * 1000):
            self.partition.pass_time(time_ms)

    def _note_loss(self, log: _Log, first_offset: int) -> None:
        """Whether messages of the deployment may be missing: it was there when they were applied."""
        if log.topic == self._topics.predictions and first_offset < log.low and self._spec is not None:
            self._began_cold = True

    def _apply(self, message: Message) -> None:
        """A message; one that is not the deployment's or not in the range only tells the time of the log."""
        decoded = None
        if message.key in self._keys and not self._certainly_earlier(message):
            decoded = decode_message(message, self._topics, self._registry)
            if not self._counts(decoded):
                decoded = None
        if decoded is not None or self._range.touches(message.timestamp_ms * 1000, message.timestamp_ms * 1000):
            self.partition.apply(decoded or Decoded(message, None))

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
        if columns is not None and columns.deployment_id != self._past.deployment_id:
            return False
        if isinstance(columns, OutcomeColumns):
            times = columns.actual_timestamps_us
            return self._range.touches(int(times.min()), int(times.max()))
        if not isinstance(columns, PredictionColumns):
            return True
        first_us, last_us = int(columns.timestamps_us.min()), int(columns.timestamps_us.max())
        if self._earliest_us is None:
            self._earliest_us = first_us
        inside = self._range.touches(first_us, last_us)
        if inside and not self.applied.messages:
            self.first_offset = decoded.message.offset
        (self.applied if inside else self.outside).add(columns.rows, first_us, last_us)
        return inside

    def _look_at_unread(self) -> None:
        """So that an empty range can be told where the events are."""
        if self._unread is None or self.applied.messages:
            return
        columns = decode_message(self._unread, self._topics, self._registry).columns
        if isinstance(columns, PredictionColumns):
            self.outside.add(columns.rows, int(columns.timestamps_us.min()), int(columns.timestamps_us.max()))

    def _take(self) -> None:
        _, emissions, _ = self.partition.take()
        self.alerts += [dict(emission.record) for emission in emissions if emission.topic == "alerts"]

    def thresholds(self) -> Iterator[Threshold]:
        """What the settings ask of each monitor at the end."""
        specs, baselines = self.partition.in_force()
        for (deployment_id, version), baseline in baselines.items():
            for name, monitor in Monitors(specs[deployment_id], baseline, 0, 0).monitors.items():
                yield Threshold(version, name, monitor.threshold_nats)

    def notes(self) -> Iterator[str]:
        """What sets the result apart from what a worker would have found."""
        yield from self._notes
        first_us = self.applied.first_us
        if first_us is not None and self._began_cold:
            yield (
                f"messages before {rfc3339(first_us)} are no longer on the topic: the detectors start empty there, so "
                "alarms soon after it may be missing or late"
            )
        elif first_us is not None and self._earliest_us is not None and self._earliest_us < first_us:
            yield (
                f"the detectors start empty at {rfc3339(first_us)}, so alarms soon after it may be missing or late; "
                f"without --from it begins at the first message, {rfc3339(self._earliest_us)}, and is exact"
            )
        if self.waiting:
            yield f"{self.waiting:,} messages with predictions are not applied yet, and left out: is a worker running?"
        if self.partition.dead_letters:
            yield (
                f"{self.partition.dead_letters:,} messages or parts of them were refused: see the topic "
                f"{self._topics.dead_letters}"
            )
        if self._spec is not None:
            streams = {stream.name for baseline in self.partition.in_force()[1].values() for stream in baseline.streams}
            missing = [f.name for f in self._spec[1].features if not _is_watched(f.name, streams)]
            if missing:
                yield f"not watched, because no baseline has them: {', '.join(missing)}"


def _is_watched(feature: str, streams: Iterable[str]) -> bool:
    return any(stream == feature or stream.startswith(f"{feature}.") for stream in streams)


class _Log:
    """The messages of one topic and partition, in order, read once."""

    def __init__(self, settings: KafkaSettings, topic: str, number: int) -> None:
        self.topic = topic
        self.low, self.end = _watermarks(settings, topic, number)
        self._messages = _messages_of(settings, topic, number)
        self._next: Message | None = None

    def run(self, first_offset: int, last_offset: int) -> Iterator[Message]:
        """The messages from one offset to another, as far as the log still has them."""
        while (message := self._peek()) is not None and message.offset <= last_offset:
            self._next = None
            if message.offset >= first_offset:
                yield message

    def rest(self) -> Iterator[Message]:
        """Everything that was not asked for."""
        while (message := self._peek()) is not None:
            self._next = None
            yield message

    def _peek(self) -> Message | None:
        if self._next is None:
            self._next = next(self._messages, None)
        return self._next

    def close(self) -> None:
        """Let go of the connection."""
        self._messages.close()


def _messages_of(settings: KafkaSettings, topic: str, number: int) -> Generator[Message, None, None]:
    for found in read_to_end(settings, topic, partitions=[number]):
        yield Message(topic, number, found.offset() or 0, found.timestamp()[1], found.key(), found.value())


def order_of(settings: KafkaSettings, number: int) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """The order in which a partition applied its messages, commit by commit, each with the broker's time (ms).

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    for message in read_to_end(settings, settings.topics.streams_order, partitions=[number]):
        record = decode(message.value())[1]
        yield broker_time_ms(message) or 0, record["entries"]


def _chained(
    first: list[Mapping[str, Any]], rest: Iterator[tuple[int, list[Mapping[str, Any]]]]
) -> Iterator[Mapping[str, Any]]:
    yield from first
    for _, entries in rest:
        yield from entries


def _watermarks(settings: KafkaSettings, topic: str, number: int) -> tuple[int, int]:
    """The first offset that a partition still has, and the one behind its last."""
    reader = consumer(settings)
    try:
        there = offset_range(reader, topic, number, REACH_SECONDS)
        return there.start, there.stop
    except KafkaException as error:
        raise ClusterError(f"{topic}/{number}: its ends cannot be looked up: {error}") from error
    finally:
        reader.close()
