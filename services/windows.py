"""The windows on the topic, in their latest revision, added up over partitions and calendar periods."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.kafka import read_to_end
from streams.alerts import effect_sizes
from streams.baseline import Baseline
from streams.errors import BaselineError
from streams.statistics.layouts import reference_probabilities

Period = Literal["window", "day", "week", "month"]
PERIODS: tuple[Period, ...] = ("window", "day", "week", "month")
Counts = NDArray[np.int64]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """One stream in one period: its counts, and how far they are from the baseline (None where that is unknown)."""

    name: str
    role: str
    counts: Counts
    effects: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class PeriodSummary:
    """Rows of one deployment and version in one period of event time, against one baseline.

    ``status`` is ``final`` once every window in it is; ``windows`` is their number.
    """

    deployment_id: str
    model_version: str
    baseline_digest: str
    start_us: int
    end_us: int
    status: str
    windows: int
    rows: int
    streams: Sequence[StreamCounts] = field(default_factory=tuple)


def latest_windows(
    settings: KafkaSettings,
    deployment_id: str,
    *,
    version: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
) -> list[Record]:
    """The windows of a deployment as records, the latest revision of each, in order of their start.

    Args:
        settings: How to reach Kafka.
        deployment_id: The deployment.
        version: This model version only.
        from_us: Windows that end after this event time only.
        to_us: Windows that start before this event time only.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    key = deployment_id.encode()
    latest: dict[str, Record] = {}
    for message in read_to_end(settings, settings.topics.windows):
        if message.key() != key:
            continue
        try:
            record = decode(message.value())[1]
        except CodecError:
            continue  # not ours to judge here: the other windows stand
        known = latest.get(record["id"])
        if known is None or record["revision"] >= known["revision"]:
            latest[record["id"]] = record
    chosen = (
        record
        for record in latest.values()
        if (version is None or record["model_version"] == version)
        and (from_us is None or record["window_end_us"] > from_us)
        and (to_us is None or record["window_start_us"] < to_us)
    )
    return sorted(chosen, key=lambda record: (record["window_start_us"], record["model_version"], record["id"]))


def baselines_by_digest(settings: KafkaSettings, deployment_id: str) -> dict[str, Baseline]:
    """Every baseline of a deployment that is still on the topic, by digest, replaced ones included.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    prefix = f"{deployment_id}@".encode()
    found = {}
    for message in read_to_end(settings, settings.topics.baselines):
        if message.value() is None or not (message.key() or b"").startswith(prefix):
            continue
        try:
            baseline = Baseline.from_record(decode(message.value())[1])
        except (CodecError, BaselineError, TypeError, KeyError, ValueError):
            continue
        found[baseline.digest] = baseline
    return found


def summarise(
    records: Iterable[Record],
    baselines: Mapping[str, Baseline],
    period: Period = "window",
    *,
    streams: Collection[str] | None = None,
    last: int | None = None,
) -> list[PeriodSummary]:
    """Add windows up: their counts are sums, so any number of them, of all partitions, merge exactly.

    A window belongs to the period (UTC) in which it starts. Windows against different baselines have different bins
    and are kept apart.

    Args:
        records: ``WindowSummary`` records, each window once.
        baselines: By digest; effects of several windows against a baseline that is not there are unknown.
        period: What to add up to.
        streams: These only.
        last: The last so many periods only.
    """
    groups: dict[tuple[int, str, str, str], list[Record]] = {}
    for record in records:
        start_us, _ = _bounds(record, period)
        place = (start_us, record["deployment_id"], record["model_version"], record["baseline_digest"])
        groups.setdefault(place, []).append(record)
    chosen = sorted(groups)[-last:] if last else sorted(groups)
    return [_merged(groups[place], baselines, period, streams) for place in chosen]


def _merged(
    group: Sequence[Record], baselines: Mapping[str, Baseline], period: Period, wanted: Collection[str] | None
) -> PeriodSummary:
    first = group[0]
    start_us, end_us = _bounds(first, period)
    baseline = baselines.get(first["baseline_digest"])
    reference = {} if baseline is None else {stream.name: stream.counts for stream in baseline.streams}
    sums: dict[str, Counts] = {}
    facts: dict[str, Record] = {}
    for record in group:
        for stream in record["streams"]:
            name = stream["name"]
            if wanted is not None and name not in wanted:
                continue
            counts = np.array(stream["counts"], dtype=np.int64)
            sums[name] = sums[name] + counts if name in sums else counts
            facts.setdefault(name, stream)
    streams = []
    for name, counts in sums.items():
        effects = facts[name]["effects"] if len(group) == 1 else _effects(counts, reference.get(name))
        streams.append(StreamCounts(name, facts[name]["role"], counts, effects))
    return PeriodSummary(
        deployment_id=first["deployment_id"],
        model_version=first["model_version"],
        baseline_digest=first["baseline_digest"],
        start_us=start_us,
        end_us=end_us,
        status="final" if all(record["status"] == "final" for record in group) else "provisional",
        windows=len({record["window_start_us"] for record in group}),
        rows=sum(record["rows"] for record in group),
        streams=streams,
    )


def _effects(counts: Counts, reference: Counts | None) -> Mapping[str, float] | None:
    if reference is None or not counts.sum() or len(reference) != len(counts):
        return None
    return effect_sizes(counts[None, :], reference_probabilities(reference)[None, :])[0]


def _bounds(record: Record, period: Period) -> tuple[int, int]:
    """Start and end of the period a window belongs to, microseconds since 1970 UTC."""
    if period == "window":
        return record["window_start_us"], record["window_end_us"]
    moment = _EPOCH + dt.timedelta(microseconds=record["window_start_us"])
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return _us(day), _us(day + dt.timedelta(days=1))
    if period == "week":
        monday = day - dt.timedelta(days=day.weekday())
        return _us(monday), _us(monday + dt.timedelta(days=7))
    month = day.replace(day=1)
    return _us(month), _us((month + dt.timedelta(days=32)).replace(day=1))


def _us(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def document(summary: PeriodSummary) -> dict[str, Any]:
    """A summary for JSON."""
    return {
        "deployment": summary.deployment_id,
        "version": summary.model_version,
        "baseline_digest": summary.baseline_digest,
        "start_us": summary.start_us,
        "end_us": summary.end_us,
        "status": summary.status,
        "windows": summary.windows,
        "rows": summary.rows,
        "streams": [
            {"stream": s.name, "role": s.role, "counts": s.counts.tolist(), "effects": s.effects}
            for s in summary.streams
        ],
    }
