"""``driftline incidents``: see what is wrong, and answer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stdout

_EXAMPLES = """
Examples:

  driftline incidents list

  driftline incidents list --all --deployment credit --severity critical

  driftline incidents show 3f2a

  driftline incidents ack 3f2a --reason "looking at the feature pipeline"

  driftline incidents note 3f2a "the weather feed was empty from 09:10"

  driftline incidents assign 3f2a ada

  driftline incidents silence 3f2a --for 4h --reason "fix is being rolled out"

  driftline incidents resolve 3f2a --reason "feed repaired"

An incident may be named by the first four digits of its id, or more. The running service is asked: see
.driftline/alerting.json, which driftline up writes, or DRIFTLINE_ALERTING_URL with DRIFTLINE_ALERTING_TOKEN_FILE. Who
acts is said by the token.
"""
EXAMPLES = _EXAMPLES

incidents_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="See what is wrong, and answer it.",
    epilog=_EXAMPLES,
)

_COLORS = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}
_STATES = {"resolved": "green", "acknowledged": "cyan", "silenced": "dim"}

_ID = typer.Argument(metavar="INCIDENT", help="Its id, or the first four digits or more.", show_default=False)
_WHY = typer.Option("--reason", "-r", help="Why; it goes into the story, to every channel and the audit.")
_Json = Annotated[bool, JSON_OPTION]


@incidents_app.command("list", epilog="Example: driftline incidents list --status acknowledged")
def list_incidents(
    status: Annotated[
        str | None, typer.Option(help="open, acknowledged, silenced, resolved or unresolved (the default).")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    deployment: Annotated[str | None, typer.Option(help="Of this deployment.")] = None,
    severity: Annotated[str | None, typer.Option(help="critical, error, warning or info.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose deployment it is.")] = None,
    text: Annotated[str | None, typer.Option(help="In the title, id or deployment.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    as_json: _Json = False,
) -> None:
    """List incidents that are not over, those opened last first."""
    from services.cli.alerting_client import alerting_client

    client = alerting_client()
    asked = {
        "status": status or (None if show_all else "unresolved"),
        "deployment": deployment,
        "severity": severity,
        "owner": owner,
        "text": text,
    }
    found, more = pages(client, "incidents", "incidents", limit, **asked)
    if as_json:
        print_json(found)
        return
    if not found:
        note("no incident" if show_all or status else "no incident is open; --all lists those that are over too")
        return
    _table(found)
    if more:
        note(f"there are more; --limit {limit * 4} shows more of them")


def pages(client: Any, path: str, name: str, limit: int, **asked: Any) -> tuple[list[dict[str, Any]], bool]:
    """So many entries of a list, over as many pages as it takes, and whether there are more."""
    found: list[dict[str, Any]] = []
    before: str | None = None
    while len(found) < limit:
        page = client.get(path, **asked, before=before, limit=min(limit - len(found), 200))
        found += page[name]
        before = page["next"]
        if before is None:
            return found, False
    return found, True


def _table(found: list[dict[str, Any]]) -> None:
    from services.cli.alerting_client import short_time

    rows = [
        (
            each["id"],
            short_time(each["opened"]),
            each["severity"],
            _state(each),
            each["title"],
            ", ".join(each["deployments"][:3]) + (" …" if len(each["deployments"]) > 3 else ""),
            each["assigned_to"] or (each["acknowledged"] or {}).get("by", ""),
        )
        for each in found
    ]
    print_table(("incident", "opened (UTC)", "severity", "state", "what", "deployments", "who"), rows)


def _state(incident: Mapping[str, Any]) -> str:
    again = f" (episode {incident['episode']})" if incident["episode"] > 1 else ""
    return f"{incident['state']}{again}{', flapping' if incident['flapping'] else ''}"


@incidents_app.command("show", epilog="Example: driftline incidents show 3f2a")
def show_incident(incident: Annotated[str, _ID], as_json: _Json = False) -> None:
    """Show an incident: what changed, since when, how sure, who was told, who did what."""
    from services.cli.alerting_client import alerting_client

    found = alerting_client().get("incidents", incident)
    if as_json:
        print_json(found)
        return
    _show(found)


def _show(found: Mapping[str, Any]) -> None:
    from services.cli.alerting_client import short_time

    one, words = found["incident"], found["words"]
    color = _STATES.get(one["state"]) or _COLORS.get(one["severity"], "")
    _line(f"[{color}]{safe(one['title'])}[/]" if color else safe(one["title"]))
    who = f", taken by {safe(one['acknowledged']['by'])}" if one["acknowledged"] else ""
    to = f", assigned to {safe(one['assigned_to'])}" if one["assigned_to"] else ""
    _line(f"  {safe(one['id'])}: {safe(_state(one))}, {safe(one['severity'])}{who}{to}")
    _line(f"  began {short_time(one['started'])}, opened {short_time(one['opened'])} UTC")
    for signal in found["signals"]:
        _signal(signal)
    if more := one["signals"] - len(found["signals"]):
        _line(f"\n  and {more:,} more signal(s); GET /api/v1/incidents/{safe(one['id'])}?signals=1000 tells of them")
    if one["withheld"]:
        _line(f"\n  [dim]{one['withheld']} more signal(s), of deployments that your token does not see[/]")
    if words["steps"]:
        _line(f"\n  {safe(words['steps'])}")
    for link in words["links"]:
        _line(f"  [dim]{safe(link['text'])}:[/] {safe(link['url'])}")
    if found["story"]:
        _line("\n[bold]Story[/]")
        rows = [
            (short_time(e["time"]), _happened(e), e["actor"] if e["via"] != "clock" else "", e["via"], e["reason"])
            for e in found["story"]
        ]
        print_table(("time (UTC)", "what", "who", "by", "why"), rows)
    if found["notifications"]:
        _line("[bold]Messages[/]")
        messages = [
            (n["id"], short_time(n["created"]), n["receiver"], n["kind"], n["status"], n["reason"])
            for n in found["notifications"]
        ]
        print_table(("id", "decided (UTC)", "receiver", "kind", "status", "why"), messages)


def _happened(entry: Mapping[str, Any]) -> str:
    """What happened; of a message, of which kind it was and to whom it went."""
    detail = entry["detail"]
    told = [str(detail[name]) for name in ("kind", "receiver") if detail.get(name)]
    message = entry["action"].startswith("notification.") and told
    return f"{entry['action']}: {' to '.join(told)}" if message else str(entry["action"])


def _signal(signal: Mapping[str, Any]) -> None:
    headline = signal["headline"] or f"{signal['monitor']} in {signal['deployment']}"
    muted = f" [dim](not told: {safe(signal['mute']['reason'])})[/]" if signal["mute"] else ""
    _line(f"\n  [bold]{safe(headline)}[/] ({safe(signal['status'])}, {safe(signal['severity'])}){muted}")
    for sentence in signal["sentences"]:
        _line(f"    {safe(sentence)}")
    for rank, cause in enumerate(signal["causes"], start=1):
        _line(f"    {rank}. {safe(cause)}")


def _line(text: str) -> None:
    stdout.print(text, soft_wrap=True, highlight=False)


def _do(incident: str, action: str, done: str, body: Mapping[str, Any], *, as_json: bool) -> None:
    from services.cli.alerting_client import alerting_client

    found = alerting_client().post("incidents", incident, action, body=body)
    if as_json:
        print_json(found)
        return
    _line(f"{safe(found['id'])} {done}: {safe(found['title'])} ({safe(_state(found))})")


@incidents_app.command("ack", epilog='Example: driftline incidents ack 3f2a -r "on it"')
def acknowledge(incident: Annotated[str, _ID], reason: Annotated[str, _WHY] = "", as_json: _Json = False) -> None:
    """Take an incident: reminders and escalations end until it gets worse."""
    _do(incident, "acknowledge", "is yours", {"reason": reason}, as_json=as_json)


@incidents_app.command("unack", epilog="Example: driftline incidents unack 3f2a")
def unacknowledge(incident: Annotated[str, _ID], reason: Annotated[str, _WHY] = "", as_json: _Json = False) -> None:
    """Give an incident back: reminders go on."""
    _do(incident, "unacknowledge", "is given back", {"reason": reason}, as_json=as_json)


@incidents_app.command("resolve", epilog='Example: driftline incidents resolve 3f2a -r "feed repaired"')
def resolve(incident: Annotated[str, _ID], reason: Annotated[str, _WHY], as_json: _Json = False) -> None:
    """Call an incident over; a new alarm opens it again."""
    _do(incident, "resolve", "is over", {"reason": reason}, as_json=as_json)


@incidents_app.command("reopen", epilog="Example: driftline incidents reopen 3f2a")
def reopen(incident: Annotated[str, _ID], reason: Annotated[str, _WHY] = "", as_json: _Json = False) -> None:
    """Open an incident again."""
    _do(incident, "reopen", "is open again", {"reason": reason}, as_json=as_json)


@incidents_app.command("note", epilog='Example: driftline incidents note 3f2a "the feed was empty from 09:10"')
def add_note(
    incident: Annotated[str, _ID],
    text: Annotated[str, typer.Argument(help="What was found.", show_default=False)],
    as_json: _Json = False,
) -> None:
    """Write a note into the story; everybody who was told of the incident is told."""
    _do(incident, "note", "has the note", {"reason": text}, as_json=as_json)


@incidents_app.command("assign", epilog="Example: driftline incidents assign 3f2a ada")
def assign(
    incident: Annotated[str, _ID],
    to: Annotated[str, typer.Argument(help="Who looks after it.", show_default=False)],
    reason: Annotated[str, _WHY] = "",
    as_json: _Json = False,
) -> None:
    """Say who looks after an incident."""
    _do(incident, "assign", f"is looked after by {safe(to)}", {"to": to, "reason": reason}, as_json=as_json)


@incidents_app.command("silence", epilog='Example: driftline incidents silence 3f2a --for 4h -r "fix under way"')
def silence(
    incident: Annotated[str, _ID],
    duration: Annotated[str, typer.Option("--for", help="How long: 30m, 4h, 1d.")],
    reason: Annotated[str, _WHY],
    as_json: _Json = False,
) -> None:
    """Tell nobody of an incident for a while; its end is told all the same."""
    _do(
        incident,
        "silence",
        f"is silent for {safe(duration)}",
        {"duration": duration, "reason": reason},
        as_json=as_json,
    )
