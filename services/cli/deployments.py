"""``driftline deployment``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import JSON_OPTION, print_json, print_table, safe, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.deployments.store import Applied, Deployment
    from streams.specification import DeploymentSpec

deployment_app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


@deployment_app.callback()
def deployment() -> None:
    """Say which models are watched, and how: specifications in YAML."""


def complete_deployment(incomplete: str) -> list[str]:
    """Deployment names for the shell; nothing where Kafka does not answer at once."""
    from confluent_kafka.admin import AdminClient

    from driftline.errors import DriftlineError
    from services.cli.context import kafka_settings
    from services.deployments.store import load_deployments
    from services.kafka import quiet

    try:
        settings = kafka_settings()
        AdminClient(quiet(settings.client())).list_topics(timeout=1.0)
        return [name for name in load_deployments(settings) if name.startswith(incomplete)]
    except (DriftlineError, Exception):
        return []


@deployment_app.command(
    epilog=(
        "Examples:\n\n  driftline deployment apply delays.yaml --reason 'new model in service'\n\n"
        "  driftline deployment apply fleet/*.yaml --dry-run\n\nA specification needs four lines:\n\n"
        "  deployment: delays\n\n  model: delay-classifier\n\n  task: binary_classification\n\n"
        "  features: {distance: numeric, carrier: categorical}\n\nAll fields: driftline deployment schema"
    )
)
def apply(
    files: Annotated[list[Path], typer.Argument(help="Specifications in YAML or JSON.", dir_okay=False)],
    reason: Annotated[str, typer.Option(help="Why, for the audit record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Put specifications in force, all of them or none.

    Exit status 2 if one is refused; every flaw is named with line and field. Outcomes that would be waited for longer
    than the topics keep their predictions are refused with exit status 1.
    """
    from services.cli.context import actor, kafka_settings
    from services.deployments.store import apply as apply_specs

    specs = _specifications(files)
    applied = apply_specs(kafka_settings(), specs, actor=actor(), reason=reason, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "deployments": [_applied_document(item) for item in applied]})
        return
    for item in applied:
        _show_applied(item, dry_run)


@deployment_app.command(
    epilog="Examples:\n\n  driftline deployment diff delays.yaml\n\n  driftline deployment diff fleet/*.yaml --json\n\n"
    "Exit status: 0 nothing would change; 1 something would; 2 a specification is refused."
)
def diff(
    files: Annotated[list[Path], typer.Argument(help="Specifications in YAML or JSON.", dir_okay=False)],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Say what applying specifications would change, and change nothing."""
    from services.cli.context import actor, kafka_settings
    from services.deployments.store import apply as apply_specs

    applied = apply_specs(kafka_settings(), _specifications(files), actor=actor(), dry_run=True)
    if as_json:
        print_json({"dry_run": True, "deployments": [_applied_document(item) for item in applied]})
    else:
        for item in applied:
            _show_applied(item, True)
    if any(item.result != "unchanged" for item in applied):
        raise typer.Exit(1)


def _specifications(files: Sequence[Path]) -> list[DeploymentSpec]:
    """What files say; every flaw of all of them is named."""
    from services.deployments.checking import load_specification
    from services.deployments.errors import Flaw, SpecificationError

    specs, refusals = [], []
    for file in files:
        try:
            specs.append(load_specification(file).to_spec())
        except SpecificationError as error:
            refusals.append(error)
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        together = [Flaw(f.line, f.column, f"{r.source}: {f.field}", f.message) for r in refusals for f in r.flaws]
        raise SpecificationError(f"{len(refusals)} files", together)
    return specs


def _applied_document(applied: Applied) -> dict[str, Any]:
    return {
        "deployment": applied.spec.deployment_id,
        "result": applied.result,
        "revision": applied.spec.revision,
        "budget_share": applied.spec.false_alarms.share,
        "digest": applied.spec.digest(),
        "changes": [{"field": c.field, "before": c.before, "after": c.after} for c in applied.changes],
        "warnings": list(applied.warnings),
        "rules": _rules_in_words(applied.spec),
        "detectors": _worth_of_detectors(applied, everything=True),
    }


def _rules_in_words(spec: DeploymentSpec) -> list[str]:
    from services.deployments.humility_changes import in_words

    return in_words(spec.humility)


def _worth_of_detectors(applied: Applied, *, everything: bool = False) -> list[str]:
    """What the known detectors are worth that the specification asks for, or that it did not ask for before."""
    from streams.detectors import describe_detector

    changed = [change.field for change in applied.changes if change.field.startswith("detectors.")]
    return [
        describe_detector(each)
        for each in applied.spec.detectors
        if everything
        or applied.result == "created"
        or any(f"{field}.".startswith(f"detectors.{each.detector} on {each.stream}.") for field in changed)
    ]


def _show_applied(applied: Applied, dry_run: bool) -> None:
    words = {
        "created": "[green]created[/]",
        "changed": "[yellow]changed[/]",
        "unchanged": "[dim]unchanged[/]",
        "shared": "[yellow]changed[/] (its part of the fleet's false-alarm budget)",
    }
    would = " [dim](dry run)[/]" if dry_run else ""
    stdout.print(
        f"{safe(applied.spec.deployment_id)}: {words[applied.result]}, revision {applied.spec.revision}{would}",
        highlight=False,
    )
    for change in applied.changes:
        before, after = (safe("not given" if v is None else v) for v in (change.before, change.after))
        stdout.print(f"  {safe(change.field)}: {before} → {after}", highlight=False)
    if applied.result == "created" or any(change.field.startswith("humility") for change in applied.changes):
        for sentence in _rules_in_words(applied.spec):
            stdout.print(f"  [bold]Humility:[/] {safe(sentence)}", highlight=False, soft_wrap=True)
    for warning in (*applied.warnings, *_worth_of_detectors(applied)):
        stdout.print(f"  [yellow]Note:[/] {safe(warning)}", highlight=False)


@deployment_app.command(
    epilog=(
        "Examples:\n\n  driftline deployment retire delays --reason 'replaced by delays-2'\n\n"
        "Its baselines, windows and alerts stay, and so does its audit record. Its part of the fleet's false-alarm "
        "budget is free for deployments that join; the shares of the others stay as they are."
    )
)
def retire(
    deployment_id: Annotated[str, typer.Argument(metavar="DEPLOYMENT", autocompletion=complete_deployment)],
    reason: Annotated[str, typer.Option(help="Why, for the audit record.")],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Take a deployment out of force: it is watched no longer."""
    from services.cli.context import actor, kafka_settings
    from services.deployments.store import retire as retire_deployment

    spec = retire_deployment(kafka_settings(), deployment_id, actor=actor(), reason=reason)
    if as_json:
        print_json(
            {"deployment": spec.deployment_id, "result": "retired", "revision": spec.revision, "digest": spec.digest()}
        )
        return
    stdout.print(f"{safe(spec.deployment_id)}: [yellow]retired[/] at revision {spec.revision}", highlight=False)


@deployment_app.command("list", epilog="Examples:\n\n  driftline deployment list\n\n  driftline deployment list --json")
def list_(as_json: Annotated[bool, JSON_OPTION] = False) -> None:
    """List the deployments in force."""
    from services.cli.context import kafka_settings
    from services.deployments.durations import duration_text
    from services.deployments.store import load_deployments

    found = load_deployments(kafka_settings())
    if as_json:
        print_json([_deployment_document(item) for item in found.values()])
        return
    if not found:
        stdout.print("no deployments yet: driftline deployment apply FILE", highlight=False)
        return
    print_table(
        [
            "deployment",
            "model",
            "task",
            "features",
            "window",
            "outcomes",
            "risk",
            "false alarms",
            "share",
            "owner",
            "revision",
        ],
        [
            (
                spec.deployment_id,
                spec.model_id,
                spec.task.replace("_", " "),
                len(spec.features),
                duration_text(spec.window_ms),
                "none" if spec.outcomes is None else f"within {duration_text(spec.outcomes.horizon_ms)}",
                spec.risk,
                f"{spec.false_alarms.count:g} per {duration_text(spec.false_alarms.per_ms)}, {spec.false_alarms.scope}",
                f"{spec.false_alarms.share:.3g}",
                spec.owner,
                spec.revision,
            )
            for spec in (item.spec for item in found.values())
        ],
        numbers=("features", "window", "share", "revision"),
    )


def _deployment_document(item: Deployment) -> dict[str, Any]:
    from services.deployments.specification import to_document

    return {
        "deployment": item.spec.deployment_id,
        "revision": item.spec.revision,
        "digest": item.spec.digest(),
        "applied_ms": item.applied_ms,
        "budget_share": item.spec.false_alarms.share,
        "rules": _rules_in_words(item.spec),
        "specification": to_document(item.spec),
    }


@deployment_app.command(
    epilog="Examples:\n\n  driftline deployment show delays > delays.yaml\n\n  driftline deployment show delays --json"
)
def show(
    deployment_id: Annotated[str, typer.Argument(metavar="DEPLOYMENT", autocompletion=complete_deployment)],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show a deployment in force, as YAML that can be applied again."""
    import yaml

    from services.cli.context import kafka_settings
    from services.deployments.specification import to_document
    from services.deployments.store import get_deployment
    from services.event_time import rfc3339

    item = get_deployment(kafka_settings(), deployment_id)
    if as_json:
        print_json(_deployment_document(item))
        return
    since = f", in force since {rfc3339(item.applied_ms * 1000)}" if item.applied_ms else ""
    budget = item.spec.false_alarms
    part = f", {budget.share:.4g} of the fleet's false-alarm budget" if budget.scope == "fleet" else ""
    typer.echo(f"# revision {item.spec.revision}{since}{part}\n# sha256 {item.spec.digest()}")
    for sentence in _rules_in_words(item.spec):
        typer.echo(f"# humility: {sentence}")
    typer.echo(yaml.safe_dump(to_document(item.spec), sort_keys=False, allow_unicode=False, width=110), nl=False)


@deployment_app.command(epilog="Examples:\n\n  driftline deployment schema > deployment.schema.json")
def schema() -> None:
    """Print the JSON schema of a specification, for editors."""
    from services.deployments.specification import Specification

    print_json(Specification.model_json_schema())
