"""From what was seen to what is wrong. Pure: what was seen before and the time are arguments.

Every alarm needs its condition to hold for the time that the routing file gives, and to be gone for a minute before
the alarm ends. What could not be seen (Kafka did not answer) is neither wrong nor right: the alarms that ask for it
stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from services.alerting.policy.model import Watch
from services.alerting.watch import alarms
from services.alerting.watch.alarms import Alarm

CLEAR_MS = 60_000
"""So long a condition must be gone: what comes and goes is one alarm."""

KAFKA_LIMIT_MS = 60_000
SLOW_SECONDS = 10.0
FREE_BYTES = 256 << 20
HOUR_MS = 3_600_000
_LETTER_STEP_MS = 60_000
_USUAL_PAUSE_MS = 120_000


@dataclass(frozen=True, slots=True)
class Place:
    """A partition of a topic that the streams read: the next offset they will apply, and how much waits there."""

    applied: int
    waiting: int


@dataclass(frozen=True, slots=True)
class KafkaSeen:
    """What Kafka held.

    Attributes:
        places: ``topic/partition`` to where messages wait.
        ends: Name of a topic of :attr:`Watch.silent_topics`, without prefix, to how many offsets it had given out.
        dead_letters: The same of the dead letters.
    """

    places: Mapping[str, Place]
    ends: Mapping[str, int]
    dead_letters: int


@dataclass(frozen=True, slots=True)
class ReceiverSeen:
    """A receiver of the policy: since when it fails, None if it does not, and how often since."""

    name: str
    failing_since_ms: int | None
    failures: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything looked at in one round.

    Attributes:
        kafka: None where it did not answer, or was not asked this time.
        kafka_silent_ms: How long it has not answered; 0 when all is well.
        receivers: Of the policy.
        database_seconds: How long the longest wait for the database was.
        free_bytes: On the disk of a SQLite file; None of PostgreSQL.
    """

    kafka: KafkaSeen | None
    kafka_silent_ms: int
    receivers: Sequence[ReceiverSeen]
    database_seconds: float
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """What outlives a round, and the process: times are the service's clock, milliseconds.

    Attributes:
        stuck: ``topic/partition`` to the offset at which the streams stand, and since when they were seen to.
        silent: Topic to its end, and since when it was seen there.
        looked_ms: When Kafka was last seen; 0 for never.
        letters: Times and counts of dead letters, one a minute, for the last hour and the one before.
        raised: Alarms that are raised, and since when their condition is gone; 0 while it holds.
    """

    stuck: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    silent: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    looked_ms: int = 0
    letters: tuple[tuple[int, int], ...] = ()
    raised: Mapping[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For the database."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any] | None) -> Self:
        """From the database; of nothing, an empty one."""
        if not document:
            return cls()
        return cls(
            {place: (int(at), int(since)) for place, (at, since) in document["stuck"].items()},
            {topic: (int(end), int(since)) for topic, (end, since) in document["silent"].items()},
            int(document["looked_ms"]),
            tuple((int(time), int(count)) for time, count in document["letters"]),
            {name: int(since) for name, since in document["raised"].items()},
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a round: the memory for the next, alarms to raise (or to tell anew in other words), names to end."""

    memory: Memory
    raised: tuple[Alarm, ...]
    ended: tuple[str, ...]


def judge(watch: Watch, memory: Memory, seen: Seen, now_ms: int) -> Verdict:
    """Decide."""
    if seen.kafka is not None:
        memory = _remember(watch, memory, seen.kafka, now_ms)
    holding = {alarm.name: alarm for alarm in _holding(watch, memory, seen, now_ms)}
    unseen = seen.kafka is None
    raised, ended = dict(memory.raised), []
    for name in memory.raised:
        if name in holding:
            raised[name] = 0
        elif not _watched(watch, name, seen.receivers):
            del raised[name]
            ended.append(name)
        elif unseen and _asks_kafka(name):
            continue
        elif not memory.raised[name]:
            raised[name] = now_ms
        elif now_ms - memory.raised[name] >= CLEAR_MS:
            del raised[name]
            ended.append(name)
    new = [alarm for name, alarm in holding.items() if name not in memory.raised]
    raised.update({alarm.name: 0 for alarm in new})
    return Verdict(replace(memory, raised=raised), tuple(new), tuple(ended))


def _remember(watch: Watch, memory: Memory, kafka: KafkaSeen, now_ms: int) -> Memory:
    # Time in which Kafka could not be seen does not count: whoever waits for it needs a moment when it is back.
    unseen_ms = max(now_ms - memory.looked_ms - _USUAL_PAUSE_MS, 0) if memory.looked_ms else 0
    stuck = {}
    for name, place in kafka.places.items():
        at, since = memory.stuck.get(name, (-1, now_ms))
        stuck[name] = (place.applied, since + unseen_ms if at == place.applied else now_ms)
    silent = {}
    for topic in watch.silent_topics:
        if topic in kafka.ends:
            end, since = memory.silent.get(topic, (-1, now_ms))
            silent[topic] = (kafka.ends[topic], since + unseen_ms if end == kafka.ends[topic] else now_ms)
        elif topic in memory.silent:
            silent[topic] = memory.silent[topic]
    letters = _letters(memory.letters, kafka.dead_letters, now_ms)
    return replace(memory, stuck=stuck, silent=silent, looked_ms=now_ms, letters=letters)


def _letters(before: Sequence[tuple[int, int]], count: int, now_ms: int) -> tuple[tuple[int, int], ...]:
    """One count a minute; the latest that is older than an hour is where the hour begins."""
    if before and count < before[-1][1]:
        before = ()  # the topic was made anew
    kept = list(before)
    if not kept or now_ms - kept[-1][0] >= _LETTER_STEP_MS or len(kept) == 1:
        kept.append((now_ms, count))
    else:
        kept[-1] = (kept[-1][0], count)
    while len(kept) > 1 and kept[1][0] <= now_ms - HOUR_MS:
        kept.pop(0)
    return tuple(kept)


def _holding(watch: Watch, memory: Memory, seen: Seen, now_ms: int) -> Iterable[Alarm]:
    """The alarms whose condition holds now, as far as it could be seen."""
    if seen.kafka_silent_ms >= KAFKA_LIMIT_MS:
        yield alarms.kafka_away(seen.kafka_silent_ms, KAFKA_LIMIT_MS)
    if seen.kafka is not None:
        yield from _of_kafka(watch, memory, seen.kafka, now_ms)
    for receiver in seen.receivers:
        failing_ms = now_ms - receiver.failing_since_ms if receiver.failing_since_ms is not None else 0
        if receiver.failures and 0 < watch.channel_failing_ms <= failing_ms:
            yield alarms.channel_failing(receiver.name, failing_ms, receiver.failures, watch.channel_failing_ms)
    if seen.free_bytes is not None and seen.free_bytes < FREE_BYTES:
        yield alarms.disk_nearly_full(seen.free_bytes, FREE_BYTES)
    elif seen.database_seconds > SLOW_SECONDS:
        yield alarms.database_slow(seen.database_seconds, SLOW_SECONDS)


def _of_kafka(watch: Watch, memory: Memory, kafka: KafkaSeen, now_ms: int) -> Iterable[Alarm]:
    stuck = {
        name: now_ms - memory.stuck[name][1]
        for name, place in kafka.places.items()
        if place.waiting and 0 < watch.lag_ms <= now_ms - memory.stuck[name][1]
    }
    if stuck:
        waiting = sum(kafka.places[name].waiting for name in stuck)
        yield alarms.streams_lag(waiting, len(stuck), max(stuck.values()), watch.lag_ms)
    for topic, limit_ms in watch.silent_topics.items():
        silent_ms = now_ms - memory.silent.get(topic, (0, now_ms))[1]
        if 0 < limit_ms <= silent_ms:
            yield alarms.topic_silent(topic, silent_ms, limit_ms)
    count = memory.letters[-1][1] - memory.letters[0][1] if memory.letters else 0
    limit = watch.dead_letters_per_hour
    # An alarm ends below half of what raised it.
    if limit and count > (limit / 2 if alarms.DEAD_LETTERS in memory.raised else limit):
        yield alarms.dead_letters(count, limit)


def _asks_kafka(name: str) -> bool:
    return name.partition(":")[0] in (alarms.STREAMS_LAG, alarms.TOPIC_SILENT, alarms.DEAD_LETTERS)


def _watched(watch: Watch, name: str, receivers: Sequence[ReceiverSeen]) -> bool:
    """Whether anybody still asks: a reload may have taken a receiver, a topic or a limit away."""
    kind, _, what = name.partition(":")
    match kind:
        case alarms.STREAMS_LAG:
            return watch.lag_ms > 0
        case alarms.TOPIC_SILENT:
            return watch.silent_topics.get(what, 0) > 0
        case alarms.DEAD_LETTERS:
            return watch.dead_letters_per_hour > 0
        case alarms.CHANNEL_FAILING:
            return watch.channel_failing_ms > 0 and any(receiver.name == what for receiver in receivers)
    return True
