"""``driftline alerts list`` and ``driftline alerts show``: alerts as the topic tells them, without a service."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.alerting.incidents.views import FIRING, RESOLVED
from services.alerting.words.message import describe_alert, format_time, monitor_title
from services.alerting.words.readings import stream_label
from services.cli.output import JSON_OPTION, fail, note, print_json, print_table, safe, stdout
from services.kafka import read_to_end

_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}
_COLUMNS = ("id", "noticed (UTC)", "since (UTC)", "severity", "status", "deployment", "version", "monitor", "causes")

alerts_app = typer.Typer(
    name="alerts",
    help="Alerts on the topic, with or without an alerting service.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


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


@alerts_app.command(
    "list",
    epilog="Examples:\n\n  driftline alerts list\n\n  driftline alerts list --deployment credit --status firing --json",
)
def alerts_list(
    deployment: Annotated[str | None, typer.Option(help="Of this deployment only.")] = None,
    status: Annotated[StatusName | None, typer.Option(help="Alarms that still fire, or that are over, only.")] = None,
    severity: Annotated[SeverityName | None, typer.Option(help="Of this severity only.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """List alarms, the newest first: what fired, and whether it is over."""
    found = alarms_of(read_alerts(KafkaSettings.from_environment()))
    chosen = [
        alarm
        for alarm in found
        if (deployment is None or alarm.first["deployment_id"] == deployment)
        and (status is None or alarm.status == status.value)
        and (severity is None or alarm.first["severity"] == severity.value)
    ]
    chosen.sort(key=lambda alarm: (alarm.first["detection_time_us"], alarm.first["id"]), reverse=True)
    shown = chosen[:limit]
    if as_json:
        print_json([alarm.summary() for alarm in shown])
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
    """Show an alert, or every alert of an incident key, in words."""
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
class Alarm:
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


def alarms_of(alerts: Iterable[Record]) -> list[Alarm]:
    """The alarms behind alerts, in the order of their first record."""
    found: dict[tuple[str, int], Alarm] = {}
    for alert in alerts:
        key = (alert["incident_key"], alert["episode"])
        known = found.get(key, Alarm(None, None))
        if alert["status"] == FIRING:
            found[key] = Alarm(alert, known.resolved)
        else:
            found[key] = Alarm(known.firing, alert)
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


def _row(alarm: Alarm) -> tuple[str, ...]:
    alert = alarm.first
    causes = ", ".join(map(stream_label, alert["causes"][:3]))
    return (
        alert["id"][:8],
        format_time(alert["detection_time_us"]).removesuffix(" UTC"),
        format_time(alert["change_time_us"]).removesuffix(" UTC"),
        alert["severity"],
        alarm.status,
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
        ("Incident key", f"{record['incident_key']}, episode {record['episode']}"),
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
