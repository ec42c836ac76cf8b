"""``driftline token``: who may ask the alerting service."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from services.access.roles import PERMISSIONS, Role
from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stdout

_EXAMPLES = """
Examples:

  driftline token create ada --role operator

  driftline token create credit-team --role owner --deployment "credit-*" --expires 90d

  driftline token list

  driftline token revoke ada

A token is shown once, when it is made; the file keeps its SHA-256 alone. The running service sees a change of the file
at the next request. driftline up uses .driftline/tokens.yaml, as this command does; driftline alerting has to be given
the file, by --tokens or DRIFTLINE_ALERTING_TOKENS.
"""
EXAMPLES = _EXAMPLES

tokens_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Say who may ask the alerting service, and what they may do.",
    epilog=_EXAMPLES,
)
_Json = Annotated[bool, JSON_OPTION]
_File = Annotated[
    Path,
    typer.Option("--file", "-f", envvar="DRIFTLINE_ALERTING_TOKENS", dir_okay=False, help="The tokens file."),
]
_DEFAULT = Path(".driftline") / "tokens.yaml"
_NAME = typer.Argument(help="Of the person or machine: what the audit calls it.", show_default=False)


@tokens_app.command("create", epilog='Example: driftline token create eve --role viewer --deployment "credit-*"')
def create(
    name: Annotated[str, _NAME],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    deployment: Annotated[
        list[str] | None, typer.Option(help="Pattern of deployments that it sees alone; may be repeated.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After how long: 90d.")] = None,
    file: _File = _DEFAULT,
    as_json: _Json = False,
) -> None:
    """Make a token and show it, this once."""
    from services.access.tokens import create_token

    now = dt.datetime.now(dt.UTC)
    until = None if expires is None else now + _duration(expires)
    if any(not pattern.strip() for pattern in deployment or ()):
        raise typer.BadParameter("expected a pattern such as credit-*, came nothing", param_hint="--deployment")
    token = create_token(file, name, role, deployments=deployment or (), now=now, expires=until)
    if as_json:
        print_json({"name": name, "role": role.value, "token": token, "file": str(file)})
        return
    note(f"{name} may: {', '.join(sorted(PERMISSIONS[role]))}. The token is shown this once:")
    stdout.print(token, soft_wrap=True, highlight=False, markup=False)


def _duration(text: str) -> dt.timedelta:
    from services.alerting.policy.durations import parse_duration

    try:
        return dt.timedelta(milliseconds=parse_duration(text))
    except ValueError as error:
        raise typer.BadParameter(f"{error}, came {text!r}", param_hint="--expires") from error


@tokens_app.command("list", epilog="Example: driftline token list --json")
def list_tokens(file: _File = _DEFAULT, as_json: _Json = False) -> None:
    """List who has a token; the tokens themselves are kept nowhere."""
    from services.access.tokens import read_tokens

    tokens = read_tokens(file)
    now = dt.datetime.now(dt.UTC)
    if as_json:
        print_json(
            [
                {
                    "name": token.identity.name,
                    "role": token.identity.role.value,
                    "deployments": list(token.identity.deployments) or None,
                    "created": token.created,
                    "expires": token.expires,
                    "valid": token.valid(now),
                }
                for token in tokens
            ]
        )
        return
    if not tokens:
        note(f"{file} has no token; driftline token create NAME --role ROLE makes one")
        return
    rows = [
        (
            token.identity.name,
            token.identity.role.value,
            ", ".join(token.identity.deployments) or "all",
            "" if token.created is None else f"{token.created:%Y-%m-%d}",
            "never" if token.expires is None else f"{token.expires:%Y-%m-%d}" + ("" if token.valid(now) else " (over)"),
        )
        for token in tokens
    ]
    print_table(("name", "role", "deployments", "created", "expires"), rows)


@tokens_app.command("revoke", epilog="Example: driftline token revoke ada")
def revoke(name: Annotated[str, _NAME], file: _File = _DEFAULT, as_json: _Json = False) -> None:
    """Take somebody's token back; it is refused from the next request on."""
    from services.access.tokens import revoke_token

    gone = revoke_token(file, name)
    if as_json:
        print_json({"name": gone.identity.name, "revoked": True})
        return
    stdout.print(f"{safe(name)} has no token any more", highlight=False)
