"""``driftline publish``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.deployments import complete_deployment
from services.cli.output import JSON_OPTION, note, print_json, safe, stderr, stdout

if TYPE_CHECKING:
    from services.publish.reading import OnError, Selection, Tally

publish_app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)

DeploymentArgument = Annotated[
    str, typer.Argument(metavar="DEPLOYMENT", autocompletion=complete_deployment, help="A deployment in force.")
]
FileArgument = Annotated[
    Path, typer.Argument(dir_okay=False, help="CSV, Parquet or JSON lines; .gz, .bz2 and .zst are unpacked.")
]
FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="csv|parquet|jsonl", help="Where the file's name does not tell.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Event time from: a date (UTC) or an RFC 3339 time.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Event time before this one.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many rows.")]
OnErrorOption = Annotated[
    str, typer.Option(metavar="stop|skip", help="At a value that cannot be read: stop, or skip its row and count it.")
]
SpeedOption = Annotated[
    str, typer.Option(metavar="N|max", help="Event time passes N times as fast as real time, or as fast as it goes.")
]
BatchOption = Annotated[int, typer.Option(min=1, max=100_000, help="Rows in a message.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Read and check the whole file, publish nothing.")]

_READING = (
    "Which column is which field stands in the deployment's specification, under columns: and column: of a feature; a "
    "field that is not named there is looked for under its own name.\n\nA feature is read by its kind: boolean is true "
    "or false, yes or no, 1 or 0; embedding a list of numbers, in CSV as JSON writes it: [0.1, 0.2]. The column error "
    "has the class of a failed request; false, 0 and no are none.\n\nMissing values: nothing, NA, N/A, NaN, null. "
    "Rows without a prediction id get one made of deployment, file name and line, so predictions and outcomes of one "
    "file find each other.\n\nExit status: 0 all published; 1 Kafka did not take it, or rows were skipped; 2 the file "
    "or the command line is wrong."
)

_INTERVALS = (
    "The columns prediction_low and prediction_high have the model's own interval for the actual value; both or "
    "neither. challenger_predictions.VERSION and challenger_labels.VERSION have what challengers would have said; "
    "humility.policy, humility.revision, humility.action and, if known, humility.fired, quantile, alarms, answer and "
    "answer_label what the application decided by the humility rules."
)
_OUTCOMES = (
    "An outcome is joined by its prediction id. A row with a later actual_timestamp corrects what was published "
    "before; the same row again changes nothing. Where only a sample is ever labelled, the column "
    "labelling_probability has the probability with which each row was chosen, above 0 and at most 1; was_acted_on "
    "says whether somebody acted."
)


@publish_app.callback()
def publish() -> None:
    """Publish predictions or outcomes from a file, in file order."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the two commands have in common."""

    what: str
    deployment_id: str
    file: Path
    version: str | None
    speed: float | None
    batch_rows: int
    selection: Selection
    on_error: OnError
    dry_run: bool
    file_format: str | None
    as_json: bool


@publish_app.command(
    epilog=(
        "Examples:\n\n  driftline publish predictions delays predictions.parquet --version 3\n\n"
        "  driftline publish predictions delays predictions.csv --from 2024-04-01 --to 2024-05-01 --speed 3600\n\n"
        f"  driftline publish predictions delays new.csv --version 4 --dry-run\n\n{_READING}\n\n{_INTERVALS}"
    )
)
def predictions(
    deployment_id: DeploymentArgument,
    file: FileArgument,
    version: Annotated[
        str | None, typer.Option(metavar="V", help="The model version that answered; default: the file's column.")
    ] = None,
    speed: SpeedOption = "max",
    batch_rows: BatchOption = 500,
    from_time: FromOption = None,
    to_time: ToOption = None,
    limit: LimitOption = None,
    on_error: OnErrorOption = "stop",
    dry_run: DryRunOption = False,
    file_format: FormatOption = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Publish what a model predicted."""
    _publish(
        Request(
            what="predictions",
            deployment_id=deployment_id,
            file=file,
            version=None if version is None else checked_version(version),
            speed=_speed(speed),
            batch_rows=batch_rows,
            selection=selection_of(from_time, to_time, limit),
            on_error=on_error_of(on_error),
            dry_run=dry_run,
            file_format=checked_format(file_format),
            as_json=as_json,
        )
    )


@publish_app.command(
    epilog=(
        "Examples:\n\n  driftline publish outcomes delays arrivals.csv\n\n"
        f"  driftline publish outcomes delays arrivals.parquet --to 2024-05-01 --json\n\n{_READING}\n\n{_OUTCOMES}"
    )
)
def outcomes(
    deployment_id: DeploymentArgument,
    file: FileArgument,
    speed: SpeedOption = "max",
    batch_rows: BatchOption = 500,
    from_time: FromOption = None,
    to_time: ToOption = None,
    limit: LimitOption = None,
    on_error: OnErrorOption = "stop",
    dry_run: DryRunOption = False,
    file_format: FormatOption = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Publish what turned out to be true; rows without value and label are not resolved yet, and left out."""
    _publish(
        Request(
            what="outcomes",
            deployment_id=deployment_id,
            file=file,
            version=None,
            speed=_speed(speed),
            batch_rows=batch_rows,
            selection=selection_of(from_time, to_time, limit),
            on_error=on_error_of(on_error),
            dry_run=dry_run,
            file_format=checked_format(file_format),
            as_json=as_json,
        )
    )


def selection_of(from_time: str | None, to_time: str | None, limit: int | None) -> Selection:
    """The rows that the options select."""
    from services.errors import ServicesError
    from services.event_time import parse_moment
    from services.publish.reading import Selection

    try:
        from_us = None if from_time is None else parse_moment(from_time)
        to_us = None if to_time is None else parse_moment(to_time)
    except ServicesError as error:
        raise typer.BadParameter(str(error), param_hint="--from/--to") from error
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise typer.BadParameter(f"expected a time before --to {to_time}, came {from_time}", param_hint="--from")
    return Selection(from_us, to_us, limit)


def on_error_of(text: str) -> OnError:
    """The value of ``--on-error``."""
    match text:
        case "stop":
            return "stop"
        case "skip":
            return "skip"
    raise typer.BadParameter(f"expected stop or skip, came {text[:40]!r}", param_hint="--on-error")


def checked_format(text: str | None) -> str | None:
    """The value of ``--format``."""
    from services.publish.files import FORMATS

    if text is not None and text not in FORMATS:
        raise typer.BadParameter(f"expected {', '.join(FORMATS)}, came {text[:40]!r}", param_hint="--format")
    return text


def checked_version(text: str) -> str:
    """The value of ``--version``."""
    from driftline.errors import EventError
    from driftline.events import checked_name

    try:
        return checked_name(text, "model version")
    except EventError as error:
        raise typer.BadParameter(str(error), param_hint="--version") from error


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e12:
        raise typer.BadParameter(f"expected a number above 0 or max, came {text[:40]!r}", param_hint="--speed")
    return speed


def _publish(request: Request) -> None:
    from services.cli.context import kafka_settings
    from services.deployments.store import get_deployment
    from services.publish.files import open_file
    from services.publish.publishing import FilePublisher, Pace
    from services.publish.reading import Tally, read_outcomes, read_predictions

    settings = kafka_settings()
    spec = get_deployment(settings, request.deployment_id).spec
    opened = open_file(request.file, request.file_format)
    tally = Tally()
    began = time.monotonic()
    batches: Iterator[Any]
    if request.what == "predictions":
        batches = read_predictions(
            opened,
            spec,
            version=request.version,
            selection=request.selection,
            on_error=request.on_error,
            tally=tally,
            run_rows=request.batch_rows,
        )
    else:
        batches = read_outcomes(opened, spec, selection=request.selection, on_error=request.on_error, tally=tally)
    published = 0
    with _progress(request, tally) as advance:
        if request.dry_run:
            for batch in batches:
                advance(batch.rows)
        else:
            topic = settings.topics.predictions if request.what == "predictions" else settings.topics.outcomes
            with FilePublisher(settings, spec, topic=topic, batch_rows=request.batch_rows) as publisher:
                for batch in Pace(request.speed).slices(batches, request.batch_rows):
                    publisher.publish(batch)
                    advance(batch.rows)
            published = publisher.delivered
    _report(request, tally, published, time.monotonic() - began)
    if request.what == "outcomes" and spec.outcomes is None:
        note(
            f"{request.deployment_id} expects no outcomes: they are counted, and compared with nothing. Say how long "
            "they may take in its specification, as in outcomes: {horizon: 30d}, and apply it"
        )
    if tally.rejected:
        raise typer.Exit(1)


def _report(request: Request, tally: Tally, published: int, seconds: float) -> None:
    rate = (tally.taken if request.dry_run else published) / max(seconds, 1e-9)
    if request.as_json:
        print_json(
            {
                "deployment": request.deployment_id,
                "file": str(request.file),
                "dry_run": request.dry_run,
                "read": tally.read,
                "usable": tally.taken,
                "published": published,
                "rejected": tally.rejected,
                "outside": tally.outside,
                "unresolved": tally.unresolved,
                "seconds": round(seconds, 3),
                "rows_per_second": round(rate, 1),
                "examples": [{"line": v.line, "column": v.column, "message": v.message} for v in tally.examples],
            }
        )
        return
    done = f"{tally.taken:,} usable, nothing published (dry run)" if request.dry_run else f"{published:,} published"
    others = [
        f"{count:,} {word}"
        for count, word in (
            (tally.rejected, "skipped"),
            (tally.outside, "outside the time range"),
            (tally.unresolved, "without an outcome"),
        )
        if count
    ]
    stdout.print(
        f"{tally.read:,} rows read, [bold]{done}[/]{''.join(', ' + other for other in others)} "
        f"in {seconds:.1f} s ({rate:,.0f} rows/s)",
        highlight=False,
    )
    for value in tally.examples:
        where = f"line {value.line}" + (f", column {value.column}" if value.column else "")
        note(f"  skipped {where}: {value.message}")
    if tally.rejected > len(tally.examples):
        note(f"  … and {tally.rejected - len(tally.examples)} more")


@contextmanager
def _progress(request: Request, tally: Tally) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere; the context yields what to call with each batch's rows."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if request.as_json or not stderr.is_terminal:
        yield lambda rows: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(safe(request.file.name), total=request.selection.limit)
        yield lambda rows: bar.update(task, advance=rows)
