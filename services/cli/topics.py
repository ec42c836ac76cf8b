"""``driftline topics``."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.output import JSON_OPTION, fail, print_json, print_table, safe, stdout

topics_app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=(
        "Examples:\n\n  driftline topics\n\n  driftline topics --json\n\n  driftline topics create --partitions 8\n\n"
        "  driftline topics keep --days 120"
    ),
)


@topics_app.callback()
def topics(ctx: typer.Context, as_json: Annotated[bool, JSON_OPTION] = False) -> None:
    """List the topics with their state; [bold]create[/bold], [bold]keep[/bold] and [bold]delete[/bold] them.

    Exit status 1 if a topic is missing or does not fit.
    """
    if ctx.invoked_subcommand is not None:
        return
    from services.cli.context import kafka_settings
    from services.topics import topic_states

    settings = kafka_settings()
    states = topic_states(settings)
    well = all(state.partitions is not None and not state.problems for state in states)
    if as_json:
        print_json(
            {
                "bootstrap_servers": settings.bootstrap_servers,
                "complete": well,
                "topics": [
                    {
                        "topic": state.plan.name,
                        "records": state.plan.records,
                        "exists": state.partitions is not None,
                        "partitions": state.partitions,
                        "replication": state.replication,
                        "problems": list(state.problems),
                    }
                    for state in states
                ],
            }
        )
    else:
        print_table(
            ["topic", "carries", "partitions", "replicas", "state"],
            [
                (
                    state.plan.name,
                    state.plan.records,
                    state.partitions,
                    state.replication,
                    "missing" if state.partitions is None else "; ".join(state.problems) or "ok",
                )
                for state in states
            ],
            numbers=("partitions", "replicas"),
        )
        if not well:
            stdout.print("[yellow]Missing topics are created with[/] driftline topics create", highlight=False)
    if not well:
        raise typer.Exit(1)


@topics_app.command(epilog="Examples:\n\n  driftline topics create\n\n  DRIFTLINE_PARTITIONS=8 driftline topics create")
def create(
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Of predictions, outcomes and the streams' topics; at most so many workers share the work. "
            "Default: DRIFTLINE_PARTITIONS, what is there, or 4.",
        ),
    ] = None,
    replication: Annotated[
        int | None, typer.Option(min=1, max=32, help="Copies of each partition. Default: the cluster's own.")
    ] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Create the topics that are missing; those that are there are checked and left alone."""
    from services.cli.context import kafka_settings
    from services.topics import ensure_topics

    report = ensure_topics(kafka_settings(), partitions, replication)
    if as_json:
        print_json(
            {"created": list(report.created), "existing": list(report.existing), "partitions": report.partitions}
        )
        return
    stdout.print(
        f"{len(report.created)} topic(s) created, {len(report.existing)} were there; {report.partitions} partition(s)",
        highlight=False,
    )


@topics_app.command(
    epilog=(
        "Examples:\n\n  driftline topics keep --days 120\n\n  driftline topics keep --days -1\n\n"
        "Topics that are yet to be created take DRIFTLINE_RETENTION_DAYS."
    )
)
def keep(
    days: Annotated[
        int, typer.Option(min=-1, max=36_500, help="How long after publishing they stay, in days; -1 for ever.")
    ],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Say how long predictions, outcomes and their order are kept (retention.ms).

    Refused if a deployment in force waits longer for its outcomes: its index of waiting predictions is rebuilt from the
    topics.
    """
    from services.cli.context import kafka_settings
    from services.deployments.retention import check_retention
    from services.deployments.store import load_deployments
    from services.retention import FOREVER, Retention, event_retentions, set_event_retention

    if days == 0:
        raise typer.BadParameter("expected a number of days, or -1 for ever, came 0", param_hint="--days")
    settings = kafka_settings()
    time_ms = FOREVER if days < 0 else days * 86_400_000
    specs = [item.spec for item in load_deployments(settings).values()]
    check_retention(specs, [Retention(each.topic, time_ms, None) for each in event_retentions(settings)])
    names = set_event_retention(settings, time_ms)
    if as_json:
        print_json({"topics": names, "retention_ms": time_ms})
        return
    stdout.print(f"{', '.join(map(safe, names))}: kept {'for ever' if days < 0 else f'{days} days'}", highlight=False)


@topics_app.command(epilog="Examples:\n\n  driftline topics delete --yes")
def delete(
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Delete every topic of this installation with all that is in it, the audit record included."""
    from services.cli.context import kafka_settings
    from services.topics import delete_topics

    settings = kafka_settings()
    named = f"all topics {settings.topics.prefix + '…' if settings.topics.prefix else 'of Driftline'}"
    question = f"Delete {named} on {settings.bootstrap_servers}, with predictions, state and audit record?"
    if not yes and (as_json or not typer.confirm(question)):
        fail("nothing was deleted: say --yes", code=2 if as_json else 1)
    names = delete_topics(settings)
    if as_json:
        print_json({"deleted": names})
    else:
        stdout.print(f"{len(names)} topic(s) deleted", highlight=False)
