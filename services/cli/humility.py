"""``driftline humility``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.humility_options import (
    CUTS,
    DeploymentArgument,
    FilesArgument,
    OutcomesOption,
    VersionOption,
    complete_cut,
    complete_version,
    fit_on_of,
    requests_of,
)
from services.cli.output import JSON_OPTION, note, print_json, safe, stderr, stdout
from services.cli.publish import (
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
    from services.publish.reading import Selection
    from services.windows import Period
    from streams.specification import DeploymentSpec

humility_app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


@humility_app.callback()
def humility() -> None:
    """Fit, show and judge humility rules: when a model's predictions are not to be trusted."""


@humility_app.command(
    epilog=(
        "Examples:\n\n  driftline humility fit delays --version 3 --from 2024-03-01 --to 2024-04-01\n\n"
        "  driftline humility fit delays reference.parquet --version 3 --outcomes arrivals.csv\n\n"
        "  driftline humility fit delays march.csv april.csv --version 3 --dry-run\n\n"
        "Rows are read as by driftline baseline build, from files or from the topics; take rows that the model "
        "answered when all was well, that were not used to train it. Half of them learn, half calibrate. Each "
        "guarantee is printed in words; one that the rows do not allow is not given, and it is said how many rows it "
        "takes.\n\n"
        "What was fitted becomes part of the version's baseline, which is put in force anew; all else in it stays, and "
        "so does the evidence of the other monitors. driftline baseline build fits the rules, too."
    )
)
def fit(
    deployment_id: DeploymentArgument,
    version: Annotated[
        str,
        typer.Option(metavar="V", autocompletion=complete_version, help="The model version that answered the rows."),
    ],
    files: FilesArgument = None,
    from_time: FromOption = None,
    to_time: ToOption = None,
    limit: LimitOption = None,
    outcomes_file: OutcomesOption = None,
    on_error: OnErrorOption = "stop",
    reason: Annotated[str, typer.Option(help="Why, for the audit record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and show it, put nothing in force.")] = False,
    file_format: FormatOption = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Compute what can be guaranteed of the rules' decisions, and put it in force."""
    from services.cli.baseline_reading import built_from, read
    from services.cli.baselines import counts, tell, working
    from services.cli.context import actor, kafka_settings
    from services.cli.humility_tables import show_fit
    from services.deployments.baselines import get_baseline, publish_baseline
    from services.deployments.store import get_deployment
    from services.humility.errors import require_humility
    from services.humility.guarantees import fit_document
    from streams.humility.fit import fit_humility
    from streams.humility.judge import policy_of

    checked_version(version)
    selection = selection_of(from_time, to_time, limit)
    requests = requests_of(files, outcomes_file, selection, on_error, file_format)
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    require_humility(spec)
    if outcomes_file is not None and spec.outcomes is None:
        raise typer.BadParameter(
            f"the specification of {deployment_id} expects no outcomes: declare them with outcomes: horizon:",
            param_hint="--outcomes",
        )
    before = get_baseline(settings, deployment_id, version).baseline
    with working(as_json) as say:
        reference = read(settings, spec, version, requests, say)
        say("fitting")
        fitted = fit_humility(
            spec,
            before,
            reference.columns,
            reference.outcomes.columns,
            source=reference.source,
            outcomes_until_us=reference.outcomes.until_us,
        )
    made = built_from(fitted, reference, [])
    changed = False
    if not dry_run:
        changed = publish_baseline(settings, fitted, actor=actor(), reason=reason or _REASON, replacing=before)
    result = "dry run" if dry_run else "fitted" if changed else "unchanged"
    policy = policy_of(spec, fitted)
    if as_json:
        head = {"result": result, "deployment": deployment_id, "version": version}
        digests = {"before_digest": before.digest, "after_digest": fitted.digest}
        print_json({**head, **digests, **counts(made), **fit_document(spec, fitted, policy)})
    else:
        show_fit(spec, before, fitted, policy, result)
        tell(made)
    if made.tally.rejected or made.outcomes_tally.rejected:
        raise typer.Exit(1)


_REASON = "humility rules fitted"


@humility_app.command(
    epilog=(
        "Examples:\n\n  driftline humility show delays\n\n  driftline humility show delays --version 3 --json\n\n"
        "Rules are listed as they are asked: by priority, the lowest number first. Adaptive quantiles and alarms are "
        "what serving applications were told last; decisions are those of the last windows of event time, by what "
        "publishers sent with them."
    )
)
def show(
    deployment_id: DeploymentArgument,
    version: VersionOption = None,
    last: Annotated[int, typer.Option(min=1, help="Windows of event time that count as lately.")] = 24,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show the rules in words, whether they are armed, what is guaranteed, and who decides by them."""
    from services.cli.context import kafka_settings
    from services.cli.humility_tables import show_versions
    from services.deployments.store import get_deployment
    from services.humility.errors import require_humility
    from services.humility.showing import show_document, versions_shown

    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    require_humility(spec)
    shown = versions_shown(settings, spec, version=version, last=last)
    if as_json:
        print_json(show_document(spec, shown))
    else:
        show_versions(spec, shown)


@humility_app.command(
    epilog=(
        "Examples:\n\n  driftline humility report delays\n\n"
        "  driftline humility report delays --from 2024-04-01 --to 2024-07-01 --by month --plot\n\n"
        "  driftline humility report delays --version 3 --by rule\n\n  driftline humility report delays --json\n\n"
        "Answered, overridden, refused and routed predictions are judged by what the model said; 'as served' by what "
        "stood in its place. 'With humility' is what was served, 'without' every prediction. A rule is judged on all "
        "rows on which it fired, whichever rule acted, and if it is a dry run, too: the wrong ones are caught, the "
        "right ones are what it costs. All intervals are 95 %, of rows as if they were independent."
    )
)
def report(
    deployment_id: DeploymentArgument,
    from_time: FromOption = None,
    to_time: ToOption = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="window|day|week|month|segment|rule", autocompletion=complete_cut, help="Cut it by this, too."
        ),
    ] = None,
    version: VersionOption = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw errors and coverage over time.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Say whether humility helped: errors among what was answered and stopped, and a verdict on every rule."""
    from services.cli.context import kafka_settings
    from services.cli.humility_report import show_report
    from services.deployments.store import get_deployment
    from services.humility.documents import report_document
    from services.humility.errors import require_humility
    from services.humility.report import reports

    if by is not None and by not in CUTS:
        raise typer.BadParameter(f"expected {', '.join(CUTS)}, came {by[:40]!r}", param_hint="--by")
    selection = selection_of(from_time, to_time, None)
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    found = reports(
        settings,
        spec,
        version=version,
        from_us=selection.from_us,
        to_us=selection.to_us,
        by=_period(by),
        segments=by == "segment" or as_json,
    )
    if not found:
        require_humility(spec)  # of rules that are gone there may be windows
    if as_json:
        print_json([report_document(spec, each) for each in found])
    elif not found:
        stdout.print(_nothing_yet(spec, version, selection), highlight=False, soft_wrap=True, markup=False)
    for each in found if not as_json else ():
        show_report(spec, each, by, plot=plot)


@humility_app.command(
    epilog=(
        "Examples:\n\n  driftline humility backtest delays --rules changed.yaml --from 2024-04-01\n\n"
        "  driftline humility backtest delays history.parquet --rules changed.yaml --outcomes arrivals.csv\n\n"
        "  driftline humility backtest delays --rules changed.yaml --fit-on 50%\n\n"
        "  driftline humility backtest delays --rules changed.yaml --fit-on 2024-05-01 --json\n\n"
        "--rules is a whole specification, as driftline deployment apply takes it; only its humility section is tried. "
        "Rows are decided by the rules in force and by those that are tried, with the fit in force. Rules that ask for "
        "more than was fitted are unarmed, and say so: --fit-on fits both sets of rules to the first part of history, "
        "which then is left out. Nothing is written to any topic."
    )
)
def backtest(
    deployment_id: DeploymentArgument,
    rules: Annotated[
        Path, typer.Option("--rules", metavar="SPEC.yaml", dir_okay=False, help="A specification with other rules.")
    ],
    files: FilesArgument = None,
    from_time: FromOption = None,
    to_time: ToOption = None,
    outcomes_file: OutcomesOption = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="V", autocompletion=complete_version, help="Rows of this version; default: the latest."
        ),
    ] = None,
    fit_on: Annotated[
        str | None,
        typer.Option("--fit-on", metavar="TIME|SHARE%", help="Fit to rows before it, or to so much of the time."),
    ] = None,
    on_error: OnErrorOption = "stop",
    file_format: FormatOption = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Try changed rules on history: what they would have stopped, caught and cost, beside those in force."""
    from services.cli.context import kafka_settings
    from services.cli.humility_backtest import show_backtest
    from services.deployments.baselines import get_baseline
    from services.deployments.store import get_deployment
    from services.humility.backtest import backtest as run
    from services.humility.documents import backtest_document
    from services.humility.history import FileHistory, TopicHistory
    from services.humility.trying import rules_to_try
    from services.publish.reading import Tally

    selection = selection_of(from_time, to_time, None)
    part = fit_on_of(fit_on)
    form, errors = checked_format(file_format), on_error_of(on_error)
    if outcomes_file is not None and not files:
        raise typer.BadParameter("has no meaning without files of predictions", param_hint="--outcomes")
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    tried = rules_to_try(rules, spec)
    wanted = None if version is None else checked_version(version)
    baseline = get_baseline(settings, deployment_id, wanted).baseline
    named = baseline.model_version
    with _progress(deployment_id, quiet=as_json) as advance:
        history: FileHistory | TopicHistory
        if files:
            history = FileHistory(files, outcomes_file, spec, named, selection, errors, form, Tally(), advance)
        else:
            history = TopicHistory(settings, spec, named, selection, advance)
        found = run(spec, tried, baseline, history, part)
    if as_json:
        print_json(backtest_document(spec, found))
    else:
        show_backtest(spec, found)
    rejected = history.tally.rejected if isinstance(history, FileHistory) else 0
    refused = history.refused if isinstance(history, TopicHistory) else 0
    if refused:
        note(f"{refused:,} messages that cannot be read left out")
    if rejected:
        note(f"{rejected:,} rows skipped")
        raise typer.Exit(1)


def _period(by: str | None) -> Period:
    from services.windows import PERIODS as KNOWN

    return next((period for period in KNOWN if period == by), "month")


def _nothing_yet(spec: DeploymentSpec, version: str | None, selection: Selection) -> str:
    named = f" of version {version[:80]!r}" if version is not None else ""
    if version is not None or selection.from_us is not None or selection.to_us is not None:
        return f"no window with humility{named} in this time"
    return (
        f"no window with humility of {spec.deployment_id!r} yet: they come with predictions that a worker has read "
        "while rules are in force; driftline status says whether a worker runs"
    )


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; the context yields what to call with rows."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet or not stderr.is_terminal:
        yield lambda rows: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(safe(what), total=None)
        yield lambda rows: bar.update(task, advance=rows)
