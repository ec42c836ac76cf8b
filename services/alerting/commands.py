"""``driftline alerting``: the service as a command."""

from __future__ import annotations

import asyncio
import enum
import logging
from pathlib import Path
from typing import Annotated

import typer

from driftline.errors import DriftlineError
from driftline.settings import KafkaSettings
from services.alerting.database.opening import database_secrets, sqlite_path
from services.alerting.errors import AlertingSettingsError
from services.alerting.logs import configure_logging
from services.alerting.service import AlertingService
from services.alerting.settings import DATABASE_URL, AlertingSettings
from services.cli.output import JSON_OPTION, print_json

EXAMPLES = """
Examples:

  driftline alerting

  DRIFTLINE_SLACK_WEBHOOK_URL_FILE=/run/secrets/slack driftline alerting

  driftline alerting --config routing.yaml --tokens tokens.yaml --port 9102

  DRIFTLINE_ALERTING_DATABASE_URL=postgresql+psycopg://alerting@db/driftline driftline alerting --config routing.yaml

SIGHUP, or a change of the routing file, loads it anew; a file that cannot be used leaves the one before in force.
SIGTERM ends it in order: what is under way is finished, what is still to be sent is kept for the next start.

Exit status: 0 after a stop by signal; 1 when Kafka or the database failed for good (start it again, it goes on where it
was); 2 when a setting cannot be used.
"""

CONNECTION_FILE = "alerting.json"
_FOLDER = Path(".driftline")

log = logging.getLogger("driftline.alerting")


class History(enum.StrEnum):
    """What the very first start does with alerts that are there already."""

    OPEN = "open"
    ALL = "all"
    NONE = "none"


class LogLevel(enum.StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def alerting(
    config: Annotated[
        Path | None,
        typer.Option(
            help="The routing file: who is told of what. See driftline route.",
            envvar="DRIFTLINE_ALERTING_CONFIG",
            dir_okay=False,
        ),
    ] = None,
    database_url: Annotated[
        str,
        typer.Option(
            help="Where incidents and unsent messages are kept: sqlite:///FILE or postgresql+psycopg://…",
            envvar="DRIFTLINE_ALERTING_DATABASE_URL",
            show_envvar=True,
        ),
    ] = DATABASE_URL,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Serve the HTTP interface.")] = True,
    host: Annotated[str, typer.Option(help="Where it listens.", envvar="DRIFTLINE_ALERTING_HOST")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="And its port; 0 for a free one.", envvar="DRIFTLINE_ALERTING_PORT", min=0, max=65535)
    ] = 0,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Who may use it; see driftline token. Without, only this user, by the connection file.",
            envvar="DRIFTLINE_ALERTING_TOKENS",
            dir_okay=False,
        ),
    ] = None,
    connection_file: Annotated[
        Path | None,
        typer.Option(
            help="Where commands of this user find the service; beside the database if not given.",
            envvar="DRIFTLINE_ALERTING_CONNECTION_FILE",
            dir_okay=False,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(help="Speak TLS: PEM.", envvar="DRIFTLINE_ALERTING_TLS_CERTIFICATE", dir_okay=False),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its key: PEM.", envvar="DRIFTLINE_ALERTING_TLS_KEY", dir_okay=False)
    ] = None,
    history: Annotated[
        History,
        typer.Option(
            help="The very first start tells of alerts that are there already: those still open, all, or none.",
            envvar="DRIFTLINE_ALERTING_HISTORY",
        ),
    ] = History.OPEN,
    kafka_timeout_seconds: Annotated[
        float,
        typer.Option(
            help="End with an error after so long without Kafka, or without the database.",
            envvar="DRIFTLINE_ALERTING_KAFKA_TIMEOUT_SECONDS",
            min=1.0,
        ),
    ] = 300.0,
    clock_speed: Annotated[
        float,
        typer.Option(
            help="For rehearsals: so many seconds pass in one.", envvar="DRIFTLINE_ALERTING_CLOCK_SPEED", min=1.0
        ),
    ] = 1.0,
    clock_start: Annotated[
        int,
        typer.Option(
            help="For rehearsals that go on after a restart: when both clocks agreed, in milliseconds since 1970 UTC.",
            envvar="DRIFTLINE_ALERTING_CLOCK_START_MS",
            min=0,
            hidden=True,
        ),
    ] = 0,
    log_level: Annotated[
        LogLevel, typer.Option(help="How much is logged.", envvar="DRIFTLINE_LOG_LEVEL")
    ] = LogLevel.INFO,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Tell people about alerts: keep incidents, tell who is to be told, take their answers, put it all on record.

    Receivers come from the routing file, or without one from DRIFTLINE_SLACK_WEBHOOK_URL, or DRIFTLINE_SLACK_TOKEN with
    DRIFTLINE_SLACK_CHANNEL, and DRIFTLINE_PAGERDUTY_ROUTING_KEY (each secret also with _FILE). With none, incidents are
    kept and nobody is told.
    """
    kafka = KafkaSettings.from_environment()
    if (tls_certificate is None) != (tls_key is None):
        raise AlertingSettingsError("TLS needs both --tls-certificate and --tls-key")
    settings = AlertingSettings(
        policy_file=config,
        database_url=database_url,
        history=history.value,
        kafka_timeout_seconds=kafka_timeout_seconds,
        host=host,
        port=port if http else None,
        tokens_file=tokens,
        connection_file=(connection_file or _beside(database_url)) if http else None,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        clock_speed=clock_speed,
        clock_start_ms=clock_start or None,
    )
    hide = configure_logging(database_secrets(database_url), level=log_level.value, as_json=as_json)
    service = AlertingService(kafka, settings, hide=hide)

    def ready() -> None:
        if as_json:
            print_json(
                {
                    "event": "ready",
                    "topic": kafka.topics.alerts,
                    "receivers": list(service.policy.receivers),
                    "port": service.port,
                }
            )

    try:
        asyncio.run(service.run(ready))
    except DriftlineError:
        raise
    except Exception:
        log.exception("the alerting service ends")  # logged, not raised: only the log takes secrets out of a traceback
        raise typer.Exit(1) from None


def _beside(database_url: str) -> Path:
    """The connection file where none is named: two services on one machine have two databases."""
    path = sqlite_path(database_url)
    return (path.parent if path is not None else _FOLDER) / CONNECTION_FILE
