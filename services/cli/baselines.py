"""``driftline baseline``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.deployments import complete_deployment
from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stderr, stdout
from services.cli.publish import (
    DeploymentArgument,
    FormatOption,
    FromOption,
    LimitOption,
    OnErrorOption,
    ToOption,
    checked_format,
    checked_version,
    on_error_of,
    selection_of,
)

if TYPE_CHECKING:
    from driftline.settings import KafkaSettings
    from services.cli.baseline_reading import Built
    from services.deployments.baselines import StoredBaseline
    from streams.baseline import Baseline

baseline_app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="DEPLOYMENT[@VERSION]",
        autocompletion=complete_deployment,
        help="The latest without a version; @ and the first eight characters of a digest name a replaced one.",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", dir_okay=False, help="Also write a page with plots; it works offline."),
]
AllOption = Annotated[
    bool, typer.Option("--all", help="Show each stream, also those of quality, association and parts of the traffic.")
]


@baseline_app.callback()
def baseline() -> None:
    """Learn from reference predictions what is normal for a model version."""


@baseline_app.command(
    epilog=(
        "Examples:\n\n  driftline baseline build delays reference.parquet --version 3\n\n"
        "  driftline baseline build delays history.csv --version 3 --from 2024-03-01 --to 2024-04-01\n\n"
        "  driftline baseline build delays --from-topic --version 3 --from 2024-03-01 --to 2024-04-01\n\n"
        "  driftline baseline build delays reference.parquet --version 3 --dry-run --report baseline.html\n\n"
        "  driftline baseline build delays march.csv --version 3 --outcomes march-outcomes.csv\n\n"
        "A file is read as by driftline publish predictions; with --from-topic the reference is what the version has "
        "answered so far, at most a million rows. Take rows that the model answered when all was well, best four weeks "
        "of them or more, that were not used to train it.\n\nWhere the specification expects outcomes, they are "
        "learnt from as well: those of the file itself, if it has columns of actual values or classes, those of "
        "--outcomes, or with --from-topic those that were published up to now. Predictions that are younger than the "
        "horizon where they end are left out of that.\n\nBefore a baseline is put in force its monitors are tried "
        "on the reference, in blocks; a monitor that would break its promise is widened, and says so, or refused."
    )
)
def build(
    deployment_id: DeploymentArgument,
    version: Annotated[str, typer.Option(metavar="V", help="The model version the reference belongs to.")],
    file: Annotated[
        Path | None,
        typer.Argument(dir_okay=False, help="CSV, Parquet or JSON lines; .gz, .bz2 and .zst are unpacked."),
    ] = None,
    from_topic: Annotated[
        bool, typer.Option("--from-topic", help="Take the reference from the predictions topic, not from a file.")
    ] = False,
    from_time: FromOption = None,
    to_time: ToOption = None,
    limit: LimitOption = None,
    outcomes_file: Annotated[
        Path | None,
        typer.Option("--outcomes", metavar="FILE", dir_okay=False, help="Outcomes in a file of their own, by id."),
    ] = None,
    without_outcomes: Annotated[
        bool, typer.Option("--without-outcomes", help="Learn from predictions only, though there are outcomes.")
    ] = False,
    on_error: OnErrorOption = "stop",
    reason: Annotated[str, typer.Option(help="Why, for the audit record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and show it, put nothing in force.")] = False,
    file_format: FormatOption = None,
    report: ReportOption = None,
    show_all: AllOption = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Build a baseline from a file or from the predictions topic, try it, and put it in force."""
    from services.cli.baseline_reading import Request
    from services.cli.baseline_reading import build as build_reference
    from services.cli.baseline_tables import show_baseline
    from services.cli.context import actor, kafka_settings
    from services.deployments.baselines import publish_baseline
    from services.deployments.store import get_deployment
    from services.deployments.summary import document

    if from_topic == (file is not None):
        raise typer.BadParameter("give either a FILE or --from-topic", param_hint="FILE")
    if without_outcomes and outcomes_file is not None:
        raise typer.BadParameter("give either --outcomes or --without-outcomes", param_hint="--outcomes")
    checked_version(version)
    selection, skip = selection_of(from_time, to_time, limit), on_error_of(on_error)
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    if outcomes_file is not None and spec.outcomes is None:
        raise typer.BadParameter(
            f"the specification of {deployment_id} expects no outcomes: declare them with outcomes: horizon:",
            param_hint="--outcomes",
        )
    request = Request(file, outcomes_file, without_outcomes, selection, skip, checked_format(file_format))
    with working(as_json) as say:
        made = build_reference(settings, spec, version, request, say)
    built = made.baseline
    changed = False if dry_run else publish_baseline(settings, built, actor=actor(), reason=reason)
    result = "dry run" if dry_run else "built" if changed else "unchanged"
    _write_report(built, report)
    if as_json:
        print_json({"result": result, **counts(made), **document(built)})
    else:
        show_baseline(built, result, show_all=show_all)
        tell(made)
        if report is not None:
            stdout.print(f"report: {safe(report)}", highlight=False, soft_wrap=True)
    if made.tally.rejected or made.outcomes_tally.rejected:
        raise typer.Exit(1)


@baseline_app.command(
    epilog=(
        "Examples:\n\n  driftline baseline show delays\n\n  driftline baseline show delays@3 --report baseline.html\n\n"
        "  driftline baseline show delays@5f0c1a2b --all\n\n  driftline baseline show delays --json"
    )
)
def show(
    name: NameArgument,
    report: ReportOption = None,
    show_all: AllOption = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show a baseline: its streams, their margins, and what arming showed."""
    from services.cli.baseline_tables import show_baseline
    from services.cli.context import kafka_settings
    from services.deployments.baselines import find_baseline
    from services.deployments.summary import document

    stored = find_baseline(kafka_settings(), name)
    _write_report(stored.baseline, report)
    if as_json:
        print_json({"built_ms": stored.built_ms, **document(stored.baseline)})
        return
    show_baseline(stored.baseline, _since(stored), show_all=show_all)
    if report is not None:
        stdout.print(f"report: {safe(report)}", highlight=False, soft_wrap=True)


@baseline_app.command(
    name="list",
    epilog="Examples:\n\n  driftline baseline list delays\n\n  driftline baseline list delays --json",
)
def list_(deployment_id: DeploymentArgument, as_json: Annotated[bool, JSON_OPTION] = False) -> None:
    """List every baseline a deployment has or had: for which version, since when, and who built it."""
    import dataclasses

    from services.cli.context import kafka_settings
    from services.deployments.baselines import list_baselines
    from services.deployments.store import get_deployment
    from services.event_time import rfc3339

    settings = kafka_settings()
    get_deployment(settings, deployment_id)
    found = list_baselines(settings, deployment_id)
    if as_json:
        print_json([dataclasses.asdict(item) for item in found])
        return
    if not found:
        stdout.print("no baseline yet: driftline baseline build DEPLOYMENT FILE --version V", highlight=False)
        return
    print_table(
        ["version", "digest", "state", "built", "by", "rows", "from", "reason"],
        [
            (
                item.model_version,
                item.digest[:12],
                item.state,
                rfc3339(item.built_ms // 1000 * 1_000_000) if item.built_ms else "",
                item.actor,
                "" if item.rows is None else f"{item.rows:,}",
                item.source,
                item.reason,
            )
            for item in found
        ],
        numbers=("rows",),
    )


@baseline_app.command(
    epilog=(
        "Examples:\n\n  driftline baseline diff delays@3 delays@4\n\n"
        "  driftline baseline diff delays@3 this-month.parquet\n\n"
        "  driftline baseline diff delays@5f0c1a2b delays@3 --json\n\n"
        "Both sides are references: total variation (TV, 0 to 1) and PSI say how far the second is from the first. "
        "The interval holds the true TV with 95 % confidence, after dependence. Where the two have different bins the "
        "comparison is coarse, and says so. Where they have outcomes, those are compared when all was known: coverage, "
        "how long outcomes took, and every metric, with the 95 % interval of its change."
    )
)
def diff(
    first: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT[@VERSION]", help="The earlier one; @DIGEST names a replaced one.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT[@VERSION]|FILE", help="The other one, or a file with predictions.")
    ],
    version: Annotated[
        str | None, typer.Option(metavar="V", help="Of a FILE: the version whose rows count; default: the first's.")
    ] = None,
    file_format: FormatOption = None,
    show_all: AllOption = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Compare two baselines, or a baseline with what a file would give."""
    import dataclasses

    from services.cli.baseline_tables import (
        difference_document,
        head_document,
        show_differences,
        show_outcome_differences,
    )
    from services.cli.context import kafka_settings
    from services.deployments.baselines import find_baseline
    from services.deployments.comparison import compare
    from services.deployments.outcome_comparison import compare_outcomes

    settings = kafka_settings()
    before = find_baseline(settings, first).baseline
    path = Path(second)
    if path.is_file():
        after = _built_from(settings, before, path, version, file_format, quiet=as_json)
    else:
        after = find_baseline(settings, second).baseline
    found, outcomes = compare(before, after), compare_outcomes(before, after)
    if as_json:
        print_json(
            {
                "first": head_document(before),
                "second": head_document(after),
                "outcomes": [dataclasses.asdict(item) for item in outcomes],
                "streams": [difference_document(item) for item in found],
            }
        )
    else:
        show_differences(before, after, found, show_all=show_all)
        show_outcome_differences(outcomes)


def _built_from(
    settings: KafkaSettings, before: Baseline, path: Path, version: str | None, file_format: str | None, *, quiet: bool
) -> Baseline:
    from services.cli.baseline_reading import Request, build
    from services.deployments.store import get_deployment
    from services.publish.reading import Selection

    spec = get_deployment(settings, before.deployment_id).spec
    version = before.model_version if version is None else checked_version(version)
    request = Request(path, None, before.outcomes is None, Selection(), "stop", checked_format(file_format))
    with working(quiet) as say:
        made = build(settings, spec, version, request, say)
    for text in made.notices:
        note(text)
    return made.baseline


@contextmanager
def working(quiet: bool) -> Iterator[Any]:
    """A spinner on a terminal that says what is being done, nothing elsewhere."""
    if quiet or not stderr.is_terminal:
        yield lambda text: None
        return
    with stderr.status("starting") as status:
        yield lambda text: status.update(safe(text))


def _write_report(item: Baseline, path: Path | None) -> None:
    if path is None:
        return
    from services.deployments.report import write_report
    from services.errors import ServicesError

    try:
        write_report(item, path)
    except OSError as error:
        raise ServicesError(f"{path} cannot be written: {error.strerror or error}") from error


def counts(made: Built) -> dict[str, Any]:
    """What became of the rows of a reference, for machines."""
    tally, topic, outcomes = made.tally, made.topic, made.outcomes_tally
    found: dict[str, Any] = {"read": tally.read, "rejected": tally.rejected, "outside": tally.outside}
    if topic is not None:
        found = {
            "read": sum(span.rows for span in topic.versions.values()),
            "duplicates": topic.duplicates,
            "outside": topic.outside,
            "beyond_limit": topic.beyond,
            "refused_messages": topic.refused + made.outcomes.refused,
        }
    found["outcomes_read"] = made.outcomes.rows
    found["outcomes_rejected"] = outcomes.rejected
    return {**found, "notices": list(made.notices)}


def tell(made: Built) -> None:
    """Say on standard error what is to be known of the reference."""
    for value in (*made.tally.examples, *made.outcomes_tally.examples):
        note(f"  skipped line {value.line}, column {value.column}: {value.message}")
    for text in made.notices:
        note(text)
    topic = made.topic
    if topic is None:
        return
    if topic.beyond:
        note(
            f"the range has more than {topic.rows:,} rows: the reference is the first of them, by event time; "
            "--limit N takes more"
        )
    told = (
        (topic.duplicates, "repeated rows counted once"),
        (topic.refused + made.outcomes.refused, "messages that cannot be read left out"),
    )
    for count, what in told:
        if count:
            note(f"{count:,} {what}")


def _since(stored: StoredBaseline) -> str:
    from services.event_time import rfc3339

    return f"in force since {rfc3339(stored.built_ms * 1000)}" if stored.built_ms else "in force"
