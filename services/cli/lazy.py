"""Commands whose modules are imported when they are run, not when they are listed.

``driftline --help`` and the shell's completion answer at once: Kafka, Faust, numpy and pyarrow are loaded by the
commands that use them, and a command that cannot be loaded does not take the others with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the first level.

    Attributes:
        name: As it is typed.
        target: ``module:attribute`` of a function or of a ``typer.Typer`` with commands of its own.
        help: One line for the list of commands.
        panel: The heading it is listed under.
    """

    name: str
    target: str
    help: str
    panel: str


class LazyCommand(TyperCommand):
    """Stands for a command until it is run, asked for its help or completed."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.help, short_help=entry.help, rich_help_panel=entry.panel)
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments by the real command, which also runs instead of this one."""
        return load(self._entry).make_context(info_name, args, parent, **extra)


def load(entry: Entry) -> Any:
    """Import the command behind an entry.

    Raises:
        ServicesError: It is not part of this installation.
    """
    module_name, _, attribute = entry.target.partition(":")
    try:
        module = importlib.import_module(module_name)
        target = getattr(module, attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        missing = getattr(error, "name", None) or attribute
        if not (missing == attribute or module_name.startswith(missing)):
            raise
        from services.errors import ServicesError

        raise ServicesError(f"this installation has no command {entry.name!r} ({entry.target} is missing)") from error
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        app.command(entry.name, epilog=getattr(module, "EXAMPLES", None))(target)
        target = app
    command = typer.main.get_command(target)
    command.name = entry.name
    return command


def lazy_group(entries: Sequence[Entry]) -> type[TyperGroup]:
    """A group class with these commands, in this order."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return [entry.name for entry in entries]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return next((LazyCommand(entry) for entry in entries if entry.name == cmd_name), None)

    return LazyGroup
