"""The commands: ``driftline alerting``, ``driftline alerts list`` and ``driftline alerts show``."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from driftline.codec import Record, decode
from driftline.errors import CodecError, DriftlineError
from driftline.settings import KafkaSettings
from services.alerting.incidents import FIRING, RESOLVED
from services.alerting.logs import configure_logging
from services.alerting.service import AlertingService
from services.alerting.settings import DATABASE_URL, AlertingSettings, load_destinations
from services.alerting.words.message import describe_alert, format_time, monitor_title
from services.alerting.words.readings import stream_label
from services.cli.output import JSON_OPTION, fail, note, print_json, print_table, safe, stdout
from services.kafka import read_to_end

EXAMPLES = """
Examples:

  driftline alerting

  DRIFTLINE_SLACK_WEBHOOK_URL_FILE=/run/secrets/slack driftline alerting --port 9102

  driftline alerting --config destinations.yaml

Exit status: 0 after a stop by signal; 1 when Kafka or the database failed for good (start it again, it goes on where it
was); 2 when a setting cannot be used.
"""

log = logging.getLogger("driftline.alerting")

_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}
_COLUMNS = ("id", "noticed (UTC)", "since (UTC)", "severity", "status", "deployment", "version", "monitor", "causes")

alerts_app = typer.Typer(
    name="alerts",
    help="Alerts on the topic, with or without an alerting service.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
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
    DRIFTLINE_PAGERDUTY_ROUTING_KEY (each secret also with _FILE), or from --config. With none, incidents are kept and
    nobody is told.
    """
    kafka = KafkaSettings.from_environment()
    settings = AlertingSettings(
        destinations=load_destinations(config, os.environ),
        database_url=database_url,
        history=history.value,
        give_up_seconds=give_up_hours * 3600,
        kafka_timeout_seconds=kafka_timeout_seconds,
    )
    configure_logging(settings.secrets(), level=log_level.value, as_json=as_json)
    try:
        asyncio.run(_run(kafka, settings, port, as_json=as_json))
    except DriftlineError:
        raise
    except Exception:
        log.exception("the alerting service ends")  # logged, not raised: only the log takes secrets out of a traceback
        raise typer.Exit(1) from None


async def _run(kafka: KafkaSettings, settings: AlertingSettings, port: int, *, as_json: bool) -> None:
    names = [destination.name for destination in settings.destinations]

    def ready() -> None:
        if as_json:
            print_json({"event": "ready", "topic": kafka.topics.alerts, "destinations": names, "port": port})

    await AlertingService(kafka, settings, port=port).run(ready)


@alerts_app.command(
    "list",
    epilog="Examples:\n\n  driftline alerts list\n\n  driftline alerts list --deployment credit --status firing --json",
)
def alerts_list(
    deployment: Annotated[str | None, typer.Option(help="Of this deployment only.")] = None,
    status: Annotated[StatusName | None, typer.Option(help="Alerts of incidents with this status only.")] = None,
    severity: Annotated[SeverityName | None, typer.Option(help="Of this severity only.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """List incidents, the newest first."""
    found = incidents_of(read_alerts(KafkaSettings.from_environment()))
    chosen = [
        incident
        for incident in found
        if (deployment is None or incident.first["deployment_id"] == deployment)
        and (status is None or incident.status == status.value)
        and (severity is None or incident.first["severity"] == severity.value)
    ]
    chosen.sort(key=lambda incident: (incident.first["detection_time_us"], incident.first["id"]), reverse=True)
    shown = chosen[:limit]
    if as_json:
        print_json([incident.summary() for incident in shown])
        return
    if not shown:
        stdout.print("No alerts." if not found else f"No alerts like that; {len(found)} others.")
        return
    print_table(_COLUMNS, map(_row, shown))
    if len(chosen) > len(shown):
        stdout.print(f"{len(chosen) - len(shown)} older ones: give a larger --limit.")


@alerts_app.command(
    "show", epilog="Examples:\n\n  driftline alerts show 5f0c1f7e\n\n  driftline alerts show INCIDENT-KEY --json"
)
def alerts_show(
    alert: Annotated[
        str, typer.Argument(help="Id of an alert, the beginning of one, or an incident's key.", metavar="ID")
    ],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show an alert, or all of an incident, in words."""
    found = list(read_alerts(KafkaSettings.from_environment()))
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
    """Every alert on the topic, once each, in the order of each partition; what is no alert is passed over, and said.

    Raises:
        ClusterError: Kafka does not answer, or has no such topic.
    """
    seen: set[str] = set()
    unread = 0
    for message in read_to_end(kafka, kafka.topics.alerts):
        try:
            name, record = decode(message.value())
        except CodecError:
            unread += 1  # the alerting service puts it among the dead letters
            continue
        if name == "Alert" and record["id"] not in seen:
            seen.add(record["id"])
            yield record
    if unread:
        note(f"{unread:,} messages on {kafka.topics.alerts} are left out: this release cannot read them")


@dataclass(frozen=True, slots=True)
class Incident:
    """One episode of one incident key, as the topic tells it; at least one of the two is there."""

    firing: Record | None
    resolved: Record | None

    @property
    def first(self) -> Record:
        """The record that says most: the firing one, if it is on the topic."""
        alert = self.firing or self.resolved
        assert alert is not None
        return alert

    @property
    def status(self) -> str:
        """``firing`` or ``resolved``."""
        return FIRING if self.resolved is None else RESOLVED

    def summary(self) -> dict[str, Any]:
        """What a machine wants to know first."""
        alert = self.first
        names = ("id", "incident_key", "deployment_id", "model_version", "monitor", "severity", "episode", "owner")
        return {name: alert[name] for name in names} | {
            "status": self.status,
            "change_time": _iso(alert["change_time_us"]),
            "opened": None if self.firing is None else _iso(self.firing["detection_time_us"]),
            "resolved": None if self.resolved is None else _iso(self.resolved["detection_time_us"]),
            "causes": [stream_label(cause) for cause in alert["causes"]],
        }


def incidents_of(alerts: Iterable[Record]) -> list[Incident]:
    """The incidents behind alerts, in the order of their first record."""
    found: dict[tuple[str, int], Incident] = {}
    for alert in alerts:
        key = (alert["incident_key"], alert["episode"])
        known = found.get(key, Incident(None, None))
        if alert["status"] == FIRING:
            found[key] = Incident(alert, known.resolved)
        else:
            found[key] = Incident(known.firing, alert)
    return list(found.values())


def _json_of(record: Record) -> dict[str, Any]:
    text = describe_alert(record)
    words = {
        "headline": str(text.headline),
        "sentences": list(map(str, text.sentences)),
        "causes": list(map(str, text.causes)),
        "next": None if text.steps is None else str(text.steps),
    }
    return {
        **record,
        "change_time": _iso(record["change_time_us"]),
        "detection_time": _iso(record["detection_time_us"]),
        "text": words,
    }


def _row(incident: Incident) -> tuple[str, ...]:
    alert = incident.first
    causes = ", ".join(map(stream_label, alert["causes"][:3]))
    return (
        alert["id"][:8],
        format_time(alert["detection_time_us"]).removesuffix(" UTC"),
        format_time(alert["change_time_us"]).removesuffix(" UTC"),
        alert["severity"],
        incident.status,
        alert["deployment_id"],
        alert["model_version"],
        str(monitor_title(alert["monitor"])),
        causes + (" …" if len(alert["causes"]) > 3 else ""),
    )


def _print_alert(record: Record) -> None:
    text = describe_alert(record)
    color = "green" if text.resolved else _COLORS[record["severity"]]
    stdout.print(f"[bold {color}]{safe(text.headline)}[/]", soft_wrap=True)
    for sentence in text.sentences:
        stdout.print(f"  {safe(sentence)}", soft_wrap=True)
    for rank, cause in enumerate(text.causes, start=1):
        stdout.print(f"  {rank}. {safe(cause)}", soft_wrap=True)
    if text.steps is not None:
        stdout.print(f"  {safe(text.steps)}", soft_wrap=True)
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
