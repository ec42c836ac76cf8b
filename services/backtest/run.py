"""Back-tests: the log once more, through the state machine that the workers run, under other settings.

A deployment's messages are applied in the order that was written down when they were first applied (the topic
``streams-order``), with the specifications and baselines coming into force where they did. With unchanged settings,
from the deployment's first message on, the alarms are those that were raised, down to their ids. Nothing is written.

One thing the workers know is not repeated: an id that returns after more than 131,072 rows of its partition is counted
again; here the rows of the partition's other deployments, which are passed over unread, do not add to that number.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aiokafka.partitioner import murmur2  # type: ignore[import-untyped]  # it has no types

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.backtest.alarms import Pair, alarms_of, side_by_side
from services.backtest.past import Past
from services.backtest.replay import BacktestError, Progress, Range, Replay, Threshold
from services.backtest.settings import WhatIf
from services.deployments.store import FieldChange, differences, get_deployment
from services.event_time import rfc3339
from services.kafka import read_to_end, topic_partitions
from streams.alerts import promise


@dataclass(frozen=True)
class BackTest:
    """What came out.

    Attributes:
        deployment_id: The deployment.
        first_us: The first event that was applied.
        last_us: The last one.
        messages: Messages with predictions of the deployment that were applied.
        rows: Their rows.
        refused: Those that were refused, whole or in part.
        seconds: How long it took.
        changes: How the settings differ from those in force now.
        baseline_digest: The baseline that stands in for all others; None for those that were in force.
        promise: The false-alarm promise of the settings, in words.
        thresholds: What it asks of each monitor.
        pairs: Alarms that would have been raised beside those that were.
        notes: Where the result is not what a worker would have found, and why.
    """

    deployment_id: str
    first_us: int
    last_us: int
    messages: int
    rows: int
    refused: int
    seconds: float
    changes: list[FieldChange]
    baseline_digest: str | None
    promise: str
    thresholds: list[Threshold]
    pairs: list[Pair]
    notes: list[str]


def backtest(
    settings: KafkaSettings,
    deployment_id: str,
    what_if: WhatIf | None = None,
    *,
    from_us: int | None = None,
    to_us: int | None = None,
    progress: Progress = lambda done, total, rows: None,
) -> BackTest:
    """Say which alarms some settings would have raised.

    1. Read what was in force: specifications and baselines that are still on their topics.
    2. For each partition of the deployment, apply its messages in the recorded order.
    3. Put the alarms beside those on the topic of alerts.

    Args:
        settings: How to reach Kafka.
        deployment_id: The deployment.
        what_if: What differs; nothing if not given.
        from_us: Messages with an event at or after this time only; from the first one if not given.
        to_us: Messages with an event before this time only.
        progress: Told how far it is, some times a second.

    Raises:
        DeploymentError: There is no such deployment, or the settings are refused.
        BacktestError: It has no messages in the range.
        ClusterError: Kafka does not answer, or a topic is missing.
        StreamsError: The settings say something that no stream could follow.
    """
    what_if = what_if or WhatIf()
    began = time.monotonic()
    now = get_deployment(settings, deployment_id).spec
    proposed = what_if.spec(now)  # refused before anything is read
    past = Past.read(settings, deployment_id)
    wanted = Range(from_us, to_us)
    replays = []
    for number in partitions_of(settings, past):
        replay = Replay(settings, number, past, what_if, wanted)
        replay.run(progress)
        replays.append(replay)
    _require_rows(replays, deployment_id, wanted)
    would = alarms_of(alert for replay in replays for alert in replay.alerts)
    did = alarms_of(_raised(settings, deployment_id, wanted, {r.number: r.first_offset for r in replays}))
    times = [us for replay in replays for us in replay.applied.bounds]
    return BackTest(
        deployment_id=deployment_id,
        first_us=min(times),
        last_us=max(times),
        messages=sum(replay.applied.messages for replay in replays),
        rows=sum(replay.applied.rows for replay in replays),
        refused=sum(replay.partition.dead_letters for replay in replays),
        seconds=time.monotonic() - began,
        changes=list(differences(now, proposed)),
        baseline_digest=None if what_if.baseline is None else what_if.baseline.digest,
        promise=promise(proposed),
        thresholds=sorted({t for replay in replays for t in replay.thresholds()}, key=dataclasses.astuple),
        pairs=side_by_side(would, did),
        notes=list(dict.fromkeys(note for replay in replays for note in replay.notes())),
    )


def partitions_of(settings: KafkaSettings, past: Past) -> list[int]:
    """The partitions that a deployment's messages are on."""
    partitions = len(topic_partitions(settings, settings.topics.predictions))
    return sorted({partition_of(key, partitions) for key in past.keys})


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as the Java client chooses it (:data:`driftline.topics.PARTITIONER`)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def _raised(
    settings: KafkaSettings, deployment_id: str, wanted: Range, first_offsets: Mapping[int, int]
) -> Iterator[Record]:
    """The alerts that were raised in a range, and their ends."""
    key = record_key(deployment_id)
    for message in read_to_end(settings, settings.topics.alerts):
        if message.key() != key:
            continue
        try:
            alert = decode(message.value())[1]
        except CodecError:
            continue  # not ours to judge here
        raised_by = alert["evidence_offsets"][0]
        detected_us = alert["detection_time_us"]
        in_range = alert["status"] != "firing" or wanted.touches(detected_us, detected_us)
        if in_range and raised_by["last_offset"] >= first_offsets.get(raised_by["partition"], 0):
            yield alert


def _require_rows(replays: list[Replay], deployment_id: str, wanted: Range) -> None:
    if any(replay.applied.rows for replay in replays):
        return
    waiting = sum(replay.waiting for replay in replays)
    hint = f"{waiting:,} messages wait to be applied: is a worker running?" if waiting else "nothing was published"
    times = [us for replay in replays for us in replay.outside.bounds]
    if not times:
        raise BacktestError(
            f"the streams have applied no predictions of {deployment_id!r} that are still there: {hint}"
        )
    raise BacktestError(
        f"no message of {deployment_id!r} has an event {wanted}: the topic has events from {rfc3339(min(times))} to "
        f"{rfc3339(max(times))}"
    )
