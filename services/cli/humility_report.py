"""Reports and back-tests of humility rules as tables and plots on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from driftline.humility.rules import ACTIONS, ANSWERED
from services.cli.humility_tables import DASH, error_text, say, share_text
from services.cli.output import print_table, safe, stdout
from services.cli.plots import ESTIMATE, LEVEL, UPRIGHT, VALUE, Point, timeline
from services.cli.windows import interval_text, number_text, period_label
from services.event_time import rfc3339
from services.humility.counts import Counts
from services.humility.report import Line, RuleLine, Stretch, VersionReport, decision_lines, replaced
from services.humility.verdict import TOO_FEW, rule_words, surely_worse
from services.humility.worth import AS_SERVED, DECIDED, ERROR, PartWorth, coverage_of, loss_name
from services.windows import Period
from streams.outcomes.decided import DECISION_PARTS, SERVED
from streams.specification import DeploymentSpec
from streams.statistics.performance.metrics import Metric

_SHOWN = 24
"""Of more periods the last are shown; all in JSON."""

_OPEN = "*"
"""Stands behind what is provisional."""

_FEW = "too few"

NAMES = {"overridden": "overridden, model's", SERVED: "overridden, as served"}


def show_report(spec: DeploymentSpec, report: VersionReport, by: str | None, *, plot: bool) -> None:
    """Print the report on one version."""
    whole, is_share = report.whole, loss_name(report.task) == ERROR
    _head(spec, report)
    if by == "segment":
        _show_segments(report, is_share=is_share)
    elif by != "rule":
        _show_decisions(decision_lines(whole), whole, report, is_share=is_share)
        if by is not None:
            _show_periods(report.periods, _period(by), is_share=is_share)
    if by in (None, "rule"):
        show_rule_lines(report.rules, with_values=report.with_values, is_share=is_share, provisional=whole.provisional)
        if by == "rule":
            _show_tests(report.rules, is_share=is_share)
    if by in (None, "month"):
        _show_coverage(spec, report.months)
    if plot:
        _show_plots(spec, report, _period(by), is_share=is_share)
    _notes(report, by)


def _head(spec: DeploymentSpec, report: VersionReport) -> None:
    whole, counts = report.whole, report.whole.counts
    say(
        f" {time_text(whole.start_us)} to {time_text(whole.end_us)} by event time, UTC; {counts.rows:,} rows, "
        f"{share_text(counts.decided, counts.rows)} decided by their publishers ({counts.stale:,} stale, "
        f"{counts.disagreeing:,} disagreeing)",
        lead=f"{spec.deployment_id}@{report.model_version}",
    )


def time_text(time_us: int) -> str:
    """A time to the second."""
    return rfc3339(time_us // 1_000_000 * 1_000_000)


def loss_title(*, is_share: bool) -> str:
    """What an error is called at the head of a table."""
    return "error" if is_share else "MAE"


def limits_text(metric: Metric | None, *, is_share: bool) -> str:
    """The interval of an error."""
    if metric is None or metric.low is None or metric.high is None:
        return DASH
    if not is_share:
        return interval_text(metric.low, metric.high)
    return f"{metric.low:.1%}{DASH}{metric.high:.1%}"


def error_cell(worth: PartWorth, *, is_share: bool, provisional: bool = False) -> str:
    """The error of a part, marked where it is provisional."""
    text = error_text(None if worth.loss is None else worth.loss.value, is_share=is_share)
    return text + (_OPEN if provisional and text != DASH else "")


def _known(worth: PartWorth) -> str:
    return DASH if worth.known is None else f"{worth.known:.1%}"


def _show_decisions(lines: Sequence[Line], stretch: Stretch, report: VersionReport, *, is_share: bool) -> None:
    title, values = loss_title(is_share=is_share), report.with_values
    heads = ["decision", "rows", "share", "known", title, "95 %", *(["value a row", "95 % of it"] if values else [])]
    print_table(
        heads,
        [
            (
                NAMES.get(line.name, line.name),
                "" if line.rows is None else f"{line.rows:,}",
                "" if line.rows is None else share_text(line.rows, stretch.counts.rows),
                _known(line.worth),
                error_cell(line.worth, is_share=is_share, provisional=stretch.provisional),
                limits_text(line.worth.loss, is_share=is_share),
                *(_value(line.worth) if values else ()),
            )
            for line in lines
        ],
        numbers=heads[1:],
    )


def _value(worth: PartWorth) -> tuple[str, str]:
    value = worth.value
    return (DASH, DASH) if value is None else (number_text(value.value), interval_text(value.low, value.high))


def show_rule_lines(
    rules: Sequence[RuleLine],
    *,
    with_values: bool,
    is_share: bool,
    provisional: bool = False,
    title: str | None = None,
) -> None:
    """Print what each rule did, what it caught and cost, and the verdict on it."""
    if not rules:
        say("no rule was in force")
        return
    loss, values = loss_title(is_share=is_share), with_values
    heads = ["rule", "does", "fired", "share", loss, "elsewhere", *(["caught", "cost"] if is_share else [])]
    heads += [*(["value"] if values else []), "verdict"]
    print_table(
        heads,
        [
            (
                rule.name,
                _does(rule),
                f"{rule.fired:,}",
                share_text(rule.fired, rule.judged),
                error_cell(rule.where_fired, is_share=is_share, provisional=provisional),
                error_cell(rule.elsewhere, is_share=is_share, provisional=provisional),
                *((_count(rule.where_fired.wrong), _count(rule.where_fired.right)) if is_share else ()),
                *((_value(rule.where_fired)[0],) if values else ()),
                _FEW if rule.verdict.kind == TOO_FEW else rule.verdict.kind,
            )
            for rule in rules
        ],
        numbers=[head for head in heads if head not in ("rule", "does", "verdict")],
        title=title,
    )


def _does(rule: RuleLine) -> str:
    return f"{rule.action}, dry run" if rule.dry_run else rule.action


def _count(number: int | None) -> str:
    return DASH if number is None else f"{number:,}"


def _show_tests(rules: Sequence[RuleLine], *, is_share: bool) -> None:
    """Print what the verdicts rest on."""
    loss = loss_title(is_share=is_share)
    print_table(
        ["rule", "outcomes", "known", "where it fired", "elsewhere", "difference", "times"],
        [
            (
                rule.name,
                f"{rule.where_fired.resolved:,}",
                _known(rule.where_fired),
                limits_text(rule.where_fired.loss, is_share=is_share),
                limits_text(rule.elsewhere.loss, is_share=is_share),
                _difference(rule),
                DASH if rule.verdict.lift is None else f"{rule.verdict.lift[0]:.2f}",
            )
            for rule in rules
        ],
        numbers=("outcomes", "known", "where it fired", "elsewhere", "difference", "times"),
        title=f"95 % intervals of the {loss} that the verdicts rest on",
    )
    for rule in rules:
        say(
            f": {rule.verdict.kind}, {rule.verdict.reason}; acted on {rule.acted:,} of the {rule.fired:,} rows it "
            f"fired on, {rule.elsewhere.resolved:,} outcomes elsewhere",
            lead=rule.name,
        )


def _difference(rule: RuleLine) -> str:
    found = rule.verdict.difference
    return DASH if found is None else interval_text(found[1], found[2])


def _show_periods(periods: Sequence[Stretch], period: Period, *, is_share: bool) -> None:
    shown = periods[-_SHOWN:]
    loss = loss_title(is_share=is_share)
    heads = ["from", "rows", *ACTIONS, "known"]
    print_table(
        heads,
        [(period_label(each.start_us, period), *_shares(each.counts), _known(each.part(DECIDED))) for each in shown],
        numbers=heads[1:],
    )
    if not any(each.part(DECIDED).resolved for each in shown):
        return
    heads = ["from", "answered", "95 %", "with humility", "95 % of it", "without", "95 % of all"]
    print_table(
        heads,
        [
            (
                period_label(each.start_us, period),
                *(
                    text
                    for name in (DECISION_PARTS[ANSWERED], AS_SERVED, DECIDED)
                    for worth in [each.part(name)]
                    for text in (
                        error_cell(worth, is_share=is_share, provisional=each.provisional),
                        limits_text(worth.loss, is_share=is_share),
                    )
                ),
            )
            for each in shown
        ],
        numbers=heads[1:],
        title=f"{loss} among answered predictions, of what was served, and of all that the model said",
    )
    if len(shown) < len(periods):
        say(f"the last {len(shown)} of {len(periods):,}; more: --by month, --from TIME, --json", dim=True)


def _shares(counts: Counts) -> tuple[str, ...]:
    return (f"{counts.rows:,}", *(share_text(rows, counts.rows) for rows in counts.actions))


def _show_segments(report: VersionReport, *, is_share: bool) -> None:
    if not report.segments:
        say("no parts of the traffic are watched: declare segments in the specification")
        return
    loss = loss_title(is_share=is_share)
    heads = ["part", "rows", *ACTIONS, "known", f"{loss}, all", "95 %"]
    print_table(
        heads,
        [
            (
                part,
                *_shares(counts),
                _known(worth),
                error_cell(worth, is_share=is_share, provisional=report.whole.provisional),
                limits_text(worth.loss, is_share=is_share),
            )
            for part, counts, worth in report.segments
        ],
        numbers=heads[1:],
    )
    say("the errors of a part are those of all its predictions: they are not kept by part and decision", dim=True)


def _show_coverage(spec: DeploymentSpec, months: Sequence[Stretch]) -> None:
    found = [(each, coverage_of(each.worth)) for each in months if each.worth is not None]
    found = [(each, coverage) for each, coverage in found if coverage is not None]
    if not found:
        return
    wanted = None if spec.humility is None else spec.humility.guarantees.coverage
    heads = ["month", "outcomes", "adaptive", "95 %", "static", "95 % of it"]
    print_table(
        heads,
        [
            (
                period_label(each.start_us, "month"),
                f"{adaptive.rows:,}",
                _coverage(adaptive, each),
                limits_text(adaptive, is_share=True),
                _coverage(static, each),
                limits_text(static, is_share=True),
            )
            for each, pair in found
            if pair is not None
            for adaptive, static in [pair]
        ],
        numbers=heads[1:],
        title="Coverage of the actual value"
        + ("" if wanted is None else f"; {wanted:.3g} is promised in the long run"),
    )


def _coverage(metric: Metric, stretch: Stretch) -> str:
    return DASH if metric.value is None else f"{metric.value:.1%}{_OPEN if stretch.provisional else ''}"


def _show_plots(spec: DeploymentSpec, report: VersionReport, period: Period, *, is_share: bool) -> None:
    errors = [
        Point(
            *_point(each.part(DECISION_PARTS[ANSWERED]).loss),
            None if (every := each.part(DECIDED).loss) is None else every.value,
        )
        for each in report.periods
    ]
    _plot(
        f"{loss_title(is_share=is_share)} among answered predictions",
        errors,
        report.periods,
        period,
        f"{VALUE} answered, {UPRIGHT} its 95 % interval, {LEVEL} all predictions",
    )
    wanted = None if spec.humility is None else spec.humility.guarantees.coverage
    covered = [None if each.worth is None else coverage_of(each.worth) for each in report.periods]
    points = [Point(None) if each is None else Point(*_point(each[0]), wanted, each[1].value) for each in covered]
    _plot(
        "coverage of the actual value",
        points,
        report.periods,
        period,
        f"{VALUE} adaptive, {UPRIGHT} its 95 % interval, {ESTIMATE} static, {LEVEL} what is promised",
    )


def _point(metric: Metric | None) -> tuple[float | None, tuple[float, float] | None]:
    if metric is None:
        return None, None
    ends = None if metric.low is None or metric.high is None else (metric.low, metric.high)
    return metric.value, ends


def _plot(title: str, points: Sequence[Point], periods: Sequence[Stretch], period: Period, legend: str) -> None:
    if not any(point.value is not None for point in points):
        return
    stdout.print()
    say("", lead=title)
    ends = period_label(periods[0].start_us, period), period_label(periods[-1].start_us, period)
    for text in timeline(points, number_text, ends, stdout.width):
        stdout.print(safe(text), highlight=False, soft_wrap=True)
    say(legend, dim=True)


def _period(by: str | None) -> Period:
    match by:
        case "window" | "day" | "week":
            return by
        case _:
            return "month"


def _notes(report: VersionReport, by: str | None) -> None:
    whole = report.whole
    if not loss_name(report.task):
        say("of this task outcomes are only counted: there is no error to judge rules by", dim=True)
    elif not report.has_outcomes:
        say("no outcome of what was decided is known yet: what rules catch and cost is not known", dim=True)
    else:
        usual = "" if whole.usual is None else f", usually {whole.usual:.1%} when as old"
        say(f"known: share of predictions with an outcome{usual}; intervals are of 95 %, of independent rows", dim=True)
        if whole.provisional:
            say(f"{_OPEN} provisional: outcomes may still come, and those so far are no fair sample of all", dim=True)
        if by in (None, "rule"):
            say(BENEFIT, dim=True)
            say(rule_words(report.standard, with_values=report.with_values), dim=True)
    say_harm(whole, is_share=loss_name(report.task) == ERROR)
    if len(report.policies) > 1:
        say(
            f"{len(report.policies)} sets of rules and fits were in force in this time; a rule is known by its name, "
            "and judged over the time in which there was one of it",
            dim=True,
        )
    if report.left_out:
        say(f"{report.left_out:,} accuracy windows of another task or other classes are left out", dim=True)


def say_harm(stretch: Stretch, *, is_share: bool) -> None:
    """Say where overrides serve worse answers than those they replace."""
    pair = replaced(stretch.worth)
    if pair is not None and surely_worse(*pair) is not None:
        served, own = (error_text(each.value, is_share=is_share) for each in pair)
        say(
            f"what is served in the place of overridden predictions is worse than what the model said: {served} "
            f"against {own}",
            lead="Note: ",
        )


BENEFIT = "caught: wrong predictions on which a rule fired, cost: right ones, whichever rule acted"
