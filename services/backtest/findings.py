"""What a back-test keeps of what the state machine says: alerts, accuracy windows, and what it refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from driftline.codec import Record, decode, encode
from driftline.events import OutcomeColumns, PredictionColumns
from services.event_time import rfc3339
from streams.deployment import Deployment
from streams.messages import Emission, Message
from streams.outcomes.clock import OutcomeClock
from streams.partition import Partition
from streams.specification import DeploymentSpec

WINDOW, ALERT, DEAD_LETTER = "PerformanceWindow", "Alert", "DeadLetter"
FINAL, PROVISIONAL = "final", "provisional"

UNKNOWN_PREDICTION = "unknown_prediction"
"""Why outcomes are refused whose predictions never came."""


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


@dataclass
class Refusals:
    """Messages or parts of them that were refused for one reason; ``first_error``: what was said of the first."""

    parts: int = 0
    first_error: str = ""


class Windows:
    """Accuracy windows as ``PerformanceWindow`` records, packed: one of a hundred parts is some hundred kilobytes."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._packed: dict[str, bytes] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Keep a window, in the place of an earlier summary of it."""
        self._packed[record["id"]] = zlib.compress(encode(WINDOW, record), 1)

    def update(self, other: Windows) -> None:
        """Keep the windows of another partition as well."""
        self._packed |= other._packed

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[Record]:
        for packed in self._packed.values():
            yield decode(zlib.decompress(packed))[1]


@dataclass
class Findings:
    """What the state machine of one partition has said.

    Attributes:
        wanted: Alarms that were noticed outside of it do not count.
        alerts: ``Alert`` records.
        windows: Accuracy windows: final ones, and after :meth:`finish` those that are open in the end.
        refused: By reason.
    """

    wanted: Range
    alerts: list[Record] = field(default_factory=list)
    windows: Windows = field(default_factory=Windows)
    refused: dict[str, Refusals] = field(default_factory=dict)

    def take(self, partition: Partition) -> None:
        """Take what there is, and forget what a worker would have committed besides."""
        for emission in partition.take()[1]:
            self._keep(emission)
        partition.committed()

    def _keep(self, emission: Emission) -> None:
        record = emission.record
        if emission.record_name == ALERT:
            noticed_us = record["detection_time_us"]
            if record["status"] != "firing" or self.wanted.touches(noticed_us, noticed_us):
                self.alerts.append(decode(encode(ALERT, record))[1])  # as it would be on the topic
        elif emission.record_name == WINDOW and record["status"] == FINAL:
            self.windows.add(dict(record))
        elif emission.record_name == DEAD_LETTER:
            known = self.refused.setdefault(record["reason"], Refusals(first_error=record["error"]))
            known.parts += 1

    def finish(self, partition: Partition, spec: DeploymentSpec, known_us: int, *, waits_us: int) -> None:
        """Take the windows that are open in the end; they are final if so much is known that no more could come.

        Args:
            partition: The state machine; its deployment is ended.
            spec: The deployment.
            known_us: Event time up to which outcomes are known (:class:`Heard`).
            waits_us: How long after a window's end something may become known of it.
        """
        self.take(partition)
        partition.end(spec.deployment_id)
        for emission in partition.take()[1]:
            if emission.record_name == WINDOW:
                is_final = emission.record["window_end_us"] + waits_us <= known_us
                status = FINAL if is_final else PROVISIONAL
                self.windows.add({**emission.record, "status": status, "clock_us": known_us})


class Heard:
    """Up to which event time outcomes are known, by everything that was recorded: also by what a range leaves out.

    The rule is that of the join: see :mod:`streams.outcomes.clock`.
    """

    def __init__(self) -> None:
        self._deployment: Deployment | None = None
        self._clock = OutcomeClock()
        self._time_ms = 0

    def spec(self, spec: DeploymentSpec) -> None:
        """A specification came into force."""
        if self._deployment is None:
            self._deployment = Deployment(spec)
        self._deployment.spec = spec

    def hear(self, columns: PredictionColumns | OutcomeColumns, message: Message) -> None:
        """A message of the deployment was read."""
        deployment = self._deployment
        if deployment is None:
            return
        is_prediction = isinstance(columns, PredictionColumns)
        times_us = columns.timestamps_us if is_prediction else columns.actual_timestamps_us  # type: ignore[union-attr] # told by the line before
        latest_us = (message.timestamp_ms + deployment.spec.clock_skew_ms) * 1000
        usable = times_us[(times_us >= deployment.spec.earliest_event_time_us) & (times_us <= latest_us)]
        if not usable.size:
            return
        self._time_ms = message.timestamp_ms
        outcomes = deployment.spec.outcomes
        if is_prediction:
            deployment.clock_us = max(deployment.clock_us or 0, int(usable.max()))
            self._clock.see_predictions(message.timestamp_ms, usable)
        elif outcomes is not None:
            self._clock.see_outcomes(message.timestamp_ms, usable, outcomes.final_after_ms - outcomes.horizon_ms)

    def everything(self, time_ms: int) -> None:
        """Whatever was published until a time has been read."""
        self._time_ms = time_ms
        if self._deployment is not None and self._deployment.clock_us is not None:
            self._clock.read(self._deployment.clock_us, time_ms)

    @property
    def known_us(self) -> int:
        """Event time up to which outcomes are known."""
        deployment = self._deployment
        if deployment is None or deployment.spec.outcomes is None:
            return 0
        return self._clock.known_us(deployment.clock_us or 0, self._time_ms, deployment.spec.outcomes.horizon_ms)
