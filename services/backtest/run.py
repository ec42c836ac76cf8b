"""Back-tests: a deployment's past once more, through the state machine that the workers run, under other settings.

From the topics, messages are applied in the order that was written down when they were first applied (the topic
``streams-order``), with the specifications and baselines coming into force where they did. With unchanged settings,
from the deployment's first message on, the alarms are those that were raised, down to their ids, and so are the
accuracy windows that are final. From files, rows are applied in the order in which they would have arrived, under what
is in force now. Nothing is written.

One thing the workers know is not repeated: an id that returns after more than 131,072 rows of its partition is counted
again, unless it waits for its outcome; here the rows of the partition's other deployments, which are passed over
unread, do not add to that number.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka.partitioner import murmur2  # type: ignore[import-untyped]  # it has no types

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.backtest.alarms import Pair, alarms_of, side_by_side
from services.backtest.files import FileRun, Files, keys_of
from services.backtest.findings import Applied, Findings, Range, Refusals, Windows
from services.backtest.past import Past
from services.backtest.replay import BacktestError, Progress, Replay, Threshold
from services.backtest.settings import WhatIf
from services.deployments.baselines import load_baselines
from services.deployments.retention import check_retention
from services.deployments.store import FieldChange, differences, get_deployment
from services.event_time import rfc3339
from services.kafka import read_to_end, topic_partitions
from services.retention import event_retentions
from streams.alerts import promise
from streams.baseline import Baseline
from streams.specification import DeploymentSpec


@dataclass(frozen=True)
class BackTest:
    """What came out.

    Attributes:
        spec: The deployment under the settings tried.
        source: ``topics`` or ``files``.
        first_us: The first event that was applied.
        last_us: The last one.
        messages: Messages with predictions of the deployment that were applied.
        rows: Their rows.
        refused: Messages, also with outcomes, that were refused, whole or in part.
        seconds: How long it took.
        changes: How the settings differ from those in force now.
        baseline_digest: The baseline that stands in for all others; None for those that were in force.
        promise: The false-alarm promise of the settings, in words.
        thresholds: What it asks of each monitor.
        pairs: Alarms that would have been raised beside those that were.
        windows: Accuracy windows, final and open ones.
        baselines: Those that were in force, by digest.
        notes: Where the result is not what a worker would have found, and why.
    """

    spec: DeploymentSpec
    source: str
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
    windows: Windows
    baselines: Mapping[str, Baseline]
    notes: list[str]

    @property
    def deployment_id(self) -> str:
        """The deployment."""
        return self.spec.deployment_id

    @property
    def is_changed(self) -> bool:
        """Whether the settings are others than those in force."""
        return bool(self.changes) or self.baseline_digest is not None


def backtest(
    settings: KafkaSettings,
    deployment_id: str,
    what_if: WhatIf | None = None,
    *,
    files: Files | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
    progress: Progress = lambda done, total, rows: None,
) -> BackTest:
    """Say which alarms some settings would have raised, and how accurate the predictions were.

    1. Read what was in force: specifications and baselines that are still on their topics.
    2. For each partition of the deployment, apply its messages in the recorded order; or the rows of files.
    3. Put the alarms beside those on the topic of alerts.

    Args:
        settings: How to reach Kafka.
        deployment_id: The deployment.
        what_if: What differs; nothing if not given.
        files: Predictions and outcomes; those on the topics if not given.
        from_us: Messages with an event at or after this time only; from the first one if not given. Of files, rows.
        to_us: Messages with an event before this time only.
        progress: Told how far it is, some times a second.

    Raises:
        DeploymentError: There is no such deployment, or the settings are refused.
        BacktestError: It has no messages in the range.
        ClusterError: Kafka does not answer, or a topic is missing.
        StreamsError: The settings say something that no stream could follow.
        FileError: A file is damaged, or a column is missing.
        BadValueError: A value of a file cannot be read.
    """
    what_if = what_if or WhatIf()
    now = get_deployment(settings, deployment_id).spec
    proposed = what_if.spec(now)  # refused before anything is read
    if files is None and proposed.outcomes != now.outcomes:
        check_retention([proposed], event_retentions(settings))
    with tempfile.TemporaryDirectory(prefix="driftline-backtest-") as folder:
        course = _Course(settings, now, proposed, what_if, Range(from_us, to_us), Path(folder), progress)
        return course.of_topics() if files is None else course.of_files(files)


@dataclass(frozen=True)
class _Course:
    """One back-test; its arguments are those of :func:`backtest`."""

    settings: KafkaSettings
    now: DeploymentSpec
    proposed: DeploymentSpec
    what_if: WhatIf
    wanted: Range
    folder: Path
    progress: Progress

    def of_topics(self) -> BackTest:
        """Apply what is on the topics."""
        began = time.monotonic()
        past = Past.read(self.settings, self.now.deployment_id)
        for baseline, _ in past.baselines.values():
            self.what_if.require_fit(baseline, self.now, self.proposed)
        numbers = partitions_of(self.settings, past)
        replays: list[Replay] = []
        for number in numbers:
            replay = Replay(self.settings, number, past, self.what_if, self.wanted, self.folder / str(number))
            replay.run(self._share_of(len(replays), len(numbers), sum(r.applied.rows for r in replays)))
            replays.append(replay)
        _require_rows(replays, self.now.deployment_id, self.wanted)
        did = _raised(self.settings, self.now.deployment_id, self.wanted, {r.number: r.first_offset for r in replays})
        refused: dict[str, Refusals] = {}
        for replay in replays:
            _add(refused, replay.refused)
        return self._found(
            "topics",
            began,
            applied=[replay.applied for replay in replays],
            findings=[replay.findings for replay in replays],
            thresholds=[threshold for replay in replays for threshold in replay.thresholds],
            baselines={digest: each for replay in replays for digest, each in replay.baselines.items()},
            did=did,
            refused=refused,
            notes=[note for replay in replays for note in replay.notes()],
        )

    def _share_of(self, done_before: int, partitions: int, rows_before: int) -> Progress:
        """One bar for all partitions: each has an equal part of it, whatever is on it."""

        def advance(done: int, total: int | None, rows: int) -> None:
            share = done / total if total else 1.0
            self.progress(round((done_before + share) * 10_000), partitions * 10_000, rows_before + rows)

        return advance

    def of_files(self, files: Files) -> BackTest:
        """Apply what is in files."""
        began = time.monotonic()
        deployment_id = self.now.deployment_id
        known = [stored.baseline for stored in load_baselines(self.settings, deployment_id)]
        other = self.what_if.baseline
        if other is not None:
            version = files.version or other.model_version
            if version not in {baseline.model_version for baseline in known}:
                known.append(dataclasses.replace(other, model_version=version))
        if not known:
            raise BacktestError(
                f"{deployment_id!r} has no baseline to compare with: build one with 'driftline baseline build "
                f"{deployment_id} FILE --version V', or give one to try with --baseline FILE"
            )
        for baseline in known:
            self.what_if.require_fit(baseline, self.now, self.proposed)
        baselines = [self.what_if.reference(baseline, self.now, self.proposed) for baseline in known]
        count = len(topic_partitions(self.settings, self.settings.topics.predictions))
        places = {key: partition_of(key, count) for key in keys_of(self.proposed)}
        run = FileRun(self.proposed, baselines, self.wanted, places, self.settings.topics, self.folder)
        run.run(files, self.progress)
        bounds = [us for applied in run.applied for us in applied.bounds]
        during = Range(min(bounds, default=0), self.wanted.to_us)
        refused: dict[str, Refusals] = {}
        for findings in run.findings:
            _add(refused, findings.refused)
        return self._found(
            "files",
            began,
            applied=run.applied,
            findings=run.findings,
            thresholds=run.thresholds,
            baselines=run.baselines,
            did=_raised(self.settings, deployment_id, during, {}),
            refused=refused,
            notes=list(run.notes()),
        )

    def _found(
        self,
        source: str,
        began: float,
        *,
        applied: Sequence[Applied],
        findings: Sequence[Findings],
        thresholds: Iterable[Threshold],
        baselines: Mapping[str, Baseline],
        did: Iterable[Record],
        refused: Mapping[str, Refusals],
        notes: Sequence[str],
    ) -> BackTest:
        windows = Windows()
        for found in findings:
            windows.update(found.windows)
        times = [us for each in applied for us in each.bounds]
        return BackTest(
            spec=self.proposed,
            source=source,
            first_us=min(times),
            last_us=max(times),
            messages=sum(each.messages for each in applied),
            rows=sum(each.rows for each in applied),
            refused=sum(each.parts for each in refused.values()),
            seconds=time.monotonic() - began,
            changes=list(differences(self.now, self.proposed)),
            baseline_digest=None if self.what_if.baseline is None else self.what_if.baseline.digest,
            promise=promise(self.proposed),
            thresholds=sorted(set(thresholds), key=dataclasses.astuple),
            pairs=side_by_side(alarms_of(alert for found in findings for alert in found.alerts), alarms_of(did)),
            windows=windows,
            baselines=baselines,
            notes=list(dict.fromkeys([*notes, *self._refusal_notes(source, refused), *self._doubts(baselines)])),
        )

    def _refusal_notes(self, source: str, refused: Mapping[str, Refusals]) -> Iterator[str]:
        total = sum(each.parts for each in refused.values())
        if total:
            reasons = ", ".join(f"{reason} {refused[reason].parts:,}" for reason in sorted(refused))
            first = refused[min(refused)].first_error
            where = f"see the topic {self.settings.topics.dead_letters}" if source == "topics" else first
            yield f"{total:,} messages or parts of them were refused ({reasons}): {where}"

    def _doubts(self, baselines: Mapping[str, Baseline]) -> Iterator[str]:
        for baseline in baselines.values():
            yield from self.what_if.doubts(baseline, self.proposed)


def _add(to: dict[str, Refusals], more: Mapping[str, Refusals]) -> None:
    for reason, each in more.items():
        known = to.setdefault(reason, Refusals(first_error=each.first_error))
        known.parts += each.parts


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
