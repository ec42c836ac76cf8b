"""The commands: ``driftline alerting``, ``driftline alerts list`` and ``driftline alerts show``."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from driftline.codec import Record, decode
from driftline.errors import CodecError, DriftlineError
from driftline.settings import KafkaSettings
from services.alerting.errors import AlertingSettingsError
from services.alerting.incidents import FIRING
from services.alerting.logs import configure_logging
from services.alerting.message import describe_alert, format_time, monitor_title
from services.alerting.service import AlertingService
from services.alerting.settings import DATABASE_URL, AlertingSettings, load_destinations
from services.cli.output import JSON_OPTION, fail, print_json, safe, stdout
from services.kafka import read_to_end

_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}

alerts_app = typer.Typer(
    name="alerts", help="Alerts on the topic, with or without an alerting service.", no_args_is_help=True
)


class History(enum.StrEnum):
    """What the very first start does with alerts that are there already."""

    OPEN = "open"
    ALL = "all"
    NONE = "none"


class LogLevel(enum.StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class SeverityName(enum.StrEnum):
    """Severities."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class StatusName(enum.StrEnum):
    """Statuses of an alert."""

    FIRING = "firing"
    RESOLVED = "resolved"


def alerting(
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with destinations.", envvar="DRIFTLINE_ALERTING_CONFIG", dir_okay=False),
    ] = None,
    database_url: Annotated[
        str,
        typer.Option(help="Where incidents and unsent messages are kept.", envvar="DRIFTLINE_ALERTING_DATABASE_URL"),
    ] = DATABASE_URL,
    port: Annotated[
        int,
        typer.Option(
            help="Of /healthz and /metrics on the loopback interface; 0 for none.",
            envvar="DRIFTLINE_ALERTING_PORT",
            min=0,
            max=65535,
        ),
    ] = 0,
    history: Annotated[
        History,
        typer.Option(
            help="The very first start tells of alerts that are there already: those still open, all, or none.",
            envvar="DRIFTLINE_ALERTING_HISTORY",
        ),
    ] = History.OPEN,
    give_up_hours: Annotated[
        float,
        typer.Option(
            help="Age at which an undelivered message is given up.", envvar="DRIFTLINE_ALERTING_GIVE_UP_HOURS", min=0.0
        ),
    ] = 24.0,
    kafka_timeout_seconds: Annotated[
        float,
        typer.Option(
            help="End with an error after so long without Kafka.",
            envvar="DRIFTLINE_ALERTING_KAFKA_TIMEOUT_SECONDS",
            min=1.0,
        ),
    ] = 300.0,
    log_level: Annotated[
        LogLevel, typer.Option(help="How much is logged.", envvar="DRIFTLINE_LOG_LEVEL")
    ] = LogLevel.INFO,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Tell people about alerts: keep incidents, send to Slack and PagerDuty, record every decision in the audit.

    Destinations come from DRIFTLINE_SLACK_WEBHOOK_URL, or DRIFTLINE_SLACK_TOKEN with DRIFTLINE_SLACK_CHANNEL, and
    DRIFTLINE_PAGERDUTY_ROUTING_KEY (each secret also with _FILE), or from --config.

    Examples:
        driftline alerting

        DRIFTLINE_SLACK_WEBHOOK_URL_FILE=/run/secrets/slack driftline alerting --port 9102

        driftline alerting --config destinations.yaml
    """
    try:
        kafka = KafkaSettings.from_environment()
        settings = AlertingSettings(
            destinations=load_destinations(config, os.environ),
            database_url=database_url,
            history=history.value,
            give_up_seconds=give_up_hours * 3600,
            kafka_timeout_seconds=kafka_timeout_seconds,
        )
        configure_logging(settings.secrets(), level=log_level.value, as_json=as_json)
        asyncio.run(_run(kafka, settings, port, as_json=as_json))
    except AlertingSettingsError as error:
        fail(str(error), code=2)
    except DriftlineError as error:
        fail(str(error))


async def _run(kafka: KafkaSettings, settings: AlertingSettings, port: int, *, as_json: bool) -> None:
    names = [destination.name for destination in settings.destinations]

    def ready() -> None:
        if as_json:
            print_json({"event": "ready", "topic": kafka.topics.alerts, "destinations": names, "port": port})

    await AlertingService(kafka, settings, port=port).run(ready)


@alerts_app.command("list")
def alerts_list(
    deployment: Annotated[str | None, typer.Option(help="Of this deployment only.")] = None,
    status: Annotated[StatusName | None, typer.Option(help="Alerts of incidents with this status only.")] = None,
    severity: Annotated[SeverityName | None, typer.Option(help="Of this severity only.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """List incidents, the newest first.

    Examples:
        driftline alerts list

        driftline alerts list --deployment credit --status firing --json
    """
    try:
        found = incidents_of(read_alerts(KafkaSettings.from_environment()))
    except DriftlineError as error:
        fail(str(error))
    chosen = [
        alert
        for alert in found
        if (deployment is None or alert["deployment_id"] == deployment)
        and (status is None or alert["status"] == status.value)
        and (severity is None or alert["severity"] == severity.value)
    ]
    chosen.sort(key=lambda alert: (alert["detection_time_us"], alert["incident_key"]), reverse=True)
    shown = chosen[:limit]
    if as_json:
        print_json([summary(alert) for alert in shown])
        return
    if not shown:
        stdout.print("No alerts." if not found else f"No alerts like that; {len(found)} others.")
        return
    stdout.print(_table(shown))
    if len(chosen) > len(shown):
        stdout.print(f"{len(chosen) - len(shown)} older ones: give a larger --limit.")


@alerts_app.command("show")
def alerts_show(
    alert: Annotated[
        str, typer.Argument(help="Id of an alert, the beginning of one, or an incident's key.", metavar="ID")
    ],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show an alert in words, with its causes and their counts.

    Examples:
        driftline alerts show 5f0c1f7e-8d0b-5f7e-9a43-0c8a8e1f2b11

        driftline alerts show 5f0c1f7e --json
    """
    try:
        found = list(read_alerts(KafkaSettings.from_environment()))
    except DriftlineError as error:
        fail(str(error))
    matching = {a["id"]: a for a in found if a["id"] == alert} or {
        a["id"]: a for a in found if a["incident_key"] == alert
    }
    if not matching and len(alert) >= 4:
        matching = {a["id"]: a for a in found if a["id"].startswith(alert)}
    if not matching:
        fail(f"no alert among {len(found)} has the id or incident key {alert!r}: `driftline alerts list` shows them")
    if len({(a["incident_key"], a["episode"]) for a in matching.values()}) > 1 and alert not in _keys(matching):
        fail(f"{alert!r} is the beginning of {len(matching)} ids: give more of it")
    records = list(matching.values())
    if as_json:
        print_json([_json_of(record) for record in records])
        return
    for record in records:
        _print_alert(record)


def _keys(matching: dict[str, Record]) -> set[str]:
    return {record["incident_key"] for record in matching.values()}


def read_alerts(kafka: KafkaSettings) -> Iterator[Record]:
    """Every alert on the topic, once each, in the order of each partition; what is no alert is passed over.

    Raises:
        ClusterError: Kafka does not answer, or has no such topic.
    """
    seen: set[str] = set()
    for message in read_to_end(kafka, kafka.topics.alerts):
        try:
            name, record = decode(message.value())
        except CodecError:
            continue  # the alerting service puts it among the dead letters
        if name == "Alert" and record["id"] not in seen:
            seen.add(record["id"])
            yield record


def incidents_of(alerts: Iterator[Record]) -> list[Record]:
    """The latest alert of every incident (incident key and episode)."""
    latest: dict[tuple[str, int], Record] = {}
    for alert in alerts:
        key = (alert["incident_key"], alert["episode"])
        if key in latest and latest[key]["status"] != FIRING:
            continue  # an end stays an end
        latest[key] = alert
    return list(latest.values())


def summary(alert: Record) -> dict[str, Any]:
    """What a machine wants to know first about an alert."""
    names = (
        "id",
        "incident_key",
        "deployment_id",
        "model_version",
        "monitor",
        "severity",
        "status",
        "episode",
        "owner",
    )
    return {name: alert[name] for name in names} | {
        "change_time": _iso(alert["change_time_us"]),
        "detection_time": _iso(alert["detection_time_us"]),
        "causes": [cause["stream"] for cause in alert["causes"]],
    }


def _json_of(record: Record) -> dict[str, Any]:
    text = describe_alert(record)
    words = {
        "headline": str(text.headline),
        "sentences": list(map(str, text.sentences)),
        "causes": list(map(str, text.causes)),
    }
    return {
        **record,
        "change_time": _iso(record["change_time_us"]),
        "detection_time": _iso(record["detection_time_us"]),
        "text": words,
    }


def _table(alerts: list[Record]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ID", "Noticed", "Since", "Severity", "Status", "Deployment", "Version", "Monitor", "Causes"):
        table.add_column(name, overflow="fold")
    for alert in alerts:
        firing = alert["status"] == FIRING
        causes = ", ".join(cause["stream"] for cause in alert["causes"][:3])
        table.add_row(
            safe(alert["id"][:8]),
            safe(format_time(alert["detection_time_us"])),
            safe(format_time(alert["change_time_us"])),
            f"[{_COLORS[alert['severity']]}]{safe(alert['severity'])}[/]",
            f"[{'red' if firing else 'green'}]{safe(alert['status'])}[/]",
            safe(alert["deployment_id"]),
            safe(alert["model_version"]),
            safe(monitor_title(alert["monitor"])),
            safe(causes + (" …" if len(alert["causes"]) > 3 else "")),
        )
    return table


def _print_alert(record: Record) -> None:
    text = describe_alert(record)
    color = "green" if text.resolved else _COLORS[record["severity"]]
    stdout.print(f"[bold {color}]{safe(text.headline)}[/]", soft_wrap=True)
    for sentence in text.sentences:
        stdout.print(f"  {safe(sentence)}", soft_wrap=True)
    for rank, cause in enumerate(text.causes, start=1):
        stdout.print(f"  {rank}. {safe(cause)}", soft_wrap=True)
    for name, content in text.facts:
        stdout.print(f"  [dim]{name}:[/] {safe(content)}", soft_wrap=True)
    evidence = [
        f"{r['topic']}/{r['partition']}/{r['first_offset']}-{r['last_offset']}" for r in record["evidence_offsets"]
    ]
    rows = [
        ("Id", record["id"]),
        ("Incident", f"{record['incident_key']}, episode {record['episode']}"),
        ("Baseline", record["baseline_digest"]),
        ("Evidence", ", ".join(evidence)),
        ("Runbook", text.runbook_url or ""),
    ]
    for name, content in rows:
        if content:
            stdout.print(f"  [dim]{name}:[/] {safe(content)}", soft_wrap=True)


def _iso(time_us: int) -> str | None:
    try:
        return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)).isoformat()
    except OverflowError:
        return None
