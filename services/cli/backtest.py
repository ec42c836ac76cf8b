"""``driftline backtest``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.output import JSON_OPTION, print_json, safe, stderr
from services.cli.performance import complete_metric
from services.cli.publish import (
    DeploymentArgument,
    FormatOption,
    FromOption,
    OnErrorOption,
    ToOption,
    checked_format,
    checked_version,
    on_error_of,
    selection_of,
)

if TYPE_CHECKING:
    from driftline.settings import KafkaSettings
    from services.backtest.files import Files
    from services.backtest.replay import Progress
    from services.windows import Period
    from streams.baseline import Baseline
    from streams.specification import DeploymentSpec

EXAMPLES = (
    "Examples:\n\n  driftline backtest delays --set margin=0.02\n\n"
    "  driftline backtest delays --set false_alarms.count=5 --set features.temp.importance=3\n\n"
    "  driftline backtest delays --from 2024-04-01 --to 2024-05-01 --spec changed.yaml --json\n\n"
    "  driftline backtest delays --baseline quiet-quarter.csv --baseline-outcomes its-outcomes.csv\n\n"
    "  driftline backtest delays --set outcomes.margin=0.05 --set outcomes.horizon=14d --metric recall --by month\n\n"
    "  driftline backtest delays --predictions march.csv --outcomes landings.csv --version 3\n\n"
    "Fields are named as in the specification (driftline deployment show DEPLOYMENT); a value is read as YAML, nothing "
    "after = leaves the field out. The messages are applied in the order in which the workers applied them, with the "
    "specifications and baselines that were in force then, so far as --set, --spec and --baseline do not replace them. "
    "A message counts whole if one of its events is in the range. Behind --to outcomes are read on, so that the "
    "accuracy of the range is whole; alarms are those noticed before it.\n\nFiles are read as by driftline publish, "
    "and may be sorted in any way: a prediction arrives at its event time, an outcome when it became known, under what "
    "is in force now. Nothing is written to any topic."
)

_SHORTEST_DIGEST = 6


def backtest(
    deployment_id: DeploymentArgument,
    from_time: FromOption = None,
    to_time: ToOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A field of the specification, by its path; repeatable."),
    ] = None,
    spec_file: Annotated[
        Path | None, typer.Option("--spec", dir_okay=False, help="Another specification, in YAML or JSON.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|VERSION|DIGEST",
            help="Another baseline: built from a file, that of another version, or one by its digest.",
        ),
    ] = None,
    baseline_outcomes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Outcomes of a --baseline FILE, where they are not in it."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Predictions from a file, in place of those on the topics."),
    ] = None,
    outcomes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Their outcomes, where they are not in the same file."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="V", help="The version that answered; default: the file's column.")
    ] = None,
    on_error: OnErrorOption = "stop",
    file_format: FormatOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_metric,
            help="Shown of accuracy windows; repeatable. Default accuracy or mae; all for JSON.",
        ),
    ] = None,
    by: Annotated[str, typer.Option(metavar="window|day|week|month", help="Add accuracy windows up, UTC.")] = "window",
    last: Annotated[int | None, typer.Option(min=1, help="The last so many accuracy windows; default 12.")] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Say which alarms other settings would have raised beside those that were, and how accurate predictions were.

    Without --from it begins at the deployment's first message; with unchanged settings the alarms are then exactly
    those that were raised, and the accuracy windows those that were written.
    """
    from services.backtest.accuracy import accuracy
    from services.backtest.run import backtest as run
    from services.backtest.settings import WhatIf, parse_assignment
    from services.cli.backtest_report import document, show, usual_metrics
    from services.cli.context import kafka_settings
    from services.deployments.checking import load_specification
    from services.deployments.store import get_deployment, load_deployments

    selection = selection_of(from_time, to_time, None)
    period = _period(by)
    files = _files(predictions, outcomes, version, file_format, on_error)
    wanted = [parse_assignment(text) for text in assignments or ()]
    specification = None if spec_file is None else load_specification(spec_file)
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    fleet = {name: deployment.spec for name, deployment in load_deployments(settings).items()}
    what_if = WhatIf(wanted, specification, None, fleet)
    proposed = what_if.spec(spec)
    metrics = _metrics(metric, proposed)
    notices: list[str] = []
    if baseline_outcomes is not None and (baseline is None or not Path(baseline).is_file()):
        raise typer.BadParameter("has no meaning without --baseline FILE", param_hint="--baseline-outcomes")
    if baseline is not None:
        other, notices = _other_baseline(settings, proposed, baseline, baseline_outcomes)
        what_if = WhatIf(wanted, specification, other, fleet)
    with _progress(deployment_id, quiet=as_json) as progress:
        found = run(
            settings,
            deployment_id,
            what_if,
            files=files,
            from_us=selection.from_us,
            to_us=selection.to_us,
            progress=progress,
        )
    found = dataclasses.replace(found, notes=[*notices, *found.notes])
    windows = accuracy(settings, spec, found, period)
    if as_json:
        print_json(document(found, windows, metrics))
    else:
        show(found, windows, metrics or usual_metrics(proposed.task), period, last)


def _files(
    predictions: Path | None, outcomes: Path | None, version: str | None, file_format: str | None, on_error: str
) -> Files | None:
    """The files that were named; None for the topics."""
    from services.backtest.files import Files

    given = {"--outcomes": outcomes, "--version": version}
    if predictions is None:
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter("has no meaning without --predictions FILE", param_hint=name)
        return None
    checked = None if version is None else checked_version(version)
    return Files(predictions, outcomes, checked, checked_format(file_format), on_error_of(on_error))


def _period(by: str) -> Period:
    from services.windows import PERIODS

    for period in PERIODS:
        if period == by:
            return period
    raise typer.BadParameter(f"expected {', '.join(PERIODS)}, came {by[:40]!r}", param_hint="--by")


def _metrics(names: list[str] | None, spec: DeploymentSpec) -> list[str] | None:
    """The metrics that were asked for; None where none were."""
    import difflib

    from services.performance.names import COVERAGE, METRICS

    if not names:
        return None
    if spec.outcomes is None:
        raise typer.BadParameter(
            f"{spec.deployment_id!r} expects no outcomes, so nothing is known of its accuracy: add outcomes to its "
            "specification, or try them with --set outcomes.horizon=30d",
            param_hint="--metric",
        )
    known = [*METRICS.get(spec.task, ()), COVERAGE]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise typer.BadParameter(
                f"no metric {name[:80]!r}; {hint}there are {', '.join(known)}", param_hint="--metric"
            )
    return list(dict.fromkeys(names))


def _other_baseline(
    settings: KafkaSettings, spec: DeploymentSpec, text: str, outcomes: Path | None
) -> tuple[Baseline, list[str]]:
    """The baseline that a file, a version or the beginning of a digest names, and what is to be known of it."""
    from services.deployments.baselines import load_baselines
    from services.windows import baselines_by_digest

    in_force = {item.baseline.model_version: item.baseline for item in load_baselines(settings, spec.deployment_id)}
    if text in in_force:
        return in_force[text], []
    if Path(text).is_file():
        return _built(settings, spec, Path(text), outcomes, list(in_force)[-1] if in_force else "")
    if len(text) >= _SHORTEST_DIGEST:
        known = baselines_by_digest(settings, spec.deployment_id)
        matching = [each for digest, each in known.items() if digest.startswith(text.lower())]
        if len(matching) == 1:
            return matching[0], []
    versions = ", ".join(in_force) or "none"
    raise typer.BadParameter(
        f"expected a file with reference predictions, a version with a baseline ({versions}) or at least "
        f"{_SHORTEST_DIGEST} characters of the digest of one that is still on its topic, came {text[:80]!r}",
        param_hint="--baseline",
    )


def _built(
    settings: KafkaSettings, spec: DeploymentSpec, file: Path, outcomes: Path | None, version: str
) -> tuple[Baseline, list[str]]:
    """A baseline from a file, under the settings to try, and what learning from its outcomes said."""
    from services.cli.baseline_reading import Request, build
    from services.publish.reading import Selection

    request = Request(
        file=file,
        outcomes_file=outcomes,
        without_outcomes=False,
        selection=Selection(None, None, None),
        on_error="stop",
        file_format=None,
    )
    built = build(settings, spec, version, request, lambda what: None)
    return built.baseline, [f"--baseline: {notice}" for notice in built.notices]


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet or not stderr.is_terminal:
        yield lambda done, total, rows: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(safe(what), total=None, rows=0, rate=0.0)

        def advance(done: int, total: int | None, rows: int) -> None:
            rate = rows / max(time.monotonic() - began, 1e-3)
            bar.update(task, completed=done, total=total, rows=rows, rate=rate)

        yield advance
