"""``driftline status``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import JSON_OPTION, print_json, print_table, safe, stdout

if TYPE_CHECKING:
    from services.status import OutcomeStatus, SystemStatus

EXAMPLES = """
Examples:

  driftline status

  driftline status --all

  driftline status --json

Exit status: 0 the topics are complete and a worker runs; 1 not so, or Kafka does not answer.
"""

_COUNTERS = ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows")
_SHOWN_ALARMS = 10
_NAME_CHARACTERS = 120
_SHOWN_DEPLOYMENTS = 25
_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}


def status(
    show_all: Annotated[
        bool,
        typer.Option("--all", help="Every alarm and deployment, not the first ones only."),
    ] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show whether everything runs and keeps up: topics, workers, deployments, firing alarms, dead letters."""
    from services.cli.context import kafka_settings
    from services.status import system_status

    found = system_status(kafka_settings())
    if as_json:
        print_json(_document(found))
    else:
        _show(found, show_all=show_all)
    if not found.well:
        raise typer.Exit(1)


def _document(found: SystemStatus) -> dict[str, Any]:
    return {
        "well": found.well,
        "bootstrap_servers": found.bootstrap_servers,
        "topics": {
            "complete": found.topics_complete,
            "missing": [state.plan.name for state in found.topics if state.partitions is None],
            "problems": {state.plan.name: list(state.problems) for state in found.topics if state.problems},
        },
        "workers": found.workers,
        "lag": found.lag,
        "lag_by_topic": found.lag_by_topic,
        "partitions": [
            {"partition": p.partition, "applied": dict(p.applied), "ends": dict(p.ends), "lag": p.lag}
            for p in found.positions
        ],
        "deployments": [
            {
                "deployment": d.deployment_id,
                "owner": d.owner,
                "revision": d.revision,
                "baselines": list(d.baselines),
                "last_event_us": d.last_event_us,
                **d.counters,
                "outcomes": None if d.outcomes is None else dataclasses.asdict(d.outcomes),
                "unarmed_rules": list(d.unarmed),
            }
            for d in found.deployments
        ],
        "firing": [
            {
                "incident_key": alert["incident_key"],
                "deployment": alert["deployment_id"],
                "version": alert["model_version"],
                "monitor": alert["monitor"],
                "severity": alert["severity"],
                "change_time_us": alert["change_time_us"],
                "detection_time_us": alert["detection_time_us"],
            }
            for alert in found.firing
        ],
        "dead_letters": {"messages": found.dead_letters, "latest_by_reason": dict(found.dead_letter_reasons)},
    }


def _show(found: SystemStatus, *, show_all: bool) -> None:
    missing = [state.plan.name for state in found.topics if state.partitions is None]
    problems = [f"{state.plan.name} {problem}" for state in found.topics for problem in state.problems]
    topics = f"[red]{len(missing)} of {len(found.topics)} missing[/]" if missing else f"{len(found.topics)} there"
    _line("kafka", safe(found.bootstrap_servers))
    _line("topics", topics + "".join(f", [red]{safe(problem)}[/]" for problem in problems))
    workers = "not known" if found.workers is None else f"{found.workers}" if found.workers else "[red]none runs[/]"
    _line("workers", workers)
    if missing:
        stdout.print("create the topics with driftline topics create, or start everything with driftline up")
        return
    lags = ", ".join(f"{lag:,} of {safe(topic)}" for topic, lag in found.lag_by_topic.items() if lag)
    _line("lag", f"{found.lag:,} message(s) not applied yet" + (f": {lags}" if lags else ""))
    reasons = ", ".join(f"{safe(reason)} {count:,}" for reason, count in found.dead_letter_reasons.items())
    _line("dead letters", f"{found.dead_letters:,}" + (f" (latest: {reasons})" if reasons else ""))
    _line("alarms", f"[bold red]{len(found.firing)} firing[/]" if found.firing else "none firing")
    alarms = sorted(found.firing, key=lambda a: (list(_COLORS).index(a["severity"]), -a["detection_time_us"]))
    for alert in alarms if show_all else alarms[:_SHOWN_ALARMS]:
        _alarm(alert)
    if not show_all and len(alarms) > _SHOWN_ALARMS:
        more = len(alarms) - _SHOWN_ALARMS
        stdout.print(f"  [dim]and {more:,} more: driftline alerts list --status firing[/]", highlight=False)
    if not found.deployments:
        stdout.print("no deployments yet: driftline deployment apply FILE", highlight=False)
        return
    _deployments(found, show_all=show_all)


def _line(name: str, text: str) -> None:
    stdout.print(f"[bold]{name:<13}[/]{text}", highlight=False, soft_wrap=True)


def _name(text: str) -> str:
    from services.alerting.words.text import shorten

    return safe(shorten(text, _NAME_CHARACTERS))


def _alarm(alert: dict[str, Any]) -> None:
    from services.alerting.words.readings import stream_label

    color = _COLORS.get(alert["severity"], "red")
    first = f", first cause {_name(stream_label(alert['causes'][0]))}" if alert["causes"] else ""
    stdout.print(
        f"  [{color}]{safe(alert['severity'])}[/] {_name(alert['deployment_id'])}@{_name(alert['model_version'])} "
        f"{_name(alert['monitor'])} since {_minute(alert['change_time_us'])}{first}",
        highlight=False,
        soft_wrap=True,
    )


def _deployments(found: SystemStatus, *, show_all: bool) -> None:
    """Those with firing alarms first, then those that nobody taught what is normal."""
    from services.deployments.humility_changes import fit_command

    def count(counters: Any, name: str) -> str:
        return f"{counters[name]:,}" if name in counters else "–"

    firing = Counter(alert["deployment_id"] for alert in found.firing)
    ranked = sorted(found.deployments, key=lambda d: (d.deployment_id not in firing, bool(d.baselines)))
    shown = ranked if show_all else ranked[:_SHOWN_DEPLOYMENTS]
    print_table(
        [
            "deployment",
            "firing",
            "baselines",
            "rows",
            "late",
            "duplicate",
            "rejected",
            "outcomes",
            "last event",
            "owner",
        ],
        [
            (
                d.deployment_id,
                firing[d.deployment_id] or "",
                ", ".join(d.baselines) or "none yet",
                *(count(d.counters, name) for name in _COUNTERS),
                "–" if d.last_event_us is None else _minute(d.last_event_us),
                d.owner,
            )
            for d in shown
        ],
        numbers=("firing", "rows", "late", "duplicate", "rejected", "outcomes", "last event"),
    )
    if any(d.outcomes is not None for d in shown):
        stdout.print()
        _outcomes([(d.deployment_id, d.outcomes) for d in shown if d.outcomes is not None])
    for d in shown:
        for sentence in d.unarmed:
            stdout.print(f"[yellow]{safe(d.deployment_id)}: {safe(sentence)}[/]", highlight=False, soft_wrap=True)
        if d.unarmed:
            hint = f"  [dim]run {safe(fit_command(d.deployment_id, d.latest_version))}[/]"
            stdout.print(hint, highlight=False, soft_wrap=True)
    if len(shown) < len(ranked):
        without = sum(not d.baselines for d in ranked[len(shown) :])
        taught = f", {without:,} of them without a baseline" if without else ""
        stdout.print(f"[dim]{len(ranked) - len(shown):,} more deployments{taught}: --all[/]", highlight=False)


def _outcomes(shown: Sequence[tuple[str, OutcomeStatus]]) -> None:
    """How far predictions are joined to their outcomes."""
    names = ("joined", "corrected", "superseded", "unknown", "late", "refused")
    print_table(
        ["deployment", "pending", "coverage", *names],
        [
            (
                name,
                f"{outcomes.pending:,}",
                "–" if outcomes.coverage is None else f"{outcomes.coverage:.1%}",
                *(f"{getattr(outcomes, field):,}" for field in names),
            )
            for name, outcomes in shown
        ],
        title="outcomes",
        numbers=("pending", "coverage", *names),
    )


def _minute(time_us: int) -> str:
    from services.event_time import rfc3339

    return rfc3339(time_us - time_us % 60_000_000).replace("T", " ").removesuffix(":00Z")
