"""One supervised child process: started, watched, started again, stopped; its output kept in a bounded log."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
QUICK_SECONDS = 10.0
"""A child that ends sooner than this after its start failed quickly."""
QUICK_FAILURES = 6
"""So many quick failures in a row and the child is given up."""
WRONG_SETTINGS_STATUS = 2
"""The exit status of a command whose settings cannot be used: starting it again would not help."""

_LOG_BYTES, _LOG_FILES = 10 * 1024 * 1024, 3
_LINES_KEPT = 12
_KILL_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """A child as it is to run.

    Attributes:
        name: Names its log, and its lines on the terminal.
        command: Program and arguments.
        stop_seconds: How long it may take to end after SIGTERM before it is killed.
    """

    name: str
    command: Sequence[str]
    stop_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Patience:
    """When a child that ended is started again, and when no more."""

    first_delay_seconds: float = FIRST_DELAY_SECONDS
    longest_delay_seconds: float = LONGEST_DELAY_SECONDS
    quick_seconds: float = QUICK_SECONDS
    quick_failures: int = QUICK_FAILURES

    def delay_seconds(self, failures: int) -> float:
        """How long to wait after so many quick failures in a row (0: it had run for a while)."""
        return min(self.longest_delay_seconds, self.first_delay_seconds * 2.0 ** max(0, failures - 1))


class Child:
    """Keeps one process running.

    A thread of its own starts the process and waits for it: on Linux the kernel kills a child when the *thread* that
    started it ends (``PR_SET_PDEATHSIG``), so the starter has to live as long. A process that ends unasked is started
    again, later each time; one that ends with status 2, or quickly too often, is given up.

    Args:
        plan: What to run.
        environment: Its whole environment.
        log_path: Where its output goes, at most 30 MB in three files.
        say: Told what happens to it, one line each.
        echo: Told every line it prints.
        patience: When to start it again.
    """

    def __init__(
        self,
        plan: ChildPlan,
        environment: Mapping[str, str],
        log_path: Path,
        *,
        say: Callable[[str, str], None],
        echo: Callable[[str, str], None],
        patience: Patience | None = None,
    ) -> None:
        self.plan = plan
        self.restarts = 0
        self.given_up: str | None = None
        self._environment = dict(environment)
        self._log_path = log_path
        self._say = say
        self._echo = echo
        self._patience = patience or Patience()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: subprocess.Popen[bytes] | None = None
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self._thread = threading.Thread(target=self._keep_running, name=f"supervise-{plan.name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Its process id, None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def last_lines(self) -> list[str]:
        """The last lines it printed."""
        return list(self._last_lines)

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once, and start it no more."""
        self._stopping.set()
        process = self._process
        if process is not None and process is not self._asked and process.poll() is None:
            self._asked = process
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    def await_stop(self) -> None:
        """Wait until it has ended after :meth:`ask_to_stop`; kill it when it takes too long."""
        deadline = time.monotonic() + self.plan.stop_seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.1)
            self.ask_to_stop()  # it may have been between two starts
        process = self._process
        if process is not None and process.poll() is None:
            self._say(self.plan.name, f"did not stop within {self.plan.stop_seconds:.0f} s: killed")
            process.kill()
        self._thread.join(_KILL_SECONDS)

    def _keep_running(self) -> None:
        log = _log_file(self._log_path)
        failures = 0
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                status = self._run_once(log)
                if self._stopping.is_set():
                    return
                quick = time.monotonic() - began < self._patience.quick_seconds
                failures = failures + 1 if quick else 0
                if status == WRONG_SETTINGS_STATUS or failures >= self._patience.quick_failures:
                    self.given_up = _why(status, failures)
                    self._say(self.plan.name, f"given up: {self.given_up}")
                    return
                delay = self._patience.delay_seconds(failures)
                self._say(self.plan.name, f"{_ended(status)}; starting it again in {delay:g} s")
                if self._stopping.wait(delay):
                    return
                self.restarts += 1
        finally:
            log.close()

    def _run_once(self, log: logging.handlers.RotatingFileHandler) -> int:
        try:
            process = subprocess.Popen(
                list(self.plan.command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops its children in order
                preexec_fn=_killed_with(os.getpid()),
            )
        except OSError as error:
            self._write(log, f"{self.plan.command[0]} cannot be started: {error}")
            return WRONG_SETTINGS_STATUS
        self._process = process
        self._say(self.plan.name, f"started, process {process.pid}")
        if self._stopping.is_set():
            self.ask_to_stop()
        output = process.stdout
        if output is not None:
            self._copy(output, log)
        return process.wait()

    def _copy(self, output: IO[bytes], log: logging.handlers.RotatingFileHandler) -> None:
        with output:
            for line in output:
                self._write(log, line.decode("utf-8", "replace").rstrip())

    def _write(self, log: logging.handlers.RotatingFileHandler, text: str) -> None:
        self._last_lines.append(text)
        log.emit(logging.LogRecord(self.plan.name, logging.INFO, "", 0, text, (), None))
        self._echo(self.plan.name, text)


def _log_file(path: Path) -> logging.handlers.RotatingFileHandler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES - 1, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _ended(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _why(status: int, failures: int) -> str:
    if status == WRONG_SETTINGS_STATUS:
        return "its settings cannot be used (status 2)"
    return f"{_ended(status)}, {failures} times soon after its start"


def _killed_with(parent: int) -> Callable[[], None] | None:
    """What a child does first: ask the kernel to be killed when its parent is gone. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it went before the request came
            os._exit(1)

    return arrange
