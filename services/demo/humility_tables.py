"""What humility did, on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from driftline.humility.rules import ACTIONS
from services.cli.output import safe
from services.demo.accuracy import limits
from services.demo.humility import PROMISED, Decisions, HumilityFacts, Numbers
from services.demo.story import Story
from services.demo.wording import cause_label, when

ACCURACIES = ("without", "with", "answered", "refused", "routed")
"""What is right how often, in the order of the page's table; the terminal has room for the first two."""

_ROOM = 2


def tell_humility(story: Story, console: Console) -> None:
    """Print decisions by month, what each rule caught and cost, coverage of intervals, and the alarms about it."""
    facts = story.humility
    console.print("[bold]What is guaranteed, by March, while nothing changes (of intervals: always, on average)[/]")
    for name, sentences in facts.guarantees.items():
        for sentence in sentences:
            console.print(f"  {safe(name)}: {safe(sentence)}", highlight=False)
    console.print()
    console.print(_decisions(facts))
    console.print(
        "[dim]Asked by the application before each answer, and decided again by the streams: "
        f"{sum(facts.asked.values()):,} decisions, {facts.disagreeing:,} otherwise.\n"
        "right without: all that the model said; right with: what was served, be it the usual answer.\n"
        f"{safe(facts.overrides)}[/]\n",
        highlight=False,
    )
    console.print(f"[bold]{safe(facts.certificate)}[/]\n", highlight=False)
    console.print(_rules(facts))
    console.print(
        "[dim]caught: where it fired the model was wrong; cost: where it was right, whichever rule acted. novel only\n"
        "records: it watches whether the input is still like the reference's.[/]\n",
        highlight=False,
    )
    console.print(_coverage(facts))
    console.print(
        "[dim]In brackets 95 %. static: as wide as March asks for; adaptive: a bit wider after each flight that\n"
        "landed outside of its interval, a bit narrower after each other one. Promised is the average over time.[/]\n",
        highlight=False,
    )
    console.print(_alarms(story))


def _decisions(facts: HumilityFacts) -> Table:
    table = Table(title="When did the model not trust itself?", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("month")
    right = [f"right {of}" for of in ACCURACIES[:_ROOM]]
    for heading in ("flights", *ACTIONS, *right):
        table.add_column(heading, justify="right")
    for month in facts.months:
        _add_decisions(table, month)
    table.add_section()
    _add_decisions(table, facts.whole)
    return table


def _add_decisions(table: Table, month: Decisions) -> None:
    actions = [f"{rows / month.rows:.1%}" if month.rows else "–" for rows in month.actions.values()]
    right = [_share(month.accuracy[of]) for of in ACCURACIES[:_ROOM]]
    table.add_row(month.label + ("" if month.final else " (open)"), f"{month.rows:,}", *actions, *right)


def _rules(facts: HumilityFacts) -> Table:
    table = Table(title="What did each rule catch, and what did it cost?", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("rule")
    table.add_column("action")
    for heading in ("fired", "acted", "caught", "cost", "error there", "elsewhere"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for rule in facts.rules:
        counts = (f"{rows:,}" for rows in (rule.fired, rule.acted, rule.caught, rule.cost))
        table.add_row(
            safe(rule.name),
            rule.action,
            *counts,
            _share(rule.error),
            _share(rule.elsewhere),
            f"[bold]{rule.verdict}[/]",
        )
    return table


def _coverage(facts: HumilityFacts) -> Table:
    title = f"How many arrivals lay in their interval of {PROMISED:.0%}?"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("month")
    for heading in ("static", "adaptive", "minutes wide"):
        table.add_column(heading, justify="right")
    for month in facts.coverage:
        width = "–" if month.width is None else f"{month.width:.0f}"
        label = month.label + ("" if month.final else " (open)")
        table.add_row(label, limits(month.static), f"[bold]{limits(month.adaptive)}[/]", width)
    return table


def _alarms(story: Story) -> Table:
    title = "Alarms that what humility was fitted to does not hold any more"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("deployment", "what is said", "change began", "noticed", "evidence"):
        table.add_column(heading)
    for alert in story.humility_alarms:
        table.add_row(
            safe(alert["deployment_id"]),
            safe(alert["diagnosis_reason"] or ", ".join(map(cause_label, alert["causes"]))),
            when(alert["change_time_us"])[5:],
            when(alert["detection_time_us"])[5:],
            f"{alert['log_evidence_nats']:.1f} of {alert['threshold_nats']:.1f}",
        )
    return table


def _share(numbers: Numbers) -> str:
    return "–" if numbers["value"] is None else f"{numbers['value']:.3f}"
