"""How fast changes are found, in tables: what ``driftline budget`` tells of a deployment's delays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.cli.output import print_table, safe, stdout

if TYPE_CHECKING:
    from services.deployments.accounts import DeploymentAccount, MonitorAccount
    from services.deployments.delays import StreamDelay
    from services.deployments.outcome_delays import OutcomeDelay


def show_delays(account: DeploymentAccount) -> None:
    """Print what is known of a deployment's delays."""
    if account.model_version is None:
        stdout.print(
            "How fast changes are found depends on the baseline, and there is none: driftline baseline build",
            highlight=False,
        )
        return
    _show_shifts(account)
    _show_changes(account)


def _show_shifts(account: DeploymentAccount) -> None:
    watched = [m for m in account.monitors if m.delays]
    if not watched:
        stdout.print("No monitor has a numeric stream whose mean could shift.", highlight=False)
        return
    rate = account.rate
    at = f"at {rate.rows_per_day:,.0f} rows a day ({rate.source})" if rate else "its rows per day are unknown"
    stdout.print(
        f"[bold]Expected delay until the alarm when the mean of one stream shifts[/], version "
        f"{safe(account.model_version)}, {safe(at)}:",
        highlight=False,
        soft_wrap=True,
    )
    heads = [f"{delay.shift_sd:g} sd" for delay in watched[0].delays]
    rows: list[list[object]] = []
    for m in watched:
        streams = m.delays[0].streams
        lead = f"{m.monitor}, the middle one of {streams}" if streams > 2 else m.monitor
        rows.append([lead, *(delay_text(account, delay.median) for delay in m.delays)])
        if streams > 2:
            slowest = m.delays[-1].worst.stream
            rows.append([f"  the slowest ({slowest})", *(delay_text(account, delay.worst) for delay in m.delays)])
    print_table(["monitor", *heads], rows, numbers=heads)
    dim(
        [
            "in the margin: smaller than the specification cares for (margin), or than the reference can tell; never "
            "noticed, by design. at its edge: larger, and too near to be told from it.",
            "First order, within a quarter of simulation, of one stream alone (of two the slower); several that change "
            "at once are found sooner. A lower margin, a larger share or a higher count finds changes sooner.",
        ]
    )


def _show_changes(account: DeploymentAccount) -> None:
    """What the monitors of outcomes and of humility find, and when."""
    from services.deployments.humility_changes import fit_command
    from streams.specification import HUMILITY

    of_outcomes = [m for m in account.monitors if m.changes and m.monitor != HUMILITY]
    of_rules = [m for m in account.monitors if m.changes and m.monitor == HUMILITY]
    if not of_outcomes and account.spec.outcomes is not None:
        stdout.print(
            "How fast changes among outcomes are found depends on the reference's outcomes, and it has none: "
            "driftline baseline build, with outcomes whose horizon has passed",
            highlight=False,
            soft_wrap=True,
        )
    if of_outcomes:
        _show_change_table(account, of_outcomes, "when outcomes change")
        dim(
            [
                "Counted from the first outcomes that show the change: how long outcomes take comes on top, for labels "
                "the age at which it is first looked is included. Of one stream alone; wrong predictions are taken to "
                "have losses as the wrong ones of the reference, errors of numbers to be normal, rates of groups to be "
                "one half, where a move is hardest to tell.",
            ]
        )
    if of_rules:
        _show_change_table(account, of_rules, "when humility rules no longer act as they were fitted to")
        dim(["Of one stream alone, of several rules the one in the middle; how long outcomes take comes on top."])
    elif account.spec.humility is not None and HUMILITY not in account.spec.disabled_monitors:
        stdout.print(
            "Whether humility rules still act as they were fitted to is not watched, nothing has been fitted: "
            f"run {safe(fit_command(account.spec.deployment_id, account.model_version))}",
            highlight=False,
            soft_wrap=True,
        )


def _show_change_table(account: DeploymentAccount, watched: Sequence[MonitorAccount], when: str) -> None:
    rate = account.outcome_rate
    unknown = "" if account.spec.outcomes is None else ", its outcomes per day are unknown"
    at = f", at {rate.rows_per_day:,.0f} outcomes a day ({rate.source})" if rate else unknown
    stdout.print(
        f"[bold]Expected delay until the alarm {when}[/], version {safe(account.model_version or '')}{safe(at)}:",
        highlight=False,
        soft_wrap=True,
    )
    rows: list[list[object]] = []
    for m in watched:
        lead = m.monitor
        for delay in m.changes:
            of = f"{delay.stream}, the middle one of {delay.streams}" if delay.streams > 2 else delay.stream
            rows.append([lead, delay.change, of, _change_text(account, delay)])
            lead = ""
    print_table(["monitor", "change", "seen in", "delay"], rows, numbers=["delay"])


def _change_text(account: DeploymentAccount, delay: OutcomeDelay) -> str:
    if not math.isfinite(delay.events):
        return "in the margin" if delay.inside_margin else "at its edge"
    days = account.days_of(delay)
    events = f"{math.ceil(delay.events):,} {delay.counted}"
    return events if days is None else f"{events} · {_time_text(days)}"


def delay_text(account: DeploymentAccount, delay: StreamDelay, *, with_events: bool = True) -> str:
    """The delay of one stream in rows and, where their rate is known, in time."""
    if not math.isfinite(delay.events):
        return "in the margin" if delay.inside_margin else "at its edge"
    days = account.days(delay.events)
    rows = f"{math.ceil(delay.events):,}"
    if days is None:
        return f"{rows} rows"
    return f"{rows} · {_time_text(days)}" if with_events else _time_text(days)


def _time_text(days: float) -> str:
    """A duration with two digits, in the unit people would use."""
    for unit, length in (("d", 1.0), ("h", 1 / 24), ("min", 1 / 1440)):
        if days >= 2 * length or unit == "min":
            return f"{days / length:.1f} {unit}" if days < 10 * length else f"{days / length:,.0f} {unit}"
    raise AssertionError("minutes are always used last")


def dim(lines: Sequence[str]) -> None:
    """Print remarks below a table."""
    for line in lines:
        stdout.print(f"[dim]{safe(line)}[/]", highlight=False, soft_wrap=True)
