"""The accuracy windows on the topic: the latest revision of each, merged over partitions and calendar periods.

What a window holds are sums, so merging is adding and any grouping gives the same numbers. Windows whose bins were
those of different baselines are merged in coarser bins, those of the edges that all of them have: what depends on no
edge (the confusion matrix, losses, errors) is as exact as ever; what depends on them is not shown of such windows
(:attr:`Window.mixed_edges`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.codec import Record
from driftline.humility.fit import ABSOLUTE_RESIDUAL, ONE_MINUS_PROBABILITY
from driftline.settings import KafkaSettings
from services.errors import ServicesError
from services.performance.edges import coarsened, common_edges
from services.windows import Period, latest_records, period_bounds
from streams.outcomes.decided import DECISION_PARTS, SERVED_PART, decision_of, is_of_humility, rule_of
from streams.specification import DeploymentSpec
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout
from streams.statistics.performance.sums import Sums, from_fields, merge

ALL = ""
"""The part that is all of the traffic."""

FINAL, PROVISIONAL = "final", "provisional"


class UnreadableWindowError(ServicesError):
    """A window's numbers do not fit its own layout."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is known of one window on one partition: up to ``clock_us``, of so many predictions.

    ``final_at_us`` is the event time at which the horizons of all of them have passed, and the time after that in which
    outcomes may still be published.
    """

    start_us: int
    end_us: int
    clock_us: int
    horizon_us: int
    final_at_us: int
    predictions: int


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """Predictions of one version in one period of event time, with what is known of their outcomes.

    Attributes:
        deployment_id: The deployment.
        model_version: The version that predicted.
        role: What it was, ``champion`` or ``challenger``.
        start_us: Start of the period, microseconds since 1970 UTC.
        end_us: Its end, exclusive.
        status: ``final`` once every window in it is, else ``provisional``.
        windows: Their number.
        layout: What the sums are.
        parts: Sums by part of the traffic, ``SEGMENTATION=VALUE``; empty for all of it. Those of the humility rules
            (:func:`decision_parts`, :func:`rule_parts`) are among them.
        spans: The windows it was merged from, by partition.
        baselines: Digests of the baselines whose bins they had.
        mixed_edges: Whether the bins are merged ones: nothing that depends on them may be shown.
        corrections: Outcomes that replaced an earlier one.
        superseded: Outcomes that came after a later one, or said the same again.
    """

    deployment_id: str
    model_version: str
    role: str
    start_us: int
    end_us: int
    status: str
    windows: int
    layout: PerformanceLayout
    parts: Mapping[str, Sums]
    spans: tuple[Span, ...]
    baselines: tuple[str, ...]
    mixed_edges: bool
    corrections: int
    superseded: int

    @property
    def final_at_us(self) -> int:
        """Event time at which the last of it is final."""
        return max(span.final_at_us for span in self.spans)

    @property
    def clock_us(self) -> int:
        """Event time up to which all of it is known."""
        return min(span.clock_us for span in self.spans)


def performance_windows(
    settings: KafkaSettings,
    spec: DeploymentSpec,
    *,
    by: Period = "window",
    version: str | None = None,
    role: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
    parts: Collection[str] | None = None,
) -> list[Window]:
    """The accuracy windows of a deployment, in order of their start, version and role.

    Args:
        settings: How to reach Kafka.
        spec: The deployment.
        by: What to add up to, UTC; a window belongs to the period in which it starts.
        version: This model version only.
        role: This role only.
        from_us: Windows that end after this event time only.
        to_us: Windows that start before this event time only.
        parts: These parts of the traffic only, and all of it; None for every part.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
        UnreadableWindowError: A record's numbers do not fit its layout.
    """
    groups = grouped_windows(settings, spec, by=by, version=version, role=role, from_us=from_us, to_us=to_us)
    return [merge_group(group, spec, parts) for group in groups]


def grouped_windows(
    settings: KafkaSettings,
    spec: DeploymentSpec,
    *,
    by: Period = "window",
    version: str | None = None,
    role: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
) -> list[WindowRecords]:
    """The records of :func:`performance_windows`, for whoever needs few of their windows or parts.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    records = latest_records(
        settings, spec.deployment_id, "PerformanceWindow", version=version, from_us=from_us, to_us=to_us
    )
    return group_records(records, by, role=role)


@dataclass(frozen=True, eq=False, slots=True)
class WindowRecords:
    """The records that make up one window, not yet added up: reading a part's sums takes about a millisecond.

    Attributes:
        key: Start, version, role, end, task and classes, by which windows are in order.
        records: ``PerformanceWindow``, each window and partition once.
    """

    key: tuple[Any, ...]
    records: tuple[Record, ...]

    @property
    def start_us(self) -> int:
        """Start of the period."""
        return int(self.key[0])

    @property
    def parts(self) -> set[str]:
        """The parts of the traffic that it has."""
        return {part["segment"] for record in self.records for part in record["parts"]}


def group_records(records: Iterable[Record], by: Period = "window", *, role: str | None = None) -> list[WindowRecords]:
    """Which ``PerformanceWindow`` records, each window once, belong together, in order of start, version and role.

    Windows of other tasks or classes (an earlier specification) have nothing in common with the others and are kept
    apart. A version's role in a window is what the partition that knows most says.
    """
    known = list(records)
    roles = _roles(known)
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in known:
        played = roles[_window_key(record)]
        if role is None or played == role:
            start_us, end_us = period_bounds(record, by)
            kind = (record["task"], tuple(record["classes"]))
            groups.setdefault((start_us, record["model_version"], played, end_us, *kind), []).append(record)
    return [WindowRecords(key, tuple(groups[key])) for key in sorted(groups)]


def merge_group(group: WindowRecords, spec: DeploymentSpec, parts: Collection[str] | None = None) -> Window:
    """Add the records of a window up.

    Args:
        group: The records.
        spec: The deployment.
        parts: These parts of the traffic only, and all of it; None for every part.

    Raises:
        UnreadableWindowError: A record's numbers do not fit its layout.
    """
    return _merged(group.records, spec, group.key, parts)


def merge_records(
    records: Iterable[Record], spec: DeploymentSpec, by: Period = "window", *, role: str | None = None
) -> list[Window]:
    """Merge ``PerformanceWindow`` records, each window once, as :func:`group_records` has them.

    Raises:
        UnreadableWindowError: A record's numbers do not fit its layout.
    """
    return [merge_group(group, spec) for group in group_records(records, by, role=role)]


def layout_of(record: Record, spec: DeploymentSpec) -> PerformanceLayout:
    """The layout of a record's sums: its own classes and edges, thresholds and values of the specification."""
    outcomes, sums = spec.outcomes, record["parts"][0]["sums"] if record["parts"] else {}
    scores = ABSOLUTE_RESIDUAL if record["task"] == REGRESSION else ONE_MINUS_PROBABILITY
    classes = tuple(record["classes"])
    values = None
    if "value" in sums and record["task"] in (BINARY, MULTICLASS):
        values = np.zeros((len(classes), len(classes)))  # that there are any decides what is kept
        at = {name: code for code, name in enumerate(classes)}
        for each in outcomes.values if outcomes else ():
            if each.predicted in at and each.actual in at:
                values[at[each.predicted], at[each.actual]] = each.value
    quantile = (outcomes.quantile if outcomes else None) or 0.5
    return PerformanceLayout(
        task=record["task"],
        classes=classes,
        score_edges=np.array(record["score_edges"], np.float64),
        age_edges_us=np.array(record["age_edges_us"], np.int64),
        threshold=0.5 if outcomes is None else outcomes.threshold,
        values=values,
        quantile=quantile if "quantile_loss" in sums else None,
        coverage_score=scores if "quantile_sum" in sums else "",  # which score of numbers it is changes no sum's name
    )


def parts_of(windows: Iterable[Window | WindowRecords], segment: str) -> list[str]:
    """The parts of a segmentation that the windows have, ``SEGMENTATION=VALUE``, in alphabetical order."""
    names = {part for window in windows for part in window.parts if part.startswith(f"{segment}=")}
    return sorted(part for part in names if not is_of_humility(part))


def segments_of(windows: Iterable[Window | WindowRecords]) -> list[str]:
    """The segmentations that the windows have parts of, in alphabetical order."""
    names = {part for window in windows for part in window.parts if part != ALL}
    return sorted({part.split("=", 1)[0] for part in names if not is_of_humility(part)})


def decision_parts(window: Window) -> dict[str, Sums]:
    """What the predictions of each decision were worth: those ``answered``, ``overridden``, ``refused``, ``routed``.

    They are judged by what the model said; ``overridden (served)`` are those overridden again, judged by what was
    served instead. A decision that was never taken is left out.
    """
    order = {name: at for at, name in enumerate((*DECISION_PARTS[:2], SERVED_PART, *DECISION_PARTS[2:]))}
    names = sorted((part for part in window.parts if part in order), key=order.__getitem__)
    return {decision_of(part) or "": window.parts[part] for part in names}


def rule_parts(window: Window) -> dict[str, Sums]:
    """What the predictions were worth on which each rule fired, dry runs among them, by the rule's name."""
    return {name: window.parts[part] for part in sorted(window.parts) if (name := rule_of(part)) is not None}


def _window_key(record: Record) -> tuple[Any, ...]:
    return record["model_version"], record["window_start_us"], record["window_end_us"]


def _roles(records: Sequence[Record]) -> dict[tuple[Any, ...], str]:
    roles: dict[tuple[Any, ...], str] = {}
    for record in sorted(records, key=lambda r: (r["clock_us"], r["revision"], r["partition"])):
        roles[_window_key(record)] = record["role"]
    return roles


def _merged(
    group: Sequence[Record], spec: DeploymentSpec, key: tuple[Any, ...], wanted: Collection[str] | None
) -> Window:
    start_us, version, role, end_us = key[:4]
    layouts = [layout_of(record, spec) for record in group]
    scores, ages = (common_edges([getattr(one, name) for one in layouts]) for name in ("score_edges", "age_edges_us"))
    # what a period keeps is what all of its windows kept
    target = dataclasses.replace(
        layouts[-1],
        score_edges=scores,
        age_edges_us=ages,
        values=layouts[-1].values if all(one.values is not None for one in layouts) else None,
        quantile=layouts[-1].quantile if all(one.quantile is not None for one in layouts) else None,
        # windows without humility have no row with a quantile, and say nothing else of coverage
        coverage_score=next((one.coverage_score for one in layouts if one.coverage_score), ""),
    )
    parts: dict[str, list[Sums]] = {}
    for record, layout in zip(group, layouts, strict=True):
        for name, sums in _parts(record, layout, wanted).items():
            parts.setdefault(name, []).append(coarsened(layout, sums, target))
    merged = {name: merge(parts[name]) for name in sorted(parts)}
    return Window(
        deployment_id=group[0]["deployment_id"],
        model_version=version,
        role=role,
        start_us=start_us,
        end_us=end_us,
        status=FINAL if all(record["status"] == FINAL for record in group) else PROVISIONAL,
        windows=len({record["window_start_us"] for record in group}),
        layout=target,
        parts=merged,
        spans=tuple(span_of(record, spec) for record in group),
        baselines=tuple(sorted({record["baseline_digest"] for record in group})),
        mixed_edges=any(len(one.score_edges) != len(scores) for one in layouts),
        corrections=sum(record["corrections"] for record in group),
        superseded=sum(record["superseded"] for record in group),
    )


def _parts(record: Record, layout: PerformanceLayout, wanted: Collection[str] | None) -> dict[str, Sums]:
    try:
        return {
            part["segment"]: from_fields(layout, part["counts"], part["sums"])
            for part in record["parts"]
            if wanted is None or part["segment"] == ALL or part["segment"] in wanted
        }
    except (ValueError, KeyError) as error:
        raise UnreadableWindowError(
            f"the accuracy window {record['id'][:80]!r} of {record['deployment_id']!r} on the topic of windows cannot "
            f"be read: {error}. It was written by another release, or not by the streams."
        ) from error


def span_of(record: Record, spec: DeploymentSpec) -> Span:
    """What a ``PerformanceWindow`` record says is known."""
    whole = next((part["counts"].get("predictions", [0]) for part in record["parts"] if part["segment"] == ALL), [0])
    outcomes = spec.outcomes
    lateness_ms = 0 if outcomes is None else outcomes.final_after_ms - outcomes.horizon_ms
    return Span(
        start_us=record["window_start_us"],
        end_us=record["window_end_us"],
        clock_us=record["clock_us"],
        horizon_us=record["horizon_ms"] * 1000,
        final_at_us=record["window_end_us"] + (record["horizon_ms"] + lateness_ms) * 1000,
        predictions=int(whole[0]),
    )
