"""``driftline``: every command, and what becomes of errors.

Exit status: 0 done; 1 it failed, or a verification refused; 2 the command line or a specification is wrong;
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from services.cli.lazy import Entry, lazy_group

_RUN, _DESCRIBE, _WATCH, _PROVE = "Run it", "Say what is watched", "See what happens", "Prove what happened"

ENTRIES = (
    Entry("up", "services.cli.up:up", "Start everything here: broker, workers, alerting, governance.", _RUN),
    Entry("broker", "services.broker.command:broker", "Run the embedded Kafka broker alone.", _RUN),
    Entry("worker", "services.worker:worker", "Run one stream worker.", _RUN),
    Entry("alerting", "services.alerting.commands:alerting", "Run the service that notifies people.", _RUN),
    Entry("governance", "services.governance.commands:governance", "Run the service that keeps the ledger.", _RUN),
    Entry("demo", "services.demo.command:demo", "See it all work on real data, from nothing.", _RUN),
    Entry("topics", "services.cli.topics:topics_app", "List, create and delete the Kafka topics.", _DESCRIBE),
    Entry("deployment", "services.cli.deployments:deployment_app", "Say which models are watched, and how.", _DESCRIBE),
    Entry("baseline", "services.cli.baselines:baseline_app", "Learn, show and compare what is normal.", _DESCRIBE),
    Entry("humility", "services.cli.humility:humility_app", "Fit, show and judge humility rules.", _DESCRIBE),
    Entry("publish", "services.cli.publish:publish_app", "Publish predictions or outcomes from a file.", _DESCRIBE),
    Entry("route", "services.cli.route:route_app", "Say who is told of what, and check the routing file.", _DESCRIBE),
    Entry("receivers", "services.cli.receivers:receivers_app", "See who is told and reached; send a test.", _DESCRIBE),
    Entry("token", "services.cli.tokens:tokens_app", "Say who may ask the alerting service.", _DESCRIBE),
    Entry("status", "services.cli.status:status", "Show whether everything runs and keeps up.", _WATCH),
    Entry("windows", "services.cli.windows:windows_app", "Show how far each window is from the baseline.", _WATCH),
    Entry("budget", "services.cli.budget:budget", "Show the promise on false alarms, and what was spent.", _WATCH),
    Entry("incidents", "services.cli.incidents:incidents_app", "See what is wrong, and answer it.", _WATCH),
    Entry("silences", "services.cli.silences:silences_app", "Tell nobody of some alarms for a while.", _WATCH),
    Entry("alerts", "services.alerting.alerts:alerts_app", "List alerts on the topic, and what they say.", _WATCH),
    Entry("notifications", "services.cli.notifications:notifications_app", "See and retry messages.", _WATCH),
    Entry("backtest", "services.cli.backtest:backtest", "Say which alarms other settings would have raised.", _WATCH),
    Entry("audit", "services.governance.commands:audit", "Replay and verify the audit record.", _PROVE),
)

app = typer.Typer(
    cls=lazy_group(ENTRIES),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Start with [bold]driftline up[/bold] in one terminal; then [bold]driftline deployment apply FILE[/bold], "
        "[bold]baseline build[/bold] and [bold]publish predictions[/bold].\n\n"
        "Your own cluster: DRIFTLINE_BOOTSTRAP_SERVERS, and DRIFTLINE_KAFKA_SECURITY_PROTOCOL etc. for TLS and SASL."
        "\n\nExit status: 0 done; 1 failed, or a verification refused; 2 wrong command line or specification."
    ),
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"driftline {version('driftline-platform')}")
        raise typer.Exit


@app.callback()
def _root(
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            "--bootstrap-servers",
            metavar="HOST:PORT,…",
            help="The Kafka cluster; otherwise DRIFTLINE_BOOTSTRAP_SERVERS, or 127.0.0.1:9092.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Watch machine-learning models in production, with a false-alarm budget that is kept."""
    if bootstrap_servers:
        os.environ["DRIFTLINE_BOOTSTRAP_SERVERS"] = bootstrap_servers


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and end the process with its exit status."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="driftline")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is left to say, not even by the interpreter's own flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from driftline.errors import DriftlineError
        from services.cli.output import show_error

        if not isinstance(error, DriftlineError):
            raise
        show_error(str(error))
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
