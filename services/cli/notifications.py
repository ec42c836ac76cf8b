"""``driftline notifications``: which messages were sent, which wait, which died."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.output import JSON_OPTION, note, print_json, print_table, stdout

_EXAMPLES = """
Examples:

  driftline notifications list

  driftline notifications list --status dead

  driftline notifications retry 412 413

  driftline notifications retry --receiver pager
"""
EXAMPLES = _EXAMPLES

notifications_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="See which messages were sent, which wait and which died; try dead ones again.",
    epilog=_EXAMPLES,
)
_Json = Annotated[bool, JSON_OPTION]


@notifications_app.command("list", epilog="Example: driftline notifications list --status dead --receiver pager")
def list_notifications(
    status: Annotated[str | None, typer.Option(help="pending, sending, gathered, sent, dead or merged.")] = None,
    receiver: Annotated[str | None, typer.Option(help="To this receiver.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    as_json: _Json = False,
) -> None:
    """List messages, the latest first."""
    from services.cli.alerting_client import alerting_client, short_time
    from services.cli.incidents import pages

    found, more = pages(alerting_client(), "notifications", "notifications", limit, status=status, receiver=receiver)
    if as_json:
        print_json(found)
        return
    if not found:
        note("no message")
        return
    rows = [
        (
            n["id"],
            short_time(n["created"]),
            n["receiver"],
            n["kind"],
            n["status"],
            n["attempts"],
            ", ".join(n["incidents"][:3]) + (" …" if len(n["incidents"]) > 3 else ""),
            n["last_error"] or n["reason"],
        )
        for n in found
    ]
    columns = ("id", "decided (UTC)", "receiver", "kind", "status", "attempts", "incidents", "why, or what went wrong")
    print_table(columns, rows, numbers=("id", "attempts"))
    if more:
        note(f"there are more; --limit {limit * 4} shows more of them")


@notifications_app.command("retry", epilog="Example: driftline notifications retry --receiver pager")
def retry(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID…]", help="Of dead messages.", show_default=False)
    ] = None,
    receiver: Annotated[str | None, typer.Option(help="All dead messages of this receiver.")] = None,
    as_json: _Json = False,
) -> None:
    """Try dead messages again: their receivers tell them from new ones by the same key."""
    from services.cli.alerting_client import alerting_client

    if bool(ids) == bool(receiver):
        raise typer.BadParameter(
            "expected ids of dead messages, or --receiver; driftline notifications list --status dead"
        )
    found = alerting_client().post(
        "notifications", "redrive", body={"receiver": receiver} if receiver else {"ids": ids}
    )
    if as_json:
        print_json(found)
        return
    stdout.print(f"{found['redriven']} message(s) are tried again", highlight=False)
