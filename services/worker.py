"""``driftline worker``: one stream worker in the foreground."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.app import Worker

EXAMPLES = """
Examples:

  driftline worker

  DRIFTLINE_BOOTSTRAP_SERVERS=kafka1:9092,kafka2:9092 driftline worker

  driftline worker --data-dir /var/lib/driftline/worker-1 --metrics-port 9464

DATA_DIR holds an index of the predictions that wait for their outcomes: some 70 to 150 bytes each, more with many
classes, until their window is final and lateness is over once more; and as much again while it is rearranged. It is
an index of the topics and nothing else: what is missing or damaged is read from them again, so it may be deleted while
the worker is stopped.

Exit status: 0 after a stop by signal, 3 when the journal could not be committed or another worker took the
partitions over, 4 when a partition stood still, 5 when the data directory is full, cannot be written or belongs to
another worker that runs. A supervisor starts it again ('driftline up' does).
"""

USUAL_DIRECTORY = Path(".driftline/worker")
MOST_DIRECTORIES = 256


def worker(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="For the index of pending predictions; may be deleted, one worker at a time. By default "
            ".driftline/worker, or .driftline/worker.2 and so on where another worker has that.",
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    stall_seconds: Annotated[
        float, typer.Option(help="End when a partition with messages stands still so long.")
    ] = 120,
    session_seconds: Annotated[
        float, typer.Option(help="A worker that is silent so long loses its partitions to the others.")
    ] = 10,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Answer Prometheus on this port of 127.0.0.1; 0 for none.")
    ] = 0,
) -> None:
    """Run one stream worker: drift statistics, windows and alarms, exactly once.

    Start as many as there are partitions; they share the work.
    """
    import mode.loop

    if importlib.util.find_spec("uvloop"):
        mode.loop.use("uvloop")  # before anything makes an event loop
    from driftline.registry import Registry
    from driftline.settings import KafkaSettings
    from services.topics import ensure_topics
    from streams.app import EXIT_DATA_DIRECTORY, Worker
    from streams.outcomes.directory import PendingError

    settings = KafkaSettings.from_environment()
    ensure_topics(settings)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    try:
        place, _lock = _take_directory(data_dir)
    except PendingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_DATA_DIRECTORY) from error
    the_worker = Worker(
        settings,
        place,
        Registry.from_settings(settings),
        stall_seconds=stall_seconds,
        session_seconds=session_seconds,
    )
    if metrics_port:
        _serve_metrics(metrics_port, the_worker)
    the_worker.run(log_level)


def _serve_metrics(port: int, of: Worker) -> None:
    from services.worker_metrics import serve_metrics

    try:
        serve_metrics(port, of.humility_totals)
    except OSError as error:
        typer.echo(f"error: port {port} for metrics cannot be had: {error.strerror or error}", err=True)
        raise typer.Exit(1) from error


def _take_directory(chosen: Path | None) -> tuple[Path, IO[str]]:
    """A worker's data directory, which no other process has while the file is open.

    Raises:
        PendingError: Another worker has the one that was chosen, or it cannot be used.
    """
    from streams.outcomes.directory import InUseError, lock_directory

    if chosen is not None:
        return chosen, lock_directory(chosen)
    for number in range(1, MOST_DIRECTORIES):
        # not as a supervisor names those of its workers
        place = USUAL_DIRECTORY if number == 1 else USUAL_DIRECTORY.with_name(f"{USUAL_DIRECTORY.name}.{number}")
        with contextlib.suppress(InUseError):
            return place, lock_directory(place)
    return USUAL_DIRECTORY, lock_directory(USUAL_DIRECTORY)
