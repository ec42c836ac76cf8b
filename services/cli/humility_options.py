"""Options of ``driftline humility``: how they are read, and completed by the shell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.deployments import complete_deployment
from services.cli.publish import checked_format, on_error_of

if TYPE_CHECKING:
    from services.cli.baseline_reading import Request
    from services.humility.backtest import FitOn
    from services.publish.reading import Selection

PERIODS = ("window", "day", "week", "month")
CUTS = (*PERIODS, "segment", "rule")

DeploymentArgument = Annotated[
    str, typer.Argument(metavar="DEPLOYMENT", autocompletion=complete_deployment, help="A deployment in force.")
]
FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE",
        dir_okay=False,
        help="CSV, Parquet or JSON lines, read as by driftline publish; none: the topics.",
    ),
]
OutcomesOption = Annotated[
    Path | None,
    typer.Option("--outcomes", metavar="FILE", dir_okay=False, help="Outcomes in a file of their own, by id."),
]


def complete_version(context: typer.Context, incomplete: str) -> list[str]:
    """Versions with a baseline for the shell; nothing where Kafka does not answer at once."""
    from confluent_kafka.admin import AdminClient

    from driftline.errors import DriftlineError
    from services.cli.context import kafka_settings
    from services.deployments.baselines import load_baselines
    from services.kafka import quiet

    try:
        settings = kafka_settings()
        AdminClient(quiet(settings.client())).list_topics(timeout=1.0)
        found = load_baselines(settings, str(context.params.get("deployment_id") or ""))
        versions = [item.baseline.model_version for item in found]
        return [version for version in versions if version.startswith(incomplete)]
    except (DriftlineError, Exception):
        return []


def complete_cut(incomplete: str) -> list[str]:
    """What a report can be cut by, for the shell."""
    return [cut for cut in CUTS if cut.startswith(incomplete)]


VersionOption = Annotated[
    str | None, typer.Option("--version", metavar="V", autocompletion=complete_version, help="This model version only.")
]


def requests_of(
    files: Sequence[Path] | None, outcomes: Path | None, selection: Selection, on_error: str, file_format: str | None
) -> list[Request]:
    """Where the reference is, place by place; outcomes in a file of their own are read once."""
    from services.cli.baseline_reading import Request

    errors, form = on_error_of(on_error), checked_format(file_format)
    if not files:
        return [Request(None, outcomes, False, selection, errors, form)]
    return [
        Request(file, outcomes if first else None, not first and outcomes is not None, selection, errors, form)
        for first, file in ((at == 0, file) for at, file in enumerate(files))
    ]


def fit_on_of(text: str | None) -> FitOn | None:
    """The value of ``--fit-on``."""
    from services.errors import ServicesError
    from services.event_time import parse_moment
    from services.humility.backtest import FitOn

    if text is None:
        return None
    stripped = text.strip()
    if stripped.endswith("%"):
        try:
            share = float(stripped[:-1]) / 100
        except ValueError:
            share = 0.0
        if 0 < share < 1:
            return FitOn(share=share)
        raise typer.BadParameter(
            f"expected a share of the time above 0 % and below 100 %, came {text[:40]!r}", param_hint="--fit-on"
        )
    try:
        return FitOn(until_us=parse_moment(stripped))
    except ServicesError as error:
        raise typer.BadParameter(f"{error}; or a share of the time, 50%", param_hint="--fit-on") from error
