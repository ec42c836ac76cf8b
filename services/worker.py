"""``driftline worker``: one stream worker in the foreground."""

from __future__ import annotations

import importlib.util
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
    session_seconds: Annotated[
        float, typer.Option(help="A worker that is silent so long loses its partitions to the others.")
    ] = 10,
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
    from streams.app import Worker

    settings = KafkaSettings.from_environment()
    ensure_topics(settings)
    data_dir.mkdir(parents=True, exist_ok=True)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    Worker(
        settings,
        data_dir,
        Registry.from_settings(settings),
        stall_seconds=stall_seconds,
        session_seconds=session_seconds,
    ).run(log_level)
