"""Kafka killed, the database locked, the disk full: the service says so, loses nothing, and catches up."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.alerting.machine import Installation, alert, wait_for
from bench.report import Figure, figure
from services.broker.embedded import EmbeddedBroker
from services.demo.receivers import PAGERDUTY, RecordingReceiver

POLICY = """\
version: 1
defaults: {group_wait: 0s, group_interval: 1s}
correlation: {across: none}
receivers:
  - {name: pagerduty, type: pagerduty, routing_key_env: KEY, rate_per_second: 1000, burst: 1000}
route: {notify: [pagerduty]}
"""

_INCIDENTS = 40
_CATCH_UP_SECONDS = 180.0

_FULL_BYTES = 64 << 10

Fault = Callable[[Installation, EmbeddedBroker], AbstractContextManager[None]]


def measure(seed: int, quick: bool) -> list[Figure]:
    """Each fault for a while, with alerts before and, where Kafka is there, within it."""
    seconds = 25.0 if quick else 60.0
    figures: list[Figure] = []
    faults = (
        ("Kafka killed", _kafka_killed, "Kafka"),
        ("the database locked", _database_locked, "lock"),
        ("the disk full", _disk_full, ("full", "I/O", "disk", "large")),
    )
    for name, fault, words in faults:
        with tempfile.TemporaryDirectory() as folder, RecordingReceiver() as receiver:
            figures += _one(Path(folder), receiver, name, fault, (words,) if isinstance(words, str) else words, seconds)
    return figures


def _one(
    folder: Path,
    receiver: RecordingReceiver,
    name: str,
    fault: Fault,
    words: tuple[str, ...],
    seconds: float,
) -> list[Figure]:
    with EmbeddedBroker(folder / "broker") as broker:
        environment = {"KEY": "R" * 32, "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url}
        service = Installation(broker.bootstrap_servers, folder / "service", POLICY, environment)
        service.start()
        restarts = 0
        try:
            service.publish(alert(n) for n in range(_INCIDENTS))
            wait_for(lambda: len(receiver.accepted(PAGERDUTY)) >= _INCIDENTS // 4, 30)
            said = len(service.said())
            with fault(service, broker):
                if "Kafka" not in name:
                    service.publish(alert(n, "resolved") for n in range(_INCIDENTS))
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    restarts += _keep_running(service)
                    time.sleep(0.2)
            told = time.monotonic()
            if "Kafka" in name:
                service.publish(alert(n, "resolved") for n in range(_INCIDENTS))
            complained = any(word in service.said()[said:] for word in words)

            def whole() -> bool:
                nonlocal restarts
                restarts += _keep_running(service)
                return len(_ends(receiver)) >= _INCIDENTS

            wait_for(whole, _CATCH_UP_SECONDS, 0.2)
            caught_up = time.monotonic() - told
        finally:
            service.end()
    events = [(str(r.body["event_action"]), str(r.body["dedup_key"])) for r in receiver.accepted(PAGERDUTY)]
    triggered = {key for action, key in events if action == "trigger"}
    early = sum(1 for key in triggered if ("resolve", key) in events and _disordered(events, key))
    note = f"{_INCIDENTS} incidents, {seconds:.0f} s of it; {restarts} restarts by whoever supervises"
    return [
        figure(f"{name}: incidents not told", _INCIDENTS - len(triggered), "", at_most=0, note=note),
        figure(f"{name}: ends not told", _INCIDENTS - len(_ends(receiver)), "", at_most=0, note=note),
        figure(f"{name}: resolves before their trigger", early, "", at_most=0, note=note),
        figure(f"{name}: the log says so", float(complained), "", at_least=1, note=note),
        figure(f"{name}: caught up after", caught_up, "s", note=note),
    ]


def _keep_running(service: Installation) -> int:
    """Start it again if it ended, as its supervisor does; 1 if it had."""
    if service.running:
        return 0
    time.sleep(0.5)
    service.start(ready=False)
    return 1


def _ends(receiver: RecordingReceiver) -> set[str]:
    return {str(r.body["dedup_key"]) for r in receiver.accepted(PAGERDUTY) if r.body["event_action"] == "resolve"}


def _disordered(events: list[tuple[str, str]], key: str) -> bool:
    return events.index(("resolve", key)) < events.index(("trigger", key))


@contextmanager
def _kafka_killed(service: Installation, broker: EmbeddedBroker) -> Iterator[None]:
    os.kill(broker.pid, signal.SIGKILL)
    try:
        yield
    finally:
        broker.stop()
        broker.start()


@contextmanager
def _database_locked(service: Installation, broker: EmbeddedBroker) -> Iterator[None]:
    connection = sqlite3.connect(service.database, isolation_level=None, timeout=60)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def _disk_full(service: Installation, broker: EmbeddedBroker) -> Iterator[None]:
    """No file of the service grows beyond 64 KiB, whoever starts it again: a full disk, without filling one."""

    def limit() -> None:
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (_FULL_BYTES, resource.RLIM_INFINITY))

    limit()
    service.started = limit
    try:
        yield
    finally:
        service.started = lambda: None
        if service.running:
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
