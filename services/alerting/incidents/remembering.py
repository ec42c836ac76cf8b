"""What the topic ``audit`` remembers of incidents, for a database that was lost."""

from __future__ import annotations

import heapq
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.alerting.incidents.taking import Remembered
from services.alerting.records import SOURCE
from services.kafka import MissingTopicError, read_to_end

log = logging.getLogger("driftline.alerting")

_KEPT = ("incident.", "silence.", "system.", "notification.sent", "notification.failed", "notification.decided")
_BY_ALERTS = ("incident.opened", "incident.joined", "incident.reopened", "incident.changed", "incident.resolved")


@dataclass(frozen=True, slots=True)
class Event:
    """An audit event of this service, of a kind that a rebuild uses."""

    id: str
    time_ms: int
    action: str
    subject: str
    actor_kind: str
    actor: str
    reason: str
    detail: Mapping[str, str]

    @property
    def incident(self) -> str:
        """The incident it is about; empty for none."""
        kind, _, name = self.subject.partition(":")
        return self.detail.get("incident") or (name if kind == "incident" else "")


@dataclass(frozen=True, slots=True)
class Recollection:
    """What the audit says.

    Attributes:
        events: In the order in which they happened; each once.
        malformed: How many messages were none.
    """

    events: tuple[Event, ...] = ()
    malformed: int = 0

    def placed(self) -> Remembered:
        """In which incident every signal was, and of which somebody was told."""
        incidents: dict[tuple[str, str], tuple[str, str]] = {}
        told: set[str] = set()
        for event in self.events:
            key, episode = event.detail.get("incident_key"), event.detail.get("episode")
            if event.action in _BY_ALERTS and key and episode and event.incident:
                incidents.setdefault((key, episode), (event.incident, event.detail.get("upstream", "")))
            if event.action == "notification.sent" and event.incident:
                told.add(event.incident)
        return Remembered(incidents, frozenset(told))


NOTHING = Recollection()


def read_audit(kafka: KafkaSettings, stopped: Callable[[], bool] = lambda: False) -> Recollection:
    """Read the audit from its beginning to its end.

    Raises:
        ClusterError: The cluster does not answer.
    """
    partitions: dict[int, list[bytes | None]] = defaultdict(list)
    try:
        for message in read_to_end(kafka, kafka.topics.audit):
            if stopped():
                return NOTHING
            partitions[int(message.partition() or 0)].append(message.value())
    except MissingTopicError:
        log.warning("there is no topic %r: nothing is known of an earlier database", kafka.topics.audit)
    found = recollect(list(partitions.values()))
    if found.malformed:
        log.warning("%d message(s) on %r are no audit events and are passed over", found.malformed, kafka.topics.audit)
    return found


def recollect(partitions: Sequence[Iterable[bytes | None]]) -> Recollection:
    """What the messages of the audit's partitions say, each partition in its order.

    Events of one incident are on one partition; between partitions, time tells the order.
    """
    malformed = 0
    streams: list[list[Event]] = []
    seen: set[str] = set()
    for messages in partitions:
        events: list[Event] = []
        for value in messages:
            try:
                event = _event(value)
            except (CodecError, KeyError, TypeError, ValueError):
                malformed += 1
                continue
            if event is not None and event.id not in seen:
                seen.add(event.id)
                events.append(event)
        streams.append(events)
    return Recollection(tuple(heapq.merge(*streams, key=lambda event: event.time_ms)), malformed)


def _event(value: bytes | None) -> Event | None:
    if value is None:
        return None
    name, record = decode(value)
    if name != "AuditEvent":
        raise ValueError(f"expected an AuditEvent, came a {name}")
    return event_of(record)


def event_of(record: Record) -> Event | None:
    """A decoded ``AuditEvent`` of this service; None for one of others, or one that no rebuild uses."""
    if record["source"] != SOURCE or not record["action"].startswith(_KEPT):
        return None
    return Event(
        id=record["id"],
        time_ms=int(record["time_us"]) // 1000,
        action=record["action"],
        subject=record["subject"],
        actor_kind=record["actor_kind"],
        actor=record["actor"],
        reason=record["reason"],
        detail=record["detail"],
    )
