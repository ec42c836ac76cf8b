"""``driftline alerting`` as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]


class Process:
    """``driftline alerting``."""

    def __init__(self, environment: dict[str, str], log: Path, *options: str) -> None:
        self.log = log
        self._seen = len(self.said())
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", "alerting", *options],
                cwd=ROOT,
                env={k: v for k, v in os.environ.items() if not k.startswith("DRIFTLINE_")} | environment,
                stdout=file,
                stderr=file,
            )

    def said(self) -> str:
        """Everything it and those before it logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, text: str, seconds: float = 60.0, after: int | None = None) -> None:
        """Wait until it has said something since its start, or since ``after`` characters of the log."""
        deadline = time.monotonic() + seconds
        while text not in self.said()[self._seen if after is None else after :]:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(90)


@pytest.fixture
def environment(cluster: Any, receiver: Any, tmp_path: Path) -> dict[str, str]:
    """Receivers by the environment alone, told at once."""
    return {
        "DRIFTLINE_BOOTSTRAP_SERVERS": cluster.settings.bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": cluster.prefix,
        "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{tmp_path / 'alerting.db'}",
        "DRIFTLINE_ALERTING_GROUP_WAIT": "0s",
        "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
        "DRIFTLINE_PAGERDUTY_ROUTING_KEY": "R" * 32,
        "DRIFTLINE_SLACK_WEBHOOK_URL": receiver.slack_webhook_url,
    }


@pytest.fixture
def start_process(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts ``driftline alerting`` with options, and further variables by name."""
    started: list[Process] = []

    def start(*options: str, **more: str) -> Process:
        started.append(Process(environment | more, tmp_path / "alerting.log", *options))
        return started[-1]

    yield start
    for process in started:
        process.end(signal.SIGKILL)
