"""``driftline budget``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.delay_tables import delay_text, dim, show_delays
from services.cli.deployments import complete_deployment
from services.cli.output import JSON_OPTION, print_json, print_table, safe, stderr, stdout

if TYPE_CHECKING:
    from services.deployments.accounts import DeploymentAccount, Fleet, MonitorAccount
    from services.deployments.delays import MonitorDelay, StreamDelay
    from services.deployments.outcome_delays import OutcomeDelay

EXAMPLES = (
    "Examples:\n\n  driftline budget\n\n  driftline budget delays\n\n  driftline budget --all --json\n\n"
    "Exit status 1 if the fleet has handed out more than it promises."
)

_SHOWN = 20
_OVERVIEW_SHIFT_SD = 0.3
_OVERVIEW = (("prediction_drift", "scores"), ("data_drift", "inputs"))


def budget(
    deployment_id: Annotated[
        str | None,
        typer.Argument(metavar="[DEPLOYMENT]", autocompletion=complete_deployment, help="One deployment, in detail."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Delays of all deployments, not of the first 20 only.")
    ] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show the promise on false alarms: who holds which part, what was spent, how fast changes are found.

    The promise bounds the expected number of false alarms in a period of event time. Alarms at real changes are not
    false and come on top.
    """
    from services.cli.context import kafka_settings
    from services.deployments import accounts
    from services.deployments.store import get_deployment, load_deployments

    settings = kafka_settings()
    if deployment_id is not None:
        get_deployment(settings, deployment_id)  # names the closest where there is none
    specs = [item.spec for item in load_deployments(settings).values()]
    fleet = accounts.fleet_of(specs)
    if deployment_id is None:
        found = sorted(accounts.accounts(settings, specs), key=_by_what_was_spent)
        shown = accounts.detailed(settings, found if everything else found[:_SHOWN], observed=False)
        found[: len(shown)] = shown
    else:
        found = accounts.accounts(settings, [spec for spec in specs if spec.deployment_id == deployment_id])
        found = shown = accounts.detailed(settings, found, observed=True)
    if as_json:
        print_json({"fleet": _fleet_document(fleet), "deployments": [_document(account) for account in found]})
    elif deployment_id is None:
        _show_fleet(fleet, found, shown)
    else:
        _show_deployment(fleet, shown[0])
    for flaw in fleet.flaws:
        stderr.print(f"[bold red]{safe(flaw)}[/]", soft_wrap=True, highlight=False)
    if fleet.flaws:
        raise typer.Exit(1)


def _by_what_was_spent(account: DeploymentAccount) -> tuple[int, float, str]:
    return -account.alarms, -account.spec.false_alarms.share, account.spec.deployment_id


def _fleet_document(fleet: Fleet) -> dict[str, Any]:
    return {
        "deployments": fleet.deployments,
        "handed_out": fleet.handed_out,
        "capacity": fleet.capacity,
        "kept": not fleet.flaws,
        "flaws": list(fleet.flaws),
    }


def _document(account: DeploymentAccount) -> dict[str, Any]:
    promise = account.spec.false_alarms
    return {
        "deployment": account.spec.deployment_id,
        "risk": account.spec.risk,
        "scope": promise.scope,
        "count": promise.count,
        "per_ms": promise.per_ms,
        "share": promise.share,
        "allowed": account.allowed,
        "kept_back": account.kept,
        "alarms": account.alarms,
        "period_end_us": account.period_end_us,
        "model_version": account.model_version,
        "rows_per_day": account.rate and account.rate.rows_per_day,
        "rows_per_day_from": account.rate and account.rate.source,
        "outcomes_per_day": account.outcome_rate and account.outcome_rate.rows_per_day,
        "outcomes_per_day_from": account.outcome_rate and account.outcome_rate.source,
        "monitors": [
            {
                "monitor": m.monitor,
                "part": m.part,
                "allowed": m.allowed,
                "threshold_nats": m.threshold_nats,
                "alarms": m.alarms,
                "delays": [_delay_document(account, delay) for delay in m.delays],
                "changes": [_change_document(account, delay) for delay in m.changes],
            }
            for m in account.monitors
        ],
    }


def _delay_document(account: DeploymentAccount, delay: MonitorDelay) -> dict[str, Any]:
    def one(stream: StreamDelay) -> dict[str, Any]:
        finite = math.isfinite(stream.events)
        return {
            "stream": stream.stream,
            "events": stream.events if finite else None,
            "days": account.days(stream.events) if finite else None,
            "inside_margin": stream.inside_margin,
        }

    return {
        "shift_sd": delay.shift_sd,
        "streams": delay.streams,
        "median": one(delay.median),
        "worst": one(delay.worst),
    }


def _change_document(account: DeploymentAccount, delay: OutcomeDelay) -> dict[str, Any]:
    finite = math.isfinite(delay.events)
    return {
        "change": delay.change,
        "stream": delay.stream,
        "streams": delay.streams,
        "events": delay.events if finite else None,
        "counted": delay.counted,
        "wait_us": delay.wait_us,
        "days": account.days_of(delay) if finite else None,
        "inside_margin": delay.inside_margin,
    }


def _show_fleet(fleet: Fleet, found: Sequence[DeploymentAccount], shown: Sequence[DeploymentAccount]) -> None:
    from services.deployments.budget import promises
    from services.deployments.durations import duration_text

    if not found:
        stdout.print("no deployments yet: driftline deployment apply FILE", highlight=False)
        return
    for (count, per_ms), members in promises(account.spec for account in found).items():
        stdout.print(
            f"[bold]The fleet promises at most {_false_alarms(count)} expected per {duration_text(per_ms)}[/] of event "
            f"time, all {len(members):,} deployments together; {fleet.handed_out:.4g} of it is handed out.",
            highlight=False,
            soft_wrap=True,
        )
    heads = ["deployment", "risk", "share", "allowed", "per", "alarms", "rows/day"]
    heads += [f"{_OVERVIEW_SHIFT_SD:g} sd in {word}" for _, word in _OVERVIEW]
    print_table(heads, [_fleet_row(account) for account in shown], numbers=heads[2:])
    if len(found) > 1:
        _show_totals(found)
    hidden = len(found) - len(shown)
    more = f"{hidden:,} more: driftline budget --all. " if hidden else ""
    stdout.print(
        f"[dim]{more}One in detail, with thresholds and delays: driftline budget DEPLOYMENT.\n"
        "share: part of the promise that it works under; own: a promise of its own. allowed: false alarms expected at "
        "most per period, on average.\nalarms: raised in the last period, at real changes too: an alarm is not false "
        "because it was raised.\n"
        f"{_OVERVIEW_SHIFT_SD:g} sd: expected time until the stream in the middle raises an alarm when its mean moves "
        "by so many standard deviations.[/]",
        highlight=False,
        soft_wrap=True,
    )


def _fleet_row(account: DeploymentAccount) -> list[object]:
    from services.deployments.durations import duration_text

    spec = account.spec
    delays = []
    for monitor, _ in _OVERVIEW:
        entries = next(m.delays for m in account.monitors if m.monitor == monitor)
        delay = next((d for d in entries if d.shift_sd == _OVERVIEW_SHIFT_SD), None)
        delays.append("–" if delay is None else delay_text(account, delay.median, with_events=False))
    return [
        spec.deployment_id,
        spec.risk,
        f"{spec.false_alarms.share:.3g}" if spec.false_alarms.scope == "fleet" else "own",
        f"{account.allowed:.3g}",
        duration_text(spec.false_alarms.per_ms),
        account.alarms,
        f"{account.rate.rows_per_day:,.0f}" if account.rate else "–",
        *delays,
    ]


def _show_totals(found: Sequence[DeploymentAccount]) -> None:
    from streams.specification import RISK_WEIGHTS

    fleet = [account for account in found if account.spec.false_alarms.scope == "fleet"]
    groups = [(tier, [account for account in fleet if account.spec.risk == tier]) for tier in RISK_WEIGHTS]
    groups.append(("own promise", [account for account in found if account not in fleet]))
    groups.append(("together", list(found)))
    rows = [
        (
            name,
            f"{len(members):,}",
            f"{math.fsum(a.spec.false_alarms.share for a in members if a.spec.false_alarms.scope == 'fleet'):.4g}",
            f"{math.fsum(a.allowed for a in members):.4g}",
            f"{sum(a.alarms for a in members):,}",
        )
        for name, members in groups
        if members
    ]
    heads = ["risk", "deployments", "share", "allowed", "alarms"]
    print_table(heads, rows, numbers=heads[1:])


def _show_deployment(fleet: Fleet, account: DeploymentAccount) -> None:
    from services.deployments.durations import duration_text
    from services.event_time import rfc3339

    spec, promise = account.spec, account.spec.false_alarms
    per = duration_text(promise.per_ms)
    whose = f"all {fleet.deployments:,} deployments of the fleet together" if promise.scope == "fleet" else "for itself"
    stdout.print(
        f"[bold]{safe(spec.deployment_id)}: at most {_false_alarms(promise.count)} expected per {per}[/], {whose}.",
        highlight=False,
        soft_wrap=True,
    )
    if promise.scope == "fleet":
        allowed = promise.count * promise.share
        stdout.print(
            f"Of {spec.risk} risk, it holds {promise.share:.4g} of that promise: {_false_alarms(allowed)} per {per}, "
            f"at most one in {duration_text(round(promise.per_ms / allowed / 3_600_000) * 3_600_000)} on average.",
            highlight=False,
            soft_wrap=True,
        )
    end = f" to {rfc3339(account.period_end_us)}" if account.period_end_us else ""
    numbers = ("part of the promise", f"allowed per {per}", "threshold", "at most one in", "alarms")
    rows = [_monitor_row(account, monitor) for monitor in account.monitors]
    rows.append(["kept back", "", f"{account.kept:.3g}", "", "", ""])
    rows.append(["together", "", f"{promise.count * promise.share:.3g}", "", "", account.alarms])
    print_table(["monitor", *numbers], rows, numbers=numbers)
    lines = [
        f"alarms: raised in the last {per}{end}, at real changes too: an alarm is not false because it was raised.",
        "threshold: the evidence an alarm needs, in nats (log odds of a bet against 'nothing changed'); a nat more is "
        "2.7 times fewer false alarms.",
    ]
    if account.alarms > account.allowed > 0:
        chance = account.allowed / account.alarms
        lines.append(
            f"If nothing had changed, as many as {account.alarms} alarms in one period would have a chance of at most "
            f"{chance:.2g} (Markov's inequality)."
        )
    dim(lines)
    show_delays(account)


def _monitor_row(account: DeploymentAccount, monitor: MonitorAccount) -> list[object]:
    from services.deployments.durations import duration_text

    if monitor.threshold_nats is None:
        return [monitor.monitor, _why_off(account, monitor.monitor), "0", "–", "–", monitor.alarms]
    days = account.spec.false_alarms.per_ms / monitor.allowed / 86_400_000
    return [
        monitor.monitor,
        f"{monitor.part:.3g}",
        f"{monitor.allowed:.3g}",
        f"{monitor.threshold_nats:.2f} nats",
        duration_text(max(1, round(days)) * 86_400_000),
        monitor.alarms,
    ]


def _why_off(account: DeploymentAccount, monitor: str) -> str:
    from streams.specification import FAIRNESS, HUMILITY, MONITOR_PARTS, OUTCOMES_KIND, PREDICTION_DRIFT

    spec = account.spec
    if monitor == HUMILITY and monitor not in spec.disabled_monitors and spec.humility is None:
        return "no rules"
    if monitor in spec.disabled_monitors or MONITOR_PARTS[monitor][0] != OUTCOMES_KIND or monitor == PREDICTION_DRIFT:
        return "off"
    if spec.outcomes is None:
        return "no outcomes"
    return "no groups" if monitor == FAIRNESS and not spec.outcomes.fairness else "off"


def _false_alarms(count: float) -> str:
    return f"{count:.4g} false alarm{'' if count == 1 else 's'}"
