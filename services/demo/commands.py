"""``driftline`` commands as a user would run them, remembered with the time they took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.cli.output import stderr
from services.demo.story import Step
from services.errors import ServicesError


class DemonstrationError(ServicesError):
    """A step of the demonstration failed; the message carries what it said."""


class Commands:
    """Runs ``driftline`` commands as a user would, and remembers them.

    Args:
        environment: Environment variables of every command.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self.steps: list[Step] = []

    def run(self, *words: str, may_fail: bool = False) -> Any:
        """Run one command with ``--json``; returns what it printed.

        Raises:
            DemonstrationError: It failed, and was not allowed to.
        """
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *words, "--json"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.steps.append(Step(" ".join(("driftline", *map(_short, words))), time.monotonic() - started))
        if done.returncode != 0 and not may_fail:
            raise DemonstrationError(
                f"'driftline {' '.join(words)}' failed: {done.stderr.strip() or done.stdout.strip()}"
            )
        return _documents(done.stdout)


def _short(word: str) -> str:
    return Path(word).name if os.sep in word else word


def _documents(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


@contextmanager
def saying(what: str) -> Iterator[None]:
    """A line that says what is being done, with the time it takes."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        progress.add_task(what, total=None)
        started = time.monotonic()
        yield
    stderr.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]")


def wait_until(holds: Callable[[], bool], timeout_seconds: float, *, step_seconds: float = 0.3) -> bool:
    """Ask again and again until it holds; whether it did before the time was over."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(step_seconds)
    return False
