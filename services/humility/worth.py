"""What predictions were worth by what was decided of them: accuracy windows, added up for a report on humility.

Only what depends on no score bins is kept (errors, losses, values, coverage), so windows of different baselines add up
exactly, whatever bins they have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.codec import Record
from driftline.humility.rules import ACTIONS, ANSWERED
from services.humility.counts import in_force_at, stretch_of
from services.performance.edges import SCORE_AXES
from services.performance.windows import FINAL, Span, UnreadableWindowError, layout_of, span_of
from services.windows import Period
from streams.outcomes.decided import DECISION_PARTS, SERVED, SERVED_PART, is_of_humility, rule_of, rule_part
from streams.specification import DeploymentSpec
from streams.statistics.performance.fields import WEIGHTED
from streams.statistics.performance.metrics import Metric, metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout
from streams.statistics.performance.sums import Sums, from_fields, merge, subtract

DECIDED = "decided"
"""Every prediction that was judged by humility rules, by what the model said: what there would be without humility."""

AS_SERVED = "as served"
"""What was served: the model's answers, and what stood in the place of those that were overridden."""

ERROR, MEAN_ABSOLUTE_ERROR = "error", "mae"


@dataclass(frozen=True, eq=False, slots=True)
class Worth:
    """What is known of the outcomes of a time.

    Attributes:
        layout: Of the sums, without bins.
        parts: Sums by name: those of ``streams.outcomes.decided``, :data:`DECIDED`, :func:`in_force` of each rule, and
            parts of segmentations.
        spans: The accuracy windows, by partition.
        final: Whether all of them are.
        baselines: Digests of the baselines that they were counted against.
    """

    layout: PerformanceLayout
    parts: Mapping[str, Sums]
    spans: tuple[Span, ...] = ()
    final: bool = True
    baselines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartWorth:
    """What the predictions of one part turned out to be worth.

    Attributes:
        predictions: Their number.
        resolved: Of these, with an outcome.
        loss: Share of wrong ones, or mean absolute error; None where the task has neither.
        value: Mean value of a prediction; None where no values are declared.
        wrong: Of the outcomes whose prediction had a class, the wrong ones; None for numbers.
        right: The others.
    """

    predictions: int
    resolved: int
    loss: Metric | None
    value: Metric | None = None
    wrong: int | None = None
    right: int | None = None

    @property
    def known(self) -> float | None:
        """Share of predictions with an outcome."""
        return self.resolved / self.predictions if self.predictions else None


def loss_name(task: str) -> str:
    """What is called an error of a task: ``error``, ``mae``, or empty where outcomes are only counted."""
    return {BINARY: ERROR, MULTICLASS: ERROR, REGRESSION: MEAN_ABSOLUTE_ERROR}.get(task, "")


def in_force(rule: str) -> str:
    """Name of the part with every prediction that was decided while a rule was in force."""
    return f"rule:{rule}=in force"


def elsewhere(worth: Worth, rule: str) -> Sums | None:
    """Of the predictions decided while a rule was in force, those on which it did not fire; None without any."""
    whole, fired = worth.parts.get(in_force(rule)), worth.parts.get(rule_part(rule))
    return whole if whole is None or fired is None else subtract(whole, fired)


def part_worth(layout: PerformanceLayout, sums: Sums | None) -> PartWorth:
    """The numbers of a part; of no rows where it is None."""
    if sums is None:
        return PartWorth(0, 0, None)
    found = metrics(layout, sums)
    name = loss_name(layout.task)
    loss = complement(found["accuracy"]) if name == ERROR else found.get(name)
    wrong = right = None
    if name == ERROR:
        confusion = sums["confusion"]
        right = int(np.trace(confusion))
        wrong = int(confusion.sum()) - right
    return PartWorth(int(sums["predictions"]), int(sums["resolved"]), loss, found.get("value"), wrong, right)


def complement(metric: Metric) -> Metric:
    """One minus a share."""
    value, low, high = (None if each is None else 1 - each for each in (metric.value, metric.high, metric.low))
    return Metric(value, low, high, metric.rows)


def named_part(worth: Worth, name: str) -> PartWorth:
    """The numbers of a part by its name, :data:`AS_SERVED` among them; of no rows where there is none."""
    if name != AS_SERVED:
        return part_worth(worth.layout, worth.parts.get(name))
    found = [worth.parts[part] for part in (DECISION_PARTS[ANSWERED], SERVED_PART) if part in worth.parts]
    return part_worth(worth.layout, merge(found) if found else None)


def decision_names() -> tuple[tuple[str, str], ...]:
    """What a report has a line for: its name, and the part."""
    answered, overridden, refused, routed = zip(ACTIONS, DECISION_PARTS, strict=True)
    return answered, overridden, (SERVED, SERVED_PART), refused, routed


def coverage_of(worth: Worth) -> tuple[Metric, Metric] | None:
    """How often intervals or sets held the actual value, adaptive and static; None where none were issued."""
    sums = worth.parts.get(DECIDED)
    if sums is None or not worth.layout.coverage_score:
        return None
    found = metrics(worth.layout, sums)
    adaptive, static = found["adaptive_coverage"], found["static_coverage"]
    return (adaptive, static) if adaptive.rows or static.rows else None


def added(worths: Sequence[Worth]) -> Worth:
    """Times added up, at least one; of one layout."""
    names = sorted({name for worth in worths for name in worth.parts})
    return Worth(
        layout=worths[0].layout,
        parts={name: merge([worth.parts[name] for worth in worths if name in worth.parts]) for name in names},
        spans=tuple(span for worth in worths for span in worth.spans),
        final=all(worth.final for worth in worths),
        baselines=tuple(sorted({digest for worth in worths for digest in worth.baselines})),
    )


@dataclass(frozen=True, eq=False, slots=True)
class WorthByPeriod:
    """Accuracy windows by the start and end of their period, in order.

    ``left_out``: Windows of another task or of other classes than the latest one, which add up to nothing.
    """

    periods: Mapping[tuple[int, int], Worth]
    left_out: int = 0


def read_worth(
    records: Sequence[Record],
    humility: Sequence[Record],
    spec: DeploymentSpec,
    period: Period,
    window_us: int,
    *,
    segments: bool = False,
) -> WorthByPeriod:
    """Read the accuracy windows of one version.

    Args:
        records: ``PerformanceWindow``, in order, each window and partition once.
        humility: ``HumilityWindow`` of the same version: they say when which rules were in force.
        spec: The deployment.
        period: What to add up to.
        window_us: Length of the windows, for ``window``.
        segments: Whether the parts of segmentations are read, too.

    Raises:
        UnreadableWindowError: A record's numbers do not fit its layout.
    """
    if not records:
        return WorthByPeriod({})
    kind = _kind(records[-1])
    chosen = [record for record in records if _kind(record) == kind]
    layouts = [layout_of(record, spec) for record in chosen]
    target = common_layout(layouts)
    rules = in_force_at(humility)
    pieces: dict[tuple[int, int], list[Worth]] = {}
    for record in chosen:
        worth = _worth(record, target, spec, _rules_of(record, rules), segments=segments)
        waiting = pieces.setdefault(stretch_of(record, period, window_us), [])
        waiting.append(worth)
        if len(waiting) >= _AT_ONCE:
            waiting[:] = [added(waiting)]
    periods = {place: added(pieces[place]) for place in sorted(pieces)}
    return WorthByPeriod(periods, len(records) - len(chosen))


_AT_ONCE = 64
"""So many windows are in memory before they are added up."""


def common_layout(layouts: Sequence[PerformanceLayout]) -> PerformanceLayout:
    """What all of some layouts of one task and the same classes keep, without bins."""
    last = layouts[-1]
    return dataclasses.replace(
        last,
        score_edges=np.zeros(0),
        age_edges_us=np.zeros(0, np.int64),
        values=last.values if all(one.values is not None for one in layouts) else None,
        quantile=None,
        coverage_score=next((one.coverage_score for one in layouts if one.coverage_score), ""),
    )


def _kind(record: Record) -> tuple[str, tuple[str, ...]]:
    return record["task"], tuple(record["classes"])


def _rules_of(
    record: Record, rules: Mapping[tuple[str, int], list[tuple[int, int, Collection[str]]]]
) -> dict[str, None]:
    """The rules that were in force in an accuracy window: those of the humility windows of its time, and that fired."""
    start, end = record["window_start_us"], record["window_end_us"]
    spans = rules.get((record["model_version"], record["partition"]), [])
    named = [name for first, last, names in spans if first < end and last > start for name in names]
    fired = [name for part in record["parts"] if (name := rule_of(part["segment"])) is not None]
    return dict.fromkeys([*named, *fired])


def _worth(
    record: Record,
    target: PerformanceLayout,
    spec: DeploymentSpec,
    rules: Iterable[str],
    *,
    segments: bool,
) -> Worth:
    try:
        parts = {
            part["segment"]: from_fields(target, _without_bins(part["counts"]), _without_bins(part["sums"]))
            for part in record["parts"]
            if part["segment"] and (segments or is_of_humility(part["segment"]))
        }
    except (ValueError, KeyError) as error:
        raise UnreadableWindowError(
            f"the accuracy window {record['id'][:80]!r} of {record['deployment_id']!r} on the topic of windows cannot "
            f"be read: {error}. It was written by another release, or not by the streams."
        ) from error
    return Worth(
        layout=target,
        parts=with_totals(parts, rules),
        spans=(span_of(record, spec),),
        final=record["status"] == FINAL,
        baselines=(record["baseline_digest"],),
    )


_BINNED = {"ages", *SCORE_AXES}
_OF_BINS = _BINNED | {f"{WEIGHTED}{name}" for name in _BINNED}
"""Sums by bin: half a millisecond a part, and nothing that is told here."""


def _without_bins(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in numbers.items() if name not in _OF_BINS}


def with_totals(parts: Mapping[str, Sums], rules: Iterable[str]) -> dict[str, Sums]:
    """Parts of one time in which the same rules were in force, with :data:`DECIDED` and :func:`in_force` of each."""
    decided = [parts[name] for name in DECISION_PARTS if name in parts]
    if not decided:
        return dict(parts)
    every = merge(decided)
    return {**parts, DECIDED: every, **{in_force(rule): every for rule in rules}}
