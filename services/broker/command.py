"""``driftline broker``."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from services.broker.configuration import HOST
from services.broker.embedded import EmbeddedBroker
from services.broker.ports import bind_error
from services.broker.prepare import prepare
from services.cli.output import JSON_OPTION, note, print_json, safe, stdout

EXAMPLES = """
Examples:

  driftline broker

  driftline broker --port 19092 --data-dir /var/lib/driftline/broker

  driftline broker --download-only

It is Apache Kafka, on a Java virtual machine of its own; its jars are fetched once (45 MB) into DRIFTLINE_CACHE_DIR, by
default ~/.cache/driftline, from Maven's public repository or the mirror that DRIFTLINE_MAVEN_REPOSITORY names.

Exit status: 0 after Ctrl-C or SIGTERM; 1 when it could not be started, or ended by itself.
"""

_USUAL_PORT = 9092
_LOOK_SECONDS = 0.2


def broker(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="To listen on; default that of the last run, 9092, or a free one."),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Topics, settings and log; by default those of 'driftline up'.")
    ] = Path(".driftline/broker"),
    heap_mb: Annotated[int, typer.Option(min=128, help="Upper limit of the Java heap, in MiB.")] = 512,
    download_only: Annotated[
        bool, typer.Option("--download-only", help="Fetch what it needs and end: later starts need no network.")
    ] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Run a Kafka broker on this machine, for this machine only, until Ctrl-C.

    It listens on 127.0.0.1. Its data survives a restart, which also brings it back at the same port.
    """
    if download_only:
        _download(as_json)
        return
    stop, ready = threading.Event(), threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not ready.is_set() and not stop.is_set():
            stop.set()
            raise KeyboardInterrupt  # a start that hangs, or a download, can be left
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    kafka = EmbeddedBroker(data_dir, port=port or _usual_port(data_dir), heap_mb=heap_mb)
    try:
        kafka.start()
        ready.set()
        _announce(kafka, as_json)
        while not stop.is_set() and not kafka.wait(_LOOK_SECONDS):
            pass
    except KeyboardInterrupt:
        if not stop.is_set():
            raise
    finally:
        ready.set()  # a second signal must not break off the stop
        kafka.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    note("broker stopped")


def _download(as_json: bool) -> None:
    prepared = prepare()
    if as_json:
        print_json(
            {
                "kafka_version": prepared.version,
                "jars": prepared.jars,
                "size_bytes": prepared.size_bytes,
                "cache_dir": str(prepared.cache_dir),
                "archive": str(prepared.archive) if prepared.archive else None,
            }
        )
        return
    stdout.print(
        f"Apache Kafka {safe(prepared.version)} is ready: {prepared.jars} jars, {prepared.size_bytes / 1e6:.1f} MB, "
        f"in {safe(prepared.cache_dir)}",
        highlight=False,
        soft_wrap=True,
    )


def _announce(kafka: EmbeddedBroker, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "bootstrap_servers": kafka.bootstrap_servers,
                "pid": kafka.pid,
                "cluster_id": kafka.cluster_id,
                "data_dir": str(kafka.data_dir),
                "log": str(kafka.log_path),
            }
        )
        return
    servers = safe(kafka.bootstrap_servers)
    stdout.print(f"[bold green]ready[/]: Kafka at {servers}, process {kafka.pid}", highlight=False)
    if kafka.bootstrap_servers != f"{HOST}:{_USUAL_PORT}" and "DRIFTLINE_BOOTSTRAP_SERVERS" not in os.environ:
        stdout.print(f"  in other terminals: export DRIFTLINE_BOOTSTRAP_SERVERS={servers}", highlight=False)
    stdout.print(f"  data: {safe(kafka.data_dir)}", highlight=False, soft_wrap=True)
    stdout.print(f"  log: {safe(kafka.log_path)}", highlight=False, soft_wrap=True)
    stdout.print("  Ctrl-C stops it", highlight=False)


def _usual_port(data_dir: Path) -> int | None:
    """9092 for a first run where that is free: then no other command needs to be told where Kafka is."""
    if (data_dir / "broker.json").exists() or bind_error(HOST, _USUAL_PORT):
        return None
    return _USUAL_PORT
