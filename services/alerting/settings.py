"""Settings of the alerting process, besides how to reach Kafka and the routing file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DATABASE_URL = "sqlite:///.driftline/alerting.db"


@dataclass(frozen=True, slots=True)
class AlertingSettings:
    """What the process is told.

    Attributes:
        policy_file: The routing file; None takes receivers from the environment and tells each of everything.
        database_url: SQLAlchemy URL; SQLite or PostgreSQL.
        history: What happens to alerts that were on the topic before this database was: ``open`` tells of incidents
            still open at their end (unless the audit says that they were told), ``all`` of every one, ``none`` of none.
        kafka_timeout_seconds: The service ends after so long without Kafka.
        host: The HTTP interface listens here.
        port: And here; 0 for a free one, None for no interface.
        tokens_file: Who may use the interface; None: only the token in ``connection_file``.
        connection_file: The address and an operator's token for commands on this machine, written at each start, mode
            0600; None for none.
        tls_certificate: With ``tls_key``: the interface speaks TLS.
        tls_key: As said.
        clock_speed: See :class:`services.alerting.clock.Clock`.
        clock_start_ms: When that clock agreed with the wall clock; None for the start of the process.
    """

    policy_file: Path | None = None
    database_url: str = DATABASE_URL
    history: Literal["open", "all", "none"] = "open"
    kafka_timeout_seconds: float = 300.0
    host: str = "127.0.0.1"
    port: int | None = None
    tokens_file: Path | None = None
    connection_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    clock_speed: float = 1.0
    clock_start_ms: int | None = None
