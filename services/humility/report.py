"""Did humility help? What was decided beside what it turned out to be worth, of each version, period and rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from driftline.codec import Record
from driftline.humility.rules import OVERRIDDEN, OVERRIDE, RECORD, Rule
from driftline.settings import KafkaSettings
from services.humility.counts import (
    Counts,
    by_period,
    humility_windows,
    parts_of,
    policies_of,
    stretch_of,
    total,
    versions_of,
)
from services.humility.verdict import Standard, Verdict, judge
from services.humility.worth import (
    AS_SERVED,
    DECIDED,
    PartWorth,
    Worth,
    WorthByPeriod,
    added,
    decision_names,
    elsewhere,
    named_part,
    part_worth,
    read_worth,
)
from services.performance.maturity import delay_curve, expected_coverage
from services.windows import Period, baselines_by_digest, latest_records
from streams.baseline import Baseline
from streams.outcomes.decided import DECISION_PARTS, SERVED_PART, rule_part
from streams.specification import DeploymentSpec
from streams.statistics.performance.metrics import Metric
from streams.statistics.performance.pairs import REGRESSION

GONE = "gone"
"""What a rule does that the specification does not have any more."""


@dataclass(frozen=True, eq=False, slots=True)
class Stretch:
    """A period of event time.

    Attributes:
        start_us: Start, microseconds since 1970 UTC.
        end_us: End, exclusive.
        counts: What the rules did.
        worth: What is known of outcomes; None where nothing is.
        usual: Share of predictions that had their outcome in the reference when they were as old; None where there is
            no reference, or are several.
    """

    start_us: int
    end_us: int
    counts: Counts
    worth: Worth | None
    usual: float | None = None

    @property
    def provisional(self) -> bool:
        """Whether outcomes may still come."""
        return self.worth is not None and not self.worth.final

    def part(self, name: str) -> PartWorth:
        """What a part was worth; see :func:`services.humility.worth.named_part`."""
        return PartWorth(0, 0, None) if self.worth is None else named_part(self.worth, name)


@dataclass(frozen=True, slots=True)
class Line:
    """One decision, or several together.

    Attributes:
        name: A decision, ``with humility`` or ``without humility``.
        rows: Predictions; None where they are counted with another line.
        worth: What is known of them.
    """

    name: str
    rows: int | None
    worth: PartWorth


WITH, WITHOUT = "with humility", "without humility"


def decision_lines(stretch: Stretch) -> list[Line]:
    """A line for each decision; then for all that was served, and for all that the model said."""
    actions = iter(stretch.counts.actions)
    lines = [
        Line(name, None if name.endswith(")") else next(actions), stretch.part(part))
        for name, part in decision_names()
    ]  # fmt: skip
    served = sum(stretch.counts.actions[:2])
    return [
        *lines,
        Line(WITH, served, stretch.part(AS_SERVED)),
        Line(WITHOUT, stretch.counts.rows, stretch.part(DECIDED)),
    ]


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule.

    Attributes:
        name: Its name.
        action: What it does: ``record``, ``override``, ``refuse``, ``route``, or ``gone`` if the specification in force
            does not have it.
        dry_run: Whether it is told of and never acts.
        judged: Rows of the time in which it was in force.
        fired: Of these, the rows on which it fired.
        acted: Of these, the rows on which it was the one that acted.
        where_fired: What the model's predictions were worth where it fired: the wrong ones are caught, the right ones
            are its cost.
        elsewhere: The same of all others of its time.
        verdict: What is to be done with it.
    """

    name: str
    action: str
    dry_run: bool
    judged: int
    fired: int
    acted: int
    where_fired: PartWorth
    elsewhere: PartWorth
    verdict: Verdict

    @property
    def stops(self) -> bool:
        """Whether it keeps predictions from being served."""
        return self.action not in (RECORD, GONE) and not self.dry_run


@dataclass(frozen=True, eq=False, slots=True)
class VersionReport:
    """The report on one version.

    Attributes:
        model_version: The version.
        task: Of the model.
        policies: Digests of the rules and fits that were in force.
        whole: All of the time.
        periods: What it was asked to be cut into, in order; one where it was not.
        months: Calendar months.
        rules: The rules in the order of the specification, then those it does not have any more.
        segments: By part of the traffic what the rules did, and what its predictions were worth, decided or not.
        standard: What rules are held to.
        left_out: Accuracy windows of another task or of other classes.
    """

    model_version: str
    task: str
    policies: tuple[str, ...]
    whole: Stretch
    periods: tuple[Stretch, ...]
    months: tuple[Stretch, ...]
    rules: tuple[RuleLine, ...]
    segments: tuple[tuple[str, Counts, PartWorth], ...]
    standard: Standard
    left_out: int

    @property
    def with_values(self) -> bool:
        """Whether it is declared what decisions are worth."""
        return self.whole.worth is not None and self.whole.worth.layout.values is not None

    @property
    def has_outcomes(self) -> bool:
        """Whether anything is known of outcomes of what was decided."""
        return self.whole.part(DECIDED).resolved > 0


def reports(
    settings: KafkaSettings,
    spec: DeploymentSpec,
    *,
    version: str | None = None,
    from_us: int | None = None,
    to_us: int | None = None,
    by: Period = "month",
    segments: bool = False,
) -> list[VersionReport]:
    """The reports on the versions that were decided by humility rules.

    Args:
        settings: How to reach Kafka.
        spec: The deployment.
        version: This version only.
        from_us: Windows that end after this event time only.
        to_us: Windows that start before this event time only.
        by: The periods of ``VersionReport.periods``.
        segments: Whether the parts of segmentations are told, too.

    Raises:
        ClusterError: Kafka does not answer, or a topic is missing.
        UnreadableWindowError: A record's numbers do not fit its layout.
    """
    counted = humility_windows(settings, spec.deployment_id, version=version, from_us=from_us, to_us=to_us)
    joined = (
        []
        if spec.outcomes is None
        else latest_records(
            settings, spec.deployment_id, "PerformanceWindow", version=version, from_us=from_us, to_us=to_us
        )
    )
    baselines = baselines_by_digest(settings, spec.deployment_id) if counted else {}
    return [
        report(
            spec,
            name,
            [record for record in counted if record["model_version"] == name],
            [record for record in joined if record["model_version"] == name],
            baselines,
            by=by,
            segments=segments,
        )
        for name in versions_of(counted)
    ]


def report(
    spec: DeploymentSpec,
    version: str,
    counted: Sequence[Record],
    joined: Sequence[Record],
    baselines: Mapping[str, Baseline],
    *,
    by: Period = "month",
    segments: bool = False,
) -> VersionReport:
    """The report on one version from its records.

    Args:
        spec: The deployment.
        version: The version.
        counted: Its ``HumilityWindow`` records, at least one, in order, each window once.
        joined: Its ``PerformanceWindow`` records.
        baselines: By digest.
        by: The periods.
        segments: Whether parts of segmentations are told.
    """
    window_us = 1000 * (spec.window_ms if spec.outcomes is None else spec.outcomes.window_ms)
    found = read_worth(joined, counted, spec, by, window_us, segments=segments)
    periods = _stretches(counted, found, by, window_us, baselines)
    worths = [each.worth for each in periods if each.worth is not None]
    worth = added(worths) if worths else None
    first, last = min(each["window_start_us"] for each in counted), max(each["window_end_us"] for each in counted)
    whole = Stretch(first, last, total(counted), worth, _usual(worth, baselines))
    standard = standard_of(spec)
    return VersionReport(
        model_version=version,
        task=spec.task,
        policies=tuple(policies_of(counted)),
        whole=whole,
        periods=periods,
        months=periods if by == "month" else _months(periods, baselines),
        rules=tuple(rule_lines(spec.humility.rules if spec.humility else (), whole.counts, worth, standard)),
        segments=tuple((part, total(counted, part), whole.part(part)) for part in parts_of(counted))
        if segments
        else (),
        standard=standard,
        left_out=found.left_out,
    )


def standard_of(spec: DeploymentSpec) -> Standard:
    """What the rules of a deployment are held to."""
    margin = 0.0 if spec.outcomes is None else spec.outcomes.margin_tv
    if spec.task == REGRESSION:
        return Standard(margin, relative=True)
    return Standard(margin, acceptable=None if spec.humility is None else spec.humility.guarantees.max_error)


def rule_lines(rules: Sequence[Rule], counts: Counts, worth: Worth | None, standard: Standard) -> list[RuleLine]:
    """A line for every rule that was in force: those of ``rules`` in their order, then the others."""
    by_name = {rule.name: rule for rule in rules}
    overriding = [rule.name for rule in rules if rule.action == OVERRIDE and counts.acted.get(rule.name)]
    gone = any(name not in by_name and acted for name, acted in counts.acted.items())
    alone = overriding[0] if len(overriding) == 1 and not gone else None
    return [
        _rule_line(name, by_name.get(name), counts, worth, standard, overrides_alone=name == alone)
        for name in dict.fromkeys([*by_name, *counts.judged])
        if name in counts.judged
    ]


def replaced(worth: Worth | None) -> tuple[Metric, Metric] | None:
    """The error of what was served in place of overridden predictions, and of these; None where it is not known."""
    if worth is None:
        return None
    instead, own = named_part(worth, SERVED_PART).loss, named_part(worth, DECISION_PARTS[OVERRIDDEN]).loss
    return None if instead is None or own is None else (instead, own)


def _rule_line(
    name: str, rule: Rule | None, counts: Counts, worth: Worth | None, standard: Standard, *, overrides_alone: bool
) -> RuleLine:
    fired = rest = PartWorth(0, 0, None)
    if worth is not None:
        fired = part_worth(worth.layout, worth.parts.get(rule_part(name)))
        rest = part_worth(worth.layout, elsewhere(worth, name))
    return RuleLine(
        name=name,
        action=GONE if rule is None else rule.action,
        dry_run=rule is not None and rule.dry_run,
        judged=counts.judged[name],
        fired=counts.fired.get(name, 0),
        acted=counts.acted.get(name, 0),
        where_fired=fired,
        elsewhere=rest,
        verdict=judge(fired.loss, rest.loss, standard, fired.value, replaced(worth) if overrides_alone else None),
    )


def _stretches(
    counted: Sequence[Record],
    found: WorthByPeriod,
    by: Period,
    window_us: int,
    baselines: Mapping[str, Baseline],
) -> tuple[Stretch, ...]:
    records = by_period(counted, by, window_us)
    return tuple(
        Stretch(*place, total(records.get(place, [])), worth := found.periods.get(place), _usual(worth, baselines))
        for place in sorted({*records, *found.periods})
        if place in records  # accuracy of the time before there were rules is not asked for
    )


def _months(periods: Sequence[Stretch], baselines: Mapping[str, Baseline]) -> tuple[Stretch, ...]:
    groups: dict[tuple[int, int], list[Stretch]] = {}
    for period in periods:
        month = stretch_of({"window_start_us": period.start_us}, "month", 1)
        groups.setdefault(month, []).append(period)
    found = []
    for (start_us, end_us), group in groups.items():
        worths = [each.worth for each in group if each.worth is not None]
        worth = added(worths) if worths else None
        counts = sum((each.counts for each in group), Counts())
        found.append(Stretch(start_us, end_us, counts, worth, _usual(worth, baselines)))
    return tuple(found)


def _usual(worth: Worth | None, baselines: Mapping[str, Baseline]) -> float | None:
    if worth is None or len(worth.baselines) != 1 or worth.baselines[0] not in baselines:
        return None
    curve = delay_curve(baselines[worth.baselines[0]])
    return None if curve is None else expected_coverage(curve, worth.spans)
