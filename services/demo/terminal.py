"""The story of a run on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from services.alerting.words.message import describe_alert
from services.cli.output import safe
from services.demo.accuracy import (
    FAIRNESS_RATES,
    Period,
    alarm_behind,
    groups,
    lesson,
    limits,
    mean_absolute_error,
    periods,
    worst,
)
from services.demo.flights import SCHEDULE, WEATHER
from services.demo.humility_tables import tell_humility
from services.demo.story import PREDICTION_STREAMS, QUIET_PSI, Story
from services.demo.wording import cause_label, delay_text, when
from streams.specification import HUMILITY

_NAMED_CAUSES = 2

_NEXT = (
    "driftline windows show flights --metric accuracy --by month",
    "driftline windows show flights --metric accuracy --segment carrier --by month --from 2013-06-01 --to 2013-08-01",
    "driftline windows show flights --metric calibration --by month --from 2013-07-01 --to 2013-08-01",
    "driftline windows show flights --metric fairness --segment carrier --by month --from 2013-07-01 --to 2013-08-01",
    "driftline humility report flights",
    "driftline humility report delays",
)


def tell(story: Story, report: Path, console: Console, work_dir: Path | None = None) -> None:
    """Print what happened; ``work_dir`` is where the broker's data were kept, if they were."""
    console.print()
    for flow in (story.flow, story.minutes):
        whole = "[green]all, and none twice[/]" if flow.whole else "[red]NOT all[/]"
        console.print(
            f"[bold]{safe(flow.name)}[/]: {flow.published:,} predictions and {flow.outcomes_published:,} outcomes "
            f"published, {flow.applied:,} and {flow.outcomes_applied:,} counted: {whole}.",
            highlight=False,
        )
    console.print()
    _tell_accuracy(story, console)
    tell_humility(story, console)
    console.print(_months(story))
    promise = safe(story.firing[0]["false_alarms"]) if story.firing else "the budget"
    names = " and then ".join(story.references.values())
    console.print(
        f"[dim]PSI against {safe(names)}, bold above {QUIET_PSI}: it describes. Alarms come from the evidence, under\n"
        f"the promise of {promise}.[/]\n"
    )
    console.print(_promise(story))
    console.print(
        "[dim]sd: how long a shift of the mean by so many standard deviations goes unnoticed in the middle stream;\n"
        "never: within the margin. Weather of successive hours is much alike: many flights are worth few.[/]\n",
        highlight=False,
    )
    console.print(_alarms(story))
    console.print(
        "[dim]real?: what daily figures of the causes say, without the evidence: those of the 30 days from the change\n"
        "on against those of the reference. The times are of 2013, UTC. On 3 November clocks go back: flights leave\n"
        f"at local hours, event time is UTC.\nOf delays there are {_of_minutes(story)}.[/]\n\n"
        f"[bold]No alarm:[/] {safe('; '.join(story.quiet))}.\n",
        highlight=False,
    )
    console.print(_what_if(story))
    console.print(f"[dim]{safe(story.what_if['summary'])}[/]", highlight=False)
    shown = alarm_behind(periods(story.accuracy, by="month"), story.concept_alarms) or next(iter(story.firing), None)
    if shown is not None:
        text = describe_alert(dict(shown))
        console.print(f"\n[bold]A message on Slack:[/] {safe(text.headline)}")
        for sentence in text.sentences:
            console.print(f"  {safe(sentence)}")
    notified = story.notified
    console.print(
        f"\n[bold]Notifications:[/] {len(story.raised)} alarms were {len(notified.incidents)} incidents"
        f"{_untold(story)}.\n"
        f"{notified.begun} messages on Slack, changed in place as they went on; "
        f"{len(notified.pagerduty)} events for PagerDuty ({notified.of_kind('trigger')} trigger, "
        f"{notified.of_kind('acknowledge')} acknowledge, {notified.of_kind('resolve')} resolve).",
        highlight=False,
    )
    if notified.taken is not None:
        taken = notified.taken
        told = [name for name in ("slack", "pagerduty", "audit") if getattr(taken, name)]
        console.print(
            f'[bold]Somebody took one:[/] driftline incidents ack {taken.incident} --reason "{safe(taken.reason)}"\n'
            f"  told to {', '.join(told) or 'nobody'}: {safe(taken.title)}",
            highlight=False,
        )
    style = "green" if story.verification.get("ok") else "red"
    console.print(f"[bold]Audit:[/] [{style}]{safe(story.verification.get('message'))}[/]", soft_wrap=True)
    style = "red" if story.tampered.get("ok") else "green"
    console.print(
        f"[bold]A copy with one flipped byte:[/] [{style}]{safe(story.tampered.get('message'))}[/]", soft_wrap=True
    )
    for problem in story.problems():
        console.print(f"[bold red]not as it should be:[/] {safe(problem)}")
    console.print(f"\nDone in {story.seconds:.0f} s. Look at [bold]{safe(report)}[/].")
    _tell_next(console, work_dir)


def _untold(story: Story) -> str:
    count = len(story.notified.untold)
    return f", {count} of them drift under bad data quality, of which nobody was told" if count else ""


def _tell_next(console: Console, work_dir: Path | None) -> None:
    folder = "flights-demo" if work_dir is None else str(work_dir)
    keep = [f"driftline demo --work-dir {folder}"] if work_dir is None else []
    console.print("\nNext, " + ("keep it, and " if keep else "") + "look around in it while this runs in a terminal:")
    _tell_commands(console, [*keep, f"driftline up --data-dir {folder}/run"])
    console.print("and in another one, with DRIFTLINE_BOOTSTRAP_SERVERS as that one says:")
    _tell_commands(console, _NEXT)


def _tell_commands(console: Console, commands: Sequence[str]) -> None:
    for command in commands:
        console.print(f"  {safe(command)}", highlight=False, soft_wrap=True)


def _tell_accuracy(story: Story, console: Console) -> None:
    found = periods(story.accuracy, by="month")
    if not found:
        return
    console.print(_accuracy(found))
    console.print(
        "[dim]By month of departure, from outcomes that came when flights landed; in brackets 95 %. known: flights\n"
        "with an outcome, usual: the reference's (cancelled ones never have any); same age: the reference's accuracy\n"
        "at the same ages of outcomes; estimate: from scores alone, before any outcome; ?: not to be believed, says\n"
        "an alarm for concept drift; ▼ ▲: more than chance.[/]",
        highlight=False,
    )
    days = periods(story.accuracy_by_day, by="day")
    for doubted, whose in ((False, "estimates of days"), (True, "those marked ?")):
        error = mean_absolute_error(days, doubted=doubted)
        if error is not None:
            console.print(
                f"[dim]{whose}: off by {error[1]:.3f} on average over {error[0]} final days[/]", highlight=False
            )
    text = lesson(found, story.concept_alarms)
    if text:
        console.print(f"\n[bold]{safe(text)}[/]\n", highlight=False)
    lowest = worst(found)
    if lowest is not None and groups(lowest)[1]:
        console.print(_fairness(lowest))
        console.print(
            f"[dim]{safe(_differences(lowest))}[/]\n",
            highlight=False,
        )


def _accuracy(found: list[Period]) -> Table:
    table = Table(title="How often was the model right?", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("month")
    for heading in ("flights", "known", "usual", "accuracy", "same age", "estimate", "off by"):
        table.add_column(heading, justify="right")
    for period in found:
        sign = {"above": " ▲", "below": " ▼"}.get(period.outside, "  ")
        same_age, error = period.same_age.get("value"), period.estimate_error
        table.add_row(
            period.label + ("" if period.final else " (open)"),
            f"{period.predictions:,}",
            f"{period.coverage:.1%}",
            "–" if period.usual is None else f"{period.usual:.1%}",
            f"[bold]{limits(period.accuracy)}[/]{sign}",
            "–" if same_age is None else f"{same_age:.3f}",
            limits(period.estimate) + ("?" if period.doubted else " "),
            "–" if error is None else f"{error['difference']:+.3f}",
        )
    return table


def _differences(period: Period) -> str:
    """Which groups are more than chance away from the group that is treated best, by measure."""
    measures: dict[str, list[str]] = {}
    for group in groups(period)[1]:
        for measure in group.differs:
            measures.setdefault(measure, []).append(group.name)
    if not measures:
        return "no group is more than chance away from the one that is treated best"
    said = "; ".join(f"{measure}: {', '.join(names)}" for measure, names in measures.items())
    return f"more than chance away from the group that is treated best, by intervals that hold for all groups: {said}"


def _fairness(period: Period) -> Table:
    segment, found = groups(period)
    title = f"Is it as good for every {safe(segment)}? {period.label}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(safe(segment))
    for heading in ("flights", *(name.replace("_", " ") for name in FAIRNESS_RATES)):
        table.add_column(heading, justify="right")
    for group in found:
        rates = [limits(group.rates.get(name, {})) for name in FAIRNESS_RATES]
        table.add_row(safe(group.name), f"{group.rows:,}", *rates)
    return table


def _months(story: Story) -> Table:
    table = Table(title="How far is each month from what is normal?", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("stream")
    for month in story.months:
        table.add_column(month, justify="right")
    groups = (SCHEDULE, WEATHER, PREDICTION_STREAMS)
    for group in groups:
        names = [name for name in group if name in story.psi]
        for name in names:
            cells = [f"[bold]{value:.2f}[/]" if value > QUIET_PSI else f"{value:.2f}" for value in story.psi[name]]
            table.add_row(name, *cells, end_section=name == names[-1])
    return table


def _what_if(story: Story) -> Table:
    title = "What if only larger changes of accuracy had been of interest (margin 0.05 instead of 0.02)?"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("", "monitor", "causes", "would be noticed", "was noticed"):
        table.add_column(heading)
    for pair in story.what_if_changes:
        times = [when(alarm["detection_time_us"]) if alarm else "–" for alarm in (pair["would_be"], pair["was"])]
        shown = pair["would_be"] or pair["was"]
        table.add_row(pair["verdict"], shown["monitor"], _named(shown["causes"]), *times)
    return table


def _named(causes: Sequence[str]) -> str:
    if len(causes) > _NAMED_CAUSES:
        return f"{safe(causes[0])} and {len(causes) - 1} more"
    return ", ".join(map(safe, causes))


def _promise(story: Story) -> Table:
    (account,) = story.budget["deployments"]
    per = f"per {account['per_ms'] / 86_400_000:g} days"
    table = Table(title="What is promised, and what it costs", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("monitor")
    shifts = [delay["shift_sd"] for delay in account["monitors"][0]["delays"]]
    for heading in (f"false alarms {per}", "threshold", *(f"{shift:g} sd" for shift in shifts)):
        table.add_column(heading, justify="right")
    for monitor in account["monitors"]:
        delays = {delay["shift_sd"]: delay["median"]["days"] for delay in monitor["delays"]}
        table.add_row(
            monitor["monitor"],
            f"{monitor['allowed']:.3g}",
            "–" if monitor["threshold_nats"] is None else f"{monitor['threshold_nats']:.1f} nats",
            *(delay_text(delays.get(shift)) if monitor["delays"] else "" for shift in shifts),
        )
    return table


def _of_minutes(story: Story) -> str:
    """How many alarms the other deployment had, by monitor."""
    monitors = Counter(alert["monitor"] for alert in story.minutes_alerts if alert["status"] == "firing")
    by_monitor = ", ".join(f"{count} {safe(name)}" for name, count in sorted(monitors.items()))
    return f"{monitors.total()} more" + (f": {by_monitor}" if by_monitor else "")


def _alarms(story: Story) -> Table:
    others = [alert for alert in story.firing if alert["monitor"] != HUMILITY]
    shown = [alert for alert in others if any(not cause["segment"] for cause in alert["causes"])]
    title = f"{len(others)} other alarms of flights in nine months"
    title += f", {len(others) - len(shown)} of them of single carriers" if len(others) > len(shown) else ""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("monitor", "causes", "change began", "noticed", "evidence", "real?"):
        table.add_column(heading)
    for alert in shown:
        causes = _named([cause_label(cause) for cause in alert["causes"]])
        diagnosis = f": {alert['diagnosis'].replace('_', ' ')}" if alert["diagnosis"] else ""
        table.add_row(
            safe(alert["monitor"] + diagnosis),
            causes,
            when(alert["change_time_us"])[5:],
            when(alert["detection_time_us"])[5:],
            f"{alert['log_evidence_nats']:.1f} of {alert['threshold_nats']:.1f}",
            "–" if (verdict := story.verdicts.get(alert["id"])) is None else f"{verdict.kind}: {safe(verdict.text)}",
        )
    return table
