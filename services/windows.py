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
from services.deployments.baselines import read_baselines
from services.kafka import read_to_end
from streams.baseline import ASSOCIATION_PREFIX, Baseline
from streams.blocks import compile_block
from streams.counting import blocks_of
from streams.effects import EffectSizes, effect_sizes
from streams.statistics.association import cramers_v

Period = Literal["window", "day", "week", "month"]
PERIODS: tuple[Period, ...] = ("window", "day", "week", "month")
Counts = NDArray[np.int64]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


StreamKey = tuple[str, str]
"""Name and segment: a segment's stream has its parent's name."""

_Place = tuple[int, str, str, str]
"""Start of the period, deployment, version, digest of the baseline."""

_AT_ONCE = 4096
"""Streams whose intervals are computed together: a year of hours is seconds of work, and so never gigabytes."""


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """One stream in one period.

    Attributes:
        name: As in the baseline.
        segment: The part of the traffic it is about; empty for all.
        role: As in the baseline.
        counts: int64[K].
        effects: How far they are from the baseline, with intervals where the baseline is known; None where nothing is.
        importance: Association of the feature with the prediction, 0 to 1; None where it is not watched.
    """

    name: str
    segment: str
    role: str
    counts: Counts
    effects: EffectSizes | None
    importance: float | None

    @property
    def label(self) -> str:
        """Its name and segment, for people."""
        return f"{self.name} [{self.segment}]" if self.segment else self.name


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
    return latest_records(settings, deployment_id, "WindowSummary", version=version, from_us=from_us, to_us=to_us)


def latest_records(
    settings: KafkaSettings,
    deployment_id: str,
    name: str,
    *,
    version: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
) -> list[Record]:
    """What is on the topic of windows under one record name, the latest revision of each, in order of their start.

    Args:
        settings: How to reach Kafka.
        deployment_id: The deployment.
        name: ``WindowSummary``, ``PerformanceWindow`` or ``HumilityWindow``.
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
            found, record = decode(message.value())
        except CodecError:
            continue  # not ours to judge here: the other windows stand
        if found != name:
            continue
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
    return {digest: stored.baseline for digest, stored in read_baselines(settings, deployment_id).items()}


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
        baselines: By digest. Without its baseline a window has the effects it came with, without intervals, and those
            of several windows are unknown.
        period: What to add up to.
        streams: These only.
        last: The last so many periods only.
    """
    groups: dict[_Place, list[Record]] = {}
    for record in records:
        start_us, _ = period_bounds(record, period)
        place = (start_us, record["deployment_id"], record["model_version"], record["baseline_digest"])
        groups.setdefault(place, []).append(record)
    chosen = sorted(groups)[-last:] if last else sorted(groups)
    sums = {place: _sums(groups[place], streams) for place in chosen}
    effects = _effects(sums, baselines)
    return [_summary(place, groups[place], period, sums[place], effects) for place in chosen]


def _sums(group: Sequence[Record], wanted: Collection[str] | None) -> dict[StreamKey, Counts]:
    sums: dict[StreamKey, Counts] = {}
    for record in group:
        for stream in record["streams"]:
            if wanted is not None and stream["name"] not in wanted:
                continue
            key = (stream["name"], stream["segment"])
            counts = np.array(stream["counts"], dtype=np.int64)
            sums[key] = sums[key] + counts if key in sums else counts
    return sums


def _summary(
    place: _Place,
    group: Sequence[Record],
    period: Period,
    sums: Mapping[StreamKey, Counts],
    effects: Mapping[tuple[_Place, StreamKey], EffectSizes | None],
) -> PeriodSummary:
    start_us, deployment_id, model_version, digest = place
    facts = {(s["name"], s["segment"]): s for record in group for s in record["streams"]}
    alone = len(group) == 1  # then what came with the window stands without its baseline too
    return PeriodSummary(
        deployment_id=deployment_id,
        model_version=model_version,
        baseline_digest=digest,
        start_us=start_us,
        end_us=period_bounds(group[0], period)[1],
        status="final" if all(record["status"] == "final" for record in group) else "provisional",
        windows=len({record["window_start_us"] for record in group}),
        rows=sum(record["rows"] for record in group),
        streams=[
            StreamCounts(
                name=key[0],
                segment=key[1],
                role=facts[key]["role"],
                counts=counts,
                effects=effects.get((place, key), facts[key]["effects"] if alone else None),
                importance=facts[key]["importance"] if alone else _importance(key, group),
            )
            for key, counts in sums.items()
        ],
    )


def _effects(
    sums: Mapping[_Place, Mapping[StreamKey, Counts]], baselines: Mapping[str, Baseline]
) -> dict[tuple[_Place, StreamKey], EffectSizes | None]:
    """Effect sizes with their intervals of every stream in every period that has its baseline, many at once."""
    found: dict[tuple[_Place, StreamKey], EffectSizes | None] = {}
    for digest, baseline in baselines.items():
        places = [place for place in sums if place[-1] == digest]
        for streams in blocks_of(baseline.streams).values() if places else ():
            independence = compile_block(streams).independence
            asked = [
                (place, key, s)
                for place in places
                for s, stream in enumerate(streams)
                if (key := (stream.name, stream.segment)) in sums[place]
                and sums[place][key].shape == stream.counts.shape
            ]
            for start in range(0, len(asked), _AT_ONCE):
                some = asked[start : start + _AT_ONCE]
                sizes = effect_sizes(
                    np.array([sums[place][key] for place, key, _ in some]),
                    [streams[s] for _, _, s in some],
                    independence[[s for _, _, s in some]],
                    intervals=True,
                )
                found |= {(place, key): size for (place, key, _), size in zip(some, sizes, strict=True)}
    return found


def _importance(key: StreamKey, group: Sequence[Record]) -> float | None:
    """Cramér's V of the summed table of a feature and the prediction: the mean of the windows' would be another."""
    name, segment = key
    if segment:
        return None
    association = ASSOCIATION_PREFIX + name
    tables = [s["counts"] for record in group for s in record["streams"] if s["name"] == association]
    if not tables:
        return None
    found = float(cramers_v(np.sum(tables, axis=0)))
    return found if np.isfinite(found) else None


def period_bounds(record: Record, period: Period) -> tuple[int, int]:
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
            {
                "stream": s.name,
                "segment": s.segment,
                "role": s.role,
                "counts": s.counts.tolist(),
                "effects": s.effects,
                "importance": s.importance,
            }
            for s in summary.streams
        ],
    }
