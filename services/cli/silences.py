"""``driftline silences``: tell nobody of some alarms for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stdout

_EXAMPLES = """
Examples:

  driftline silences list

  driftline silences add deployment=credit monitor=data_drift --for 4h --reason "new feature store"

  driftline silences add "deployment=flights-*" severity=info,warning --for 1d --reason "holiday load"

  driftline silences end 5c1f --reason "done early"

Whatever is silenced, whoever was told of an incident is told of its end.
"""
EXAMPLES = _EXAMPLES

silences_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Tell nobody of some alarms for a while.",
    epilog=_EXAMPLES,
)
_Json = Annotated[bool, JSON_OPTION]


@silences_app.command("list", epilog="Example: driftline silences list --all")
def list_silences(
    show_all: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 100,
    as_json: _Json = False,
) -> None:
    """List silences, the latest first."""
    from services.cli.alerting_client import alerting_client, short_time
    from services.cli.incidents import pages

    found, more = pages(alerting_client(), "silences", "silences", limit, all=show_all)
    if as_json:
        print_json(found)
        return
    if not found:
        note("nothing is silenced" + ("" if show_all else "; --all lists silences that are over too"))
        return
    rows = [
        (s["id"], s["state"], _what(s), short_time(s["starts"]), short_time(s["ends"]), s["author"], s["reason"])
        for s in found
    ]
    print_table(("silence", "state", "what", "from (UTC)", "to (UTC)", "author", "reason"), rows)
    if more:
        note(f"there are more; --limit {limit * 4} shows more of them")


def _what(silence: Mapping[str, Any]) -> str:
    if silence["incident"]:
        return f"incident {silence['incident']}"
    return ", ".join(f"{label}={_value(value)}" for label, value in silence["match"].items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return " ".join(f"{how} {_value(each)}" for how, each in value.items())
    return str(value)


@silences_app.command("add", epilog='Example: driftline silences add deployment=credit --for 4h -r "release"')
def add_silence(
    matches: Annotated[
        list[str],
        typer.Argument(
            metavar="LABEL=VALUE…",
            help="All must hold. VALUE: text, a glob, or several with commas; LABEL!=VALUE for anything else.",
            show_default=False,
        ),
    ],
    duration: Annotated[str, typer.Option("--for", help="How long: 30m, 4h, 1d.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the audit.")],
    starts: Annotated[str | None, typer.Option(help="From when, such as 2026-12-01T22:00Z; otherwise now.")] = None,
    as_json: _Json = False,
) -> None:
    """Silence everything that matches, what comes later too."""
    from services.cli.alerting_client import alerting_client, short_time

    body: dict[str, Any] = {"match": parse_matches(matches), "duration": duration, "reason": reason}
    if starts is not None:
        body["starts"] = starts
    found = alerting_client().post("silences", body=body)
    if as_json:
        print_json(found)
        return
    stdout.print(
        f"silence {safe(found['id'])}: {safe(_what(found))} until {short_time(found['ends'])} UTC",
        soft_wrap=True,
        highlight=False,
    )


def parse_matches(matches: Sequence[str]) -> dict[str, Any]:
    """``LABEL=VALUE`` and ``LABEL!=VALUE`` as the routing file has them.

    Raises:
        typer.BadParameter: One is neither, or a label comes twice.
    """
    found: dict[str, Any] = {}
    for match in matches:
        label, sign, text = match.partition("=")
        negated = label.endswith("!")
        label = label.removesuffix("!")
        if not sign or not label:
            raise typer.BadParameter(f"expected LABEL=VALUE, such as deployment=credit, came {match!r}")
        if label in found:
            raise typer.BadParameter(f"{label} comes twice: give several values with commas, {label}=a,b")
        values = [value.strip() for value in text.split(",")]
        value: Any = values[0] if len(values) == 1 else values
        found[label] = {"not": value} if negated else value
    return found


@silences_app.command("end", epilog='Example: driftline silences end 5c1f -r "done early"')
def end_silence(
    silence: Annotated[
        str, typer.Argument(metavar="SILENCE", help="Its id, or the first four digits or more.", show_default=False)
    ],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the audit.")] = "",
    as_json: _Json = False,
) -> None:
    """End a silence before its time."""
    from services.cli.alerting_client import alerting_client

    found = alerting_client().post("silences", silence, "end", body={"reason": reason})
    if as_json:
        print_json(found)
        return
    stdout.print(f"silence {safe(found['id'])} is over", soft_wrap=True, highlight=False)
