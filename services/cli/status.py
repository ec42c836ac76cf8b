"""``driftline status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import JSON_OPTION, print_json, print_table, safe, stdout

if TYPE_CHECKING:
    from services.status import SystemStatus

EXAMPLES = """
Examples:

  driftline status

  driftline status --json

Exit status: 0 the topics are complete and a worker runs; 1 not so, or Kafka does not answer.
"""

_COUNTERS = ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows")
_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}


def status(as_json: Annotated[bool, JSON_OPTION] = False) -> None:
    """Show whether everything runs and keeps up: topics, workers, deployments, open incidents, dead letters."""
    from services.cli.context import kafka_settings
    from services.status import system_status

    found = system_status(kafka_settings())
    if as_json:
        print_json(_document(found))
    else:
        _show(found)
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


def _show(found: SystemStatus) -> None:
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
    _line("lag", f"{found.lag:,} message(s) not applied yet")
    reasons = ", ".join(f"{safe(reason)} {count:,}" for reason, count in found.dead_letter_reasons.items())
    _line("dead letters", f"{found.dead_letters:,}" + (f" (latest: {reasons})" if reasons else ""))
    _line("incidents", f"[bold red]{len(found.firing)} firing[/]" if found.firing else "none firing")
    for alert in found.firing:
        _incident(alert)
    if not found.deployments:
        stdout.print("no deployments yet: driftline deployment apply FILE", highlight=False)
        return
    _deployments(found)


def _line(name: str, text: str) -> None:
    stdout.print(f"[bold]{name:<13}[/]{text}", highlight=False, soft_wrap=True)


def _incident(alert: dict[str, Any]) -> None:
    from services.event_time import rfc3339

    color = _COLORS.get(alert["severity"], "red")
    first = alert["causes"][0]["stream"] if alert["causes"] else "unknown"
    stdout.print(
        f"  [{color}]{safe(alert['severity'])}[/] {safe(alert['deployment_id'])}@{safe(alert['model_version'])} "
        f"{safe(alert['monitor'])} since {rfc3339(alert['change_time_us'])}, first cause {safe(first)}",
        highlight=False,
        soft_wrap=True,
    )


def _deployments(found: SystemStatus) -> None:
    from services.event_time import rfc3339

    def count(counters: Any, name: str) -> str:
        return f"{counters[name]:,}" if name in counters else "–"

    print_table(
        ["deployment", "baselines", "rows", "late", "duplicate", "rejected", "outcomes", "last event", "owner"],
        [
            (
                d.deployment_id,
                ", ".join(d.baselines) or "none yet",
                *(
                    count(d.counters, n)
                    for n in ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows")
                ),
                "–" if d.last_event_us is None else rfc3339(d.last_event_us),
                d.owner,
            )
            for d in found.deployments
        ],
        numbers=("rows", "late", "duplicate", "rejected", "outcomes"),
    )
