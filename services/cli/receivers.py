"""``driftline receivers``: who is told, and whether they can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stdout

_EXAMPLES = """
Examples:

  driftline receivers list

  driftline receivers test risk-chat
"""
EXAMPLES = _EXAMPLES

receivers_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="See who is told and whether they can be reached; send a test.",
    epilog=_EXAMPLES,
)
_Json = Annotated[bool, JSON_OPTION]


@receivers_app.command("list", epilog="Example: driftline receivers list --json")
def list_receivers(as_json: _Json = False) -> None:
    """List receivers with their health."""
    from services.cli.alerting_client import alerting_client, short_time

    found = alerting_client().get("receivers")["receivers"]
    if as_json:
        print_json(found)
        return
    if not found:
        note("there is no receiver: incidents are kept and nobody is told")
        return
    rows = [
        (
            r["name"],
            r["type"] or "(not in the file)",
            "well"
            if r["healthy"]
            else f"fails since {short_time(r['failing_since'])}"
            if r["failing_since"]
            else "gone",
            r["messages"].get("pending", 0) + r["messages"].get("sending", 0),
            r["messages"].get("dead", 0),
            short_time(r["last_sent"]),
            r["fallback"],
            r["last_error"],
        )
        for r in found
    ]
    columns = ("receiver", "type", "health", "waiting", "dead", "last sent (UTC)", "fallback", "last error")
    print_table(columns, rows, numbers=("waiting", "dead"))


def _health(receiver: Mapping[str, Any]) -> str:
    from services.cli.alerting_client import short_time

    if receiver["healthy"]:
        return "well"
    return f"fails since {short_time(receiver['failing_since'])}" if receiver["failing_since"] else "gone"


@receivers_app.command("test", epilog="Example: driftline receivers test risk-chat")
def send_test(
    receiver: Annotated[str, typer.Argument(help="Its name in the routing file.", show_default=False)],
    as_json: _Json = False,
) -> None:
    """Send a test message, by the same way as every other."""
    from services.cli.alerting_client import alerting_client

    found = alerting_client().post("receivers", receiver, "test")
    if as_json:
        print_json(found)
        return
    stdout.print(
        f"a test is on its way to {safe(found['receiver'])}; driftline notifications list --receiver "
        f"{safe(found['receiver'])} tells what became of it",
        soft_wrap=True,
        highlight=False,
    )
