"""``driftline worker``: one stream worker in the foreground."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Examples:

  driftline worker

  DRIFTLINE_BOOTSTRAP_SERVERS=kafka1:9092,kafka2:9092 driftline worker

Exit status: 0 after a stop by signal, 3 when the journal could not be committed or another worker took the
partitions over, 4 when a partition stood still. A supervisor starts it again ('driftline up' does).
"""


def worker(
    data_dir: Annotated[Path, typer.Option(help="Where Faust keeps its own files.")] = Path(".driftline/worker"),
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    stall_seconds: Annotated[
        float, typer.Option(help="End when a partition with messages stands still so long.")
    ] = 120,
) -> None:
    """Run one stream worker: drift statistics, windows and alarms, exactly once.

    Start as many as there are partitions; they share the work.
    """
    import faust

    from driftline.settings import KafkaSettings
    from services.topics import ensure_topics
    from streams.app import Worker

    settings = KafkaSettings.from_environment()
    ensure_topics(settings)
    data_dir.mkdir(parents=True, exist_ok=True)
    stream_worker = Worker(settings, data_dir, stall_seconds=stall_seconds)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    faust.Worker(
        stream_worker.app, loglevel=log_level.upper(), quiet=False, redirect_stdouts=False
    ).execute_from_commandline()
