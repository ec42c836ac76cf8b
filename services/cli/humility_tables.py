"""Humility rules and what is guaranteed of them as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from driftline.humility.policy import Policy
from driftline.humility.rules import ACTIONS, Rule
from driftline.humility.wording import describe_action, describe_condition
from services.cli.output import print_table, safe, stdout
from services.cli.windows import number_text
from services.deployments.humility_changes import guarantee_words
from services.deployments.summary import arming_lines
from services.event_time import rfc3339
from services.humility.guarantees import (
    ABSTENTION,
    OVERRIDES,
    POOLED,
    TITLES,
    ExpectedRate,
    caveats,
    expected_rates,
    group_rows,
    guarantee_sentences,
    in_order_of_priority,
    is_current,
    percent,
    rule_rate,
    shortfall_texts,
    why_unarmed,
)
from services.humility.showing import Lately, Shown
from streams.baseline import Baseline
from streams.humility.fit import run_texts
from streams.specification import DeploymentSpec

DASH = "–"
HUMILITY_TITLE = "humility"


def say(text: str, *, dim: bool = False, lead: str = "") -> None:
    """Print a line of text as it is; ``lead`` stands before it in bold."""
    body = f"[dim]{safe(text)}[/]" if dim else safe(text)
    stdout.print(f"[bold]{safe(lead)}[/]{body}" if lead else body, highlight=False, soft_wrap=True)


def share_text(rows: int, whole: int) -> str:
    """Rows as percent of all."""
    if not whole:
        return DASH
    share = rows / whole
    return f"{share:.1%}" if share >= 0.001 or not rows else f"{share:.3%}"


def show_fit(spec: DeploymentSpec, before: Baseline, fitted: Baseline, policy: Policy | None, result: str) -> None:
    """Print what was fitted; ``result`` is what was done with it."""
    fit = fitted.humility
    assert fit is not None
    say(
        f" {result}: {fit.rows:,} rows, events {rfc3339(fit.first_event_us)} to {rfc3339(fit.last_event_us)}, from "
        f"{fit.source}; {fit.rows - fit.learning_rows:,} of them calibrate",
        lead=f"{fitted.deployment_id}@{fitted.model_version}",
    )
    show_guarantees(spec, fitted)
    show_rules(spec, fitted, policy)
    for monitor, text in arming_lines(fitted):
        if monitor == HUMILITY_TITLE:
            say(f": {text}", lead=monitor)
    changed = f"sha256 {before.digest} → {fitted.digest}" if before.digest != fitted.digest else fitted.digest
    say(f"baseline {changed}", dim=True)


def show_guarantees(spec: DeploymentSpec, baseline: Baseline) -> None:
    """Print what is guaranteed in words, of groups as a table, what is not, and when it holds."""
    fit = baseline.humility
    if fit is None:
        say("nothing is guaranteed: nothing has been fitted yet (driftline humility fit DEPLOYMENT --version V)")
        return
    if not is_current(spec, fit):
        say(
            "what was fitted is of other rules or guarantees: driftline humility fit DEPLOYMENT --version V",
            lead="Note: ",
        )
    for sentence in guarantee_sentences(fit, spec.task):
        say(sentence, lead="Guaranteed: ")
    groups = group_rows(fit)
    if any(group for group, *_ in groups):
        print_table(
            ["part", "guarantee", "rows", "holds"],
            [
                (group or POOLED, TITLES[guarantee], f"{rows:,}", text)
                for group, guarantee, rows, text in groups
            ],
            numbers=("rows",),
        )  # fmt: skip
    for text in shortfall_texts(fit):
        say(text, lead="Not guaranteed: ")
    for text in run_texts(baseline):
        say(text, lead="Note: ")
    for sentence in caveats(fit):
        say(sentence, dim=True)


def show_rules(spec: DeploymentSpec, baseline: Baseline | None, policy: Policy | None) -> None:
    """Print the rules in order of priority, whether they are armed, and how often they are expected to fire."""
    rules = () if spec.humility is None else spec.humility.rules
    if not rules:
        say("no rules: guarantees only")
        return
    rates = {} if baseline is None else expected_rates(baseline)
    print_table(
        ["rule", "when", "does", "armed", "expected", "95 %"],
        [
            (
                rule.name,
                describe_condition(rule.when),
                _does(rule),
                _armed(why_unarmed(policy, rule)),
                *_rate(rule, rates, policy),
            )
            for rule in in_order_of_priority(rules)
        ],
        numbers=("expected", "95 %"),
    )
    together = [each for each in rates.values() if each.name in (ABSTENTION, OVERRIDES)]
    if together:
        told = ", ".join(
            f"{each.name} {share_text(each.fired, each.rows)} (95 %: {percent(each.low, down=True)} to "
            f"{percent(each.high)})"
            for each in together
        )
        say(f"expected of unchanged traffic: {told}; by {together[0].rows:,} calibration rows", dim=True)
    for rule in rules:
        if why := why_unarmed(policy, rule):
            say(f"{rule.name} {why}", lead="Unarmed: ")


def _does(rule: Rule) -> str:
    words = describe_action(rule)
    return f"{words} (dry run)" if rule.dry_run else words


def _armed(why: str) -> str:
    if not why:
        return "yes"
    return "in part" if why.startswith("fires only in part") else "no"


def _rate(rule: Rule, rates: dict[str, ExpectedRate], policy: Policy | None) -> tuple[str, str]:
    rate = rule_rate(rates, rule)
    if rate is None or _armed(why_unarmed(policy, rule)) == "no":
        return DASH, DASH
    return share_text(rate.fired, rate.rows), f"{rate.low:.1%}{DASH}{rate.high:.1%}"


def show_versions(spec: DeploymentSpec, shown: Sequence[Shown]) -> None:
    """Print rules as they stand, version by version."""
    assert spec.humility is not None
    say(f" revision {spec.revision}", lead=spec.deployment_id)
    for sentence in guarantee_words(spec.humility.guarantees):
        say(sentence.removeprefix("asked for: "), lead="Asked for: ")
    for each in shown:
        _show_version(spec, each)


def _show_version(spec: DeploymentSpec, shown: Shown) -> None:
    if shown.baseline is None:
        say(f"no baseline yet: driftline baseline build {spec.deployment_id} FILE --version V")
    else:
        stdout.print()
        say(f" baseline {shown.baseline.digest[:12]}", lead=f"{spec.deployment_id}@{shown.model_version}")
    show_rules(spec, shown.baseline, shown.policy)
    if shown.baseline is not None:
        show_guarantees(spec, shown.baseline)
        _show_standings(shown)
        _show_lately(shown)


def _show_standings(shown: Shown) -> None:
    if not shown.standings:
        say("applications were told nothing yet: a worker does that with the first rows")
        return
    policy = "" if shown.policy is None else shown.policy.digest
    quantiles = [(told, group) for told in shown.standings for group in told.quantiles]
    if quantiles:
        starts = {} if shown.policy is None else shown.policy.start_quantiles
        print_table(
            ["partition", "adaptive quantile of", "now", "static", "outcomes", "covered"],
            [
                (
                    told.partition,
                    group.segment or "all others" if len(told.quantiles) > 1 else "all rows",
                    f"{group.quantile:.4g}",
                    f"{starts[group.segment]:.4g}" if group.segment in starts else DASH,
                    f"{group.known:,}",
                    DASH if group.coverage is None else f"{group.coverage:.1%}",
                )
                for told, group in quantiles
            ],
            numbers=("partition", "now", "static", "outcomes", "covered"),
        )
    for told in shown.standings:
        alarms = ", ".join(told.alarms) if told.alarms else "none"
        told_of = "" if told.policy == policy else ", of rules that are not in force any more"
        say(
            f" alarms that applications know of: {alarms} (at {rfc3339(told.clock_us)}{told_of})",
            lead=f"partition {told.partition}:",
        )


def _show_lately(shown: Shown) -> None:
    found = shown.lately
    if found is None or not found.counts.rows:
        say("nothing was decided yet")
        return
    counts = found.counts
    say(
        f" {rfc3339(found.start_us)} to {rfc3339(found.end_us)}, {counts.rows:,} rows: "
        + ", ".join(
            f"{share_text(rows, counts.rows)} {name}" for name, rows in zip(ACTIONS, counts.actions, strict=True)
        ),
        lead="lately:",
    )
    say(f" {_publishers(found)}", lead="publishers:")
    if shown.policy is not None and found.policy != shown.policy.digest:
        say("the streams have not judged rows by the rules in force yet", dim=True)


def _publishers(found: Lately) -> str:
    counts = found.counts
    if not counts.decided:
        return "none decided by the rules: the streams did, for the record; let them ask client.decide()"
    told = f"{share_text(counts.decided, counts.rows)} of the rows came decided"
    odd = [
        f"{rows:,} ({share_text(rows, counts.decided)}) {what}"
        for rows, what in (
            (counts.stale, "by rules that are not in force any more"),
            (counts.disagreeing, "otherwise than the same rules say"),
        )
        if rows
    ]
    return f"{told}, " + (" and ".join(odd) if odd else "all of them by rules in force, as these rules say")


def error_text(value: float | None, *, is_share: bool) -> str:
    """An error: a share as percent, other losses as numbers."""
    if value is None:
        return DASH
    return f"{value:.1%}" if is_share else number_text(value)
