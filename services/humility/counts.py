"""Humility windows as they are read: how often each rule fired and acted, added up over partitions and periods."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from driftline.codec import Record
from driftline.humility.rules import ACTIONS
from driftline.settings import KafkaSettings
from services.windows import Period, latest_records, period_bounds

ALL = ""
"""The part that is all of the traffic."""

RECORD_NAME = "HumilityWindow"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by what became of them. Rules are counted by name, over all policies that had them.

    Attributes:
        rows: Rows.
        decided: Rows that came with a decision of their publisher.
        stale: Of these, decided by rules that were not in force any more.
        disagreeing: Of these, decided otherwise than the same rules say.
        actions: Rows answered, overridden, refused and routed.
        judged: Per rule the rows of the time in which it was in force.
        fired: Per rule the rows it fired on.
        acted: Per rule the rows on which it was the one that acted.
    """

    rows: int = 0
    decided: int = 0
    stale: int = 0
    disagreeing: int = 0
    actions: tuple[int, ...] = (0,) * len(ACTIONS)
    judged: Mapping[str, int] = field(default_factory=dict)
    fired: Mapping[str, int] = field(default_factory=dict)
    acted: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            rows=self.rows + other.rows,
            decided=self.decided + other.decided,
            stale=self.stale + other.stale,
            disagreeing=self.disagreeing + other.disagreeing,
            actions=tuple(a + b for a, b in zip(self.actions, other.actions, strict=True)),
            judged=_added(self.judged, other.judged),
            fired=_added(self.fired, other.fired),
            acted=_added(self.acted, other.acted),
        )

    def share(self, rows: int) -> float | None:
        """Rows as a share of all; None where there are none."""
        return rows / self.rows if self.rows else None


def humility_windows(
    settings: KafkaSettings,
    deployment_id: str,
    *,
    version: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
) -> list[Record]:
    """The ``HumilityWindow`` records of a deployment, the latest revision of each, in order of their start.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    return latest_records(settings, deployment_id, RECORD_NAME, version=version, from_us=from_us, to_us=to_us)


def counts_of(record: Record, part: str = ALL) -> Counts:
    """What one window counted in a part of the traffic; nothing where it does not have the part."""
    found = next((each for each in record["parts"] if each["segment"] == part), None)
    if found is None:
        return Counts()
    rules = record["rules"]
    return Counts(
        rows=found["rows"],
        decided=found["decided"],
        stale=found["stale"],
        disagreeing=found["disagreeing"],
        actions=tuple(found["actions"]),
        judged=dict.fromkeys(rules, found["rows"]),
        fired=dict(zip(rules, found["fired"], strict=True)),
        acted=dict(zip(rules, found["acted"], strict=True)),
    )


def total(records: Iterable[Record], part: str = ALL) -> Counts:
    """Windows added up."""
    return sum((counts_of(record, part) for record in records), Counts())


def parts_of(records: Iterable[Record]) -> list[str]:
    """The parts of the traffic that windows have, without all of it, in alphabetical order."""
    return sorted({each["segment"] for record in records for each in record["parts"]} - {ALL})


def versions_of(records: Iterable[Record]) -> list[str]:
    """Model versions, in the order in which their windows come."""
    return list(dict.fromkeys(record["model_version"] for record in records))


def policies_of(records: Iterable[Record]) -> list[str]:
    """Digests of the rules and fits that were in force, in the order in which they came."""
    return list(dict.fromkeys(record["policy"] for record in records))


def by_period(records: Iterable[Record], period: Period, window_us: int) -> dict[tuple[int, int], list[Record]]:
    """Windows by the start and end of the period in which they start, in order; see :func:`stretch_of`."""
    found: dict[tuple[int, int], list[Record]] = {}
    for record in records:
        found.setdefault(stretch_of(record, period, window_us), []).append(record)
    return dict(sorted(found.items()))


def stretch_of(record: Record, period: Period, window_us: int) -> tuple[int, int]:
    """The period that a window of any kind belongs to.

    Accuracy windows and humility windows may have different lengths: ``window`` takes both to windows of ``window_us``.
    """
    if period != "window":
        return period_bounds(record, period)
    start = record["window_start_us"] // window_us * window_us
    return start, start + window_us


def in_force_at(records: Iterable[Record]) -> Mapping[tuple[str, int], list[tuple[int, int, Collection[str]]]]:
    """When which rules were in force: by version and partition, start and end of a time, and the rules' names."""
    found: dict[tuple[str, int], list[tuple[int, int, Collection[str]]]] = {}
    for record in records:
        place = record["model_version"], record["partition"]
        span = record["window_start_us"], record["window_end_us"], tuple(record["rules"])
        known = found.setdefault(place, [])
        last = known[-1] if known else None
        if last is not None and last[2] == span[2] and last[0] <= span[0] <= last[1]:
            known[-1] = last[0], max(last[1], span[1]), last[2]  # goes on as before
        else:
            known.append(span)
    return found


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in dict.fromkeys([*one, *other])}
