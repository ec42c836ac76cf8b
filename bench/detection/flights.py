"""The flights of the demonstration: which alarms are real change, and which features stayed quiet.

The files are those of ``make demo``, read as ``driftline publish`` reads them, and go through the worker's state
machine in messages of 500 rows: March is the reference, April to December is served. Outcomes, single carriers and
humility are left out: this is about what inputs and predictions show.

Whether a change is real is decided without the evidence engine, from daily figures (:mod:`services.demo.days`). Only
lasting changes are real ones; all else counts against the promise, except where the year ends too soon to tell.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.detection.machine import Alert, Machine, batches
from bench.report import Figure, figure, print_table
from driftline.events import PredictionColumns
from services.demo.days import DAYS_AFTER, EPISODE, LASTING, UNDECIDED, Verdict, read_days
from services.demo.flights import NEW_NORMAL, SCHEDULE, WEATHER, write_files
from services.demo.wording import when
from services.deployments.checking import load_specification
from services.publish.files import open_file
from services.publish.reading import read_predictions, read_reference
from streams.reference import build_baseline
from streams.specification import DATA_DRIFT, DATA_QUALITY, DeploymentSpec

VERSION = "2013-03"
BATCH_ROWS = 500

NO_COLUMN = Verdict("unknown", "not a single column")


def measure(seed: int, quick: bool) -> list[Figure]:
    """Replay the year and judge every alarm. The data are real: nothing depends on the seed."""
    del seed, quick  # it takes a quarter of a minute
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        spec = load_specification(files.specification).to_spec()
        spec = dataclasses.replace(spec, segments=(), outcomes=None, humility=None)
        reference = list(read_reference(open_file(files.reference), spec, VERSION))
        served = list(read_predictions(open_file(files.predictions), spec, version=VERSION))
        (days,) = read_days(files, ("March",), NEW_NORMAL)
    machine = run(spec, reference, served)
    verdicts = [(alert, days.verdict_on(alert) or NO_COLUMN) for alert in machine.firing]
    _print(verdicts)
    blamed = {cause["stream"].removeprefix("quality:") for alert in machine.firing for cause in alert["causes"]}
    return _figures(spec, verdicts, blamed, served)


def run(spec: DeploymentSpec, reference: list[PredictionColumns], served: Iterable[PredictionColumns]) -> Machine:
    """The alarms of the state machine on these rows."""
    machine = Machine(spec, build_baseline(spec, VERSION, reference, source="March"))
    for part in served:
        for batch in batches(part, [BATCH_ROWS] * (part.rows // BATCH_ROWS)):
            machine.apply(batch)
    return machine


def _print(verdicts: list[tuple[Alert, Verdict]]) -> None:
    print_table(
        f"Flights, April to December against March: every alarm, judged by daily figures ({DAYS_AFTER} days from the "
        "change on, or those until the alarm, against March's)",
        ("monitor", "causes", "change began", "noticed", "change", "daily figures", "PSI since"),
        (
            (
                alert["monitor"],
                ", ".join(cause["stream"] for cause in alert["causes"][:3])
                + (f" and {len(alert['causes']) - 3} more" if len(alert["causes"]) > 3 else ""),
                when(alert["change_time_us"]),
                when(alert["detection_time_us"]),
                verdict.kind,
                verdict.text,
                f"{alert['causes'][0]['effects']['psi']:.2f}",
            )
            for alert, verdict in verdicts
        ),
        left=6,
    )
    alarms = [(alert["monitor"], {cause["stream"] for cause in alert["causes"]}) for alert, _ in verdicts]
    print_table(
        "Which features alarmed: alarms that name them",
        ("feature", "", "distribution", "values beyond March's range, or missing"),
        (
            (
                name,
                "of the schedule" if name in SCHEDULE else "of the weather",
                sum(monitor == DATA_DRIFT and name in causes for monitor, causes in alarms) or "quiet",
                sum(monitor == DATA_QUALITY and f"quality:{name}" in causes for monitor, causes in alarms) or "quiet",
            )
            for name in (*SCHEDULE, *WEATHER)
        ),
        left=2,
    )


def _figures(
    spec: DeploymentSpec, verdicts: list[tuple[Alert, Verdict]], blamed: set[str], served: list[PredictionColumns]
) -> list[Figure]:
    first = int(min(batch.timestamps_us.min() for batch in served))
    last = int(max(batch.timestamps_us.max() for batch in served))
    budget = spec.false_alarms
    allowed = round(budget.count * (last - first) / 1000 / budget.per_ms, 2)
    kinds = [verdict.kind for _, verdict in verdicts]
    quiet = [name for name in (*SCHEDULE, *WEATHER) if name not in blamed]
    return [
        figure(
            "flights: alarms",
            len(verdicts),
            "alarms",
            note=f"from {_day(first)} to {_day(last)}: {kinds.count(LASTING)} lasting changes, "
            f"{kinds.count(EPISODE)} episodes, {kinds.count(UNDECIDED)} undecided",
        ),
        figure(
            "flights: alarms that are no lasting change",
            len(kinds) - kinds.count(LASTING) - kinds.count(UNDECIDED),
            "alarms",
            at_most=allowed,
            note=f"the promise is {budget.count:g} in {budget.per_ms / 86_400_000:g} days",
        ),
        figure(
            "flights: schedule features that alarmed",
            len(set(SCHEDULE) & blamed),
            "features",
            at_most=0,
            note=f"quiet: {', '.join(quiet) or 'none'}",
        ),
        figure(
            "flights: weather features found changed",
            len(set(WEATHER) & blamed),
            "features",
            at_least=1,
            note=", ".join(name for name in WEATHER if name in blamed),
        ),
    ]


def _day(time_us: int) -> str:
    return dt.datetime.fromtimestamp(time_us / 1e6, dt.UTC).date().isoformat()
