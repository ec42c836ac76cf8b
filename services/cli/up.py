"""``driftline up``."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import JSON_OPTION, print_json, safe, stderr, stdout

if TYPE_CHECKING:
    from services.supervisor import Supervisor

EXAMPLES = """
Examples:

  driftline up

  driftline up --workers 2 --data-dir /var/lib/driftline

  DRIFTLINE_BOOTSTRAP_SERVERS=kafka1:9092,kafka2:9092 driftline up --workers 4

Who is told of alerts is a setting of alerting: DRIFTLINE_SLACK_WEBHOOK_URL, DRIFTLINE_PAGERDUTY_ROUTING_KEY, or a
routing file, DRIFTLINE_ALERTING_CONFIG; see driftline alerting --help and driftline route --help. Commands such as
driftline incidents list find alerting by DATA_DIR/alerting.json, which only this user may read.

Logs are in DATA_DIR/logs. DATA_DIR/worker-N is an index of the predictions that wait for their outcomes
(driftline worker --help); it may be deleted while nothing runs, all else in DATA_DIR is needed.

Exit status: 0 after Ctrl-C or SIGTERM; 1 when something could not be kept running.
"""

_USUAL_PORT = 9092
_COLORS = ("cyan", "magenta", "green", "yellow", "blue")
_LOUD = ("ERROR", "CRITICAL", "Traceback", "error:")


def up(
    workers: Annotated[int, typer.Option(min=1, max=256, help="Stream workers; at most one per partition works.")] = 1,
    broker: Annotated[
        bool | None,
        typer.Option("--broker/--no-broker", help="The embedded Kafka; by default if no cluster is named."),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Broker's data, logs, databases, audit key, workers' indexes.")
    ] = (Path(".driftline")),
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The broker's; default that of the last run, 9092, or a free one."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every line of every process.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Start broker, stream workers, alerting and governance, and keep them running until Ctrl-C."""
    from services.supervisor import Supervisor, needs_broker

    with_broker = needs_broker() if broker is None else broker
    stop, ready = threading.Event(), threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not ready.is_set():
            raise KeyboardInterrupt  # a start that hangs, or a download, can be left
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    supervisor = Supervisor(
        data_dir,
        workers=workers,
        broker=with_broker,
        port=(port or _usual_port(data_dir)) if with_broker else None,
        say=_say,
        echo=_say if verbose else _errors_only,
    )
    try:
        supervisor.start()
        supervisor.wait_ready()
        ready.set()
        if as_json:
            print_json(_document(supervisor))
        else:
            _welcome(supervisor, with_broker)
        while not stop.wait(0.5):
            supervisor.require_alive()
    finally:
        ready.set()  # a second signal must not break off the stop
        _say("driftline", "stopping")
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    _say("driftline", "stopped")


def _document(supervisor: Supervisor) -> dict[str, Any]:
    return {
        "bootstrap_servers": supervisor.bootstrap_servers,
        "partitions": supervisor.topics.partitions if supervisor.topics else None,
        "logs": str(supervisor.logs),
        "alerting": str(supervisor.connection_file),
        "processes": [{"name": s.name, "pid": s.pid} for s in supervisor.statuses()],
    }


def _usual_port(data_dir: Path) -> int | None:
    """9092 for a first run where that is free: then no other command needs to be told where Kafka is."""
    from services.broker.configuration import HOST
    from services.broker.ports import bind_error

    if (data_dir / "broker" / "broker.json").exists():
        return None
    return None if bind_error(HOST, _USUAL_PORT) else _USUAL_PORT


def _welcome(supervisor: Supervisor, with_broker: bool) -> None:
    servers = supervisor.bootstrap_servers
    kind = "Kafka" if with_broker else "your Kafka"
    partitions = supervisor.topics.partitions if supervisor.topics else 0
    stdout.print(f"[bold green]ready[/]: {kind} at {safe(servers)}, {partitions} partitions", highlight=False)
    if with_broker and not servers.endswith(f":{_USUAL_PORT}") and "DRIFTLINE_BOOTSTRAP_SERVERS" not in os.environ:
        stdout.print(f"  in other terminals: export DRIFTLINE_BOOTSTRAP_SERVERS={safe(servers)}", highlight=False)
    stdout.print(f"  logs: {safe(supervisor.logs)}", highlight=False, soft_wrap=True)
    stdout.print(
        "  next: driftline deployment apply FILE · driftline status · driftline incidents list", highlight=False
    )
    stdout.print("  Ctrl-C stops everything", highlight=False)
    if supervisor.connection_file.absolute() != Path(".driftline/alerting.json").absolute():
        file = safe(supervisor.connection_file)
        stdout.print(
            f"  in other terminals: export DRIFTLINE_ALERTING_CONNECTION_FILE={file}", highlight=False, soft_wrap=True
        )


def _say(name: str, text: str) -> None:
    color = _COLORS[sum(name.encode()) % len(_COLORS)]
    stderr.print(f"[{color}]{safe(name):>12}[/] {safe(text)}", highlight=False, soft_wrap=True)


def _errors_only(name: str, text: str) -> None:
    if any(word in text for word in _LOUD):
        _say(name, text)
