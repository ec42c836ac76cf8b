"""What is decided to be said on Kafka, within a transaction."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from services.alerting.database import tables as t
from services.alerting.records import Publication


def publish(connection: sa.Connection, messages: Sequence[Publication]) -> None:
    """Decide to publish on Kafka, within a transaction."""
    if messages:
        connection.execute(
            sa.insert(t.publications),
            [
                {"topic": m.topic, "key": m.key, "value": m.value, "headers": [list(header) for header in m.headers]}
                for m in messages
            ],
        )
