"""The alarms of the monitor of the monitor, in words.

A value in them is a count, a setting or a time, never part of an event or of what a receiver answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.alerting.policy.model import Severity
from services.alerting.words.system import SystemWords

STREAMS_LAG = "streams-lag"
TOPIC_SILENT = "topic-silent"
DEAD_LETTERS = "dead-letters"
CHANNEL_FAILING = "channel-failing"
DATABASE = "database"
KAFKA = "kafka"

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something is wrong.

    Attributes:
        name: Which: ``kafka``, or with what it is about, ``channel-failing:risk-chat``.
        severity: As of an alert.
        words: What is said.
        labels: Further labels for routes: ``receiver`` or ``topic``.
    """

    name: str
    severity: Severity
    words: SystemWords
    labels: Mapping[str, str] = field(default_factory=dict)


def streams_lag(waiting: int, places: int, stuck_ms: int, limit_ms: int) -> Alarm:
    """The streams have applied nothing for ``stuck_ms`` although messages wait in so many partitions."""
    words = SystemWords(
        "The streams have stopped applying messages",
        (
            f"{_count(waiting, 'message')} in {_count(places, 'partition')} wait, and none was applied for "
            f"{duration(stuck_ms)} (the limit is {duration(limit_ms)}).",
            "Until they go on, no drift, no loss of accuracy and no humility is noticed for the deployments there.",
        ),
        "Look whether workers run, and what they say: driftline status, and the logs of driftline worker.",
        _anchor(STREAMS_LAG),
    )
    return Alarm(STREAMS_LAG, "error", words)


def topic_silent(topic: str, silent_ms: int, limit_ms: int) -> Alarm:
    """Nothing came on a topic."""
    words = SystemWords(
        f"Nothing comes on {topic}",
        (
            f"No message came on {topic} for {duration(silent_ms)} (the limit is {duration(limit_ms)}).",
            "Either nothing is being predicted, or what is does not reach Kafka: nobody would notice drift.",
        ),
        f"Look whether the applications that publish {topic} run and reach Kafka: driftline status.",
        _anchor(TOPIC_SILENT),
    )
    return Alarm(f"{TOPIC_SILENT}:{topic}", "error", words, {"topic": topic})


def dead_letters(count: int, limit: int) -> Alarm:
    """Too many messages could not be used."""
    words = SystemWords(
        "Many messages cannot be used",
        (
            f"{_count(count, 'message')} went to the dead letters within the last hour (the limit is {limit:,}).",
            "They count in no window: figures of the deployments they belong to are of fewer rows than there were.",
        ),
        "See why they were refused, and who sent them: driftline status.",
        _anchor(DEAD_LETTERS),
    )
    return Alarm(DEAD_LETTERS, "warning", words)


def channel_failing(receiver: str, failing_ms: int, failures: int, limit_ms: int) -> Alarm:
    """A receiver does not take messages. It is told to everybody but that receiver."""
    words = SystemWords(
        f"Messages do not reach {receiver}",
        (
            f"{_count(failures, 'attempt')} in a row failed, for {duration(failing_ms)} (the limit is "
            f"{duration(limit_ms)}).",
            "What is for it is kept and tried again; what is given up goes to its fallback.",
        ),
        f"See what it answers: driftline notifications list --receiver {receiver}; try it: driftline receivers test "
        f"{receiver}.",
        _anchor(CHANNEL_FAILING),
    )
    return Alarm(f"{CHANNEL_FAILING}:{receiver}", "error", words, {"receiver": receiver})


def disk_nearly_full(free_bytes: int, limit_bytes: int) -> Alarm:
    """The disk with the database is nearly full."""
    words = SystemWords(
        "The disk of the alerting database is nearly full",
        (
            f"{free_bytes // _MIB:,} MiB are free (the limit is {limit_bytes // _MIB:,} MiB).",
            "When it is full, alerts are not taken in any more: they wait on Kafka.",
        ),
        "Make room on the disk that has the alerting database.",
        _anchor(DATABASE),
    )
    return Alarm(DATABASE, "error", words)


def database_slow(seconds: float, limit_seconds: float) -> Alarm:
    """The database could not be used for a while, or a transaction took much too long."""
    words = SystemWords(
        "The alerting database answers slowly, or not at all",
        (
            f"It could not be used for {duration(round(seconds * 1000))} (the limit is "
            f"{duration(round(limit_seconds * 1000))}).",
            "What came meanwhile waited on Kafka; messages are decided on and sent as much later.",
        ),
        "Look at the disk or the server that has the alerting database, and at who else locks it.",
        _anchor(DATABASE),
    )
    return Alarm(DATABASE, "error", words)


def kafka_away(silent_ms: int, limit_ms: int) -> Alarm:
    """Kafka does not answer."""
    words = SystemWords(
        "Kafka does not answer",
        (
            f"It has not answered for {duration(silent_ms)} (the limit is {duration(limit_ms)}).",
            "No alert can arrive, and what is decided cannot be put on record; both are caught up with.",
        ),
        "Look whether the brokers run, and whether this machine reaches them: driftline status.",
        _anchor(KAFKA),
    )
    return Alarm(KAFKA, "critical", words)


def duration(milliseconds: int) -> str:
    """As people say it: "90 s", "5 minutes", "26 hours"."""
    seconds = max(round(milliseconds / 1000), 0)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} minutes"
    return f"{seconds // 3600} hours" if seconds < 48 * 3600 else f"{seconds // 86_400} days"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _anchor(name: str) -> str:
    """Of docs/runbook.md."""
    return f"system-{name}"
