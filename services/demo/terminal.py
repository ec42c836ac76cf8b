"""The story of a run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from services.alerting.message import describe_alert
from services.cli.output import safe
from services.demo.flights import SCHEDULE, WEATHER
from services.demo.story import PREDICTION_STREAMS, QUIET_PSI, Story, delay_text, when

_NAMED_CAUSES = 3


def tell(story: Story, report: Path, console: Console) -> None:
    """Print what happened."""
    applied = "[green]all applied, none twice[/]" if story.published == story.applied else "[red]NOT all applied[/]"
    console.print(f"\n[bold]{story.published:,}[/] predictions published, {story.applied:,} counted: {applied}.")
    console.print(f"[bold]{story.outcomes_published:,}[/] outcomes published, {story.outcomes_applied:,} arrived.\n")
    console.print(_months(story))
    promise = safe(story.firing[0]["false_alarms"]) if story.firing else "the budget"
    console.print(
        f"[dim]PSI against March, bold above {QUIET_PSI}: it describes. Alarms come from the evidence, under the\n"
        f"promise of {promise}.[/]\n"
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
        "on against those of March. The times are of 2013, UTC.[/]\n\n"
        f"[bold]No alarm:[/] {safe('; '.join(story.quiet))}.\n",
        highlight=False,
    )
    console.print(_what_if(story))
    console.print(f"[dim]{safe(story.what_if['summary'])}[/]", highlight=False)
    if story.firing:
        text = describe_alert(dict(story.firing[0]))
        console.print(f"\n[bold]The first message on Slack:[/] {safe(text.headline)}")
        for sentence in text.sentences:
            console.print(f"  {safe(sentence)}")
    triggers = sum(event.get("event_action") == "trigger" for event in story.pagerduty)
    console.print(
        f"\n[bold]Notifications:[/] {len(story.slack)} to Slack, {len(story.pagerduty)} to PagerDuty "
        f"({triggers} trigger, {len(story.pagerduty) - triggers} resolve)."
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


def _months(story: Story) -> Table:
    table = Table(title="How far is each month from March?", box=box.SIMPLE_HEAD, title_justify="left")
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
    title = "What if each airport had been watched on its own as well, under the same promise?"
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


def _alarms(story: Story) -> Table:
    table = Table(title=f"{len(story.firing)} alarms in nine months", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("monitor", "causes", "change began", "noticed", "evidence", "real?"):
        table.add_column(heading)
    for alert in story.firing:
        causes = _named([cause["stream"] for cause in alert["causes"]])
        table.add_row(
            alert["monitor"],
            causes,
            when(alert["change_time_us"])[5:],
            when(alert["detection_time_us"])[5:],
            f"{alert['log_evidence_nats']:.1f} of {alert['threshold_nats']:.1f}",
            "–" if (verdict := story.verdicts.get(alert["id"])) is None else f"{verdict.kind}: {safe(verdict.text)}",
        )
    return table
