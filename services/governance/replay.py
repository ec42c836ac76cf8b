"""Reading events back from the audit topic: in order, each once, with what cannot be decoded shown as such."""

from __future__ import annotations

import datetime as dt
import fnmatch
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.governance.topic import LogRecord, TopicReader
from services.kafka import ClusterError

_POLL_SECONDS = 0.2
_AWAY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ReplayedEvent:
    """One record of the audit topic; ``event`` holds the fields of an ``AuditEvent``, or ``problem`` says why not."""

    offset: int
    timestamp_ms: int
    event: Record | None
    problem: str | None

    @property
    def time_us(self) -> int:
        """When it happened, microseconds since 1970 UTC; where unknown, when it was written."""
        return self.timestamp_ms * 1000 if self.event is None else int(self.event["time_us"])

    def to_json(self) -> dict[str, Any]:
        """The event as a JSON document."""
        if self.event is None:
            return {"offset": self.offset, "time": iso_time(self.time_us), "undecodable": self.problem}
        return {"offset": self.offset, "time": iso_time(self.time_us), **self.event}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events to show; everything by default.

    Attributes:
        from_us: Happened at this time or later, microseconds since 1970 UTC.
        to_us: Happened before this time.
        action: Pattern with ``*`` and ``?`` for the action.
        subject: Pattern with ``*`` and ``?`` for the subject.
    """

    from_us: int | None = None
    to_us: int | None = None
    action: str | None = None
    subject: str | None = None

    def __call__(self, replayed: ReplayedEvent) -> bool:
        """Whether the event is wanted. What cannot be decoded has no action and no subject."""
        if self.from_us is not None and replayed.time_us < self.from_us:
            return False
        if self.to_us is not None and replayed.time_us >= self.to_us:
            return False
        event = replayed.event
        for pattern, name in ((self.action, "action"), (self.subject, "subject")):
            if pattern is not None and (event is None or not fnmatch.fnmatchcase(event[name], pattern)):
                return False
        return True


def replayed_event(record: LogRecord) -> ReplayedEvent:
    """Decode one record."""
    try:
        name, event = decode(record.value)
        if name != "AuditEvent":
            raise CodecError(f"expected an AuditEvent, came a {name}")
    except CodecError as error:
        return ReplayedEvent(record.offset, record.timestamp_ms, None, str(error))
    return ReplayedEvent(record.offset, record.timestamp_ms, event, None)


def replay(
    kafka: KafkaSettings,
    wanted: Callable[[ReplayedEvent], bool] = Filter(),
    *,
    follow: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[ReplayedEvent]:
    """The events on the audit topic in its order; an event that was written twice is given once.

    Args:
        kafka: How to reach Kafka.
        wanted: Which.
        follow: Go on with what comes, until ``stopped()``.
        stopped: Asked between batches.

    Raises:
        ClusterError: Kafka does not answer.
    """
    seen: set[str] = set()
    with TopicReader(kafka, kafka.topics.audit) as reader:
        for batch in _following(reader, stopped) if follow else reader.batches():
            for record in batch:
                replayed = replayed_event(record)
                if replayed.event is not None:
                    if replayed.event["id"] in seen:
                        continue
                    seen.add(replayed.event["id"])
                if wanted(replayed):
                    yield replayed
            if stopped():
                return


def _following(reader: TopicReader, stopped: Callable[[], bool]) -> Iterator[list[LogRecord]]:
    low, _ = reader.watermarks()
    reader.start(low)
    heard = time.monotonic()
    while not stopped():
        records, _ = reader.poll(_POLL_SECONDS)
        if records:
            heard = time.monotonic()
            yield records
        elif time.monotonic() - heard > _AWAY_SECONDS:
            try:
                reader.watermarks()
            except ClusterError as error:
                raise ClusterError(f"nothing more comes: {error}") from error
            heard = time.monotonic()


def iso_time(time_us: int) -> str:
    """Microseconds since 1970 UTC as text; beyond the calendar, as the number."""
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)
    except OverflowError:
        return f"{time_us} us"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 date or time; without a zone it is UTC.

    Raises:
        ValueError: It is none.
    """
    moment = dt.datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return int((moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(microseconds=1))
