"""``driftline baseline``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.deployments import complete_deployment
from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stdout
from services.cli.publish import (
    DeploymentArgument,
    FileArgument,
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
    from services.deployments.baselines import StoredBaseline
    from streams.baseline import Baseline, BaselineStream

baseline_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@baseline_app.callback()
def baseline() -> None:
    """Learn from reference predictions what is normal for a model version."""


@baseline_app.command(
    epilog=(
        "Examples:\n\n  driftline baseline build delays reference.parquet --version 3\n\n"
        "  driftline baseline build delays history.csv --version 3 --from 2024-03-01 --to 2024-04-01\n\n"
        "The file is read as by driftline publish predictions. Take rows that the model answered when all was well, "
        "best some weeks of them, that were not used to train it."
    )
)
def build(
    deployment_id: DeploymentArgument,
    file: FileArgument,
    version: Annotated[str, typer.Option(metavar="V", help="The model version the reference belongs to.")],
    from_time: FromOption = None,
    to_time: ToOption = None,
    limit: LimitOption = None,
    on_error: OnErrorOption = "stop",
    reason: Annotated[str, typer.Option(help="Why, for the audit record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and show it, put nothing in force.")] = False,
    file_format: FormatOption = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Build a baseline from a file and put it in force."""
    from services.cli.context import actor, kafka_settings
    from services.deployments.baselines import publish_baseline
    from services.deployments.store import get_deployment
    from services.publish.files import open_file
    from services.publish.reading import Tally, read_reference, source_text
    from streams.reference import build_baseline

    checked_version(version)
    selection, skip = selection_of(from_time, to_time, limit), on_error_of(on_error)
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    tally = Tally()
    opened = open_file(file, checked_format(file_format))
    columns = read_reference(opened, spec, version, selection=selection, on_error=skip, tally=tally)
    rows = sum(batch.rows for batch in columns)
    built = build_baseline(spec, version, columns, source=source_text(file, selection, rows))
    changed = False if dry_run else publish_baseline(settings, built, actor=actor(), reason=reason)
    result = "dry run" if dry_run else "built" if changed else "unchanged"
    if as_json:
        counts = {"read": tally.read, "rejected": tally.rejected, "outside": tally.outside}
        print_json({"result": result, **counts, **_document(built)})
    else:
        _show(built, result)
        for value in tally.examples:
            note(f"  skipped line {value.line}, column {value.column}: {value.message}")
    if tally.rejected:
        raise typer.Exit(1)


@baseline_app.command(
    epilog=(
        "Examples:\n\n  driftline baseline show delays\n\n  driftline baseline show delays@3\n\n"
        "  driftline baseline show delays --json"
    )
)
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DEPLOYMENT[@VERSION]", autocompletion=complete_deployment, help="The latest without a version."
        ),
    ],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show a baseline in force."""
    from services.cli.context import kafka_settings
    from services.deployments.baselines import get_baseline

    deployment_id, _, version = name.partition("@")
    stored = get_baseline(kafka_settings(), deployment_id, version or None)
    if as_json:
        print_json({"built_ms": stored.built_ms, **_document(stored.baseline)})
    else:
        _show(stored.baseline, _since(stored))


def _since(stored: StoredBaseline) -> str:
    from services.event_time import rfc3339

    return f"in force since {rfc3339(stored.built_ms * 1000)}" if stored.built_ms else "in force"


def _document(item: Baseline) -> dict[str, Any]:
    return {
        "deployment": item.deployment_id,
        "version": item.model_version,
        "digest": item.digest,
        "rows": item.rows,
        "first_event_us": item.first_event_us,
        "last_event_us": item.last_event_us,
        "source": item.source,
        "streams": [_stream_document(stream) for stream in item.streams],
    }


def _stream_document(stream: BaselineStream) -> dict[str, Any]:
    used = stream.counts > 0
    return {
        "stream": stream.name,
        "role": stream.role,
        "kind": stream.layout.name,
        "rows": int(stream.counts.sum()),
        "missing_share": _missing_share(stream),
        "margin_tv": float(stream.margin_tv),
        "variance_inflation": _inflation(stream),
        "importance": float(stream.importance),
        "bins_used": int(used.sum()),
        "bins": [
            {"bin": label, "rows": int(count)}
            for label, count in zip(stream.bin_labels(), stream.counts.tolist(), strict=True)
            if count
        ],
    }


def _missing_share(stream: BaselineStream) -> float:
    rows = int(stream.counts.sum())
    missing = stream.bin_labels().index("(missing)")
    return float(stream.counts[missing]) / rows if rows else 0.0


def _inflation(stream: BaselineStream) -> float:
    """How much more its counts fluctuate than those of independent rows, at worst."""
    used = stream.tempering[stream.tempering > 0]
    return float(1.0 / used.min()) if used.size else 1.0


def _show(item: Baseline, result: str) -> None:
    from services.event_time import rfc3339

    stdout.print(
        f"[bold]{safe(item.deployment_id)}@{safe(item.model_version)}[/] {result}: {item.rows:,} rows, events "
        f"{rfc3339(item.first_event_us)} to {rfc3339(item.last_event_us)}, from {safe(item.source)}",
        highlight=False,
        soft_wrap=True,
    )
    print_table(
        ["stream", "kind", "rows", "missing", "margin", "variance x", "bins", "weight"],
        [
            (
                stream.name,
                stream.layout.name,
                f"{int(stream.counts.sum()):,}",
                f"{_missing_share(stream):.1%}",
                f"{stream.margin_tv:.3f}",
                f"{_inflation(stream):.1f}",
                int((stream.counts > 0).sum()),
                f"{stream.importance:g}",
            )
            for stream in item.streams
        ],
        numbers=("rows", "missing", "margin", "variance x", "bins", "weight"),
    )
    stdout.print(
        "[dim]margin: smaller shifts (total variation) are of no interest; "
        "variance x: how much more the counts fluctuate than those of independent rows\n"
        f"sha256 {item.digest}[/]",
        highlight=False,
    )
